//! What only the running server knows: who is connected, and what the ends of each hop measured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use wardline_connector::now_ms;
use wardline_proto::message::Hop;
use wardline_proto::{Name, Role};
use wardline_sdk::{HopEnd, Service, Ticket, Time, Topology};
use wardline_secrets::view::{Member, View, WAY};

use crate::api::{Connected, Live};
use crate::watch::{Heartbeat, Watched, Withheld};

/// Shared by all sessions and the data access service.
#[derive(Debug)]
pub struct Registry {
    name: Name,
    started: u64,
    view: watch::Receiver<Arc<View>>,
    state: Mutex<State>,
    /// Wakes the watcher when there is something new to be found.
    found: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The one conversation of each agent.
    agents: HashMap<Name, Arc<Conversation>>,
    /// Gateways with a session, and servers without a database, and how many.
    gateways: HashMap<Name, usize>,
    /// By dialling, then by listening end: the newest hop's id and what was said of it. Nobody dials an agent.
    hops: HashMap<Name, HashMap<Name, (String, Vec<HopEnd>)>>,
    /// What heartbeats have said of each agent that was ever heard.
    watched: HashMap<Name, Watched>,
    /// Who is grey by the watcher's last look, and why.
    grey: HashMap<Name, String>,
}

/// An agent's conversation with this server.
#[derive(Debug)]
pub struct Conversation {
    /// Who it is, by what the trust log said as the conversation began.
    pub member: Arc<Member>,
    /// The gateways that it comes by, the nearest to it first.
    pub via: Vec<Name>,
    /// How many entries the log had when its way was opened.
    pub since: u64,
    /// Wakes it when something is said in the trust log that is about it.
    pub concerned: Notify,
    /// Wakes it when another takes its place.
    pub replaced: Notify,
    /// Wakes it when an operator has released the agent.
    pub released: Notify,
    /// When it was last heard, milliseconds since 1970.
    heard: Mutex<u64>,
}

impl Conversation {
    /// One that begins now.
    pub fn new(member: Arc<Member>, via: Vec<Name>, since: u64) -> Arc<Self> {
        let (concerned, replaced, released) = (Notify::new(), Notify::new(), Notify::new());
        Arc::new(Self { member, via, since, concerned, replaced, released, heard: Mutex::new(now_ms()) })
    }

    /// Notes that the agent was heard, so long ago; when it was heard last, milliseconds since 1970.
    pub fn heard(&self, ago: Duration) -> u64 {
        let at = now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        *heard = at.max(*heard);
        *heard
    }
}

impl Registry {
    /// Nobody is connected.
    pub fn new(name: Name, view: watch::Receiver<Arc<View>>) -> Arc<Self> {
        Arc::new(Self { name, started: now_ms(), view, state: Mutex::default(), found: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and nothing waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the server, or a gateway with a session here, or behind such a one by at most so many others.
    fn reaches(&self, state: &State, name: &Name, steps: usize) -> bool {
        let behind = || {
            let mut parents = state.hops.get(name).into_iter().flat_map(HashMap::keys);
            steps > 0 && parents.any(|parent| self.reaches(state, parent, steps - 1))
        };
        *name == self.name || state.gateways.contains_key(name) || behind()
    }

    /// An agent's conversation begins; the one before is told to end, and what was measured of its hop is forgotten.
    pub fn begin(&self, agent: &Name, conversation: &Arc<Conversation>) {
        let mut state = self.state();
        // From now on it is missed.
        state.watched.entry(agent.clone()).or_insert_with(|| Watched::new(Instant::now(), false));
        let parent = conversation.via.first().unwrap_or(&self.name);
        if let Some(hops) = state.hops.get_mut(agent) {
            hops.retain(|to, _| to == parent);
        }
        if let Some(older) = state.agents.insert(agent.clone(), Arc::clone(conversation)) {
            older.replaced.notify_one();
        }
    }

    /// Every conversation.
    pub fn conversations(&self) -> Vec<Arc<Conversation>> {
        self.state().agents.values().cloned().collect()
    }

    /// An agent's conversation has ended.
    pub fn end(&self, agent: &Name, conversation: &Arc<Conversation>) {
        let mut state = self.state();
        if state.agents.get(agent).is_some_and(|current| Arc::ptr_eq(current, conversation)) {
            state.agents.remove(agent);
            state.hops.remove(agent);
        }
    }

    /// These agents were heard by an earlier run of this program; whether each was grey.
    pub fn watch(&self, known: impl Iterator<Item = (bool, Name)>, now: Instant) {
        let mut state = self.state();
        for (grey, agent) in known {
            state.watched.entry(agent).or_insert_with(|| Watched::new(now, grey));
        }
    }

    /// Whether it is an agent of this group.
    pub fn is_agent(&self, name: &Name) -> bool {
        self.view.borrow().find(name, Role::Agent).is_some()
    }

    /// A heartbeat of an agent has come.
    pub fn heartbeat(&self, agent: &Name, heartbeat: Heartbeat, now: Instant) {
        let mut state = self.state();
        let watched = state.watched.entry(agent.clone()).or_insert_with(|| Watched::new(now, false));
        let before = watched.is_withheld();
        watched.heard(heartbeat, now);
        if watched.is_withheld() != before || state.grey.contains_key(agent) {
            self.found.notify_one();
        }
    }

    /// Another server has heard an agent: it lived then, and is heard so often.
    pub fn heard_elsewhere(&self, agent: &Name, interval: Duration, lived: Instant) {
        let mut state = self.state();
        let watched = state.watched.entry(agent.clone()).or_insert_with(|| Watched::new(lived, false));
        watched.heard_elsewhere(interval, lived);
        if state.grey.contains_key(agent) {
            self.found.notify_one();
        }
    }

    /// Returns when there is something new to be found, or gone.
    pub async fn something_is_found(&self) {
        self.found.notified().await;
    }

    /// This server was behind: what was not heard meanwhile says nothing.
    pub fn begin_anew(&self, now: Instant) {
        self.state().watched.values_mut().for_each(|watched| watched.begin_anew(now));
    }

    /// Which agents that are members are grey, and why. From now on these are shown so.
    pub fn judge(&self, now: Instant) -> HashMap<Name, String> {
        let view = Arc::clone(&self.view.borrow());
        let mut state = self.state();
        state.watched.retain(|agent, _| view.find(agent, Role::Agent).is_some());
        let grey = state.watched.iter().filter(|(_, watched)| watched.is_grey(now));
        let grey: HashMap<_, _> = grey.map(|(agent, _)| (agent.clone(), self.reason(&state, &view, agent))).collect();
        state.grey.clone_from(&grey);
        grey
    }

    /// What does not come of agents that are connected to this server.
    pub fn withheld(&self) -> Vec<(Name, Withheld)> {
        let state = self.state();
        let here = state.watched.iter().filter(|(agent, _)| state.agents.contains_key(*agent));
        here.filter_map(|(agent, watched)| Some((agent.clone(), watched.withheld()?))).collect()
    }

    /// Why an agent may not be heard, from what still stands of its way.
    fn reason(&self, state: &State, view: &View, agent: &Name) -> String {
        let listed = |names: &[Name]| names.iter().map(Name::as_str).collect::<Vec<_>>().join(" or ");
        if let Some(conversation) = state.agents.get(agent) {
            return match conversation.via.first() {
                Some(gateway) => format!(
                    "its session by {gateway} stands, but the agent hangs, or a gateway on its way passes on no heartbeats of now"
                ),
                None => "its session stands, but the agent hangs".into(),
            };
        }
        let parents = view.find(agent, Role::Agent).map(|member| member.parents.as_slice()).unwrap_or_default();
        let here: Vec<_> = parents.iter().filter(|parent| self.reaches(state, parent, WAY)).cloned().collect();
        match (parents, here.as_slice()) {
            ([], _) => "it has no session: its host or the agent is off, or cannot reach this server".into(),
            (parents, []) => format!("no gateway that it may come by is connected: {}", listed(parents)),
            (_, here) => format!("it has no session: its host or the agent is off, or cannot reach {}", listed(here)),
        }
    }

    /// A gateway's session begins or ends.
    pub fn gateway(&self, gateway: &Name, begins: bool) {
        let mut state = self.state();
        let count = state.gateways.entry(gateway.clone()).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            state.gateways.remove(gateway);
            state.hops.remove(gateway);
            state.hops.values_mut().for_each(|hops| _ = hops.remove(gateway));
        }
    }

    /// One end of a hop has said what it measured, or that it has ended; that it can be so was checked.
    pub fn measured(&self, hop: &Hop) {
        let (Ok(reporter), Ok(peer)) = (hop.reporter.parse::<Name>(), hop.peer.parse::<Name>()) else { return };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let end = HopEnd {
            reporter: reporter.clone(),
            mechanism: hop.mechanism.clone(),
            offered: hop.offered.clone(),
            version: hop.version.clone(),
            cipher: hop.cipher.clone(),
            exchange: hop.exchange.clone(),
            peer_certificate: hex(&hop.peer_certificate),
            since: Time(hop.since),
            kerberos: hop.kerberos.clone().map(|ticket| Ticket {
                initiator: ticket.initiator,
                acceptor: ticket.acceptor,
                binding: ticket.binding,
                ticket: ticket.ticket,
                kvno: ticket.kvno,
                authenticator: ticket.authenticator,
                session: ticket.session,
                ends: Time(ticket.ends.saturating_mul(1000)),
            }),
        };
        let id = hex(&hop.id);
        let (from, to) = if hop.dialled { (reporter.clone(), peer) } else { (peer, reporter.clone()) };
        let mut state = self.state();
        if hop.ended {
            if let Some(hops) = state.hops.get_mut(&from)
                && hops.get(&to).is_some_and(|(current, _)| *current == id)
            {
                hops.remove(&to);
            }
            return;
        }
        let (current, ends) = state.hops.entry(from).or_default().entry(to).or_default();
        if *current != id {
            *current = id;
            ends.clear();
        }
        ends.retain(|end| end.reporter != reporter);
        ends.push(end);
    }
}

impl Live for Registry {
    fn name(&self) -> Name {
        self.name.clone()
    }

    fn started_at_ms(&self) -> u64 {
        self.started
    }

    fn topology(&self) -> Topology {
        let state = self.state();
        let connected = |name: &Name| state.agents.contains_key(name) || self.reaches(&state, name, WAY);
        let service =
            |name: &Name, role, relays| Service { name: name.clone(), role, connected: connected(name), relays };
        let view = Arc::clone(&self.view.borrow());
        let members = view.members().map(|member| service(&member.name, member.role, member.relays));
        let mut services: Vec<_> = members.collect();
        if view.find(&self.name, Role::Server).is_none() {
            services.push(service(&self.name, Role::Server, false));
        }
        services.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        let pairs = state.hops.iter().flat_map(|(from, hops)| hops.iter().map(move |(to, hop)| (from, to, hop)));
        let hop = |(from, to, (id, ends)): (&Name, &Name, &(String, Vec<HopEnd>))| {
            wardline_sdk::Hop::new(from.clone(), to.clone(), id.clone(), ends.clone())
        };
        let mut hops: Vec<_> = pairs.map(hop).collect();
        hops.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
        Topology { services, hops }
    }

    fn connected(&self) -> Vec<Connected> {
        let state = self.state();
        let connected = |(agent, conversation): (&Name, &Arc<Conversation>)| Connected {
            agent: agent.clone(),
            last_heartbeat_ms: *conversation.heard.lock().unwrap_or_else(PoisonError::into_inner),
            via: conversation.via.first().cloned(),
        };
        state.agents.iter().map(connected).collect()
    }

    fn grey(&self) -> HashMap<Name, String> {
        self.state().grey.clone()
    }

    fn released(&self, agent: &Name) {
        if let Some(conversation) = self.state().agents.get(agent) {
            conversation.released.notify_one();
        }
    }
}
