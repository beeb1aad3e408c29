//! The desk at which hosts join, renew and come home: proof by a token or by a member's identity key, one decision in
//! the trust log, a channel certificate. Decisions are made twice by the same rules: before anything is signed or issued,
//! and in the transaction that uses the token up.
//!
//! - `approval`: hosts without a token, which wait for an operator
//! - `kerberos`: hosts for which a KDC vouches

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use wardline_connector::join::{self, Asked, Desk, Knock, Knocking, Question};
use wardline_connector::journal::{self, Quota};
use wardline_connector::now_ms;
use wardline_proto::event::Event;
use wardline_proto::join::{Answered, Challenge, Hello, Refusal, Stands, Welcome, Why};
use wardline_proto::message::{Context, Digest, Signed, encode};
use wardline_proto::trust::{self, Fact};
use wardline_proto::{GroupId, Name, Principal, Realm, Role, principal};
use wardline_secrets::certificate::Fault;
use wardline_secrets::head::signed_head;
use wardline_secrets::request::Request;
use wardline_secrets::sealing::SealingCertificate;
use wardline_secrets::signature::{VerifyingKey, sha256};
use wardline_secrets::trust::not_after;
use wardline_secrets::view::{Member, Token, Unsound, View, key_of};
use wardline_secrets::{tls, token};

use crate::configuration::Configurations;
use crate::founding::{Authorities, Issuer, moment, validity};
use crate::operating;
use crate::store::Store;

/// The most decisions in a second.
const DECISIONS: u32 = 200;
/// The most certificates of one member in a day, or in the life of one that is shorter: the trust log keeps them for ever.
const RENEWALS: usize = 20;
/// Milliseconds.
const DAY: u64 = 24 * 3600 * 1000;
/// The most members of a group.
const MEMBERS: usize = 100_000;
/// How long the database may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A channel certificate and the issuing CA's, DER; nothing for who wants none.
type Chain = Vec<Bytes>;

/// What a further server brings, read.
#[derive(Clone, Debug)]
struct Further {
    /// The id of its token.
    token: [u8; 16],
    /// Its duty key, which it has.
    duty: VerifyingKey,
    /// What the group's keys are encrypted to for it.
    sealing: SealingCertificate,
}

/// The desk.
pub struct JoinDesk {
    store: Store,
    authorities: watch::Receiver<Arc<Authorities>>,
    lifetime: Duration,
    without_token: WithoutToken,
    vouching: Vouching,
    configurations: Arc<Configurations>,
    gate: Mutex<Gate>,
    requests: Mutex<Requests>,
}

/// What the configuration says about who is let in.
#[derive(Debug)]
pub struct Admission {
    /// How long channel certificates are good.
    pub lifetime: Duration,
    /// What is done with hosts that ask without a token.
    pub without_token: WithoutToken,
    /// And with hosts that come by Kerberos.
    pub vouching: Vouching,
}

/// Why somebody is not let in: what they are told, and what the operator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the host.
    pub why: Why,
    /// For the log.
    pub reason: String,
}

impl Refused {
    fn new(why: Why, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }
}

impl From<Unsound> for Refused {
    fn from(unsound: Unsound) -> Self {
        Self::new(Why::Unavailable, format!("the trust log does not take it: {unsound}"))
    }
}

impl JoinDesk {
    /// A desk of this server.
    pub fn new(
        store: Store,
        authorities: watch::Receiver<Arc<Authorities>>,
        Admission { lifetime, without_token, vouching }: Admission,
        configurations: Arc<Configurations>,
    ) -> Arc<Self> {
        let (gate, requests) = Default::default();
        Arc::new(Self { store, authorities, lifetime, without_token, vouching, configurations, gate, requests })
    }

    fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        // Nothing panics while it is held, and nothing waits.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn decide(&self, asking: &Knock) -> Result<Answered, Refused> {
        let mut ask = Ask::read(&asking.hello)?;
        if ask.further.is_some() || (ask.role == Role::Server && ask.token.is_some()) {
            return Err(Refused::new(Why::Protocol, "a server joins by a code"));
        }
        let view = Arc::clone(&self.store.view().borrow());
        let heard = if asking.proof.kerberos.is_empty() {
            None
        } else {
            let (heard, via) = self.hear(&ask, &view, asking).await?;
            ask.vouched = Some(via);
            Some(heard)
        };
        let realms: Arc<[Realm]> = self.vouching.realms().into();
        let key = ask.admissible(&view, now_ms(), asking, &realms)?;
        let (chain, issued) = self.issue(&ask.name, ask.role, key.as_ref(), &ask.certificate)?;
        let (service, to) = (format!("{} {}", ask.role, ask.name), issued.as_ref().map(|issued| issued.not_after));
        let act = ask.act();
        let deciding = self.store.act(act.clone(), move |view, now| ask.facts(view, now, issued.as_ref(), &realms));
        let unavailable = |reason: &str| Refused::new(Why::Unavailable, reason);
        let decided = tokio::time::timeout(PATIENCE, deciding).await;
        let facts = decided.map_err(|_| unavailable("the database takes no data now"))?;
        let facts = facts.map_err(|error| unavailable(&error.to_string()))??;
        if facts.iter().any(|fact| matches!(fact, Fact::Member(_))) {
            journal::emit(Event::Joined { service, act });
        } else if let Some(to) = to {
            journal::emit(Event::CertificateIssued { service, to: moment(to) });
        }
        let welcome = self.welcome(&asking.transcript, chain, Bytes::new());
        match heard {
            None => Ok(Answered::Welcome(welcome)),
            Some(heard) => heard.vouch(welcome).map(Answered::Vouched).map_err(|reason| unavailable(&reason)),
        }
    }

    fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.authorities.borrow())
    }

    /// A channel certificate, the one that the host brought or a new one, with what leads from it to the root; and what the
    /// log is to say of it. Nothing to who wants none.
    fn issue(
        &self,
        name: &Name,
        role: Role,
        key: Option<&VerifyingKey>,
        brought: &Bytes,
    ) -> Result<(Chain, Option<trust::Issued>), Refused> {
        let Some(key) = key else { return Ok((Vec::new(), None)) };
        let authorities = self.authorities();
        let leaf = match (&authorities.issuer, brought.is_empty()) {
            (Issuer::BuiltIn(issuing), true) => {
                let valid = validity(now_ms() / 1000, self.lifetime.as_secs(), issuing.not_after());
                let leaf = issuing.channel(name, role, key, valid);
                leaf.map_err(|error| Refused::new(Why::Unavailable, format!("no certificate: {error}")))?
            }
            (Issuer::Own(_, cross), false) => {
                let chain = [CertificateDer::from(brought.to_vec()), cross.clone()];
                let certified = tls::certified(&self.store.keeper().root, &chain, name, role);
                let id = certified.map_err(|fault| Refused::new(unfit(&fault), format!("its certificate: {fault}")))?;
                if id != key.id() {
                    return Err(Refused::new(Why::CertificateKey, "its certificate is not for the key of its request"));
                }
                let [leaf, _] = chain;
                leaf
            }
            (Issuer::BuiltIn(_), false) => {
                let reason = "it brings a certificate, and the built-in CA issues them";
                return Err(Refused::new(Why::CertificateUnwanted, reason));
            }
            (Issuer::Own(..), true) => {
                let reason = "it brings no certificate, and `own_pki` says that the company's PKI issues them";
                return Err(Refused::new(Why::CertificateNeeded, reason));
            }
        };
        let above = authorities.issuer.certificate();
        let issuer = key_of(above).map(|key| Bytes::copy_from_slice(&key.0)).unwrap_or_default();
        let (certificate, not_after) = (sha256(&[&leaf]).to_wire(), not_after(&leaf));
        let issued = trust::Issued { name: name.to_string(), certificate, not_after, issuer };
        Ok(([&leaf, above].map(|der| Bytes::copy_from_slice(der)).into(), Some(issued)))
    }

    fn welcome(&self, transcript: &Digest, chain: Chain, sealed: Bytes) -> Signed {
        let keeper = self.store.keeper();
        let view = Arc::clone(&self.store.view().borrow());
        let welcome = Welcome {
            transcript: transcript.to_wire(),
            chain,
            recovery: view.recovery().map(|key| key.spki().into()).unwrap_or_default(),
            head: signed_head(&keeper.duty, &view.reach(), now_ms()),
            sealed,
        };
        keeper.duty.signed(Context::Join, encode(&welcome))
    }

    /// Tells the operator of a refusal, not too often; what the host is told.
    fn told(&self, hello: &Hello, address: SocketAddr, Refused { why, reason }: Refused) -> Why {
        if self.gate().told.allows(address.ip(), Instant::now()) {
            let name = format!("{} {}", word(&hello.role), word(&hello.name));
            journal::emit(Event::JoinRefused { name, address: address.to_string(), reason });
        }
        why
    }
}

impl Desk for JoinDesk {
    fn challenge(&self, begun: &[u8], nonce: &[u8]) -> Signed {
        let keeper = self.store.keeper();
        let name = self.store.view().borrow().name().cloned();
        let voucher = name.as_ref().and_then(|group| self.vouching.voucher(group));
        let challenge = Challenge {
            hello: sha256(&[begun]).to_wire(),
            nonce: Bytes::copy_from_slice(nonce),
            group: Bytes::copy_from_slice(&keeper.root.group().0),
            name: name.map(|name| name.to_string()).unwrap_or_default(),
            service: voucher.map(|voucher| voucher.service.clone()).unwrap_or_default(),
            chain: vec![self.authorities().duty.clone(), Bytes::copy_from_slice(keeper.root.certificate())],
            at: now_ms(),
        };
        keeper.duty.signed(Context::Join, encode(&challenge))
    }

    fn refuse(&self, refusal: &Refusal) -> Signed {
        self.store.keeper().duty.signed(Context::Join, encode(refusal))
    }

    async fn admit(&self, asking: Knock) -> Result<Answered, Why> {
        let decided = if self.gate().passes() {
            self.decide(&asking).await
        } else {
            Err(Refused::new(Why::Busy, format!("more than {DECISIONS} ask within a second")))
        };
        decided.map_err(|refused| self.told(&asking.hello, asking.address, refused))
    }

    fn may_ask(&self, role: &str, name: &str) -> bool {
        self.requests().may_ask(role, name, Instant::now())
    }

    async fn keep(&self, request: join::Request) -> Result<(), Why> {
        self.request(&request).map_err(|refused| self.told(&request.hello, request.address, refused))
    }

    async fn look(&self, asked: Asked) -> Result<Option<Signed>, Why> {
        self.became(&asked)
    }

    async fn stands(&self, Question { standing, transcript, signature }: Question) -> Result<Signed, Why> {
        if !self.gate().passes() {
            return Err(Why::Busy);
        }
        let identity = VerifyingKey::from_spki(&standing.identity).map_err(|_| Why::Protocol)?;
        let (name, role): (Name, Role) =
            standing.name.parse().ok().zip(standing.role.parse().ok()).ok_or(Why::Protocol)?;
        let view = Arc::clone(&self.store.view().borrow());
        let proved = identity.verify(Context::Join, view.group(), &transcript.0, &signature);
        proved.map_err(|_| Why::Signature)?;
        if view.was_removed(&identity.id()) {
            return Err(Why::KeyRemoved);
        }
        // Nobody but the member itself learns anything of it.
        let known = view.find(&name, role).filter(|member| member.identity == identity);
        let member = Arc::clone(known.ok_or(Why::NotMember)?);
        let due = match role {
            Role::Agent => self.configurations.due(&view, &name).await,
            _ => None,
        };
        let stands = Stands {
            transcript: transcript.to_wire(),
            certificate: Digest::from_wire(&standing.certificate).is_some_and(|hash| member.holds(&hash)),
            gateways: member.parents.iter().map(ToString::to_string).collect(),
            cookie: due.map(|due| due.cookie.to_wire()).unwrap_or_default(),
            principal: member.principal.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        Ok(self.store.keeper().duty.signed(Context::Join, encode(&stands)))
    }
}

/// Serves one who knocks at this server.
pub async fn serve(desk: Arc<JoinDesk>, knocking: Knocking) {
    join::serve(knocking, desk.as_ref()).await;
}

/// As much of what somebody says as an event shows.
fn word(text: &str) -> String {
    text.chars().take(253).collect()
}

/// What somebody asks for, read.
struct Ask {
    name: Name,
    role: Role,
    /// The token's id; none from who is a member.
    token: Option<[u8; 16]>,
    identity: VerifyingKey,
    request: Bytes,
    /// The certificate that it brings, DER.
    certificate: Bytes,
    /// The Kerberos principal that it says is its own.
    principal: Option<Principal>,
    /// What it brings besides, when it is a further server.
    further: Option<Further>,
    /// When a KDC has vouched for it and that is enough: the gateways that are to speak for it.
    vouched: Option<Vec<Name>>,
}

impl Ask {
    fn read(hello: &Hello) -> Result<Self, Refused> {
        let protocol = |reason: String| Refused::new(Why::Protocol, reason);
        let name = hello.name.parse().map_err(|error| protocol(format!("{error}")))?;
        let role = match (hello.role.parse(), &hello.further) {
            (Ok(role @ (Role::Agent | Role::Gateway)), None) => role,
            // Without what a further one brings it is one without a database.
            (Ok(Role::Server), _) => Role::Server,
            _ => return Err(protocol("only agents, gateways and servers join".into())),
        };
        let identity = VerifyingKey::from_spki(&hello.identity);
        let identity = identity.map_err(|error| protocol(format!("its identity key: {error}")))?;
        let token = match hello.token.as_ref() {
            [] => None,
            id => Some(id.try_into().map_err(|_| Refused::new(Why::TokenUnknown, "a token's id has 16 bytes"))?),
        };
        let (request, certificate) = (hello.request.clone(), hello.certificate.clone());
        let further = hello.further.as_ref().map(|further| {
            let token = token.ok_or_else(|| Refused::new(Why::TokenNeeded, "a server joins with a token only"))?;
            Further::read(token, &name, further)
        });
        let principal = (!hello.principal.is_empty()).then(|| hello.principal.parse());
        let principal = principal.transpose().map_err(|error| protocol(format!("{error}")))?;
        let further = further.transpose()?;
        Ok(Self { name, role, token, identity, request, certificate, principal, further, vouched: None })
    }

    /// Whose act it would be.
    fn act(&self) -> String {
        match (self.token, &self.vouched, &self.principal) {
            (Some(id), ..) => format!("token {}", hex(&id)),
            (None, Some(_), Some(principal)) => format!("principal {principal}"),
            (None, ..) => format!("{} {}", self.role, self.name),
        }
    }

    /// The key that a certificate may be issued for; none for who wants none. The first rule that is broken counts, in this
    /// order always.
    fn admissible(
        &self,
        view: &View,
        now: u64,
        Knock { transcript, proof, .. }: &Knock,
        realms: &[Realm],
    ) -> Result<Option<VerifyingKey>, Refused> {
        match self.token {
            Some(id) => self.bears(view, now, &id, transcript, &proof.token)?,
            None if self.vouched.is_some() => {}
            None => _ = self.member(view)?,
        }
        self.proved(view.group(), transcript, &proof.identity)?;
        let key = self.key()?;
        self.place(view, now, realms)?;
        Ok(key)
    }

    /// What it is to become: one who is there already, or a new member.
    fn place<'a>(&self, view: &'a View, now: u64, realms: &[Realm]) -> Result<Place<'a>, Refused> {
        let (known, parents, said) = match (&self.token, &self.vouched) {
            (Some(id), _) => {
                let token = self.good_token(view, now, id)?;
                (self.free(view, |member| self.is_again(member, id))?, &token.parents, token.principal.as_ref())
            }
            (None, Some(via)) => {
                let again = |member: &Member| {
                    member.identity == self.identity && member.role == self.role && member.principal == self.principal
                };
                (self.free(view, again)?, via, None)
            }
            (None, None) => return self.member(view).map(Place::There),
        };
        if let Some(member) = known {
            // Whoever is there keeps the principal that it has: to give it another is an operator's act.
            let same = self.principal.is_none() || member.principal == self.principal;
            let reason = || format!("it has joined with another; `wardline {} principal` changes that", self.role);
            return same.then_some(Place::There(member)).ok_or_else(|| Refused::new(Why::PrincipalUnfit, reason()));
        }
        let principal = settled(&self.name, self.principal.as_ref(), said, realms, view)?;
        Ok(Place::New(trust::Member {
            name: self.name.to_string(),
            role: self.role.to_string(),
            identity: self.identity.spki().into(),
            parents: parents.iter().map(ToString::to_string).collect(),
            token: self.token.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default(),
            principal: principal.map(|principal| principal.to_string()).unwrap_or_default(),
            relays: false,
        }))
    }

    /// It has the token, which is good for it now.
    fn bears(
        &self,
        view: &View,
        now: u64,
        id: &[u8; 16],
        transcript: &Digest,
        signature: &[u8],
    ) -> Result<(), Refused> {
        let token = self.good_token(view, now, id)?;
        let fits = token::verify(&token.key, &transcript.0, signature);
        fits.then_some(()).ok_or_else(|| Refused::new(Why::Signature, format!("it does not hold token {}", hex(id))))
    }

    /// The key that it wants a certificate for; none when it comes by Kerberos alone.
    fn key(&self) -> Result<Option<VerifyingKey>, Refused> {
        if self.request.is_empty() {
            let reason = "it asks for no certificate, and does not come by Kerberos";
            return self.principal.as_ref().map(|_| None).ok_or_else(|| Refused::new(Why::Request, reason));
        }
        let refused = |reason: String| Refused::new(Why::Request, reason);
        let request = Request::parse(&self.request).map_err(|error| refused(format!("its request: {error}")))?;
        if request.name != self.name || request.role != self.role {
            return Err(refused(format!("its request is for {} {}", request.role, request.name)));
        }
        Ok(Some(request.key))
    }

    /// Nobody has the name.
    fn unknown(&self, view: &View) -> Result<(), Refused> {
        unknown(&self.name, &self.identity, view)
    }

    fn proved(&self, group: GroupId, transcript: &Digest, signature: &[u8]) -> Result<(), Refused> {
        let proved = self.identity.verify(Context::Join, group, &transcript.0, signature);
        proved.map_err(|_| Refused::new(Why::Signature, "it does not hold the identity key that it names"))
    }

    /// What is so from now on.
    fn facts(
        &self,
        view: &View,
        now: u64,
        issued: Option<&trust::Issued>,
        realms: &[Realm],
    ) -> Result<Vec<Fact>, Refused> {
        let member = match (self.place(view, now, realms)?, issued) {
            (Place::New(member), _) => Some(Fact::Member(member)),
            (Place::There(member), Some(issued)) => {
                seldom(member, now, issued.not_after.saturating_mul(1000)).map(|()| None)?
            }
            (Place::There(_), None) => None,
        };
        if let (Some(_), Some(via)) = (&member, &self.vouched) {
            operating::gateways(via, view).map_err(|refusal| {
                Refused::new(
                    Why::Unavailable,
                    format!("the rule for it names what is no gateway: {}", refusal.0.detail),
                )
            })?;
        }
        Ok(member.into_iter().chain(issued.cloned().map(Fact::Issued)).collect())
    }

    /// The token, if it is good for this host now.
    fn good_token<'a>(&self, view: &'a View, now: u64, id: &[u8; 16]) -> Result<&'a Token, Refused> {
        let shown = hex(id);
        let refuse = |why, reason: String| Err(Refused::new(why, reason));
        let Some(token) = view.token(id) else {
            return refuse(Why::TokenUnknown, format!("token {shown} is not known"));
        };
        if token.revoked {
            return refuse(Why::TokenUnknown, format!("token {shown} was revoked"));
        }
        if now > token.expires {
            return refuse(Why::TokenExpired, format!("token {shown} expired at {}", moment(token.expires / 1000)));
        }
        // Who comes again, because the answer was lost, has used it already.
        let again = view.member_named(&self.name).is_some_and(|member| self.is_again(member, id));
        if token.used >= token.uses && !again {
            return refuse(Why::TokenUsed, format!("token {shown} was used {} times, as often as it may", token.used));
        }
        if token.role != self.role {
            return refuse(Why::TokenRole, format!("token {shown} is for a new {}", token.role));
        }
        if !token.is_for(&self.name) {
            return refuse(Why::TokenName, format!("token {shown} is for {}", token.name));
        }
        Ok(token)
    }

    /// Whether this member joined by what is asked for now.
    fn is_again(&self, member: &Member, id: &[u8; 16]) -> bool {
        member.identity == self.identity && member.role == self.role && member.token.as_ref() == Some(id)
    }

    /// Nobody has the name, or the same host has it already.
    fn free<'a>(&self, view: &'a View, is_again: impl Fn(&Member) -> bool) -> Result<Option<&'a Arc<Member>>, Refused> {
        match view.member_named(&self.name) {
            Some(member) if is_again(member) => Ok(Some(member)),
            _ => unknown(&self.name, &self.identity, view).map(|()| None),
        }
    }

    /// The member that asks.
    fn member<'a>(&self, view: &'a View) -> Result<&'a Arc<Member>, Refused> {
        let known = view.find(&self.name, self.role).filter(|member| member.identity == self.identity);
        // Servers with the database have it from their own hands.
        let known = known.filter(|member| member.role != Role::Server || member.relays);
        let reason = || format!("no {} has this name and identity key {}", self.role, self.identity.id());
        known.ok_or_else(|| Refused::new(Why::NotMember, reason()))
    }
}

/// What somebody who may come in is to become.
enum Place<'a> {
    There(&'a Arc<Member>),
    New(trust::Member),
}

impl Further {
    fn read(token: [u8; 16], name: &Name, said: &wardline_proto::join::Further) -> Result<Self, Refused> {
        let refused = |reason: String| Refused::new(Why::Request, reason);
        let duty = Request::parse(&said.duty).map_err(|error| refused(format!("its duty key: {error}")))?;
        if duty.name != *name || duty.role != Role::Server {
            return Err(refused(format!("its duty key is of {} {}", duty.role, duty.name)));
        }
        let sealing = SealingCertificate::read(&said.sealing, name, Role::Server, now_ms() / 1000);
        let sealing = sealing.map_err(|fault| refused(format!("the key for what it is given: {fault}")))?;
        Ok(Self { token, duty: duty.key, sealing })
    }
}

/// The Kerberos principal that a new member is to have, which nobody else has.
fn settled(
    name: &Name,
    asked: Option<&Principal>,
    said: Option<&Principal>,
    realms: &[Realm],
    view: &View,
) -> Result<Option<Principal>, Refused> {
    let principal = principal::settle(name, asked, said, realms);
    let principal = principal.map_err(|unfit| Refused::new(Why::PrincipalUnfit, unfit.to_string()))?;
    let other = principal.as_ref().and_then(|principal| view.of_principal(principal));
    match other.filter(|other| other.name != *name) {
        Some(other) => {
            let reason = format!("{} {} has its Kerberos principal", other.role, other.name);
            Err(Refused::new(Why::PrincipalTaken, reason))
        }
        None => Ok(principal),
    }
}

/// Nobody has this name, and there is place for one more.
fn unknown(name: &Name, identity: &VerifyingKey, view: &View) -> Result<(), Refused> {
    if view.was_removed(&identity.id()) {
        let reason = format!("identity key {} was removed from the group", identity.id());
        return Err(Refused::new(Why::KeyRemoved, reason));
    }
    match view.member_named(name) {
        Some(member) => {
            let reason = format!("{} {} has this name, with identity key {}", member.role, member.name, member.key());
            Err(Refused::new(Why::NameTaken, reason))
        }
        None if view.members().count() >= MEMBERS => {
            Err(Refused::new(Why::Unavailable, format!("the group has {MEMBERS} members, the most there may be")))
        }
        None => Ok(()),
    }
}

/// What a host is told of a fault in the certificate that it brought.
const fn unfit(fault: &Fault) -> Why {
    match fault {
        Fault::Encoding | Fault::Chain(_) | Fault::Disowned | Fault::Unwanted => Why::CertificateChain,
        Fault::Validity(..) => Why::CertificateValidity,
        Fault::NoName | Fault::Names(_) | Fault::Name(_) | Fault::Role(_) | Fault::Other { .. } => Why::CertificateName,
        Fault::Usage(_) => Why::CertificateUsage,
        Fault::Key => Why::CertificateKey,
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    wardline_sdk::hex::encode(bytes)
}

/// A member does not renew all the time. The new certificate would end then, milliseconds since 1970.
fn seldom(member: &Member, now: u64, ends: u64) -> Result<(), Refused> {
    let since = now.saturating_sub(DAY.min(ends.saturating_sub(now)));
    if member.certificates.iter().filter(|certificate| certificate.at > since).count() < RENEWALS {
        return Ok(());
    }
    Err(Refused::new(Why::Busy, format!("it has got {RENEWALS} certificates in a day, or in the life of one, already")))
}

/// How much was decided and told in the present second.
#[derive(Debug, Default)]
struct Gate {
    began: Option<Instant>,
    decisions: u32,
    told: Quota,
}

impl Gate {
    /// Whether one more decision may be made.
    fn passes(&mut self) -> bool {
        if self.began.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            (self.began, self.decisions) = (Some(Instant::now()), 0);
        }
        self.decisions += u32::from(self.decisions < DECISIONS + 1);
        self.decisions <= DECISIONS
    }
}

mod approval;
mod kerberos;
use approval::Requests;
pub use approval::WithoutToken;
pub use kerberos::{Rule, Vouching};

#[cfg(test)]
pub(crate) mod tests;
