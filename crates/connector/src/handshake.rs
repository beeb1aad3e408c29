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
use tokio::time::Instant;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};
use wardline_gss::Context;
use wardline_proto::authority::{Behalf, Direction};
use wardline_proto::frame::{Frame, Message, Part};
use wardline_proto::message::{Bound, Digest, Kerberos as Ticket, decode};
use wardline_proto::{ALPN_CERTIFICATE, ALPN_JOIN, ALPN_KERBEROS, Kind, Name, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::{KeyId, sha256};
use wardline_secrets::tls::{self, Channel, Dial, Proved};
use wardline_secrets::trust::not_after;

use crate::config::Parent;
use crate::join::Knocking;
use crate::kerberos::{EXPORTER_LABEL, Failure, Kerberos, PATIENCE, told};
use crate::now_ms;
use crate::wire::{self, Opener, Sealer};

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
/// The most bytes of a GSSAPI token of the handshake: that of an account in many groups of a directory has 48,000.
const TOKEN: usize = 48 * 1024;
/// So many of them are read at once.
const STEP: usize = 8 * 1024;

/// What a session is made with.
const MECHANISMS: [&[u8]; 2] = [ALPN_CERTIFICATE, ALPN_KERBEROS];

/// What this end can prove itself with now.
#[derive(Clone, Debug)]
pub struct Own {
    /// Who it is.
    pub identity: Identity,
    /// By its channel certificate.
    pub certificate: Option<Arc<Channel>>,
    /// By Kerberos.
    pub kerberos: Option<Arc<Kerberos>>,
}

impl From<Channel> for Own {
    fn from(channel: Channel) -> Self {
        Self { identity: channel.identity.clone(), certificate: Some(Arc::new(channel)), kerberos: None }
    }
}

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
    /// The id of this end's channel key, when it has proved itself with that.
    pub own: Option<KeyId>,
    /// When both ends have to prove themselves anew.
    pub until: Option<Instant>,
    /// How long nothing may come from the other end before it is taken for dead; the same at both.
    pub peer_timeout: Duration,
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) sealer: Sealer,
    pub(crate) opener: Opener,
    pub(crate) buffer: BytesMut,
}

/// What this end measured of a session.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Both ends derive it from the session, and nobody else can.
    pub hop: Digest,
    /// ALPN name.
    pub mechanism: String,
    /// The ALPN names that the dialling end offered.
    pub offered: Vec<String>,
    /// As TLS names it.
    pub version: String,
    /// As TLS names it.
    pub cipher: String,
    /// As TLS names it.
    pub exchange: String,
    /// How the other end has proved itself.
    pub proof: Proof,
    /// When the session began, milliseconds since 1970.
    pub since: u64,
}

/// How the other end has proved itself.
#[derive(Clone, Debug)]
pub enum Proof {
    /// By its channel certificate.
    Certificate {
        /// SHA-256 of it.
        hash: Digest,
        /// When it ends, seconds since 1970.
        not_after: u64,
    },
    /// By Kerberos.
    Kerberos(Ticket),
}

impl std::fmt::Display for Proof {
    /// The principal of who dialled, or the hash in hexadecimal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate { hash, .. } => hash.fmt(f),
            Self::Kerberos(ticket) => f.write_str(&ticket.initiator),
        }
    }
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
    #[error("it offers {0}; wanted is {1}")]
    Mechanism(String, String),
    /// This end has no channel certificate that is good now.
    #[error("this end's own channel certificate is not valid now; it is being renewed")]
    NoCertificate,
    /// This end has nothing that may be used for this parent.
    #[error(
        "this end has no channel certificate, and Kerberos is not allowed for it, or it is held to the certificate that it \
         has used (mechanism = \"kerberos\" ends that)"
    )]
    Nothing,
    /// Kerberos.
    #[error("{0}")]
    Kerberos(#[from] Failure),
    /// The two ends did not take the mechanism that they should have.
    #[error("{chosen} was chosen, which is not the first that both ends take")]
    Rule {
        /// The ALPN name.
        chosen: String,
    },
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

/// Connects to a parent with what this end has, by certificate when the other end has one too. Both ends take the session
/// for dead when nothing has come for `peer_timeout`.
///
/// # Errors
/// Why there is no session. Whoever answered got no byte of data.
pub async fn dial(own: &Own, parent: &Parent, peer_timeout: Duration) -> Result<Session, HandshakeError> {
    let dialling = dial_unhurried(own, parent, peer_timeout);
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

async fn dial_unhurried(own: &Own, parent: &Parent, peer_timeout: Duration) -> Result<Session, HandshakeError> {
    let Own { identity, certificate, kerberos } = own;
    if certificate.is_none() && kerberos.is_none() {
        return Err(HandshakeError::Nothing);
    }
    if let (None, Some(kerberos)) = (certificate, kerberos) {
        // Who has no ticket for it takes nobody's place there while it waits for a KDC.
        let target = kerberos.of_parent(parent);
        tokio::time::timeout(PATIENCE * 2, kerberos.ticket(&target)).await.map_err(|_| Failure::Busy)??;
    }
    let Dialled { mut stream, address, offered, proved } =
        encrypt(parent, certificate.as_deref(), kerberos.is_some()).await?;
    let met = match (proved, certificate, kerberos) {
        (Proved::Certificate, Some(channel), _) => certified(channel, &stream)?,
        (Proved::Nothing, _, Some(kerberos)) => {
            let context = vouched(kerberos, parent, &mut stream).await?;
            Met { judge: Judge::Parent(&parent.name), proof: by_kerberos(&context), context: Some(context), own: None }
        }
        _ => return Err(nothing(&offered)),
    };
    let ends = Ends { own: identity, stream, address, offered: offered.clone(), enabled: offered };
    ends.bind(met, Some(peer_timeout)).await
}

/// What a parent makes of this end's ticket, and this end of its answer. Nothing more is said: no session comes of it.
///
/// # Errors
/// The parent takes no Kerberos, or not of this end; or is another.
pub(crate) async fn knock(kerberos: &Arc<Kerberos>, parent: &Parent) -> Result<Ticket, HandshakeError> {
    let knocking = async {
        let Dialled { mut stream, .. } = encrypt(parent, None, true).await?;
        let context = vouched(kerberos, parent, &mut stream).await?;
        // How it ends is of no interest any more.
        let _ = stream.shutdown().await;
        Ok(told(context.facts()))
    };
    tokio::time::timeout(DEADLINE, knocking).await.map_err(|_| HandshakeError::Deadline)?
}

/// TLS with a parent.
struct Dialled {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    /// The ALPN names that were offered.
    offered: Vec<String>,
    proved: Proved,
}

fn nothing(offered: &[String]) -> HandshakeError {
    HandshakeError::Mechanism("nothing".into(), offered.join(" or "))
}

async fn encrypt(parent: &Parent, own: Option<&Channel>, kerberos: bool) -> Result<Dialled, HandshakeError> {
    let (tcp, address) = connect(parent).await?;
    let tls = |error: rustls::Error| HandshakeError::Tls(error.to_string());
    let dial = Dial::new(&parent.name, own, kerberos).map_err(tls)?;
    // The name is not sent (SNI is off) and not what decides: the verifier compares the certificate with the parent's.
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::clone(&dial.config)).connect(name, tcp).await.map_err(tls_error)?;
    let offered: Vec<_> = dial.config.alpn_protocols.iter().map(name_of).collect();
    let proved = dial.proved(stream.get_ref().1.alpn_protocol()).ok_or_else(|| nothing(&offered))?;
    Ok(Dialled { stream: TlsStream::Client(stream), address, offered, proved })
}

/// The two tokens of a dialling end, and the context that comes of them.
async fn vouched(
    kerberos: &Arc<Kerberos>,
    parent: &Parent,
    stream: &mut TlsStream<TcpStream>,
) -> Result<Context, HandshakeError> {
    let (target, exporter) = (kerberos.of_parent(parent), export(stream, EXPORTER_LABEL)?);
    let (pending, token) = kerberos.begin(target.clone(), &exporter).await?;
    say(stream, &token).await?;
    let answer = hear(stream).await.inspect_err(|_| kerberos.doubt(&target))?;
    Ok(kerberos.finish(target, pending, answer).await?)
}

/// A token of the handshake: its length (4 bytes, big endian) and itself.
async fn say(stream: &mut TlsStream<TcpStream>, token: &[u8]) -> Result<(), HandshakeError> {
    let closed = |error: io::Error| HandshakeError::Closed(error.to_string());
    let length = u32::try_from(token.len()).unwrap_or(u32::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], token].concat()).await.map_err(closed)?;
    stream.flush().await.map_err(closed)
}

/// The other end's token of the handshake.
async fn hear(stream: &mut TlsStream<TcpStream>) -> Result<Vec<u8>, HandshakeError> {
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => HandshakeError::Closed("the other end closed the connection".into()),
        _ => HandshakeError::Closed(error.to_string()),
    };
    let length = usize::try_from(stream.read_u32().await.map_err(closed)?).unwrap_or(usize::MAX);
    if length > TOKEN {
        return Err(HandshakeError::Bound("a token that is too long"));
    }
    // No more is held for what is only announced.
    let mut token = Vec::new();
    while token.len() < length {
        let (from, step) = (token.len(), STEP.min(length - token.len()));
        token.reserve_exact(step);
        token.resize(from + step, 0);
        stream.read_exact(token.get_mut(from..).unwrap_or_default()).await.map_err(closed)?;
    }
    Ok(token)
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
    /// Who this end is.
    pub own: Identity,
    /// Whether this end has a channel certificate, good now or not.
    pub certificate: bool,
    /// It, and what is made of it; none while it has ended.
    pub channel: Option<(Arc<Channel>, Arc<ServerConfig>)>,
    /// For those who prove themselves by Kerberos.
    pub kerberos: Option<(Arc<Kerberos>, Arc<ServerConfig>)>,
    /// For hosts that join.
    pub join: Arc<ServerConfig>,
    /// How many more may join at once.
    pub places: Arc<Semaphore>,
}

/// What a ClientHello asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Certificate,
    Kerberos,
    Join,
}

/// By certificate when both ends have one, whether it is good now or not; otherwise by Kerberos. Who joins offers nothing
/// else. Names of others beside them are nobody's business.
fn wanted(offered: &[String], certificate: bool, kerberos: bool) -> Option<Wanted> {
    let has = |alpn: &[u8]| offered.iter().any(|name| name.as_bytes() == alpn);
    let (by_certificate, by_kerberos) = (has(ALPN_CERTIFICATE), has(ALPN_KERBEROS));
    match has(ALPN_JOIN) {
        true => (!by_certificate && !by_kerberos).then_some(Wanted::Join),
        false if by_certificate && certificate => Some(Wanted::Certificate),
        false if by_kerberos && kerberos => Some(Wanted::Kerberos),
        false => None,
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
    let Speaks { own, certificate, channel, kerberos, join, places } = speaks;
    let spoken = [(certificate, ALPN_CERTIFICATE), (kerberos.is_some(), ALPN_KERBEROS)];
    let enabled: Vec<_> = spoken.into_iter().filter(|(is, _)| *is).map(|(_, alpn)| name_of(alpn)).collect();
    // rustls accepts a client that offers no ALPN name at all; this listener does not.
    let (stream, met) = match (wanted(&offered, certificate, kerberos.is_some()), &kerberos) {
        (Some(Wanted::Certificate), _) => {
            let (channel, config) = channel.ok_or(HandshakeError::NoCertificate)?;
            let stream = TlsStream::Server(hello.into_stream(config).await.map_err(tls_error)?);
            let met = certified(&channel, &stream)?;
            (stream, met)
        }
        (Some(Wanted::Kerberos), Some((kerberos, config))) => {
            let mut stream = TlsStream::Server(hello.into_stream(Arc::clone(config)).await.map_err(tls_error)?);
            let exporter = export(&stream, EXPORTER_LABEL)?;
            let (context, answer) = kerberos.accept(hear(&mut stream).await?, &exporter).await?;
            say(&mut stream, &answer).await?;
            let proof = by_kerberos(&context);
            (stream, Met { judge: Judge::Child(kerberos), proof, context: Some(context), own: None })
        }
        (Some(Wanted::Join), _) => {
            // Taken before anything is computed for them.
            let place = places.try_acquire_owned().map_err(|_| HandshakeError::Joins)?;
            let stream = TlsStream::Server(hello.into_stream(join).await.map_err(tls_error)?);
            return Ok(Accepted::Join(Knocking { stream, address }.into(), place));
        }
        _ => {
            // A stranger may offer kilobytes.
            let shown = |name: &String| name.chars().take(40).collect::<String>();
            let shown: Vec<_> = offered.iter().take(4).map(shown).collect();
            let shown = if shown.is_empty() { "nothing".into() } else { shown.join(", ") };
            return Err(HandshakeError::Mechanism(
                shown,
                format!("{}, or wardline-join/1 alone", enabled.join(" or ")),
            ));
        }
    };
    let ends = Ends { own: &own, stream, address, offered, enabled };
    ends.bind(met, None).await.map(|session| Accepted::Session(session.into()))
}

/// 32 bytes that only the two ends of a TLS session know.
pub(crate) fn export(stream: &TlsStream<TcpStream>, label: &[u8]) -> Result<[u8; 32], HandshakeError> {
    let exported = match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], label, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], label, None),
    };
    exported.map_err(|error| HandshakeError::Tls(error.to_string()))
}

/// What a mechanism has proved, before the first messages.
struct Met<'a> {
    judge: Judge<'a>,
    proof: Proof,
    context: Option<Context>,
    /// The id of this end's channel key, when that was used.
    own: Option<KeyId>,
}

/// Who the other end can be.
enum Judge<'a> {
    /// This one: its certificate says so.
    Certificate(Identity),
    /// The parent that was dialled: its ticket says so, but no role.
    Parent(&'a Name),
    /// Somebody with a ticket, who says who he is.
    Child(&'a Kerberos),
}

fn certified(channel: &Channel, stream: &TlsStream<TcpStream>) -> Result<Met<'static>, HandshakeError> {
    let chain = stream.get_ref().1.peer_certificates();
    let peer = channel.peer(chain).map_err(HandshakeError::Certificate)?;
    let leaf = chain.and_then(|chain| chain.first());
    let hash = leaf.map(|leaf| sha256(&[leaf])).unwrap_or_default();
    let proof = Proof::Certificate { hash, not_after: leaf.map_or(0, not_after) };
    Ok(Met { judge: Judge::Certificate(peer), proof, context: None, own: Some(channel.key) })
}

fn by_kerberos(context: &Context) -> Proof {
    Proof::Kerberos(told(context.facts()))
}

impl Judge<'_> {
    /// Who the other end is, by what it says itself in a session that is proved.
    fn judge(self, said: &str, proof: &Proof) -> Result<Identity, HandshakeError> {
        let disagree = HandshakeError::Bound("the ends do not agree who they are");
        let (role, name) = said.split_once(' ').unwrap_or_default();
        let (Ok(role), Ok(name)) = (role.parse::<Role>(), name.parse()) else { return Err(disagree) };
        let said = Identity { name, role };
        match (self, proof) {
            (Self::Certificate(peer), _) if said == peer => Ok(said),
            (Self::Parent(parent), _) if said.name == *parent => Ok(said),
            (Self::Child(kerberos), Proof::Kerberos(ticket)) => {
                kerberos.may_be(&ticket.initiator, &said.name)?;
                Ok(said)
            }
            _ => Err(disagree),
        }
    }
}

/// The two ends of a session, before the first messages.
struct Ends<'a> {
    own: &'a Identity,
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    /// The ALPN names that the dialling end offers.
    offered: Vec<String>,
    /// The mechanisms that this end takes.
    enabled: Vec<String>,
}

impl Ends<'_> {
    /// Exchanges and compares the first messages. Only the dialling end has a `peer_timeout` of its own.
    async fn bind(self, met: Met<'_>, peer_timeout: Option<Duration>) -> Result<Session, HandshakeError> {
        let Self { own, mut stream, address, offered, enabled } = self;
        let (direction, travels) = match peer_timeout {
            Some(_) => (Direction::Up, Direction::Down),
            None => (Direction::Down, Direction::Up),
        };
        let facts = facts(&stream, met.proof, &offered)?;
        let (dialler, listener) = match (&facts.proof, &met.judge, direction) {
            (Proof::Kerberos(ticket), ..) => (ticket.initiator.clone(), ticket.acceptor.clone()),
            (_, Judge::Certificate(peer), Direction::Up) => (own.to_string(), peer.to_string()),
            (_, Judge::Certificate(peer), Direction::Down) => (peer.to_string(), own.to_string()),
            _ => return Err(HandshakeError::Bound("the ends do not agree who they are")),
        };
        let ours = Bound {
            exporter: export(&stream, BOUND_LABEL)?.to_vec().into(),
            offered,
            chosen: facts.mechanism.clone(),
            enabled,
            dialler,
            listener,
            peer_timeout: peer_timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(0)),
            sender: own.to_string(),
        };
        let until = met.context.as_ref().map(|context| context.facts().ends.into());
        let (mut sealer, mut opener) = wire::open(met.context);
        let (mut out, mut buffer) = (BytesMut::new(), BytesMut::new());
        Message::own(Kind::Bound, ours.clone()).into_frames().for_each(|frame| frame.encode(&mut out));
        let closed = |error: io::Error| HandshakeError::Closed(error.to_string());
        sealer.write(&mut stream, &mut out).await.map_err(closed)?;
        let theirs = first(&mut opener, &mut stream, &mut buffer).await?;
        let peer = met.judge.judge(&theirs.sender, &facts.proof)?;
        if !Kind::Bound.allowed(peer.role, travels, Behalf::Own) {
            return Err(HandshakeError::Bound("this role does not belong at that end"));
        }
        // What an operator asks at a server without a database is not for others to read on the way.
        let (dials, listens) = if direction == Direction::Up { (own.role, peer.role) } else { (peer.role, own.role) };
        if dials == Role::Server && listens != Role::Server {
            return Err(HandshakeError::Bound("a server reports to servers only"));
        }
        agree(&ours, &theirs, direction)?;
        let said = Duration::from_millis(theirs.peer_timeout);
        let peer_timeout = peer_timeout.unwrap_or(if said.is_zero() { PEER_TIMEOUT } else { said });
        let peer_timeout = peer_timeout.clamp(*PEER_TIMEOUTS.start(), *PEER_TIMEOUTS.end());
        give_up_after(stream.get_ref().0, peer_timeout).map_err(closed)?;
        let own = met.own;
        Ok(Session { peer, address, direction, facts, own, until, peer_timeout, stream, sealer, opener, buffer })
    }
}

/// The other end's first message.
async fn first(
    opener: &mut Opener,
    stream: &mut TlsStream<TcpStream>,
    buffer: &mut BytesMut,
) -> Result<Bound, HandshakeError> {
    let frame = loop {
        match Frame::decode(buffer) {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(_) => return Err(HandshakeError::Bound("it is no frame")),
        }
        let read = opener.read(stream, buffer).await.map_err(|error| HandshakeError::Closed(error.to_string()))?;
        if read == 0 {
            return Err(HandshakeError::Closed("the other end closed the connection".into()));
        }
    };
    if frame.kind != Kind::Bound || frame.part != Part::Whole || frame.route != 0 {
        return Err(HandshakeError::Bound("another message came first"));
    }
    decode(&frame.body).ok_or(HandshakeError::Bound("it cannot be decoded"))
}

/// Both ends have one session and saw one negotiation, and it came to what it should have.
fn agree(ours: &Bound, theirs: &Bound, direction: Direction) -> Result<(), HandshakeError> {
    if theirs.exporter != ours.exporter {
        return Err(HandshakeError::Bound("the other end has another session"));
    }
    if theirs.offered != ours.offered || theirs.chosen != ours.chosen {
        return Err(HandshakeError::Bound("the other end saw another negotiation"));
    }
    if theirs.dialler != ours.dialler || theirs.listener != ours.listener {
        return Err(HandshakeError::Bound("the ends do not agree who they are"));
    }
    let (dials, listens) = match direction {
        Direction::Up => (ours, theirs),
        Direction::Down => (theirs, ours),
    };
    // What the dialling end offers is in its order of preference.
    let best = dials.offered.iter().find(|offered| listens.enabled.contains(offered));
    if best != Some(&ours.chosen) || dials.offered != dials.enabled {
        return Err(HandshakeError::Rule { chosen: ours.chosen.clone() });
    }
    let once = |name: &String| ours.offered.iter().filter(|other| *other == name).count() == 1;
    if !ours.offered.iter().all(once) {
        return Err(HandshakeError::Bound("a mechanism that is offered twice"));
    }
    Ok(())
}

fn facts(stream: &TlsStream<TcpStream>, proof: Proof, offered: &[String]) -> Result<Facts, HandshakeError> {
    let unknown = || "unknown".to_owned();
    let (_, tls) = stream.get_ref();
    Ok(Facts {
        hop: sha256(&[&export(stream, HOP_LABEL)?]),
        mechanism: tls.alpn_protocol().map_or_else(unknown, name_of),
        // Of others nobody has heard here.
        offered: MECHANISMS.iter().map(name_of).filter(|name| offered.contains(name)).collect(),
        version: tls.protocol_version().and_then(|v| v.as_str()).map_or_else(unknown, str::to_owned),
        cipher: tls.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).map_or_else(unknown, str::to_owned),
        exchange: tls
            .negotiated_key_exchange_group()
            .and_then(|g| g.name().as_str())
            .map_or_else(unknown, str::to_owned),
        proof,
        since: now_ms(),
    })
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
