//! What a host that has joined keeps of its group, in the group's folder under its state folder.
//!
//! ```text
//!   identity.key  channel.key  channel.pem  root.pem  membership.toml  head  recovery.pem
//! ```
//!
//! A pair of channel key and certificate is changed by one rename: the new key is written beside the old one, under a
//! name with its id; then `channel.pem` is replaced, and from that moment on the new pair is the one that is loaded;
//! then the key takes the plain name. Whatever is interrupted, one pair is whole.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Serialize;
use wardline_proto::GroupId;
use wardline_proto::event::Event;
use wardline_secrets::authority::certificates_pem;
use wardline_secrets::certificate::Identity;
use wardline_secrets::private;
use wardline_secrets::signature::{KeyId, SigningKey, VerifyingKey};
use wardline_secrets::tls;
use wardline_secrets::trust::{Pin, Root};

use crate::config::{self, Keys, Mechanism, Membership, Parent, StateFolder};
use crate::credential::{Credential, credential};
use crate::head;
use crate::join::Admitted;
use crate::renewal::Renewal;

/// The file that says which group a folder is of.
const MEMBERSHIP: &str = "membership.toml";

/// The groups that a host has joined, each with its folder.
///
/// # Errors
/// A file cannot be read or has an error.
pub fn memberships(state: &Path) -> Result<Vec<(PathBuf, Membership)>, Event> {
    let refuse =
        |error: io::Error| Event::ConfigurationRefused { file: state.display().to_string(), reason: error.to_string() };
    let mut found = Vec::new();
    for folder in fs::read_dir(state).map_err(refuse)? {
        let folder = folder.map_err(refuse)?;
        let (path, file) = (folder.path(), folder.path().join(MEMBERSHIP));
        // What begins with a dot is not finished.
        if !folder.file_name().as_encoded_bytes().starts_with(b".") && file.is_file() {
            found.push((path, config::read(&file)?));
        }
    }
    Ok(found)
}

/// The group of a program, and whether its certificate is renewed by joining: the configuration's, or else the one that
/// the host has joined.
///
/// # Errors
/// There is none, or more than one.
fn find(
    program: &str,
    configuration: &Path,
    configured: Option<Membership>,
    state: &Path,
) -> Result<(Membership, bool), Event> {
    if let Some(membership) = configured {
        return Ok((membership, false));
    }
    let refuse = |reason: String| Event::ConfigurationRefused { file: configuration.display().to_string(), reason };
    let mut found = memberships(state)?.into_iter();
    match (found.next(), found.next()) {
        (Some((folder, membership)), None)
            if folder.file_name().is_some_and(|name| name == membership.name.as_str()) =>
        {
            Ok((membership, true))
        }
        (Some((folder, membership)), None) => {
            Err(refuse(format!("{} holds the group {}; rename the folder", folder.display(), membership.name)))
        }
        (None, _) => Err(refuse(format!(
            "it has no [[group]], and this host is part of none; to join one: `{program} join --parent NAME --token-file FILE`"
        ))),
        (Some(_), Some(_)) => Err(refuse(format!("it has no [[group]], and {} holds more than one", state.display()))),
    }
}

/// A host as a member of its group.
#[derive(Debug)]
pub struct Member {
    /// The group and the parents.
    pub membership: Membership,
    /// The group's folder.
    pub folder: PathBuf,
    /// The channel certificate.
    pub credential: Credential,
    /// Signs what this health service says.
    pub identity: Arc<SigningKey>,
    /// What everything trusted leads to.
    pub root: Root,
    /// Renews the channel certificate, where the group does that.
    pub renewal: Option<Renewal>,
}

/// Finds a program's group and loads what it keeps of it. Of a host that has joined, the channel certificate may have
/// ended: that is said, and it is renewed.
///
/// # Errors
/// There is no group, or a file of it is missing or wrong.
pub fn open(
    program: &str,
    configuration: &Path,
    configured: Option<Membership>,
    state: &StateFolder,
    own: &Identity,
) -> Result<Member, Event> {
    let (membership, renewable) = find(program, configuration, configured, state.path())?;
    let (group, folder) = (membership.group(), state.group(&membership.group()));
    if !renewable {
        let Keys { channel, identity, root } = Keys::load(&folder, &group, &own.name, own.role)?;
        let (credential, identity) = (channel.into(), Arc::new(identity));
        return Ok(Member { membership, folder, credential, identity, root, renewal: None });
    }
    settle(&folder)
        .map_err(|error| Event::StateFolderInUse { path: folder.display().to_string(), reason: error.to_string() })?;
    let Keys { channel, identity, root } = Keys::load_renewable(&folder, &group, &own.name, own.role)?;
    let ((publisher, credential), identity) = (credential(channel), Arc::new(identity));
    let renewal = Renewal {
        own: own.clone(),
        membership: membership.clone(),
        folder: folder.clone(),
        identity: Arc::clone(&identity),
        root: root.clone(),
        publisher,
    };
    Ok(Member { membership, folder, credential, identity, root, renewal: Some(renewal) })
}

#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    id: String,
    pin: String,
    mechanism: Mechanism,
    parents: &'a [Parent],
}

/// Writes what a host was given when it was let in, beside the keys that are in the folder already. The file that says
/// which group it is comes last.
///
/// # Errors
/// It cannot be written.
pub fn keep(folder: &Path, admitted: &Admitted, pin: Pin, parents: &[Parent], key: KeyId) -> io::Result<()> {
    let membership = Written {
        name: admitted.group_name.as_str(),
        id: uuid::Uuid::from_bytes(admitted.group.0).to_string(),
        pin: pin.to_string(),
        mechanism: Mechanism::Certificate,
        parents,
    };
    let membership = toml::to_string(&membership).map_err(io::Error::other)?;
    let root = certificates_pem(&[admitted.root.certificate()]).map_err(io::Error::other)?;
    private::write(&folder.join("root.pem"), root.as_bytes())?;
    head::begin(folder, &admitted.head)?;
    recovery(folder, &admitted.recovery)?;
    certificate(folder, &admitted.chain, key)?;
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

/// Replaces the channel certificate; its key must be there already, under the plain name or that of its id.
fn certificate(folder: &Path, chain: &[CertificateDer<'_>], key: KeyId) -> io::Result<()> {
    let pem = certificates_pem(&chain.iter().collect::<Vec<_>>()).map_err(io::Error::other)?;
    private::write(&folder.join("channel.pem"), pem.as_bytes())?;
    let by_id = folder.join(tls::key_file(key));
    if by_id.exists() { fs::rename(by_id, folder.join("channel.key")) } else { Ok(()) }
}

/// Replaces the pair of channel key and certificate.
///
/// # Errors
/// It cannot be written. The old pair is usable then.
pub fn replace(folder: &Path, key: KeyId, pem: &str, chain: &[CertificateDer<'_>]) -> io::Result<()> {
    private::write(&folder.join(tls::key_file(key)), pem.as_bytes())?;
    certificate(folder, chain, key)
}

/// Finishes what was interrupted when a pair was replaced.
///
/// # Errors
/// Files cannot be renamed or removed.
pub fn settle(folder: &Path) -> io::Result<()> {
    let Ok(pem) = private::read_public(&folder.join("channel.pem")) else { return Ok(()) };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).take(1).collect();
    let current = tls::facts(&chain).map(|(key, ..)| tls::key_file(key));
    for file in fs::read_dir(folder)? {
        let (path, name) = file.map(|file| (file.path(), file.file_name()))?;
        let Some(name) = name.to_str().filter(|name| name.starts_with("channel-") && name.ends_with(".key")) else {
            continue;
        };
        if current.as_deref() == Some(name) {
            fs::rename(path, folder.join("channel.key"))?;
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
    use crate::testing::{Group, Scratch, name};

    #[test]
    fn a_pair_that_is_replaced_is_whole_whatever_is_interrupted() {
        let (group, scratch) = (Group::new(), Scratch::new());
        let folder = &scratch.0;
        let load = || Channel::load(folder, group.trusted(), &name("web1.test"), Role::Agent).unwrap().key;
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
        private::write(&folder.join(tls::key_file(key.id())), pem.as_bytes()).unwrap();
        assert_eq!(load(), old);
        settle(folder).unwrap();
        assert_eq!((load(), files()), (old, vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
        // Key and certificate were written, and the key has not its plain name yet.
        private::write(&folder.join(tls::key_file(key.id())), pem.as_bytes()).unwrap();
        let text = certificates_pem(&chain.iter().collect::<Vec<_>>()).unwrap();
        private::write(&folder.join("channel.pem"), text.as_bytes()).unwrap();
        assert_eq!(load(), key.id());
        settle(folder).unwrap();
        assert_eq!((load(), files()), (key.id(), vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
        // Nothing was interrupted.
        group.write(folder, "web1.test", Role::Agent, group.hour());
        replace(folder, key.id(), &pem, &chain).unwrap();
        assert_eq!((load(), files()), (key.id(), vec!["channel.key".to_owned(), "channel.pem".to_owned()]));
    }
}
