//! An agent's durable queue. One thread owns the database and writes; what waits for it goes into one transaction.
//!
//! ```text
//!   Put ----> open rows ----> closed batches ----> (acknowledged) deleted
//!               |  by class      numbered, chained, signed once; bytes kept
//!               v
//!             gap records, when the budget is spent
//! ```
//!
//! While there is a way to the server and its window has room, what is put is closed into batches in the same
//! transaction; otherwise it stays open, where the budget can still choose what to drop. A batch is handed to the
//! session only after the transaction that closed it is durable.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::{mpsc, oneshot, watch};
use wardline_proto::Name;
use wardline_proto::entry::{self, Class, ENTRY_LIMIT, Entry, Gap, GapReason, What};
use wardline_proto::event::Event;
use wardline_proto::message::{Batch, Context, Digest, Epoch, Mark, Point, Position, encode};
use wardline_secrets::signature::{SigningKey, random, sha256};

use crate::outbox::{Outbox, Put};
use crate::stream::{Link, Tail, Verdict};
use crate::{journal, now_ms};

/// A batch is closed at this many bytes before compression.
const BATCH_RAW: usize = 96 * 1024;
/// At most so many closed batches wait for acknowledgement.
const WINDOW: usize = 32;
/// Sources that can wait do so from this many bytes on.
const CROWDED: u64 = 4 * 1024 * 1024;
/// At most so many commands in one transaction.
const GROUP: usize = 64;
/// This program's schema of the queue.
const SCHEMA: i64 = 1;

/// What the queue's thread is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Keep this; answer when it is durable.
    Put(Put, oneshot::Sender<()>),
    /// The server has committed everything up to here.
    Acknowledged(Mark),
    /// Positions were compared.
    Compared(Verdict, oneshot::Sender<()>),
    /// There is no way to the server now.
    Parted,
}

/// How full the queue is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Bytes that wait, open or closed.
    pub bytes: u64,
    /// Whether sources that can wait should.
    pub crowded: bool,
}

/// A closed batch as it travels.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Its place in the chain.
    pub link: Link,
    /// The [`Batch`] message's bytes.
    pub bytes: Bytes,
}

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// SQLite says so.
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    /// The file.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// A newer program has written it.
    #[error("it has schema {0}, this program knows schemas up to {SCHEMA}")]
    Newer(i64),
    /// Rows that this program does not write.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// What the session sees of the queue: the tail of the stream, and the batches to send.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Mutex<Shared>>,
    commands: mpsc::Sender<Command>,
    changed: watch::Receiver<Load>,
    agent: Name,
    key: Arc<SigningKey>,
}

#[derive(Debug)]
struct Shared {
    tail: Tail,
    ready: VecDeque<Ready>,
    written: u64,
    handed: (u64, u64),
    serial: u64,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing panics while it is held.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// Opens the queue of a group, which is made when it is missing, and starts its thread.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(
        path: &Path,
        agent: Name,
        group: Name,
        key: Arc<SigningKey>,
        budget: u64,
    ) -> Result<(Self, Outbox, std::thread::JoinHandle<()>), QueueError> {
        let mut store = Disk::open(path)?;
        let (tail, ready) = store.load()?;
        let memory = Arc::new(store.memory()?);
        let (open_bytes, written) = store.open_rows(&tail)?;
        let closed_bytes = ready.iter().map(|batch| batch.bytes.len() as u64).sum();
        let shared = Shared { tail: tail.clone(), ready, written, handed: (0, 0), serial: 0 };
        let shared = Arc::new(Mutex::new(shared));
        let (commands, inbox) = mpsc::channel(1024);
        let (load, changed) = watch::channel(Load::default());
        let thread = Writer {
            store,
            shared: Arc::clone(&shared),
            tail,
            sealer: Sealer { agent: agent.clone(), group, key: Arc::clone(&key) },
            budget,
            delivering: false,
            open_bytes,
            closed_bytes,
            written,
            load,
        };
        let handle = std::thread::Builder::new().name("queue".into()).spawn(move || thread.run(inbox))?;
        let outbox = Outbox { commands: commands.clone(), load: changed.clone(), memory };
        Ok((Self { shared, commands, changed, agent, key }, outbox, handle))
    }

    /// The closed batches behind a number, oldest first.
    pub fn behind(&self, number: u64) -> Vec<Ready> {
        let shared = lock(&self.shared);
        let from = shared.ready.partition_point(|batch| batch.link.last <= number);
        shared.ready.iter().skip(from).cloned().collect()
    }

    /// Notes that everything up to a number was handed to the session.
    pub fn handed(&self, number: u64) {
        let mut shared = lock(&self.shared);
        shared.handed = (number.max(shared.handed.0), now_ms());
    }

    /// The epoch that is written.
    pub fn epoch(&self) -> Epoch {
        lock(&self.shared).tail.acknowledged.epoch
    }

    /// What was acknowledged.
    pub fn acknowledged(&self) -> Mark {
        lock(&self.shared).tail.acknowledged
    }

    /// Compares with a server's answer; see [`Tail::compare`].
    pub fn compare(&self, standing: wardline_proto::message::Standing, watermark: &Mark, common: &Mark) -> Verdict {
        lock(&self.shared).tail.compare(standing, watermark, common)
    }

    /// Whether an acknowledgement is of this chain.
    pub fn knows(&self, mark: &Mark) -> bool {
        lock(&self.shared).tail.clone().acknowledge(mark).is_some()
    }

    /// The signed position of the stream. With a nonce it asks for an answer.
    pub fn position(&self, nonce: Bytes, interval: Duration) -> wardline_proto::message::Signed {
        let mut shared = lock(&self.shared);
        shared.serial += 1;
        let tail = &shared.tail;
        let position = Position {
            agent: self.agent.to_string(),
            epoch: tail.acknowledged.epoch.to_wire(),
            previous: tail.previous.map(Epoch::to_wire).unwrap_or_default(),
            kept: if nonce.is_empty() { Vec::new() } else { tail.kept() },
            nonce,
            acknowledged: Point::of(&tail.acknowledged),
            written: shared.written,
            handed: shared.handed.0,
            handed_at: shared.handed.1,
            interval: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            serial: shared.serial,
        };
        drop(shared);
        self.key.signed(Context::Position, encode(&position))
    }

    /// Waits until something was closed or acknowledged.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            // The thread has ended; the program is stopping.
            std::future::pending::<()>().await;
        }
    }

    /// Tells the thread what the server has committed.
    pub async fn acknowledge(&self, mark: Mark) {
        let _ = self.commands.send(Command::Acknowledged(mark)).await;
    }

    /// Tells the thread the outcome of a comparison; returns when it is durable.
    pub async fn compared(&self, verdict: Verdict) {
        let (done, kept) = oneshot::channel();
        let _ = self.commands.send(Command::Compared(verdict, done)).await;
        let _ = kept.await;
    }

    /// Tells the thread that there is no way to the server now.
    pub async fn parted(&self) {
        let _ = self.commands.send(Command::Parted).await;
    }
}

/// Entries of one class that follow each other, encoded.
struct Run {
    class: Class,
    numbers: u64,
    body: Vec<u8>,
}

/// The runs of a list of entries. An entry that is larger than any may be is left out and counted in a gap.
fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        let oversized;
        let entry = if prost::Message::encoded_len(entry) > ENTRY_LIMIT {
            let mut gap = Gap { reason: GapReason::QueueFull.into(), from: entry.at, to: entry.at, ..Gap::default() };
            gap.add(entry.class(), 1);
            oversized = Entry { at: entry.at, what: Some(What::Gap(gap)) };
            &oversized
        } else {
            entry
        };
        let class = entry.class();
        match runs.last_mut() {
            Some(run) if run.class == class && class != Class::Gap && run.body.len() < BATCH_RAW / 2 => {
                run.numbers += entry.numbers();
                entry::append(entry, &mut run.body);
            }
            _ => {
                let mut body = Vec::with_capacity(1024);
                entry::append(entry, &mut body);
                runs.push(Run { class, numbers: entry.numbers(), body });
            }
        }
    }
    runs
}

/// The thread that owns the database.
struct Writer {
    store: Disk,
    shared: Arc<Mutex<Shared>>,
    tail: Tail,
    sealer: Sealer,
    budget: u64,
    delivering: bool,
    open_bytes: u64,
    closed_bytes: u64,
    written: u64,
    load: watch::Sender<Load>,
}

/// Who speaks, and the key that signs it.
struct Sealer {
    agent: Name,
    group: Name,
    key: Arc<SigningKey>,
}

/// What a transaction did, for memory to follow once it is durable.
struct Step {
    tail: Tail,
    closed: Vec<Ready>,
    replaced: bool,
    open_bytes: u64,
    written: u64,
    dropped: u64,
    delivering: bool,
    event: Option<Event>,
}

impl Writer {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        self.publish();
        let mut group = Vec::new();
        loop {
            group.clear();
            // While there is something to close and room for it, do not wait for the next command.
            if self.can_close() && self.open_bytes > 0 {
                while let (true, Ok(command)) = (group.len() < GROUP, inbox.try_recv()) {
                    group.push(command);
                }
            } else if inbox.blocking_recv_many(&mut group, GROUP) == 0 {
                return;
            }
            self.commit(&mut group);
        }
    }

    fn can_close(&self) -> bool {
        self.delivering && self.tail.closed.len() < WINDOW
    }

    /// Writes what a group of commands asks for in one transaction, trying again until the disk takes it.
    fn commit(&mut self, group: &mut Vec<Command>) {
        let mut said = false;
        let mut broken = false;
        let mut pause = Duration::from_millis(50);
        let step = loop {
            // A failed write or fsync proves nothing about the next: the connection is made anew before another try.
            let result = if broken { self.store.reopen() } else { Ok(()) };
            let error = match result.and_then(|()| self.transaction(group)) {
                Ok(step) => break step,
                Err(error) => error,
            };
            if !said {
                journal::emit(Event::DatabaseBusy { reason: format!("queue of {}: {error}", self.sealer.group) });
                said = true;
            }
            broken = broken || !is_busy(&error);
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        };
        let Step { tail, closed, replaced, open_bytes, written, dropped, delivering, event } = step;
        if let Some(event) = event {
            journal::emit(event);
        }
        if dropped > 0 {
            journal::emit(Event::QueueFull {
                group: self.sealer.group.to_string(),
                dropped: dropped.to_string(),
                budget: format!("{} bytes", self.budget),
            });
        }
        (self.tail, self.open_bytes, self.written, self.delivering) = (tail, open_bytes, written, delivering);
        {
            let mut shared = lock(&self.shared);
            if replaced {
                shared.ready.clear();
                shared.handed = (0, 0);
            }
            let gone = shared.ready.partition_point(|batch| batch.link.last <= self.tail.acknowledged.number);
            shared.ready.drain(..gone);
            shared.ready.extend(closed);
            shared.tail.clone_from(&self.tail);
            shared.written = written;
            self.closed_bytes = shared.ready.iter().map(|batch| batch.bytes.len() as u64).sum();
        }
        self.publish();
        for command in group.drain(..) {
            if let Command::Put(_, done) | Command::Compared(_, done) = command {
                let _ = done.send(());
            }
        }
    }

    fn publish(&self) {
        let bytes = self.open_bytes + self.closed_bytes;
        let crowded = bytes >= CROWDED.min(self.budget / 2) || self.tail.closed.len() >= WINDOW;
        self.load.send_replace(Load { bytes, crowded });
    }

    fn transaction(&mut self, group: &[Command]) -> rusqlite::Result<Step> {
        let tx = self.store.connection.transaction()?;
        let mut step = Step {
            tail: self.tail.clone(),
            closed: Vec::new(),
            replaced: false,
            open_bytes: self.open_bytes,
            written: self.written,
            dropped: 0,
            delivering: self.delivering,
            event: None,
        };
        let mut fresh: Vec<Run> = Vec::new();
        for command in group {
            match command {
                Command::Put(put, _) => {
                    fresh.extend(runs(&put.entries));
                    for (key, value) in &put.memory {
                        match value {
                            Some(value) => tx
                                .prepare_cached("INSERT OR REPLACE INTO memory (key, value) VALUES (?, ?)")?
                                .execute(params![key, value.as_ref()])?,
                            None => tx.prepare_cached("DELETE FROM memory WHERE key = ?")?.execute([key])?,
                        };
                    }
                }
                Command::Acknowledged(mark) => acknowledge(&tx, &mut step, mark)?,
                Command::Parted => step.delivering = false,
                Command::Compared(verdict, _) => {
                    self.sealer.compared(&tx, &mut step, verdict)?;
                }
            }
        }
        // What is fresh goes straight into batches when nothing older waits, otherwise behind what waits.
        let mut closing =
            Closing { sealer: &self.sealer, step: &mut step, raw: Vec::with_capacity(BATCH_RAW + 4096), numbers: 0 };
        if closing.step.open_bytes > 0 {
            for run in fresh.drain(..) {
                closing.keep(&tx, &run)?;
            }
            closing.close_open(&tx)?;
        } else {
            let mut fresh = fresh.into_iter();
            for run in fresh.by_ref() {
                if !closing.room() {
                    closing.keep(&tx, &run)?;
                    break;
                }
                closing.step.written += run.numbers;
                closing.take(&tx, &run.body, run.numbers)?;
            }
            closing.flush(&tx)?;
            for run in fresh {
                closing.keep(&tx, &run)?;
            }
        }
        let closed: u64 = step.closed.iter().map(|batch| batch.bytes.len() as u64).sum();
        let kept = if step.replaced { 0 } else { self.closed_bytes };
        let over = (step.open_bytes + closed + kept).saturating_sub(self.budget);
        if over > 0 {
            drop_some(&tx, &mut step, over)?;
        }
        tx.commit()?;
        Ok(step)
    }
}

impl Sealer {
    /// Acts on a comparison.
    fn compared(&self, tx: &Connection, step: &mut Step, verdict: &Verdict) -> rusqlite::Result<()> {
        match verdict {
            Verdict::Held => step.delivering = false,
            Verdict::Continue(mark) => {
                acknowledge(tx, step, mark)?;
                step.delivering = true;
            }
            Verdict::Bridge { from } => {
                let count = step.tail.acknowledged.number - from.number;
                let gap = Gap { reason: GapReason::LostByRestore.into(), unknown: count, ..Gap::default() };
                let mut raw = Vec::new();
                entry::append(&Entry { at: now_ms(), what: Some(What::Gap(gap)) }, &mut raw);
                let body = entry::compress(&raw);
                let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
                let header = step.tail.bridge_header(self.agent.as_str(), from, sha256(&[&body]), length);
                let (first, last) = (header.first, header.last);
                let header = encode(&header);
                let signature = self.key.sign(Context::Batch, &header);
                let bytes = encode(&Batch { header, signature, body: body.into() });
                let to = step.tail.acknowledged;
                step.event = Some(Event::WatermarkBehind {
                    group: self.group.to_string(),
                    from: from.number.to_string(),
                    to: to.number.to_string(),
                });
                // The bridge goes in front of everything that waits; the chain behind it stays as it is.
                step.tail.acknowledged = *from;
                let link = Link { first, last, hash: to.hash };
                step.tail.closed.push_front(link);
                tx.prepare_cached("INSERT OR REPLACE INTO batch (last, first, hash, bytes) VALUES (?, ?, ?, ?)")?
                    .execute(params![to_sql(last), to_sql(first), to.hash.0.as_slice(), bytes.as_ref()])?;
                save_tail(tx, &step.tail)?;
                step.closed = load_batches(tx)?;
                step.replaced = true;
                step.delivering = true;
            }
            Verdict::Reopen { committed, uncertain, reason } => {
                Self::reopen(tx, step, *committed, *uncertain)?;
                step.event = Some(Event::EpochOpened { group: self.group.to_string(), reason: (*reason).to_owned() });
            }
        }
        Ok(())
    }

    /// Goes on in a new epoch: what the server has is dropped, what it may have is counted, everything else is open
    /// again, numbered anew.
    fn reopen(tx: &Connection, step: &mut Step, committed: usize, uncertain: bool) -> rusqlite::Result<()> {
        let batches: Vec<Ready> = load_batches(tx)?.into_iter().skip(committed).collect();
        let open: Vec<(u8, u64, Vec<u8>)> = tx
            .prepare("SELECT class, numbers, body FROM open ORDER BY first")?
            .query_map([], |row| Ok((row.get(0)?, from_sql(row.get(1)?), row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut rows: Vec<(u8, u64, Vec<u8>)> = Vec::new();
        if uncertain {
            let unknown = batches.iter().map(|batch| batch.link.last - batch.link.first + 1).sum();
            let gap = Gap { reason: GapReason::QueueRolledBack.into(), unknown, ..Gap::default() };
            if unknown > 0 {
                let mut body = Vec::new();
                entry::append(&Entry { at: now_ms(), what: Some(What::Gap(gap)) }, &mut body);
                rows.push((Class::Gap as u8, unknown, body));
            }
        } else {
            for batch in &batches {
                for run in runs(&batch_entries(&batch.bytes)) {
                    rows.push((run.class as u8, run.numbers, run.body));
                }
            }
        }
        rows.extend(open);
        tx.execute("DELETE FROM batch", [])?;
        tx.execute("DELETE FROM open", [])?;
        let epoch = Epoch(random());
        step.tail = Tail::new(epoch, Some(step.tail.acknowledged.epoch));
        (step.written, step.open_bytes) = (0, 0);
        for (class, numbers, body) in rows {
            insert_open(tx, step.written + 1, class, numbers, &body)?;
            step.written += numbers;
            step.open_bytes += body.len() as u64;
        }
        save_tail(tx, &step.tail)?;
        (step.closed, step.replaced, step.delivering) = (Vec::new(), true, false);
        Ok(())
    }
}

/// Makes batches within a transaction.
struct Closing<'a> {
    sealer: &'a Sealer,
    step: &'a mut Step,
    raw: Vec<u8>,
    numbers: u64,
}

impl Closing<'_> {
    fn room(&self) -> bool {
        self.step.delivering && self.step.tail.closed.len() < WINDOW
    }

    /// Keeps a run open.
    fn keep(&mut self, tx: &Connection, run: &Run) -> rusqlite::Result<()> {
        insert_open(tx, self.step.written + 1, run.class as u8, run.numbers, &run.body)?;
        self.step.written += run.numbers;
        self.step.open_bytes += run.body.len() as u64;
        Ok(())
    }

    /// Takes a run into the batch that is being made.
    fn take(&mut self, tx: &Connection, body: &[u8], numbers: u64) -> rusqlite::Result<()> {
        if !self.raw.is_empty() && self.raw.len() + body.len() > BATCH_RAW {
            self.flush(tx)?;
        }
        self.raw.extend_from_slice(body);
        self.numbers += numbers;
        Ok(())
    }

    /// Closes what is open, oldest first, while there is room.
    fn close_open(&mut self, tx: &Connection) -> rusqlite::Result<()> {
        while self.room() {
            let rows: Vec<(i64, u64, Vec<u8>)> = tx
                .prepare_cached("SELECT first, numbers, body FROM open ORDER BY first LIMIT 64")?
                .query_map([], |row| Ok((row.get(0)?, from_sql(row.get(1)?), row.get(2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            if rows.is_empty() {
                break;
            }
            for (first, numbers, body) in rows {
                if !self.room() {
                    break;
                }
                tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([first])?;
                self.step.open_bytes = self.step.open_bytes.saturating_sub(body.len() as u64);
                self.take(tx, &body, numbers)?;
            }
            self.flush(tx)?;
        }
        Ok(())
    }

    /// Closes the batch that is being made: numbers, chains and signs it, once.
    fn flush(&mut self, tx: &Connection) -> rusqlite::Result<()> {
        if self.numbers == 0 {
            return Ok(());
        }
        let body = entry::compress(&self.raw);
        let raw = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        let agent = self.sealer.agent.as_str();
        let header = self.step.tail.next_header(agent, self.numbers, sha256(&[&body]), raw);
        let (first, last) = (header.first, header.last);
        let header = encode(&header);
        let hash = sha256(&[&header]);
        let signature = self.sealer.key.sign(Context::Batch, &header);
        let bytes = encode(&Batch { header, signature, body: body.into() });
        let link = Link { first, last, hash };
        tx.prepare_cached("INSERT INTO batch (last, first, hash, bytes) VALUES (?, ?, ?, ?)")?.execute(params![
            to_sql(last),
            to_sql(first),
            hash.0.as_slice(),
            bytes.as_ref()
        ])?;
        self.step.tail.closed.push_back(link);
        self.step.closed.push(Ready { link, bytes });
        self.raw.clear();
        self.numbers = 0;
        Ok(())
    }
}

/// Removes what was acknowledged.
fn acknowledge(tx: &Connection, step: &mut Step, mark: &Mark) -> rusqlite::Result<()> {
    if step.tail.acknowledge(mark).is_some_and(|covered| covered > 0) {
        tx.prepare_cached("DELETE FROM batch WHERE last <= ?")?.execute([to_sql(mark.number)])?;
        save_tail(tx, &step.tail)?;
    }
    Ok(())
}

/// Drops open entries until `over` bytes are gone: the lowest class first, the oldest first, counted where they were.
fn drop_some(tx: &Connection, step: &mut Step, over: u64) -> rusqlite::Result<()> {
    let mut gone = 0;
    while gone < over {
        let lowest = tx
            .prepare_cached(
                "SELECT first, class, numbers, body FROM open WHERE class < ? ORDER BY class, first LIMIT 1",
            )?
            .query_row([Class::Gap as u8], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, u8>(1)?, from_sql(row.get(2)?), row.get::<_, Vec<u8>>(3)?))
            })
            .optional()?;
        // Everything that may be dropped has been.
        let Some((first, class, numbers, body)) = lowest else { break };
        let times = plain_entries(&body);
        let at = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.at);
        let mut gap = Gap {
            reason: GapReason::QueueFull.into(),
            from: at(times.first()),
            to: at(times.last()),
            ..Gap::default()
        };
        gap.add(Class::from_number(class).unwrap_or(Class::Gap), numbers);
        let mut start = first;
        let before = tx
            .prepare_cached("SELECT first, body FROM open WHERE first < ? ORDER BY first DESC LIMIT 1")?
            .query_row([first], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .optional()?;
        gone += body.len() as u64;
        // Neighbouring gaps of one kind become one, so that a long outage leaves few.
        if let Some((neighbour, bytes)) = before
            && let [Entry { what: Some(What::Gap(older)), .. }] = plain_entries(&bytes).as_slice()
            && older.reason == gap.reason
        {
            gap.performance += older.performance;
            gap.events += older.events;
            gap.states += older.states;
            gap.alerts += older.alerts;
            gap.unknown += older.unknown;
            gap.from = older.from;
            start = neighbour;
            gone += bytes.len() as u64;
            tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([neighbour])?;
        }
        tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([first])?;
        let count = gap.count();
        let mut replacement = Vec::new();
        entry::append(&Entry { at: gap.from, what: Some(What::Gap(gap)) }, &mut replacement);
        gone = gone.saturating_sub(replacement.len() as u64);
        insert_open(tx, from_sql(start), Class::Gap as u8, count, &replacement)?;
        step.dropped += numbers;
    }
    step.open_bytes = step.open_bytes.saturating_sub(gone);
    Ok(())
}

fn insert_open(tx: &Connection, first: u64, class: u8, numbers: u64, body: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO open (first, class, numbers, body) VALUES (?, ?, ?, ?)")?.execute(params![
        to_sql(first),
        class,
        to_sql(numbers),
        body
    ])?;
    Ok(())
}

fn save_tail(tx: &Connection, tail: &Tail) -> rusqlite::Result<()> {
    let mark = tail.acknowledged;
    tx.prepare_cached("INSERT OR REPLACE INTO stream (id, epoch, previous, number, hash) VALUES (0, ?, ?, ?, ?)")?
        .execute(params![
            mark.epoch.0.as_slice(),
            tail.previous.as_ref().map(|epoch| epoch.0.as_slice()),
            to_sql(mark.number),
            mark.hash.0.as_slice()
        ])?;
    Ok(())
}

fn load_batches(connection: &Connection) -> rusqlite::Result<Vec<Ready>> {
    connection
        .prepare("SELECT first, last, hash, bytes FROM batch ORDER BY last")?
        .query_map([], |row| {
            let hash = Digest::from_wire(&row.get::<_, Vec<u8>>(2)?).unwrap_or_default();
            let link = Link { first: from_sql(row.get(0)?), last: from_sql(row.get(1)?), hash };
            Ok(Ready { link, bytes: row.get::<_, Vec<u8>>(3)?.into() })
        })?
        .collect()
}

/// The entries of a body that is not compressed.
fn plain_entries(raw: &[u8]) -> Vec<Entry> {
    entry::entries(&entry::compress(raw), u32::try_from(raw.len()).unwrap_or(u32::MAX)).unwrap_or_default()
}

/// The entries of a batch of our own.
fn batch_entries(bytes: &Bytes) -> Vec<Entry> {
    use wardline_proto::message::{BatchHeader, decode};
    let Some(batch) = decode::<Batch>(bytes) else { return Vec::new() };
    let raw = decode::<BatchHeader>(&batch.header).map_or(0, |header| header.raw);
    entry::entries(&batch.body, raw).unwrap_or_default()
}

fn is_busy(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(error.sqlite_error_code(), Some(DatabaseBusy | DatabaseLocked))
}

/// SQLite's integers have a sign; numbers stay far below it.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The database file.
struct Disk {
    path: std::path::PathBuf,
    connection: Connection,
}

impl Disk {
    fn open(path: &Path) -> Result<Self, QueueError> {
        // SQLite would make it with the umask's mode.
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let connection = Self::connect(path)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > SCHEMA {
            return Err(QueueError::Newer(found));
        }
        if found < SCHEMA {
            connection.execute_batch(&format!(
                "BEGIN;
                 CREATE TABLE stream (
                     id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL, previous BLOB,
                     number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
                 CREATE TABLE batch (
                     last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash BLOB NOT NULL, bytes BLOB NOT NULL) STRICT;
                 CREATE TABLE open (
                     first INTEGER PRIMARY KEY, class INTEGER NOT NULL, numbers INTEGER NOT NULL,
                     body BLOB NOT NULL) STRICT;
                 CREATE INDEX open_class ON open (class, first);
                 CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
                 PRAGMA user_version = {SCHEMA};
                 COMMIT;"
            ))?;
            save_tail(&connection, &Tail::new(Epoch(random()), None))?;
        }
        Ok(Self { path: path.to_owned(), connection })
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledgement or a sent batch must outlive a power cut: FULL syncs the log at every commit.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.connection = Self::connect(&self.path)?;
        // What a failed fsync left in the log is written again, or the next commit fails too.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn load(&mut self) -> Result<(Tail, VecDeque<Ready>), QueueError> {
        let row = self
            .connection
            .query_row("SELECT epoch, previous, number, hash FROM stream", [], |row| {
                Ok((
                    row.get::<_, Vec<u8>>(0)?,
                    row.get::<_, Option<Vec<u8>>>(1)?,
                    from_sql(row.get(2)?),
                    row.get::<_, Vec<u8>>(3)?,
                ))
            })
            .optional()?
            .ok_or(QueueError::Damaged("it has no stream"))?;
        let (epoch, previous, number, hash) = row;
        let damaged = QueueError::Damaged;
        let epoch = Epoch::from_wire(&epoch).ok_or(damaged("its epoch has a wrong length"))?;
        let hash = Digest::from_wire(&hash).ok_or(damaged("its hash has a wrong length"))?;
        let previous = previous.and_then(|previous| Epoch::from_wire(&previous));
        let ready: VecDeque<Ready> = load_batches(&self.connection)?.into();
        let acknowledged = Mark { epoch, number, hash };
        let closed = ready.iter().map(|batch| batch.link).collect();
        Ok((Tail { acknowledged, previous, closed }, ready))
    }

    fn memory(&self) -> rusqlite::Result<HashMap<String, Bytes>> {
        self.connection
            .prepare("SELECT key, value FROM memory")?
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?.into())))?
            .collect()
    }

    /// Bytes of the open rows, and the last number written.
    fn open_rows(&self, tail: &Tail) -> rusqlite::Result<(u64, u64)> {
        self.connection.query_row(
            "SELECT coalesce(sum(length(body)), 0), coalesce(max(first + numbers - 1), ?) FROM open",
            [to_sql(tail.head().number)],
            |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))),
        )
    }
}
