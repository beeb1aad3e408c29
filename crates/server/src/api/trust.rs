//! Answers about trust: what the trust log says, and what operators add to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use wardline_connector::journal;
use wardline_proto::event::Event;
use wardline_proto::message::encode;
use wardline_proto::trust::Fact;
use wardline_proto::{Name, Role};
use wardline_sdk::{
    Assignment, Group, Issuer, Kind, LogEntry, LogFilter, Member, MemberFilter, Page, Pending, PendingFilter,
    PrincipalOrder, Problem, RecoveryOrder, RotationOrder, Time, Token, TokenFilter, TokenOrder, TokenState, hex, page,
};
use wardline_secrets::head::signed_head;
use wardline_secrets::signature::KeyId;
use wardline_secrets::view::{self, View, key_of, pin_of};
use wardline_secrets::{certificate, tls};

use super::service::{Service, now_ms, problem};
use crate::founding::Rotation;
use crate::operating::{self, Decision, Refusal};

/// Has something decided, in the name of whoever asks.
pub(super) async fn decide(
    service: &Service,
    decide: impl Fn(&View, u64) -> Decision + Send + Sync + 'static,
) -> Result<Vec<Fact>, Problem> {
    let decided = service.store.act(service.act(), decide).await.map_err(problem)?;
    decided.map_err(|Refusal(problem)| problem)
}

/// The log took it, and yet it is not there: somebody else was quicker.
pub(super) fn gone(what: &str) -> Problem {
    Problem::new(Kind::Conflict, format!("{what} has changed in the meantime"), "look at it again")
}

pub(super) async fn create_token(service: &Service, order: TokenOrder) -> Result<Token, Problem> {
    service.at_home(order.role == Role::Server)?;
    if order.role == Role::Server && !service.store.is_shared() {
        let detail = "several servers share one PostgreSQL database, and this one has its own in a file";
        let next = "move to PostgreSQL first: docs/operations/servers.md, docs/operations/postgresql.md";
        return Err(Problem::new(Kind::Conflict, detail, next));
    }
    let id = order.id.clone();
    decide(service, move |view, now| operating::create_token(&order, view, now)).await?;
    one_token(service, &id)
}

pub(super) async fn revoke_token(service: &Service, id: &str) -> Result<Token, Problem> {
    let id = id.to_lowercase();
    let facts = decide(service, move |view, _| operating::revoke_token(&id, view)).await?;
    let revoked = facts.iter().find_map(|fact| match fact {
        Fact::TokenRevoked(revoked) => Some(hex::encode(&revoked.id)),
        _ => None,
    });
    one_token(service, &revoked.unwrap_or_default())
}

fn one_token(service: &Service, id: &str) -> Result<Token, Problem> {
    let view = service.store.view();
    let view = view.borrow();
    let known = hex::decode(id).and_then(|id| id.try_into().ok()).and_then(|id| Some((id, view.token(&id)?)));
    let (id, known) = known.ok_or_else(|| gone("the token"))?;
    Ok(token(&id, known, now_ms()))
}

fn token(id: &[u8; 16], token: &view::Token, now: u64) -> Token {
    let state = match token {
        token if token.revoked => TokenState::Revoked,
        token if token.used >= token.uses => TokenState::Used,
        token if now > token.expires => TokenState::Expired,
        _ => TokenState::Good,
    };
    Token {
        id: hex::encode(id),
        role: token.role,
        name: token.name.clone(),
        uses: token.uses,
        used: token.used,
        expires: Time(token.expires),
        via: token.parents.clone(),
        principal: token.principal.clone(),
        state,
    }
}

/// A page of what comes behind a cursor, in the order of the cursors.
pub(super) fn page_of<T>(
    items: impl Iterator<Item = T>,
    limit: Option<u32>,
    after: Option<&str>,
    key: fn(&T) -> String,
) -> Page<T> {
    let limit = page::limit(limit);
    let mut rows: Vec<_> = items.map(|item| (key(&item), item)).collect();
    rows.retain(|(key, _)| after.is_none_or(|after| key.as_str() > after));
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    Page::of(rows.into_iter().map(|(_, item)| item).take(limit as usize + 1).collect(), limit, key)
}

pub(super) fn tokens(view: &View, filter: &TokenFilter, now: u64) -> Page<Token> {
    let tokens = view.tokens().map(|(id, known)| token(id, known, now));
    let shown = tokens.filter(|token| filter.all || token.state == TokenState::Good);
    page_of(shown, filter.limit, filter.cursor.as_deref(), |token| token.id.clone())
}

pub(super) fn members(service: &Service, filter: &MemberFilter) -> Page<Member> {
    let connected = connected(service);
    let view = service.store.view();
    let view = view.borrow();
    let shown = view.members().filter(|member| filter.role.is_none_or(|role| member.role == role));
    let shown = shown.map(|known| member(known, &connected));
    let lingering = view.lingering().filter(|_| filter.role.is_none_or(|role| role == Role::Server));
    let shown = shown.chain(lingering.map(|(name, at)| lingers(name, at)));
    page_of(shown, filter.limit, filter.cursor.as_deref(), |member| member.name.to_string())
}

fn connected(service: &Service) -> HashSet<Name> {
    let services = service.live.topology().services.into_iter();
    services.filter(|service| service.connected).map(|service| service.name).collect()
}

fn member(member: &view::Member, connected: &HashSet<Name>) -> Member {
    Member {
        name: member.name.clone(),
        role: member.role,
        key: member.key().to_string(),
        via: member.parents.clone(),
        joined_at: Time(member.joined_at),
        token: member.token.map(|id| hex::encode(&id)),
        principal: member.principal.clone(),
        certificate_ends: member.certificates.last().map(|newest| Time(newest.not_after.saturating_mul(1000))),
        connected: connected.contains(&member.name),
        relays: member.relays,
    }
}

/// A server that is no member and whose duty key is believed all the same.
fn lingers(name: &Name, at: u64) -> Member {
    Member {
        name: name.clone(),
        role: Role::Server,
        key: String::new(),
        via: Vec::new(),
        joined_at: Time(at),
        token: None,
        principal: None,
        certificate_ends: None,
        connected: false,
        relays: false,
    }
}

fn one_member(service: &Service, role: Role, name: &Name) -> Option<Member> {
    let connected = connected(service);
    let view = service.store.view();
    let view = view.borrow();
    let lingering = view.lingering().find(|(known, _)| role == Role::Server && *known == name);
    let lingering = lingering.map(|(name, at)| lingers(name, at));
    view.find(name, role).map(|known| member(known, &connected)).or(lingering)
}

pub(super) async fn remove(service: &Service, role: Role, name: &Name) -> Result<Member, Problem> {
    service.at_home(role == Role::Server)?;
    let before = one_member(service, role, name);
    // By then nobody would believe its word for it.
    if *name == service.store.keeper().server {
        let detail = format!("{name} is this server itself");
        return Err(Problem::new(Kind::Conflict, detail, "remove it at another server"));
    }
    let removed = name.clone();
    decide(service, move |view, _| operating::remove(role, &removed, view)).await?;
    let service_name = format!("{role} {name}");
    journal::emit(Event::MemberRemoved { service: service_name, act: service.act() });
    before.map(|member| Member { connected: false, ..member }).ok_or_else(|| gone("the member"))
}

pub(super) async fn assign(
    service: &Service,
    role: Role,
    name: &Name,
    assignment: Assignment,
) -> Result<Member, Problem> {
    let assigned = name.clone();
    decide(service, move |view, _| operating::assign(role, &assigned, &assignment.via, view)).await?;
    one_member(service, role, name).ok_or_else(|| gone("the member"))
}

pub(super) async fn bind_principal(
    service: &Service,
    role: Role,
    name: &Name,
    order: PrincipalOrder,
) -> Result<Member, Problem> {
    let bound = name.clone();
    decide(service, move |view, _| operating::bind_principal(role, &bound, order.principal.as_ref(), view)).await?;
    let member = one_member(service, role, name).ok_or_else(|| gone("the member"))?;
    let principal = member.principal.as_ref().map_or_else(|| "none".into(), ToString::to_string);
    journal::emit(Event::PrincipalBound { service: format!("{role} {name}"), principal, act: service.act() });
    Ok(member)
}

pub(super) async fn revoke(service: &Service, name: &Name) -> Result<Member, Problem> {
    let revoked = name.clone();
    decide(service, move |view, _| operating::revoke(&revoked, view)).await?;
    let role = service.store.view().borrow().member_named(name).map(|member| member.role);
    let member = role.and_then(|role| one_member(service, role, name)).ok_or_else(|| gone("the member"))?;
    let revoked = format!("{} {}", member.role, member.name);
    journal::emit(Event::CertificatesRevoked { service: revoked, act: service.act() });
    Ok(member)
}

pub(super) fn issuers(service: &Service) -> Vec<Issuer> {
    let current = key_of(service.renewal.authorities.borrow().issuer.certificate());
    let view = service.store.view();
    let view = view.borrow();
    let mut members = HashMap::<KeyId, u64>::new();
    for issuer in view.members().filter_map(|member| member.certificates.last()?.issuer) {
        *members.entry(issuer).or_default() += 1;
    }
    let issuer = |certificate| {
        let (key, from, to) = tls::facts(std::slice::from_ref(certificate))?;
        Some(Issuer {
            key: key.to_string(),
            subject: certificate::subject(certificate).unwrap_or_default(),
            from: Time(from.saturating_mul(1000)),
            to: Time(to.saturating_mul(1000)),
            in_use: Some(key) == current,
            members: members.get(&key).copied().unwrap_or_default(),
        })
    };
    view.issuers().iter().filter_map(issuer).collect()
}

pub(super) async fn rotate(service: &Service, order: RotationOrder) -> Result<Issuer, Problem> {
    if let Some(pki) = service.renewal.own_pki() {
        let detail = format!("channel certificates come from the CA in {}, not from the group's own", pki.ca.display());
        let next = "roll it in the company's PKI: docs/operations/own-pki.md; `wardline ca revoke NAME` for one host";
        return Err(Problem::new(Kind::Conflict, detail, next));
    }
    let rotation = Rotation { act: service.act(), revoke: order.revoke };
    let renewal = Arc::clone(&service.renewal);
    // Whoever asked may go away; what was begun is finished.
    let rotated = tokio::spawn(async move { renewal.rotate(rotation).await });
    let stopped = |_| Problem::new(Kind::Failed, "the server is stopping", "try again once it runs");
    rotated.await.map_err(stopped)?.map_err(|event| {
        let next = match event {
            Event::RootKeyNeeded { .. } => {
                "put the root's key there, mode 0600 and the server's own user's, and try again"
            }
            _ => "look at the server's log: `journalctl -u wardline-server`",
        };
        Problem::new(Kind::Failed, event.text(), next).explained_by(event.number())
    })?;
    issuers(service).into_iter().find(|issuer| issuer.in_use).ok_or_else(|| gone("the issuing CA"))
}

pub(super) fn pending(service: &Service, filter: &PendingFilter) -> Page<Pending> {
    let waiting = service.desk.pending(filter.role).into_iter();
    page_of(waiting, filter.limit, filter.cursor.as_deref(), |pending| format!("{} {}", pending.name, pending.key))
}

pub(super) async fn log(service: &Service, filter: &LogFilter) -> Result<Page<LogEntry>, Problem> {
    let from = match &filter.cursor {
        None => 0,
        Some(cursor) => {
            let wrong = || problem(crate::store::Error::Cursor(cursor.clone()));
            cursor.parse::<u64>().ok().and_then(|last| last.checked_add(1)).ok_or_else(wrong)?
        }
    };
    let limit = page::limit(filter.limit);
    let entries = service.store.log(from, limit + 1).await.map_err(problem)?;
    let entries = entries.into_iter().map(|(number, entry)| LogEntry { number, entry: hex::encode(&entry) });
    Ok(Page::of(entries.collect(), limit, |entry| entry.number.to_string()))
}

pub(super) fn group(service: &Service) -> Result<Group, Problem> {
    let keeper = service.store.keeper();
    let view = service.store.view();
    let view = view.borrow();
    let failed = |what: &str| {
        let next = "look at the server's log: `journalctl -u wardline-server`";
        Problem::new(Kind::Failed, format!("{what} is not known"), next)
    };
    let root = keeper.root.certificate();
    Ok(Group {
        name: view.name().cloned().ok_or_else(|| failed("the group's name"))?,
        id: hex::encode(&view.group().0),
        pin: pin_of(root).ok_or_else(|| failed("the group's pin"))?.to_string(),
        root: hex::encode(root),
        server: keeper.server.clone(),
        head: hex::encode(&encode(&signed_head(&keeper.duty, &view.reach(), now_ms()))),
        recovery: view.recovery().map(|key| key.id().to_string()),
    })
}

pub(super) async fn escrow(service: &Service, order: RecoveryOrder) -> Result<Group, Problem> {
    decide(service, move |view, _| operating::escrow(&order, view)).await?;
    group(service)
}
