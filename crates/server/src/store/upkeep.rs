//! Copies of a database that is a file, and what of a database cannot be read.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use wardline_sdk::Damage;

use super::postgres::Postgres;
use super::sql::{self, Connection, Engine, params};
use super::{Error, sqlite};

/// The most damages that are told at once.
const DAMAGES: usize = 100;
/// A table that grows, and the column by whose numbers its rows are named.
type Growing = (&'static str, &'static str);
const GROWING: [Growing; 6] = [
    ("event", "number"),
    ("sample", "number"),
    ("alert", "number"),
    ("gap", "id"),
    ("set_aside", "id"),
    ("log", "number"),
];
/// So many rows of them are read at once, a power of two.
const ROWS: i64 = 512;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is a file of that name.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("{} cannot be written: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// The database cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
}

/// Writes a copy of one state of the database into a file that is not there yet, for its owner only. Gives its length.
///
/// The name is taken first and the copy renamed to it at last: what has the name and something in it is whole.
pub(super) fn backup(connection: &Connection, file: &Path) -> Result<u64, BackupError> {
    let Engine::Sqlite(connection) = connection.engine() else { return Err(Error::NoFile.into()) };
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::AlreadyExists => BackupError::Exists(file.into()),
        _ => BackupError::File(file.into(), error),
    };
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    let mut part = file.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let copied = copy(connection, &part, file).map_err(|error| match error {
        Copying::File(error) => failed(error),
        Copying::Database(error) => Error::Unreadable(error.into()).into(),
    });
    if copied.is_err() {
        // What is not whole is of no use. If it cannot be removed, it is still empty.
        let _ = fs::remove_file(&part);
        let _ = fs::remove_file(file);
    }
    copied
}

enum Copying {
    File(io::Error),
    Database(rusqlite::Error),
}

fn copy(connection: &rusqlite::Connection, part: &Path, file: &Path) -> Result<u64, Copying> {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part);
    let written = created.and_then(|made| made.set_permissions(Permissions::from_mode(0o600)).map(|()| made));
    let written = written.map_err(Copying::File)?;
    connection.execute("VACUUM INTO ?", [part.to_string_lossy()]).map_err(Copying::Database)?;
    let kept = written.sync_all().and_then(|()| fs::rename(part, file));
    let kept = kept.and_then(|()| File::open(file.parent().unwrap_or(file))?.sync_all());
    kept.and_then(|()| written.metadata()).map(|metadata| metadata.len()).map_err(Copying::File)
}

/// What of the database cannot be read, at most [`DAMAGES`]. Reads all of it.
pub(super) fn examine(connection: &Connection) -> Result<Vec<Damage>, Error> {
    let damages = match connection.engine() {
        Engine::Sqlite(file) => examine_file(file, connection),
        Engine::Postgres(server) => examine_server(server, connection),
    };
    Ok(damages?)
}

fn examine_file(file: &rusqlite::Connection, connection: &Connection) -> Result<Vec<Damage>, sql::Error> {
    let told = quick_check(file)?;
    if told == ["ok"] {
        return Ok(Vec::new());
    }
    let mut damages = unreadable_rows(connection)?;
    let of_file = told.iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with("***"));
    damages.extend(of_file.map(|line| Damage { place: "the file".into(), reason: line.into() }));
    damages.truncate(DAMAGES);
    Ok(damages)
}

fn examine_server(server: &Postgres, connection: &Connection) -> Result<Vec<Damage>, sql::Error> {
    // Rows that are asked for by their numbers are read by these: otherwise any damage is met by any question.
    server.batch("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")?;
    let mut damages = unreadable_rows(connection)?;
    let tables = "SELECT relname::text FROM pg_class
                  WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY relname";
    for table in connection.read(tables, params![], |row| row.get::<String>(0))? {
        if GROWING.iter().any(|(growing, _)| *growing == table) {
            continue;
        }
        // Every column, also where it is kept apart.
        match connection.number(&format!("SELECT count(length(t::text)) FROM {table} t")) {
            Err(error) if error.is_damage() => {
                damages.push(Damage { place: format!("the table {table}"), reason: error.to_string() });
            }
            read => _ = read?,
        }
    }
    damages.truncate(DAMAGES);
    Ok(damages)
}

/// What SQLite says of the whole file. It may give up on what it finds.
fn quick_check(connection: &rusqlite::Connection) -> rusqlite::Result<Vec<String>> {
    let mut told = Vec::new();
    let mut check = connection.prepare(&format!("PRAGMA quick_check({DAMAGES})"))?;
    let mut rows = check.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => told.push(row.get(0)?),
            Ok(None) => return Ok(told),
            Err(error) if sqlite::is_damage(&error) => {
                told.push(error.to_string());
                return Ok(told);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The ranges of rows that cannot be read, of the tables that grow.
fn unreadable_rows(connection: &Connection) -> Result<Vec<Damage>, sql::Error> {
    let mut damages = Vec::new();
    for table in GROWING {
        unreadable(connection, table, &mut damages)?;
    }
    Ok(damages)
}

/// The ranges of a table's rows that cannot be read.
fn unreadable(connection: &Connection, table: Growing, damages: &mut Vec<Damage>) -> Result<(), sql::Error> {
    let mut from = 1;
    while damages.len() < DAMAGES {
        let (last, error) = read_on(connection, table, from, i64::MAX)?;
        let Some(reason) = error else { break };
        let begin = last.map_or(from, |last| last.saturating_add(1));
        let reads = |number| read_on(connection, table, number, 1).map(|(_, error)| error.is_none());
        // The first number from which on rows can be read again.
        let (mut bad, mut good) = (begin, i64::MAX);
        let name = table.0;
        if !reads(good)? {
            damages.push(Damage { place: format!("rows from {begin} on of the table {name}"), reason });
            break;
        }
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2;
            *(if reads(middle)? { &mut good } else { &mut bad }) = middle;
        }
        damages.push(Damage { place: format!("rows {begin} to {bad} of the table {name}"), reason });
        from = good;
    }
    Ok(())
}

/// Reads so many rows from a number on: the last that could be read, and what the database says of the next if that is
/// damaged.
fn read_on(
    connection: &Connection,
    (table, number): Growing,
    mut from: i64,
    mut limit: i64,
) -> Result<(Option<i64>, Option<String>), sql::Error> {
    let select = format!("SELECT {number}, * FROM {table} WHERE {number} >= ?1 ORDER BY {number} LIMIT ?2");
    let (mut last, mut rows) = (None, ROWS);
    while limit > 0 {
        match connection.query(&select, params![from, rows.min(limit)]) {
            Ok(read) => {
                let Some(row) = read.last() else { break };
                let number = row.get::<i64>(0)?;
                last = Some(number);
                from = number.saturating_add(1);
                limit -= rows.min(limit);
            }
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) if rows == 1 => return Ok((last, Some(error.to_string()))),
            Err(_) => rows /= 2,
        }
    }
    Ok((last, None))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::super::database::{self, Location};
    use super::*;
    use crate::store::tests::Folder;

    fn with_events(folder: &Folder, count: i64) -> Connection {
        let connection = database::create_or_open(&folder.location()).unwrap();
        let insert = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
                      INSERT INTO event SELECT n, 1, n, 1, zeroblob(16), 'base/app', hex(zeroblob(100)) FROM n";
        connection.execute(insert, params![count]).unwrap();
        connection
    }

    #[test]
    fn a_copy_is_whole_and_private_and_never_over_another_file() {
        let folder = Folder::new();
        let connection = with_events(&folder, 100);
        let file = folder.path().join("copy.db");
        let bytes = backup(&connection, &file).unwrap();
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (bytes, 0o600));
        let copied = database::create_or_open(&Location::File(file.clone())).unwrap();
        assert_eq!(copied.number("SELECT count(*) FROM event").unwrap(), 100);
        drop(copied);
        let before = fs::read(&file).unwrap();
        assert!(matches!(backup(&connection, &file), Err(BackupError::Exists(_))));
        assert!(fs::read(&file).unwrap() == before);
        let nowhere = folder.path().join("nowhere/copy.db");
        assert!(matches!(backup(&connection, &nowhere), Err(BackupError::File(..))));
        assert!(!file.with_extension("db.part").exists());
    }

    #[test]
    fn rows_that_cannot_be_read_are_named_and_no_others() {
        let folder = Folder::new();
        let connection = with_events(&folder, 1000);
        assert_eq!(examine(&connection).unwrap(), []);
        drop(connection);
        // The type of a page in the middle of the events.
        let file = OpenOptions::new().write(true).open(folder.database()).unwrap();
        let pages = file.metadata().unwrap().len() / 4096;
        file.write_all_at(&[0x77], (pages - 10) * 4096).unwrap();
        let connection = database::open_to_read(&folder.location()).unwrap();
        let damages = examine(&connection).unwrap();
        let place = damages[0].place.strip_prefix("rows ").unwrap().strip_suffix(" of the table event").unwrap();
        let (from, to) = place.split_once(" to ").unwrap();
        let (from, to): (i64, i64) = (from.parse().unwrap(), to.parse().unwrap());
        let readable = |rows: &str| {
            let sql = format!("SELECT count(text) FROM (SELECT text FROM event {rows})");
            connection.number(&sql).unwrap()
        };
        assert!(from > 1 && to < 1000 && to - from < 40, "{damages:?}");
        assert_eq!(readable(&format!("ORDER BY number LIMIT {}", from - 1)), from - 1);
        assert_eq!(readable(&format!("WHERE number >= {}", to + 1)), 1000 - to);
        assert!(damages.iter().any(|damage| damage.place == "the file"), "{damages:?}");
        assert!(matches!(backup(&connection, &folder.path().join("copy.db")), Err(BackupError::Store(_))));
        assert!(!folder.path().join("copy.db").exists());
    }
}
