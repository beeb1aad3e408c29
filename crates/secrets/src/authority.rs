//! The authorities of a management group: how they are made, opened again, and what they issue. No clock is read here:
//! every time is an argument.
//!
//! ```text
//!  root, 20 years ──┬── issuing authority, 5 years ──── channel certificates of every member, 90 days
//!                   ├── cross certificate of the company's CA, in its place (`cross`)
//!                   └── duty certificates of the servers
//! ```

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand;
use der::{Decode as _, Encode as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyUsagePurpose, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use wardline_proto::{Name, Role};
use x509_cert::ext::pkix;
use zeroize::Zeroizing;

use crate::certificate::{CHANNEL_USAGES, DUTY_URI, common_name, leaf, named};
use crate::pair::Pair;
use crate::signature::{KeyError, KeyId, VerifyingKey};
use crate::trust::Pin;

const DAY: u64 = 24 * 3600;
/// How long a root is valid, seconds.
pub const ROOT_LIFETIME: u64 = 20 * 365 * DAY;
/// How long an issuing authority is valid, seconds.
pub const ISSUING_LIFETIME: u64 = 5 * 365 * DAY;
/// How long a channel certificate is valid unless somebody wants otherwise, seconds.
pub const CHANNEL_LIFETIME: u64 = 90 * DAY;
/// The last second that a certificate can name, that of the year 9999 (RFC 5280, section 4.1.2.5).
const LAST: u64 = 253_402_300_799;

/// Why an authority cannot be made or opened, or does not issue.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The private key.
    #[error("its private key: {0}")]
    Key(#[from] KeyError),
    /// The private key belongs to another certificate.
    #[error("its private key does not belong to its certificate")]
    OtherKey,
    /// Not one certificate in PEM.
    #[error("it is not one certificate in PEM")]
    Encoding,
    /// A certificate, but not of the authority that is wanted.
    #[error("it is no certificate of a group's {0} authority")]
    Kind(&'static str),
    /// The group's name.
    #[error("a group's name has 1 to 50 characters, none of them a control character")]
    GroupName,
    /// The validity ends before it begins, or after the year 9999.
    #[error("it would be valid from {0} to {1}, seconds since 1970, which cannot be")]
    Validity(u64, u64),
    /// It would still be valid when the authority no longer is.
    #[error("it would outlive the authority, which ends at {0}, seconds since 1970")]
    Outlives(u64),
    /// The certificate or request could not be made.
    #[error("it cannot be made: {0}")]
    Make(String),
}

pub(crate) fn made(error: rcgen::Error) -> AuthorityError {
    AuthorityError::Make(error.to_string())
}

/// When something is valid: both ends included, seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub from: u64,
    /// To.
    pub to: u64,
}

impl Validity {
    /// So many seconds from a time on.
    pub const fn lasting(from: u64, seconds: u64) -> Self {
        Self { from, to: from.saturating_add(seconds) }
    }

    pub(crate) fn write(self, params: &mut CertificateParams) -> Result<(), AuthorityError> {
        if self.from >= self.to || self.to > LAST {
            return Err(AuthorityError::Validity(self.from, self.to));
        }
        params.not_before = (UNIX_EPOCH + Duration::from_secs(self.from)).into();
        params.not_after = (UNIX_EPOCH + Duration::from_secs(self.to)).into();
        let mut serial = [0; 16];
        rand::fill(&mut serial).map_err(|_| KeyError::Randomness)?;
        params.serial_number = Some(serial.to_vec().into());
        Ok(())
    }
}

/// A certificate of an authority and its private key. So many authorities may stand below it: the path length
/// constraint of RFC 5280, section 4.2.1.9.
pub struct Authority<const BELOW: u8> {
    certificate: CertificateDer<'static>,
    group: String,
    issuer: CertificateParams,
    key: Pair,
    ends: u64,
}

/// A group's root: P-256, under it an issuing authority and duty certificates.
pub type RootAuthority = Authority<1>;
/// A group's issuing authority: P-256, under it channel certificates.
pub type IssuingAuthority = Authority<0>;

impl<const BELOW: u8> Authority<BELOW> {
    const KIND: &str = if BELOW == 0 { "issuing" } else { "root" };

    fn params(group: &str, validity: Validity) -> Result<CertificateParams, AuthorityError> {
        if group.is_empty() || group.chars().count() > 50 || group.chars().any(char::is_control) {
            return Err(AuthorityError::GroupName);
        }
        let mut params = named(&format!("{group} {}", Self::KIND));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(BELOW));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity.write(&mut params)?;
        Ok(params)
    }

    /// From the PEM of its certificate and of its private key (PKCS#8), as they were made here. Whether it leads to
    /// the pinned root is for [`crate::trust::Root`] to say.
    ///
    /// # Errors
    /// They are something else, or do not belong together.
    pub fn open(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from_pem_slice(certificate).map_err(|_| AuthorityError::Encoding)?;
        let parsed = x509_cert::Certificate::from_der(&certificate).map_err(|_| AuthorityError::Encoding)?;
        let (parsed, other) = (parsed.tbs_certificate(), || AuthorityError::Kind(Self::KIND));
        let subject = common_name(parsed.subject()).ok_or_else(other)?;
        let group = subject.strip_suffix(Self::KIND).and_then(|s| s.strip_suffix(' ')).ok_or_else(other)?.to_owned();
        let (_, constraints): (_, pkix::BasicConstraints) = parsed.get_extension().ok().flatten().ok_or_else(other)?;
        if !constraints.ca || constraints.path_len_constraint != Some(BELOW) {
            return Err(other());
        }
        let key = Pair::from_pem(key)?;
        if parsed.subject_public_key_info().to_der().ok() != Some(key.subject_public_key_info()) {
            return Err(AuthorityError::OtherKey);
        }
        let ends = parsed.validity().not_after.to_unix_duration().as_secs();
        Ok(Self { certificate, group, issuer: named(subject), key, ends })
    }

    /// Its certificate, self-signed or the root's.
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The group's name.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The id of its key.
    pub fn key(&self) -> KeyId {
        KeyId::of(&self.key.subject_public_key_info())
    }

    /// When its certificate ends, seconds since 1970.
    pub const fn not_after(&self) -> u64 {
        self.ends
    }

    pub(crate) fn sign(
        &self,
        mut params: CertificateParams,
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        if validity.to > self.ends {
            return Err(AuthorityError::Outlives(self.ends));
        }
        validity.write(&mut params)?;
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_params(&self.issuer, &self.key);
        params.signed_by(key, &issuer).map(Into::into).map_err(made)
    }

    fn member(
        &self,
        mut params: CertificateParams,
        key: &VerifyingKey,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        params.is_ca = IsCa::ExplicitNoCa;
        self.sign(params, key, validity)
    }
}

impl RootAuthority {
    /// A new group's root and its private key (PKCS#8 in PEM), which belongs where no network leads.
    ///
    /// # Errors
    /// The group's name or the validity cannot be, or the system has no randomness.
    pub fn create(group: &str, validity: Validity) -> Result<(Self, Zeroizing<String>), AuthorityError> {
        let issuer = Self::params(group, validity)?;
        let (key, pem) = Pair::generate()?;
        let certificate = issuer.self_signed(&key).map_err(made)?.into();
        Ok((Self { certificate, group: group.to_owned(), issuer, key, ends: validity.to }, pem))
    }

    /// The group's pin.
    pub fn pin(&self) -> Pin {
        Pin::of(&self.key.subject_public_key_info())
    }

    /// A new issuing authority of the group and its private key (PKCS#8 in PEM).
    ///
    /// # Errors
    /// The validity cannot be or is longer than the root's, or the system has no randomness.
    pub fn issue_ca(&self, validity: Validity) -> Result<(IssuingAuthority, Zeroizing<String>), AuthorityError> {
        let issuer = IssuingAuthority::params(&self.group, validity)?;
        let (key, pem) = Pair::generate()?;
        let certificate = self.sign(issuer.clone(), &key, validity)?;
        Ok((Authority { certificate, group: self.group.clone(), issuer, key, ends: validity.to }, pem))
    }

    /// The certificate of a server's duty key: one DNS name, [`DUTY_URI`], no extended key usage.
    ///
    /// # Errors
    /// The validity cannot be or is longer than the root's, or the system has no randomness.
    pub fn duty(
        &self,
        server: &Name,
        key: &VerifyingKey,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.member(leaf(server, DUTY_URI, &[]).map_err(made)?, key, validity)
    }
}

impl IssuingAuthority {
    /// A channel certificate: one DNS name, the role's URI, for both ends of a channel.
    ///
    /// # Errors
    /// The validity cannot be or is longer than the authority's, or the system has no randomness.
    pub fn channel(
        &self,
        name: &Name,
        role: Role,
        key: &VerifyingKey,
        validity: Validity,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        self.member(leaf(name, role.uri(), &CHANNEL_USAGES).map_err(made)?, key, validity)
    }
}

/// Certificates in PEM, one after the other; a channel certificate's file has the leaf first, then the issuing
/// authority's, and not the root's.
///
/// # Errors
/// Never in practice.
pub fn certificates_pem(chain: &[&CertificateDer<'_>]) -> Result<String, AuthorityError> {
    let pem = |der: &&CertificateDer<'_>| der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, der);
    chain.iter().map(pem).collect::<Result<_, _>>().map_err(|error| AuthorityError::Make(error.to_string()))
}

impl<const BELOW: u8> fmt::Debug for Authority<BELOW> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({} {})", Self::KIND, self.key())
    }
}

mod cross;
pub use cross::{CaFault, OwnCa};

#[cfg(test)]
pub(crate) mod tests {
    use rustls::pki_types::UnixTime;
    use wardline_proto::GroupId;

    use super::*;
    use crate::certificate::Fault;
    use crate::signature::SigningKey;
    use crate::trust::Root;

    pub(crate) const GROUP: GroupId = GroupId([3; 16]);

    /// A group, made just before now.
    pub(crate) struct Group {
        pub(crate) root: RootAuthority,
        pub(crate) issuing: IssuingAuthority,
        pems: [Zeroizing<String>; 2],
        pub(crate) from: u64,
    }

    pub(crate) fn group() -> Group {
        let from = UnixTime::now().as_secs() - 60;
        let (root, first) = RootAuthority::create("north", Validity::lasting(from, ROOT_LIFETIME)).unwrap();
        let (issuing, second) = root.issue_ca(Validity::lasting(from, ISSUING_LIFETIME)).unwrap();
        Group { root, issuing, pems: [first, second], from }
    }

    impl Group {
        pub(crate) fn trusted(&self) -> Root {
            Root::from_certificate(self.root.certificate(), GROUP, self.root.pin()).unwrap()
        }

        pub(crate) fn days(&self) -> Validity {
            Validity::lasting(self.from, CHANNEL_LIFETIME)
        }

        /// What neither authority makes: a duty certificate by the issuing one, a server's channel certificate by the
        /// root.
        pub(crate) fn crossed(&self, server: &Name, key: &VerifyingKey) -> [CertificateDer<'static>; 2] {
            let duty = self.issuing.member(leaf(server, DUTY_URI, &[]).unwrap(), key, self.days());
            let channel = leaf(server, Role::Server.uri(), &CHANNEL_USAGES).unwrap();
            [duty.unwrap(), self.root.member(channel, key, self.days()).unwrap()]
        }
    }

    pub(crate) fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    pub(crate) fn public() -> VerifyingKey {
        SigningKey::generate(GROUP).unwrap().0.public().unwrap()
    }

    pub(crate) fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn nothing_is_good_for_longer_than_what_it_leads_to() {
        let (group, key, web) = (group(), public(), name("web1.test"));
        let ends = group.from + 3600;
        let (short, _) = group.root.issue_ca(Validity { from: group.from, to: ends }).unwrap();
        let refused = short.channel(&web, Role::Agent, &key, group.days());
        assert!(matches!(refused, Err(AuthorityError::Outlives(end)) if end == ends));
        let beyond = Validity::lasting(group.from, ROOT_LIFETIME + 1);
        assert!(matches!(group.root.issue_ca(beyond), Err(AuthorityError::Outlives(_))));
        // What an authority that does not care about its own end would issue.
        let careless = Authority { ends: u64::MAX, ..short };
        let leaf = careless.channel(&web, Role::Agent, &key, group.days()).unwrap();
        let check = |now| group.trusted().channel(&leaf, std::slice::from_ref(careless.certificate()), at(now));
        assert!(check(ends).is_ok());
        assert!(matches!(check(ends + 1), Err(Fault::Validity(..))));
        for (from, to) in [(5, 5), (6, 5), (0, LAST + 1), (u64::MAX, u64::MAX)] {
            let made = RootAuthority::create("north", Validity { from, to });
            assert!(matches!(made, Err(AuthorityError::Validity(..))), "{from} {to}");
        }
        assert!(RootAuthority::create("north", Validity { from: 0, to: LAST }).is_ok());
    }

    #[test]
    fn an_authority_comes_back_from_its_files_and_from_no_others() {
        let group = group();
        let [root, issuing] =
            [group.root.certificate(), group.issuing.certificate()].map(|c| certificates_pem(&[c]).unwrap());
        let [root_key, issuing_key] = [0, 1].map(|i| group.pems[i].as_bytes());
        let again = RootAuthority::open(root.as_bytes(), root_key).unwrap();
        assert_eq!((again.group(), again.key(), again.not_after()), ("north", group.root.key(), group.root.ends));
        let again = IssuingAuthority::open(issuing.as_bytes(), issuing_key).unwrap();
        assert_eq!(format!("{again:?}"), format!("Authority(issuing {})", group.issuing.key()));
        let leaf = again.channel(&name("web1.test"), Role::Agent, &public(), group.days()).unwrap();
        let chain = std::slice::from_ref(again.certificate());
        assert!(group.trusted().channel(&leaf, chain, at(group.from)).is_ok());
        let serial =
            |der: &[u8]| x509_cert::Certificate::from_der(der).unwrap().tbs_certificate().serial_number().clone();
        assert_ne!(serial(&leaf), serial(again.certificate()));

        let open = |certificate: &str, key| IssuingAuthority::open(certificate.as_bytes(), key).unwrap_err();
        assert!(matches!(open(&root, root_key), AuthorityError::Kind("issuing")));
        assert!(matches!(open(&certificates_pem(&[&leaf]).unwrap(), issuing_key), AuthorityError::Kind(_)));
        assert!(matches!(open(&issuing, root_key), AuthorityError::OtherKey));
        assert!(matches!(open(&issuing, b""), AuthorityError::Key(KeyError::Private)));
        assert!(matches!(open("", issuing_key), AuthorityError::Encoding));
        for bad in ["", "a\nb", &"x".repeat(51)] {
            assert!(matches!(RootAuthority::create(bad, group.days()), Err(AuthorityError::GroupName)), "{bad:?}");
        }
    }
}
