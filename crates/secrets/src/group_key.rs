//! The group key: what every secret in the database rests under. It is never in the database.
//!
//! ```text
//!  sealed = "WLG1" | key id (16) | nonce (12) | AES-256-GCM
//!           additional data = "wardline/row/1" 0 | the 20 bytes in front | table 0 column 0 | row's id (16) | version (8)
//! ```
//!
//! What was sealed for one row opens there alone, and as that version alone. The id in front says by which key, so that
//! rows under an old and a new one can stand beside each other.

use std::fmt;
use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use wardline_locked::Locked;
use wardline_proto::message::AccountId;
use zeroize::Zeroizing;

use crate::protect::Vault;
use crate::signature::sha256;

/// Its file in the group's folder, and what that is protected as.
pub const FILE: &str = "group.key";

/// What is sealed begins with this.
const MAGIC: [u8; 4] = *b"WLG1";
/// Bytes of a key.
const KEY: usize = 32;
/// Bytes of a key's id.
const ID: usize = 16;
/// Bytes of an authentication tag.
const TAG: usize = 16;
/// Bytes in front of what is encrypted.
const HEADER: usize = MAGIC.len() + ID + NONCE_LEN;
/// What the additional data begin with.
const CONTEXT: &[u8] = b"wardline/row/1\0";

/// Why something is not sealed or does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupKeyError {
    /// Not sealed by any group key.
    #[error("it is nothing that was encrypted under a group key")]
    Encoding,
    /// Sealed under a key that is not here.
    #[error("it is encrypted under another group key")]
    OtherKey,
    /// Changed, or another row's, or of another version.
    #[error("it was changed, or is of another account or version")]
    Refused,
    /// The system has no randomness or no memory for keys.
    #[error("the system has no randomness, or no memory for a key")]
    System,
}

/// The symmetric key of a management group, AES-256.
pub struct GroupKey {
    key: Locked<KEY>,
    id: [u8; ID],
}

impl GroupKey {
    /// A new key.
    ///
    /// # Errors
    /// The system has no randomness, or no memory.
    pub fn generate() -> Result<Self, GroupKeyError> {
        let mut key = Locked::zeroed().map_err(|_| GroupKeyError::System)?;
        rand::fill(key.as_mut_slice()).map_err(|_| GroupKeyError::System)?;
        Ok(Self::with(key))
    }

    fn with(key: Locked<KEY>) -> Self {
        let hash = sha256(&[b"wardline/group-key/1\0", key.as_slice()]).0;
        let id = hash.first_chunk().copied().unwrap_or_default();
        Self { key, id }
    }

    /// The key in a group's folder; nothing when there is none.
    ///
    /// # Errors
    /// It cannot be read, or does not open on this machine, or is no key.
    pub fn load(vault: &Vault, folder: &Path) -> io::Result<Option<Self>> {
        let bytes = match vault.read(&folder.join(FILE), FILE) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Self::from_bytes(&bytes).map(Some)
    }

    /// From its bytes.
    ///
    /// # Errors
    /// They are none, or the system has no memory for keys.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let key = bytes.try_into();
        let key = key.map_err(|_| io::Error::other(format!("it has {} bytes, a group key has {KEY}", bytes.len())))?;
        Locked::copy_of(key).map(Self::with)
    }

    /// Keeps it in a group's folder, protected.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn keep(&self, vault: &Vault, folder: &Path) -> io::Result<()> {
        vault.write(&folder.join(FILE), FILE, self.key.as_slice())
    }

    /// Its id.
    pub const fn id(&self) -> [u8; ID] {
        self.id
    }

    /// Seals an account's secret for its row and version. Each time the result is another one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn seal(&self, id: AccountId, version: u64, secret: &[u8]) -> Result<Vec<u8>, GroupKeyError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| GroupKeyError::System)?;
        // Room for all of it at once: a growing buffer would leave copies of the secret behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(HEADER + secret.len() + TAG));
        for part in [&MAGIC[..], &self.id, &nonce, secret] {
            sealed.extend_from_slice(part);
        }
        let inside = sealed.get_mut(HEADER..).unwrap_or_default();
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.cipher()?.seal_in_place_separate_tag(nonce, Aad::from(self.row(id, version)), inside);
        sealed.extend_from_slice(tag.map_err(|_| GroupKeyError::System)?.as_ref());
        Ok(std::mem::take(&mut sealed))
    }

    /// Opens what was sealed for this row and version.
    ///
    /// # Errors
    /// It was not, or was changed, or is under another key.
    pub fn open(&self, id: AccountId, version: u64, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, GroupKeyError> {
        let rest = sealed.strip_prefix(&MAGIC).ok_or(GroupKeyError::Encoding)?;
        let (key, rest) = rest.split_first_chunk::<ID>().ok_or(GroupKeyError::Encoding)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(GroupKeyError::Encoding)?;
        let (inside, tag) = rest.split_last_chunk::<TAG>().ok_or(GroupKeyError::Encoding)?;
        if *key != self.id {
            return Err(GroupKeyError::OtherKey);
        }
        let mut secret = Zeroizing::new(vec![0; inside.len()]);
        let (nonce, row) = (Nonce::assume_unique_for_key(*nonce), Aad::from(self.row(id, version)));
        let opened = self.cipher()?.open_separate_gather(nonce, row, inside, tag, &mut secret);
        opened.map(|()| secret).map_err(|_| GroupKeyError::Refused)
    }

    fn cipher(&self) -> Result<LessSafeKey, GroupKeyError> {
        let key = UnboundKey::new(&AES_256_GCM, self.key.as_slice()).map_err(|_| GroupKeyError::System)?;
        Ok(LessSafeKey::new(key))
    }

    /// What the secret of an account is bound to.
    fn row(&self, id: AccountId, version: u64) -> Vec<u8> {
        [CONTEXT, &MAGIC, &self.id, b"account\0secret\0", &id.0, &version.to_be_bytes()].concat()
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::private::Scratch;

    const A: AccountId = AccountId([0xa; 16]);
    const B: AccountId = AccountId([0xb; 16]);
    const SECRET: &[u8] = b"Zauberwort 4711";

    #[test]
    fn a_secret_opens_in_its_own_row_and_version_and_nowhere_else() {
        let key = GroupKey::generate().unwrap();
        let sealed = key.seal(A, 3, SECRET).unwrap();
        assert_eq!(key.open(A, 3, &sealed).unwrap().as_slice(), SECRET);
        for (id, version) in [(B, 3), (A, 2), (A, 4), (A, 0)] {
            assert_eq!(key.open(id, version, &sealed).unwrap_err(), GroupKeyError::Refused, "{id} {version}");
        }
        assert_eq!(GroupKey::generate().unwrap().open(A, 3, &sealed).unwrap_err(), GroupKeyError::OtherKey);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let key = GroupKey::generate().unwrap();
        let sealed = key.seal(A, 1, SECRET).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(A, 1, &changed).is_err(), "{bit}");
        }
        for end in 0..sealed.len() {
            assert!(key.open(A, 1, &sealed[..end]).is_err(), "{end}");
        }
        assert!(key.open(A, 1, &[&sealed[..], &[0]].concat()).is_err());
        assert!(key.open(A, 1, &sealed).is_ok());
    }

    #[test]
    fn what_is_sealed_shows_nothing_and_is_another_each_time() {
        let key = GroupKey::generate().unwrap();
        let sealed = key.seal(A, 1, SECRET).unwrap();
        assert_ne!(sealed, key.seal(A, 1, SECRET).unwrap());
        assert!(!sealed.windows(6).any(|part| SECRET.windows(6).any(|secret| secret == part)));
        assert_eq!(format!("{key:?}"), "GroupKey");
    }

    #[test]
    fn the_key_is_kept_protected_and_found_again_and_what_is_no_key_is_refused() {
        let scratch = Scratch::new();
        let vault = Vault::open(&scratch.0, 1_800_000_000).unwrap();
        assert!(GroupKey::load(&vault, &scratch.0).unwrap().is_none());
        let key = GroupKey::generate().unwrap();
        key.keep(&vault, &scratch.0).unwrap();
        let path = scratch.0.join(FILE);
        assert!(!fs::read(&path).unwrap().windows(8).any(|part| key.key.windows(8).any(|bytes| bytes == part)));
        let again = GroupKey::load(&vault, &scratch.0).unwrap().unwrap();
        assert_eq!(again.open(A, 1, &key.seal(A, 1, SECRET).unwrap()).unwrap().as_slice(), SECRET);
        // As something else, it is none.
        vault.write(&path, "other", key.key.as_slice()).unwrap();
        assert!(GroupKey::load(&vault, &scratch.0).is_err());
        vault.write(&path, FILE, b"short").unwrap();
        assert!(GroupKey::load(&vault, &scratch.0).unwrap_err().to_string().contains("5 bytes"));
    }
}
