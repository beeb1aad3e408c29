//! Key material, and what it proves.
//!
//! ```text
//!  private      files that only their owner may read
//!  protect      data protection: master keys, and what rests on disk under them
//!  signature    P-256 keys, signatures with a context, key ids
//!  certificate  what a channel certificate must say: one name, one role, one use
//!  trust        the group's root and its pin; duty certificates under it
//!  tls          the TLS side of the certificate channel: verifiers, and the gate before our own key
//!  pair         a P-256 key as what makes certificates and requests needs it
//!  authority    the group's root and issuing authority: how they are made, and what they issue
//!  request      how a host asks for its channel certificate
//!  base32       what people type, as bytes
//!  recovery     the recovery key, which lies on paper
//!  token        join tokens, and the code that two people compare
//!  view         the trust log, replayed: who is in the group, and by which gateways
//!  head         heads of that log: signed, compared, given up
//!  account      the secret of a Run As account, and its kinds
//!  group_key    what secrets rest under in the server's database
//!  sealing      sealing keys: what a health service receives secrets with
//!  secure_data  a secret sealed to one health service, as CMS
//!  merkle       the tree over a log's entries: its head, proofs of inclusion and consistency, their verification
//! ```

pub mod account;
pub mod authority;
mod base32;
pub mod certificate;
pub mod group_key;
pub mod head;
pub mod merkle;
mod pair;
pub mod private;
pub mod protect;
pub mod recovery;
pub mod request;
pub mod sealing;
pub mod secure_data;
pub mod signature;
pub mod tls;
pub mod token;
pub mod trust;
pub mod view;
