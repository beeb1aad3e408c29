//! The second way to prove who one is: by the keys that a Kerberos realm gives to its hosts. What blocks runs on threads of
//! its own, a bounded number of them: a KDC that hangs holds up nobody else.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wardline_gss::keytab::{self, Entry};
use wardline_gss::request::{self, Request};
use wardline_gss::{Acceptor, Context, Facts, Failed, Initiator, Library, Pending, Refused, Status, Unusable};
use wardline_proto::event::Event;
use wardline_proto::principal::{Principal, Realm};
use wardline_proto::{Name, message};

use crate::config;

/// Tokens that are looked at at once: that takes a processor, and reads the keytab.
const ACCEPTING: usize = 4;
/// How long a question to a KDC waits for the one before it, of the same parent; and how long a dial waits for the answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long a KDC that is away is not asked for better tickets than there are.
const AGAIN: Duration = Duration::from_secs(30);
/// What the application data of channel bindings begins with (RFC 9266, section 2).
const EXPORTER: &[u8] = b"tls-exporter:";
/// The label and length of what is exported from a TLS session for them (RFC 9266, section 2).
pub(crate) const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// `[kerberos]` of a configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The keys of this host.
    #[serde(default = "default_keytab")]
    pub keytab: PathBuf,
    /// The realms whose principals are taken, this host's own first. At least one.
    #[serde(deserialize_with = "realms")]
    pub realms: Vec<Realm>,
    /// Whether who dials this end may come by Kerberos.
    #[serde(default = "yes")]
    pub accept: bool,
    /// As whom this end dials, when that is not `host/NAME@REALM`: a machine account, say.
    pub principal: Option<Principal>,
    /// The configuration of the Kerberos library.
    #[serde(default = "default_krb5_conf")]
    pub krb5_conf: PathBuf,
    /// The Kerberos library, when it is not where distributions lay it down.
    pub library: Option<PathBuf>,
}

const fn yes() -> bool {
    true
}

fn default_keytab() -> PathBuf {
    "/etc/krb5.keytab".into()
}

fn default_krb5_conf() -> PathBuf {
    "/etc/krb5.conf".into()
}

fn realms<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Realm>, D::Error> {
    use serde::de::Error as _;
    let realms = Vec::deserialize(from)?;
    match realms.is_empty() {
        true => Err(D::Error::custom("at least one realm is needed, this host's own first")),
        false => Ok(realms),
    }
}

/// Replaces what Kerberos and TLS libraries would read from the environment by what the configuration says. For the top of
/// a program, before any thread.
///
/// # Errors
/// Event 40210: there are threads already.
pub fn environment(settings: Option<&Settings>) -> Result<(), Event> {
    let path = match settings {
        Some(Settings { krb5_conf, .. }) => {
            let wrong = |error| Event::KerberosUnusable { reason: format!("{}: {error}", krb5_conf.display()) };
            wardline_gss::environment::trusted(krb5_conf).map_err(wrong)?
        }
        None => default_krb5_conf(),
    };
    let failed = |error: std::io::Error| Event::KerberosUnusable { reason: error.to_string() };
    wardline_gss::environment::replace(&path).map(|_| ()).map_err(failed)
}

/// Why Kerberos does not prove anything.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The library.
    #[error("the Kerberos library: {0}")]
    Library(#[from] Unusable),
    /// The keytab does not fit.
    #[error("{}: {reason}", keytab.display())]
    Keytab {
        /// Which.
        keytab: PathBuf,
        /// Why.
        reason: String,
    },
    /// The library, or the other end, says no.
    #[error("{principal}: {refused}{}", hint(.refused))]
    Refused {
        /// The other end's principal, or this end's when it accepts.
        principal: String,
        /// What was said.
        refused: Refused,
    },
    /// A principal that is nobody here.
    #[error("{0}")]
    Principal(String),
    /// A question about the same parent is not answered yet.
    #[error("the KDC has not answered yet")]
    Busy,
    /// There is no thread for it, or it has ended badly.
    #[error("there is no thread for the Kerberos library")]
    Thread,
}

/// What to do about it, where that is known.
const fn hint(refused: &Refused) -> &'static str {
    match refused.status() {
        Status::Skew => ": set the clocks of this host, the other and the KDC",
        Status::KdcUnreachable => ": the KDC is away; sessions that stand go on",
        Status::UnknownClient => ": the KDC does not know this host's principal",
        Status::UnknownService => ": the KDC does not know that principal",
        Status::Doubled => ": several accounts at the KDC have that principal",
        Status::Disabled => ": the KDC gives this principal no tickets (disabled, locked or expired)",
        Status::WrongKey => ": the keytab's key is not the KDC's, or the ticket is forged; write the keytab anew",
        Status::NoKey => ": the keytab lacks the key that is needed; compare its versions with the KDC's",
        Status::Expired => ": the ticket has ended",
        Status::Replay => ": it was there before",
        Status::Enctype => ": give both ends AES keys",
        Status::Bindings => ": somebody may be between the two ends",
        Status::Token | Status::Other => "",
    }
}

/// What this host can prove by Kerberos. Made at the start; what it needs is looked at when it is used.
#[derive(Debug)]
pub struct Kerberos {
    settings: Settings,
    realm: Realm,
    initiator: String,
    acceptor: String,
    replays: PathBuf,
    library: Mutex<Option<Library>>,
    accepting: Arc<Semaphore>,
    finishing: Arc<Semaphore>,
    /// Those that are not at work, made when a token finds none: one alone would look at one token after the other.
    acceptors: Mutex<Vec<Acceptor>>,
    parents: Mutex<HashMap<String, Arc<Parent>>>,
}

/// What is kept for one parent: tickets, and that one question at a time is asked.
#[derive(Debug)]
struct Parent {
    one: Arc<Semaphore>,
    initiator: Mutex<Option<Arc<Initiator>>>,
    /// Whether the tickets may be what is wrong: others are taken as soon as the KDC gives some.
    doubtful: AtomicBool,
    /// When the KDC was asked for others in vain.
    vain: Mutex<Option<Instant>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kerberos {
    /// For the health service of this name; what was seen is kept in `runtime`. Nothing where no realm is listed.
    pub fn new(settings: Settings, own: &Name, runtime: &Path) -> Option<Arc<Self>> {
        let realm = settings.realms.first()?.clone();
        let acceptor = Principal::of_host(own.clone(), realm.clone()).to_string();
        let initiator = settings.principal.as_ref().map_or_else(|| acceptor.clone(), ToString::to_string);
        let replays = runtime.join("replays");
        let [accepting, finishing] = [(); 2].map(|()| Arc::new(Semaphore::new(ACCEPTING)));
        let (library, acceptors, parents) = Default::default();
        Some(Arc::new(Self {
            settings,
            realm,
            initiator,
            acceptor,
            replays,
            library,
            accepting,
            finishing,
            acceptors,
            parents,
        }))
    }

    /// Whether who dials this end may come by Kerberos.
    pub(crate) const fn accepts(&self) -> bool {
        self.settings.accept
    }

    /// This host's own realm.
    pub(crate) const fn realm(&self) -> &Realm {
        &self.realm
    }

    /// As whom this end accepts.
    pub fn acceptor(&self) -> &str {
        &self.acceptor
    }

    /// As whom this end dials.
    pub(crate) fn initiator(&self) -> &str {
        &self.initiator
    }

    /// What the configuration says.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The library, loaded when it is asked for first.
    pub(crate) fn library(&self) -> Result<Library, Failure> {
        let mut library = locked(&self.library);
        if let Some(library) = &*library {
            return Ok(library.clone());
        }
        let loaded = Library::load(self.settings.library.as_deref())?;
        Ok(library.insert(loaded).clone())
    }

    /// The principal of a parent: of its own realm when it has one, otherwise of this host's.
    pub(crate) fn of_parent(&self, parent: &config::Parent) -> String {
        let realm = parent.realm.as_ref().unwrap_or(&self.realm);
        Principal::of_host(parent.name.clone(), realm.clone()).to_string()
    }

    /// A parent did not take a ticket: it may have other keys by now.
    pub(crate) fn doubt(&self, parent: &str) {
        if let Some(parent) = locked(&self.parents).get(parent) {
            parent.doubtful.store(true, Ordering::Relaxed);
        }
    }

    /// The keys of this principal in the keytab; AES is among them.
    pub(crate) fn keys(&self, principal: &str) -> Result<Vec<Entry>, Failure> {
        keys(&self.settings.keytab, principal)
    }

    /// What a ticket for this principal is made of; nobody is shown it. Asks the KDC.
    pub(crate) async fn ticket(self: &Arc<Self>, target: &str) -> Result<Request, Failure> {
        let (_, token) = self.begin(target.to_owned(), &[]).await?;
        let refused = || Failure::Refused { principal: target.to_owned(), refused: Refused::Token };
        request::read(&token).ok_or_else(refused)
    }

    /// Gets new tickets for a parent. Asks the KDC.
    pub(crate) async fn renew(self: &Arc<Self>, target: &str) -> Result<(), Failure> {
        self.one_at_a_time(target, |own, parent, target| own.anew(parent, target, &[]).map(drop)).await
    }

    /// The first token for a parent, bound to a TLS session by what was exported from it. May ask the KDC.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        target: String,
        exporter: &[u8],
    ) -> Result<(Pending, Vec<u8>), Failure> {
        let binding = binding(exporter);
        self.one_at_a_time(&target, move |own, parent, target| own.ask(parent, target, &binding)).await
    }

    /// What may ask the KDC, after what was asked before of the same parent.
    async fn one_at_a_time<T: Send + 'static>(
        self: &Arc<Self>,
        target: &str,
        what: impl FnOnce(&Self, &Parent, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let (own, target) = (Arc::clone(self), target.to_owned());
        let parent = Arc::clone(locked(&self.parents).entry(target.clone()).or_insert_with(|| {
            let (initiator, doubtful, vain) = Default::default();
            Arc::new(Parent { one: Arc::new(Semaphore::new(1)), initiator, doubtful, vain })
        }));
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&parent.one).acquire_owned()).await;
        let permit = turn.map_err(|_| Failure::Busy)?.map_err(|_| Failure::Thread)?;
        on_a_thread(permit, move || what(&own, &parent, &target)).await
    }

    /// By the tickets that there are; by new ones where there are none, or they may be what is wrong.
    fn ask(&self, parent: &Parent, target: &str, binding: &[u8]) -> Result<(Pending, Vec<u8>), Failure> {
        let kept = locked(&parent.initiator).clone();
        let by_kept = || kept.as_ref().and_then(|kept| kept.begin(target, binding).ok());
        let in_vain = || locked(&parent.vain).is_some_and(|vain| vain.elapsed() < AGAIN);
        let doubtful = parent.doubtful.load(Ordering::Relaxed) && !in_vain();
        if !doubtful && let Some(begun) = by_kept() {
            return Ok(begun);
        }
        // What there is may be good yet. Who did not wait so long comes again, and is not to wait as long.
        self.anew(parent, target, binding).or_else(|failure| {
            let begun = if doubtful { by_kept() } else { None };
            *locked(&parent.vain) = begun.is_some().then(Instant::now);
            begun.ok_or(failure)
        })
    }

    /// By new tickets.
    fn anew(&self, parent: &Parent, target: &str, binding: &[u8]) -> Result<(Pending, Vec<u8>), Failure> {
        let refused = |refused| Failure::Refused { principal: target.to_owned(), refused };
        let initiator = self.initiate()?;
        let begun = initiator.begin(target, binding).map_err(refused)?;
        *locked(&parent.initiator) = Some(initiator);
        parent.doubtful.store(false, Ordering::Relaxed);
        Ok(begun)
    }

    /// Without any tickets so far.
    fn initiate(&self) -> Result<Arc<Initiator>, Failure> {
        let library = self.library()?;
        self.keys(&self.initiator)?;
        let made = Initiator::new(&library, &self.settings.keytab, &self.initiator);
        let refused = |failed: Failed| Failure::Refused { principal: self.initiator.clone(), refused: failed.into() };
        made.map(Arc::new).map_err(refused)
    }

    /// The context of a parent's answer.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        target: String,
        pending: Pending,
        token: Vec<u8>,
    ) -> Result<Context, Failure> {
        let permit = Arc::clone(&self.finishing).acquire_owned().await.map_err(|_| Failure::Thread)?;
        let own = Arc::clone(self);
        on_a_thread(permit, move || {
            pending.finish(&token).map_err(|refused| {
                own.doubt(&target);
                Failure::Refused { principal: target, refused }
            })
        })
        .await
    }

    /// The context of a token that came on a TLS session, and what to answer. Only of the realms that are listed.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        token: Vec<u8>,
        exporter: &[u8],
    ) -> Result<(Context, Vec<u8>), Failure> {
        let permit = Arc::clone(&self.accepting).acquire_owned().await.map_err(|_| Failure::Thread)?;
        let (own, binding) = (Arc::clone(self), binding(exporter));
        on_a_thread(permit, move || {
            let refused = |refused: Refused| Failure::Refused { principal: own.acceptor.clone(), refused };
            let kept = locked(&own.acceptors).pop();
            let acceptor = match kept {
                Some(acceptor) => acceptor,
                None => {
                    own.keys(&own.acceptor)?;
                    Acceptor::new(&own.library()?, &own.settings.keytab, &own.acceptor, &own.replays)
                        .map_err(|failed| refused(failed.into()))?
                }
            };
            let accepted = acceptor.accept(&token, &binding);
            locked(&own.acceptors).push(acceptor);
            let (context, answer) = accepted.map_err(refused)?;
            own.listed(&context.facts().initiator)?;
            Ok((context, answer))
        })
        .await
    }

    /// The principal of a host in a realm that is listed.
    fn listed(&self, initiator: &str) -> Result<Principal, Failure> {
        let principal: Principal = initiator.parse().map_err(|error| Failure::Principal(format!("{error}")))?;
        if !self.settings.realms.contains(principal.realm()) {
            return Err(Failure::Principal(format!("{principal}: its realm is not listed in `realms`")));
        }
        Ok(principal)
    }

    /// Whether a principal may be who says it has this name: `host/NAME@REALM` exactly, or an account, which is whoever the
    /// trust log says.
    pub(crate) fn may_be(&self, initiator: &str, claimed: &Name) -> Result<(), Failure> {
        let principal = self.listed(initiator)?;
        if !principal.can_be_of(claimed) {
            return Err(Failure::Principal(format!("{principal} calls itself {claimed}")));
        }
        Ok(())
    }
}

/// The keys of a principal in a keytab that nobody else may use; AES is among them.
pub(crate) fn keys(keytab: &Path, principal: &str) -> Result<Vec<Entry>, Failure> {
    let wrong = |reason: String| Failure::Keytab { keytab: keytab.to_owned(), reason };
    let mode = keytab.metadata().map_err(|error| wrong(error.to_string()))?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(wrong(format!("its mode is {:04o}, others may use it; `chmod o=` it", mode & 0o7777)));
    }
    let entries = keytab::read(keytab).map_err(|error| wrong(error.to_string()))?;
    let (of_it, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.principal == principal);
    if of_it.is_empty() {
        let mut others: Vec<_> = others.into_iter().map(|entry| entry.principal).collect();
        others.dedup();
        let others = if others.is_empty() { "no key at all".into() } else { others.join(", ") };
        return Err(wrong(format!("it has no key of {principal}; it has {others}")));
    }
    if !of_it.iter().any(|entry| entry.enctype.is_aes()) {
        let found: Vec<_> = of_it.iter().map(|entry| entry.enctype.to_string()).collect();
        return Err(wrong(format!("its keys of {principal} are of {}; only AES is taken", found.join(", "))));
    }
    Ok(of_it)
}

fn binding(exporter: &[u8]) -> Vec<u8> {
    [EXPORTER, exporter].concat()
}

/// What blocks, on a thread of its own, which gives the permit back when it has ended and not when nobody waits any more. A
/// program that stops does not wait for it.
async fn on_a_thread<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    what: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (tell, done) = oneshot::channel();
    let running = thread::Builder::new().name("kerberos".into()).spawn(move || {
        let _ = tell.send(what());
        drop(permit);
    });
    running.map_err(|_| Failure::Thread)?;
    done.await.map_err(|_| Failure::Thread)?
}

/// What is told of a context.
pub(crate) fn told(facts: &Facts) -> message::Kerberos {
    let left = facts.ends.saturating_duration_since(Instant::now());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    message::Kerberos {
        initiator: facts.initiator.clone(),
        acceptor: facts.acceptor.clone(),
        ticket: facts.ticket.to_string(),
        authenticator: facts.authenticator.to_string(),
        session: facts.session.to_string(),
        kvno: facts.kvno.unwrap_or(0),
        ends: (now + left).as_secs(),
        binding: "tls-exporter".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::testing::{Scratch, name};

    #[tokio::test]
    async fn a_question_waits_for_the_one_before_it_of_the_same_parent_and_for_no_other() {
        let scratch = Scratch::new();
        let settings: Settings = toml::from_str(r#"realms = ["NORTH.TEST"]"#).unwrap();
        let kerberos = Kerberos::new(settings, &name("agent1.test"), &scratch.0).unwrap();
        let (answer, answered) = mpsc::channel();
        let ask = |target: &'static str, what: Box<dyn FnOnce() -> bool + Send>| {
            let kerberos = Arc::clone(&kerberos);
            tokio::spawn(async move { kerberos.one_at_a_time(target, move |_, _, _| Ok(what())).await })
        };
        let first = ask("host/gw1.test@NORTH.TEST", Box::new(move || answered.recv().is_ok()));
        tokio::task::yield_now().await;
        let second = ask("host/gw1.test@NORTH.TEST", Box::new(|| true));
        assert!(ask("host/gw2.test@NORTH.TEST", Box::new(|| true)).await.unwrap().unwrap());
        tokio::time::sleep(PATIENCE / 10).await;
        assert!(!first.is_finished() && !second.is_finished());
        answer.send(()).unwrap();
        assert!(first.await.unwrap().unwrap() && second.await.unwrap().unwrap());
    }
}
