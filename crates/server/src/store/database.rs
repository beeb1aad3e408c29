//! Opening the database file: nobody else may read it, a commit means the disk has it, and its schema is ours.

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior, ffi};
use wardline_proto::event::Event;

/// One step of the schema each; the number of steps taken stands in `PRAGMA user_version`.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
];

/// Marks the file as ours ("Ward"): a database of another program is not migrated.
const APPLICATION_ID: i32 = 0x5761_7264;

/// How long opening waits for somebody who locks the database. Writing does not wait here: the writer does.
const OPENING: Duration = Duration::from_secs(5);

/// Pages of the WAL before they are copied into the database, 32 MiB: pages that every commit changes are copied and
/// synced once for many commits.
const CHECKPOINT_PAGES: u32 = 8192;

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer version of the program has written it. It was left alone.
    #[error("the database {} has schema {found}, this program knows schemas up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// It cannot be opened, is damaged, or belongs to another program.
    #[error("the database {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file that keeps the head of the trust log cannot be used.
    #[error("{} cannot be used: {reason}", path.display())]
    Kept {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The trust log does not begin with what was kept of it.
    #[error("the trust log is not the one that this server knows: {place} has kept {kept}, the database has {found}")]
    LogRolledBack {
        /// Where it was kept.
        place: String,
        /// What was kept.
        kept: String,
        /// What is there.
        found: String,
    },
    /// An entry of the trust log cannot stand there.
    #[error("entry {number} of the trust log cannot be believed: {reason}")]
    LogDamaged {
        /// Its place.
        number: u64,
        /// Why.
        reason: String,
    },
}

impl OpenError {
    /// The event that tells the operator.
    pub fn event(&self) -> Event {
        match self {
            Self::Newer { path, found, known } => Event::DatabaseNewer {
                path: path.display().to_string(),
                found: found.to_string(),
                known: known.to_string(),
            },
            Self::Unusable { path, reason } => {
                Event::DatabaseUnusable { path: path.display().to_string(), reason: reason.clone() }
            }
            Self::Kept { path, reason } => {
                Event::StateFolderInUse { path: path.display().to_string(), reason: reason.clone() }
            }
            Self::LogRolledBack { place, kept, found } => {
                Event::LogRolledBack { place: place.clone(), kept: kept.clone(), found: found.clone() }
            }
            Self::LogDamaged { number, reason } => {
                Event::LogDamaged { number: number.to_string(), reason: reason.clone() }
            }
        }
    }
}

/// Opens the database for writing and brings its schema up to date; makes it when it is not there.
pub(super) fn create_or_open(path: &Path) -> Result<Connection, OpenError> {
    let unusable = |reason: String| OpenError::Unusable { path: path.into(), reason };
    private(path).map_err(|error| unusable(error.to_string()))?;
    let mut connection = connect(path).map_err(|error| unusable(error.to_string()))?;
    match prepare(&mut connection) {
        Ok(None) => Ok(connection),
        Ok(Some(found)) => Err(OpenError::Newer { path: path.into(), found, known: known() }),
        Err(error) => Err(unusable(error.to_string())),
    }
}

/// Opens the database again, after a failure that leaves its connection in doubt.
pub(super) fn reopen(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = connect(path)?;
    match prepare(&mut connection)? {
        None => Ok(connection),
        Some(_) => Err(rusqlite::Error::SqliteFailure(
            ffi::Error::new(ffi::SQLITE_SCHEMA),
            Some("a newer version of the program has changed the database".into()),
        )),
    }
}

/// Opens a connection that only reads.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(OPENING)?;
    Ok(connection)
}

/// The schema of this version of the program.
pub(super) fn known() -> u32 {
    MIGRATIONS.len() as u32
}

/// Makes sure that the file is there and that only its owner reads it. SQLite gives `-wal` and `-shm` the same mode.
fn private(path: &Path) -> std::io::Result<()> {
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

/// Settings and schema. Gives the schema's number, with nothing changed, when it is newer than ours.
fn prepare(connection: &mut Connection) -> rusqlite::Result<Option<u32>> {
    // Until it is known to be ours, not even closing may change the file.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(OPENING)?;
    let number = |connection: &Connection, pragma| connection.pragma_query_value(None, pragma, |row| row.get(0));
    let found: u32 = number(connection, "user_version")?;
    if found > known() {
        return Ok(Some(found));
    }
    let application: u32 = number(connection, "application_id")?;
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
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // A WAL that had to grow while somebody was reading for long does not stay large.
    connection.pragma_update(None, "journal_size_limit", 4 * 4096 * i64::from(CHECKPOINT_PAGES))?;
    migrate(connection)?;
    settle(connection)?;
    connection.busy_timeout(Duration::ZERO)?;
    Ok(None)
}

/// Takes the missing steps, all or none.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: usize = transaction.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))? as usize;
    for step in MIGRATIONS.iter().skip(found) {
        transaction.execute_batch(step)?;
    }
    if found < MIGRATIONS.len() {
        transaction.pragma_update(None, "user_version", known())?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    transaction.commit()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Folder;

    #[test]
    fn a_database_is_private_from_the_first_byte_and_stays_so() {
        let folder = Folder::new();
        let path = folder.database();
        let connection = create_or_open(&path).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM gap; COMMIT").unwrap();
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", path.display());
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        }
        drop(connection);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        create_or_open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_commit_means_that_the_disk_has_it() {
        let folder = Folder::new();
        let connection = create_or_open(&folder.database()).unwrap();
        let value = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(value("synchronous"), 2);
        assert_eq!(value("foreign_keys"), 1);
        assert_eq!(value("busy_timeout"), 0);
        assert_eq!(connection.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0)).unwrap(), "wal");
    }

    #[test]
    fn a_newer_schema_is_refused_and_the_file_is_left_alone() {
        let folder = Folder::new();
        let path = folder.database();
        let connection = create_or_open(&path).unwrap();
        connection.pragma_update(None, "user_version", known() + 1).unwrap();
        drop(connection);
        let before = std::fs::read(&path).unwrap();
        let error = create_or_open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found, known: 4, .. } if found == 5), "{error}");
        assert_eq!(error.event().number(), 40022);
        assert!(std::fs::read(&path).unwrap() == before);
    }

    #[test]
    fn what_is_no_database_of_ours_is_refused() {
        let folder = Folder::new();
        let path = folder.database();
        std::fs::write(&path, "this is a letter to my grandmother, long enough to be taken for a header of something")
            .unwrap();
        assert_eq!(create_or_open(&path).unwrap_err().event().number(), 40023);

        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE agent (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = create_or_open(&path).unwrap_err();
        assert!(error.to_string().contains("another program"), "{error}");
        assert!(std::fs::read(&path).unwrap() == before);

        assert_eq!(create_or_open(Path::new("/nonexistent/db")).unwrap_err().event().number(), 40023);
    }
}
