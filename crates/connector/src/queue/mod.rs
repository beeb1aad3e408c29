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

mod change;
mod disk;
mod writer;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use wardline_proto::Name;
use wardline_proto::message::{Context, Epoch, Mark, Point, Position, Signed, encode};
use wardline_secrets::protect::{ProtectError, Vault};
use wardline_secrets::signature::SigningKey;

use self::change::{Sealer, State, damaged};
use self::disk::{Disk, SCHEMA};
use self::writer::Writer;
use crate::outage::Outage;
use crate::outbox::{Outbox, Put};
use crate::stream::{Answered, Link, Tail, Verdict};
use crate::{journal, now_ms};

/// A batch is closed at this many bytes before compression: as much as a log file gives at once, so that one signature
/// and one row carry all of it.
const BATCH_RAW: usize = 128 * 1024;
/// At most so many closed batches wait for acknowledgement.
const WINDOW: usize = 32;
/// Sources that can wait do so from this many bytes on.
const CROWDED: u64 = 4 * 1024 * 1024;
/// At most so many commands in one transaction.
const GROUP: usize = 64;
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

impl Ready {
    /// Whether it does not open any more.
    const fn is_damaged(&self) -> bool {
        self.bytes.is_empty()
    }
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
    /// Its key does not open here.
    #[error("its key does not open: {0}; what waits in it cannot be read, move it away")]
    Protection(#[from] ProtectError),
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
        vault: &Vault,
        path: &Path,
        agent: Name,
        group: Name,
        key: Arc<SigningKey>,
        budget: u64,
    ) -> Result<(Self, Outbox, std::thread::JoinHandle<()>), QueueError> {
        let mut disk = Disk::open(vault, path)?;
        let (tail, ready) = disk.load()?;
        for Ready { link, .. } in ready.iter().filter(|batch| batch.is_damaged()) {
            journal::emit(damaged(&group, &format!("the batch of entries {} to {}", link.first, link.last)));
        }
        let (memory, unknown) = disk.memory()?;
        for key in unknown {
            journal::emit(damaged(&group, &format!("what {key} remembers")));
        }
        let memory = Arc::new(Mutex::new(memory));
        let (open_bytes, written) = disk.open_rows(&tail)?;
        let closed_bytes = ready.iter().map(|batch| batch.bytes.len() as u64).sum();
        let shared = Shared { tail: tail.clone(), ready, written, handed: (0, 0), serial: 0 };
        let shared = Arc::new(Mutex::new(shared));
        let (commands, inbox) = mpsc::channel(1024);
        let (load, changed) = watch::channel(Load::default());
        let thread = Writer {
            disk,
            shared: Arc::clone(&shared),
            state: State { tail, open_bytes, written, started: written, delivering: false },
            sealer: Sealer { agent: agent.clone(), group, key: Arc::clone(&key) },
            budget,
            closed_bytes,
            load,
            memory: Arc::clone(&memory),
            outage: Outage::of(&path.display()),
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

    /// Compares with a server's answer; see [`Tail::compare`]. When a batch that the server has not does not open any
    /// more, nothing behind it could be delivered: the queue goes on in a new epoch, with that batch as a gap.
    pub fn compare(&self, answer: &Answered) -> Verdict {
        let shared = lock(&self.shared);
        let verdict = shared.tail.compare(answer);
        let committed = match &verdict {
            Verdict::Continue(mark) => shared.ready.partition_point(|batch| batch.link.last <= mark.number),
            Verdict::Bridge { .. } => 0,
            Verdict::Reopen(_) | Verdict::Held => return verdict,
        };
        if shared.ready.iter().skip(committed).any(Ready::is_damaged) {
            Verdict::Reopen(shared.tail.broken(committed, answer))
        } else {
            verdict
        }
    }

    /// Whether an acknowledgement is of this chain.
    pub fn knows(&self, mark: &Mark) -> bool {
        lock(&self.shared).tail.clone().acknowledge(mark).is_some()
    }

    /// The signed position of the stream. With a nonce it asks for an answer; a heartbeat repeats a challenge.
    pub fn position(&self, nonce: Bytes, challenge: Bytes, interval: Duration) -> Signed {
        let mut shared = lock(&self.shared);
        shared.serial += 1;
        let tail = &shared.tail;
        let position = Position {
            agent: self.agent.to_string(),
            epoch: tail.acknowledged.epoch.to_wire(),
            previous: tail.previous.map(Epoch::to_wire).unwrap_or_default(),
            over: tail.over.map(Epoch::to_wire).unwrap_or_default(),
            kept: if nonce.is_empty() { Vec::new() } else { tail.kept() },
            nonce,
            acknowledged: Point::of(&tail.acknowledged),
            written: shared.written,
            handed: shared.handed.0,
            handed_at: shared.handed.1,
            interval: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            serial: shared.serial,
            challenge,
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

#[cfg(test)]
mod tests;
