//! Gaps: what an agent had found and the database will never have, counted in its place.

use serde::{Deserialize, Serialize};
use wardline_proto::{Name, entry};

use crate::Time;

/// Entries that are missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Whose.
    pub agent: Name,
    /// The stream's epoch, hexadecimal.
    pub epoch: String,
    /// The number of the first that is missing.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// Why.
    pub reason: GapReason,
    /// How many performance entries.
    pub performance: u64,
    /// How many events.
    pub events: u64,
    /// How many state changes.
    pub states: u64,
    /// How many alerts and closings.
    pub alerts: u64,
    /// How many of which only the number is known.
    pub unknown: u64,
    /// When the first of them was found, the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Time>,
    /// When the last of them was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Time>,
    /// When the server got to know it.
    pub received_at: Time,
}

/// Why entries are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The agent's queue was full.
    QueueFull,
    /// The server had acknowledged them and was restored to an earlier state.
    LostByRestore,
    /// The queue was rolled back to an earlier state; whether the server had them cannot be told any more.
    QueueRolledBack,
    /// They were damaged on the agent's disk.
    Damaged,
    /// The agent gave a reason that this version does not know.
    Other,
}

impl GapReason {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::LostByRestore => "lost-by-restore",
            Self::QueueRolledBack => "queue-rolled-back",
            Self::Damaged => "damaged",
            Self::Other => "other",
        }
    }

    /// From the number on the wire.
    pub fn from_number(number: i32) -> Self {
        match entry::GapReason::try_from(number) {
            Ok(entry::GapReason::QueueFull) => Self::QueueFull,
            Ok(entry::GapReason::LostByRestore) => Self::LostByRestore,
            Ok(entry::GapReason::QueueRolledBack) => Self::QueueRolledBack,
            Ok(entry::GapReason::Damaged) => Self::Damaged,
            Ok(entry::GapReason::Unspecified) | Err(_) => Self::Other,
        }
    }
}

/// Which gaps to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapFilter {
    /// Only those of this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
