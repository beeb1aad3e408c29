//! Bytes from a peer: frames, and messages put together from them.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wardline_proto::frame::{Assembler, Frame};

fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    let mut assembler = Assembler::default();
    while let Ok(Some(frame)) = Frame::decode(&mut buffer) {
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(Frame::decode(&mut again), Ok(Some(frame.clone())));
        if let Ok(Some(message)) = assembler.push(frame) {
            assert!(message.body.len() <= message.kind.limit());
        }
    }
});
