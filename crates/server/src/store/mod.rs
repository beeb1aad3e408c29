//! The database: the only place that speaks SQL.
//!
//! ```text
//!  callers ──► Store ──► bounded channel ──► writer thread ──► sql ──► SQLite (WAL, synchronous FULL), PostgreSQL
//!                  └───► readers: read-only connections on blocking threads ──┘
//!
//!  database   where it is, opening it, its schema
//!  sql        one face of both databases: statements, values, rows
//!  sqlite     a file: its mode and settings
//!  postgres   a server: its address, the login, TLS
//!  writer     groups what waits into one transaction, and answers after its COMMIT
//!  readers    connections that only read
//!  streams    epochs and watermarks: a batch moves its stream or has no effect
//!  entries    the rows of what a batch carries
//!  alerts     an alert's life, and lists of alerts
//!  agents     who was heard
//!  gaps       what is missing
//!  counts     how much there is
//!  log        the trust log: replayed at the start, appended to by decisions
//!  kept       the newest head of the log, apart from the database
//!  lease      work that one of several servers does at a time
//!  claims     heads that agents show of another log
//!  restoring  a log that was restored on purpose
//!  packs      the texts of packs
//!  accounts   the encrypted secrets of Run As accounts
//!  receipts   what became of these on agents
//!  views      tables that show what the log says
//!  own_alerts  alerts that the server raises by itself
//!  upkeep     copies of a database that is a file, and what of a database cannot be read
//!  about      which database it is, how it is set, and what of that to change
//! ```
//!
//! Whoever gets an answer to something written may rely on it: it survives the loss of power from then on. While the
//! database takes nothing, callers wait; nothing is answered and nothing is dropped.

mod about;
mod accounts;
mod agents;
mod alerts;
mod claims;
mod counts;
mod database;
mod entries;
mod gaps;
mod kept;
mod lease;
mod log;
mod own_alerts;
mod packs;
mod postgres;
mod readers;
mod receipts;
mod restoring;
mod sql;
mod sqlite;
mod streams;
mod upkeep;
mod views;
mod withheld;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use wardline_connector::journal;
use wardline_proto::Name;
use wardline_proto::entry;
use wardline_proto::message::{AccountId, Digest, Epoch, Mark};
use wardline_proto::trust::Fact;
use wardline_sdk::{Agent, AgentFilter, Alert, AlertDetail, AlertFilter, Damage, Database, Gap, GapFilter, Page};
use wardline_secrets::head::Reach;
use wardline_secrets::protect::Vault;
use wardline_secrets::view::{Unsound, View};

use crate::watch::Withheld;
use sql::Row;
use writer::{Effects, Write as _};

pub use agents::{Heard, Released};
pub use alerts::Found;
pub use counts::Counts;
pub use database::{Location, OpenError, migrate};
pub use lease::Term;
pub use log::Keeper;
pub use postgres::{Login, Settings};
pub use receipts::Known as Receipt;
pub use restoring::Restoring;
pub use streams::{AgentStreams, Commit, Open, Opened, Outcome};
pub use upkeep::BackupError;
pub use withheld::{Fate, WITHHELD, Waited};
pub use writer::WriterThread;

/// Keeps a head of the trust log in a group's folder, for a server that has not read it yet: it takes no log that does not
/// continue that.
///
/// # Errors
/// It cannot be written.
pub fn keep_head(vault: &Vault, folder: &Path, head: &Reach) -> io::Result<()> {
    kept::write(vault, &folder.join(kept::FILE), head)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The writer has ended; whether the last request was written is not known.
    #[error("the store has stopped")]
    Stopped,
    /// A cursor that no page has given.
    #[error("{0:?} is no cursor of this list")]
    Cursor(String),
    /// The database is on a server, where it is copied.
    #[error("the database is on a server of its own")]
    NoFile,
    /// What the database holds already does not let it be written.
    #[error("the database does not take it: {0}")]
    Refused(String),
    /// The database cannot be read.
    #[error("the database cannot be read: {0}")]
    Unreadable(#[from] sql::Error),
}

/// The database, shared by everybody who uses it. When the last handle is dropped the writer writes what waits and ends.
#[derive(Clone)]
pub struct Store {
    writer: writer::Writer,
    readers: readers::Readers,
    keeper: Arc<Keeper>,
    view: watch::Receiver<Arc<View>>,
    /// Whether other servers may append to the trust log, too.
    shared: bool,
}

impl Store {
    /// Opens the database, which is made when it is not there, replays its trust log, and starts its writer. A `measure`
    /// file gets a line for every new alert: its id and the monotonic clock, in nanoseconds, when its commit had returned.
    ///
    /// Blocks; meant for the start of the program.
    ///
    /// # Errors
    /// The file cannot be used, a newer version has written it, or its trust log is not to be believed.
    pub fn open(location: Location, measure: Option<File>, keeper: Keeper) -> Result<(Self, WriterThread), OpenError> {
        let unusable =
            |reason: &dyn ToString| OpenError::Unusable { place: location.to_string(), reason: reason.to_string() };
        let connection = database::create_or_open(&location)?;
        let view = log::load(&connection, &location, &keeper)?;
        let mut effects = Effects::none(Arc::new(view));
        let rebuilt = connection.transaction(|| views::Compare.write(&connection, &mut effects));
        rebuilt.map_err(|error| unusable(&error))?;
        // What another server has appended meanwhile.
        log::keep(&effects.view, &keeper)?;
        effects.events.into_iter().for_each(journal::emit);
        let shared = matches!(location, Location::Server(_));
        let (keeper, (published, view)) = (Arc::new(keeper), watch::channel(effects.view));
        let trust = writer::Trust { keeper: Arc::clone(&keeper), published };
        let (writer, thread) =
            writer::start(location.clone(), connection, measure, trust).map_err(|error| unusable(&error))?;
        Ok((Self { writer, readers: readers::Readers::new(location), keeper, view, shared }, thread))
    }

    /// What the trust log says, now and with every entry from now on.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether several servers may share the database.
    pub const fn is_shared(&self) -> bool {
        self.shared
    }

    /// Who keeps the trust log.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Decides something about trust, from what the log says at that moment and the time (milliseconds since 1970), and
    /// appends what is so from now on, signed, in the name of `act`. Returns after the commit, when everybody sees it.
    /// The decision may be asked for more than once.
    ///
    /// # Errors
    /// [`Error::Stopped`]; inside, the refusal of whoever decided.
    pub async fn act<R: From<Unsound> + Send + Sync + 'static>(
        &self,
        act: String,
        decide: impl Fn(&View, u64) -> Result<Vec<Fact>, R> + Send + Sync + 'static,
    ) -> Result<Result<Vec<Fact>, R>, Error> {
        let (keeper, decide) = (Arc::clone(&self.keeper), Box::new(move |view: &View, now, _: &[_]| decide(view, now)));
        self.writer.write(log::Act { keeper, act, decide, beside: None }).await
    }

    /// The same for a decision that a pack is run, from the names and texts of the others too: its name and text are
    /// kept, in the same transaction.
    ///
    /// # Errors
    /// As for [`Self::act`].
    pub async fn act_with_text<R: From<Unsound> + Send + Sync + 'static>(
        &self,
        act: String,
        text: (String, String),
        decide: impl Fn(&View, u64, &[(String, String)]) -> Result<Vec<Fact>, R> + Send + Sync + 'static,
    ) -> Result<Result<Vec<Fact>, R>, Error> {
        let (keeper, decide) = (Arc::clone(&self.keeper), Box::new(decide));
        let beside = Some(log::Beside::Pack(text.0, text.1));
        self.writer.write(log::Act { keeper, act, decide, beside }).await
    }

    /// The same for a decision about an account: its encrypted secret is kept, in the same transaction.
    ///
    /// # Errors
    /// As for [`Self::act`].
    pub async fn act_with_secret<R: From<Unsound> + Send + Sync + 'static>(
        &self,
        act: String,
        (id, secret): (AccountId, Vec<u8>),
        decide: impl Fn(&View, u64) -> Result<Vec<Fact>, R> + Send + Sync + 'static,
    ) -> Result<Result<Vec<Fact>, R>, Error> {
        let (keeper, decide) = (Arc::clone(&self.keeper), Box::new(move |view: &View, now, _: &[_]| decide(view, now)));
        let beside = Some(log::Beside::Account(id, secret));
        self.writer.write(log::Act { keeper, act, decide, beside }).await
    }

    /// The encrypted secret that is kept of an account; whether it is the right one says the trust log.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn account_secret(&self, id: AccountId) -> Result<Option<Vec<u8>>, Error> {
        self.readers.read(move |connection| accounts::secret(connection, id)).await
    }

    /// Notes that these versions of accounts were sent to an agent.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn sent(&self, agent: Name, accounts: Vec<(AccountId, u64)>, now_ms: u64) -> Result<(), Error> {
        self.writer.write(receipts::Sent { agent, accounts, now_ms }).await
    }

    /// What became of an account on every agent.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn receipts(&self, account: AccountId) -> Result<Vec<Receipt>, Error> {
        self.readers.read(move |connection| receipts::of_account(connection, account)).await
    }

    /// The text that is kept of a pack; whether it is the right one says the trust log.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn pack_text(&self, name: String) -> Result<Option<String>, Error> {
        self.readers.read(move |connection| packs::text(connection, &name)).await
    }

    /// Keeps a head of another log that a server of this group has signed and an agent has shown, if it is the highest,
    /// and raises an alert about it, if the agent has none of this that is open. `now_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn claim(&self, agent: Name, shown: Reach, now_ms: u64) -> Result<(), Error> {
        self.writer.write(claims::Claim { keeper: Arc::clone(&self.keeper), agent, shown, now_ms }).await
    }

    /// Looks at the lease of some work: renews it when this server holds it, and takes it when it is `over`: what was
    /// `seen` of it was so for too long. The only server holds every lease. Gives what it is now, and whether this process
    /// holds it.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn lease(&self, work: &'static str, seen: Option<Term>, over: bool) -> Result<(Term, bool), Error> {
        let server = self.keeper.server.clone();
        match self.shared {
            true => self.writer.write(lease::Look { work, server, seen, over }).await,
            false => Ok((Term::alone(&server), true)),
        }
    }

    async fn under<W: writer::Write>(&self, work: &'static str, term: &Term, write: W) -> Result<bool, Error> {
        let term = self.shared.then(|| term.clone());
        self.writer.write(lease::Under { work, term, write }).await.map(|done| done.is_some())
    }

    /// Raises an alert about an agent, unless it has one of that monitor that is open, or was never heard. `now_ms` is in
    /// milliseconds since 1970. Whether it was done: not when the term of the work that it is part of is over.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn raise(
        &self,
        (work, term): (&'static str, &Term),
        agent: Name,
        alert: entry::Alert,
        now_ms: u64,
    ) -> Result<bool, Error> {
        self.under(work, term, own_alerts::Raise { agent, alert, now_ms }).await
    }

    /// Closes what is open of a monitor of an agent. Whether it was done, as above.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn close(
        &self,
        (work, term): (&'static str, &Term),
        agent: Name,
        monitor: &'static str,
        text: String,
        now_ms: u64,
    ) -> Result<bool, Error> {
        self.under(work, term, own_alerts::Close { agent, monitor, text, now_ms }).await
    }

    /// Of which agents something is missing, or was.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn withheld(&self) -> Result<Vec<Waited>, Error> {
        self.readers.read(withheld::list).await
    }

    /// Says, with this alert, that something is withheld of an agent, unless that was said and is so still, or it has come by
    /// now. Whether it was said. `now_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn withhold(
        &self,
        agent: Name,
        &Withheld { epoch, overtaken, handed: (upto, _), .. }: &Withheld,
        alert: entry::Alert,
        now_ms: u64,
    ) -> Result<bool, Error> {
        self.writer.write(withheld::Withhold { agent, epoch, overtaken, upto, alert, now_ms }).await
    }

    /// Says that nothing is withheld of an agent any more, and closes its alerts of [`WITHHELD`]. Whether it was done, as
    /// above.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn no_longer_withheld(
        &self,
        (work, term): (&'static str, &Term),
        agent: Name,
        text: String,
        now_ms: u64,
    ) -> Result<bool, Error> {
        self.under(work, term, withheld::Over { agent, text, now_ms }).await
    }

    /// The agents that other servers have heard since a moment, by their clocks, milliseconds since 1970.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn heard_by_others(&self, since_ms: u64) -> Result<Vec<Heard>, Error> {
        let own = self.keeper.server.clone();
        match self.shared {
            true => self.readers.read(move |connection| agents::heard_by_others(connection, &own, since_ms)).await,
            false => Ok(Vec::new()),
        }
    }

    /// Takes over what other servers have appended to the trust log; everybody sees it when this returns.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn follow(&self) -> Result<(), Error> {
        if self.shared { self.writer.write(log::Follow).await } else { Ok(()) }
    }

    /// Compares the tables that show what the trust log says with it, and puts them right, with event 40067.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn compare(&self) -> Result<(), Error> {
        self.writer.write(views::Compare).await
    }

    /// Entries of the trust log from a number on, as they were signed.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn log(&self, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        self.readers.read(move |connection| log::entries(connection, from, limit)).await
    }

    /// Writes a batch and moves its stream's watermark, or neither. Returns after the commit.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn commit(&self, commit: Commit) -> Result<Outcome, Error> {
        self.writer.write(commit).await
    }

    /// Returns when everything that was to be written before this call is in the database.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn settled(&self) -> Result<(), Error> {
        self.writer.write(writer::Nothing).await
    }

    /// Opens an epoch of an agent, who becomes known by it; the epoch that was live before is displaced, when it is the
    /// one that the new one was decided over. Asked again about the same epoch, nothing changes.
    ///
    /// The caller tells the operator: event 40014 when one was displaced, 40015 when the agent is held from now on.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn open_epoch(&self, open: Open) -> Result<Opened, Error> {
        self.writer.write(open).await
    }

    /// Lets an agent that is held go on with its live stream, and closes the alert about it.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn release(&self, agent: Name, now_ms: u64) -> Result<Released, Error> {
        self.writer.write(agents::Release { agent, now_ms }).await
    }

    /// Notes that an agent was heard. Best effort: left out when the writer has enough to do.
    pub fn seen(&self, heard: Heard) {
        self.writer.offer(agents::Seen { heard, by: self.keeper.server.clone() });
    }

    /// How an agent's streams stand, and what is known of one epoch.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn streams(&self, agent: Name, epoch: Epoch) -> Result<AgentStreams, Error> {
        self.readers.read(move |connection| streams::of_agent(connection, &agent, epoch)).await
    }

    /// The newest of these points of a stream (number, hash) that the database once ended a batch with, remembering
    /// the newest 1024 batches; also the watermark, and the start while none is forgotten. `None` when there is none, or no such stream.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn remembers(
        &self,
        agent: Name,
        epoch: Epoch,
        points: Vec<(u64, Digest)>,
    ) -> Result<Option<Mark>, Error> {
        self.readers.read(move |connection| streams::remembers(connection, &agent, epoch, &points)).await
    }

    /// Lists alerts, newest first.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Cursor`].
    pub async fn alerts(&self, filter: AlertFilter) -> Result<Page<Alert>, Error> {
        self.readers.read(move |connection| alerts::list(connection, &filter)).await
    }

    /// The alert whose id begins with these hexadecimal digits; hyphens do not count.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn alert(&self, prefix: &str) -> Result<Found<AlertDetail>, Error> {
        let prefix = prefix.to_owned();
        self.readers.read(move |connection| alerts::find(connection, &prefix)).await
    }

    /// Lists agents by name, without their sessions, of which the store knows nothing.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn agents(&self, filter: AgentFilter) -> Result<Page<Agent>, Error> {
        self.readers.read(move |connection| agents::list(connection, &filter)).await
    }

    /// One agent, without its session.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn agent(&self, name: Name) -> Result<Option<Agent>, Error> {
        self.readers.read(move |connection| agents::one(connection, &name)).await
    }

    /// Lists gap records, newest first.
    ///
    /// # Errors
    /// [`Error::Unreadable`], [`Error::Cursor`].
    pub async fn gaps(&self, filter: GapFilter) -> Result<Page<Gap>, Error> {
        self.readers.read(move |connection| gaps::list(connection, &filter)).await
    }

    /// Writes a copy of the database, as it is at this moment, into a file that is not there yet. Gives its length.
    ///
    /// # Errors
    /// The file is there or cannot be written, or the database cannot be read.
    pub async fn backup(&self, file: PathBuf) -> Result<u64, BackupError> {
        self.readers.apart(move |connection| upkeep::backup(connection, &file)).await?
    }

    /// What of the database is damaged, as far as can be seen.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn examine(&self) -> Result<Vec<Damage>, Error> {
        self.readers.apart(upkeep::examine).await?
    }

    /// Which database it is, how it is set, and what of that an operator should change.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn about(&self) -> Result<Database, Error> {
        let location = self.readers.location().clone();
        self.readers.read(move |connection| about::of_database(connection, &location)).await
    }

    /// How much there is.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub async fn counts(&self) -> Result<Counts, Error> {
        self.readers.read(counts::of_database).await
    }
}

/// The database's integers are signed. What does not fit is a time or count that somebody made up; it is as good as the
/// largest.
fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The way back.
fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A name in a column.
fn row_name(row: &Row, index: usize) -> Result<Name, sql::Error> {
    row.get::<String>(index)?.parse().map_err(|_| sql::Error::Column(index, "a name"))
}

/// A word in a column that holds its number.
fn row_word<T>(row: &Row, index: usize, word: impl FnOnce(u32) -> Option<T>) -> Result<T, sql::Error> {
    word(row.get(index)?).ok_or(sql::Error::Column(index, "the number of a word"))
}

#[cfg(test)]
mod tests;
