//! The session in which hosts join, renew their certificate and come home ([`wardline_proto::join`]).
//!
//! ```text
//!   host: ask -----> gateway: pass -----> gateway: pass -----> server: serve ----> Desk
//!                    TLS at each hop is for privacy only; nobody reads what is passed
//! ```
//!
//! Who speaks is proved by signatures over the transcript, which is SHA-256 over the bytes of Hello and of the
//! Challenge's payload.
//!
//! - `ask`: by a token, or as a member that renews or comes home
//! - `wait`: by a code that two people compare
//! - `vouch`: by Kerberos, with a key of the group's own principal at the other end
//! - `standing`: a member asks how it stands
//! - `desk`: the server's side of all

mod ask;
mod desk;
mod pass;
mod standing;
#[cfg(test)]
mod tests;
mod vouch;
mod wait;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use wardline_proto::ALPN_JOIN;
use wardline_proto::join::{LIMIT, Proof, SESSION};
use wardline_proto::message::Digest;
use wardline_secrets::signature::{random, sha256};
use wardline_secrets::tls;

pub use self::ask::{Admitted, Applicant, Attempt, Cause, JoinError, Step, With, ask};
pub use self::desk::{Asked, Desk, Knock, Question, Request, serve};
pub use self::pass::pass;
pub use self::standing::{Known, Proved, standing};
pub use self::vouch::{Heard, Kerberos, Voucher};
pub use self::wait::{Applying, Brought, Waiting, request};
use crate::config::Parent;
use crate::handshake::{HandshakeError, connect, export, tls_error};

/// How long a whole session may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// The most sessions at once on one listener.
pub const SESSIONS: usize = 64;
/// How long what was said last may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// A connection on which a host joins.
pub type Stream = TlsStream<TcpStream>;

/// The transcript: what the proofs and the welcome are about.
fn transcript(said: &[&[u8]]) -> Digest {
    sha256(said)
}

/// What a refusal is about: the transcript and the signatures that it did not believe, so that nobody on the way can have
/// other signatures refused and pass that on.
fn refused_transcript(transcript: &Digest, token: &[u8], identity: &[u8]) -> Digest {
    refused_proof(
        transcript,
        &Proof { token: token.to_vec().into(), identity: identity.to_vec().into(), ..Proof::default() },
    )
}

/// The same for a whole proof.
fn refused_proof(transcript: &Digest, Proof { token, identity, kerberos }: &Proof) -> Digest {
    sha256(&[&transcript.0, token, identity, kerberos])
}

/// 32 fresh random bytes.
fn random_32() -> [u8; 32] {
    let (mut bytes, halves) = ([0; 32], [random(), random()]);
    bytes.iter_mut().zip(halves.as_flattened()).for_each(|(byte, random)| *byte = *random);
    bytes
}

/// Connects to a parent. Nothing is known of who answers.
pub(crate) async fn dial(parent: &Parent) -> Result<Stream, HandshakeError> {
    tokio::time::timeout(crate::handshake::DEADLINE, async {
        let (tcp, address) = connect(parent).await?;
        let config = tls::join_dial().map_err(|error| HandshakeError::Tls(error.to_string()))?;
        let name = ServerName::IpAddress(address.ip().into());
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(tls_error)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_JOIN) {
            return Err(HandshakeError::Mechanism("nothing".into(), "wardline-join/1".into()));
        }
        Ok(TlsStream::Client(stream))
    })
    .await
    .map_err(|_| HandshakeError::Deadline)?
}

/// What tells a TLS session from every other: the same at both of its ends, and at no others.
fn session(stream: &Stream) -> Option<[u8; 32]> {
    export(stream, SESSION).ok()
}

/// Reads one message's bytes; `None` when the other end has closed in front of it.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    if from.read(length.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Ok(None);
    }
    from.read_exact(length.get_mut(1..).unwrap_or_default()).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > LIMIT {
        return Err(io::Error::other(format!("a message of {length} bytes; 1 to {LIMIT} are allowed")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    Ok(Some(bytes.into()))
}

/// Writes one message's bytes.
async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| (1..=LIMIT).contains(&bytes.len()));
    let length = length.ok_or_else(|| io::Error::other(format!("a message of {} bytes", bytes.len())))?;
    to.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    to.flush().await
}

/// Says a message.
async fn say(to: &mut (impl AsyncWrite + Unpin), message: &impl prost::Message) -> io::Result<()> {
    write(to, &message.encode_to_vec()).await
}

/// Hears a message; `None` when it is none of this kind, or the other end has closed.
async fn hear<M: prost::Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    Ok(read(from).await?.and_then(|bytes| M::decode(bytes).ok()))
}

/// Says farewell: what was said is sent, then the connection is closed.
async fn close(stream: &mut (impl AsyncWrite + Unpin)) {
    let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
}

/// Somebody knocked: where they are, and the connection.
#[derive(Debug)]
pub struct Knocking {
    /// The connection, encrypted, with nobody known at the other end.
    pub stream: Stream,
    /// Where it comes from.
    pub address: SocketAddr,
}
