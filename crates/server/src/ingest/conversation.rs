//! One agent's conversation with the server, directly or by its gateway: positions are compared, batches verified,
//! judged and written, and what is committed is acknowledged. Batches are verified while earlier ones are being
//! written; they are written in order.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use wardline_connector::link::Outgoing;
use wardline_connector::stream::{Answered, Asked, Header, Judgement, judge};
use wardline_connector::{journal, now_ms};
use wardline_proto::entry::{self, Entry};
use wardline_proto::event::Event;
use wardline_proto::frame::Message;
use wardline_proto::message::{
    self, Ack, Answer, Batch, BatchHeader, Challenge, ConfigurationAsk, Context, Digest, Epoch, Mark, Point, Position,
    Reason, Refusal, Signed, Standing, decode, encode,
};
use wardline_proto::{GroupId, Kind, Name};
use wardline_secrets::head::Reach;
use wardline_secrets::signature::{random, sha256};
use wardline_secrets::view::{Member, View};

use super::{Ingest, Told, stands};
use crate::configuration::NotIssued;
use crate::live::Conversation;
use crate::store::{self, Commit, Heard, Open, Opened, Outcome};
use crate::watch::{Heartbeat, Stream};

/// Batches of one agent that are being written. An agent has no more under way.
const WRITING: usize = 32;
/// How long an agent that comes waits for what other servers have appended to the trust log.
const FOLLOWED: Duration = Duration::from_secs(1);
/// How long a configuration that was sent is not sent to who asks again.
const AGAIN: Duration = Duration::from_secs(5);

type Writing = Pin<Box<dyn Future<Output = Result<Outcome, store::Error>> + Send + Sync>>;

/// Why a conversation ends.
enum End {
    /// The session is gone, or another has taken its place.
    Quiet,
    /// The agent is told this much.
    Refused(Refusal),
}

/// One conversation.
pub(super) struct Talk {
    ingest: Arc<Ingest>,
    conversation: Arc<Conversation>,
    route: u32,
    outgoing: Outgoing,
    address: SocketAddr,
    /// Where the stream stands with everything that was taken; nothing before positions were compared.
    taken: Option<Mark>,
    /// How its epoch stood when positions were compared last.
    standing: Standing,
    challenges: Challenges,
    /// Of the last position that was heard: none comes twice.
    serial: u64,
    writing: VecDeque<(Mark, Writing)>,
    /// What the agent has of its configuration; nothing before it has said so.
    configured: Option<Held>,
    /// When it is looked at again, because there was one due that could not be had.
    again: Option<Instant>,
}

/// What an agent has of its configuration.
#[derive(Clone, Copy)]
struct Held {
    /// Its cookie; all zero when it has none.
    cookie: Digest,
    /// The version that was looked at last.
    version: u64,
    /// When it was sent that.
    sent: Option<Instant>,
    /// The trust log that it knows: by the head that it has asked with, and then by the one that it was sent last.
    log: Option<Reach>,
}

/// The newest challenges that this server has sent on one way, and when. Whoever repeats one has signed later.
#[derive(Default)]
struct Challenges(VecDeque<([u8; 16], Instant)>);

impl Challenges {
    /// One for each heartbeat, as many as can be under way before the agent is grey.
    const KEPT: usize = 8;

    /// A fresh one, which is sent now.
    fn next(&mut self) -> Bytes {
        let challenge = random();
        self.0.truncate(Self::KEPT - 1);
        self.0.push_front((challenge, Instant::now()));
        Bytes::copy_from_slice(&challenge)
    }

    /// When this one was sent.
    fn sent(&self, challenge: &[u8]) -> Option<Instant> {
        self.0.iter().find(|(sent, _)| sent == challenge).map(|(_, at)| *at)
    }
}

impl Talk {
    /// Begins one; an earlier one of the same agent ends.
    pub(super) fn new(
        ingest: Arc<Ingest>,
        member: Arc<Member>,
        via: Vec<Name>,
        since: u64,
        route: u32,
        outgoing: Outgoing,
        address: SocketAddr,
    ) -> Self {
        let conversation = Conversation::new(member, via, since);
        ingest.registry.begin(&conversation.member.name, &conversation);
        Self {
            ingest,
            conversation,
            route,
            outgoing,
            address,
            taken: None,
            standing: Standing::Unspecified,
            challenges: Challenges::default(),
            serial: 0,
            writing: VecDeque::new(),
            configured: None,
            again: None,
        }
    }

    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let conversation = Arc::clone(&self.conversation);
        // What has changed since the route was opened counts as well.
        conversation.concerned.notify_one();
        let end = loop {
            // In this order: who is cut off hears of that first.
            let step = tokio::select! {
                biased;
                () = conversation.concerned.notified() => self.look_again().await,
                () = conversation.replaced.notified() => Err(End::Refused(Refusal::of(Reason::Replaced))),
                () = conversation.released.notified() => self.broken(None).await,
                Some((mark, outcome)) = written(&mut self.writing) => self.written(mark, outcome).await,
                () = at(self.again) => {
                    self.again = None;
                    self.look_again().await
                }
                message = messages.recv(), if self.writing.len() < WRITING => match message {
                    Some(message) => self.take(message).await,
                    None => Err(End::Quiet),
                },
            };
            if let Err(end) = step {
                break end;
            }
        };
        if let End::Refused(refusal) = end {
            let _ = self.send(Message::own(Kind::Refusal, refusal)).await;
            if self.route != 0 {
                let close = Message { kind: Kind::RouteClose, route: 0, body: Bytes::new() };
                let _ = self.send(close).await;
            }
        }
        self.ingest.registry.end(&conversation.member.name, &conversation);
    }

    fn member(&self) -> &Member {
        &self.conversation.member
    }

    /// What the trust log says, by which the agent may come this way.
    fn view(&self) -> Result<Arc<View>, End> {
        let view = Arc::clone(&self.ingest.store.view().borrow());
        let Conversation { member, via, since, .. } = &*self.conversation;
        stands(&view, member, via, *since).map_err(|told| self.not_known(told))?;
        Ok(view)
    }

    /// Something may be said in the trust log that was not before: whether the agent may still come this way, and what it
    /// is to do.
    async fn look_again(&mut self) -> Result<(), End> {
        let view = self.view()?;
        match self.configured {
            Some(held) if held.version != view.version(&self.member().name) => self.configure(&view, held, false).await,
            _ => Ok(()),
        }
    }

    /// The agent has this configuration, and would like what it has not.
    async fn asked(&mut self, message: &Message) -> Result<(), End> {
        let ask: ConfigurationAsk =
            decode(&message.body).ok_or_else(|| self.senseless("a question that cannot be decoded"))?;
        let view = Arc::clone(&self.ingest.store.view().borrow());
        let cookie = Digest::from_wire(&ask.cookie).unwrap_or_default();
        let sent = self.configured.and_then(|held| held.sent);
        let log = match &ask.head {
            Some(head) => self.ingest.configurations.compare(&view, &self.member().name, head).await,
            None => None,
        };
        self.configure(&view, Held { cookie, version: 0, sent, log }, true).await
    }

    /// Sends the agent's configuration when it is another than the one it has; who has asked is told when it is not.
    async fn configure(&mut self, view: &View, held: Held, asked: bool) -> Result<(), End> {
        let name = self.member().name.clone();
        let Some(due) = self.ingest.configurations.due(view, &name).await else {
            // It is looked at again when something is said about it.
            self.configured = Some(Held { version: view.version(&name), ..held });
            return Ok(());
        };
        self.configured = Some(Held { version: due.version, ..held });
        if due.cookie == held.cookie {
            if !asked {
                return Ok(());
            }
            let held = Held { version: due.version, ..held };
            return self.prove(view, message::Configuration::default(), held).await;
        }
        // It may be under way still; nobody has megabytes sent again and again.
        if asked && held.sent.is_some_and(|sent| sent.elapsed() < AGAIN) {
            return Ok(());
        }
        let (issued, accounts) = match self.ingest.configurations.issue(view, &name, due).await {
            Ok(issued) => issued,
            Err(NotIssued::Passing) => {
                self.configured = Some(Held { version: 0, ..held });
                self.again = Some(Instant::now() + AGAIN);
                return Ok(());
            }
            Err(NotIssued::Lasting) => return Ok(()),
        };
        if !accounts.is_empty() {
            // In line before what the agent will say of it; the conversation does not wait for the database.
            let (store, name) = (self.ingest.store.clone(), name.clone());
            let mut noting = Box::pin(async move { store.sent(name, accounts, now_ms()).await });
            if poll_fn(|context| Poll::Ready(noting.as_mut().poll(context))).await.is_pending() {
                tokio::spawn(noting);
            }
        }
        let sent = Some(Instant::now());
        self.prove(view, issued, Held { cookie: due.cookie, version: due.version, sent, ..held }).await?;
        Ok(())
    }

    /// Sends what there is to say about the agent's configuration, with how far the trust log is. From then on it has this.
    async fn prove(&mut self, view: &View, said: message::Configuration, held: Held) -> Result<(), End> {
        let proven = self.ingest.configurations.proven(view, &self.member().name, held.log.as_ref(), said).await;
        let Some(proven) = proven else { return Ok(()) };
        self.configured = Some(Held { log: Some(view.reach()), ..held });
        self.send(Message::own(Kind::Configuration, proven)).await
    }

    /// The agent has a sealing key, and wants to hear that it was entered.
    fn published(&self, message: &Message) -> Result<(), End> {
        let said: Signed = decode(&message.body).ok_or_else(|| self.forged("it cannot be decoded"))?;
        let (name, to) = (&self.member().name, (self.outgoing.clone(), self.route));
        match self.ingest.published((self.member().role, name), said, to, self.address) {
            Ok(()) => Ok(()),
            Err(refused) => {
                self.ingest.publications.refused(name, self.address, &refused);
                if refused.is_forged() { Err(End::Refused(Refusal::of(Reason::Signature))) } else { Ok(()) }
            }
        }
    }

    fn not_known(&self, (told, reason): Told) -> End {
        let (peer, address) = (format!("agent {}", self.member().name), self.address.to_string());
        journal::emit(Event::UnknownHealthService { peer, address, reason });
        End::Refused(told)
    }

    async fn take(&mut self, message: Message) -> Result<(), End> {
        // Whoever is cut off is told so in a moment, and nothing more is taken from it now.
        self.view()?;
        match message.kind {
            Kind::Position => self.position(&message).await,
            Kind::Heartbeat => self.heartbeat(&message).await,
            Kind::Batch => self.batch(&message).await,
            Kind::ConfigurationAsk => self.asked(&message).await,
            Kind::SealingKey => self.published(&message),
            Kind::Hop => {
                let signed: Option<Signed> = decode(&message.body);
                let measured = signed.ok_or("it cannot be decoded");
                let hop = measured
                    .and_then(|signed| self.ingest.measured(self.member(), Some(&self.conversation.via), &signed));
                hop.map(drop).map_err(|reason| self.forged(reason))
            }
            _ => Err(End::Quiet),
        }
    }

    fn group(&self) -> GroupId {
        self.ingest.group()
    }

    /// Data that the agent did not sign. What is behind the gateway is not believed any more on this route.
    fn forged(&self, reason: &str) -> End {
        journal::emit(Event::ForgedData {
            agent: self.member().name.to_string(),
            address: self.address.to_string(),
            reason: reason.to_owned(),
        });
        End::Refused(Refusal::of(Reason::Signature))
    }

    fn signed_position(&self, message: &Message) -> Result<Position, End> {
        let signed: Signed = decode(&message.body).ok_or_else(|| self.forged("it cannot be decoded"))?;
        self.verified(&signed)
    }

    fn verified(&self, signed: &Signed) -> Result<Position, End> {
        let payload = self.member().identity.open(Context::Position, self.group(), signed);
        let payload = payload.map_err(|_| self.forged("a position with a signature that does not fit"))?;
        let position: Position = decode(payload).ok_or_else(|| self.forged("it cannot be decoded"))?;
        if position.agent != self.member().name.as_str() {
            return Err(self.forged("a position in another's name"));
        }
        Ok(position)
    }

    async fn heartbeat(&mut self, message: &Message) -> Result<(), End> {
        let signed: Signed = decode(&message.body).ok_or_else(|| self.forged("it cannot be decoded"))?;
        // One of earlier says nothing of now, whoever repeats it, and whoever has signed it: that is not worth a look.
        if decode::<Position>(&signed.payload).is_some_and(|claimed| claimed.serial <= self.serial) {
            return Ok(());
        }
        let position = self.verified(&signed)?;
        self.serial = position.serial;
        if let Some(challenged) = self.challenges.sent(&position.challenge) {
            self.heard(&position, challenged);
        }
        // For each its own, counted or not: who has missed one goes on with the next.
        let challenge = self.challenges.next();
        self.send(Message::own(Kind::Challenge, Challenge { challenge })).await
    }

    /// The agent lived after it was challenged then.
    fn heard(&self, position: &Position, challenged: Instant) {
        let epoch = Epoch::from_wire(&position.epoch).filter(|_| self.standing == Standing::Live);
        let stream = epoch.map(|epoch| Stream {
            epoch,
            handed: (position.handed, position.handed_at),
            taken: self.taken.filter(|taken| taken.epoch == epoch).map(|taken| taken.number),
        });
        let interval = Duration::from_millis(position.interval);
        let heartbeat = Heartbeat { way: self.conversation.via.clone(), interval, stream, challenged };
        let now = Instant::now();
        let late = now.duration_since(heartbeat.lived(now));
        let at_ms = self.conversation.heard(late);
        let agent = &self.member().name;
        self.ingest.registry.heartbeat(agent, heartbeat, now);
        self.ingest.store.seen(Heard { agent: agent.clone(), at_ms, late, every: interval });
    }

    /// Compares positions: says where the stream stands here.
    async fn position(&mut self, message: &Message) -> Result<(), End> {
        let position = self.signed_position(message)?;
        let asked = Asked::parse(&position).ok_or_else(|| self.forged("a position that makes no sense"))?;
        // What is being written decides the watermark.
        while let Some((mark, outcome)) = written(&mut self.writing).await {
            self.written(mark, outcome).await?;
        }
        // The agent may come from another server, and know what was appended there. While the database takes nothing it is
        // answered all the same.
        let _ = tokio::time::timeout(FOLLOWED, self.ingest.store.follow()).await;
        let Answered { standing, watermark, common, live } =
            self.compare(&asked).await.map_err(|error| match error {
                store::Error::Stopped => End::Quiet,
                // It comes again; by then the database may be back.
                _ => End::Refused(Refusal::of(Reason::Database)),
            })?;
        self.taken = (standing == Standing::Live).then_some(watermark);
        (self.standing, self.serial) = (standing, position.serial);
        let view = Arc::clone(&self.ingest.store.view().borrow());
        let due = self.ingest.configurations.due(&view, &self.member().name).await;
        let answer = Answer {
            agent: position.agent,
            nonce: position.nonce,
            standing: standing.into(),
            watermark: Point::of(&watermark),
            common: Point::of(&common),
            chain: vec![self.ingest.authorities.borrow().duty.clone()],
            live: live.map(Epoch::to_wire).unwrap_or_default(),
            cookie: due.map(|due| due.cookie.to_wire()).unwrap_or_default(),
            version: view.reach().version,
            challenge: self.challenges.next(),
        };
        let signed = self.ingest.duty.signed(Context::Position, encode(&answer));
        self.send(Message::own(Kind::Answer, signed)).await
    }

    async fn compare(&self, asked: &Asked) -> Result<Answered, store::Error> {
        let answered = self.look(asked).await?;
        // Where the agent can go on nothing is decided: what comes in between is noticed. Where it must open a new epoch,
        // batches that an earlier conversation has left are written first, or they would come behind the decision.
        let mark = (answered.watermark.number, answered.watermark.hash);
        if answered.standing == Standing::Live && asked.points.contains(&mark) {
            return Ok(answered);
        }
        self.ingest.store.settled().await?;
        self.look(asked).await
    }

    async fn look(&self, asked: &Asked) -> Result<Answered, store::Error> {
        let store = &self.ingest.store;
        let agent = self.member().name.clone();
        let epoch = asked.epoch;
        let mut streams = store.streams(agent.clone(), epoch).await?;
        let standing = match (streams.held, streams.known) {
            (true, _) => Standing::Held,
            (false, Some((_, standing))) => standing,
            (false, None) => {
                let open =
                    Open { agent: agent.clone(), epoch, previous: asked.previous, over: asked.over, now_ms: now_ms() };
                let opened = store.open_epoch(open).await?;
                self.say(opened);
                streams = store.streams(agent.clone(), epoch).await?;
                opened.standing()
            }
        };
        let start = Mark::start(epoch);
        let watermark = streams.known.map_or(start, |(mark, _)| mark);
        // The watermark is the newest point that the database can know. Nothing in common: the watermark, which the agent
        // does not know, says so.
        let common = if asked.points.contains(&(watermark.number, watermark.hash)) {
            watermark
        } else {
            store.remembers(agent, epoch, asked.points.clone()).await?.unwrap_or(watermark)
        };
        Ok(Answered { standing, watermark, common, live: streams.live.map(|mark| mark.epoch) })
    }

    fn say(&self, opened: Opened) {
        let agent = self.member().name.to_string();
        match opened {
            Opened::Live { displaced: Some(mark) } => {
                let reason = format!("its stream stood at {} and goes on in a new epoch", mark.number);
                journal::emit(Event::EpochDisplaced { agent, reason });
            }
            Opened::Held => journal::emit(Event::StreamHeld { agent }),
            Opened::Live { displaced: None } | Opened::Known(_) | Opened::Late => {}
        }
    }

    async fn batch(&mut self, message: &Message) -> Result<(), End> {
        // What is under way after a refusal is sent again when positions were compared.
        let Some(taken) = self.taken else { return Ok(()) };
        let (header, body) = self.open_batch(message)?;
        match judge(&taken, &header) {
            Judgement::Next => {}
            Judgement::Repeat => return if self.writing.is_empty() { self.acknowledge(&taken).await } else { Ok(()) },
            Judgement::Broken(reason) => return self.broken(Some(reason)).await,
        }
        let entries = entry::entries(&body, header.raw).map_err(|error| self.senseless(&error.to_string()))?;
        if entries.iter().map(Entry::numbers).fold(0, u64::saturating_add) != header.numbers() {
            return Err(self.senseless("a batch whose entries do not take the numbers that its header says"));
        }
        let commit = Commit {
            agent: self.member().name.clone(),
            from: header.from,
            to: header.to,
            first: header.from.number + 1,
            entries,
            received_at_ms: now_ms(),
        };
        let store = self.ingest.store.clone();
        let mut writing: Writing = Box::pin(async move { store.commit(commit).await });
        // The first poll puts it in line behind the one before.
        let first = poll_fn(|context| Poll::Ready(writing.as_mut().poll(context))).await;
        if let Poll::Ready(outcome) = first {
            writing = Box::pin(std::future::ready(outcome));
        }
        self.writing.push_back((header.to, writing));
        self.taken = Some(header.to);
        Ok(())
    }

    /// A batch that the agent has signed, with its body as it travels.
    fn open_batch(&self, message: &Message) -> Result<(Header, Bytes), End> {
        let batch: Batch = decode(&message.body).ok_or_else(|| self.forged("a batch that cannot be decoded"))?;
        let verified = self.member().identity.verify(Context::Batch, self.group(), &batch.header, &batch.signature);
        verified.map_err(|_| self.forged("a batch with a signature that does not fit"))?;
        let header: BatchHeader = decode(&batch.header).ok_or_else(|| self.forged("a header that is none"))?;
        if header.agent != self.member().name.as_str() {
            return Err(self.forged("a batch in another's name"));
        }
        let parsed = Header::parse(&header, sha256(&[&batch.header]));
        let parsed = parsed.ok_or_else(|| self.senseless("a header that makes no sense"))?;
        if sha256(&[&batch.body]) != parsed.body {
            return Err(self.forged("a body that is not the one that was signed"));
        }
        Ok((parsed, batch.body))
    }

    /// What the agent has signed and yet makes no sense.
    fn senseless(&self, reason: &str) -> End {
        journal::emit(Event::ProtocolViolation {
            peer: format!("agent {}", self.member().name),
            address: self.address.to_string(),
            reason: reason.to_owned(),
        });
        End::Refused(Refusal::of(Reason::Protocol))
    }

    async fn written(&mut self, mark: Mark, outcome: Result<Outcome, store::Error>) -> Result<(), End> {
        match outcome {
            Ok(Outcome::Committed) => {
                let mut upto = mark;
                // One acknowledgement for all that are done.
                while let Some(ready) = ready(&mut self.writing) {
                    match ready {
                        (mark, Ok(Outcome::Committed)) => upto = mark,
                        (mark, other) => {
                            self.acknowledge(&upto).await?;
                            return Box::pin(self.written(mark, other)).await;
                        }
                    }
                }
                self.acknowledge(&upto).await
            }
            Ok(Outcome::Conflict) => self.broken(Some("it does not continue what the database holds")).await,
            Err(store::Error::Stopped) => Err(End::Quiet),
            Err(_) => Err(End::Refused(Refusal::of(Reason::Database))),
        }
    }

    /// The stream does not continue: the agent compares positions anew.
    async fn broken(&mut self, reason: Option<&str>) -> Result<(), End> {
        if let Some(reason) = reason {
            let agent = self.member().name.to_string();
            journal::emit(Event::StreamBroken { agent, reason: reason.to_owned() });
        }
        self.taken = None;
        self.send(Message::own(Kind::Refusal, Refusal::of(Reason::Stream))).await
    }

    async fn acknowledge(&self, upto: &Mark) -> Result<(), End> {
        let ack = Ack {
            agent: self.member().name.to_string(),
            epoch: upto.epoch.to_wire(),
            upto: Point::of(upto),
            key: Bytes::copy_from_slice(&self.ingest.duty.id().0),
        };
        let signed = self.ingest.duty.signed(Context::Ack, encode(&ack));
        self.send(Message::own(Kind::Ack, signed)).await
    }

    async fn send(&self, message: Message) -> Result<(), End> {
        self.outgoing.send(message.on(self.route)).await.map_err(|_| End::Quiet)
    }
}

/// Returns then; never without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// The oldest batch that is being written, when it is.
async fn written(writing: &mut VecDeque<(Mark, Writing)>) -> Option<(Mark, Result<Outcome, store::Error>)> {
    let (mark, oldest) = writing.front_mut()?;
    let (mark, outcome) = (*mark, oldest.await);
    writing.pop_front();
    Some((mark, outcome))
}

/// The oldest batch, if it is written already.
fn ready(writing: &mut VecDeque<(Mark, Writing)>) -> Option<(Mark, Result<Outcome, store::Error>)> {
    let (mark, oldest) = writing.front_mut()?;
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(outcome) = oldest.as_mut().poll(&mut context) else { return None };
    let mark = *mark;
    writing.pop_front();
    Some((mark, outcome))
}
