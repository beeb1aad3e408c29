//! The host's side without a token: it commits itself, shows a code, and waits until an operator has typed that. Who
//! answers is believed only when the code for the way back was typed here, or when the root is the pinned one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use wardline_proto::join::{Answered, Commitment, Further, Hello, Open, POLLED, Poll, Proof, Said, Up, Why};
use wardline_proto::message::{Context, Digest, encode};
use wardline_proto::{Name, Principal, Role};
use wardline_secrets::signature::{SigningKey, random, sha256};
use wardline_secrets::token::{Code, Token, code, confirmation};
use wardline_secrets::trust::{Pin, Root};
use wardline_secrets::view::pin_of;
use zeroize::Zeroizing;

use super::ask::{EARLY, believe, check, hear_answer, principal, refused, shown, welcomed};
use super::{
    Admitted, Applicant, Attempt, Cause, DEADLINE, JoinError, Step, With, ask, close, dial, random_32,
    refused_transcript, say, transcript,
};
use crate::config::Parent;

/// How long a host waits before it asks again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a host waits for an operator: a little longer than a server does.
const PATIENCE: Duration = Duration::from_secs(31 * 60);

/// Who asks to be let in without a token.
#[derive(Debug)]
pub struct Applying {
    /// The name that it wants.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// Its identity key, PKCS#8 in PEM. Which group it signs for is not known yet.
    pub identity: Zeroizing<Vec<u8>>,
    /// The request for its channel certificate, DER.
    pub request: Vec<u8>,
    /// The channel certificate that it brings, of the same key, DER; empty when the server is to issue one.
    pub certificate: Bytes,
    /// The Kerberos principal by which its hops are to be proved.
    pub principal: Option<Principal>,
    /// The pin of the group's root, where it is known.
    pub pin: Option<Pin>,
    /// What a further server brings besides.
    pub further: Option<Brought>,
}

/// What a further server brings besides what every host does.
#[derive(Debug)]
pub struct Brought {
    /// The token for its name.
    pub token: Token,
    /// A certificate signing request with its duty key, DER.
    pub duty: Vec<u8>,
    /// The sealing certificate, DER, that what it is given is to be encrypted to.
    pub sealing: Bytes,
}

/// A request that waits for an operator. Nobody knows yet who has answered.
#[derive(Debug)]
pub struct Waiting {
    /// The parent that was asked.
    pub parent: Parent,
    /// The name that the group was given.
    pub group_name: Name,
    /// The pin of the root that was shown.
    pub pin: Pin,
    /// What an operator has to type.
    pub code: Code,
    /// What somebody has to type here.
    pub confirmation: Code,
    applicant: Applicant,
    further: bool,
    root: Root,
    transcript: Digest,
}

/// Asks the parents in order until one takes the request. Each is committed to anew: nobody sees the same twice.
///
/// # Errors
/// What happened at each.
pub async fn request(parents: &[Parent], applying: &Applying) -> Result<Waiting, JoinError> {
    let mut attempts = Vec::new();
    for parent in parents {
        let mut step = Step::Connect;
        let asked = tokio::time::timeout(DEADLINE, request_one(parent, applying, &mut step)).await;
        match asked.unwrap_or(Err(Cause::Deadline)) {
            Ok(waiting) => return Ok(waiting),
            Err(cause) => attempts.push(Attempt { parent: parent.clone(), step, cause }),
        }
    }
    Err(JoinError(attempts))
}

async fn request_one(parent: &Parent, applying: &Applying, step: &mut Step) -> Result<Waiting, Cause> {
    let no_key = |_| Cause::Garbled("this host's identity key is none");
    let mut stream = dial(parent).await.map_err(Cause::Unreachable)?;
    *step = Step::Request;
    // Of a key's public half the group is no part.
    let public =
        SigningKey::from_pem(&applying.identity, wardline_proto::GroupId([0; 16])).and_then(|key| key.public());
    let session = super::session(&stream).ok_or(Cause::Garbled("its TLS session cannot be told from others"))?;
    let further = applying.further.as_ref();
    let token = further.map(|further| &further.token);
    let hello = encode(&Hello {
        token: token.map(|token| Bytes::copy_from_slice(&token.id)).unwrap_or_default(),
        name: applying.name.to_string(),
        role: applying.role.to_string(),
        identity: public.map_err(no_key)?.spki().into(),
        request: applying.request.clone().into(),
        nonce: Bytes::copy_from_slice(&random()),
        certificate: applying.certificate.clone(),
        further: further.map(|further| Further {
            duty: further.duty.clone().into(),
            sealing: further.sealing.clone(),
            session: Bytes::copy_from_slice(&session),
        }),
        principal: principal(applying.principal.as_ref()),
    });
    let nonce = random_32();
    let commitment = encode(&Commitment {
        digest: sha256(&[&nonce, &hello]).to_wire(),
        name: applying.name.to_string(),
        role: applying.role.to_string(),
    });
    say(&mut stream, &Up { said: Some(Said::Commitment(commitment.clone())) }).await?;
    let challenge = match hear_answer(&mut stream).await? {
        Answered::Challenge(challenge) => challenge,
        Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
        _ => return Err(Cause::Garbled(EARLY)),
    };
    let rooted = |root: &[u8], group| {
        if token.is_some_and(|token| token.group != group) {
            return Err(Cause::Forged("it is a server of another group than the token's".into()));
        }
        shown(root, group, token.map(|token| token.pin).or(applying.pin))
    };
    let believed = believe(rooted, &commitment, 32, &challenge)?;
    let root = believed.root.clone();
    let pin = pin_of(root.certificate()).ok_or(Cause::Garbled("the root that it shows is none"))?;
    let transcript = transcript(&[&commitment, &challenge.payload, &nonce, &hello]);
    let identity = SigningKey::from_pem(&applying.identity, root.group()).map_err(no_key)?;
    let (signature, nonce) = (identity.sign(Context::Join, &transcript.0), Bytes::copy_from_slice(&nonce));
    let token = token.map(|token| Bytes::copy_from_slice(&token.sign(&transcript.0))).unwrap_or_default();
    let about = refused_transcript(&transcript, &token, &signature);
    say(&mut stream, &Up { said: Some(Said::Open(Open { nonce, hello, identity: signature, token })) }).await?;
    match hear_answer(&mut stream).await? {
        Answered::Pending(_) => {}
        Answered::Refused(signed) => return Err(refused(&believed, &about, &signed)),
        Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
        _ => return Err(Cause::Garbled("it let nobody decide")),
    }
    close(&mut stream).await;
    let applicant = Applicant {
        name: applying.name.clone(),
        role: applying.role,
        identity: Arc::new(identity),
        request: applying.request.clone(),
        certificate: applying.certificate.clone(),
        principal: applying.principal.clone(),
        with: With::Root(root.clone()),
    };
    Ok(Waiting {
        parent: parent.clone(),
        group_name: believed.group_name,
        pin,
        code: code(&transcript),
        confirmation: confirmation(&transcript),
        applicant,
        further: applying.further.is_some(),
        root,
        transcript,
    })
}

impl Waiting {
    /// Asks again and again until an operator has decided. A parent that cannot be reached for a while is told of, once
    /// for each cause. What is given in the end was signed under the root that was shown, and is to be believed only
    /// when that is.
    ///
    /// # Errors
    /// Rejected, or not known any more, or let in by a certificate that is not what it must be, all by a server's word;
    /// or nobody has decided in time.
    pub async fn decided(self, mut tell: impl FnMut(&Cause)) -> Result<Admitted, JoinError> {
        let (began, mut told) = (Instant::now(), String::new());
        let (step, cause) = loop {
            let mut step = Step::Connect;
            let asked = tokio::time::timeout(DEADLINE, self.poll(&mut step)).await;
            let cause = match asked.unwrap_or(Err(Cause::Deadline)) {
                Ok(Some(admitted)) => return Ok(admitted),
                Ok(None) => None,
                // What a further server was to be given is gone.
                Err(cause @ Cause::Refused(Why::NoRequest)) if self.further => {
                    break (step, cause);
                }
                // The server has been restarted, and may have decided before that.
                Err(Cause::Refused(Why::NoRequest)) => {
                    match ask(std::slice::from_ref(&self.parent), &self.applicant).await {
                        Ok(admitted) => return Ok(admitted),
                        Err(JoinError(attempts)) => match attempts.into_iter().next().map(|attempt| attempt.cause) {
                            Some(Cause::Refused(Why::NotMember)) => break (step, Cause::Refused(Why::NoRequest)),
                            cause => cause,
                        },
                    }
                }
                Err(cause @ Cause::Refused(why)) if !matches!(why, Why::Busy | Why::Unavailable) => {
                    break (step, cause);
                }
                Err(cause) if step == Step::Certificate => break (step, cause),
                // Whoever is on the way can say anything; only what a server has signed ends the waiting.
                Err(cause) => Some(cause),
            };
            if began.elapsed() > PATIENCE {
                break (step, cause.unwrap_or(Cause::Refused(Why::NoRequest)));
            }
            if let Some(cause) = cause.filter(|cause| cause.to_string() != told) {
                tell(&cause);
                told = cause.to_string();
            }
            tokio::time::sleep(PAUSE).await;
        };
        Err(failed(self.parent, step, cause))
    }

    /// What became of the request; nothing while nobody has decided.
    async fn poll(&self, step: &mut Step) -> Result<Option<Admitted>, Cause> {
        let mut stream = dial(&self.parent).await.map_err(Cause::Unreachable)?;
        *step = Step::Decision;
        let poll = encode(&Poll { request: self.transcript.to_wire(), nonce: Bytes::copy_from_slice(&random()) });
        say(&mut stream, &Up { said: Some(Said::Poll(poll.clone())) }).await?;
        let challenge = match hear_answer(&mut stream).await? {
            Answered::Challenge(challenge) => challenge,
            Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
            _ => return Err(Cause::Garbled(EARLY)),
        };
        let believed = believe(|_, _| Ok(self.root.clone()), &poll, 16, &challenge)?;
        let transcript = transcript(&[POLLED, &poll, &challenge.payload]);
        let identity = self.applicant.identity.sign(Context::Join, &transcript.0);
        let about = refused_transcript(&transcript, &[], &identity);
        say(&mut stream, &Up { said: Some(Said::Proof(Proof { identity, ..Proof::default() })) }).await?;
        let welcome = match hear_answer(&mut stream).await? {
            Answered::Welcome(welcome) => welcome,
            Answered::Pending(_) => return Ok(None),
            Answered::Refused(signed) => return Err(refused(&believed, &about, &signed)),
            Answered::Refusal(refusal) => return Err(Cause::Unsigned(refusal.why())),
            _ => return Err(Cause::Garbled("it asked twice")),
        };
        let welcome = welcomed(&believed, &transcript, &welcome)?;
        *step = Step::Certificate;
        let admitted = check(&self.parent, &self.applicant, believed, welcome)?;
        close(&mut stream).await;
        Ok(Some(admitted))
    }
}

fn failed(parent: Parent, step: Step, cause: Cause) -> JoinError {
    JoinError(vec![Attempt { parent, step, cause }])
}
