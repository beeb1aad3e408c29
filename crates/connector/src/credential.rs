//! What this end proves itself with: its channel certificate, which may change while the program runs, or Kerberos.

use std::sync::Arc;

use tokio::sync::watch;
use wardline_proto::Name;
use wardline_secrets::certificate::Identity;
use wardline_secrets::signature::KeyId;
use wardline_secrets::tls::Channel;

use crate::config::Mechanism;
use crate::handshake::{Own, Proof};
use crate::held::Held;
use crate::kerberos::Kerberos;

/// Looks up what this end is to prove itself with now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential {
    own: Identity,
    /// Nothing when this end has none at all: otherwise the certificate, while it is good.
    channel: Option<watch::Receiver<Option<Arc<Channel>>>>,
    kerberos: Option<Arc<Kerberos>>,
    held: Arc<Held>,
    refused: Arc<watch::Sender<Option<KeyId>>>,
}

/// Where a new certificate is made known.
#[derive(Debug)]
pub struct Publisher {
    channel: watch::Sender<Option<Arc<Channel>>>,
    refused: watch::Receiver<Option<KeyId>>,
}

/// A certificate that can be replaced; none yet when it has ended.
pub fn credential(own: Identity, channel: Option<Channel>) -> (Publisher, Credential) {
    let (sender, receiver) = watch::channel(channel.map(Arc::new));
    let (tells, refused) = watch::channel(None);
    let (refuses, held) = (Arc::new(tells), Arc::default());
    let credential = Credential { own, channel: Some(receiver), kerberos: None, held, refused: refuses };
    (Publisher { channel: sender, refused }, credential)
}

impl Credential {
    /// Of a health service that has no certificate.
    pub fn by_kerberos(own: Identity, kerberos: Arc<Kerberos>) -> Self {
        let (tells, _) = watch::channel(None);
        Self { own, channel: None, kerberos: Some(kerberos), held: Arc::default(), refused: Arc::new(tells) }
    }

    /// With Kerberos beside the certificate.
    #[must_use]
    pub fn with_kerberos(self, kerberos: Option<Arc<Kerberos>>) -> Self {
        Self { kerberos, ..self }
    }

    /// With what is kept of parents that have used certificates.
    #[must_use]
    pub fn holding(self, held: Held) -> Self {
        Self { held: Arc::new(held), ..self }
    }

    /// Who this end is.
    pub const fn own(&self) -> &Identity {
        &self.own
    }

    /// Whether there is a certificate, good now or not.
    pub const fn has_certificate(&self) -> bool {
        self.channel.is_some()
    }

    /// Kerberos, where this end has it.
    pub const fn kerberos(&self) -> Option<&Arc<Kerberos>> {
        self.kerberos.as_ref()
    }

    /// The certificate, if there is one: from now on for who asks, not for sessions that stand.
    pub fn current(&self) -> Option<Arc<Channel>> {
        self.channel.as_ref()?.borrow().clone()
    }

    /// The certificate with this key was refused where it should not have been: whoever renews it is told.
    pub fn refused(&self, key: KeyId) {
        self.refused.send_replace(Some(key));
    }

    /// The certificate, as soon as there is one; never when nobody will publish any.
    pub(crate) async fn good(&self) -> Option<Arc<Channel>> {
        let mut receiver = self.channel.clone()?;
        let found = receiver.wait_for(Option::is_some).await.ok().and_then(|channel| channel.clone());
        match found {
            Some(channel) => Some(channel),
            None => std::future::pending().await,
        }
    }

    /// What this end may prove itself with to a parent, by what its operator wants. Nothing while a certificate that it has
    /// is not good: it is no reason for another mechanism.
    pub fn ready(&self, parent: &Name, wanted: Mechanism) -> Option<Own> {
        let certificate = match wanted {
            Mechanism::Certificate | Mechanism::Either if self.has_certificate() => Some(self.current()?),
            _ => None,
        };
        let kerberos = match wanted {
            Mechanism::Certificate => None,
            Mechanism::Either if self.held.is(parent) => None,
            Mechanism::Either | Mechanism::Kerberos => self.kerberos.clone(),
        };
        Some(Own { identity: self.own.clone(), certificate, kerberos })
    }

    /// A session with a parent stands, as its operator wants: how it proved itself is what it is held to.
    pub(crate) fn stands(&self, parent: &Name, wanted: Mechanism, proof: &Proof) {
        match (wanted, proof) {
            (Mechanism::Either, Proof::Certificate { .. }) => self.held.hold(parent),
            (Mechanism::Kerberos, _) => self.held.release(parent),
            _ => {}
        }
    }
}

impl From<Channel> for Credential {
    /// One that does not change.
    fn from(channel: Channel) -> Self {
        credential(channel.identity.clone(), Some(channel)).1
    }
}

impl Publisher {
    /// Makes a new certificate known.
    pub fn publish(&self, channel: Channel) {
        self.channel.send_replace(Some(Arc::new(channel)));
    }

    /// The certificate that is in use.
    pub fn current(&self) -> Option<Arc<Channel>> {
        self.channel.borrow().clone()
    }

    /// Returns as soon as the certificate that is in use was refused; never when nobody can tell any more.
    pub async fn refused(&self) {
        let mut refused = self.refused.clone();
        let of_current = |key: &Option<KeyId>| key.is_some() && *key == self.current().map(|channel| channel.key);
        if refused.wait_for(of_current).await.is_err() {
            std::future::pending().await
        }
    }
}
