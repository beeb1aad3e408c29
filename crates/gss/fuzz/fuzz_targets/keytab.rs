//! What is in a file that is said to be a keytab.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_gss::keytab;

fuzz_target!(|data: &[u8]| {
    if let Ok(entries) = keytab::parse(data) {
        // None is smaller than its length, its counts and its fixed fields.
        assert!(entries.len() <= data.len() / 19);
    }
});
