//! When a daemon stops.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// How long stopping may take.
pub const STOPPING: Duration = Duration::from_secs(5);

/// Returns at SIGTERM or SIGINT. From the call on, not only once it is awaited, neither ends the program by itself: call
/// it before anybody is told that the program runs. Needs a runtime.
pub fn wait() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}
