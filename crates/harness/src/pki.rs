//! A group's keys and certificates: good ones, and every kind of bad one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData as _,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use wardline_proto::Role;

use crate::private;
use crate::scratch::write;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The URI of a server's duty certificate.
const DUTY: &str = "urn:wardline:duty";

/// A group's root and the authority under it that issues channel certificates.
pub struct Authority {
    /// The issuing authority's.
    name: String,
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new root, P-256, valid for 20 years, and its issuing authority.
    pub fn new(group: &str) -> Self {
        let root =
            CertifiedIssuer::self_signed(authority(&format!("{group} root"), BasicConstraints::Constrained(1)), key());
        let root = root.expect("a root can be made");
        let name = format!("{group} issuing");
        let issuing = authority(&name, BasicConstraints::Constrained(0));
        let issuing = CertifiedIssuer::signed_by(issuing, key(), &root).expect("an issuing authority can be made");
        Self { name, root, issuing }
    }

    /// Writes both as a server of the group keeps them: `root.{pem,key}` and `issuing.{pem,key}`.
    pub fn write(&self, folder: &Path) {
        for (name, authority) in [("root", &self.root), ("issuing", &self.issuing)] {
            Credential { chain: authority.pem(), key: authority.key().serialize_pem() }.write(folder, name);
        }
    }

    /// The root's certificate.
    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// The group's pin: `sha256:` and the hash of the root's SubjectPublicKeyInfo.
    pub fn pin(&self) -> String {
        let spki = self.root.key().subject_public_key_info();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// A channel certificate as it must be, 90 days, with the issuing authority's behind it.
    pub fn channel(&self, name: &str, role: Role) -> Credential {
        self.issue(&Leaf::channel(name, role))
    }

    /// A server's duty certificate, straight under the root.
    pub fn duty(&self, name: &str) -> Credential {
        let Leaf { from, to, .. } = Leaf::channel(name, Role::Server);
        self.duty_until(name, from, to)
    }

    /// A server's duty certificate that is valid from then to then.
    pub fn duty_until(&self, name: &str, from: SystemTime, to: SystemTime) -> Credential {
        let names = vec![San::dns(name), San::Uri(DUTY)];
        let leaf = Leaf { names, usages: vec![], from, to, ..Leaf::channel(name, Role::Server) };
        let key = key();
        let certificate = leaf.params().signed_by(&key, &self.root).expect("a certificate can be made");
        Credential { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// Another issuing authority under the root, valid from then to then.
    pub fn issuing_until(&self, from: SystemTime, to: SystemTime) -> Credential {
        let mut params = authority(&self.name, BasicConstraints::Constrained(0));
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = key();
        let certificate = params.signed_by(&key, &self.root).expect("an issuing authority can be made");
        Credential { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate as the leaf says, under the issuing authority.
    pub fn issue(&self, leaf: &Leaf) -> Credential {
        let key = key();
        let certificate = leaf.params().signed_by(&key, &self.issuing).expect("a certificate can be made");
        Credential { chain: certificate.pem() + &self.issuing.pem(), key: key.serialize_pem() }
    }

    /// A channel certificate for this name and role with one fault.
    pub fn faulty(&self, fault: Fault, name: &str, role: Role) -> Credential {
        let good = Leaf::channel(name, role);
        let with = |names: &[San]| self.issue(&Leaf { names: names.to_vec(), ..good.clone() });
        let used_for = |usages: &[Usage]| self.issue(&Leaf { usages: usages.to_vec(), ..good.clone() });
        let valid = |from: SystemTime, to: SystemTime| self.issue(&Leaf { from, to, ..good.clone() });
        let (dns, uri, now) = (San::dns(name), San::Uri(role.uri()), SystemTime::now());
        match fault {
            Fault::NoName => with(&[]),
            Fault::CommonNameOnly => with(std::slice::from_ref(&uri)),
            Fault::Wildcard => {
                let (_, domain) = name.split_once('.').unwrap_or(("", name));
                with(&[San::dns(&format!("*.{domain}")), uri])
            }
            Fault::IpAddress => with(&[San::Ip([127, 0, 0, 1]), uri]),
            Fault::TwoNames => with(&[dns, San::dns("other.test"), uri]),
            Fault::NoRole => with(&[dns]),
            Fault::TwoRoles => {
                let another = Role::ALL.into_iter().find(|another| *another != role).expect("there are others");
                with(&[dns, uri, San::Uri(another.uri())])
            }
            Fault::NulInName => with(&[San::dns(&format!("{name}\0.other.test")), uri]),
            Fault::TrailingDot => with(&[San::dns(&format!("{name}.")), uri]),
            Fault::OtherCase => with(&[San::dns(&name.to_uppercase()), uri]),
            Fault::ClientUsageOnly => used_for(&[Usage::Client]),
            Fault::ServerUsageOnly => used_for(&[Usage::Server]),
            Fault::NoUsage => used_for(&[]),
            Fault::AnyUsage => used_for(&[Usage::Any]),
            Fault::Expired => valid(now - 91 * DAY, now - DAY),
            Fault::NotYetValid => valid(now + DAY, now + 91 * DAY),
            Fault::OtherAuthority => Self::new("other").issue(&good),
            Fault::SelfSigned => {
                let key = key();
                let certificate = good.params().self_signed(&key).expect("a certificate can be made");
                Credential { chain: certificate.pem(), key: key.serialize_pem() }
            }
            Fault::OtherKey => Credential { key: key().serialize_pem(), ..self.issue(&good) },
            Fault::OtherName => self.channel("other.test", role),
            Fault::OtherRole => {
                // Nobody may be taken for what its parent must be, or a parent for what an agent is.
                self.channel(name, if role == Role::Agent { Role::Server } else { Role::Agent })
            }
        }
    }
}

/// A service that others have, such as a database server: its certificate and the CA of that.
pub struct Service {
    /// The CA's certificate, PEM.
    pub authority: String,
    /// The service's own.
    pub credential: Credential,
}

impl Service {
    /// One of this name, with a CA of its own.
    pub fn new(name: &str) -> Self {
        let authority = CertifiedIssuer::self_signed(authority("services", BasicConstraints::Constrained(0)), key());
        let authority = authority.expect("a CA can be made");
        let key = key();
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &authority).expect("a certificate can be made");
        let credential = Credential { chain: certificate.pem(), key: key.serialize_pem() };
        Self { authority: authority.pem(), credential }
    }

    /// What it serves TLS with.
    ///
    /// # Panics
    /// It is not what was made.
    pub fn tls(&self) -> Arc<rustls::ServerConfig> {
        let chain = CertificateDer::from_pem_slice(self.credential.chain.as_bytes()).expect("it was made");
        let key = PrivateKeyDer::from_pem_slice(self.credential.key.as_bytes()).expect("it was made");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has what the versions need").with_no_client_auth();
        Arc::new(config.with_single_cert(vec![chain], key).expect("they belong together"))
    }
}

/// What can be wrong with a channel certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Fault {
    NoName,
    CommonNameOnly,
    Wildcard,
    IpAddress,
    TwoNames,
    NoRole,
    TwoRoles,
    NulInName,
    TrailingDot,
    OtherCase,
    ClientUsageOnly,
    ServerUsageOnly,
    NoUsage,
    AnyUsage,
    Expired,
    NotYetValid,
    OtherAuthority,
    SelfSigned,
    /// The private key does not fit the certificate.
    OtherKey,
    /// A good certificate of another host of the group.
    OtherName,
    /// A good certificate of the right host for another role.
    OtherRole,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 21] = [
        Self::NoName,
        Self::CommonNameOnly,
        Self::Wildcard,
        Self::IpAddress,
        Self::TwoNames,
        Self::NoRole,
        Self::TwoRoles,
        Self::NulInName,
        Self::TrailingDot,
        Self::OtherCase,
        Self::ClientUsageOnly,
        Self::ServerUsageOnly,
        Self::NoUsage,
        Self::AnyUsage,
        Self::Expired,
        Self::NotYetValid,
        Self::OtherAuthority,
        Self::SelfSigned,
        Self::OtherKey,
        Self::OtherName,
        Self::OtherRole,
    ];
}

/// What a certificate is to say, sense or nonsense.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The subject's common name.
    pub common_name: String,
    /// The subject alternative names; without one there is no such extension.
    pub names: Vec<San>,
    /// The extended key usages; without one there is no such extension.
    pub usages: Vec<Usage>,
    /// Valid from.
    pub from: SystemTime,
    /// Valid until.
    pub to: SystemTime,
}

/// A subject alternative name.
#[derive(Clone, Debug)]
pub enum San {
    /// Any bytes, also those that no DNS name may have.
    Dns(Vec<u8>),
    /// A URI.
    Uri(&'static str),
    /// An IPv4 address.
    Ip([u8; 4]),
}

/// An extended key usage.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "they say what they are")]
pub enum Usage {
    Server,
    Client,
    Any,
}

impl San {
    fn dns(name: &str) -> Self {
        Self::Dns(name.into())
    }

    /// The GeneralName (RFC 5280, section 4.2.1.6) in DER.
    fn der(&self) -> Vec<u8> {
        match self {
            Self::Dns(name) => der(0x82, name),
            Self::Uri(uri) => der(0x86, uri.as_bytes()),
            Self::Ip(address) => der(0x87, address),
        }
    }
}

/// One value in DER, of at most 65,535 bytes.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).expect("a short value").to_be_bytes();
    let head = match (high, low) {
        (0, ..=0x7f) => vec![tag, low],
        (0, _) => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [&head, content].concat()
}

impl Leaf {
    /// A channel certificate as it must be.
    pub fn channel(name: &str, role: Role) -> Self {
        // Clocks of one machine agree, those of a group only nearly.
        let from = SystemTime::now() - Duration::from_secs(3600);
        Self {
            common_name: name.into(),
            names: vec![San::dns(name), San::Uri(role.uri())],
            usages: vec![Usage::Server, Usage::Client],
            from,
            to: from + 90 * DAY,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = params(&self.common_name, self.from, self.to);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let usage = |usage: &Usage| match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Any => ExtendedKeyUsagePurpose::Any,
        };
        params.extended_key_usages = self.usages.iter().map(usage).collect();
        if !self.names.is_empty() {
            // Written by hand: rcgen refuses the names that matter most here.
            let names: Vec<_> = self.names.iter().flat_map(San::der).collect();
            params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der(0x30, &names))];
        }
        params
    }
}

/// A certificate with what leads to the root, and its private key (PKCS#8), both in PEM.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Leaf first, without the root.
    pub chain: String,
    /// The private key.
    pub key: String,
}

impl Credential {
    /// Reads `NAME.pem` and `NAME.key` from a folder.
    ///
    /// # Panics
    /// They are not there.
    pub fn read(folder: &Path, name: &str) -> Self {
        let [chain, key] = ["pem", "key"].map(|extension| folder.join(name).with_extension(extension));
        let chain = std::fs::read_to_string(&chain).unwrap_or_else(|error| panic!("{}: {error}", chain.display()));
        Self { chain, key: String::from_utf8(private::read(&key)).expect("a key in PEM") }
    }

    /// How a gateway says above that it was let in by this: the SHA-256 of the certificate, in hexadecimal.
    ///
    /// # Panics
    /// It is none.
    pub fn proof(&self) -> String {
        let leaf = CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("a certificate in PEM");
        wardline_secrets::signature::sha256(&[&leaf]).to_string()
    }

    /// Writes `NAME.pem` and `NAME.key` (0600) into a folder, over what is there.
    pub fn write(&self, folder: &Path, name: &str) {
        write(&folder.join(name).with_extension("pem"), &self.chain, 0o644);
        write(&folder.join(name).with_extension("key"), &self.key, 0o600);
    }
}

/// What a service of this name serves TLS with that is none of the group's: a certificate that it has signed itself.
///
/// # Panics
/// It cannot be made.
pub fn self_signed_server(name: &str) -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate can be made");
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("the provider has what the versions need").with_no_client_auth();
    Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key.into()).expect("they belong together"))
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key can be made")
}

fn params(common_name: &str, from: SystemTime, to: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = from.into();
    params.not_after = to.into();
    params
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let from = SystemTime::now() - DAY;
    let mut params = params(name, from, from + 20 * 365 * DAY);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use der::{Decode as _, Encode as _};
    use rustls_pki_types::{CertificateDer, UnixTime};
    use wardline_proto::GroupId;
    use wardline_secrets::trust::Root;
    use x509_cert::Certificate;
    use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName, name::GeneralName};

    const NAME: &str = "web1.test";

    fn chain(credential: &Credential) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(credential.chain.as_bytes()).map(Result::unwrap).collect()
    }

    fn leaf(credential: &Credential) -> Certificate {
        Certificate::from_der(&chain(credential)[0]).unwrap()
    }

    fn names(certificate: &Certificate) -> Vec<String> {
        let Some((_, SubjectAltName(names))) = certificate.tbs_certificate().get_extension().unwrap() else {
            return vec![];
        };
        let word = |name| match name {
            GeneralName::DnsName(name) => format!("dns {}", name.as_str()),
            GeneralName::UniformResourceIdentifier(uri) => format!("uri {}", uri.as_str()),
            GeneralName::IpAddress(address) => format!("ip {:?}", address.as_bytes()),
            other => panic!("{other:?}"),
        };
        names.into_iter().map(word).collect()
    }

    fn usages(certificate: &Certificate) -> Vec<String> {
        let usage = certificate.tbs_certificate().get_extension::<ExtendedKeyUsage>().unwrap();
        usage.map_or_else(Vec::new, |(_, usage)| usage.0.iter().map(ToString::to_string).collect())
    }

    fn key_fits(credential: &Credential) -> bool {
        let key = KeyPair::from_pem(&credential.key).unwrap();
        let spki = leaf(credential).tbs_certificate().subject_public_key_info().to_der().unwrap();
        key.subject_public_key_info() == spki
    }

    fn root(authority: &Authority) -> Root {
        let scratch = crate::Scratch::new();
        let path = scratch.path().join("root.pem");
        write(&path, authority.root_pem(), 0o644);
        Root::load(&path, GroupId([0; 16]), authority.pin().parse().unwrap()).unwrap()
    }

    #[test]
    fn a_good_certificate_is_what_it_must_be() {
        let authority = Authority::new("group");
        let credential = authority.channel(NAME, Role::Gateway);
        let certificate = leaf(&credential);
        assert_eq!(names(&certificate), ["dns web1.test", "uri urn:wardline:gateway"]);
        assert_eq!(usages(&certificate), ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
        let validity = certificate.tbs_certificate().validity();
        let length = validity.not_after.to_unix_duration() - validity.not_before.to_unix_duration();
        assert_eq!(length, 90 * DAY);
        assert!(key_fits(&credential));
        let issuing = Certificate::from_der(&chain(&credential)[1]).unwrap();
        let (_, constraints): (_, BasicConstraints) = issuing.tbs_certificate().get_extension().unwrap().unwrap();
        assert_eq!(constraints, BasicConstraints { ca: true, path_len_constraint: Some(0) });

        let chain = chain(&credential);
        let identity = root(&authority).channel(&chain[0], &chain[1..], UnixTime::now()).unwrap();
        assert_eq!((identity.name.as_str(), identity.role), (NAME, Role::Gateway));
    }

    #[test]
    fn a_duty_certificate_leads_straight_to_the_root() {
        let authority = Authority::new("group");
        let credential = authority.duty("srv1.test");
        assert_eq!(names(&leaf(&credential)), ["dns srv1.test", "uri urn:wardline:duty"]);
        assert!(usages(&leaf(&credential)).is_empty());
        let chain = chain(&credential);
        assert_eq!(chain.len(), 1);
        let (name, _) = root(&authority).duty(&chain, UnixTime::now()).unwrap();
        assert_eq!(name.as_str(), "srv1.test");
    }

    #[test]
    fn each_fault_is_in_the_certificate() {
        let authority = Authority::new("group");
        let made = |fault| authority.faulty(fault, NAME, Role::Agent);
        let (dns, uri) = ("dns web1.test", "uri urn:wardline:agent");
        let (server, client) = ("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2");
        for (fault, expected) in [
            (Fault::NoName, vec![]),
            (Fault::CommonNameOnly, vec![uri]),
            (Fault::Wildcard, vec!["dns *.test", uri]),
            (Fault::IpAddress, vec!["ip [127, 0, 0, 1]", uri]),
            (Fault::TwoNames, vec![dns, "dns other.test", uri]),
            (Fault::NoRole, vec![dns]),
            (Fault::TwoRoles, vec![dns, uri, "uri urn:wardline:gateway"]),
            (Fault::NulInName, vec!["dns web1.test\0.other.test", uri]),
            (Fault::TrailingDot, vec!["dns web1.test.", uri]),
            (Fault::OtherCase, vec!["dns WEB1.TEST", uri]),
            (Fault::OtherName, vec!["dns other.test", uri]),
            (Fault::OtherRole, vec![dns, "uri urn:wardline:server"]),
        ] {
            assert_eq!(names(&leaf(&made(fault))), expected, "{fault:?}");
        }
        for (fault, expected) in [
            (Fault::ClientUsageOnly, vec![client]),
            (Fault::ServerUsageOnly, vec![server]),
            (Fault::NoUsage, vec![]),
            (Fault::AnyUsage, vec!["2.5.29.37.0"]),
        ] {
            assert_eq!(usages(&leaf(&made(fault))), expected, "{fault:?}");
        }
        for fault in Fault::ALL {
            assert_eq!(key_fits(&made(fault)), fault != Fault::OtherKey, "{fault:?}");
        }
    }

    #[test]
    fn each_fault_that_a_certificate_shows_by_itself_is_refused() {
        let authority = Authority::new("group");
        let root = root(&authority);
        for fault in Fault::ALL {
            let chain = chain(&authority.faulty(fault, NAME, Role::Agent));
            let taken = root.channel(&chain[0], &chain[1..], UnixTime::now());
            let by_itself = !matches!(fault, Fault::OtherKey | Fault::OtherName | Fault::OtherRole);
            assert_eq!(taken.is_err(), by_itself, "{fault:?}: {taken:?}");
        }
    }
}
