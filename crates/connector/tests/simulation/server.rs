//! The server: a database, one writer that groups what waits into transactions, and one conversation with the agent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use wardline_connector::stream::{Asked, Header, Judgement, judge};
use wardline_proto::message::{Ack, Answer, Digest, Epoch, Mark, Point, Position, Standing};

use super::Flaw;
use super::random::{Crash, Random};
use super::wire::{Down, Item, Sealed, Up};

/// How many batch ends of a stream are remembered: more than a queue may have closed.
const REMEMBERED: usize = 8;
/// So many displacements by queues that did not know of each other, and the agent is held.
const DISPLACEMENTS: u32 = 2;

/// A row, and where it was in its stream.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) epoch: Epoch,
    pub(crate) first: u64,
    pub(crate) item: Item,
}

#[derive(Clone, Debug)]
struct Stream {
    mark: Mark,
    /// Whether it ever was the live one.
    lived: bool,
    remembered: VecDeque<(u64, Digest)>,
}

/// What is on disk.
#[derive(Clone, Default)]
pub(crate) struct Database {
    streams: BTreeMap<Epoch, Stream>,
    live: Option<Epoch>,
    pub(crate) held: bool,
    displacements: u32,
    pub(crate) rows: Vec<Row>,
}

impl Database {
    /// Moves the watermark and writes the rows, or nothing.
    fn commit(&mut self, header: &Header, batch: &Sealed, flaw: Flaw) -> bool {
        let fits = |stream: &Stream| stream.mark == header.from || flaw == Flaw::EverythingFollows;
        let live = !self.held && self.live == Some(header.to.epoch);
        let Some(stream) = self.streams.get_mut(&header.to.epoch).filter(|stream| live && fits(stream)) else {
            return false;
        };
        stream.mark = header.to;
        stream.remembered.push_back((header.to.number, header.to.hash));
        if stream.remembered.len() > REMEMBERED {
            stream.remembered.pop_front();
        }
        let mut first = header.from.number + 1;
        for item in &batch.items {
            self.rows.push(Row { epoch: header.to.epoch, first, item: item.clone() });
            first += item.numbers();
        }
        true
    }

    /// Opens an epoch that is not known.
    fn open(&mut self, epoch: Epoch, previous: Option<Epoch>, over: Option<Epoch>) {
        if self.held || self.streams.contains_key(&epoch) {
            return;
        }
        let stream = Stream { mark: Mark::start(epoch), lived: false, remembered: VecDeque::new() };
        self.streams.insert(epoch, stream);
        if self.live.is_some() && over != self.live {
            return;
        }
        let before = previous.filter(|_| previous != self.live).and_then(|previous| self.streams.get(&previous));
        let foreign = self.live.is_some() && before.is_some_and(|before| before.lived);
        self.displacements += u32::from(foreign);
        self.held = foreign && self.displacements >= DISPLACEMENTS;
        if !self.held {
            self.live = Some(epoch);
            self.streams.entry(epoch).and_modify(|stream| stream.lived = true);
        }
    }

    /// How far an epoch is.
    pub(crate) fn number(&self, epoch: Epoch) -> u64 {
        self.streams.get(&epoch).map_or(0, |stream| stream.mark.number)
    }

    /// An operator lets the agent go on.
    pub(crate) const fn release(&mut self) {
        (self.held, self.displacements) = (false, 0);
    }

    /// Standing, watermark and newest common point of an epoch that is known, or of an agent that is held.
    fn compare(&self, asked: &Asked, flaw: Flaw) -> Option<(Standing, Mark, Mark)> {
        let start = Mark::start(asked.epoch);
        let stream = self.streams.get(&asked.epoch);
        let standing = match (self.held, stream) {
            (true, _) => Standing::Held,
            (false, None) => return None,
            (false, Some(_)) if self.live == Some(asked.epoch) => Standing::Live,
            (false, Some(_)) => Standing::Displaced,
        };
        let Some(stream) = stream else { return Some((standing, start, start)) };
        // What came behind a point that is remembered is remembered too.
        let whole = stream.remembered.len() < REMEMBERED || flaw == Flaw::StartIsRememberedForEver;
        let known = |point: &&(u64, Digest)| {
            stream.remembered.contains(point)
                || **point == (stream.mark.number, stream.mark.hash)
                || (**point == (start.number, start.hash) && whole)
        };
        let common = asked.points.iter().filter(known).max_by_key(|(number, _)| *number);
        // Nothing in common: the agent cannot know the watermark either.
        let common = common.map_or(stream.mark, |&(number, hash)| Mark { epoch: asked.epoch, number, hash });
        Some((standing, stream.mark, common))
    }
}

/// What waits for the writer, and whose it is.
enum Write {
    /// Nothing: it is in line behind everything that is to be written.
    Settle(u64),
    Open(u64, Epoch, Option<Epoch>, Option<Epoch>),
    Commit(u64, Header, Rc<Sealed>),
}

/// What the server knows of a session; gone with it, or with the program.
struct Conversation {
    session: u64,
    inbox: VecDeque<Up>,
    /// Where the stream stands with everything that was taken.
    taken: Option<Mark>,
    writing: usize,
    /// A position that waits for what is being written before it, or for its epoch to be opened.
    asked: Option<Rc<Position>>,
}

/// The program.
pub(crate) struct Server {
    pub(crate) database: Database,
    flaw: Flaw,
    conversation: Option<Conversation>,
    writer: VecDeque<Write>,
    /// What it says, and to which session.
    pub(crate) out: Vec<(u64, Down)>,
    /// What became of batches.
    pub(crate) reached: BTreeSet<&'static str>,
}

/// The program was killed.
#[derive(Debug)]
pub(crate) struct Crashed;

impl Server {
    pub(crate) fn new(flaw: Flaw) -> Self {
        let database = Database::default();
        Self { database, flaw, conversation: None, writer: VecDeque::new(), out: Vec::new(), reached: BTreeSet::new() }
    }

    /// The program starts again: what is not on disk is gone.
    pub(crate) fn restart(&mut self) {
        self.conversation = None;
        self.writer.clear();
        self.out.clear();
    }

    /// A session begins; another of the same agent gives way.
    pub(crate) fn begin(&mut self, session: u64) {
        let inbox = VecDeque::new();
        self.conversation = Some(Conversation { session, inbox, taken: None, writing: 0, asked: None });
        self.out.push((session, Down::Way(true)));
    }

    /// The session is gone. What it left for the writer is written all the same.
    pub(crate) fn end(&mut self, session: u64) {
        self.conversation.take_if(|conversation| conversation.session == session);
    }

    pub(crate) fn receive(&mut self, session: u64, message: Up) {
        if let Some(conversation) = self.conversation.as_mut().filter(|it| it.session == session) {
            conversation.inbox.push_back(message);
            self.work();
        }
    }

    /// Takes what has come, as far as it need not wait for the writer.
    fn work(&mut self) {
        while let Some(mut conversation) = self.conversation.take() {
            let busy = conversation.asked.is_some()
                || (conversation.writing > 0 && matches!(conversation.inbox.front(), Some(Up::Position(_))));
            let next = if busy { None } else { conversation.inbox.pop_front() };
            match &next {
                Some(Up::Position(position)) => self.position(&mut conversation, position, false),
                Some(Up::Batch(batch)) => self.batch(&mut conversation, batch),
                None => {}
            }
            self.conversation = Some(conversation);
            if next.is_none() {
                return;
            }
        }
    }

    /// Answers a position; one that must open a new epoch only behind what an earlier conversation has left to write.
    fn position(&mut self, conversation: &mut Conversation, position: &Rc<Position>, settled: bool) {
        let Some(asked) = Asked::parse(position) else { return };
        let Some((standing, watermark, common)) = self.database.compare(&asked, self.flaw) else {
            self.writer.push_back(Write::Open(conversation.session, asked.epoch, asked.previous, asked.over));
            conversation.asked = Some(Rc::clone(position));
            return;
        };
        let goes_on = standing == Standing::Live && asked.points.contains(&(watermark.number, watermark.hash));
        if !goes_on && !settled {
            self.writer.push_back(Write::Settle(conversation.session));
            conversation.asked = Some(Rc::clone(position));
            return;
        }
        conversation.taken = (standing == Standing::Live).then_some(watermark);
        let answer = Answer {
            agent: position.agent.clone(),
            nonce: position.nonce.clone(),
            standing: standing.into(),
            watermark: Point::of(&watermark),
            common: Point::of(&common),
            chain: Vec::new(),
            live: self.database.live.map(Epoch::to_wire).unwrap_or_default(),
            ..Answer::default()
        };
        self.out.push((conversation.session, Down::Answer(answer)));
    }

    fn batch(&mut self, conversation: &mut Conversation, batch: &Rc<Sealed>) {
        // What is under way after a refusal is sent again when positions were compared.
        let Some(taken) = conversation.taken else { return };
        let Some(header) = Header::parse(&batch.header, batch.hash) else { return };
        let judgement = if self.flaw == Flaw::EverythingFollows { Judgement::Next } else { judge(&taken, &header) };
        self.reached.insert(match judgement {
            Judgement::Next => "next",
            Judgement::Repeat => "repeat",
            Judgement::Broken(reason) => reason,
        });
        match judgement {
            Judgement::Next => {
                if self.flaw == Flaw::AcknowledgedBeforeCommit {
                    self.out.push((conversation.session, ack(&header.to)));
                }
                conversation.taken = Some(header.to);
                conversation.writing += 1;
                self.writer.push_back(Write::Commit(conversation.session, header, Rc::clone(batch)));
            }
            Judgement::Repeat if self.flaw == Flaw::RepeatIsAcknowledgedAsItIs => {
                self.out.push((conversation.session, ack(&header.to)));
            }
            Judgement::Repeat if conversation.writing == 0 => self.out.push((conversation.session, ack(&taken))),
            Judgement::Repeat => {}
            Judgement::Broken(_) => {
                conversation.taken = None;
                self.out.push((conversation.session, Down::Refusal));
            }
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.writer.is_empty()
    }

    /// Writes some of what waits in one transaction; then those who wait hear of it.
    pub(crate) fn write(&mut self, random: &mut Random, crash_in: u64) -> Result<(), Crashed> {
        if self.writer.is_empty() {
            return Ok(());
        }
        let crash = Crash::drawn(random, crash_in);
        if crash == Crash::Before {
            return Err(Crashed);
        }
        let count = 1 + random.index(self.writer.len().min(4));
        let group: Vec<Write> = self.writer.drain(..count).collect();
        let outcomes: Vec<bool> = group.iter().map(|write| self.apply(write)).collect();
        if crash == Crash::Behind {
            return Err(Crashed);
        }
        for (write, committed) in group.iter().zip(outcomes) {
            self.written(write, committed);
        }
        self.work();
        Ok(())
    }

    fn apply(&mut self, write: &Write) -> bool {
        match write {
            Write::Settle(_) => {}
            Write::Open(_, epoch, previous, over) => self.database.open(*epoch, *previous, *over),
            Write::Commit(_, header, batch) => return self.database.commit(header, batch, self.flaw),
        }
        true
    }

    fn written(&mut self, write: &Write, committed: bool) {
        let (Write::Settle(session) | Write::Open(session, ..) | Write::Commit(session, ..)) = write;
        let Some(mut conversation) = self.conversation.take_if(|it| it.session == *session) else { return };
        match write {
            Write::Settle(_) | Write::Open(..) => {
                if let Some(position) = conversation.asked.take() {
                    self.position(&mut conversation, &position, true);
                }
            }
            Write::Commit(_, header, _) => {
                conversation.writing -= 1;
                if committed {
                    self.out.push((*session, ack(&header.to)));
                } else {
                    self.reached.insert("conflict");
                    conversation.taken = None;
                    self.out.push((*session, Down::Refusal));
                }
            }
        }
        self.conversation = Some(conversation);
    }
}

fn ack(upto: &Mark) -> Down {
    Down::Ack(Ack {
        agent: super::AGENT.into(),
        epoch: upto.epoch.to_wire(),
        upto: Point::of(upto),
        key: bytes::Bytes::new(),
    })
}
