//! Contract of the data access service: what it gives, how it refuses, and a client that asks it.
//!
//! ```text
//!  alert, agent, gap, topology, status   what is asked for
//!  trust                                 members, join tokens, the trust log
//!  account                               Run As accounts and profiles
//!  database                              the database: which it is, copies of it, damage to it
//!  pack                                  what agents run by the server's word
//!  page                                  how long lists are read
//!  problem                               how a question is refused
//!  hex                                   bytes as text
//!  time                                  moments
//!  access                                the trait that both the server and the client fulfil
//!  client                                the trait over HTTP
//! ```

pub mod access;
pub mod account;
pub mod agent;
pub mod alert;
pub mod client;
pub mod database;
pub mod gap;
pub mod hex;
pub mod pack;
pub mod page;
pub mod problem;
pub mod status;
pub mod time;
pub mod topology;
pub mod trust;

pub use access::DataAccess;
pub use account::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, BindingOrder, Bound, Delivery, ExplainFilter,
    Explained, Profile, ProfileOrder, Reach, Receipt, Recipients, SealedSecret, SealingTarget, Use,
};
pub use agent::{Agent, AgentFilter, Session};
pub use alert::{Alert, AlertChange, AlertDetail, AlertFilter, Change};
pub use client::Client;
pub use database::{Backup, BackupOrder, Damage, Database, Standby};
pub use gap::{Gap, GapFilter, GapReason};
pub use pack::{Pack, PackDetail, PackFilter, PackOrder};
pub use page::Page;
pub use problem::{Kind, Problem};
pub use status::Status;
pub use time::Time;
pub use topology::{Hop, HopEnd, Service, Ticket, Topology};
pub use trust::{
    Approval, Approved, Assignment, Group, Issuer, LogEntry, LogFilter, Member, MemberFilter, Pending, PendingFilter,
    PrincipalOrder, RecoveryOrder, RotationOrder, Token, TokenFilter, TokenOrder, TokenState,
};

/// Where the service listens when nothing else is configured.
pub const SOCKET: &str = "/run/wardline/server/api.sock";
