//! What a host keeps of its configuration, and what it takes for one.
//!
//! ```text
//!   OpsMgrConnector.Config.xml        the document
//!   OpsMgrConnector.Config.xml.sig    who signed it, for whom, and by which certificate
//! ```
//!
//! Both are changed by one rename: the new signature is written beside the old one, as `.sig.next`; then the document is
//! replaced, and from that moment on the new pair is the one that is loaded; then the signature takes the plain name.
//! Whatever is interrupted, one pair is whole. What is loaded is checked as if it had just come.
//!
//! With each comes how far the trust log is. One that does not follow what is known of it (`head.rs`) is told the operator,
//! and nothing that came with it is applied.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use wardline_proto::configuration::{Configuration, Content, Form, LIMIT};
use wardline_proto::event::Event;
use wardline_proto::message::{
    self, ConfigurationAsk, Context, Digest, Included, Issue, SealingKey, Signed, decode, encode,
};
use wardline_proto::trust::Fact;
use wardline_proto::{GroupId, Name};
use wardline_secrets::certificate::Identity;
use wardline_secrets::head::{Reach, Restored, follows, open_head, open_included};
use wardline_secrets::private;
use wardline_secrets::signature::{KeyId, VerifyingKey, sha256};
use wardline_secrets::trust::Root;
use wardline_secrets::view::key_of;

use crate::head::{Known, breached};
use crate::sealing::Sealing;
use crate::{journal, now_ms};

/// The document.
pub(crate) const DOCUMENT: &str = "OpsMgrConnector.Config.xml";
/// Who signed it.
const SIGNATURE: &str = "OpsMgrConnector.Config.xml.sig";
/// Who signed the one that is being written.
const NEXT: &str = "OpsMgrConnector.Config.xml.sig.next";

/// Whether what a configuration says can be done on this host; otherwise why not.
pub type Check = Box<dyn Fn(&Content) -> Result<(), String> + Send + Sync>;

/// What stands in a signature's file.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    /// An [`Issue`].
    #[prost(message, required, tag = "1")]
    signed: Signed,
    /// The certificate of the key that signed it, DER.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    chain: Vec<Bytes>,
    /// When it was taken, milliseconds since 1970, this host's clock: the certificate was valid then.
    #[prost(uint64, tag = "3")]
    at: u64,
}

/// What a server has said of itself, and of this host's configuration, in its newest answer to a position.
#[derive(Clone, Debug)]
pub struct Duty {
    /// Its duty key.
    pub key: VerifyingKey,
    /// The key's certificate, DER.
    pub chain: Vec<Bytes>,
    /// The cookie of the configuration that this host is to have; nothing when there is none.
    pub cookie: Option<Digest>,
    /// The highest version that a configuration could have by its trust log.
    pub version: u64,
    /// Which question it is that answers it: what was asked before is not answered any more.
    pub turn: u64,
}

/// Why a configuration is not taken. Nobody who is honest sends such a one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not what the server signed.
    Forged(String),
    /// It is for another.
    Another(String),
    /// A newer one was here.
    Older(u64),
}

/// What is known of the newest configuration.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    version: u64,
    /// Its cookie, where that is known.
    cookie: Option<Digest>,
    /// It cannot be used here.
    unusable: bool,
}

/// What a host knows of the trust log, and how often it has asked.
struct Log {
    known: Known,
    turn: u64,
}

/// A host's configuration.
pub struct Configured {
    own: Identity,
    key: KeyId,
    group: Name,
    root: Root,
    folder: PathBuf,
    check: Check,
    sealing: Arc<Sealing>,
    newest: Mutex<Newest>,
    /// Held while one is taken: what a session that has ended left under way must not come behind what follows it.
    log: Mutex<Log>,
    active: watch::Sender<Option<Arc<Configuration>>>,
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Configured {
    /// Loads what is kept in a group's folder, for the health service whose sealing keys these are. What cannot be believed
    /// is not used, and said.
    pub fn open(sealing: &Arc<Sealing>, folder: PathBuf, check: Check) -> Arc<Self> {
        let known = Known::load(sealing.vault(), &folder);
        let (active, newest, seen) = (watch::Sender::new(None), Mutex::default(), known.version);
        let disowned = known.disowned.clone();
        let log = Mutex::new(Log { known, turn: 0 });
        let (own, key, group) = (sealing.own().clone(), sealing.identity(), sealing.group_name().clone());
        let (root, sealing) = (sealing.root().clone(), Arc::clone(sealing));
        let configured = Self { own, key, group, root, folder, check, sealing, newest, log, active };
        configured.load();
        // After that: what is kept was signed by whom this host believed then.
        disowned.into_iter().for_each(|keys| configured.root.disown(keys));
        if configured.newest().version < seen {
            // A newer one has come: it could not be used, or was lost.
            *configured.newest() = Newest { version: seen, ..Newest::default() };
        }
        Arc::new(configured)
    }

    /// The configuration that is to be used, and each that takes its place.
    pub fn active(&self) -> watch::Receiver<Option<Arc<Configuration>>> {
        self.active.subscribe()
    }

    /// What is asked for, when the server says that this host is to have the configuration of this cookie; and the
    /// question's turn.
    pub async fn ask(self: &Arc<Self>, due: Option<Digest>) -> (ConfigurationAsk, u64) {
        let own = Arc::clone(self);
        // One that is being taken may take a while.
        blocking(move || own.ask_now(due)).await.unwrap_or_default()
    }

    fn ask_now(&self, due: Option<Digest>) -> (ConfigurationAsk, u64) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (active, group) = (self.used(), self.group.to_string());
        match active {
            None => journal::emit(Event::ConfigurationMissing { group }),
            Some((_, cookie)) if due.is_some_and(|due| due != cookie) => {
                journal::emit(Event::ConfigurationOutOfDate { group, cookie: cookie.to_string() });
            }
            Some(_) => {}
        }
        log.turn += 1;
        let cookie = active.map(|(_, cookie)| cookie.to_wire()).unwrap_or_default();
        let head = log.known.head.as_ref().map(|(_, signed)| signed.clone());
        (ConfigurationAsk { cookie, version: self.newest().version, head }, log.turn)
    }

    /// Version and cookie of the one that is in use.
    fn used(&self) -> Option<(u64, Digest)> {
        self.active.borrow().as_ref().map(|configuration| (configuration.version, configuration.cookie))
    }

    /// Takes what came from a server by a parent.
    ///
    /// # Errors
    /// It cannot come from an honest server by an honest parent; the event was emitted.
    pub async fn take(
        self: &Arc<Self>,
        message: message::Configuration,
        duty: Duty,
        parent: &Name,
    ) -> Result<(), Refused> {
        let (own, by) = (Arc::clone(self), parent.clone());
        // Hashing, reading and keeping it may take a while.
        let taken = blocking(move || own.take_now(message, &duty, &by)).await;
        taken.unwrap_or(Ok(())).inspect_err(|refused| {
            let parent = parent.to_string();
            journal::emit(match refused.clone() {
                Refused::Forged(reason) => Event::ConfigurationForged { parent, reason },
                Refused::Another(name) => Event::ConfigurationForAnother { parent, name },
                Refused::Older(version) => {
                    let kept = self.newest().version.to_string();
                    Event::ConfigurationOlder { parent, version: version.to_string(), kept }
                }
            });
        })
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        // Nothing panics while it is held, and nothing waits.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self) -> GroupId {
        self.root.group()
    }

    fn take_now(&self, message: message::Configuration, duty: &Duty, parent: &Name) -> Result<(), Refused> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.turn != duty.turn {
            return Ok(());
        }
        let forged = |reason: &str| Refused::Forged(reason.to_owned());
        let message::Configuration { signed, document, head, consistency, included } = message;
        let issue = signed.as_ref().map(|signed| self.issue(signed, &duty.key)).transpose()?;
        let new = issue.as_ref().map_or(Ok(false), |issue| self.is_new(issue));
        let configuration = match &issue {
            Some(issue) if new == Ok(true) => Some(self.examine(issue, &document)?),
            Some(_) => None,
            // A head is signed for everybody and says nothing of one host. What the server said of this one, freshly and by
            // its name, must agree.
            None if duty.cookie.is_none_or(|due| self.used().is_none_or(|(_, used)| used != due)) => {
                return Err(forged("it says that nothing has changed, which the server has not said"));
            }
            None => None,
        };

        let head = head.ok_or_else(|| forged("it shows no head of the trust log"))?;
        let shown = open_head(&duty.key, self.id(), &head);
        let shown = shown.ok_or_else(|| forged("a head whose signature does not fit"))?;
        if shown.version < duty.version {
            // Whoever sends what he has kept: of two faults the plainer one.
            new?;
            return Err(forged("a head of the trust log that is older than the server's answer"));
        }
        let restored = self.own_entries(&shown, &included, issue.is_some())?;
        let mut given_up = None;
        if let Some((known, _)) = &log.known.head
            && let Err(breach) = follows(known, &shown, &consistency)
        {
            let Some((restored, act)) = restored.filter(|(restored, _)| restored.covers(known)) else {
                journal::emit(breached(breach, known, &shown, parent));
                return Ok(());
            };
            let (parent, kept, number) = (parent.to_string(), known.to_string(), restored.number.to_string());
            given_up = Some(Event::LogRestored { parent, kept, act, number });
        }

        new?;
        // Whoever it names is not believed from now on, also after a restart, and whether the rest can be used or not.
        let named = |configuration: &Configuration| (configuration.version, disowned(&configuration.content));
        let came = configuration.as_ref().map(named);
        came.iter().for_each(|(_, keys)| self.root.disown(keys.clone()));
        let kept = log.known.keep(shown, &head, came);
        given_up.into_iter().for_each(journal::emit);
        if let Err(error) = kept {
            // Nothing is applied that is not known for good. It is asked for again.
            self.unkept(&self.folder.join("head"), &error);
            return Ok(());
        }
        match (configuration, signed, self.used()) {
            (Some(configuration), Some(signed), _) => self.apply(configuration, signed, &document, duty),
            (_, None, Some((_, cookie))) => {
                let (group, cookie) = (self.group.to_string(), cookie.to_string());
                journal::emit(Event::ConfigurationValid { group, cookie });
            }
            // What is here already, or cannot be used.
            _ => {}
        }
        Ok(())
    }

    fn unkept(&self, path: &Path, error: &io::Error) {
        journal::emit(Event::StateFolderInUse { path: path.display().to_string(), reason: error.to_string() });
    }

    /// Whether this is another than the newest that has come; one that came, and cannot be used, is not.
    fn is_new(&self, issue: &Issue) -> Result<bool, Refused> {
        let (newest, cookie) = (*self.newest(), Digest::from_wire(&issue.cookie).unwrap_or_default());
        let same = issue.version == newest.version && newest.cookie.is_none_or(|newest| newest == cookie);
        if issue.version <= newest.version && !same {
            return Err(Refused::Older(issue.version));
        }
        let here = newest.unusable || self.used() == Some((issue.version, cookie));
        Ok(!(same && here))
    }

    /// Whether the trust log of this reach has these entries, and what they say of this host is so. With a configuration
    /// its own key must be among them. Gives the one by which another log is given up, and whose act that was.
    fn own_entries(
        &self,
        shown: &Reach,
        included: &[Included],
        whole: bool,
    ) -> Result<Option<(Restored, String)>, Refused> {
        let forged = |reason: &str| Refused::Forged(reason.to_owned());
        let (mut known, mut restored) = (!whole, None);
        for included in included {
            let entry = open_included(&shown.head, included);
            let entry = entry.ok_or_else(|| forged("an entry that is not in the trust log"))?;
            let own = |name: &str| name == self.own.name.as_str();
            match entry.fact {
                Some(Fact::Member(member)) => {
                    let key = KeyId::of(&member.identity);
                    if !own(&member.name) || member.role != self.own.role.as_str() || key != self.key {
                        return Err(forged("the trust log has another key under this host's name, or another host"));
                    }
                    known = true;
                }
                Some(Fact::Issued(issued)) if !own(&issued.name) => {
                    return Err(forged("a certificate in the trust log that is another host's"));
                }
                Some(Fact::Sealing(sealing)) => {
                    let said = decode::<SealingKey>(&sealing.said.payload).filter(|_| own(&sealing.name));
                    let key = said.as_ref().and_then(|said| key_of(&said.certificate));
                    let (Some(said), Some(key)) = (said, key) else {
                        return Err(forged("a sealing key in the trust log that is another host's, or none"));
                    };
                    self.sealing.entered(key, said.serial);
                }
                Some(Fact::Restored(fact)) => {
                    restored = Restored::read(entry.number, &fact).map(|restored| (restored, entry.act));
                }
                _ => {}
            }
        }
        if known { Ok(restored) } else { Err(forged("it does not show that this host's key is in the trust log")) }
    }

    /// Keeps a configuration and uses it from now on, if it can be used here.
    fn apply(&self, configuration: Configuration, signed: Signed, document: &[u8], duty: &Duty) {
        let (version, cookie) = (configuration.version, Some(configuration.cookie));
        let (group, shown) = (self.group.to_string(), configuration.cookie.to_string());
        if let Err(reason) = (self.check)(&configuration.content) {
            journal::emit(Event::ConfigurationUnusable { group, reason });
            *self.newest() = Newest { version, cookie, unusable: true };
            return;
        }
        let kept = Kept { signed, chain: duty.chain.clone(), at: now_ms() };
        if let Err(error) = self.keep(document, &kept) {
            // It is asked for again.
            return self.unkept(&self.folder.join(DOCUMENT), &error);
        }
        journal::emit(Event::ConfigurationReceived { group, cookie: shown });
        *self.newest() = Newest { version, cookie, unusable: false };
        self.active.send_replace(Some(Arc::new(configuration)));
    }

    /// What a server has signed for this host.
    fn issue(&self, signed: &Signed, duty: &VerifyingKey) -> Result<Issue, Refused> {
        let forged = |reason: &str| Refused::Forged(reason.to_owned());
        let payload = duty.open(Context::Config, self.id(), signed);
        let payload = payload.map_err(|_| forged("its signature does not fit"))?;
        let issue: Issue = decode(payload).ok_or_else(|| forged("it cannot be decoded"))?;
        if issue.agent != self.own.name.as_str() {
            return Err(Refused::Another(issue.agent));
        }
        if issue.identity.as_ref() != self.key.0 {
            return Err(Refused::Another(format!("{} with another identity key", issue.agent)));
        }
        Ok(issue)
    }

    /// The document that was signed, read.
    fn examine(&self, issue: &Issue, document: &[u8]) -> Result<Configuration, Refused> {
        let forged = |reason: String| Refused::Forged(reason);
        if sha256(&[document]).0 != *issue.document {
            return Err(forged("the document is not the one that was signed".into()));
        }
        let read = Configuration::parse(document).map_err(|error| forged(error.to_string()))?;
        let content = &read.content;
        if content.name != self.own.name || content.role != self.own.role || content.group != self.group {
            return Err(Refused::Another(format!("{} {} of group {}", content.role, content.name, content.group)));
        }
        let fits = read.version == issue.version && read.cookie.0 == *issue.cookie;
        if !fits || read.cookie != sha256(&[content.to_xml(Form::Unsealed).as_bytes()]) {
            return Err(forged("cookie or version are not those of the document".into()));
        }
        Ok(read)
    }

    fn keep(&self, document: &[u8], kept: &Kept) -> io::Result<()> {
        private::write(&self.folder.join(NEXT), &encode(kept))?;
        private::write(&self.folder.join(DOCUMENT), document)?;
        rename(&self.folder, NEXT, SIGNATURE)
    }

    /// Loads what was kept, and finishes what was interrupted.
    fn load(&self) {
        let path = self.folder.join(DOCUMENT);
        let damaged = |reason: String| {
            let path = path.display().to_string();
            journal::emit(Event::ConfigurationDamaged { path, reason });
        };
        let document = match private::read_up_to(&path, LIMIT as u64) {
            Ok(document) => Some(document),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return damaged(error.to_string()),
        };
        let mut reason = None;
        for name in [NEXT, SIGNATURE] {
            let issue = match self.kept(name) {
                Ok(Some(issue)) => issue,
                Ok(None) => continue,
                Err(why) => {
                    reason = Some(why);
                    continue;
                }
            };
            let read = match &document {
                Some(document) => self.examine(&issue, document).map_err(|refused| match refused {
                    Refused::Forged(reason) => reason,
                    Refused::Another(name) => format!("it is for {name}"),
                    Refused::Older(version) => format!("it is of version {version}"),
                }),
                None => Err("it is missing".into()),
            };
            match read {
                Ok(configuration) => return self.loaded(configuration, name == NEXT),
                // Nothing older than what was here is taken, damaged or not.
                Err(why) => {
                    // Of two signatures the plain one is of what was here for longer.
                    if name == SIGNATURE {
                        let cookie = Digest::from_wire(&issue.cookie);
                        *self.newest() = Newest { version: issue.version, cookie, unusable: false };
                        reason = Some(why);
                    }
                }
            }
        }
        match (reason, document) {
            (Some(reason), _) => damaged(reason),
            (None, Some(_)) => damaged("it has no signature".into()),
            (None, None) => {}
        }
    }

    fn loaded(&self, configuration: Configuration, interrupted: bool) {
        let settled = match interrupted {
            true => rename(&self.folder, NEXT, SIGNATURE),
            false => match fs::remove_file(self.folder.join(NEXT)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        if let Err(error) = settled {
            let path = self.folder.join(NEXT).display().to_string();
            journal::emit(Event::StateFolderInUse { path, reason: error.to_string() });
        }
        let Configuration { version, cookie, .. } = configuration;
        self.root.disown(disowned(&configuration.content));
        let checked = (self.check)(&configuration.content);
        *self.newest() = Newest { version, cookie: Some(cookie), unusable: checked.is_err() };
        match checked {
            Ok(()) => {
                self.active.send_replace(Some(Arc::new(configuration)));
            }
            Err(reason) => journal::emit(Event::KeptUnusable { group: self.group.to_string(), reason }),
        }
    }

    /// What a signature's file says, with everything in it checked.
    fn kept(&self, name: &str) -> Result<Option<Issue>, String> {
        let bytes = match private::read(&self.folder.join(name)) {
            Ok(bytes) => Bytes::copy_from_slice(&bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let Kept { signed, chain, at } = decode(&bytes).ok_or_else(|| format!("{name} cannot be decoded"))?;
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at));
        let (_, key) = self.root.duty(&chain, at).map_err(|fault| format!("{name}: its duty certificate: {fault}"))?;
        match self.issue(&signed, &key) {
            Ok(issue) => Ok(Some(issue)),
            Err(Refused::Another(other)) => Err(format!("{name} is for {other}")),
            Err(_) => Err(format!("{name}: its signature does not fit")),
        }
    }
}

/// The duty keys of servers that were removed.
fn disowned(content: &Content) -> Vec<KeyId> {
    content.disowned.iter().map(|key| KeyId(*key)).collect()
}

/// Does what blocks; nothing when the program is stopping.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Some(done),
        Err(error) => match error.try_into_panic() {
            Ok(payload) => std::panic::resume_unwind(payload),
            Err(_) => None,
        },
    }
}

fn rename(folder: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(folder.join(from), folder.join(to))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
