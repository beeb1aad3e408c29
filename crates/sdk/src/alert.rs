//! Alerts: what a monitor that became worse asks somebody to look at.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wardline_proto::Name;
use wardline_proto::health::{Priority, Severity};

use crate::Time;

/// An alert as lists show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its id.
    pub id: Uuid,
    /// Whose monitor raised it.
    pub agent: Name,
    /// The monitor: `pack/monitor`.
    pub monitor: String,
    /// How serious.
    pub severity: Severity,
    /// How urgent.
    pub priority: Priority,
    /// Resolution state: 0 is new, 255 is closed ([`wardline_proto::health::resolution`]).
    pub state: u8,
    /// One line.
    pub text: String,
    /// How often it was said again.
    pub repeat_count: u32,
    /// When it was raised, the agent's clock.
    pub raised_at: Time,
    /// When it last changed, the agent's clock.
    pub modified_at: Time,
    /// When it was closed, the agent's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Time>,
}

/// All that is known of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertDetail {
    /// What lists show.
    #[serde(flatten)]
    pub alert: Alert,
    /// What else the check printed.
    pub detail: String,
    /// What became of it, oldest first.
    pub history: Vec<AlertChange>,
}

/// One thing that became of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertChange {
    /// What it was.
    pub change: Change,
    /// When, by the clock of whoever did it.
    pub at: Time,
    /// When the server got to know it.
    pub received_at: Time,
    /// How serious the alert was from then on.
    pub severity: Severity,
    /// The resolution state from then on.
    pub state: u8,
    /// One line.
    pub text: String,
}

/// What can become of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was raised.
    Raised,
    /// It was said again.
    Repeated,
    /// It was said again after it had been closed.
    Reopened,
    /// It was closed.
    Closed,
}

impl Change {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raised => "raised",
            Self::Repeated => "repeated",
            Self::Reopened => "reopened",
            Self::Closed => "closed",
        }
    }
}

/// Which alerts to list, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertFilter {
    /// Closed ones too.
    #[serde(default)]
    pub all: bool,
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
