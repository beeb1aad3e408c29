//! A small group for tests: its authorities, a desk that lets hosts in, listeners on real sockets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wardline_proto::join::{Answered, Challenge, Hello, Refusal, Welcome, Why};
use wardline_proto::message::{Context, Digest, Signed, encode};
use wardline_proto::{GroupId, Name, Role};
use wardline_secrets::authority::{
    ISSUING_LIFETIME, IssuingAuthority, ROOT_LIFETIME, RootAuthority, Validity, certificates_pem,
};
use wardline_secrets::certificate::Identity;
use wardline_secrets::head::{Reach, signed_head};
use wardline_secrets::merkle;
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::request::Request;
use wardline_secrets::signature::{SigningKey, VerifyingKey, random, sha256};
use wardline_secrets::tls::Channel;
use wardline_secrets::token::{self, Token};
use wardline_secrets::trust::Root;

use crate::config::{Mechanism, Membership, Parent};
use crate::credential::{Credential, credential};
use crate::handshake::{PEER_TIMEOUT, Session};
use crate::join::{self, Asked, Desk, Knock, Knocking, Question};
use crate::sealing::Sealing;
use crate::{listener, now_ms};

pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wardline-connector-{:032x}", u128::from_be_bytes(random())));
        private::create_folder(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Data protection in a folder of a test.
pub(crate) fn vault(folder: &Path) -> Vault {
    Vault::open(folder, now_ms() / 1000).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn parent(name: &str, address: SocketAddr) -> Parent {
    Parent::new(name.parse().unwrap(), address.to_string())
}

/// What a listener has that only lets hosts in.
pub(crate) fn nobody() -> Credential {
    credential(Identity { name: name("nobody.test"), role: Role::Gateway }, None).1
}

/// A log of so many entries.
pub(crate) fn reach(size: u64) -> Reach {
    Reach { head: merkle::Head { size, root: Digest([1; 32]) }, version: size }
}

/// An address where nobody listens, and that nobody else is given while the socket is kept.
pub(crate) fn reserved() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Waits for something, not for ever.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) root: RootAuthority,
    pub(crate) issuing: IssuingAuthority,
    pub(crate) duty: SigningKey,
    pub(crate) duty_certificate: CertificateDer<'static>,
    from: u64,
}

impl Group {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(GroupId(random()))
    }

    pub(crate) fn with(id: GroupId) -> Arc<Self> {
        let from = now_ms() / 1000 - 60;
        let (root, _) = RootAuthority::create("north", Validity::lasting(from, ROOT_LIFETIME)).unwrap();
        let (issuing, _) = root.issue_ca(Validity::lasting(from, ISSUING_LIFETIME)).unwrap();
        let (duty, _) = SigningKey::generate(id).unwrap();
        let validity = Validity::lasting(from, 3600);
        let duty_certificate = root.duty(&name("srv.test"), &duty.public().unwrap(), validity).unwrap();
        Arc::new(Self { id, root, issuing, duty, duty_certificate, from })
    }

    pub(crate) fn trusted(&self) -> Root {
        Root::from_certificate(self.root.certificate(), self.id, self.root.pin()).unwrap()
    }

    /// A channel certificate of an hour for a key.
    pub(crate) fn issue(&self, host: &Name, role: Role, key: &VerifyingKey, validity: Validity) -> Vec<Bytes> {
        let leaf = self.issuing.channel(host, role, key, validity).unwrap();
        [&leaf, self.issuing.certificate()].map(|der| Bytes::copy_from_slice(der)).to_vec()
    }

    pub(crate) fn hour(&self) -> Validity {
        Validity::lasting(self.from, 3600)
    }

    /// Writes `channel.pem` and `channel.key`.
    pub(crate) fn write(&self, folder: &Path, host: &str, role: Role, validity: Validity) -> SigningKey {
        let (key, pem) = SigningKey::generate(self.id).unwrap();
        let chain = self.issue(&name(host), role, &key.public().unwrap(), validity);
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
        let chain = certificates_pem(&chain.iter().collect::<Vec<_>>()).unwrap();
        private::write(&folder.join("channel.pem"), chain.as_bytes()).unwrap();
        private::write(&folder.join("channel.key"), pem.as_bytes()).unwrap();
        key
    }

    pub(crate) fn channel(&self, host: &str, role: Role) -> Channel {
        let scratch = Scratch::new();
        self.write(&scratch.0, host, role, self.hour());
        Channel::load(&vault(&scratch.0), &scratch.0, self.trusted(), &name(host), role).unwrap()
    }

    /// The sealing keys of a health service that keeps them there.
    pub(crate) fn sealing(&self, own: Identity, identity: &Arc<SigningKey>, folder: &Path) -> Arc<Sealing> {
        Sealing::open(own, name("north"), self.trusted(), Arc::clone(identity), folder, vault(folder)).unwrap()
    }

    pub(crate) fn membership(&self, parents: Vec<Parent>) -> Membership {
        Membership {
            name: name("north"),
            id: self.id,
            pin: self.root.pin(),
            parents,
            mechanism: Mechanism::Certificate,
            primary_check: Duration::from_millis(200),
            peer_timeout: PEER_TIMEOUT,
            own_pki: None,
        }
    }

    pub(crate) fn identity(&self) -> Arc<SigningKey> {
        Arc::new(SigningKey::generate(self.id).unwrap().0)
    }
}

/// What a desk does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Twist {
    None,
    /// Certifies a key of its own.
    OtherKey,
    /// Certifies another name.
    OtherName,
    /// Does not answer.
    Silent,
    /// Says no.
    Refuses(Why),
}

/// Lets in who has the token, or a member's identity key.
pub(crate) struct TestDesk {
    pub(crate) group: Arc<Group>,
    pub(crate) token: Option<[u8; 32]>,
    /// The root that it shows.
    pub(crate) shows: CertificateDer<'static>,
    pub(crate) twist: Mutex<Twist>,
    pub(crate) life: Mutex<Validity>,
    /// Who was let in: identity key and request.
    pub(crate) members: Mutex<Vec<(Bytes, Bytes)>>,
    /// Who asks without a token.
    pub(crate) requests: Mutex<Vec<join::Request>>,
    /// What an operator says to all of them.
    pub(crate) says: Mutex<Option<Result<(), Why>>>,
}

impl TestDesk {
    pub(crate) fn new(group: &Arc<Group>) -> (Arc<Self>, Token) {
        let (token, public) = Token::create(group.id, group.root.pin()).unwrap();
        let (twist, life) = (Mutex::new(Twist::None), Mutex::new(group.hour()));
        let (group, shows) = (Arc::clone(group), group.root.certificate().clone());
        let (members, requests, says) = Default::default();
        (Arc::new(Self { group, token: Some(public), shows, twist, life, members, requests, says }), token)
    }

    fn decide(&self, knock: &Knock) -> Result<Signed, Why> {
        let Knock { hello, transcript, proof, .. } = knock;
        let identity = VerifyingKey::from_spki(&hello.identity).map_err(|_| Why::Protocol)?;
        identity.verify(Context::Join, self.group.id, &transcript.0, &proof.identity).map_err(|_| Why::Signature)?;
        if hello.token.is_empty() {
            let members = self.members.lock().unwrap();
            members.iter().find(|(key, _)| *key == hello.identity).ok_or(Why::NotMember)?;
        } else if !token::verify(&self.token.ok_or(Why::TokenUnknown)?, &transcript.0, &proof.token) {
            return Err(Why::Signature);
        }
        let request = Request::parse(&hello.request).map_err(|_| Why::Request)?;
        if request.name.as_str() != hello.name || request.role.as_str() != hello.role {
            return Err(Why::Request);
        }
        self.welcome(hello, request, transcript)
    }

    fn welcome(&self, hello: &Hello, request: Request, transcript: &Digest) -> Result<Signed, Why> {
        self.members.lock().unwrap().push((hello.identity.clone(), hello.request.clone()));
        let twist = *self.twist.lock().unwrap();
        let (mut key, mut host) = (request.key, request.name);
        match twist {
            Twist::OtherKey => key = self.group.identity().public().unwrap(),
            Twist::OtherName => host = name("other.test"),
            Twist::Refuses(why) => return Err(why),
            Twist::None | Twist::Silent => {}
        }
        let welcome = Welcome {
            transcript: transcript.to_wire(),
            chain: self.group.issue(&host, request.role, &key, *self.life.lock().unwrap()),
            recovery: self.group.identity().public().unwrap().spki().into(),
            head: signed_head(&self.group.duty, &reach(7), 0),
            sealed: Bytes::new(),
        };
        Ok(self.group.duty.signed(Context::Join, encode(&welcome)))
    }
}

impl Desk for TestDesk {
    fn challenge(&self, hello: &[u8], nonce: &[u8]) -> Signed {
        let challenge = Challenge {
            hello: sha256(&[hello]).to_wire(),
            nonce: Bytes::copy_from_slice(nonce),
            group: Bytes::copy_from_slice(&self.group.id.0),
            name: "north".into(),
            chain: [&self.group.duty_certificate, &self.shows].map(|der| Bytes::copy_from_slice(der)).to_vec(),
            at: now_ms(),
            service: String::new(),
        };
        self.group.duty.signed(Context::Join, encode(&challenge))
    }

    fn refuse(&self, refusal: &Refusal) -> Signed {
        self.group.duty.signed(Context::Join, encode(refusal))
    }

    async fn admit(&self, knock: Knock) -> Result<Answered, Why> {
        let decided = self.decide(&knock);
        if *self.twist.lock().unwrap() == Twist::Silent {
            return std::future::pending().await;
        }
        decided.map(Answered::Welcome)
    }

    fn may_ask(&self, _: &str, _: &str) -> bool {
        true
    }

    async fn keep(&self, request: join::Request) -> Result<(), Why> {
        if let Twist::Refuses(why) = *self.twist.lock().unwrap() {
            return Err(why);
        }
        let identity = VerifyingKey::from_spki(&request.hello.identity).map_err(|_| Why::Protocol)?;
        let signed = identity.verify(Context::Join, self.group.id, &request.transcript.0, &request.signature);
        signed.map_err(|_| Why::Signature)?;
        self.requests.lock().unwrap().push(request);
        Ok(())
    }

    async fn look(&self, asked: Asked) -> Result<Option<Signed>, Why> {
        let known = self.requests.lock().unwrap().iter().find(|known| known.transcript == asked.request).cloned();
        let known = known.ok_or(Why::NoRequest)?;
        let identity = VerifyingKey::from_spki(&known.hello.identity).map_err(|_| Why::Protocol)?;
        let signed = identity.verify(Context::Join, self.group.id, &asked.transcript.0, &asked.signature);
        signed.map_err(|_| Why::Signature)?;
        let Some(says) = *self.says.lock().unwrap() else { return Ok(None) };
        says?;
        let request = Request::parse(&known.hello.request).map_err(|_| Why::Request)?;
        self.welcome(&known.hello, request, &asked.transcript).map(Some)
    }

    async fn stands(&self, _: Question) -> Result<Signed, Why> {
        Err(Why::NotMember)
    }
}

/// Listens on a free port of this host.
pub(crate) async fn listen<F, J>(
    credential: Credential,
    stop: &CancellationToken,
    serve: impl Fn(Session) -> F + Clone + Send + 'static,
    on_join: impl Fn(Knocking) -> J + Clone + Send + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
    J: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener::listen(listener, credential, stop.clone(), serve, on_join));
    address
}

/// Listens as a health service that hands out its sessions.
pub(crate) async fn sessions(
    channel: Channel,
    address: Option<SocketAddr>,
    stop: &CancellationToken,
) -> (SocketAddr, mpsc::UnboundedReceiver<Session>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let serve = move |session| {
        let _ = sender.send(session);
        std::future::ready(())
    };
    let listener = TcpListener::bind(address.unwrap_or("127.0.0.1:0".parse().unwrap())).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listener::listen(listener, channel.into(), stop.clone(), serve, |_| std::future::ready(())));
    (address, receiver)
}

/// A server that lets hosts in, and nothing else.
pub(crate) async fn server(desk: &Arc<TestDesk>, stop: &CancellationToken) -> SocketAddr {
    let desk = Arc::clone(desk);
    let on_join = move |knocking: Knocking| {
        let desk = Arc::clone(&desk);
        async move { join::serve(knocking, desk.as_ref()).await }
    };
    listen(nobody(), stop, |_| async {}, on_join).await
}

/// A gateway that passes on what hosts say that join, and nothing else.
pub(crate) async fn passing(parents: Vec<Parent>, stop: &CancellationToken) -> SocketAddr {
    let on_join = move |knocking: Knocking| {
        let parents = parents.clone();
        async move { join::pass(knocking.stream, &parents).await }
    };
    listen(nobody(), stop, |_| async {}, on_join).await
}
