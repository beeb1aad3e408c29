//! The TLS side of the channel: TLS 1.3 only, X25519MLKEM768 only. By certificate both ends prove who they are, and this
//! end's key signs nothing before the other end's certificate has been verified.
//!
//! Where TLS gives privacy only the listening end has a certificate that says nothing: to those who prove themselves by
//! Kerberos inside of it, and in the session in which hosts join, where who speaks is proved by the messages themselves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError, ServerConfig,
    SignatureAlgorithm, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use wardline_proto::{ALPN_CERTIFICATE, ALPN_JOIN, ALPN_KERBEROS, Name, Role};

use crate::certificate::{EPHEMERAL_URI, Fault, Identity};
use crate::protect::Vault;
use crate::signature::{KeyId, private_der};
use crate::trust::Root;
use crate::{certificate, private};

/// What the channel key is protected as, also under the name with its id.
const KEY: &str = "channel.key";

/// Why this end's own channel certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate is not what it must be.
    #[error("{path}: {fault}")]
    Certificate {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        fault: Fault,
    },
    /// The private key.
    #[error("{path}: {reason}")]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// This end's channel certificate and key, checked, and the root that the other end must lead to.
#[derive(Clone, Debug)]
pub struct Channel {
    certified: Arc<CertifiedKey>,
    root: Root,
    provider: Arc<CryptoProvider>,
    /// Who this end is.
    pub identity: Identity,
    /// The id of the channel key.
    pub key: KeyId,
    /// When the certificate begins, seconds since 1970.
    pub not_before: u64,
    /// When the certificate ends, seconds since 1970.
    pub not_after: u64,
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

impl Channel {
    /// Loads `channel.pem` (leaf first) and its key of a folder and checks them as the other end will. The key is in
    /// `channel-ID.key`, where ID is the id of the key in the certificate, or else in `channel.key`: whoever writes a
    /// new pair writes the former first, so that the one rename of `channel.pem` changes both.
    ///
    /// # Errors
    /// What is missing or wrong, and in which file.
    pub fn load(vault: &Vault, folder: &Path, root: Root, name: &Name, role: Role) -> Result<Self, LoadError> {
        let path = folder.join("channel.pem");
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |error: std::io::Error| LoadError::File { path, reason: error.to_string() }
        };
        let pem = private::read_public(&path).map_err(unreadable(&path))?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let wrong = |fault| LoadError::Certificate { path: path.clone(), fault };
        let chain = chain.map_err(|_| wrong(Fault::Encoding))?;
        let key = certified(&root, &chain, name, role).map_err(wrong)?;
        let (_, not_before, not_after) = facts(&chain).ok_or_else(|| wrong(Fault::Encoding))?;

        let by_id = folder.join(key_file("channel", key));
        let key_path = if by_id.exists() { by_id } else { folder.join("channel.key") };
        let pem = vault.read(&key_path, KEY).map_err(unreadable(&key_path))?;
        let unusable = |reason: &dyn ToString| LoadError::Key { path: key_path.clone(), reason: reason.to_string() };
        let der = private_der(&pem).map_err(|error| unusable(&error))?;
        let provider = Arc::new(provider());
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_bytes().to_vec()));
        let private = provider.key_provider.load_private_key(private).map_err(|error| unusable(&error))?;
        let certified = CertifiedKey::new(chain, private);
        certified.keys_match().map_err(|_| unusable(&"it does not belong to the certificate"))?;
        let identity = Identity { name: name.clone(), role };
        Ok(Self { certified: certified.into(), root, provider, identity, key, not_before, not_after })
    }

    /// The configuration for the listening side.
    ///
    /// # Errors
    /// Never in practice: the provider speaks TLS 1.3.
    pub fn listen(&self) -> Result<ServerConfig, Error> {
        let verifier = ChildVerifier { root: self.root.clone() };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.certified.as_ref().clone())));
        config.alpn_protocols = vec![ALPN_CERTIFICATE.to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The certificate alone, without what leads to the root.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.certified.cert.first()
    }

    /// The group.
    pub const fn group(&self) -> wardline_proto::GroupId {
        self.root.group()
    }

    /// Who the other end proved to be. Call it only with the chain of a finished handshake.
    ///
    /// # Errors
    /// There is no certificate, or not one of this group.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, Fault> {
        let (leaf, intermediates) = chain.and_then(<[_]>::split_first).ok_or(Fault::Encoding)?;
        self.root.channel(leaf, intermediates, UnixTime::now())
    }
}

/// How far the other end of a dial has proved itself by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proved {
    /// It is the parent, by its certificate.
    Certificate,
    /// It is anybody, who means to prove himself by Kerberos.
    Nothing,
}

/// One dial to a parent. Made anew for each: the gate belongs to one handshake.
#[derive(Debug)]
pub struct Dial {
    /// For the handshake.
    pub config: Arc<ClientConfig>,
    gate: Arc<Gate>,
}

impl Dial {
    /// A dial to a parent of this name: by certificate when this end shows one, by Kerberos when it may, the former first.
    ///
    /// # Errors
    /// Never in practice: the provider speaks TLS 1.3.
    pub fn new(parent: &Name, own: Option<&Channel>, kerberos: bool) -> Result<Self, Error> {
        let gate = Arc::new(Gate::default());
        let expected = own.map(|own| (own.root.clone(), parent.clone()));
        let verifier = Arc::new(ParentVerifier { expected, kerberos, gate: Arc::clone(&gate) });
        let provider = own.map_or_else(|| Arc::new(provider()), |own| Arc::clone(&own.provider));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own {
            Some(own) => {
                let key = GatedKey { key: Arc::clone(&own.certified.key), gate: Arc::clone(&gate) };
                let certified = CertifiedKey::new(own.certified.cert.clone(), Arc::new(key));
                config.with_client_cert_resolver(Arc::new(Only(Arc::new(certified))))
            }
            None => config.with_no_client_auth(),
        };
        let offers = [(own.is_some(), ALPN_CERTIFICATE), (kerberos, ALPN_KERBEROS)];
        config.alpn_protocols =
            offers.into_iter().filter(|(offered, _)| *offered).map(|(_, name)| name.to_vec()).collect();
        // rustls calls no verifier when it resumes a session.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        Ok(Self { config: Arc::new(config), gate })
    }

    /// What a finished handshake with this ALPN name has proved; `None` when the two do not belong together. rustls
    /// accepts a server that chooses no name at all.
    pub fn proved(&self, chosen: Option<&[u8]>) -> Option<Proved> {
        let proved = self.gate.proved()?;
        let belongs = match proved {
            Proved::Certificate => ALPN_CERTIFICATE,
            Proved::Nothing => ALPN_KERBEROS,
        };
        (chosen == Some(belongs)).then_some(proved)
    }
}

/// The name of a file with a new key of this id, which has not its plain name, `channel.key` say, yet; see
/// [`Channel::load`].
pub fn key_file(name: &str, key: KeyId) -> String {
    format!("{name}-{key}.key")
}

/// The id of the key in a channel certificate (leaf first) that is good now, for this name and role.
///
/// # Errors
/// It does not lead to the root, or is somebody else's.
pub fn certified(root: &Root, chain: &[CertificateDer<'_>], name: &Name, role: Role) -> Result<KeyId, Fault> {
    let (leaf, intermediates) = chain.split_first().ok_or(Fault::Encoding)?;
    let found = root.channel(leaf, intermediates, UnixTime::now())?;
    if found.name != *name || found.role != role {
        return Err(Fault::Other { found, expected: format!("{role} {name}") });
    }
    certificate::Parsed::new(leaf)?.spki().map(|spki| KeyId::of(&spki))
}

/// The id of the key in the first certificate of a chain, whether that is good or not; from when and to when it is
/// valid, seconds since 1970.
pub fn facts(chain: &[CertificateDer<'_>]) -> Option<(KeyId, u64, u64)> {
    let parsed = certificate::Parsed::new(chain.first()?).ok()?;
    let (from, to) = parsed.validity();
    Some((KeyId::of(&parsed.spki().ok()?), from, to))
}

/// The configuration for one dial of a host that wants to join. Whoever answers is not judged by a certificate, only
/// held to the key that it begins with.
///
/// # Errors
/// Never in practice: the provider speaks TLS 1.3.
pub fn join_dial() -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The configuration for one look at the channel certificate of a parent of this name, judged by this moment. This end
/// shows none, so that no session comes of it.
///
/// # Errors
/// Never in practice: the provider speaks TLS 1.3.
pub fn look(root: &Root, parent: &Name, at: UnixTime) -> Result<ClientConfig, Error> {
    let expected = Some((root.clone(), parent.clone()));
    let verifier = ParentVerifier { expected, kerberos: false, gate: Arc::default() };
    let mut config = ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(Moment(at)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_CERTIFICATE.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// The configuration for listening to hosts that want to join, with a certificate of a fresh key that says nothing.
///
/// # Errors
/// The system has no randomness.
pub fn join_listen() -> Result<ServerConfig, Error> {
    anonymous(ALPN_JOIN)
}

/// The same for those who prove themselves by Kerberos.
///
/// # Errors
/// The system has no randomness.
pub fn kerberos_listen() -> Result<ServerConfig, Error> {
    anonymous(ALPN_KERBEROS)
}

fn anonymous(alpn: &[u8]) -> Result<ServerConfig, Error> {
    let make = || {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(EPHEMERAL_URI.try_into()?)];
        let certificate = params.self_signed(&key)?;
        Ok((certificate.into(), PrivatePkcs8KeyDer::from(key.serialize_der())))
    };
    let (certificate, key) = make().map_err(|error: rcgen::Error| Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key.into())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// Takes any certificate, but only a handshake that is signed with its key.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NOT_13)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verified(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// What has been verified of the other end.
#[derive(Debug, Default)]
struct Gate {
    certificate: OnceLock<Proved>,
    signature: OnceLock<()>,
}

impl Gate {
    /// What stands when the handshake is signed with the key of the certificate.
    fn proved(&self) -> Option<Proved> {
        self.signature.get().and(self.certificate.get()).copied()
    }

    /// Whether chain, name and signature have been verified.
    fn is_open(&self) -> bool {
        self.proved() == Some(Proved::Certificate)
    }
}

/// A moment by which a look is judged, whatever this end's clock says.
#[derive(Debug)]
struct Moment(UnixTime);

impl TimeProvider for Moment {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

#[derive(Debug)]
struct ParentVerifier {
    /// What its certificate must lead to, and whose it must be; without it only one that says nothing is taken.
    expected: Option<(Root, Name)>,
    /// Whether one that says nothing is taken.
    kerberos: bool,
    gate: Arc<Gate>,
}

fn refused(fault: Fault) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// Signatures of older versions are not looked at: they are not spoken.
const NOT_13: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic);

fn verified(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    verify_tls13_signature(message, certificate, signed, &algorithms)
}

/// The fault behind an error of a handshake, if it was a certificate's.
pub fn fault(error: &Error) -> Option<&Fault> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

impl ServerCertVerifier for ParentVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.kerberos && certificate::Parsed::new(leaf).is_ok_and(|leaf| leaf.is_ephemeral()) {
            let _ = self.gate.certificate.set(Proved::Nothing);
            return Ok(ServerCertVerified::assertion());
        }
        let (root, parent) = self.expected.as_ref().ok_or_else(|| refused(Fault::Unwanted))?;
        let found = root.channel(leaf, intermediates, now).map_err(refused)?;
        if found.name != *parent || found.role == Role::Agent {
            let expected = format!("gateway or server {parent}");
            return Err(refused(Fault::Other { found, expected }));
        }
        let _ = self.gate.certificate.set(Proved::Certificate);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NOT_13)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verified(message, certificate, signed)?;
        let _ = self.gate.signature.set(());
        Ok(valid)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[derive(Debug)]
struct ChildVerifier {
    root: Root,
}

impl ClientCertVerifier for ChildVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.root.channel(leaf, intermediates, now).map_err(refused)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(NOT_13)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verified(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Gives the one key there is.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesClientCert for Only {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
    fn has_certs(&self) -> bool {
        true
    }
}

/// A key that signs only behind its open gate.
#[derive(Debug)]
struct GatedKey {
    key: Arc<dyn SigningKey>,
    gate: Arc<Gate>,
}

impl SigningKey for GatedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.key.choose_scheme(offered)?;
        Some(Box::new(GatedSigner { signer, gate: Arc::clone(&self.gate) }))
    }
    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}

#[derive(Debug)]
struct GatedSigner {
    signer: Box<dyn Signer>,
    gate: Arc<Gate>,
}

impl Signer for GatedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        if !self.gate.is_open() {
            return Err(Error::General("the other end was not verified".into()));
        }
        self.signer.sign(message)
    }
    fn scheme(&self) -> SignatureScheme {
        self.signer.scheme()
    }
}

#[cfg(test)]
mod tests;
