//! Keeps what agents say, exactly once, and gives access to it; founds its group and decides who is in it.
//!
//! ```text
//!   agents, gateways --> ingest --> store (SQLite) <-- api <-- command line
//!                           \--> live (who is connected) --/
//!   hosts that join --> joining --> store: trust log <-- operating <-- api
//! ```
//!
//! - `accounts`: the secrets of Run As accounts
//! - `configuration`: what each agent is to do
//! - `founding`: what is in the group's folder, made at the first start
//! - `joining`: who may join or come home, and with what
//! - `operating`: what operators decide about trust
//! - `relaying`: a server without a database
//! - `sealing`: what secrets for each health service are encrypted to
//! - `restore`: that a database was restored on purpose
//! - `watch`, `watcher`: who is not heard, and what does not come

pub mod accounts;
pub mod api;
pub mod configuration;
pub mod founding;
pub mod ingest;
pub mod joining;
pub mod live;
pub mod operating;
pub mod relaying;
pub mod restore;
pub mod sealing;
pub mod store;
pub mod watch;
pub mod watcher;
