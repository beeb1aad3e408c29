//! Who is trusted: members, join tokens, the trust log and the group's keys. Nothing secret is among it: who makes a
//! token or a recovery key keeps its private half to himself.

use serde::{Deserialize, Serialize};
use wardline_proto::{Name, Principal, Role};

use crate::Time;

/// A join token that is to be good from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenOrder {
    /// Its id, 16 bytes, hexadecimal.
    pub id: String,
    /// The public half of its Ed25519 key, 32 bytes, hexadecimal.
    pub key: String,
    /// Who may join with it: agents or gateways.
    pub role: Role,
    /// The name of who may use it, or a pattern with one `*` at its beginning or end.
    pub name: String,
    /// How many may.
    pub uses: u32,
    /// Until when.
    pub expires: Time,
    /// The gateways that are to speak for who joins with it, in order; none: it reports to servers itself.
    #[serde(default)]
    pub via: Vec<Name>,
    /// The Kerberos principal of who joins with it, when it does not follow from its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id, hexadecimal.
    pub id: String,
    /// Who may join with it.
    pub role: Role,
    /// The name of who may use it, or a pattern.
    pub name: String,
    /// How many may.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Until when.
    pub expires: Time,
    /// The gateways that are to speak for who joins with it.
    pub via: Vec<Name>,
    /// The Kerberos principal of who joins with it, where it was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// Whether it may be used.
    pub state: TokenState,
}

/// Whether a token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// It may.
    Good,
    /// As often as it may be, it was.
    Used,
    /// Its time is over.
    Expired,
    /// An operator has revoked it.
    Revoked,
}

impl TokenState {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// Which tokens to list, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenFilter {
    /// Those too that cannot be used any more.
    #[serde(default)]
    pub all: bool,
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A member of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub role: Role,
    /// The id of its identity key, hexadecimal; empty for a server that has removed itself, and whose duty key is believed
    /// until it is removed by another.
    pub key: String,
    /// The gateways that may speak for it; none: it reports to servers itself.
    pub via: Vec<Name>,
    /// When it joined.
    pub joined_at: Time,
    /// The id of the token that it joined with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The Kerberos principal by which its hops may be proved; without one, by certificates only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// When its newest channel certificate ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_ends: Option<Time>,
    /// Whether a session with it stands.
    pub connected: bool,
    /// Of a server: it has no database, and relays to servers that have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relays: bool,
}

/// A CA that issues, or has issued, channel certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// The id of its key, hexadecimal.
    pub key: String,
    /// What its certificate calls it.
    pub subject: String,
    /// Valid from.
    pub from: Time,
    /// Valid to.
    pub to: Time,
    /// Whether this server issues with it.
    pub in_use: bool,
    /// Of how many members it has issued the newest channel certificate that counts.
    pub members: u64,
}

/// A new issuing CA that is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationOrder {
    /// Whether every channel certificate of an agent or gateway is to be worth nothing from then on.
    #[serde(default)]
    pub revoke: bool,
}

/// Which members to list, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFilter {
    /// Only those of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A host that asks to join without a token. Its code is not among it: whoever approves types what the host shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The name that it wants.
    pub name: Name,
    /// What it is.
    pub role: Role,
    /// The id of its identity key, hexadecimal.
    pub key: String,
    /// Since when it waits.
    pub since: Time,
    /// Where it comes from; behind a gateway, the gateway's.
    pub from: String,
    /// The Kerberos principal that it says is its own; nobody has checked that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// Of a server: it has no database, and is given none of the group's keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relays: bool,
}

/// Which hosts to list that ask to join, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingFilter {
    /// Only those of this role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A host that asks to join is to be part of the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// The code that it shows.
    pub code: String,
    /// The gateways that are to speak for it, in order; none: it reports to servers itself.
    #[serde(default)]
    pub via: Vec<Name>,
    /// Its Kerberos principal, when it does not follow from its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
}

/// A host that was approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub role: Role,
    /// The id of its identity key, hexadecimal.
    pub key: String,
    /// The gateways that may speak for it; none: it reports to servers itself.
    pub via: Vec<Name>,
    /// The Kerberos principal by which its hops may be proved; without one, by certificates only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<Principal>,
    /// What has to be typed at the host, so that it believes that this server has answered.
    pub confirmation: String,
    /// Of a server: it has no database, and was given none of the group's keys.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relays: bool,
}

/// The gateways that are to speak for a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// In order; none: it reports to servers itself.
    #[serde(default)]
    pub via: Vec<Name>,
}

/// The Kerberos principal of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalOrder {
    /// Which; none: its hops are proved by certificates only.
    #[serde(default)]
    pub principal: Option<Principal>,
}

/// An entry of the trust log as it was signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Its place, from 0.
    pub number: u64,
    /// The bytes of the signed entry, hexadecimal.
    pub entry: String,
}

/// Which entries of the trust log to list, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFilter {
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The management group: what its trust begins with, and how far its log has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// Its id, 16 bytes, hexadecimal.
    pub id: String,
    /// The pin of its root.
    pub pin: String,
    /// The root's certificate, DER, hexadecimal.
    pub root: String,
    /// The server that answers.
    pub server: Name,
    /// The trust log's head as this server's duty key has signed it, hexadecimal.
    pub head: String,
    /// The id of the recovery key, hexadecimal; nothing while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<String>,
}

/// The public half of a recovery key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryOrder {
    /// SubjectPublicKeyInfo, DER in base64.
    pub key: String,
    /// It takes the place of one that is there.
    #[serde(default)]
    pub replace: bool,
}
