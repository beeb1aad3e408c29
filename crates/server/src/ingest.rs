//! Sessions of agents, gateways and servers without a database: who they are, which agents they may speak for, and one conversation per agent.
//!
//! ```text
//!   session ---- route 0, or one per agent behind a gateway ----> conversation: verify, judge ----> store
//!      ^                                                                |                             | commit
//!      +-------------------------- signed acknowledgement <-------------+-----------------------------+
//! ```

mod conversation;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use wardline_connector::handshake::{Proof, Session};
use wardline_connector::journal::{self, Strangers};
use wardline_connector::link::{self, Broken, Incoming, Outgoing};
use wardline_connector::uplink::hop;
use wardline_proto::event::Event;
use wardline_proto::frame::Message;
use wardline_proto::message::{
    Context, Digest, Hop, Kerberos, REQUESTS, Reason, Refusal, Request, RouteOpen, SealingKey, Signed, Way, decode,
};
use wardline_proto::principal::Principal;
use wardline_proto::{GroupId, Kind, Name, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::view::{Member, View, WAY};

use crate::api::Relayed;
use crate::configuration::Configurations;
use crate::founding::Authorities;
use crate::live::{Conversation, Registry};
use crate::sealing::{self, Publications};
use crate::store::Store;
use conversation::Talk;

/// Messages of one agent that wait for its conversation.
const WAITING: usize = 8;
/// One part in so many of a processor may go into looking whom entries of the trust log are about; what comes meanwhile
/// is looked at together.
const LOOKING: u32 = 20;
/// The most routes of a session.
const ROUTES: usize = 16 * 1024;
/// The most bytes of each word about a hop.
const WORD: usize = 64;

/// Everything that a session needs.
pub struct Ingest {
    /// Who this server is.
    pub own: Identity,
    /// Signs what this health service measures.
    pub identity: Arc<SigningKey>,
    /// Signs what this server promises.
    pub duty: Arc<SigningKey>,
    /// The certificate of that key.
    pub authorities: watch::Receiver<Arc<Authorities>>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// What agents are to do.
    pub configurations: Arc<Configurations>,
    /// What members are saying of their sealing keys.
    pub publications: Publications,
    /// What answers operators who ask at a server without a database.
    pub relayed: Relayed,
    /// Where everything is kept.
    pub store: Store,
    /// Those who are refused.
    pub strangers: Strangers,
}

impl Ingest {
    /// Wakes those conversations that an entry of the trust log is about, until the server is stopped: each entry would
    /// wake ten thousand of them otherwise, and where so many agents are there are as many entries.
    pub async fn wake(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.store.view();
        let mut before = Arc::clone(&changes.borrow_and_update());
        loop {
            let view = tokio::select! {
                view = changed(&mut changes) => view,
                () = stop.cancelled() => return,
            };
            let began = Instant::now();
            for conversation in self.registry.conversations() {
                let Conversation { member, via, since, concerned, .. } = &*conversation;
                let said = view.version(&member.name) != before.version(&member.name);
                if said || stands(&view, member, via, *since).is_err() {
                    concerned.notify_one();
                }
            }
            before = view;
            tokio::time::sleep(began.elapsed() * LOOKING).await;
        }
    }

    /// Says that somebody is refused who is not of the group, or not by this way.
    fn unknown(&self, peer: String, address: SocketAddr, reason: String) {
        self.strangers.did(address, Event::UnknownHealthService { peer, address: address.to_string(), reason });
    }

    /// Serves one session until it ends.
    pub async fn serve(self: Arc<Self>, session: Session, stop: CancellationToken) {
        let (peer, address) = (session.peer.clone(), session.address);
        let mut changes = self.store.view();
        let view = Arc::clone(&changes.borrow_and_update());
        let member = match direct(&view, &peer, &session.facts.proof) {
            Ok(member) => Arc::clone(member),
            Err((told, reason)) => {
                self.unknown(peer.to_string(), address, reason);
                return refuse(session, Refusal::of(told)).await;
            }
        };
        journal::emit(Event::PeerConnected { peer: peer.to_string(), address: address.to_string() });
        let own = hop(&self.own, &self.identity, &peer, &session.facts, false);
        if let Some(own) = decode::<Hop>(&own.payload) {
            self.registry.measured(&own);
        }
        let (incoming, outgoing, mut writer) = link::open(session);
        let session = Routes {
            ingest: &self,
            member,
            since: view.tree().size(),
            address,
            outgoing,
            routes: HashMap::new(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
            changes,
        };
        let end = if session.member.is_relay() {
            self.registry.gateway(&peer.name, true);
            let end = session.run(incoming, stop).await;
            self.registry.gateway(&peer.name, false);
            end
        } else {
            session.run(incoming, stop).await
        };
        // What was said last is still written, unless the other end does not read.
        if tokio::time::timeout(Duration::from_secs(1), &mut writer).await.is_err() {
            writer.abort();
        }
        if let End::Violation(reason) = &end {
            let (peer, reason) = (peer.to_string(), reason.clone());
            journal::emit(Event::ProtocolViolation { peer, address: address.to_string(), reason });
        }
        journal::emit(Event::PeerGone { peer: peer.to_string(), reason: end.text() });
    }
}

/// What a peer is told, and what the operator is.
type Told = (Refusal, String);

/// The member that a peer is who connects directly and has proved itself so, or why it is none.
fn direct<'a>(view: &'a View, peer: &Identity, proof: &Proof) -> Result<&'a Arc<Member>, (Reason, String)> {
    let not_known = |reason: String| Err((Reason::NotKnown, reason));
    let Some(member) = view.find(&peer.name, peer.role) else {
        return not_known("it is not a member of the group".into());
    };
    if member.role == Role::Server && !member.relays {
        return not_known("servers with the database do not report to servers".into());
    }
    if view.by_way(&peer.name, peer.role, &[]).is_none() {
        let gateways: Vec<_> = member.parents.iter().map(Name::as_str).collect();
        return not_known(format!("it is to come by {}", gateways.join(" or ")));
    }
    match proof {
        Proof::Certificate { hash, .. } if !member.holds(hash) => {
            Err((Reason::Certificate, "its channel certificate was revoked, or not issued to this member".into()))
        }
        Proof::Kerberos(ticket) if !is_of(member, &ticket.initiator) => not_known(not_its_own(&ticket.initiator)),
        _ => Ok(member),
    }
}

/// Whether the hops of a member may be proved by this Kerberos principal.
fn is_of(member: &Member, principal: &str) -> bool {
    member.principal.as_ref().is_some_and(|own| own.to_string() == principal)
}

/// Whether it is a member that has proved itself by this, a principal or the hash of a channel certificate.
fn proves(member: &Member, proof: &str) -> bool {
    is_of(member, proof) || member.certificates.iter().any(|known| known.hash.to_string() == proof)
}

fn not_its_own(principal: &str) -> String {
    format!("it comes as {principal}, which is not the Kerberos principal that the trust log has of it")
}

/// Whether a member may still come this way, is still the same, and no certificate on the way was revoked since the log
/// had so many entries.
fn stands(view: &View, member: &Member, via: &[Name], since: u64) -> Result<(), Told> {
    let now = view.by_way(&member.name, member.role, via).filter(|now| now.identity == member.identity);
    let Some(now) = now else { return Err((Refusal::of(Reason::NotKnown), NO_LONGER.into())) };
    if now.revoked > since {
        return Err((Refusal::of(Reason::Certificate), REVOKED.into()));
    }
    let revoked = |name: &&Name| view.member_named(name).is_some_and(|gateway| gateway.revoked > since);
    match via.iter().find(revoked) {
        Some(gateway) => Err((Refusal::by_gateway(gateway), format!("{gateway} is on its way: {REVOKED}"))),
        None => Ok(()),
    }
}

/// Returns at the next change of what the trust log says; never when there will be none.
async fn changed(changes: &mut watch::Receiver<Arc<View>>) -> Arc<View> {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    Arc::clone(&changes.borrow_and_update())
}

/// The gateways of a route, the nearest to its agent first, the one of the session last.
fn way(open: &RouteOpen, gateway: &Name) -> Result<Vec<Name>, String> {
    if open.via.len() >= WAY {
        return Err(format!("a route by more than {WAY} gateways"));
    }
    if open.proofs.len() != open.via.len() {
        return Err("a route with gateways of which nothing is proved".into());
    }
    let mut via =
        open.via.iter().map(|name| name.parse()).collect::<Result<Vec<Name>, _>>().map_err(|e| e.to_string())?;
    via.push(gateway.clone());
    Ok(via)
}

/// Whether there can be a hop of this member as it says: in the role that it has, to one of its own parents, or from one
/// of whom it is a parent. `via` is the way of an agent, which cannot have been by another.
fn can_be(view: &View, own: &Name, hop: &Hop, reporter: &Member, via: Option<&[Name]>) -> bool {
    let Ok(peer) = hop.peer.parse::<Name>() else { return false };
    let words = [&hop.mechanism, &hop.version, &hop.cipher, &hop.exchange];
    let (certificate, more) = match &hop.kerberos {
        None => (32, Vec::new()),
        Some(Kerberos { initiator, acceptor, ticket, authenticator, session, binding, .. }) => {
            if [initiator, acceptor].iter().any(|principal| principal.parse::<Principal>().is_err()) {
                return false;
            }
            (0, vec![ticket, authenticator, session, binding])
        }
    };
    let sizes = hop.id.len() == 32 && hop.peer_certificate.len() == certificate;
    let words = words.into_iter().chain(more).chain(&hop.offered).all(|word| word.len() <= WORD);
    let sizes = sizes && hop.offered.len() <= 2;
    let pair = match (via, hop.dialled) {
        (Some(via), true) => peer == *via.first().unwrap_or(own),
        (Some(_), false) => false,
        (None, true) if reporter.parents.is_empty() => peer == *own,
        (None, true) => reporter.parents.contains(&peer),
        (None, false) => view.member_named(&peer).is_some_and(|peer| peer.parents.contains(&reporter.name)),
    };
    sizes && words && pair && (!hop.ended || !hop.dialled)
}

/// Whether a gateway may be behind another: some of its ways lead by it.
fn is_behind(view: &View, gateway: &Name, other: &Name, steps: usize) -> bool {
    let behind = |parent: &Name| parent == other || (steps > 0 && is_behind(view, parent, other, steps - 1));
    view.relay(gateway).is_some_and(|member| member.parents.iter().any(behind))
}

/// Why somebody is not served any more.
const REVOKED: &str = "its certificate was revoked, or its Kerberos principal is another now";
const NO_LONGER: &str = "it is no longer a member of the group, or no longer to come this way";

/// Tells a peer why it is not wanted, and closes.
async fn refuse(session: Session, refusal: Refusal) {
    let (_incoming, outgoing, writer) = link::open(session);
    let _ = outgoing.send(Message::own(Kind::Refusal, refusal)).await;
    drop(outgoing);
    let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
}

/// Why a session has ended.
enum End {
    Gone(String),
    Violation(String),
}

impl End {
    fn text(self) -> String {
        match self {
            Self::Gone(text) | Self::Violation(text) => text,
        }
    }
}

/// The conversations of one session.
struct Routes<'a> {
    ingest: &'a Arc<Ingest>,
    member: Arc<Member>,
    /// How many entries the log had when it began.
    since: u64,
    address: SocketAddr,
    outgoing: Outgoing,
    /// The conversation of each route.
    routes: HashMap<u32, mpsc::Sender<Message>>,
    /// Places for requests of operators.
    requests: Arc<Semaphore>,
    changes: watch::Receiver<Arc<View>>,
}

impl Routes<'_> {
    async fn run(mut self, mut incoming: Incoming, stop: CancellationToken) -> End {
        if self.member.role == Role::Agent {
            self.open(0, Arc::clone(&self.member), Vec::new(), self.since);
        }
        if self.outgoing.send(Message::own(Kind::Way, Way { open: true })).await.is_err() {
            return End::Gone("the connection ended".into());
        }
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => {
                    let refusal = Refusal::of(Reason::Stopping);
                    let _ = self.outgoing.try_send(Message::own(Kind::Refusal, refusal));
                    return End::Gone(Reason::Stopping.as_str().into());
                }
                // An agent's own conversation notices by itself, and tells it.
                view = changed(&mut self.changes), if self.member.is_relay() => {
                    match stands(&view, &self.member, &[], self.since) {
                        Err(told) => return self.cut(told),
                        Ok(()) => continue,
                    }
                }
                () = ended(self.routes.get(&0)), if self.member.role == Role::Agent => {
                    return End::Gone("its conversation was ended".into());
                }
                message = incoming.message() => message,
            };
            match message {
                Ok(message) => {
                    if let Err(reason) = self.take(message).await {
                        return End::Violation(reason);
                    }
                }
                Err(error @ Broken::Overfull(route)) if route != 0 => self.refuse(route, &error).await,
                Err(error) if error.is_violation() => {
                    let refusal = Refusal::of(Reason::Protocol);
                    let _ = self.outgoing.try_send(Message::own(Kind::Refusal, refusal));
                    return End::Violation(error.to_string());
                }
                Err(error) => return End::Gone(error.to_string()),
            }
        }
    }

    /// Ends one route for what its agent has done; the others go on.
    async fn refuse(&mut self, route: u32, reason: &Broken) {
        self.routes.remove(&route);
        let (peer, address) = (format!("an agent behind gateway {}", self.member.name), self.address.to_string());
        journal::emit(Event::ProtocolViolation { peer, address, reason: reason.to_string() });
        let refusal = Message::own(Kind::Refusal, Refusal::of(Reason::Protocol)).on(route);
        let close = Message { kind: Kind::RouteClose, route, body: Bytes::new() };
        // A session that has ended is noticed where it is read.
        let _ = self.outgoing.send(refusal).await;
        let _ = self.outgoing.send(close).await;
    }

    /// Ends the session of a gateway that does not belong here any more.
    fn cut(&self, (told, reason): Told) -> End {
        let peer = Identity { name: self.member.name.clone(), role: self.member.role }.to_string();
        let address = self.address.to_string();
        journal::emit(Event::UnknownHealthService { peer, address, reason: reason.clone() });
        let _ = self.outgoing.try_send(Message::own(Kind::Refusal, told));
        End::Gone(reason)
    }

    async fn take(&mut self, message: Message) -> Result<(), String> {
        match message.kind {
            Kind::RouteOpen => self.route(&message).await,
            Kind::RouteClose => {
                self.routes.remove(&message.route);
                Ok(())
            }
            Kind::SealingKey if message.route == 0 && self.member.is_relay() => {
                self.published(&message);
                Ok(())
            }
            // A gateway's own facts; an agent's go to its conversation.
            Kind::Hop if message.route == 0 && self.member.is_relay() => {
                // It passes on unread what those behind it have measured. What is wrong about it proves nothing, and must not
                // cost the session of who passed it on.
                let signed = decode::<Signed>(&message.body);
                let _ = signed.map(|signed| self.ingest.measured(&self.member, None, &signed));
                Ok(())
            }
            Kind::Request => self.request(&message),
            _ => {
                // Of a route that has ended something may still be under way.
                if let Some(inbox) = self.routes.get(&message.route) {
                    let route = message.route;
                    if inbox.send(message).await.is_err() {
                        self.routes.remove(&route);
                    }
                }
                Ok(())
            }
        }
    }

    /// An operator asks at the server without a database whose session this is. What was begun is finished, whether or not
    /// anybody waits for it.
    fn request(&self, message: &Message) -> Result<(), String> {
        let request: Request = decode(&message.body).ok_or("a request that cannot be decoded")?;
        let (ingest, name, route) = (Arc::clone(self.ingest), self.member.name.clone(), message.route);
        let (outgoing, place) = (self.outgoing.clone(), Arc::clone(&self.requests).try_acquire_owned());
        // What was asked by somebody who is cut off in a moment is not done.
        let view = Arc::clone(&ingest.store.view().borrow());
        if stands(&view, &self.member, &[], self.since).is_err() {
            return Ok(());
        }
        tokio::spawn(async move {
            let reply = match place {
                Ok(_) => ingest.relayed.answer(&name, request).await,
                Err(_) => Relayed::busy(),
            };
            let _ = outgoing.send(Message::own(Kind::Reply, reply).on(route)).await;
            drop(place);
        });
        Ok(())
    }

    /// A gateway opens a route for an agent: only for one that it was given.
    async fn route(&mut self, message: &Message) -> Result<(), String> {
        let open: RouteOpen = decode(&message.body).ok_or("a route that cannot be decoded")?;
        let agent = open.agent.parse::<Name>().map_err(|error| error.to_string())?;
        if self.routes.contains_key(&message.route) {
            return Err(format!("route {} is open already", message.route));
        }
        if self.routes.len() >= ROUTES {
            // Those that were displaced, and that the gateway has not closed yet.
            self.routes.retain(|_, inbox| !inbox.is_closed());
            if self.routes.len() >= ROUTES {
                return Err(format!("more than {ROUTES} routes"));
            }
        }
        // What is wrong about the way may be a gateway's fault that is further away: it costs this route only.
        let via = match way(&open, &self.member.name) {
            Ok(via) => via,
            Err(reason) => {
                self.refused(message.route, agent, (Refusal::of(Reason::NotKnown), reason)).await;
                return Ok(());
            }
        };
        let view = Arc::clone(&self.ingest.store.view().borrow());
        // Who is let in by another is believed no more than its proof, before it takes anybody's place.
        let mut hops = via.iter().zip(&open.proofs);
        let foreign = hops.find(|(name, proof)| view.member_named(name).is_some_and(|member| !proves(member, proof)));
        if let Some((gateway, _)) = foreign {
            let reason = format!("{gateway} is on its way: {FOREIGN}");
            self.refused(message.route, agent, (Refusal::by_gateway(gateway), reason)).await;
            return Ok(());
        }
        match view.by_way(&agent, Role::Agent, &via) {
            Some(member) if !proves(member, &open.proof) => {
                let (told, reason) = match open.proof.contains('@') {
                    true => (Reason::NotKnown, not_its_own(&open.proof)),
                    false => (Reason::Certificate, FOREIGN.to_owned()),
                };
                self.refused(message.route, agent, (Refusal::of(told), reason)).await;
                Ok(())
            }
            Some(member) => {
                self.open(message.route, Arc::clone(member), via, view.tree().size());
                let way = Message::own(Kind::Way, Way { open: true }).on(message.route);
                // A session that has ended is noticed where it is read.
                let _ = self.outgoing.send(way).await;
                Ok(())
            }
            None => {
                let via: Vec<_> = via.iter().map(Name::as_str).collect();
                let reason = match view.find(&agent, Role::Agent) {
                    Some(_) => format!("{} speaks for it, but was not given it", via.join(" by ")),
                    None => "it is not a member of the group".to_owned(),
                };
                self.refused(message.route, agent, (Refusal::of(Reason::NotKnown), reason)).await;
                Ok(())
            }
        }
    }

    /// A route that is none.
    async fn refused(&self, route: u32, agent: Name, (told, reason): Told) {
        let peer = Identity { name: agent, role: Role::Agent }.to_string();
        self.ingest.unknown(peer, self.address, reason);
        // Who does not go by itself is sent away by its gateway.
        let close = Message { kind: Kind::RouteClose, route, body: Bytes::new() };
        for message in [Message::own(Kind::Refusal, told).on(route), close] {
            let _ = self.outgoing.send(message).await;
        }
    }

    fn open(&mut self, route: u32, member: Arc<Member>, via: Vec<Name>, since: u64) {
        let (inbox, messages) = mpsc::channel(WAITING);
        let talk = Talk::new(Arc::clone(self.ingest), member, via, since, route, self.outgoing.clone(), self.address);
        tokio::spawn(talk.run(messages));
        self.routes.insert(route, inbox);
    }

    /// A gateway of this session, or one behind it, has a sealing key. What is wrong about it costs nobody the session:
    /// a gateway passes on unread what those behind it say.
    fn published(&self, message: &Message) {
        let Some(said) = decode::<Signed>(&message.body) else { return };
        let about = decode::<SealingKey>(&said.payload).and_then(|said| said.name.parse::<Name>().ok());
        let Some(name) = about else { return };
        let view = Arc::clone(&self.ingest.store.view().borrow());
        if name != self.member.name && !is_behind(&view, &name, &self.member.name, WAY) {
            return;
        }
        let to = (self.outgoing.clone(), 0);
        let role = view.member_named(&name).map_or(Role::Gateway, |member| member.role);
        if let Err(refused) = self.ingest.published((role, &name), said, to, self.address) {
            self.ingest.publications.refused(&name, self.address, &refused);
        }
    }
}

/// Why a member is not served that a gateway has let in.
const FOREIGN: &str = "its channel certificate or Kerberos principal is not, or not any more, one of this member";

/// Returns when the conversation of a route has ended by itself.
async fn ended(inbox: Option<&mpsc::Sender<Message>>) {
    match inbox {
        Some(inbox) => inbox.closed().await,
        None => std::future::pending().await,
    }
}

impl Ingest {
    /// Takes what a member has said of its sealing key, and says on its route what the trust log has then. Nobody waits for
    /// the database: what is new is entered beside what else the session carries.
    fn published(
        self: &Arc<Self>,
        (role, name): (Role, &Name),
        said: Signed,
        to: (Outgoing, u32),
        address: SocketAddr,
    ) -> Result<(), sealing::Refused> {
        if !sealing::is_news(&self.store, name, &said)? {
            return self.confirm(name, &to);
        }
        // What comes while one is being entered is said again when there is no answer.
        if !self.publications.begin(name) {
            return Ok(());
        }
        let (own, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            let entered = sealing::enter(&own.store, format!("{role} {name}"), &name, said).await;
            own.publications.end(&name);
            if let Err(refused) = entered.and_then(|()| own.confirm(&name, &to)) {
                own.publications.refused(&name, address, &refused);
            }
        });
        Ok(())
    }

    /// Says which sealing key the trust log has of a member, if there is room: it asks again.
    fn confirm(&self, name: &Name, (outgoing, route): &(Outgoing, u32)) -> Result<(), sealing::Refused> {
        let word = sealing::word(&self.store, self.authorities.borrow().duty.clone(), name)?;
        self.publications.taken(name);
        let _ = outgoing.try_send(Message::own(Kind::SealingConfirmed, word).on(*route));
        Ok(())
    }

    /// The group.
    fn group(&self) -> GroupId {
        self.store.keeper().root.group()
    }

    /// Facts of a hop, as one of its ends signed them: a member, which is an agent by a way, or a gateway; or a gateway
    /// behind it. Nothing of a gateway that is no member, nor of a hop that cannot be: who passes it on does not know that.
    fn measured(&self, member: &Member, via: Option<&[Name]>, signed: &Signed) -> Result<Option<Hop>, &'static str> {
        let said: Hop = decode(&signed.payload).ok_or("facts of a hop that cannot be decoded")?;
        let view = Arc::clone(&self.store.view().borrow());
        let reporter = if said.reporter == member.name.as_str() {
            member
        } else {
            let reporter: Name = said.reporter.parse().map_err(|_| "facts of a hop in nobody's name")?;
            if !member.is_relay() || view.find(&reporter, Role::Agent).is_some() {
                return Err("facts of a hop in another's name");
            }
            let gateway = view.relay(&reporter);
            let behind = gateway.filter(|gateway| is_behind(&view, &gateway.name, &member.name, WAY));
            let Some(gateway) = behind else { return Ok(None) };
            gateway
        };
        let fits = reporter.identity.open(Context::Hop, self.group(), signed);
        fits.map_err(|_| "facts of a hop with a signature that does not fit")?;
        if !can_be(&view, &self.own.name, &said, reporter, via) {
            return Ok(None);
        }
        // Of somebody who only says that he is this one nothing is shown. That a hop has ended needs no proof: its id does.
        let certificate = || Digest::from_wire(&said.peer_certificate).unwrap_or_default().to_string();
        let proof = said.kerberos.as_ref().map_or_else(certificate, |ticket| ticket.initiator.clone());
        let peer = said.peer.parse::<Name>().ok().and_then(|peer| view.member_named(&peer).cloned());
        if said.dialled || said.ended || peer.is_some_and(|peer| proves(&peer, &proof)) {
            self.registry.measured(&said);
        }
        Ok(Some(said))
    }
}

#[cfg(test)]
mod tests;
