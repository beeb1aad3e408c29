//! Rows of a database under a key of the file's own, which rests in the file, protected: one AEAD for each row, and no
//! call for the vault.
//!
//! ```text
//!   row = salt (16) | AES-256-GCM, key and nonce = HKDF-SHA256(the file's key, salt, "wardline/row/1" 0), 32 and 12 bytes
//!         additional data = the row's place: table, keys and whatever stands beside it in the clear
//! ```
//!
//! Why a random salt, and neither a counter nor a random nonce: a file that is put back to an earlier state would count
//! the same numbers again, and 96 random bits are too few for a queue that writes for years under one key. With 128 bits
//! of salt each row has a key of its own. Deriving it is paid once a row, which holds hundreds of entries under load.

use aws_lc_rs::aead::Aad;
use wardline_locked::Locked;

use super::{KEY, ProtectError, TAG, Vault, derive, fresh};

/// Bytes of a salt.
const SALT: usize = 16;
/// What rows' keys are derived for.
const CONTEXT: &[u8] = b"wardline/row/1\0";

/// The key of one database file.
#[derive(Debug)]
pub struct RowKey(Locked<KEY>);

impl RowKey {
    /// How many bytes a row has more than what it holds.
    pub const OVERHEAD: usize = SALT + TAG;

    /// A new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn fresh() -> Result<Self, ProtectError> {
        fresh().map(Self)
    }

    /// The key as it rests in the file, protected as this description.
    ///
    /// # Errors
    /// It cannot be protected.
    pub fn protected(&self, vault: &Vault, description: &str) -> Result<Vec<u8>, ProtectError> {
        vault.protect(description, &[], self.0.as_slice())
    }

    /// The key that rests in a file.
    ///
    /// # Errors
    /// It does not open here.
    pub fn open(vault: &Vault, description: &str, blob: &[u8]) -> Result<Self, ProtectError> {
        let bytes = vault.unprotect(description, &[], blob)?;
        let mut key = Locked::zeroed().map_err(|_| ProtectError::Refused)?;
        *key = bytes.as_slice().try_into().map_err(|_| ProtectError::Refused)?;
        Ok(Self(key))
    }

    /// Encrypts a row for its place, into a buffer that is overwritten.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn seal(&self, place: &[u8], data: &[u8], into: &mut Vec<u8>) -> Result<(), ProtectError> {
        let salt = crate::signature::random();
        into.clear();
        into.reserve(data.len() + Self::OVERHEAD);
        into.extend_from_slice(&salt);
        into.extend_from_slice(data);
        let (key, nonce) = derive(&self.0, &salt, &[CONTEXT])?;
        let inside = into.get_mut(SALT..).unwrap_or_default();
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place), inside);
        into.extend_from_slice(tag.map_err(|_| ProtectError::Randomness)?.as_ref());
        Ok(())
    }

    /// What a row at this place holds; in its own memory.
    ///
    /// # Errors
    /// It was changed, or is of another place or file.
    pub fn open_row(&self, place: &[u8], mut row: Vec<u8>) -> Result<Vec<u8>, ProtectError> {
        let salt = *row.first_chunk::<SALT>().ok_or(ProtectError::Refused)?;
        let (key, nonce) = derive(&self.0, &salt, &[CONTEXT])?;
        let opened = key.open_within(nonce, Aad::from(place), &mut row, SALT..).map_err(|_| ProtectError::Refused)?;
        let length = opened.len();
        row.truncate(length);
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::Scratch;

    #[test]
    fn a_row_opens_at_its_place_with_its_files_key_and_in_no_other_way() {
        let scratch = Scratch::new();
        let vault = Vault::open(&scratch.0, 1_800_000_000).unwrap();
        let (key, other) = (RowKey::fresh().unwrap(), RowKey::fresh().unwrap());
        let mut row = b"what was there before".to_vec();
        key.seal(b"place", b"content", &mut row).unwrap();
        assert_eq!(row.len(), 7 + RowKey::OVERHEAD);
        let rests = key.protected(&vault, "queue.db").unwrap();
        let again = RowKey::open(&vault, "queue.db", &rests).unwrap();
        assert_eq!(again.open_row(b"place", row.clone()).unwrap(), b"content");
        assert!(RowKey::open(&vault, "other.db", &rests).is_err());
        assert!(other.open_row(b"place", row.clone()).is_err());
        assert!(key.open_row(b"elsewhere", row.clone()).is_err());
        for bit in 0..row.len() * 8 {
            let mut changed = row.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open_row(b"place", changed).is_err(), "bit {bit}");
        }
        for length in 0..row.len() {
            assert!(key.open_row(b"place", row[..length].to_vec()).is_err());
        }
        let mut second = Vec::new();
        key.seal(b"place", b"content", &mut second).unwrap();
        assert_ne!(row, second, "no two rows are the same");
        key.seal(b"place", b"", &mut second).unwrap();
        assert_eq!(key.open_row(b"place", second).unwrap(), b"");
    }
}
