//! The first token of whoever connects, as the system's library takes it by this crate's calls: none may read or write
//! where it should not, or leave anything behind.
#![no_main]

use std::cell::OnceCell;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use wardline_gss::{Acceptor, Library};

/// A keytab with a key of `host/srv.test@A.TEST`, of AES; the same bytes stand in the corpus of `keytab`.
const KEYTAB: &[u8] = include_bytes!("../corpus/keytab/one");

thread_local! {
    static ACCEPTOR: OnceCell<Acceptor> = const { OnceCell::new() };
}

fn acceptor() -> Acceptor {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/target/accept"));
    std::fs::create_dir_all(folder).expect("a folder");
    let keytab = folder.join("keytab");
    std::fs::write(&keytab, KEYTAB).expect("a keytab");
    let library = Library::load(None).expect("the library");
    Acceptor::new(&library, &keytab, "host/srv.test@A.TEST", &folder.join("replays")).expect("the key")
}

fuzz_target!(|data: &[u8]| {
    ACCEPTOR.with(|own| {
        let accepted = own.get_or_init(acceptor).accept(data, b"tls-exporter:0123456789abcdef0123456789abcdef");
        assert!(accepted.is_err(), "a token without the key was accepted");
    });
});
