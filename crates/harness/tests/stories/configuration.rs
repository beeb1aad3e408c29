//! What agents run comes down from the server, signed: a gateway can hold it back, and nothing else.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Listener, Peer, Proofs};
use wardline_harness::pki::{Authority, Credential};
use wardline_harness::program::said;
use wardline_harness::{Daemon, Log, private, scratch, wait};
use wardline_proto::frame::Message;
use wardline_proto::message::{Configuration, ConfigurationAsk, Context, Issue, Signed, Way, decode, encode};
use wardline_proto::{GroupId, Kind};
use wardline_secrets::signature::{SigningKey, sha256};

/// Until the largest configuration runs.
const LIMIT: Duration = Duration::from_secs(60);
const GATEWAY: &str = "gateway gw1.test";
const AGENT: &str = "agent agent1.test";
/// What an agent keeps.
const KEPT: [&str; 2] = ["OpsMgrConnector.Config.xml", "OpsMgrConnector.Config.xml.sig"];

/// Writes a file with a pack.
fn file(group: &Group, text: &str) -> String {
    let path = group.folder().join("pack.toml");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Waits until an agent runs another configuration than before.
#[track_caller]
fn active(agent: &Daemon, mark: usize) {
    for number in [21025, 1210] {
        wait::until(&format!("event {number} of {}", agent.name()), LIMIT, || {
            agent.events_since(mark).iter().any(|event| event.number == number).then_some(())
        });
    }
}

#[test]
fn a_pack_applied_at_the_server_runs_on_its_agents_and_nowhere_else() {
    let builder = Group::builder().agents(2).direct(1).pack("base", "");
    let mut group = builder.lay();
    let (host, app) = (Log::create(group.folder(), "host"), Log::create(group.folder(), "app"));
    group.write_pack("base", &host.pack("base"));
    group.start();
    for agent in 0..3 {
        // Each has a configuration, with nothing to run in it.
        assert!(group.agent(agent).wait_event(21023).text.contains("test"));
        active(group.agent(agent), 0);
    }
    host.say("host 1");
    app.say("app 1");
    for agent in ["agent1.test", "agent2.test", "agent3.test"] {
        group.wait_texts_mixed(agent, &["host 1"]);
    }

    // For one behind the gateway.
    let mark = group.agent(1).mark();
    group.done(&["pack", "lint", &file(&group, &app.pack("app"))]);
    group.done(&["pack", "apply", &file(&group, &app.pack("app")), "--agents", "agent2.test"]);
    active(group.agent(1), mark);
    app.say("app 2");
    host.say("host 2");
    group.wait_texts_mixed("agent2.test", &["app 1", "app 2", "host 1", "host 2"]);
    for agent in ["agent1.test", "agent3.test"] {
        group.wait_texts_mixed(agent, &["host 1", "host 2"]);
    }
    for name in KEPT {
        assert_eq!(group.agent(1).state().join(name).metadata().unwrap().mode() & 0o7777, 0o600, "{name}");
    }

    // What is wrong is refused by its place, and changes nothing.
    let marks = [0, 1, 2].map(|agent| group.agent(agent).mark());
    let bad = file(&group, &(app.pack("app") + "severity = \"loud\"\n"));
    for verb in ["lint", "diff", "apply"] {
        let refused = group.wardline(&["pack", verb, &bad]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains("pack.toml:6:12: "), "{verb}: {}", said(&refused));
    }
    let refused = group.wardline(&["pack", "apply", &file(&group, &app.pack("app")), "--agents", "a*b"]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    group.done(&["pack", "apply", &file(&group, &app.pack("app"))]);

    // For the one that talks to the server itself, too; and what ran before goes on where it was: no line is doubled.
    let more = app.pack("app") + "severity = \"warning\"\n";
    let diff = group.done(&["pack", "diff", &file(&group, &more)]);
    assert!(diff.contains("+severity = \"warning\"") && !diff.contains("\n-"), "{diff}");
    group.done(&["pack", "apply", &file(&group, &more), "--agents", "*"]);
    for (agent, mark) in marks.into_iter().enumerate() {
        active(group.agent(agent), mark);
        let events = group.agent(agent).events_since(mark);
        assert_eq!(events.iter().filter(|event| event.number == 1210).count(), 1, "one change is one change");
    }
    app.say("app 3");
    host.say("host 3");
    for agent in ["agent1.test", "agent2.test", "agent3.test"] {
        group.wait_texts_mixed(agent, &["app 1", "app 2", "app 3", "host 1", "host 2", "host 3"]);
    }
    assert!(group.done(&["pack", "list"]).contains("app"));
    assert!(group.done(&["keys", "log", "show"]).contains("pack"));
    group.done(&["keys", "log", "verify"]);

    // What was kept runs without a server, and is still valid when there is one.
    group.server().stop();
    group.agent(2).restart();
    group.agent(2).wait_event(1210);
    app.say("app 4");
    host.say("host 4");
    group.server().start();
    group.agent(2).wait_event(21026);
    let four = ["app 1", "app 2", "app 3", "app 4", "host 1", "host 2", "host 3", "host 4"];
    group.wait_texts_mixed("agent3.test", &four);
    assert!(!group.agent(2).events().iter().any(|event| event.number == 21025));

    // A text that somebody has changed in the database is not used, and named; what runs goes on.
    group.wait_texts_mixed("agent1.test", &four);
    let marks = [0, 1, 2].map(|agent| group.agent(agent).mark());
    group.server().stop();
    let changed = rusqlite::Connection::open(group.database()).unwrap();
    assert_eq!(changed.execute("UPDATE pack SET text = text || '#'", []).unwrap(), 1);
    drop(changed);
    group.server().start();
    assert!(group.server().wait_event(40085).text.contains("pack app"));
    assert_eq!(group.wardline(&["pack", "diff", &file(&group, &more)]).status.code(), Some(5));
    let mark = group.server().mark();
    group.done(&["pack", "apply", &file(&group, &more)]);
    assert!(group.server().events_since(mark).iter().all(|event| event.number != 40085));

    // Nowhere any more.
    group.done(&["pack", "remove", "app"]);
    for (agent, mark) in marks.into_iter().enumerate() {
        active(group.agent(agent), mark);
    }
    app.say("app 5");
    host.say("host 5");
    let five = [&four[..], &["host 5"]].concat();
    for agent in ["agent1.test", "agent2.test", "agent3.test"] {
        group.wait_texts_mixed(agent, &five);
    }
    assert_eq!(group.wardline(&["pack", "remove", "app"]).status.code(), Some(3));
}

/// The hostile gateway between agent1 and the server.
pub(crate) struct Between {
    credential: Credential,
    /// Who it is to others.
    own: String,
    listener: Listener,
    below: Option<Peer>,
    pub(crate) above: Peer,
    /// The agent's, as it was opened last.
    pub(crate) route: u32,
    proofs: Proofs,
}

impl Between {
    pub(crate) fn new(group: &mut Group) -> Self {
        let (credential, place) = (group.credential("gw1.test"), hostile::listen(group.gateway(0)));
        Self::in_place(group, credential, GATEWAY, place)
    }

    /// As somebody else, who listens there.
    pub(crate) fn in_place(group: &mut Group, credential: Credential, own: &str, place: SocketAddr) -> Self {
        let (own, listener) = (own.to_owned(), Listener::at(place));
        let mut above = Peer::join(hostile::listen(group.server()), &credential, &own, "server srv1.test");
        above.wait_for(Kind::Way, 0);
        let proofs = Proofs::beside(group.server());
        Self { credential, own, listener, below: None, above, route: 0, proofs }
    }

    pub(crate) fn meet(&mut self) {
        self.below = None;
        self.below = Some(self.listener.join(&self.credential, &self.own, AGENT));
    }

    pub(crate) fn below(&mut self) -> &mut Peer {
        self.below.as_mut().expect("the agent is here")
    }

    pub(crate) fn route(&mut self, agent: &str) {
        self.route += 1;
        let open = self.proofs.route(agent, &[]);
        self.above.say(open.on(self.route));
        self.above.wait_for(Kind::Way, self.route);
    }

    pub(crate) fn up(&mut self, kind: Kind, body: Bytes) {
        self.above.say(Message { kind, route: self.route, body });
    }

    pub(crate) fn down(&mut self, kind: Kind, body: Bytes) {
        self.below().say(Message { kind, route: 0, body });
    }

    /// Passes on position and answer. Gives what the agent asks for then.
    pub(crate) fn open(&mut self) -> Bytes {
        self.route("agent1.test");
        self.below().say(Message::own(Kind::Way, Way { open: true }));
        let position = self.below().wait_for(Kind::Position, 0);
        self.up(Kind::Position, position);
        let answer = self.above.wait_for(Kind::Answer, self.route);
        self.down(Kind::Answer, answer);
        self.below().wait_for(Kind::ConfigurationAsk, 0)
    }

    /// What the server answers to a question about a configuration.
    pub(crate) fn asked(&mut self, ask: Bytes) -> Configuration {
        self.up(Kind::ConfigurationAsk, ask);
        self.sent()
    }

    pub(crate) fn sent(&mut self) -> Configuration {
        decode(&self.above.wait_for(Kind::Configuration, self.route)).unwrap()
    }

    /// The server's word about a sealing key.
    pub(crate) fn confirmed(&mut self) -> Bytes {
        self.above.wait_for(Kind::SealingConfirmed, self.route)
    }

    /// The configuration that the server has for an agent.
    pub(crate) fn of(&mut self, agent: &str) -> Configuration {
        self.route(agent);
        self.asked(Bytes::new())
    }

    /// Gives an agent something that it must refuse with this event, and go on with what it has.
    #[track_caller]
    pub(crate) fn refused(&mut self, agent: &Daemon, what: &str, event: u32, configuration: &Configuration) {
        let (mark, before) = (agent.mark(), kept(agent));
        self.down(Kind::Configuration, encode(configuration));
        agent.wait_event_since(mark, event);
        self.below().wait_closed();
        // Whoever was refused is waited for longer and longer, who only went away is not.
        self.meet();
        self.meet();
        self.open();
        assert!(kept(agent) == before, "{what}: nothing of it is kept");
        let others = [1210, 21025].map(|number| agent.events_since(mark).iter().any(|event| event.number == number));
        assert_eq!(others, [false; 2], "{what}");
    }
}

/// The bytes of what an agent keeps.
pub(crate) fn kept(agent: &Daemon) -> Vec<Vec<u8>> {
    KEPT.iter().map(|name| std::fs::read(agent.state().join(name)).unwrap_or_default()).collect()
}

pub(crate) fn signed(configuration: &Configuration) -> Signed {
    configuration.signed.clone().expect("it is signed")
}

pub(crate) fn issue(configuration: &Configuration) -> Issue {
    decode(&signed(configuration).payload).unwrap()
}

/// What the server has sent, with this document, said to be the one that was signed.
pub(crate) fn with(
    sent: &Configuration,
    document: String,
    by: &SigningKey,
    context: Context,
    issue: &Issue,
) -> Configuration {
    let hash = sha256(&[document.as_bytes()]).to_wire();
    let payload = encode(&Issue { document: hash, ..issue.clone() });
    Configuration { signed: Some(by.signed(context, payload)), document: document.into(), ..sent.clone() }
}

#[test]
fn a_gateway_cannot_rewrite_a_configuration_or_put_an_older_one_back() {
    let mut group = Group::builder().written().lay();
    let (one, two) = (Log::create(group.folder(), "one"), Log::create(group.folder(), "two"));
    let own = group.key("gw1.test", "identity");
    // Held by nobody but the server; here it signs what the server never would.
    let duty = group.key("srv1.test", "duty");
    let channel = group.key("srv1.test", "channel");
    let other = Authority::new("other").duty("srv1.test");
    let other = SigningKey::from_pem(other.key.as_bytes(), GroupId(group.id().into_bytes())).unwrap();
    let elsewhere = private::read(&group.folder().join("srv1.test/state/test/duty.key"));
    let elsewhere = SigningKey::from_pem(&elsewhere, GroupId([7; 16])).unwrap();
    group.server().start();
    group.done(&["pack", "apply", &file(&group, &one.pack("app"))]);
    let mut gateway = Between::new(&mut group);
    group.agent(0).start();
    gateway.meet();

    // Unchanged, it passes, and is not sent again.
    let ask = gateway.open();
    let first = gateway.asked(ask);
    gateway.down(Kind::Configuration, encode(&first));
    active(group.agent(0), 0);
    assert_eq!(kept(group.agent(0))[0], first.document);
    gateway.meet();
    let ask = gateway.open();
    let unchanged = gateway.asked(ask);
    assert!(unchanged.signed.is_none() && unchanged.document.is_empty());
    gateway.down(Kind::Configuration, encode(&unchanged));
    group.agent(0).wait_event(21026);

    // The next one comes without a question. Rewritten, it is not taken.
    group.done(&["pack", "apply", &file(&group, &two.pack("app"))]);
    let second = gateway.sent();
    assert!(issue(&second).version > issue(&first).version && second.document != first.document);
    let agent = group.agent(0);
    let text = String::from_utf8(second.document.to_vec()).unwrap();
    // Nor withheld for something that is signed for everybody: it says nothing of this agent.
    let have = ConfigurationAsk { cookie: issue(&second).cookie, ..ConfigurationAsk::default() };
    let head = gateway.asked(encode(&have));
    assert!(head.signed.is_none());
    let mark = agent.mark();
    gateway.refused(agent, "a head that nobody asked for", 40080, &head);
    agent.wait_event_since(mark, 21024);
    let rewritten = text.replace("two.log", "one.log");
    let (version, later) = (issue(&second).version, issue(&second).version + 1);
    let newer = text.replace(&format!("<Version>{version}<"), &format!("<Version>{later}<"));
    assert!(rewritten != text && newer != text);
    let plain = |document: String, signed: Signed| Configuration {
        signed: Some(signed),
        document: document.into(),
        ..second.clone()
    };
    let flipped = |signed: Signed| {
        let mut bytes = signed.signature.to_vec();
        bytes[40] ^= 1;
        Signed { signature: bytes.into(), ..signed }
    };
    let said = encode(&Issue { version: later, ..issue(&second) });
    let good = issue(&second);
    for (what, forged) in [
        ("another document", plain(rewritten.clone(), signed(&second))),
        ("the older document", Configuration { document: first.document.clone(), ..second.clone() }),
        ("no document", Configuration { document: Bytes::new(), ..second.clone() }),
        ("a document that is cut", plain(text[..text.len() - 1].to_owned(), signed(&second))),
        ("another version", plain(newer.clone(), Signed { payload: said, ..signed(&second) })),
        ("another signature", plain(text.clone(), flipped(signed(&second)))),
        ("no signature", plain(text.clone(), Signed { signature: Bytes::new(), ..signed(&second) })),
        (
            "the signature of the older",
            plain(text.clone(), Signed { payload: signed(&second).payload, ..signed(&first) }),
        ),
        ("signed by the gateway", with(&second, rewritten.clone(), &own, Context::Config, &good)),
        ("signed by a channel key", with(&second, rewritten.clone(), &channel, Context::Config, &good)),
        ("by another group's server", with(&second, rewritten.clone(), &other, Context::Config, &good)),
        ("for another group", with(&second, text.clone(), &elsewhere, Context::Config, &good)),
        ("signed for another purpose", with(&second, text.clone(), &duty, Context::Ack, &good)),
        ("another version inside", with(&second, newer, &duty, Context::Config, &good)),
        ("a cookie of something else", with(&second, rewritten, &duty, Context::Config, &good)),
        ("nothing at all", Configuration::default()),
        ("a head for everybody", head),
        ("no head", Configuration { head: None, ..second.clone() }),
        ("an older head", Configuration { head: unchanged.head.clone(), ..second.clone() }),
        ("no entry", Configuration { included: Vec::new(), ..second.clone() }),
        (
            "a head by the gateway",
            Configuration {
                head: Some(own.signed(Context::Log, second.head.clone().unwrap().payload)),
                ..second.clone()
            },
        ),
    ] {
        gateway.refused(agent, what, 40080, &forged);
    }

    // As it is, it is taken; again, nothing happens; and the older one never comes back.
    let mark = agent.mark();
    gateway.down(Kind::Configuration, encode(&second));
    active(agent, mark);
    assert_eq!(kept(agent)[0], second.document);
    let mark = agent.mark();
    gateway.down(Kind::Configuration, encode(&second));
    gateway.refused(agent, "an older one", 40081, &first);
    assert!(agent.events_since(mark).iter().all(|event| event.number != 40080));
    let old = String::from_utf8(first.document.to_vec()).unwrap();
    let fresh = with(&second, old, &duty, Context::Config, &issue(&first));
    gateway.refused(agent, "an older one, signed anew", 40081, &fresh);
    // A head from before it says nothing about it. The server's own head does.
    let ask = gateway.open();
    let answer = gateway.asked(ask);
    gateway.refused(agent, "an older head", 40080, &unchanged);
    let mark = agent.mark();
    gateway.down(Kind::Configuration, encode(&answer));
    agent.wait_event_since(mark, 21026);

    // Nor when what was kept is damaged: the agent runs without it until it has it again.
    agent.stop();
    let path = agent.state().join(KEPT[0]);
    let damaged = String::from_utf8(second.document.to_vec()).unwrap().replace("two.log", "tw0.log");
    std::fs::write(&path, damaged).unwrap();
    agent.start();
    agent.wait_event(40083);
    gateway.meet();
    let ask = gateway.open();
    agent.wait_event(21023);
    assert!(agent.events().iter().all(|event| event.number != 1210));
    gateway.refused(agent, "an older one again", 40081, &first);
    let again = gateway.asked(ask);
    let mark = agent.mark();
    gateway.down(Kind::Configuration, encode(&again));
    active(agent, mark);
    assert_eq!(kept(agent)[0], second.document);

    // The honest way again.
    drop(gateway);
    group.gateway(0).start();
    two.say("two");
    one.say("one");
    group.wait_texts_mixed("agent1.test", &["two"]);
}

/// Puts files in place of those that an agent keeps.
fn lay(agent: &Daemon, files: &[Vec<u8>]) {
    for (name, bytes) in KEPT.iter().zip(files) {
        scratch::write(&agent.state().join(name), bytes, 0o600);
    }
}

#[test]
fn a_configuration_for_another_is_refused() {
    let mut group = Group::builder().agents(2).written().lay();
    let (log, other) = (Log::create(group.folder(), "app"), Log::create(group.folder(), "other"));
    group.server().start();
    group.done(&["pack", "apply", &file(&group, &log.pack("app"))]);
    group.done(&["pack", "apply", &file(&group, &other.pack("other")), "--agents", "agent2.test"]);
    let mut gateway = Between::new(&mut group);
    group.agent(0).start();
    gateway.meet();

    // Its own is taken, that of another, who has one pack more, is not.
    let another = gateway.of("agent2.test");
    let ask = gateway.open();
    let own = gateway.asked(ask);
    let packs = |sent: &Configuration| {
        let text = String::from_utf8(sent.document.to_vec()).unwrap();
        ["app", "other"].map(|name| text.contains(&format!("/{name}.log")))
    };
    assert_eq!([packs(&own), packs(&another)], [[true, false], [true; 2]]);
    gateway.refused(group.agent(0), "another's", 40082, &another);
    let duty = group.key("srv1.test", "duty");
    // What the server never signs: of everything that says whose it is, one thing is another's.
    let document = String::from_utf8(another.document.to_vec()).unwrap();
    let (agent, identity) = ("agent1.test".to_owned(), issue(&own).identity);
    let mixed = with(&another, document, &duty, Context::Config, &Issue { agent, identity, ..issue(&another) });
    gateway.refused(group.agent(0), "another's document", 40082, &mixed);
    let document = String::from_utf8(own.document.to_vec()).unwrap();
    let named = Issue { agent: "agent2.test".into(), ..issue(&own) };
    let named = with(&own, document, &duty, Context::Config, &named);
    gateway.refused(group.agent(0), "its own, signed for another", 40082, &named);
    // What the server signed for a host of this name that had another identity key.
    let former = Issue { identity: issue(&another).identity, ..issue(&own) };
    let document = String::from_utf8(own.document.to_vec()).unwrap();
    let former = with(&own, document, &duty, Context::Config, &former);
    gateway.refused(group.agent(0), "that of the name's former bearer", 40082, &former);
    let mark = group.agent(0).mark();
    gateway.down(Kind::Configuration, encode(&own));
    active(group.agent(0), mark);

    // Nor from its own folder.
    drop(gateway);
    group.agent(0).stop();
    group.gateway(0).start();
    group.agent(1).start();
    active(group.agent(1), 0);
    group.agent(1).stop();
    let files = [kept(group.agent(0)), kept(group.agent(1))];
    lay(group.agent(0), &files[1]);
    group.gateway(0).stop();
    group.agent(0).start();
    assert!(group.agent(0).wait_event(40083).text.contains("agent2.test"));
    assert!(group.agent(0).events().iter().all(|event| event.number != 1210));
    group.agent(0).stop();
    lay(group.agent(0), &files[0]);
    group.agent(0).start();
    group.agent(0).wait_event(1210);
}

#[test]
fn what_was_kept_and_cannot_be_used_is_said_and_asked_for_again() {
    let mut group = Group::builder().gateways(0).agents(0).direct(1).lay();
    let (app, own) = (Log::create(group.folder(), "app"), Log::create(group.folder(), "own"));
    group.server().start();
    group.agent(0).start();
    group.agent(0).wait_event(40006);
    active(group.agent(0), 0);
    let mark = group.agent(0).mark();
    group.done(&["pack", "apply", &file(&group, &app.pack("app"))]);
    active(group.agent(0), mark);
    let agent = group.agent(0);
    let (config, before) = (agent.config(), kept(agent));
    app.say("app 1");
    group.wait_texts_mixed("agent1.test", &["app 1"]);

    // Somebody names a pack of the same name in the host's own file: that one runs, and nothing else.
    let path = group.write_pack("app", &own.pack("app")).display().to_string();
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("packs = []", &format!("packs = [{path:?}]"))).unwrap();
    let agent = group.agent(0);
    agent.restart();
    let event = agent.wait_event(40107);
    assert!(event.severity == "critical" && event.text.contains("a pack app too"), "{event:?}");
    agent.wait_event(21023);
    app.say("app 2");
    own.say("own 1");
    group.wait_texts_mixed("agent1.test", &["app 1", "own 1"]);
    // What the server sends for an answer is the same, and no news; the next one is looked at.
    let mark = group.agent(0).mark();
    group.done(&["pack", "apply", &file(&group, &own.pack("more"))]);
    group.agent(0).wait_event_since(mark, 40084);
    let events = group.agent(0).events();
    let count = |number: u32| events.iter().filter(|event| event.number == number).count();
    assert_eq!([40107, 40084, 1210, 21025, 21026].map(count), [1, 1, 0, 0, 0]);
    assert!(kept(group.agent(0)) == before);
    group.done(&["pack", "remove", "more"]);

    // The control: without it, what was kept runs again, and goes on where it was.
    group.agent(0).stop();
    std::fs::write(&config, good).unwrap();
    group.agent(0).start();
    group.agent(0).wait_event(1210);
    group.wait_texts_mixed("agent1.test", &["app 1", "app 2", "own 1"]);
    assert!(group.agent(0).events().iter().all(|event| event.number != 40107));
}

#[test]
fn a_configuration_of_many_megabytes_passes_two_gateways() {
    let mut group = Group::builder().gateways(2).chained().agents(2).lay();
    let log = Log::create(group.folder(), "app");
    group.server().start();
    // Quotes, ends of lines and more are not what they are in XML.
    let filler = format!("# {}<&>\"'\r\n", "x".repeat(95)).repeat(9_500);
    for number in 0..14 {
        group.done(&["pack", "apply", &file(&group, &format!("[pack]\nname = \"large-{number}\"\n{filler}"))]);
    }
    let refused = group.wardline(&["pack", "apply", &file(&group, &format!("[pack]\nname = \"too-much\"\n{filler}"))]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    group.gateway(0).start();
    group.gateway(1).start();
    for agent in 0..2 {
        group.agent(agent).start();
        active(group.agent(agent), 0);
    }
    // Who does not read for a moment is told all the same.
    let marks = [0, 1].map(|agent| group.agent(agent).mark());
    group.agent(1).signal(Signal::SIGSTOP);
    group.done(&["pack", "apply", &file(&group, &log.pack("app"))]);
    active(group.agent(0), marks[0]);
    group.agent(1).signal(Signal::SIGCONT);
    active(group.agent(1), marks[1]);
    log.say("one");
    for agent in ["agent1.test", "agent2.test"] {
        group.wait_texts_mixed(agent, &["one"]);
    }
    for agent in 0..2 {
        let length = std::fs::metadata(group.agent(agent).state().join(KEPT[0])).unwrap().len();
        assert!(length > 15_000_000, "{length}");
        let gone = group.agent(agent).events().iter().any(|event| event.number == 20070);
        assert!(!gone, "nobody was disconnected for it");
    }
    group.agent(0).restart();
    group.agent(0).wait_event(1210);
    group.agent(0).wait_event(21026);
}
