//! An agent: its queue, which survives a crash, and its conversation, which does not.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::rc::Rc;

use bytes::Bytes;
use wardline_connector::stream::{Answered, Link, Reopening, Tail, Verdict};
use wardline_proto::entry::GapReason;
use wardline_proto::message::{Ack, Answer, Epoch, Mark, Point, Position};

use super::random::{Crash, Random};
use super::wire::{Down, Id, Item, Sealed, Up, numbers};

/// At most so many closed batches wait for acknowledgement.
const WINDOW: usize = 4;
/// At most so many entries in a batch.
const BATCH: usize = 3;

/// What is on disk.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) tail: Tail,
    ready: VecDeque<Rc<Sealed>>,
    open: VecDeque<Item>,
    /// What each number of this epoch stands for, from 1. Only the simulator looks.
    history: Vec<Id>,
    /// The last number that was written when the program started. Not on disk, but known from it at each start.
    started: u64,
}

impl Queue {
    pub(crate) const fn new(epoch: Epoch) -> Self {
        let tail = Tail::new(epoch);
        Self { tail, ready: VecDeque::new(), open: VecDeque::new(), history: Vec::new(), started: 0 }
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.tail.acknowledged.epoch
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.ready.is_empty()
    }

    pub(crate) fn open_ids(&self) -> impl Iterator<Item = Id> {
        self.open.iter().flat_map(Item::ids).copied()
    }

    pub(crate) fn closed_ids(&self) -> impl Iterator<Item = Id> {
        self.ready.iter().flat_map(|batch| batch.ids())
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        self.closed_ids().chain(self.open_ids())
    }

    /// What it holds, and what it could count if a restored server asked for it.
    pub(crate) fn known(&self) -> impl Iterator<Item = Id> {
        self.ids().chain(self.history.iter().copied())
    }

    /// What it was given last.
    pub(crate) fn newest(&self) -> Option<Id> {
        let closed = || self.ready.back().and_then(|batch| batch.items.last());
        self.open.back().or_else(closed).and_then(|item| item.ids().last()).copied()
    }

    /// Closes what is open, while there is room.
    fn close(&mut self) {
        while !self.open.is_empty() && self.tail.closed.len() < WINDOW {
            let items: Vec<Item> = self.open.drain(..BATCH.min(self.open.len())).collect();
            let batch = Sealed::next(&self.tail, items);
            self.history.extend(batch.ids());
            let link = Link { first: batch.header.first, last: batch.header.last, hash: batch.hash };
            self.tail.closed.push_back(link);
            self.ready.push_back(batch);
        }
    }

    fn acknowledge(&mut self, mark: &Mark) {
        if let Some(covered) = self.tail.acknowledge(mark) {
            self.ready.drain(..covered);
        }
    }

    /// Says what a restored server has forgotten, in front of everything that waits.
    fn bridge(&mut self, from: &Mark) {
        let forgotten = self.history.iter().take(to_index(self.tail.acknowledged.number)).skip(to_index(from.number));
        let gap = Item::Gap(GapReason::LostByRestore, forgotten.copied().collect());
        let batch = Sealed::bridge(&self.tail, from, vec![gap]);
        let link = Link { first: batch.header.first, last: batch.header.last, hash: self.tail.acknowledged.hash };
        self.tail.acknowledged = *from;
        self.tail.closed.push_front(link);
        self.ready.push_front(batch);
    }

    /// Goes on in a new epoch.
    fn reopen(&mut self, epoch: Epoch, reopening: &Reopening) {
        let doubtful = reopening.doubtful.min(self.started);
        let mut counted: Vec<Id> = Vec::new();
        let mut items = VecDeque::new();
        let mut keep = |item: Item, in_doubt: bool| match item {
            Item::Fact(id) if in_doubt => counted.push(id),
            item => items.push_back(item),
        };
        for batch in self.ready.iter().skip(reopening.committed) {
            let mut number = batch.header.first;
            for item in &batch.items {
                keep(item.clone(), reopening.uncertain || number <= doubtful);
                number += item.numbers();
            }
        }
        let mut number = self.tail.head().number + 1;
        for item in self.open.drain(..) {
            let numbers = item.numbers();
            keep(item, number <= doubtful);
            number += numbers;
        }
        let acknowledged = to_index(self.tail.acknowledged.number);
        let forgotten = self.history.iter().take(acknowledged).rev().take(to_index(reopening.forgotten)).copied();
        let gaps = [
            Item::Gap(GapReason::QueueRolledBack, counted.into()),
            Item::Gap(GapReason::LostByRestore, forgotten.collect()),
        ];
        gaps.into_iter().filter(|gap| gap.numbers() > 0).for_each(|gap| items.push_front(gap));
        let tail = self.tail.next(epoch, reopening);
        *self = Self { tail, ready: VecDeque::new(), open: items, history: Vec::new(), started: 0 };
    }

    /// Drops the oldest open facts that are too many, and counts them where they were.
    fn shrink(&mut self, budget: usize) {
        while self.open.len() > budget {
            let Some(at) = self.open.iter().position(|item| matches!(item, Item::Fact(_))) else { return };
            let from = if at > 0 && self.is_full_gap(at - 1) { at - 1 } else { at };
            let ids: Rc<[Id]> = self.open.range(from..=at).flat_map(Item::ids).copied().collect();
            self.open.drain(from..=at);
            self.open.insert(from, Item::Gap(GapReason::QueueFull, ids));
            if from == at {
                // The first of a row of drops: it takes as much room as what it stands for.
                return;
            }
        }
    }

    fn is_full_gap(&self, at: usize) -> bool {
        matches!(self.open.get(at), Some(Item::Gap(GapReason::QueueFull, _)))
    }

    /// The rules that hold whatever happened.
    pub(crate) fn is_sound(&self) -> bool {
        let ends = self.tail.closed.iter().map(|link| link.last);
        let starts = self.tail.closed.iter().map(|link| link.first - 1);
        let before = std::iter::once(self.tail.acknowledged.number).chain(ends);
        let follows = before.zip(starts).all(|(end, start)| end == start);
        let counted =
            self.ready.iter().zip(&self.tail.closed).all(|(batch, link)| {
                numbers(&batch.items) == link.last - link.first + 1 && batch.header.last == link.last
            });
        follows && counted && self.ready.len() == self.tail.closed.len()
    }
}

fn to_index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Where a conversation stands.
#[derive(Debug, Default)]
enum State {
    /// There is no way to the database.
    #[default]
    Closed,
    Asking {
        nonce: Bytes,
        epoch: Epoch,
    },
    Delivering,
    Held,
}

/// What ends a conversation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The program was killed.
    Crashed,
    /// Something came that must not: dial anew.
    Parted(&'static str),
}

/// The program.
pub(crate) struct Agent {
    pub(crate) queue: Queue,
    /// Open entries that are kept when there are more.
    budget: usize,
    state: State,
    delivering: bool,
    sent: u64,
    serial: u64,
    /// The server's number in the answer by which it left its last epoch.
    pub(crate) decided: u64,
    /// What it says, to be taken by the session.
    pub(crate) out: Vec<Up>,
    /// Entries that its queue does not hold any more and speaks of in no gap.
    pub(crate) deleted: Vec<Id>,
    /// What its comparisons came to.
    pub(crate) reached: BTreeSet<&'static str>,
}

/// What decides about luck within a step.
pub(crate) struct Luck<'a> {
    pub(crate) random: &'a mut Random,
    /// One durable step in so many is crashed into; 0 is never.
    pub(crate) crash_in: u64,
}

impl Agent {
    pub(crate) const fn new(queue: Queue, budget: usize) -> Self {
        Self {
            queue,
            budget,
            state: State::Closed,
            delivering: false,
            sent: 0,
            serial: 0,
            decided: 0,
            out: Vec::new(),
            deleted: Vec::new(),
            reached: BTreeSet::new(),
        }
    }

    /// The program starts again: what is not on disk is gone.
    pub(crate) fn restart(&mut self) {
        self.part();
        self.serial = 0;
        self.queue.started = self.queue.tail.head().number + numbers(self.queue.open.make_contiguous());
    }

    /// There is no session any more.
    pub(crate) fn part(&mut self) {
        (self.state, self.delivering, self.sent) = (State::Closed, false, 0);
        self.out.clear();
    }

    pub(crate) const fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    /// One transaction: all of it is durable, or nothing.
    fn transact(&mut self, luck: &mut Luck<'_>, change: impl FnOnce(&mut Queue)) -> Result<(), End> {
        let crash = Crash::drawn(luck.random, luck.crash_in);
        if crash == Crash::Before {
            return Err(End::Crashed);
        }
        let mut next = self.queue.clone();
        change(&mut next);
        if self.delivering {
            next.close();
        }
        next.shrink(self.budget);
        if next.tail.acknowledged != self.queue.tail.acknowledged {
            let kept: HashSet<Id> = next.ids().collect();
            self.deleted.extend(self.queue.ids().filter(|id| !kept.contains(id)));
        }
        self.queue = next;
        if crash == Crash::Behind { Err(End::Crashed) } else { Ok(()) }
    }

    /// Keeps these entries.
    pub(crate) fn put(&mut self, luck: &mut Luck<'_>, ids: &[Id]) -> Result<(), End> {
        self.transact(luck, |queue| queue.open.extend(ids.iter().map(|id| Item::Fact(*id))))?;
        self.deliver();
        Ok(())
    }

    /// Takes a message.
    pub(crate) fn take(&mut self, luck: &mut Luck<'_>, message: Down) -> Result<(), End> {
        match message {
            Down::Way(true) | Down::Refusal => self.ask(luck.random),
            Down::Way(false) => self.part(),
            Down::Answer(answer) => self.answer(luck, &answer)?,
            Down::Ack(ack) => self.acknowledge(luck, &ack)?,
            Down::Replaced => return Err(End::Parted("another session has taken its place")),
        }
        Ok(())
    }

    /// A held agent asks again after a while.
    pub(crate) fn ask_again(&mut self, random: &mut Random) {
        if self.is_held() {
            self.ask(random);
        }
    }

    fn ask(&mut self, random: &mut Random) {
        self.delivering = false;
        self.serial += 1;
        let nonce = Bytes::copy_from_slice(&random.bytes());
        let tail = &self.queue.tail;
        let position = Position {
            agent: super::AGENT.into(),
            epoch: tail.acknowledged.epoch.to_wire(),
            previous: tail.previous.map(Epoch::to_wire).unwrap_or_default(),
            over: tail.over.map(Epoch::to_wire).unwrap_or_default(),
            nonce: nonce.clone(),
            acknowledged: Point::of(&tail.acknowledged),
            kept: tail.kept(),
            serial: self.serial,
            ..Position::default()
        };
        self.out.push(Up::Position(Rc::new(position)));
        self.state = State::Asking { nonce, epoch: tail.acknowledged.epoch };
    }

    fn answer(&mut self, luck: &mut Luck<'_>, answer: &Answer) -> Result<(), End> {
        let State::Asking { nonce, epoch } = &self.state else { return Ok(()) };
        if answer.nonce != nonce {
            return Err(End::Parted("it answers another question"));
        }
        let Some(answered) = Answered::parse(answer, *epoch) else {
            return Err(End::Parted("an answer that makes no sense"));
        };
        let verdict = self.queue.tail.compare(&answered);
        self.reached.insert(match verdict {
            Verdict::Continue(_) => "continue",
            Verdict::Bridge { .. } => "bridge",
            Verdict::Reopen(Reopening { uncertain: false, .. }) => "reopen",
            Verdict::Reopen(Reopening { uncertain: true, .. }) => "reopen, uncertain",
            Verdict::Held => "held",
        });
        match verdict {
            Verdict::Held => self.state = State::Held,
            Verdict::Continue(mark) => {
                self.delivering = true;
                self.transact(luck, |queue| queue.acknowledge(&mark))?;
                self.begin(mark.number);
            }
            Verdict::Bridge { from } => {
                self.delivering = true;
                self.transact(luck, |queue| queue.bridge(&from))?;
                self.begin(from.number);
            }
            Verdict::Reopen(reopening) => {
                let epoch = Epoch(luck.random.bytes());
                self.decided = answered.watermark.number;
                self.transact(luck, |queue| queue.reopen(epoch, &reopening))?;
                self.ask(luck.random);
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: u64) {
        self.state = State::Delivering;
        self.sent = number;
        self.deliver();
    }

    fn acknowledge(&mut self, luck: &mut Luck<'_>, ack: &Ack) -> Result<(), End> {
        // Late ones of an earlier comparison say nothing new.
        let State::Delivering = self.state else { return Ok(()) };
        let mark = Epoch::from_wire(&ack.epoch).and_then(|epoch| ack.upto.mark(epoch));
        let Some(mark) = mark else { return Err(End::Parted("an acknowledgement that makes no sense")) };
        if mark.number > self.sent {
            return Err(End::Parted("it acknowledges what was not sent"));
        }
        let known = || self.queue.tail.clone().acknowledge(&mark).is_some();
        if mark.number > self.queue.tail.acknowledged.number && !known() {
            return Err(End::Parted("it is of another chain"));
        }
        self.transact(luck, |queue| queue.acknowledge(&mark))?;
        self.deliver();
        Ok(())
    }

    /// Sends the closed batches that were not sent yet.
    fn deliver(&mut self) {
        if !matches!(self.state, State::Delivering) {
            return;
        }
        for batch in self.queue.ready.iter().filter(|batch| batch.header.last > self.sent) {
            self.out.push(Up::Batch(Rc::clone(batch)));
        }
        self.sent = self.sent.max(self.queue.tail.head().number);
    }
}
