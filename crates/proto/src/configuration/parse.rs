//! Reading a configuration document.

use std::borrow::Cow;
use std::sync::Arc;

use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};

use super::{Configuration, ConfigurationError, Content, LIMIT, Missing, RunAs, SecureData, is_word};
use crate::message::{AccountId, Digest};
use crate::{Name, Role};

impl Configuration {
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
    disowned: Vec<[u8; 16]>,
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
        let Parts { recovery, disowned, parents, run_as, accounts, packs, .. } = parts;
        if let Some(RunAs { profile, .. }) = run_as.iter().find(|run_as| is_dangling(run_as, &accounts)) {
            return self.wrong(format!("profile {profile:?} stands for an account that is not there"));
        }
        Ok(Configuration {
            cookie: parts.cookie.ok_or(missing("Cookie"))?,
            version: parts.version.ok_or(missing("Version"))?,
            content: Content { group, name, role, recovery, disowned, parents, run_as, accounts, packs },
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
            "Disowned" | "Parent" | "RunAs" | "SecureData" | "Pack" => false,
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
            "Disowned" => {
                let [key] = self.attributes(start, ["Key"])?;
                let AccountId(key) = self.id(&key)?;
                if parts.disowned.last().is_some_and(|before| *before >= key) {
                    return Err(wrong(format!("key {} a second time, or not in the order of ids", AccountId(key))));
                }
                parts.disowned.push(key);
                self.text(empty)?.is_empty().then_some(()).ok_or_else(|| wrong("text in `Disowned`".into()))
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
