//! An authenticated, acknowledged channel between health services.
//!
//! ```text
//!   agent                        gateway                      server
//!   workflows                                                 store
//!      | Put                                                    ^ commit
//!   outbox -> queue              relay (copies frames,        ingest
//!      |       | stream          opens no body)                 | stream
//!      |     uplink ----session----> listener | dial ----session----> listener
//! ```
//!
//! - `config`: what the daemons' files say about names, groups and parents
//! - `credential`: what this end proves itself with: the channel certificate, which may change; `renewal`: that it does, in time; `own_pki`: one that the
//!   company's PKI has issued
//! - `join`: the session in which hosts are let in; `enroll`: the command that runs it on a host; `home`: what it keeps
//! - `configuration`: what a host keeps of what the server wants it to do, and what it takes for that
//! - `sealing`: a host's own keys for what is sealed to it; `accounts`: the Run As accounts that came sealed
//! - `head`: how far the trust log was that a host was shown last
//! - `certs`: the command that lists a host's certificates
//! - `doctor`: the command that walks all of it and names what is wrong
//! - `kerberos`: the second way to prove who one is
//! - `handshake`: from a TCP connection to a [`handshake::Session`] whose other end is known
//! - `held`: which parents have used certificates, and are held to them
//! - `wire`: the bytes of a session inside of TLS
//! - `link`: messages on a session, checked against the who-may-send table
//! - `listener`: who may knock, how often and how long
//! - `stream`: the rules of numbered, chained, signed streams; no IO
//! - `queue`, `outbox`: an agent's durable queue and its one door; `outage`: what is said of a database that takes nothing
//! - `parents`: which of several parents is talked to
//! - `uplink`: an agent's way to its parent, kept up
//! - `relay`: a gateway between who is below and its parent
//! - `signals`, `journal`: when a daemon stops, and where its events go; `quiet`: a terminal for secrets

pub mod accounts;
pub mod certs;
pub mod config;
pub mod configuration;
pub mod credential;
pub mod doctor;
pub mod enroll;
pub mod handshake;
mod head;
pub mod held;
pub mod home;
pub mod join;
pub mod journal;
pub mod kerberos;
pub mod link;
pub mod listener;
pub mod outage;
pub mod outbox;
pub mod own_pki;
pub mod parents;
pub mod queue;
pub mod quiet;
pub mod relay;
pub mod renewal;
pub mod sealing;
pub mod signals;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod uplink;
mod wire;

/// Milliseconds since 1970 by this host's clock.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
