//! A member's side: asks how it stands with the group. It is told by the server alone, and nothing changes by it.

use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use wardline_proto::join::{Answered, Challenge, Proof, STANDING, Said, Standing, Stands, Up};
use wardline_proto::message::{Context, Digest, decode, encode};
use wardline_proto::{Name, Role};
use wardline_secrets::signature::{SigningKey, random};
use wardline_secrets::tls;
use wardline_secrets::trust::Root;

use super::ask::{EARLY, believe_at, hear_answer, refused};
use super::{Cause, DEADLINE, Stream, close, refused_transcript, say, transcript};
use crate::now_ms;

/// Who asks.
#[derive(Debug)]
pub struct Known<'a> {
    /// Its name.
    pub name: &'a Name,
    /// Its role.
    pub role: Role,
    /// Proves that it is the member.
    pub identity: &'a SigningKey,
    /// What the answer must lead to.
    pub root: &'a Root,
    /// SHA-256 of its channel certificate.
    pub certificate: Digest,
}

/// A server has proved that it belongs to the group.
#[derive(Debug)]
pub struct Proved {
    /// The server.
    pub server: Name,
    /// Its clock, milliseconds since 1970.
    pub server_ms: u64,
    /// This host's clock at that moment.
    pub own_ms: u64,
    /// From when and to when its duty certificate is valid, seconds since 1970. It was judged by a moment within: which
    /// clock is wrong is for the caller to say.
    pub duty: (u64, u64),
    /// How the host stands, or why that is not told.
    pub stands: Result<Stands, Cause>,
}

/// Asks how this host stands, on a connection that was made for it.
///
/// # Errors
/// Nobody has proved to be a server of the group.
pub async fn standing(stream: Stream, known: &Known<'_>) -> Result<Proved, Cause> {
    tokio::time::timeout(DEADLINE, ask(stream, known)).await.unwrap_or(Err(Cause::Deadline))
}

async fn ask(mut stream: Stream, known: &Known<'_>) -> Result<Proved, Cause> {
    let public = known.identity.public().map_err(|_| Cause::Garbled("this host's identity key is none"))?;
    let question = encode(&Standing {
        name: known.name.to_string(),
        role: known.role.to_string(),
        identity: public.spki().into(),
        certificate: known.certificate.to_wire(),
        nonce: Bytes::copy_from_slice(&random()),
    });
    say(&mut stream, &Up { said: Some(Said::Standing(question.clone())) }).await?;
    let signed = match hear_answer(&mut stream).await? {
        Answered::Challenge(signed) => signed,
        Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
        _ => return Err(Cause::Garbled(EARLY)),
    };
    let own_ms = now_ms();
    let challenge: Challenge = decode(&signed.payload).ok_or(Cause::Garbled("its challenge cannot be decoded"))?;
    if challenge.group != known.root.group().0.as_slice() {
        return Err(Cause::Forged(format!("it is a server of another group, {:?}", challenge.name)));
    }
    // A clock that is wrong, here or there, must be told as that.
    let duty: Vec<_> = challenge.chain.iter().take(1).map(|der| CertificateDer::from(der.as_ref())).collect();
    let (_, from, to) = tls::facts(&duty).ok_or(Cause::Garbled("its duty certificate cannot be decoded"))?;
    let at = (own_ms / 1000).clamp(from, to.max(from));
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
    let believed = believe_at(at, |_, _| Ok(known.root.clone()), &question, 16, &signed)?;
    let transcript = transcript(&[STANDING, &question, &signed.payload]);
    let identity = known.identity.sign(Context::Join, &transcript.0);
    let about = refused_transcript(&transcript, &[], &identity);
    let proof = Proof { identity, ..Proof::default() };
    let stands = async {
        say(&mut stream, &Up { said: Some(Said::Proof(proof)) }).await?;
        match hear_answer(&mut stream).await? {
            Answered::Stands(signed) => {
                let opened = believed.duty.open(Context::Join, known.root.group(), &signed);
                opened.map_err(|_| Cause::Forged("its answer is not signed by the key that asked".into()))?;
                let stands: Stands = decode(&signed.payload).ok_or(Cause::Garbled("its answer cannot be decoded"))?;
                if stands.transcript != transcript.0.as_slice() {
                    return Err(Cause::Forged("its answer is of another session".into()));
                }
                Ok(stands)
            }
            Answered::Refused(signed) => Err(refused(&believed, &about, &signed)),
            Answered::Refusal(refusal) => Err(Cause::Unsigned(refusal.why())),
            _ => Err(Cause::Garbled("it answered something else")),
        }
    };
    let stands = stands.await;
    close(&mut stream).await;
    Ok(Proved { server: believed.server, server_ms: challenge.at, own_ms, duty: (from, to), stands })
}
