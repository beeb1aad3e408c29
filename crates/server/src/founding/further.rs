//! The group's keys on their way to a further server: put together and encrypted to it where it was approved, and laid into
//! its folder where it joins. In between they are in no file and no log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use wardline_connector::config::IDENTITY;
use wardline_connector::enroll::{Given, header_for_further};
use wardline_connector::{home, now_ms};
use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_secrets::authority::certificates_pem;
use wardline_secrets::group_key::{FILE as GROUP_KEY, GroupKey};
use wardline_secrets::head::read_head;
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::sealing::SealingCertificate;
use wardline_secrets::secure_data::seal;
use wardline_secrets::signature::VerifyingKey;
use zeroize::Zeroizing;

use super::{DUTY_LIFETIME, Folder, ROOT_KEY, Settings, authority_event, found, key_event, missing, pem_of, validity};
use crate::store::{Keeper, keep_head};

/// The files that it is given, in the order in which they travel, each behind its length.
const FILES: [&str; 7] = ["group.toml", "root.pem", ROOT_KEY, "issuing.pem", "issuing.key", GROUP_KEY, DUTY];
/// The certificate of its own duty key.
const DUTY: &str = "duty.pem";

/// Certifies the duty key of a further server, and encrypts the group's keys to it: those, and the certificate in DER.
///
/// # Errors
/// One event: the root's key is not here, or another file cannot be used.
pub fn give(
    keeper: &Keeper,
    name: &Name,
    duty: &VerifyingKey,
    sealing: &SealingCertificate,
) -> Result<(Bytes, Bytes), Event> {
    let path = keeper.folder.as_path();
    let folder = Folder { vault: &keeper.vault, path, now: now_ms() / 1000 };
    let pin = wardline_secrets::view::pin_of(keeper.root.certificate());
    let root = folder.authority(pin.ok_or_else(|| key_event(path, &"its root has no key"))?)?;
    let valid = validity(folder.now, DUTY_LIFETIME, root.not_after());
    let duty = root.duty(name, duty, valid).map_err(|error| authority_event(&path.join("root.pem"), &error))?;
    let pem = pem_of(&path.join(DUTY), &[&duty])?;
    let mut parts = Vec::with_capacity(FILES.len());
    for file in FILES {
        let at = path.join(file);
        let read = match file {
            DUTY => Ok(Zeroizing::new(pem.as_bytes().to_vec())),
            file if file.ends_with(".key") => keeper.vault.read(&at, file),
            _ => private::read_public(&at).map(Zeroizing::new),
        };
        parts.push(read.map_err(|error| missing(&at, &error.to_string()))?);
    }
    let unsealed = |error: &dyn ToString| key_event(path, error);
    let all = together(&parts).ok_or_else(|| unsealed(&"its keys are too long"))?;
    let sealed = seal(sealing, &header_for_further(keeper.root.group(), name), &all);
    Ok((sealed.map_err(|error| unsealed(&error))?.into(), Bytes::copy_from_slice(&duty)))
}

/// Room for all of it at once: a growing buffer would leave copies behind.
fn together(parts: &[Zeroizing<Vec<u8>>]) -> Option<Zeroizing<Vec<u8>>> {
    let mut all = Zeroizing::new(Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum()));
    for part in parts {
        all.extend_from_slice(&u32::try_from(part.len()).ok()?.to_be_bytes());
        all.extend_from_slice(part);
    }
    Some(all)
}

/// The files, each with its name.
fn apart(mut all: &[u8]) -> Option<Vec<(&'static str, &[u8])>> {
    let mut parts = Vec::with_capacity(FILES.len());
    for file in FILES {
        let (length, rest) = all.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        parts.push((file, part));
        all = rest;
    }
    all.is_empty().then_some(parts)
}

/// Lays what a further server has and was given into its group's folder in a state folder, all or nothing: it must be what
/// a server starts with.
///
/// # Errors
/// In words: it is not, or cannot be written. Nothing is left then.
pub fn receive(
    vault: &Vault,
    state: &Path,
    name: &Name,
    settings: &Settings,
    lifetime: Duration,
    given: &Given,
) -> Result<PathBuf, String> {
    let (pending, target) = (home::pending(state, given.admitted.group), state.join(settings.name.as_str()));
    let laid = lay(vault, &pending, given).map_err(|error| error.to_string()).and_then(|()| {
        // What was believed at the join, whatever came.
        let pin = wardline_secrets::view::pin_of(given.root.certificate());
        if settings.pin.is_some() && settings.pin != pin {
            return Err("the group's root is not the one that `pin` in the configuration names".into());
        }
        let settings = Settings { pin, ..settings.clone() };
        let found = found(vault, &pending, name, &settings, lifetime, now_ms() / 1000);
        found.map_err(|event| event.text())?;
        // An empty folder makes place.
        let named = fs::rename(&pending, &target).and_then(|()| File::open(state)?.sync_all());
        named.map_err(|error| format!("{}: {error}", target.display()))
    });
    if laid.is_err() {
        let _ = fs::remove_dir_all(&pending);
    }
    laid.map(|()| target)
}

fn lay(vault: &Vault, folder: &Path, given: &Given) -> io::Result<()> {
    let odd = |what: &'static str| io::Error::other(what);
    let parts = apart(&given.keys).ok_or_else(|| odd("the keys that came are cut short"))?;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    private::create_folder(folder)?;
    for (file, part) in parts {
        match file {
            GROUP_KEY => GroupKey::from_bytes(part)?.keep(vault, folder)?,
            file if file.ends_with(".key") => vault.write(&folder.join(file), file, part)?,
            file => private::write(&folder.join(file), part)?,
        }
    }
    for (file, key) in [(IDENTITY, &given.identity), ("channel.key", &given.channel), ("duty.key", &given.duty)] {
        vault.write(&folder.join(file), file, key.as_bytes())?;
    }
    let chain = certificates_pem(&given.admitted.chain.iter().collect::<Vec<_>>()).map_err(io::Error::other)?;
    private::write(&folder.join("channel.pem"), chain.as_bytes())?;
    let head = read_head(&given.admitted.head).ok_or_else(|| odd("the head of the trust log is none"))?;
    keep_head(vault, folder, &head)
}
