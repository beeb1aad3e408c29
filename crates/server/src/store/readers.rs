//! Connections that only read: a few, each used by one question at a time on a blocking thread.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wardline_connector::journal;
use wardline_proto::event::Event;

use super::Error;
use super::database::{self, Location};
use super::sql::{self, Connection};

/// How many questions are answered at a time; the others wait.
const READERS: usize = 4;
/// So many different damages are told of until the program ends.
const DAMAGES: usize = 100;

/// The connections. Clones share them.
#[derive(Clone)]
pub(super) struct Readers(Arc<Shared>);

struct Shared {
    location: Location,
    turns: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// The damages that were told of.
    told: Mutex<BTreeSet<String>>,
}

impl Readers {
    /// Connections to this database; none is opened before it is needed.
    pub(super) fn new(location: Location) -> Self {
        let turns = Arc::new(Semaphore::new(READERS));
        Self(Arc::new(Shared { location, turns, idle: Mutex::default(), told: Mutex::default() }))
    }

    /// Where the database is.
    pub(super) fn location(&self) -> &Location {
        &self.0.location
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
        match &answer {
            Err(Error::Unreadable(error)) if error.is_damage() => self.tell(error),
            Err(Error::Unreadable(_)) => {}
            _ => {
                connection.rollback()?;
                self.idle().push(connection);
            }
        }
        answer
    }

    /// Tells of a damage that a question has met, once: questions come again and again.
    fn tell(&self, error: &sql::Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = error.to_string();
        if told.len() < DAMAGES && told.insert(reason.clone()) {
            journal::emit(Event::DatabaseDamaged { place: "what was asked for".into(), reason });
        }
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
