//! A Kerberos client that does what it is told, which no library of a product allows: see `initiator.py`. And what a
//! hostile peer does with it behind TLS.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use bytes::BytesMut;
use wardline_proto::frame::{Frame, Message};
use wardline_proto::message::{Bound, decode};
use wardline_proto::{ALPN_KERBEROS, Kind};

use crate::hostile::{Peer, Speech};

/// Mutual, replay and sequence detection, privacy, integrity: what a good client asks for.
pub const GOOD: u32 = 0x3e;

/// What binds a token to a channel.
#[derive(Clone, Copy, Debug)]
pub enum Binding<'a> {
    /// Nothing.
    None,
    /// These bytes.
    To(&'a [u8]),
}

/// A client of one principal, for one service.
#[derive(Debug)]
pub struct Initiator {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digit).collect()
}

impl Initiator {
    /// With the key of the first principal in this keytab.
    pub fn new(config: &Path, keytab: &Path, service: &str) -> Self {
        Self::run(config, service, keytab, "MEMORY:".as_ref())
    }

    /// With the tickets that are kept there.
    pub fn with_tickets(config: &Path, tickets: &Path, service: &str) -> Self {
        Self::run(config, service, Path::new("/nowhere"), tickets)
    }

    fn run(config: &Path, service: &str, keytab: &Path, tickets: &Path) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", include_str!("initiator.py"), service]).env_clear().env("LC_ALL", "C");
        command.env("KRB5_CONFIG", config).env("KRB5_CLIENT_KTNAME", keytab).env("KRB5CCNAME", tickets);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is here");
        let stdin = child.stdin.take().expect("it was piped");
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        Self { child, stdin, stdout }
    }

    fn ask(&mut self, command: &str) -> Result<Vec<u8>, String> {
        writeln!(self.stdin, "{command}").expect("it listens");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        match line.trim_end().split_once(' ') {
            Some(("error", text)) => Err(text.into()),
            Some(("ok", token)) => Ok(bytes(token)),
            _ if line.starts_with("ok") => Ok(Vec::new()),
            _ => panic!("{line:?}"),
        }
    }

    /// The first token of a new context.
    ///
    /// # Errors
    /// What the library says.
    pub fn begin(&mut self, flags: u32, binding: Binding<'_>, mechanism: &str) -> Result<Vec<u8>, String> {
        let binding = match binding {
            Binding::None => "-".into(),
            Binding::To(bytes) => hex(bytes),
        };
        self.ask(&format!("begin {flags} {binding} {mechanism}"))
    }

    /// Takes the acceptor's token.
    ///
    /// # Errors
    /// What the library says.
    pub fn finish(&mut self, token: &[u8]) -> Result<Vec<u8>, String> {
        self.ask(&format!("finish {}", hex(token)))
    }

    /// Wraps, encrypted or only sealed against changes.
    pub fn wrap(&mut self, private: bool, clear: &[u8]) -> Vec<u8> {
        self.ask(&format!("wrap {} {}", u8::from(private), hex(clear))).expect("it wraps")
    }

    /// Unwraps.
    pub fn unwrap(&mut self, token: &[u8]) -> Vec<u8> {
        self.ask(&format!("unwrap {}", hex(token))).expect("it unwraps")
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What binds a token to a TLS session as it must be (RFC 9266).
pub fn binding(peer: &Peer) -> Vec<u8> {
    [&b"tls-exporter:"[..], &peer.export(b"EXPORTER-Channel-Binding")].concat()
}

/// A session with a listener, as a good client has it: its end of TLS, and its context.
#[derive(Debug)]
pub struct Wrapped {
    /// The TLS session.
    pub peer: Peer,
    /// The context.
    pub by: Initiator,
    clear: BytesMut,
}

/// A wrapped message as it stands on the wire.
pub fn record(token: &[u8]) -> Vec<u8> {
    [&u16::try_from(token.len()).expect("a short token").to_be_bytes()[..], token].concat()
}

impl Wrapped {
    /// Dials and comes so far that both contexts stand. `None` when the listener closes instead.
    pub fn dial(address: SocketAddr, mut by: Initiator) -> Option<Self> {
        let mut peer = Peer::dial(address, None, &Speech::alpn(&[ALPN_KERBEROS])).ok()?;
        let token =
            by.begin(GOOD, Binding::To(&binding(&peer)), "krb5").unwrap_or_else(|error| panic!("{by:?}: {error}"));
        peer.tell(&token);
        let answer = peer.told()?;
        by.finish(&answer).expect("the listener's token");
        Some(Self { peer, by, clear: BytesMut::new() })
    }

    /// The first message of a dialling end of this role and name, whose principals are these.
    pub fn bound(&self, own: &str, initiator: &str, acceptor: &str) -> Bound {
        let kerberos = String::from_utf8_lossy(ALPN_KERBEROS).into_owned();
        Bound {
            offered: vec![kerberos.clone()],
            chosen: kerberos.clone(),
            enabled: vec![kerberos],
            sender: own.into(),
            ..self.peer.bound(initiator, acceptor)
        }
    }

    /// The bytes of a message, as frames.
    pub fn frames(message: Message) -> Vec<u8> {
        let mut out = BytesMut::new();
        message.into_frames().for_each(|frame| frame.encode(&mut out));
        out.to_vec()
    }

    /// Sends a message, wrapped as it must be.
    pub fn say(&mut self, message: Message) {
        let token = self.by.wrap(true, &Self::frames(message));
        let _ = self.peer.write(&record(&token));
    }

    /// The listener's first message; `None` when it closes instead.
    pub fn hear_bound(&mut self) -> Option<Bound> {
        let frame = self.hear()?;
        assert_eq!(frame.kind, Kind::Bound);
        decode(&frame.body)
    }

    /// The listener's next frame; `None` when it closes instead.
    fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.clear).expect("a frame") {
                return Some(frame);
            }
            let token = self.peer.wrapped()?;
            self.clear.extend_from_slice(&self.by.unwrap(&token));
        }
    }

    /// Waits for a frame of this kind on this route.
    #[track_caller]
    pub fn wait_for(&mut self, kind: Kind, route: u32) {
        loop {
            let frame = self.hear().unwrap_or_else(|| panic!("it closed instead of a {kind:?} on {route}"));
            if (frame.kind, frame.route) == (kind, route) {
                return;
            }
        }
    }
}
