//! What a frame carries. Every message that somebody vouches for is [`Signed`]: the exact bytes that were signed travel,
//! and are decoded only after the signature was checked.
//!
//! Ids, epochs and hashes are `bytes` of a fixed length on the wire; [`Epoch`] and [`Digest`] are how programs hold them.

use bytes::Bytes;

use crate::Name;

/// A stream's epoch: 128 random bits made with the agent's queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub [u8; 16]);

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub [u8; 32]);

/// A Run As account's id: a UUIDv7.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(pub [u8; 16]);

macro_rules! fixed_bytes {
    ($name:ident, $length:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
        impl $name {
            /// From the bytes on the wire, which must have the exact length.
            pub fn from_wire(bytes: &[u8]) -> Option<Self> {
                <[u8; $length]>::try_from(bytes).ok().map(Self)
            }
            /// The bytes on the wire.
            pub fn to_wire(self) -> Bytes {
                Bytes::copy_from_slice(&self.0)
            }
        }
    };
}
fixed_bytes!(Epoch, 16);
fixed_bytes!(Digest, 32);
fixed_bytes!(AccountId, 16);

/// How far a stream has come: everything up to `number` of `epoch`, the last batch of which has this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which life of the queue.
    pub epoch: Epoch,
    /// The last entry's number; 0 is before the first.
    pub number: u64,
    /// The chain's hash there; all zero before the first batch.
    pub hash: Digest,
}

impl Mark {
    /// Before the first entry of an epoch.
    pub const fn start(epoch: Epoch) -> Self {
        Self { epoch, number: 0, hash: Digest([0; 32]) }
    }
}

/// A signature's context: no signature made for one purpose is valid for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// An agent's batch of entries.
    Batch,
    /// An agent's position of its stream, and a server's answer to it.
    Position,
    /// A server's acknowledgement.
    Ack,
    /// Facts of a hop.
    Hop,
    /// What is said when a host joins or comes home.
    Join,
    /// An entry of the trust log, or its head.
    Log,
    /// A health service's configuration.
    Config,
    /// A health service's sealing key, and a server's word that it has entered it.
    SealingCert,
}

impl Context {
    /// The string that the signed bytes begin with.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "wardline/batch/1",
            Self::Position => "wardline/position/1",
            Self::Ack => "wardline/ack/1",
            Self::Hop => "wardline/hop/1",
            Self::Join => "wardline/join/1",
            Self::Log => "wardline/log/1",
            Self::Config => "wardline/config/1",
            Self::SealingCert => "wardline/sealing-cert/1",
        }
    }
}

/// Bytes and who vouches for them. What the signature covers besides is its context and the group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signed {
    /// The protobuf of what is said.
    #[prost(bytes = "bytes", tag = "1")]
    pub payload: Bytes,
    /// ECDSA P-256 with SHA-256, 64 bytes, over context, group and payload.
    #[prost(bytes = "bytes", tag = "2")]
    pub signature: Bytes,
}

/// First message each way, compared by both ends: that they share one encrypted session and saw one negotiation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Bound {
    /// 32 bytes exported from the session under our own label (RFC 8446, section 7.5).
    #[prost(bytes = "bytes", tag = "1")]
    pub exporter: Bytes,
    /// The ALPN names that the dialling end offered, in its order.
    #[prost(string, repeated, tag = "2")]
    pub offered: Vec<String>,
    /// The one that was chosen.
    #[prost(string, tag = "3")]
    pub chosen: String,
    /// The mechanisms that the sender takes, of the dialling end for this parent: the first of those that it offers and the
    /// other takes is the one that is to be chosen.
    #[prost(string, repeated, tag = "4")]
    pub enabled: Vec<String>,
    /// Who the dialling end proved to be: by certificate its role and name, by Kerberos its principal.
    #[prost(string, tag = "5")]
    pub dialler: String,
    /// The same of the listening end.
    #[prost(string, tag = "6")]
    pub listener: String,
    /// What the dialling end decides for both: after how many milliseconds without a byte from the other the session is
    /// taken for dead. 0 from the listening end.
    #[prost(uint64, tag = "7")]
    pub peer_timeout: u64,
    /// The name and role of the sender. By Kerberos, which knows no roles, nothing else says the role.
    #[prost(string, tag = "8")]
    pub sender: String,
}

/// Why a session or a route ends. Coarse on purpose: what exactly was wrong stands in the log of the end that refused.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// The reason's number.
    #[prost(enumeration = "Reason", tag = "1")]
    pub reason: i32,
    /// The gateway on a route's way whose own certificate is why; empty when the route's end or the peer is meant.
    #[prost(string, tag = "2")]
    pub gateway: String,
}

impl Refusal {
    /// For a reason that the peer, or the route's end, has given.
    pub fn of(reason: Reason) -> Self {
        Self { reason: reason.into(), gateway: String::new() }
    }

    /// Of a route, because of the certificate of a gateway on its way.
    pub fn by_gateway(gateway: &Name) -> Self {
        Self { gateway: gateway.to_string(), ..Self::of(Reason::NotKnown) }
    }
}

/// Reasons that a peer may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Reason {
    /// No reason was given.
    Unspecified = 0,
    /// A message that this role may not send, or bytes that are no message.
    Protocol = 1,
    /// The name is not known here, or not behind this gateway.
    NotKnown = 2,
    /// A signature does not fit.
    Signature = 3,
    /// The stream does not continue what is there; positions must be compared anew.
    Stream = 4,
    /// The stream is held until an operator looks at it.
    Held = 5,
    /// Another session of the same health service has taken its place.
    Replaced = 6,
    /// The program is stopping.
    Stopping = 7,
    /// Its channel certificate was revoked, or not issued to it. A new one, by the identity key, cures it.
    Certificate = 8,
    /// The database cannot be read now. Later it may.
    Database = 9,
}

impl Reason {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "no reason given",
            Self::Protocol => "a message that is not allowed here",
            Self::NotKnown => "not known here, or not behind this gateway",
            Self::Signature => "a signature does not fit",
            Self::Stream => "the stream does not continue what is there",
            Self::Held => "the stream is held until an operator releases it",
            Self::Replaced => "another session has taken its place",
            Self::Stopping => "the program is stopping",
            Self::Certificate => "its channel certificate was revoked, or not issued to it",
            Self::Database => "the database cannot be read now",
        }
    }
}

/// A gateway opens a route, whose number stands in the frame, for an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteOpen {
    /// The agent's name, as its own session proved it.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The gateways between the agent and who sends this, nearest to the agent first; each was added by the next one, as
    /// its session proved it.
    #[prost(string, repeated, tag = "2")]
    pub via: Vec<String>,
    /// By what the agent proved itself to the gateway nearest to it: its Kerberos principal, with its realm, or the SHA-256 of
    /// its channel certificate in hexadecimal.
    #[prost(string, tag = "3")]
    pub proof: String,
    /// The same of each gateway in `via`, to the one that passed this on for it.
    #[prost(string, repeated, tag = "4")]
    pub proofs: Vec<String>,
}

/// The most requests of one session that are under way.
pub const REQUESTS: usize = 8;

/// What an operator asks at a server without a database: a request to the data access service, as it came.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// The HTTP method.
    #[prost(string, tag = "1")]
    pub method: String,
    /// Path and query.
    #[prost(string, tag = "2")]
    pub target: String,
    /// The body, JSON; empty without one.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
    /// Who asks, by the word of the server where they do; empty when nothing is to be changed.
    #[prost(string, tag = "4")]
    pub operator: String,
}

/// The answer of the server with the database.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The HTTP status.
    #[prost(uint32, tag = "1")]
    pub status: u32,
    /// The body, JSON: what was asked for, or problem details (RFC 9457).
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// Whether there is a way to the database. A dialling end sends nothing but hop facts before it is open.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Way {
    /// Open or not.
    #[prost(bool, tag = "1")]
    pub open: bool,
}

/// Where an agent's stream stands (payload of a [`Signed`], [`Context::Position`], by the agent's identity key).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Position {
    /// The agent.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// Its queue's epoch.
    #[prost(bytes = "bytes", tag = "2")]
    pub epoch: Bytes,
    /// The epoch that this queue wrote before, when it had to open a new one; empty in a queue's first.
    #[prost(bytes = "bytes", tag = "3")]
    pub previous: Bytes,
    /// 16 fresh random bytes; the answer repeats them. Empty in a heartbeat, which asks for nothing.
    #[prost(bytes = "bytes", tag = "4")]
    pub nonce: Bytes,
    /// What was acknowledged.
    #[prost(message, required, tag = "5")]
    pub acknowledged: Point,
    /// The batches that wait for acknowledgement, oldest first.
    #[prost(message, repeated, tag = "6")]
    pub kept: Vec<Point>,
    /// The last number written into the queue.
    #[prost(uint64, tag = "7")]
    pub written: u64,
    /// The last number handed to the session.
    #[prost(uint64, tag = "8")]
    pub handed: u64,
    /// When that was: milliseconds since 1970, the agent's clock; 0 never.
    #[prost(uint64, tag = "9")]
    pub handed_at: u64,
    /// Milliseconds between heartbeats.
    #[prost(uint64, tag = "10")]
    pub interval: u64,
    /// Rises with every position that the agent signs.
    #[prost(uint64, tag = "11")]
    pub serial: u64,
    /// The epoch that was live when this one was decided on, which it displaces; empty in a queue's first.
    #[prost(bytes = "bytes", tag = "12")]
    pub over: Bytes,
    /// In a heartbeat: the newest challenge that came on this way, which shows that the heartbeat is no older. Empty before
    /// one came.
    #[prost(bytes = "bytes", tag = "13")]
    pub challenge: Bytes,
}

/// A batch's place in the chain of one epoch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Point {
    /// The batch's last number.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The chain's hash there.
    #[prost(bytes = "bytes", tag = "2")]
    pub hash: Bytes,
}

/// What the server holds of a stream (payload of a [`Signed`], [`Context::Position`], by the server's duty key).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// The agent that asked.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The position's nonce.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
    /// How the server sees the epoch that the agent spoke of.
    #[prost(enumeration = "Standing", tag = "3")]
    pub standing: i32,
    /// The server's watermark in that epoch.
    #[prost(message, required, tag = "4")]
    pub watermark: Point,
    /// The newest of the agent's points that the server remembers having committed.
    #[prost(message, required, tag = "5")]
    pub common: Point,
    /// The duty certificate of the server's key and what leads to the root, DER.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub chain: Vec<Bytes>,
    /// The agent's live epoch; empty when it has none.
    #[prost(bytes = "bytes", tag = "7")]
    pub live: Bytes,
    /// The cookie of the configuration that the agent is to have, 32 bytes; empty when there is none. Who withholds it
    /// cannot say that there is no other.
    #[prost(bytes = "bytes", tag = "8")]
    pub cookie: Bytes,
    /// The highest version that a configuration can have by the server's trust log: heads of before are no answer now.
    #[prost(uint64, tag = "9")]
    pub version: u64,
    /// 16 fresh random bytes; the agent's heartbeats repeat them from then on, until others come.
    #[prost(bytes = "bytes", tag = "10")]
    pub challenge: Bytes,
}

/// What an agent's heartbeats repeat from then on. Nobody signs it: with another one they are worth nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Challenge {
    /// 16 fresh random bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub challenge: Bytes,
}

/// How a server sees an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Standing {
    /// Nothing was said.
    Unspecified = 0,
    /// It is the agent's one live epoch.
    Live = 1,
    /// A newer one has displaced it.
    Displaced = 2,
    /// The agent's streams are held until an operator looks: two queues displace each other.
    Held = 3,
}

/// A batch: numbered, chained and signed once, and sent again as it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// The protobuf of a [`BatchHeader`].
    #[prost(bytes = "bytes", tag = "1")]
    pub header: Bytes,
    /// By the agent's identity key over the header ([`Context::Batch`]); the header covers the body by its hash.
    #[prost(bytes = "bytes", tag = "2")]
    pub signature: Bytes,
    /// Length-delimited [`crate::entry::Entry`] messages, compressed as one LZ4 block.
    #[prost(bytes = "bytes", tag = "3")]
    pub body: Bytes,
}

/// What a batch's signature covers. Its SHA-256 is the chain's hash behind the batch.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BatchHeader {
    /// The agent.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// Its queue's epoch.
    #[prost(bytes = "bytes", tag = "2")]
    pub epoch: Bytes,
    /// The number of its first entry.
    #[prost(uint64, tag = "3")]
    pub first: u64,
    /// The number of its last entry.
    #[prost(uint64, tag = "4")]
    pub last: u64,
    /// The chain's hash in front of it.
    #[prost(bytes = "bytes", tag = "5")]
    pub previous: Bytes,
    /// SHA-256 of the body as it travels.
    #[prost(bytes = "bytes", tag = "6")]
    pub body: Bytes,
    /// The body's length before compression, at most [`crate::entry::RAW_LIMIT`].
    #[prost(uint32, tag = "7")]
    pub raw: u32,
    /// Only in a batch that bridges what a restored server has forgotten: the chain's hash behind `last` as the queue
    /// has it, from which its next batch goes on. The body is one gap record.
    #[prost(bytes = "bytes", tag = "8")]
    pub bridge: Bytes,
}

/// Committed (payload of a [`Signed`], [`Context::Ack`], by the duty key of the server whose database committed).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    /// The agent.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The epoch.
    #[prost(bytes = "bytes", tag = "2")]
    pub epoch: Bytes,
    /// Everything up to this point is in the database.
    #[prost(message, required, tag = "3")]
    pub upto: Point,
    /// The first 16 bytes of the duty key's id.
    #[prost(bytes = "bytes", tag = "4")]
    pub key: Bytes,
}

/// What one end of a hop measured (payload of a [`Signed`], [`Context::Hop`], by that end's identity key).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hop {
    /// Both ends of a session derive the same id from it, and nobody else can.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Who reports.
    #[prost(string, tag = "2")]
    pub reporter: String,
    /// Its role.
    #[prost(string, tag = "3")]
    pub role: String,
    /// Who is at the other end, as the handshake proved it.
    #[prost(string, tag = "4")]
    pub peer: String,
    /// The other end's role.
    #[prost(string, tag = "5")]
    pub peer_role: String,
    /// The ALPN name of the mechanism.
    #[prost(string, tag = "6")]
    pub mechanism: String,
    /// Protocol version, as TLS names it.
    #[prost(string, tag = "7")]
    pub version: String,
    /// Cipher suite, as TLS names it.
    #[prost(string, tag = "8")]
    pub cipher: String,
    /// Key exchange group, as TLS names it.
    #[prost(string, tag = "9")]
    pub exchange: String,
    /// SHA-256 of the certificate that the other end proved itself with; empty when that was by Kerberos.
    #[prost(bytes = "bytes", tag = "10")]
    pub peer_certificate: Bytes,
    /// When it ends, seconds since 1970.
    #[prost(uint64, tag = "11")]
    pub peer_not_after: u64,
    /// When the session began, milliseconds since 1970, the reporter's clock.
    #[prost(uint64, tag = "12")]
    pub since: u64,
    /// Whether the reporter dialled.
    #[prost(bool, tag = "13")]
    pub dialled: bool,
    /// Whether the session has ended: said by a gateway of another that was behind it.
    #[prost(bool, tag = "14")]
    pub ended: bool,
    /// By Kerberos: what both ends proved themselves with.
    #[prost(message, optional, tag = "15")]
    pub kerberos: Option<Kerberos>,
    /// The mechanisms that the dialling end offered, in its order: what its operator allows there.
    #[prost(string, repeated, tag = "16")]
    pub offered: Vec<String>,
}

/// What is known of a Kerberos security context. It is bound to its TLS session (RFC 9266), and private, or it is none.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Kerberos {
    /// The principal of the dialling end, with its realm.
    #[prost(string, tag = "1")]
    pub initiator: String,
    /// The principal of the listening end.
    #[prost(string, tag = "2")]
    pub acceptor: String,
    /// The encryption type of the ticket (RFC 3961, section 8).
    #[prost(string, tag = "3")]
    pub ticket: String,
    /// That of the authenticator.
    #[prost(string, tag = "4")]
    pub authenticator: String,
    /// That of the key under which messages are wrapped.
    #[prost(string, tag = "5")]
    pub session: String,
    /// The version of the key that the ticket is encrypted with; 0 when it does not say.
    #[prost(uint32, tag = "6")]
    pub kvno: u32,
    /// When the ticket ends, seconds since 1970 by the reporter's clock.
    #[prost(uint64, tag = "7")]
    pub ends: u64,
    /// To what the context is bound: `tls-exporter` (RFC 9266).
    #[prost(string, tag = "8")]
    pub binding: String,
}

/// What a health service has of its configuration, and that it would like what it has not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ConfigurationAsk {
    /// The cookie of the one it has, 32 bytes; empty when it has none.
    #[prost(bytes = "bytes", tag = "1")]
    pub cookie: Bytes,
    /// The newest version that it has seen; 0 when it has seen none.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// The head of the trust log that it has kept, as a server signed it.
    #[prost(message, optional, tag = "3")]
    pub head: Option<Signed>,
}

/// A configuration, or that there is no other: then without `signed` and `document`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Configuration {
    /// An [`Issue`], by the server's duty key ([`Context::Config`]).
    #[prost(message, optional, tag = "1")]
    pub signed: Option<Signed>,
    /// The bytes of the document ([`crate::configuration`]).
    #[prost(bytes = "bytes", tag = "2")]
    pub document: Bytes,
    /// The head of the server's trust log, by its duty key ([`Context::Log`]), signed once for everybody.
    #[prost(message, optional, tag = "3")]
    pub head: Option<Signed>,
    /// The proof that the log of `head` begins with the one that the recipient knows (RFC 9162, section 2.1.4.1): with the
    /// head that it has asked with, later with the one that it was sent last. Hashes of 32 bytes; none when both are equal.
    #[prost(bytes = "bytes", repeated, tag = "4")]
    pub consistency: Vec<Bytes>,
    /// Entries that the log of `head` has: those of the recipient's own keys; and, to who knows a log that was given up,
    /// the one that says so.
    #[prost(message, repeated, tag = "5")]
    pub included: Vec<Included>,
}

/// An entry of the trust log, and the proof that it is in it at the place that it names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Included {
    /// The entry's bytes ([`crate::trust`]).
    #[prost(bytes = "bytes", tag = "1")]
    pub entry: Bytes,
    /// RFC 9162, section 2.1.3.1. Hashes of 32 bytes.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub proof: Vec<Bytes>,
}

/// What a server says of a configuration (payload of a [`Signed`], [`Context::Config`], by the server's duty key).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Issue {
    /// The recipient.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// The configuration's cookie, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub cookie: Bytes,
    /// Its version: how many entries the trust log had with the last of those that decide what it says, and after a
    /// restore as many more as it takes to rise.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// SHA-256 of the document, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub document: Bytes,
    /// The id of the recipient's identity key, 16 bytes: another host may have its name later.
    #[prost(bytes = "bytes", tag = "5")]
    pub identity: Bytes,
}

/// The key to which secrets for a health service are to be encrypted (payload of a [`Signed`], [`Context::SealingCert`],
/// by the identity key of that health service).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealingKey {
    /// The health service.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its role.
    #[prost(string, tag = "2")]
    pub role: String,
    /// Rises with every sealing key of this health service: an earlier word of its own is no news.
    #[prost(uint64, tag = "3")]
    pub serial: u64,
    /// The self-signed certificate, DER.
    #[prost(bytes = "bytes", tag = "4")]
    pub certificate: Bytes,
}

/// Which sealing key of a health service the trust log has (payload of a [`Signed`], [`Context::SealingCert`], by the duty
/// key of a server).
#[derive(Clone, PartialEq, prost::Message)]
pub struct SealingConfirmed {
    /// The health service.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The id of its sealing key, 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// Its serial.
    #[prost(uint64, tag = "3")]
    pub serial: u64,
    /// The id of the identity key that has signed it, 16 bytes: another may have the name later.
    #[prost(bytes = "bytes", tag = "4")]
    pub identity: Bytes,
    /// The duty certificate of the server's key and what leads to the root, DER.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub chain: Vec<Bytes>,
}

impl Point {
    /// The point of a mark.
    pub fn of(mark: &Mark) -> Self {
        Self { number: mark.number, hash: mark.hash.to_wire() }
    }

    /// Together with its epoch; `None` when the hash has not 32 bytes.
    pub fn mark(&self, epoch: Epoch) -> Option<Mark> {
        Some(Mark { epoch, number: self.number, hash: Digest::from_wire(&self.hash)? })
    }
}

/// Decodes a message's bytes; `None` when they are not its protobuf.
pub fn decode<M: prost::Message + Default>(bytes: &Bytes) -> Option<M> {
    M::decode(bytes.clone()).ok()
}

/// A message's bytes.
pub fn encode(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}
