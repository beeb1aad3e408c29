//! A batch's body from an agent: decompression and entries.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_proto::entry::{append, compress, entries};

fuzz_target!(|data: &[u8]| {
    let Some((length, body)) = data.split_first_chunk::<3>() else { return };
    let raw = u32::from_be_bytes([0, length[0], length[1], length[2]]);
    let _ = entries(body, raw);
    // The same bytes as the plain body of an honest agent.
    if let Ok(decoded) = entries(&compress(body), body.len() as u32) {
        let mut plain = Vec::new();
        decoded.iter().for_each(|entry| append(entry, &mut plain));
        assert_eq!(entries(&compress(&plain), plain.len() as u32).as_ref(), Ok(&decoded));
    }
});
