//! What operators ask at a server without a database, each on a route of its own above: a bounded number at a time, and
//! none for ever.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use wardline_proto::Kind;
use wardline_proto::frame::{Assembler, Frame, Message};
use wardline_proto::message::{REQUESTS, Reply, Request, decode};

use super::Relay;

/// How long an answer may take, the wait for one's turn included.
const PATIENCE: Duration = Duration::from_secs(25);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Nothing was asked.
    #[error("there is no way to a server with the database now")]
    NoWay,
    /// It was asked, and the session has ended. What was to be done may have been done.
    #[error("the way to the server with the database has ended before its answer")]
    Ended,
    /// It may be done yet.
    #[error("the server with the database has not answered within {} s", PATIENCE.as_secs())]
    Late,
}

/// Those under way.
#[derive(Debug)]
pub(super) struct Requests {
    turns: Semaphore,
    asked: Mutex<HashMap<u32, Asked>>,
}

/// One of them: what has come of its answer, and who waits for it.
#[derive(Debug)]
struct Asked {
    parts: Assembler,
    answer: oneshot::Sender<Reply>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { turns: Semaphore::new(REQUESTS), asked: Mutex::default() }
    }
}

impl Requests {
    fn asked(&self) -> MutexGuard<'_, HashMap<u32, Asked>> {
        // Nothing panics while it is held, and nothing waits.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this route is that of a request under way.
    pub(super) fn is_of(&self, route: u32) -> bool {
        self.asked().contains_key(&route)
    }

    /// Takes a frame from above on the route of a request. Anything but its answer ends it.
    pub(super) fn take(&self, frame: Frame) {
        let mut asked = self.asked();
        let Some(mut known) = asked.remove(&frame.route) else { return };
        let route = frame.route;
        match (frame.kind == Kind::Reply).then(|| known.parts.push(frame)) {
            Some(Ok(None)) => _ = asked.insert(route, known),
            // Who asked may have gone.
            Some(Ok(Some(message))) => _ = decode(&message.body).map(|reply| known.answer.send(reply)),
            Some(Err(_)) | None => {}
        }
    }

    /// There is no session above any more: nothing that was asked is answered.
    pub(super) fn lose_way(&self) {
        self.asked().clear();
    }
}

/// Forgets a request that nobody waits for any more.
struct Forget<'a>(&'a Requests, u32);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.asked().remove(&self.1);
    }
}

impl Relay {
    /// Asks the server above.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn ask(&self, request: Request) -> Result<Reply, Unanswered> {
        let asking = async {
            let _turn = self.requests.turns.acquire().await.map_err(|_| Unanswered::NoWay)?;
            let (answer, answered) = oneshot::channel();
            // Noted while the way is there, so that it is forgotten with it.
            let (up, route) = {
                let mut table = self.table();
                let (up, route) = table.own_route().ok_or(Unanswered::NoWay)?;
                self.requests.asked().insert(route, Asked { parts: Assembler::default(), answer });
                (up, route)
            };
            let _forget = Forget(&self.requests, route);
            let asked = up.send(Message::own(Kind::Request, request).on(route)).await;
            asked.map_err(|_| Unanswered::Ended)?;
            answered.await.map_err(|_| Unanswered::Ended)
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or(Err(Unanswered::Late))
    }
}
