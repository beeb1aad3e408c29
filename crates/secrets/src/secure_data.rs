//! Secure data: a secret that one health service can open and nobody on the way. It says inside what it is, and gives
//! its secret only to who expects exactly that.
//!
//! ```text
//!  seal:  Header, secret ──> cms (one recipient, AES-256-GCM) ──> DER
//!  open:  DER ──> cms: one of our keys ──> Opened ──> expect(Header) ──> the secret
//! ```
//!
//! The format, byte for byte, is described in `docs/reference/secure-data.md`.

use std::fmt;

use aws_lc_rs::error::Unspecified;
use bytes::Bytes;
use wardline_proto::message::{decode, encode};
pub use wardline_proto::secure_data::Purpose;
use wardline_proto::secure_data::{self as wire, FORMAT, HEADER_LIMIT};
use wardline_proto::{GroupId, Name};
use zeroize::Zeroizing;

use crate::sealing::{SealingCertificate, SealingKey};
use crate::signature::KeyId;

pub(crate) mod cms;

/// The most bytes of a secret that is sealed.
pub const SECRET_LIMIT: usize = 128 * 1024;
/// The most bytes of secure data that is looked at.
pub const LIMIT: usize = SECRET_LIMIT + 2048;

/// What secure data says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The group.
    pub group: GroupId,
    /// Who is to open it.
    pub recipient: Name,
    /// The account's id.
    pub account: [u8; 16],
    /// The account's version.
    pub version: u64,
    /// What the recipient may do with it.
    pub purpose: Purpose,
}

/// Why something is not taken as secure data, or not as the one that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not DER, not the whole of it, or with more in it or behind it than there can be.
    #[error("it is no secure data, or was cut short")]
    Encoding,
    /// CMS, but not the one kind of it that is used here.
    #[error("it is CMS of another kind: {0}")]
    Unsupported(&'static str),
    /// More than [`LIMIT`].
    #[error("it has {0} bytes, more than {LIMIT}")]
    Long(usize),
    /// Sealed to a key that is not there (any more).
    #[error("it was sealed to another key")]
    OtherKey,
    /// Changed since it was sealed.
    #[error("it was damaged or changed")]
    Damaged,
    /// Opened, but it does not say what it is.
    #[error("it does not say whose secret it is")]
    NoHeader,
    /// Of a format that this program does not know.
    #[error("it is of format {0}, which this program does not know")]
    Format(u32),
    /// It is another one than was expected.
    #[error("it is for another {0} than it is used for")]
    Other(&'static str),
}

impl From<der::Error> for Refusal {
    fn from(_: der::Error) -> Self {
        Self::Encoding
    }
}

/// Why nothing is sealed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The certificate is somebody else's.
    #[error("the sealing certificate belongs to {found}, not to {expected}")]
    Recipient {
        /// Whose it is.
        found: Name,
        /// Who is to get the secret.
        expected: Name,
    },
    /// More than [`SECRET_LIMIT`].
    #[error("it has {0} bytes, more than {SECRET_LIMIT}")]
    Long(usize),
    /// The crypto library did not do it.
    #[error("the system has no randomness")]
    Randomness,
}

/// Seals a secret to the health service that the header names. Each time the result is another one.
///
/// # Errors
/// The certificate is not the recipient's, the secret is too long, or the system has no randomness.
pub fn seal(certificate: &SealingCertificate, header: &Header, secret: &[u8]) -> Result<Vec<u8>, SealError> {
    if certificate.name() != &header.recipient {
        return Err(SealError::Recipient { found: certificate.name().clone(), expected: header.recipient.clone() });
    }
    if secret.len() > SECRET_LIMIT {
        return Err(SealError::Long(secret.len()));
    }
    let header = encode(&header.to_wire(certificate.id()));
    let length = u16::try_from(header.len()).map_err(|_| SealError::Long(header.len()))?.to_be_bytes();
    let sealed = cms::seal(certificate.recipient(), &[&length, &header, secret]);
    sealed.map_err(|Unspecified| SealError::Randomness)
}

/// Opens secure data by whichever of these keys it was sealed to.
///
/// # Errors
/// It is no secure data, not for one of them, or was changed.
pub fn open<'a>(keys: impl IntoIterator<Item = &'a SealingKey>, sealed: &[u8]) -> Result<Opened, Refusal> {
    let (key, content) = opened(keys, sealed)?;
    Opened::read(key, content)
}

fn opened<'a>(
    keys: impl IntoIterator<Item = &'a SealingKey>,
    sealed: &[u8],
) -> Result<(&'a SealingKey, Zeroizing<Vec<u8>>), Refusal> {
    let envelope = taken_apart(sealed)?;
    let mut keys = keys.into_iter();
    let key = keys.find(|key| envelope.is_for(key.certificate().recipient())).ok_or(Refusal::OtherKey)?;
    Ok((key, envelope.open(key.private())?))
}

/// Takes bytes apart as secure data without opening them.
///
/// # Errors
/// They are none.
pub fn inspect(sealed: &[u8]) -> Result<(), Refusal> {
    taken_apart(sealed).map(|_| ())
}

fn taken_apart(sealed: &[u8]) -> Result<cms::Envelope<'_>, Refusal> {
    if sealed.len() > LIMIT {
        return Err(Refusal::Long(sealed.len()));
    }
    cms::Envelope::parse(sealed)
}

/// Secure data that was opened. What is in it comes out by [`Self::expect`] alone.
pub struct Opened {
    header: Header,
    secret: Zeroizing<Vec<u8>>,
}

impl Opened {
    fn read(key: &SealingKey, mut content: Zeroizing<Vec<u8>>) -> Result<Self, Refusal> {
        let (header, to, length) = Header::read(&content)?;
        // Only what was sealed for another key and opened by its owner, then sealed by hand to ours, comes here.
        if to != key.id() {
            return Err(Refusal::Other("key"));
        }
        content.drain(..length);
        Ok(Self { header, secret: content })
    }

    /// The secret, when it is the expected one. Moves no byte of it elsewhere.
    ///
    /// # Errors
    /// It is another one; the first thing that differs is named.
    pub fn expect(self, expected: &Header) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let Header { group, recipient, account, version, purpose } = &self.header;
        let same = [
            ("group", *group == expected.group),
            ("recipient", *recipient == expected.recipient),
            ("account", *account == expected.account),
            ("version", *version == expected.version),
            ("purpose", *purpose == expected.purpose),
        ];
        match same.iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(Refusal::Other(what)),
            None => Ok(self.secret),
        }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opened({:?})", self.header)
    }
}

impl Header {
    fn to_wire(&self, key: KeyId) -> wire::Header {
        wire::Header {
            format: FORMAT,
            group: self.group.0.to_vec().into(),
            recipient: self.recipient.to_string(),
            key: key.0.to_vec().into(),
            account: self.account.to_vec().into(),
            version: self.version,
            purpose: self.purpose.into(),
        }
    }

    /// The header that opened content begins with, the key that it names, and how many bytes it takes up.
    ///
    /// # Errors
    /// There is none, or none that this program knows.
    pub fn read(content: &[u8]) -> Result<(Self, KeyId, usize), Refusal> {
        let (length, rest) = content.split_first_chunk().ok_or(Refusal::NoHeader)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let bytes = rest.get(..length).filter(|_| length <= HEADER_LIMIT).ok_or(Refusal::NoHeader)?;
        let header: wire::Header = decode(&Bytes::copy_from_slice(bytes)).ok_or(Refusal::NoHeader)?;
        if header.format > FORMAT {
            return Err(Refusal::Format(header.format));
        }
        // What says more than is known here, or says it twice, is not written like this.
        let same = header.format == FORMAT && encode(&header) == bytes;
        let read = if same { Self::from_wire(&header) } else { None };
        read.map(|(header, key)| (header, key, 2 + length)).ok_or(Refusal::NoHeader)
    }

    fn from_wire(header: &wire::Header) -> Option<(Self, KeyId)> {
        let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok();
        let purpose = Purpose::try_from(header.purpose).ok().filter(|purpose| *purpose != Purpose::Unspecified)?;
        let recipient = header.recipient.parse().ok()?;
        let (group, account) = (GroupId(id(&header.group)?), id(&header.account)?);
        Some((Self { group, recipient, account, version: header.version, purpose }, KeyId(id(&header.key)?)))
    }
}

#[cfg(test)]
mod tests;
