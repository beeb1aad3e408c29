//! A server without a database: it takes sessions and commands as a server does, and has none of the group's keys. What it
//! says with its certificate is no server's word.

use std::fs;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use wardline_harness::estate::{Estate, hash};
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer, Proofs};
use wardline_harness::program::{self, said};
use wardline_harness::search::Search;
use wardline_harness::{Daemon, Log, private, scratch, wait};
use wardline_proto::Kind;
use wardline_proto::frame::Message;
use wardline_proto::message::{Ack, Batch, BatchHeader, Configuration, Context, Point, Reply, Request, decode, encode};
use wardline_secrets::signature::{random, sha256};

use crate::configuration::{Between, issue, with};
use crate::federation::reports_to;

const LIMIT: Duration = Duration::from_secs(30);
const OWN: &str = "ms1.test";
const FIRST: &str = "srv1.test";

/// How many batches wait in an agent's queue for their acknowledgement.
fn waiting(agent: &Daemon) -> i64 {
    let queue = Connection::open_with_flags(agent.state().join("queue.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    queue.query_row("SELECT count(*) FROM batch", [], |row| row.get(0)).unwrap()
}

/// What the command line shows that asks there.
#[track_caller]
fn there(group: &Group, server: &Daemon, arguments: &[&str]) -> String {
    program::succeeds(&group.wardline_at(server, arguments))
}

/// The same as JSON.
#[track_caller]
fn json(group: &Group, server: &Daemon, arguments: &[&str]) -> Value {
    serde_json::from_str(&there(group, server, &[&["-o", "json"], arguments].concat())).unwrap()
}

/// The command line that asks there is refused, because it may not, and says this.
#[track_caller]
fn denied(group: &Group, server: &Daemon, arguments: &[&str], says: &str) {
    let output = group.wardline_at(server, arguments);
    assert!(output.status.code() == Some(4) && said(&output).contains(says), "{arguments:?}: {}", said(&output));
}

/// A pack whose one check finds something bad, and calls it so.
pub(crate) fn bad(group: &Group, called: &str) -> String {
    let check = "[[check]]\nname = \"look\"\nprogram = [\"/bin/sh\", \"-c\", \"echo CRITICAL; exit 2\"]\n";
    let text = format!("[pack]\nname = {called:?}\n{check}every = \"250ms\"\n[check.monitor]\n");
    group.write_pack(called, &text).display().to_string()
}

#[test]
fn a_server_without_a_database_relays_and_holds_no_key() {
    // Made here: a text of this program stands in the program.
    let password = format!("{:032x}", u128::from_be_bytes(random()));
    let decoy = format!("decoy-{:032x}", u128::from_be_bytes(random()));
    let mut estate = Estate::lay(Group::builder(), 1);
    estate.group.server().start();
    let mut relay = estate.group.relaying_server(OWN);
    estate.group.done(&["gateway", "assign", "gw1.test", "--via", OWN]);
    reports_to(estate.group.gateway(0), &[&relay.parent()]);
    estate.account(&password, "agent1.test");
    estate.watch(&["agent1.test"]);
    relay.start();
    estate.group.gateway(0).start();
    estate.group.agent(0).start();

    // What is secret comes down through it, and what is found goes up, once.
    estate.meeting.wait("agent1.test", &hash(&password));
    let lines = Log::create(estate.group.folder(), "app");
    let pack = estate.group.write_pack("app", &lines.pack("app")).display().to_string();
    for pack in [&bad(&estate.group, "bad"), &pack] {
        estate.group.done(&["pack", "apply", pack, "--agents", "agent1.test"]);
    }
    let alerts = wait::until("the alert is shown there", LIMIT, || {
        let alerts = json(&estate.group, &relay, &["alert", "list"]);
        alerts.as_array().is_some_and(|alerts| !alerts.is_empty()).then_some(alerts)
    });
    assert_eq!(alerts.as_array().unwrap().len(), 1, "{alerts}");
    assert_eq!(estate.group.sql::<i64>("SELECT count(*) FROM alert"), [1]);
    // It leaves the queue by the word of a server of which the trust log knows a duty key.
    wait::until("it was acknowledged", LIMIT, || (waiting(estate.group.agent(0)) == 0).then_some(()));
    let log = there(&estate.group, &relay, &["keys", "log", "show"]);
    let about = |word: &str| log.lines().filter(|line| line.contains(word)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(about("server ms1.test without a database").len(), 1, "{log}");
    assert!(about(" duty ").len() == 1 && about(" duty ")[0].contains("server srv1.test"), "{log}");

    // It is shown as what it is.
    assert_eq!(estate.group.hops(3).len(), 3);
    let agents = json(&estate.group, &relay, &["agent", "list"]);
    assert_eq!(agents[0]["session"]["via"], "gw1.test");
    let status = json(&estate.group, &relay, &["status"]);
    assert_eq!((&status["name"], &status["by"]), (&FIRST.into(), &OWN.into()));
    let topology = there(&estate.group, &relay, &["topology"]);
    assert!(topology.lines().any(|line| line.contains(OWN) && line.contains("server (relay)")), "{topology}");
    let shown = |server: &Value| (server["name"].clone(), server["relays"].clone(), server["connected"].clone());
    let listed = estate.group.json(&["server", "list"]);
    assert_eq!(shown(&listed[0]), (OWN.into(), true.into(), true.into()));
    assert_eq!(shown(&listed[1]), (FIRST.into(), Value::Null, true.into()));

    let (well, shown) = relay.doctor(None);
    assert!(well && shown.contains("it may come this way"), "{shown}");

    // What it has of the group is a channel and an identity.
    let kept = scratch::files(relay.state());
    let keys = ["duty.key", "issuing.key", "root.key", "group.key"];
    assert!(kept.iter().all(|file| !keys.iter().any(|key| file.ends_with(key))), "{kept:?}");
    let home = estate.group.server().state().to_owned();
    assert!(keys.iter().all(|key| home.join(key).is_file()), "the control: the other one has them");
    let group_key = private::read(&home.join("group.key"));
    let secret = Search::of("the password", password.as_bytes()).and("the group key", &group_key);
    let places = [relay.config().parent().unwrap().to_owned(), relay.runtime().to_owned()];
    secret.memory(relay.pid()).finds_nothing();
    secret.files(&places).finds_nothing();
    Search::of("the group key", &group_key).memory(estate.group.server().pid()).finds_it();

    // Killed at any moment, it costs nothing but time.
    for _ in 0..3 {
        lines.go_on(200);
        relay.kill9();
        lines.go_on(200);
        relay.start();
    }
    estate.group.wait_texts_of("agent1.test", &lines.lines());

    // The control of the search: what it has in its memory, and what lies there, is found.
    let control = Search::of("the decoy", decoy.as_bytes());
    relay.stop();
    let text = fs::read_to_string(relay.config()).unwrap();
    let runtime = relay.runtime().join(&decoy).display().to_string();
    fs::write(relay.config(), text.replacen("runtime_dir = ", &format!("runtime_dir = {runtime:?} # "), 1)).unwrap();
    control.files(&places).finds_it();
    relay.spawn();
    relay.wait_event(40000);
    control.memory(relay.pid()).finds_it();
}

#[test]
fn what_an_operator_may_do_at_a_server_without_a_database_is_said_at_the_one_with_it() {
    let mut estate = Estate::lay(Group::builder().gateways(0).agents(0).direct(1), 0);
    estate.group.server().start();
    let mut relay = estate.group.relaying_server(OWN);
    let token = ["token", "create", "--role", "agent", "--name", "web1.test", "--via", OWN];
    // It is not there yet, and then it has no way.
    assert_eq!(estate.group.wardline_at(&relay, &["agent", "list"]).status.code(), Some(6));
    estate.group.server().stop();
    relay.start();
    let away = estate.group.wardline_at(&relay, &["agent", "list"]);
    assert!(away.status.code() == Some(6) && said(&away).contains("no way to a server"), "{}", said(&away));
    estate.group.server().start();
    wait::until("there is a way", LIMIT, || {
        estate.group.wardline_at(&relay, &["agent", "list"]).status.success().then_some(())
    });

    // A server has a database or those above have it.
    let both = relay.config().with_file_name("both.toml");
    let text = fs::read_to_string(relay.config()).unwrap();
    fs::write(&both, format!("database = \"sqlite:/nonexistent/wardline.db\"\n{text}")).unwrap();
    let mut check = Command::new(program::find("wardline-server"));
    let checked = check.args(["check-config", "--config"]).arg(&both).output().unwrap();
    assert!(!checked.status.success() && said(&checked).contains("database and root_servers"), "{}", said(&checked));

    // Who looks needs nobody's leave, who changes something does.
    relay.wait_event(40006);
    let entries = || there(&estate.group, &relay, &["keys", "log", "show"]).lines().count();
    let before = entries();
    let allows = "commands_from";
    denied(&estate.group, &relay, &token, allows);
    denied(&estate.group, &relay, &["agent", "remove", "agent1.test"], allows);
    assert_eq!(entries(), before);
    estate.group.server().stop();
    estate.group.server().set("commands_from", vec![OWN]);
    estate.group.server().start();
    wait::until("there is a way again", LIMIT, || {
        estate.group.wardline_at(&relay, &["agent", "list"]).status.success().then_some(())
    });
    let made = there(&estate.group, &relay, &token);
    let log = there(&estate.group, &relay, &["keys", "log", "show"]);
    let last = log.lines().last().unwrap();
    assert!(last.contains("token") && last.contains(&format!("operator root@{OWN}")), "{last}");
    // The control: whoever asks at the other one has a name of there.
    estate.group.token(&["--role", "agent", "--name", "web2.test"]);
    let log = there(&estate.group, &relay, &["keys", "log", "show"]);
    assert!(
        log.lines().last().unwrap().contains("operator root") && !log.lines().last().unwrap().contains('@'),
        "{log}"
    );

    // Who has that token joins there, and reports there.
    let file = estate.group.folder().join("token");
    scratch::write(&file, made, 0o600);
    let mut host = estate.group.newcomer("web1.test");
    program::succeeds(&host.join(&relay.parent(), &file));
    host.start();
    host.wait_event(40005);
    let shown = json(&estate.group, &relay, &["agent", "show", "web1.test"]);
    assert_eq!(shown["session"]["via"], OWN, "{shown}");

    // What is long passes, both ways.
    let comment = "# a line of a pack that is longer than others\n".repeat(6000);
    let long = bad(&estate.group, "long");
    fs::write(&long, format!("{}{comment}", fs::read_to_string(&long).unwrap())).unwrap();
    there(&estate.group, &relay, &["pack", "apply", &long, "--agents", "agent1.test"]);
    assert!(there(&estate.group, &relay, &["pack", "diff", &long]).is_empty());

    // What has to do with secrets, keys and servers does not, whatever is allowed.
    let elsewhere = "at a server with the database";
    estate.account("correct-horse-battery-staple", "agent1.test");
    let secret = estate.secret("another-horse-battery").display().to_string();
    let shop = ["account", "update", "shop"];
    for arguments in [
        &["account", "create", "till", "--kind", "basic", "--user", "ann", "--secret-file", &secret][..],
        &[&shop[..], &["--user", "ann", "--secret-file", &secret]].concat(),
        &[&shop[..], &["--to", "agent1.test"]].concat(),
        &["profile", "set", "web", "--account", "shop"],
        &["token", "create", "--role", "server", "--name", "srv2.test"],
        &["server", "approve", "srv2.test", "ABCD-EFGH"],
        &["server", "remove", OWN],
        &["ca", "rotate"],
        &["db", "backup", "/nonexistent/copy"],
    ] {
        denied(&estate.group, &relay, arguments, elsewhere);
    }
    // A pack whose check is handed a secret would be a way to it.
    let spy = bad(&estate.group, "spy");
    fs::write(&spy, fs::read_to_string(&spy).unwrap().replace("every", "run_as = \"web\"\nevery")).unwrap();
    denied(&estate.group, &relay, &["pack", "apply", &spy], elsewhere);
    estate.group.done(&["pack", "apply", &spy]);
    assert_eq!(json(&estate.group, &relay, &["account", "list"])[0]["name"], "shop");
    let login = |shown: Value| shown["login"].as_str().map(str::to_owned);
    assert_eq!(login(json(&estate.group, &relay, &["account", "show", "shop"])), None);
    assert_eq!(login(estate.group.json(&["account", "show", "shop"])).as_deref(), Some("ann"), "the control");

    // Once it is removed it is nobody.
    let mark = estate.group.server().mark();
    estate.group.done(&["server", "remove", OWN]);
    estate.group.server().wait_event_since(mark, 20000);
    assert_eq!(estate.group.wardline_at(&relay, &["agent", "list"]).status.code(), Some(6));
}

#[test]
fn a_hostile_server_without_a_database_cannot_acknowledge_configure_or_speak_for_others() {
    let (mut group, log) = Group::builder().gateways(0).agents(0).direct(2).lay_with_log();
    group.server().start();
    let relay = group.relaying_server(OWN);
    group.done(&["agent", "assign", "agent1.test", "--via", OWN]);
    reports_to(group.agent(0), &[&relay.parent()]);
    let file = group.write_pack("more", &Log::create(group.folder(), "more").pack("more")).display().to_string();
    group.done(&["pack", "apply", &file, "--agents", "agent1.test"]);
    let (credential, keys) = (group.credential(OWN), ["channel", "identity"].map(|key| group.key(OWN, key)));
    let mut hostile = Between::in_place(&mut group, credential, &format!("server {OWN}"), hostile::listen(&relay));
    group.agent(0).start();
    hostile.meet();
    let ask = hostile.open();
    let genuine = hostile.asked(ask);

    // A configuration of its own making, by each key that it has.
    for (what, key) in ["by its channel key", "by its identity key"].into_iter().zip(&keys) {
        let text = String::from_utf8(genuine.document.to_vec()).unwrap();
        let changed = text.replacen("more.log", "evil.log", 1);
        assert_ne!(changed, text, "the control: the log is there");
        let forged: Configuration = with(&genuine, changed, key, Context::Config, &issue(&genuine));
        hostile.refused(group.agent(0), what, 40080, &forged);
    }
    hostile.down(Kind::Configuration, encode(&genuine));
    group.agent(0).wait_event(21025);

    // An acknowledgement, by each of them.
    log.say("one");
    let batch = hostile.below().wait_for(Kind::Batch, 0);
    let header = decode::<Batch>(&batch).unwrap().header;
    let place: BatchHeader = decode(&header).unwrap();
    for key in &keys {
        let ack = Ack {
            agent: "agent1.test".into(),
            epoch: place.epoch.clone(),
            upto: Point { number: place.last, hash: sha256(&[&header]).to_wire() },
            key: Bytes::copy_from_slice(&key.id().0),
        };
        let mark = group.agent(0).mark();
        hostile.down(Kind::Ack, encode(&key.signed(Context::Ack, encode(&ack))));
        group.agent(0).wait_event_since(mark, 40010);
        assert!(waiting(group.agent(0)) > 0);
        hostile.below().wait_closed();
        hostile.meet();
        hostile.meet();
        hostile.open();
        assert_eq!(hostile.below().wait_for(Kind::Batch, 0), batch, "it is sent again as it was");
    }

    // Data in the agent's name, and a way for one that is not behind it.
    let good: Batch = decode(&batch).unwrap();
    let mark = group.server().mark();
    hostile.up(Kind::Batch, encode(&Batch { signature: keys[1].sign(Context::Batch, &good.header), ..good.clone() }));
    group.server().wait_event_since(mark, 40011);
    for agent in ["agent2.test", FIRST, OWN] {
        let mark = group.server().mark();
        hostile.above.say(Proofs::beside(group.server()).route(agent, &[]).on(900));
        hostile.above.wait_for(Kind::Refusal, 900);
        assert!(group.server().wait_event_since(mark, 20000).text.contains(agent));
    }
    assert!(group.all_texts().is_empty());

    // Commands that nobody has allowed, and what is never given there.
    let mut asks = |method: &str, path: &str, body: &'static str| {
        let request = Request {
            method: method.into(),
            target: format!("/api/v1/{path}"),
            body: Bytes::from_static(body.as_bytes()),
            operator: "root".into(),
        };
        hostile.above.say(Message::own(Kind::Request, request).on(901));
        decode::<Reply>(&hostile.above.wait_for(Kind::Reply, 901)).unwrap().status
    };
    assert_eq!(asks("POST", "agents/agent1.test/release", ""), 403);
    assert_eq!(asks("GET", "sealing", ""), 403);
    assert_eq!(asks("GET", "nothing", ""), 403);
    assert_eq!(asks("GET", "agents", ""), 200, "the control");
    drop(hostile);

    // A server with the database is let in nowhere.
    let (server, own) = (hostile::listen(group.server()), format!("server {FIRST}"));
    let mark = group.server().mark();
    let credential = group.credential(FIRST);
    Peer::join(server, &credential, &own, &own).wait_for(Kind::Refusal, 0);
    assert!(group.server().wait_event_since(mark, 20000).text.contains("servers with the database do not report"));

    // The control: what the real one passes on arrives.
    let mut relay = relay;
    relay.start();
    group.wait_texts(&["one"]);
}
