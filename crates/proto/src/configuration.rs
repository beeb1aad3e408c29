//! What comes down to a health service: one document, `OpsMgrConnector.Config.xml`, that says what it is to do.
//!
//! ```text
//!  Message
//!   └ State
//!      ├ Cookie     hash of everything else but what is encrypted, hex: unchanged work is not sent
//!      ├ Version    only rises
//!      ├ Recipient  the one it is for: group, name, role
//!      ├ Recovery   the public half of the group's recovery key, base64 (not there while there is none)
//!      ├ Disowned   a duty key of a server that was removed, by its id; any number
//!      ├ Parent     the gateways that may speak for it, in order
//!      ├ RunAs      which Run As account a profile stands for here, or why none
//!      ├ SecureData a Run As account's secret, encrypted to the recipient's sealing key, base64
//!      └ Pack       a pack's text, by its name
//! ```
//!
//! The element path `Message/State` is that of System Center Operations Manager; what is in it is ours. Whoever reads one
//! refuses document type declarations, unknown elements and anything twice that is there once. Whether the cookie is the
//! hash of the rest is for whoever can make hashes: this crate cannot.

mod parse;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use quick_xml::escape::{escape, partial_escape};

use crate::message::{AccountId, Digest};
use crate::{Name, Role};

/// The most bytes of a document.
pub const LIMIT: usize = 16 * 1024 * 1024;

/// What stands around the content: this many bytes at most.
pub const ENVELOPE: usize = 1024;

/// The Run As profile of workflows that name none.
pub const DEFAULT_PROFILE: &str = "default-action-account";

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// SHA-256 of [`Content::to_xml`] with [`Form::Unsealed`].
    pub cookie: Digest,
    /// Rises with every configuration that the recipient is given.
    pub version: u64,
    /// What it says.
    pub content: Content,
}

/// What a configuration says, apart from which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The management group.
    pub group: Name,
    /// The recipient.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// The public half of the recovery key, SubjectPublicKeyInfo in base64.
    pub recovery: Option<String>,
    /// The ids of duty keys that are not to be believed any more: those of servers that were removed, in order.
    pub disowned: Vec<[u8; 16]>,
    /// The gateways that may speak for it, in order.
    pub parents: Vec<Name>,
    /// What each Run As profile that its packs use stands for, by name.
    pub run_as: Vec<RunAs>,
    /// The Run As accounts that it is to have, by id.
    pub accounts: Vec<SecureData>,
    /// Names and texts of the packs that it is to run, by name.
    pub packs: Vec<(String, Arc<str>)>,
}

/// What a Run As profile stands for on the recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Its name.
    pub profile: String,
    /// The account, or why there is none.
    pub account: Result<AccountId, Missing>,
}

/// Why a profile gives no account on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// No account is bound to the profile for this host.
    Unassigned,
    /// The account that is bound is not distributed to this host.
    Undistributed,
    /// Nothing can be encrypted to this host yet: the trust log has no sealing key of it that is good.
    Keyless,
}

impl Missing {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Unassigned, Self::Undistributed, Self::Keyless];

    /// In one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unassigned => "unassigned",
            Self::Undistributed => "undistributed",
            Self::Keyless => "keyless",
        }
    }
}

/// A Run As account as it comes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureData {
    /// Its id.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// Its kind, in one word.
    pub kind: String,
    /// The local user that programs run as which use it; nothing: whoever runs programs there by default.
    pub user: Option<String>,
    /// Which version of its secret.
    pub version: u64,
    /// The id of the sealing key that it is encrypted to.
    pub key: [u8; 16],
    /// What is encrypted, base64.
    pub sealed: Arc<str>,
}

/// With or without what is encrypted: that is another each time, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it comes down.
    Sealed,
    /// What the cookie is the hash of.
    Unsealed,
}

/// Why text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Not the XML that it must be.
    #[error("byte {0}: it is no well-formed XML: {1}")]
    Xml(u64, String),
    /// Larger than [`LIMIT`].
    #[error("it has more than {LIMIT} bytes")]
    TooLong,
    /// Something that does not belong there.
    #[error("byte {0}: {1}")]
    Element(u64, String),
    /// Something is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
}

impl Content {
    /// The document's elements without cookie and version: what the cookie is the hash of.
    pub fn to_xml(&self, form: Form) -> String {
        self.head_to_xml(form) + &packs_to_xml(&self.packs)
    }

    /// What [`Self::to_xml`] has in front of the packs.
    pub fn head_to_xml(&self, form: Form) -> String {
        let mut xml = format!(
            "    <Recipient Group=\"{}\" Name=\"{}\" Role=\"{}\"/>\n",
            self.group.as_str(),
            self.name.as_str(),
            self.role.as_str()
        );
        if let Some(key) = &self.recovery {
            let _ = writeln!(xml, "    <Recovery>{}</Recovery>", partial_escape(key.as_str()));
        }
        for key in &self.disowned {
            let _ = writeln!(xml, "    <Disowned Key=\"{}\"/>", AccountId(*key));
        }
        for parent in &self.parents {
            let _ = writeln!(xml, "    <Parent Name=\"{parent}\"/>");
        }
        for RunAs { profile, account } in &self.run_as {
            let (account, missing) = match account {
                Ok(account) => (account.to_string(), ""),
                Err(missing) => (String::new(), missing.as_str()),
            };
            let _ = writeln!(
                xml,
                "    <RunAs Profile=\"{}\" Account=\"{account}\" Missing=\"{missing}\"/>",
                escape(profile.as_str())
            );
        }
        for data in &self.accounts {
            let _ = writeln!(
                xml,
                "    <SecureData Account=\"{}\" Name=\"{}\" Kind=\"{}\" User=\"{}\" Version=\"{}\" Key=\"{}\">{}</SecureData>",
                data.account,
                escape(data.name.as_str()),
                escape(data.kind.as_str()),
                escape(data.user.as_deref().unwrap_or_default()),
                data.version,
                AccountId(data.key),
                if form == Form::Sealed { partial_escape(&*data.sealed) } else { Cow::Borrowed("") }
            );
        }
        xml
    }
}

/// What [`Content::to_xml`] has of the packs.
pub fn packs_to_xml(packs: &[(String, Arc<str>)]) -> String {
    let mut xml = String::with_capacity(packs.iter().map(|(_, text)| text.len() + 128).sum());
    for (name, text) in packs {
        let _ = writeln!(xml, "    <Pack Name=\"{}\">{}</Pack>", escape(name.as_str()), partial_escape(&**text));
    }
    xml
}

/// A document of these elements, which [`Content::to_xml`] has made, perhaps in parts.
pub fn document(cookie: &Digest, version: u64, content: &[&str]) -> String {
    let mut xml = String::with_capacity(content.iter().map(|part| part.len()).sum::<usize>() + 256);
    xml += "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Message>\n  <State>\n";
    let _ = writeln!(xml, "    <Cookie>{cookie}</Cookie>\n    <Version>{version}</Version>");
    content.iter().for_each(|part| xml += part);
    xml + "  </State>\n</Message>\n"
}

/// Whether XML can carry a text (XML 1.0, section 2.2).
pub fn can_carry(text: &str) -> bool {
    text.chars().all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..))
}

impl Configuration {
    /// The document.
    pub fn to_xml(&self) -> String {
        document(&self.cookie, self.version, &[&self.content.to_xml(Form::Sealed)])
    }
}

/// Whether a text can be the name of a pack, a Run As profile or a Run As account: 1 to 64 lower-case letters, digits and
/// hyphens.
pub fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
