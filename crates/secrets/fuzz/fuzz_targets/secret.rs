//! What secure data holds: its header, and behind it an account's secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_secrets::account::{LIMIT, Secret};
use wardline_secrets::secure_data::Header;
use zeroize::Zeroizing;

fuzz_target!(|data: &[u8]| {
    let behind = Header::read(data).map_or(0, |(_, _, length)| length);
    if let Ok(secret) = Secret::from_bytes(Zeroizing::new(data[behind..].to_vec())) {
        assert_eq!(secret.fields().count(), secret.kind().fields().len());
        assert!(secret.fields().map(|(_, value)| value.len()).sum::<usize>() <= LIMIT);
    }
});
