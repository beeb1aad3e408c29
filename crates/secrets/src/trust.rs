//! The group's root, known by its pin, and what leads to it.

use std::path::Path;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use wardline_proto::GroupId;
use wardline_proto::Name;
use webpki::aws_lc_rs::ECDSA_P256_SHA256;
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate::{Fault, Identity, Parsed};
use crate::private;
use crate::signature::{KeyError, VerifyingKey, sha256};

/// The most certificates between a leaf and the root.
const CHAIN_LIMIT: usize = 4;

/// The pin of a group: SHA-256 over the SubjectPublicKeyInfo of its root. Written `sha256:` and 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin([u8; 32]);

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
    /// Not one certificate in PEM.
    #[error("it is not one certificate in PEM")]
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
#[derive(Clone)]
pub struct Root {
    group: GroupId,
    anchor: TrustAnchor<'static>,
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
        let spki = Parsed::new(&certificate).and_then(|c| c.spki()).map_err(|_| RootError::Encoding)?;
        let found = Pin(sha256(&[&spki]).0);
        if found != pin {
            return Err(RootError::Pin { found, pinned: pin });
        }
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|_| RootError::Encoding)?.to_owned();
        Ok(Self { group, anchor })
    }

    /// The group.
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// Who a channel certificate proves its bearer to be.
    ///
    /// # Errors
    /// Its chain, validity, name, role or usage is not what it must be.
    pub fn channel(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Identity, Fault> {
        self.chain(leaf, intermediates, now)?.identity()
    }

    /// The server whose duty key a certificate certifies, and that key.
    ///
    /// # Errors
    /// It is no duty certificate of this group.
    pub fn duty(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(Name, VerifyingKey), Fault> {
        let (leaf, intermediates) = chain.split_first().ok_or(Fault::Encoding)?;
        let parsed = self.chain(leaf, intermediates, now)?;
        let key = VerifyingKey::from_spki(&parsed.spki()?).map_err(|_: KeyError| Fault::Encoding)?;
        Ok((parsed.duty()?, key))
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
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                let (from, to) = parsed.validity();
                Fault::Validity(from, to)
            }
            webpki::Error::RequiredEkuNotFoundContext(_) => match parsed.identity() {
                Err(fault @ Fault::Usage(_)) => fault,
                _ => Fault::Chain(format!("{error:?}")),
            },
            error => Fault::Chain(format!("{error:?}")),
        };
        let end = EndEntityCert::try_from(leaf).map_err(refuse)?;
        // Both usages are wanted of a channel certificate; that it has them is checked by `Parsed::identity`. A duty
        // certificate has no extended key usage.
        let usage = KeyUsage::client_auth();
        end.verify_for_usage(
            &[ECDSA_P256_SHA256],
            std::slice::from_ref(&self.anchor),
            intermediates,
            now,
            usage,
            None,
            None,
        )
        .map_err(refuse)?;
        Ok(parsed)
    }
}

/// Seconds since 1970 at which a certificate ends; 0 when it cannot be decoded.
pub fn not_after(certificate: &CertificateDer<'_>) -> u64 {
    Parsed::new(certificate).map_or(0, |parsed| parsed.validity().1)
}
