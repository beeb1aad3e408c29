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
}

impl Known {
    /// Reads what is kept in a group's folder. What cannot be understood is not used, and said.
    pub(crate) fn load(vault: &Vault, folder: &Path) -> Self {
        let path = folder.join(FILE);
        let (head, version) = read(vault, &path).unwrap_or_else(|reason| {
            journal::emit(Event::HeadDamaged { path: path.display().to_string(), reason });
            (None, 0)
        });
        Self { path, vault: vault.clone(), head, version }
    }

    /// Keeps a head that follows the one before, and the version that came with it. Where that is nothing new, nothing is
    /// written.
    ///
    /// # Errors
    /// It cannot be written. What was kept before is still true, and this one is held until the program ends.
    pub(crate) fn keep(&mut self, reach: Reach, signed: &Signed, version: u64) -> io::Result<()> {
        let version = self.version.max(version);
        let same = self.head.as_ref().is_some_and(|(known, _)| known.head == reach.head);
        if same && version == self.version {
            return Ok(());
        }
        let Signed { payload, signature } = signed.clone();
        (self.head, self.version) = (Some((reach, signed.clone())), version);
        self.vault.write(&self.path, FILE, &encode(&Kept { payload, signature, version }))
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

fn read(vault: &Vault, path: &Path) -> Result<(Option<(Reach, Signed)>, u64), String> {
    let bytes = match vault.read(path, FILE) {
        Ok(bytes) => Bytes::copy_from_slice(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((None, 0)),
        Err(error) => return Err(error.to_string()),
    };
    let Kept { payload, signature, version } = decode(&bytes).ok_or("it cannot be decoded")?;
    let signed = Signed { payload, signature };
    let reach = read_head(&signed).ok_or("it is no head of a trust log")?;
    Ok((Some((reach, signed)), version))
}
