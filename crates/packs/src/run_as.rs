//! With which credential a program runs, and how it gets it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// In an argument it stands for the path of the folder with the credential.
pub const FOLDER: &str = "{credentials}";

/// The credential that a program asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The profile that an account is bound to: 1 to 64 lower-case letters, digits and `-`.
    pub profile: String,
    /// What of the credential the program reads by `--extra-opts`, as plugins of the Monitoring Plugins do.
    pub extra_opts: Option<ExtraOpts>,
}

/// A section of a file of options, which the agent writes and the program reads.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtraOpts {
    /// The name of the section.
    #[serde(deserialize_with = "section")]
    pub section: String,
    /// The options in it, by name: `--NAME=VALUE`, or `-N VALUE` where the name is one letter.
    #[serde(deserialize_with = "options")]
    pub options: BTreeMap<String, Template>,
}

/// A text with places for fields of a credential.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

/// A field of a credential, written `{user}`, `{password}`, `{community}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The user's name.
    User,
    /// The password.
    Password,
    /// The community string.
    Community,
}

impl Field {
    const ALL: [Self; 3] = [Self::User, Self::Password, Self::Community];

    /// Its name, also of the file that holds it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Password => "password",
            Self::Community => "community",
        }
    }

    /// Whether a text has the place of some field.
    pub(crate) fn in_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| text.contains(&format!("{{{field}}}")))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Template {
    /// Its pieces in order: each a text as it is, or a field.
    pub fn pieces(&self) -> impl Iterator<Item = Result<&str, Field>> {
        self.0.iter().map(|piece| match piece {
            Piece::Text(text) => Ok(text.as_str()),
            Piece::Field(field) => Err(*field),
        })
    }
}

impl TryFrom<String> for Template {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() || text.trim() != text || text.contains(char::is_control) {
            return Err(format!("{text:?} cannot stand in a file of options: no line break, no space at either end"));
        }
        let mut pieces = Vec::new();
        let mut rest = text.as_str();
        while let Some((before, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or_else(|| unknown(rest))?;
            let field = Field::ALL.into_iter().find(|field| field.as_str() == name);
            let field = field.ok_or_else(|| unknown(&format!("{{{name}}}")))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Field(field));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }
}

fn unknown(text: &str) -> String {
    format!("{text:?} is no field: {{user}}, {{password}} and {{community}} are allowed")
}

/// The name of a profile.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Profile(pub(crate) String);

impl TryFrom<String> for Profile {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if wardline_proto::configuration::is_word(&text) {
            return Ok(Self(text));
        }
        Err(format!("{text:?} is no name of a profile: 1 to 64 lower-case letters, digits and - are allowed"))
    }
}

fn section<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    let fits = matches!(text.len(), 1..=64);
    if fits && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Ok(text);
    }
    Err(serde::de::Error::custom(format!("{text:?} is no section: 1 to 64 letters, digits, -, _ and . are allowed")))
}

fn options<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Template>, D::Error> {
    let options: BTreeMap<String, Template> = BTreeMap::deserialize(from)?;
    let is_name = |name: &str| {
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        begins && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let wrong = match options.keys().find(|name| !is_name(name)) {
        Some(name) => format!("{name:?} is no name of an option: 1 to 64 letters, digits, - and _ are allowed"),
        None if options.is_empty() => "at least one option is needed".into(),
        None => return Ok(options),
    };
    Err(serde::de::Error::custom(wrong))
}
