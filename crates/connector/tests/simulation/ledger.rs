//! What the simulator knows and no program does: every entry's fate, by which it judges.

use std::collections::{HashMap, HashSet};

use wardline_proto::message::Epoch;

use super::agent::{Agent, Queue};
use super::server::{Database, Row};
use super::wire::{Id, Item};

/// What became of an entry.
#[derive(Debug, Default)]
struct Fate {
    /// Which agent was given it: 0, or 1 for its clone.
    owner: usize,
    /// It has become durable in the queue.
    accepted: bool,
    /// It is in the database itself.
    present: bool,
    /// It is in the database, or a gap there counts it.
    said: bool,
    /// The epoch in which the database had it or its gap; stays when the database forgets.
    epoch: Option<Epoch>,
    /// Why it may be missing, if it may.
    destroyed: Option<&'static str>,
    /// It may come twice: two copies of it were under way, and nobody could know of both.
    copied: bool,
    /// Its number in that epoch.
    number: u64,
    /// The epoch that its queue has left with it, and in which a batch that carries it may still be under way.
    left: Option<Epoch>,
}

/// All fates.
#[derive(Default)]
pub(crate) struct Ledger {
    fates: Vec<Fate>,
    /// Rows that were audited.
    audited: usize,
    /// The next number of each epoch.
    next: HashMap<Epoch, u64>,
    /// What each number of an epoch stood for when it was last written.
    places: HashMap<(Epoch, u64), Id>,
    /// Epochs that a queue has left.
    left: HashSet<Epoch>,
    restored: bool,
}

/// A rule that does not hold, in words.
pub(crate) type Audit = Result<(), String>;

impl Ledger {
    /// A new entry.
    pub(crate) fn draw(&mut self, owner: usize) -> Id {
        self.fates.push(Fate { owner, ..Fate::default() });
        self.newest()
    }

    pub(crate) fn newest(&self) -> Id {
        self.fates.len() as u64
    }

    fn fate(&mut self, id: Id) -> Result<&mut Fate, String> {
        let at = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        at.and_then(|at| self.fates.get_mut(at)).ok_or_else(|| format!("entry {id} was invented"))
    }

    fn each(&mut self) -> impl Iterator<Item = (Id, &mut Fate)> {
        (1..).zip(&mut self.fates)
    }

    /// These were given to a queue. They are accepted if they are durable there, even when nobody was told.
    pub(crate) fn given(&mut self, ids: &[Id], queue: &Queue) -> Audit {
        let accepted = queue.newest() == ids.last().copied();
        ids.iter().try_for_each(|id| {
            self.fate(*id)?.accepted |= accepted;
            Ok(())
        })
    }

    /// Rows that are new: each number once and in order, no entry twice, none that nobody accepted.
    pub(crate) fn written(&mut self, database: &Database) -> Audit {
        let from = std::mem::replace(&mut self.audited, database.rows.len());
        database.rows.iter().skip(from).try_for_each(|row| self.row(row))
    }

    fn row(&mut self, row: &Row) -> Audit {
        let next = self.next.entry(row.epoch).or_insert(1);
        if row.first != *next {
            return Err(format!("number {} of an epoch was written where {next} belongs", row.first));
        }
        *next += row.item.numbers();
        for (number, id) in (row.first..).zip(row.item.ids()) {
            let fate = self.fate(*id)?;
            (fate.said, fate.epoch, fate.number) = (true, Some(row.epoch), number);
            // Only behind a restore can a number be written again.
            let before = self.places.insert((row.epoch, number), *id).filter(|before| before != id);
            if let Some(other) = before {
                self.fate(other)?.destroyed = Some("a restored database was given what an abandoned future had there");
            }
        }
        let Item::Fact(id) = row.item else { return Ok(()) };
        let fate = self.fate(id)?;
        fate.copied |= fate.left == Some(row.epoch);
        if !fate.accepted {
            return Err(format!("entry {id} was never accepted, and is in the database"));
        }
        if fate.present && !fate.copied {
            return Err(format!("entry {id} is in the database twice"));
        }
        fate.present = true;
        Ok(())
    }

    /// What a queue has let go must be in the database, or have been there before it was restored.
    pub(crate) fn deleted(&mut self, agent: &mut Agent) -> Audit {
        if !agent.queue.is_sound() {
            return Err("a queue's batches do not follow each other".into());
        }
        let restored = self.restored;
        for id in std::mem::take(&mut agent.deleted) {
            let fate = self.fate(id)?;
            let forgotten = restored && fate.epoch.is_some();
            if !fate.said && !forgotten {
                return Err(format!("the agent has deleted entry {id}, which is not in the database"));
            }
        }
        Ok(())
    }

    /// The database is an earlier copy from now on. What it forgets in an epoch that is still written, its queue can
    /// say; of an epoch that is over nobody knows any more how far it was.
    pub(crate) fn restored(&mut self, database: &Database, written: &[Epoch]) -> Audit {
        let said: HashSet<Id> = self.each().filter(|(_, fate)| fate.said).map(|(id, _)| id).collect();
        for (_, fate) in self.each() {
            (fate.present, fate.said) = (false, false);
        }
        self.restored = true;
        self.audited = 0;
        self.next.clear();
        self.written(database)?;
        for (_, fate) in self.each().filter(|(id, fate)| said.contains(id) && !fate.said) {
            // What was under way twice may have been forgotten in an epoch of either queue.
            if fate.copied || !fate.epoch.is_some_and(|epoch| written.contains(&epoch)) {
                fate.destroyed = Some("the database was restored to before its epoch's end");
            }
        }
        Ok(())
    }

    /// An agent goes on in a new epoch. A batch of the one before may come late, when the queue was rolled back or a
    /// gateway repeats it to a restored server. What the database was restored to have forgotten since it gave the
    /// answer, the queue has let go.
    pub(crate) fn reopened(&mut self, before: Epoch, queue: &Queue, decided: u64, forgotten_since: bool) {
        self.left.insert(before);
        let held: HashSet<Id> = queue.ids().collect();
        for (id, fate) in self.each() {
            if held.contains(&id) {
                fate.left = Some(before);
                fate.copied |= fate.present && fate.epoch == fate.left && fate.number > decided;
            } else if forgotten_since && !fate.said && fate.epoch == Some(before) {
                fate.destroyed = Some("the database was restored after it answered that it had it");
            }
        }
    }

    /// A queue is gone: what it was given, and what it alone could still say.
    pub(crate) fn wiped(&mut self, owner: usize, queue: &Queue, others: &HashSet<Id>) {
        let held: HashSet<Id> = queue.known().filter(|id| !others.contains(id)).collect();
        for (id, fate) in self.each().filter(|(_, fate)| !fate.said) {
            if fate.owner == owner || held.contains(&id) {
                fate.destroyed = Some("its queue was wiped");
            }
        }
    }

    /// An agent's queue is the one that it was when `newest` was the newest entry.
    pub(crate) fn rolled_back(&mut self, owner: usize, newest: Id, now: &Queue) {
        let held: HashSet<Id> = now.ids().collect();
        for (id, fate) in self.each().filter(|(_, fate)| fate.owner == owner) {
            if id > newest {
                fate.destroyed = Some("only the future that was abandoned had it");
            } else if !fate.said && fate.epoch != Some(now.epoch()) && !held.contains(&id) {
                fate.destroyed = Some("the database was restored, and the queue that knew was rolled back");
            }
        }
    }

    /// A queue comes back with the memory of the program: what it does not know to be in doubt may come twice. That is
    /// what waits, and what it has closed, when the epoch was left or another of its futures may have closed it otherwise.
    pub(crate) fn unaware(&mut self, queue: &Queue, again: bool) {
        let closed = queue.closed_ids().filter(|_| again || self.left.contains(&queue.epoch()));
        let ids: Vec<Id> = queue.open_ids().chain(closed).collect();
        self.copied(ids.into_iter());
    }

    /// Two copies of a queue hold these.
    pub(crate) fn copied(&mut self, ids: impl Iterator<Item = Id>) {
        for id in ids {
            if let Ok(fate) = self.fate(id) {
                fate.copied = true;
            }
        }
    }

    /// Everything was delivered: whatever was accepted is in the database, or is said to be missing.
    pub(crate) fn closed(&mut self) -> Audit {
        let lost = self.each().find(|(_, fate)| fate.accepted && !fate.said && fate.destroyed.is_none());
        lost.map_or(Ok(()), |(id, fate)| Err(format!("entry {id} is lost, and nothing says so: {fate:?}")))
    }
}
