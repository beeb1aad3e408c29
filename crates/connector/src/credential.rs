//! This end's channel certificate, which may change while the program runs.

use std::sync::Arc;

use tokio::sync::watch;
use wardline_secrets::tls::Channel;

/// Looks up the channel certificate that is to be used now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Credential(watch::Receiver<Option<Arc<Channel>>>);

/// Where a new one is made known.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Option<Arc<Channel>>>);

/// A certificate that can be replaced; none yet when it has ended.
pub fn credential(channel: Option<Channel>) -> (Publisher, Credential) {
    let (sender, receiver) = watch::channel(channel.map(Arc::new));
    (Publisher(sender), Credential(receiver))
}

impl Credential {
    /// The certificate, if there is one: from now on for who asks, not for sessions that stand.
    pub fn current(&self) -> Option<Arc<Channel>> {
        self.0.borrow().clone()
    }

    /// The certificate, as soon as there is one; never when nobody will publish any.
    pub async fn ready(&self) -> Arc<Channel> {
        let mut receiver = self.0.clone();
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
        self.0.send_replace(Some(Arc::new(channel)));
    }

    /// The certificate that is in use.
    pub fn current(&self) -> Option<Arc<Channel>> {
        self.0.borrow().clone()
    }
}
