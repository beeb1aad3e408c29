//! Run As accounts: which there are, and who may have them.

use std::collections::BTreeSet;

use wardline_connector::journal;
use wardline_proto::configuration::is_word;
use wardline_proto::event::Event;
use wardline_proto::message::AccountId;
use wardline_proto::trust::{self, Fact};
use wardline_proto::{Name, Role};
use wardline_sdk::{AccountChange, AccountOrder, Kind, Recipients};
use wardline_secrets::view::{Account, RECIPIENTS, View};

use super::{Decision, Refusal, refuse};
use crate::accounts::Taken;

/// The most accounts of a group.
const ACCOUNTS: usize = 10_000;
/// The most characters of a local user's name (`useradd(8)`).
const USER: usize = 32;

/// What the server's configuration allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Accounts may be distributed to every agent.
    pub less_secure: bool,
}

impl Policy {
    /// Event 40162 while accounts go to every agent, or may.
    pub fn tell(self, view: &View) {
        let everywhere = view.run_as().accounts().filter(|account| account.everywhere);
        let names: Vec<_> = everywhere.map(|account| account.name.as_str()).collect();
        if self.less_secure || !names.is_empty() {
            let group = view.name().map(ToString::to_string).unwrap_or_default();
            let accounts = if names.is_empty() { "none".into() } else { names.join(", ") };
            journal::emit(Event::LessSecureDistribution { group, accounts });
        }
    }
}

/// There is a new account.
///
/// # Errors
/// The order makes no sense, the name is taken, there are too many, or it goes to whom it may not.
pub fn create(order: &AccountOrder, taken: &Taken, policy: Policy, view: &View) -> Decision {
    let next = "see `wardline account create --help`";
    if !is_word(&order.name) {
        return refuse(Kind::Invalid, format!("{:?} is no name of an account: {WORD}", order.name), next);
    }
    if view.run_as().account_named(&order.name).is_some() {
        let next = format!("give it a new secret: `wardline account update {}`", order.name);
        return refuse(Kind::Conflict, format!("there is an account {} already", order.name), &next);
    }
    if view.run_as().account(taken.id).is_some() || taken.replaces != 0 {
        let next = "run it again: `wardline account create`";
        return refuse(Kind::Conflict, "an account with this id is there already", next);
    }
    if view.run_as().accounts().count() >= ACCOUNTS {
        let next = "delete one: `wardline account list`, `wardline account delete NAME`";
        return refuse(Kind::Conflict, format!("the group has {ACCOUNTS} accounts, the most there may be"), next);
    }
    if taken.kind.as_str() != order.kind {
        return refuse(Kind::Invalid, format!("what is in it is of kind {}, not {}", taken.kind, order.kind), next);
    }
    let user = order.user.as_deref().unwrap_or_default();
    local(user)?;
    let (everywhere, agents) = recipients(&order.recipients, (false, &BTreeSet::new()), policy, view)?;
    let mut facts = vec![said(taken.id, &order.name, order.kind.clone(), taken.version, taken.hash().to_wire(), user)];
    if everywhere || !agents.is_empty() {
        facts.push(distribution(taken.id, everywhere, &agents));
    }
    Ok(facts)
}

/// An account is another from now on: what is in it, whom programs run as, who may have it.
///
/// # Errors
/// There is no such account, it has changed in the meantime, would be of another kind, or goes to whom it may not.
pub fn update(name: &str, change: &AccountChange, taken: Option<&Taken>, policy: Policy, view: &View) -> Decision {
    let known = account(name, view)?;
    let mut facts = Vec::new();
    let user = change.user.as_deref().or(known.user.as_deref()).unwrap_or_default();
    if let Some(taken) = taken {
        if (taken.id, taken.replaces) != (known.id, known.version) || taken.version <= known.version {
            let next = format!("look at it, then run it again: `wardline account show {name}`");
            return refuse(Kind::Conflict, format!("account {name} has changed in the meantime"), &next);
        }
        if taken.kind.as_str() != known.kind {
            let detail = format!("account {name} is of kind {}, and that cannot change", known.kind);
            return refuse(Kind::Invalid, detail, "make another account: `wardline account create`");
        }
    }
    if taken.is_some() || known.user.as_deref().unwrap_or_default() != user {
        local(user)?;
        let (version, secret) = match taken {
            Some(taken) => (taken.version, taken.hash()),
            None => (known.version, known.secret),
        };
        facts.push(said(known.id, name, known.kind.clone(), version, secret.to_wire(), user));
    }
    let before = (known.everywhere, &known.agents);
    let (everywhere, agents) = recipients(&change.recipients, before, policy, view)?;
    if (everywhere, &agents) != before {
        facts.push(distribution(known.id, everywhere, &agents));
    }
    Ok(facts)
}

/// There is no such account any more.
///
/// # Errors
/// There is none, or profiles stand for it.
pub fn delete(name: &str, view: &View) -> Decision {
    let known = account(name, view)?;
    let profiles = profiles_of(known.id, view);
    if let Some(first) = profiles.first() {
        let detail = format!("account {name} is what these profiles stand for: {}", profiles.join(", "));
        let next = format!("`wardline account where-used {name}`; then `wardline profile unset {first}`");
        return refuse(Kind::Conflict, detail, &next);
    }
    Ok(vec![Fact::AccountDeleted(trust::AccountDeleted { id: known.id.to_wire() })])
}

/// The account of this name.
///
/// # Errors
/// There is none.
pub fn account<'a>(name: &str, view: &'a View) -> Result<&'a Account, Refusal> {
    match view.run_as().account_named(name) {
        Some(account) => Ok(account),
        None => refuse(Kind::NotFound, format!("there is no account {name}"), "`wardline account list` shows them"),
    }
}

/// The profiles that stand for an account somewhere.
pub fn profiles_of(account: AccountId, view: &View) -> Vec<String> {
    let profiles = view.run_as().profiles().filter(|(_, profile)| profile.stands_for(account));
    profiles.map(|(name, _)| name.to_owned()).collect()
}

/// What a name of an account or profile is.
pub(super) const WORD: &str = "1 to 64 of a-z, 0-9 and - are allowed";

/// An agent of the group.
///
/// # Errors
/// It is none.
pub fn agent(name: &Name, view: &View) -> Result<(), Refusal> {
    match view.member_named(name).map(|member| member.role) {
        Some(Role::Agent) => Ok(()),
        Some(role) => refuse(Kind::Invalid, format!("{name} is a {role}, not an agent"), AGENTS),
        None => refuse(Kind::NotFound, format!("there is no agent {name} in the group"), AGENTS),
    }
}

const AGENTS: &str = "`wardline topology` shows who is in the group; a host joins before it is given secrets";

/// Whether every agent may have an account from now on, and which by name.
fn recipients(
    change: &Recipients,
    (everywhere, agents): (bool, &BTreeSet<Name>),
    policy: Policy,
    view: &View,
) -> Result<(bool, BTreeSet<Name>), Refusal> {
    // Who names agents means these.
    let next = change.everywhere.unwrap_or(everywhere && change.only.is_none());
    if next && !everywhere && !policy.less_secure {
        let detail = "no account is distributed to every agent here: any host that is taken over would have it";
        let next = "name the agents: `--to AGENT,AGENT`; or set `less_secure_distribution = true` in server.toml";
        return refuse(Kind::Denied, detail, next);
    }
    let mut named = change.only.as_ref().map_or_else(|| agents.clone(), |only| only.iter().cloned().collect());
    for agent in change.only.iter().flatten().chain(&change.add) {
        self::agent(agent, view)?;
        named.insert(agent.clone());
    }
    if next && !change.remove.is_empty() {
        let next = "name those that may have it: `--to AGENT,AGENT`";
        return refuse(Kind::Conflict, "it goes to every agent: none can be taken out", next);
    }
    if let Some(agent) = change.remove.iter().find(|agent| !named.contains(*agent)) {
        let next = "`wardline account show NAME` shows to whom it is";
        return refuse(Kind::NotFound, format!("it is not distributed to {agent}"), next);
    }
    named.retain(|agent| !change.remove.contains(agent));
    if named.len() > RECIPIENTS {
        let next = "make a second account for the others";
        return refuse(Kind::Invalid, format!("an account goes to at most {RECIPIENTS} agents by name"), next);
    }
    Ok((next, named))
}

/// A local user's name, or nothing.
fn local(user: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if user.len() > USER || !user.bytes().all(plain) {
        let detail = format!("{:?} is no name of a local user", user.chars().take(40).collect::<String>());
        return refuse(Kind::Invalid, detail, "see `wardline account create --help`");
    }
    Ok(())
}

fn said(id: AccountId, name: &str, kind: String, version: u64, secret: bytes::Bytes, user: &str) -> Fact {
    let (id, name, user) = (id.to_wire(), name.to_owned(), user.to_owned());
    Fact::Account(trust::Account { id, name, kind, version, secret, user })
}

fn distribution(account: AccountId, everywhere: bool, agents: &BTreeSet<Name>) -> Fact {
    let agents = agents.iter().map(ToString::to_string).collect();
    Fact::Distribution(trust::Distribution { account: account.to_wire(), everywhere, agents })
}
