//! A whole management group in a test, of real processes, and what can be done to it.
//!
//! ```text
//!                          group     lays down and runs a server, gateways, agents
//!                         /  |   \
//!                  daemon  pki    tap      one process; its certificates; the wire between two
//!                    |
//!                 program             the executable, refused when older than its sources
//!
//!  log       a log of short lines that agents follow
//!  hostile   peers that do what they like, behind real TLS
//!  network   hosts of their own, and links between them that can be hurt
//!  helper    wardline-runas, as root
//!  estate    a group with a Run As account, and a plugin that logs on with it
//!  powercut  a disk that forgets what was not synced      ids   log lines that can be counted again
//!  postgres  a PostgreSQL server, and its standby
//!  realm     a Kerberos realm, and realms that trust each other
//!  keyed     a group whose members have keytabs          initiator  a Kerberos client that does what it is told
//!  directory an Active Directory, with the accounts of machines
//!  search    for secrets: in memory, files, on the wire, however they are written
//!  asking    a host that joins without a token, and who types at it
//!  scratch   folders that vanish with the test            wait  the one loop that waits
//!  random    numbers from a seed                          port  a port that stays ours
//! ```

pub mod asking;
pub mod daemon;
pub mod directory;
pub mod estate;
pub mod group;
pub mod helper;
pub mod hostile;
pub mod ids;
pub mod initiator;
pub mod keyed;
pub mod log;
pub mod network;
pub mod pki;
pub mod port;
pub mod postgres;
pub mod powercut;
pub mod private;
pub mod program;
pub mod random;
pub mod realm;
pub mod scratch;
pub mod search;
pub mod tap;
pub mod wait;

pub use daemon::Daemon;
pub use directory::Directory;
pub use estate::Estate;
pub use group::Group;
pub use helper::Helper;
pub use log::Log;
pub use network::Network;
pub use postgres::Postgres;
pub use powercut::PowerCut;
pub use realm::Realm;
pub use scratch::Scratch;
pub use search::Search;
pub use tap::Tap;
