//! Every entry of the fuzzers' corpus again, without a fuzzer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what is wrong by a panic")]

use std::path::Path;

use bytes::BytesMut;
use wardline_proto::configuration::Configuration;
use wardline_proto::entry::entries;
use wardline_proto::frame::{Assembler, Frame};
use wardline_proto::runas::{Request, is_file_name};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read: Vec<_> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!read.is_empty(), "{} is empty", folder.display());
    read
}

#[test]
fn frames_of_the_corpus_are_read_or_refused() {
    for bytes in corpus("frame") {
        let mut buffer = BytesMut::from(bytes.as_slice());
        let mut assembler = Assembler::default();
        while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
            if let Ok(Some(message)) = assembler.push(frame) {
                assert!(message.body.len() <= message.kind.limit());
            }
        }
    }
}

#[test]
fn bodies_of_the_corpus_are_read_or_refused() {
    for bytes in corpus("body") {
        if let Some((length, body)) = bytes.split_first_chunk::<3>() {
            let _ = entries(body, u32::from_be_bytes([0, length[0], length[1], length[2]]));
        }
    }
}

#[test]
fn requests_of_the_corpus_are_read_or_refused() {
    let mut read = 0;
    for bytes in corpus("runas") {
        if let Ok(request) = Request::parse(&bytes) {
            assert!(request.credentials.iter().all(|file| is_file_name(&file.name)));
            read += 1;
        }
    }
    assert!(read > 0, "none is whole");
}

#[test]
fn configurations_of_the_corpus_are_read_or_refused() {
    let mut read = 0;
    for bytes in corpus("configuration") {
        if let Ok(configuration) = Configuration::parse(&bytes) {
            assert_eq!(Configuration::parse(configuration.to_xml().as_bytes()).as_ref(), Ok(&configuration));
            read += 1;
        }
    }
    assert!(read > 0, "none is whole");
}
