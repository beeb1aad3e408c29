//! An agent's way to its parent, kept up: dial, compare positions, deliver, be acknowledged, begin again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_proto::frame::Message;
use wardline_proto::message::{Ack, Answer, Context, Epoch, Hop, Mark, Reason, Refusal, Signed, Way, decode, encode};
use wardline_proto::{GroupId, Kind, Name};
use wardline_secrets::signature::{KeyId, SigningKey, VerifyingKey, random};
use wardline_secrets::tls::Channel;
use wardline_secrets::trust::Root;

use crate::config::{Membership, Parent};
use crate::handshake::{Facts, HandshakeError, Session, dial};
use crate::journal;
use crate::link::{self, Outgoing};
use crate::queue::Queue;
use crate::stream::{Verdict, answered};

/// The pause before the next try after a failed one, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// How long an agent whose streams are held waits before it asks again.
const HELD: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What an agent needs to reach its parents.
#[derive(Debug)]
pub struct Uplink {
    /// Group and parents.
    pub membership: Membership,
    /// The channel's certificate.
    pub channel: Channel,
    /// What the answers must lead to.
    pub root: Root,
    /// Signs what the agent says.
    pub identity: Arc<SigningKey>,
    /// What is to be delivered.
    pub queue: Queue,
    /// Between heartbeats.
    pub heartbeat: Duration,
}

/// Dials the parents in turn, with growing pauses, until one session stands; says which failed and why.
pub async fn connect(
    channel: &Channel,
    membership: &Membership,
    stop: &CancellationToken,
) -> Option<(Session, Parent)> {
    let mut pause = PAUSE.0;
    loop {
        let mut reasons = Vec::new();
        for parent in &membership.parents {
            let result = tokio::select! {
                () = stop.cancelled() => return None,
                result = dial(channel, parent) => result,
            };
            match result {
                Ok(session) => {
                    let Facts { mechanism, version, cipher, exchange, .. } = session.facts.clone();
                    let parent_shown = session.peer.to_string();
                    journal::emit(Event::Connected { parent: parent_shown, mechanism, version, cipher, exchange });
                    return Some((session, parent.clone()));
                }
                Err(error) => {
                    reasons.push(format!("{}: {error}", parent.name));
                    journal::emit(unreachable(parent, error));
                }
            }
        }
        journal::emit(Event::NoParent { group: membership.name.to_string(), reason: reasons.join("; ") });
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(pause + jitter(pause)) => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Up to half of a pause, at random, so that those who lost the same parent do not come back at once.
fn jitter(pause: Duration) -> Duration {
    let [byte, ..] = random();
    pause.mul_f64(f64::from(byte) / 512.0)
}

fn unreachable(parent: &Parent, error: HandshakeError) -> Event {
    let (shown, reason) = (format!("{} ({})", parent.name, parent.address), error.to_string());
    match error {
        HandshakeError::Resolve(_) => Event::ParentNotResolved { parent: shown, reason },
        HandshakeError::Connect(_) => Event::ParentUnreachable { parent: shown, reason },
        HandshakeError::Certificate(_) => Event::ParentNotTrusted { parent: shown, reason },
        HandshakeError::Tls(_)
        | HandshakeError::Closed(_)
        | HandshakeError::Mechanism(_)
        | HandshakeError::Bound(_)
        | HandshakeError::Deadline => Event::ClosedBeforeAuthentication { parent: shown, reason },
    }
}

/// The signed facts of a session, as its dialling or listening end reports them.
pub fn hop(
    channel: &Channel,
    identity: &SigningKey,
    peer: &wardline_secrets::certificate::Identity,
    facts: &Facts,
    dialled: bool,
) -> Signed {
    let hop = Hop {
        id: facts.hop.to_wire(),
        reporter: channel.identity.name.to_string(),
        role: channel.identity.role.to_string(),
        peer: peer.name.to_string(),
        peer_role: peer.role.to_string(),
        mechanism: facts.mechanism.clone(),
        version: facts.version.clone(),
        cipher: facts.cipher.clone(),
        exchange: facts.exchange.clone(),
        peer_certificate: facts.peer_certificate.to_wire(),
        peer_not_after: facts.peer_not_after,
        since: facts.since,
        dialled,
    };
    identity.signed(Context::Hop, encode(&hop))
}

impl Uplink {
    /// Keeps the way up until the program stops.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some((session, parent)) = connect(&self.channel, &self.membership, &stop).await {
            let reason = tokio::select! {
                () = stop.cancelled() => break,
                reason = self.session(session, &parent) => reason,
            };
            self.queue.parted().await;
            journal::emit(Event::ClosedAfterAuthentication { parent: parent.name.to_string(), reason });
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE.0 + jitter(PAUSE.0)) => {}
            }
        }
        self.queue.parted().await;
    }

    /// One session, until it ends; gives the reason.
    async fn session(&mut self, session: Session, parent: &Parent) -> String {
        let facts = hop(&self.channel, &self.identity, &session.peer, &session.facts, true);
        let (mut incoming, outgoing, writer) = link::open(session);
        let _writer = AbortOnDrop(writer);
        if outgoing.send(Message::own(Kind::Hop, facts)).await.is_err() {
            return "the connection ended".into();
        }
        let mut talk = Talk { link: self, parent, outgoing, state: State::Closed, sent: 0 };
        let mut heartbeat = tokio::time::interval(talk.link.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut queue = talk.link.queue.clone();
        loop {
            let wait = talk.state.limit();
            let step = tokio::select! {
                message = incoming.message() => match message {
                    Ok(message) => talk.take(message).await,
                    Err(error) => Err(error.to_string()),
                },
                () = queue.changed() => talk.deliver().await,
                _ = heartbeat.tick() => talk.live().await,
                () = sleep(wait) => talk.overdue().await,
            };
            if let Err(reason) = step {
                return reason;
            }
        }
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn sleep(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Where a session stands.
enum State {
    /// There is no way to the database.
    Closed,
    /// A position was sent; the answer must repeat its nonce and be about its epoch.
    Asking { nonce: Bytes, epoch: Epoch },
    /// Positions agree; batches flow. The duty key that answered.
    Delivering { key: VerifyingKey, id: KeyId },
    /// The streams are held; asked again later.
    Held,
}

impl State {
    const fn limit(&self) -> Option<Duration> {
        match self {
            Self::Asking { .. } => Some(ANSWER),
            Self::Held => Some(HELD),
            Self::Closed | Self::Delivering { .. } => None,
        }
    }
}

/// One session's conversation.
struct Talk<'a> {
    link: &'a Uplink,
    parent: &'a Parent,
    outgoing: Outgoing,
    state: State,
    sent: u64,
}

impl Talk<'_> {
    async fn take(&mut self, message: Message) -> Result<(), String> {
        let garbled = || "a message that cannot be decoded".to_owned();
        match message.kind {
            Kind::Way => {
                let way: Way = decode(&message.body).ok_or_else(garbled)?;
                if way.open {
                    self.ask().await
                } else {
                    self.state = State::Closed;
                    self.link.queue.parted().await;
                    Ok(())
                }
            }
            Kind::Answer => self.answer(&decode(&message.body).ok_or_else(garbled)?).await,
            Kind::Ack => self.acknowledge(&decode(&message.body).ok_or_else(garbled)?).await,
            Kind::Refusal => {
                let refusal: Refusal = decode(&message.body).ok_or_else(garbled)?;
                match refusal.reason() {
                    // What was under way is sent again after positions were compared.
                    Reason::Stream => self.ask().await,
                    reason => Err(reason.as_str().to_owned()),
                }
            }
            kind => Err(format!("an unexpected {kind:?} message")),
        }
    }

    /// Sends the signed position and asks for the server's.
    async fn ask(&mut self) -> Result<(), String> {
        self.link.queue.parted().await;
        let nonce = Bytes::copy_from_slice(&random());
        let epoch = self.link.queue.epoch();
        let position = self.link.queue.position(nonce.clone(), self.link.heartbeat);
        self.state = State::Asking { nonce, epoch };
        self.send(Message::own(Kind::Position, position)).await
    }

    async fn answer(&mut self, signed: &Signed) -> Result<(), String> {
        let State::Asking { nonce, epoch } = &self.state else { return Ok(()) };
        let (nonce, epoch) = (nonce.clone(), *epoch);
        let checked = self.check_answer(signed, &nonce);
        let (answer, key) = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.forged(reason),
        };
        let Some((standing, watermark, common)) = answered(&answer, epoch) else {
            return self.forged("it cannot be understood".into());
        };
        let verdict = self.link.queue.compare(standing, &watermark, &common);
        self.link.queue.compared(verdict.clone()).await;
        match verdict {
            Verdict::Held => {
                journal::emit(Event::StreamHeld { agent: self.link.channel.identity.name.to_string() });
                self.state = State::Held;
                Ok(())
            }
            Verdict::Reopen { .. } => self.ask().await,
            Verdict::Continue(_) | Verdict::Bridge { .. } => {
                let id = key.id();
                self.state = State::Delivering { key, id };
                self.sent = watermark.number;
                let group = self.link.membership.name.to_string();
                journal::emit(Event::Delivering { group, upto: watermark.number.to_string() });
                self.deliver().await
            }
        }
    }

    fn check_answer(&self, signed: &Signed, nonce: &Bytes) -> Result<(Answer, VerifyingKey), String> {
        let answer: Answer = decode(&signed.payload).ok_or("it cannot be decoded")?;
        let chain: Vec<_> = answer.chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
        let duty = self.link.root.duty(&chain, UnixTime::now());
        let (_, key) = duty.map_err(|fault| format!("its duty certificate: {fault}"))?;
        key.open(Context::Position, self.group(), signed).map_err(|error| error.to_string())?;
        if answer.nonce != nonce {
            return Err("it answers another question".into());
        }
        if answer.agent != self.name().as_str() {
            return Err(format!("it is meant for {}", answer.agent));
        }
        Ok((answer, key))
    }

    async fn acknowledge(&mut self, signed: &Signed) -> Result<(), String> {
        // Late ones of an earlier comparison say nothing new.
        let State::Delivering { key, id } = &self.state else { return Ok(()) };
        match self.check_ack(signed, key, *id) {
            Ok(mark) => {
                self.link.queue.acknowledge(mark).await;
                Ok(())
            }
            Err(reason) => self.forged(reason),
        }
    }

    fn check_ack(&self, signed: &Signed, key: &VerifyingKey, id: KeyId) -> Result<Mark, String> {
        key.open(Context::Ack, self.group(), signed).map_err(|error| error.to_string())?;
        let ack: Ack = decode(&signed.payload).ok_or("it cannot be decoded")?;
        let epoch = Epoch::from_wire(&ack.epoch).ok_or("its epoch has a wrong length")?;
        let mark = ack.upto.mark(epoch).ok_or("its hash has a wrong length")?;
        if ack.key.as_ref() != id.0.as_slice() {
            return Err("it names another key".into());
        }
        if ack.agent != self.name().as_str() {
            return Err(format!("it is meant for {}", ack.agent));
        }
        if mark.number > self.sent {
            return Err(format!("it covers entry {}, but only {} were sent", mark.number, self.sent));
        }
        if mark.number > self.link.queue.acknowledged().number && !self.link.queue.knows(&mark) {
            return Err("it is of another chain".into());
        }
        Ok(mark)
    }

    /// Whoever forges is not talked to any longer; the next parent is tried.
    fn forged(&self, reason: String) -> Result<(), String> {
        let parent = self.parent.name.to_string();
        journal::emit(Event::ForgedAcknowledgement { parent, reason: reason.clone() });
        Err(format!("a forged message: {reason}"))
    }

    /// Sends the closed batches that were not sent yet.
    async fn deliver(&mut self) -> Result<(), String> {
        let State::Delivering { .. } = self.state else { return Ok(()) };
        for batch in self.link.queue.behind(self.sent) {
            let last = batch.link.last;
            self.send(Message { kind: Kind::Batch, route: 0, body: batch.bytes }).await?;
            self.sent = last;
            self.link.queue.handed(last);
        }
        Ok(())
    }

    async fn live(&mut self) -> Result<(), String> {
        match self.state {
            State::Closed => Ok(()),
            _ => {
                let position = self.link.queue.position(Bytes::new(), self.link.heartbeat);
                self.send(Message::own(Kind::Heartbeat, position)).await
            }
        }
    }

    async fn overdue(&mut self) -> Result<(), String> {
        match self.state {
            State::Held => self.ask().await,
            _ => Err(format!("no answer to the position within {} s", ANSWER.as_secs())),
        }
    }

    async fn send(&self, message: Message) -> Result<(), String> {
        self.outgoing.send(message).await.map_err(|error| error.to_string())
    }

    fn group(&self) -> GroupId {
        self.link.root.group()
    }

    fn name(&self) -> &Name {
        &self.link.channel.identity.name
    }
}
