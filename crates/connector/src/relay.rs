//! A gateway between its agents and its parent: many sessions below, one above. It checks who may send what and copies
//! frames; it opens no body. It keeps nothing: agents hold what they sent until the server's acknowledgement has come
//! the whole way back, and compare positions anew whenever the way was gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_proto::frame::{Frame, Message, Order, Part};
use wardline_proto::message::{Reason, Refusal, RouteOpen, Signed, Way, decode};
use wardline_proto::{Kind, Name, Role};
use wardline_secrets::roster::Roster;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::tls::Channel;

use crate::config::Membership;
use crate::handshake::Session;
use crate::journal;
use crate::link::{self, Outgoing};
use crate::uplink::{connect, hop};

/// The pause before dialling again after a session has ended.
const PAUSE: Duration = Duration::from_millis(100);

/// A gateway's relay.
#[derive(Debug)]
pub struct Relay {
    membership: Membership,
    channel: Channel,
    identity: SigningKey,
    roster: Roster,
    state: Mutex<State>,
}

/// Who is connected.
#[derive(Debug, Default)]
struct State {
    /// The session above, while its way is open.
    up: Option<Outgoing>,
    agents: HashMap<Name, Agent>,
    routes: HashMap<u32, Name>,
    next_route: u32,
}

#[derive(Debug)]
struct Agent {
    down: Outgoing,
    /// Its route on the session above, while there is one.
    route: Option<u32>,
    /// What this end measured of its session.
    facts: Signed,
    /// Wakes its session when it must end.
    gone: Arc<Notify>,
}

impl Relay {
    /// A relay with nobody connected.
    pub fn new(membership: Membership, channel: Channel, identity: SigningKey, roster: Roster) -> Arc<Self> {
        Arc::new(Self { membership, channel, identity, roster, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and nothing waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the session above until the program stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while let Some((session, parent)) = connect(&self.channel, &self.membership, &stop).await {
            let reason = tokio::select! {
                () = stop.cancelled() => break,
                reason = self.above(session) => reason,
            };
            self.lose_way();
            journal::emit(Event::ClosedAfterAuthentication { parent: parent.name.to_string(), reason });
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// One session above, until it ends; gives the reason.
    async fn above(&self, session: Session) -> String {
        let facts = hop(&self.channel, &self.identity, &session.peer, &session.facts, true);
        let (mut incoming, up, writer) = link::open(session);
        if up.send(Message::own(Kind::Hop, facts)).await.is_err() {
            return "the connection ended".into();
        }
        let reason = loop {
            let frame = match incoming.frame().await {
                Ok(frame) => frame,
                Err(error) => break error.to_string(),
            };
            if frame.route != 0 {
                self.down(frame);
                continue;
            }
            match frame.kind {
                Kind::Way => match decode::<Way>(&frame.body) {
                    Some(Way { open: true }) => self.open_way(&up),
                    _ => self.lose_way(),
                },
                Kind::Refusal => {
                    let refusal: Option<Refusal> = decode(&frame.body);
                    break refusal.map_or(Reason::Unspecified, |refusal| refusal.reason()).as_str().into();
                }
                kind => break format!("an unexpected {kind:?} message"),
            }
        };
        writer.abort();
        reason
    }

    /// The way is open: every agent gets a route. Said beside reading, or two ends that only write would wait for each
    /// other.
    fn open_way(&self, up: &Outgoing) {
        let messages: Vec<_> = {
            let mut state = self.state();
            state.up = Some(up.clone());
            let names: Vec<_> = state.agents.keys().cloned().collect();
            names.iter().flat_map(|name| state.open_route(name)).collect()
        };
        let up = up.clone();
        tokio::spawn(async move {
            for message in messages {
                if up.send(message).await.is_err() {
                    break;
                }
            }
        });
    }

    /// The way is gone: agents stop sending and wait.
    fn lose_way(&self) {
        let mut state = self.state();
        state.up = None;
        state.routes.clear();
        for agent in state.agents.values_mut() {
            if agent.route.take().is_some()
                && agent.down.try_send(Message::own(Kind::Way, Way { open: false })).is_err()
            {
                agent.gone.notify_one();
            }
        }
    }

    /// A frame for an agent. One that does not read is disconnected: it must not hold up the others.
    fn down(&self, frame: Frame) {
        let mut state = self.state();
        let Some(name) = state.routes.get(&frame.route).cloned() else { return };
        let ended = frame.kind == Kind::RouteClose;
        let Some(agent) = state.agents.get_mut(&name) else { return };
        if ended || agent.down.try_frame(Frame { route: 0, ..frame }).is_err() {
            agent.gone.notify_one();
        }
    }

    /// Serves one session below, until it ends.
    pub async fn serve(self: Arc<Self>, session: Session, stop: CancellationToken) {
        let (peer, address) = (session.peer.clone(), session.address.to_string());
        let own = &self.channel.identity.name;
        if peer.role != Role::Agent || self.roster.agent_via(&peer.name, Some(own)).is_none() {
            let reason = "it is not in this gateway's list".into();
            journal::emit(Event::UnknownHealthService { peer: peer.to_string(), address, reason });
            let (_incoming, down, writer) = link::open(session);
            let refusal = Refusal { reason: Reason::NotKnown.into() };
            let _ = down.send(Message::own(Kind::Refusal, refusal)).await;
            drop(down);
            let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
            return;
        }
        journal::emit(Event::PeerConnected { peer: peer.to_string(), address: address.clone() });
        let facts = hop(&self.channel, &self.identity, &peer, &session.facts, false);
        let (mut incoming, down, writer) = link::open(session);
        let gone = Arc::new(Notify::new());
        let opening = {
            let mut state = self.state();
            let agent = Agent { down: down.clone(), route: None, facts, gone: Arc::clone(&gone) };
            let closing = state.close_route(&peer.name);
            if let Some(older) = state.agents.insert(peer.name.clone(), agent) {
                let refusal = Refusal { reason: Reason::Replaced.into() };
                let _ = older.down.try_send(Message::own(Kind::Refusal, refusal));
                older.gone.notify_one();
            }
            let mut messages: Vec<_> = closing.into_iter().collect();
            messages.extend(state.open_route(&peer.name));
            state.up.clone().map(|up| (up, messages))
        };
        if let Some((up, messages)) = opening {
            for message in messages {
                let _ = up.send(message).await;
            }
        }
        drop(down);
        let (mut order, mut begun) = (Order::default(), None);
        let reason = loop {
            let frame = tokio::select! {
                () = stop.cancelled() => break Reason::Stopping.as_str().to_owned(),
                () = gone.notified() => break "the session was ended from above".to_owned(),
                frame = incoming.frame() => frame,
            };
            let frame = frame.and_then(|frame| Ok(order.check(&frame).map(|()| frame)?));
            match frame {
                Ok(frame) if frame.kind == Kind::Refusal => break "it ended the session".to_owned(),
                Ok(frame) => {
                    let way = self.route(&peer.name, &gone);
                    if let Part::First(_) = frame.part {
                        begun = way.as_ref().map(|(_, route)| *route);
                    }
                    // Without a way nothing is kept: the agent was told, and sends again when there is one. The rest
                    // of a message that began without it, or on another route, goes the same way.
                    if let Some((up, route)) =
                        way.filter(|(_, route)| frame.part != Part::Next || begun == Some(*route))
                    {
                        let _ = up.frame(Frame { route, ..frame }).await;
                    }
                }
                Err(error) => {
                    let reason = error.to_string();
                    if error.is_violation() {
                        let peer = peer.to_string();
                        journal::emit(Event::ProtocolViolation { peer, address, reason: reason.clone() });
                    }
                    break reason;
                }
            }
        };
        writer.abort();
        let closing = {
            let mut state = self.state();
            let ours = state.agents.get(&peer.name).is_some_and(|agent| Arc::ptr_eq(&agent.gone, &gone));
            let closing = if ours { state.close_route(&peer.name) } else { None };
            if ours {
                state.agents.remove(&peer.name);
            }
            closing.and_then(|message| Some((state.up.clone()?, message)))
        };
        if let Some((up, message)) = closing {
            let _ = up.send(message).await;
        }
        journal::emit(Event::PeerGone { peer: peer.to_string(), reason });
    }

    /// The session above and the route of this very session below.
    fn route(&self, name: &Name, gone: &Arc<Notify>) -> Option<(Outgoing, u32)> {
        let state = self.state();
        let agent = state.agents.get(name).filter(|agent| Arc::ptr_eq(&agent.gone, gone))?;
        Some((state.up.clone()?, agent.route?))
    }
}

impl State {
    /// Opens a route for an agent, when there is a way: what must be said above.
    fn open_route(&mut self, name: &Name) -> Vec<Message> {
        if self.up.is_none() {
            return Vec::new();
        }
        // 0 is the gateway itself. Routes are never used twice on a session of less than four billion.
        self.next_route = self.next_route.checked_add(1).unwrap_or(1);
        let route = self.next_route;
        let Some(agent) = self.agents.get_mut(name) else { return Vec::new() };
        agent.route = Some(route);
        self.routes.insert(route, name.clone());
        let open = RouteOpen { agent: name.to_string() };
        vec![Message::own(Kind::RouteOpen, open).on(route), Message::own(Kind::Hop, agent.facts.clone())]
    }

    /// Ends an agent's route: what must be said above.
    fn close_route(&mut self, name: &Name) -> Option<Message> {
        let route = self.agents.get_mut(name)?.route.take()?;
        self.routes.remove(&route);
        Some(Message { kind: Kind::RouteClose, route, body: bytes::Bytes::new() })
    }
}
