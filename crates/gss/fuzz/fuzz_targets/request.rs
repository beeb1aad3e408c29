//! What an initial token says in the clear, from whoever connects.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_gss::request;

fuzz_target!(|data: &[u8]| {
    if request::read(data).is_some() {
        // Every length in it counts: neither less nor more is one.
        assert!(data.split_last().is_some_and(|(_, rest)| request::read(rest).is_none()));
        assert!(request::read(&[data, &[0]].concat()).is_none());
    }
});
