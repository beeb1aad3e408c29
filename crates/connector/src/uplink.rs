//! An agent's way to its parent, kept up: dial, compare positions, deliver, be acknowledged, begin again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_proto::frame::Message;
use wardline_proto::message::{
    self, Ack, Answer, Challenge, Context, Digest, Epoch, Hop, Mark, Reason, Refusal, Signed, Way, decode, encode,
};
use wardline_proto::{GroupId, Kind, Name};
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::{KeyId, SigningKey, VerifyingKey, random};
use wardline_secrets::trust::Root;

use crate::config::{Membership, Parent};
use crate::configuration::{Configured, Duty};
use crate::credential::Credential;
use crate::handshake::{Facts, Proof, Session};
use crate::journal;
use crate::link::{self, AbortOnDrop, Outgoing};
use crate::parents::{End, Turns};
use crate::queue::Queue;
use crate::sealing::Sealing;
use crate::stream::{Answered, Verdict};

/// How long an agent whose streams are held waits before it asks again.
const HELD: Duration = Duration::from_secs(30);
/// How long an acknowledgement of what was sent may take before positions are compared again: somebody on the way may
/// have swallowed it.
const ACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What an agent needs to reach its parents.
#[derive(Debug)]
pub struct Uplink {
    /// Who the agent is.
    pub own: Identity,
    /// Group and parents.
    pub membership: Membership,
    /// The channel's certificate.
    pub credential: Credential,
    /// What the answers must lead to.
    pub root: Root,
    /// Signs what the agent says.
    pub identity: Arc<SigningKey>,
    /// What is to be delivered.
    pub queue: Queue,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// What the server wants this host to do.
    pub configured: Arc<Configured>,
    /// What secrets for this host are sealed to.
    pub sealing: Arc<Sealing>,
}

/// The signed facts of a session, as its dialling or listening end reports them.
pub fn hop(own: &Identity, identity: &SigningKey, peer: &Identity, facts: &Facts, dialled: bool) -> Signed {
    identity.signed(Context::Hop, encode(&facts_of(own, peer, facts, dialled)))
}

/// That a session has ended, as its listening end reports it.
pub fn hop_ended(own: &Identity, identity: &SigningKey, peer: &Identity, facts: &Facts) -> Signed {
    let hop = Hop { ended: true, ..facts_of(own, peer, facts, false) };
    identity.signed(Context::Hop, encode(&hop))
}

fn facts_of(own: &Identity, peer: &Identity, facts: &Facts, dialled: bool) -> Hop {
    let (peer_certificate, peer_not_after, kerberos) = match &facts.proof {
        Proof::Certificate { hash, not_after } => (hash.to_wire(), *not_after, None),
        Proof::Kerberos(ticket) => (Bytes::new(), 0, Some(ticket.clone())),
    };
    Hop {
        id: facts.hop.to_wire(),
        reporter: own.name.to_string(),
        role: own.role.to_string(),
        peer: peer.name.to_string(),
        peer_role: peer.role.to_string(),
        mechanism: facts.mechanism.clone(),
        offered: facts.offered.clone(),
        version: facts.version.clone(),
        cipher: facts.cipher.clone(),
        exchange: facts.exchange.clone(),
        peer_certificate,
        peer_not_after,
        since: facts.since,
        dialled,
        ended: false,
        kerberos,
    }
}

impl Uplink {
    /// Keeps the way up until the program stops.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut turns = Turns::new(self.credential.clone(), self.membership.clone());
        let mut moved = None;
        loop {
            let Some((session, parent)) = (match moved.take() {
                Some(better) => Some(better),
                None => turns.connect(&stop).await,
            }) else {
                break;
            };
            let until = session.until;
            let end = tokio::select! {
                // In this order: that the old session was replaced is no news beside the new one.
                biased;
                better = turns.better(&parent, until) => {
                    // The old session has ended here; positions are compared anew on the new one.
                    moved = Some(better);
                    self.queue.parted().await;
                    continue;
                }
                () = stop.cancelled() => break,
                end = self.session(session, &parent) => end,
            };
            self.queue.parted().await;
            if !turns.ended(&parent, end, &stop).await {
                break;
            }
        }
        self.queue.parted().await;
    }

    /// One session, until it ends.
    async fn session(&mut self, session: Session, parent: &Parent) -> End {
        let facts = hop(&self.own, &self.identity, &session.peer, &session.facts, true);
        let own = session.own;
        let (mut incoming, outgoing, writer) = link::open(session);
        let _writer = AbortOnDrop(writer);
        let (state, challenge) = (State::Closed, Bytes::new());
        let mut talk = Talk { link: self, parent, own, facts, outgoing, state, sent: 0, duty: None, challenge };
        let mut heartbeat = tokio::time::interval(talk.link.heartbeat);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut queue, mut unsaid) = (talk.link.queue.clone(), talk.link.sealing.unsaid());
        loop {
            let due = talk.state.due();
            let step = tokio::select! {
                message = incoming.message() => match message {
                    Ok(message) if message.route != 0 => {
                        Err(End::Refused(format!("a {:?} message of a route; an agent has none", message.kind)))
                    }
                    Ok(message) => talk.take(message).await,
                    Err(error) => Err(error.into()),
                },
                () = queue.changed() => talk.deliver().await,
                Ok(()) = unsaid.changed() => talk.publish().await,
                _ = heartbeat.tick() => talk.live().await,
                () = until(due) => talk.overdue().await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Where a session stands.
enum State {
    /// There is no way to the database.
    Closed,
    /// A position was sent; the answer must repeat its nonce and be about its epoch.
    Asking { nonce: Bytes, epoch: Epoch, due: Instant },
    /// Positions agree; batches flow. The duty key that answered, and when what was sent must be acknowledged.
    Delivering { key: VerifyingKey, id: KeyId, due: Option<Instant> },
    /// The streams are held; asked again when it is due.
    Held { due: Instant },
}

impl State {
    const fn due(&self) -> Option<Instant> {
        match self {
            Self::Asking { due, .. } | Self::Held { due } => Some(*due),
            Self::Delivering { due, .. } => *due,
            Self::Closed => None,
        }
    }
}

/// One session's conversation.
struct Talk<'a> {
    link: &'a Uplink,
    parent: &'a Parent,
    /// The id of this end's channel key, when it has proved itself with that.
    own: Option<KeyId>,
    /// What this end measured, signed.
    facts: Signed,
    outgoing: Outgoing,
    state: State,
    sent: u64,
    /// Who has answered on this way.
    duty: Option<Duty>,
    /// What heartbeats repeat: the newest challenge on this way.
    challenge: Bytes,
}

impl Talk<'_> {
    async fn take(&mut self, message: Message) -> Result<(), End> {
        let garbled = || End::Refused("a message that cannot be decoded".into());
        match message.kind {
            Kind::Way => {
                let way: Way = decode(&message.body).ok_or_else(garbled)?;
                // Nothing was asked for on this way yet.
                (self.duty, self.challenge) = (None, Bytes::new());
                if way.open {
                    self.send(Message::own(Kind::Hop, self.facts.clone())).await?;
                    self.ask().await
                } else {
                    self.state = State::Closed;
                    self.link.queue.parted().await;
                    Ok(())
                }
            }
            Kind::Answer => self.answer(&decode(&message.body).ok_or_else(garbled)?).await,
            Kind::Challenge => {
                let said: Option<Challenge> = decode(&message.body);
                self.challenge = said.map(|said| said.challenge).filter(|it| it.len() == 16).ok_or_else(garbled)?;
                Ok(())
            }
            Kind::Configuration => self.configuration(decode(&message.body).ok_or_else(garbled)?).await,
            Kind::Ack => self.acknowledge(&decode(&message.body).ok_or_else(garbled)?).await,
            // Before a server has answered on this way nothing was said to it.
            Kind::SealingConfirmed if self.duty.is_none() => Ok(()),
            Kind::SealingConfirmed => {
                let said = decode(&message.body).ok_or_else(garbled)?;
                self.link.sealing.confirmed(&said).map_or_else(|reason| self.forged(reason), Ok)
            }
            Kind::Refusal => {
                let refusal: Refusal = decode(&message.body).ok_or_else(garbled)?;
                match refusal.reason() {
                    // What was under way is sent again after positions were compared. While an answer is awaited it
                    // speaks of batches from before the question.
                    Reason::Stream if matches!(self.state, State::Asking { .. }) => Ok(()),
                    Reason::Stream => self.ask().await,
                    reason @ Reason::Stopping => Err(End::Gone(reason.as_str().into())),
                    reason @ Reason::Certificate => {
                        if let Some(own) = self.own {
                            self.link.credential.refused(own);
                        }
                        Err(End::Refused(reason.as_str().into()))
                    }
                    reason => Err(End::Refused(reason.as_str().into())),
                }
            }
            kind => Err(End::Refused(format!("an unexpected {kind:?} message"))),
        }
    }

    /// Sends the signed position and asks for the server's.
    async fn ask(&mut self) -> Result<(), End> {
        self.link.queue.parted().await;
        let nonce = Bytes::copy_from_slice(&random());
        let epoch = self.link.queue.epoch();
        let position = self.link.queue.position(nonce.clone(), Bytes::new(), self.link.heartbeat);
        self.state = State::Asking { nonce, epoch, due: Instant::now() + ANSWER };
        self.send(Message::own(Kind::Position, position)).await
    }

    async fn answer(&mut self, signed: &Signed) -> Result<(), End> {
        let State::Asking { nonce, epoch, .. } = &self.state else { return Ok(()) };
        let (nonce, epoch) = (nonce.clone(), *epoch);
        let checked = self.check_answer(signed, &nonce);
        let (answer, key) = match checked {
            Ok(checked) => checked,
            Err(reason) => return self.forged(reason),
        };
        let Some(answered) = Answered::parse(&answer, epoch) else {
            return self.forged("it cannot be understood".into());
        };
        self.challenge = answer.challenge.clone();
        let verdict = self.link.queue.compare(&answered);
        self.link.queue.compared(verdict.clone()).await;
        match verdict {
            Verdict::Held => {
                journal::emit(Event::StreamHeld { agent: self.link.own.name.to_string() });
                self.state = State::Held { due: Instant::now() + HELD };
                Ok(())
            }
            Verdict::Reopen(_) => self.ask().await,
            Verdict::Continue(_) | Verdict::Bridge { .. } => {
                let id = key.id();
                self.state = State::Delivering { key: key.clone(), id, due: None };
                self.sent = answered.watermark.number;
                let group = self.link.membership.name.to_string();
                journal::emit(Event::Delivering { group, upto: answered.watermark.number.to_string() });
                // Who was away is heard again at once.
                self.live().await?;
                // Once on each way: from then on the server says by itself what is due.
                if self.duty.is_none() {
                    let (chain, cookie, version) = (answer.chain, Digest::from_wire(&answer.cookie), answer.version);
                    let (ask, turn) = self.link.configured.ask(cookie).await;
                    self.duty = Some(Duty { key, chain, cookie, version, turn });
                    self.send(Message::own(Kind::ConfigurationAsk, ask)).await?;
                    self.publish().await?;
                }
                self.deliver().await
            }
        }
    }

    /// Says which key secrets for this host are to be sealed to, once there is somebody to hear it and until it is heard.
    async fn publish(&self) -> Result<(), End> {
        let said = self.duty.as_ref().and_then(|_| self.link.sealing.said());
        match said {
            Some(said) => self.send(Message::own(Kind::SealingKey, said)).await,
            None => Ok(()),
        }
    }

    async fn configuration(&mut self, message: message::Configuration) -> Result<(), End> {
        // Before a server has answered in this session nothing was asked for.
        let Some(duty) = self.duty.clone() else { return Ok(()) };
        if let (None, Some(answered)) = (&message.signed, &mut self.duty) {
            // One question, one answer: nobody says later again that nothing has changed.
            answered.cookie = None;
        }
        let taken = self.link.configured.take(message, duty, &self.parent.name).await;
        // Whoever forges is not talked to any longer.
        taken.map_err(|_| End::Refused("a configuration that is not to be believed".into()))
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

    async fn acknowledge(&mut self, signed: &Signed) -> Result<(), End> {
        // Late ones of an earlier comparison say nothing new.
        let State::Delivering { key, id, .. } = &self.state else { return Ok(()) };
        match self.check_ack(signed, key, *id) {
            Ok(mark) => {
                self.expect((mark.number < self.sent).then(|| Instant::now() + ACKNOWLEDGED));
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

    /// Whoever forges is not talked to any longer.
    fn forged(&self, reason: String) -> Result<(), End> {
        let parent = self.parent.name.to_string();
        journal::emit(Event::ForgedAcknowledgement { parent, reason: reason.clone() });
        Err(End::Refused(format!("a forged message: {reason}")))
    }

    /// Sends the closed batches that were not sent yet.
    async fn deliver(&mut self) -> Result<(), End> {
        let State::Delivering { due, .. } = self.state else { return Ok(()) };
        for batch in self.link.queue.behind(self.sent) {
            let last = batch.link.last;
            self.send(Message { kind: Kind::Batch, route: 0, body: batch.bytes }).await?;
            self.sent = last;
            self.link.queue.handed(last);
            self.expect(due.or_else(|| Some(Instant::now() + ACKNOWLEDGED)));
        }
        Ok(())
    }

    /// When an acknowledgement must have come, if one is expected.
    fn expect(&mut self, by: Option<Instant>) {
        if let State::Delivering { due, .. } = &mut self.state {
            *due = by;
        }
    }

    async fn live(&mut self) -> Result<(), End> {
        match self.state {
            State::Closed => Ok(()),
            _ => {
                let position = self.link.queue.position(Bytes::new(), self.challenge.clone(), self.link.heartbeat);
                self.send(Message::own(Kind::Heartbeat, position)).await
            }
        }
    }

    async fn overdue(&mut self) -> Result<(), End> {
        match self.state {
            State::Held { .. } | State::Delivering { .. } => self.ask().await,
            _ => Err(End::Refused(format!("no answer to the position within {} s", ANSWER.as_secs()))),
        }
    }

    async fn send(&self, message: Message) -> Result<(), End> {
        self.outgoing.send(message).await.map_err(|error| End::Gone(error.to_string()))
    }

    fn group(&self) -> GroupId {
        self.link.root.group()
    }

    fn name(&self) -> &Name {
        &self.link.own.name
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use wardline_proto::Role;

    use super::*;
    use crate::testing::{Group, Scratch, parent, reserved, sessions, vault};

    #[tokio::test]
    async fn an_agent_goes_to_the_second_parent_while_the_first_is_away_and_comes_back() {
        let (group, scratch, stop) = (Group::new(), Scratch::new(), CancellationToken::new());
        let _stops = stop.clone().drop_guard();
        let (_reserved, first) = reserved();
        let (second, mut at_second) = sessions(group.channel("gw2.test", Role::Gateway), None, &stop).await;
        let (identity, channel) = (group.identity(), group.channel("web1.test", Role::Agent));
        let own = channel.identity.clone();
        let membership = group.membership(vec![parent("gw1.test", first), parent("gw2.test", second)]);
        let (file, budget) = (scratch.0.join("queue.db"), 1 << 20);
        let vault = vault(&scratch.0);
        let queue =
            Queue::open(&vault, &file, own.name.clone(), membership.name.clone(), Arc::clone(&identity), budget);
        let (queue, _outbox, _thread) = queue.unwrap();
        let (root, heartbeat) = (group.trusted(), Duration::from_secs(60));
        let credential = channel.into();
        let sealing = group.sealing(own.clone(), &identity, &scratch.0);
        let configured = Configured::open(&sealing, scratch.0.clone(), Box::new(|_| Ok(())));
        let uplink = Uplink { own, membership, credential, root, identity, queue, heartbeat, configured, sealing };
        tokio::spawn(uplink.run(stop.clone()));

        let session = at_second.recv().await.unwrap();
        let (mut hears, says, _writer) = link::open(session);
        says.send(Message::own(Kind::Way, Way { open: true })).await.unwrap();
        while hears.message().await.unwrap().kind != Kind::Position {}
        let (_, mut at_first) = sessions(group.channel("gw1.test", Role::Gateway), Some(first), &stop).await;
        let (mut again, says, _writer) = link::open(at_first.recv().await.unwrap());
        // The old session ends only now that the new one stands; positions are compared there.
        while hears.message().await.is_ok() {}
        says.send(Message::own(Kind::Way, Way { open: true })).await.unwrap();
        while again.message().await.unwrap().kind != Kind::Position {}
        assert!(at_second.try_recv().is_err());
    }
}
