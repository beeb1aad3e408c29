//! The group's root, known by its pin, and what leads to it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
};
use wardline_proto::message::Digest;
use wardline_proto::{GroupId, Name};
use webpki::aws_lc_rs::{
    ECDSA_P256_SHA256, ECDSA_P256_SHA384, ECDSA_P384_SHA256, ECDSA_P384_SHA384, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
};
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{Fault, Identity, Parsed};
use crate::private;
use crate::signature::{KeyError, KeyId, VerifyingKey, sha256};

/// The most certificates between a leaf and the root.
const CHAIN_LIMIT: usize = 4;
/// What a certificate may be signed with. The group's own authorities have keys on P-256; the rest is for a CA of the
/// company's own PKI.
const SIGNATURES: [&dyn SignatureVerificationAlgorithm; 7] = [
    &Remembering(ECDSA_P256_SHA256),
    &Remembering(ECDSA_P256_SHA384),
    &Remembering(ECDSA_P384_SHA256),
    &Remembering(ECDSA_P384_SHA384),
    &Remembering(RSA_PKCS1_2048_8192_SHA256),
    &Remembering(RSA_PKCS1_2048_8192_SHA384),
    &Remembering(RSA_PKCS1_2048_8192_SHA512),
];

/// The pin of a group: SHA-256 over the SubjectPublicKeyInfo of its root. Written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of a root with this SubjectPublicKeyInfo in DER.
    pub fn of(spki: &[u8]) -> Self {
        Self(sha256(&[spki]).0)
    }

    /// The hash.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Pin {
    fn from(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

impl std::str::FromStr for Pin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a pin is `sha256:` and 64 hex digits";
        let hex = text.strip_prefix("sha256:").ok_or(SHAPE)?;
        let mut pin = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SHAPE);
        }
        for (byte, digits) in pin.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| SHAPE)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| SHAPE)?;
        }
        Ok(Self(pin))
    }
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why the root cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The file.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// Not a certificate: in PEM in a file, in DER elsewhere.
    #[error("it cannot be decoded as a certificate (in a file: PEM)")]
    Encoding,
    /// Another root than the pinned one.
    #[error("it is not the pinned root: its pin is {found}, the configuration says {pinned}")]
    Pin {
        /// The pin of what is there.
        found: Pin,
        /// The pin that the configuration wants.
        pinned: Pin,
    },
}

/// A group's root: everything that this end trusts leads to it.
/// Clones share what is disowned.
#[derive(Clone)]
pub struct Root {
    group: GroupId,
    certificate: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    disowned: Arc<RwLock<Vec<KeyId>>>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root of group {:02x?}", self.group.0)
    }
}

impl Root {
    /// Reads the root's certificate, which must be the pinned one.
    ///
    /// # Errors
    /// It cannot be read, or is another.
    pub fn load(path: &Path, group: GroupId, pin: Pin) -> Result<Self, RootError> {
        let pem = private::read_public(path)?;
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(|_| RootError::Encoding)?;
        Self::from_certificate(&certificate, group, pin)
    }

    /// From the root's certificate in DER, which must be the pinned one. The pin vouches for its key alone: nobody looks
    /// at its signature or validity.
    ///
    /// # Errors
    /// It is another, or none.
    pub fn from_certificate(der: &[u8], group: GroupId, pin: Pin) -> Result<Self, RootError> {
        let certificate = CertificateDer::from(der.to_vec());
        let spki = Parsed::new(&certificate).and_then(|c| c.spki()).map_err(|_| RootError::Encoding)?;
        let found = Pin::of(&spki);
        if found != pin {
            return Err(RootError::Pin { found, pinned: pin });
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| RootError::Encoding)?.to_owned();
        Ok(Self { group, certificate, anchor, disowned: Arc::default() })
    }

    /// Its certificate, as it was given.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The group.
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// Who a channel certificate proves its bearer to be.
    ///
    /// # Errors
    /// Its chain, validity, key, name, role or usage is not what it must be.
    pub fn channel(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, Fault> {
        let parsed = self.chain(leaf, intermediates, now)?;
        VerifyingKey::from_spki(&parsed.spki()?).map_err(|_| Fault::Key)?;
        parsed.identity()
    }

    /// The server whose duty key a certificate certifies, and that key. The root itself must have issued it: who holds
    /// an issuing authority can let hosts into the group, but must not be able to speak as a server's duty key.
    ///
    /// # Errors
    /// It is no duty certificate of this group, or anything stands between it and the root.
    pub fn duty(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(Name, VerifyingKey), Fault> {
        let (leaf, between) = chain.split_first().ok_or(Fault::Encoding)?;
        if !between.is_empty() {
            return Err(Fault::Chain("the root itself must have issued a duty certificate, with none between".into()));
        }
        let parsed = self.chain(leaf, &[], now)?;
        let key = VerifyingKey::from_spki(&parsed.spki()?).map_err(|_: KeyError| Fault::Encoding)?;
        let disowned = self.disowned.read().unwrap_or_else(PoisonError::into_inner);
        if disowned.contains(&key.id()) { Err(Fault::Disowned) } else { Ok((parsed.duty()?, key)) }
    }

    /// From now on these duty keys are not believed any more, and no others: their servers were removed.
    pub fn disown(&self, keys: Vec<KeyId>) {
        *self.disowned.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Parsed, Fault> {
        let parsed = Parsed::new(leaf)?;
        if intermediates.len() > CHAIN_LIMIT {
            return Err(Fault::Chain(format!("more than {CHAIN_LIMIT} certificates between")));
        }
        let refuse = |error: webpki::Error| match error {
            webpki::Error::CertExpired { .. }
            | webpki::Error::CertNotValidYet { .. }
            | webpki::Error::InvalidCertValidity => {
                let (from, to) = parsed.validity();
                Fault::Validity(from, to)
            }
            // A certificate of version 1 has no extensions, and so no name.
            webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::UnsupportedCertVersion => {
                match parsed.identity() {
                    Err(fault @ (Fault::Usage(_) | Fault::NoName)) => fault,
                    _ => Fault::Chain(format!("{error:?}")),
                }
            }
            error => Fault::Chain(format!("{error:?}")),
        };
        let end = EndEntityCert::try_from(leaf).map_err(refuse)?;
        // Both usages are wanted of a channel certificate; that it has them is checked by `Parsed::identity`. A duty
        // certificate has no extended key usage.
        let usage = KeyUsage::client_auth();
        end.verify_for_usage(&SIGNATURES, std::slice::from_ref(&self.anchor), intermediates, now, usage, None, None)
            .map_err(refuse)?;
        Ok(parsed)
    }
}

/// Certificates' signatures that fit, by hash, the one that was asked for last behind: an issuing CA and a duty
/// certificate come with every handshake and answer, and a peer's own certificate twice in one handshake.
static FITTED: Mutex<VecDeque<Digest>> = Mutex::new(VecDeque::new());
const FITTED_LIMIT: usize = 64;

/// Checks a signature, unless the same one over the same bytes by the same key has fitted before: that does not change.
/// What may change, validity and the way to the root, is looked at every time.
#[derive(Debug)]
struct Remembering(&'static dyn SignatureVerificationAlgorithm);

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let (of, by) = (self.0.signature_alg_id(), self.0.public_key_alg_id());
        let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
        let asked = sha256(&[&of, &by, &length(key), key, &length(message), message, signature]);
        // Nothing panics while it is held, and nothing waits.
        let fitted = || FITTED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = {
            let mut fitted = fitted();
            let known = fitted.iter().position(|known| *known == asked);
            known.and_then(|at| fitted.remove(at)).map(|known| fitted.push_back(known))
        };
        if known.is_none() {
            self.0.verify_signature(key, message, signature)?;
            let mut fitted = fitted();
            if fitted.len() >= FITTED_LIMIT {
                fitted.pop_front();
            }
            fitted.push_back(asked);
        }
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.0.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.0.signature_alg_id()
    }
}

/// Seconds since 1970 at which a certificate ends; 0 when it cannot be decoded.
pub fn not_after(certificate: &CertificateDer<'_>) -> u64 {
    Parsed::new(certificate).map_or(0, |parsed| parsed.validity().1)
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;

    use super::*;
    use crate::authority::tests::{GROUP, at, group, name, public};
    use crate::authority::{OwnCa, RootAuthority, certificates_pem};
    use crate::certificate::DUTY_URI;
    use crate::private::Scratch;

    #[test]
    fn a_pin_is_the_same_from_key_bytes_and_text() {
        let pin = Pin::of(b"abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((pin.to_string().as_str(), text.parse(), Pin::from(*pin.bytes())), (text, Ok(pin), pin));
        assert_eq!(pin.bytes(), &sha256(&[b"abc"]).0);
    }

    #[test]
    fn a_root_comes_from_its_file_or_its_certificate_and_gives_it_back() {
        let (group, scratch) = (group(), Scratch::new());
        let (certificate, pin, path) = (group.root.certificate(), group.root.pin(), scratch.0.join("root.pem"));
        private::write(&path, certificates_pem(&[certificate]).unwrap().as_bytes()).unwrap();
        for root in [Root::load(&path, GROUP, pin), Root::from_certificate(certificate, GROUP, pin)] {
            let root = root.unwrap();
            assert_eq!((root.group(), root.certificate()), (GROUP, certificate));
        }
        let (other, _) = RootAuthority::create("north", group.days()).unwrap();
        for root in [Root::load(&path, GROUP, other.pin()), Root::from_certificate(certificate, GROUP, other.pin())] {
            let Err(RootError::Pin { found, pinned }) = root else { panic!("{root:?}") };
            assert_eq!((found, pinned), (pin, other.pin()));
        }
        let longer = [certificate.as_ref(), &[0]].concat();
        for bad in [&[], &certificate[1..], &longer] {
            assert!(matches!(Root::from_certificate(bad, GROUP, pin), Err(RootError::Encoding)));
        }
        assert!(matches!(Root::load(&scratch.0.join("none"), GROUP, pin), Err(RootError::File(_))));
    }

    #[test]
    fn a_signature_that_has_fitted_is_not_checked_again_and_any_other_is() {
        let (group, key) = (group(), public());
        let (trusted, now) = (group.trusted(), at(group.from));
        let duty = group.root.duty(&name("srv.test"), &key, group.days()).unwrap();
        let fits = |der: &[u8], now| trusted.duty(&[CertificateDer::from(der.to_vec())], now).is_ok();
        for _ in 0..2 {
            assert!(fits(&duty, now));
        }
        // What was remembered of it says nothing of another signature, of other bytes, or of another time.
        for at in 0..duty.len() {
            let mut changed = duty.to_vec();
            changed[at] ^= 1;
            assert!(!fits(&changed, now), "byte {at}");
        }
        assert!(!fits(&duty, at(group.days().to + 1)) && fits(&duty, now));
    }

    #[test]
    fn a_channel_certificate_is_no_duty_certificate_and_the_other_way() {
        let (group, key) = (group(), public());
        let (trusted, now) = (group.trusted(), at(group.from));
        let duty = group.root.duty(&name("srv.test"), &key, group.days()).unwrap();
        assert_eq!(trusted.duty(std::slice::from_ref(&duty), now), Ok((name("srv.test"), key.clone())));
        assert_eq!(trusted.channel(&duty, &[], now), Err(Fault::Role(DUTY_URI.into())));
        let channel = group.issuing.channel(&name("srv.test"), Role::Server, &key, group.days()).unwrap();
        let chain = [channel, group.issuing.certificate().clone()];
        assert!(trusted.channel(&chain[0], &chain[1..], now).is_ok());
        let [_, by_root] = group.crossed(&name("srv.test"), &key);
        assert!(trusted.channel(&by_root, &[], now).is_ok());
        assert_eq!(trusted.duty(&[by_root], now), Err(Fault::Role(Role::Server.uri().into())));
        // No leaf is an authority, and no authority a leaf.
        assert!(trusted.channel(&chain[1], &[], now).is_err());
        assert!(trusted.duty(&chain[1..], now).is_err());
    }

    #[test]
    fn an_issuing_authority_makes_no_duty_keys() {
        let (group, key) = (group(), public());
        let (trusted, now, issuing) = (group.trusted(), at(group.from), group.issuing.certificate());
        let duty = group.root.duty(&name("srv.test"), &key, group.days()).unwrap();
        let [by_issuing, _] = group.crossed(&name("srv.test"), &key);
        // It leads to the root as well as any channel certificate, and says what the good one says.
        assert!(trusted.chain(&by_issuing, std::slice::from_ref(issuing), now).is_ok());
        assert_eq!(Parsed::new(&by_issuing).unwrap().duty(), Ok(name("srv.test")));
        let refused = |chain: &[_]| matches!(trusted.duty(chain, now), Err(Fault::Chain(_)));
        assert!(!refused(std::slice::from_ref(&duty)));
        assert!(refused(&[by_issuing.clone(), issuing.clone()]));
        assert!(refused(&[by_issuing.clone(), issuing.clone(), group.root.certificate().clone()]));
        assert!(refused(std::slice::from_ref(&by_issuing)));
        // Nor does one of the company's own PKI that the root has taken in.
        let pem = certificates_pem(&[issuing]).unwrap();
        let own = OwnCa::from_pem(pem.as_bytes(), group.from).unwrap();
        let cross = group.root.cross(&own, own.validity()).unwrap();
        assert!(trusted.chain(&by_issuing, std::slice::from_ref(&cross), now).is_ok());
        assert!(
            refused(&[by_issuing.clone(), cross.clone()])
                && refused(&[by_issuing.clone(), cross.clone(), issuing.clone()])
        );
        assert!(trusted.duty(&[cross], now).is_err());
        // Not even a good one may bring anything along.
        assert!(refused(&[duty, issuing.clone()]));
    }
}
