//! Every entry of the fuzzers' corpus again, without a fuzzer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by a panic")]

use std::path::Path;

use wardline_proto::Role;
use wardline_secrets::account::Secret;
use wardline_secrets::sealing::SealingCertificate;
use wardline_secrets::secure_data::{Header, Refusal, inspect};
use zeroize::Zeroizing;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!read.is_empty(), "{} is empty", folder.display());
    read
}

#[test]
fn secure_data_of_the_corpus_is_taken_apart_or_refused() {
    let (mut whole, mut other) = (0, 0);
    for bytes in corpus("secure_data") {
        match inspect(&bytes) {
            Ok(()) => {
                whole += 1;
                assert_eq!(inspect(bytes.split_last().unwrap().1), Err(Refusal::Encoding));
            }
            Err(Refusal::Unsupported(_)) => other += 1,
            Err(_) => {}
        }
    }
    assert!(whole > 1 && other > 1, "{whole} are whole, {other} are other CMS");
}

#[test]
fn secrets_of_the_corpus_are_read_or_refused() {
    let (mut headers, mut secrets) = (0, 0);
    for bytes in corpus("secret") {
        let behind = Header::read(&bytes).map_or(0, |(_, _, length)| length);
        headers += usize::from(behind > 0);
        if let Ok(secret) = Secret::from_bytes(Zeroizing::new(bytes.get(behind..).unwrap().to_vec())) {
            assert_eq!(secret.fields().count(), secret.kind().fields().len());
            secrets += 1;
        }
    }
    assert!(headers > 0 && secrets > 0, "{headers} headers, {secrets} secrets");
}

#[test]
fn sealing_certificates_of_the_corpus_are_read_or_refused() {
    let name = "web1.test".parse().unwrap();
    let read = |bytes: &Vec<u8>| SealingCertificate::read(bytes, &name, Role::Agent, 1_900_000_000).is_ok();
    assert!(corpus("sealing_certificate").iter().filter(|bytes| read(bytes)).count() > 0, "none is whole");
}
