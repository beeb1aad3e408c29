//! The one thread that writes. It groups whatever waits into one transaction, so that a burst shares one sync of the
//! disk, and answers after the COMMIT.
//!
//! When a group fails it is rolled back as a whole, kept, and tried again until it is in the database; meanwhile the
//! channel fills and callers wait. Only a request that the database does not take for what it holds already, alone in its
//! transaction, is given up. What was appended to the trust log by a COMMIT that has no answer is looked for before it is
//! decided again. After any failure but "somebody else has the lock" the connection is not trusted any
//! more: it is closed, and [`database::reopen`] begins with what makes its first sync mean something.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;
use wardline_connector::journal;
use wardline_connector::outage::Outage;
use wardline_proto::event::Event;
use wardline_secrets::view::View;

use super::database::Location;
use super::log::{self, Keeper};
use super::sql::{self, Connection};
use super::{Error, database, kept};

/// The most requests in a transaction, and that can wait for one.
const GROUP: usize = 64;
/// No request joins a transaction that has so many rows.
const GROUP_ROWS: usize = 50_000;
/// How long to wait before a group is tried again: doubled from the first to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Something to write.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller wants to know; given to him after the COMMIT.
    type Answer: Send + Sync + 'static;

    /// About how many rows it writes.
    fn weight(&self) -> usize {
        1
    }

    /// What it is, for the operator.
    fn about(&self) -> String {
        "what the server notes by itself".to_owned()
    }

    /// Writes it within the group's transaction. An error rolls the group back and this is called again, so it must not
    /// be about what is written; a request that has no place here is an answer.
    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<Self::Answer, sql::Error>;
}

/// What is written when somebody wants to stand in line only.
pub(super) struct Nothing;

impl Write for Nothing {
    type Answer = ();

    fn write(&self, _: &Connection, _: &mut Effects) -> Result<(), sql::Error> {
        Ok(())
    }
}

/// What becomes true outside of the database once the transaction is committed.
pub(super) struct Effects {
    /// What the trust log says with what the transaction appends to it.
    pub(super) view: Arc<View>,
    /// Whether that is anything new.
    pub(super) appended: bool,
    /// Whether this server has signed its newest entry, in this transaction.
    pub(super) signed: bool,
    /// What to tell the operator.
    pub(super) events: Vec<Event>,
    /// The new alerts.
    pub(super) raised: Vec<Uuid>,
}

impl Effects {
    /// None yet, over what the trust log says.
    pub(super) const fn none(view: Arc<View>) -> Self {
        Self { view, appended: false, signed: false, events: Vec::new(), raised: Vec::new() }
    }
}

/// Gives requests to the thread. Clones share it.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Box<dyn Pending>>);

/// The writer's thread, to wait for its end.
#[derive(Debug)]
pub struct WriterThread(JoinHandle<()>);

impl WriterThread {
    /// Waits until the thread has ended, which it does once the last [`super::Store`] is dropped and what waited is
    /// written. What cannot be written then is given up: nobody was told that it was.
    pub async fn ended(self) {
        // It only fails when the thread has panicked, and then it has ended too.
        let _ = tokio::task::spawn_blocking(move || self.0.join()).await;
    }
}

/// What becomes of the trust log after a commit.
pub(super) struct Trust {
    pub(super) keeper: Arc<Keeper>,
    pub(super) published: watch::Sender<Arc<View>>,
}

impl Trust {
    fn publish(&self, view: Arc<View>) {
        if let Err(error) = kept::write(&self.keeper.vault, &self.keeper.kept(), &view.reach()) {
            // The log is longer than what is kept then, as after a power cut; the next commit writes it.
            let path = self.keeper.kept().display().to_string();
            journal::emit(Event::StateFolderInUse { path, reason: error.to_string() });
        }
        self.published.send_replace(view);
    }
}

/// Starts the thread.
pub(super) fn start(
    location: Location,
    connection: Connection,
    measure: Option<File>,
    trust: Trust,
) -> std::io::Result<(Writer, WriterThread)> {
    let (sender, requests) = mpsc::channel(GROUP);
    let thread = Thread { location, connection: Some(connection), requests, measure, trust, doubt: None };
    let handle = std::thread::Builder::new().name("store".into()).spawn(|| thread.run())?;
    Ok((Writer(sender), WriterThread(handle)))
}

impl Writer {
    /// Writes, and returns after the commit. Waits as long as the database takes nothing.
    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let request = Box::new(Request { write, answer: None, reply });
        self.0.send(request).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?.map_err(Error::Refused)
    }

    /// Has it written if there is room for it now.
    pub(super) fn offer<W: Write>(&self, write: W) {
        let (reply, _) = oneshot::channel();
        // Full or stopped: it was an offer.
        let _ = self.0.try_send(Box::new(Request { write, answer: None, reply }));
    }
}

/// A request of any type, with its answer once it is written.
trait Pending: Send + Sync {
    fn weight(&self) -> usize;
    fn about(&self) -> String;
    fn write(&mut self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error>;
    fn reply(self: Box<Self>);
    fn refuse(self: Box<Self>, reason: String);
}

struct Request<W: Write> {
    write: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, String>>,
}

impl<W: Write> Pending for Request<W> {
    fn weight(&self) -> usize {
        self.write.weight()
    }

    fn about(&self) -> String {
        self.write.about()
    }

    fn write(&mut self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        self.answer = Some(self.write.write(connection, effects)?);
        Ok(())
    }

    fn reply(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // The caller may have gone; what is written stays written.
            let _ = self.reply.send(Ok(answer));
        }
    }

    fn refuse(self: Box<Self>, reason: String) {
        let _ = self.reply.send(Err(reason));
    }
}

type Group = Vec<Box<dyn Pending>>;

struct Thread {
    location: Location,
    /// Nothing after a failure, until it is opened again.
    connection: Option<Connection>,
    requests: mpsc::Receiver<Box<dyn Pending>>,
    measure: Option<File>,
    trust: Trust,
    /// What a COMMIT that has failed would have made true, where this server has signed entries in its transaction. It may
    /// have been done all the same: who does not hear the answer cannot know.
    doubt: Option<Effects>,
}

impl Thread {
    fn run(mut self) {
        while let Some(request) = self.requests.blocking_recv() {
            let mut group = vec![request];
            self.gather(&mut group);
            if !self.settle(group) {
                return;
            }
        }
    }

    /// Writes a group and answers it. What the database does not take keeps nobody else from being written. `false` when
    /// the database takes nothing and everybody who could wait for it is gone.
    fn settle(&mut self, mut group: Group) -> bool {
        match self.write_until_it_works(&mut group) {
            Some(Ok(effects)) => self.done(group, effects),
            // One of them is to blame, and it is not known which.
            Some(Err(_)) if group.len() > 1 => return group.into_iter().all(|request| self.settle(vec![request])),
            Some(Err(error)) => {
                for request in group {
                    journal::emit(Event::WriteRefused { what: request.about(), reason: error.to_string() });
                    request.refuse(error.to_string());
                }
            }
            None => return false,
        }
        true
    }

    fn done(&mut self, group: Group, effects: Effects) {
        let committed = clock_gettime(ClockId::CLOCK_MONOTONIC);
        if effects.appended {
            self.trust.publish(effects.view);
        }
        group.into_iter().for_each(Pending::reply);
        for event in effects.events {
            journal::emit(event);
        }
        if let (Some(file), Ok(time)) = (&mut self.measure, committed) {
            let nanoseconds = Duration::from(time).as_nanos();
            let mut lines = String::with_capacity(effects.raised.len() * 56);
            for id in effects.raised {
                let _ = writeln!(lines, "{id} {nanoseconds}");
            }
            // A measurement that cannot be kept harms nobody.
            let _ = file.write_all(lines.as_bytes());
        }
    }

    /// Adds what waits already, without waiting for more.
    fn gather(&mut self, group: &mut Group) {
        let mut rows: usize = group.iter().map(|request| request.weight()).sum();
        while group.len() < GROUP && rows < GROUP_ROWS {
            let Ok(request) = self.requests.try_recv() else { return };
            rows += request.weight();
            group.push(request);
        }
    }

    /// Gives nothing when the database takes nothing and everybody who could wait for it is gone, and an error when that
    /// is about what is written: trying again cannot help.
    fn write_until_it_works(&mut self, group: &mut Group) -> Option<Result<Effects, sql::Error>> {
        let mut outage = Outage::of(&self.location);
        let mut pause = BACK_OFF.0;
        loop {
            match self.write_once(group) {
                Ok(effects) => {
                    outage.over();
                    return Some(Ok(effects));
                }
                Err(error) if error.is_about_the_row() => {
                    outage.over();
                    return Some(Err(error));
                }
                Err(error) => {
                    if !error.is_busy() {
                        self.connection = None;
                    }
                    outage.failed(database::trouble(&self.location, &error));
                    if !self.sleep(pause) {
                        return None;
                    }
                    pause = (pause * 2).min(BACK_OFF.1);
                }
            }
        }
    }

    /// Writes the group in one transaction; an error leaves nothing of it, or leaves [`Self::doubt`].
    fn write_once(&mut self, group: &mut Group) -> Result<Effects, sql::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            closed => closed.insert(database::reopen(&self.location)?),
        };
        if let Some(doubt) = &self.doubt {
            let done = log::has_newest(connection, &doubt.view)?;
            if let Some(effects) = self.doubt.take().filter(|_| done) {
                return Ok(effects);
            }
        }
        let view = Arc::clone(&self.trust.published.borrow());
        let mut doubt = None;
        let mut write = || {
            let (mut effects, mut all) = (Effects::none(Arc::clone(&view)), false);
            let written = connection.transaction(|| {
                group.iter_mut().try_for_each(|request| request.write(connection, &mut effects))?;
                all = true;
                Ok(())
            });
            match written {
                Ok(()) => Ok(effects),
                Err(error) => {
                    // What the database itself says is no doubt.
                    doubt = Some(effects).filter(|effects| all && effects.signed && !error.is_about_the_row());
                    Err(error)
                }
            }
        };
        let written = match write() {
            // One row of many is refused, and takes all with it: once more, each by itself.
            Err(error) if error.is_about_the_row() && connection.set_careful(true) => {
                let written = write();
                connection.set_careful(false);
                written
            }
            written => written,
        };
        self.doubt = doubt;
        written
    }

    /// Sleeps, but ends early, with `false`, when the last handle is gone.
    fn sleep(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        while !self.requests.is_closed() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(BACK_OFF.0));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::log::Act;
    use crate::store::tests::Folder;

    /// Writes more than fits into one page.
    struct Large;

    impl Write for Large {
        type Answer = ();

        fn write(&self, connection: &Connection, _: &mut Effects) -> Result<(), sql::Error> {
            let sql = "INSERT INTO agent (name, first_seen, last_seen) VALUES (hex(zeroblob(100000)), 0, 0)";
            connection.execute(sql, &[]).map(drop)
        }
    }

    /// The thread, before it runs, and what keeps it from giving up.
    fn thread(folder: &Folder, connection: Connection, trust: Trust) -> (Thread, mpsc::Sender<Box<dyn Pending>>) {
        let (sender, requests) = mpsc::channel(1);
        let connection = Some(connection);
        (Thread { location: folder.location(), connection, requests, measure: None, trust, doubt: None }, sender)
    }

    #[test]
    fn after_a_failure_the_connection_is_opened_anew_and_the_group_is_written_once() {
        let folder = Folder::new();
        let connection = database::create_or_open(&folder.location()).unwrap();
        // As if the disk were full: a limit of this connection alone.
        let pages = connection.number("PRAGMA page_count").unwrap();
        connection.query(&format!("PRAGMA max_page_count = {pages}"), &[]).unwrap();
        let keeper = Arc::new(folder.keeper());
        let (published, _) = watch::channel(Arc::new(View::new(keeper.root.clone())));
        let trust = Trust { keeper, published };
        let (mut thread, _sender) = thread(&folder, connection, trust);
        let (reply, mut answer) = oneshot::channel();
        let mut group: Group = vec![Box::new(Request { write: Large, answer: None, reply })];

        let error = thread.write_once(&mut group).err().unwrap();
        assert!(error.to_string().contains("disk is full"), "{error}");
        assert!(thread.write_until_it_works(&mut group).unwrap().is_ok());
        assert!(answer.try_recv().is_err(), "nothing is answered before the COMMIT");
        group.drain(..).for_each(Pending::reply);
        assert_eq!(answer.try_recv(), Ok(Ok(())));
        assert_eq!(thread.connection.unwrap().number("SELECT count(*) FROM agent").unwrap(), 1);
    }

    #[test]
    fn what_a_failed_transaction_has_decided_is_forgotten_and_decided_again() {
        let folder = Folder::new();
        let presence = crate::founding::tests::found(folder.path()).presence;
        let connection = database::create_or_open(&folder.location()).unwrap();
        let pages = connection.number("PRAGMA page_count").unwrap();
        connection.query(&format!("PRAGMA max_page_count = {pages}"), &[]).unwrap();
        let keeper = Arc::new(folder.keeper());
        let (published, view) = watch::channel(Arc::new(View::new(keeper.root.clone())));
        let act = Act {
            keeper: Arc::clone(&keeper),
            act: "server srv1.test".into(),
            decide: Box::new(move |view, _, _| presence.facts(view)),
            beside: None,
        };
        let trust = Trust { keeper, published };
        let (mut thread, _sender) = thread(&folder, connection, trust);
        let ((first, mut decided), (second, _)) = (oneshot::channel(), oneshot::channel());
        let mut group: Group = vec![
            Box::new(Request { write: act, answer: None, reply: first }),
            Box::new(Request { write: Large, answer: None, reply: second }),
        ];
        assert!(thread.write_once(&mut group).is_err());
        assert_eq!(view.borrow().tree().size(), 0);
        let effects = thread.write_until_it_works(&mut group).unwrap().unwrap();
        assert!(effects.appended && effects.view.tree().size() == 5);
        assert_eq!(view.borrow().tree().size(), 0, "nobody sees it before it is committed and kept");
        thread.trust.publish(effects.view);
        group.drain(..).for_each(Pending::reply);
        assert_eq!((view.borrow().tree().size(), decided.try_recv().unwrap().unwrap().unwrap().len()), (5, 5));
        assert_eq!(thread.connection.unwrap().number("SELECT count(*) FROM log").unwrap(), 5);
    }
}
