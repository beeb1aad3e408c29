//! Run As accounts and profiles: what hosts log on with, and the names by which workflows ask for it. A secret goes one
//! way: what is here has no place for one that comes back.

use serde::{Deserialize, Serialize};
use wardline_proto::Name;

use crate::Time;

/// What operators seal secrets to: the server's own sealing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealingTarget {
    /// The server.
    pub server: Name,
    /// The group's id, 16 bytes, hexadecimal.
    pub group: String,
    /// The key's id, hexadecimal.
    pub key: String,
    /// The self-signed certificate, DER in base64.
    pub certificate: String,
}

/// A secret on its way to the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// The version that it replaces; 0: there is none yet.
    pub replaces: u64,
    /// Secure data for the server (CMS in base64), of purpose Submit.
    pub sealed: String,
}

/// Which agents an account is distributed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipients {
    /// Every agent, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everywhere: Option<bool>,
    /// These, in place of those that are named now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<Name>>,
    /// These too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<Name>,
    /// These not any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<Name>,
}

/// A new account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountOrder {
    /// Its id, 16 random bytes, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// The local user that programs run as which use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who may have it.
    #[serde(default)]
    pub recipients: Recipients,
    /// What is in it.
    pub secret: SealedSecret,
}

/// What is to be another at an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// The local user that programs run as which use it; empty: whoever runs programs on the host by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who may have it.
    #[serde(default)]
    pub recipients: Recipients,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SealedSecret>,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its id, hexadecimal.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Which version of what is in it; rises.
    pub version: u64,
    /// When that was given.
    pub changed_at: Time,
    /// The local user that programs run as which use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Whether every agent may have it.
    pub everywhere: bool,
    /// The agents that may have it by name.
    pub agents: Vec<Name>,
    /// The profiles that stand for it somewhere.
    pub profiles: Vec<String>,
}

/// What became of one version of an account on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The agent.
    pub agent: Name,
    /// Which version.
    pub version: u64,
    /// When the server sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Time>,
    /// When the agent had opened it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_at: Option<Time>,
    /// When the agent could not open it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_at: Option<Time>,
    /// When a workflow used it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_since: Option<Time>,
    /// When a workflow used it last, as far as that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Time>,
    /// The workflow that did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// When the agent had wiped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at: Option<Time>,
}

/// An account with what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDetail {
    /// The account.
    #[serde(flatten)]
    pub account: Account,
    /// The name that it logs on with, where its kind has one and the server can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// What became of it on agents, by agent and version.
    pub receipts: Vec<Receipt>,
}

/// Which accounts to list, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountFilter {
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A place where an account is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// The profile that stands for it.
    pub profile: String,
    /// On which agent; nothing: on every one that has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// The checks that name the profile: `pack/check`.
    pub checks: Vec<String>,
}

/// A new profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileOrder {
    /// Its name.
    pub name: String,
}

/// What a profile is to stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BindingOrder {
    /// The account's name; nothing: for none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// On which agent; nothing: on every one that has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// It takes the place of another that is there.
    #[serde(default)]
    pub replace: bool,
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Whether it is always there.
    pub built_in: bool,
    /// The account that it stands for on every agent that has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it stands for on these agents.
    pub agents: Vec<Bound>,
    /// The checks that name it: `pack/check`.
    pub checks: Vec<String>,
}

/// What a profile stands for on one agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The agent.
    pub agent: Name,
    /// The account.
    pub account: String,
}

/// Which agents to explain a profile for, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainFilter {
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Name>,
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What a profile gives one agent, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The agent.
    pub agent: Name,
    /// How far it is.
    pub state: Delivery,
    /// The account that the profile stands for there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Who said so: the binding for this agent, or the one for every agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Reach>,
    /// Whether the agent may have it: by its name, or as every agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distributed: Option<Reach>,
    /// The checks that it runs and that name the profile: `pack/check`.
    pub checks: Vec<String>,
    /// The id of the sealing key that the secret is encrypted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Which version it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// The local user that programs run as there which use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Since when it is as far as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// The workflow that used it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// What to do, where it does not get on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Of whom something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Of this agent, by name.
    Agent,
    /// Of every agent.
    Everywhere,
}

impl Reach {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Everywhere => "everywhere",
        }
    }
}

/// How far an account is on its way to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The profile stands for no account there.
    Unassigned,
    /// The account is not distributed to it.
    Undistributed,
    /// Nothing that it runs names the profile.
    Unused,
    /// Nothing can be encrypted to it yet.
    Keyless,
    /// It has not been sent.
    Unsent,
    /// It was sent.
    Sent,
    /// The agent could not open it.
    Unopened,
    /// The agent has opened it, and keeps it.
    Opened,
    /// A workflow has used it.
    Used,
    /// The agent has wiped it.
    Removed,
}

impl Delivery {
    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unassigned => "unassigned",
            Self::Undistributed => "undistributed",
            Self::Unused => "unused",
            Self::Keyless => "keyless",
            Self::Unsent => "unsent",
            Self::Sent => "sent",
            Self::Unopened => "unopened",
            Self::Opened => "opened",
            Self::Used => "used",
            Self::Removed => "removed",
        }
    }
}
