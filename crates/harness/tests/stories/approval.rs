//! Hosts join without a token: two people compare a code, one at the host and one at the server, and confirm it to each
//! other. Whoever stands between them shows another code.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use tokio::runtime::Runtime;
use wardline_connector::config::Parent;
use wardline_connector::credential::credential;
use wardline_connector::join::{Applying, Asked, Desk, Knock, Knocking, Question, Request, Waiting, request, serve};
use wardline_connector::{listener, now_ms};
use wardline_harness::asking::Asking;
use wardline_harness::group::Group;
use wardline_harness::hostile::{Peer, Speech};
use wardline_harness::{Daemon, hostile, scratch};
use wardline_proto::join::{Answered, Challenge, Commitment, Down, Hello, Open, Refusal, Said, Up, Welcome, Why};
use wardline_proto::message::{Context, Signed, decode, encode};
use wardline_proto::{ALPN_JOIN, GroupId, Role};
use wardline_secrets::authority::{IssuingAuthority, RootAuthority, Validity};
use wardline_secrets::certificate::Identity;
use wardline_secrets::head::{Reach, signed_head};
use wardline_secrets::merkle::Tree;
use wardline_secrets::request as signing;
use wardline_secrets::signature::{SigningKey, sha256};
use wardline_secrets::token::{Code, code, confirmation};

const NAME: &str = "late.test";

/// Runs it, and gives its exit code.
fn exit(group: &Group, arguments: &[&str]) -> Option<i32> {
    group.wardline(arguments).status.code()
}

/// Another code.
fn wrong(code: &str) -> String {
    let first = if code.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &code[1..])
}

/// Nothing of a join is left: the state folder and its lock were there before.
#[track_caller]
fn nothing_left(host: &Daemon) {
    let left = scratch::files(host.state().parent().unwrap());
    // The lock, and what protects whatever may come.
    let folder = host.state().parent().unwrap();
    let machine = ["lock", "machine.key", "protect"].map(|name| folder.join(name));
    assert!(left.iter().all(|path| machine.iter().any(|own| path.starts_with(own))), "{left:?}");
}

fn members(group: &Group) -> Vec<String> {
    group.sql("SELECT name FROM member WHERE role <> 'server' ORDER BY name")
}

#[test]
fn a_host_without_a_token_waits_and_both_sides_confirm_the_code() {
    let mut group = Group::builder().agents(0).lay();
    group.start();
    group.gateway(0).wait_event(40004);
    let by = group.gateway(0).parent();
    let mut host = group.newcomer(NAME);

    // A wrong code is tried once.
    let mut asking = Asking::host(&host, &by);
    let right = asking.code();
    let waits = group.server().wait_event(40070);
    assert!(waits.text.contains(NAME), "{}", waits.text);
    let pending = group.json(&["agent", "pending"]);
    let [known] = pending.as_array().unwrap().as_slice() else { panic!("{pending}") };
    assert_eq!((known["name"].as_str(), known["role"].as_str()), (Some(NAME), Some("agent")));
    assert_eq!(known["key"].as_str().map(str::len), Some(32));
    let shows_no_code = |text: &str| !text.contains(&right) && !text.contains(&right.replace('-', ""));
    assert!(shows_no_code(&pending.to_string()) && shows_no_code(&group.server().log()));
    assert!(group.json(&["gateway", "pending"]).as_array().unwrap().is_empty());
    let marked = group.server().mark();
    assert_eq!(exit(&group, &["agent", "approve", NAME, &wrong(&right)]), Some(5));
    group.server().wait_event_since(marked, 40073);
    let (status, shown) = asking.ended();
    assert!(!status.success() && shown.contains("an operator has rejected"), "{shown}");
    assert_eq!(exit(&group, &["agent", "approve", NAME, &right]), Some(3));
    nothing_left(&host);

    // Who gives up leaves nothing, and an operator may say no without a code.
    let mut asking = Asking::host(&host, &by);
    asking.code();
    asking.interrupts();
    assert!(!asking.ended().0.success());
    nothing_left(&host);
    let marked = group.server().mark();
    assert_eq!(exit(&group, &["agent", "reject", NAME]), Some(0));
    group.server().wait_event_since(marked, 40072);
    assert_eq!(exit(&group, &["agent", "reject", NAME]), Some(3));
    assert_eq!(members(&group), ["gw1.test"]);

    // The right code makes it a member; but the host believes nobody who cannot say the other code.
    let mut asking = Asking::host(&host, &by);
    let shown = asking.code();
    let approved = group.json(&["agent", "approve", NAME, &shown.to_lowercase(), "--via", "gw1.test"]);
    let confirmed = approved["confirmation"].as_str().unwrap();
    assert_ne!(confirmed, shown);
    asking.wait_shown("type the confirmation code");
    for attempt in [&wrong(confirmed), &shown, &wrong(&shown)] {
        asking.types(attempt);
    }
    let (status, shown) = asking.ended();
    assert!(!status.success() && shown.contains("3 wrong codes") && !shown.contains(confirmed), "{shown}");
    nothing_left(&host);
    // A name that is taken is refused at once.
    let mut asking = Asking::host(&host, &by);
    let (status, shown) = asking.ended();
    assert!(!status.success() && shown.contains("has this name"), "{shown}");
    assert_eq!(exit(&group, &["agent", "remove", NAME]), Some(0));

    // Both confirm, and it works.
    let marked = group.server().mark();
    let mut asking = Asking::host(&host, &by);
    let code = asking.code();
    let approved = group.json(&["agent", "approve", NAME, &code, "--via", "gw1.test"]);
    group.server().wait_event_since(marked, 40071);
    asking.wait_shown("type the confirmation code");
    nothing_left(&host);
    asking.types("abc");
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    let joined = group.server().wait_event_since(marked, 40061);
    assert!(joined.text.contains(NAME) && joined.text.contains("operator "), "{}", joined.text);
    host.start();
    host.wait_event(40005);
    assert_eq!(members(&group), ["gw1.test", NAME]);
}

#[test]
fn a_gateway_is_approved_like_an_agent_and_a_pin_confirms_by_itself() {
    let mut group = Group::builder().gateways(0).agents(0).lay();
    group.start();
    let by = group.server().parent();
    let pin = group.json(&["keys", "log", "verify"])["pin"].as_str().unwrap().to_owned();
    let folder = group.folder().join("gw9.test");
    fs::create_dir(&folder).unwrap();
    let (config, state, runtime) = (folder.join("config.toml"), folder.join("state"), folder.join("run"));
    let text = format!("name = \"gw9.test\"\nstate_dir = {state:?}\nruntime_dir = {runtime:?}\n");
    fs::write(&config, text).unwrap();
    let ask = |pin: &str| Asking::new("wardline-gateway", &config, &["--parent", &by, "--pin", pin]);

    let other = format!("sha256:{}", "07".repeat(32));
    let (status, shown) = ask(&other).ended();
    assert!(!status.success() && shown.contains("it does not show the group's root"), "{shown}");
    assert!(group.json(&["gateway", "pending"]).as_array().unwrap().is_empty());

    let mut asking = ask(&pin);
    let code = asking.code();
    assert_eq!(group.json(&["gateway", "pending"])[0]["name"], "gw9.test");
    assert_eq!(exit(&group, &["agent", "approve", "gw9.test", &code]), Some(3));
    assert_eq!(exit(&group, &["gateway", "approve", "gw9.test", &code]), Some(0));
    let (status, shown) = asking.ended();
    assert!(status.success() && !shown.contains("type the confirmation"), "{shown}");
    assert_eq!(members(&group), ["gw9.test"]);

    // A server may want tokens only.
    group.server().stop();
    let old = fs::read_to_string(group.server().config()).unwrap();
    fs::write(group.server().config(), format!("join_without_token = \"reject\"\n{old}")).unwrap();
    group.server().start();
    let host = group.newcomer(NAME);
    let (status, shown) = Asking::host(&host, &by).ended();
    assert!(!status.success() && shown.contains("hosts join with a token only"), "{shown}");
    nothing_left(&host);
}

/// Somebody on the way, who takes himself for the server towards the host, with an authority of his own that says it is
/// of the same group.
struct Between {
    group: GroupId,
    root: RootAuthority,
    issuing: IssuingAuthority,
    duty: SigningKey,
    certificate: CertificateDer<'static>,
    hour: Validity,
    requests: Mutex<Vec<Request>>,
    approves: AtomicBool,
}

impl Between {
    fn new(group: &Group) -> Arc<Self> {
        let id = GroupId(group.id().into_bytes());
        let hour = Validity::lasting(now_ms() / 1000 - 60, 3600);
        let (root, _) = RootAuthority::create("test", hour).unwrap();
        let (issuing, _) = root.issue_ca(hour).unwrap();
        let (duty, _) = SigningKey::generate(id).unwrap();
        let certificate = root.duty(&"srv1.test".parse().unwrap(), &duty.public().unwrap(), hour).unwrap();
        let (requests, approves) = Default::default();
        Arc::new(Self { group: id, root, issuing, duty, certificate, hour, requests, approves })
    }

    /// Listens like a gateway of this name; what `--parent` takes.
    fn listen(self: &Arc<Self>, runtime: &Runtime, name: &str) -> String {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let between = Arc::clone(self);
        let knocks = move |knocking: Knocking| {
            let between = Arc::clone(&between);
            async move { serve(knocking, between.as_ref()).await }
        };
        let own = Identity { name: "nobody.test".parse().unwrap(), role: Role::Gateway };
        let (_, nobody) = credential(own, None);
        runtime.spawn(listener::listen(listener, nobody, Default::default(), |_| std::future::ready(()), knocks));
        format!("{name}={address}")
    }

    /// The codes that the host must have.
    fn codes(&self) -> (Code, Code) {
        let transcript = self.requests.lock().unwrap().last().unwrap().transcript;
        (code(&transcript), confirmation(&transcript))
    }

    /// Asks at the real server in the host's name, with keys of his own.
    fn asks(&self, runtime: &Runtime, parent: &Parent) -> Waiting {
        let (_, identity) = SigningKey::generate(self.group).unwrap();
        let (_, channel) = SigningKey::generate(self.group).unwrap();
        let name = NAME.parse().unwrap();
        let request_der = signing::request(channel.as_bytes(), &name, Role::Agent).unwrap();
        let identity = identity.as_bytes().to_vec().into();
        let applying = Applying {
            name,
            role: Role::Agent,
            identity,
            request: request_der,
            certificate: Bytes::new(),
            principal: None,
            pin: None,
            further: None,
        };
        runtime.block_on(request(std::slice::from_ref(parent), &applying)).unwrap()
    }
}

/// Asks with what it has committed itself to, or with this nonce in it, signed by its own identity key or by this; why
/// that is no request.
fn opens(group: GroupId, by: &Parent, instead: Option<[u8; 16]>, key: Option<&SigningKey>) -> Option<Why> {
    let mut peer = Peer::dial(by.address.parse().unwrap(), None, &Speech::alpn(&[ALPN_JOIN])).unwrap();
    let (own, pem) = SigningKey::generate(group).unwrap();
    let (name, role, nonce) = ("early.test", Role::Agent.to_string(), Bytes::from_static(&[7; 32]));
    let hello = Hello {
        name: name.into(),
        role: role.clone(),
        identity: own.public().unwrap().spki().into(),
        request: signing::request(pem.as_bytes(), &name.parse().unwrap(), Role::Agent).unwrap().into(),
        nonce: vec![7; 16].into(),
        ..Hello::default()
    };
    let digest = sha256(&[&nonce, &encode(&hello)]).to_wire();
    let commitment = encode(&Commitment { digest, name: name.into(), role });
    peer.tell(&encode(&Up { said: Some(Said::Commitment(commitment.clone())) }));
    let answered = |peer: &mut Peer| decode::<Down>(&peer.told().unwrap()).and_then(|down| down.answered).unwrap();
    let Answered::Challenge(challenge) = answered(&mut peer) else { panic!("there is no challenge") };
    // Whoever opens something else has seen by now what the server contributes.
    let hello = match instead {
        Some(nonce) => encode(&Hello { nonce: Bytes::copy_from_slice(&nonce), ..hello }),
        None => encode(&hello),
    };
    let transcript = sha256(&[&commitment, &challenge.payload, &nonce, &hello]);
    let identity = key.unwrap_or(&own).sign(Context::Join, &transcript.0);
    peer.tell(&encode(&Up { said: Some(Said::Open(Open { nonce, hello, identity, token: Bytes::new() })) }));
    match answered(&mut peer) {
        Answered::Pending(_) => None,
        Answered::Refusal(refusal) => Some(refusal.why()),
        Answered::Refused(signed) => Some(decode::<Refusal>(&signed.payload).unwrap().why()),
        other => panic!("{other:?}"),
    }
}

impl Desk for Between {
    fn challenge(&self, begun: &[u8], nonce: &[u8]) -> Signed {
        let challenge = Challenge {
            hello: sha256(&[begun]).to_wire(),
            nonce: Bytes::copy_from_slice(nonce),
            group: Bytes::copy_from_slice(&self.group.0),
            name: "test".into(),
            chain: [&self.certificate, self.root.certificate()].map(|der| Bytes::copy_from_slice(der)).to_vec(),
            at: now_ms(),
            service: String::new(),
        };
        self.duty.signed(Context::Join, encode(&challenge))
    }

    fn refuse(&self, refusal: &Refusal) -> Signed {
        self.duty.signed(Context::Join, encode(refusal))
    }

    async fn admit(&self, _: Knock) -> Result<Answered, Why> {
        Err(Why::NotMember)
    }

    fn may_ask(&self, _: &str, _: &str) -> bool {
        true
    }

    async fn keep(&self, request: Request) -> Result<(), Why> {
        self.requests.lock().unwrap().push(request);
        Ok(())
    }

    async fn look(&self, asked: Asked) -> Result<Option<Signed>, Why> {
        if !self.approves.load(Ordering::SeqCst) {
            return Ok(None);
        }
        let requests = self.requests.lock().unwrap();
        let hello = &requests.iter().find(|request| request.transcript == asked.request).ok_or(Why::NoRequest)?.hello;
        let wanted = signing::Request::parse(&hello.request).unwrap();
        let leaf = self.issuing.channel(&wanted.name, wanted.role, &wanted.key, self.hour).unwrap();
        let welcome = Welcome {
            transcript: asked.transcript.to_wire(),
            chain: [&leaf, self.issuing.certificate()].map(|der| Bytes::copy_from_slice(der)).to_vec(),
            recovery: Bytes::new(),
            head: signed_head(&self.duty, &Reach { head: Tree::default().head(), version: 0 }, 0),
            sealed: Bytes::new(),
        };
        Ok(Some(self.duty.signed(Context::Join, encode(&welcome))))
    }

    async fn stands(&self, _: Question) -> Result<Signed, Why> {
        Err(Why::NotMember)
    }
}

#[test]
fn a_man_in_the_middle_of_an_approval_shows_another_code() {
    let mut group = Group::builder().agents(0).lay();
    group.start();
    group.gateway(0).wait_event(40004);
    let host = group.newcomer(NAME);
    let by = group.gateway(0).parent();
    let gateway = Parent::new("gw1.test".parse().unwrap(), hostile::listen(group.gateway(0)).to_string());
    let (runtime, between) = (Runtime::new().unwrap(), Between::new(&group));
    let way = between.listen(&runtime, "gw1.test");

    // The host shows a code that is made of what the one in between has said; the server's is made of what the server
    // has said to him. The operator types what the host shows.
    let mut asking = Asking::host(&host, &way);
    let shown = asking.code();
    let his = between.asks(&runtime, &gateway);
    assert_eq!(shown, between.codes().0.to_string());
    assert_ne!(shown, his.code.to_string());
    assert_eq!(exit(&group, &["agent", "approve", NAME, &shown]), Some(5));
    let rejected = runtime.block_on(his.decided(|_| {})).unwrap_err();
    assert!(rejected.to_string().contains("an operator has rejected"), "{rejected}");
    assert_eq!(members(&group), ["gw1.test"]);
    // He can tell the host whatever he likes: nobody at the server has a confirmation code for it.
    between.approves.store(true, Ordering::SeqCst);
    asking.wait_shown("type the confirmation code");
    let operators = [wrong(&shown), wrong(&wrong(&shown)), shown];
    operators.iter().for_each(|code| asking.types(code));
    let (status, screen) = asking.ended();
    assert!(!status.success() && screen.contains("3 wrong codes"), "{screen}");
    nothing_left(&host);

    // Even an operator who was talked into typing the other code is given a confirmation that does not fit the host.
    let mut asking = Asking::host(&host, &way);
    asking.code();
    let his = between.asks(&runtime, &gateway);
    let approved = group.json(&["agent", "approve", NAME, &his.code.to_string()]);
    let confirmed = approved["confirmation"].as_str().unwrap();
    assert_eq!(confirmed, his.confirmation.to_string());
    assert_ne!(confirmed, between.codes().1.to_string());
    asking.wait_shown("type the confirmation code");
    (0..3).for_each(|_| asking.types(confirmed));
    let (status, screen) = asking.ended();
    assert!(!status.success() && screen.contains("3 wrong codes"), "{screen}");
    nothing_left(&host);
    assert_eq!(exit(&group, &["agent", "remove", NAME]), Some(0));

    // Nor has he a choice of codes once he knows what the server says, or a request with the keys of another.
    let id = GroupId(group.id().into_bytes());
    let (other, _) = SigningKey::generate(id).unwrap();
    assert_eq!(opens(id, &gateway, Some([8; 16]), None), Some(Why::Protocol));
    assert_eq!(opens(id, &gateway, None, Some(&other)), Some(Why::Signature));
    assert!(group.json(&["agent", "pending"]).as_array().unwrap().is_empty());
    assert_eq!(opens(id, &gateway, None, None), None);
    assert_eq!(exit(&group, &["agent", "reject", "early.test"]), Some(0));

    // The control: with nobody in between it works; and what made the host refuse is the code, since with the right one
    // even the attacker's answer would have been taken.
    let mut asking = Asking::host(&host, &by);
    let shown = asking.code();
    let approved = group.json(&["agent", "approve", NAME, &shown, "--via", "gw1.test"]);
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, screen) = asking.ended();
    assert!(status.success(), "{screen}");
    let other = group.newcomer("other.test");
    let mut asking = Asking::host(&other, &way);
    asking.code();
    asking.wait_shown("type the confirmation code");
    asking.types(&between.codes().1.to_string());
    let (status, screen) = asking.ended();
    assert!(status.success(), "{screen}");
}
