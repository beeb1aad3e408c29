//! What a server makes anew while it runs, and makes known: its issuing CA and its duty certificate, by the root's key, and
//! its own channel certificate.
//!
//! ```text
//!  due, or an operator ─► files ─► trust log ─► from here on it is used
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use wardline_connector::credential::Publisher;
use wardline_connector::{journal, now_ms};
use wardline_proto::Role;
use wardline_proto::event::Event;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::sha256;
use wardline_secrets::tls::Channel;
use wardline_secrets::trust::not_after;

use super::{Authorities, Folder, Issuer, OwnPki, Presence, due, enter, life, missing, moment, shown};
use crate::store::Store;

/// How long is slept at most before the clock is looked at again, and the pause after a failure.
const LOOK: Duration = Duration::from_secs(3600);
/// How long is slept at least: a certificate of some seconds is not made anew all the time.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is told that the root's key is wanted.
const TELL: Duration = Duration::from_secs(24 * 3600);

/// What is needed to renew.
pub struct Renewal {
    /// What protects the private files.
    pub vault: Vault,
    /// The group's folder.
    pub folder: PathBuf,
    /// What the trust log says of this server. Whoever has it locked is the one who changes something.
    pub presence: Mutex<Presence>,
    /// Where what hosts are let in with is made known.
    pub authorities: watch::Sender<Arc<Authorities>>,
    /// How long channel certificates are to be valid.
    pub lifetime: Duration,
    /// Where a new channel certificate is made known.
    pub publisher: Publisher,
    /// The trust log.
    pub store: Store,
}

/// A new issuing CA that somebody wants, due or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Whose act it is.
    pub act: String,
    /// Whether every channel certificate of an agent or gateway is worth nothing from then on.
    pub revoke: bool,
}

impl Renewal {
    /// Renews what is due until the program stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut told: Option<Instant> = None;
        loop {
            let (authorities, channel) = self.due();
            // What waits for the root's key is looked at once an hour.
            let next = if told.is_some() { channel } else { channel.min(authorities) };
            let wait = Duration::from_secs(next.saturating_sub(now_ms() / 1000)).clamp(PAUSE, LOOK);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if now_ms() / 1000 < channel.min(authorities) {
                told = None;
                continue;
            }
            match self.renew(now_ms() / 1000, None).await {
                Ok(None) => told = None,
                Ok(Some(event)) => {
                    if told.is_none_or(|at| at.elapsed() >= TELL) {
                        journal::emit(event);
                        told = Some(Instant::now());
                    }
                }
                Err(event) => {
                    journal::emit(event);
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(self.lifetime.min(LOOK) / 10) => {}
                    }
                }
            }
        }
    }

    /// Makes a new issuing CA now.
    ///
    /// # Errors
    /// One event: the root's key is not here, or the trust log does not take it. Nothing has changed then.
    pub async fn rotate(&self, rotation: Rotation) -> Result<(), Event> {
        self.renew(now_ms() / 1000, Some(rotation)).await.map(drop)
    }

    /// The company's PKI, when channel certificates come from there.
    pub fn own_pki(&self) -> Option<OwnPki> {
        match &self.authorities.borrow().issuer {
            Issuer::BuiltIn(_) => None,
            Issuer::Own(pki, _) => Some(pki.clone()),
        }
    }

    /// Whether the issuing CA or the duty certificate is due and waits for the root's key.
    pub fn wants_root(&self) -> bool {
        now_ms() / 1000 >= self.due().0
    }

    /// From when on the issuing CA or the duty certificate, and the channel certificate, are to be made anew, seconds since
    /// 1970.
    fn due(&self) -> (u64, u64) {
        let authorities = Arc::clone(&self.authorities.borrow());
        let channel = match &authorities.issuer {
            Issuer::BuiltIn(issuing) => {
                let ends = self.publisher.current().map_or(0, |channel| channel.not_after);
                due(ends, self.lifetime.as_secs() / 3, issuing.not_after())
            }
            // Somebody lays it down.
            Issuer::Own(..) => u64::MAX,
        };
        (authorities.due(&self.store.keeper().root, self.lifetime), channel)
    }

    /// Makes anew what is due or wanted, enters it into the trust log, and makes it known. An event when something is due
    /// that waits for the root's key.
    pub(super) async fn renew(&self, now: u64, rotation: Option<Rotation>) -> Result<Option<Event>, Event> {
        let mut presence = self.presence.lock().await;
        let (folder, wanted) = (Folder { vault: &self.vault, path: &self.folder, now }, rotation.is_some());
        let (mut authority, mut waits) = (None, None);
        if wanted || now >= self.due().0 {
            match folder.authority(presence.pin) {
                Ok(root) => authority = Some(root),
                Err(event) => waits = Some(self.root_key_needed(wanted, &event)),
            }
        }
        if let (true, Some(event)) = (wanted, &waits) {
            return Err(event.clone());
        }
        let (_, duty) = folder.duty(&presence.root, authority.as_ref(), &presence.server)?;
        let issuer = self.authorities.borrow().issuer.clone();
        let issuer = match issuer {
            own @ Issuer::Own(..) => own,
            Issuer::BuiltIn(_) => {
                let (issuing, rolled) = folder.issuing(&presence.root, authority.as_ref(), self.lifetime, wanted)?;
                folder.channel(&issuing, &presence.server, self.lifetime, rolled)?;
                Issuer::BuiltIn(issuing.into())
            }
        };
        drop(authority);
        let leaf = folder.certificate("channel.pem")?;
        let path = self.folder.join("channel.pem");
        let root = presence.root.clone();
        let channel = Channel::load(&self.vault, &self.folder, root, &presence.server, Role::Server);
        let channel = channel.map_err(|error| missing(&path, &error.to_string()))?;
        (presence.issuing, presence.duty) = (issuer.certificate().clone(), duty.clone());
        presence.certificate = (sha256(&[&leaf]), not_after(&leaf));
        let own = || Rotation { act: format!("server {}", presence.server), revoke: false };
        let Rotation { act, revoke } = rotation.unwrap_or_else(own);
        enter(&self.store, presence.clone(), act, revoke).await?;
        self.authorities.send_replace(Arc::new(Authorities { issuer, duty }));
        self.publisher.publish(channel);
        Ok(waits)
    }

    /// What waits for the root's key, which cannot be used for this reason.
    fn root_key_needed(&self, rotates: bool, reason: &Event) -> Event {
        let authorities = Arc::clone(&self.authorities.borrow());
        let (issuing, duty) = (not_after(authorities.issuer.certificate()), life(&authorities.duty).1);
        let (what, ends) = match duty < issuing && !rotates {
            true => ("the duty certificate", duty),
            false => ("the issuing CA", issuing),
        };
        let reason = reason.fields().pop().map(|(_, reason)| reason.to_owned()).unwrap_or_default();
        let path = shown(&self.folder.join("root.key"));
        Event::RootKeyNeeded { what: what.into(), to: moment(ends), path, reason }
    }
}
