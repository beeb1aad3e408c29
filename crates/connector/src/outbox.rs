//! The one door by which what an agent finds enters its queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use wardline_proto::entry::Entry;

use crate::queue::{Command, Load};

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
pub struct Outbox {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) load: watch::Receiver<Load>,
    pub(crate) memory: Memory,
}

/// What workflows remember, by key: what is durable of it.
pub(crate) type Memory = Arc<Mutex<HashMap<String, Bytes>>>;

impl Outbox {
    /// Returns when what was put is durable.
    ///
    /// # Errors
    /// The program is stopping: nothing of it was kept.
    pub async fn put(&self, put: Put) -> Result<(), Stopped> {
        let (done, kept) = oneshot::channel();
        self.commands.send(Command::Put(put, done)).await.map_err(|_| Stopped)?;
        kept.await.map_err(|_| Stopped)
    }

    /// Waits until the queue has room for what can wait: sources that lose nothing by waiting (a log file) ask before
    /// they read on. A check's result is never held back; a full queue drops by class instead.
    pub async fn room(&self) {
        let mut load = self.load.clone();
        // The queue has ended: the next put says so.
        let _ = load.wait_for(|load| !load.crowded).await;
    }

    /// Returns when everything that was put before this call is durable, also what nobody waits for any more.
    ///
    /// # Errors
    /// The program is stopping.
    pub async fn settled(&self) -> Result<(), Stopped> {
        self.put(Put::default()).await
    }

    /// What a workflow remembers under a key.
    pub fn remembered(&self, key: &str) -> Option<Bytes> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}
