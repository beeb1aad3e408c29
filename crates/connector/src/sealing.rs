//! A health service's own sealing keys: made, published until a server has confirmed, renewed in time, and used to open
//! what is sealed to it.
//!
//! ```text
//!  sealing/ID.key    the private key, protected       sealing/ID.pem    its self-signed certificate
//!
//!  made ──> said (7006), signed by the identity key ──> a server's signed word (40006) ──> a third of its life left:
//!  the next one is made ──> said ... ──> the older one goes, a day after the newer was confirmed
//!
//! Only `open` and `run` make and delete keys; everybody else looks.
//! ```

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_proto::message::{Context, SealingConfirmed, SealingKey as Said, Signed, decode, encode};
use wardline_proto::{GroupId, Name};
use wardline_secrets::authority::{Validity, certificates_pem};
use wardline_secrets::certificate::Identity;
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::sealing::life::{self, Standing};
use wardline_secrets::sealing::{LIFETIME, SealingCertificate, SealingKey};
use wardline_secrets::secure_data::{self, Opened, Refusal};
use wardline_secrets::signature::{KeyId, SigningKey};
use wardline_secrets::trust::Root;

use crate::{journal, now_ms};

/// The folder, in a group's folder.
pub const FOLDER: &str = "sealing";
/// What the vault calls the private keys.
const DESCRIPTION: &str = "sealing key";
/// How far a new certificate reaches back, seconds, for clocks that are behind.
const BACK: u64 = 3600;
/// Between two looks at whether a new one is due.
const LOOK: Duration = Duration::from_secs(3600);
/// How often foreign keys in the trust log are answered by this host's own, in one life of the program: two hosts with one
/// identity key must not fill the log in turn.
const CONTESTS: u32 = 3;

/// How many foreign keys are said.
const FOREIGN: usize = 16;

/// A key of this health service, and what is known of it.
struct Held {
    key: SealingKey,
    /// When a server confirmed it, seconds since 1970.
    confirmed: Option<u64>,
    /// Whether event 7006 was said.
    announced: bool,
}

#[derive(Default)]
struct State {
    keys: Vec<Held>,
    /// Of what is said; above every serial that a server has named.
    serial: u64,
    /// Keys that what is kept was sealed to.
    needed: HashSet<KeyId>,
    contests: u32,
    /// Foreign keys that were said.
    foreign: HashSet<KeyId>,
}

/// The sealing keys of a health service in one group.
pub struct Sealing {
    own: Identity,
    group: Name,
    root: Root,
    identity: Arc<SigningKey>,
    folder: PathBuf,
    vault: Vault,
    state: Mutex<State>,
    unsaid: watch::Sender<()>,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealing").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Sealing {
    /// Loads the keys in a group's folder, and makes one where there is none that is good.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        own: Identity,
        group: Name,
        root: Root,
        identity: Arc<SigningKey>,
        folder: &Path,
        vault: Vault,
    ) -> Result<Arc<Self>, Event> {
        let folder = folder.join(FOLDER);
        let unusable = |error: io::Error| Event::StateFolderInUse {
            path: folder.display().to_string(),
            reason: error.to_string(),
        };
        private::create_folder(&folder).map_err(unusable)?;
        let keys = sweep(&folder).and_then(|()| load(&folder, &own, &vault)).map_err(unusable)?;
        let keys = keys.into_iter().map(|key| Held { key, confirmed: None, announced: false }).collect();
        let state = Mutex::new(State { keys, serial: now_ms(), ..State::default() });
        let (unsaid, _) = watch::channel(());
        let sealing = Self { own, group, root, identity, folder: folder.clone(), vault, state, unsaid };
        sealing.renew(now_ms() / 1000).map_err(unusable)?;
        Ok(Arc::new(sealing))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next key when it is due at this time, and deletes what has served; times in seconds since 1970.
    fn renew(&self, now: u64) -> io::Result<()> {
        let standing = standing(&self.state().keys);
        if life::due(&standing, now) {
            let validity = Validity::lasting(now.saturating_sub(BACK), LIFETIME);
            let made = SealingKey::generate(&self.own.name, self.own.role, validity);
            let (key, pem) = made.map_err(io::Error::other)?;
            let certificate = certificates_pem(&[key.certificate().der()]).map_err(io::Error::other)?;
            // What has no certificate is not there: that comes last.
            self.vault.write(&self.path(key.id(), "key"), DESCRIPTION, pem.as_bytes())?;
            private::write(&self.path(key.id(), "pem"), certificate.as_bytes())?;
            let mut state = self.state();
            state.keys.push(Held { key, confirmed: None, announced: false });
            state.serial = now_ms().max(state.serial + 1);
            drop(state);
            self.unsaid.send_replace(());
        }
        let needed = self.state().needed.clone();
        let gone: Vec<_> = life::superseded(&standing, now, |id| needed.contains(&id)).collect();
        for id in gone {
            remove(&self.folder, id)?;
            self.state().keys.retain(|held| held.key.id() != id);
        }
        Ok(())
    }

    fn path(&self, id: KeyId, extension: &str) -> PathBuf {
        self.folder.join(format!("{id}.{extension}"))
    }

    /// Makes each next key in time, until the program stops.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            // What nobody has answered is said again: a word may have been lost, or a clock was wrong.
            self.unsaid.send_replace(());
            let own = Arc::clone(&self);
            let renewed = tokio::task::spawn_blocking(move || own.renew(now_ms() / 1000)).await;
            if let Ok(Err(error)) = renewed {
                let path = self.folder.display().to_string();
                journal::emit(Event::StateFolderInUse { path, reason: error.to_string() });
            }
        }
    }

    /// The certificate of the newest key that is good: what is sealed to here.
    pub fn certificate(&self) -> Option<SealingCertificate> {
        let state = self.state();
        newest(&state.keys, now_ms() / 1000).map(|held| held.key.certificate().clone())
    }

    /// Changes when something is to be said to the server.
    pub fn unsaid(&self) -> watch::Receiver<()> {
        self.unsaid.subscribe()
    }

    /// What is to be said to the server, signed: the newest key, as long as none has confirmed it.
    pub fn said(&self) -> Option<Signed> {
        let mut state = self.state();
        let serial = state.serial;
        let id = newest(&state.keys, now_ms() / 1000).map(|held| held.key.id())?;
        let held = state.keys.iter_mut().find(|held| held.key.id() == id && held.confirmed.is_none())?;
        if !std::mem::replace(&mut held.announced, true) {
            journal::emit(Event::SealingKeyPublished { group: self.group.to_string(), key: id.to_string() });
        }
        let said = Said {
            name: self.own.name.to_string(),
            role: self.own.role.to_string(),
            serial,
            certificate: Bytes::copy_from_slice(held.key.certificate().der()),
        };
        Some(self.identity.signed(Context::SealingCert, encode(&said)))
    }

    /// Takes a server's word which key the trust log has of this health service.
    ///
    /// # Errors
    /// No server of the group has said it, or it is about somebody else.
    pub fn confirmed(&self, signed: &Signed) -> Result<(), String> {
        let said: SealingConfirmed = decode(&signed.payload).ok_or("it cannot be decoded")?;
        let chain: Vec<_> = said.chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
        let duty = self.root.duty(&chain, UnixTime::now());
        let (_, key) = duty.map_err(|fault| format!("its duty certificate: {fault}"))?;
        key.open(Context::SealingCert, self.root.group(), signed).map_err(|error| error.to_string())?;
        if said.name != self.own.name.as_str() || *said.identity != self.identity.id().0 {
            return Err(format!("it is meant for {}", said.name));
        }
        let id = KeyId(said.key.as_ref().try_into().map_err(|_| "the id of its key has a wrong length")?);
        self.entered(id, said.serial);
        Ok(())
    }

    /// The trust log has this key under this health service's name.
    pub fn entered(&self, id: KeyId, serial: u64) {
        let mut state = self.state();
        let wanted = newest(&state.keys, now_ms() / 1000).map(|held| held.key.id());
        if let Some(held) = state.keys.iter_mut().find(|held| held.key.id() == id) {
            if held.confirmed.replace(now_ms() / 1000).is_none() {
                journal::emit(Event::SealingKeyConfirmed { group: self.group.to_string(), key: id.to_string() });
            }
        } else {
            if state.foreign.len() < FOREIGN && state.foreign.insert(id) {
                journal::emit(Event::SealingKeyForeign { group: self.group.to_string(), key: id.to_string() });
            }
            if state.contests == CONTESTS {
                return;
            }
            state.contests += 1;
        }
        // A newer word of this host's own is what counts.
        if wanted.is_some_and(|wanted| wanted != id) {
            state.serial = state.serial.max(serial.saturating_add(1));
            state.keys.iter_mut().filter(|held| Some(held.key.id()) == wanted).for_each(|held| held.confirmed = None);
            self.unsaid.send_replace(());
        }
    }

    /// Something came that is sealed to a key which is not here: the own one is said again.
    pub fn heal(&self) {
        let mut state = self.state();
        if state.contests == CONTESTS {
            return;
        }
        state.contests += 1;
        state.serial = now_ms().max(state.serial + 1);
        state.keys.iter_mut().for_each(|held| held.confirmed = None);
        self.unsaid.send_replace(());
    }

    /// Opens what was sealed to one of the keys.
    ///
    /// # Errors
    /// It was not, or was changed.
    pub fn open_secret(&self, sealed: &[u8]) -> Result<Opened, Refusal> {
        secure_data::open(self.state().keys.iter().map(|held| &held.key), sealed)
    }

    /// Whose they are.
    pub const fn own(&self) -> &Identity {
        &self.own
    }

    /// The id of the key that signs what this health service says.
    pub fn identity(&self) -> KeyId {
        self.identity.id()
    }

    /// The group's id.
    pub const fn group(&self) -> GroupId {
        self.root.group()
    }

    /// The group's name.
    pub const fn group_name(&self) -> &Name {
        &self.group
    }

    /// What everything trusted leads to.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// What protects what rests here.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Whether this is the id of one of the keys.
    pub fn has(&self, id: KeyId) -> bool {
        self.state().keys.iter().any(|held| held.key.id() == id)
    }

    /// The keys that what is kept was sealed to: none of them is deleted.
    pub fn needs(&self, keys: impl IntoIterator<Item = KeyId>) {
        self.state().needed = keys.into_iter().collect();
    }
}

fn standing(keys: &[Held]) -> Vec<Standing> {
    let standing = |held: &Held| Standing {
        id: held.key.id(),
        validity: held.key.certificate().validity(),
        confirmed: held.confirmed,
    };
    keys.iter().map(standing).collect()
}

fn newest(keys: &[Held], now: u64) -> Option<&Held> {
    let valid = keys.iter().filter(|held| held.key.certificate().valid(now).is_ok());
    valid.max_by_key(|held| held.key.certificate().validity().from)
}

/// Deletes a key: what has no certificate is not there.
fn remove(folder: &Path, id: KeyId) -> io::Result<()> {
    for extension in ["pem", "key"] {
        match fs::remove_file(folder.join(format!("{id}.{extension}"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Deletes private keys without a certificate: of one that was being made, or deleted.
fn sweep(folder: &Path) -> io::Result<()> {
    private::sweep(folder)?;
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "key") && !path.with_extension("pem").exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The ids of the certificates in a folder of sealing keys.
fn ids(folder: &Path) -> io::Result<Vec<(KeyId, Vec<u8>)>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "pem")
            && let Ok(pem) = private::read_public(&path)
            && let Ok(certificate) = CertificateDer::from_pem_slice(&pem)
            && let Some(id) = wardline_secrets::view::key_of(&certificate)
            && path.file_stem().is_some_and(|stem| *stem == *id.to_string())
        {
            found.push((id, certificate.to_vec()));
        }
    }
    Ok(found)
}

/// The keys in a folder. One that cannot be used is said, and left out.
fn load(folder: &Path, own: &Identity, vault: &Vault) -> io::Result<Vec<SealingKey>> {
    let mut keys = Vec::new();
    for (id, certificate) in ids(folder)? {
        let path = folder.join(format!("{id}.key"));
        let read = vault.read(&path, DESCRIPTION).map_err(|error| error.to_string());
        let key = read.and_then(|pem| {
            SealingKey::load(&pem, &certificate, &own.name, own.role).map_err(|fault| fault.to_string())
        });
        match key {
            Ok(key) => keys.push(key),
            Err(reason) => journal::emit(Event::SealingKeyLost { path: path.display().to_string(), reason }),
        }
    }
    Ok(keys)
}

/// The sealing certificates in a group's folder, without their keys; newest first.
///
/// # Errors
/// The folder cannot be read.
pub fn certificates(folder: &Path, own: &Identity) -> io::Result<Vec<SealingCertificate>> {
    let found = match ids(&folder.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let read = |(_, der): (KeyId, Vec<u8>)| SealingCertificate::read_at_any_time(&der, &own.name, own.role).ok();
    let mut certificates: Vec<_> = found.into_iter().filter_map(read).collect();
    certificates.sort_by_key(|certificate| std::cmp::Reverse(certificate.validity().from));
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;

    use super::*;
    use crate::testing::{Group, Scratch, name};

    fn own() -> Identity {
        Identity { name: name("web1.test"), role: Role::Agent }
    }

    /// A server's word, by this key, whose certificate is this.
    fn word(key: &SigningKey, chain: &[u8], said: &SealingConfirmed) -> Signed {
        let chain = vec![Bytes::copy_from_slice(chain)];
        key.signed(Context::SealingCert, encode(&SealingConfirmed { chain, ..said.clone() }))
    }

    #[test]
    fn a_key_is_said_until_a_server_has_confirmed_it_and_only_a_server_can() {
        let (group, scratch) = (Group::new(), Scratch::new());
        let identity = group.identity();
        let sealing = group.sealing(own(), &identity, &scratch.0);
        let said: Said = decode(&sealing.said().unwrap().payload).unwrap();
        let key = sealing.certificate().unwrap().id();
        let duty = SigningKey::generate(group.id).unwrap().0;
        let certificate = group.root.duty(&name("srv1.test"), &duty.public().unwrap(), group.hour()).unwrap();
        let good = SealingConfirmed {
            name: "web1.test".into(),
            key: key.0.to_vec().into(),
            serial: said.serial,
            identity: identity.id().0.to_vec().into(),
            chain: vec![],
        };
        let other = SealingConfirmed { name: "web2.test".into(), ..good.clone() };
        let another = SealingConfirmed { identity: vec![1; 16].into(), ..good.clone() };
        for (bad, why) in [
            (word(&identity, &certificate, &good), "another key"),
            (word(&duty, b"none", &good), "no certificate"),
            (word(&duty, &certificate, &other), "for another"),
            (word(&duty, &certificate, &another), "for who had the name before"),
        ] {
            assert!(sealing.confirmed(&bad).is_err(), "{why}");
            assert!(sealing.said().is_some(), "{why}");
        }
        sealing.confirmed(&word(&duty, &certificate, &good)).unwrap();
        assert!(sealing.said().is_none());

        // After a start it is said again, with the same key.
        drop(sealing);
        let sealing = group.sealing(own(), &identity, &scratch.0);
        assert_eq!(sealing.certificate().unwrap().id(), key);
        // The log has another, newer one: the own one is said above it, a few times at most.
        for contest in 0..=CONTESTS {
            let serial = u64::MAX / 2 + u64::from(contest);
            let foreign = SealingConfirmed { key: vec![9; 16].into(), serial, ..good.clone() };
            sealing.confirmed(&word(&duty, &certificate, &foreign)).unwrap();
            let again: Said = decode(&sealing.said().unwrap().payload).unwrap();
            assert_eq!(again.serial > serial, contest < CONTESTS, "{contest}");
        }
    }

    #[test]
    fn what_was_deleted_or_does_not_open_is_made_anew() {
        let (group, scratch) = (Group::new(), Scratch::new());
        let identity = group.identity();
        let first = group.sealing(own(), &identity, &scratch.0).certificate().unwrap().id();
        assert_eq!(group.sealing(own(), &identity, &scratch.0).certificate().unwrap().id(), first);
        let file = |id: KeyId, extension: &str| scratch.0.join(FOLDER).join(format!("{id}.{extension}"));
        let shown = || certificates(&scratch.0, &own()).unwrap().len();
        assert_eq!(shown(), 1);
        private::write(&file(first, "key"), b"WLP1 of another machine").unwrap();
        let second = group.sealing(own(), &identity, &scratch.0).certificate().unwrap().id();
        assert_ne!(second, first);
        fs::remove_dir_all(scratch.0.join(FOLDER)).unwrap();
        assert_eq!(shown(), 0);
        let third = group.sealing(own(), &identity, &scratch.0).certificate().unwrap().id();
        assert!(third != first && third != second);
        // A certificate alone, or a key alone, is nothing.
        fs::remove_file(file(third, "pem")).unwrap();
        assert_ne!(group.sealing(own(), &identity, &scratch.0).certificate().unwrap().id(), third);
    }

    #[test]
    fn the_next_key_is_made_in_time_and_the_one_before_opens_until_it_is_not_needed() {
        let (group, scratch) = (Group::new(), Scratch::new());
        let identity = group.identity();
        let sealing = group.sealing(own(), &identity, &scratch.0);
        let (now, first) = (now_ms() / 1000, sealing.certificate().unwrap().id());
        sealing.renew(now + LIFETIME / 2).unwrap();
        assert_eq!(sealing.state().keys.len(), 1);
        let later = now + LIFETIME * 3 / 4;
        sealing.renew(later).unwrap();
        assert_eq!(sealing.state().keys.len(), 2);
        let second = sealing.state().keys[1].key.id();
        sealing.state().keys[1].confirmed = Some(later);
        sealing.needs([first]);
        sealing.renew(later + 2 * life::GRACE).unwrap();
        assert!(sealing.has(first) && sealing.has(second));
        sealing.needs([]);
        sealing.renew(later + 2 * life::GRACE).unwrap();
        assert!(!sealing.has(first) && sealing.has(second));
        assert_eq!(ids(&scratch.0.join(FOLDER)).unwrap().len(), 1);
    }
}
