//! A gateway with a good certificate that does what it likes with what passes through it. It can be silent; it cannot
//! change, forge or replay what an agent or the server said.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Listener, Peer, Proofs};
use wardline_harness::pki::{Authority, Credential};
use wardline_harness::{private, wait};
use wardline_proto::frame::Message;
use wardline_proto::message::{Ack, Answer, Batch, BatchHeader, Context, Point, Position, Signed, Way, decode, encode};
use wardline_proto::{GroupId, Kind};
use wardline_secrets::signature::{KeyId, SigningKey, sha256};

const LIMIT: Duration = Duration::from_secs(20);
const AGENT: &str = "agent agent1.test";

/// The hostile gateway.
pub struct Between {
    credential: Credential,
    /// Who it is to others, and the one in the place of which it is.
    own: String,
    listener: Listener,
    /// The session with the agent.
    below: Option<Peer>,
    /// The session with the server.
    pub above: Peer,
    route: u32,
    proofs: Proofs,
}

impl Between {
    /// In the place of the group's gateway.
    pub fn new(group: &mut Group) -> Self {
        let server = (hostile::listen(group.server()), "srv1.test");
        Self::of(group, 0, server)
    }

    /// In the place of one of the group's gateways, with a session with this server.
    pub fn of(group: &mut Group, index: usize, (server, name): (SocketAddr, &str)) -> Self {
        let gateway = format!("gw{}.test", index + 1);
        let credential = group.credential(&gateway);
        let listener = Listener::at(hostile::listen(group.gateway(index)));
        let own = format!("gateway {gateway}");
        let mut above = Peer::join(server, &credential, &own, &format!("server {name}"));
        above.wait_for(Kind::Way, 0);
        let proofs = Proofs::beside(group.server());
        Self { credential, own, listener, below: None, above, route: 0, proofs }
    }

    /// Waits for the agent.
    pub fn meet(&mut self) {
        self.below = None;
        self.below = Some(self.listener.join(&self.credential, &self.own, AGENT));
    }

    /// Waits until the agent, which has refused something, has closed, and for it to come again. Whoever is refused is
    /// waited for longer and longer, who only went away is not: so it is sent away once more.
    fn meet_again(&mut self) {
        self.below().wait_closed();
        self.meet();
        self.meet();
    }

    pub fn below(&mut self) -> &mut Peer {
        self.below.as_mut().expect("the agent is here")
    }

    /// Passes a heartbeat on, and to the agent what it is to repeat from then on.
    pub fn heartbeat(&mut self, heartbeat: Bytes) {
        self.up(Kind::Heartbeat, heartbeat);
        let challenge = self.above.wait_for(Kind::Challenge, self.route);
        self.down(Kind::Challenge, challenge);
    }

    /// Opens a route for an agent.
    pub fn route(&mut self, agent: &str) -> u32 {
        self.route += 1;
        let open = self.proofs.route(agent, &[]);
        self.above.say(open.on(self.route));
        self.route
    }

    /// Has the agent ask where its stream stands.
    fn asked(&mut self) -> Bytes {
        self.below().say(Message::own(Kind::Way, Way { open: true }));
        self.below().wait_for(Kind::Position, 0)
    }

    /// An honest route: position and answer are passed on. Gives both.
    pub fn open(&mut self) -> (Bytes, Bytes) {
        let route = self.route("agent1.test");
        self.above.wait_for(Kind::Way, route);
        let position = self.asked();
        self.up(Kind::Position, position.clone());
        let answer = self.above.wait_for(Kind::Answer, route);
        self.down(Kind::Answer, answer.clone());
        (position, answer)
    }

    fn batch(&mut self) -> Bytes {
        self.below().wait_for(Kind::Batch, 0)
    }

    /// Sends to the server, on the newest route.
    pub fn up(&mut self, kind: Kind, body: Bytes) {
        self.above.say(Message { kind, route: self.route, body });
    }

    /// Sends to the agent.
    fn down(&mut self, kind: Kind, body: Bytes) {
        self.below().say(Message { kind, route: 0, body });
    }

    /// Passes a batch on, and its acknowledgement back.
    pub fn pass(&mut self, batch: Bytes) -> Bytes {
        self.up(Kind::Batch, batch);
        let ack = self.above.wait_for(Kind::Ack, self.route);
        self.down(Kind::Ack, ack.clone());
        ack
    }
}

/// With one bit of the middle byte turned.
fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

#[test]
fn a_gateway_cannot_change_forge_or_replay_what_an_agent_said() {
    let (mut group, log) = Group::builder().agents(2).direct(1).written().lay_with_log();
    let own = group.key("gw1.test", "identity");
    group.server().start();
    let mut gateway = Between::new(&mut group);
    group.agent(0).start();
    gateway.meet();

    // Unchanged, everything passes.
    let (old_position, _) = gateway.open();
    group.agent(0).wait_event(40005);
    log.say("one");
    let one = gateway.batch();
    gateway.pass(one.clone());
    assert_eq!(group.all_texts(), ["one"]);

    // Changed or forged, nothing does; the agent sends again what it has signed.
    log.say("two");
    let two = gateway.batch();
    let (first, second) = (decode::<Batch>(&one).unwrap(), decode::<Batch>(&two).unwrap());
    let header: BatchHeader = decode(&second.header).unwrap();
    let with = |header: &BatchHeader, body: &Bytes| {
        let header = encode(&BatchHeader { body: sha256(&[body]).to_wire(), ..header.clone() });
        Batch { signature: own.sign(Context::Batch, &header), header, body: body.clone() }
    };
    for (what, batch) in [
        ("header", Batch { header: flipped(&second.header), ..second.clone() }),
        ("body", Batch { body: flipped(&second.body), ..second.clone() }),
        ("signature", Batch { signature: flipped(&second.signature), ..second.clone() }),
        ("no signature", Batch { signature: Bytes::new(), ..second.clone() }),
        ("cut", Batch { body: second.body.slice(1..), ..second.clone() }),
        ("the body of another", Batch { body: first.body.clone(), ..second.clone() }),
        ("the signature of another", Batch { signature: first.signature.clone(), ..second.clone() }),
        ("forged", with(&header, &second.body)),
        (
            "forged, in the gateway's name",
            with(&BatchHeader { agent: "gw1.test".into(), ..header.clone() }, &second.body),
        ),
    ] {
        let mark = group.server().mark();
        gateway.up(Kind::Batch, encode(&batch));
        group.server().wait_event_since(mark, 40011);
        assert_eq!(group.all_texts(), ["one"], "{what}");
        gateway.open();
        assert_eq!(gateway.batch(), two, "{what}: sent again as it is");
    }
    let position = decode::<Signed>(&old_position).unwrap().payload;
    let heartbeat = Position { serial: u64::MAX, ..decode(&position).unwrap() };
    for (kind, payload) in
        [(Kind::Position, position.clone()), (Kind::Heartbeat, encode(&heartbeat)), (Kind::Hop, position)]
    {
        let signed = Signed { payload, ..decode(&old_position).unwrap() };
        for forged in [
            Signed { payload: flipped(&signed.payload), ..signed.clone() },
            Signed { signature: Bytes::new(), ..signed.clone() },
            own.signed(if kind == Kind::Hop { Context::Hop } else { Context::Position }, signed.payload.clone()),
        ] {
            let mark = group.server().mark();
            gateway.up(kind, encode(&forged));
            group.server().wait_event_since(mark, 40011);
            gateway.open();
            assert_eq!(gateway.batch(), two);
        }
    }

    // Again, and again later: acknowledged, with no second effect. Old positions move nothing back.
    gateway.pass(two.clone());
    assert_eq!(group.all_texts(), ["one", "two"]);
    for batch in [&one, &two, &one] {
        gateway.pass(batch.clone());
    }
    let route = gateway.route;
    gateway.up(Kind::Position, old_position.clone());
    gateway.above.wait_for(Kind::Answer, route);
    gateway.pass(one.clone());
    gateway.pass(two.clone());
    assert_eq!(group.all_texts(), ["one", "two"]);

    // What one agent said is nothing that another says.
    let mark = group.server().mark();
    let route = gateway.route("agent2.test");
    gateway.above.wait_for(Kind::Way, route);
    gateway.up(Kind::Position, old_position);
    let event = group.server().wait_event_since(mark, 40011);
    assert!(event.text.contains("agent2.test"), "{}", event.text);

    // In another order, or with one left out.
    gateway.open();
    log.say("three");
    let three = gateway.batch();
    log.say("four");
    let four = gateway.batch();
    for order in [vec![&four, &three], vec![&four]] {
        let mark = group.server().mark();
        for batch in order {
            gateway.up(Kind::Batch, batch.clone());
        }
        group.server().wait_event_since(mark, 40012);
        gateway.open();
        assert_eq!((gateway.batch(), gateway.batch()), (three.clone(), four.clone()));
        assert_eq!(group.all_texts(), ["one", "two"]);
    }
    gateway.pass(three);
    gateway.pass(four);
    assert_eq!(group.all_texts(), ["one", "two", "three", "four"]);

    // It speaks only for agents that it was given.
    for agent in ["agent3.test", "nobody.test", "srv1.test", "gw1.test"] {
        let mark = group.server().mark();
        let route = gateway.route(agent);
        gateway.above.wait_for(Kind::Refusal, route);
        assert!(group.server().wait_event_since(mark, 20000).text.contains(agent));
    }
    // However often it does, it does not fill the log.
    let mark = group.server().mark();
    for _ in 0..300 {
        let route = gateway.route("nobody.test");
        gateway.above.wait_for(Kind::Refusal, route);
    }
    group.server().wait_event_since(mark, 40042);
    let named = group.server().events_since(mark).into_iter().filter(|event| event.number == 20000).count();
    assert!((40..150).contains(&named), "{named}");

    // The real gateway takes its place again; nothing is there twice.
    drop(gateway);
    group.gateway(0).start();
    log.say("five");
    group.wait_texts(&["one", "two", "three", "four", "five"]);
}

#[test]
fn a_forged_acknowledgement_is_refused() {
    let (mut group, log) = Group::builder().written().lay_with_log();
    let id = GroupId(group.id().into_bytes());
    let folder = group.folder().to_owned();
    let own = group.key("gw1.test", "identity");
    // Held by nobody but the server; here it signs what the server never would.
    let duty = group.key("srv1.test", "duty");
    let duty_pem = private::read(&folder.join("srv1.test/state/test/duty.key"));
    let elsewhere = SigningKey::from_pem(&duty_pem, GroupId([7; 16])).unwrap();
    let other = Authority::new("other").duty("srv1.test");
    let other_key = SigningKey::from_pem(other.key.as_bytes(), id).unwrap();
    let queue = group.agent(0).state().join("queue.db");
    let waiting = || -> Vec<i64> {
        let connection = Connection::open_with_flags(&queue, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let mut statement = connection.prepare("SELECT last FROM batch").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };

    group.server().start();
    let mut gateway = Between::new(&mut group);
    group.agent(0).start();
    gateway.meet();
    let (_, old_answer) = gateway.open();
    log.say("one");
    let one = gateway.batch();
    let old_ack = gateway.pass(one);
    wait::until("an empty queue", LIMIT, || waiting().is_empty().then_some(()));
    log.say("two");
    let two = gateway.batch();
    let header = decode::<Batch>(&two).unwrap().header;
    let place: BatchHeader = decode(&header).unwrap();
    let last = i64::try_from(place.last).unwrap();
    let good = Ack {
        agent: "agent1.test".into(),
        epoch: place.epoch.clone(),
        upto: Point { number: place.last, hash: sha256(&[&header]).to_wire() },
        key: Bytes::copy_from_slice(&duty.id().0),
    };
    let upto = |number, hash| encode(&Ack { upto: Point { number, hash }, ..good.clone() });
    let named = |id: KeyId| encode(&Ack { key: Bytes::copy_from_slice(&id.0), ..good.clone() });
    let ack = encode(&good);
    let forgeries = [
        ("unsigned", Signed { payload: ack.clone(), signature: Bytes::new() }),
        ("signed by the gateway", own.signed(Context::Ack, ack.clone())),
        ("in the gateway's name", own.signed(Context::Ack, named(own.id()))),
        ("by another group's server", other_key.signed(Context::Ack, named(other_key.id()))),
        ("for another group", elsewhere.signed(Context::Ack, ack.clone())),
        ("signed for another purpose", duty.signed(Context::Position, ack)),
        ("naming another key", duty.signed(Context::Ack, named(own.id()))),
        ("for another agent", duty.signed(Context::Ack, encode(&Ack { agent: "agent2.test".into(), ..good.clone() }))),
        ("ahead", duty.signed(Context::Ack, upto(place.last + 10, good.upto.hash.clone()))),
        ("of another chain", duty.signed(Context::Ack, upto(place.last, flipped(&good.upto.hash)))),
    ];
    for (what, forged) in forgeries {
        // An old one says nothing new: it does not even end the session.
        gateway.down(Kind::Ack, old_ack.clone());
        let mark = group.agent(0).mark();
        gateway.down(Kind::Ack, encode(&forged));
        group.agent(0).wait_event_since(mark, 40010);
        gateway.meet_again();
        assert_eq!(waiting(), [last], "{what}");
        gateway.open();
        assert_eq!(gateway.batch(), two, "{what}");
    }

    // Answers decide what was delivered as acknowledgements do.
    let channel = group.credential("srv1.test");
    let channel_key = SigningKey::from_pem(channel.key.as_bytes(), id).unwrap();
    let chain = |credential: &Credential| hostile::chain(credential).into_iter().map(Bytes::from).collect::<Vec<_>>();
    let old: Signed = decode(&old_answer).unwrap();
    let genuine: Answer = decode(&old.payload).unwrap();
    let all = Point { number: place.last, hash: good.upto.hash.clone() };
    // What a forger would like to be believed, with the nonce that was asked.
    let lie =
        |nonce: &Bytes| Answer { nonce: nonce.clone(), watermark: all.clone(), common: all.clone(), ..genuine.clone() };
    type Forge<'a> = Box<dyn Fn(&Bytes) -> Signed + 'a>;
    let sign = |key: &SigningKey, answer: Answer| key.signed(Context::Position, encode(&answer));
    let forgeries: [(&str, Forge<'_>); 6] = [
        ("with an old nonce", Box::new(|_| old.clone())),
        ("unsigned", Box::new(|nonce| Signed { payload: encode(&lie(nonce)), signature: Bytes::new() })),
        ("signed by the gateway", Box::new(|nonce| sign(&own, lie(nonce)))),
        (
            "by another group's server",
            Box::new(|nonce| sign(&other_key, Answer { chain: chain(&other), ..lie(nonce) })),
        ),
        (
            "by a channel certificate",
            Box::new(|nonce| sign(&channel_key, Answer { chain: chain(&channel), ..lie(nonce) })),
        ),
        ("for another agent", Box::new(|nonce| sign(&duty, Answer { agent: "agent2.test".into(), ..lie(nonce) }))),
    ];
    for (what, forge) in forgeries {
        let position: Signed = decode(&gateway.asked()).unwrap();
        let nonce = decode::<Position>(&position.payload).unwrap().nonce;
        let mark = group.agent(0).mark();
        gateway.down(Kind::Answer, encode(&forge(&nonce)));
        group.agent(0).wait_event_since(mark, 40010);
        gateway.meet_again();
        assert_eq!(waiting(), [last], "{what}");
    }
    assert_eq!(group.all_texts(), ["one"]);

    // The honest way again: what was withheld arrives once, and only now leaves the queue.
    drop(gateway);
    group.gateway(0).start();
    group.wait_texts(&["one", "two"]);
    wait::until("an empty queue", LIMIT, || waiting().is_empty().then_some(()));
}
