//! This end's channel certificate, which may change while the program runs.

use std::sync::Arc;

use tokio::sync::watch;
use wardline_secrets::signature::KeyId;
use wardline_secrets::tls::Channel;

/// Looks up the channel certificate that is to be used now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential {
    channel: watch::Receiver<Option<Arc<Channel>>>,
    refused: Arc<watch::Sender<Option<KeyId>>>,
}

/// Where a new one is made known.
#[derive(Debug)]
pub struct Publisher {
    channel: watch::Sender<Option<Arc<Channel>>>,
    refused: watch::Receiver<Option<KeyId>>,
}

/// A certificate that can be replaced; none yet when it has ended.
pub fn credential(channel: Option<Channel>) -> (Publisher, Credential) {
    let (sender, receiver) = watch::channel(channel.map(Arc::new));
    let (tells, refused) = watch::channel(None);
    (Publisher { channel: sender, refused }, Credential { channel: receiver, refused: Arc::new(tells) })
}

impl Credential {
    /// The certificate, if there is one: from now on for who asks, not for sessions that stand.
    pub fn current(&self) -> Option<Arc<Channel>> {
        self.channel.borrow().clone()
    }

    /// The certificate with this key was refused where it should not have been: whoever renews it is told.
    pub fn refused(&self, key: KeyId) {
        self.refused.send_replace(Some(key));
    }

    /// The certificate, as soon as there is one; never when nobody will publish any.
    pub async fn ready(&self) -> Arc<Channel> {
        let mut receiver = self.channel.clone();
        let found = receiver.wait_for(Option::is_some).await.ok().and_then(|channel| channel.clone());
        match found {
            Some(channel) => channel,
            None => std::future::pending().await,
        }
    }
}

impl From<Channel> for Credential {
    /// One that does not change.
    fn from(channel: Channel) -> Self {
        credential(Some(channel)).1
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
