//! Data protection: what rests on this machine's disk opens only with what this machine has.
//!
//! ```text
//!   machine.key       32 random bytes; the protector as long as a machine has nothing better
//!   protect/ID        a master key, wrapped by the protector, with its dates; a new one each 90 days
//!
//!   blob = "WLP1" | master key's id (16) | salt (16) | AES-256-GCM
//!          key and nonce = HKDF-SHA256(master key, salt, "wardline/protect/1" 0 entropy), 32 and 12 bytes (RFC 5869)
//!          additional data = the 36 bytes in front, then the description
//! ```
//!
//! Each blob has a key of its own, so that nonces cannot meet however many are made. The description says what the data
//! is, and is no secret; entropy is a second secret, which whoever has it adds. A changed bit, another description,
//! other entropy, another machine: refused, and nobody is told which.
//!
//! Old master keys open old blobs for as long as their files are there. One whose dates make no sense (a clock that was
//! wrong) opens what it protected, and protects nothing more.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use nix::fcntl::{Flock, FlockArg};
use wardline_locked::Locked;
use zeroize::Zeroizing;

use crate::private;

/// The protector's file.
pub const MACHINE_KEY: &str = "machine.key";
/// The folder of master keys.
pub const FOLDER: &str = "protect";
/// How long a master key protects what is new, in seconds.
pub const LIFE: u64 = 90 * 24 * 3600;

/// What a blob begins with.
const BLOB: [u8; 4] = *b"WLP1";
/// Bytes of a blob in front of what is encrypted.
const BLOB_HEADER: usize = BLOB.len() + 16 + 16;
/// What a master key's file begins with, and the kind of its protector: a machine key file.
const MASTER: [u8; 5] = *b"WLM1\x01";
/// Bytes of a master key's file in front of what is encrypted: id, created, expires.
const MASTER_HEADER: usize = MASTER.len() + 16 + 8 + 8;
/// Bytes of an authentication tag.
const TAG: usize = 16;
/// Bytes of a key.
const KEY: usize = 32;
/// The most master keys that a folder may hold: four a year are made.
const MOST: usize = 4096;

/// Why data cannot be protected, or comes back from no protection.
#[derive(Debug, thiserror::Error)]
pub enum ProtectError {
    /// There are master keys, and not what wraps them.
    #[error("{path} is not there, and without it nothing opens that rests here")]
    MachineKeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// A file of the vault cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The master key that a blob names is not there, or cannot be opened.
    #[error("it is protected by the master key {id}, which {folder} does not hold in a form that opens here")]
    NoMasterKey {
        /// The id, in hex.
        id: String,
        /// Where master keys are.
        folder: PathBuf,
    },
    /// It is changed, or for something else, or of another machine.
    #[error("it does not open: it was changed, it is another machine's, or it was protected as something else")]
    Refused,
    /// The system has no randomness.
    #[error("the system has no randomness")]
    Randomness,
}

impl From<ProtectError> for io::Error {
    fn from(error: ProtectError) -> Self {
        Self::other(error.to_string())
    }
}

/// The data protection of one state folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: PathBuf,
    /// Nothing, where somebody only looks at a folder that has no protection yet.
    machine: Option<Locked<KEY>>,
    keys: Mutex<Keys>,
    /// Whether files may be written.
    writes: bool,
    /// When it was opened, seconds since 1970, and how long that is ago.
    opened: (u64, Instant),
}

#[derive(Debug, Default)]
struct Keys {
    all: Vec<Master>,
    /// The place of the one that protects what is new.
    current: Option<usize>,
    /// Files in the folder that do not open.
    unusable: Vec<PathBuf>,
}

#[derive(Debug)]
struct Master {
    id: [u8; 16],
    created: u64,
    expires: u64,
    key: Locked<KEY>,
}

impl Master {
    /// Whether it may protect what is new: its dates make sense, and now is between them.
    const fn serves(&self, now: u64) -> bool {
        self.created <= now && now < self.expires && self.expires - self.created == LIFE
    }
}

impl Vault {
    /// Opens the data protection of a state folder at a time (seconds since 1970). What is missing is made: the machine
    /// key, unless there are master keys that need one that is lost, and a master key that serves now.
    ///
    /// # Errors
    /// Which file cannot be used and why. Nothing was changed then that others rely on.
    pub fn open(state: &Path, now: u64) -> Result<Self, ProtectError> {
        let folder = state.join(FOLDER);
        private::create_folder(&folder).map_err(|error| file(&folder, &error))?;
        let _one_at_a_time = hold(&folder)?;
        private::sweep(state).and_then(|()| private::sweep(&folder)).map_err(|error| file(&folder, &error))?;
        let path = state.join(MACHINE_KEY);
        let machine = match machine_key(&path) {
            Ok(Some(key)) => key,
            Ok(None) if master_files(&folder)?.is_empty() => {
                let key = fresh()?;
                private::write(&path, key.as_slice()).map_err(|error| file(&path, &error))?;
                key
            }
            Ok(None) => return Err(ProtectError::MachineKeyMissing { path }),
            Err(error) => return Err(error),
        };
        let vault = Self::with(state, Some(machine), true, now)?;
        vault.turn(&mut vault.keys(), now)?;
        Ok(vault)
    }

    /// Opens the data protection of a state folder to look only: nothing is made, changed or replaced. A folder that has
    /// none yet gives one that reads plain files.
    ///
    /// # Errors
    /// As for [`Vault::open`].
    pub fn look(state: &Path) -> Result<Self, ProtectError> {
        let path = state.join(MACHINE_KEY);
        let machine = machine_key(&path)?;
        if machine.is_none() && !master_files(&state.join(FOLDER))?.is_empty() {
            return Err(ProtectError::MachineKeyMissing { path });
        }
        Self::with(state, machine, false, 0)
    }

    fn with(state: &Path, machine: Option<Locked<KEY>>, writes: bool, now: u64) -> Result<Self, ProtectError> {
        let folder = state.join(FOLDER);
        let mut keys = Keys::default();
        for path in master_files(&folder)? {
            match machine.as_ref().map(|machine| master(&path, machine)) {
                Some(Ok(master)) => keys.all.push(master),
                Some(Err(_)) | None => keys.unusable.push(path),
            }
        }
        if let (true, Some(path)) = (keys.all.is_empty(), keys.unusable.first()) {
            let path = path.clone();
            let reason = format!("{} does not open it, nor any other master key", state.join(MACHINE_KEY).display());
            return Err(ProtectError::File { path, reason });
        }
        let opened = (now, Instant::now());
        let inner = Inner { state: state.to_owned(), machine, keys: Mutex::new(keys), writes, opened };
        Ok(Self { inner: inner.into() })
    }

    /// Sees to it that what protects from now on (seconds since 1970) serves now: a new master key when no other does.
    fn turn(&self, keys: &mut Keys, now: u64) -> Result<(), ProtectError> {
        let newest = |keys: &Keys| {
            let serving = keys.all.iter().enumerate().filter(|(_, master)| master.serves(now));
            serving.max_by_key(|(_, master)| master.created).map(|(at, _)| at)
        };
        if let Some(at) = newest(keys) {
            keys.current = Some(at);
            return Ok(());
        }
        let Some(machine) = self.inner.machine.as_ref().filter(|_| self.inner.writes) else { return Ok(()) };
        let id = crate::signature::random();
        let master = Master { id, created: now, expires: now.saturating_add(LIFE), key: fresh()? };
        let path = self.folder().join(hex(&id));
        private::write(&path, &wrapped(&master, machine)?).map_err(|error| file(&path, &error))?;
        keys.current = Some(keys.all.len());
        keys.all.push(master);
        Ok(())
    }

    /// What the master keys are wrapped by, for reports.
    pub fn protector(&self) -> String {
        match self.inner.machine {
            Some(_) => format!("machine key file {}", self.inner.state.join(MACHINE_KEY).display()),
            None => "nothing yet".into(),
        }
    }

    /// Files that should hold master keys and do not open here; what they protected is lost with them.
    pub fn unusable(&self) -> Vec<PathBuf> {
        self.keys().unusable.clone()
    }

    /// Whether the kernel keeps all keys out of swap.
    pub fn is_locked(&self) -> bool {
        let machine = self.inner.machine.as_ref().is_none_or(Locked::is_locked);
        machine && self.keys().all.iter().all(|master| master.key.is_locked())
    }

    /// Protects data, at most what memory holds. The description says what it is, and is no secret; entropy may be empty.
    ///
    /// # Errors
    /// There is no key, or no randomness.
    pub fn protect(&self, description: &str, entropy: &[u8], data: &[u8]) -> Result<Vec<u8>, ProtectError> {
        let (opened, since) = self.inner.opened;
        let now = opened.saturating_add(since.elapsed().as_secs());
        self.protect_at(now, description, entropy, data)
    }

    fn protect_at(&self, now: u64, description: &str, entropy: &[u8], data: &[u8]) -> Result<Vec<u8>, ProtectError> {
        let mut keys = self.keys();
        // A program that runs for longer than a master key lasts makes the next one by itself.
        if keys.current.and_then(|at| keys.all.get(at)).is_none_or(|master| now >= master.expires) {
            self.turn(&mut keys, now)?;
        }
        let master = keys.current.and_then(|at| keys.all.get(at));
        let master = master.ok_or_else(|| ProtectError::File {
            path: self.folder(),
            reason: "there is no master key yet; it is made when the program starts".into(),
        })?;
        let mut header = [0; BLOB_HEADER];
        join(&mut header, &[&BLOB, &master.id, &crate::signature::random()]);
        // Room for all of it at once: a growing buffer would leave copies of the data behind.
        let mut blob = Zeroizing::new(Vec::with_capacity(BLOB_HEADER + data.len() + TAG));
        blob.extend_from_slice(&header);
        blob.extend_from_slice(data);
        let (key, nonce) = derive(&master.key, &header, &[CONTEXT, entropy])?;
        let inside = blob.get_mut(BLOB_HEADER..).unwrap_or_default();
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(additional(&header, description)), inside);
        blob.extend_from_slice(tag.map_err(|_| ProtectError::Randomness)?.as_ref());
        Ok(std::mem::take(&mut blob))
    }

    /// What was protected as this description with this entropy.
    ///
    /// # Errors
    /// It does not open.
    pub fn unprotect(
        &self,
        description: &str,
        entropy: &[u8],
        blob: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, ProtectError> {
        let (header, inside) = blob.split_first_chunk::<BLOB_HEADER>().ok_or(ProtectError::Refused)?;
        let id = header.strip_prefix(&BLOB).and_then(<[u8]>::first_chunk::<16>).ok_or(ProtectError::Refused)?;
        let keys = self.keys();
        let master = keys.all.iter().find(|master| master.id == *id);
        let master = master.ok_or_else(|| ProtectError::NoMasterKey { id: hex(id), folder: self.folder() })?;
        let (key, nonce) = derive(&master.key, header, &[CONTEXT, entropy])?;
        let (inside, tag) = inside.split_last_chunk::<TAG>().ok_or(ProtectError::Refused)?;
        let mut data = Zeroizing::new(vec![0; inside.len()]);
        key.open_separate_gather(nonce, Aad::from(additional(header, description)), inside, tag, &mut data)
            .map_err(|_| ProtectError::Refused)?;
        Ok(data)
    }

    /// Reads a private file that was written with [`Vault::write`]. A plain one, as an earlier version left it or an
    /// operator laid it there, is taken, and replaced by a protected one in one rename.
    ///
    /// # Errors
    /// It cannot be read, others could read it, or it does not open.
    pub fn read(&self, path: &Path, description: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let found = private::read(path)?;
        if is_protected(&found) {
            return Ok(self.unprotect(description, &[], &found)?);
        }
        if self.inner.writes {
            self.write(path, description, &found)?;
        }
        Ok(found)
    }

    /// Writes a private file, protected, in place of what is there; see [`private::write`].
    ///
    /// # Errors
    /// It cannot be written. What was there is still there then.
    pub fn write(&self, path: &Path, description: &str, bytes: &[u8]) -> io::Result<()> {
        private::write(path, &self.protect(description, &[], bytes)?)
    }

    fn folder(&self) -> PathBuf {
        self.inner.state.join(FOLDER)
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        // Nothing panics while it is held.
        self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether bytes are a blob, of whatever machine.
pub fn is_protected(bytes: &[u8]) -> bool {
    bytes.starts_with(&BLOB)
}

/// What blobs' keys are derived for; entropy follows.
const CONTEXT: &[u8] = b"wardline/protect/1\0";
/// What keys are derived for that wrap master keys.
const WRAPPING: &[u8] = b"wardline/master/1\0";

/// Key and nonce for one use: HKDF-SHA256 (RFC 5869), the salt being a header that never comes twice.
fn derive(secret: &[u8; KEY], salt: &[u8], info: &[&[u8]]) -> Result<(LessSafeKey, Nonce), ProtectError> {
    struct Length;
    impl KeyType for Length {
        fn len(&self) -> usize {
            KEY + NONCE_LEN
        }
    }
    let mut made = Zeroizing::new([0; KEY + NONCE_LEN]);
    let derived = Salt::new(HKDF_SHA256, salt).extract(secret);
    derived.expand(info, Length).and_then(|key| key.fill(made.as_mut())).map_err(|_| ProtectError::Refused)?;
    let (key, nonce) = made.split_first_chunk::<KEY>().ok_or(ProtectError::Refused)?;
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| ProtectError::Refused)?;
    Ok((LessSafeKey::new(key), Nonce::try_assume_unique_for_key(nonce).map_err(|_| ProtectError::Refused)?))
}

/// The header has one length, so that the two cannot be taken apart in another way.
fn additional(header: &[u8; BLOB_HEADER], description: &str) -> Vec<u8> {
    [header.as_slice(), description.as_bytes()].concat()
}

/// A new random key.
fn fresh() -> Result<Locked<KEY>, ProtectError> {
    let mut key = Locked::zeroed().map_err(|error| file(Path::new("memory"), &error))?;
    aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| ProtectError::Randomness)?;
    Ok(key)
}

fn machine_key(path: &Path) -> Result<Option<Locked<KEY>>, ProtectError> {
    let bytes = match private::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file(path, &error)),
    };
    let key = bytes.as_slice().try_into().map_err(|_| {
        let reason = format!("it has {} bytes, a machine key has {KEY}; restore it from a backup", bytes.len());
        ProtectError::File { path: path.to_owned(), reason }
    })?;
    Locked::copy_of(key).map(Some).map_err(|error| file(path, &error))
}

/// The files of master keys, in the order of their names.
fn master_files(folder: &Path) -> Result<Vec<PathBuf>, ProtectError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(file(folder, &error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| file(folder, &error))?;
        // What begins with a dot was not finished.
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    if found.len() > MOST {
        let reason = format!("it holds {} files, more than {MOST} master keys are never made", found.len());
        return Err(ProtectError::File { path: folder.to_owned(), reason });
    }
    found.sort();
    Ok(found)
}

fn master(path: &Path, machine: &Locked<KEY>) -> Result<Master, ProtectError> {
    let bytes = private::read(path).map_err(|error| file(path, &error))?;
    let (header, inside) = bytes.split_first_chunk::<MASTER_HEADER>().ok_or(ProtectError::Refused)?;
    let rest = header.strip_prefix(&MASTER).ok_or(ProtectError::Refused)?;
    let (id, rest) = rest.split_first_chunk::<16>().ok_or(ProtectError::Refused)?;
    let (created, rest) = rest.split_first_chunk::<8>().ok_or(ProtectError::Refused)?;
    let expires = rest.first_chunk::<8>().ok_or(ProtectError::Refused)?;
    let (inside, tag) = inside.split_last_chunk::<TAG>().ok_or(ProtectError::Refused)?;
    let (key, nonce) = derive(machine, header, &[WRAPPING])?;
    let mut opened = Locked::zeroed().map_err(|error| file(path, &error))?;
    if inside.len() != KEY {
        return Err(ProtectError::Refused);
    }
    key.open_separate_gather(nonce, Aad::from(header), inside, tag, opened.as_mut_slice())
        .map_err(|_| ProtectError::Refused)?;
    let (created, expires) = (u64::from_be_bytes(*created), u64::from_be_bytes(*expires));
    Ok(Master { id: *id, created, expires, key: opened })
}

/// The bytes of a master key's file.
fn wrapped(master: &Master, machine: &Locked<KEY>) -> Result<Vec<u8>, ProtectError> {
    let mut header = [0; MASTER_HEADER];
    join(&mut header, &[&MASTER, &master.id, &master.created.to_be_bytes(), &master.expires.to_be_bytes()]);
    let (key, nonce) = derive(machine, &header, &[WRAPPING])?;
    let mut inside = Zeroizing::new(*master.key);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(&header), inside.as_mut());
    let tag = tag.map_err(|_| ProtectError::Randomness)?;
    Ok([header.as_slice(), inside.as_slice(), tag.as_ref()].concat())
}

/// Waits until nobody else opens the vault of this folder.
fn hold(folder: &Path) -> Result<Flock<File>, ProtectError> {
    let opened = File::open(folder).map_err(|error| file(folder, &error))?;
    Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| file(folder, &errno.into()))
}

fn file(path: &Path, error: &io::Error) -> ProtectError {
    ProtectError::File { path: path.to_owned(), reason: error.to_string() }
}

fn join(into: &mut [u8], parts: &[&[u8]]) {
    for (into, from) in into.iter_mut().zip(parts.iter().copied().flatten()) {
        *into = *from;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

mod row;
pub use row::RowKey;

#[cfg(test)]
mod tests;
