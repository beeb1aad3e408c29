//! What the roles say to each other, and nothing about how it gets there: no sockets, no clock, no keys.
//!
//! ```text
//!  name      who a health service is, and its role
//!  principal who it is to Kerberos
//!  authority which role may send which kind of message in which direction
//!  frame     bytes on a session: frames, parts, limits
//!  message   what a frame carries: positions, batches, acknowledgements, hop facts
//!  join      how hosts are let into the group
//!  trust     what the trust log holds
//!  secure_data  what a sealed secret says of itself
//!  entry     what a batch carries: events, alerts, state, performance, gaps
//!  health    words both ends share about health and alerts
//!  configuration  what a health service is to do, as XML
//!  runas     what the agent asks the helper that runs programs as other users
//!  event     the catalogue of everything a program tells its operator
//! ```

pub mod authority;
pub mod configuration;
pub mod entry;
pub mod event;
pub mod frame;
pub mod health;
pub mod join;
pub mod message;
pub mod name;
pub mod principal;
pub mod runas;
pub mod secure_data;
pub mod trust;

pub use authority::{Direction, Kind};
pub use name::{GroupId, Name, Role};
pub use principal::{Principal, Realm};

/// The port on which gateways and management servers listen for health services.
pub const PORT: u16 = 5723;

/// ALPN name of the channel that authenticates and encrypts with certificates.
pub const ALPN_CERTIFICATE: &[u8] = b"wardline-cert/1";
/// ALPN name of the channel that authenticates and encrypts with Kerberos.
pub const ALPN_KERBEROS: &[u8] = b"wardline-krb5/1";
/// ALPN name of the session in which hosts join and come home.
pub const ALPN_JOIN: &[u8] = b"wardline-join/1";
