//! What Kerberos itself would let pass, and no listener here does: weak keys, tokens for another channel, messages twice or
//! in the clear, principals that are nobody here. Beside each stands a good one that passes.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wardline_connector::handshake::PEER_TIMEOUT;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Listener, Peer, Speech};
use wardline_harness::initiator::{Binding, GOOD, Initiator, Wrapped, binding, record};
use wardline_harness::keyed::{self, principal};
use wardline_harness::realm::{AES, Old, RC4, Realm};
use wardline_harness::{Daemon, Log, Scratch, program, wait};
use wardline_proto::frame::Message;
use wardline_proto::message::RouteOpen;
use wardline_proto::{ALPN_CERTIFICATE, ALPN_KERBEROS, Kind};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until a program has said this event behind a mark, with this word.
#[track_caller]
fn said(daemon: &Daemon, mark: usize, number: u32, word: &str) -> String {
    wait::until(&format!("event {number} of {} with {word:?}", daemon.name()), LIMIT, || {
        let mut events = daemon.events_since(mark).into_iter().filter(|event| event.number == number);
        events.find(|event| event.text.contains(word)).map(|event| event.text)
    })
}

/// A gateway with a keytab, and an agent that has one and does not run.
struct Site {
    realm: Realm,
    group: Group,
    address: SocketAddr,
}

impl Site {
    fn new(realm: Realm) -> Self {
        let mut group = Group::builder().lay();
        keyed::lay(&mut group, &realm, "kerberos", "kerberos", (1, 1));
        group.server().start();
        group.gateway(0).start();
        let address = hostile::listen(group.gateway(0));
        Self { realm, group, address }
    }

    /// A client with the agent's keytab, for the gateway.
    fn initiator(&mut self) -> Initiator {
        let service = principal("gw1.test", &self.realm);
        Initiator::new(&self.realm.config(), &keyed::keytab(self.group.agent(0)), &service)
    }

    /// A connection on which only Kerberos is missing.
    fn peer(&self) -> Peer {
        Peer::dial(self.address, None, &Speech::alpn(&[ALPN_KERBEROS])).expect("TLS asks nobody who he is")
    }

    /// A session as a good agent has it, first messages and all.
    #[track_caller]
    fn good(&mut self) -> Wrapped {
        let by = self.initiator();
        let mut wrapped = Wrapped::dial(self.address, by).expect("a good token is taken");
        let names = ["agent1.test", "gw1.test"].map(|host| principal(host, &self.realm));
        let bound = wrapped.bound("agent agent1.test", &names[0], &names[1]);
        wrapped.say(Message::own(Kind::Bound, bound));
        assert_eq!(wrapped.hear_bound().expect("the gateway's first message").sender, "gateway gw1.test");
        wrapped
    }

    /// Says a token that is not taken: what the gateway says of it.
    #[track_caller]
    fn refused(&mut self, mut peer: Peer, token: &[u8], word: &str) -> String {
        let mark = self.group.gateway(0).mark();
        peer.tell(token);
        assert_eq!(peer.told(), None, "{word}");
        assert_eq!(peer.received(), 0, "{word}");
        said(self.group.gateway(0), mark, 40211, word)
    }
}

#[test]
fn rc4_is_refused() {
    let mut site = Site::new(Realm::weak("WEAK.TEST"));
    site.good();
    let gateway = principal("gw1.test", &site.realm);
    let keytab = keyed::keytab(site.group.gateway(0));

    // A session key of RC4, for a ticket of AES.
    site.realm.session_keys(&gateway, &[RC4]);
    let (mut by, peer) = (site.initiator(), site.peer());
    let token = by.begin(GOOD, Binding::To(&binding(&peer)), "krb5").expect("the KDC gives it");
    site.refused(peer, &token, "the authenticator is of arcfour-hmac; only AES is taken");

    // The service's own key is of RC4: its ticket, too.
    site.realm.session_keys(&gateway, AES);
    site.realm.rotate_to(&gateway, &[RC4], Old::Gone);
    site.realm.keytab(&keytab, &[&gateway]);
    let (mut by, peer) = (site.initiator(), site.peer());
    let token = by.begin(GOOD, Binding::To(&binding(&peer)), "krb5").expect("the KDC gives it");
    site.refused(peer, &token, "the ticket is of arcfour-hmac");

    // A real agent does not even show such a ticket.
    site.group.agent(0).start();
    said(site.group.agent(0), 0, 20057, "the ticket is of arcfour-hmac");

    // The control: with AES keys again it comes by itself.
    site.realm.rotate_to(&gateway, AES, Old::Gone);
    site.realm.keytab(&keytab, &[&gateway]);
    site.group.agent(0).wait_event(40005);
}

#[test]
fn a_client_without_channel_binding_is_refused() {
    let mut site = Site::new(Realm::start("NORTH.TEST"));
    site.good();
    let mut by = site.initiator();
    let mut begin = |site: &Site, flags: u32, bound: Option<&[u8]>, mechanism: &str| {
        let peer = site.peer();
        let good = binding(&peer);
        let binding = bound.map_or(Binding::None, |bytes| Binding::To(if bytes.is_empty() { &good } else { bytes }));
        let token = by.begin(flags, binding, mechanism).expect("a ticket");
        (peer, token)
    };
    let (peer, token) = begin(&site, GOOD, None, "krb5");
    site.refused(peer, &token, "no channel binding");
    let (peer, token) = begin(&site, GOOD, Some(b"tls-exporter:another session's thirty-two bytes."), "krb5");
    site.refused(peer, &token, "somebody may be between");

    // What else a client may leave out, or ask for.
    for (left_out, word) in [(0x2, "mutual authentication"), (0x4, "replay detection"), (0x8, "sequence detection")] {
        let (peer, token) = begin(&site, GOOD & !left_out, Some(&[]), "krb5");
        site.refused(peer, &token, word);
    }
    let (peer, token) = begin(&site, GOOD, Some(&[]), "spnego");
    site.refused(peer, &token, "none of Kerberos v5");

    // Tokens that are cut, changed or none.
    let (peer, token) = begin(&site, GOOD, Some(&[]), "krb5");
    site.refused(peer, &token[..token.len() - 1], "none of Kerberos v5");
    for at in [0, token.len() / 3, token.len() - 2] {
        let (peer, mut token) = begin(&site, GOOD, Some(&[]), "krb5");
        token[at] ^= 1;
        site.refused(peer, &token, "");
    }
    let peer = site.peer();
    site.refused(peer, b"", "none of Kerberos v5");
    let (mark, mut peer) = (site.group.gateway(0).mark(), site.peer());
    let _ = peer.write(&[0xff; 4]);
    peer.wait_gone();
    said(site.group.gateway(0), mark, 20002, "a token that is too long");

    // None of it has harmed anybody.
    site.good();
}

#[test]
fn a_replayed_ticket_or_token_is_refused() {
    let mut site = Site::new(Realm::start("NORTH.TEST"));
    // A token that was taken, and comes again on another connection.
    let mut by = site.initiator();
    let mut first = site.peer();
    let token = by.begin(GOOD, Binding::To(&binding(&first)), "krb5").expect("a ticket");
    first.tell(&token);
    assert!(first.told().is_some(), "the control: the first time it is good");
    let again = site.peer();
    site.refused(again, &token, "it was there before");
    // One that was not taken yet is as little good on another connection than its own.
    let first = site.peer();
    let token = by.begin(GOOD, Binding::To(&binding(&first)), "krb5").expect("a ticket");
    let again = site.peer();
    site.refused(again, &token, "somebody may be between");

    let alive = || Wrapped::frames(Message { kind: Kind::Alive, route: 0, body: Bytes::new() });
    // The control: message after message, each the next one.
    let mut wrapped = site.good();
    for _ in 0..3 {
        let token = wrapped.by.wrap(true, &alive());
        wrapped.peer.write(&record(&token)).expect("it listens");
    }
    let heartbeat = wrapped.by.wrap(true, &Wrapped::frames(Message { kind: Kind::Way, route: 0, body: Bytes::new() }));
    let mark = site.group.gateway(0).mark();
    wrapped.peer.write(&record(&heartbeat)).expect("it listens");
    // All of it was read: what an agent may not send was refused as that.
    said(site.group.gateway(0), mark, 40002, "which may not send it");

    let broken = |what: &str, site: &mut Site, hurt: &dyn Fn(&mut Wrapped) -> Vec<u8>| {
        let mut wrapped = site.good();
        let mark = site.group.gateway(0).mark();
        let (bytes, began) = (hurt(&mut wrapped), Instant::now());
        wrapped.peer.write(&bytes).expect("it listens");
        wrapped.peer.wait_gone();
        // And not because it fell silent.
        assert!(began.elapsed() < PEER_TIMEOUT / 2, "{what} was taken");
        // It may have come together with the first message.
        let text = wait::until(&format!("{what} is refused"), LIMIT, || {
            let events = site.group.gateway(0).events_since(mark);
            events.into_iter().find(|event| [40002, 20002].contains(&event.number)).map(|event| event.text)
        });
        assert!(!text.contains("may not send"), "{what}: {text}");
    };
    broken("twice", &mut site, &|wrapped| {
        let token = record(&wrapped.by.wrap(true, &alive()));
        [token.clone(), token].concat()
    });
    broken("in another order", &mut site, &|wrapped| {
        let tokens = [(); 2].map(|()| record(&wrapped.by.wrap(true, &alive())));
        [tokens[1].clone(), tokens[0].clone()].concat()
    });
    broken("one is missing", &mut site, &|wrapped| {
        wrapped.by.wrap(true, &alive());
        record(&wrapped.by.wrap(true, &alive()))
    });
    broken("not encrypted", &mut site, &|wrapped| record(&wrapped.by.wrap(false, &alive())));
    broken("a changed bit", &mut site, &|wrapped| {
        let mut token = wrapped.by.wrap(true, &alive());
        *token.last_mut().unwrap() ^= 1;
        record(&token)
    });
    // As RFC 4121 allows it (section 4.2.5), and the library takes it: numbers that it believes before it has checked them.
    broken("turned", &mut site, &|wrapped| {
        let mut token = wrapped.by.wrap(true, &alive());
        token[7] = 28;
        token[16..].rotate_right(28);
        record(&token)
    });
    broken("cut", &mut site, &|wrapped| {
        let token = wrapped.by.wrap(true, &alive());
        record(&token[..token.len() - 1])
    });
    broken("a frame as it is", &mut site, &|_| record(&alive()));
    broken("nothing", &mut site, &|_| record(b""));
    site.good();
}

#[test]
fn a_relayed_kerberos_token_opens_nothing() {
    let mut site = Site::new(Realm::start("NORTH.TEST"));
    let between = Listener::new();
    let real = site.address.to_string();
    let address = between.address().to_string();
    let aim = |agent: &Daemon, at: &str| {
        let at = at.to_owned();
        agent.change_membership(move |membership| {
            membership["parents"].as_array_mut().unwrap()[0].as_table_mut().unwrap()["address"] = at.into();
        });
    };
    aim(site.group.agent(0), &address);
    site.group.agent(0).start();
    // Somebody between, who speaks to each end as the other does, and passes the agent's token on.
    let mut below = between.accept_kerberos().expect("the agent takes it for a listener");
    let token = below.told().expect("the agent's token");
    let above = site.peer();
    site.refused(above, &token, "somebody may be between");
    // He has nothing to answer; and the agent says nothing more.
    let before = below.received();
    below.tell(&[0x60, 0x03, 1, 2, 3]);
    below.wait_gone();
    assert_eq!(below.received(), before);
    said(site.group.agent(0), 0, 20057, "gw1.test");

    // The control: without him it comes.
    site.group.agent(0).stop();
    aim(site.group.agent(0), &real);
    site.group.agent(0).start();
    site.group.agent(0).wait_event(40005);
}

#[test]
fn a_ticket_speaks_only_for_the_host_that_it_names() {
    let mut site = Site::new(Realm::start("NORTH.TEST"));
    site.group.agent(0).start();
    site.group.agent(0).wait_event(40005);
    let names = |from: &str, site: &Site| [from.to_owned(), principal("gw1.test", &site.realm)];
    let folder = site.group.folder().to_owned();
    let come = |site: &mut Site, from: &str, own: &str| {
        let keytab = folder.join(format!("{}.keytab", from.replace(['/', '$'], "-")));
        let known = format!("{from}@{}", site.realm.name());
        if !keytab.exists() {
            site.realm.principal(&known);
            site.realm.keytab(&keytab, &[&known]);
        }
        let names = names(&known, site);
        let mark = site.group.gateway(0).mark();
        let above = site.group.server().mark();
        let by = Initiator::new(&site.realm.config(), &keytab, &names[1]);
        let wrapped = Wrapped::dial(site.address, by).map(|mut wrapped| {
            let bound = wrapped.bound(own, &names[0], &names[1]);
            wrapped.say(Message::own(Kind::Bound, bound));
            wrapped
        });
        (wrapped, mark, above)
    };
    // Another host's name.
    let (wrapped, mark, _) = come(&mut site, "host/web9.test", "agent agent1.test");
    said(site.group.gateway(0), mark, 40211, "calls itself agent1.test");
    wrapped.expect("a good token is taken").peer.wait_gone();
    // A service of the same host, and the same in capitals.
    for other in ["HTTP/agent1.test", "host/AGENT1.test", "agent1.test"] {
        let (wrapped, mark, _) = come(&mut site, other, "agent agent1.test");
        said(site.group.gateway(0), mark, 40211, "is no principal of a host");
        assert!(wrapped.is_none(), "it is not even answered");
    }
    // Nobody of the group.
    let (wrapped, _, above) = come(&mut site, "host/web9.test", "agent web9.test");
    said(site.group.server(), above, 20000, "web9.test");
    wrapped.expect("a good token is taken").peer.wait_gone();
    // An account is whoever the trust log says: this one is nobody. It takes nobody's place.
    let mark = site.group.agent(0).mark();
    let (wrapped, _, above) = come(&mut site, "EVIL$", "agent agent1.test");
    said(site.group.server(), above, 20000, "which is not the Kerberos principal");
    wrapped.expect("a good token is taken").peer.wait_gone();
    assert_eq!(site.group.agent(0).moved(mark), None);
    assert_eq!(site.group.json(&["agent", "list"])[0]["session"]["via"], "gw1.test");
}

/// A group in the north, and its agent in the south, whose principals the north's KDC gives tickets to.
fn across() -> (Realm, Realm, Group, Log, String) {
    let (mut north, mut south) = (Realm::start("NORTH.TEST"), Realm::start("SOUTH.TEST"));
    north.trusts(&mut south);
    let (mut group, log) = Group::builder().lay_with_log();
    keyed::lay(&mut group, &north, "kerberos", "kerberos", (0, 1));
    let agent = principal("agent1.test", &south);
    keyed::key(group.agent(0), &south);
    keyed::reach(group.agent(0), "kerberos");
    group.agent(0).change_membership(|membership| {
        let parent = membership["parents"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        parent.insert("realm".into(), "NORTH.TEST".into());
    });
    group.server().start();
    group.done(&["agent", "principal", "agent1.test", &agent]);
    (north, south, group, log, agent)
}

#[test]
fn a_principal_of_an_unlisted_realm_is_refused() {
    let (north, _south, mut group, _log, agent) = across();
    group.gateway(0).start();
    group.agent(0).start();
    let refused = said(group.gateway(0), 0, 40211, "its realm is not listed");
    assert!(refused.contains(&agent), "{refused}");
    assert!(group.gateway(0).events().iter().all(|event| event.number != 40040), "nobody was let in");
    // The control: once it is listed, the same ticket is taken.
    keyed::configure(group.gateway(0), &north, &["SOUTH.TEST"]);
    group.gateway(0).restart();
    group.agent(0).wait_event(40005);
}

#[test]
fn two_realms_trust_each_other() {
    let (north, _south, mut group, log, agent) = across();
    keyed::configure(group.gateway(0), &north, &["SOUTH.TEST"]);
    log.say("from the south");
    group.gateway(0).start();
    group.agent(0).start();
    group.wait_texts(&["from the south"]);
    let hops = group.hops(2);
    let hop = hops.iter().find(|hop| hop["from"] == "agent1.test").unwrap();
    for end in hop["ends"].as_array().unwrap() {
        assert_eq!(end["kerberos"]["initiator"], agent);
        assert_eq!(end["kerberos"]["acceptor"], "host/gw1.test@NORTH.TEST");
    }
}

#[test]
fn the_kerberos_hop_shows_nothing_on_the_wire() {
    use wardline_harness::tap::Way;
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = Group::builder().tapped().lay_with_log();
    keyed::lay(&mut group, &realm, "kerberos", "kerberos", (1, 1));
    // They have joined by other sessions.
    let before = ["agent1.test", "gw1.test"].map(|child| group.tap(child).count(Way::Up));
    group.start();
    let secret = "the-line-that-nobody-on-the-wire-may-read";
    log.say(secret);
    group.wait_texts(&[secret]);
    let search = wardline_harness::Search::of("the line", secret.as_bytes());
    for (child, before) in ["agent1.test", "gw1.test"].into_iter().zip(before) {
        let recorded = group.tap(child).recorded(Way::Up).split_off(before);
        // A handshake record with a ClientHello, and in it the one name that is offered.
        assert_eq!(recorded[0], 22);
        let has = |name: &[u8]| recorded.windows(name.len()).any(|window| window == name);
        assert!(has(ALPN_KERBEROS) && !has(ALPN_CERTIFICATE));
        search.tap(child, group.tap(child)).finds_nothing();
        // The control: a copy that somebody planted behind it is found.
        let mut report = search.tap(child, group.tap(child));
        search.bytes("planted", &[&recorded[..], secret.as_bytes()].concat(), &mut report);
        report.finds_it();
    }
}

#[test]
fn the_face_on_the_kerberos_library_makes_no_mistake_with_memory() {
    let (realm, scratch) = (Realm::start("NORTH.TEST"), Scratch::new());
    let names = ["agent1.test", "gw1.test"].map(|name| principal(name, &realm));
    let keytab = scratch.path().join("keytab");
    realm.principals(&[&names[0], &names[1]]);
    realm.keytab(&keytab, &[&names[0], &names[1]]);
    let log = scratch.path().join("valgrind");
    let run = |watched: bool| {
        let program = program::find("exercise");
        let mut command = Command::new(if watched { Path::new("/usr/bin/valgrind") } else { &program });
        if watched {
            command.args(["--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite", "--error-exitcode=99"]);
            command.arg(format!("--log-file={}", log.display())).arg(&program);
        }
        command.arg(realm.config()).arg(&keytab).args(&names).arg(scratch.path().join("replays"));
        let output = command.env_clear().output().expect("it can be run");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let found = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(output.status.success() && said.contains("done"), "{:?}: {said}\n{found}", output.status);
    };
    run(false);
    run(true);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "nothing was found");
}

#[test]
fn an_account_that_calls_itself_a_gateway_carries_nobody() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = Group::builder().gateways(2).chained().lay_with_log();
    keyed::lay(&mut group, &realm, "kerberos", "kerberos", (1, 2));
    group.start();
    log.say("before");
    group.wait_texts(&["before"]);
    let (evil, keytab) = (format!("EVIL$@{}", realm.name()), group.folder().join("evil.keytab"));
    realm.principal(&evil);
    realm.keytab(&keytab, &[&evil]);
    let (address, gateway) = (hostile::listen(group.gateway(0)), principal("gw1.test", &realm));
    let come = |twice: bool| {
        let mut wrapped = Wrapped::dial(address, Initiator::new(&realm.config(), &keytab, &gateway)).expect("a ticket");
        let mut bound = wrapped.bound("gateway gw2.test", &evil, &gateway);
        if twice {
            bound.offered = [bound.offered.clone(), bound.offered].concat();
            bound.enabled.clone_from(&bound.offered);
        }
        wrapped.say(Message::own(Kind::Bound, bound));
        wrapped
    };
    // What is offered twice is no negotiation.
    let mark = group.gateway(0).mark();
    come(true).peer.wait_gone();
    said(group.gateway(0), mark, 20002, "");
    // As the gateway behind this one: it is let in, and speaks for nobody.
    let (agent, server) = (group.agent(0).mark(), group.server().mark());
    let mut wrapped = come(false);
    wrapped.hear_bound().expect("the gateway's first message");
    let open = RouteOpen { agent: "agent1.test".into(), proof: principal("agent1.test", &realm), ..Default::default() };
    wrapped.say(Message::own(Kind::RouteOpen, open).on(1));
    said(group.server(), server, 20000, "gw2.test is on its way");
    // Nor does it have its parent's own session answer for it: by that one's name, or by more than fits above.
    let (mark, server) = (group.gateway(0).mark(), group.server().mark());
    let way = |via: &str, proof: String| {
        let (via, proofs) = (vec![via.to_owned()], vec![proof.clone()]);
        RouteOpen { agent: "agent1.test".into(), via, proof, proofs }
    };
    for (route, open) in [(2, way("gw1.test", "x".into())), (3, way("gw9.test", "x".repeat(2025)))] {
        wrapped.say(Message::own(Kind::RouteOpen, open).on(route));
        wrapped.wait_for(Kind::Refusal, route);
    }
    let events = [group.gateway(0).events_since(mark), group.server().events_since(server)].concat();
    assert!(events.is_empty(), "neither of them has heard of it: {events:?}");
    // The real one goes on, and is shown as it is.
    log.say("meanwhile");
    group.wait_texts(&["before", "meanwhile"]);
    assert_eq!(group.agent(0).moved(agent), None);
    let hops = group.hops(3);
    let hop = hops.iter().find(|hop| hop["from"] == "gw2.test").unwrap();
    assert_eq!(hop["ends"][0]["kerberos"]["initiator"], principal("gw2.test", &realm));

    // When its own principal is taken away, it carries nobody either, until it has one again.
    let server = group.server().mark();
    group.done(&["gateway", "principal", "gw2.test", "none"]);
    said(group.server(), server, 20000, "gw2.test");
    log.say("after");
    let mark = group.server().mark();
    said(group.server(), mark, 20000, "gw2.test is on its way");
    assert_eq!(group.all_texts(), ["before", "meanwhile"]);
    group.done(&["gateway", "principal", "gw2.test", &principal("gw2.test", &realm)]);
    group.wait_texts(&["before", "meanwhile", "after"]);
}
