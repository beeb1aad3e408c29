//! Secure data, as a gateway may have made it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_secrets::secure_data::{LIMIT, Refusal, inspect};

fuzz_target!(|data: &[u8]| {
    // What is whole is nothing any more without its last byte, or with another one.
    if inspect(data).is_ok() {
        assert!(data.len() <= LIMIT);
        assert_eq!(inspect(&data[..data.len() - 1]), Err(Refusal::Encoding));
        assert!(inspect(&[data, &[0]].concat()).is_err());
    }
});
