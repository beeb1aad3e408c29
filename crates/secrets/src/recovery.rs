//! The recovery key of a group, which lies on paper and on no machine.
//!
//! ```text
//!  scalar 32 | CRC-16 over it 2 ── Crockford base32 ── XXXXX-XXXXX-XXXXX-XXXXX- ... -XXXXX, 11 groups
//! ```

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::PublicKeyData as _;
use zeroize::Zeroizing;

use crate::base32::{decode, encode};
use crate::pair::Pair;
use crate::signature::{KeyError, VerifyingKey, private_pem};

/// The text is no recovery key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no recovery key, or mistyped: one has 11 groups of 5 letters and digits")]
pub struct BadRecoveryKey;

/// A group's recovery key, P-256. Its private half is written down on paper: 11 groups of 5 letters and digits, which
/// are Crockford base32 of the scalar, 32 bytes, and a checksum, 2 bytes.
pub struct RecoveryKey {
    pair: Pair,
    public: VerifyingKey,
}

/// An ECPrivateKey without its public half (RFC 5915, section 3): what stands before and after the scalar.
const SEC1: ([u8; 7], [u8; 12]) = (
    [0x30, 0x31, 0x02, 0x01, 0x01, 0x04, 0x20],
    [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
);

impl RecoveryKey {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Self::new(Pair::generate()?.0)
    }

    fn new(pair: Pair) -> Result<Self, KeyError> {
        let public = VerifyingKey::from_spki(&pair.subject_public_key_info())?;
        Ok(Self { pair, public })
    }

    /// From what is on the paper, in any case and grouping.
    ///
    /// # Errors
    /// It is something else; every single mistyped character is found.
    pub fn parse(text: &str) -> Result<Self, BadRecoveryKey> {
        let bytes = decode(text).filter(|bytes| bytes.len() == 34).ok_or(BadRecoveryKey)?;
        let (scalar, checksum) = bytes.split_last_chunk().ok_or(BadRecoveryKey)?;
        if crc16(scalar) != u16::from_be_bytes(*checksum) {
            return Err(BadRecoveryKey);
        }
        let der = Zeroizing::new([&SEC1.0, scalar, &SEC1.1].concat());
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        pair.ok().and_then(|pair| Self::new(Pair(pair)).ok()).ok_or(BadRecoveryKey)
    }

    /// What goes on the paper, a secret: 65 characters.
    ///
    /// # Errors
    /// Never in practice: the crypto library gives out what it made.
    pub fn text(&self) -> Result<Zeroizing<String>, KeyError> {
        let scalar = self.pair.0.private_key().as_be_bytes().map_err(|_| KeyError::Private)?;
        let checksum = crc16(scalar.as_ref()).to_be_bytes();
        let symbols = encode(&Zeroizing::new([scalar.as_ref(), &checksum].concat()));
        let mut text = Zeroizing::new(String::with_capacity(symbols.len() * 6 / 5));
        for (i, symbol) in symbols.chars().enumerate() {
            if i > 0 && i % 5 == 0 {
                text.push('-');
            }
            text.push(symbol);
        }
        Ok(text)
    }

    /// The private half as PKCS#8 in PEM.
    ///
    /// # Errors
    /// Never in practice.
    pub fn pem(&self) -> Result<Zeroizing<String>, KeyError> {
        private_pem(&self.pair.0)
    }

    /// The public half.
    pub const fn public(&self) -> &VerifyingKey {
        &self.public
    }
}

/// CRC-16/CCITT-FALSE: unlike a hash as short, it finds every error that lies within 16 bits, so every mistyped or
/// swapped neighbouring character.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        let step = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
        (0..8).fold(crc ^ u16::from(*byte) << 8, step)
    })
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryKey({})", self.public.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::GROUP;
    use crate::signature::SigningKey;

    #[test]
    fn a_recovery_key_survives_paper_and_every_mistyped_character_is_refused() {
        let key = RecoveryKey::generate().unwrap();
        let text = key.text().unwrap();
        let again = RecoveryKey::parse(&text.to_lowercase().replace('-', " ").replace('0', "O")).unwrap();
        assert_eq!(again.public(), key.public());
        let signing = SigningKey::from_pem(again.pem().unwrap().as_bytes(), GROUP).unwrap();
        assert_eq!(format!("{key:?}"), format!("RecoveryKey({})", signing.id()));
        assert_eq!((text.len(), crc16(b"123456789")), (65, 0x29b1));
        for at in (0..text.len()).filter(|at| at % 6 != 5) {
            for wrong in "0123456789ABCDEFGHJKMNPQRSTVWXYZU".chars().filter(|wrong| !text[at..].starts_with(*wrong)) {
                let mistyped = format!("{}{wrong}{}", &text[..at], &text[at + 1..]);
                assert!(RecoveryKey::parse(&mistyped).is_err(), "{at} {wrong}");
            }
        }
        // The scalar must lie between 0 and the order of the curve.
        for scalar in [[0; 32], [0xff; 32]] {
            let text = encode(&[scalar.as_slice(), &crc16(&scalar).to_be_bytes()].concat());
            assert!(RecoveryKey::parse(&text).is_err());
        }
    }
}
