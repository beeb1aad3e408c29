//! What a transaction does to the queue: entries become runs, runs become batches, positions are acted on, and what the
//! budget does not hold is dropped and counted.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{OptionalExtension as _, Row};
use wardline_proto::Name;
use wardline_proto::entry::{self, Class, ENTRY_LIMIT, Entry, Gap, GapReason, What};
use wardline_proto::event::Event;
use wardline_proto::message::{Batch, BatchHeader, Context, Epoch, Mark, decode, encode};
use wardline_secrets::protect::RowKey;
use wardline_secrets::signature::{SigningKey, random, sha256};

use super::disk::{Place, Tx, from_sql, insert_batch, insert_open, load_batches, save_tail, to_sql};
use super::{BATCH_RAW, Ready, WINDOW};
use crate::now_ms;
use crate::stream::{Link, Reopening, Tail, Verdict};

/// Where the queue stands. What of it is on disk follows from there at each start.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The end of the stream.
    pub(super) tail: Tail,
    /// Bytes of the open rows, as they are on disk.
    pub(super) open_bytes: u64,
    /// The last number of this epoch.
    pub(super) written: u64,
    /// The last number of this epoch that was written when the program started.
    pub(super) started: u64,
    /// Whether positions agree, so that batches can be closed.
    pub(super) delivering: bool,
}

impl State {
    /// The epoch that is written.
    pub(super) const fn epoch(&self) -> Epoch {
        self.tail.acknowledged.epoch
    }
}

/// What a transaction did, for memory to follow once it is durable.
pub(super) struct Step {
    pub(super) state: State,
    /// Batches that were closed.
    pub(super) closed: Vec<Ready>,
    /// Whether they stand for all batches, in place of those before.
    pub(super) replaced: bool,
    /// Entries that were dropped.
    pub(super) dropped: u64,
    pub(super) events: Vec<Event>,
}

/// Who speaks, and the key that signs it.
pub(super) struct Sealer {
    pub(super) agent: Name,
    pub(super) group: Name,
    pub(super) key: Arc<SigningKey>,
}

/// Entries of one class that follow each other, encoded.
pub(super) struct Run {
    pub(super) class: Class,
    pub(super) numbers: u64,
    pub(super) body: Vec<u8>,
}

/// The runs of a list of entries. An entry that is larger than any may be is left out and counted in a gap.
pub(super) fn runs(entries: &[Entry]) -> Vec<Run> {
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

impl Sealer {
    /// Acts on a comparison.
    pub(super) fn compared(&self, tx: &Tx<'_>, step: &mut Step, verdict: &Verdict) -> rusqlite::Result<()> {
        match verdict {
            Verdict::Held => step.state.delivering = false,
            Verdict::Continue(mark) => {
                acknowledge(tx, step, mark)?;
                step.state.delivering = true;
            }
            Verdict::Bridge { from } => {
                let count = step.state.tail.acknowledged.number - from.number;
                let gap = Gap { reason: GapReason::LostByRestore.into(), unknown: count, ..Gap::default() };
                let mut raw = Vec::new();
                entry::append(&Entry { at: now_ms(), what: Some(What::Gap(gap)) }, &mut raw);
                let body = entry::compress(&raw);
                let length = u32::try_from(raw.len()).unwrap_or(u32::MAX);
                let header = step.state.tail.bridge_header(self.agent.as_str(), from, sha256(&[&body]), length);
                let (first, last) = (header.first, header.last);
                let header = encode(&header);
                let signature = self.key.sign(Context::Batch, &header);
                let bytes = encode(&Batch { header, signature, body: body.into() });
                let to = step.state.tail.acknowledged;
                step.events.push(Event::WatermarkBehind {
                    group: self.group.to_string(),
                    from: from.number.to_string(),
                    to: to.number.to_string(),
                });
                // The bridge goes in front of everything that waits; the chain behind it stays as it is.
                step.state.tail.acknowledged = *from;
                let link = Link { first, last, hash: to.hash };
                step.state.tail.closed.push_front(link);
                insert_batch(tx, to.epoch, link, &bytes)?;
                save_tail(tx, &step.state.tail)?;
                step.closed = load_batches(tx, to.epoch)?;
                step.replaced = true;
                step.state.delivering = true;
            }
            Verdict::Reopen(reopening) => {
                reopen(tx, step, reopening, &self.group)?;
                let reason = reopening.reason.to_owned();
                step.events.push(Event::EpochOpened { group: self.group.to_string(), reason });
            }
        }
        Ok(())
    }
}

/// Goes on in a new epoch: what the server has is left out, what it may have or has lost is counted, everything else is
/// open again, numbered anew. Alerts are told again even so: the server knows each by its id.
fn reopen(tx: &Tx<'_>, step: &mut Step, reopening: &Reopening, group: &Name) -> rusqlite::Result<()> {
    let doubtful = reopening.doubtful.min(step.state.started);
    let mut rows: Vec<Run> = Vec::new();
    let mut counted = Gap { reason: GapReason::QueueRolledBack.into(), ..Gap::default() };
    let mut keep = |run: Run, in_doubt: bool| match run.class {
        Class::Performance | Class::Event | Class::State if in_doubt => counted.add(run.class, run.numbers),
        _ => rows.push(run),
    };
    let mut damaged = Gap { reason: GapReason::Damaged.into(), ..Gap::default() };
    let epoch = step.state.epoch();
    for batch in load_batches(tx, epoch)?.iter().skip(reopening.committed) {
        if batch.is_damaged() {
            // What it says of itself may be what was damaged.
            let numbers = batch.link.last.saturating_sub(batch.link.first).saturating_add(1);
            damaged.unknown = damaged.unknown.saturating_add(numbers);
            continue;
        }
        let entries = batch_entries(&batch.bytes);
        let numbers = entries.iter().scan(batch.link.first, |next, entry| {
            let number = *next;
            *next += entry.numbers();
            Some(number)
        });
        let in_doubt = numbers.take_while(|number| reopening.uncertain || *number <= doubtful).count();
        let (in_doubt, certain) = entries.split_at(in_doubt);
        runs(in_doubt).into_iter().for_each(|run| keep(run, true));
        runs(certain).into_iter().for_each(|run| keep(run, false));
    }
    let mut open = tx.prepare("SELECT first, class, numbers, body FROM open ORDER BY first")?;
    let open: Vec<_> = open.query_map([], |row| Waiting::read(tx, epoch, row))?.collect::<rusqlite::Result<_>>()?;
    for waiting in open {
        let first = waiting.first;
        keep(waiting.taken(group, &mut step.events), first <= doubtful);
    }
    let forgotten = Gap { reason: GapReason::LostByRestore.into(), unknown: reopening.forgotten, ..Gap::default() };
    let gaps = [forgotten, counted, damaged].into_iter().filter(|gap| gap.count() > 0);
    let gaps = gaps.flat_map(|gap| runs(&[Entry { at: now_ms(), what: Some(What::Gap(gap)) }]));
    tx.execute("DELETE FROM batch", [])?;
    tx.execute("DELETE FROM open", [])?;
    let rows: Vec<Run> = gaps.chain(rows).collect();
    step.state.tail = step.state.tail.next(Epoch(random()), reopening);
    (step.state.written, step.state.open_bytes, step.state.started) = (0, 0, 0);
    for run in &rows {
        keep_open(tx, step, run)?;
    }
    save_tail(tx, &step.state.tail)?;
    (step.closed, step.replaced, step.state.delivering) = (Vec::new(), true, false);
    Ok(())
}

/// Keeps a run open, behind everything else.
pub(super) fn keep_open(tx: &Tx<'_>, step: &mut Step, run: &Run) -> rusqlite::Result<()> {
    insert_open(tx, step.state.epoch(), step.state.written + 1, run.class as u8, run.numbers, &run.body)?;
    step.state.written += run.numbers;
    step.state.open_bytes += (run.body.len() + RowKey::OVERHEAD) as u64;
    Ok(())
}

/// Makes batches within a transaction.
pub(super) struct Closing<'a> {
    pub(super) sealer: &'a Sealer,
    pub(super) step: &'a mut Step,
    pub(super) raw: Vec<u8>,
    pub(super) numbers: u64,
}

impl Closing<'_> {
    pub(super) fn room(&self) -> bool {
        self.step.state.delivering && self.step.state.tail.closed.len() < WINDOW
    }

    /// Takes a run into the batch that is being made.
    pub(super) fn take(&mut self, tx: &Tx<'_>, body: &[u8], numbers: u64) -> rusqlite::Result<()> {
        if !self.raw.is_empty() && self.raw.len() + body.len() > BATCH_RAW {
            self.flush(tx)?;
        }
        self.raw.extend_from_slice(body);
        self.numbers += numbers;
        Ok(())
    }

    /// Closes what is open, oldest first, while there is room.
    pub(super) fn close_open(&mut self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        while self.room() {
            let epoch = self.step.state.epoch();
            let rows: Vec<_> = tx
                .prepare_cached("SELECT first, class, numbers, body FROM open ORDER BY first LIMIT 64")?
                .query_map([], |row| Waiting::read(tx, epoch, row))?
                .collect::<rusqlite::Result<_>>()?;
            if rows.is_empty() {
                break;
            }
            for waiting in rows {
                if !self.room() {
                    break;
                }
                tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([to_sql(waiting.first)])?;
                self.step.state.open_bytes = self.step.state.open_bytes.saturating_sub(waiting.size);
                let run = waiting.taken(&self.sealer.group, &mut self.step.events);
                self.take(tx, &run.body, run.numbers)?;
            }
            self.flush(tx)?;
        }
        Ok(())
    }

    /// Closes the batch that is being made: numbers, chains and signs it, once.
    pub(super) fn flush(&mut self, tx: &Tx<'_>) -> rusqlite::Result<()> {
        if self.numbers == 0 {
            return Ok(());
        }
        let body = entry::compress(&self.raw);
        let raw = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        let agent = self.sealer.agent.as_str();
        let header = self.step.state.tail.next_header(agent, self.numbers, sha256(&[&body]), raw);
        let (first, last) = (header.first, header.last);
        let header = encode(&header);
        let hash = sha256(&[&header]);
        let signature = self.sealer.key.sign(Context::Batch, &header);
        let bytes = encode(&Batch { header, signature, body: body.into() });
        let link = Link { first, last, hash };
        insert_batch(tx, self.step.state.epoch(), link, &bytes)?;
        self.step.state.tail.closed.push_back(link);
        self.step.closed.push(Ready { link, bytes });
        self.raw.clear();
        self.numbers = 0;
        Ok(())
    }
}

/// Removes what was acknowledged.
pub(super) fn acknowledge(tx: &Tx<'_>, step: &mut Step, mark: &Mark) -> rusqlite::Result<()> {
    if step.state.tail.acknowledge(mark).is_some_and(|covered| covered > 0) {
        tx.prepare_cached("DELETE FROM batch WHERE last <= ?")?.execute([to_sql(mark.number)])?;
        save_tail(tx, &step.state.tail)?;
    }
    Ok(())
}

/// Drops open entries until `over` bytes are gone: the lowest class first, the oldest first, counted where they were.
pub(super) fn drop_some(tx: &Tx<'_>, step: &mut Step, over: u64) -> rusqlite::Result<()> {
    let (mut gone, epoch) = (0, step.state.epoch());
    while gone < over {
        let lowest = tx
            .prepare_cached(
                "SELECT first, class, numbers, body FROM open WHERE class < ? ORDER BY class, first LIMIT 1",
            )?
            .query_row([Class::Gap as u8], |row| Waiting::read(tx, epoch, row))
            .optional()?;
        // Everything that may be dropped has been.
        let Some(Waiting { first, size, class, numbers, body }) = lowest else { break };
        // What does not open is dropped as anything else, and its times are not known.
        let times = plain_entries(&body.unwrap_or_default());
        let at = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.at);
        let mut gap = Gap {
            reason: GapReason::QueueFull.into(),
            from: at(times.first()),
            to: at(times.last()),
            ..Gap::default()
        };
        gap.add(class, numbers);
        let mut start = first;
        let before = tx
            .prepare_cached("SELECT first, class, numbers, body FROM open WHERE first < ? ORDER BY first DESC LIMIT 1")?
            .query_row([to_sql(first)], |row| Waiting::read(tx, epoch, row))
            .optional()?;
        gone += size;
        // Neighbouring gaps of one kind become one, so that a long outage leaves few.
        if let Some(Waiting { first: neighbour, size, body: Some(bytes), .. }) = before
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
            gone += size;
            tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([to_sql(neighbour)])?;
        }
        tx.prepare_cached("DELETE FROM open WHERE first = ?")?.execute([to_sql(first)])?;
        let count = gap.count();
        let mut replacement = Vec::new();
        entry::append(&Entry { at: gap.from, what: Some(What::Gap(gap)) }, &mut replacement);
        gone = gone.saturating_sub((replacement.len() + RowKey::OVERHEAD) as u64);
        insert_open(tx, epoch, start, Class::Gap as u8, count, &replacement)?;
        step.dropped += numbers;
    }
    step.state.open_bytes = step.state.open_bytes.saturating_sub(gone);
    Ok(())
}

/// An open row.
struct Waiting {
    first: u64,
    /// Its bytes on disk, which the budget counts.
    size: u64,
    class: Class,
    numbers: u64,
    /// Nothing when the row does not open.
    body: Option<Vec<u8>>,
}

impl Waiting {
    /// From first number, class, how many numbers, and body.
    fn read(tx: &Tx<'_>, epoch: Epoch, row: &Row<'_>) -> rusqlite::Result<Self> {
        let (first, class, numbers) = (from_sql(row.get(0)?), row.get(1)?, from_sql(row.get(2)?));
        let bytes: Vec<u8> = row.get(3)?;
        let size = bytes.len() as u64;
        let body = tx.rows.opened(&Place::Open { epoch, first, class, numbers }, bytes);
        Ok(Self { first, size, class: Class::from_number(class).unwrap_or(Class::Gap), numbers, body })
    }

    /// Its run. One that does not open is said, and is a gap that takes its numbers.
    fn taken(self, group: &Name, events: &mut Vec<Event>) -> Run {
        let Self { first, class, numbers, body, .. } = self;
        if let Some(body) = body {
            return Run { class, numbers, body };
        }
        events.push(damaged(
            group,
            &format!("the row of entries {first} to {}", first.saturating_add(numbers.max(1) - 1)),
        ));
        let mut gap = Gap { reason: GapReason::Damaged.into(), ..Gap::default() };
        gap.add(class, numbers);
        let mut body = Vec::new();
        entry::append(&Entry { at: now_ms(), what: Some(What::Gap(gap)) }, &mut body);
        Run { class: Class::Gap, numbers, body }
    }
}

/// That a row does not open.
pub(super) fn damaged(group: &Name, row: &str) -> Event {
    Event::QueueRowDamaged { group: group.to_string(), row: row.to_owned() }
}

/// The entries of a body that is not compressed.
fn plain_entries(raw: &[u8]) -> Vec<Entry> {
    entry::entries(&entry::compress(raw), u32::try_from(raw.len()).unwrap_or(u32::MAX)).unwrap_or_default()
}

/// The entries of a batch of our own.
fn batch_entries(bytes: &Bytes) -> Vec<Entry> {
    let Some(batch) = decode::<Batch>(bytes) else { return Vec::new() };
    let raw = decode::<BatchHeader>(&batch.header).map_or(0, |header| header.raw);
    entry::entries(&batch.body, raw).unwrap_or_default()
}
