//! From a TCP connection to a session: both ends have proved who they are, and that they share one encrypted session
//! and saw one negotiation. Until that is so, not a byte of data is read or written.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};
use wardline_proto::authority::{Behalf, Direction};
use wardline_proto::frame::{Frame, Message, Part};
use wardline_proto::message::{Bound, Digest, decode};
use wardline_proto::{ALPN_CERTIFICATE, ALPN_JOIN, Kind, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::{KeyId, sha256};
use wardline_secrets::tls::{self, Channel};
use wardline_secrets::trust::not_after;

use crate::config::Parent;
use crate::join::Knocking;
use crate::now_ms;

/// From the first byte to a session that stands.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long nothing may come from the other end of a session before it is taken for dead, unless the dialling end has
/// said otherwise; and the bounds of that.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(30);
/// See [`PEER_TIMEOUT`].
pub const PEER_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(300);
/// Exporter labels (RFC 8446, section 7.5): what ties the first message to the session, and the hop's id.
const BOUND_LABEL: &[u8] = b"EXPORTER-wardline-bound";
const HOP_LABEL: &[u8] = b"EXPORTER-wardline-hop";

/// A session that stands. Who is at the other end is known only from here.
#[derive(Debug)]
pub struct Session {
    /// Who is at the other end, proved.
    pub peer: Identity,
    /// Where it connected from, or to.
    pub address: SocketAddr,
    /// Which end this is.
    pub direction: Direction,
    /// What was measured.
    pub facts: Facts,
    /// The id of this end's channel key.
    pub own: KeyId,
    /// How long nothing may come from the other end before it is taken for dead; the same at both.
    pub peer_timeout: Duration,
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) buffer: BytesMut,
}

/// What this end measured of a session.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Both ends derive it from the session, and nobody else can.
    pub hop: Digest,
    /// ALPN name.
    pub mechanism: String,
    /// As TLS names it.
    pub version: String,
    /// As TLS names it.
    pub cipher: String,
    /// As TLS names it.
    pub exchange: String,
    /// SHA-256 of the other end's certificate.
    pub peer_certificate: Digest,
    /// When that ends, seconds since 1970.
    pub peer_not_after: u64,
    /// When the session began, milliseconds since 1970.
    pub since: u64,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The address cannot be resolved.
    #[error("{0}")]
    Resolve(String),
    /// No TCP connection.
    #[error("{0}")]
    Connect(io::Error),
    /// The other end's certificate.
    #[error("{0}")]
    Certificate(wardline_secrets::certificate::Fault),
    /// TLS, or a connection that ended in it.
    #[error("{0}")]
    Tls(String),
    /// The other end closed after TLS, without its first message.
    #[error("{0}")]
    Closed(String),
    /// No mechanism that both ends speak.
    #[error("it offers {0}; wanted is wardline-cert/1, or wardline-join/1 alone")]
    Mechanism(String),
    /// This end has no channel certificate that is good now.
    #[error("this end's own channel certificate is not valid now; it is being renewed")]
    NoCertificate,
    /// Too many hosts join at once.
    #[error("{} hosts join already; it may try again", crate::join::SESSIONS)]
    Joins,
    /// The first messages do not agree.
    #[error("the first message does not fit this session: {0}")]
    Bound(&'static str),
    /// Too slow.
    #[error("no session within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Connects to a parent. Both ends take the session for dead when nothing has come for `peer_timeout`.
///
/// # Errors
/// Why there is no session. Whoever answered got no byte of data.
pub async fn dial(channel: &Channel, parent: &Parent, peer_timeout: Duration) -> Result<Session, HandshakeError> {
    let dialling = dial_unhurried(channel, parent, peer_timeout);
    tokio::time::timeout(DEADLINE, dialling).await.map_err(|_| HandshakeError::Deadline)?
}

/// A TCP connection to a parent, and where it leads.
pub(crate) async fn connect(parent: &Parent) -> Result<(TcpStream, SocketAddr), HandshakeError> {
    let addresses: Vec<_> = tokio::net::lookup_host(&parent.address)
        .await
        .map_err(|error| HandshakeError::Resolve(error.to_string()))?
        .collect();
    let tcp = TcpStream::connect(addresses.as_slice()).await.map_err(HandshakeError::Connect)?;
    let address = tcp.peer_addr().map_err(HandshakeError::Connect)?;
    prepare(&tcp).map_err(HandshakeError::Connect)?;
    Ok((tcp, address))
}

async fn dial_unhurried(channel: &Channel, parent: &Parent, peer_timeout: Duration) -> Result<Session, HandshakeError> {
    let (tcp, address) = connect(parent).await?;
    let config = channel.dial(&parent.name).map_err(|error| HandshakeError::Tls(error.to_string()))?;
    // The name is not sent (SNI is off) and not what decides: the verifier compares the certificate with the parent's.
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(tls_error)?;
    // rustls accepts a server that chooses no ALPN name at all; this end does not.
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_CERTIFICATE) {
        return Err(HandshakeError::Mechanism("nothing".into()));
    }
    let offered = vec![name_of(ALPN_CERTIFICATE)];
    bind(channel, TlsStream::Client(stream), address, Some(peer_timeout), offered).await
}

/// Who came to a listening socket.
#[derive(Debug)]
pub enum Accepted {
    /// A health service of the group.
    Session(Box<Session>),
    /// Somebody who wants to join, and their place among those who do.
    Join(Box<Knocking>, OwnedSemaphorePermit),
}

/// What a listener speaks now.
#[derive(Clone, Debug)]
pub struct Speaks {
    /// This end's channel certificate, and what is made of it; none while it has ended.
    pub channel: Option<(Arc<Channel>, Arc<ServerConfig>)>,
    /// For hosts that join.
    pub join: Arc<ServerConfig>,
    /// How many more may join at once.
    pub places: Arc<Semaphore>,
}

/// What a ClientHello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Session,
    Join,
}

/// Exactly one of the names that are spoken here must be offered. Names of others beside it are nobody's business.
fn wanted(offered: &[String]) -> Option<Wanted> {
    let has = |alpn: &[u8]| offered.iter().any(|name| name.as_bytes() == alpn);
    match (has(ALPN_CERTIFICATE), has(ALPN_JOIN)) {
        (true, false) => Some(Wanted::Session),
        (false, true) => Some(Wanted::Join),
        _ => None,
    }
}

/// Takes a connection of a listening socket.
///
/// # Errors
/// Why there is no session.
pub async fn accept(speaks: Speaks, tcp: TcpStream, address: SocketAddr) -> Result<Accepted, HandshakeError> {
    let accepted = tokio::time::timeout(DEADLINE, accept_unhurried(speaks, tcp, address)).await;
    accepted.map_err(|_| HandshakeError::Deadline)?
}

async fn accept_unhurried(speaks: Speaks, tcp: TcpStream, address: SocketAddr) -> Result<Accepted, HandshakeError> {
    prepare(&tcp).map_err(HandshakeError::Connect)?;
    let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.map_err(tls_error)?;
    let offered: Vec<_> = hello.client_hello().alpn().into_iter().flatten().map(name_of).collect();
    // rustls accepts a client that offers no ALPN name at all; this listener does not.
    match wanted(&offered) {
        Some(Wanted::Session) => {
            let (channel, config) = speaks.channel.ok_or(HandshakeError::NoCertificate)?;
            let stream = TlsStream::Server(hello.into_stream(config).await.map_err(tls_error)?);
            let session = bind(&channel, stream, address, None, offered).await?;
            Ok(Accepted::Session(session.into()))
        }
        Some(Wanted::Join) => {
            // Taken before anything is computed for them.
            let place = speaks.places.try_acquire_owned().map_err(|_| HandshakeError::Joins)?;
            let stream = TlsStream::Server(hello.into_stream(speaks.join).await.map_err(tls_error)?);
            Ok(Accepted::Join(Knocking { stream, address }.into(), place))
        }
        None => {
            // A stranger may offer kilobytes.
            let shown = |name: &String| name.chars().take(40).collect::<String>();
            let shown: Vec<_> = offered.iter().take(4).map(shown).collect();
            Err(HandshakeError::Mechanism(if shown.is_empty() { "nothing".into() } else { shown.join(", ") }))
        }
    }
}

/// Exchanges and compares the first messages. Only the dialling end has a `peer_timeout` of its own.
async fn bind(
    channel: &Channel,
    mut stream: TlsStream<TcpStream>,
    address: SocketAddr,
    peer_timeout: Option<Duration>,
    offered: Vec<String>,
) -> Result<Session, HandshakeError> {
    let (_, tls) = stream.get_ref();
    let chain = tls.peer_certificates();
    let peer = channel.peer(chain).map_err(HandshakeError::Certificate)?;
    let certificate = chain.and_then(|chain| chain.first());
    let export = |label: &[u8]| {
        let exported = match &stream {
            TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], label, None),
            TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], label, None),
        };
        exported.map_err(|error| HandshakeError::Tls(error.to_string()))
    };
    let exporter = export(BOUND_LABEL)?;
    let unknown = || "unknown".to_owned();
    let facts = Facts {
        hop: sha256(&[&export(HOP_LABEL)?]),
        mechanism: tls.alpn_protocol().map_or_else(unknown, name_of),
        version: tls.protocol_version().and_then(|v| v.as_str()).map_or_else(unknown, str::to_owned),
        cipher: tls.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).map_or_else(unknown, str::to_owned),
        exchange: tls
            .negotiated_key_exchange_group()
            .and_then(|g| g.name().as_str())
            .map_or_else(unknown, str::to_owned),
        peer_certificate: certificate.map(|c| sha256(&[c])).unwrap_or_default(),
        peer_not_after: certificate.map_or(0, not_after),
        since: now_ms(),
    };
    let direction = if peer_timeout.is_some() { Direction::Up } else { Direction::Down };
    let (dialler, listener) = match direction {
        Direction::Up => (&channel.identity, &peer),
        Direction::Down => (&peer, &channel.identity),
    };
    let ours = Bound {
        exporter: exporter.to_vec().into(),
        offered,
        chosen: facts.mechanism.clone(),
        enabled: vec![name_of(ALPN_CERTIFICATE)],
        dialler: dialler.to_string(),
        listener: listener.to_string(),
        peer_timeout: peer_timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(0)),
    };
    let mut out = BytesMut::new();
    Message::own(Kind::Bound, ours.clone()).into_frames().for_each(|frame| frame.encode(&mut out));
    let closed = |error: io::Error| HandshakeError::Closed(error.to_string());
    stream.write_all(&out).await.map_err(closed)?;
    stream.flush().await.map_err(closed)?;

    let mut buffer = BytesMut::new();
    let frame = loop {
        match Frame::decode(&mut buffer) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(_) => return Err(HandshakeError::Bound("it is no frame")),
        }
        if stream.read_buf(&mut buffer).await.map_err(closed)? == 0 {
            return Err(HandshakeError::Closed("the other end closed the connection".into()));
        }
    };
    let theirs_travels = match direction {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    };
    if frame.kind != Kind::Bound || frame.part != Part::Whole || frame.route != 0 {
        return Err(HandshakeError::Bound("another message came first"));
    }
    if !Kind::Bound.allowed(peer.role, theirs_travels, Behalf::Own) {
        return Err(HandshakeError::Bound("this role does not belong at that end"));
    }
    // What an operator asks at a server without a database is not for others to read on the way.
    if dialler.role == Role::Server && listener.role != Role::Server {
        return Err(HandshakeError::Bound("a server reports to servers only"));
    }
    let theirs: Bound = decode(&frame.body).ok_or(HandshakeError::Bound("it cannot be decoded"))?;
    if theirs.exporter != ours.exporter {
        return Err(HandshakeError::Bound("the other end has another session"));
    }
    if theirs.offered != ours.offered || theirs.chosen != ours.chosen {
        return Err(HandshakeError::Bound("the other end saw another negotiation"));
    }
    if theirs.dialler != ours.dialler || theirs.listener != ours.listener {
        return Err(HandshakeError::Bound("the ends do not agree who they are"));
    }
    let said = Duration::from_millis(theirs.peer_timeout);
    let peer_timeout = peer_timeout.unwrap_or(if said.is_zero() { PEER_TIMEOUT } else { said });
    let peer_timeout = peer_timeout.clamp(*PEER_TIMEOUTS.start(), *PEER_TIMEOUTS.end());
    give_up_after(stream.get_ref().0, peer_timeout).map_err(closed)?;
    Ok(Session { peer, address, direction, facts, own: channel.key, peer_timeout, stream, buffer })
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    give_up_after(tcp, PEER_TIMEOUT)
}

/// A connection ends by itself when the other host takes nothing of what is sent for so long. That nothing comes is
/// noticed where it is read.
fn give_up_after(tcp: &TcpStream, timeout: Duration) -> io::Result<()> {
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    setsockopt(tcp, sockopt::TcpUserTimeout, &milliseconds)?;
    Ok(())
}

pub(crate) fn tls_error(error: io::Error) -> HandshakeError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => tls::fault(inner)
            .map_or_else(|| HandshakeError::Tls(inner.to_string()), |fault| HandshakeError::Certificate(fault.clone())),
        None => HandshakeError::Tls(error.to_string()),
    }
}

fn name_of(alpn: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(alpn.as_ref()).into_owned()
}
