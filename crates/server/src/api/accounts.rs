//! Answers about Run As accounts and profiles. What is secret comes in sealed and never goes out.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use wardline_connector::journal;
use wardline_proto::configuration::DEFAULT_PROFILE;
use wardline_proto::event::Event;
use wardline_proto::message::AccountId;
use wardline_proto::{Name, Role};
use wardline_sdk::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, BindingOrder, Bound, ExplainFilter, Explained,
    Kind, Page, Problem, Profile, ProfileOrder, Receipt, SealedSecret, SealingTarget, Time, Use, hex, page,
};
use wardline_secrets::account::SecretError;
use wardline_secrets::signature::sha256;
use wardline_secrets::view::{self, View, fits};

use super::service::{Service, problem};
use super::trust::{decide, gone, page_of};
use crate::accounts::{NotTaken, Taken};
use crate::operating::{Refusal, accounts, profiles};
use crate::store;

fn refused(Refusal(problem): Refusal) -> Problem {
    problem
}

pub(super) fn sealing(service: &Service) -> Result<SealingTarget, Problem> {
    let keeper = service.store.keeper();
    let certificate = service.accounts.certificate().ok_or_else(|| {
        let next = "look at the server's log: `journalctl -u wardline-server`";
        Problem::new(Kind::Failed, "the server has no sealing key that is good now", next)
    })?;
    Ok(SealingTarget {
        server: keeper.server.clone(),
        group: hex::encode(&keeper.root.group().0),
        key: certificate.id().to_string(),
        certificate: Base64::encode_string(certificate.der()),
    })
}

fn shown(account: &view::Account, view: &View) -> Account {
    Account {
        id: account.id.to_string(),
        name: account.name.clone(),
        kind: account.kind.clone(),
        version: account.version,
        changed_at: Time(account.changed_at),
        user: account.user.clone(),
        everywhere: account.everywhere,
        agents: account.agents.iter().cloned().collect(),
        profiles: accounts::profiles_of(account.id, view),
    }
}

/// How an account is that was changed a moment ago.
fn now(service: &Service, name: &str) -> Result<Account, Problem> {
    let view = service.store.view();
    let view = view.borrow();
    view.run_as().account_named(name).map(|known| shown(known, &view)).ok_or_else(|| gone("the account"))
}

pub(super) fn list(view: &View, filter: &AccountFilter) -> Page<Account> {
    let all = view.run_as().accounts().map(|account| shown(account, view));
    page_of(all, filter.limit, filter.cursor.as_deref(), |account| account.name.clone())
}

pub(super) async fn one(service: &Service, name: &str) -> Result<AccountDetail, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let known = accounts::account(name, &view).map_err(refused)?;
    // The name that it logs on with, and nothing else of it; not even that goes by a server without a database. Why it
    // cannot be read is said where it is sent.
    let secret = if service.by.is_none() { service.accounts.secret(known).await.ok() } else { None };
    let login = secret.as_ref().and_then(|secret| secret.field("user"));
    let login = login.map(|login| String::from_utf8_lossy(login).into_owned());
    let receipts = service.store.receipts(known.id).await.map_err(problem)?;
    let receipts = receipts.into_iter().map(receipt).collect();
    Ok(AccountDetail { account: shown(known, &view), login, receipts })
}

fn receipt(known: store::Receipt) -> Receipt {
    let store::Receipt { agent, version, workflow, .. } = known;
    Receipt {
        agent,
        version,
        sent_at: known.sent_at.map(Time),
        opened_at: known.opened_at.map(Time),
        failed_at: known.failed_at.map(Time),
        used_since: known.used_since.map(Time),
        used_at: known.used_at.map(Time),
        workflow,
        removed_at: known.removed_at.map(Time),
    }
}

/// Opens what an operator has sealed to this server for an account.
fn take(service: &Service, name: &str, id: AccountId, secret: &SealedSecret) -> Result<Taken, Problem> {
    service.accounts.take(id, secret.replaces, &secret.sealed).map_err(|error| match error {
        NotTaken::Secret(error) => {
            let (account, reason) = (name.chars().take(64).collect(), error.to_string());
            let event = Event::SecretRefused { account, reason };
            let refusal = secret_refused(&error).explained_by(event.number());
            journal::emit(event);
            refusal
        }
        other => {
            let next = "run it again: the server's sealing key may be another one now";
            Problem::new(Kind::Conflict, format!("the secret is not taken: {other}"), next)
        }
    })
}

fn secret_refused(error: &SecretError) -> Problem {
    Problem::new(Kind::Invalid, format!("the secret is refused: {error}"), "see `wardline account create --help`")
}

pub(super) async fn create(service: &Service, order: AccountOrder) -> Result<Account, Problem> {
    let wrong = || {
        let next = "use the `wardline` of the server's version";
        Problem::new(Kind::Invalid, "the account's id is none", next)
    };
    let id = hex::decode(&order.id).and_then(|id| AccountId::from_wire(&id)).ok_or_else(wrong)?;
    let taken = take(service, &order.name, id, &order.secret)?;
    let (name, policy) = (order.name.clone(), service.policy);
    keep(service, &taken.clone(), move |view| accounts::create(&order, &taken, policy, view)).await?;
    now(service, &name)
}

pub(super) async fn update(service: &Service, name: &str, change: AccountChange) -> Result<Account, Problem> {
    let id = {
        let view = service.store.view();
        let view = view.borrow();
        accounts::account(name, &view).map_err(refused)?.id
    };
    let taken = change.secret.as_ref().map(|secret| take(service, name, id, secret)).transpose()?;
    let (called, policy) = (name.to_owned(), service.policy);
    match taken {
        Some(taken) => {
            let rule = {
                let taken = taken.clone();
                move |view: &View| accounts::update(&called, &change, Some(&taken), policy, view)
            };
            keep(service, &taken, rule).await?;
        }
        None => drop(decide(service, move |view, _| accounts::update(&called, &change, None, policy, view)).await?),
    }
    now(service, name)
}

/// Has something decided about an account whose row is written with it.
async fn keep(
    service: &Service,
    taken: &Taken,
    rule: impl Fn(&View) -> crate::operating::Decision + Send + Sync + 'static,
) -> Result<(), Problem> {
    let row = (taken.id, taken.row.clone());
    let decided = service.store.act_with_secret(service.act(), row, move |view, _| rule(view)).await;
    decided.map_err(problem)?.map(drop).map_err(refused)
}

pub(super) async fn delete(service: &Service, name: &str) -> Result<Account, Problem> {
    let before = {
        let view = service.store.view();
        let view = view.borrow();
        shown(accounts::account(name, &view).map_err(refused)?, &view)
    };
    let name = name.to_owned();
    decide(service, move |view, _| accounts::delete(&name, view)).await?;
    Ok(before)
}

/// What a check of a pack names.
struct Naming {
    /// `pack/check`.
    check: String,
    /// The profile.
    profile: String,
    /// Who is to run the pack.
    agents: String,
}

/// The checks of all packs that name a profile. A pack whose text is not the one of the log has none: its agents do not
/// get it either.
async fn namings(service: &Service, view: &View) -> Result<Vec<Naming>, Problem> {
    let mut found = Vec::new();
    for pack in view.packs() {
        let text = service.store.pack_text(pack.name.clone()).await.map_err(problem)?;
        let text = text.filter(|text| sha256(&[text.as_bytes()]) == pack.text);
        let Some(read) = text.and_then(|text| wardline_packs::Pack::parse(&pack.name, &text).ok()) else { continue };
        for check in &read.checks {
            if let Some(profile) = check.profile() {
                let check = format!("{}/{}", pack.name, check.name);
                found.push(Naming { check, profile: profile.to_owned(), agents: pack.agents.clone() });
            }
        }
    }
    Ok(found)
}

fn checks<'a>(namings: impl Iterator<Item = &'a Naming>, profile: &str) -> Vec<String> {
    namings.filter(|naming| naming.profile == profile).map(|naming| naming.check.clone()).collect()
}

pub(super) async fn uses(service: &Service, name: &str) -> Result<Page<Use>, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let known = accounts::account(name, &view).map_err(refused)?;
    let namings = namings(service, &view).await?;
    let mut items = Vec::new();
    for (name, profile) in view.run_as().profiles() {
        let mut put = |agent| items.push(Use { profile: name.to_owned(), agent, checks: checks(namings.iter(), name) });
        if profile.everywhere == Some(known.id) {
            put(None);
        }
        profile.agents.iter().filter(|(_, id)| **id == known.id).for_each(|(agent, _)| put(Some(agent.clone())));
    }
    Ok(Page { items, next: None })
}

fn profile(name: &str, profile: Option<&view::Profile>, namings: &[Naming], view: &View) -> Profile {
    let account = |id: AccountId| view.run_as().account(id).map(|account| account.name.clone());
    let bound = profile.into_iter().flat_map(|profile| &profile.agents);
    Profile {
        name: name.to_owned(),
        built_in: name == DEFAULT_PROFILE,
        account: profile.and_then(|profile| profile.everywhere).and_then(account),
        agents: bound.filter_map(|(agent, id)| Some(Bound { agent: agent.clone(), account: account(*id)? })).collect(),
        checks: checks(namings.iter(), name),
    }
}

pub(super) async fn list_profiles(service: &Service, filter: &AccountFilter) -> Result<Page<Profile>, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let namings = namings(service, &view).await?;
    let names: BTreeSet<_> = view.run_as().profiles().map(|(name, _)| name).chain([DEFAULT_PROFILE]).collect();
    let all = names.into_iter().map(|name| profile(name, view.run_as().profile(name), &namings, &view));
    Ok(page_of(all, filter.limit, filter.cursor.as_deref(), |profile| profile.name.clone()))
}

pub(super) async fn one_profile(service: &Service, name: &str) -> Result<Profile, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let known = profiles::known(name, &view).map_err(refused)?;
    Ok(profile(name, known, &namings(service, &view).await?, &view))
}

pub(super) async fn create_profile(service: &Service, order: ProfileOrder) -> Result<Profile, Problem> {
    let name = order.name.clone();
    decide(service, move |view, _| profiles::create(&order.name, view)).await?;
    one_profile(service, &name).await
}

pub(super) async fn delete_profile(service: &Service, name: &str) -> Result<Profile, Problem> {
    let before = one_profile(service, name).await?;
    let name = name.to_owned();
    decide(service, move |view, _| profiles::delete(&name, view)).await?;
    Ok(before)
}

pub(super) async fn bind(service: &Service, name: &str, order: BindingOrder) -> Result<Profile, Problem> {
    let called = name.to_owned();
    decide(service, move |view, _| profiles::bind(&called, &order, view)).await?;
    one_profile(service, name).await
}

pub(super) async fn explain(service: &Service, name: &str, filter: &ExplainFilter) -> Result<Page<Explained>, Problem> {
    let view = Arc::clone(&service.store.view().borrow());
    let known = profiles::known(name, &view).map_err(refused)?;
    let mut agents: Vec<_> = match &filter.agent {
        Some(agent) => vec![known_agent(agent, &view)?],
        None => view.members().filter(|member| member.role == Role::Agent).collect(),
    };
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    let after = filter.cursor.as_deref();
    agents.retain(|member| after.is_none_or(|after| member.name.as_str() > after));
    let limit = page::limit(filter.limit);
    agents.truncate(limit as usize + 1);
    let namings = namings(service, &view).await?;
    let accounts: BTreeSet<_> =
        agents.iter().filter_map(|member| known.and_then(|known| known.account(&member.name))).collect();
    let mut receipts = Vec::new();
    for account in accounts {
        receipts.extend(service.store.receipts(account).await.map_err(problem)?);
    }
    let rows = agents.into_iter().map(|member| {
        let checks = checks(namings.iter().filter(|naming| fits(&naming.agents, &member.name)), name);
        let own = receipts.iter().filter(|receipt| receipt.agent == member.name);
        profiles::explain(name, member, checks, own, &view)
    });
    Ok(Page::of(rows.collect(), limit, |row| row.agent.to_string()))
}

fn known_agent<'a>(agent: &Name, view: &'a View) -> Result<&'a Arc<view::Member>, Problem> {
    accounts::agent(agent, view).map_err(refused)?;
    view.member_named(agent).ok_or_else(|| gone("the agent"))
}
