//! Who may say what to whom: every kind of message, from every role, each way, in its own name and on behalf of a
//! route, as real frames from real authenticated peers. The table stands here as it was meant; it is not read from the
//! program.

use std::time::Duration;

use bytes::Bytes;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Listener, Peer, Proofs};
use wardline_harness::pki::Credential;
use wardline_harness::{Daemon, wait};
use wardline_proto::Kind;
use wardline_proto::frame::Message;
use wardline_proto::message::{
    Batch, BatchHeader, Challenge, Context, Epoch, Hop, Mark, Point, Position, Reason, Refusal, Reply, Request,
    RouteOpen, SealingKey, Signed, Way, encode,
};
use wardline_secrets::signature::{SigningKey, random};

const LIMIT: Duration = Duration::from_secs(20);

/// For each session two columns: in its own name, on behalf of a route. `+` is allowed, `-` is refused, `x` is allowed
/// and ends the session.
const EXPECTED: [(Kind, [&str; 8]); 19] = [
    // agent to gateway, agent to server, gateway to server, gateway to agent, server to agent, server to gateway, server
    // without a database to server, server to server without a database
    (Kind::Bound, ["--", "--", "--", "--", "--", "--", "--", "--"]),
    (Kind::Refusal, ["x-", "x-", "+-", "x-", "x-", "x+", "+-", "x+"]),
    (Kind::RouteOpen, ["--", "--", "-+", "--", "--", "--", "-+", "--"]),
    (Kind::RouteClose, ["--", "--", "-+", "--", "--", "-+", "-+", "-+"]),
    (Kind::Way, ["--", "--", "--", "+-", "+-", "++", "--", "++"]),
    (Kind::Position, ["+-", "+-", "-+", "--", "--", "--", "-+", "--"]),
    (Kind::Answer, ["--", "--", "--", "+-", "+-", "-+", "--", "-+"]),
    (Kind::Batch, ["+-", "+-", "-+", "--", "--", "--", "-+", "--"]),
    (Kind::Ack, ["--", "--", "--", "+-", "+-", "-+", "--", "-+"]),
    (Kind::Heartbeat, ["+-", "+-", "-+", "--", "--", "--", "-+", "--"]),
    (Kind::Hop, ["+-", "+-", "++", "--", "--", "--", "++", "--"]),
    (Kind::ConfigurationAsk, ["+-", "+-", "-+", "--", "--", "--", "-+", "--"]),
    (Kind::Configuration, ["--", "--", "--", "+-", "+-", "-+", "--", "-+"]),
    (Kind::SealingKey, ["+-", "+-", "++", "--", "--", "--", "++", "--"]),
    (Kind::SealingConfirmed, ["--", "--", "--", "+-", "+-", "++", "--", "++"]),
    (Kind::Alive, ["+-", "+-", "+-", "+-", "+-", "+-", "+-", "+-"]),
    (Kind::Challenge, ["--", "--", "--", "+-", "+-", "-+", "--", "-+"]),
    (Kind::Request, ["--", "--", "--", "--", "--", "--", "-+", "--"]),
    (Kind::Reply, ["--", "--", "--", "--", "--", "--", "--", "-+"]),
];

/// A session of one hostile end with one real program.
struct Session<'a> {
    column: usize,
    /// The real end.
    daemon: &'a Daemon,
    /// What it says when it refuses.
    event: u32,
    /// Comes so far that messages can be sent; gives the route that is open, if there are any.
    begin: Box<dyn Fn() -> (Peer, u32) + 'a>,
    /// Has the real end say something that it says only while the session stands.
    probe: Box<dyn Fn(&mut Peer) + 'a>,
    /// A message's bytes.
    body: Box<dyn Fn(Kind, bool) -> Bytes + 'a>,
}

impl Session<'_> {
    /// Walks its two columns.
    fn walk(&self) {
        for (kind, columns) in EXPECTED {
            for (relayed, expected) in columns[self.column].chars().enumerate() {
                let (mut peer, route) = (self.begin)();
                let mark = self.daemon.mark();
                let cell = format!("{kind:?}, session {}, relayed {relayed}", self.column);
                // On behalf of a route that is open, or of a new one where the message opens it.
                let route = if relayed == 0 { 0 } else { route + 1000 * u32::from(kind == Kind::RouteOpen) };
                peer.say(Message { kind, route, body: (self.body)(kind, relayed == 1) });
                match expected {
                    '+' => {
                        (self.probe)(&mut peer);
                        assert_eq!(self.violations(mark), 0, "{cell}");
                    }
                    'x' => {
                        peer.wait_closed();
                        let gone = if self.event == 20070 { 20070 } else { 40041 };
                        self.daemon.wait_event_since(mark, gone);
                        assert_eq!(self.violations(mark), 0, "{cell}");
                    }
                    _ => {
                        peer.wait_closed();
                        wait::until(&format!("{cell} is refused"), LIMIT, || {
                            (self.violations(mark) == 1).then_some(())
                        });
                        // Who was refused is waited for longer and longer, who went away is not.
                        if self.event == 20070 {
                            drop((self.begin)());
                        }
                    }
                }
            }
        }
    }

    /// How often it has said that the other end broke the rules.
    fn violations(&self, mark: usize) -> usize {
        let words = ["may not send it", "unexpected", "an agent has none"];
        let told = |text: &str| words.iter().any(|word| text.contains(word));
        let events = self.daemon.events_since(mark).into_iter();
        events.filter(|event| event.number == self.event && told(&event.text)).count()
    }
}

/// What an agent would say, well formed and signed by it.
fn said(key: &SigningKey, agent: &str, kind: Kind) -> Bytes {
    let epoch = Epoch([7; 16]);
    let position = Position {
        agent: agent.into(),
        epoch: epoch.to_wire(),
        nonce: Bytes::copy_from_slice(&random()),
        acknowledged: Point::of(&Mark::start(epoch)),
        interval: 60_000,
        ..Position::default()
    };
    match kind {
        Kind::Position | Kind::Heartbeat => encode(&key.signed(Context::Position, encode(&position))),
        Kind::Hop => {
            let hop = Hop { reporter: agent.into(), peer: "srv1.test".into(), ..Hop::default() };
            encode(&key.signed(Context::Hop, encode(&hop)))
        }
        Kind::SealingKey => {
            let own = SealingKey { name: agent.into(), role: "agent".into(), ..SealingKey::default() };
            encode(&key.signed(Context::SealingCert, encode(&own)))
        }
        Kind::Batch => {
            let header = encode(&BatchHeader { agent: agent.into(), ..BatchHeader::default() });
            encode(&Batch { signature: key.sign(Context::Batch, &header), header, body: Bytes::new() })
        }
        kind => anything(kind),
    }
}

/// A hostile end in the place of a gateway, or of a server without a database, as the server sees it: its own identity key,
/// and that of the agent behind it.
fn carrier<'a>(
    column: usize,
    server: &'a Daemon,
    credential: &'a Credential,
    role: &'a str,
    name: &'a str,
    [own, behind]: [&'a SigningKey; 2],
) -> Session<'a> {
    let open = |route| Proofs::beside(server).route("agent2.test", &[]).on(route);
    Session {
        column,
        daemon: server,
        event: 40002,
        begin: Box::new(move || {
            let own = format!("{role} {name}");
            let mut peer = Peer::join(hostile::listen(server), credential, &own, "server srv1.test");
            peer.say(open(1));
            peer.wait_for(Kind::Way, 1);
            (peer, 1)
        }),
        probe: Box::new(move |peer| {
            peer.say(open(2));
            peer.wait_for(Kind::Way, 2);
        }),
        body: Box::new(move |kind, relayed| match (kind, relayed) {
            (Kind::Hop, false) => said(own, name, kind),
            _ => said(behind, "agent2.test", kind),
        }),
    }
}

/// What is well formed, and nobody's in particular.
fn anything(kind: Kind) -> Bytes {
    match kind {
        Kind::Refusal => encode(&Refusal::of(Reason::Stopping)),
        Kind::RouteOpen => encode(&RouteOpen { agent: "agent2.test".into(), ..Default::default() }),
        Kind::Way => encode(&Way { open: true }),
        Kind::Bound | Kind::RouteClose | Kind::Alive => Bytes::new(),
        Kind::Request => {
            let (method, target) = ("GET".into(), "/api/v1/topology".into());
            encode(&Request { method, target, ..Request::default() })
        }
        Kind::Reply => encode(&Reply { status: 200, ..Reply::default() }),
        Kind::Challenge => encode(&Challenge { challenge: Bytes::copy_from_slice(&random()) }),
        _ => encode(&Signed::default()),
    }
}

/// A hostile end in the place of an agent, as its parent sees it.
fn agent<'a>(
    column: usize,
    daemon: &'a Daemon,
    credential: &'a Credential,
    name: &'a str,
    key: &'a SigningKey,
) -> Session<'a> {
    let other = if column == 0 { "gateway gw1.test" } else { "server srv1.test" };
    Session {
        column,
        daemon,
        event: 40002,
        begin: Box::new(move || {
            let mut peer = Peer::join(hostile::listen(daemon), credential, &format!("agent {name}"), other);
            peer.wait_for(Kind::Way, 0);
            (peer, 1)
        }),
        probe: Box::new(move |peer| {
            peer.say(Message { kind: Kind::Position, route: 0, body: said(key, name, Kind::Position) });
            peer.wait_for(Kind::Answer, 0);
        }),
        body: Box::new(move |kind, _| said(key, name, kind)),
    }
}

/// A hostile end in the place of a parent, as the program that dials it sees it.
fn parent<'a>(
    column: usize,
    daemon: &'a Daemon,
    listener: &'a Listener,
    credential: &'a Credential,
    ends: [&'a str; 2],
    answer: Kind,
) -> Session<'a> {
    let open = || Message::own(Kind::Way, Way { open: true });
    Session {
        column,
        daemon,
        event: 20070,
        begin: Box::new(move || (listener.join(credential, ends[0], ends[1]), 1)),
        probe: Box::new(move |peer| {
            peer.say(open());
            peer.wait_for(answer, 0);
        }),
        body: Box::new(|kind, _| anything(kind)),
    }
}

#[test]
fn every_message_from_every_role_is_allowed_or_refused_by_the_table() {
    assert_eq!(EXPECTED.map(|(kind, _)| kind), Kind::ALL, "every kind has a row");

    // Hostile ends below real programs.
    let mut group = Group::builder().gateways(2).agents(2).direct(1).lay();
    let [behind, second, direct] =
        ["agent1.test", "agent2.test", "agent3.test"].map(|name| group.key(name, "identity"));
    let channel = |group: &Group, name| group.credential(name);
    let (first, third) = (channel(&group, "agent1.test"), channel(&group, "agent3.test"));
    let gateway = channel(&group, "gw2.test");
    group.server().start();
    group.relaying_server("ms1.test");
    let without = channel(&group, "ms1.test");
    group.done(&["agent", "assign", "agent2.test", "--via", "gw2.test", "--via", "ms1.test"]);
    group.gateway(0).start();
    agent(0, group.gateway(0), &first, "agent1.test", &behind).walk();
    agent(1, group.server(), &third, "agent3.test", &direct).walk();
    let own = ["gw2.test", "ms1.test"].map(|name| group.key(name, "identity"));
    carrier(2, group.server(), &gateway, "gateway", "gw2.test", [&own[0], &second]).walk();
    carrier(6, group.server(), &without, "server", "ms1.test", [&own[1], &second]).walk();
    assert_eq!(group.sql::<i64>("SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM alert)"), [0]);

    // Hostile ends above real programs.
    let mut group = Group::builder().direct(1).written().lay();
    let (gateway, server) = (channel(&group, "gw1.test"), channel(&group, "srv1.test"));
    let listeners = [Listener::new(), Listener::new(), Listener::new(), Listener::new()];
    hostile::set_parents(group.agent(0), &[("gw1.test", listeners[0].address())]);
    hostile::set_parents(group.agent(1), &[("srv1.test", listeners[1].address())]);
    hostile::set_parents(group.gateway(0), &[("srv1.test", listeners[2].address())]);
    group.agent(0).start();
    let ends = ["gateway gw1.test", "agent agent1.test"];
    parent(3, group.agent(0), &listeners[0], &gateway, ends, Kind::Position).walk();
    group.agent(1).start();
    let ends = ["server srv1.test", "agent agent2.test"];
    parent(4, group.agent(1), &listeners[1], &server, ends, Kind::Position).walk();
    group.gateway(0).start();
    let ends = ["server srv1.test", "gateway gw1.test"];
    parent(5, group.gateway(0), &listeners[2], &server, ends, Kind::Hop).walk();
    group.server().start();
    let mut relaying = group.relaying_server("ms1.test");
    group.server().stop();
    let above = [("name", "srv1.test".to_owned()), ("address", listeners[3].address().to_string())];
    let above = above.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    relaying.set("root_servers", vec![toml::Value::Table(above)]);
    relaying.start();
    parent(7, &relaying, &listeners[3], &server, ["server srv1.test", "server ms1.test"], Kind::Hop).walk();
}
