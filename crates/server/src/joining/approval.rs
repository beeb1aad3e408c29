//! Hosts that ask without a token: kept in memory, within bounds, until an operator has typed the code that the host
//! shows. Nothing is written before that, so that nobody can fill the database by asking.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use wardline_connector::join::{Asked, Request};
use wardline_connector::journal::{self, Quota};
use wardline_connector::now_ms;
use wardline_proto::event::Event;
use wardline_proto::join::Why;
use wardline_proto::message::{Context, Digest, Signed};
use wardline_proto::trust::{self, Fact};
use wardline_proto::{Name, Principal, Role};
use wardline_sdk::{Approval, Approved, Kind, Pending, Problem, Time};
use wardline_secrets::signature::VerifyingKey;
use wardline_secrets::token::{Code, code, confirmation};
use wardline_secrets::view::View;

use super::{Ask, Chain, DECISIONS, Further, JoinDesk, Refused};
use crate::founding::give;
use crate::operating::{self, Refusal};

/// The most requests.
const REQUESTS: usize = 1000;
/// The most requests of one address that wait: all hosts behind a gateway have its address.
const OF_ADDRESS: usize = 100;
/// The most that ask for one name in [`MINUTE`], and the most names for which anybody asks in it. Who stands between
/// wants the code that a host shows to be that of its own request, and has as many tries as requests: 150 in the time that
/// a host waits, of 2^40.
const OF_NAME: u32 = 5;
const NAMES: usize = 4096;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a request is kept.
const KEPT: Duration = Duration::from_secs(30 * 60);
/// Who has not asked for so long has gone, and makes place. Hosts ask every two seconds.
const GONE: Duration = Duration::from_secs(30);

/// What is done with hosts that ask without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutToken {
    /// An operator decides.
    #[default]
    Review,
    /// They are turned away.
    Reject,
}

/// A request.
#[derive(Clone, Debug)]
struct Kept {
    /// Its transcript: what both codes are made of.
    id: Digest,
    name: Name,
    role: Role,
    identity: VerifyingKey,
    /// The key that it wants a certificate for; none when it comes by Kerberos alone.
    key: Option<VerifyingKey>,
    /// The one that it brings, DER.
    certificate: Bytes,
    /// The Kerberos principal that it says is its own.
    principal: Option<Principal>,
    /// What it brings besides, when it is a further server.
    further: Option<Further>,
    address: SocketAddr,
    since_ms: u64,
    since: Instant,
    asked: Instant,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Waits,
    /// The right code was typed; the trust log is being written.
    Deciding,
    /// With what it is given, and whose act it was.
    Approved {
        given: Given,
        act: String,
        fetched: bool,
    },
    Rejected,
}

/// What one is given who was approved.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    chain: Chain,
    /// The group's keys, encrypted to a further server; empty for others.
    sealed: Bytes,
}

impl Kept {
    fn is(&self, role: Role, name: &Name) -> bool {
        self.role == role && self.name == *name
    }

    fn waits(&self) -> bool {
        self.state == State::Waits
    }

    fn service(&self) -> String {
        format!("{} {}", self.role, self.name)
    }

    /// Whether it is a server without a database.
    fn relays(&self) -> bool {
        self.role == Role::Server && self.further.is_none()
    }
}

/// What comes of a code that was typed.
#[derive(Debug)]
enum Typed {
    /// Nobody of this name waits.
    Nobody,
    /// One is being approved.
    Deciding,
    /// It is of none that waits; all of this name are rejected now.
    Wrong,
    /// It is of this one.
    Right(Box<Kept>),
}

/// How many have asked, by role and name.
type Asking = HashMap<(String, String), u32>;

/// All requests.
#[derive(Debug, Default)]
pub(super) struct Requests {
    kept: Vec<Kept>,
    /// How many have come.
    new: Quota,
    /// When the present minute began, and how many have asked in it for a role and name.
    asked: Option<(Instant, Asking)>,
}

impl Requests {
    /// Whether one more may ask for this role and name.
    pub(super) fn may_ask(&mut self, role: &str, name: &str, now: Instant) -> bool {
        let present = self.asked.take().filter(|(began, _)| now.saturating_duration_since(*began) < MINUTE);
        let (_, asked) = self.asked.insert(present.unwrap_or_else(|| (now, Asking::new())));
        let named = (role.to_owned(), name.to_owned());
        if asked.len() >= NAMES && !asked.contains_key(&named) {
            return false;
        }
        let count = asked.entry(named).or_default();
        *count = count.saturating_add(1);
        *count <= OF_NAME
    }

    fn expire(&mut self, now: Instant) {
        let young = |kept: &Kept| now.saturating_duration_since(kept.since) < KEPT;
        self.kept.retain(|kept| kept.state == State::Deciding || young(kept));
    }

    /// Removes the one of these that was longest not asked for, if it is one that may go.
    fn make_place(&mut self, now: Instant, among: impl Fn(&Kept) -> bool) -> bool {
        let gone = |kept: &Kept| match kept.state {
            State::Deciding => false,
            State::Waits => now.saturating_duration_since(kept.asked) >= GONE,
            State::Approved { .. } | State::Rejected => true,
        };
        let oldest = self.kept.iter().enumerate().filter(|(_, kept)| among(kept) && gone(kept));
        let oldest = oldest.min_by_key(|(_, kept)| kept.asked).map(|(at, _)| at);
        oldest.map(|at| self.kept.swap_remove(at)).is_some()
    }

    fn add(&mut self, new: Kept, now: Instant) -> Result<(), Refused> {
        self.expire(now);
        let again = |kept: &Kept| kept.waits() && kept.is(new.role, &new.name) && kept.identity == new.identity;
        let address = new.address.ip();
        if !self.new.allows(address, now) {
            let reason = format!("too many ask without a token within {} s", Quota::TIME.as_secs());
            return Err(Refused::new(Why::Busy, reason));
        }
        // Who asks anew has given up what it asked for before.
        self.kept.retain(|kept| !again(kept));
        let neighbour = |kept: &Kept| kept.waits() && kept.address.ip() == address;
        if self.kept.iter().filter(|kept| neighbour(kept)).count() >= OF_ADDRESS && !self.make_place(now, neighbour) {
            let reason = format!("{OF_ADDRESS} of this address wait for an operator already");
            return Err(Refused::new(Why::TooMany, reason));
        }
        if self.kept.len() >= REQUESTS && !self.make_place(now, |_| true) {
            return Err(Refused::new(Why::TooMany, format!("{REQUESTS} wait for an operator already")));
        }
        self.kept.push(new);
        Ok(())
    }

    fn find(&mut self, id: &Digest) -> Option<&mut Kept> {
        self.kept.iter_mut().find(|kept| kept.id == *id)
    }

    /// Rejects all of a name that wait; what they were.
    fn reject(&mut self, role: Role, name: &Name) -> Vec<Kept> {
        let waiting = self.kept.iter_mut().filter(|kept| kept.is(role, name) && kept.waits());
        let rejected = |kept: &mut Kept| {
            kept.state = State::Rejected;
            kept.clone()
        };
        waiting.map(rejected).collect()
    }

    /// A code was typed. It can be tried once; when it is right it can be typed again to see the other one again.
    fn typed(&mut self, role: Role, name: &Name, typed: &Code, now: Instant) -> Typed {
        self.expire(now);
        let named = || self.kept.iter().enumerate().filter(|(_, kept)| kept.is(role, name));
        if named().any(|(_, kept)| kept.state == State::Deciding) {
            return Typed::Deciding;
        }
        let fits = |kept: &Kept| kept.state != State::Rejected && code(&kept.id) == *typed;
        let right = named().find(|(_, kept)| fits(kept)).map(|(at, _)| at);
        if let Some(kept) = right.and_then(|at| self.kept.get_mut(at)) {
            let found = kept.clone();
            if kept.waits() {
                kept.state = State::Deciding;
            }
            return Typed::Right(Box::new(found));
        }
        if self.reject(role, name).is_empty() { Typed::Nobody } else { Typed::Wrong }
    }
}

impl JoinDesk {
    pub(super) fn requests(&self) -> std::sync::MutexGuard<'_, Requests> {
        // Nothing panics while it is held, and nothing waits.
        self.requests.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps a request until an operator decides.
    pub(super) fn request(&self, request: &Request) -> Result<(), Refused> {
        if self.without_token == WithoutToken::Reject && request.token.is_empty() {
            return Err(Refused::new(Why::TokenNeeded, "it has no token, and hosts join with one only"));
        }
        if !self.gate().passes() {
            return Err(Refused::new(Why::Busy, format!("more than {DECISIONS} ask within a second")));
        }
        let ask = Ask::read(&request.hello)?;
        let view = Arc::clone(&self.store.view().borrow());
        ask.proved(view.group(), &request.transcript, &request.signature)?;
        if let Some(further) = &ask.further {
            if !request.direct {
                return Err(Refused::new(Why::NotDirect, "it does not speak to this server itself, as a server must"));
            }
            ask.bears(&view, now_ms(), &further.token, &request.transcript, &request.token)?;
        }
        let key = ask.key()?;
        ask.unknown(&view)?;
        // An operator may name any principal but that of another.
        super::settled(&ask.name, ask.principal.as_ref(), ask.principal.as_ref(), &[], &view)?;
        // What comes of it is thrown away: nobody is to be refused once an operator has approved.
        self.issue(&ask.name, ask.role, key.as_ref(), &ask.certificate)?;
        let now = Instant::now();
        let kept = Kept {
            id: request.transcript,
            name: ask.name,
            role: ask.role,
            identity: ask.identity,
            key,
            certificate: ask.certificate,
            principal: ask.principal,
            further: ask.further,
            address: request.address,
            since_ms: now_ms(),
            since: now,
            asked: now,
            state: State::Waits,
        };
        let (service, key) = (kept.service(), kept.identity.id().to_string());
        self.requests().add(kept, now)?;
        journal::emit(Event::JoinWaits { service, address: request.address.to_string(), key });
        Ok(())
    }

    /// What became of a request; nothing while no operator has decided.
    pub(super) fn became(&self, asked: &Asked) -> Result<Option<Signed>, Why> {
        let (given, act, service, first) = {
            let now = Instant::now();
            let mut requests = self.requests();
            requests.expire(now);
            let kept = requests.find(&asked.request).ok_or(Why::NoRequest)?;
            let group = self.store.keeper().root.group();
            let proved = kept.identity.verify(Context::Join, group, &asked.transcript.0, &asked.signature);
            proved.map_err(|_| Why::Signature)?;
            kept.asked = now;
            let service = kept.service();
            match &mut kept.state {
                State::Waits | State::Deciding => return Ok(None),
                State::Rejected => return Err(Why::Rejected),
                State::Approved { given, act, fetched } => {
                    let view = self.store.view();
                    let member = view.borrow().find(&kept.name, kept.role).map(|member| member.identity.clone());
                    // It may have been removed in the meantime.
                    if member.as_ref() != Some(&kept.identity) {
                        return Err(Why::NotMember);
                    }
                    let first = !std::mem::replace(fetched, true);
                    (given.clone(), act.clone(), service, first)
                }
            }
        };
        if first {
            journal::emit(Event::Joined { service, act });
        }
        Ok(Some(self.welcome(&asked.transcript, given.chain, given.sealed)))
    }

    /// Those that wait for an operator.
    pub fn pending(&self, role: Option<Role>) -> Vec<Pending> {
        let mut requests = self.requests();
        requests.expire(Instant::now());
        let waiting = requests.kept.iter().filter(|kept| kept.waits() && role.is_none_or(|role| kept.role == role));
        waiting.map(pending).collect()
    }

    /// An operator has typed the code that a host shows. One that is wrong rejects every request of this name for good.
    ///
    /// # Errors
    /// Nobody of this name waits, the code is wrong, the gateways cannot be, or the trust log does not take it.
    pub async fn approve(
        self: &Arc<Self>,
        role: Role,
        name: &Name,
        approval: Approval,
        act: String,
    ) -> Result<Approved, Problem> {
        let shows = format!("`wardline {role} pending` shows who waits");
        // Neither of these is a try.
        let typed: Code = approval.code.parse().map_err(|error| {
            Problem::new(Kind::Invalid, format!("{error}"), "type it as the host shows it: ABCD-EFGH")
        })?;
        operating::gateways(&approval.via, &self.store.view().borrow()).map_err(|Refusal(problem)| problem)?;
        if role == Role::Server && !approval.via.is_empty() {
            return Err(Problem::new(Kind::Invalid, "no gateway speaks for a server", "leave out `--via`"));
        }
        let outcome = self.requests().typed(role, name, &typed, Instant::now());
        let kept = match outcome {
            Typed::Right(kept) => kept,
            Typed::Nobody => {
                return Err(Problem::new(Kind::NotFound, format!("no {role} {name} waits to join"), shows));
            }
            Typed::Deciding => {
                return Err(Problem::new(Kind::Conflict, format!("{role} {name} is being approved"), shows));
            }
            Typed::Wrong => {
                journal::emit(Event::JoinCodeWrong { service: format!("{role} {name}"), act });
                let detail = format!("this is not the code of the {role} {name} that waits; its request was rejected");
                let next =
                    "have it ask again, and compare with care; should the codes differ again, somebody is in between";
                return Err(Problem::new(Kind::Conflict, detail, next).explained_by(40073));
            }
        };
        let (key, confirmation) = (kept.identity.id(), confirmation(&kept.id).to_string());
        if kept.waits() {
            // Whoever asked may go away; what was begun is finished.
            let desk = Arc::clone(self);
            let entering = tokio::spawn(async move { desk.enter(&kept, &approval, act).await });
            let stopped = |_| Problem::new(Kind::Failed, "the server is stopping", "try again once it runs");
            entering.await.map_err(stopped)??;
        }
        // A code that was typed before may have come with other gateways, and its host may be gone again.
        let member = self.store.view().borrow().find(name, role).filter(|member| member.key() == key).cloned();
        let member = member.ok_or_else(|| {
            Problem::new(Kind::Conflict, format!("{role} {name} was approved, and has been removed again"), shows)
        })?;
        Ok(Approved {
            name: name.clone(),
            role,
            key: key.to_string(),
            via: member.parents.clone(),
            principal: member.principal.clone(),
            confirmation,
            relays: member.relays,
        })
    }

    /// Enters the one who was approved into the trust log.
    async fn enter(&self, kept: &Kept, approval: &Approval, act: String) -> Result<(), Problem> {
        let entered = self.try_enter(kept, approval, act.clone()).await;
        let mut requests = self.requests();
        let state = entered.as_ref().map_or(State::Waits, |given| State::Approved {
            given: given.clone(),
            act: act.clone(),
            fetched: false,
        });
        if let Some(kept) = requests.find(&kept.id) {
            kept.state = state;
        }
        entered?;
        // The name is taken now.
        let others = requests.reject(kept.role, &kept.name);
        drop(requests);
        journal::emit(Event::JoinApproved { service: kept.service(), act: act.clone() });
        for other in others {
            journal::emit(Event::JoinRejected { service: other.service(), act: act.clone() });
        }
        Ok(())
    }

    async fn try_enter(&self, kept: &Kept, approval: &Approval, act: String) -> Result<Given, Problem> {
        let log = "look at the server's log: `journalctl -u wardline-server`";
        let failed = |reason: String| Problem::new(Kind::Failed, reason, log);
        // Said before anything is made, and the code stays good.
        let said = (kept.principal.clone(), approval.principal.clone(), self.vouching.realms().to_vec());
        let settled = move |name: &Name, view: &View| {
            let (asked, said, realms) = &said;
            super::settled(name, asked.as_ref(), said.as_ref(), realms, view).map_err(|refused| {
                let next =
                    "name it: `--principal` with the one that the host says is its own, once you know that it is";
                Refusal(Problem::new(Kind::Conflict, refused.reason, next))
            })
        };
        settled(&kept.name, &self.store.view().borrow()).map_err(|Refusal(problem)| problem)?;
        let issued = self.issue(&kept.name, kept.role, kept.key.as_ref(), &kept.certificate);
        let (chain, issued) = issued.map_err(|refused| failed(refused.reason))?;
        let further = kept.further.as_ref();
        let given = further.map(|further| {
            let given = give(self.store.keeper(), &kept.name, &further.duty, &further.sealing);
            given.map_err(|event| {
                let next = "put it there until the server has joined, mode 0600 and the server's own user's; then approve again";
                Problem::new(Kind::Failed, event.text(), next).explained_by(event.number())
            })
        });
        let (sealed, duty) = given.transpose()?.map_or((Bytes::new(), None), |(sealed, duty)| (sealed, Some(duty)));
        let duty = duty.map(|certificate| Fact::Duty(trust::Duty { server: kept.name.to_string(), certificate }));
        let member = trust::Member {
            name: kept.name.to_string(),
            role: kept.role.to_string(),
            identity: kept.identity.spki().into(),
            parents: approval.via.iter().map(ToString::to_string).collect(),
            token: further.map(|further| Bytes::copy_from_slice(&further.token)).unwrap_or_default(),
            relays: kept.relays(),
            ..trust::Member::default()
        };
        let (via, name, identity) = (approval.via.clone(), kept.name.clone(), kept.identity.clone());
        let decided = self.store.act(act, move |view, _| {
            operating::gateways(&via, view)?;
            if let Err(refused) = super::unknown(&name, &identity, view) {
                let next = "`wardline topology` shows who is in the group";
                return Err(Refusal(Problem::new(Kind::Conflict, refused.reason, next)));
            }
            let principal = settled(&name, view)?.map(|principal| principal.to_string()).unwrap_or_default();
            let member = Fact::Member(trust::Member { principal, ..member.clone() });
            Ok([member].into_iter().chain(issued.clone().map(Fact::Issued)).chain(duty.clone()).collect())
        });
        let decided = decided.await.map_err(|error| failed(error.to_string()))?;
        decided.map_err(|Refusal(problem)| problem)?;
        Ok(Given { chain, sealed })
    }

    /// An operator does not want this host, whatever its code is.
    ///
    /// # Errors
    /// Nobody of this name waits.
    pub fn reject(&self, role: Role, name: &Name, act: &str) -> Result<Pending, Problem> {
        let rejected = {
            let mut requests = self.requests();
            requests.expire(Instant::now());
            requests.reject(role, name)
        };
        for kept in &rejected {
            journal::emit(Event::JoinRejected { service: kept.service(), act: act.to_owned() });
        }
        let next = format!("`wardline {role} pending` shows who waits");
        let nobody = || Problem::new(Kind::NotFound, format!("no {role} {name} waits to join"), next);
        rejected.first().map(pending).ok_or_else(nobody)
    }
}

fn pending(kept: &Kept) -> Pending {
    Pending {
        name: kept.name.clone(),
        role: kept.role,
        key: kept.identity.id().to_string(),
        since: Time(kept.since_ms),
        from: kept.address.to_string(),
        principal: kept.principal.clone(),
        relays: kept.relays(),
    }
}

#[cfg(test)]
mod tests;
