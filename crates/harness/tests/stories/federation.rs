//! Several servers over one database: how a further one comes to the group's keys, that it goes on alone when the first is
//! lost for good, and that either serves every agent.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use uuid::Uuid;
use wardline_connector::now_ms;
use wardline_harness::asking::Asking;
use wardline_harness::daemon::Event;
use wardline_harness::estate::{Estate, hash};
use wardline_harness::group::Group;
use wardline_harness::{Daemon, private, scratch, wait};
use wardline_proto::GroupId;
use wardline_proto::message::encode;
use wardline_proto::trust::{self, Fact, TokenRevoked};
use wardline_secrets::authority::{RootAuthority, Validity};
use wardline_secrets::signature::SigningKey;
use wardline_secrets::view::entry;

const LIMIT: Duration = Duration::from_secs(40);
const FIRST: &str = "srv1.test";
const SECOND: &str = "srv2.test";
const PASSWORD: &str = "Zauberwort-4711";
const NEXT: &str = "Zauberwort-4712";

/// Lets a host become a further server: the code of each terminal is typed at the other one.
pub fn joins(group: &mut Group, name: &str) -> Daemon {
    let host = group.further_server(name);
    let token = group.token(&["--role", "server", "--name", name]);
    let mut asking = Asking::server(&host, &group.server().parent(), &token);
    approve(group, &mut asking, name);
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    host
}

/// What was refused has left nothing but what protects whatever may come.
#[track_caller]
fn nothing_of_the_group(host: &Daemon) {
    let folder = host.state().parent().unwrap();
    let machine = ["lock", "machine.key", "protect"].map(|name| folder.join(name));
    let left = scratch::files(folder);
    assert!(left.iter().all(|path| machine.iter().any(|own| path.starts_with(own))), "{left:?}");
}

/// Gives an agent these servers (`NAME=ADDRESS`) as parents, in this order.
pub fn reports_to(agent: &Daemon, servers: &[&str]) {
    let parent = |server: &&str| {
        let (name, address) = server.split_once('=').unwrap();
        let keys = [("name", name), ("address", address)];
        toml::Value::Table(keys.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
    };
    let parents = servers.iter().map(parent).collect();
    agent.change_membership(|membership| {
        membership.insert("parents".into(), toml::Value::Array(parents));
        membership.insert("primary_check".into(), "200ms".into());
    });
}

fn servers(group: &Group) -> Vec<String> {
    let listed = group.json(&["server", "list"]);
    listed.as_array().unwrap().iter().map(|server| server["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_joining_server_gets_the_keys_and_the_first_may_die() {
    let mut estate = Estate::lay(Group::builder().gateways(0).agents(0).direct(1).postgres(true), 1);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.watch(&["agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));

    let mut second = joins(&mut estate.group, SECOND);
    second.start();
    assert_eq!(servers(&estate.group), [FIRST, SECOND]);
    let both = [estate.group.server().parent(), second.parent()];
    estate.group.agent(0).stop();
    reports_to(estate.group.agent(0), &[&both[0], &both[1]]);
    estate.group.agent(0).start();
    estate.group.agent(0).wait_event(40005);

    // The first is lost for good.
    let mark = estate.group.agent(0).mark();
    estate.group.server().kill9();
    fs::remove_dir_all(estate.group.server().state()).unwrap();
    estate.group.agent(0).wait_event_since(mark, 40005);
    estate.group.ask(&second);
    // What rests in the database was encrypted by the first; what comes now is by the second.
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    estate.group.done(&["server", "remove", FIRST]);
    assert_eq!(servers(&estate.group), [SECOND]);
    assert_eq!(estate.group.wardline(&["server", "remove", SECOND]).status.code(), Some(5));
    // It lets others in by the same authorities, servers too: with it the group goes on.
    let third = estate.group.further_server("srv3.test");
    let token = estate.group.token(&["--role", "server", "--name", "srv3.test"]);
    let mut asking = Asking::server(&third, &second.parent(), &token);
    approve(&estate.group, &mut asking, "srv3.test");
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
}

#[test]
fn a_server_that_may_not_join_is_refused_and_keeps_nothing() {
    let mut group = Group::builder().agents(0).postgres(true).lay();
    group.start();
    group.gateway(0).wait_event(40004);
    let (server, gateway) = (group.server().parent(), group.gateway(0).parent());
    let host = group.further_server(SECOND);
    let token = |group: &Group, name: &str| group.token(&["--role", "server", "--name", name]);
    let refused = |by: &str, token: &Path, host: &Daemon, says: &str| {
        let (status, shown) = Asking::server(host, by, token).ended();
        assert!(!status.success() && shown.contains(says), "{says}: {shown}");
        nothing_of_the_group(host);
    };

    // A token is for one exact name, once.
    for wrong in [&["--name", "srv*"][..], &["--name", SECOND, "--uses", "2"], &["--name", SECOND, "--via", "gw1.test"]]
    {
        let arguments = [&["token", "create", "--role", "server"], wrong].concat();
        assert_eq!(group.wardline(&arguments).status.code(), Some(2), "{wrong:?}");
    }
    let twin = group.further_server("srv3.test");
    refused(&server, &token(&group, SECOND), &twin, "the token is for another name");
    refused(
        &server,
        &group.token(&["--role", "gateway", "--name", "srv3.test"]),
        &twin,
        "the token is for another role",
    );
    // The gateway passes on what is said, and both ends see that somebody is between.
    let good = token(&group, SECOND);
    refused(&gateway, &good, &host, "through no gateway");
    assert!(group.json(&["server", "pending"]).as_array().unwrap().is_empty());

    // Each of the two codes must be the right one.
    let mut asking = Asking::server(&host, &server, &good);
    let code = asking.code();
    assert_eq!(group.wardline(&["server", "approve", SECOND, &other(&code)]).status.code(), Some(5));
    let (status, shown) = asking.ended();
    assert!(!status.success() && shown.contains("an operator has rejected"), "{shown}");
    nothing_of_the_group(&host);
    let mut asking = Asking::server(&host, &server, &good);
    let approved = group.json(&["server", "approve", SECOND, &asking.code()]);
    asking.wait_shown("type the confirmation code");
    (0..3).for_each(|_| asking.types(&other(approved["confirmation"].as_str().unwrap())));
    let (status, shown) = asking.ended();
    assert!(!status.success() && shown.contains("3 wrong codes"), "{shown}");
    nothing_of_the_group(&host);
    group.done(&["server", "remove", SECOND]);

    // The control: with both codes and a token that was not used it is let in; and once only.
    let again = token(&group, SECOND);
    let mut asking = Asking::server(&host, &server, &again);
    approve(&group, &mut asking, SECOND);
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    twin.set("name", SECOND);
    refused(&server, &again, &twin, "used as often as it may be");
    // Who has a database of its own is no further server.
    twin.set("database", "sqlite:/nonexistent/wardline.db");
    twin.set("name", "srv4.test");
    refused(&server, &token(&group, "srv4.test"), &twin, "");
    assert_eq!(servers(&group), [FIRST, SECOND]);
}

#[test]
fn nobody_believes_a_removed_server() {
    let (mut group, log) = Group::builder().gateways(0).agents(0).direct(2).postgres(true).lay_with_log();
    group.start();
    let mut second = joins(&mut group, SECOND);
    second.start();
    let both = [group.server().parent(), second.parent()];
    for agent in 0..2 {
        group.agent(agent).stop();
        reports_to(group.agent(agent), &[&both[0], &both[1]]);
    }
    group.agent(0).start();
    group.agent(0).wait_event(40005);

    // Whoever has the first server has its keys, and a database as it was.
    let mut stolen = group.postgres().standby(false);
    let mark = group.agent(0).mark();
    group.server().kill9();
    stolen.promote();
    group.agent(0).wait_event_since(mark, 40005);
    group.ask(&second);
    // The thief has another duty key certified, and takes the first server's name off the list of servers.
    let thief = Thief::of(&group);
    for fact in [thief.certified(&thief.another), thief.certified(&thief.own), thief.leaves(&group)] {
        thief.writes(&mut group, &thief.own, fact);
    }
    // Its word counts, and it is shown for that, as one that has no identity.
    wait::until("it is no member", LIMIT, || (group.json(&["server", "list"])[0]["key"] == "").then_some(()));
    let tokens = |group: &Group| group.json(&["token", "list", "--all"]).as_array().unwrap().len();
    let before = tokens(&group);
    thief.writes(&mut group, &thief.own, Thief::token());
    wait::until("it has made a token", LIMIT, || (tokens(&group) == before + 1).then_some(()));
    assert_eq!(servers(&group), [FIRST, SECOND]);
    // Every agent is told, by what the second server has signed; also one that can use nothing else of it.
    let clash = group.folder().join("clash.toml");
    fs::write(&clash, "[pack]\nname = \"base\"\n").unwrap();
    let mark = group.agent(0).mark();
    group.done(&["pack", "apply", clash.to_str().unwrap(), "--agents", "agent1.test"]);
    group.agent(0).wait_event_since(mark, 40084);
    // The thief signs what nobody can take: nothing is written over that, but for the removal of who has signed it.
    thief.writes(&mut group, &thief.own, Fact::TokenRevoked(TokenRevoked::default()));
    let refused = group.wardline(&["token", "create", "--role", "agent", "--name", "late.test"]);
    assert!(!refused.status.success(), "{refused:?}");
    let mark = group.agent(0).mark();
    group.done(&["server", "remove", FIRST]);
    group.agent(0).wait_event_since(mark, 40084);
    assert_eq!(servers(&group), [SECOND]);
    // What it signs now is none of the log, whatever it brings.
    let before = tokens(&group);
    for (key, fact) in [
        (&thief.own, Thief::token()),
        (&thief.own, thief.certified(&thief.own)),
        (&thief.another, thief.certified(&thief.another)),
    ] {
        thief.writes(&mut group, key, fact);
        group.token(&["--role", "agent", "--name", "late.test"]);
    }
    assert_eq!(tokens(&group), before + 3);

    // With the group's own database it does not start any more.
    let head = group.server().state().join("head");
    let kept = fs::read(&head).unwrap();
    let mark = group.server().mark();
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    assert!(group.server().events_since(mark).iter().any(|event| event.text.contains("removed")));
    // With the one of before, and all that it knew then, it does, and is the first parent of both.
    fs::write(&head, kept).unwrap();
    group.server().set("database", stolen.url(&[]));
    // Who was told knows it also when it was killed, and meets nobody else.
    group.agent(0).kill9();
    second.stop();
    let mark = group.agent(0).mark();
    group.server().start();
    group.agent(0).start();
    let refusal = group.agent(0).wait_event_since(mark, 40010);
    assert!(refusal.text.contains("its server was removed from the group"), "{}", refusal.text);
    second.start();
    log.go_on(20);
    let expected = log.lines().len();
    wait::until("all lines are in the group's database", LIMIT, || {
        (group.event_texts("agent1.test").len() == expected).then_some(())
    });
    let count = "SELECT count(*) FROM event JOIN agent ON agent.id = event.agent WHERE agent.name = ";
    assert_eq!(stolen.sql::<i64>(&format!("{count}'agent1.test'")), [0]);

    // What it was told: each key that the first server ever had.
    let mark = group.agent(0).mark();
    group.done(&["pack", "remove", "base"]);
    group.agent(0).wait_event_since(mark, 21025);
    let told = fs::read_to_string(group.agent(0).state().join("OpsMgrConnector.Config.xml")).unwrap();
    assert_eq!(told.matches("<Disowned ").count(), 2, "{told}");
    let named = |key: &SigningKey| told.contains(&format!("<Disowned Key=\"{}\"/>", key.id()));
    assert!(named(&thief.own) && named(&thief.another), "{told}");

    // The control: who has not been told, because it was away, believes it still.
    group.agent(1).start();
    wait::until("the other agent's lines are in the stolen database", LIMIT, || {
        let there = stolen.sql::<i64>(&format!("{count}'agent2.test'"));
        (there == [i64::try_from(expected).unwrap()]).then_some(())
    });
    stolen.kill9();
}

/// Who has stolen what the first server had, the root's key too, and writes what he likes into the group's database.
struct Thief {
    root: RootAuthority,
    own: SigningKey,
    /// A duty key that nobody has heard of yet.
    another: SigningKey,
}

impl Thief {
    fn of(group: &Group) -> Self {
        let own = group.key(FIRST, "duty");
        let folder = group.folder().join(FIRST).join("state").join("test");
        let root = fs::read(folder.join("root.pem")).unwrap();
        let root = RootAuthority::open(&root, &private::read(&folder.join("root.key"))).unwrap();
        Self { root, another: SigningKey::generate(GroupId(group.id().into_bytes())).unwrap().0, own }
    }

    /// That a duty key is one of the first server's.
    fn certified(&self, key: &SigningKey) -> Fact {
        let days = Validity::lasting(now_ms() / 1000 - 60, 30 * 24 * 3600);
        let certificate = self.root.duty(&FIRST.parse().unwrap(), &key.public().unwrap(), days).unwrap();
        Fact::Duty(trust::Duty { server: FIRST.into(), certificate: certificate.to_vec().into() })
    }

    /// That the first server is no member.
    fn leaves(&self, group: &Group) -> Fact {
        let identity = group.key(FIRST, "identity").id().0.to_vec().into();
        Fact::Removed(trust::Removed { name: FIRST.into(), identity })
    }

    fn token() -> Fact {
        let (id, key) = (Uuid::now_v7().into_bytes().to_vec().into(), vec![1; 32].into());
        let (role, name, expires) = ("agent".into(), "*".into(), now_ms() + 60_000);
        Fact::Token(trust::Token { id, key, role, name, uses: 1, expires, ..trust::Token::default() })
    }

    /// Writes the next entry into the log.
    fn writes(&self, group: &mut Group, key: &SigningKey, fact: Fact) {
        let number = group.sql::<i64>("SELECT count(*) FROM log")[0];
        let signed = entry(key, number.cast_unsigned(), now_ms(), &FIRST.parse().unwrap(), "server srv1.test", fact);
        let hex: String = encode(&signed).iter().map(|byte| format!("{byte:02x}")).collect();
        group.postgres().admin("wardline", &format!("INSERT INTO log (number, entry) VALUES ({number}, '\\x{hex}')"));
    }
}

/// Two servers, of which the first tells what is not heard, and an agent that has reported to that one and now reports to
/// the second; with how many alerts are closed.
fn watched() -> (Group, Daemon, i64) {
    let mut group = Group::builder().gateways(0).agents(0).direct(1).postgres(true).heartbeat("600ms").lay();
    group.server().start();
    let mut second = joins(&mut group, SECOND);
    second.start();
    let heard_by = |group: &Group, server: &str| {
        wait::until(&format!("the agent is heard by {server}"), LIMIT, || {
            (group.sql::<String>("SELECT heard_by FROM agent") == [server]).then_some(())
        });
    };
    group.agent(0).start();
    heard_by(&group, FIRST);
    group.agent(0).stop();
    reports_to(group.agent(0), &[&second.parent()]);
    group.agent(0).start();
    heard_by(&group, SECOND);
    let closed = wait::until("nothing is open", LIMIT, || {
        let (open, closed) = alerts(&group);
        (open == 0).then_some(closed)
    });
    (group, second, closed)
}

/// Who holds the lease, and in which epoch.
fn lease(group: &Group) -> (String, i64) {
    (group.sql::<String>("SELECT holder FROM lease").remove(0), group.sql::<i64>("SELECT epoch FROM lease")[0])
}

/// How many alerts there are in these states: open, and closed.
fn alerts(group: &Group) -> (i64, i64) {
    let count = |state: &str| group.sql::<i64>(&format!("SELECT count(*) FROM alert WHERE state {state} 255"))[0];
    (count("<>"), count("="))
}

#[test]
fn the_singleton_work_moves_when_its_holder_dies() {
    let (mut group, second, closed) = watched();
    assert_eq!(lease(&group).0, FIRST);
    // The agent is heard by the second server alone: that is enough for the first one, too.
    let seen = || group.sql::<i64>("SELECT last_seen FROM agent")[0];
    let until = seen() + 6000;
    wait::until("ten heartbeats have come", LIMIT, || (seen() >= until).then_some(()));
    assert_eq!((alerts(&group), &group.json(&["agent", "list"])[0]["grey"]), ((0, closed), &serde_json::Value::Null));
    // The control: one that nobody hears is told by the first one.
    let mark = group.server().mark();
    group.agent(0).stop();
    group.server().wait_event_since(mark, 20022);
    group.agent(0).start();
    group.server().wait_event_since(mark, 20020);
    assert_eq!(alerts(&group), (0, closed + 1));

    let mark = second.mark();
    group.server().kill9();
    let taken = second.wait_event_since(mark, 40043);
    assert!(taken.text.contains("watcher") && taken.text.contains(FIRST), "{}", taken.text);
    group.agent(0).stop();
    second.wait_event_since(mark, 20022);
    // It is back, sees the same, and leaves it to the other one.
    group.server().start();
    wait::until("it sees that the agent is grey", LIMIT, || {
        group.json(&["agent", "list"])[0]["grey"].as_str().map(drop)
    });
    assert_eq!((alerts(&group), lease(&group).0.as_str()), ((1, closed + 1), SECOND));
    group.agent(0).start();
    second.wait_event_since(mark, 20020);
    assert_eq!(alerts(&group), (0, closed + 2));

    // One that is removed while it runs sees it, and ends.
    let mark = group.server().mark();
    group.ask(&second);
    group.done(&["server", "remove", FIRST]);
    group.server().wait_event_since(mark, 40064);
    assert!(group.server().wait_exit().success());
}

#[test]
fn an_old_holder_that_wakes_up_writes_nothing() {
    let (mut group, second, closed) = watched();
    let (holder, epoch) = lease(&group);
    assert_eq!(holder, FIRST);
    // It finds the agent silent, and hangs in the middle of telling it.
    let mark = group.server().mark();
    let lock = group.postgres().lock("alert");
    group.agent(0).stop();
    group.server().wait_event_since(mark, 40020);
    group.server().signal(Signal::SIGSTOP);
    drop(lock);
    // The other one takes over, and what was to be told is over before the first wakes up.
    wait::until("the second one holds it", LIMIT, || (lease(&group) == (SECOND.into(), epoch + 1)).then_some(()));
    second.wait_event(20022);
    group.agent(0).start();
    second.wait_event(20020);
    assert_eq!(alerts(&group), (0, closed + 1));
    group.server().signal(Signal::SIGCONT);
    // What it had under way was written, or was not to be.
    group.server().wait_event_since(mark, 40021);
    group.done(&["pack", "list"]);
    assert_eq!((alerts(&group), lease(&group)), ((0, closed + 1), (SECOND.into(), epoch + 1)));
    let told = |events: Vec<Event>| events.iter().any(|event| event.number == 20022);
    assert!(!told(group.server().events_since(mark)) && told(second.events()));
}

/// Types the code of each terminal at the other one.
fn approve(group: &Group, asking: &mut Asking, name: &str) {
    let approved = group.json(&["server", "approve", name, &asking.code()]);
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
}

/// Another code.
fn other(code: &str) -> String {
    let first = if code.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &code[1..])
}
