//! Hosts join the group with a token, through gateways that need not be trusted; they are removed, and nobody inherits
//! what they were.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use rusqlite::Connection;
use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::program::{fails, said, succeeds};
use wardline_harness::{Daemon, scratch, wait};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_host_joins_in_one_line_through_two_gateways() {
    let mut group = Group::builder().gateways(2).chained().agents(0).lay();
    group.start();
    group.gateway(0).wait_event(40004);
    group.gateway(1).wait_event(40004);
    let mut host = group.newcomer("late.test");
    let token = group.token(&["--role", "agent", "--name", "late.test", "--via", "gw2.test"]);
    succeeds(&host.join(&group.gateway(1).parent(), &token));
    host.start();
    host.wait_event(40005);
    let joined = group.server().wait_event(40061);
    assert!(joined.text.contains("late.test"), "{}", joined.text);

    // Each hop is measured by both of its ends, and they agree.
    let between = |hop: &Value| [hop["from"].as_str().unwrap().to_owned(), hop["to"].as_str().unwrap().to_owned()];
    let mut hops: Vec<_> = group.hops(3).iter().map(between).collect();
    hops.sort();
    assert_eq!(hops, [["gw1.test", "srv1.test"], ["gw2.test", "gw1.test"], ["late.test", "gw2.test"]]);
}

#[test]
fn a_used_expired_or_foreign_token_is_refused() {
    let mut group = Group::builder().agents(0).lay();
    group.start();
    group.gateway(0).wait_event(40004);
    let by = group.gateway(0).parent();
    let refused = |token: &Path, host: &Daemon, words: &str| {
        fails(&host.join(&by, token), words);
        let left = scratch::files(host.state().parent().unwrap());
        let left: Vec<_> = left.iter().filter(|path| !path.ends_with("machine.key")).collect();
        let keys = left.iter().filter(|path| path.extension().is_some_and(|end| end == "key" || end == "pem"));
        assert_eq!(keys.count(), 0, "{words}: a join that failed leaves nothing: {left:?}");
    };
    let token = |arguments: &[&str]| group.token(&[&["--via", "gw1.test"], arguments].concat());

    let once = token(&["--role", "agent", "--name", "*"]);
    let first = group.newcomer("first.test");
    // The control: it is good, once; and again for the one who has used it.
    for _ in 0..2 {
        succeeds(&first.join(&by, &once));
    }
    refused(&once, &group.newcomer("second.test"), "used as often as it may be");

    refused(&token(&["--role", "agent", "--name", "web1.test"]), &group.newcomer("web2.test"), "another name");
    refused(&token(&["--role", "gateway", "--name", "web2.test"]), &group.newcomer("web2.test"), "another role");
    // Who has the token of a name that is taken does not get the name.
    refused(&token(&["--role", "agent", "--name", "first.test"]), &group.newcomer("first.test"), "has this name");

    let revoked = token(&["--role", "agent", "--name", "web3.test"]);
    let list = group.json(&["token", "list"]);
    let id = list.as_array().unwrap().iter().find(|token| token["name"] == "web3.test").unwrap()["id"].clone();
    group.done(&["token", "revoke", id.as_str().unwrap()]);
    refused(&revoked, &group.newcomer("web3.test"), "revoked");

    let short = token(&["--role", "agent", "--name", "*", "--uses", "100", "--expires", "1s"]);
    let mut tries = 0;
    wait::until("the token expires", LIMIT, || {
        tries += 1;
        let output = group.newcomer(&format!("short{tries}.test")).join(&by, &short);
        said(&output).contains("expired").then_some(())
    });

    // Several servers share PostgreSQL: nobody is to wait at a database in a file.
    let output = group.wardline(&["token", "create", "--role", "server", "--name", "srv2.test"]);
    assert!(output.status.code() == Some(5) && said(&output).contains("PostgreSQL"), "{}", said(&output));

    // Whatever the host is told: a server of another group has not the root that its token pins.
    let other = Group::builder().agents(0).gateways(0).lay();
    let mut other = other;
    other.start();
    let foreign = other.token(&["--role", "agent", "--name", "web4.test"]);
    refused(&foreign, &group.newcomer("web4.test"), "it is not the pinned root");

    let text = std::fs::read_to_string(&once).unwrap();
    let mistyped = group.folder().join("mistyped");
    let at = text.len() / 2;
    let wrong = if &text[at..=at] == "0" { "1" } else { "0" };
    std::fs::write(&mistyped, format!("{}{wrong}{}", &text[..at], &text[at + 1..])).unwrap();
    refused(&mistyped, &group.newcomer("web5.test"), "mistyped");

    // Only those that were let in are members.
    let members = group.sql::<String>("SELECT name FROM member WHERE role = 'agent' ORDER BY name");
    assert!(members.iter().all(|name| name == "first.test" || name.starts_with("short")), "{members:?}");
}

#[test]
fn a_removed_host_is_cut_off_and_its_name_inherits_nothing() {
    let mut group = Group::builder().start();
    group.agent(0).wait_event(40005);
    let (server, agent) = (group.server().mark(), group.agent(0).mark());
    group.done(&["agent", "remove", "agent1.test"]);
    group.agent(0).wait_event_since(agent, 20070);
    group.server().wait_event_since(server, 40064);
    // It knocks again, with a certificate that is still valid, and is not known.
    group.server().wait_event_since(server, 20000);

    let heir = group.newcomer("agent1.test");
    let token = group.token(&["--role", "agent", "--name", "agent1.test", "--via", "gw1.test"]);
    let output = heir.join(&group.gateway(0).parent(), &token);
    assert!(output.status.success(), "{}", said(&output));
    group.agent(0).stop();
    let mut heir = heir;
    heir.start();
    heir.wait_event(40005);
    heir.stop();
    // The one that was removed has the name on its certificate, and still is not let in.
    let (server, agent) = (group.server().mark(), group.agent(0).mark());
    group.agent(0).start();
    group.server().wait_event_since(server, 20000);
    let delivering = group.agent(0).events_since(agent).into_iter().find(|event| event.number == 40005);
    assert_eq!(delivering, None);
    // Nor does it come back with a token: whoever had copied its identity key would come back with it.
    group.agent(0).stop();
    group.done(&["agent", "remove", "agent1.test"]);
    let token = group.token(&["--role", "agent", "--name", "agent1.test", "--via", "gw1.test"]);
    let by = group.gateway(0).parent();
    fails(&group.agent(0).join(&by, &token), "was removed");
}

#[test]
fn a_log_cut_or_changed_stops_the_server() {
    let mut group = Group::builder().gateways(0).agents(0).direct(1).lay();
    // The control: it starts as it is.
    group.server().start();
    group.server().stop();
    let log = Connection::open(group.database()).unwrap();
    let last: (i64, Vec<u8>) = log
        .query_row("SELECT number, entry FROM log ORDER BY number DESC LIMIT 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    log.execute("DELETE FROM log WHERE number = ?", [last.0]).unwrap();
    drop(log);
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    group.server().wait_event(40065);

    // Put back as it was it starts again; changed by one bit it does not.
    let put = |entry: &[u8]| {
        let log = Connection::open(group.database()).unwrap();
        log.execute("INSERT OR REPLACE INTO log (number, entry) VALUES (?, ?)", (last.0, entry)).unwrap();
    };
    put(&last.1);
    let mut changed = last.1.clone();
    *changed.last_mut().unwrap() ^= 1;
    put(&changed);
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    group.server().wait_event(40066);
    let log = Connection::open(group.database()).unwrap();
    log.execute("UPDATE log SET entry = ? WHERE number = ?", (&last.1, last.0)).unwrap();
    drop(log);
    group.server().start();
}

#[test]
fn private_files_are_private_whatever_the_umask() {
    // Every test is a process of its own; what it starts has this too.
    umask(Mode::empty());
    let mut group = Group::builder().start();
    group.agent(0).wait_event(40005);
    // One that makes its state folder itself.
    let token = group.token(&["--role", "agent", "--name", "late.test", "--via", "gw1.test"]);
    let host = group.newcomer("late.test");
    let made = host.state().parent().unwrap().to_owned();
    std::fs::remove_dir(&made).unwrap();
    let output = host.join(&group.gateway(0).parent(), &token);
    assert!(output.status.success(), "{}", said(&output));
    let laid = ["srv1.test", "gw1.test", "agent1.test"].map(|name| group.folder().join(name).join("state"));
    for state in laid.into_iter().chain([made]) {
        let found = scratch::files(&state);
        let open: Vec<_> = found
            .iter()
            .filter(|path| !path.extension().is_some_and(|end| end == "pem" || end == "toml"))
            // What is being replaced may be gone.
            .filter(|path| std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0))
            .collect();
        assert!(found.iter().any(|path| path.ends_with("identity.key")), "{found:?}");
        assert!(open.is_empty(), "{open:?}");
        for folder in [&state, &state.join("test")] {
            assert_eq!(std::fs::metadata(folder).unwrap().mode() & 0o077, 0, "{}", folder.display());
        }
    }
}
