//! A database in a file: nobody else may read it, and a commit means the disk has it.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use wardline_connector::outage::checkpoint_aloud;

use super::sql::Values;

/// Marks the file as ours ("Ward"): a database of another program is not migrated.
const APPLICATION_ID: i32 = 0x5761_7264;

/// How long opening waits for somebody who locks the database. Writing does not wait here: the writer does.
const OPENING: Duration = Duration::from_secs(5);

/// Pages of the WAL before they are copied into the database, 32 MiB: pages that every commit changes are copied and
/// synced once for many commits.
const CHECKPOINT_PAGES: i32 = 8192;

/// Opens the file for writing and brings its schema up to date by `migrate`, which is told its number and gives whether it
/// knows that; makes it when it is not there. Gives the number as it was, alone and with nothing changed when it is not
/// known.
pub(super) fn open(
    path: &Path,
    known: u32,
    migrate: impl FnOnce(&Connection, u32) -> rusqlite::Result<()>,
) -> rusqlite::Result<Result<(Connection, u32), u32>> {
    let mut connection = connect(path)?;
    // Until it is known to be ours, not even closing may change the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(OPENING)?;
    checkpoint_aloud(&mut connection, CHECKPOINT_PAGES)?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let found: u32 = number("user_version")?;
    if found > known {
        return Ok(Err(found));
    }
    let application: u32 = number("application_id")?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION_ID as u32 && (application != 0 || tables != 0) {
        return Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_NOTADB),
            Some("it belongs to another program".into()),
        ));
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A WAL that had to grow while somebody was reading for long does not stay large.
    connection.pragma_update(None, "journal_size_limit", 4 * 4096 * i64::from(CHECKPOINT_PAGES))?;
    connection.execute_batch("BEGIN IMMEDIATE")?;
    // What is dropped is rolled back.
    let found: u32 = number("user_version")?;
    migrate(&connection, found)?;
    if found < known {
        connection.pragma_update(None, "user_version", known)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    connection.execute_batch("COMMIT")?;
    settle(&connection)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(Ok((connection, found)))
}

/// Opens a connection that only reads.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(OPENING)?;
    Ok(connection)
}

/// Makes sure that the file is there and that only its owner reads it. SQLite gives `-wal` and `-shm` the same mode.
pub(super) fn private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Every statement of the writer stays prepared.
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Copies the WAL into the database and empties it.
///
/// When a sync of the WAL has failed, the kernel may have dropped what was to be written and still show it in its
/// cache, and a second sync succeeds without writing it. A commit that failed in this way can come back to life when the
/// WAL is read anew. Copying writes these pages once more, to another file, whose sync proves something.
fn settle(connection: &Connection) -> rusqlite::Result<()> {
    let blocked: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if blocked { Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None)) } else { Ok(()) }
}

/// Inserts many rows, in their order.
pub(super) fn insert(connection: &Connection, table: &str, columns: &[(&str, Values<'_>)]) -> rusqlite::Result<()> {
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let places = vec!["?"; columns.len()].join(", ");
    let sql = format!("INSERT INTO {table} ({}) VALUES ({places})", names.join(", "));
    let mut insert = connection.prepare_cached(&sql)?;
    for row in 0..columns.first().map_or(0, |(_, values)| values.len()) {
        insert.execute(rusqlite::params_from_iter(columns.iter().map(|(_, values)| values.at(row))))?;
    }
    Ok(())
}

/// What is there cannot be read.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// It is about one row; trying again cannot help.
pub(super) fn is_about_the_row(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}
