//! A gateway between who is below, agents and other gateways, and its parent: many sessions below, one above. It checks
//! who may send what and copies frames; it opens no body but those that open and refuse routes. It keeps nothing: agents hold what
//! they sent until the server's acknowledgement has come the whole way back, and compare positions anew whenever the way
//! was gone.
//!
//! It takes everybody whose certificate is the group's, but no server. For whom it may speak the server decides, which
//! refuses the route of everybody else.
//!
//! A server without a database is the same, directly below servers with it, and also passes on what operators ask.
//!
//! - `below`: a session below; `table`: who is there, and which route is whose
//! - `requests`: what operators ask, on its way

mod below;
mod requests;
mod table;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardline_proto::frame::{Frame, Message};
use wardline_proto::message::{Reason, Refusal, SealingConfirmed, Signed, Way, decode};
use wardline_proto::{Kind, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::{KeyId, SigningKey};

use self::requests::Requests;
pub use self::requests::Unanswered;
use self::table::Table;
use crate::config::{Membership, Parent};
use crate::credential::Credential;
use crate::handshake::Session;
use crate::join::{self, Knocking};
use crate::link::{self, AbortOnDrop, Outgoing};
use crate::listener;
use crate::parents::{End, Turns};
use crate::sealing::Sealing;
use crate::uplink::hop;

/// A gateway's relay.
#[derive(Debug)]
pub struct Relay {
    own: Identity,
    membership: Membership,
    credential: Credential,
    identity: Arc<SigningKey>,
    sealing: Arc<Sealing>,
    table: Mutex<Table>,
    requests: Requests,
}

impl Relay {
    /// A relay with nobody connected.
    pub fn new(
        own: Identity,
        membership: Membership,
        credential: Credential,
        identity: Arc<SigningKey>,
        sealing: Arc<Sealing>,
    ) -> Arc<Self> {
        let (table, requests) = (Mutex::new(Table::new(own.name.clone())), Requests::default());
        Arc::new(Self { own, membership, credential, identity, sealing, table, requests })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held, and nothing waits.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries until the program stops: keeps the session above, serves who comes to a listening socket, passes on unread
    /// who wants to join, and makes this host's sealing keys in time.
    pub async fn carry(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let parents: Arc<[Parent]> = self.membership.parents.clone().into();
        let (relay, below) = (Arc::clone(&self), stop.clone());
        let serve = move |session| Arc::clone(&relay).serve(session, below.clone());
        let pass = move |knocking: Knocking| {
            let parents = Arc::clone(&parents);
            async move { join::pass(knocking.stream, &parents).await }
        };
        let listening = listener::listen(listener, self.credential.clone(), stop.clone(), serve, pass);
        let (listening, making) = (tokio::spawn(listening), tokio::spawn(Arc::clone(&self.sealing).run(stop.clone())));
        let above = tokio::spawn(self.run(stop));
        let _ = tokio::join!(above, listening, making);
    }

    /// Keeps the session above until the program stops.
    async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut turns = Turns::new(self.credential.clone(), self.membership.clone());
        let mut moved = None;
        loop {
            let Some((session, parent)) = (match moved.take() {
                Some(better) => Some(better),
                None => turns.connect(&stop).await,
            }) else {
                break;
            };
            let until = session.until;
            let end = tokio::select! {
                // In this order: that the old session was replaced is no news beside the new one.
                biased;
                better = turns.better(&parent, until) => {
                    // The old session has ended here; routes are opened anew on the new one.
                    moved = Some(better);
                    self.lose_way();
                    continue;
                }
                () = stop.cancelled() => break,
                end = self.above(session) => end,
            };
            self.lose_way();
            if !turns.ended(&parent, end, &stop).await {
                break;
            }
        }
    }

    /// The session above has ended: what is to be said there is said to nobody.
    fn lose_way(&self) {
        self.table().lose_way();
        self.requests.lose_way();
    }

    /// One session above, until it ends.
    async fn above(&self, session: Session) -> End {
        let facts = self.measured(&session, true);
        let own = session.own;
        let (mut incoming, up, writer) = link::open(session);
        let _writer = AbortOnDrop(writer);
        let (mut unsaid, mut is_open) = (self.sealing.unsaid(), false);
        loop {
            let frame = tokio::select! {
                frame = incoming.frame() => frame,
                Ok(()) = unsaid.changed() => {
                    if let Some(said) = self.sealing.said().filter(|_| is_open) {
                        tokio::spawn(say(up.clone(), vec![Message::own(Kind::SealingKey, said)]));
                    }
                    continue;
                }
            };
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return error.into(),
            };
            if frame.route != 0 && self.requests.is_of(frame.route) {
                self.requests.take(frame);
                continue;
            }
            if frame.kind == Kind::Reply {
                // To what was given up here; a gateway asks nothing.
                if self.own.role == Role::Server {
                    continue;
                }
                return End::Refused(format!("an unexpected {:?} message", frame.kind));
            }
            if frame.route != 0 {
                if self.is_meant(&frame) {
                    self.refused(own);
                    return End::Refused(Reason::Certificate.as_str().into());
                }
                self.table().down(frame);
                continue;
            }
            match frame.kind {
                Kind::Way => {
                    let open = decode::<Way>(&frame.body).is_some_and(|way| way.open);
                    is_open = open;
                    let mut messages = Vec::new();
                    if open {
                        messages.push(Message::own(Kind::Hop, facts.clone()));
                        messages.extend(self.sealing.said().map(|said| Message::own(Kind::SealingKey, said)));
                    }
                    let mut table = self.table();
                    messages.extend(if open { table.open_way(&up) } else { table.lose_way() });
                    drop(table);
                    // Said beside reading, or two ends that only write would wait for each other.
                    tokio::spawn(say(up.clone(), messages));
                }
                Kind::SealingConfirmed => {
                    let Some(signed) = decode::<Signed>(&frame.body) else {
                        return End::Refused("a message that cannot be decoded".into());
                    };
                    // Without a route, it is for this gateway or for one behind it, which knows whether to believe it.
                    let meant = decode::<SealingConfirmed>(&signed.payload).map(|said| said.name);
                    if meant.as_deref() != Some(self.own.name.as_str()) {
                        self.table().to_gateways(&Message::own(Kind::SealingConfirmed, signed));
                    } else {
                        // One that is not to be believed, by this gateway's clock perhaps, must not cost those below their
                        // way: it is as if nobody had said anything.
                        let _ = self.sealing.confirmed(&signed);
                    }
                }
                Kind::Refusal => {
                    let refusal: Option<Refusal> = decode(&frame.body);
                    let reason = refusal.map_or(Reason::Unspecified, |refusal| refusal.reason());
                    if reason == Reason::Certificate {
                        self.refused(own);
                    }
                    let said = reason.as_str().into();
                    return if reason == Reason::Stopping { End::Gone(said) } else { End::Refused(said) };
                }
                kind => return End::Refused(format!("an unexpected {kind:?} message")),
            }
        }
    }

    /// This gateway's certificate was refused, if it has proved itself with one.
    fn refused(&self, own: Option<KeyId>) {
        own.into_iter().for_each(|own| self.credential.refused(own));
    }

    /// Whether a route is refused because of this gateway's own certificate, which who is above cannot tell it directly.
    fn is_meant(&self, frame: &Frame) -> bool {
        let refusal = (frame.kind == Kind::Refusal).then(|| decode::<Refusal>(&frame.body)).flatten();
        refusal.is_some_and(|refusal| refusal.gateway == self.own.name.as_str())
    }

    /// The facts of a session, signed.
    fn measured(&self, session: &Session, dialled: bool) -> Signed {
        hop(&self.own, &self.identity, &session.peer, &session.facts, dialled)
    }
}

/// Says messages one after the other. A session that has ended is noticed where it is read.
async fn say(to: Outgoing, messages: Vec<Message>) {
    for message in messages {
        if to.send(message).await.is_err() {
            break;
        }
    }
}
