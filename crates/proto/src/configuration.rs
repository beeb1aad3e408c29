//! What comes down to a health service: one document, `OpsMgrConnector.Config.xml`, that says what it is to do.
//!
//! ```text
//!  Message
//!   └ State
//!      ├ Cookie     hash of everything else but what is encrypted, hex: unchanged work is not sent
//!      ├ Version    only rises
//!      ├ Recipient  the one it is for: group, name, role
//!      ├ Recovery   the public half of the group's recovery key, base64 (not there while there is none)
//!      ├ Parent     the gateways that may speak for it, in order
//!      ├ RunAs      which Run As account a profile stands for here, or why none
//!      ├ SecureData a Run As account's secret, encrypted to the recipient's sealing key, base64
//!      └ Pack       a pack's text, by its name
//! ```
//!
//! The element path `Message/State` is that of System Center Operations Manager; what is in it is ours. Whoever reads one
//! refuses document type declarations, unknown elements and anything twice that is there once. Whether the cookie is the
//! hash of the rest is for whoever can make hashes: this crate cannot.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use quick_xml::escape::{escape, partial_escape, resolve_xml_entity};
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

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

    /// Reads a document.
    ///
    /// # Errors
    /// It is none: the place, in bytes, and what is wrong there.
    pub fn parse(document: &[u8]) -> Result<Self, ConfigurationError> {
        if document.len() > LIMIT {
            return Err(ConfigurationError::TooLong);
        }
        let text = std::str::from_utf8(document)
            .map_err(|error| ConfigurationError::Xml(error.valid_up_to() as u64, "it is no UTF-8".into()))?;
        Parser { reader: Reader::from_str(text), at: 0 }.document()
    }
}

/// What has been read of a `State`.
#[derive(Default)]
struct Parts {
    cookie: Option<Digest>,
    version: Option<u64>,
    recipient: Option<(Name, Name, Role)>,
    recovery: Option<String>,
    parents: Vec<Name>,
    run_as: Vec<RunAs>,
    accounts: Vec<SecureData>,
    packs: Vec<(String, Arc<str>)>,
}

struct Parser<'a> {
    reader: Reader<&'a [u8]>,
    /// Where the present event begins.
    at: u64,
}

type Parsed<T> = Result<T, ConfigurationError>;

impl<'a> Parser<'a> {
    fn wrong<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err(ConfigurationError::Element(self.at, what.into()))
    }

    fn next(&mut self) -> Parsed<Event<'a>> {
        self.at = self.reader.buffer_position();
        let event = self.reader.read_event();
        event.map_err(|error| ConfigurationError::Xml(self.reader.error_position(), error.to_string()))
    }

    /// The next event that is no space between elements.
    fn element(&mut self) -> Parsed<Event<'a>> {
        loop {
            match self.next()? {
                Event::Text(text) if text.xml10_content().trim_matches(SPACE).is_empty() => {}
                Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => return self.wrong("text between elements"),
                Event::DocType(_) => return self.wrong("a document type declaration"),
                Event::PI(_) => return self.wrong("a processing instruction"),
                Event::Comment(_) => return self.wrong("a comment"),
                Event::Decl(_) if self.at != 0 => return self.wrong("an XML declaration that is not the beginning"),
                event => return Ok(event),
            }
        }
    }

    fn document(mut self) -> Parsed<Configuration> {
        let mut first = self.element()?;
        if matches!(first, Event::Decl(_)) {
            first = self.element()?;
        }
        self.opens(&first, "Message")?;
        let state = self.element()?;
        self.opens(&state, "State")?;
        let mut parts = Parts::default();
        loop {
            match self.element()? {
                Event::Start(start) => self.child(&start, false, &mut parts)?,
                Event::Empty(start) => self.child(&start, true, &mut parts)?,
                // The reader holds it against what was opened.
                Event::End(_) => break,
                _ => return self.wrong("the end of the document within `State`"),
            }
        }
        match self.element()? {
            Event::End(_) => {}
            _ => return self.wrong("more than one `State`"),
        }
        match self.element()? {
            Event::Eof => {}
            _ => return self.wrong("more than one `Message`"),
        }
        let missing = ConfigurationError::Missing;
        let (group, name, role) = parts.recipient.ok_or(missing("Recipient"))?;
        let Parts { recovery, parents, run_as, accounts, packs, .. } = parts;
        if let Some(RunAs { profile, .. }) = run_as.iter().find(|run_as| is_dangling(run_as, &accounts)) {
            return self.wrong(format!("profile {profile:?} stands for an account that is not there"));
        }
        Ok(Configuration {
            cookie: parts.cookie.ok_or(missing("Cookie"))?,
            version: parts.version.ok_or(missing("Version"))?,
            content: Content { group, name, role, recovery, parents, run_as, accounts, packs },
        })
    }

    fn opens(&self, event: &Event<'_>, expected: &str) -> Parsed<()> {
        match event {
            Event::Start(start) if start.name().as_ref() == expected => {
                self.attributes::<0>(start, []).map(|[]: [String; 0]| ())
            }
            _ => self.wrong(format!("`{expected}` must stand here")),
        }
    }

    /// A child of `State`.
    fn child(&mut self, start: &BytesStart<'_>, empty: bool, parts: &mut Parts) -> Parsed<()> {
        let name = start.name();
        let twice = match name.as_ref() {
            "Cookie" => parts.cookie.is_some(),
            "Version" => parts.version.is_some(),
            "Recipient" => parts.recipient.is_some(),
            "Recovery" => parts.recovery.is_some(),
            "Parent" | "RunAs" | "SecureData" | "Pack" => false,
            other => return self.wrong(format!("unknown element `{}`", other.escape_debug())),
        };
        if twice {
            return self.wrong(format!("`{}` a second time", name.as_ref()));
        }
        let at = self.at;
        let wrong = |what: String| ConfigurationError::Element(at, what);
        match name.as_ref() {
            "Recipient" => {
                let [group, name, role] = self.attributes(start, ["Group", "Name", "Role"])?;
                let role = role.parse().map_err(|()| wrong(format!("{role:?} is no role")))?;
                parts.recipient = Some((self.name(&group)?, self.name(&name)?, role));
                self.text(empty)?.is_empty().then_some(()).ok_or_else(|| wrong("text in `Recipient`".into()))
            }
            "Parent" => {
                let [parent] = self.attributes(start, ["Name"])?;
                let parent = self.name(&parent)?;
                if parts.parents.contains(&parent) {
                    return Err(wrong(format!("parent {parent} a second time")));
                }
                parts.parents.push(parent);
                self.text(empty)?.is_empty().then_some(()).ok_or_else(|| wrong("text in `Parent`".into()))
            }
            "RunAs" => {
                let [profile, account, missing] = self.attributes(start, ["Profile", "Account", "Missing"])?;
                let profile = self.word(&profile, "profile")?;
                let account = match (account.as_str(), missing.as_str()) {
                    (account, "") => Ok(self.id(account)?),
                    ("", word) => {
                        let known = Missing::ALL.into_iter().find(|missing| missing.as_str() == word);
                        Err(known.ok_or_else(|| wrong(format!("{:?} is no reason", short(word))))?)
                    }
                    _ => return Err(wrong("an account and a reason why there is none".into())),
                };
                if parts.run_as.last().is_some_and(|before| before.profile >= profile) {
                    return Err(wrong(format!("profile {profile:?} a second time, or not in the order of names")));
                }
                parts.run_as.push(RunAs { profile, account });
                self.text(empty)?.is_empty().then_some(()).ok_or_else(|| wrong("text in `RunAs`".into()))
            }
            "SecureData" => {
                let [account, name, kind, user, version, key] =
                    self.attributes(start, ["Account", "Name", "Kind", "User", "Version", "Key"])?;
                let (account, AccountId(key)) = (self.id(&account)?, self.id(&key)?);
                let (name, kind) = (self.word(&name, "account")?, self.word(&kind, "kind")?);
                if parts.accounts.last().is_some_and(|before| before.account >= account) {
                    return Err(wrong(format!("account {account} a second time, or not in the order of ids")));
                }
                let version = number(&version).ok_or_else(|| wrong(format!("{:?} is no version", short(&version))))?;
                let user = Some(user).filter(|user| !user.is_empty());
                let sealed = self.text(empty)?.into();
                parts.accounts.push(SecureData { account, name, kind, user, version, key, sealed });
                Ok(())
            }
            "Pack" => {
                let [pack] = self.attributes(start, ["Name"])?;
                let pack = self.word(&pack, "pack")?;
                if parts.packs.last().is_some_and(|(before, _)| *before >= pack) {
                    return Err(wrong(format!("pack {pack:?} a second time, or not in the order of names")));
                }
                let text = self.text(empty)?;
                parts.packs.push((pack, text.into()));
                Ok(())
            }
            leaf => {
                let leaf = leaf.to_owned();
                self.attributes::<0>(start, [])?;
                let text = self.text(empty)?;
                let none = || wrong(format!("{:?} is no {}", short(&text), leaf.to_lowercase()));
                match leaf.as_str() {
                    "Cookie" => parts.cookie = Some(digest(&text).ok_or_else(none)?),
                    "Version" => parts.version = Some(number(&text).ok_or_else(none)?),
                    _ => parts.recovery = Some(text),
                }
                Ok(())
            }
        }
    }

    fn name(&self, text: &str) -> Parsed<Name> {
        text.parse().or_else(|error| self.wrong(format!("{error}")))
    }

    /// The name of a pack, profile, account or kind.
    fn word(&self, text: &str, what: &str) -> Parsed<String> {
        if is_word(text) {
            Ok(text.to_owned())
        } else {
            self.wrong(format!("{:?} is no name of a {what}", short(text)))
        }
    }

    fn id(&self, text: &str) -> Parsed<AccountId> {
        match bytes(text) {
            Some(id) => Ok(AccountId(id)),
            None => self.wrong(format!("{:?} is no id", short(text))),
        }
    }

    /// The values of exactly these attributes.
    fn attributes<const COUNT: usize>(&self, start: &BytesStart<'_>, names: [&str; COUNT]) -> Parsed<[String; COUNT]> {
        let mut values: [Option<String>; COUNT] = std::array::from_fn(|_| None);
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| ConfigurationError::Xml(self.at, error.to_string()))?;
            let key = attribute.key.as_ref();
            let place = names.iter().zip(&mut values).find(|(name, _)| **name == key);
            let Some((_, place)) = place else {
                return self.wrong(format!("unknown attribute `{}`", key.escape_debug()));
            };
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| ConfigurationError::Xml(self.at, error.to_string()))?;
            // The reader refuses attributes that are there twice.
            *place = Some(value.into_owned());
        }
        match names.iter().zip(&values).find(|(_, value)| value.is_none()) {
            Some((name, _)) => self.wrong(format!("no attribute `{name}`")),
            None => Ok(values.map(Option::unwrap_or_default)),
        }
    }

    /// The text up to the end of the present element.
    fn text(&mut self, empty: bool) -> Parsed<String> {
        let mut text = String::new();
        if empty {
            return Ok(text);
        }
        loop {
            match self.next()? {
                Event::Text(part) => text += &part.xml10_content(),
                Event::GeneralRef(reference) => {
                    let entity = reference.xml10_content();
                    let character = reference.resolve_char_ref();
                    let character = character.map_err(|error| ConfigurationError::Xml(self.at, error.to_string()))?;
                    match (character, resolve_xml_entity(&entity)) {
                        (Some(character), _) => text.push(character),
                        (None, Some(known)) => text += known,
                        (None, None) => return self.wrong(format!("unknown entity `{}`", short(&entity))),
                    }
                }
                Event::End(_) => break,
                Event::DocType(_) => return self.wrong("a document type declaration"),
                Event::Eof => return self.wrong("the end of the document within an element"),
                _ => return self.wrong("only text may stand here"),
            }
        }
        Ok(text)
    }
}

/// What XML calls space.
const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// As much of a text as a message shows.
fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// A hash in hexadecimal, lower case.
fn digest(text: &str) -> Option<Digest> {
    bytes(text).map(Digest)
}

/// So many bytes in hexadecimal, lower case.
fn bytes<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    if text.len() != 2 * LENGTH || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// A number, in the one way that everybody who prints it writes it.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

/// Whether a profile stands for an account that does not come with it.
fn is_dangling(run_as: &RunAs, accounts: &[SecureData]) -> bool {
    run_as.account.is_ok_and(|account| accounts.iter().all(|data| data.account != account))
}

/// Whether a text can be the name of a pack, a Run As profile or a Run As account: 1 to 64 lower-case letters, digits and
/// hyphens.
pub fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn configuration() -> Configuration {
        let text = "[pack]\r\nname = \"a&b\"\t# <x> ]]> 'y' \u{e4}\u{1f600}\n\n  \n";
        Configuration {
            cookie: Digest([0xab; 32]),
            version: 7,
            content: Content {
                group: name("north"),
                name: name("web1.test"),
                role: Role::Agent,
                recovery: Some("MFkw+/==".into()),
                parents: vec![name("gw2.test"), name("gw1.test")],
                run_as: vec![
                    RunAs { profile: "db".into(), account: Ok(AccountId([1; 16])) },
                    RunAs { profile: "web".into(), account: Err(Missing::Undistributed) },
                ],
                accounts: vec![SecureData {
                    account: AccountId([1; 16]),
                    name: "db-login".into(),
                    kind: "basic".into(),
                    user: Some("o'brien".into()),
                    version: 3,
                    key: [0xcd; 16],
                    sealed: "MIIB+/==".into(),
                }],
                packs: vec![("base".into(), text.into()), ("empty".into(), "".into())],
            },
        }
    }

    #[test]
    fn a_configuration_comes_back_as_it_was_whatever_its_packs_say() {
        let before = configuration();
        let xml = before.to_xml();
        assert_eq!(Configuration::parse(xml.as_bytes()), Ok(before.clone()));
        let parts = [before.content.head_to_xml(Form::Sealed), packs_to_xml(&before.content.packs)];
        assert_eq!(document(&before.cookie, 7, &[&parts[0], &parts[1]]), xml);
        assert!(xml.len() < parts[0].len() + parts[1].len() + ENVELOPE);
        let unsealed = before.content.to_xml(Form::Unsealed);
        assert_eq!(
            unsealed.replacen("></SecureData>", ">MIIB+/==</SecureData>", 1),
            before.content.to_xml(Form::Sealed)
        );
        let nothing = Content { run_as: vec![], accounts: vec![], ..before.content.clone() };
        let bare = Content { recovery: None, parents: vec![], packs: vec![], ..nothing };
        let bare = Configuration { content: bare, version: u64::MAX, ..before };
        assert_eq!(Configuration::parse(bare.to_xml().as_bytes()), Ok(bare));
        assert!(can_carry("a\t\r\n\u{e4}\u{1f600}") && !can_carry("\0") && !can_carry("\u{ffff}"));
    }

    #[test]
    fn what_does_not_belong_there_is_refused_with_its_place() {
        let good = configuration().to_xml();
        let element = |from: &str, to: &str| {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            Configuration::parse(bad.as_bytes()).unwrap_err()
        };
        let state = good.find("<Cookie>").unwrap() as u64;
        for (from, to, said) in [
            ("<Message>", "<!DOCTYPE Message [<!ENTITY a \"b\">]><Message>", "document type declaration"),
            ("<Cookie>", "<!DOCTYPE a><Cookie>", "document type declaration"),
            ("<Version>", "<Version><!DOCTYPE a>", "document type declaration"),
            ("<Message>", "<Massage>", "`Message` must stand here"),
            ("<State>", "<State a=\"b\">", "unknown attribute `a`"),
            ("<Cookie>", "<Secret/><Cookie>", "unknown element `Secret`"),
            ("<Cookie>", "<Version>1</Version><Cookie>", "`Version` a second time"),
            ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"gw2.test\"/>", "parent gw2.test a second time"),
            ("<Pack Name=\"empty\">", "<Pack Name=\"base\">", "a second time"),
            ("<Pack Name=\"empty\">", "<Pack Name=\"em&#10;pty\">", "is no name of a pack"),
            ("<Recovery>", "<Recovery>a</Recovery><Recovery>", "`Recovery` a second time"),
            ("Profile=\"web\"", "Profile=\"db\"", "a second time"),
            ("Profile=\"web\"", "Profile=\"W\"", "is no name of a profile"),
            ("undistributed", "lost", "is no reason"),
            ("<SecureData Account=\"01", "<SecureData Account=\"02", "stands for an account that is not there"),
            ("<SecureData Account=\"01", "<SecureData Account=\"1", "is no id"),
            ("Version=\"3\"", "Version=\"03\"", "is no version"),
            ("<Parent Name=\"gw1.test\"/>", "<Parent/>", "no attribute `Name`"),
            ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"*\"/>", "is no host name"),
            ("<Parent Name=\"gw1.test\"/>", "<Parent Name=\"gw1.test\">a</Parent>", "text in `Parent`"),
            ("Role=\"agent\"", "Role=\"root\"", "is no role"),
            ("<Version>7", "<Version>+7", "is no version"),
            ("<Cookie>ab", "<Cookie>AB", "is no cookie"),
            ("<Version>7", "<Version>&lol;7", "unknown entity `lol`"),
            ("<Version>7", "<Version><b/>7", "only text"),
            ("<Cookie>", "a<Cookie>", "text between elements"),
            ("<Cookie>", "<!-- a --><Cookie>", "a comment"),
            ("<Cookie>", "<?php ?><Cookie>", "a processing instruction"),
            ("</Message>", "</Message><Message/>", "more than one `Message`"),
            ("</State>", "</State><State/>", "more than one `State`"),
        ] {
            let error = element(from, to);
            assert!(matches!(error, ConfigurationError::Element(..)), "{from}: {error}");
            assert!(error.to_string().contains(said), "{from}: {error}");
        }
        let secret = element("<Cookie>", "<Secret/><Cookie>");
        assert_eq!(secret, ConfigurationError::Element(state, "unknown element `Secret`".into()));
        for (from, to) in [("</State>", "</Stat>"), ("Name=\"gw1.test\"", "Name=\"gw1.test\" Name=\"gw1.test\"")] {
            assert!(matches!(element(from, to), ConfigurationError::Xml(..)), "{from}");
        }
        for (from, what) in [("Cookie", "Cookie"), ("Version", "Version")] {
            let (begin, end) = (good.find(&format!("<{from}>")).unwrap(), good.find(&format!("</{from}>")).unwrap());
            let without = [&good[..begin], &good[end + from.len() + 3..]].concat();
            assert_eq!(Configuration::parse(without.as_bytes()), Err(ConfigurationError::Missing(what)));
        }
        for end in 0..good.len() - 1 {
            assert!(Configuration::parse(&good.as_bytes()[..end]).is_err(), "cut at {end}");
        }
        assert!(Configuration::parse(b"\xff").is_err());
    }

    #[test]
    fn more_than_the_limit_is_refused_unread() {
        let mut document = vec![b' '; LIMIT];
        assert_ne!(Configuration::parse(&document), Err(ConfigurationError::TooLong));
        document.push(b' ');
        assert_eq!(Configuration::parse(&document), Err(ConfigurationError::TooLong));
    }
}
