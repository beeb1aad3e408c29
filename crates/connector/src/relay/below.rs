//! One session below: an agent's, or that of a gateway with the routes of its agents.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_proto::frame::{Frame, Order, Part};
use wardline_proto::message::{Reason, RouteOpen, decode};
use wardline_proto::{Kind, Role};

use super::table::Below;
use super::{Relay, say};
use crate::handshake::Session;
use crate::journal;
use crate::link;
use crate::uplink::hop_ended;

/// How long what was said last may take to be sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// The parts of unfinished messages, by route below: what is to come, and the route above on which it began.
#[derive(Default)]
struct Parts(HashMap<u32, (Order, Option<u32>)>);

impl Relay {
    /// Serves one session below, until it ends. There are thousands of them: what is only needed at a session's beginning
    /// is gone before its future is made.
    pub fn serve(self: Arc<Self>, session: Session, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        if session.peer.role == Role::Server {
            let (peer, address) = (session.peer.to_string(), session.address.to_string());
            let reason = "a server reports to servers with the database only".into();
            journal::emit(Event::ProtocolViolation { peer, address, reason });
        }
        let serving = (session.peer.role != Role::Server).then(|| self.served(session, stop));
        async move {
            if let Some(serving) = serving {
                serving.await;
            }
        }
    }

    fn served(self: Arc<Self>, session: Session, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let (peer, address) = (session.peer.clone(), session.address);
        journal::emit(Event::PeerConnected { peer: peer.to_string(), address: address.to_string() });
        let facts = self.measured(&session, false);
        let proof = session.facts.proof.clone();
        let ended =
            (peer.role == Role::Gateway).then(|| hop_ended(&self.own, &self.identity, &session.peer, &session.facts));
        let (mut incoming, down, mut writer) = link::open(session);
        let below = Below::new(peer.clone(), &proof, down, facts, ended);
        let gone = Arc::clone(&below.gone);
        let (id, messages, up) = {
            let mut table = self.table();
            let (id, messages) = table.enter(below);
            (id, messages, table.up())
        };
        let mut parts = Parts::default();
        async move {
            if let Some(up) = up {
                say(up, messages).await;
            }
            let reason = loop {
                let frame = tokio::select! {
                    () = stop.cancelled() => break Reason::Stopping.as_str().to_owned(),
                    () = gone.notified() => break "the session was ended from above".to_owned(),
                    frame = incoming.frame() => frame,
                };
                let taken = match frame {
                    Ok(frame) if frame.kind == Kind::Refusal => break "it ended the session".to_owned(),
                    Ok(frame) => self.take(id, peer.role, frame, &mut parts).await,
                    Err(error) if error.is_violation() => Err(error.to_string()),
                    Err(error) => break error.to_string(),
                };
                if let Err(reason) = taken {
                    let (peer, address) = (peer.to_string(), address.to_string());
                    journal::emit(Event::ProtocolViolation { peer, address, reason: reason.clone() });
                    break reason;
                }
            };
            let (closing, up) = {
                let mut table = self.table();
                (table.leave(id), table.up())
            };
            // Why it ends is still told, unless it does not read.
            if tokio::time::timeout(FAREWELL, &mut writer).await.is_err() {
                writer.abort();
            }
            if let Some(up) = up {
                say(up, closing).await;
            }
            journal::emit(Event::PeerGone { peer: peer.to_string(), reason });
        }
    }

    /// Passes a frame on.
    async fn take(&self, id: u64, role: Role, frame: Frame, parts: &mut Parts) -> Result<(), String> {
        let said = match frame.kind {
            Kind::RouteOpen => {
                let open: RouteOpen = decode(&frame.body).ok_or("a route that cannot be decoded")?;
                let mut table = self.table();
                table.open(id, frame.route, open)?.zip(table.up())
            }
            Kind::RouteClose => {
                parts.0.remove(&frame.route);
                let mut table = self.table();
                table.close(id, frame.route).zip(table.up())
            }
            _ => {
                // What a gateway below measured itself is its own, here and above; an agent's is of its route.
                let own = frame.route == 0 && role == Role::Gateway;
                // Above they share a route with those of others: parts would mix.
                if own && frame.part != Part::Whole {
                    return Err("facts of its own in parts".into());
                }
                let way = if own { self.table().up().map(|up| (up, 0)) } else { self.table().route(id, frame.route) };
                return match parts.check(&frame, way.as_ref().map(|(_, route)| *route)) {
                    Ok(true) => {
                        if let Some((up, route)) = way {
                            let _ = up.frame(Frame { route, ..frame }).await;
                        }
                        Ok(())
                    }
                    Ok(false) => Ok(()),
                    Err(error) => Err(error),
                };
            }
        };
        if let Some((message, up)) = said {
            say(up, vec![message]).await;
        }
        Ok(())
    }
}

impl Parts {
    /// Whether a frame is to be passed on to a route above. Without a way nothing is kept: who is below was told, and
    /// sends again when there is one. The rest of a message that began without a way, or on another route, goes the same
    /// way.
    fn check(&mut self, frame: &Frame, above: Option<u32>) -> Result<bool, String> {
        let refused = |error: wardline_proto::frame::FrameError| error.to_string();
        match frame.part {
            Part::Whole => Ok(above.is_some()),
            // A gateway's route that is not open: nothing of it is passed on, so nothing of it is followed.
            Part::First(_) if above.is_none() && frame.route != 0 => {
                self.0.remove(&frame.route);
                Ok(false)
            }
            Part::First(_) => {
                let (order, begun) = self.0.entry(frame.route).or_default();
                order.check(frame).map_err(refused)?;
                *begun = above;
                Ok(above.is_some())
            }
            Part::Next => match self.0.get_mut(&frame.route) {
                Some((order, begun)) => {
                    order.check(frame).map_err(refused)?;
                    Ok(above.is_some() && *begun == above)
                }
                // The rest of what was not followed.
                None if frame.route != 0 => Ok(false),
                None => Order::default().check(frame).map_err(refused).map(|()| false),
            },
        }
    }
}
