//! The host's side: asks to be let in, and believes nothing that does not lead to the pinned root.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use wardline_proto::join::{Answered, Challenge, Down, Hello, Proof, Refusal, Said, Up, Welcome, Why};
use wardline_proto::message::{Context, Digest, Signed, decode, encode};
use wardline_proto::{GroupId, Name, Principal, Role};
use wardline_secrets::head::open_head;
use wardline_secrets::request::Request;
use wardline_secrets::signature::{SigningKey, VerifyingKey, random, sha256};
use wardline_secrets::tls;
use wardline_secrets::token::Token;
use wardline_secrets::trust::{Pin, Root, RootError};
use wardline_secrets::view::pin_of;

use super::{DEADLINE, Kerberos, close, dial, read, refused_proof, say, transcript};
use crate::config::Parent;
use crate::handshake::HandshakeError;

/// By what a host hopes to be let in, and by what it knows the group.
#[derive(Debug)]
pub enum With {
    /// It is new: by a token, which names the group and its root.
    Token {
        /// The token.
        token: Token,
        /// Names that the group must not have: what is kept of it needs a folder of its own.
        taken: Vec<Name>,
    },
    /// It is a member that renews or comes home: by its identity key. It knows the root.
    Root(Root),
    /// It is new, and a KDC vouches for it and for the group.
    Kerberos(Kerberos),
}

/// Who asks.
#[derive(Debug)]
pub struct Applicant {
    /// The name that it wants, or has.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// Its identity key.
    pub identity: Arc<SigningKey>,
    /// The request for its channel certificate, DER; empty when it wants none.
    pub request: Vec<u8>,
    /// The channel certificate that it brings, of the same key, DER; empty when the server is to issue one.
    pub certificate: Bytes,
    /// The Kerberos principal by which its hops are to be proved.
    pub principal: Option<Principal>,
    /// By what it hopes to be let in.
    pub with: With,
}

/// What a host has when it was let in. All of it was checked.
#[derive(Debug)]
pub struct Admitted {
    /// The parent that was asked.
    pub parent: Parent,
    /// The server that answered.
    pub server: Name,
    /// The group.
    pub group: GroupId,
    /// Its name.
    pub group_name: Name,
    /// Its root.
    pub root: Root,
    /// The channel certificate and what leads to the root; nothing when it wanted none.
    pub chain: Vec<CertificateDer<'static>>,
    /// The public half of the group's recovery key, SubjectPublicKeyInfo; empty while there is none.
    pub recovery: Bytes,
    /// The trust log's head.
    pub head: Signed,
    /// What a further server is given of the group's keys, encrypted to the key that it brought; otherwise empty.
    pub sealed: Bytes,
}

/// How far a host came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Reaching the parent.
    Connect,
    /// The server's proof that it belongs to the group.
    Challenge,
    /// The server's decision. From here on it may have let the host in even if its answer is lost.
    Decision,
    /// Looking at what came.
    Certificate,
    /// Without a token: the server's word that an operator is asked.
    Request,
}

impl Step {
    /// Every step of a host that has a token or is a member, in order.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Challenge, Self::Decision, Self::Certificate];

    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Challenge => "the server proves that it belongs to the group",
            Self::Decision => "the server lets this host in",
            Self::Certificate => "the certificate is what was asked for",
            Self::Request => "the server asks an operator",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a step failed, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// No connection.
    #[error("no connection: {0}; check the parent's name and port, that it runs, and the firewall between")]
    Unreachable(HandshakeError),
    /// The connection ended.
    #[error("the connection ended: {0}; if this parent is a gateway, see in its log whether it reaches its own parent")]
    Ended(io::Error),
    /// No answer in time.
    #[error("no answer within {} s; see the log of the parent, and of the server behind it", DEADLINE.as_secs())]
    Deadline,
    /// What came is no message of this session.
    #[error("{0}; is it a Wardline program of this version that listens there?")]
    Garbled(&'static str),
    /// Somebody else than a server of the group speaks.
    #[error("{0}; ask another parent, and find out who answers there")]
    Forged(String),
    /// The group has a name that this host has another folder of.
    #[error("the group is called {0}, as another of which a folder is here already; the token was not used")]
    Taken(Name),
    /// Another group answers than was asked for.
    #[error("the group is called {0}, and this host wants to join another")]
    OtherGroup(Name),
    /// This host has no ticket for the group's service.
    #[error("Kerberos: {0}; see that the KDC can be reached, and that it knows the group's principal")]
    Kerberos(String),
    /// Not let in.
    #[error("it does not: {}", .0.as_str())]
    Refused(Why),
    /// Somebody says that it is not let in.
    #[error("somebody on the way says no, and no server has signed it: {}", .0.as_str())]
    Unsigned(Why),
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Ended(error)
    }
}

/// One parent that was asked in vain.
#[derive(Debug, thiserror::Error)]
#[error("by {} ({}): {step}: {cause}", .parent.name, .parent.address)]
pub struct Attempt {
    /// The parent.
    pub parent: Parent,
    /// The step that failed.
    pub step: Step,
    /// Why.
    pub cause: Cause,
}

/// Why a host was not let in: what happened at each parent, in the order in which they were asked.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct JoinError(pub Vec<Attempt>);

impl JoinError {
    /// Whether a server may have let the host in although no answer came: then it must ask with the same keys again.
    pub fn is_open(&self) -> bool {
        let open = |attempt: &Attempt| {
            attempt.step == Step::Certificate
                || attempt.step == Step::Decision && !matches!(attempt.cause, Cause::Refused(_))
        };
        self.0.iter().any(open)
    }
}

/// Asks the parents in order until one lets the host in.
///
/// # Errors
/// What happened at each.
pub async fn ask(parents: &[Parent], applicant: &Applicant) -> Result<Admitted, JoinError> {
    let mut attempts = Vec::new();
    for parent in parents {
        let mut step = Step::Connect;
        let asked = tokio::time::timeout(DEADLINE, ask_one(parent, applicant, &mut step)).await;
        match asked.unwrap_or(Err(Cause::Deadline)) {
            Ok(admitted) => return Ok(admitted),
            Err(cause) => attempts.push(Attempt { parent: parent.clone(), step, cause }),
        }
    }
    Err(JoinError(attempts))
}

/// A server that has proved that it belongs to the group.
pub(super) struct Believed {
    pub(super) server: Name,
    pub(super) group_name: Name,
    pub(super) root: Root,
    pub(super) duty: VerifyingKey,
    /// The group's Kerberos principal, if the server says that it has its key.
    pub(super) service: String,
}

/// What is wrong with an answer that does not wait for a proof.
pub(super) const EARLY: &str = "it answered before it knew who asks";

async fn ask_one(parent: &Parent, applicant: &Applicant, step: &mut Step) -> Result<Admitted, Cause> {
    let mut stream = dial(parent).await.map_err(Cause::Unreachable)?;
    *step = Step::Challenge;
    let public = applicant.identity.public().map_err(|_| Cause::Garbled("this host's identity key is none"))?;
    let hello = encode(&Hello {
        token: match &applicant.with {
            With::Token { token, .. } => Bytes::copy_from_slice(&token.id),
            With::Root(_) | With::Kerberos(_) => Bytes::new(),
        },
        name: applicant.name.to_string(),
        role: applicant.role.to_string(),
        identity: public.spki().into(),
        request: applicant.request.clone().into(),
        nonce: Bytes::copy_from_slice(&random()),
        certificate: applicant.certificate.clone(),
        further: None,
        principal: principal(applicant.principal.as_ref()),
    });
    say(&mut stream, &Up { said: Some(Said::Hello(hello.clone())) }).await?;
    let challenge = match hear_answer(&mut stream).await? {
        Answered::Challenge(challenge) => challenge,
        Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
        _ => return Err(Cause::Garbled(EARLY)),
    };
    let believed = believe(|root, claimed| known(&applicant.with, root, claimed), &hello, 16, &challenge)?;
    // Up to here nothing was proved, and so no token is used up.
    if let With::Token { taken, .. } = &applicant.with
        && taken.contains(&believed.group_name)
    {
        return Err(Cause::Taken(believed.group_name));
    }
    if let With::Kerberos(kerberos) = &applicant.with {
        expected(kerberos, &believed)?;
    }
    *step = Step::Decision;
    let transcript = transcript(&[&hello, &challenge.payload]);
    let Digest(digest) = transcript;
    let (begun, kerberos) = match &applicant.with {
        With::Kerberos(kerberos) => kerberos.begin(&transcript).await.map(|(begun, token)| (Some(begun), token))?,
        With::Token { .. } | With::Root(_) => (None, Bytes::new()),
    };
    let proof = Proof {
        token: match &applicant.with {
            With::Token { token, .. } => Bytes::copy_from_slice(&token.sign(&digest)),
            With::Root(_) | With::Kerberos(_) => Bytes::new(),
        },
        identity: applicant.identity.sign_in(believed.root.group(), Context::Join, &digest),
        kerberos,
    };
    let about = refused_proof(&transcript, &proof);
    say(&mut stream, &Up { said: Some(Said::Proof(proof)) }).await?;

    let welcome = match (hear_answer(&mut stream).await?, begun) {
        (Answered::Welcome(welcome), None) => welcome,
        (Answered::Vouched(vouched), Some(begun)) => {
            begun.says(&vouched)?;
            vouched.welcome
        }
        (Answered::Refused(signed), _) => return Err(refused(&believed, &about, &signed)),
        (Answered::Refusal(refusal), _) => return Err(Cause::Unsigned(refusal.why())),
        _ => return Err(Cause::Garbled("it gave another answer than to this question")),
    };
    let welcome = welcomed(&believed, &transcript, &welcome)?;
    *step = Step::Certificate;
    let admitted = check(parent, applicant, believed, welcome)?;
    close(&mut stream).await;
    Ok(admitted)
}

/// Why a server that was believed does not let this host in; or that it has not said so.
pub(super) fn refused(believed: &Believed, about: &Digest, signed: &Signed) -> Cause {
    if believed.duty.open(Context::Join, believed.root.group(), signed).is_err() {
        return Cause::Forged("its refusal is not signed by the key that asked".into());
    }
    match decode::<Refusal>(&signed.payload) {
        Some(refusal) if refusal.transcript.as_ref() == about.0.as_slice() => Cause::Refused(refusal.why()),
        _ => Cause::Forged("its refusal is of another session, or of what was changed on the way".into()),
    }
}

pub(super) async fn hear_answer(stream: &mut super::Stream) -> Result<Answered, Cause> {
    let bytes = read(stream).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    let down: Option<Down> = decode(&bytes);
    down.and_then(|down| down.answered).ok_or(Cause::Garbled("what came cannot be decoded"))
}

/// A principal as it is sent.
pub(super) fn principal(principal: Option<&Principal>) -> String {
    principal.map(ToString::to_string).unwrap_or_default()
}

/// Whether a server says that it is of the group that this host wants to join, and has its key. That is not proved yet.
fn expected(kerberos: &Kerberos, believed: &Believed) -> Result<(), Cause> {
    if believed.group_name != kerberos.group {
        return Err(Cause::OtherGroup(believed.group_name.clone()));
    }
    match believed.service.as_str() {
        "" => Err(Cause::Refused(Why::KerberosNone)),
        service if service == kerberos.service => Ok(()),
        other => Err(Cause::Forged(format!("it has a key of {other}, and this host asks for {}", kerberos.service))),
    }
}

/// The root that a host believes. What is sent may be another certificate of the same key; what is known decides.
fn known(with: &With, root: &[u8], claimed: GroupId) -> Result<Root, Cause> {
    match with {
        With::Root(known) => Ok(known.clone()),
        With::Token { token, .. } => Root::from_certificate(root, token.group, token.pin).map_err(not_the_root),
        // Without a pin it is believed for now: only what the group's service says in the end counts.
        With::Kerberos(kerberos) => shown(root, claimed, kerberos.pin),
    }
}

/// The root that is shown, which must be the pinned one when there is a pin.
pub(super) fn shown(root: &[u8], group: GroupId, pin: Option<Pin>) -> Result<Root, Cause> {
    let pin = pin.or_else(|| pin_of(root)).ok_or(Cause::Garbled("the root that it shows is none"))?;
    Root::from_certificate(root, group, pin).map_err(not_the_root)
}

/// Somebody does not show the root that is pinned.
pub(super) fn not_the_root(error: RootError) -> Cause {
    Cause::Forged(format!("it does not show the group's root: {error}"))
}

/// Checks that a challenge answers what was said, with a nonce of this length, and comes from a server under the root
/// that `rooted` gives of the one that was sent and the group's id.
pub(super) fn believe(
    rooted: impl FnOnce(&[u8], GroupId) -> Result<Root, Cause>,
    begun: &[u8],
    nonce: usize,
    signed: &Signed,
) -> Result<Believed, Cause> {
    believe_at(UnixTime::now(), rooted, begun, nonce, signed)
}

/// As [`believe`], with the duty certificate judged by another moment than that of this host's clock.
pub(super) fn believe_at(
    now: UnixTime,
    rooted: impl FnOnce(&[u8], GroupId) -> Result<Root, Cause>,
    begun: &[u8],
    nonce: usize,
    signed: &Signed,
) -> Result<Believed, Cause> {
    let challenge: Challenge = decode(&signed.payload).ok_or(Cause::Garbled("its challenge cannot be decoded"))?;
    let [duty, root] = challenge.chain.as_slice() else {
        return Err(Cause::Garbled("its challenge has not two certificates"));
    };
    let claimed = challenge.group.as_ref().try_into().map(GroupId);
    let claimed = claimed.map_err(|_| Cause::Garbled("its challenge has no group id"))?;
    let root = rooted(root, claimed)?;
    let duty = [CertificateDer::from(duty.as_ref())];
    let duty = root.duty(&duty, now);
    let (server, duty) = duty.map_err(|fault| Cause::Forged(format!("its duty certificate: {fault}")))?;
    duty.open(Context::Join, root.group(), signed)
        .map_err(|_| Cause::Forged("its challenge is not signed by the key in its certificate".into()))?;
    if claimed != root.group() {
        return Err(Cause::Forged("its challenge is of another group".into()));
    }
    if challenge.hello.as_ref() != sha256(&[begun]).0.as_slice() || challenge.nonce.len() != nonce {
        return Err(Cause::Forged("its challenge answers another question".into()));
    }
    let group_name = challenge.name.parse().map_err(|_| Cause::Garbled("the group's name is none"))?;
    Ok(Believed { server, group_name, root, duty, service: challenge.service })
}

/// What a server that was believed says in this session to a host that it lets in.
pub(super) fn welcomed(believed: &Believed, transcript: &Digest, signed: &Signed) -> Result<Welcome, Cause> {
    let payload = believed.duty.open(Context::Join, believed.root.group(), signed);
    let payload = payload.map_err(|_| Cause::Forged("its welcome is not signed by the key that asked".into()))?;
    let welcome: Welcome = decode(payload).ok_or(Cause::Garbled("its welcome cannot be decoded"))?;
    if welcome.transcript.as_ref() == transcript.0.as_slice() {
        Ok(welcome)
    } else {
        Err(Cause::Forged("its welcome is of another session".into()))
    }
}

/// Checks that what is in a welcome is what was asked for.
pub(super) fn check(
    parent: &Parent,
    applicant: &Applicant,
    believed: Believed,
    welcome: Welcome,
) -> Result<Admitted, Cause> {
    let Believed { server, group_name, root, duty, .. } = believed;
    let chain: Vec<_> = welcome.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    if applicant.request.is_empty() {
        // It wants no certificate, and takes none.
        chain
            .is_empty()
            .then_some(())
            .ok_or_else(|| Cause::Forged("it issued a certificate that nobody wanted".into()))?;
    } else {
        let key = tls::certified(&root, &chain, &applicant.name, applicant.role)
            .map_err(|fault| Cause::Forged(format!("the certificate that it issued: {fault}")))?;
        let asked = Request::parse(&applicant.request).map_err(|_| Cause::Garbled("this host's request is none"))?;
        if key != asked.key.id() {
            return Err(Cause::Forged("the certificate that it issued is for another key".into()));
        }
    }
    if !applicant.certificate.is_empty() && welcome.chain.first() != Some(&applicant.certificate) {
        return Err(Cause::Forged("it answered with another certificate than this host's own".into()));
    }
    if !welcome.recovery.is_empty() && VerifyingKey::from_spki(&welcome.recovery).is_err() {
        return Err(Cause::Garbled("the recovery key that it names is none"));
    }
    if open_head(&duty, root.group(), &welcome.head).is_none() {
        return Err(Cause::Forged(
            "the head of the trust log that it shows is not signed by the key that asked".into(),
        ));
    }
    Ok(Admitted {
        parent: parent.clone(),
        server,
        group: root.group(),
        group_name,
        root,
        chain,
        recovery: welcome.recovery,
        head: welcome.head,
        sealed: welcome.sealed,
    })
}
