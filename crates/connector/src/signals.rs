//! When a daemon stops.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// How long stopping may take.
pub const STOPPING: Duration = Duration::from_secs(5);

/// Returns at SIGTERM or SIGINT.
pub async fn wait() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
