//! A sealing certificate, as a health service may publish it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wardline_proto::Role;
use wardline_secrets::sealing::SealingCertificate;

fuzz_target!(|data: &[u8]| {
    let name = "web1.test".parse().expect("a name");
    if let Ok(read) = SealingCertificate::read(data, &name, Role::Agent, 1_900_000_000) {
        assert_eq!(read.der().as_ref(), data);
    }
});
