//! Sealing keys: what a health service receives secrets with, and nothing else. Each comes with a certificate that it
//! signs itself and that vouches for nothing; who believes it, believes the identity key's signature around it.
//!
//! ```text
//!  SealingKey          private, at its health service; opens
//!  SealingCertificate  public, read with every need checked; is sealed to
//!  life                which key is current, when the next one is due, which may go
//! ```

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use rcgen::{CertificateParams, IsCa, KeyIdMethod, KeyUsagePurpose, PublicKeyData as _};
use wardline_proto::{Name, Role};
use zeroize::Zeroizing;

use crate::authority::{AuthorityError, Validity, made};
use crate::certificate::leaf;
use crate::pair::Pair;
use crate::secure_data::{self, Opened, Refusal};
use crate::signature::{KeyError, KeyId, private_der};

mod certificate;
pub mod life;

pub use certificate::{SealingCertificate, SealingFault};

/// How long a sealing certificate is valid, seconds.
pub const LIFETIME: u64 = 365 * 24 * 3600;

/// A health service's private key (P-256) for what is sealed to it. The crypto library wipes it.
pub struct SealingKey {
    private: PrivateKey,
    certificate: SealingCertificate,
}

impl SealingKey {
    /// A new key with its certificate, and its PKCS#8 in PEM, to be kept in a private file.
    ///
    /// # Errors
    /// The validity cannot be, or the system has no randomness.
    pub fn generate(name: &Name, role: Role, validity: Validity) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let (pair, pem) = Pair::generate()?;
        let certificate = params(&pair, name, role, validity)?.self_signed(&pair).map_err(made)?;
        let key = Self::load(pem.as_bytes(), certificate.der(), name, role);
        key.map(|key| (key, pem)).map_err(|fault| AuthorityError::Make(fault.to_string()))
    }

    /// From its PKCS#8 in PEM and its certificate in DER, both as they were made here. Its certificate may have ended:
    /// what was sealed to it before is still to be opened.
    ///
    /// # Errors
    /// They are something else, or do not belong together.
    pub fn load(key: &[u8], certificate: &[u8], name: &Name, role: Role) -> Result<Self, SealingFault> {
        let certificate = SealingCertificate::parse(certificate, name, role)?;
        // As a pair that signs it is checked more strictly than as one that agrees on keys.
        let id = KeyId::of(&Pair::from_pem(key)?.subject_public_key_info());
        if id != certificate.id() {
            return Err(SealingFault::OtherKey);
        }
        let private = PrivateKey::from_private_key_der(&ECDH_P256, private_der(key)?.as_bytes());
        Ok(Self { private: private.map_err(|_| KeyError::Private)?, certificate })
    }

    /// The key's id, which event 7006 prints.
    pub const fn id(&self) -> KeyId {
        self.certificate.id()
    }

    /// Its certificate: the public half.
    pub const fn certificate(&self) -> &SealingCertificate {
        &self.certificate
    }

    /// Opens what was sealed to it.
    ///
    /// # Errors
    /// It is no secure data, not for this key, or was changed.
    pub fn open(&self, sealed: &[u8]) -> Result<Opened, Refusal> {
        secure_data::open([self], sealed)
    }

    pub(crate) const fn private(&self) -> &PrivateKey {
        &self.private
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

/// What a sealing certificate says.
fn params(key: &Pair, name: &Name, role: Role, validity: Validity) -> Result<CertificateParams, AuthorityError> {
    let mut params = leaf(name, role.uri(), &[]).map_err(made)?;
    validity.write(&mut params)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.key_identifier_method = KeyIdMethod::PreSpecified(KeyId::of(&key.subject_public_key_info()).0.to_vec());
    Ok(params)
}

#[cfg(test)]
pub(crate) mod tests;
