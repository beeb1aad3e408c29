//! Agents: who says something, and how far it was heard.

use serde::{Deserialize, Serialize};
use wardline_proto::{Name, Principal};

use crate::Time;

/// An agent that was heard at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its name.
    pub name: Name,
    /// When it first opened a stream.
    pub first_seen: Time,
    /// When it was last heard of.
    pub last_seen: Time,
    /// Its session, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Why it may be that it is not heard; nothing while it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grey: Option<String>,
    /// Two queues displaced each other, and nothing is taken from either until an operator releases them.
    pub held: bool,
    /// How often a queue was displaced by one that did not know of it.
    pub displacements: u32,
    /// The live stream's epoch, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// The last number of the live stream that is in the database.
    pub number: u64,
    /// How many gap records there are.
    pub gaps: u64,
    /// The Kerberos principal by which its hops may be proved; without one, by certificates only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

/// A session that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// When its last heartbeat came, the server's clock.
    pub last_heartbeat: Time,
    /// The gateway it comes by; nothing when it comes directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Name>,
}

/// Which agents to list, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentFilter {
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
