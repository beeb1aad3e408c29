//! Who is in the group: each health service's name, role and identity key, and which gateway speaks for which agent.

use std::collections::HashMap;

use serde::Deserialize;
use wardline_proto::{Name, Role};

use crate::signature::VerifyingKey;

/// One health service of the group, as an operator approved it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// The key that signs what it says.
    pub identity: VerifyingKey,
    /// The gateway that speaks for it; an agent without one connects to a server itself.
    pub gateway: Option<Name>,
}

/// The one place where programs look up whom they know. Whatever fills it, everything else asks only here.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: HashMap<Name, Member>,
}

/// A member as a configuration file lists it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its identity key: a P-256 SubjectPublicKeyInfo, DER in base64.
    #[serde(deserialize_with = "public_key")]
    pub identity: VerifyingKey,
    /// Agents only: the gateway that speaks for it.
    pub gateway: Option<Name>,
}

fn public_key<'de, D: serde::Deserializer<'de>>(from: D) -> Result<VerifyingKey, D::Error> {
    let text = String::deserialize(from)?;
    VerifyingKey::from_base64(&text).map_err(serde::de::Error::custom)
}

impl Roster {
    /// From lists.
    ///
    /// # Errors
    /// The name that is listed twice.
    pub fn new(listed: impl IntoIterator<Item = (Role, Listed)>) -> Result<Self, Name> {
        let mut members = HashMap::new();
        for (role, Listed { name, identity, gateway }) in listed {
            let member = Member { name: name.clone(), role, identity, gateway };
            if members.insert(name.clone(), member).is_some() {
                return Err(name);
            }
        }
        Ok(Self { members })
    }

    /// A member of this name and role.
    pub fn find(&self, name: &Name, role: Role) -> Option<&Member> {
        self.members.get(name).filter(|member| member.role == role)
    }

    /// The agent of this name, if it reports through this gateway (`None`: directly).
    pub fn agent_via(&self, agent: &Name, gateway: Option<&Name>) -> Option<&Member> {
        self.find(agent, Role::Agent).filter(|member| member.gateway.as_ref() == gateway)
    }

    /// Every member.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }
}
