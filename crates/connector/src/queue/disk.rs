//! The queue's database file, and its rows.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Deref;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, ffi, params};
use wardline_proto::message::{Digest, Epoch, Mark};
use wardline_secrets::protect::{RowKey, Vault};
use wardline_secrets::signature::random;

use super::{QueueError, Ready};
use crate::outage::checkpoint_aloud;
use crate::stream::{Link, Tail};

/// This program's schema of the queue. In the first one rows were in the clear.
pub(super) const SCHEMA: i64 = 2;
/// Pages of the log of writes before they are copied into the database, 4 MiB.
const CHECKPOINT_PAGES: i32 = 1000;
/// How long opening waits for somebody who reads.
const OPENING: Duration = Duration::from_secs(5);
/// What the file's own key is protected as.
const PROTECTED: &str = "queue.db";

/// The database file.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) rows: Rows,
}

/// What the file's rows are encrypted with: batches, open entries and what workflows remember. Their places, numbers,
/// classes and hashes are in the clear.
pub(super) struct Rows {
    key: RowKey,
    /// A row on its way to the disk.
    row: RefCell<Vec<u8>>,
}

/// Where a row stands: opened for another place, it is refused.
pub(super) enum Place<'a> {
    Batch(Epoch, Link),
    Open {
        epoch: Epoch,
        first: u64,
        class: u8,
        numbers: u64,
    },
    /// What a workflow remembers outlives epochs.
    Memory(&'a str),
}

impl Place<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Batch(epoch, Link { first, last, hash }) => {
                [b"batch".as_slice(), &epoch.0, &first.to_be_bytes(), &last.to_be_bytes(), &hash.0].concat()
            }
            Self::Open { epoch, first, class, numbers } => {
                [b"open".as_slice(), &epoch.0, &first.to_be_bytes(), &[*class], &numbers.to_be_bytes()].concat()
            }
            Self::Memory(key) => [b"memory".as_slice(), key.as_bytes()].concat(),
        }
    }
}

impl Rows {
    /// Encrypts a row and hands it to a statement.
    pub(super) fn sealed<T>(
        &self,
        place: &Place<'_>,
        data: &[u8],
        write: impl FnOnce(&[u8]) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut row = self.row.borrow_mut();
        let sealed = self.key.seal(&place.bytes(), data, &mut row);
        sealed.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        write(&row)
    }

    /// What a row holds; nothing when it was changed or is of another place.
    pub(super) fn opened(&self, place: &Place<'_>, row: Vec<u8>) -> Option<Vec<u8>> {
        self.key.open_row(&place.bytes(), row).ok()
    }
}

impl Disk {
    pub(super) fn open(vault: &Vault, path: &Path) -> Result<Self, QueueError> {
        // SQLite would make it with the umask's mode.
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let mut connection = Self::connect(path)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > SCHEMA {
            return Err(QueueError::Newer(found));
        }
        settle(&connection)?;
        if found < SCHEMA {
            let tx = connection.transaction()?;
            if found == 0 {
                tx.execute_batch(
                    "CREATE TABLE stream (
                         id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL, previous BLOB, over BLOB,
                         number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
                     CREATE TABLE batch (
                         last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash BLOB NOT NULL,
                         bytes BLOB NOT NULL) STRICT;
                     CREATE TABLE open (
                         first INTEGER PRIMARY KEY, class INTEGER NOT NULL, numbers INTEGER NOT NULL,
                         body BLOB NOT NULL) STRICT;
                     CREATE INDEX open_class ON open (class, first);
                     CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;",
                )?;
                save_tail(&tx, &Tail::new(Epoch(random())))?;
            }
            // `clean`: whether nothing of rows in the clear is left in parts of the file that are not in use.
            tx.execute_batch(
                "CREATE TABLE protection (
                     id INTEGER PRIMARY KEY CHECK (id = 0), key BLOB NOT NULL, clean INTEGER NOT NULL) STRICT;",
            )?;
            let key = RowKey::fresh()?;
            let protected = key.protected(vault, PROTECTED)?;
            tx.execute("INSERT INTO protection (id, key, clean) VALUES (0, ?, ?)", params![protected, found == 0])?;
            if found == 1 {
                encrypt(&tx, &Rows::with(key))?;
            }
            tx.pragma_update(None, "user_version", SCHEMA)?;
            tx.commit()?;
        }
        let (key, clean): (Vec<u8>, bool) = connection
            .query_row("SELECT key, clean FROM protection", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .ok_or(QueueError::Damaged("it has no key"))?;
        if !clean {
            // The file is written anew, and the log of writes emptied into it.
            connection.execute_batch("VACUUM")?;
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
            connection.execute("UPDATE protection SET clean = 1", [])?;
        }
        let rows = Rows::with(RowKey::open(vault, PROTECTED, &key)?);
        Ok(Self { path: path.to_owned(), connection, rows })
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let mut connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        checkpoint_aloud(&mut connection, CHECKPOINT_PAGES)?;
        // An acknowledgement or a sent batch must outlive a power cut: FULL syncs the log at every commit.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    pub(super) fn reopen(&mut self) -> rusqlite::Result<()> {
        self.connection = Self::connect(&self.path)?;
        settle(&self.connection)
    }

    pub(super) fn load(&mut self) -> Result<(Tail, VecDeque<Ready>), QueueError> {
        let mut tail = self
            .connection
            .query_row("SELECT epoch, previous, over, number, hash FROM stream", [], |row| {
                let epoch =
                    |row: &Row<'_>, at| Ok::<_, rusqlite::Error>(row.get::<_, Option<[u8; 16]>>(at)?.map(Epoch));
                let acknowledged =
                    Mark { epoch: Epoch(row.get(0)?), number: from_sql(row.get(3)?), hash: Digest(row.get(4)?) };
                Ok(Tail { acknowledged, previous: epoch(row, 1)?, over: epoch(row, 2)?, closed: VecDeque::new() })
            })
            .optional()?
            .ok_or(QueueError::Damaged("it has no stream"))?;
        let rows = Tx { connection: &self.connection, rows: &self.rows };
        let ready: VecDeque<Ready> = load_batches(&rows, tail.acknowledged.epoch)?.into();
        tail.closed = ready.iter().map(|batch| batch.link).collect();
        Ok((tail, ready))
    }

    /// What workflows remember, and the keys of what does not open.
    pub(super) fn memory(&self) -> rusqlite::Result<(HashMap<String, Bytes>, Vec<String>)> {
        let mut select = self.connection.prepare("SELECT key, value FROM memory")?;
        let all = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?;
        let (mut memory, mut damaged) = (HashMap::new(), Vec::new());
        for row in all {
            let (key, value) = row?;
            match self.rows.opened(&Place::Memory(&key), value) {
                Some(value) => drop(memory.insert(key, value.into())),
                None => damaged.push(key),
            }
        }
        Ok((memory, damaged))
    }

    /// Bytes of the open rows, and the last number written.
    pub(super) fn open_rows(&self, tail: &Tail) -> rusqlite::Result<(u64, u64)> {
        self.connection.query_row(
            "SELECT coalesce(sum(length(body)), 0), coalesce(max(first + numbers - 1), ?) FROM open",
            [to_sql(tail.head().number)],
            |row| Ok((from_sql(row.get(0)?), from_sql(row.get(1)?))),
        )
    }
}

/// Copies the log of writes into the database and empties it. What a failed sync left in the log may be only in the
/// kernel's cache: looked at again it counts as written, and is gone with the power. Copied, it is written once more.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(OPENING)?;
    let blocked: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    connection.busy_timeout(Duration::ZERO)?;
    if blocked { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)) } else { Ok(()) }
}

impl Rows {
    fn with(key: RowKey) -> Self {
        Self { key, row: RefCell::default() }
    }
}

/// Puts what an earlier version has written in the clear under the file's key.
fn encrypt(tx: &Connection, rows: &Rows) -> Result<(), QueueError> {
    let epoch = tx.query_row("SELECT epoch FROM stream", [], |row| row.get(0)).optional()?;
    let epoch = Epoch(epoch.ok_or(QueueError::Damaged("it has no stream"))?);
    let mut batches = tx.prepare("SELECT first, last, hash, bytes FROM batch")?;
    let mut update = tx.prepare("UPDATE batch SET bytes = ? WHERE last = ?")?;
    let batches = batches.query_map([], |row| Ok((link(row)?, row.get(3)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for (link, bytes) in batches {
        let bytes: Vec<u8> = bytes;
        rows.sealed(&Place::Batch(epoch, link), &bytes, |row| update.execute(params![row, to_sql(link.last)]))?;
    }
    let mut open = tx.prepare("SELECT first, class, numbers FROM open")?;
    let open = open
        .query_map([], |row| Ok((from_sql(row.get(0)?), row.get(1)?, from_sql(row.get(2)?))))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    // There may be as many as the budget allows: one at a time.
    let mut select = tx.prepare("SELECT body FROM open WHERE first = ?")?;
    let mut update = tx.prepare("UPDATE open SET body = ? WHERE first = ?")?;
    for (first, class, numbers) in open {
        let body: Vec<u8> = select.query_row([to_sql(first)], |row| row.get(0))?;
        let place = Place::Open { epoch, first, class, numbers };
        rows.sealed(&place, &body, |row| update.execute(params![row, to_sql(first)]))?;
    }
    let mut memory = tx.prepare("SELECT key, value FROM memory")?;
    let mut update = tx.prepare("UPDATE memory SET value = ? WHERE key = ?")?;
    let memory = memory.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<_>>>()?;
    for (key, value) in memory {
        let (key, value): (String, Vec<u8>) = (key, value);
        rows.sealed(&Place::Memory(&key), &value, |row| update.execute(params![row, key]))?;
    }
    Ok(())
}

/// A transaction, or a connection that only reads, with what the rows are encrypted with.
pub(super) struct Tx<'a> {
    pub(super) connection: &'a Connection,
    pub(super) rows: &'a Rows,
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

pub(super) fn insert_open(
    tx: &Tx<'_>,
    epoch: Epoch,
    first: u64,
    class: u8,
    numbers: u64,
    body: &[u8],
) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached("INSERT INTO open (first, class, numbers, body) VALUES (?, ?, ?, ?)")?;
    let place = Place::Open { epoch, first, class, numbers };
    tx.rows.sealed(&place, body, |row| insert.execute(params![to_sql(first), class, to_sql(numbers), row]))?;
    Ok(())
}

/// Writes a closed batch, in place of one that ends there.
pub(super) fn insert_batch(tx: &Tx<'_>, epoch: Epoch, link: Link, bytes: &[u8]) -> rusqlite::Result<()> {
    let mut insert =
        tx.prepare_cached("INSERT OR REPLACE INTO batch (last, first, hash, bytes) VALUES (?, ?, ?, ?)")?;
    let (last, first) = (to_sql(link.last), to_sql(link.first));
    tx.rows.sealed(&Place::Batch(epoch, link), bytes, |row| {
        insert.execute(params![last, first, link.hash.0.as_slice(), row])
    })?;
    Ok(())
}

/// Keeps or forgets what a workflow remembers.
pub(super) fn remember(tx: &Tx<'_>, key: &str, value: Option<&[u8]>) -> rusqlite::Result<()> {
    match value {
        Some(value) => {
            let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO memory (key, value) VALUES (?, ?)")?;
            tx.rows.sealed(&Place::Memory(key), value, |row| insert.execute(params![key, row]))?
        }
        None => tx.prepare_cached("DELETE FROM memory WHERE key = ?")?.execute([key])?,
    };
    Ok(())
}

pub(super) fn save_tail(tx: &Connection, tail: &Tail) -> rusqlite::Result<()> {
    let mark = tail.acknowledged;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO stream (id, epoch, previous, over, number, hash) VALUES (0, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        mark.epoch.0.as_slice(),
        tail.previous.map(|epoch| epoch.0),
        tail.over.map(|epoch| epoch.0),
        to_sql(mark.number),
        mark.hash.0.as_slice()
    ])?;
    Ok(())
}

/// The closed batches, oldest first. One that does not open has no bytes.
pub(super) fn load_batches(tx: &Tx<'_>, epoch: Epoch) -> rusqlite::Result<Vec<Ready>> {
    tx.prepare("SELECT first, last, hash, bytes FROM batch ORDER BY last")?
        .query_map([], |row| {
            let link = link(row)?;
            let bytes = tx.rows.opened(&Place::Batch(epoch, link), row.get(3)?);
            Ok(Ready { link, bytes: bytes.unwrap_or_default().into() })
        })?
        .collect()
}

/// A batch's place in the chain, from its first, its last number and its hash.
fn link(row: &Row<'_>) -> rusqlite::Result<Link> {
    let hash = Digest::from_wire(&row.get::<_, Vec<u8>>(2)?).unwrap_or_default();
    Ok(Link { first: from_sql(row.get(0)?), last: from_sql(row.get(1)?), hash })
}

/// SQLite's integers have a sign; numbers stay far below it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
