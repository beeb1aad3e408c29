//! Who is connected to a gateway, and which route above belongs to which route below. Nothing here waits: what must be
//! said above is given back, what must be said below goes if there is room, and who has none is disconnected.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::Notify;
use wardline_proto::frame::{Frame, Message};
use wardline_proto::message::{Reason, Refusal, RouteOpen, Signed, Way};
use wardline_proto::{Kind, Name, Role};
use wardline_secrets::certificate::Identity;

use crate::handshake::Proof;
use crate::link::Outgoing;

/// The most gateways between an agent and a server's session.
const GATEWAYS: usize = 4;
/// The most routes of one gateway below.
const ROUTES: usize = 16 * 1024;

/// Who is connected.
#[derive(Debug)]
pub(super) struct Table {
    /// This gateway.
    own: Name,
    /// The session above, while its way is open.
    up: Option<Outgoing>,
    sessions: HashMap<u64, Below>,
    /// The one session of each health service below, by its name or, by Kerberos, its principal: an account may call itself
    /// anything, and until the server has said who it is it takes nobody's place, and has no second one.
    names: HashMap<(Role, String), u64>,
    /// By route above: the session below and its route there.
    routes: HashMap<u32, (u64, u32)>,
    last_session: u64,
    last_route: u32,
}

/// A session below.
#[derive(Debug)]
pub(super) struct Below {
    pub(super) peer: Identity,
    /// By what it has proved itself, as it is said above.
    proof: String,
    /// What there is one session of.
    name: (Role, String),
    pub(super) down: Outgoing,
    /// What this end measured of it.
    pub(super) facts: Signed,
    /// That it has ended: of a gateway's, which nobody else tells the server.
    pub(super) ended: Option<Signed>,
    /// Wakes it when it must end.
    pub(super) gone: Arc<Notify>,
    /// By route below: an agent has one, 0; a gateway those that it opened.
    pub(super) routes: HashMap<u32, Route>,
}

/// A route of a session below.
#[derive(Debug)]
pub(super) struct Route {
    /// Whose it is, as it is said above.
    open: RouteOpen,
    /// Its number on the session above, while there is one.
    up: Option<u32>,
}

impl Below {
    pub(super) fn new(peer: Identity, proof: &Proof, down: Outgoing, facts: Signed, ended: Option<Signed>) -> Self {
        let name = match proof {
            Proof::Certificate { .. } => peer.name.to_string(),
            Proof::Kerberos(ticket) => ticket.initiator.clone(),
        };
        let (name, proof) = ((peer.role, name), proof.to_string());
        let open = RouteOpen { agent: peer.name.to_string(), proof: proof.clone(), ..RouteOpen::default() };
        let own = Route { open, up: None };
        let routes = if peer.role == Role::Agent { HashMap::from([(0, own)]) } else { HashMap::new() };
        Self { peer, proof, name, down, facts, ended, gone: Arc::default(), routes }
    }

    /// Says something for which there must be room.
    fn say(&self, message: Message) {
        if self.down.try_send(message).is_err() {
            self.gone.notify_one();
        }
    }
}

const fn close(route: u32) -> Message {
    Message { kind: Kind::RouteClose, route, body: Bytes::new() }
}

/// 0 is the gateway itself. Routes are never used twice on a session of less than four billion.
fn next_route(last: &mut u32) -> u32 {
    *last = last.checked_add(1).unwrap_or(1);
    *last
}

impl Table {
    /// Of this gateway, with nobody there.
    pub(super) fn new(own: Name) -> Self {
        let (up, sessions, names, routes, last_session, last_route) = Default::default();
        Self { own, up, sessions, names, routes, last_session, last_route }
    }

    /// The session above, while its way is open.
    pub(super) fn up(&self) -> Option<Outgoing> {
        self.up.clone()
    }

    /// The session above, and a route there that nobody has.
    pub(super) fn own_route(&mut self) -> Option<(Outgoing, u32)> {
        Some((self.up.clone()?, next_route(&mut self.last_route)))
    }

    /// A session below begins; an older one of the same health service ends. Its number, and what must be said above.
    pub(super) fn enter(&mut self, below: Below) -> (u64, Vec<Message>) {
        self.last_session += 1;
        let (id, name) = (self.last_session, below.name.clone());
        let mut messages = Vec::new();
        if let Some(older) = self.names.insert(name, id) {
            if let Some(older) = self.sessions.get(&older) {
                let _ = older.down.try_send(Message::own(Kind::Refusal, Refusal::of(Reason::Replaced)));
                older.gone.notify_one();
            }
            messages = self.leave(older);
        }
        self.sessions.insert(id, below);
        if self.up.is_some() {
            messages.extend(self.begin(id));
        }
        (id, messages)
    }

    /// Says something to every gateway below, if there is room: it was not meant for this one.
    pub(super) fn to_gateways(&self, message: &Message) {
        let gateways = self.sessions.values().filter(|below| below.peer.role == Role::Gateway);
        gateways.for_each(|below| _ = below.down.try_send(message.clone()));
    }

    /// A session below has ended: what must be said above.
    pub(super) fn leave(&mut self, id: u64) -> Vec<Message> {
        let Some(below) = self.sessions.remove(&id) else { return Vec::new() };
        if self.names.get(&below.name) == Some(&id) {
            self.names.remove(&below.name);
        }
        let routes: Vec<_> = below.routes.into_values().filter_map(|route| route.up).collect();
        routes.iter().for_each(|route| _ = self.routes.remove(route));
        let ended = below.ended.filter(|_| self.up.is_some()).map(|ended| Message::own(Kind::Hop, ended));
        routes.into_iter().map(close).chain(ended).collect()
    }

    /// The way is open: what must be said above.
    pub(super) fn open_way(&mut self, up: &Outgoing) -> Vec<Message> {
        self.up = Some(up.clone());
        let ids: Vec<_> = self.sessions.keys().copied().collect();
        ids.into_iter().flat_map(|id| self.begin(id)).collect()
    }

    /// The way is gone: who is below stops sending and waits. What must be said above, if anybody is there.
    pub(super) fn lose_way(&mut self) -> Vec<Message> {
        if self.up.take().is_none() {
            return Vec::new();
        }
        for below in self.sessions.values_mut() {
            if below.peer.role == Role::Agent {
                below.routes.values_mut().for_each(|route| route.up = None);
            } else {
                below.routes.clear();
            }
            below.say(Message::own(Kind::Way, Way { open: false }));
        }
        self.routes.drain().map(|(route, _)| close(route)).collect()
    }

    /// There is a way for a session below. An agent hears of it from the server, when its route is open there; a gateway
    /// hears it here, and opens its routes anew.
    fn begin(&mut self, id: u64) -> Vec<Message> {
        let Some(below) = self.sessions.get_mut(&id) else { return Vec::new() };
        let facts = Message::own(Kind::Hop, below.facts.clone());
        if below.peer.role != Role::Agent {
            below.say(Message::own(Kind::Way, Way { open: true }));
            return vec![facts];
        }
        let mut messages = Vec::new();
        for (below, route) in &mut below.routes {
            if let Some(before) = route.up.replace(next_route(&mut self.last_route)) {
                self.routes.remove(&before);
                messages.push(close(before));
            }
            self.routes.insert(self.last_route, (id, *below));
            messages.push(Message::own(Kind::RouteOpen, route.open.clone()).on(self.last_route));
        }
        messages.push(facts);
        messages
    }

    /// A gateway below opens a route: what must be said above.
    ///
    /// # Errors
    /// It may not.
    pub(super) fn open(&mut self, id: u64, route: u32, mut open: RouteOpen) -> Result<Option<Message>, String> {
        let is_name = |name: &String| name.parse::<Name>().is_ok();
        if !is_name(&open.agent) || !open.via.iter().all(is_name) {
            return Err("a route of a name that is none".into());
        }
        if open.proofs.len() != open.via.len() {
            return Err("a route with gateways of which nothing is proved".into());
        }
        let Some(below) = self.sessions.get_mut(&id) else { return Ok(None) };
        if below.routes.contains_key(&route) {
            return Err(format!("route {route} is open already"));
        }
        if below.routes.len() >= ROUTES {
            return Err(format!("more than {ROUTES} routes"));
        }
        // It was told, and opens it anew when there is one.
        if self.up.is_none() {
            return Ok(None);
        }
        open.via.push(below.peer.name.to_string());
        open.proofs.push(below.proof.clone());
        // Too far; or in a circle, or in this gateway's own name, which would have its own session above answer for it; or too
        // long to be said above: that costs this route, and nobody else's.
        let is_own = |name: &String| *name == self.own.as_str();
        if open.via.len() > GATEWAYS || open.via.iter().any(is_own) || open.encoded_len() > Kind::RouteOpen.limit() {
            below.say(Message::own(Kind::Refusal, Refusal::of(Reason::NotKnown)).on(route));
            below.say(close(route));
            return Ok(None);
        }
        let up = next_route(&mut self.last_route);
        self.routes.insert(up, (id, route));
        below.routes.insert(route, Route { open: open.clone(), up: Some(up) });
        Ok(Some(Message::own(Kind::RouteOpen, open).on(up)))
    }

    /// A gateway below closes a route: what must be said above.
    pub(super) fn close(&mut self, id: u64, route: u32) -> Option<Message> {
        let up = self.sessions.get_mut(&id)?.routes.remove(&route)?.up?;
        self.routes.remove(&up);
        Some(close(up))
    }

    /// The session above and the route there of a route below.
    pub(super) fn route(&self, id: u64, route: u32) -> Option<(Outgoing, u32)> {
        let up = self.sessions.get(&id)?.routes.get(&route)?.up?;
        Some((self.up.clone()?, up))
    }

    /// A frame from above for a route. Who does not read is disconnected: it must not hold up the others.
    pub(super) fn down(&mut self, frame: Frame) {
        let Some((id, route)) = self.routes.get(&frame.route).copied() else { return };
        let Some(below) = self.sessions.get(&id) else { return };
        // An agent is its route: it ends, and its session says so above. A gateway closes the route in its turn.
        let ended = frame.kind == Kind::RouteClose && below.peer.role == Role::Agent;
        if ended || below.down.try_frame(Frame { route, ..frame }).is_err() {
            below.gone.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use wardline_proto::frame::Part;
    use wardline_proto::message::{Digest, decode};

    use super::*;
    use crate::link::Lanes;

    const CERTIFICATE: Proof = Proof::Certificate { hash: Digest([7; 32]), not_after: 0 };

    struct Gateway {
        table: Table,
        up: Outgoing,
    }

    fn gateway() -> Gateway {
        let mut table = Table::new("own.test".parse().unwrap());
        let (up, _) = Lanes::new(8);
        assert_eq!(table.open_way(&up), []);
        Gateway { table, up }
    }

    fn below(role: Role, name: &str, room: usize) -> (Below, Lanes) {
        let (down, lanes) = Lanes::new(room);
        let ended = (role == Role::Gateway).then(Signed::default);
        let peer = Identity { name: name.parse().unwrap(), role };
        (Below::new(peer, &CERTIFICATE, down, Signed::default(), ended), lanes)
    }

    fn heard(lanes: &mut Lanes) -> Vec<(Kind, u32)> {
        lanes.drain().into_iter().map(|frame| (frame.kind, frame.route)).collect()
    }

    fn opened(message: &Message) -> RouteOpen {
        assert_eq!(message.kind, Kind::RouteOpen);
        decode(&message.body).unwrap()
    }

    fn open(agent: &str, via: &[&str]) -> RouteOpen {
        let (agent, via) = (agent.into(), via.iter().map(ToString::to_string).collect::<Vec<_>>());
        let proofs = via.iter().map(|_| CERTIFICATE.to_string()).collect();
        RouteOpen { agent, via, proof: CERTIFICATE.to_string(), proofs }
    }

    fn frame(kind: Kind, route: u32) -> Frame {
        Frame { kind, route, part: Part::Whole, body: Bytes::new() }
    }

    #[tokio::test]
    async fn routes_of_agents_and_of_gateways_below_get_routes_of_their_own_above() {
        let Gateway { mut table, .. } = gateway();
        let (agent, mut agent_hears) = below(Role::Agent, "web1.test", 8);
        let (gw, mut gw_hears) = below(Role::Gateway, "gw1.test", 8);
        let (agent, said) = table.enter(agent);
        assert_eq!((opened(&said[0]), said[0].route, said[1].kind), (open("web1.test", &[]), 1, Kind::Hop));
        let (gw, said) = table.enter(gw);
        assert_eq!((said.len(), said[0].kind, said[0].route), (1, Kind::Hop, 0));
        assert_eq!(heard(&mut gw_hears), [(Kind::Way, 0)]);
        let said = table.open(gw, 7, open("web2.test", &["gw0.test"])).unwrap().unwrap();
        assert_eq!((opened(&said), said.route), (open("web2.test", &["gw0.test", "gw1.test"]), 2));
        assert_eq!(table.route(agent, 0).unwrap().1, 1);
        assert_eq!(table.route(gw, 7).unwrap().1, 2);
        assert!(table.route(gw, 1).is_none() && table.route(agent, 7).is_none());
        for kind in [Kind::Way, Kind::Ack, Kind::Refusal, Kind::RouteClose] {
            table.down(frame(kind, 2));
        }
        table.down(frame(Kind::Ack, 1));
        table.down(frame(Kind::Ack, 9));
        assert_eq!(heard(&mut gw_hears), [(Kind::Way, 7), (Kind::Ack, 7), (Kind::Refusal, 7), (Kind::RouteClose, 7)]);
        assert_eq!(heard(&mut agent_hears), [(Kind::Ack, 0)]);
        assert_eq!(table.close(gw, 7), Some(close(2)));
        assert_eq!(table.close(gw, 7), None);
        assert_eq!(table.leave(agent), [close(1)]);
        assert!(table.routes.is_empty());
    }

    #[tokio::test]
    async fn a_gateway_that_ends_or_loses_its_way_closes_all_its_routes() {
        let Gateway { mut table, up } = gateway();
        let (gw, mut hears) = below(Role::Gateway, "gw1.test", 8);
        let (gw, _) = table.enter(gw);
        for route in 1..=3 {
            table.open(gw, route, open(&format!("web{route}.test"), &[])).unwrap().unwrap();
        }
        let mut closed: Vec<_> = table.lose_way().iter().map(|message| (message.kind, message.route)).collect();
        closed.sort_by_key(|(_, route)| *route);
        assert_eq!(closed, [1, 2, 3].map(|route| (Kind::RouteClose, route)));
        assert_eq!(heard(&mut hears), [(Kind::Way, 0), (Kind::Way, 0)]);
        // What was under way is dropped; it opens its routes anew when it is told.
        assert_eq!(table.open(gw, 4, open("web4.test", &[])), Ok(None));
        assert!(table.route(gw, 1).is_none() && table.lose_way().is_empty());
        assert_eq!(table.open_way(&up).len(), 1);
        let said = table.open(gw, 5, open("web1.test", &[])).unwrap().unwrap();
        let ended = Message::own(Kind::Hop, Signed::default());
        assert_eq!(table.leave(gw), [close(said.route), ended]);
        assert!(table.routes.is_empty() && table.sessions.is_empty() && table.names.is_empty());
    }

    #[tokio::test]
    async fn a_gateway_below_may_not_open_what_is_open_or_too_far_or_too_much() {
        let Gateway { mut table, .. } = gateway();
        let (gw, mut hears) = below(Role::Gateway, "gw1.test", 8);
        let (gw, _) = table.enter(gw);
        assert!(table.open(gw, 1, open("web1.test", &["a", "b", "c"])).unwrap().is_some());
        assert!(table.open(gw, 1, open("web2.test", &[])).is_err());
        assert!(table.open(gw, 2, open("WEB", &[])).is_err());
        assert!(table.open(gw, 2, open("web2.test", &["*"])).is_err());
        heard(&mut hears);
        assert_eq!(table.open(gw, 2, open("web2.test", &["a", "b", "c", "d"])), Ok(None));
        assert_eq!(heard(&mut hears), [(Kind::Refusal, 2), (Kind::RouteClose, 2)]);
        // In this gateway's own name, and more than can be said above.
        assert_eq!(table.open(gw, 2, open("web2.test", &["own.test"])), Ok(None));
        let long = RouteOpen { proof: "x".repeat(Kind::RouteOpen.limit() - 40), ..open("web2.test", &[]) };
        assert_eq!(table.open(gw, 2, long), Ok(None));
        assert_eq!(heard(&mut hears).len(), 4);
        for route in 2..=u32::try_from(ROUTES).unwrap() {
            assert!(table.open(gw, route, open("web1.test", &[])).unwrap().is_some());
        }
        assert!(table.open(gw, u32::MAX, open("web1.test", &[])).is_err());
    }

    #[tokio::test]
    async fn who_does_not_read_is_disconnected_and_a_newer_session_takes_the_place_of_an_older() {
        let Gateway { mut table, .. } = gateway();
        let (slow, _lanes) = below(Role::Gateway, "gw1.test", 2);
        let gone = Arc::clone(&slow.gone);
        let (slow, _) = table.enter(slow);
        table.open(slow, 1, open("web1.test", &[])).unwrap().unwrap();
        table.down(frame(Kind::Ack, 1));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(10), gone.notified()).await.is_err());
        table.down(frame(Kind::Ack, 1));
        gone.notified().await;

        let (first, mut hears) = below(Role::Agent, "web2.test", 8);
        let gone = Arc::clone(&first.gone);
        let (first, _) = table.enter(first);
        let (second, _lanes) = below(Role::Agent, "web2.test", 8);
        let (second, said) = table.enter(second);
        assert_eq!((said[0].clone(), opened(&said[1])), (close(2), open("web2.test", &[])));
        gone.notified().await;
        assert_eq!(heard(&mut hears), [(Kind::Refusal, 0)]);
        assert_eq!(table.leave(first), []);
        assert!(table.route(second, 0).is_some());
    }
}
