//! Packs: what an agent checks and follows on its host. Pure: text in, a [`Pack`] or the place of the mistake out.
//!
//! A pack is a TOML file:
//!
//! ```toml
//! [pack]
//! name = "base"                   # a-z, 0-9, hyphen; 1 to 64 characters
//! description = "..."             # optional
//!
//! [[check]]                       # runs a program with the interface of monitoring plugins
//! name = "http"                   # unique in the pack, over checks and logs
//! program = ["/usr/lib/nagios/plugins/check_http", "-H", "127.0.0.1"]
//! every = "60s"                   # 250ms to 24h; 60s when left out
//! timeout = "10s"                 # 250ms to 1h; 30s when left out
//! run_as = "web"                  # the profile whose credential the program gets; optional
//! extra_opts = { section = "check_http", options = { authorization = "{user}:{password}" } }   # optional
//! [check.monitor]                 # without it only performance is collected
//! alert_on = "critical"           # warning | critical | never; critical when left out
//! severity = "match"              # match | information | warning | critical; match when left out
//! priority = "normal"             # low | normal | high; normal when left out
//!
//! [[check]]                       # or looks by itself
//! name = "disk"
//! builtin = "disk"                # cpu | memory | disk | load
//! path = "/var"                   # disk only; / when left out
//! warning = 80.0                  # percent used; load: of one minute, for each core; both optional
//! critical = 95.0
//!
//! [[log]]                         # each line of a file becomes an event
//! name = "app"
//! path = "/var/log/app.log"
//! severity = "information"        # information | warning | critical; information when left out
//! ```
//!
//! Every key that is not named here is an error: a mistyped key must not quietly mean its default.

mod parse;
pub mod quantity;
mod run_as;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use wardline_proto::health::{Priority, Severity};

pub use parse::PackError;
pub use run_as::{ExtraOpts, FOLDER, Field, RunAs, Template};

/// What an agent checks and follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Pack {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`.
    pub name: String,
    /// What it is for; may be empty.
    pub description: String,
    /// What is looked at again and again.
    pub checks: Vec<Check>,
    /// The files that are followed.
    pub logs: Vec<Log>,
}

/// Something that is looked at again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`; unique in the pack, over checks and logs.
    pub name: String,
    /// How it is looked at.
    pub probe: Probe,
    /// From one start to the next: 250 ms to 24 h.
    pub every: Duration,
    /// How long one look may take: 250 ms to 1 h.
    pub timeout: Duration,
    /// What its health is used for; without one only performance is collected.
    pub monitor: Option<Monitor>,
}

/// How a check looks.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// By running a program with the interface of monitoring plugins.
    Program {
        /// The absolute path of the program.
        path: PathBuf,
        /// Its arguments, each as it is: no shell reads them. Without NUL. With `run_as`, [`FOLDER`] in them stands for
        /// the folder that the credential is in.
        arguments: Vec<String>,
        /// The credential that it asks for.
        run_as: Option<RunAs>,
    },
    /// By itself.
    Builtin {
        /// At what.
        subject: Subject,
        /// From where on it is bad.
        limits: Limits,
    },
}

/// What a built-in check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The share of the time that the processors were busy since the last look, percent.
    Cpu,
    /// The share of the memory that programs cannot have any more, percent.
    Memory,
    /// The share of a file system's space that is used, percent.
    Disk {
        /// An absolute path of a file or folder on that file system.
        path: PathBuf,
    },
    /// The load of one minute for each core.
    Load,
}

/// From which value on something is bad, in the unit of its [`Subject`]. Warning is never above critical.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// This or more is worse than it should be.
    pub warning: Option<f64>,
    /// This or more is broken.
    pub critical: Option<f64>,
}

/// What the health of a check is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// How bad it must be to raise an alert.
    pub alert_on: AlertOn,
    /// How serious that alert is.
    pub severity: AlertSeverity,
    /// How urgent that alert is.
    pub priority: Priority,
}

/// How bad a monitor must be to raise an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertOn {
    /// Warning or worse, or when the check cannot tell.
    Warning,
    /// Critical.
    #[default]
    Critical,
    /// It raises none, and only keeps its state.
    Never,
}

/// How serious an alert is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertSeverity {
    /// As bad as the health: warning and unknown are a warning, critical is critical.
    #[default]
    Match,
    /// Always information.
    Information,
    /// Always a warning.
    Warning,
    /// Always critical.
    Critical,
}

/// A file of which each line becomes an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its name: 1 to 64 of `a-z`, `0-9`, `-`; unique in the pack, over checks and logs.
    pub name: String,
    /// The absolute path by which the file is followed, also over its rotation.
    pub path: PathBuf,
    /// How serious its events are.
    pub severity: Severity,
}

impl Check {
    /// The Run As profile that it names.
    pub fn profile(&self) -> Option<&str> {
        match &self.probe {
            Probe::Program { run_as, .. } => run_as.as_ref().map(|run_as| run_as.profile.as_str()),
            Probe::Builtin { .. } => None,
        }
    }
}

impl Pack {
    /// The Run As profiles that its checks name.
    pub fn profiles(&self) -> impl Iterator<Item = &str> {
        self.checks.iter().filter_map(Check::profile)
    }

    /// Reads a pack. `file` is what errors call it.
    ///
    /// # Errors
    /// The text is no TOML, has an unknown key, or a value that is not allowed: the error says where, and what would be.
    pub fn parse(file: &str, text: &str) -> Result<Self, PackError> {
        parse::pack(file, text)
    }

    /// Reads several packs, each a file's name and text. Their names differ.
    ///
    /// # Errors
    /// One of them is wrong as for [`Pack::parse`], or has the name of an earlier one.
    pub fn parse_all<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Vec<Self>, PackError> {
        parse::packs(files)
    }
}
