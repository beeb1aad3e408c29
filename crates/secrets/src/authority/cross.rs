//! A CA of another PKI is taken into the group: the root certifies that CA's key under that CA's name (a cross
//! certificate, RFC 4949), so that what it issues leads to the root that everybody has pinned.
//!
//! ```text
//!  company's root ── company's CA ──┐
//!                                   ├── channel certificates
//!  group's root ── cross certificate┘
//! ```
//!
//! Only channel certificates come of it: no CA can stand below (path length 0), and no duty certificate counts that the
//! root has not issued itself ([`crate::trust::Root::duty`]).

use der::asn1::{BitString, GeneralizedTime, OctetString, UintRef, UtcTime};
use der::oid::AssociatedOid;
use der::oid::ObjectIdentifier;
use der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use der::oid::db::rfc5912::{ECDSA_WITH_SHA_256, ID_EC_PUBLIC_KEY, RSA_ENCRYPTION, SECP_256_R_1, SECP_384_R_1};
use der::{DateTime, Decode as _, Encode, Sequence};
use rcgen::SigningKey as _;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, NameConstraints,
    SubjectKeyIdentifier,
};
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};
use x509_cert::time::Time;

use super::{AuthorityError, Duration, KeyError, RootAuthority, Validity, made, rand};

/// The bytes that the modulus of a CA's RSA key may have: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a file does not name a CA that the group can take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaFault {
    /// Not PEM, or what is in it is no certificate.
    #[error("it is no certificate in PEM; convert one in DER by `openssl x509 -inform DER -in FILE`")]
    Encoding,
    /// More than one.
    #[error("it holds {0} certificates; leave in it only that of the CA that issues channel certificates")]
    Several(usize),
    /// A certificate that may not sign others.
    #[error("it is no CA's: it needs the basic constraint CA:TRUE and, if it has a key usage, keyCertSign")]
    NoCa,
    /// Outside of its validity.
    #[error("it is not valid now, so nothing that it issues is; take the CA's present certificate")]
    Validity,
    /// A key whose signatures nobody in the group would check.
    #[error("its key is neither RSA with 2048 to 8192 bits nor on P-256 or P-384; issue by another CA")]
    Key,
}

/// A CA of another PKI.
#[derive(Clone, Debug)]
pub struct OwnCa {
    der: CertificateDer<'static>,
    parsed: Certificate,
}

impl OwnCa {
    /// From the PEM of its one certificate, which must be good at a moment, seconds since 1970. Who issued it does not
    /// matter: whoever names it vouches for it.
    ///
    /// # Errors
    /// What it misses.
    pub fn from_pem(pem: &[u8], now: u64) -> Result<Self, CaFault> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let [der] = <[_; 1]>::try_from(all.map_err(|_| CaFault::Encoding)?).map_err(|all| match all.len() {
            0 => CaFault::Encoding,
            count => CaFault::Several(count),
        })?;
        let parsed = Certificate::from_der(&der).map_err(|_| CaFault::Encoding)?;
        let ca = Self { der, parsed };
        let is_ca = ca.extension::<BasicConstraints>()?.is_some_and(|constraints| constraints.ca);
        let signs = ca.extension::<KeyUsage>()?.is_none_or(|usage| usage.key_cert_sign());
        if !is_ca || !signs {
            return Err(CaFault::NoCa);
        }
        let Validity { from, to } = ca.validity();
        if !(from..=to).contains(&now) {
            return Err(CaFault::Validity);
        }
        ca.has_usable_key().then_some(ca).ok_or(CaFault::Key)
    }

    /// Its certificate.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its name, as RFC 4514 writes it.
    pub fn name(&self) -> String {
        self.parsed.tbs_certificate().subject().to_string()
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        let validity = self.parsed.tbs_certificate().validity();
        let [from, to] = [validity.not_before, validity.not_after].map(|time| time.to_unix_duration().as_secs());
        Validity { from, to }
    }

    fn extension<'a, T: der::Decode<'a> + AssociatedOid>(&'a self) -> Result<Option<T>, CaFault> {
        let found = self.parsed.tbs_certificate().get_extension().map_err(|_| CaFault::Encoding)?;
        Ok(found.map(|(_, extension)| extension))
    }

    fn has_usable_key(&self) -> bool {
        let SubjectPublicKeyInfo { algorithm, subject_public_key } =
            self.parsed.tbs_certificate().subject_public_key_info();
        let parameters = algorithm.parameters.as_ref();
        match algorithm.oid {
            ID_EC_PUBLIC_KEY => parameters
                .and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok())
                .is_some_and(|curve| [SECP_256_R_1, SECP_384_R_1].contains(&curve)),
            RSA_ENCRYPTION => {
                let key = subject_public_key.as_bytes().and_then(|key| RsaKey::from_der(key).ok());
                key.is_some_and(|key| MODULUS.contains(&key.modulus.as_bytes().len()))
            }
            _ => false,
        }
    }
}

/// An RSA public key (RFC 8017, appendix A.1.1).
#[derive(Sequence)]
struct RsaKey<'a> {
    modulus: UintRef<'a>,
    _exponent: UintRef<'a>,
}

/// A certificate's signed part (RFC 5280, section 4.1), always of version 3.
#[derive(Sequence)]
struct Signed {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT")]
    version: u8,
    serial: SerialNumber,
    algorithm: AlgorithmIdentifier<der::Any>,
    issuer: x509_cert::name::Name,
    validity: x509_cert::time::Validity,
    subject: x509_cert::name::Name,
    key: SubjectPublicKeyInfo<der::Any, BitString>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT")]
    extensions: Vec<Extension>,
}

impl RootAuthority {
    /// The certificate of another PKI's CA under this root: its name, key and name constraints, and leave to issue
    /// certificates for both ends of a channel, and no CAs.
    ///
    /// # Errors
    /// The validity cannot be or is longer than the root's, or the system has no randomness.
    pub fn cross(&self, ca: &OwnCa, validity: Validity) -> Result<CertificateDer<'static>, AuthorityError> {
        if validity.to > self.ends {
            return Err(AuthorityError::Outlives(self.ends));
        }
        let unmade = |error: der::Error| AuthorityError::Make(error.to_string());
        let root = Certificate::from_der(&self.certificate).map_err(unmade)?;
        let (root, ca) = (root.tbs_certificate(), ca.parsed.tbs_certificate());
        let mut extensions = vec![
            extension(&BasicConstraints { ca: true, path_len_constraint: Some(0) }, true).map_err(unmade)?,
            extension(&KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign), true).map_err(unmade)?,
            extension(&ExtendedKeyUsage(vec![ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH]), false).map_err(unmade)?,
        ];
        if let Some((_, SubjectKeyIdentifier(id))) = root.get_extension().map_err(unmade)? {
            let (authority_cert_issuer, authority_cert_serial_number) = (None, None);
            let key_identifier = Some(id);
            let by = AuthorityKeyIdentifier { key_identifier, authority_cert_issuer, authority_cert_serial_number };
            extensions.push(extension(&by, false).map_err(unmade)?);
        }
        let kept = [SubjectKeyIdentifier::OID, NameConstraints::OID];
        let all = ca.extensions().into_iter().flatten();
        extensions.extend(all.filter(|extension| kept.contains(&extension.extn_id)).cloned());

        let mut serial = [0; 16];
        rand::fill(&mut serial).map_err(|_| KeyError::Randomness)?;
        let algorithm = AlgorithmIdentifier { oid: ECDSA_WITH_SHA_256, parameters: None };
        let signed = Signed {
            version: 2,
            serial: SerialNumber::new(&serial).map_err(unmade)?,
            algorithm: algorithm.clone(),
            issuer: root.subject().clone(),
            validity: x509_cert::time::Validity::new(
                time(validity.from).map_err(unmade)?,
                time(validity.to).map_err(unmade)?,
            ),
            subject: ca.subject().clone(),
            key: ca.subject_public_key_info().clone(),
            extensions,
        };
        let signature = self.key.sign(&signed.to_der().map_err(unmade)?).map_err(made)?;
        let signature = BitString::from_bytes(&signature).map_err(unmade)?;
        let certificate = Whole { signed, algorithm, signature }.to_der().map_err(unmade)?;
        Ok(certificate.into())
    }
}

/// A certificate (RFC 5280, section 4.1).
#[derive(Sequence)]
struct Whole {
    signed: Signed,
    algorithm: AlgorithmIdentifier<der::Any>,
    signature: BitString,
}

/// A moment, seconds since 1970, in the form that its year wants (RFC 5280, section 4.1.2.5).
fn time(seconds: u64) -> der::Result<Time> {
    let at = DateTime::from_unix_duration(Duration::from_secs(seconds))?;
    Ok(UtcTime::from_date_time(at).map_or_else(|_| GeneralizedTime::from_date_time(at).into(), Time::from))
}

fn extension<T: Encode + AssociatedOid>(value: &T, critical: bool) -> der::Result<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

#[cfg(test)]
mod tests;
