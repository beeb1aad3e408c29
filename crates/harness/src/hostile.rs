//! Peers that do what they like: real TLS with whatever certificate they are given, and behind it any bytes at all.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, Connection, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::ClientConnection, server::ServerConnection,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use wardline_proto::frame::{Frame, Message};
use wardline_proto::message::{Bound, RouteOpen};
use wardline_proto::{ALPN_CERTIFICATE, Kind};

use crate::pki::Credential;
use crate::{Daemon, wait};

/// How long anything that should happen at once may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// How a hostile end speaks TLS.
#[derive(Clone, Debug)]
pub struct Speech {
    /// ALPN names, in order of preference.
    pub alpn: Vec<&'static [u8]>,
    /// Key exchanges.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Speech {
    /// As it must be.
    pub fn good() -> Self {
        Self { alpn: vec![ALPN_CERTIFICATE], groups: vec![kx_group::X25519MLKEM768] }
    }

    /// With these ALPN names.
    pub fn alpn(names: &[&'static [u8]]) -> Self {
        Self { alpn: names.to_vec(), ..Self::good() }
    }

    /// With key exchanges of another time.
    pub fn classical() -> Self {
        Self { groups: vec![kx_group::X25519, kx_group::SECP256R1], ..Self::good() }
    }

    fn provider(&self) -> Arc<CryptoProvider> {
        CryptoProvider { kx_groups: self.groups.clone(), ..default_provider() }.into()
    }

    fn names(&self) -> Vec<Vec<u8>> {
        self.alpn.iter().map(|name| name.to_vec()).collect()
    }

    fn dialling(&self, credential: Option<&Credential>) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match credential {
            Some(credential) => config.with_client_cert_resolver(Arc::new(Only(certified(credential)))),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.names();
        config.enable_sni = false;
        config
    }

    fn listening(&self, credential: &Credential) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(self.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(Anybody))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified(credential).as_ref().clone())));
        config.alpn_protocols = self.names();
        config.send_tls13_tickets = 0;
        config
    }
}

/// Certificate and key as they are, whether they fit or not.
fn certified(credential: &Credential) -> Arc<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(credential.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>().expect("certificates in PEM");
    let key = PrivateKeyDer::from_pem_slice(credential.key.as_bytes()).expect("a key in PEM");
    let key = default_provider().key_provider.load_private_key(key).expect("a key that signs");
    CertifiedKey::new(chain, key).into()
}

/// One end of a session, held by somebody hostile. Everything blocks, but never longer than the limit.
#[derive(Debug)]
pub struct Peer {
    tls: Connection,
    tcp: TcpStream,
    buffer: BytesMut,
    received: usize,
}

impl Peer {
    /// Dials and does this end's part of the TLS handshake.
    ///
    /// # Errors
    /// The other end did not do its part.
    pub fn dial(address: SocketAddr, credential: Option<&Credential>, speech: &Speech) -> io::Result<Self> {
        let name = ServerName::IpAddress(address.ip().into());
        let config = Arc::new(speech.dialling(credential));
        let tls = ClientConnection::new(config, name).expect("a client can be made");
        Self::new(TcpStream::connect(address)?, tls.into())
    }

    /// Dials and comes so far that messages can be sent, as a health service with a good certificate does.
    ///
    /// # Panics
    /// The other end refuses.
    #[track_caller]
    pub fn join(address: SocketAddr, credential: &Credential, own: &str, other: &str) -> Self {
        let mut peer = Self::dial(address, Some(credential), &Speech::good()).expect("the handshake succeeds");
        peer.bind(own, other);
        peer
    }

    fn new(tcp: TcpStream, tls: Connection) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(LIMIT))?;
        tcp.set_write_timeout(Some(LIMIT))?;
        let mut peer = Self { tls, tcp, buffer: BytesMut::new(), received: 0 };
        while peer.tls.is_handshaking() {
            peer.tls.complete_io(&mut peer.tcp)?;
        }
        peer.flush()?;
        peer.drain();
        Ok(peer)
    }

    /// How long this end waits for the other to read.
    pub fn patience(&self, limit: Duration) {
        self.tcp.set_write_timeout(Some(limit)).expect("a socket has options");
    }

    /// This end's address.
    pub fn address(&self) -> SocketAddr {
        self.tcp.local_addr().expect("a connection has an address")
    }

    /// Whether the other end showed a certificate.
    pub fn certified(&self) -> bool {
        self.tls.peer_certificates().is_some_and(|chain| !chain.is_empty())
    }

    /// How many bytes behind the handshake the other end has sent so far.
    pub const fn received(&self) -> usize {
        self.received
    }

    /// What only the two ends of this session know, by a label.
    pub fn export(&self, label: &[u8]) -> [u8; 32] {
        self.tls.export_keying_material([0; 32], label, None).expect("a session that stands")
    }

    /// The first message that this end would send, with the names of both ends.
    pub fn bound(&self, dialler: &str, listener: &str) -> Bound {
        let exporter = self.export(b"EXPORTER-wardline-bound");
        let chosen = String::from_utf8_lossy(ALPN_CERTIFICATE).into_owned();
        Bound {
            exporter: exporter.to_vec().into(),
            offered: vec![chosen.clone()],
            chosen: chosen.clone(),
            enabled: vec![chosen],
            dialler: dialler.into(),
            listener: listener.into(),
            peer_timeout: 0,
            sender: if matches!(self.tls, Connection::Client(_)) { dialler } else { listener }.into(),
        }
    }

    /// Exchanges the first messages. Each end is `ROLE NAME`.
    ///
    /// # Panics
    /// The other end does not send its own.
    #[track_caller]
    pub fn bind(&mut self, own: &str, other: &str) {
        let (dialler, listener) = if matches!(self.tls, Connection::Client(_)) { (own, other) } else { (other, own) };
        let bound = self.bound(dialler, listener);
        self.say(Message::own(Kind::Bound, bound));
        let first = self.receive().expect("a first message");
        assert_eq!(first.kind, Kind::Bound);
    }

    /// Sends a message. Whether the other end still listens is not asked here.
    pub fn say(&mut self, message: Message) {
        let mut out = BytesMut::new();
        message.into_frames().for_each(|frame| frame.encode(&mut out));
        let _ = self.write(&out);
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        self.write(&out)
    }

    /// Sends any bytes.
    ///
    /// # Errors
    /// The connection has ended, or the other end does not read.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.tls.writer().write(bytes)?;
            bytes = &bytes[taken..];
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp)?;
        }
        Ok(())
    }

    /// Moves what was decrypted.
    fn drain(&mut self) -> usize {
        let mut bytes = Vec::new();
        // It ends in an error when more may come.
        let _ = self.tls.reader().read_to_end(&mut bytes);
        self.buffer.extend_from_slice(&bytes);
        self.received += bytes.len();
        bytes.len()
    }

    /// Waits for more; how much came: nothing when the other end has closed.
    fn fill(&mut self) -> usize {
        loop {
            match self.tls.read_tls(&mut self.tcp) {
                Ok(0) => return 0,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("waited {LIMIT:?} in vain for the other end");
                }
                Err(_) => return 0,
            }
            let state = self.tls.process_new_packets();
            let got = self.drain();
            let _ = self.flush();
            if got > 0 {
                return got;
            }
            if state.map_or(true, |state| state.peer_has_closed()) {
                return 0;
            }
        }
    }

    /// The next frame; `None` when the other end has closed.
    ///
    /// # Panics
    /// Neither comes, or it is no frame.
    #[track_caller]
    pub fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer).expect("a real program sends frames") {
                return Some(frame);
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Sends a message of a session in which a host joins, where each is its length and its bytes. Whether the other end
    /// still listens is not asked here.
    pub fn tell(&mut self, message: &[u8]) {
        let length = u32::try_from(message.len()).expect("a short message");
        let _ = self.write(&[&length.to_be_bytes(), message].concat());
    }

    /// The next message of such a session; `None` when the other end has closed.
    ///
    /// # Panics
    /// Neither comes.
    #[track_caller]
    pub fn told(&mut self) -> Option<Bytes> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() >= length {
                    let mut message = self.buffer.split_to(4 + length);
                    return Some(message.split_off(4).freeze());
                }
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// The next wrapped message of a Kerberos session, which is its length and its token; `None` when the other end has
    /// closed.
    ///
    /// # Panics
    /// Neither comes.
    #[track_caller]
    pub fn wrapped(&mut self) -> Option<Bytes> {
        loop {
            if let Some((length, rest)) = self.buffer.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if rest.len() >= length {
                    let mut message = self.buffer.split_to(2 + length);
                    return Some(message.split_off(2).freeze());
                }
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// The next frame of this kind on this route; what comes before it is passed over.
    ///
    /// # Panics
    /// The other end closed instead.
    #[track_caller]
    pub fn wait_for(&mut self, kind: Kind, route: u32) -> Bytes {
        loop {
            let frame = self.receive().unwrap_or_else(|| panic!("it closed instead of sending {kind:?} on {route}"));
            if frame.kind == kind && frame.route == route {
                return frame.body;
            }
        }
    }

    /// Waits until the other end has closed, whatever comes before.
    #[track_caller]
    pub fn wait_gone(&mut self) {
        while self.fill() > 0 {}
    }

    /// Waits until the other end has closed, passing over what comes before.
    #[track_caller]
    pub fn wait_closed(&mut self) {
        while self.receive().is_some() {}
    }
}

/// By what the members of a group have proved themselves to their gateways, for who opens routes for them.
#[derive(Clone, Debug)]
pub struct Proofs {
    folder: PathBuf,
    group: OsString,
}

impl Proofs {
    /// Of the group of which this program is one.
    ///
    /// # Panics
    /// It is none of a group that was laid down.
    pub fn beside(daemon: &Daemon) -> Self {
        let folder = daemon.config().parent().and_then(Path::parent).expect("a folder for each program").to_owned();
        Self { folder, group: daemon.state().file_name().expect("a folder for each group").to_owned() }
    }

    /// Of its channel certificate; nothing of who has none.
    pub fn of(&self, member: &str) -> String {
        let folder = self.folder.join(member).join("state").join(&self.group);
        if folder.join("channel.pem").exists() { Credential::read(&folder, "channel").proof() } else { String::new() }
    }

    /// A route for an agent by these gateways, as an honest one opens it.
    pub fn route(&self, agent: &str, via: &[&str]) -> Message {
        let open = RouteOpen {
            agent: agent.into(),
            via: via.iter().map(ToString::to_string).collect(),
            proof: self.of(agent),
            proofs: via.iter().map(|gateway| self.of(gateway)).collect(),
        };
        Message::own(Kind::RouteOpen, open)
    }
}

/// A listening end that takes one connection after the other.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// At an address, also one that a program of the group listens on when it runs.
    ///
    /// # Panics
    /// Somebody else listens there.
    pub fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        listener.set_nonblocking(true).expect("a socket has options");
        Self(listener)
    }

    /// At an address of its own.
    pub fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0).into())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("a listener has an address")
    }

    /// Waits for the next connection and does this end's part of the handshake.
    #[track_caller]
    pub fn accept(&self, credential: &Credential, speech: &Speech) -> io::Result<Peer> {
        let tcp = wait::until("a connection", LIMIT, || self.0.accept().ok()).0;
        tcp.set_nonblocking(false)?;
        Peer::new(tcp, server(credential, speech))
    }

    /// Waits for the next connection and does this end's part of a handshake for those who mean to prove themselves by
    /// Kerberos: it shows no certificate that says anything.
    #[track_caller]
    pub fn accept_kerberos(&self) -> io::Result<Peer> {
        let tcp = wait::until("a connection", LIMIT, || self.0.accept().ok()).0;
        tcp.set_nonblocking(false)?;
        let config = wardline_secrets::tls::kerberos_listen().expect("a certificate can be made");
        Peer::new(tcp, ServerConnection::new(Arc::new(config)).expect("a server can be made").into())
    }

    /// Waits for the next connection and comes so far that messages can be sent.
    ///
    /// # Panics
    /// The other end refuses.
    #[track_caller]
    pub fn join(&self, credential: &Credential, own: &str, other: &str) -> Peer {
        let mut peer = self.accept(credential, &Speech::good()).expect("the handshake succeeds");
        peer.bind(own, other);
        peer
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::new()
    }
}

fn server(credential: &Credential, speech: &Speech) -> Connection {
    ServerConnection::new(Arc::new(speech.listening(credential))).expect("a server can be made").into()
}

/// What a rogue server has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Connections that have come and gone.
    pub connections: usize,
    /// Of these, how many showed a certificate with a proof that it is theirs.
    pub certificates: usize,
    /// Bytes that were meant for the parent: all that could be decrypted behind a handshake.
    pub bytes: usize,
}

/// A server that would like to be taken for a parent. It closes each connection once it was sent something.
#[derive(Debug)]
pub struct Rogue {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Rogue {
    /// With this certificate, speaking TLS like this.
    pub fn new(credential: Credential, speech: Speech) -> Self {
        Self::run(move |tcp| match Peer::new(tcp, server(&credential, &speech)) {
            Ok(mut peer) => {
                // It may have come together with the end of the handshake.
                if peer.received() == 0 {
                    peer.fill();
                }
                (peer.certified(), peer.received())
            }
            Err(_) => (false, 0),
        })
    }

    /// That knows TLS 1.2 and nothing newer.
    pub fn old() -> Self {
        Self::run(|mut tcp| {
            let _ = tcp.set_read_timeout(Some(LIMIT));
            // Whatever was offered: ServerHello (RFC 5246, section 7.4.1.3) with ECDHE_ECDSA_AES_128_GCM_SHA256.
            let hello = [&[2, 0, 0, 38, 3, 3][..], &[7; 32], &[0, 0xc0, 0x2b, 0]].concat();
            let record = [&[22, 3, 3, 0, 42][..], &hello].concat();
            let mut first = [0; 16 * 1024];
            let _ = tcp.read(&mut first);
            let _ = tcp.write_all(&record);
            let mut rest = Vec::new();
            let _ = tcp.read_to_end(&mut rest);
            (false, application_data(&rest))
        })
    }

    fn run(serve: impl Fn(TcpStream) -> (bool, usize) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        // It ends with the test's process.
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (certified, bytes) = serve(tcp);
                let mut seen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                seen.connections += 1;
                seen.certificates += usize::from(certified);
                seen.bytes += bytes;
            }
        });
        Self { address, seen }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen, once somebody has come and gone.
    #[track_caller]
    pub fn seen(&self) -> Seen {
        wait::until("a connection to a rogue server has ended", LIMIT, || {
            let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            (seen.connections > 0).then_some(seen)
        })
    }
}

/// Bytes in records of application data (RFC 8446, section 5.1).
fn application_data(mut records: &[u8]) -> usize {
    let mut bytes = 0;
    while let [kind, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        bytes += if *kind == 23 { length } else { 0 };
        records = &rest[length..];
    }
    bytes
}

/// A credential's certificates in DER, leaf first.
pub fn chain(credential: &Credential) -> Vec<Vec<u8>> {
    let chain = CertificateDer::pem_slice_iter(credential.chain.as_bytes());
    chain.map(|certificate| certificate.expect("certificates in PEM").to_vec()).collect()
}

/// Where a gateway or server listens.
pub fn listen(daemon: &Daemon) -> SocketAddr {
    file(daemon)["listen"].as_str().and_then(|address| address.parse().ok()).expect("an address to listen on")
}

/// Parents, as a configuration and a membership name them.
pub fn parents(parents: &[(&str, SocketAddr)]) -> toml::Value {
    let parents = parents.iter().map(|(name, address)| {
        let entries = [("name", (*name).to_owned()), ("address", address.to_string())];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect::<toml::Table>().into()
    });
    toml::Value::Array(parents.collect())
}

/// Gives an agent or gateway that has its group in its configuration other parents, from its next start on.
pub fn set_parents(daemon: &Daemon, parents: &[(&str, SocketAddr)]) {
    let mut file = file(daemon);
    file["group"][0]["parents"] = self::parents(parents);
    let text = toml::to_string(&file).expect("a configuration can be written");
    std::fs::write(daemon.config(), text).expect("a file can be written");
}

fn file(daemon: &Daemon) -> toml::Table {
    let text = std::fs::read_to_string(daemon.config()).expect("a configuration can be read");
    text.parse().expect("a configuration is TOML")
}

/// What a verifier says of a signature in a handshake.
type Checked = Result<HandshakeSignatureValid, rustls::Error>;

/// Judges nobody.
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
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Checked {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Checked {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Checked {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(&self, _: &[u8], _: &CertificateDer<'_>, _: &DigitallySignedStruct) -> Checked {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Gives the one key there is, asked for or not.
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
