//! The one door by which what an agent finds enters its queue.

use bytes::Bytes;
use wardline_proto::entry::Entry;

/// What a workflow puts into the queue at once: all of it is kept, or nothing.
#[derive(Debug, Default)]
pub struct Put {
    /// What was found, in order.
    pub entries: Vec<Entry>,
    /// What the workflow remembers from now on, by its key: a position in a log, a monitor's state and open alert.
    /// `None` forgets the key. Written in the same transaction as the entries.
    pub memory: Vec<(String, Option<Bytes>)>,
}

/// The program is stopping; nothing is taken any more.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the queue takes nothing any more: the program is stopping")]
pub struct Stopped;

/// A handle to the queue of one management group. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Outbox {}

impl Outbox {
    /// Returns when what was put is durable.
    ///
    /// # Errors
    /// The program is stopping: nothing of it was kept.
    pub async fn put(&self, _put: Put) -> Result<(), Stopped> {
        Err(Stopped)
    }

    /// Waits until the queue is less than half full. Sources that can wait (a log file) ask before they read on;
    /// a check's result is never held back, and a full queue drops by class instead.
    pub async fn room(&self) {}

    /// What a workflow remembers under a key.
    pub fn remembered(&self, _key: &str) -> Option<Bytes> {
        None
    }
}
