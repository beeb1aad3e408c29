//! Watches a host and reports to its parent.
//!
//! ```text
//!   groups: all of this for each management group, apart from the others
//!      |
//!   packs (TOML), of this host and of the group's server: configured
//!      |
//!      v
//!   workflow            one task for each check and each log; owns them, and stops them all when one ends
//!      |
//!      |   every interval                             whenever the file has grown
//!      |                                                       |
//!   credentials  an account, opened       |                    |
//!      v                                  |                    |
//!   plugin   runs a program, by itself    |                    |
//!      |     or by wardline-runas      builtin  reads procfs   |
//!      v                                  |     and statvfs    |
//!   scrub    takes the secrets out        |                    |
//!      v                                  v                    v
//!   outcome  <-- perfdata   health, text, samples           log_file   complete lines, position
//!      |                                                       |
//!      v                                                       |
//!   check  -->  monitor     what changed: state, alert, close  |
//!      |                                                       |
//!      +--------------------- Put -----------------------------+
//!                              |   entries, and what the workflow remembers: one transaction
//!                              v
//!                           outbox    the queue, and from there the connection to the parent
//! ```
//!
//! Decisions (`outcome`, `perfdata`, `check`, `monitor`, what lines are and where a log goes on) know no clock and no
//! queue; effects are in `workflow`, `plugin` and the reading halves of `builtin` and `log_file`. What a workflow
//! remembers is written together with what it found and read back at the start: an agent that is killed at any moment
//! goes on without losing or doubling an alert or a line.

pub mod builtin;
pub mod check;
pub mod clock;
pub mod configured;
pub mod credentials;
pub mod given;
pub mod groups;
pub mod log_file;
pub mod monitor;
pub mod outcome;
pub mod perfdata;
pub mod plugin;
pub mod scrub;
pub mod workflow;
