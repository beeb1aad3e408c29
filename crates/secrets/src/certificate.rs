//! What a certificate of the group must say. A channel certificate names exactly one host and one role and is good for
//! both ends of a channel; anything less or more is refused. Both directions stand here: what is written into a
//! certificate or request that is made, and what is read out of one.

use der::Decode as _;
use der::asn1::Utf8StringRef;
use der::oid::ObjectIdentifier;
use der::oid::db::rfc4519::COMMON_NAME;
use der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use wardline_proto::{Name, Role};
use x509_cert::Certificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

/// The URI that stands in the certificate of a server's duty key.
pub const DUTY_URI: &str = "urn:wardline:duty";
/// The URI, and the only name, in a certificate that says nothing: it lasts as long as the listener, and what it protects is
/// for somebody who proves himself by Kerberos.
pub const EPHEMERAL_URI: &str = "urn:wardline:ephemeral";
/// The most characters of a common name (RFC 5280, appendix A.1).
pub(crate) const COMMON_NAME_LIMIT: usize = 64;

/// Who a health service is, as its certificate says and its chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Role,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a certificate, or one with an extension that cannot be read.
    #[error("it cannot be decoded")]
    Encoding,
    /// It does not lead to the group's root.
    #[error("its chain does not lead to the group's root: {0}")]
    Chain(String),
    /// Outside of its validity.
    #[error("it is not valid now: it is valid from {0} to {1}, seconds since 1970")]
    Validity(u64, u64),
    /// No subject alternative name at all. A common name is not looked at.
    #[error("it has no subject alternative name")]
    NoName,
    /// Not exactly one DNS name and one URI.
    #[error("its subject alternative name must hold one DNS name and one role URI and nothing else; it holds {0}")]
    Names(String),
    /// The DNS name is no exact host name.
    #[error("its DNS name is refused: {0}")]
    Name(String),
    /// The URI is no role.
    #[error("its URI {0:?} is no role")]
    Role(String),
    /// The extended key usage is missing, or not exactly server and client authentication.
    #[error("its extended key usage must be server and client authentication and nothing else; it is {0}")]
    Usage(String),
    /// Its key is none that channels use.
    #[error("its key is not on P-256, as channel keys are")]
    Key,
    /// The duty key of a server that was removed.
    #[error("its server was removed from the group")]
    Disowned,
    /// The other end may prove itself by Kerberos only, and came with a certificate.
    #[error("it shows a certificate, and this end takes none of it")]
    Unwanted,
    /// It is a good certificate, but of somebody else.
    #[error("it belongs to {found}, but {expected} was expected")]
    Other {
        /// Whose it is.
        found: Identity,
        /// Who should have been there.
        expected: String,
    },
}

/// The facts of a certificate that leads to the group's root.
pub(crate) struct Parsed {
    certificate: Certificate,
}

impl Parsed {
    pub(crate) fn new(der: &[u8]) -> Result<Self, Fault> {
        Ok(Self { certificate: Certificate::from_der(der).map_err(|_| Fault::Encoding)? })
    }

    /// Seconds since 1970: from, to.
    pub(crate) fn validity(&self) -> (u64, u64) {
        let validity = self.certificate.tbs_certificate().validity();
        (validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs())
    }

    /// The one DNS name and the one URI.
    fn names(&self) -> Result<(Name, String), Fault> {
        let extension = self.certificate.tbs_certificate().get_extension::<SubjectAltName>();
        let Some((_, SubjectAltName(names))) = extension.map_err(|_| Fault::Encoding)? else {
            return Err(Fault::NoName);
        };
        match names.as_slice() {
            [GeneralName::DnsName(name), GeneralName::UniformResourceIdentifier(uri)]
            | [GeneralName::UniformResourceIdentifier(uri), GeneralName::DnsName(name)] => {
                let name = name.as_str().parse().map_err(|error| Fault::Name(format!("{error}")))?;
                Ok((name, uri.as_str().to_owned()))
            }
            others => Err(Fault::Names(describe(others))),
        }
    }

    /// Whether it says of itself that it says nothing.
    pub(crate) fn is_ephemeral(&self) -> bool {
        let extension = self.certificate.tbs_certificate().get_extension::<SubjectAltName>();
        let Ok(Some((_, SubjectAltName(names)))) = extension else { return false };
        matches!(names.as_slice(), [GeneralName::UniformResourceIdentifier(uri)] if uri.as_str() == EPHEMERAL_URI)
    }

    /// Who it is for, whatever it is good for.
    pub(crate) fn bearer(&self) -> Result<Identity, Fault> {
        let (name, uri) = self.names()?;
        let role = Role::from_uri(&uri).ok_or(Fault::Role(uri))?;
        Ok(Identity { name, role })
    }

    /// Who it is for, as a channel certificate.
    pub(crate) fn identity(&self) -> Result<Identity, Fault> {
        let identity = self.bearer()?;
        let usage = self.certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>();
        let Some((_, ExtendedKeyUsage(usage))) = usage.map_err(|_| Fault::Encoding)? else {
            return Err(Fault::Usage("missing".into()));
        };
        let has = |oid: ObjectIdentifier| usage.contains(&oid);
        if usage.len() != 2 || !has(ID_KP_SERVER_AUTH) || !has(ID_KP_CLIENT_AUTH) {
            let oids: Vec<_> = usage.iter().map(ToString::to_string).collect();
            return Err(Fault::Usage(oids.join(", ")));
        }
        Ok(identity)
    }

    /// The server whose duty key it certifies.
    pub(crate) fn duty(&self) -> Result<Name, Fault> {
        let (name, uri) = self.names()?;
        if uri == DUTY_URI { Ok(name) } else { Err(Fault::Role(uri)) }
    }

    /// The SubjectPublicKeyInfo in DER.
    pub(crate) fn spki(&self) -> Result<Vec<u8>, Fault> {
        use der::Encode as _;
        self.certificate.tbs_certificate().subject_public_key_info().to_der().map_err(|_| Fault::Encoding)
    }
}

/// The name of whom a certificate is for, as RFC 4514 writes it; `None` when it is no certificate.
pub fn subject(certificate: &[u8]) -> Option<String> {
    Certificate::from_der(certificate).ok().map(|parsed| parsed.tbs_certificate().subject().to_string())
}

/// What every certificate and request has: its common name as the subject.
pub(crate) fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // What is too long for a common name stands only among the alternative names, where everybody looks anyway.
    if common_name.chars().count() <= COMMON_NAME_LIMIT {
        params.distinguished_name.push(DnType::CommonName, common_name);
    }
    params
}

/// What channel and duty certificates, and requests for the former, have in common.
pub(crate) fn leaf(
    name: &Name,
    uri: &str,
    usages: &[ExtendedKeyUsagePurpose],
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = named(name.as_str());
    let (dns, uri) = (name.as_str().try_into()?, uri.try_into()?);
    params.subject_alt_names = vec![SanType::DnsName(dns), SanType::URI(uri)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    Ok(params)
}

/// What a channel certificate is good for: both ends of a channel.
pub(crate) const CHANNEL_USAGES: [ExtendedKeyUsagePurpose; 2] =
    [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];

/// The common name, if the subject is that and nothing else, in UTF-8.
pub(crate) fn common_name(subject: &x509_cert::name::Name) -> Option<&str> {
    let mut all = subject.iter();
    let (one, None) = (all.next()?, all.next()) else { return None };
    let text = (one.oid == COMMON_NAME).then(|| one.value.decode_as::<Utf8StringRef<'_>>().ok()).flatten()?;
    Some(text.as_str())
}

fn describe(names: &[GeneralName]) -> String {
    let word = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => format!("DNS {:?}", name.as_str()),
        GeneralName::UniformResourceIdentifier(uri) => format!("URI {:?}", uri.as_str()),
        GeneralName::IpAddress(_) => "an IP address".to_owned(),
        _ => "a name of another kind".to_owned(),
    };
    names.iter().take(8).map(word).collect::<Vec<_>>().join(", ")
}
