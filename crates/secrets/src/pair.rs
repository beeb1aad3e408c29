//! A P-256 private key as what makes certificates and requests needs it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{PublicKeyData, SignatureAlgorithm};
use zeroize::Zeroizing;

use crate::signature::{KeyError, VerifyingKey, private_der, private_pem};

/// A private key that signs certificates and requests. The crypto library wipes it; rcgen's own would leave copies.
pub(crate) struct Pair(pub(crate) EcdsaKeyPair);

impl Pair {
    pub(crate) fn generate() -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Randomness)?;
        let pem = private_pem(&pair)?;
        Ok((Self(pair), pem))
    }

    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, private_der(pem)?.as_bytes());
        pair.map(Self).map_err(|_| KeyError::Private)
    }
}

impl PublicKeyData for Pair {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

impl PublicKeyData for VerifyingKey {
    fn der_bytes(&self) -> &[u8] {
        self.point()
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}
