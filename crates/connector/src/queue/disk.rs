//! The queue's database file, and its rows.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use wardline_proto::message::{Digest, Epoch, Mark};
use wardline_secrets::signature::random;

use super::{QueueError, Ready};
use crate::stream::{Link, Tail};

/// This program's schema of the queue.
pub(super) const SCHEMA: i64 = 1;

/// The database file.
pub(super) struct Disk {
    path: PathBuf,
    pub(super) connection: Connection,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<Self, QueueError> {
        // SQLite would make it with the umask's mode.
        File::options().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let connection = Self::connect(path)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > SCHEMA {
            return Err(QueueError::Newer(found));
        }
        if found < SCHEMA {
            connection.execute_batch(&format!(
                "BEGIN;
                 CREATE TABLE stream (
                     id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL, previous BLOB, over BLOB,
                     number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
                 CREATE TABLE batch (
                     last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash BLOB NOT NULL, bytes BLOB NOT NULL) STRICT;
                 CREATE TABLE open (
                     first INTEGER PRIMARY KEY, class INTEGER NOT NULL, numbers INTEGER NOT NULL,
                     body BLOB NOT NULL) STRICT;
                 CREATE INDEX open_class ON open (class, first);
                 CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
                 PRAGMA user_version = {SCHEMA};
                 COMMIT;"
            ))?;
            save_tail(&connection, &Tail::new(Epoch(random())))?;
        }
        Ok(Self { path: path.to_owned(), connection })
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // An acknowledgement or a sent batch must outlive a power cut: FULL syncs the log at every commit.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.busy_timeout(Duration::ZERO)?;
        Ok(connection)
    }

    pub(super) fn reopen(&mut self) -> rusqlite::Result<()> {
        self.connection = Self::connect(&self.path)?;
        // What a failed fsync left in the log is written again, or the next commit fails too.
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
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
        let ready: VecDeque<Ready> = load_batches(&self.connection)?.into();
        tail.closed = ready.iter().map(|batch| batch.link).collect();
        Ok((tail, ready))
    }

    pub(super) fn memory(&self) -> rusqlite::Result<HashMap<String, Bytes>> {
        self.connection
            .prepare("SELECT key, value FROM memory")?
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?.into())))?
            .collect()
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
pub(super) fn insert_open(tx: &Connection, first: u64, class: u8, numbers: u64, body: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO open (first, class, numbers, body) VALUES (?, ?, ?, ?)")?.execute(params![
        to_sql(first),
        class,
        to_sql(numbers),
        body
    ])?;
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

pub(super) fn load_batches(connection: &Connection) -> rusqlite::Result<Vec<Ready>> {
    connection
        .prepare("SELECT first, last, hash, bytes FROM batch ORDER BY last")?
        .query_map([], |row| {
            let hash = Digest::from_wire(&row.get::<_, Vec<u8>>(2)?).unwrap_or_default();
            let link = Link { first: from_sql(row.get(0)?), last: from_sql(row.get(1)?), hash };
            Ok(Ready { link, bytes: row.get::<_, Vec<u8>>(3)?.into() })
        })?
        .collect()
}

/// SQLite's integers have a sign; numbers stay far below it.
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
