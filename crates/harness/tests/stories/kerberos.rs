//! Hosts that have a keytab: which mechanism is taken, what is found of it in the topology, and how it lives: keytabs that
//! are rotated, tickets that end, a KDC that is away.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use wardline_harness::estate::{Estate, hash};
use wardline_harness::group::Group;
use wardline_harness::keyed::{self, principal};
use wardline_harness::pki::Fault;
use wardline_harness::realm::{Old, Realm};
use wardline_harness::{Daemon, Log, hostile, wait};
use wardline_proto::{ALPN_CERTIFICATE, ALPN_KERBEROS, Role};
use wardline_secrets::signature::random;

use crate::federation::reports_to;
use crate::relaying_server::bad;

const LIMIT: Duration = Duration::from_secs(40);

/// Both ends of a hop, as `wardline topology` shows them.
fn ends(group: &Group, count: usize, from: &str) -> Vec<Value> {
    let hops = group.hops(count);
    let hop = hops.iter().find(|hop| hop["from"] == from).unwrap_or_else(|| panic!("no hop of {from}: {hops:?}"));
    hop["ends"].as_array().expect("a list").clone()
}

/// By what a hop goes.
fn mechanism(group: &Group, count: usize, from: &str) -> String {
    ends(group, count, from)[0]["mechanism"].as_str().expect("a name").to_owned()
}

/// Waits until a program has said this event behind a mark, with this word.
#[track_caller]
fn said(daemon: &Daemon, mark: usize, number: u32, word: &str) {
    wait::until(&format!("event {number} of {} with {word:?}", daemon.name()), LIMIT, || {
        let mut events = daemon.events_since(mark).into_iter().filter(|event| event.number == number);
        events.find(|event| event.text.contains(word)).map(drop)
    });
}

/// How often a program has said an event.
fn count(daemon: &Daemon, mark: usize, number: u32) -> usize {
    daemon.events_since(mark).iter().filter(|event| event.number == number).count()
}

/// Takes a program's channel certificate away: it has none any more.
fn without_certificate(daemon: &Daemon) {
    for file in ["channel.pem", "channel.key"] {
        std::fs::remove_file(daemon.state().join(file)).expect("it has one");
    }
}

/// Every member has a certificate and a keytab; agents and gateways reach their parents so.
fn lay(realm: &Realm, agents: &str, gateways: &str) -> (Group, Log) {
    let (mut group, log) = Group::builder().lay_with_log();
    keyed::lay(&mut group, realm, agents, gateways, (1, 1));
    (group, log)
}

/// Reaches its parents so from now on.
fn again(daemon: &mut Daemon, mechanism: &str) -> usize {
    daemon.stop();
    keyed::reach(daemon, mechanism);
    let mark = daemon.mark();
    daemon.start();
    mark
}

#[test]
fn kerberos_on_both_hops_carries_an_alert_and_says_what_it_is_made_of() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "kerberos", "kerberos");
    group.start();
    log.go_on(2);
    group.wait_texts(&log.lines());
    for (from, to) in [("agent1.test", "gw1.test"), ("gw1.test", "srv1.test")] {
        for end in ends(&group, 2, from) {
            assert_eq!(end["mechanism"], "wardline-krb5/1");
            assert_eq!(end["kerberos"]["binding"], "tls-exporter");
            assert_eq!(end["exchange"], "X25519MLKEM768");
            assert_eq!(end["kerberos"]["initiator"], principal(from, &realm));
            assert_eq!(end["kerberos"]["acceptor"], principal(to, &realm));
            assert_eq!(end["kerberos"]["kvno"], 1);
            for kind in ["ticket", "authenticator", "session"] {
                assert_eq!(end["kerberos"][kind], "aes256-cts-hmac-sha384-192", "{kind}");
            }
        }
    }
}

#[test]
fn certificates_win_when_both_ends_have_them() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, _log) = lay(&realm, "either", "either");
    group.start();
    group.agent(0).wait_event(40005);
    for from in ["agent1.test", "gw1.test"] {
        assert_eq!(mechanism(&group, 2, from), "wardline-cert/1");
        // That something else is allowed there is listed.
        let offered = serde_json::json!(["wardline-cert/1", "wardline-krb5/1"]);
        assert!(ends(&group, 2, from).iter().all(|end| end["offered"] == offered));
    }
    let shown = group.done(&["topology"]);
    assert_eq!(shown.lines().filter(|line| line.contains(" either ")).count(), 4, "{shown}");
    // The control: what they have besides is good for a session, too.
    again(group.agent(0), "kerberos");
    group.agent(0).wait_event(40005);
    wait::until("the hop by Kerberos", LIMIT, || {
        (mechanism(&group, 2, "agent1.test") == "wardline-krb5/1").then_some(())
    });
    // Unless its listener takes none.
    group.gateway(0).stop();
    keyed::say(group.gateway(0), "accept", false);
    let mark = group.agent(0).mark();
    group.gateway(0).start();
    said(group.gateway(0), 0, 20002, "it offers wardline-krb5/1; wanted is wardline-cert/1");
    assert_eq!(count(group.agent(0), mark, 40004), 0);
    again(group.agent(0), "either");
    group.agent(0).wait_event(40005);
    assert_eq!(mechanism(&group, 2, "agent1.test"), "wardline-cert/1");
}

#[test]
fn kerberos_is_used_when_one_end_has_no_certificate() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "either", "either");
    // The agent has none: its hop goes by Kerberos, the gateway's own by certificate.
    without_certificate(group.agent(0));
    group.start();
    log.go_on(1);
    group.wait_texts(&log.lines());
    assert_eq!(mechanism(&group, 2, "agent1.test"), "wardline-krb5/1");
    assert_eq!(mechanism(&group, 2, "gw1.test"), "wardline-cert/1");
}

/// Somebody on the wire, who changes or drops what a connection begins with; and what he has seen of that.
struct Between {
    address: SocketAddr,
    hellos: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Between {
    fn new(target: SocketAddr, pass: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&hellos);
        // It ends with the test's process.
        thread::spawn(move || {
            for mut below in listener.incoming().flatten() {
                let mut head = [0; 5];
                if below.read_exact(&mut head).is_err() {
                    continue;
                }
                let mut record = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
                if below.read_exact(&mut record).is_err() {
                    continue;
                }
                seen.lock().unwrap().push(record.clone());
                let Some(changed) = pass(&record) else { continue };
                let Ok(mut above) = TcpStream::connect(target) else { continue };
                let _ = above.write_all(&[&head[..], &changed].concat());
                let ends = [(below.try_clone(), above.try_clone()), (Ok(above), Ok(below))];
                for (from, to) in ends {
                    let (Ok(mut from), Ok(mut to)) = (from, to) else { continue };
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        Self { address, hellos }
    }

    /// How many connections began a session, not a join or a renewal; each offered certificates before Kerberos.
    fn sessions(&self) -> usize {
        let at = |hello: &[u8], name: &[u8]| hello.windows(name.len()).position(|window| window == name);
        let hellos = self.hellos.lock().unwrap();
        let sessions = hellos.iter().filter(|hello| at(hello, b"wardline-join/1").is_none());
        sessions.filter(|hello| at(hello, ALPN_CERTIFICATE).unwrap() < at(hello, ALPN_KERBEROS).unwrap()).count()
    }
}

fn aim(daemon: &Daemon, address: SocketAddr) {
    daemon.change_membership(|membership| {
        let parent = membership["parents"].as_array_mut().unwrap()[0].as_table_mut().unwrap();
        parent.insert("address".into(), address.to_string().into());
    });
}

#[test]
fn blocking_certificates_on_the_wire_buys_no_weaker_channel() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "either", "either");
    let gateway = hostile::listen(group.gateway(0));
    // He drops whatever offers certificates; or he takes that offer out of it.
    let drops = Between::new(gateway, |_| None);
    let strips = Between::new(gateway, |hello| {
        let at = hello.windows(ALPN_CERTIFICATE.len()).position(|window| window == ALPN_CERTIFICATE);
        let mut hello = hello.to_vec();
        if let Some(at) = at {
            hello[at + 9] ^= 1;
        }
        Some(hello)
    });
    group.server().start();
    group.gateway(0).start();
    group.gateway(0).wait_event(40004);
    for between in [&drops, &strips] {
        aim(group.agent(0), between.address);
        let mark = group.gateway(0).mark();
        group.agent(0).start();
        wait::until("several tries", LIMIT, || (between.sessions() >= 4).then_some(()));
        group.agent(0).stop();
        let seen = between.hellos.lock().unwrap().len();
        assert_eq!(seen, between.sessions(), "each offered both");
        assert_eq!(count(group.gateway(0), mark, 40040), 0, "nobody came");
        assert_eq!(count(group.agent(0), 0, 40004), 0);
    }
    // Without him it is certificates.
    aim(group.agent(0), gateway);
    log.go_on(1);
    group.agent(0).start();
    group.wait_texts(&log.lines());
    assert_eq!(mechanism(&group, 2, "agent1.test"), "wardline-cert/1");

    // They have used certificates: when the gateway has none any more, the agent does not take Kerberos for that.
    group.gateway(0).stop();
    without_certificate(group.gateway(0));
    let mark = group.agent(0).mark();
    group.gateway(0).start();
    said(group.gateway(0), 0, 20002, "it offers wardline-cert/1; wanted is wardline-krb5/1");
    wait::until("several tries", LIMIT, || (count(group.agent(0), mark, 20071) >= 3).then_some(()));
    assert_eq!(count(group.agent(0), mark, 40004), 0);
    // Until an operator says otherwise.
    let mark = again(group.agent(0), "kerberos");
    said(group.agent(0), mark, 40004, "wardline-krb5/1");
    let mark = again(group.agent(0), "either");
    said(group.agent(0), mark, 40004, "wardline-krb5/1");
}

#[test]
fn an_expired_certificate_is_no_reason_for_kerberos() {
    let realm = Realm::start("NORTH.TEST");
    let mut group = Group::builder().agents(2).gateways(2).lay();
    keyed::lay(&mut group, &realm, "either", "kerberos", (2, 2));
    let first = group.gateway(0).parent();
    reports_to(group.agent(1), &[&first]);
    let expired = group.authority().faulty(Fault::Expired, "gw1.test", Role::Gateway);
    let good = group.credential("gw1.test");
    // The gateway's has ended, and there is no server to renew it.
    expired.write(group.gateway(0).state(), "channel");
    group.gateway(0).start();
    group.gateway(0).wait_event(20051);
    group.agent(0).start();
    wait::until("several tries", LIMIT, || (count(group.agent(0), 0, 20071) >= 3).then_some(()));
    said(group.gateway(0), 0, 20002, "channel certificate is not valid now");
    assert_eq!(count(group.agent(0), 0, 40004), 0);
    group.agent(0).stop();
    group.gateway(0).stop();

    // The agent's has ended: it does not even dial.
    good.write(group.gateway(0).state(), "channel");
    let expired = group.authority().faulty(Fault::Expired, "agent1.test", Role::Agent);
    expired.write(group.agent(0).state(), "channel");
    let (mark, gateway) = (group.agent(0).mark(), group.gateway(0).mark());
    group.gateway(0).start();
    group.agent(0).start();
    said(group.agent(0), mark, 20051, "");
    wait::until("renewal was tried", LIMIT, || (count(group.agent(0), mark, 40051) >= 1).then_some(()));
    // Another, which has none and begins later, comes meanwhile.
    without_certificate(group.agent(1));
    group.agent(1).start();
    said(group.agent(1), 0, 40004, "wardline-krb5/1");
    assert_eq!(count(group.agent(0), mark, 40004), 0);
    said(group.gateway(0), gateway, 40040, "agent2.test");
    assert_eq!(count(group.gateway(0), gateway, 40040), 1, "only that one");

    // Nor for waiting, where its operator wants Kerberos: of another parent.
    group.agent(0).stop();
    let other = hostile::listen(group.gateway(1)).to_string();
    group.agent(0).change_membership(|membership| {
        let parents = membership["parents"].as_array_mut().unwrap();
        let other = [("name", "gw2.test"), ("address", &other), ("mechanism", "kerberos")];
        parents
            .push(other.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect::<toml::Table>().into());
    });
    let mark = group.agent(0).mark();
    group.gateway(1).start();
    group.agent(0).start();
    said(group.agent(0), mark, 40004, "gw2.test");

    // The control: without any it is Kerberos at once.
    group.agent(0).stop();
    without_certificate(group.agent(0));
    let mark = group.agent(0).mark();
    group.agent(0).start();
    said(group.agent(0), mark, 40004, "wardline-krb5/1");
}

#[test]
fn an_agent_without_the_kerberos_library_starts() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "certificate", "certificate");
    let library = |daemon: &Daemon, path: &Path| {
        let text = std::fs::read_to_string(daemon.config()).unwrap();
        let mut file: toml::Table = text.parse().unwrap();
        let mut kerberos = file["kerberos"].as_table().unwrap().clone();
        kerberos.insert("library".into(), path.display().to_string().into());
        file.insert("kerberos".into(), kerberos.into());
        std::fs::write(daemon.config(), file.to_string()).unwrap();
    };
    let folder = group.folder().to_owned();
    library(group.agent(0), Path::new("/nowhere/libgssapi_krb5.so.2"));
    group.start();
    log.go_on(1);
    group.wait_texts(&log.lines());
    assert_eq!(count(group.agent(0), 0, 20057), 0, "nobody asked for it");

    let mark = again(group.agent(0), "kerberos");
    said(group.agent(0), mark, 20057, "there is none at /nowhere/libgssapi_krb5.so.2");
    group.agent(0).stop();
    // One that others can change is not loaded, whatever is in it.
    let found = wardline_gss::default_paths().into_iter().find(|path| path.exists()).expect("the library is here");
    let copy = folder.join("libgssapi_krb5.so.2");
    std::fs::copy(found, &copy).unwrap();
    library(group.agent(0), &copy);
    let mark = group.agent(0).mark();
    group.agent(0).start();
    said(group.agent(0), mark, 20057, "the Kerberos library");
    assert_eq!(count(group.agent(0), mark, 40004), 0);
}

#[test]
fn a_keytab_is_rotated_under_load() {
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "kerberos", "kerberos");
    group.start();
    let (gateway, agent) = ["gw1.test", "agent1.test"].map(|host| principal(host, &realm)).into();
    let kvno = |group: &Group| ends(group, 2, "agent1.test")[0]["kerberos"]["kvno"].as_u64().unwrap();
    let write = |log: &Log| log.go_on(200);
    write(&log);
    group.agent(0).wait_event(40005);
    assert_eq!(kvno(&group), 1);

    // The gateway's key is another; its keytab has both. The session that stands goes on.
    realm.rotate(&gateway, Old::Gone);
    realm.keytab(&keyed::keytab(group.gateway(0)), &[&gateway]);
    write(&log);
    group.wait_texts(&log.lines());
    assert_eq!((kvno(&group), count(group.agent(0), 0, 40004)), (1, 1));
    // A ticket of before is still good; one of now, too.
    group.gateway(0).kill9();
    write(&log);
    group.gateway(0).start();
    wait::until("it comes again", LIMIT, || (count(group.agent(0), 0, 40004) == 2).then_some(()));
    group.agent(0).kill9();
    group.agent(0).start();
    wait::until("a ticket of now", LIMIT, || (kvno(&group) == 2).then_some(()));

    // Another one, of which the keytab knows nothing yet: it is said, and cured by the keytab alone.
    realm.rotate(&gateway, Old::Gone);
    let mark = group.gateway(0).mark();
    group.agent(0).kill9();
    write(&log);
    group.agent(0).start();
    said(group.gateway(0), mark, 40211, "compare its versions with the KDC's");
    realm.keytab(&keyed::keytab(group.gateway(0)), &[&gateway]);
    wait::until("a ticket of now", LIMIT, || (kvno(&group) == 3).then_some(()));

    // Its keytab is written anew, without the old key: who has a ticket for that gets another.
    realm.rotate(&gateway, Old::Gone);
    std::fs::remove_file(keyed::keytab(group.gateway(0))).unwrap();
    realm.keytab(&keyed::keytab(group.gateway(0)), &[&gateway]);
    let mark = group.gateway(0).mark();
    group.gateway(0).kill9();
    write(&log);
    group.gateway(0).start();
    said(group.gateway(0), mark, 40211, "compare its versions with the KDC's");
    wait::until("a ticket of now", LIMIT, || (kvno(&group) == 4).then_some(()));

    // The agent's own.
    realm.rotate(&agent, Old::Gone);
    let mark = group.agent(0).mark();
    group.agent(0).kill9();
    write(&log);
    group.agent(0).start();
    said(group.agent(0), mark, 20057, "write the keytab anew");
    realm.keytab(&keyed::keytab(group.agent(0)), &[&agent]);
    write(&log);
    group.wait_texts(&log.lines());
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}

#[test]
fn the_kdc_is_away_for_a_while() {
    let mut realm = Realm::start("NORTH.TEST");
    realm.configure("kdc_timesync = 0");
    let (mut group, log) = lay(&realm, "kerberos", "kerberos");
    group.start();
    log.go_on(1);
    group.wait_texts(&log.lines());

    // Away: what stands goes on; who has a ticket comes again; who has none waits, and says why.
    realm.stop();
    log.go_on(10);
    group.wait_texts(&log.lines());
    let (keytab, mark) = (keyed::keytab(group.gateway(0)), group.agent(0).mark());
    let gone = keytab.with_extension("gone");
    std::fs::rename(&keytab, &gone).unwrap();
    group.gateway(0).restart();
    wait::until("it is not taken", LIMIT, || (count(group.agent(0), mark, 20071) >= 2).then_some(()));
    std::fs::rename(&gone, &keytab).unwrap();
    said(group.agent(0), mark, 40004, "wardline-krb5/1");
    let mark = group.agent(0).mark();
    group.agent(0).kill9();
    log.go_on(10);
    group.agent(0).start();
    said(group.agent(0), mark, 20057, "the KDC is away");
    assert_eq!(count(group.agent(0), mark, 40004), 0);
    realm.resume();
    group.wait_texts(&log.lines());

    // It hangs: who has a ticket comes again, and others are served meanwhile.
    realm.hang();
    let mark = group.agent(0).mark();
    std::fs::rename(&keytab, &gone).unwrap();
    group.gateway(0).restart();
    wait::until("it is not taken", LIMIT, || (count(group.agent(0), mark, 20071) >= 1).then_some(()));
    std::fs::rename(&gone, &keytab).unwrap();
    // The library waits half a minute for a KDC.
    wait::until("it comes again", LIMIT * 2, || (count(group.agent(0), mark, 40004) == 1).then_some(()));
    let mark = group.agent(0).mark();
    group.agent(0).kill9();
    log.go_on(10);
    group.agent(0).start();
    said(group.agent(0), mark, 20057, "the KDC has not answered yet");
    assert_eq!(group.json(&["topology"])["services"].as_array().unwrap().len(), 3);
    realm.wake();
    group.wait_texts(&log.lines());

    // Its clock, or this host's, is off; the principal is disabled. Each is said, and nothing weaker is tried.
    let agent = principal("agent1.test", &realm);
    for (cure, number, word) in [(false, 20057, "set the clocks"), (true, 20057, "gives this principal no tickets")] {
        if cure {
            realm.disable(&agent)
        } else {
            realm.clock(Some("+600s"))
        }
        let mark = group.agent(0).mark();
        group.agent(0).kill9();
        log.go_on(10);
        group.agent(0).start();
        said(group.agent(0), mark, number, word);
        assert_eq!(count(group.agent(0), mark, 40004), 0);
        if cure {
            realm.enable(&agent)
        } else {
            realm.clock(None)
        }
        group.wait_texts(&log.lines());
    }
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}

#[test]
fn a_session_is_made_anew_before_its_ticket_ends() {
    let mut realm = Realm::start("NORTH.TEST");
    let (mut group, log) = lay(&realm, "kerberos", "kerberos");
    realm.ticket_life(&principal("agent1.test", &realm), Duration::from_secs(12));
    group.start();
    let mut written = 0;
    wait::until("three sessions", LIMIT, || {
        log.go_on(5);
        written += 5;
        (count(group.agent(0), 0, 40004) >= 3).then_some(())
    });
    group.wait_texts(&log.lines());
    let agent = group.agent(0);
    for number in [20057, 20070, 20071, 21016] {
        assert_eq!(count(agent, 0, number), 0, "{number}");
    }
    assert!(!agent.log().contains("ticket has ended"));
    assert!(written > 0);

    // By the ticket that ends nothing is made anew: that there is no other is said in time.
    realm.stop();
    let mark = group.agent(0).mark();
    said(group.agent(0), mark, 20057, "the KDC is away");
    assert_eq!(count(group.agent(0), mark, 40004), 0);
    realm.resume();
    log.go_on(5);
    group.wait_texts(&log.lines());
}

#[test]
fn an_alert_travels_kerberos_then_certificate_then_kerberos() {
    let realm = Realm::start("NORTH.TEST");
    let password = format!("{:032x}", u128::from_be_bytes(random()));
    let mut estate = Estate::lay(Group::builder(), 1);
    keyed::key(estate.group.server(), &realm);
    estate.group.server().start();
    // agent -> gateway -> a server without a database -> the server with it. The agent has no certificate.
    let mut relay = estate.group.relaying_server("ms1.test");
    estate.group.done(&["gateway", "assign", "gw1.test", "--via", "ms1.test"]);
    reports_to(estate.group.gateway(0), &[&relay.parent()]);
    keyed::key(&relay, &realm);
    keyed::key(estate.group.gateway(0), &realm);
    keyed::key(estate.group.agent(0), &realm);
    keyed::reach(estate.group.agent(0), "kerberos");
    without_certificate(estate.group.agent(0));
    let above: toml::Table = [
        ("name", "srv1.test".to_owned()),
        ("address", hostile::listen(estate.group.server()).to_string()),
        ("mechanism", "kerberos".to_owned()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.into()))
    .collect();
    relay.set("root_servers", vec![above]);
    for (noun, name) in [("server", "ms1.test"), ("agent", "agent1.test")] {
        estate.group.done(&[noun, "principal", name, &principal(name, &realm)]);
    }
    estate.account(&password, "agent1.test");
    estate.watch(&["agent1.test"]);
    relay.start();
    estate.group.gateway(0).start();
    estate.group.agent(0).start();

    // A Run As password comes down, an alert goes up, once.
    estate.meeting.wait("agent1.test", &hash(&password));
    let pack = bad(&estate.group, "bad");
    estate.group.done(&["pack", "apply", &pack, "--agents", "agent1.test"]);
    wait::until("the alert", LIMIT, || {
        (estate.group.sql::<i64>("SELECT count(*) FROM alert WHERE monitor = 'bad/look'") == [1]).then_some(())
    });
    for (from, mechanism) in
        [("agent1.test", "wardline-krb5/1"), ("gw1.test", "wardline-cert/1"), ("ms1.test", "wardline-krb5/1")]
    {
        assert_eq!(self::mechanism(&estate.group, 3, from), mechanism, "{from}");
    }
    assert_eq!(ends(&estate.group, 3, "ms1.test")[0]["kerberos"]["acceptor"], principal("srv1.test", &realm));
}
