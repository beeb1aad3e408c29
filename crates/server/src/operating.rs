//! What operators decide about trust: rules over what the trust log says, without effects of their own.

pub mod accounts;
pub mod packs;
pub mod profiles;

use bytes::Bytes;
use wardline_proto::trust::{self, Fact};
use wardline_proto::{Name, Principal, Role};
use wardline_sdk::{Kind, Problem, RecoveryOrder, TokenOrder, hex};
use wardline_secrets::signature::VerifyingKey;
use wardline_secrets::view::{Member, PARENTS, Unsound, View};

/// The most tokens that are good at one time.
const TOKENS: usize = 10_000;
/// The most hosts that may join with one token.
const USES: u32 = 10_000;
/// The longest that a token may be good, milliseconds.
const LONGEST: u64 = 365 * 24 * 3600 * 1000;

/// Why it is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Problem);

impl From<Unsound> for Refusal {
    fn from(unsound: Unsound) -> Self {
        let next = "look at the server's log: `journalctl -u wardline-server`";
        Self(Problem::new(Kind::Failed, format!("the trust log does not take it: {unsound}"), next))
    }
}

/// What is so from now on.
pub type Decision = Result<Vec<Fact>, Refusal>;

fn refuse<T>(kind: Kind, detail: impl Into<String>, next: &str) -> Result<T, Refusal> {
    Err(Refusal(Problem::new(kind, detail, next)))
}

/// Hosts may join with a new token.
///
/// # Errors
/// The order makes no sense, or there are too many.
pub fn create_token(order: &TokenOrder, view: &View, now: u64) -> Decision {
    let next = "see `wardline token create --help`";
    let (Some(id), Some(key)) = (array::<16>(&order.id), array::<32>(&order.key)) else {
        return refuse(Kind::Invalid, "the token's id or key is none", next);
    };
    if order.role == Role::Server && (order.name.parse::<Name>().is_err() || order.uses != 1 || !order.via.is_empty()) {
        let detail = "a token for a server is for one exact name, is used once, and no gateway speaks for it";
        return refuse(Kind::Invalid, detail, next);
    }
    if !is_pattern(&order.name) {
        let detail = format!("{:?} is neither a host name nor one with one `*` at its beginning or end", order.name);
        return refuse(Kind::Invalid, detail, next);
    }
    if !(1..=USES).contains(&order.uses) {
        return refuse(Kind::Invalid, format!("a token can be used 1 to {USES} times"), next);
    }
    if order.expires.0 <= now || order.expires.0 > now.saturating_add(LONGEST) {
        return refuse(Kind::Invalid, "a token is good for at most 365 days from now on", next);
    }
    if let Some(principal) = &order.principal {
        let exact: Option<Name> = order.name.parse().ok();
        let exact = exact.filter(|_| order.uses == 1 && order.role != Role::Server).ok_or_else(|| {
            let detail = "a Kerberos principal is that of one host: a token with one is for one exact name, once";
            Refusal(Problem::new(Kind::Invalid, detail, next))
        })?;
        free(principal, &exact, view)?;
    }
    gateways(&order.via, view)?;
    let good = view.tokens().filter(|(_, token)| !token.revoked && token.used < token.uses && token.expires >= now);
    if good.count() >= TOKENS {
        let next = "revoke some: `wardline token list`, `wardline token revoke ID`";
        return refuse(Kind::Conflict, format!("{TOKENS} tokens are good now, the most there may be"), next);
    }
    Ok(vec![Fact::Token(trust::Token {
        id: Bytes::copy_from_slice(&id),
        key: Bytes::copy_from_slice(&key),
        role: order.role.to_string(),
        name: order.name.clone(),
        uses: order.uses,
        expires: order.expires.0,
        parents: order.via.iter().map(ToString::to_string).collect(),
        principal: order.principal.as_ref().map(ToString::to_string).unwrap_or_default(),
    })])
}

/// Nobody may join with a token any more.
///
/// # Errors
/// There is no such token, or it was revoked before.
pub fn revoke_token(id: &str, view: &View) -> Decision {
    let next = "`wardline token list` shows them";
    let mut found = view.tokens().filter(|(known, _)| hex::encode(&known[..]).starts_with(id));
    match (found.next(), found.next()) {
        (Some((_, token)), None) if token.revoked => {
            refuse(Kind::Conflict, format!("token {id} was revoked before"), next)
        }
        (Some((id, _)), None) => Ok(vec![Fact::TokenRevoked(trust::TokenRevoked { id: Bytes::copy_from_slice(id) })]),
        (None, _) => refuse(Kind::NotFound, format!("there is no token {id}"), next),
        (Some(_), Some(_)) => refuse(Kind::Conflict, format!("more than one token's id begins with {id}"), next),
    }
}

/// A member is not part of the group any more.
///
/// # Errors
/// There is no such member.
pub fn remove(role: Role, name: &Name, view: &View) -> Decision {
    // A server that has removed itself is to lose its duty key, too.
    let identity = match role == Role::Server && view.lingers(name) {
        true => Bytes::new(),
        false => Bytes::copy_from_slice(&member(role, name, view)?.key().0),
    };
    Ok(vec![Fact::Removed(trust::Removed { name: name.to_string(), identity })])
}

/// What was issued to a member so far is worth nothing any more.
///
/// # Errors
/// There is no such member, or it is a server.
pub fn revoke(name: &Name, view: &View) -> Decision {
    match view.member_named(name) {
        Some(member) if member.role != Role::Server || member.relays => {
            Ok(vec![Fact::Revoked(trust::Revoked { name: name.to_string() })])
        }
        Some(_) => {
            let next = "a server makes its own anew with a new issuing CA: `wardline ca rotate`";
            refuse(Kind::Invalid, "a server's certificate is not revoked", next)
        }
        None => {
            let next = "`wardline topology` shows who is in the group";
            refuse(Kind::NotFound, format!("there is no {name} in the group"), next)
        }
    }
}

/// Other gateways speak for a member from now on; none: it reports to servers itself.
///
/// # Errors
/// There is no such member, or the gateways cannot be.
pub fn assign(role: Role, name: &Name, via: &[Name], view: &View) -> Decision {
    if role == Role::Server {
        return refuse(Kind::Invalid, "no gateway speaks for a server", "see `wardline --help`");
    }
    let member = member(role, name, view)?;
    gateways(via, view)?;
    let next = "`wardline gateway list` shows them";
    if via.iter().any(|gateway| gateway == name || is_behind(gateway, name, view)) {
        return refuse(Kind::Conflict, format!("{name} would be behind itself"), next);
    }
    let parents = via.iter().map(ToString::to_string).collect();
    Ok(vec![Fact::Member(trust::Member { parents, ..as_it_is(member) })])
}

/// Another Kerberos principal proves a member's hops from now on, or none does.
///
/// # Errors
/// There is no such member, or the principal is another's.
pub fn bind_principal(role: Role, name: &Name, principal: Option<&Principal>, view: &View) -> Decision {
    let member = member(role, name, view)?;
    if let Some(principal) = principal {
        free(principal, name, view)?;
    }
    if member.principal.as_ref() == principal {
        return Ok(Vec::new());
    }
    let principal = principal.map(ToString::to_string).unwrap_or_default();
    Ok(vec![Fact::Member(trust::Member { principal, ..as_it_is(member) })])
}

/// Whether a principal can be that of a health service of this name, and is nobody else's.
///
/// # Errors
/// It is not.
pub fn free(principal: &Principal, name: &Name, view: &View) -> Result<(), Refusal> {
    if !principal.can_be_of(name) {
        let next =
            "a host is host/NAME@REALM by its own name, or ACCOUNT$@REALM; see `wardline agent principal --help`";
        return refuse(Kind::Invalid, format!("{principal} is the principal of another host than {name}"), next);
    }
    match view.of_principal(principal).filter(|other| other.name != *name) {
        Some(other) => {
            let next = format!("take it away there: `wardline {} principal {} none`", other.role, other.name);
            refuse(Kind::Conflict, format!("{principal} is the principal of {} {}", other.role, other.name), &next)
        }
        None => Ok(()),
    }
}

/// The entry that says what is so of a member now.
fn as_it_is(member: &Member) -> trust::Member {
    trust::Member {
        name: member.name.to_string(),
        role: member.role.to_string(),
        identity: member.identity.spki().into(),
        parents: member.parents.iter().map(ToString::to_string).collect(),
        token: member.token.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
        principal: member.principal.as_ref().map(ToString::to_string).unwrap_or_default(),
        relays: member.relays,
    }
}

/// The group has a recovery key.
///
/// # Errors
/// It is none, or there is one already that is not to be replaced.
pub fn escrow(order: &RecoveryOrder, view: &View) -> Decision {
    let Ok(key) = VerifyingKey::from_base64(&order.key) else {
        return refuse(Kind::Invalid, "it is no public key on P-256", "run `wardline keys escrow` again");
    };
    if view.recovery().is_some() && !order.replace {
        let next = "if the one on paper is lost: `wardline keys escrow --replace`";
        return refuse(Kind::Conflict, "the group has a recovery key", next);
    }
    Ok(vec![Fact::Recovery(trust::Recovery { key: key.spki().into() })])
}

fn member<'a>(role: Role, name: &Name, view: &'a View) -> Result<&'a Member, Refusal> {
    match view.find(name, role) {
        Some(member) => Ok(member),
        None => {
            let next = format!("`wardline {role} list` shows them; `wardline topology` shows who is in the group");
            refuse(Kind::NotFound, format!("there is no {role} {name} in the group"), &next)
        }
    }
}

/// Whether each of them is a gateway of the group, or a server without a database.
///
/// # Errors
/// One is not, or is named twice, or there are too many.
pub fn gateways(via: &[Name], view: &View) -> Result<(), Refusal> {
    let next = "`wardline gateway list` shows them; a gateway joins before those behind it";
    if via.len() > PARENTS {
        return refuse(Kind::Invalid, format!("at most {PARENTS} gateways may speak for one member"), next);
    }
    for (index, gateway) in via.iter().enumerate() {
        if view.relay(gateway).is_none() {
            return refuse(Kind::NotFound, format!("there is no gateway {gateway} in the group"), next);
        }
        if via.iter().take(index).any(|before| before == gateway) {
            return refuse(Kind::Invalid, format!("gateway {gateway} is named twice"), next);
        }
    }
    Ok(())
}

/// Whether a gateway's ways lead by another.
fn is_behind(gateway: &Name, other: &Name, view: &View) -> bool {
    let (mut seen, mut left) = (Vec::new(), vec![gateway.clone()]);
    while let Some(name) = left.pop() {
        if name == *other {
            return true;
        }
        if let (Some(member), false) = (view.member_named(&name), seen.contains(&name)) {
            left.extend(member.parents.iter().cloned());
            seen.push(name);
        }
    }
    false
}

/// A host name, or one that begins or ends with a `*`.
pub(crate) fn is_pattern(text: &str) -> bool {
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(rest), _) | (None, Some(rest)) => {
            let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
            rest.len() <= 253 && rest.bytes().all(allowed)
        }
        (None, None) => text.parse::<Name>().is_ok(),
    }
}

fn array<const LENGTH: usize>(text: &str) -> Option<[u8; LENGTH]> {
    hex::decode(text)?.try_into().ok()
}

#[cfg(test)]
mod tests;
