//! Who a health service is to Kerberos: the one place that maps names to principals and back. Pure text, compared byte
//! for byte; what a library or a ticket makes of a name (aliases, PACs) never makes it another.
//!
//! ```text
//!  host/web1.example@EXAMPLE   by rule: its own name, in a realm that is listed
//!  WEB1$@EXAMPLE               an account: only when a token or an operator has said that it is this host's
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Name;

/// The service in the principal of a host.
const HOST: &str = "host";
/// The service in the principal by which a group's servers are known.
const GROUP: &str = "MSOMHSvc";
/// The most bytes of a realm.
const REALM: usize = 253;
/// The most bytes of an account's name, without the `$`.
const ACCOUNT: usize = 63;

/// A realm, as its KDC writes it: letters, digits, `-` and `_` in parts joined by single dots. EXAMPLE and example are two.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Realm(String);

/// The Kerberos principal of a host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Principal {
    owner: Owner,
    realm: Realm,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Owner {
    Host(Name),
    Account(String),
}

/// Why a text is no [`Principal`] or [`Realm`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct PrincipalError {
    text: String,
    what: &'static str,
}

/// Why a health service does not have a principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is that of a host of another name.
    #[error("{0} is the principal of another host")]
    OtherHost(Principal),
    /// Another was named for it.
    #[error("it calls itself {asked}, and {said} was named for it")]
    Other {
        /// What it says.
        asked: Principal,
        /// What was said for it.
        said: Principal,
    },
    /// It is no name of the rule.
    #[error("{0} does not follow from its name: a token or an operator has to name it")]
    Account(Principal),
    /// Its realm is not listed.
    #[error("realm {0} is not listed, and neither a token nor an operator has named the principal")]
    Realm(Realm),
}

impl Principal {
    /// The principal of a host of this name, by the rule.
    pub const fn of_host(name: Name, realm: Realm) -> Self {
        Self { owner: Owner::Host(name), realm }
    }

    /// Its realm.
    pub const fn realm(&self) -> &Realm {
        &self.realm
    }

    /// Whether a health service of this name can have it at all: that of another host never.
    pub fn can_be_of(&self, name: &Name) -> bool {
        match &self.owner {
            Owner::Host(host) => host == name,
            Owner::Account(_) => true,
        }
    }

    /// Whether it follows from a name and the listed realms.
    pub fn follows(&self, name: &Name, realms: &[Realm]) -> bool {
        matches!(&self.owner, Owner::Host(host) if host == name) && realms.contains(&self.realm)
    }
}

/// The principal that a health service of this name is to have, when it says that it has `asked`, and a token or an operator
/// has `said` which it has.
///
/// # Errors
/// It is not by the rule and nobody has said it, or what was said is another.
pub fn settle(
    name: &Name,
    asked: Option<&Principal>,
    said: Option<&Principal>,
    realms: &[Realm],
) -> Result<Option<Principal>, Unfit> {
    let principal = match (asked, said) {
        (Some(asked), Some(said)) if asked != said => {
            return Err(Unfit::Other { asked: asked.clone(), said: said.clone() });
        }
        (None, None) => return Ok(None),
        (_, Some(said)) => said,
        (Some(asked), None) => match &asked.owner {
            Owner::Account(_) => return Err(Unfit::Account(asked.clone())),
            Owner::Host(_) if !realms.contains(&asked.realm) => return Err(Unfit::Realm(asked.realm.clone())),
            Owner::Host(_) => asked,
        },
    };
    if principal.can_be_of(name) { Ok(Some(principal.clone())) } else { Err(Unfit::OtherHost(principal.clone())) }
}

/// The principal, as text, for which a group's servers hold a keytab: by it they prove themselves to a host that joins.
pub fn of_group(group: &Name, realm: &Realm) -> String {
    format!("{GROUP}/{group}@{realm}")
}

impl FromStr for Realm {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let part = |part: &str| !part.is_empty() && part.bytes().all(allowed);
        if text.len() <= REALM && text.split('.').all(part) {
            Ok(Self(text.into()))
        } else {
            Err(PrincipalError::new(text, "realm: parts of letters, digits, - and _, joined by dots"))
        }
    }
}

impl FromStr for Principal {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        let wrong = || PrincipalError::new(text, "principal of a host: host/NAME@REALM or ACCOUNT$@REALM");
        let (owner, realm) = text.split_once('@').ok_or_else(wrong)?;
        let realm = realm.parse().map_err(|_| wrong())?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let owner = match (owner.split_once('/'), owner.strip_suffix('$')) {
            (Some((HOST, name)), _) => Owner::Host(name.parse().map_err(|_| wrong())?),
            (None, Some(account)) if (1..=ACCOUNT).contains(&account.len()) && account.bytes().all(allowed) => {
                Owner::Account(account.into())
            }
            _ => return Err(wrong()),
        };
        Ok(Self { owner, realm })
    }
}

impl PrincipalError {
    fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.chars().take(600).collect(), what }
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Host(name) => write!(f, "{HOST}/{name}@{}", self.realm),
            Owner::Account(account) => write!(f, "{account}$@{}", self.realm),
        }
    }
}

impl TryFrom<String> for Realm {
    type Error = PrincipalError;
    fn try_from(text: String) -> Result<Self, PrincipalError> {
        text.parse()
    }
}

impl From<Realm> for String {
    fn from(realm: Realm) -> Self {
        realm.0
    }
}

impl TryFrom<String> for Principal {
    type Error = PrincipalError;
    fn try_from(text: String) -> Result<Self, PrincipalError> {
        text.parse()
    }
}

impl From<Principal> for String {
    fn from(principal: Principal) -> Self {
        principal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn realm(text: &str) -> Realm {
        text.parse().unwrap()
    }

    fn principal(text: &str) -> Principal {
        text.parse().unwrap()
    }

    #[test]
    fn a_principal_is_one_exact_text_and_reads_as_it_is_written() {
        for good in
            ["host/web1.test@CORP.TEST", "host/a@R", "WEB1$@CORP.TEST", "web-1_x.y$@corp", "host/web1.test@corp.test"]
        {
            assert_eq!(principal(good).to_string(), good);
        }
        let long = format!("host/web1.test@{}", "A".repeat(254));
        let longer = format!("{}$@R", "A".repeat(64));
        for bad in [
            "",
            "@",
            "host/web1.test",
            "host/web1.test@",
            "host@CORP",
            "web1@CORP",
            "$@CORP",
            "HOST/web1.test@CORP",
            "http/web1.test@CORP",
            "MSOMHSvc/web1.test@CORP",
            "host/WEB1.test@CORP",
            "host/web1.test/admin@CORP",
            "host/web1.test$@CORP",
            "host/web1.test@CORP@CORP",
            "host/web1.test\\@x@CORP",
            "host\\/web1.test@CORP",
            "web1\\$@CORP",
            "host/web1.test@CO RP",
            "host/web1.test@.CORP",
            "host/web1.test@CORP.",
            "host/web1.test@A..B",
            "host/web1.test@CORP\0",
            "host/web1.test\0@CORP",
            "host/w\u{e4}b@CORP",
            " host/web1.test@CORP",
            "host/web1.test@CORP\n",
            "X:host/web1.test@CORP",
            "a$b$@CORP",
            "host/@CORP",
            "/web1.test@CORP",
            "host//web1.test@CORP",
            &long,
            &longer,
        ] {
            assert!(bad.parse::<Principal>().is_err(), "{bad:?}");
        }
        assert_eq!(of_group(&name("north"), &realm("CORP.TEST")), "MSOMHSvc/north@CORP.TEST");
        assert!(of_group(&name("north"), &realm("CORP.TEST")).parse::<Principal>().is_err());
    }

    /// Whatever bytes of a principal are changed, it is another one or none: no two texts are one principal.
    #[test]
    fn no_other_text_is_the_same_principal() {
        for text in ["host/web1.test@CORP.TEST", "WEB1$@CORP.TEST"] {
            let known = principal(text);
            for at in 0..text.len() {
                for byte in 0..=u8::MAX {
                    let (before, after) = (&text.as_bytes()[..at], &text.as_bytes()[at..]);
                    let changed = [before, &[byte], &after[1..]].concat();
                    let inserted = [before, &[byte], after].concat();
                    let removed = [before, &after[1..]].concat();
                    for other in [changed, inserted, removed] {
                        let Ok(other) = String::from_utf8(other) else { continue };
                        let same = other.parse::<Principal>().is_ok_and(|other| other == known);
                        assert_eq!(same, other == text, "{other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_in_a_listed_realm_is_the_rule_and_everything_else_must_be_said() {
        let (web1, listed) = (name("web1.test"), [realm("CORP.TEST"), realm("EAST.TEST")]);
        let (rule, account) = (principal("host/web1.test@CORP.TEST"), principal("WEB1$@CORP.TEST"));
        let settled = |asked: Option<&Principal>, said| settle(&web1, asked, said, &listed);
        assert_eq!(rule, Principal::of_host(web1.clone(), realm("CORP.TEST")));
        assert_eq!(settled(None, None), Ok(None));
        assert_eq!(settled(Some(&rule), None), Ok(Some(rule.clone())));
        let east = principal("host/web1.test@EAST.TEST");
        assert_eq!(settled(Some(&east), None), Ok(Some(east.clone())));
        assert_eq!(settled(Some(&account), None), Err(Unfit::Account(account.clone())));
        let foreign = principal("host/web1.test@WEST.TEST");
        assert_eq!(settled(Some(&foreign), None), Err(Unfit::Realm(realm("WEST.TEST"))));
        let lower = principal("host/web1.test@corp.test");
        assert_eq!(settled(Some(&lower), None), Err(Unfit::Realm(realm("corp.test"))));
        // What was said counts, whatever is listed.
        for said in [&account, &foreign, &rule] {
            assert_eq!(settled(Some(said), Some(said)), Ok(Some(said.clone())));
            assert_eq!(settled(None, Some(said)), Ok(Some(said.clone())));
        }
        assert!(matches!(settled(Some(&rule), Some(&account)), Err(Unfit::Other { .. })));
        // But not that it is another host.
        let other = principal("host/web2.test@CORP.TEST");
        for (asked, said) in [(Some(&other), None), (None, Some(&other)), (Some(&other), Some(&other))] {
            assert_eq!(settled(asked, said), Err(Unfit::OtherHost(other.clone())));
        }
        assert!(rule.follows(&web1, &listed) && !other.follows(&web1, &listed) && !account.follows(&web1, &listed));
        assert!(!rule.follows(&web1, &[]) && account.can_be_of(&web1) && !other.can_be_of(&web1));
    }
}
