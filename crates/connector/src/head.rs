//! How far the trust log was that a host was shown last: kept in the group's folder as `head`, and held against what it is
//! shown next.

use std::cmp::Ordering;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_proto::message::{Signed, decode, encode};
use wardline_secrets::head::{Breach, Reach, read_head};
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::KeyId;

use crate::journal;

/// The file, and what it is protected as.
const FILE: &str = "head";

/// What stands in the file: a [`Signed`] with one more field.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    /// A head, as a server has signed it.
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
    /// Its signature.
    #[prost(bytes = "bytes", tag = "2")]
    signature: Bytes,
    /// The highest version of a configuration that has come, usable or not; 0 for none.
    #[prost(uint64, tag = "3")]
    version: u64,
    /// What came with that; nothing in a file of an earlier version.
    #[prost(message, optional, tag = "4")]
    disowned: Option<Disowned>,
}

/// The duty keys of servers that were removed, by their ids.
#[derive(Clone, PartialEq, prost::Message)]
struct Disowned {
    #[prost(bytes = "vec", repeated, tag = "1")]
    keys: Vec<Vec<u8>>,
}

/// What a host knows of its group's trust log.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    vault: Vault,
    /// How far it is, and who says so.
    pub(crate) head: Option<(Reach, Signed)>,
    /// The highest version of a configuration that has come, usable or not.
    pub(crate) version: u64,
    /// The duty keys that the configuration of this version named, because their servers were removed.
    pub(crate) disowned: Option<Vec<KeyId>>,
}

impl Known {
    /// Reads what is kept in a group's folder. What cannot be understood is not used, and said.
    pub(crate) fn load(vault: &Vault, folder: &Path) -> Self {
        let path = folder.join(FILE);
        let kept = read(vault, &path).unwrap_or_else(|reason| {
            journal::emit(Event::HeadDamaged { path: path.display().to_string(), reason });
            None
        });
        let (path, vault) = (path, vault.clone());
        let Some((reach, kept)) = kept else { return Self { path, vault, head: None, version: 0, disowned: None } };
        let Kept { payload, signature, version, disowned } = kept;
        let keys =
            |Disowned { keys }| keys.into_iter().filter_map(|key: Vec<u8>| key.try_into().ok().map(KeyId)).collect();
        Self { path, vault, head: Some((reach, Signed { payload, signature })), version, disowned: disowned.map(keys) }
    }

    /// Keeps a head that follows the one before, and what came with it: the version of a configuration, and the duty keys
    /// that it names. Where that is nothing new, nothing is written.
    ///
    /// # Errors
    /// It cannot be written. What was kept before is still true, and this one is held until the program ends.
    pub(crate) fn keep(&mut self, reach: Reach, signed: &Signed, came: Option<(u64, Vec<KeyId>)>) -> io::Result<()> {
        let same = self.head.as_ref().is_some_and(|(known, _)| known.head == reach.head);
        let (version, disowned) = match came {
            Some((version, disowned)) if version >= self.version => (version, Some(disowned)),
            _ => (self.version, self.disowned.clone()),
        };
        if same && (version, &disowned) == (self.version, &self.disowned) {
            return Ok(());
        }
        let Signed { payload, signature } = signed.clone();
        let keys = |keys: &Vec<KeyId>| Disowned { keys: keys.iter().map(|key| key.0.to_vec()).collect() };
        let kept = Kept { payload, signature, version, disowned: disowned.as_ref().map(keys) };
        (self.head, self.version, self.disowned) = (Some((reach, signed.clone())), version, disowned);
        self.vault.write(&self.path, FILE, &encode(&kept))
    }

    /// Holds what a server has shown when it renewed a certificate against what is known. It brings no proof that the log
    /// has only grown: that comes with the next configuration. `false` when it is an older or another one for certain.
    pub(crate) fn allows(&self, signed: &Signed, parent: &Name) -> bool {
        let (Some((known, _)), Some(shown)) = (&self.head, read_head(signed)) else { return true };
        let breach = match shown.version.cmp(&known.version) {
            Ordering::Less => Breach::Older,
            Ordering::Equal if shown.head != known.head => Breach::Forked,
            _ => return true,
        };
        journal::emit(breached(breach, known, &shown, parent));
        false
    }
}

/// Writes the head that a host was given when it was let in.
pub(crate) fn begin(vault: &Vault, folder: &Path, signed: &Signed) -> io::Result<()> {
    vault.write(&folder.join(FILE), FILE, &encode(signed))
}

/// That a server shows a log that does not follow the one that is known.
pub(crate) fn breached(breach: Breach, known: &Reach, shown: &Reach, parent: &Name) -> Event {
    let (parent, kept, shown) = (parent.to_string(), known.to_string(), shown.to_string());
    match breach {
        Breach::Forked => Event::LogForked { parent, kept, shown },
        Breach::Older => Event::LogOlder { parent, kept, shown },
    }
}

fn read(vault: &Vault, path: &Path) -> Result<Option<(Reach, Kept)>, String> {
    let bytes = match vault.read(path, FILE) {
        Ok(bytes) => Bytes::copy_from_slice(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let kept: Kept = decode(&bytes).ok_or("it cannot be decoded")?;
    let signed = Signed { payload: kept.payload.clone(), signature: kept.signature.clone() };
    let reach = read_head(&signed).ok_or("it is no head of a trust log")?;
    Ok(Some((reach, kept)))
}
