//! Packs: what agents run by the server's word.

use serde::{Deserialize, Serialize};

use crate::Time;

/// A pack that agents are to run from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackOrder {
    /// What errors call its file.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The name of the agent that is to run it, or a pattern with one `*` at its beginning or end. Without, it stays as
    /// it is; a new pack is for every agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<String>,
}

/// A pack that agents are to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// Who is to run it.
    pub agents: String,
    /// How many members of the group that are.
    pub members: u64,
    /// SHA-256 of its text, hexadecimal.
    pub hash: String,
    /// When it was applied.
    pub applied_at: Time,
}

/// A pack with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackDetail {
    /// The pack.
    #[serde(flatten)]
    pub pack: Pack,
    /// Its text; nothing when what is kept is not what was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Which packs to list, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackFilter {
    /// At most so many ([`crate::page`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Go on behind this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}
