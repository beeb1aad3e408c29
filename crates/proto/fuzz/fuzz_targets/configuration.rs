//! A configuration, as a gateway may have made it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_proto::configuration::Configuration;

fuzz_target!(|data: &[u8]| {
    // What is taken says the same when it is written anew.
    if let Ok(read) = Configuration::parse(data) {
        assert_eq!(Configuration::parse(read.to_xml().as_bytes()).as_ref(), Ok(&read));
    }
});
