//! Who a health service is: an exact name, a role, and the management group.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a health service: a DNS name in lower case, compared byte for byte.
///
/// At most 253 bytes of labels of `a-z`, `0-9`, `-` (RFC 1123, section 2.1), joined by single dots. Because of that
/// alphabet a name is also safe as the name of a file or folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(std::sync::Arc<str>);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no host name: {why}")]
pub struct NameError {
    text: String,
    why: &'static str,
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = |why| Err(NameError { text: text.chars().take(300).collect(), why });
        if text.is_empty() || text.len() > 253 {
            return refuse("it has 1 to 253 characters");
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return refuse("each part between dots has 1 to 63 characters");
            }
            if !label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
                return refuse("only lower-case letters, digits, hyphens and dots are allowed");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return refuse("no part begins or ends with a hyphen");
            }
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a health service is in its management group. Its channel certificate says so in a SAN URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Watches a host and reports to its parent.
    Agent,
    /// Carries what agents say across a network.
    Gateway,
    /// Keeps what agents say.
    Server,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Gateway, Self::Server];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::Server => "server",
        }
    }

    /// The URI that a channel certificate carries for this role.
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Agent => "urn:wardline:agent",
            Self::Gateway => "urn:wardline:gateway",
            Self::Server => "urn:wardline:server",
        }
    }

    /// The role that a SAN URI stands for.
    pub fn from_uri(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.uri() == uri)
    }
}

impl FromStr for Role {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The management group's id: 16 bytes that every signature of the group covers. Written as a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_an_exact_dns_name_and_never_a_path() {
        for good in ["a", "web1.example", "xn--mnchen-3ya.example", "1.2.3.4x", "a.".repeat(126).trim_end_matches('.')]
        {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        let long = format!("{}.x", "a".repeat(64));
        let longer = "ab.".repeat(85);
        for bad in [
            "", ".", "a.", ".a", "a..b", "A", "a b", "a\0b", "*.a", "../a", "/a", "-a", "a-", "a_b", "ä", &long,
            &longer,
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }
}
