//! Who may knock, how often and how long. Handshakes in progress are bounded; when there are too many the oldest makes
//! place, so that a flood of half-open connections does not keep out those that finish theirs in milliseconds.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_secrets::tls::Channel;

use crate::handshake::{HandshakeError, Session, accept};
use crate::journal;

/// The most handshakes in progress.
const HANDSHAKES: usize = 512;
/// At most one event about floods in this time.
const QUIET: Duration = Duration::from_secs(10);

/// Serves a listening socket until it is told to stop: every session that stands is handed to `serve`.
///
/// # Errors
/// TLS cannot be set up.
pub async fn listen<F>(
    listener: TcpListener,
    channel: Channel,
    stop: CancellationToken,
    serve: impl Fn(Session) -> F + Clone + Send + 'static,
) -> Result<(), rustls::Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let config = Arc::new(channel.listen()?);
    let channel = Arc::new(channel);
    let mut tasks: JoinSet<()> = JoinSet::new();
    let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
    let mut said: Option<Instant> = None;
    let mut busy = |reason: String| {
        if said.is_none_or(|when| when.elapsed() > QUIET) {
            said = Some(Instant::now());
            journal::emit(Event::ListenerBusy { reason });
        }
    };
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
                busy(error.to_string());
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
            busy(format!("{HANDSHAKES} handshakes are in progress; the oldest are given up"));
        }
        let (config, channel, serve) = (Arc::clone(&config), Arc::clone(&channel), serve.clone());
        // Only the handshake can be given up; a session that stands is its own task.
        let handshake = tasks.spawn(async move {
            match accept(&channel, config, tcp, address).await {
                Ok(session) => {
                    tokio::spawn(serve(session));
                }
                Err(error) => refused(address, error),
            }
        });
        waiting.push_back(handshake);
    }
    tasks.shutdown().await;
    Ok(())
}

fn refused(address: SocketAddr, error: HandshakeError) {
    let (address, reason) = (address.to_string(), error.to_string());
    journal::emit(match error {
        HandshakeError::Certificate(_) => Event::PeerCertificateInvalid { address, reason },
        _ => Event::NotAuthenticated { address, reason },
    });
}
