//! Every entry of the fuzzers' corpus again, without a fuzzer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what is wrong by a panic")]

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

/// What a fuzzer would try first, from each seed: bytes of one entry changed, left out, doubled, and parts of another.
#[test]
fn entries_of_the_corpus_that_were_changed_are_read_or_refused() {
    let seeds = std::env::var("SEEDS").map_or(3000, |text| text.parse().unwrap());
    let name = "web1.test".parse().unwrap();
    let entries: Vec<_> = ["secure_data", "secret", "sealing_certificate"].into_iter().flat_map(corpus).collect();
    for seed in 0..seeds {
        let mut state: u64 = seed;
        // SplitMix64.
        let mut below = |end: usize| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % end.max(1) as u64) as usize
        };
        let mut bytes = entries[below(entries.len())].clone();
        for _ in 0..=below(3) {
            let (at, more) = (below(bytes.len()), below(8));
            let to = bytes.len().min(at + more);
            match below(4) {
                0 => bytes.splice(at..at, [below(256) as u8]).count(),
                1 => bytes.drain(at..to).count(),
                2 => bytes.splice(at..to, (0..more).map(|_| below(256) as u8)).count(),
                _ => {
                    let other = &entries[below(entries.len())];
                    let from = below(other.len());
                    bytes.splice(at..to, other[from..other.len().min(from + 40)].iter().copied()).count()
                }
            };
        }
        let _ = inspect(&bytes);
        let behind = Header::read(&bytes).map_or(0, |(_, _, length)| length);
        let _ = Secret::from_bytes(Zeroizing::new(bytes[behind..].to_vec()));
        let _ = SealingCertificate::read(&bytes, &name, Role::Agent, 1_900_000_000);
    }
}
