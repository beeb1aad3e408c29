//! The server's own channel certificate is made anew while the server runs, too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wardline_connector::credential::Publisher;
use wardline_connector::{journal, now_ms};
use wardline_proto::Role;
use wardline_proto::event::Event;
use wardline_secrets::authority::IssuingAuthority;
use wardline_secrets::signature::sha256;
use wardline_secrets::tls::Channel;
use wardline_secrets::trust::not_after;

use super::{Folder, Presence, due, enter, missing};
use crate::store::Store;

/// How long is slept at most before the clock is looked at again, and the pause after a failure.
const LOOK: Duration = Duration::from_secs(3600);
/// How long is slept at least: a certificate of some seconds is not made anew all the time.
const PAUSE: Duration = Duration::from_secs(1);

/// What is needed to renew.
#[derive(Debug)]
pub struct Renewal {
    /// The group's folder.
    pub folder: PathBuf,
    /// What the trust log says of this server.
    pub presence: Presence,
    /// Issues the certificate.
    pub issuing: Arc<IssuingAuthority>,
    /// How long it is to be valid.
    pub lifetime: Duration,
    /// Where a new one is made known.
    pub publisher: Publisher,
}

impl Renewal {
    /// Renews until the program stops.
    pub async fn run(mut self, store: Store, stop: CancellationToken) {
        loop {
            let due = due(self.presence.certificate.1, self.lifetime, self.issuing.not_after());
            let wait = Duration::from_secs(due.saturating_sub(now_ms() / 1000)).clamp(PAUSE, LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if now_ms() / 1000 < due {
                continue;
            }
            if let Err(event) = self.renew(&store).await {
                journal::emit(event);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.lifetime.min(LOOK) / 10) => {}
                }
            }
        }
    }

    async fn renew(&mut self, store: &Store) -> Result<(), Event> {
        let folder = Folder { path: &self.folder, now: now_ms() / 1000 };
        folder.channel(&self.issuing, &self.presence.server, self.lifetime)?;
        let leaf = folder.certificate("channel.pem")?;
        let path = self.folder.join("channel.pem");
        let channel = Channel::load(&self.folder, self.presence.root.clone(), &self.presence.server, Role::Server);
        let channel = channel.map_err(|error| missing(&path, &error.to_string()))?;
        self.presence.certificate = (sha256(&[&leaf]), not_after(&leaf));
        enter(store, self.presence.clone()).await?;
        self.publisher.publish(channel);
        Ok(())
    }
}
