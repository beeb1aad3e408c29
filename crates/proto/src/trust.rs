//! What the trust log holds: every fact that decides who is trusted, in the order in which servers accepted them.
//!
//! An entry is a [`crate::message::Signed`], [`crate::message::Context::Log`], by the duty key of the server that accepted
//! it; its payload is a [`Record`]. A leaf of the log's Merkle tree is the hash of the entry's bytes.

use bytes::Bytes;

use crate::message::Signed;

/// What a duty key signs in the log's context. Entries and heads are told apart by their field.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Record {
    /// One or the other.
    #[prost(oneof = "Recorded", tags = "1, 2")]
    pub what: Option<Recorded>,
}

/// An entry of the log, or a head of it.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Recorded {
    /// A fact, accepted.
    #[prost(message, tag = "1")]
    Entry(Entry),
    /// How far the log was at a moment.
    #[prost(message, tag = "2")]
    Head(Head),
}

/// A fact that a server accepted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// Its place in the log, from 0.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// When it was accepted, milliseconds since 1970, the server's clock.
    #[prost(uint64, tag = "2")]
    pub at: u64,
    /// The server that accepted it.
    #[prost(string, tag = "3")]
    pub server: String,
    /// Whose act it was: `operator NAME`, `token ID`, `principal PRINCIPAL`, `agent NAME`, `server NAME`.
    #[prost(string, tag = "4")]
    pub act: String,
    /// What is so from now on.
    #[prost(oneof = "Fact", tags = "10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 30, 31, 40, 41, 42, 43, 44, 45, 46")]
    pub fact: Option<Fact>,
}

/// How far the log was.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Head {
    /// How many entries.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// The root of the Merkle tree over them (RFC 9162, section 2.1.1), 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub root: Bytes,
    /// When, milliseconds since 1970, the server's clock.
    #[prost(uint64, tag = "3")]
    pub at: u64,
    /// The highest version that a configuration can have by it.
    #[prost(uint64, tag = "4")]
    pub version: u64,
}

/// What an entry says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Fact {
    /// The group begins. Always the first entry, and never again.
    #[prost(message, tag = "10")]
    Founded(Founded),
    /// A CA may issue channel certificates.
    #[prost(message, tag = "11")]
    Issuer(Certificate),
    /// A server's duty key may sign what goes down.
    #[prost(message, tag = "12")]
    Duty(Duty),
    /// The public half of the recovery key.
    #[prost(message, tag = "13")]
    Recovery(Recovery),
    /// Hosts may join with a token.
    #[prost(message, tag = "14")]
    Token(Token),
    /// They may not any more.
    #[prost(message, tag = "15")]
    TokenRevoked(TokenRevoked),
    /// A health service is part of the group, or has new parents.
    #[prost(message, tag = "16")]
    Member(Member),
    /// It is not part of it any more.
    #[prost(message, tag = "17")]
    Removed(Removed),
    /// A channel certificate was issued to a member.
    #[prost(message, tag = "18")]
    Issued(Issued),
    /// Channel certificates that were issued so far are worth nothing any more.
    #[prost(message, tag = "19")]
    Revoked(Revoked),
    /// The log was restored to an earlier state on purpose, and goes on from there.
    #[prost(message, tag = "20")]
    Restored(Restored),
    /// Agents are to run a pack. A later entry of the same name replaces an earlier one.
    #[prost(message, tag = "30")]
    Pack(Pack),
    /// They are not to any more.
    #[prost(message, tag = "31")]
    PackRemoved(PackRemoved),
    /// A health service has a sealing key: secrets for it are encrypted to that, and to no other.
    #[prost(message, tag = "40")]
    Sealing(Sealing),
    /// There is a Run As account, or a new version of it. A later entry of the same id replaces an earlier one.
    #[prost(message, tag = "41")]
    Account(Account),
    /// There is not any more.
    #[prost(message, tag = "42")]
    AccountDeleted(AccountDeleted),
    /// Who may have a Run As account. A later entry of the same account replaces an earlier one.
    #[prost(message, tag = "43")]
    Distribution(Distribution),
    /// There is a Run As profile.
    #[prost(message, tag = "44")]
    Profile(Profile),
    /// There is not any more.
    #[prost(message, tag = "45")]
    ProfileDeleted(ProfileDeleted),
    /// Which account a profile stands for. A later entry of the same profile and agent replaces an earlier one.
    #[prost(message, tag = "46")]
    Binding(Binding),
}

/// The group begins.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Founded {
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub group: Bytes,
    /// Its name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The root's certificate, DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub root: Bytes,
}

/// A certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Certificate {
    /// DER.
    #[prost(bytes = "bytes", tag = "1")]
    pub certificate: Bytes,
}

/// A server's duty key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Duty {
    /// The server.
    #[prost(string, tag = "1")]
    pub server: String,
    /// The certificate of its duty key, DER.
    #[prost(bytes = "bytes", tag = "2")]
    pub certificate: Bytes,
}

/// The recovery key.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Recovery {
    /// SubjectPublicKeyInfo, DER.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// A join token: its public half, and what it is good for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Token {
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The public half of its Ed25519 key, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub key: Bytes,
    /// `agent`, `gateway` or `server`.
    #[prost(string, tag = "3")]
    pub role: String,
    /// The name of who may use it, or a pattern with one `*` at its beginning or end; `*` is any.
    #[prost(string, tag = "4")]
    pub name: String,
    /// How many may use it.
    #[prost(uint32, tag = "5")]
    pub uses: u32,
    /// Until when, milliseconds since 1970.
    #[prost(uint64, tag = "6")]
    pub expires: u64,
    /// The gateways that are to speak for who joins with it, in order; none: it reports to servers itself.
    #[prost(string, repeated, tag = "7")]
    pub parents: Vec<String>,
    /// The Kerberos principal of who may use it, when it does not follow from its name; otherwise empty.
    #[prost(string, tag = "8")]
    pub principal: String,
}

/// A token is not good any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenRevoked {
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
}

/// A health service of the group. A later entry of the same name replaces an earlier one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Member {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `agent`, `gateway` or `server`.
    #[prost(string, tag = "2")]
    pub role: String,
    /// Its identity key: SubjectPublicKeyInfo, DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub identity: Bytes,
    /// The gateways that may speak for it, in order; none: it reports to servers itself.
    #[prost(string, repeated, tag = "4")]
    pub parents: Vec<String>,
    /// The id of the token that it joined with, 16 bytes; empty without one.
    #[prost(bytes = "bytes", tag = "5")]
    pub token: Bytes,
    /// The Kerberos principal, with its realm, by which its hops may be proved; empty: by certificates only. No two members
    /// have the same.
    #[prost(string, tag = "6")]
    pub principal: String,
    /// Of a server: it has no database, and none of the group's keys; it relays to servers that have. It never has a duty
    /// key.
    #[prost(bool, tag = "7")]
    pub relays: bool,
}

/// A health service that is not part of the group any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Removed {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The id of its identity key, 16 bytes; empty when it is a server that is no member any more, and only its duty keys
    /// are to be worth nothing.
    #[prost(bytes = "bytes", tag = "2")]
    pub identity: Bytes,
}

/// A channel certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Issued {
    /// To whom.
    #[prost(string, tag = "1")]
    pub name: String,
    /// SHA-256 of the certificate, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub certificate: Bytes,
    /// When it ends, seconds since 1970.
    #[prost(uint64, tag = "3")]
    pub not_after: u64,
    /// The id of the issuing CA's key, 16 bytes; empty in older entries: the newest issuing CA in front of them.
    #[prost(bytes = "bytes", tag = "4")]
    pub issuer: Bytes,
}

/// Every channel certificate that was issued so far. Identity keys stay: who was meant comes home by its own.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Revoked {
    /// To whom they were issued; empty: to everybody but servers with the database.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The log was restored to what is in front of this entry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Restored {
    /// How many entries the log had that is given up.
    #[prost(uint64, tag = "1")]
    pub size: u64,
    /// Its root, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub root: Bytes,
    /// The highest version that a configuration can have had until now.
    #[prost(uint64, tag = "3")]
    pub version: u64,
}

/// A pack, and who is to run it. Its text is not in the log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pack {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// SHA-256 of its text, 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub text: Bytes,
    /// The name of the agent that is to run it, or a pattern with one `*` at its beginning or end; `*` is every agent.
    #[prost(string, tag = "3")]
    pub agents: String,
}

/// A pack that nobody is to run any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PackRemoved {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A sealing key, as its health service has signed it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sealing {
    /// Of whom.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it has said: a [`crate::message::SealingKey`], by its identity key.
    #[prost(message, required, tag = "2")]
    pub said: Signed,
}

/// A Run As account, without its secret: of that the log has only the hash of what is in the database.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Account {
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// Its name; no two accounts have the same.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its kind, in one word.
    #[prost(string, tag = "3")]
    pub kind: String,
    /// Which version of the secret: how many entries the log had when it was given, and after a restore as many more as it
    /// takes to rise.
    #[prost(uint64, tag = "4")]
    pub version: u64,
    /// SHA-256 of the encrypted secret as it is in the database, 32 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub secret: Bytes,
    /// The local user that programs run as which use it; empty: whoever runs programs on the host by default.
    #[prost(string, tag = "6")]
    pub user: String,
}

/// A Run As account that is not there any more. Profiles that stood for it stand for nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AccountDeleted {
    /// Its id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
}

/// Who may have a Run As account. Who is removed from the group is removed from here, and whoever has its name later is
/// another.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Distribution {
    /// The account's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub account: Bytes,
    /// Every agent ("less secure").
    #[prost(bool, tag = "2")]
    pub everywhere: bool,
    /// These agents, members of the group ("more secure").
    #[prost(string, repeated, tag = "3")]
    pub agents: Vec<String>,
}

/// A Run As profile: the name by which workflows ask for an account.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Profile {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A Run As profile that is not there any more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProfileDeleted {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Which account a profile stands for. The one for an agent goes before the one for all.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Binding {
    /// The profile's name.
    #[prost(string, tag = "1")]
    pub profile: String,
    /// For which agent, a member of the group; empty: for every agent that has none of its own.
    #[prost(string, tag = "2")]
    pub agent: String,
    /// The account's id, 16 bytes; empty: none any more.
    #[prost(bytes = "bytes", tag = "3")]
    pub account: Bytes,
}
