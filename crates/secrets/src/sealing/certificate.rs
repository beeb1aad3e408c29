//! A sealing certificate, read with every need checked. Each need that is missed has a fault of its own.

use std::fmt;

use aws_lc_rs::agreement::{ECDH_P256, ParsedPublicKey, UnparsedPublicKey};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey as SignedBy};
use der::asn1::{AnyRef, ObjectIdentifier, OctetString, UintRef};
use der::oid::db::{rfc5280, rfc5912};
use der::{Decode as _, Encode as _};
use rustls_pki_types::CertificateDer;
use wardline_proto::{Name, Role};
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, KeyUsages};
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::{Certificate, TbsCertificate, Version};

use crate::authority::Validity;
use crate::certificate::{Fault, Identity, Parsed};
use crate::secure_data::cms::Recipient;
use crate::signature::{KeyError, KeyId, VerifyingKey};

const DAY: u64 = 24 * 3600;
/// The longest validity, days.
const LONGEST: u64 = 400;
/// The most bytes of a certificate that is looked at.
const LIMIT: usize = 4096;

/// The need that a sealing certificate misses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealingFault {
    /// Not one certificate of version 3 in DER.
    #[error("it is no X.509 certificate of version 3 in DER")]
    Encoding,
    /// The key is of another type, or one that anybody could break.
    #[error("its key is {0}; a sealing key is on P-256, uncompressed")]
    Key(String),
    /// It was not signed by its own key, or by another algorithm.
    #[error("it is not signed by its own key with ECDSA and SHA-256")]
    Signature,
    /// Its names.
    #[error(transparent)]
    Names(#[from] Fault),
    /// It can do more or other than agree on keys.
    #[error("its key usage must be key agreement and nothing else")]
    Usage,
    /// An authority, a channel certificate, or something else that it must not be.
    #[error("it has an extension that a sealing certificate does not have: {0}")]
    Extension(String),
    /// Its subject key identifier is another key's.
    #[error("its subject key identifier is not the id of its key")]
    KeyIdentifier,
    /// Valid for too long.
    #[error("it is valid for {0} days, more than {LONGEST}")]
    Long(u64),
    /// Not valid yet.
    #[error("it is not valid before {0}, seconds since 1970; whose clock is wrong?")]
    NotYet(u64),
    /// Not valid any more.
    #[error("it ended at {0}, seconds since 1970; its health service makes another one at its start")]
    Ended(u64),
    /// The private key.
    #[error("its private key: {0}")]
    Private(#[from] KeyError),
    /// The private key is another one's.
    #[error("its private key does not belong to it")]
    OtherKey,
}

/// A health service's sealing certificate: what it must say, it says. Nobody but its own key vouches for it.
#[derive(Clone)]
pub struct SealingCertificate {
    der: CertificateDer<'static>,
    identity: Identity,
    validity: Validity,
    recipient: Recipient,
}

impl SealingCertificate {
    /// Reads the certificate of a health service, to be sealed to now, seconds since 1970.
    ///
    /// # Errors
    /// The first need that it misses.
    pub fn read(der: &[u8], name: &Name, role: Role, now: u64) -> Result<Self, SealingFault> {
        let certificate = Self::parse(der, name, role)?;
        certificate.valid(now).map(|()| certificate)
    }

    /// As [`Self::read`], to be shown at any time.
    ///
    /// # Errors
    /// The first need that it misses.
    pub fn read_at_any_time(der: &[u8], name: &Name, role: Role) -> Result<Self, SealingFault> {
        Self::parse(der, name, role)
    }

    pub(super) fn parse(der: &[u8], name: &Name, role: Role) -> Result<Self, SealingFault> {
        let bounded = (der.len() <= LIMIT).then_some(der).ok_or(SealingFault::Encoding)?;
        let parsed = Certificate::from_der(bounded).map_err(|_| SealingFault::Encoding)?;
        let tbs = parsed.tbs_certificate();
        if tbs.version() != Version::V3 {
            return Err(SealingFault::Encoding);
        }
        let (id, key) = key(tbs.subject_public_key_info())?;
        self_signed(&parsed, key.as_ref())?;
        extensions(tbs, id)?;
        let identity = Parsed::new(der)?.bearer()?;
        if identity.name != *name || identity.role != role {
            return Err(Fault::Other { found: identity, expected: format!("{role} {name}") }.into());
        }
        let seconds = |time: &x509_cert::time::Time| time.to_unix_duration().as_secs();
        let (from, to) = (seconds(&tbs.validity().not_before), seconds(&tbs.validity().not_after));
        let days = to.saturating_sub(from).div_ceil(DAY);
        if days > LONGEST {
            return Err(SealingFault::Long(days));
        }
        let (issuer, serial) = (tbs.issuer().to_der(), tbs.serial_number().to_der());
        let both = issuer.and_then(|issuer| Ok([issuer, serial?].concat())).map_err(|_| SealingFault::Encoding)?;
        let sequence = AnyRef::new(der::Tag::Sequence, &both).and_then(|sequence| sequence.to_der());
        let recipient = Recipient { id, issuer_and_serial: sequence.map_err(|_| SealingFault::Encoding)?, key };
        Ok(Self { der: der.to_vec().into(), identity, validity: Validity { from, to }, recipient })
    }

    /// That it is valid at a time, seconds since 1970.
    ///
    /// # Errors
    /// It is not yet, or not any more.
    pub const fn valid(&self, now: u64) -> Result<(), SealingFault> {
        match self.validity {
            Validity { from, .. } if now < from => Err(SealingFault::NotYet(from)),
            Validity { to, .. } if now > to => Err(SealingFault::Ended(to)),
            _ => Ok(()),
        }
    }

    /// The certificate in DER.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The id of its key.
    pub const fn id(&self) -> KeyId {
        self.recipient.id
    }

    /// Whose it is.
    pub const fn name(&self) -> &Name {
        &self.identity.name
    }

    /// What that health service is.
    pub const fn role(&self) -> Role {
        self.identity.role
    }

    /// When it is valid.
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    pub(crate) const fn recipient(&self) -> &Recipient {
        &self.recipient
    }
}

impl fmt::Debug for SealingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingCertificate({}, {})", self.identity, self.id())
    }
}

/// The key, which is on P-256 and not at its generator: that one's private half is 1.
fn key(spki: &SubjectPublicKeyInfoOwned) -> Result<(KeyId, ParsedPublicKey), SealingFault> {
    let refused = |what: &str| SealingFault::Key(what.to_owned());
    let der = spki.to_der().map_err(|_| SealingFault::Encoding)?;
    let Ok(verifying) = VerifyingKey::from_spki(&der) else { return Err(SealingFault::Key(describe(spki))) };
    let key = UnparsedPublicKey::new(&ECDH_P256, verifying.point());
    let key = ParsedPublicKey::try_from(&key).map_err(|_| refused("no point of the curve"))?;
    let x = verifying.point().get(1..33);
    if x == Some(&GENERATOR) {
        return Err(refused("one whose private half everybody knows"));
    }
    Ok((verifying.id(), key))
}

/// The x coordinate of the generator of P-256 (SEC 2, section 2.4.2), which belongs to the private keys 1 and -1.
const GENERATOR: [u8; 32] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03, 0x7d,
    0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
];

/// What kind of key it is that is none on P-256.
fn describe(spki: &SubjectPublicKeyInfoOwned) -> String {
    let algorithm = &spki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    match (algorithm.oid, curve) {
        (rfc5912::RSA_ENCRYPTION, _) => match spki.subject_public_key.as_bytes().and_then(modulus) {
            Some(bits) => format!("RSA of {bits} bits"),
            None => "RSA".to_owned(),
        },
        (rfc5912::ID_EC_PUBLIC_KEY, Some(rfc5912::SECP_256_R_1)) => "no uncompressed point of P-256".to_owned(),
        (rfc5912::ID_EC_PUBLIC_KEY, Some(curve)) => match curve {
            rfc5912::SECP_384_R_1 => "on P-384".to_owned(),
            rfc5912::SECP_521_R_1 => "on P-521".to_owned(),
            other => format!("on the curve {other}"),
        },
        (other, _) => format!("of type {other}"),
    }
}

/// How many bits the modulus of an RSAPublicKey has (RFC 8017, appendix A.1.1).
fn modulus(key: &[u8]) -> Option<usize> {
    let modulus = AnyRef::from_der(key).ok()?.sequence(|reader| {
        let modulus = UintRef::decode(reader)?;
        UintRef::decode(reader).map(|_| modulus)
    });
    let bytes = modulus.ok()?.as_bytes();
    Some(bytes.len() * 8 - usize::try_from(bytes.first()?.leading_zeros()).ok()?)
}

fn self_signed(parsed: &Certificate, point: &[u8]) -> Result<(), SealingFault> {
    let tbs = parsed.tbs_certificate();
    let algorithm = parsed.signature_algorithm();
    let signed = tbs.to_der().map_err(|_| SealingFault::Encoding)?;
    let signature = parsed.signature().as_bytes().unwrap_or_default();
    let right = algorithm == tbs.signature()
        && algorithm.oid == rfc5912::ECDSA_WITH_SHA_256
        && algorithm.parameters.is_none()
        && tbs.issuer() == tbs.subject()
        && SignedBy::new(&ECDSA_P256_SHA256_ASN1, point).verify(&signed, signature).is_ok();
    right.then_some(()).ok_or(SealingFault::Signature)
}

/// Names, key usage, the key's id, "no authority": each once at most, and no other.
fn extensions(tbs: &TbsCertificate, id: KeyId) -> Result<(), SealingFault> {
    let (mut seen, mut usage, mut key) = (Vec::new(), false, false);
    for extension in tbs.extensions().map(Vec::as_slice).unwrap_or_default() {
        let (oid, value) = (extension.extn_id, extension.extn_value.as_bytes());
        let fine = match oid {
            rfc5280::ID_CE_SUBJECT_ALT_NAME => true,
            rfc5280::ID_CE_BASIC_CONSTRAINTS => {
                BasicConstraints::from_der(value).is_ok_and(|constraints| !constraints.ca)
            }
            rfc5280::ID_CE_KEY_USAGE => {
                usage = KeyUsage::from_der(value) == Ok(KeyUsage(KeyUsages::KeyAgreement.into()));
                true
            }
            rfc5280::ID_CE_SUBJECT_KEY_IDENTIFIER => {
                key = OctetString::from_der(value).is_ok_and(|found| found.as_bytes() == id.0);
                true
            }
            _ => false,
        };
        if !fine || seen.contains(&oid) {
            return Err(SealingFault::Extension(oid.to_string()));
        }
        seen.push(oid);
    }
    usage.then_some(()).ok_or(SealingFault::Usage)?;
    key.then_some(()).ok_or(SealingFault::KeyIdentifier)
}
