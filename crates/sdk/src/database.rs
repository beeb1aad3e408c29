//! The database as a file: copies of it, and whether it can be read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a copy of the database is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupOrder {
    /// A file on the server's host that is not there yet, by its full path.
    pub file: PathBuf,
}

/// A copy of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where it is.
    pub file: PathBuf,
    /// How large it is, bytes.
    pub bytes: u64,
}

/// What of a database cannot be read, or makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// What of it: rows of a table, by their numbers, or a part of the file.
    pub place: String,
    /// What SQLite says of it.
    pub reason: String,
}
