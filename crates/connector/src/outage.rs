//! A database that takes nothing: what of it operators are told, and when it is over.

use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::statvfs::statvfs;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, Error, ErrorCode};
use wardline_proto::event::Event;

use crate::journal;

/// With so little room left a disk is full, whatever SQLite makes of it.
const FULL: u64 = 64 * 1024;

/// From the first failure to what succeeds. Each kind of trouble is said once.
#[derive(Debug)]
pub struct Outage {
    place: String,
    since: Option<Instant>,
    said: Vec<u32>,
}

impl Outage {
    /// Of the database in this place.
    pub fn of(place: &impl ToString) -> Self {
        Self { place: place.to_string(), since: None, said: Vec::new() }
    }

    /// A write failed, by this [`trouble`], and will be tried again.
    pub fn failed(&mut self, event: Event) {
        self.since.get_or_insert_with(Instant::now);
        if !self.said.contains(&event.number()) {
            self.said.push(event.number());
            journal::emit(event);
        }
    }

    /// A write succeeded.
    pub fn over(&mut self) {
        if let Some(since) = self.since.take() {
            self.said.clear();
            let (path, seconds) = (self.place.clone(), format!("{:.1}", since.elapsed().as_secs_f64()));
            journal::emit(Event::DatabaseBack { path, seconds });
        }
    }
}

/// Copies the log of writes into the database once it has so many pages, as SQLite does by itself, but not in silence when
/// that fails. Nothing is lost by it: what was committed stays in the log, and is copied again.
///
/// # Errors
/// There is no memory for it.
pub fn checkpoint_aloud(connection: &mut Connection, pages: i32) -> rusqlite::Result<()> {
    let path = PathBuf::from(connection.path().unwrap_or_default());
    let mut outage = Outage::of(&path.display());
    connection.wal_hook(Some(move |wal: &mut Wal, waiting| {
        if waiting >= pages {
            match wal.checkpoint() {
                Ok(()) => outage.over(),
                Err(error) if is_busy(&error) => {}
                Err(error) => outage.failed(trouble(&path, &error)),
            }
        }
        Ok(())
    }))
}

/// Whether somebody else has the lock: nothing was tried then, so nothing is in doubt.
pub fn is_busy(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// What an operator has to know of a write into a file that failed.
pub fn trouble(file: &Path, error: &Error) -> Event {
    let (path, reason) = (file.display().to_string(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Event::DatabaseUnusable { path, reason },
        Some(ErrorCode::DiskFull) => Event::DiskFull { path },
        // Where a file must grow or be made, SQLite does not say why it cannot.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full(file) => Event::DiskFull { path },
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
            Event::DiskFailed { path, reason }
        }
        _ => Event::DatabaseBusy { path, reason },
    }
}

fn is_full(file: &Path) -> bool {
    statvfs(file.parent().unwrap_or(file)).is_ok_and(|disk| disk.blocks_available() * disk.fragment_size() < FULL)
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    #[test]
    fn each_kind_of_trouble_is_told_by_its_event() {
        let number =
            |code| trouble(Path::new("/proc/self"), &Error::SqliteFailure(ffi::Error::new(code), None)).number();
        assert_eq!([ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_NOMEM].map(number), [40020; 3]);
        assert_eq!([ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB].map(number), [40023; 2]);
        assert_eq!(number(ffi::SQLITE_FULL), 40025);
        // There is no room under /proc.
        assert_eq!(number(ffi::SQLITE_IOERR_SHMSIZE), 40025);
        let path = std::env::temp_dir().join("db");
        assert_eq!(
            trouble(&path, &Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_IOERR_FSYNC), None)).number(),
            40026
        );
    }
}
