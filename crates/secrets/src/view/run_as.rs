//! Run As accounts and profiles, as the trust log has them: what there is, who may have it, what stands for what. The
//! secrets are not in the log.
//!
//! Who is to have an account is what operators have said, and nothing else: a profile stands for it on that host, *and* it
//! is distributed to that host. What a host says of itself has no part in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wardline_proto::Name;
use wardline_proto::configuration::{Missing, is_word};
use wardline_proto::message::{AccountId, Digest};
use wardline_proto::trust::{self, Fact};

use super::Unsound;

/// The most agents that one account is distributed to by name.
pub const RECIPIENTS: usize = 10_000;
/// The most characters of a local user's name (`useradd(8)`).
const USER: usize = 32;

/// A Run As account, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// Its kind, in one word.
    pub kind: String,
    /// Which version of its secret.
    pub version: u64,
    /// SHA-256 of the encrypted secret as it is in the database.
    pub secret: Digest,
    /// The local user that programs run as which use it.
    pub user: Option<String>,
    /// Whether every agent may have it ("less secure").
    pub everywhere: bool,
    /// The agents that may have it ("more secure").
    pub agents: BTreeSet<Name>,
    /// When the secret was given, milliseconds since 1970.
    pub changed_at: u64,
}

impl Account {
    /// Whether it is distributed to an agent.
    pub fn is_for(&self, agent: &Name) -> bool {
        self.everywhere || self.agents.contains(agent)
    }
}

/// A Run As profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// What it stands for on every agent that has none of its own.
    pub everywhere: Option<AccountId>,
    /// What it stands for on these agents.
    pub agents: BTreeMap<Name, AccountId>,
}

impl Profile {
    /// The account that it stands for on an agent: the one for that agent before the one for all.
    pub fn account(&self, agent: &Name) -> Option<AccountId> {
        self.agents.get(agent).copied().or(self.everywhere)
    }

    /// Whether it stands for an account anywhere.
    pub fn stands_for(&self, account: AccountId) -> bool {
        self.everywhere == Some(account) || self.agents.values().any(|bound| *bound == account)
    }

    fn forget(&mut self, account: AccountId) {
        self.everywhere = self.everywhere.filter(|bound| *bound != account);
        self.agents.retain(|_, bound| *bound != account);
    }
}

/// Whose configurations may be another from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Affected {
    /// Those of every member.
    All,
    /// Those of these members.
    These(BTreeSet<Name>),
}

/// Every account and profile.
#[derive(Clone, Debug, Default)]
pub struct RunAs {
    accounts: BTreeMap<AccountId, Arc<Account>>,
    profiles: BTreeMap<String, Arc<Profile>>,
}

impl RunAs {
    /// Every account, by id.
    pub fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// An account.
    pub fn account(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.accounts.get(&id)
    }

    /// The account of this name.
    pub fn account_named(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.values().find(|account| account.name == name)
    }

    /// Every profile, by name.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &Profile)> {
        self.profiles.iter().map(|(name, profile)| (name.as_str(), &**profile))
    }

    /// The profile of this name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name).map(|profile| &**profile)
    }

    /// The account that an agent is to use where a workflow names a profile, or why there is none for it.
    ///
    /// # Errors
    /// Nothing stands for it there, or that is not distributed to it.
    pub fn resolve(&self, profile: &str, agent: &Name) -> Result<&Arc<Account>, Missing> {
        let bound = self.profile(profile).and_then(|profile| profile.account(agent));
        let account = bound.and_then(|id| self.account(id)).ok_or(Missing::Unassigned)?;
        if account.is_for(agent) { Ok(account) } else { Err(Missing::Undistributed) }
    }

    /// Takes a fact that is about accounts or profiles; whom it affects. `is_agent` says who is an agent of the group now.
    pub(super) fn take(&mut self, fact: Fact, at: u64, is_agent: impl Fn(&Name) -> bool) -> Result<Affected, Unsound> {
        let wrong = Unsound::Fact;
        match fact {
            Fact::Account(account) => self.put(account, at),
            Fact::AccountDeleted(deleted) => {
                let id = id(&deleted.id)?;
                let account = self.accounts.remove(&id).ok_or(wrong("an account that is not there"))?;
                for profile in self.profiles.values_mut().filter(|profile| profile.stands_for(id)) {
                    Arc::make_mut(profile).forget(id);
                }
                // Where it stood for a profile without being distributed, the reason is another now.
                drop(account);
                Ok(Affected::All)
            }
            Fact::Distribution(distribution) => {
                let account = self.accounts.get_mut(&id(&distribution.account)?);
                let account = account.ok_or(wrong("an account that is not there"))?;
                let names = distribution.agents.iter().map(|name| name.parse::<Name>());
                let agents = names.collect::<Result<BTreeSet<_>, _>>().map_err(|_| wrong("an agent's name"))?;
                if agents.len() > RECIPIENTS || !agents.iter().all(is_agent) {
                    return Err(wrong("who is no agent of the group, or too many"));
                }
                let account = Arc::make_mut(account);
                let affected = match account.everywhere || distribution.everywhere {
                    true => Affected::All,
                    false => Affected::These(account.agents.union(&agents).cloned().collect()),
                };
                (account.everywhere, account.agents) = (distribution.everywhere, agents);
                Ok(affected)
            }
            Fact::Profile(profile) => {
                if !is_word(&profile.name) || self.profiles.contains_key(&profile.name) {
                    return Err(wrong("a profile's name, or one that is there already"));
                }
                self.profiles.insert(profile.name, Arc::default());
                Ok(Affected::All)
            }
            Fact::ProfileDeleted(deleted) => {
                self.profiles.remove(&deleted.name).ok_or(wrong("a profile that is not there"))?;
                Ok(Affected::All)
            }
            Fact::Binding(binding) => {
                let account = match binding.account.as_ref() {
                    [] => None,
                    bytes => Some(id(bytes)?),
                };
                if account.is_some_and(|id| !self.accounts.contains_key(&id)) {
                    return Err(wrong("an account that is not there"));
                }
                let profile = self.profiles.get_mut(&binding.profile).ok_or(wrong("a profile that is not there"))?;
                let profile = Arc::make_mut(profile);
                if binding.agent.is_empty() {
                    profile.everywhere = account;
                    return Ok(Affected::All);
                }
                let agent: Name = binding.agent.parse().map_err(|_| wrong("an agent's name"))?;
                match account {
                    Some(_) if !is_agent(&agent) => return Err(wrong("who is no agent of the group")),
                    Some(account) => profile.agents.insert(agent.clone(), account),
                    None => profile.agents.remove(&agent),
                };
                Ok(Affected::These(BTreeSet::from([agent])))
            }
            _ => Err(wrong("nothing about accounts")),
        }
    }

    fn put(&mut self, account: trust::Account, at: u64) -> Result<Affected, Unsound> {
        let wrong = Unsound::Fact;
        let id = id(&account.id)?;
        let trust::Account { name, kind, version, user, .. } = account;
        let secret = Digest::from_wire(&account.secret).ok_or(wrong("the hash of a secret"))?;
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if !is_word(&name) || !is_word(&kind) || user.len() > USER || !user.bytes().all(plain) {
            return Err(wrong("an account's name, kind or user"));
        }
        if self.account_named(&name).is_some_and(|other| other.id != id) {
            return Err(wrong("an account's name that another has"));
        }
        let user = Some(user).filter(|user| !user.is_empty());
        if let Some(known) = self.accounts.get_mut(&id) {
            // The same version says something else of the same secret.
            let same = version == known.version && secret == known.secret;
            if !same && version <= known.version {
                return Err(wrong("a version of an account that is not above the one before"));
            }
            let known = Arc::make_mut(known);
            (known.name, known.kind, known.version, known.secret, known.user) = (name, kind, version, secret, user);
            known.changed_at = if same { known.changed_at } else { at };
            return Ok(if known.everywhere { Affected::All } else { Affected::These(known.agents.clone()) });
        }
        let (everywhere, agents) = (false, BTreeSet::new());
        let account = Account { id, name, kind, version, secret, user, everywhere, agents, changed_at: at };
        self.accounts.insert(id, Arc::new(account));
        Ok(Affected::These(BTreeSet::new()))
    }

    /// Who is removed from the group has nothing any more, and whoever has its name later inherits nothing.
    pub(super) fn remove(&mut self, agent: &Name) {
        for account in self.accounts.values_mut().filter(|account| account.agents.contains(agent)) {
            Arc::make_mut(account).agents.remove(agent);
        }
        for profile in self.profiles.values_mut().filter(|profile| profile.agents.contains_key(agent)) {
            Arc::make_mut(profile).agents.remove(agent);
        }
    }
}

fn id(bytes: &[u8]) -> Result<AccountId, Unsound> {
    AccountId::from_wire(bytes).ok_or(Unsound::Fact("an account's id"))
}
