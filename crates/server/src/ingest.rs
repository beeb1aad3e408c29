//! Sessions of agents and gateways: who they are, which agents they may speak for, and one conversation per agent.
//!
//! ```text
//!   session ---- route 0, or one per agent behind a gateway ----> conversation: verify, judge ----> store
//!      ^                                                                |                             | commit
//!      +-------------------------- signed acknowledgement <-------------+-----------------------------+
//! ```

mod conversation;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wardline_connector::handshake::Session;
use wardline_connector::journal;
use wardline_connector::link::{self, Broken, Incoming, Outgoing};
use wardline_connector::uplink::hop;
use wardline_proto::event::Event;
use wardline_proto::frame::Message;
use wardline_proto::message::{Context, Hop, Reason, Refusal, RouteOpen, Signed, Way, decode};
use wardline_proto::{Kind, Name, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::roster::{Member, Roster};
use wardline_secrets::signature::SigningKey;
use wardline_secrets::tls::Channel;

use crate::live::{Conversation, Registry};
use crate::store::Store;
use conversation::Talk;

/// Messages of one agent that wait for its conversation.
const WAITING: usize = 8;

/// Everything that a session needs.
pub struct Ingest {
    /// This server's channel.
    pub channel: Channel,
    /// Signs what this health service measures.
    pub identity: SigningKey,
    /// Signs what this server promises.
    pub duty: SigningKey,
    /// The duty certificate and what leads to the root, DER.
    pub duty_chain: Vec<Bytes>,
    /// Who is in the group.
    pub roster: Arc<Roster>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// Where everything is kept.
    pub store: Store,
}

impl Ingest {
    /// Serves one session until it ends.
    pub async fn serve(self: Arc<Self>, session: Session, stop: CancellationToken) {
        let (peer, address) = (session.peer.clone(), session.address.to_string());
        let known = match peer.role {
            Role::Agent => self.roster.agent_via(&peer.name, None),
            Role::Gateway => self.roster.find(&peer.name, Role::Gateway),
            Role::Server => None,
        };
        let Some(member) = known.cloned() else {
            let reason = match self.roster.find(&peer.name, peer.role).and_then(|member| member.gateway.clone()) {
                Some(gateway) => format!("it is to come by {gateway}"),
                None => "it is not in this server's list".to_owned(),
            };
            journal::emit(Event::UnknownHealthService { peer: peer.to_string(), address, reason });
            return refuse(session, Reason::NotKnown).await;
        };
        journal::emit(Event::PeerConnected { peer: peer.to_string(), address: address.clone() });
        let own = hop(&self.channel, &self.identity, &peer, &session.facts, false);
        if let Some(own) = decode::<Hop>(&own.payload) {
            self.registry.measured(&own);
        }
        let (incoming, outgoing, writer) = link::open(session);
        let session = Routes { ingest: &self, member, address: address.clone(), outgoing, routes: HashMap::new() };
        let end = match peer.role {
            Role::Gateway => {
                self.registry.gateway(&peer.name, true);
                let end = session.run(incoming, stop).await;
                self.registry.gateway(&peer.name, false);
                end
            }
            _ => session.run(incoming, stop).await,
        };
        // What was said last is still written, unless the other end does not read.
        let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
        if let End::Violation(reason) = &end {
            let (peer, reason) = (peer.to_string(), reason.clone());
            journal::emit(Event::ProtocolViolation { peer, address, reason });
        }
        journal::emit(Event::PeerGone { peer: peer.to_string(), reason: end.text() });
    }
}

/// Tells a peer why it is not wanted, and closes.
async fn refuse(session: Session, reason: Reason) {
    let (_incoming, outgoing, writer) = link::open(session);
    let _ = outgoing.send(Message::own(Kind::Refusal, Refusal { reason: reason.into() })).await;
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
    member: Member,
    address: String,
    outgoing: Outgoing,
    routes: HashMap<u32, mpsc::Sender<Message>>,
}

impl Routes<'_> {
    async fn run(mut self, mut incoming: Incoming, stop: CancellationToken) -> End {
        if self.member.role == Role::Agent {
            self.open(0, self.member.clone(), None);
        }
        if self.outgoing.send(Message::own(Kind::Way, Way { open: true })).await.is_err() {
            return End::Gone("the connection ended".into());
        }
        loop {
            let message = tokio::select! {
                () = stop.cancelled() => {
                    let refusal = Refusal { reason: Reason::Stopping.into() };
                    let _ = self.outgoing.try_send(Message::own(Kind::Refusal, refusal));
                    return End::Gone(Reason::Stopping.as_str().into());
                }
                () = self.ended(0), if self.member.role == Role::Agent => {
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
                    let refusal = Refusal { reason: Reason::Protocol.into() };
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
        let (peer, address) = (format!("an agent behind gateway {}", self.member.name), self.address.clone());
        journal::emit(Event::ProtocolViolation { peer, address, reason: reason.to_string() });
        let refusal = Message::own(Kind::Refusal, Refusal { reason: Reason::Protocol.into() }).on(route);
        let close = Message { kind: Kind::RouteClose, route, body: Bytes::new() };
        // A session that has ended is noticed where it is read.
        let _ = self.outgoing.send(refusal).await;
        let _ = self.outgoing.send(close).await;
    }

    /// Returns when the conversation of a route has ended by itself.
    async fn ended(&self, route: u32) {
        match self.routes.get(&route) {
            Some(inbox) => inbox.closed().await,
            None => std::future::pending().await,
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), String> {
        match message.kind {
            Kind::RouteOpen => self.route(&message).await,
            Kind::RouteClose => {
                self.routes.remove(&message.route);
                Ok(())
            }
            // A gateway's own facts; an agent's go to its conversation.
            Kind::Hop if message.route == 0 && self.member.role == Role::Gateway => self.measured(&message),
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

    /// A gateway opens a route for an agent: only for one that it was given.
    async fn route(&mut self, message: &Message) -> Result<(), String> {
        let open: RouteOpen = decode(&message.body).ok_or("a route that cannot be decoded")?;
        let agent = open.agent.parse::<Name>().map_err(|error| error.to_string())?;
        if self.routes.contains_key(&message.route) {
            return Err(format!("route {} is open already", message.route));
        }
        match self.ingest.roster.agent_via(&agent, Some(&self.member.name)).cloned() {
            Some(member) => {
                self.open(message.route, member, Some(self.member.name.clone()));
                let way = Message::own(Kind::Way, Way { open: true }).on(message.route);
                // A session that has ended is noticed where it is read.
                let _ = self.outgoing.send(way).await;
                Ok(())
            }
            None => {
                let peer = Identity { name: agent, role: Role::Agent }.to_string();
                let reason = format!("gateway {} speaks for it, but was not given it", self.member.name);
                let address = self.address.clone();
                journal::emit(Event::UnknownHealthService { peer, address, reason });
                let refusal = Refusal { reason: Reason::NotKnown.into() };
                let refusal = Message::own(Kind::Refusal, refusal).on(message.route);
                let _ = self.outgoing.send(refusal).await;
                Ok(())
            }
        }
    }

    fn open(&mut self, route: u32, member: Member, via: Option<Name>) {
        let (inbox, messages) = mpsc::channel(WAITING);
        let conversation = Conversation::new(via);
        self.ingest.registry.begin(&member.name, &conversation);
        let talk = Talk::new(
            Arc::clone(self.ingest),
            member,
            route,
            self.outgoing.clone(),
            self.address.clone(),
            conversation,
        );
        tokio::spawn(talk.run(messages));
        self.routes.insert(route, inbox);
    }

    fn measured(&self, message: &Message) -> Result<(), String> {
        let signed: Signed = decode(&message.body).ok_or("facts of a hop that cannot be decoded")?;
        self.ingest.measured(&self.member, &signed).map_err(str::to_owned)
    }
}

impl Ingest {
    /// Facts of a hop, as one of its ends signed them.
    fn measured(&self, member: &Member, signed: &Signed) -> Result<(), &'static str> {
        let payload = member.identity.open(Context::Hop, self.channel.group(), signed);
        let payload = payload.map_err(|_| "facts of a hop with a signature that does not fit")?;
        let hop: Hop = decode(payload).ok_or("facts of a hop that cannot be decoded")?;
        if hop.reporter != member.name.as_str() {
            return Err("facts of a hop in another's name");
        }
        self.registry.measured(&hop);
        Ok(())
    }
}
