//! Connections that only read: a few, each used by one question at a time on a blocking thread.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::Error;
use super::database::{self, Location};
use super::sql::Connection;

/// How many questions are answered at a time; the others wait.
const READERS: usize = 4;

/// The connections. Clones share them.
#[derive(Clone)]
pub(super) struct Readers(Arc<Shared>);

struct Shared {
    location: Location,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    /// Connections to this database; none is opened before it is needed.
    pub(super) fn new(location: Location) -> Self {
        Self(Arc::new(Shared { location, turns: Arc::new(Semaphore::new(READERS)), idle: Mutex::default() }))
    }

    /// Answers a question from one state of the database.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        let turn = Arc::clone(&shared.turns).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let answering = tokio::task::spawn_blocking(move || {
            // Given back when the work is done, also when nobody waits for the answer any more.
            let _turn = turn;
            shared.answer(question)
        });
        answering.await.map_err(|_| Error::Stopped)?
    }

    /// Does what takes long, or cannot be within a transaction, with a connection of its own; nobody waits for it.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let shared = Arc::clone(&self.0);
        let working = tokio::task::spawn_blocking(move || Ok(work(&database::open_to_read(&shared.location)?)));
        working.await.map_err(|_| Error::Stopped)?
    }
}

impl Shared {
    fn answer<T>(&self, question: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let connection = self.reading()?;
        let answer = question(&connection);
        // One that failed to read is closed: whatever is wrong with it is not kept.
        if !matches!(answer, Err(Error::Unreadable(_))) {
            connection.rollback()?;
            self.idle().push(connection);
        }
        answer
    }

    /// A connection that has begun to read one state of the database.
    fn reading(&self) -> Result<Connection, Error> {
        loop {
            let idle = self.idle().pop();
            let Some(connection) = idle else {
                let connection = database::open_to_read(&self.location)?;
                connection.begin_reading()?;
                return Ok(connection);
            };
            // One that was cut off meanwhile is closed.
            if connection.begin_reading().is_ok() {
                return Ok(connection);
            }
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
