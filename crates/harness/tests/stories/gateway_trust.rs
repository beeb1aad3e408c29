//! What a gateway is trusted with, and what not: it speaks for those who were given to it, by the way that they were
//! given, and what it sees of a host that joins is of no use to it.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Listener, Peer, Proofs, Speech};
use wardline_harness::pki::{Authority, Credential};
use wardline_harness::{Daemon, program, scratch, wait};
use wardline_proto::frame::Message;
use wardline_proto::join::{Answered, Down, Hello, Proof, Refusal, Said, Up, Why};
use wardline_proto::message::{Context, Position, Signed, Way, decode, encode};
use wardline_proto::{ALPN_JOIN, GroupId, Kind, Role};
use wardline_secrets::request::request;
use wardline_secrets::signature::{SigningKey, random, sha256};

const LIMIT: Duration = Duration::from_secs(20);

/// Gives an agent that does not run another parent.
fn lead(agent: &Daemon, name: &str, address: SocketAddr) {
    agent.change_membership(|membership| membership["parents"] = hostile::parents(&[(name, address)]));
}

/// A gateway's session with the server, held by somebody hostile who has its credential.
struct Hostile<'a> {
    name: &'a str,
    above: Peer,
    route: u32,
    proofs: Proofs,
}

impl<'a> Hostile<'a> {
    fn new(group: &mut Group, name: &'a str) -> Self {
        let credential = group.credential(name);
        let server = hostile::listen(group.server());
        let mut above = Peer::join(server, &credential, &format!("gateway {name}"), "server srv1.test");
        above.wait_for(Kind::Way, 0);
        Self { name, above, route: 0, proofs: Proofs::beside(group.server()) }
    }

    fn ask(&mut self, agent: &str, via: &[&str]) -> u32 {
        self.route += 1;
        self.above.say(self.proofs.route(agent, via).on(self.route));
        self.route
    }

    /// Opens a route, which is let.
    #[track_caller]
    fn open(&mut self, agent: &str, via: &[&str]) -> u32 {
        let route = self.ask(agent, via);
        self.above.wait_for(Kind::Way, route);
        route
    }

    /// Opens a route, which is not; the session goes on.
    #[track_caller]
    fn refused(&mut self, group: &mut Group, agent: &str, via: &[&str]) -> u32 {
        let mark = group.server().mark();
        let route = self.ask(agent, via);
        self.above.wait_for(Kind::Refusal, route);
        let event = group.server().wait_event_since(mark, 20000);
        assert!(event.text.contains(agent), "{} by {}, via {via:?}: {}", agent, self.name, event.text);
        route
    }

    fn say(&mut self, kind: Kind, route: u32, body: &Bytes) {
        self.above.say(Message { kind, route, body: body.clone() });
    }
}

#[test]
fn a_gateway_speaks_only_for_its_agents() {
    let (mut group, log) = Group::builder().gateways(2).agents(2).lay_with_log();
    let addresses = [0, 1].map(|gateway| hostile::listen(group.gateway(gateway)));
    group.server().start();
    group.gateway(0).start();
    group.gateway(1).start();

    // The control: the first agent was given to the first gateway.
    group.agent(0).start();
    log.say("one");
    group.wait_texts(&["one"]);
    group.agent(0).stop();

    // By the second, which is honest, it is not heard, however often it asks.
    lead(group.agent(0), "gw2.test", addresses[1]);
    log.say("two");
    let mark = group.server().mark();
    group.agent(0).start();
    wait::until("it is refused twice", LIMIT, || {
        let events = group.server().events_since(mark);
        (events.iter().filter(|event| event.number == 20000).count() >= 2).then_some(())
    });
    let event = group.server().wait_event_since(mark, 20000);
    assert!(event.text.contains("agent1.test") && event.text.contains("gw2.test"), "{}", event.text);
    group.agent(0).wait_event(20070);
    assert!(group.agent(0).events().iter().all(|event| event.number != 40005));
    assert_eq!(group.all_texts(), ["one"]);
    group.agent(0).stop();
    lead(group.agent(0), "gw1.test", addresses[0]);
    group.agent(0).start();
    group.wait_texts(&["one", "two"]);
    group.agent(0).stop();

    // The first gateway is hostile now, and gives what the agent says to the second, which is, too.
    group.gateway(0).stop();
    group.gateway(1).stop();
    let credential = group.credential("gw1.test");
    let listener = Listener::at(addresses[0]);
    let mut own = Hostile::new(&mut group, "gw1.test");
    let mut other = Hostile::new(&mut group, "gw2.test");
    log.say("three");
    group.agent(0).start();
    let mut below = listener.join(&credential, "gateway gw1.test", "agent agent1.test");
    below.say(Message::own(Kind::Way, Way { open: true }));
    let position = below.wait_for(Kind::Position, 0);
    let route = own.open("agent1.test", &[]);
    own.say(Kind::Position, route, &position);
    let answer = own.above.wait_for(Kind::Answer, route);
    below.say(Message { kind: Kind::Answer, route: 0, body: answer });
    let batch = below.wait_for(Kind::Batch, 0);

    let refused = other.refused(&mut group, "agent1.test", &[]);
    for kind in [Kind::Position, Kind::Batch, Kind::Heartbeat] {
        let body = if kind == Kind::Batch { &batch } else { &position };
        other.say(kind, refused, body);
    }
    // On the route of an agent that it may speak for, they are another's. Neither the name alone makes them its own,
    // nor the key.
    let [first, second] = ["agent1.test", "agent2.test"].map(|agent| group.key(agent, "identity"));
    let said = decode::<Signed>(&position).and_then(|signed| decode::<Position>(&signed.payload)).unwrap();
    // Heartbeats that are not newer than the position before them are not looked at.
    let signed = |by: &SigningKey, agent: &str, newer: u64| {
        let said = Position { agent: agent.into(), serial: said.serial + newer, ..said.clone() };
        encode(&by.signed(Context::Position, encode(&said)))
    };
    let genuine = signed(&second, "agent2.test", 0);
    for (kind, body) in [
        (Kind::Position, &position),
        (Kind::Position, &signed(&first, "agent2.test", 0)),
        (Kind::Position, &signed(&second, "agent1.test", 0)),
        (Kind::Batch, &batch),
        (Kind::Heartbeat, &signed(&first, "agent1.test", 1)),
        (Kind::Heartbeat, &signed(&first, "agent2.test", 1)),
        (Kind::Heartbeat, &signed(&second, "agent1.test", 1)),
    ] {
        let mark = group.server().mark();
        let route = other.open("agent2.test", &[]);
        // The control: what that agent said itself is heard.
        other.say(Kind::Position, route, &genuine);
        other.above.wait_for(Kind::Answer, route);
        other.say(kind, route, body);
        let event = group.server().wait_event_since(mark, 40011);
        assert!(event.text.contains("agent2.test"), "{kind:?}: {}", event.text);
    }
    // Lies about the way: over whom it came, or who is behind whom.
    let names = ["gw1.test", "gw2.test", "srv1.test", "agent1.test", "agent2.test", "nobody.test"];
    for name in names {
        other.refused(&mut group, "agent1.test", &[name]);
        other.refused(&mut group, "agent2.test", &[name]);
        own.refused(&mut group, "agent1.test", &[name]);
        own.refused(&mut group, "agent2.test", &[name]);
        other.refused(&mut group, "agent1.test", &["gw1.test", name]);
        other.refused(&mut group, "agent1.test", &["gw1.test", name, "gw1.test"]);
    }
    // Longer than any way, or of what is no name.
    for via in [&["gw1.test"; 4][..], &["gw1.test"; 5], &["gw1.test"; 20], &[""], &["*"], &["GW1.test"]] {
        own.refused(&mut group, "agent1.test", via);
    }
    // Nothing of it was stored, and what was sent before is behind the server by now: sessions keep the order.
    other.open("agent2.test", &[]);
    assert_eq!(group.all_texts(), ["one", "two"]);
    // What no honest gateway says ends the session.
    for agent in ["", "*", "AGENT1.test"] {
        let mark = group.server().mark();
        let mut liar = Hostile::new(&mut group, "gw2.test");
        liar.ask(agent, &["gw1.test"]);
        liar.above.wait_closed();
        group.server().wait_event_since(mark, 40002);
    }

    // The control: the same bytes, by the gateway that it was given to.
    own.say(Kind::Batch, route, &batch);
    own.above.wait_for(Kind::Ack, route);
    assert_eq!(group.all_texts(), ["one", "two", "three"]);
}

#[test]
fn a_gateway_behind_another_comes_by_it_and_is_not_left_out() {
    let mut group = Group::builder().gateways(2).chained().lay();
    group.server().start();
    let mut first = Hostile::new(&mut group, "gw1.test");
    // The control: the whole way.
    first.open("agent1.test", &["gw2.test"]);
    for via in [&[][..], &["gw1.test"], &["gw2.test", "gw2.test"], &["gw2.test", "gw1.test"], &["gw1.test", "gw2.test"]]
    {
        first.refused(&mut group, "agent1.test", via);
    }
    first.open("agent1.test", &["gw2.test"]);

    // Who is behind another does not come directly.
    let credential = group.credential("gw2.test");
    let mark = group.server().mark();
    let server = hostile::listen(group.server());
    let mut second = Peer::join(server, &credential, "gateway gw2.test", "server srv1.test");
    second.wait_for(Kind::Refusal, 0);
    second.wait_closed();
    let event = group.server().wait_event_since(mark, 20000);
    assert!(event.text.contains("gw2.test") && event.text.contains("gw1.test"), "{}", event.text);
}

/// Somebody between a host that joins and the real gateway.
pub(crate) struct Between {
    listener: Listener,
    /// As good as any: nobody knows who answers.
    credential: Credential,
    above: SocketAddr,
}

impl Between {
    pub(crate) fn new(group: &mut Group) -> Self {
        Self {
            listener: Listener::new(),
            credential: Authority::new("other").channel("gw1.test", Role::Gateway),
            above: hostile::listen(group.gateway(0)),
        }
    }

    fn speech() -> Speech {
        Speech::alpn(&[ALPN_JOIN])
    }

    fn above(&self) -> Peer {
        Peer::dial(self.above, None, &Self::speech()).expect("the gateway answers")
    }

    /// Lets a host join through it. Each message, Hello, Challenge, Proof and Welcome, goes through `change`, which
    /// gives what is passed on, or ends it. Gives what the host said, and what came.
    fn pass(
        &self,
        host: &Daemon,
        token: &Path,
        change: impl FnMut(usize, &Bytes) -> Option<Bytes>,
    ) -> (Output, Vec<Bytes>) {
        self.pass_by(|parent| host.join(parent, token), change)
    }

    /// The same for a host that joins by something else.
    pub(crate) fn pass_by(
        &self,
        join: impl FnOnce(&str) -> Output + Send,
        mut change: impl FnMut(usize, &Bytes) -> Option<Bytes>,
    ) -> (Output, Vec<Bytes>) {
        let parent = format!("gw1.test={}", self.listener.address());
        thread::scope(|scope| {
            let joining = scope.spawn(|| join(&parent));
            let mut below = self.listener.accept(&self.credential, &Self::speech()).expect("a host that joins");
            let mut above = self.above();
            let mut came = Vec::new();
            for step in 0.. {
                let up = step % 2 == 0;
                let message = if up { below.told() } else { above.told() };
                let Some(message) = message else { break };
                let passed = change(step, &message);
                came.push(message);
                match passed {
                    Some(passed) if up => above.tell(&passed),
                    Some(passed) => below.tell(&passed),
                    None => break,
                }
            }
            drop((below, above));
            (joining.join().expect("it can be run"), came)
        })
    }

    /// Says this in a session of its own; why it is refused.
    #[track_caller]
    pub(crate) fn refused(&self, hello: &Bytes, proof: impl FnOnce(&[u8; 32]) -> Bytes) -> Why {
        let mut above = self.above();
        above.tell(hello);
        let Some(Answered::Challenge(challenge)) = answered(above.told()) else { panic!("there is no challenge") };
        let Some(Up { said: Some(Said::Hello(hello)) }) = decode(hello) else { panic!("it is no hello") };
        above.tell(&proof(&sha256(&[&hello, &challenge.payload]).0));
        match answered(above.told()) {
            Some(Answered::Refusal(refusal)) => refusal.why(),
            Some(Answered::Refused(signed)) => decode::<Refusal>(&signed.payload).unwrap().why(),
            other => panic!("it is not refused: {other:?}"),
        }
    }
}

fn answered(message: Option<Bytes>) -> Option<Answered> {
    decode::<Down>(&message?)?.answered
}

pub(crate) fn said(said: Said) -> Bytes {
    encode(&Up { said: Some(said) })
}

pub(crate) fn hello(message: &Bytes) -> Hello {
    let Some(Up { said: Some(Said::Hello(bytes)) }) = decode(message) else { panic!("it is no hello") };
    decode(&bytes).expect("it is a hello")
}

pub(crate) fn proof(message: &Bytes) -> Proof {
    let Some(Up { said: Some(Said::Proof(proof)) }) = decode(message) else { panic!("it is no proof") };
    proof
}

/// What a server's refusal would be about, in a session of which these messages came.
fn about(came: &[Bytes]) -> Bytes {
    let Some(Up { said: Some(Said::Hello(hello)) }) = decode(&came[0]) else { panic!("it is no hello") };
    let Some(Answered::Challenge(challenge)) = answered(Some(came[1].clone())) else { panic!("it is no challenge") };
    let proof = proof(&came[2]);
    sha256(&[&sha256(&[&hello, &challenge.payload]).0, &proof.token, &proof.identity]).to_wire()
}

/// The agents that are members, and how often a token for this name was used.
fn members(group: &Group, token: &str) -> (Vec<String>, i64) {
    let used = group.sql::<i64>(&format!("SELECT used FROM token WHERE name = '{token}'"));
    (group.sql("SELECT name FROM member WHERE role = 'agent' ORDER BY name"), used[0])
}

/// Whether a host keeps keys of a group, or of a join.
fn has_keys(host: &Daemon) -> bool {
    scratch::files(host.state().parent().unwrap()).iter().any(|path| path.ends_with("identity.key"))
}

#[test]
fn a_gateway_that_saw_a_join_can_neither_use_nor_change_it() {
    let mut group = Group::builder().agents(0).start();
    group.gateway(0).wait_event(40004);
    let between = Between::new(&mut group);
    let token =
        |name: &str, uses: &str| group.token(&["--role", "agent", "--name", name, "--via", "gw1.test", "--uses", uses]);

    // One bit of each message turned, at places all over it: the join fails. Until the server has decided, nothing has
    // happened; once it has let the host in, the host keeps its keys, with which it asks again.
    let (once, host) = (token("late.test", "1"), group.newcomer("late.test"));
    for step in 0..4 {
        for place in 0..8 {
            let turn = |at: usize, message: &Bytes| {
                let mut message = message.to_vec();
                if at == step {
                    let byte = place * (message.len() - 1) / 7;
                    message[byte] ^= 1 << place;
                }
                Some(message.into())
            };
            let (output, came) = between.pass(&host, &once, turn);
            let what = format!("step {step}, place {place}: {}", program::said(&output));
            assert!(!output.status.success() && came.len() > step, "{what}");
            let let_in = step == 3;
            let expected = if let_in { (vec!["late.test".to_owned()], 1) } else { (vec![], 0) };
            assert_eq!(members(&group, "late.test"), expected, "{what}");
            // A no that no server has signed is not believed either: the host keeps its keys, and asks again.
            assert!(has_keys(&host) == let_in || step == 2, "{what}");
        }
    }
    // The control: unchanged it succeeds, with the token that went through all that, and no use is counted again.
    let (output, joined) = between.pass(&host, &once, |_, message| Some(message.clone()));
    assert!(output.status.success() && joined.len() == 4, "{}", program::said(&output));
    assert_eq!(members(&group, "late.test"), (vec!["late.test".to_owned()], 1));
    // What the server has said to the same host with the same keys before is no answer now.
    let older = |step, message: &Bytes| Some(if step == 3 { joined[3].clone() } else { message.clone() });
    let (output, _) = between.pass(&host, &once, older);
    assert!(
        !output.status.success() && program::said(&output).contains("of another session"),
        "{}",
        program::said(&output)
    );

    // What it saw of a join that it ended before the server had the proof, with a token that is good for many.
    let (many, host) = (token("held*", "9"), group.newcomer("held.test"));
    let (output, seen) = between.pass(&host, &many, |step, message| (step < 2).then(|| message.clone()));
    assert!(!output.status.success() && seen.len() == 3, "{}", program::said(&output));
    let id = GroupId(group.id().into_bytes());
    let (own, pem) = SigningKey::generate(id).unwrap();
    let spki: Bytes = own.public().unwrap().spki().into();
    let wish = |name: &str| request(pem.as_bytes(), &name.parse().unwrap(), Role::Agent).unwrap().into();
    let fresh = || Bytes::copy_from_slice(&random());
    let hers = hello(&seen[0]);
    let with = |hello: Hello| said(Said::Hello(encode(&hello)));
    let as_is = |proof: &Proof| said(Said::Proof(proof.clone()));
    let mine = |token: Bytes| {
        let own = &own;
        move |transcript: &[u8; 32]| {
            said(Said::Proof(Proof { token, identity: own.sign(Context::Join, transcript), ..Proof::default() }))
        }
    };
    let old = proof(&seen[2]);
    let mark = group.server().mark();
    let mut tries = 0;
    let mut refused = |what: &str, why: Why, expected: Why| {
        tries += 1;
        assert_eq!(why, expected, "{what}");
        assert_eq!(members(&group, "held*"), (vec!["late.test".to_owned()], 0), "{what}");
    };
    refused("replayed", between.refused(&seen[0], |_| seen[2].clone()), Why::Signature);
    refused("replayed where it was used", between.refused(&joined[0], |_| joined[2].clone()), Why::Signature);
    let stolen = Hello { identity: spki.clone(), request: wish("held.test"), nonce: fresh(), ..hers.clone() };
    let whys = [
        ("its own keys, the token's old signature", between.refused(&with(stolen.clone()), mine(old.token.clone()))),
        ("its own keys, any signature", between.refused(&with(stolen.clone()), mine(vec![7; 64].into()))),
        ("its own keys, the old proof", between.refused(&with(stolen.clone()), |_| as_is(&old))),
        ("its own identity key only", {
            let hello = Hello { request: hers.request.clone(), ..stolen.clone() };
            between.refused(&with(hello), mine(old.token.clone()))
        }),
        ("its own request only", {
            let hello = Hello { identity: hers.identity.clone(), ..stolen.clone() };
            between.refused(&with(hello), |_| as_is(&old))
        }),
        ("another name", {
            let hello = Hello { name: "held2.test".into(), request: wish("held2.test"), ..stolen.clone() };
            between.refused(&with(hello), mine(old.token.clone()))
        }),
    ];
    for (what, why) in whys {
        refused(what, why, Why::Signature);
    }
    // As the member that it saw join.
    let member = Hello { token: Bytes::new(), nonce: fresh(), request: wish("late.test"), ..hello(&joined[0]) };
    let old = Proof { identity: proof(&joined[2]).identity, ..Proof::default() };
    let why = between.refused(&with(member.clone()), |_| as_is(&old));
    refused("a renewal with the old proof", why, Why::Signature);
    let why = between.refused(&with(member.clone()), mine(Bytes::new()));
    refused("a renewal with its own proof", why, Why::Signature);
    let why = between.refused(&with(Hello { identity: spki, ..member }), mine(Bytes::new()));
    refused("a renewal with its own key", why, Why::NotMember);
    let told_of = group.server().events_since(mark).into_iter().filter(|event| event.number == 40062).count();
    assert!((1..=tries).contains(&told_of), "{told_of} of {tries}");

    // The control: the host itself, with the same token, by the same way.
    let (output, _) = between.pass(&host, &many, |_, message| Some(message.clone()));
    assert!(output.status.success(), "{}", program::said(&output));
    assert_eq!(members(&group, "held*"), (vec!["held.test".to_owned(), "late.test".to_owned()], 1));
}

#[test]
fn a_forged_refusal_after_the_proof_does_not_cost_a_host_its_keys() {
    let mut group = Group::builder().agents(0).start();
    group.gateway(0).wait_event(40004);
    let between = Between::new(&mut group);
    let token = group.token(&["--role", "agent", "--name", "late*", "--via", "gw1.test", "--uses", "9"]);
    let (own, _) = SigningKey::generate(GroupId(group.id().into_bytes())).unwrap();
    let why = Why::Signature.into();
    // One that the server has signed, in a session of the gateway's own with what it saw of a host.
    let (output, seen) =
        between.pass(&group.newcomer("late0.test"), &token, |step, message| (step < 2).then(|| message.clone()));
    assert!(!output.status.success(), "{}", program::said(&output));
    let mut above = between.above();
    above.tell(&seen[0]);
    above.told().expect("a challenge");
    above.tell(&seen[2]);
    let genuine = answered(above.told()).expect("a refusal");
    assert!(matches!(genuine, Answered::Refused(_)), "{genuine:?}");

    for (number, what) in (1..).zip(["signed by nobody", "signed by the gateway", "of another session"]) {
        let host = group.newcomer(&format!("late{number}.test"));
        let mut came = Vec::new();
        let (output, _) = between.pass(&host, &token, |step, message| {
            came.push(message.clone());
            let forged = match number {
                _ if step != 3 => return Some(message.clone()),
                1 => Answered::Refusal(Refusal { why, ..Default::default() }),
                2 => Answered::Refused(own.signed(Context::Join, encode(&Refusal { why, transcript: about(&came) }))),
                _ => genuine.clone(),
            };
            Some(encode(&Down { answered: Some(forged) }))
        });
        assert!(!output.status.success() && came.len() == 4, "{what}: {}", program::said(&output));
        // The server has let it in: it must keep its keys, whoever says no.
        assert!(has_keys(&host), "{what}: {:?}", members(&group, "late*"));
        let (output, _) = between.pass(&host, &token, |_, message| Some(message.clone()));
        assert!(output.status.success(), "{what}: {}", program::said(&output));
    }
    // The control: a no of the server's own, in this session, is believed, and nothing is kept.
    let host = group.newcomer("other.test");
    let (output, came) = between.pass(&host, &token, |_, message| Some(message.clone()));
    assert!(!output.status.success() && came.len() == 4, "{}", program::said(&output));
    assert!(!has_keys(&host), "{}", program::said(&output));
}
