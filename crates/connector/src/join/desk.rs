//! The server's side: who knocks is heard, and the desk decides.

use std::future::Future;
use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use wardline_proto::join::{
    Answered, Commitment, Down, Hello, Open, POLLED, Pending, Poll, Proof, Refusal, STANDING, Said, Standing, Up, Why,
};
use wardline_proto::message::{Digest, Signed, decode};
use wardline_proto::{Name, Principal, Role};
use wardline_secrets::signature::{VerifyingKey, random, sha256};

use super::{DEADLINE, Knocking, close, hear, random_32, refused_proof, refused_transcript, say, session, transcript};

/// Who decides who is let in.
pub trait Desk {
    /// A challenge to who said this (the bytes of a Hello, Commitment or Poll as they came), with this nonce: a
    /// [`wardline_proto::join::Challenge`], signed by the duty key.
    fn challenge(&self, begun: &[u8], nonce: &[u8]) -> Signed;

    /// Decides: a [`wardline_proto::join::Welcome`], signed by the duty key, to who has proved itself by Kerberos in a
    /// [`wardline_proto::join::Vouched`]; or why not. Whether the proof fits is for it to check.
    fn admit(&self, knock: Knock) -> impl Future<Output = Result<Answered, Why>> + Send;

    /// A refusal of who has proved something: signed by the duty key, so that nobody on the way can say no in its place
    /// and make a host that was let in forget its keys.
    fn refuse(&self, refusal: &Refusal) -> Signed;

    /// Whether one of this role and name may ask to be let in by a code now: each is shown a code, and should not be
    /// shown so many that one of them is the one that it wants.
    fn may_ask(&self, role: &str, name: &str) -> bool;

    /// Keeps a request until an operator has decided, or says why not. Whether its signature fits is for it to check.
    fn keep(&self, request: Request) -> impl Future<Output = Result<(), Why>> + Send;

    /// What became of a request: a Welcome as above, nothing yet, or why not. Whether the signature fits is for it to
    /// check.
    fn look(&self, asked: Asked) -> impl Future<Output = Result<Option<Signed>, Why>> + Send;

    /// How a member stands: a [`wardline_proto::join::Stands`], signed by the duty key, or why not. Whether the signature
    /// fits is for it to check.
    fn stands(&self, question: Question) -> impl Future<Output = Result<Signed, Why>> + Send;
}

/// Who knocks, in the right shape, but with nothing checked yet.
#[derive(Clone, Debug)]
pub struct Knock {
    /// What they said they are.
    pub hello: Hello,
    /// What the signatures of the proof must be over.
    pub transcript: Digest,
    /// The signatures.
    pub proof: Proof,
    /// Where they come from; behind a gateway, the gateway's.
    pub address: SocketAddr,
}

/// Who asks to be let in without a token. They have opened what they had committed themselves to; nothing else is
/// checked yet.
#[derive(Clone, Debug)]
pub struct Request {
    /// What they said they are.
    pub hello: Hello,
    /// What the codes are made of, and what the signature must be over.
    pub transcript: Digest,
    /// By the identity key.
    pub signature: Bytes,
    /// By the token's key, of a further server.
    pub token: Bytes,
    /// Whether a further server is at the other end of this very session.
    pub direct: bool,
    /// Where they come from; behind a gateway, the gateway's.
    pub address: SocketAddr,
}

/// Who asks what became of their request, in the right shape, but with nothing checked yet.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The request's transcript.
    pub request: Digest,
    /// What the signature must be over.
    pub transcript: Digest,
    /// By the identity key.
    pub signature: Bytes,
}

/// Who asks how they stand, in the right shape, but with nothing checked yet.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who they say they are.
    pub standing: Standing,
    /// What the signature must be over.
    pub transcript: Digest,
    /// By the identity key.
    pub signature: Bytes,
}

/// Serves one who knocks: hears them out within bounds of time and size, asks the desk, answers, closes.
pub async fn serve(Knocking { mut stream, address }: Knocking, desk: &impl Desk) {
    let session = session(&stream);
    let talk = async {
        let answered = match answer(&mut stream, address, session, desk).await {
            Ok(answered) => answered,
            Err(Some(why)) => Answered::Refusal(Refusal { why: why.into(), transcript: Bytes::new() }),
            Err(None) => return,
        };
        // Who has gone away asks again, and is given the same answer.
        let _ = say(&mut stream, &Down { answered: Some(answered) }).await;
        close(&mut stream).await;
    };
    let _ = tokio::time::timeout(DEADLINE, talk).await;
}

/// Hears who knocks; the error is what they are told, or nothing when they have gone.
async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    address: SocketAddr,
    session: Option<[u8; 32]>,
    desk: &impl Desk,
) -> Result<Answered, Option<Why>> {
    let (about, decided) = match heard(stream).await? {
        Said::Hello(bytes) => {
            let knock = knock(stream, address, desk, &bytes).await?;
            let about = refused_proof(&knock.transcript, &knock.proof);
            (about, desk.admit(knock).await)
        }
        Said::Commitment(bytes) => {
            let request = opened(stream, address, session, desk, &bytes).await?;
            let about = refused_transcript(&request.transcript, &request.token, &request.signature);
            (about, desk.keep(request).await.map(|()| Answered::Pending(Pending {})))
        }
        Said::Poll(bytes) => {
            let asked = asked(stream, desk, &bytes).await?;
            let about = refused_transcript(&asked.transcript, &[], &asked.signature);
            let found = |found: Option<Signed>| found.map_or(Answered::Pending(Pending {}), Answered::Welcome);
            (about, desk.look(asked).await.map(found))
        }
        Said::Standing(bytes) => {
            let question = question(stream, desk, &bytes).await?;
            let about = refused_transcript(&question.transcript, &[], &question.signature);
            (about, desk.stands(question).await.map(Answered::Stands))
        }
        Said::Proof(_) | Said::Open(_) => return Err(Some(Why::Protocol)),
    };
    let refuse = |why: Why| desk.refuse(&Refusal { why: why.into(), transcript: about.to_wire() });
    Ok(decided.unwrap_or_else(|why| Answered::Refused(refuse(why))))
}

async fn heard(stream: &mut (impl AsyncRead + Unpin)) -> Result<Said, Option<Why>> {
    let up: Option<Up> = hear(stream).await.map_err(|_| None)?;
    up.and_then(|up| up.said).ok_or(Some(Why::Protocol))
}

/// Sends the challenge to what was said first; its payload.
async fn challenged(
    stream: &mut (impl AsyncWrite + Unpin),
    desk: &impl Desk,
    begun: &[u8],
    nonce: &[u8],
) -> Result<Bytes, Option<Why>> {
    let challenge = desk.challenge(begun, nonce);
    let payload = challenge.payload.clone();
    say(stream, &Down { answered: Some(Answered::Challenge(challenge)) }).await.map_err(|_| None)?;
    Ok(payload)
}

async fn knock(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    address: SocketAddr,
    desk: &impl Desk,
    bytes: &Bytes,
) -> Result<Knock, Option<Why>> {
    let comes = |hello: &Hello| joins(&hello.role) || (is_server(&hello.role) && hello.token.is_empty());
    let hello = decode(bytes).filter(|hello: &Hello| is_shaped(hello) && comes(hello) && hello.further.is_none());
    let hello = hello.ok_or(Some(Why::Protocol))?;
    let payload = challenged(stream, desk, bytes, &random()).await?;
    let transcript = transcript(&[bytes, &payload]);
    let Said::Proof(proof) = heard(stream).await? else { return Err(Some(Why::Protocol)) };
    let signed = if hello.token.is_empty() { proof.token.is_empty() } else { proof.token.len() == 64 };
    // A token says itself who may come; nobody else has to vouch.
    let vouched = proof.kerberos.is_empty() || hello.token.is_empty() && !hello.principal.is_empty();
    if !signed || !vouched || proof.identity.len() != 64 {
        return Err(Some(Why::Protocol));
    }
    Ok(Knock { hello, transcript, proof, address })
}

async fn opened(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    address: SocketAddr,
    session: Option<[u8; 32]>,
    desk: &impl Desk,
    bytes: &Bytes,
) -> Result<Request, Option<Why>> {
    let protocol = Some(Why::Protocol);
    let commitment: Commitment = decode(bytes).ok_or(protocol)?;
    let digest = Digest::from_wire(&commitment.digest).ok_or(protocol)?;
    let server = is_server(&commitment.role);
    if commitment.name.parse::<Name>().is_err() || !(server || joins(&commitment.role)) {
        return Err(protocol);
    }
    if !desk.may_ask(&commitment.role, &commitment.name) {
        return Err(Some(Why::Busy));
    }
    let payload = challenged(stream, desk, bytes, &random_32()).await?;
    let Said::Open(Open { nonce, hello, identity, token }) = heard(stream).await? else { return Err(protocol) };
    // The nonce has one length, so that what was committed to can be opened in one way only.
    if nonce.len() != 32 || identity.len() != 64 || sha256(&[&nonce, &hello]) != digest {
        return Err(protocol);
    }
    let transcript = transcript(&[bytes, &payload, &nonce, &hello]);
    let hello = decode(&hello).filter(is_shaped).ok_or(protocol)?;
    // A token is for a further server with the database alone, and that needs one.
    let further = hello.further.is_some();
    let lengths = if further { (16, 64) } else { (0, 0) };
    if (hello.token.len(), token.len()) != lengths || (further && !server) {
        return Err(protocol);
    }
    if hello.name != commitment.name || hello.role != commitment.role {
        return Err(protocol);
    }
    let direct = hello.further.as_ref().zip(session).is_some_and(|(further, session)| further.session == session[..]);
    Ok(Request { hello, transcript, signature: identity, token, direct, address })
}

async fn asked(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    desk: &impl Desk,
    bytes: &Bytes,
) -> Result<Asked, Option<Why>> {
    let protocol = Some(Why::Protocol);
    let poll: Poll = decode(bytes).ok_or(protocol)?;
    let request = Digest::from_wire(&poll.request).filter(|_| poll.nonce.len() == 16).ok_or(protocol)?;
    let (transcript, signature) = proved(stream, desk, POLLED, bytes).await?;
    Ok(Asked { request, transcript, signature })
}

async fn question(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    desk: &impl Desk,
    bytes: &Bytes,
) -> Result<Question, Option<Why>> {
    let shaped = |asked: &Standing| {
        asked.nonce.len() == 16
            && asked.certificate.len() == 32
            && asked.name.parse::<Name>().is_ok()
            && (joins(&asked.role) || is_server(&asked.role))
            && VerifyingKey::from_spki(&asked.identity).is_ok()
    };
    let standing = decode(bytes).filter(shaped).ok_or(Some(Why::Protocol))?;
    let (transcript, signature) = proved(stream, desk, STANDING, bytes).await?;
    Ok(Question { standing, transcript, signature })
}

/// Challenges who asked something; the transcript, and the signature of the identity key that should be over it.
async fn proved(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    desk: &impl Desk,
    kind: &[u8],
    bytes: &Bytes,
) -> Result<(Digest, Bytes), Option<Why>> {
    let payload = challenged(stream, desk, bytes, &random()).await?;
    let Said::Proof(Proof { token, identity, kerberos }) = heard(stream).await? else {
        return Err(Some(Why::Protocol));
    };
    if !token.is_empty() || !kerberos.is_empty() || identity.len() != 64 {
        return Err(Some(Why::Protocol));
    }
    Ok((transcript(&[kind, bytes, &payload]), identity))
}

/// Whether everything in a hello has the form that it must have.
fn is_shaped(hello: &Hello) -> bool {
    matches!(hello.token.len(), 0 | 16)
        && hello.nonce.len() == 16
        // Who wants no certificate comes by Kerberos.
        && (!hello.request.is_empty() || hello.certificate.is_empty() && !hello.principal.is_empty())
        && (hello.principal.is_empty() || hello.principal.parse::<Principal>().is_ok())
        && hello.name.parse::<Name>().is_ok()
        && VerifyingKey::from_spki(&hello.identity).is_ok()
}

fn is_server(role: &str) -> bool {
    role.parse() == Ok(Role::Server)
}

fn joins(role: &str) -> bool {
    matches!(role.parse(), Ok(Role::Agent | Role::Gateway))
}
