//! Sealing keys that health services publish: held against their identity keys, entered into the trust log, confirmed by
//! this server's signed word. This server's own goes the same way.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wardline_connector::sealing::Sealing;
use wardline_connector::{journal, now_ms};
use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_proto::message::{Context, SealingConfirmed, Signed, encode};
use wardline_proto::trust::{self, Fact};
use wardline_secrets::view::{NotSealing, Unsound, View, read_sealing};

use crate::founding::Authorities;
use crate::store::{self, Store};

/// How many sealing keys a health service may have entered, each within a day of the one before.
const KEYS: u32 = 100;

/// How far a serial, which begins with the time in milliseconds, may be ahead of it: clocks are, and keys contest each other.
const AHEAD: u64 = 10 * 365 * 24 * 3_600_000;

/// Why a key is not entered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its health service is no member.
    #[error("it is not a member of the group")]
    Unknown,
    /// It is not to be believed.
    #[error(transparent)]
    Unbelieved(#[from] NotSealing),
    /// Its serial is one that no later key could be above for long.
    #[error("its serial is far above what the time gives")]
    Serial,
    /// It has had too many.
    #[error("it has published {KEYS} keys, each within a day of the one before")]
    TooMany,
    /// The trust log does not take it.
    #[error("the trust log does not take it: {0}")]
    Unsound(#[from] Unsound),
    /// The database has stopped.
    #[error("the server is stopping")]
    Stopped,
}

/// What health services are saying of their sealing keys just now, so that none can make this server do, or tell, more than
/// one thing of it at a time.
#[derive(Debug, Default)]
pub struct Publications {
    under_way: Mutex<HashSet<Name>>,
    /// What the operator was told last of each.
    told: Mutex<HashMap<Name, String>>,
}

impl Publications {
    /// Whether a member's key may be entered now; otherwise one of it is being entered.
    pub fn begin(&self, name: &Name) -> bool {
        locked(&self.under_way).insert(name.clone())
    }

    /// One that was begun is entered, or not.
    pub fn end(&self, name: &Name) {
        locked(&self.under_way).remove(name);
    }

    /// Tells the operator why a member's key was refused, once for each reason in turn.
    pub fn refused(&self, name: &Name, address: SocketAddr, refused: &Refused) {
        let reason = refused.to_string();
        let told = locked(&self.told).insert(name.clone(), reason.clone());
        if *refused != Refused::Stopped && told.as_ref() != Some(&reason) {
            let (agent, address) = (name.to_string(), address.to_string());
            journal::emit(Event::SealingKeyRefused { agent, address, reason });
        }
    }

    /// A member's key was taken: the next refusal is news.
    pub fn taken(&self, name: &Name) {
        locked(&self.told).remove(name);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held, and nothing waits.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Refused {
    /// Whether nobody who is honest says such a thing.
    pub const fn is_forged(&self) -> bool {
        matches!(self, Self::Unbelieved(NotSealing::Signature | NotSealing::Other(_)))
    }
}

impl From<store::Error> for Refused {
    fn from(_: store::Error) -> Self {
        Self::Stopped
    }
}

/// What follows from a health service's word about its sealing key, at a time in milliseconds since 1970: nothing when it
/// is known, or older than what is known.
///
/// # Errors
/// It is not believed, or comes too often.
fn decide(name: &Name, said: &Signed, view: &View, now: u64) -> Result<Vec<Fact>, Refused> {
    let member = view.member_named(name).ok_or(Refused::Unknown)?;
    let key = read_sealing(member, view.group(), said, now)?;
    if key.serial > now.saturating_add(AHEAD) {
        return Err(Refused::Serial);
    }
    match &member.sealing {
        Some(known) if known.certificate.id() == key.certificate.id() || known.serial >= key.serial => Ok(Vec::new()),
        Some(known) if known.row >= KEYS && now.saturating_sub(known.at) < 24 * 3_600_000 => Err(Refused::TooMany),
        _ => Ok(vec![Fact::Sealing(trust::Sealing { name: name.to_string(), said: said.clone() })]),
    }
}

/// Whether a health service's word about its sealing key is anything new, by what is known now.
///
/// # Errors
/// It is not believed, or comes too often.
pub fn is_news(store: &Store, name: &Name, said: &Signed) -> Result<bool, Refused> {
    let view = Arc::clone(&store.view().borrow());
    decide(name, said, &view, now_ms()).map(|facts| !facts.is_empty())
}

/// Enters a key. Returns after the commit.
///
/// # Errors
/// It is not believed, or comes too often.
pub async fn enter(store: &Store, act: String, name: &Name, said: Signed) -> Result<(), Refused> {
    let (by, about) = (name.clone(), said);
    store.act(act, move |view, now| decide(&by, &about, view, now)).await??;
    Ok(())
}

/// This server's signed word which sealing key the trust log has of a health service; `duty` is the certificate of its
/// key.
///
/// # Errors
/// It has none.
pub fn word(store: &Store, duty: Bytes, name: &Name) -> Result<Signed, Refused> {
    let view = Arc::clone(&store.view().borrow());
    let member = view.member_named(name).ok_or(Refused::Unknown)?;
    let known = member.sealing.as_ref().ok_or(Refused::Unknown)?;
    let confirmed = SealingConfirmed {
        name: name.to_string(),
        key: Bytes::copy_from_slice(&known.certificate.id().0),
        serial: known.serial,
        identity: Bytes::copy_from_slice(&member.key().0),
        chain: vec![duty],
    };
    Ok(store.keeper().duty.signed(Context::SealingCert, encode(&confirmed)))
}

/// Enters this server's own sealing keys, as they are made, until the program stops.
pub async fn run(
    store: Store,
    sealing: Arc<Sealing>,
    authorities: watch::Receiver<Arc<Authorities>>,
    stop: CancellationToken,
) {
    let (mut unsaid, server) = (sealing.unsaid(), store.keeper().server.clone());
    unsaid.mark_changed();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = unsaid.changed() => if changed.is_err() { return },
        }
        let Some(said) = sealing.said() else { continue };
        let duty = authorities.borrow().duty.clone();
        let entered = enter(&store, format!("server {server}"), &server, said).await;
        let word = entered.and_then(|()| word(&store, duty, &server));
        let heard = word.map_err(|refused| refused.to_string()).and_then(|word| sealing.confirmed(&word));
        if let Err(reason) = heard {
            let (agent, address) = (server.to_string(), "this server itself".into());
            journal::emit(Event::SealingKeyRefused { agent, address, reason });
        }
    }
}
