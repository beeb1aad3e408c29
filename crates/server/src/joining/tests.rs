//! Who is let in, who is not, and that nobody is let in twice for once.

use wardline_connector::kerberos::Settings;
use wardline_proto::join::Proof;
use wardline_proto::message::decode;
use wardline_secrets::head::open_head;
use wardline_secrets::request::request;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::token::Token as Bearer;

use super::*;
use crate::founding::tests::{Running, Scratch, issuing};
use crate::founding::{OwnPki, default_lifetime};

pub(crate) fn admission(without_token: WithoutToken) -> Admission {
    Admission { lifetime: default_lifetime(), without_token, vouching: Vouching::default() }
}

/// A server with a desk.
struct Served {
    running: Running,
    desk: Arc<JoinDesk>,
    _scratch: Scratch,
}

/// A host that wants in, and may do everything wrong.
struct Host {
    name: String,
    role: String,
    identity: SigningKey,
    channel: String,
    /// What it asks a certificate for.
    request: Vec<u8>,
}

impl Served {
    async fn new() -> Self {
        Self::with(admission(WithoutToken::Review)).await
    }

    async fn with(admission: Admission) -> Self {
        let scratch = Scratch::new();
        let running = Running::new(&scratch.0).await;
        let (store, authorities) = (running.store.clone(), running.authorities());
        let known = Arc::new(Configurations::new(store.clone(), crate::accounts::tests::accounts(&store)));
        let desk = JoinDesk::new(store, authorities, admission, known);
        Self { running, desk, _scratch: scratch }
    }

    fn group(&self) -> GroupId {
        self.running.store.keeper().root.group()
    }

    fn host(&self, name: &str, role: Role) -> Host {
        let (_, channel) = SigningKey::generate(self.group()).unwrap();
        let identity = SigningKey::generate(self.group()).unwrap().0;
        let request = request(channel.as_bytes(), &name.parse().unwrap(), role).unwrap();
        Host { name: name.into(), role: role.to_string(), identity, channel: channel.to_string(), request }
    }

    async fn token(&self, role: Role, name: &str, uses: u32, lasts: i64) -> Bearer {
        let (bearer, key) = Bearer::create(self.group(), self.running.presence.pin).unwrap();
        self.running
            .act(vec![Fact::Token(trust::Token {
                id: bearer.id.to_vec().into(),
                key: key.to_vec().into(),
                role: role.to_string(),
                name: name.into(),
                uses,
                expires: now_ms().saturating_add_signed(lasts),
                parents: vec!["gw1.test".into()],
                ..trust::Token::default()
            })])
            .await;
        bearer
    }

    /// A token for one agent of this name and principal.
    async fn naming(&self, name: &str, principal: &str) -> Bearer {
        let (bearer, key) = Bearer::create(self.group(), self.running.presence.pin).unwrap();
        self.running
            .act(vec![Fact::Token(trust::Token {
                id: bearer.id.to_vec().into(),
                key: key.to_vec().into(),
                role: "agent".into(),
                name: name.into(),
                uses: 1,
                expires: now_ms() + 60_000,
                principal: principal.into(),
                ..trust::Token::default()
            })])
            .await;
        bearer
    }

    fn used(&self, token: &Bearer) -> u32 {
        self.running.view().token(&token.id).unwrap().used
    }

    /// What comes of it when a host asks, after `change` was made to what it says.
    async fn ask(&self, host: &Host, token: Option<&Bearer>, change: impl Fn(&mut Knock)) -> Result<Welcome, Why> {
        let mut hello = Hello {
            token: token.map(|token| token.id.to_vec().into()).unwrap_or_default(),
            name: host.name.clone(),
            role: host.role.clone(),
            identity: host.identity.public().unwrap().spki().into(),
            request: host.request.clone().into(),
            nonce: vec![1; 16].into(),
            ..Hello::default()
        };
        let bytes = encode(&hello);
        let challenge = self.desk.challenge(&bytes, &[2; 16]);
        let transcript = sha256(&[&bytes, &challenge.payload]);
        let proof = Proof {
            token: token.map(|token| token.sign(&transcript.0).to_vec().into()).unwrap_or_default(),
            identity: host.identity.sign(Context::Join, &transcript.0),
            kerberos: Bytes::new(),
        };
        hello.nonce = Bytes::new();
        let mut knock = Knock { hello, transcript, proof, address: "192.0.2.1:5723".parse().unwrap() };
        change(&mut knock);
        let Answered::Welcome(signed) = self.desk.admit(knock).await? else { panic!("it is no welcome") };
        let duty = self.running.store.keeper().duty.public().unwrap();
        let welcome: Welcome = decode(duty.open(Context::Join, self.group(), &signed).unwrap()).unwrap();
        assert_eq!(welcome.transcript, transcript.to_wire());
        assert_eq!(open_head(&duty, self.group(), &welcome.head), Some(self.running.view().reach()));
        Ok(welcome)
    }
}

fn nothing(_: &mut Knock) {}

#[tokio::test]
async fn a_challenge_leads_to_the_root_and_a_welcome_holds_a_certificate_that_the_log_knows() {
    let served = Served::new().await;
    let challenge = served.desk.challenge(b"hello", &[5; 16]);
    let keeper = served.running.store.keeper();
    let said: Challenge = decode(&challenge.payload).unwrap();
    let [duty, root] = said.chain.as_slice() else { panic!() };
    assert_eq!(root, keeper.root.certificate().as_ref());
    let now = rustls_pki_types::UnixTime::now();
    let (server, key) = keeper.root.duty(&[duty.as_ref().into()], now).unwrap();
    assert_eq!(server, keeper.server);
    key.open(Context::Join, served.group(), &challenge).unwrap();
    assert_eq!((said.name.as_str(), said.nonce.as_ref()), ("north", [5; 16].as_slice()));
    assert_eq!(said.hello, sha256(&[b"hello"]).to_wire());

    let (web1, token) = (served.host("web1.test", Role::Agent), served.token(Role::Agent, "web*", 1, 60_000).await);
    let welcome = served.ask(&web1, Some(&token), nothing).await.unwrap();
    let chain: Vec<_> = welcome.chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let identity = keeper.root.channel(&chain[0], &chain[1..], now).unwrap();
    assert_eq!(identity.to_string(), "agent web1.test");
    let view = served.running.view();
    let member = view.find(&identity.name, Role::Agent).unwrap();
    assert!(member.holds(&sha256(&[&chain[0]])));
    assert_eq!((member.parents[0].as_str(), member.token), ("gw1.test", Some(token.id)));
}

#[tokio::test]
async fn every_wrong_kind_of_knock_is_refused_and_no_token_is_used_up() {
    let served = Served::new().await;
    let good = served.token(Role::Agent, "web*", 1, 60_000).await;
    let web1 = served.host("web1.test", Role::Agent);
    let head = || served.running.view().tree().size();
    macro_rules! refused {
        ($host:expr, $token:expr, $why:ident, $change:expr) => {
            match ($host, $token) {
                (host, token) => {
                    let before = head();
                    assert_eq!(served.ask(host, token, $change).await.err(), Some(Why::$why), "{}", line!());
                    assert_eq!(head(), before);
                }
            }
        };
        ($host:expr, $token:expr, $why:ident) => {
            refused!($host, $token, $why, nothing)
        };
    }
    // Tokens.
    let (stranger, _) = Bearer::create(served.group(), served.running.presence.pin).unwrap();
    refused!(&web1, Some(&stranger), TokenUnknown);
    refused!(&web1, Some(&good), TokenUnknown, |knock| knock.hello.token = vec![1; 15].into());
    let revoked = served.token(Role::Agent, "*", 1, 60_000).await;
    let fact = Fact::TokenRevoked(trust::TokenRevoked { id: revoked.id.to_vec().into() });
    served.running.act(vec![fact]).await;
    refused!(&web1, Some(&revoked), TokenUnknown);
    refused!(&web1, Some(&served.token(Role::Agent, "*", 1, -1000).await), TokenExpired);
    refused!(&web1, Some(&served.token(Role::Agent, "*", 0, 60_000).await), TokenUsed);
    refused!(&web1, Some(&served.token(Role::Gateway, "*", 1, 60_000).await), TokenRole);
    refused!(&served.host("gw1.test", Role::Gateway), Some(&good), TokenRole);
    refused!(&served.host("db1.test", Role::Agent), Some(&good), TokenName);
    // The first rule that is broken counts.
    refused!(&web1, Some(&served.token(Role::Gateway, "db1.test", 0, -1000).await), TokenExpired);
    refused!(&web1, Some(&served.token(Role::Gateway, "db1.test", 0, 60_000).await), TokenUsed);
    refused!(&web1, Some(&served.token(Role::Gateway, "db1.test", 1, 60_000).await), TokenRole);
    refused!(&web1, Some(&served.token(Role::Agent, "db1.test", 1, 60_000).await), TokenName, |knock| {
        knock.proof.token = Bytes::new();
    });
    // Proofs.
    let other = served.host("web1.test", Role::Agent);
    refused!(&web1, Some(&good), Signature, |knock| knock.proof.token = vec![0; 64].into());
    refused!(&web1, Some(&good), Signature, |knock| knock.proof.token =
        stranger.sign(&knock.transcript.0).to_vec().into());
    refused!(&web1, Some(&good), Signature, |knock| knock.proof.token = good.sign(b"another").to_vec().into());
    refused!(&web1, Some(&good), Signature, |knock| {
        knock.proof.identity = other.identity.sign(Context::Join, &knock.transcript.0);
    });
    refused!(&web1, Some(&good), Signature, |knock| {
        knock.proof.identity = web1.identity.sign(Context::Log, &knock.transcript.0);
    });
    refused!(&web1, Some(&good), Signature, |knock| knock.transcript = Digest([0; 32]));
    // Requests.
    for (name, role) in [("web2.test", Role::Agent), ("web1.test", Role::Gateway), ("web1.test", Role::Server)] {
        let bent = request(web1.channel.as_bytes(), &name.parse().unwrap(), role).unwrap();
        refused!(&web1, Some(&good), Request, |knock| knock.hello.request = bent.clone().into());
    }
    refused!(&web1, Some(&good), Request, |knock| knock.hello.request = vec![0; 100].into());
    // Who is no member, and what makes no sense.
    refused!(&web1, None, NotMember);
    refused!(&served.host("srv1.test", Role::Agent), None, NotMember);
    refused!(&web1, Some(&good), Protocol, |knock| knock.hello.role = "server".into());
    refused!(&web1, Some(&good), Protocol, |knock| knock.hello.name = "../web1".into());
    refused!(&web1, Some(&good), Protocol, |knock| knock.hello.identity = vec![4; 91].into());
    // Names that others have.
    let any = served.token(Role::Agent, "*", 1, 60_000).await;
    refused!(&served.host("srv1.test", Role::Agent), Some(&any), NameTaken);
    assert_eq!((served.used(&good), served.used(&any)), (0, 0));
    served.ask(&web1, Some(&good), nothing).await.unwrap();
    refused!(&other, Some(&any), NameTaken);
    refused!(&web1, Some(&any), NameTaken);
    refused!(&served.host("web2.test", Role::Agent), Some(&good), TokenUsed);
    assert_eq!((served.used(&good), served.used(&any)), (1, 0));
}

#[tokio::test]
async fn with_a_pki_of_its_own_the_company_issues_and_the_built_in_ca_does_not() {
    let mut served = Served::new().await;
    let authorities = Arc::clone(&served.running.authorities);
    let issuing = issuing(&authorities);
    let (host, token) = (served.host("web1.test", Role::Agent), served.token(Role::Agent, "*", 1, 60_000).await);
    let certificate = |role, of: &Host| {
        let key = Request::parse(&of.request).unwrap().key;
        let leaf = issuing.channel(&of.name.parse().unwrap(), role, &key, validity(now_ms() / 1000, 60, u64::MAX));
        Bytes::copy_from_slice(&leaf.unwrap())
    };
    let own = certificate(Role::Agent, &host);
    let brings = |certificate: &Bytes| {
        let certificate = certificate.clone();
        move |knock: &mut Knock| knock.hello.certificate = certificate.clone()
    };
    let refused = served.ask(&host, Some(&token), brings(&own)).await.unwrap_err();
    assert_eq!(refused, Why::CertificateUnwanted);

    let nowhere = std::path::PathBuf::new;
    let pki = OwnPki { ca: nowhere(), certificate: nowhere(), key: nowhere() };
    let (store, duty) = (served.running.store.clone(), served.running.presence.duty.clone());
    let authorities = Authorities { issuer: Issuer::Own(pki, issuing.certificate().clone()), duty };
    let (_publish, authorities) = watch::channel(authorities.into());
    let (review, known) =
        (WithoutToken::Review, Arc::new(Configurations::new(store.clone(), crate::accounts::tests::accounts(&store))));
    served.desk = JoinDesk::new(store, authorities, admission(review), known);
    let other = served.host("web1.test", Role::Agent);
    let mut changed = own.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    for (certificate, why) in [
        (Bytes::new(), Why::CertificateNeeded),
        (certificate(Role::Agent, &other), Why::CertificateKey),
        (certificate(Role::Gateway, &host), Why::CertificateName),
        (changed.into(), Why::CertificateChain),
        (vec![0; 16].into(), Why::CertificateChain),
    ] {
        assert_eq!(served.ask(&host, Some(&token), brings(&certificate)).await.unwrap_err(), why);
    }
    assert_eq!(served.used(&token), 0);
    let welcome = served.ask(&host, Some(&token), brings(&own)).await.unwrap();
    assert_eq!(welcome.chain, [own.clone(), Bytes::copy_from_slice(issuing.certificate())]);
    let member = |name: &str| Arc::clone(served.running.view().member_named(&name.parse().unwrap()).unwrap());
    assert!(member("web1.test").holds(&sha256(&[&own])));
    // A member renews by the next one that it brings, and by nothing else.
    assert_eq!(served.ask(&host, None, nothing).await.unwrap_err(), Why::CertificateNeeded);
    let next = certificate(Role::Agent, &host);
    served.ask(&host, None, brings(&next)).await.unwrap();
    assert!(member("web1.test").holds(&sha256(&[&next])));
}

#[tokio::test]
async fn of_two_that_join_at_once_with_a_token_for_one_only_one_is_let_in() {
    let served = Served::new().await;
    for round in 0..10 {
        let token = served.token(Role::Agent, "*", 1, 60_000).await;
        let hosts = [0, 1].map(|i| served.host(&format!("host{round}-{i}.test"), Role::Agent));
        let [first, second] = &hosts;
        let (first, second) =
            tokio::join!(served.ask(first, Some(&token), nothing), served.ask(second, Some(&token), nothing));
        let mut outcomes = [first.err(), second.err()];
        outcomes.sort();
        assert_eq!(outcomes, [None, Some(Why::TokenUsed)]);
        assert_eq!(served.used(&token), 1);
    }
}

#[tokio::test]
async fn of_two_hosts_of_one_name_only_one_is_let_in() {
    let served = Served::new().await;
    let token = served.token(Role::Agent, "*", 2, 60_000).await;
    let hosts = [served.host("web1.test", Role::Agent), served.host("web1.test", Role::Agent)];
    let [first, second] = &hosts;
    let (first, second) =
        tokio::join!(served.ask(first, Some(&token), nothing), served.ask(second, Some(&token), nothing));
    let mut outcomes = [first.err(), second.err()];
    outcomes.sort();
    assert_eq!(outcomes, [None, Some(Why::NameTaken)]);
    assert_eq!(served.used(&token), 1);
}

#[tokio::test]
async fn a_repeat_is_answered_and_uses_nothing() {
    let served = Served::new().await;
    let (web1, token) = (served.host("web1.test", Role::Agent), served.token(Role::Agent, "*", 1, 60_000).await);
    let first = served.ask(&web1, Some(&token), nothing).await.unwrap();
    let again = served.ask(&web1, Some(&token), nothing).await.unwrap();
    assert_ne!(first.chain[0], again.chain[0]);
    assert_eq!(served.used(&token), 1);
    let view = served.running.view();
    let member = view.member_named(&"web1.test".parse().unwrap()).unwrap();
    assert!(member.holds(&sha256(&[&first.chain[0]])) && member.holds(&sha256(&[&again.chain[0]])));
}

#[tokio::test]
async fn a_member_renews_by_its_identity_key_until_it_is_removed() {
    let served = Served::new().await;
    let (web1, token) = (served.host("web1.test", Role::Agent), served.token(Role::Agent, "*", 1, 60_000).await);
    served.ask(&web1, Some(&token), nothing).await.unwrap();
    let size = served.running.view().tree().size();
    served.ask(&web1, None, nothing).await.unwrap();
    assert_eq!(served.running.view().tree().size(), size + 1);
    let forged = served.ask(&web1, None, |knock| knock.proof.identity = vec![0; 64].into()).await;
    assert_eq!(forged.err(), Some(Why::Signature));
    let other = served.host("web1.test", Role::Agent);
    assert_eq!(served.ask(&other, None, nothing).await.err(), Some(Why::NotMember));
    // Not without end: the log keeps every certificate.
    for _ in 2..RENEWALS {
        served.ask(&web1, None, nothing).await.unwrap();
    }
    assert_eq!(served.ask(&web1, None, nothing).await.err(), Some(Why::Busy));
    assert_eq!(served.ask(&web1, Some(&token), nothing).await.err(), Some(Why::Busy));
    assert_eq!(served.running.view().tree().size(), size + RENEWALS as u64 - 1);
    let name = "web1.test".parse().unwrap();
    let removed = operating::remove(Role::Agent, &name, &served.running.view()).unwrap();
    served.running.act(removed).await;
    assert_eq!(served.ask(&web1, None, nothing).await.err(), Some(Why::NotMember));
    assert_eq!(served.ask(&web1, Some(&token), nothing).await.err(), Some(Why::TokenUsed));
}

#[test]
fn decisions_have_a_limit_in_a_second() {
    let mut gate = Gate::default();
    assert_eq!((0..1000).filter(|_| gate.passes()).count(), DECISIONS as usize);
    gate.began = gate.began.map(|began| began - Duration::from_secs(1));
    assert!(gate.passes());
}

#[tokio::test]
async fn a_principal_is_by_the_rule_in_a_listed_realm_or_named_by_the_token_and_nobody_elses() {
    let settings: Settings = toml::from_str("realms = [\"CORP.TEST\"]\nkeytab = \"/nowhere\"").unwrap();
    let vouching = Vouching::new(Some(settings), Vec::new(), std::path::Path::new("/nowhere"));
    let served = Served::with(Admission { vouching, ..admission(WithoutToken::Review) }).await;
    let says = |principal: &str| {
        let principal = principal.to_owned();
        move |knock: &mut Knock| knock.hello.principal = principal.clone()
    };
    let bare = |principal: &str| {
        let principal = principal.to_owned();
        move |knock: &mut Knock| (knock.hello.principal, knock.hello.request) = (principal.clone(), Bytes::new())
    };
    let has = |name: &str| {
        let view = served.running.view();
        let member = view.member_named(&name.parse().unwrap()).cloned();
        member
            .map(|member| (member.principal.clone().map(|principal| principal.to_string()), member.certificates.len()))
    };
    let (web1, token) = (served.host("web1.test", Role::Agent), served.token(Role::Agent, "web*", 2, 60_000).await);
    for wrong in ["host/web2.test@CORP.TEST", "host/web1.test@WEST.TEST", "host/web1.test@corp.test", "WEB1$@CORP.TEST"]
    {
        let refused = served.ask(&web1, Some(&token), says(wrong)).await;
        assert_eq!(refused.err(), Some(Why::PrincipalUnfit), "{wrong}");
    }
    assert_eq!(served.ask(&web1, Some(&token), says("WEB1$")).await.err(), Some(Why::Protocol));
    assert_eq!((served.used(&token), has("web1.test")), (0, None));
    // By Kerberos alone: no certificate is asked for, and none is given.
    let rule = "host/web1.test@CORP.TEST";
    let welcome = served.ask(&web1, Some(&token), bare(rule)).await.unwrap();
    assert!(welcome.chain.is_empty());
    assert_eq!((served.used(&token), has("web1.test")), (1, Some((Some(rule.to_owned()), 0))));
    // Once more it is the same, and not another.
    served.ask(&web1, Some(&token), bare(rule)).await.unwrap();
    let other = served.ask(&web1, Some(&token), bare("WEB1$@CORP.TEST")).await;
    assert_eq!(other.err(), Some(Why::PrincipalUnfit));
    assert_eq!(served.ask(&web1, None, bare(rule)).await.map(|welcome| welcome.chain.len()), Ok(0));
    assert_eq!((served.used(&token), has("web1.test")), (1, Some((Some(rule.to_owned()), 0))));
    // Who says none changes none, and gets a certificate as every member does.
    served.ask(&web1, Some(&token), nothing).await.unwrap();
    assert_eq!((served.used(&token), has("web1.test")), (1, Some((Some(rule.to_owned()), 1))));
    // Who names no principal asks for a certificate.
    let web2 = served.host("web2.test", Role::Agent);
    assert_eq!(served.ask(&web2, Some(&token), bare("")).await.err(), Some(Why::Request));
    // What the token names is what it is, and nobody has it twice.
    let account = "WEB2$@WEST.TEST";
    let named = served.naming("web2.test", account).await;
    let other = served.ask(&web2, Some(&named), says("host/web2.test@CORP.TEST")).await;
    assert_eq!(other.err(), Some(Why::PrincipalUnfit));
    served.ask(&web2, Some(&named), says(account)).await.unwrap();
    assert_eq!(has("web2.test"), Some((Some(account.to_owned()), 1)));
    let (web3, twice) = (served.host("web3.test", Role::Agent), served.naming("web3.test", account).await);
    assert_eq!(served.ask(&web3, Some(&twice), says(account)).await.err(), Some(Why::PrincipalTaken));
    assert_eq!((served.used(&twice), has("web3.test")), (0, None));
    // Without a token, and with nobody who vouches, a principal opens nothing.
    assert_eq!(served.ask(&web3, None, bare("host/web3.test@CORP.TEST")).await.err(), Some(Why::NotMember));
    let proves = |knock: &mut Knock| {
        (knock.hello.principal, knock.proof.kerberos) = ("host/web3.test@CORP.TEST".into(), vec![1; 64].into());
    };
    assert_eq!(served.ask(&web3, None, proves).await.err(), Some(Why::KerberosNone));
}

#[tokio::test]
async fn a_server_renews_here_only_without_a_database_and_none_joins_by_a_token_alone() {
    let served = Served::new().await;
    let host = served.host("ms1.test", Role::Server);
    assert_eq!(served.ask(&host, None, nothing).await, Err(Why::NotMember));
    let token = served.token(Role::Server, "ms1.test", 1, 60_000).await;
    assert_eq!(served.ask(&host, Some(&token), nothing).await, Err(Why::Protocol));
    let member = |host: &Host, relays| {
        let identity = host.identity.public().unwrap().spki().into();
        let (name, role) = (host.name.clone(), host.role.clone());
        Fact::Member(trust::Member { name, role, identity, relays, ..trust::Member::default() })
    };
    served.running.act(vec![member(&host, true)]).await;
    let welcome = served.ask(&host, None, nothing).await.unwrap();
    assert!(welcome.sealed.is_empty() && welcome.chain.len() == 2);
    // One with the database makes its own.
    let full = served.host("srv2.test", Role::Server);
    served.running.act(vec![member(&full, false)]).await;
    assert_eq!(served.ask(&full, None, nothing).await, Err(Why::NotMember));
}
