//! Status: whether all is well with the server itself, in one look.

use serde::{Deserialize, Serialize};
use wardline_proto::Name;

use crate::Time;

/// How the server is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The server's name.
    pub name: Name,
    /// The server without a database by which it was asked; nothing when it was asked itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Name>,
    /// The program's version.
    pub version: String,
    /// When it was started.
    pub started_at: Time,
    /// The version of the database's schema.
    pub schema: u32,
    /// How large the database is, bytes.
    pub database_bytes: u64,
    /// How many agents were ever heard.
    pub agents: u64,
    /// How many of them have a session now.
    pub agents_connected: u64,
    /// How many are held until an operator releases them.
    pub agents_held: u64,
    /// How many alerts are open.
    pub alerts_open: u64,
    /// How many events are in the database.
    pub events: u64,
    /// How many gap records.
    pub gaps: u64,
    /// How many entries could not be understood and were set aside.
    pub set_aside: u64,
    /// Whether the group has a recovery key.
    pub recovery: bool,
    /// Whether the issuing CA or the duty certificate is due to be made anew and waits for the root's key.
    #[serde(default)]
    pub root_key_needed: bool,
    /// How many Run As accounts there are.
    #[serde(default)]
    pub accounts: u64,
    /// Those that go to every agent.
    #[serde(default)]
    pub accounts_everywhere: Vec<String>,
    /// Whether the server's configuration lets accounts go to every agent.
    #[serde(default)]
    pub less_secure_distribution: bool,
    /// How many agents have no sealing key yet: nothing secret can be sent to them.
    #[serde(default)]
    pub agents_without_sealing_key: u64,
    /// What the keys are protected by that rest on the server's disk.
    #[serde(default)]
    pub protector: String,
}
