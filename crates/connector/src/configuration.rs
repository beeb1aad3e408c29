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

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use wardline_proto::configuration::{Configuration, Content, LIMIT};
use wardline_proto::event::Event;
use wardline_proto::message::{self, ConfigurationAsk, Context, Digest, Issue, Signed, decode, encode};
use wardline_proto::{GroupId, Name};
use wardline_secrets::certificate::Identity;
use wardline_secrets::private;
use wardline_secrets::signature::{VerifyingKey, sha256};
use wardline_secrets::trust::Root;
use wardline_secrets::view::open_head;

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
    cookie: Digest,
    /// Whether it is here; otherwise only its signature is.
    here: bool,
    /// The newest one that cannot be used here.
    unusable: Option<(u64, Digest)>,
}

/// A host's configuration.
pub struct Configured {
    own: Identity,
    group: Name,
    root: Root,
    folder: PathBuf,
    check: Check,
    newest: Mutex<Newest>,
    /// Held while one is taken: what a session that has ended left under way must not come behind what follows it.
    taking: Mutex<()>,
    active: watch::Sender<Option<Arc<Configuration>>>,
}

impl std::fmt::Debug for Configured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Configured").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Configured {
    /// Loads what is kept in a group's folder. What cannot be believed is not used, and said.
    pub fn open(own: Identity, group: Name, root: Root, folder: PathBuf, check: Check) -> Arc<Self> {
        let (active, newest, taking) = (watch::Sender::new(None), Mutex::default(), Mutex::default());
        let configured = Self { own, group, root, folder, check, newest, taking, active };
        configured.load();
        Arc::new(configured)
    }

    /// The configuration that is to be used, and each that takes its place.
    pub fn active(&self) -> watch::Receiver<Option<Arc<Configuration>>> {
        self.active.subscribe()
    }

    /// What is asked for, when the server says that this host is to have the configuration of this cookie.
    pub fn ask(&self, due: Option<Digest>) -> ConfigurationAsk {
        let (newest, group) = (*self.newest(), self.group.to_string());
        if !newest.here {
            journal::emit(Event::ConfigurationMissing { group });
        } else if due.is_some_and(|due| due != newest.cookie) {
            journal::emit(Event::ConfigurationOutOfDate { group, cookie: newest.cookie.to_string() });
        }
        let cookie = if newest.here { newest.cookie.to_wire() } else { Bytes::new() };
        ConfigurationAsk { cookie, version: newest.version }
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
        let own = Arc::clone(self);
        // Hashing, reading and keeping it may take a while.
        let taking = tokio::task::spawn_blocking(move || own.take_now(message, &duty));
        let taken = taking.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(payload) => std::panic::resume_unwind(payload),
            // The program is stopping.
            Err(_) => Ok(()),
        });
        taken.inspect_err(|refused| {
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

    fn take_now(&self, message: message::Configuration, duty: &Duty) -> Result<(), Refused> {
        let _turn = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(signed) = message.signed else { return self.still_valid(message.head, duty) };
        let issue = self.issue(&signed, &duty.key)?;
        let (newest, cookie) = (*self.newest(), Digest::from_wire(&issue.cookie));
        let same = issue.version == newest.version && cookie == Some(newest.cookie);
        if same && newest.here {
            return Ok(());
        }
        if issue.version <= newest.version && !same {
            return Err(Refused::Older(issue.version));
        }
        let configuration = self.examine(&issue, &message.document)?;
        let id = (configuration.version, configuration.cookie);
        if newest.unusable == Some(id) {
            return Ok(());
        }
        let (group, cookie) = (self.group.to_string(), configuration.cookie.to_string());
        if let Err(reason) = (self.check)(&configuration.content) {
            journal::emit(Event::ConfigurationUnusable { group, reason });
            self.newest().unusable = Some(id);
            return Ok(());
        }
        let kept = Kept { signed, chain: duty.chain.clone(), at: now_ms() };
        if let Err(error) = self.keep(&message.document, &kept) {
            let path = self.folder.join(DOCUMENT).display().to_string();
            journal::emit(Event::StateFolderInUse { path, reason: error.to_string() });
            // It is asked for again.
            return Ok(());
        }
        journal::emit(Event::ConfigurationReceived { group, cookie });
        *self.newest() = Newest { version: id.0, cookie: id.1, here: true, unusable: None };
        self.active.send_replace(Some(Arc::new(configuration)));
        Ok(())
    }

    /// The server was asked and has no other.
    ///
    /// A head is signed for everybody and says nothing of one host. What the server said of this one, freshly and by its
    /// name, must agree.
    fn still_valid(&self, head: Option<Signed>, duty: &Duty) -> Result<(), Refused> {
        let forged = |reason: &str| Refused::Forged(reason.to_owned());
        let head = head.ok_or_else(|| forged("it says nothing"))?;
        let head =
            open_head(&duty.key, self.id(), &head).ok_or_else(|| forged("a head whose signature does not fit"))?;
        let newest = *self.newest();
        if head.size < newest.version || !newest.here {
            return Err(forged("a head of a log that is older than the configuration"));
        }
        if duty.cookie != Some(newest.cookie) {
            return Err(forged("it says that nothing has changed, which the server has not said"));
        }
        let (group, cookie) = (self.group.to_string(), newest.cookie.to_string());
        journal::emit(Event::ConfigurationValid { group, cookie });
        Ok(())
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
        if !fits || read.cookie != sha256(&[content.to_xml().as_bytes()]) {
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
                        let cookie = Digest::from_wire(&issue.cookie).unwrap_or_default();
                        *self.newest() = Newest { version: issue.version, cookie, ..Newest::default() };
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
        *self.newest() = Newest { version, cookie, here: true, unusable: None };
        match (self.check)(&configuration.content) {
            Ok(()) => {
                self.active.send_replace(Some(Arc::new(configuration)));
            }
            Err(reason) => journal::emit(Event::ConfigurationUnusable { group: self.group.to_string(), reason }),
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

fn rename(folder: &Path, from: &str, to: &str) -> io::Result<()> {
    fs::rename(folder.join(from), folder.join(to))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
