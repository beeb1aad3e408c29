//! Uses every call of the face on the Kerberos library, good and bad, in one process: for a tool that watches its memory.
//! Arguments: the Kerberos configuration, a keytab, an initiator and an acceptor in it, a file for what was seen.

use std::path::Path;
use std::sync::Arc;

use wardline_gss::{Acceptor, Context, Initiator, Library, Status, environment};

/// Sends a message; as it went over the wire.
fn sent(from: &mut Context, to: &mut Context, clear: &[u8]) -> Vec<u8> {
    let mut wrapped = Vec::new();
    from.wrap(clear, |token| wrapped.extend_from_slice(token)).expect("it is wrapped");
    to.unwrap(&wrapped, |seen| assert_eq!(seen, clear)).expect("it is unwrapped");
    wrapped
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, keytab, initiator, acceptor, replays] = arguments.as_slice() else {
        panic!("five arguments: {arguments:?}");
    };
    environment::replace(Path::new(config)).expect("there is no other thread");
    let (keytab, replays) = (Path::new(keytab), Path::new(replays));
    let library = Library::load(None).expect("the library is here");
    let listens = Acceptor::new(&library, keytab, acceptor, replays).expect("a credential");
    let dials = || Arc::new(Initiator::new(&library, keytab, initiator).expect("a credential"));

    // Contexts, and what goes through them, from the smallest to the largest.
    for _ in 0..3 {
        let (pending, token) = dials().begin(acceptor, b"this channel").expect("a ticket");
        let (mut below, answer) = listens.accept(&token, b"this channel").expect("a good token");
        let mut above = pending.finish(&answer).expect("a good answer");
        assert_eq!(below.facts().initiator, *initiator);
        for length in [0, 1, 200, 65_463] {
            let clear = vec![7; length];
            let wrapped = sent(&mut above, &mut below, &clear);
            // And never again.
            assert!(below.unwrap(&wrapped, |_| unreachable!()).is_err());
            sent(&mut below, &mut above, &clear);
        }
        let mut wrapped = Vec::new();
        above.wrap(b"changed on the way", |token| wrapped.extend_from_slice(token)).expect("it is wrapped");
        for at in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[at] ^= 1;
            assert!(below.unwrap(&changed, |_| unreachable!()).is_err(), "{at}");
            assert!(below.unwrap(&wrapped[..at], |_| unreachable!()).is_err(), "{at}");
        }
    }
    // Tokens that are not taken.
    let (pending, token) = dials().begin(acceptor, b"this channel").expect("a ticket");
    for at in 0..token.len() {
        assert!(listens.accept(&token[..at], b"this channel").is_err());
    }
    let refused = |token: &[u8], binding: &[u8]| listens.accept(token, binding).expect_err("it is not taken").status();
    let other = dials().begin(acceptor, b"another channel").expect("a ticket").1;
    assert_eq!(refused(&other, b"this channel"), Status::Bindings);
    let (_, answer) = listens.accept(&token, b"this channel").expect("a good token");
    assert_eq!(refused(&token, b"this channel"), Status::Replay);
    assert!(pending.finish(&answer[..answer.len() - 1]).is_err());
    // Principals that are not there.
    let nobody = initiator.replacen("host/", "host/nobody.", 1);
    assert_eq!(
        dials().begin(&nobody, b"this channel").map(|_| ()).expect_err("nobody").status(),
        Status::UnknownService
    );
    let unknown = Initiator::new(&library, keytab, &nobody).map(Arc::new);
    assert!(unknown.is_err() || unknown.is_ok_and(|unknown| unknown.begin(acceptor, b"").is_err()));
    println!("done");
}
