//! P-256 keys and signatures. Every signature begins with a context string and covers the group's id, so that none made
//! for one purpose or group is valid for another.

use std::fmt;

use aws_lc_rs::digest::{self, SHA256};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, ParsedPublicKey,
};
use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use der::pem::PemLabel;
use wardline_proto::GroupId;
use wardline_proto::message::{Context, Digest, Signed};
use zeroize::Zeroizing;

/// What every SubjectPublicKeyInfo of a P-256 key begins with; the uncompressed point of 65 bytes follows (RFC 5480).
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the PEM of a PKCS#8 private key on P-256.
    #[error("it is no PEM of a PKCS#8 private key on P-256")]
    Private,
    /// Not the SubjectPublicKeyInfo of a P-256 key.
    #[error("it is no SubjectPublicKeyInfo of a P-256 key in base64")]
    Public,
    /// The crypto library made no key: the system has no randomness.
    #[error("no key can be made: the system has no randomness")]
    Randomness,
}

/// A signature does not fit its key, context, group or payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit")]
pub struct BadSignature;

/// A key's id: the first 16 bytes of SHA-256 over its SubjectPublicKeyInfo. Written in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// The id of a SubjectPublicKeyInfo in DER.
    pub fn of(spki: &[u8]) -> Self {
        let Digest(hash) = sha256(&[spki]);
        Self(std::array::from_fn(|i| hash.get(i).copied().unwrap_or_default()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 over parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    digest_of(parts).as_ref().try_into().map(Digest).unwrap_or_default()
}

fn digest_of(parts: &[&[u8]]) -> digest::Digest {
    let mut context = digest::Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    context.finish()
}

/// What is signed: the context string, a zero byte, the group's id, the payload.
fn signed_digest(context: Context, group: GroupId, payload: &[u8]) -> digest::Digest {
    digest_of(&[context.as_str().as_bytes(), &[0], &group.0, payload])
}

/// A private key that signs for one group. Its memory is wiped by the crypto library when it is dropped.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    group: GroupId,
    id: KeyId,
}

impl SigningKey {
    /// A new key, and the PEM of its PKCS#8 (RFC 5958) to be kept in a private file.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn generate(group: GroupId) -> Result<(Self, Zeroizing<String>), KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Randomness)?;
        let pem = private_pem(&pair)?;
        let id = KeyId::of(&spki(pair.public_key().as_ref()));
        Ok((Self { pair, group, id }, pem))
    }

    /// From the PEM of a PKCS#8 private key.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_pem(pem: &[u8], group: GroupId) -> Result<Self, KeyError> {
        let der = private_der(pem)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_bytes());
        let pair = pair.map_err(|_| KeyError::Private)?;
        let id = KeyId::of(&spki(pair.public_key().as_ref()));
        Ok(Self { pair, group, id })
    }

    /// The key's id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The public half.
    ///
    /// # Errors
    /// Never in practice: the crypto library made it.
    pub fn public(&self) -> Result<VerifyingKey, KeyError> {
        VerifyingKey::from_spki(&spki(self.pair.public_key().as_ref()))
    }

    /// The signature over a payload: 64 bytes.
    pub fn sign(&self, context: Context, payload: &[u8]) -> Bytes {
        self.sign_in(self.group, context, payload)
    }

    /// The same for a group that was not known when the key was made.
    pub fn sign_in(&self, group: GroupId, context: Context, payload: &[u8]) -> Bytes {
        // Signing fails only when the system has no randomness; an empty signature fits nothing.
        let digest = signed_digest(context, group, payload);
        self.pair.sign_digest(&digest).map_or_else(|_| Bytes::new(), |s| Bytes::copy_from_slice(s.as_ref()))
    }

    /// A payload with its signature.
    pub fn signed(&self, context: Context, payload: Bytes) -> Signed {
        let signature = self.sign(context, &payload);
        Signed { payload, signature }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// A public key, parsed once for many signatures.
#[derive(Clone)]
pub struct VerifyingKey {
    parsed: std::sync::Arc<ParsedPublicKey>,
    id: KeyId,
}

impl VerifyingKey {
    /// From a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// It is no P-256 key in uncompressed form.
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let point = spki.strip_prefix(&SPKI_PREFIX).ok_or(KeyError::Public)?;
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| KeyError::Public)?;
        Ok(Self { parsed: parsed.into(), id: KeyId::of(spki) })
    }

    /// From a SubjectPublicKeyInfo in base64.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Self::from_spki(&Base64::decode_vec(text).map_err(|_| KeyError::Public)?)
    }

    /// The key's id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The SubjectPublicKeyInfo in DER, 91 bytes (RFC 5480, section 2).
    pub fn spki(&self) -> Vec<u8> {
        spki(self.point())
    }

    /// The SubjectPublicKeyInfo as lists have it: DER in base64.
    pub fn to_base64(&self) -> String {
        Base64::encode_string(&self.spki())
    }

    /// The uncompressed point, 65 bytes.
    pub(crate) fn point(&self) -> &[u8] {
        self.parsed.as_ref().as_ref()
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// It does not fit.
    pub fn verify(
        &self,
        context: Context,
        group: GroupId,
        payload: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let digest = signed_digest(context, group, payload);
        self.parsed.verify_digest_sig(&digest, signature).map_err(|_| BadSignature)
    }

    /// The payload, when its signature fits.
    ///
    /// # Errors
    /// It does not.
    pub fn open<'a>(&self, context: Context, group: GroupId, signed: &'a Signed) -> Result<&'a Bytes, BadSignature> {
        self.verify(context, group, &signed.payload, &signed.signature)?;
        Ok(&signed.payload)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.id)
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

fn spki(point: &[u8]) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), point].concat()
}

/// PKCS#8 in PEM, as `der` names what it may read from PEM.
struct PrivateKeyInfo;

impl PemLabel for PrivateKeyInfo {
    const PEM_LABEL: &'static str = "PRIVATE KEY";
}

/// The DER of a PKCS#8 private key in PEM; wiped when dropped.
pub(crate) fn private_der(pem: &[u8]) -> Result<der::SecretDocument, KeyError> {
    let text = std::str::from_utf8(pem).map_err(|_| KeyError::Private)?;
    let (label, document) = der::SecretDocument::from_pem(text.trim()).map_err(|_| KeyError::Private)?;
    PrivateKeyInfo::validate_pem_label(label).map_err(|_| KeyError::Private)?;
    Ok(document)
}

/// The PKCS#8 of a private key in PEM.
pub(crate) fn private_pem(pair: &EcdsaKeyPair) -> Result<Zeroizing<String>, KeyError> {
    let document = pair.to_pkcs8v1().map_err(|_| KeyError::Private)?;
    let pem = der::pem::encode_string(PrivateKeyInfo::PEM_LABEL, der::pem::LineEnding::LF, document.as_ref());
    pem.map(Zeroizing::new).map_err(|_| KeyError::Private)
}

/// 16 fresh random bytes.
pub fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Fails only where the system has no randomness at all, where no TLS session could have come about either.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_fits_only_its_context_group_payload_and_key() {
        let group = GroupId([1; 16]);
        let make =
            || SigningKey::from_pem(rcgen::KeyPair::generate().unwrap().serialize_pem().as_bytes(), group).unwrap();
        let (key, other) = (make(), make());
        let signature = key.sign(Context::Batch, b"payload");
        let check = |k: &SigningKey, c, g, p: &[u8]| k.public().unwrap().verify(c, g, p, &signature);
        assert_eq!(check(&key, Context::Batch, group, b"payload"), Ok(()));
        assert_eq!(check(&key, Context::Ack, group, b"payload"), Err(BadSignature));
        assert_eq!(check(&key, Context::Batch, GroupId([2; 16]), b"payload"), Err(BadSignature));
        assert_eq!(check(&key, Context::Batch, group, b"Payload"), Err(BadSignature));
        assert_eq!(check(&other, Context::Batch, group, b"payload"), Err(BadSignature));
        assert_eq!(key.public().unwrap().verify(Context::Batch, group, b"payload", b""), Err(BadSignature));
    }

    #[test]
    fn a_new_key_comes_back_from_its_pem_and_its_public_half_from_its_base64() {
        let group = GroupId([1; 16]);
        let (key, pem) = SigningKey::generate(group).unwrap();
        let again = SigningKey::from_pem(pem.as_bytes(), group).unwrap();
        assert_eq!(again.id(), key.id());
        let public = VerifyingKey::from_base64(&key.public().unwrap().to_base64()).unwrap();
        assert_eq!((public.id(), public.spki().len()), (key.id(), 91));
        assert_eq!(public.verify(Context::Ack, group, b"payload", &again.sign(Context::Ack, b"payload")), Ok(()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(SigningKey::from_pem(b"", GroupId([0; 16])).err(), Some(KeyError::Private));
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(
            SigningKey::from_pem(p384.serialize_pem().as_bytes(), GroupId([0; 16])).err(),
            Some(KeyError::Private)
        );
        assert_eq!(VerifyingKey::from_base64("AAAA").err(), Some(KeyError::Public));
        assert_eq!(VerifyingKey::from_base64("%").err(), Some(KeyError::Public));
    }
}
