//! Key material, and what it proves.
//!
//! ```text
//!  private      files that only their owner may read
//!  signature    P-256 keys, signatures with a context, key ids
//!  certificate  what a channel certificate must say: one name, one role, one use
//!  trust        the group's root and its pin; duty certificates under it
//!  tls          the TLS side of the certificate channel: verifiers, and the gate before our own key
//!  roster       who is in the group: names, roles, identity keys, and which gateway speaks for whom
//! ```

pub mod certificate;
pub mod private;
pub mod roster;
pub mod signature;
pub mod tls;
pub mod trust;
