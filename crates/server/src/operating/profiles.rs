//! Run As profiles: what each stands for, and how far that is on its way to each agent.

use wardline_proto::configuration::{DEFAULT_PROFILE, Missing, is_word};
use wardline_proto::trust::{self, Fact};
use wardline_sdk::{BindingOrder, Delivery, Explained, Kind, Reach, Time};
use wardline_secrets::view::{Member, Profile, View};

use super::accounts::{self, WORD};
use super::{Decision, Refusal, refuse};
use crate::store::Receipt;

/// The most profiles of a group.
const PROFILES: usize = 1000;

/// There is a new profile.
///
/// # Errors
/// The name makes no sense or is taken, or there are too many.
pub fn create(name: &str, view: &View) -> Decision {
    if !is_word(name) {
        let name: String = name.chars().take(70).collect();
        let next = "see `wardline profile create --help`";
        return refuse(Kind::Invalid, format!("{name:?} is no name of a profile: {WORD}"), next);
    }
    if name == DEFAULT_PROFILE || view.run_as().profile(name).is_some() {
        let next = format!("say what it stands for: `wardline profile set {name} --account ACCOUNT`");
        return refuse(Kind::Conflict, format!("there is a profile {name} already"), &next);
    }
    if view.run_as().profiles().count() >= PROFILES {
        let next = "delete one: `wardline profile list`, `wardline profile delete NAME`";
        return refuse(Kind::Conflict, format!("the group has {PROFILES} profiles, the most there may be"), next);
    }
    Ok(vec![made(name)])
}

/// There is no such profile any more. A check that still names it has no credentials: `explain` says so.
///
/// # Errors
/// There is none, or it is built in.
pub fn delete(name: &str, view: &View) -> Decision {
    if name == DEFAULT_PROFILE {
        let next = format!("have it stand for nothing: `wardline profile unset {name}`");
        return refuse(Kind::Invalid, format!("profile {name} is built in"), &next);
    }
    known(name, view)?;
    Ok(vec![Fact::ProfileDeleted(trust::ProfileDeleted { name: name.to_owned() })])
}

/// A profile stands for an account from now on, or for none any more; on one agent, or on every one that has none of its
/// own.
///
/// # Errors
/// There is no such profile, account or agent; it stands for another there, or for none already.
pub fn bind(name: &str, order: &BindingOrder, view: &View) -> Decision {
    let profile = known(name, view)?;
    let before = match &order.agent {
        Some(agent) => profile.and_then(|profile| profile.agents.get(agent).copied()),
        None => profile.and_then(|profile| profile.everywhere),
    };
    let place = order.agent.as_ref().map_or_else(|| "every agent".to_owned(), ToString::to_string);
    let account = match (&order.account, before) {
        (Some(account), _) => Some(accounts::account(account, view)?.id),
        (None, Some(_)) => None,
        (None, None) => {
            let next = format!("`wardline profile show {name}` shows what it stands for");
            return refuse(Kind::NotFound, format!("profile {name} stands for no account on {place}"), &next);
        }
    };
    if let (Some(agent), Some(_)) = (&order.agent, account) {
        accounts::agent(agent, view)?;
    }
    if account == before {
        return Ok(Vec::new());
    }
    let other = before.and_then(|id| view.run_as().account(id)).filter(|_| account.is_some() && !order.replace);
    if let Some(other) = other {
        let detail = format!("profile {name} already stands for account {} on {place}", other.name);
        return refuse(Kind::Conflict, detail, "if the new one is to take its place: `--replace`");
    }
    let binding = trust::Binding {
        profile: name.to_owned(),
        agent: order.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        account: account.map(|id| id.to_wire()).unwrap_or_default(),
    };
    // The built-in one is entered when it first stands for something.
    let first = profile.is_none().then(|| made(name));
    Ok(first.into_iter().chain([Fact::Binding(binding)]).collect())
}

/// The profile of this name; nothing for the built-in one while the trust log does not know it.
///
/// # Errors
/// There is none.
pub fn known<'a>(name: &str, view: &'a View) -> Result<Option<&'a Profile>, Refusal> {
    let known = view.run_as().profile(name);
    if known.is_none() && name != DEFAULT_PROFILE {
        let name: String = name.chars().take(70).collect();
        let next = "`wardline profile list` shows them; `wardline profile create NAME` makes one";
        return refuse(Kind::NotFound, format!("there is no profile {name}"), next);
    }
    Ok(known)
}

fn made(name: &str) -> Fact {
    Fact::Profile(trust::Profile { name: name.to_owned() })
}

/// What a profile gives an agent, and why: from what operators have said, from the checks of its packs that name the
/// profile, and from what became of the account there.
pub fn explain<'a>(
    name: &str,
    agent: &Member,
    checks: Vec<String>,
    mut receipts: impl Iterator<Item = &'a Receipt>,
    view: &View,
) -> Explained {
    let run_as = view.run_as();
    let profile = run_as.profile(name);
    let bound = profile.and_then(|profile| profile.account(&agent.name)).and_then(|id| run_as.account(id));
    let account = bound.map(|account| account.name.as_str()).unwrap_or("ACCOUNT");
    let reach = |named: bool| if named { Reach::Agent } else { Reach::Everywhere };
    // Who names no profile asks for this one.
    let asked = !checks.is_empty() || name == DEFAULT_PROFILE;
    let receipt = bound.and_then(|account| {
        receipts.find(|receipt| {
            let same = receipt.account == account.id && receipt.version == account.version;
            same && receipt.agent == agent.name
        })
    });
    let (state, since, next) = match run_as.resolve(name, &agent.name) {
        Err(Missing::Unassigned) if name == DEFAULT_PROFILE => (Delivery::Unassigned, None, None),
        Err(Missing::Unassigned) => {
            let next = format!("`wardline profile set {name} --account ACCOUNT`");
            (Delivery::Unassigned, None, Some(next))
        }
        Err(_) => {
            let next = format!("`wardline account update {account} --also-to {}`", agent.name);
            (Delivery::Undistributed, None, Some(next))
        }
        Ok(_) if !asked => {
            let next = format!("have a check of a pack that it runs say `run_as = \"{name}\"`: `wardline pack apply`");
            (Delivery::Unused, None, Some(next))
        }
        Ok(_) if agent.sealing.is_none() => {
            let next = format!(
                "it publishes its key when it connects: `wardline agent list`; on {}, `wardline-agent certs`",
                agent.name
            );
            (Delivery::Keyless, None, Some(next))
        }
        Ok(_) => delivered(receipt, agent),
    };
    Explained {
        agent: agent.name.clone(),
        state,
        account: bound.map(|account| account.name.clone()),
        bound: bound.map(|_| reach(profile.is_some_and(|profile| profile.agents.contains_key(&agent.name)))),
        distributed: bound
            .filter(|account| account.is_for(&agent.name))
            .map(|account| reach(account.agents.contains(&agent.name))),
        checks,
        key: agent.sealing.as_ref().map(|sealing| sealing.certificate.id().to_string()),
        version: bound.map(|account| account.version),
        user: bound.and_then(|account| account.user.clone()),
        since: since.map(Time),
        workflow: receipt.and_then(|receipt| receipt.workflow.clone()),
        next,
    }
}

/// How far a version of an account is that an agent is to have.
fn delivered(receipt: Option<&Receipt>, agent: &Member) -> (Delivery, Option<u64>, Option<String>) {
    let host = &agent.name;
    let unsent = || {
        let next = format!(
            "it is sent when the agent is connected: `wardline agent list`; on {host}, `wardline-agent doctor`"
        );
        (Delivery::Unsent, None, Some(next))
    };
    let Some(receipt) = receipt else { return unsent() };
    let failed = receipt.failed_at.filter(|failed| receipt.opened_at.is_none_or(|opened| opened < *failed));
    match receipt {
        Receipt { removed_at: Some(at), .. } => {
            let next = format!(
                "it is sent again when the agent asks: `wardline agent list`; on {host}, `wardline-agent doctor`"
            );
            (Delivery::Removed, Some(*at), Some(next))
        }
        _ if failed.is_some() => {
            let next = format!("on {host}: `journalctl -u wardline-agent` has event 7022 with the reason");
            (Delivery::Unopened, failed, Some(next))
        }
        Receipt { used_since: Some(at), .. } => (Delivery::Used, Some(*at), None),
        Receipt { opened_at: Some(at), .. } => (Delivery::Opened, Some(*at), None),
        Receipt { sent_at: Some(at), .. } => {
            let next = format!("if it stays like this: `wardline agent list`; on {host}, `wardline-agent doctor`");
            (Delivery::Sent, Some(*at), Some(next))
        }
        _ => unsent(),
    }
}
