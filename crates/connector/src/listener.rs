//! Who may knock, how often and how long. Handshakes in progress are bounded; when there are too many the oldest makes
//! place, so that a flood of half-open connections does not keep out those that finish theirs in milliseconds.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_secrets::tls::{self, Channel};

use crate::credential::Credential;
use crate::handshake::{Accepted, HandshakeError, Session, Speaks, accept};
use crate::join::{self, Knocking};
use crate::journal::Strangers;

/// The most handshakes in progress. Many agents come back at once when their gateway was away, and whoever is given up
/// comes again; each may hold 64 KiB, which bounds what a flood costs.
const HANDSHAKES: usize = 1000;
fn refused(strangers: &Strangers, address: SocketAddr, error: &HandshakeError) {
    let (text, reason) = (address.to_string(), error.to_string());
    let event = match error {
        HandshakeError::Certificate(_) => Event::PeerCertificateInvalid { address: text, reason },
        HandshakeError::Kerberos(_) => Event::KerberosRefused { address: text, reason },
        HandshakeError::Rule { .. } => Event::MechanismsDiffer { peer: text, reason },
        _ => Event::NotAuthenticated { address: text, reason },
    };
    strangers.did(address, event);
}

/// Serves a listening socket until it is told to stop: every session that stands is handed to `serve`, everybody who
/// wants to join to `on_join`, which may take [`join::DEADLINE`]. The two have bounds of their own: neither keeps out the
/// other.
///
/// # Errors
/// TLS cannot be set up.
pub async fn listen<F, J>(
    listener: TcpListener,
    credential: Credential,
    stop: CancellationToken,
    serve: impl Fn(Session) -> F + Clone + Send + 'static,
    on_join: impl Fn(Knocking) -> J + Clone + Send + 'static,
) -> Result<(), rustls::Error>
where
    F: Future<Output = ()> + Send + 'static,
    J: Future<Output = ()> + Send + 'static,
{
    let (joining, places) = (Arc::new(tls::join_listen()?), Arc::new(Semaphore::new(join::SESSIONS)));
    let private = Arc::new(tls::kerberos_listen()?);
    let kerberos =
        credential.kerberos().filter(|kerberos| kerberos.accepts()).map(|kerberos| (Arc::clone(kerberos), private));
    let mut current: Option<(Arc<Channel>, Arc<ServerConfig>)> = None;
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
    let strangers = Strangers::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: give back what is half-open and go on.
                strangers.busy(error.to_string());
                waiting.drain(..).for_each(|handle| handle.abort());
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        waiting.retain(|handle| !handle.is_finished());
        if waiting.len() >= HANDSHAKES {
            if let Some(oldest) = waiting.pop_front() {
                oldest.abort();
            }
            strangers.busy(format!("{HANDSHAKES} handshakes are in progress; the oldest are given up"));
        }
        // What was made of a certificate is good until there is another.
        let channel = credential.current();
        if channel.as_ref().map(Arc::as_ptr) != current.as_ref().map(|(channel, _)| Arc::as_ptr(channel)) {
            let config = channel.as_ref().map(|channel| channel.listen().map(Arc::new)).transpose()?;
            current = channel.zip(config);
        }
        let speaks = Speaks {
            own: credential.own().clone(),
            certificate: credential.has_certificate(),
            channel: current.clone(),
            kerberos: kerberos.clone(),
            join: Arc::clone(&joining),
            places: Arc::clone(&places),
        };
        let handshake =
            tasks.spawn(begin(speaks, tcp, address, stop.clone(), strangers.clone(), serve.clone(), on_join.clone()));
        waiting.push_back(handshake);
    }
    tasks.shutdown().await;
    Ok(())
}

/// One connection, until it stands. Only the handshake can be given up; what stands is its own task.
async fn begin<F, J>(
    speaks: Speaks,
    tcp: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
    strangers: Strangers,
    serve: impl Fn(Session) -> F,
    on_join: impl Fn(Knocking) -> J,
) where
    F: Future<Output = ()> + Send + 'static,
    J: Future<Output = ()> + Send + 'static,
{
    match accept(speaks, tcp, address).await {
        Ok(Accepted::Session(session)) => {
            tokio::spawn(serve(*session));
        }
        Ok(Accepted::Join(knocking, place)) => {
            let joining = on_join(*knocking);
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = tokio::time::timeout(join::DEADLINE, joining) => {}
                }
                drop(place);
            });
        }
        Err(error @ HandshakeError::Joins) => strangers.busy(error.to_string()),
        Err(error) => refused(&strangers, address, &error),
    }
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;
    use wardline_secrets::certificate::Identity;

    use super::*;
    use crate::credential::credential;
    use crate::handshake::{PEER_TIMEOUT, Proof, dial};
    use crate::testing::{Group, listen, name, parent};

    #[tokio::test]
    async fn a_new_certificate_is_used_from_the_next_handshake_on_and_without_one_nobody_is_served() {
        let (group, stop) = (Group::new(), CancellationToken::new());
        let _stops = stop.clone().drop_guard();
        let (publisher, own) = credential(Identity { name: name("srv.test"), role: Role::Server }, None);
        let serve = |session| async move { drop(session) };
        let srv = parent("srv.test", listen(own.clone(), &stop, serve, |_| std::future::ready(())).await);
        let agent = group.channel("web1.test", Role::Agent).into();
        assert!(dial(&agent, &srv, PEER_TIMEOUT).await.is_err());
        let mut seen = Vec::new();
        for _ in 0..2 {
            publisher.publish(group.channel("srv.test", Role::Server));
            for _ in 0..2 {
                match dial(&agent, &srv, PEER_TIMEOUT).await.unwrap().facts.proof {
                    Proof::Certificate { hash, .. } => seen.push(hash),
                    proof => panic!("{proof:?}"),
                }
            }
        }
        assert!(seen[0] == seen[1] && seen[1] != seen[2] && seen[2] == seen[3]);
        assert_eq!(own.good().await.unwrap().key, publisher.current().unwrap().key);
    }
}
