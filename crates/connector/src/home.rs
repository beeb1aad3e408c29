//! What a host that has joined keeps of its group, in the group's folder under its state folder.
//!
//! ```text
//!   identity.key  channel.key  channel.pem  root.pem  membership.toml  head  recovery.pem
//! ```
//!
//! Who comes by Kerberos alone has no `channel.key` and no `channel.pem`.
//!
//! A pair of channel key and certificate is changed by one rename: the new key is written beside the old one, under a
//! name with its id; then `channel.pem` is replaced, and from that moment on the new pair is the one that is loaded;
//! then the key takes the plain name. Whatever is interrupted, one pair is whole. A server changes its issuing CA the same
//! way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use wardline_proto::event::Event;
use wardline_proto::{GroupId, Name};
use wardline_secrets::authority::certificates_pem;
use wardline_secrets::certificate::Identity;
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::{KeyId, SigningKey, VerifyingKey};
use wardline_secrets::tls;
use wardline_secrets::trust::{Pin, Root};

use crate::config::{self, Keys, Mechanism, Membership, Parent, StateFolder};
use crate::credential::{Credential, credential};
use crate::head;
use crate::held::Held;
use crate::join::Admitted;
use crate::kerberos::Kerberos;
use crate::own_pki::OwnPair;
use crate::renewal::Renewal;

/// The file that says which group a folder is of.
const MEMBERSHIP: &str = "membership.toml";
/// The name of the pair of channel key and certificate.
pub const CHANNEL: &str = "channel";

/// What a file in a group's folder is protected as, by its name; nothing when it is no private file. A key that has the id
/// of its pair in its name is what it is when it has its plain name.
pub fn protected_as(name: &str) -> Option<String> {
    const KEYS: [&str; 5] = [CHANNEL, "identity", "duty", "issuing", "root"];
    if ["head", "claimed"].contains(&name) {
        return Some(name.to_owned());
    }
    let stem = name.strip_suffix(".key")?;
    let pair = stem.split_once('-').map_or(stem, |(pair, _)| pair);
    KEYS.contains(&pair).then(|| format!("{pair}.key"))
}

/// Puts the private files that an earlier version has left in the clear under protection, in the folder of each group and
/// of each join that is under way. Each is replaced by one rename. What cannot be read is left to whoever needs it. What
/// interrupted writes have left there is removed: the state folder is locked, so nobody else is writing.
pub(crate) fn take_over(vault: &Vault, state: &Path) -> io::Result<()> {
    for folder in fs::read_dir(state)? {
        let folder = folder?;
        let joins = folder.file_name().as_encoded_bytes().starts_with(b".join-");
        let folder = folder.path();
        // Others lay their own files down, and need them as they are.
        if !joins && !folder.join("root.pem").is_file() {
            continue;
        }
        if !folder.is_dir() {
            continue;
        }
        private::sweep(&folder)?;
        for file in fs::read_dir(&folder)? {
            let file = file?;
            if let Some(description) = file.file_name().to_str().and_then(protected_as) {
                let _ = vault.read(&file.path(), &description);
            }
        }
    }
    Ok(())
}

/// The folders of the groups that a host has joined, in the order of their names.
///
/// # Errors
/// The state folder cannot be read.
fn folders(state: &Path) -> Result<Vec<PathBuf>, Event> {
    let refuse =
        |error: io::Error| Event::ConfigurationRefused { file: state.display().to_string(), reason: error.to_string() };
    let mut found = Vec::new();
    for folder in fs::read_dir(state).map_err(refuse)? {
        let folder = folder.map_err(refuse)?;
        // What begins with a dot is not finished.
        if !folder.file_name().as_encoded_bytes().starts_with(b".") && folder.path().join(MEMBERSHIP).is_file() {
            found.push(folder.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The groups that a host has joined, each with its folder.
///
/// # Errors
/// A file cannot be read or has an error.
pub fn memberships(state: &Path) -> Result<Vec<(PathBuf, Membership)>, Event> {
    let read = |folder: PathBuf| config::read(&folder.join(MEMBERSHIP)).map(|membership| (folder, membership));
    folders(state)?.into_iter().map(read).collect()
}

/// A group that a program is to be part of. It has a folder; nothing else is known to be right.
#[derive(Debug)]
pub struct Found {
    /// The group's folder.
    pub folder: PathBuf,
    /// The group and the parents, or what is wrong there.
    pub membership: Result<Membership, Event>,
    /// Whether the host has joined: then its certificate is renewed by joining.
    joined: bool,
}

impl Found {
    /// One that the host has joined; `before` are those that were found already.
    fn joined(folder: PathBuf, before: &[Self]) -> Self {
        let file = folder.join(MEMBERSHIP);
        let refuse = |reason: String| Event::ConfigurationRefused { file: file.display().to_string(), reason };
        let membership = config::read(&file).and_then(|membership: Membership| {
            let same = |found: &&Self| found.membership.as_ref().is_ok_and(|other| other.id == membership.id);
            if folder.file_name().is_none_or(|name| name != membership.name.as_str()) {
                Err(refuse(format!("{} holds the group {}; rename the folder", folder.display(), membership.name)))
            } else if let Some(other) = before.iter().find(same) {
                Err(refuse(format!("{} holds the same group; move one of the two away", other.folder.display())))
            } else {
                Ok(membership)
            }
        });
        Self { folder, membership, joined: true }
    }

    /// The name of the folder, which is that of the group.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// The groups of a program: those of its configuration, or else those that the host has joined.
///
/// # Errors
/// The state folder cannot be read.
pub fn groups(configured: Vec<Membership>, state: &Path) -> Result<Vec<Found>, Event> {
    let written = |membership: Membership| {
        let folder = state.join(membership.name.as_str());
        Found { folder, membership: Ok(membership), joined: false }
    };
    let mut found: Vec<_> = configured.into_iter().map(written).collect();
    if found.is_empty() {
        for folder in folders(state)? {
            found.push(Found::joined(folder, &found));
        }
    }
    Ok(found)
}

/// The groups of a program that is to run, one at least.
///
/// # Errors
/// There is none.
pub fn find(
    program: &str,
    configuration: &Path,
    configured: Vec<Membership>,
    state: &StateFolder,
) -> Result<Vec<Found>, Event> {
    let found = groups(configured, state.path())?;
    if found.is_empty() {
        let reason = format!(
            "it has no [[group]], and this host is part of none; to join one: `{program} join --parent NAME --token-file FILE`"
        );
        return Err(Event::ConfigurationRefused { file: configuration.display().to_string(), reason });
    }
    Ok(found)
}

/// A host as a member of its group.
#[derive(Debug)]
pub struct Member {
    /// The group and the parents.
    pub membership: Membership,
    /// The group's folder.
    pub folder: PathBuf,
    /// The channel certificate; none of who comes by Kerberos alone.
    pub credential: Credential,
    /// Signs what this health service says.
    pub identity: Arc<SigningKey>,
    /// What everything trusted leads to.
    pub root: Root,
    /// What protects the private files.
    pub vault: Vault,
    /// Renews the channel certificate, where the group does that.
    pub renewal: Option<Renewal>,
}

/// Finds the group of a program that is part of one only, and loads what it keeps of it.
///
/// # Errors
/// There is no group, or more than one, or a file of it is missing or wrong.
pub fn open(
    program: &str,
    configuration: &Path,
    configured: Option<Membership>,
    state: &StateFolder,
    own: &Identity,
    kerberos: Option<Arc<Kerberos>>,
) -> Result<Member, Event> {
    let found = find(program, configuration, configured.into_iter().collect(), state)?;
    match <[Found; 1]>::try_from(found) {
        Ok([found]) => load(found, own, state.vault(), kerberos),
        Err(_) => Err(Event::ConfigurationRefused {
            file: configuration.display().to_string(),
            reason: format!("it has no [[group]], and {} holds more than one", state.path().display()),
        }),
    }
}

/// Loads what a program keeps of a group. Of a host that has joined, the channel certificate may have ended: that is
/// said, and it is renewed. Where every parent is to be reached by Kerberos there may be none at all.
///
/// # Errors
/// A file is missing or wrong.
pub fn load(
    Found { folder, membership, joined }: Found,
    own: &Identity,
    vault: &Vault,
    kerberos: Option<Arc<Kerberos>>,
) -> Result<Member, Event> {
    let vault = vault.clone();
    let membership = membership?;
    let group = membership.group();
    let wants = |mechanism| membership.parents.iter().any(|parent| membership.mechanism_to(parent) == mechanism);
    if kerberos.is_none() && wants(Mechanism::Kerberos) {
        let reason = format!("group {}: a parent is to be reached by Kerberos; say how in [kerberos]", group.name);
        return Err(Event::KerberosUnusable { reason });
    }
    let held = Held::open(&folder)
        .map_err(|error| Event::StateFolderInUse { path: folder.display().to_string(), reason: error.to_string() })?;
    if let Some(kerberos) = kerberos.clone().filter(|_| is_bare(&folder, &membership)) {
        let Keys { identity, root, .. } = Keys::load_bare(&vault, &folder, &group)?;
        let (credential, identity) = (Credential::by_kerberos(own.clone(), kerberos).holding(held), Arc::new(identity));
        return Ok(Member { membership, folder, credential, identity, root, vault, renewal: None });
    }
    if !joined && membership.own_pki.is_none() {
        let Keys { channel, identity, root } = Keys::load(&vault, &folder, &group, &own.name, own.role)?;
        let (credential, identity) =
            (Credential::from(channel).with_kerberos(kerberos).holding(held), Arc::new(identity));
        return Ok(Member { membership, folder, credential, identity, root, vault, renewal: None });
    }
    settle(&folder, CHANNEL)
        .map_err(|error| Event::StateFolderInUse { path: folder.display().to_string(), reason: error.to_string() })?;
    let Keys { channel, identity, root } = Keys::load_renewable(&vault, &folder, &group, &own.name, own.role)?;
    let ((publisher, credential), identity) = (credential(own.clone(), channel), Arc::new(identity));
    let credential = credential.with_kerberos(kerberos).holding(held);
    let renewal = Renewal {
        own: own.clone(),
        membership: membership.clone(),
        folder: folder.clone(),
        identity: Arc::clone(&identity),
        root: root.clone(),
        vault: vault.clone(),
        publisher,
    };
    Ok(Member { membership, folder, credential, identity, root, vault, renewal: Some(renewal) })
}

/// Whether a host has no channel certificate at all of a group, as who comes by Kerberos alone. One that cannot be looked at
/// is one.
pub(crate) fn is_bare(folder: &Path, membership: &Membership) -> bool {
    let kerberos = membership.parents.iter().any(|it| membership.mechanism_to(it) != Mechanism::Certificate);
    let none = folder.join("channel.pem").try_exists().is_ok_and(|exists| !exists);
    kerberos && membership.own_pki.is_none() && none
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    id: String,
    pin: String,
    mechanism: Mechanism,
    parents: &'a [Parent],
    #[serde(skip_serializing_if = "Option::is_none")]
    own_pki: Option<&'a OwnPair>,
}

/// How a host that was let in is to report.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// By which mechanism.
    pub mechanism: Mechanism,
    /// To whom, in order.
    pub parents: &'a [Parent],
    /// Where its certificate of the company's own PKI lies, if it has one.
    pub own_pki: Option<&'a OwnPair>,
}

/// Writes what a host was given when it was let in, beside the keys that are in the folder already. The file that says
/// which group it is comes last. The key is that of its channel certificate, if it has one.
///
/// # Errors
/// It cannot be written.
pub fn keep(
    vault: &Vault,
    folder: &Path,
    admitted: &Admitted,
    pin: Pin,
    Way { mechanism, parents, own_pki }: Way<'_>,
    key: Option<KeyId>,
) -> io::Result<()> {
    let membership = Written {
        name: admitted.group_name.as_str(),
        id: uuid::Uuid::from_bytes(admitted.group.0).to_string(),
        pin: pin.to_string(),
        mechanism,
        parents,
        own_pki,
    };
    let membership = toml::to_string(&membership).map_err(io::Error::other)?;
    let root = certificates_pem(&[admitted.root.certificate()]).map_err(io::Error::other)?;
    private::write(&folder.join("root.pem"), root.as_bytes())?;
    head::begin(vault, folder, &admitted.head)?;
    recovery(folder, &admitted.recovery)?;
    if let Some(key) = key {
        certificate(folder, CHANNEL, &admitted.chain, key)?;
    }
    private::write(&folder.join(MEMBERSHIP), membership.as_bytes())
}

/// Keeps the public half of the recovery key, where there is one and it is not there already.
///
/// # Errors
/// It cannot be written.
pub fn recovery(folder: &Path, spki: &[u8]) -> io::Result<()> {
    if spki.is_empty() {
        return Ok(());
    }
    let pem = public_pem(&VerifyingKey::from_spki(spki).map_err(io::Error::other)?);
    let path = folder.join("recovery.pem");
    let same = private::read_public(&path).is_ok_and(|kept| kept == pem.as_bytes());
    if same { Ok(()) } else { private::write(&path, pem.as_bytes()) }
}

/// Replaces a pair's certificate; its key must be there already, under the plain name or that of its id.
fn certificate(folder: &Path, name: &str, chain: &[CertificateDer<'_>], key: KeyId) -> io::Result<()> {
    let pem = certificates_pem(&chain.iter().collect::<Vec<_>>()).map_err(io::Error::other)?;
    private::write(&folder.join(format!("{name}.pem")), pem.as_bytes())?;
    let by_id = folder.join(tls::key_file(name, key));
    if by_id.exists() { fs::rename(by_id, folder.join(format!("{name}.key"))) } else { Ok(()) }
}

/// Replaces a pair of key and certificate, [`CHANNEL`] or another.
///
/// # Errors
/// It cannot be written. The old pair is usable then.
pub fn replace(
    vault: &Vault,
    folder: &Path,
    name: &str,
    key: KeyId,
    pem: &[u8],
    chain: &[CertificateDer<'_>],
) -> io::Result<()> {
    write_key(vault, folder, name, key, pem)?;
    certificate(folder, name, chain, key)
}

/// Writes the key of a new pair, PKCS#8 in PEM, under the name with its id.
///
/// # Errors
/// It cannot be written.
pub fn write_key(vault: &Vault, folder: &Path, name: &str, key: KeyId, pem: &[u8]) -> io::Result<()> {
    vault.write(&folder.join(tls::key_file(name, key)), &format!("{name}.key"), pem)
}

/// Finishes what was interrupted when the pair of this name was replaced.
///
/// # Errors
/// Files cannot be renamed or removed.
pub fn settle(folder: &Path, pair: &str) -> io::Result<()> {
    let Ok(pem) = private::read_public(&folder.join(format!("{pair}.pem"))) else { return Ok(()) };
    let is_key = |name: &&str| name.strip_prefix(pair).is_some_and(|id| id.starts_with('-') && id.ends_with(".key"));
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).take(1).collect();
    let current = tls::facts(&chain).map(|(key, ..)| tls::key_file(pair, key));
    for file in fs::read_dir(folder)? {
        let (path, name) = file.map(|file| (file.path(), file.file_name()))?;
        let Some(name) = name.to_str().filter(is_key) else { continue };
        if current.as_deref() == Some(name) {
            fs::rename(path, folder.join(format!("{pair}.key")))?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The folder of keys of a join that is under way: a join that is begun anew finds its keys there.
pub fn pending(state: &Path, group: GroupId) -> PathBuf {
    state.join(format!(".join-{}", uuid::Uuid::from_bytes(group.0)))
}

/// The same while only the group's name is known.
pub fn pending_named(state: &Path, group: &Name) -> PathBuf {
    state.join(format!(".join-{group}"))
}

/// A public key in PEM.
fn public_pem(key: &VerifyingKey) -> String {
    let base64 = key.to_base64();
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;
    use wardline_secrets::tls::Channel;

    use super::*;
    use crate::testing::{Group, Scratch, name, vault};

    #[test]
    fn each_folder_is_a_group_and_a_broken_one_troubles_no_other() {
        let scratch = Scratch::new();
        let state = StateFolder::open(&scratch.0).unwrap();
        let find = || {
            let found = find("wardline-agent", Path::new("agent.toml"), Vec::new(), &state)?;
            let why = |found: &Found| match &found.membership {
                Ok(membership) => membership.name.to_string(),
                Err(event) => event.text(),
            };
            Ok::<_, Event>(found.iter().map(|found| (found.name(), why(found))).collect::<Vec<_>>())
        };
        assert_eq!(find().unwrap_err().number(), 40001);
        let join = |folder: &str, name: &str, id: u8| {
            let (id, pin) = (uuid::Uuid::from_bytes([id; 16]), Pin::from([id; 32]));
            let text = format!("name = \"{name}\"\nid = \"{id}\"\npin = \"{pin}\"\nparents = [\"gw1.test\"]\n");
            private::create_folder(&scratch.0.join(folder)).unwrap();
            private::write(&scratch.0.join(folder).join(MEMBERSHIP), text.as_bytes()).unwrap();
        };
        join("south", "south", 2);
        assert_eq!(find().unwrap(), [("south".into(), "south".into())]);
        join("north", "north", 1);
        join(".join-1", "west", 3);
        join("copy", "south", 4);
        join("twin", "twin", 1);
        join("bad", "Bad", 5);
        private::create_folder(&scratch.0.join("empty")).unwrap();
        let found = find().unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bad", "copy", "north", "south", "twin"]);
        for (at, says) in [(0, "line 1, column 8"), (1, "rename the folder"), (4, "north holds the same group")] {
            assert!(found[at].1.contains(says), "{found:?}");
        }
        assert_eq!([&found[2].1, &found[3].1], ["north", "south"]);
    }

    #[test]
    fn what_lies_in_the_clear_comes_under_protection_when_the_state_folder_is_opened() {
        let scratch = Scratch::new();
        let names = ["identity.key", "channel.key", "channel-0123.key", "root.key", "head", "claimed"];
        let others = ["root.pem", "channel.pem", "membership.toml", "web1.key", "root.key.old"];
        for folder in ["north", ".join-1", "pki"] {
            private::create_folder(&scratch.0.join(folder)).unwrap();
            for name in names.into_iter().chain(others).filter(|name| folder != "pki" || *name != "root.pem") {
                private::write(&scratch.0.join(folder).join(name), name.as_bytes()).unwrap();
            }
        }
        let half = scratch.0.join("north").join(format!(".identity.key.{}", "0f".repeat(16)));
        private::write(&half, b"half of a key").unwrap();
        // Twice: what is protected stays as it is.
        for _ in 0..2 {
            let state = StateFolder::open(&scratch.0).unwrap();
            for (folder, name) in ["north", ".join-1"].into_iter().flat_map(|folder| names.map(|name| (folder, name))) {
                let path = scratch.0.join(folder).join(name);
                assert!(wardline_secrets::protect::is_protected(&fs::read(&path).unwrap()), "{folder}/{name}");
                let description = protected_as(name).unwrap();
                assert_eq!(state.vault().read(&path, &description).unwrap().as_slice(), name.as_bytes());
            }
            assert!(!half.exists(), "half of a key is left");
            // What somebody has laid down beside the groups, or is no secret, is left alone.
            let plain = names.map(|name| ("pki", name)).into_iter().chain(others.map(|name| ("north", name)));
            for (folder, name) in plain {
                assert_eq!(fs::read(scratch.0.join(folder).join(name)).unwrap(), name.as_bytes(), "{folder}/{name}");
            }
        }
        assert_eq!(protected_as("channel-0123.key"), protected_as("channel.key"));
    }

    #[test]
    fn a_pair_that_is_replaced_is_whole_whatever_is_interrupted() {
        let (group, scratch) = (Group::new(), Scratch::new());
        let folder = &scratch.0;
        let keys = Scratch::new();
        let vault = vault(&keys.0);
        let load = || Channel::load(&vault, folder, group.trusted(), &name("web1.test"), Role::Agent).unwrap().key;
        let files = || {
            let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<_> = files.collect();
            files.sort();
            files
        };
        let old = group.write(folder, "web1.test", Role::Agent, group.hour()).id();
        let (key, pem) = SigningKey::generate(group.id).unwrap();
        let chain = group.issue(&name("web1.test"), Role::Agent, &key.public().unwrap(), group.hour());
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        // Only the key was written.
        private::write(&folder.join(tls::key_file(CHANNEL, key.id())), pem.as_bytes()).unwrap();
        assert_eq!(load(), old);
        settle(folder, CHANNEL).unwrap();
        assert_eq!((load(), files()), (old, vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
        // Key and certificate were written, and the key has not its plain name yet.
        private::write(&folder.join(tls::key_file(CHANNEL, key.id())), pem.as_bytes()).unwrap();
        let text = certificates_pem(&chain.iter().collect::<Vec<_>>()).unwrap();
        private::write(&folder.join("channel.pem"), text.as_bytes()).unwrap();
        assert_eq!(load(), key.id());
        settle(folder, CHANNEL).unwrap();
        assert_eq!((load(), files()), (key.id(), vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
        // Nothing was interrupted.
        group.write(folder, "web1.test", Role::Agent, group.hour());
        replace(&vault, folder, CHANNEL, key.id(), pem.as_bytes(), &chain).unwrap();
        assert_eq!((load(), files()), (key.id(), vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
    }
}
