//! The database: which it is, copies of it, and whether it can be read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which database a server uses, and how it is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// `SQLite` or `PostgreSQL`.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// Where it is, as the server's configuration has it: the file, or hosts and name.
    pub place: String,
    /// The way to it: a file, a unix socket, or the host that is used now and the version of TLS.
    pub way: String,
    /// The version of its schema.
    pub schema: u32,
    /// The newest that the server knows.
    pub newest_schema: u32,
    /// How large it is, bytes.
    pub bytes: u64,
    /// What decides whether it keeps what it has said to keep, in its own names.
    pub settings: BTreeMap<String, String>,
    /// Who follows it.
    pub standbys: Vec<Standby>,
    /// What to change, and why, in words.
    pub warnings: Vec<String>,
}

/// A standby of a PostgreSQL server. What is left out, the server's role may not see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standby {
    /// What it calls itself.
    pub name: String,
    /// Where it is; nothing on a unix socket.
    pub address: Option<String>,
    /// What it does: `streaming`, `catchup`.
    pub state: Option<String>,
    /// Whether commits wait for it: `sync`, `quorum`; `potential`, `async` when they do not.
    pub commits: Option<String>,
    /// How much of the log is not durable there yet, bytes.
    pub behind: Option<i64>,
}

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
    /// What of it: rows of a table, by their numbers, a table, or a part of the file.
    pub place: String,
    /// What the database says of it.
    pub reason: String,
}
