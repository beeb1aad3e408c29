//! Who is trusted is what the trust log says. Who can write into the server's database changes nothing by it, and is
//! found out.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::time::Duration;

use rusqlite::{Connection, params};
use wardline_harness::group::Group;
use wardline_harness::program::{fails, said, succeeds};
use wardline_harness::{Daemon, hostile, scratch, wait};
use wardline_proto::message::{Context, encode};
use wardline_proto::trust::{self, Entry, Fact};
use wardline_proto::{GroupId, Role};
use wardline_secrets::signature::{SigningKey, sha256};

const LIMIT: Duration = Duration::from_secs(20);

/// The database, written beside the server.
fn database(group: &Group) -> Connection {
    let database = Connection::open(group.database()).unwrap();
    database.busy_timeout(LIMIT).unwrap();
    database
}

fn rebuilt(server: &Daemon) -> Vec<String> {
    server.events().into_iter().filter(|event| event.number == 40067).map(|event| event.text).collect()
}

#[test]
fn rows_written_by_hand_are_refused_and_rebuilt() {
    let (mut group, log) = Group::builder().agents(2).lay_with_log();
    group.start();
    group.agent(0).wait_event(40005);
    group.agent(1).wait_event(40005);
    let token = |group: &Group, name: &str| group.token(&["--role", "agent", "--name", name, "--via", "gw1.test"]);
    let (revoked, good) = (token(&group, "late.test"), token(&group, "good.test"));
    let list = group.json(&["token", "list"]);
    let id = list.as_array().unwrap().iter().find(|token| token["name"] == "late.test").unwrap()["id"].clone();
    group.done(&["token", "revoke", id.as_str().unwrap()]);
    let tables = |group: &Group| {
        let members =
            "SELECT name || role || hex(identity) || parents || coalesce(hex(token), '') FROM member ORDER BY name";
        let tokens = "SELECT hex(id) || hex(key) || name || uses || used || parents || revoked FROM token ORDER BY id";
        (group.sql::<String>(members), group.sql::<String>(tokens))
    };
    let before = tables(&group);

    // Another identity key, an invented member with a certificate of the group, a member less, a token that is good again.
    let group_id = GroupId(group.id().into_bytes());
    let (other, other_pem) = SigningKey::generate(group_id).unwrap();
    let ghost = group.authority().channel("ghost.test", Role::Agent);
    let certificate = sha256(&[&hostile::chain(&ghost)[0]]);
    let spki = other.public().unwrap().spki();
    let rows = database(&group);
    let written = [
        rows.execute("UPDATE member SET identity = ? WHERE name = 'agent1.test'", [&spki]),
        rows.execute(
            "INSERT INTO member SELECT 'ghost.test', role, ?, parents, NULL, joined_at, ?, not_after, NULL FROM member
             WHERE name = 'agent1.test'",
            params![spki, &certificate.0[..]],
        ),
        rows.execute("DELETE FROM member WHERE name = 'agent2.test'", []),
        rows.execute("UPDATE token SET revoked = 0, used = 0 WHERE name = 'late.test'", []),
    ];
    assert_eq!(written.map(Result::unwrap), [1; 4]);
    drop(rows);

    // Who has the other key is not agent1, and agent1 is.
    let path = group.agent(0).state().join("identity.key");
    let identity = fs::read(&path).unwrap();
    group.agent(0).stop();
    scratch::write(&path, other_pem.as_bytes(), 0o600);
    let mark = group.server().mark();
    group.agent(0).start();
    let event = group.server().wait_event_since(mark, 40011);
    assert!(event.text.contains("agent1.test"), "{}", event.text);
    assert!(group.agent(0).events().iter().all(|event| event.number != 40005));
    group.agent(0).stop();
    scratch::write(&path, &identity, 0o600);
    // The member without a row is one.
    group.agent(1).stop();
    for agent in 0..2 {
        group.agent(agent).start();
        group.agent(agent).wait_event(40005);
    }
    log.say("one");
    for agent in ["agent1.test", "agent2.test"] {
        group.wait_texts_of(agent, &["one"]);
    }

    // The invented one has everything that a member has, but for what the log says.
    let mut invented = group.newcomer("ghost.test");
    let folder = invented.state().to_owned();
    DirBuilder::new().mode(0o700).create(&folder).unwrap();
    scratch::write(&folder.join("identity.key"), other_pem.as_bytes(), 0o600);
    ghost.write(&folder, "channel");
    for file in ["root.pem", "membership.toml"] {
        scratch::write(&folder.join(file), fs::read(group.agent(0).state().join(file)).unwrap(), 0o600);
    }
    let mark = group.server().mark();
    invented.start();
    let event = group.server().wait_event_since(mark, 20000);
    assert!(event.text.contains("ghost.test"), "{}", event.text);
    invented.wait_event(20070);
    assert!(invented.events().iter().all(|event| event.number != 40005));
    invented.stop();
    let topology = group.json(&["topology"]);
    let services = topology["services"].as_array().unwrap();
    let mut names: Vec<_> = services.iter().map(|service| service["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["agent1.test", "agent2.test", "gw1.test", "srv1.test"]);

    // The token stays revoked; another one is good.
    let by = group.gateway(0).parent();
    fails(&group.newcomer("late.test").join(&by, &revoked), "revoked");

    // Put right when the server starts, with an event for each table, and never again.
    group.server().restart();
    let events = rebuilt(group.server());
    assert!(events.len() == 2 && events.iter().any(|text| text.contains("member")), "{events:?}");
    assert!(events.iter().any(|text| text.contains("token")), "{events:?}");
    assert_eq!(tables(&group), before);
    group.server().restart();
    assert_eq!(rebuilt(group.server()), [""; 0]);
    group.gateway(0).wait_event(40004);
    fails(&group.newcomer("late.test").join(&by, &revoked), "revoked");

    // The control: who joins as it must be is in the tables, and stays there.
    let mut late = group.newcomer("good.test");
    succeeds(&late.join(&by, &good));
    late.start();
    late.wait_event(40005);
    let after = tables(&group);
    assert_eq!(after.0.len(), before.0.len() + 1);
    group.server().restart();
    assert_eq!((rebuilt(group.server()), tables(&group)), (vec![], after));
}

/// An entry of a kind that no version knows yet, as this server has signed it to stand at a place.
fn of_a_later_version(group: &Group, number: i64) -> Vec<u8> {
    let fact = Fact::TokenRevoked(trust::TokenRevoked::default());
    let entry =
        Entry { number: number.cast_unsigned(), at: 1, server: "srv1.test".into(), act: "x".into(), fact: Some(fact) };
    let mut bytes = encode(&entry).to_vec();
    // Field 1000, a string of one byte, in place of the fact.
    bytes.truncate(bytes.len() - 2);
    bytes.extend_from_slice(&[0xc2, 0x3e, 1, b'x']);
    let mut payload = vec![0x0a, u8::try_from(bytes.len()).unwrap()];
    payload.extend_from_slice(&bytes);
    encode(&group.key("srv1.test", "duty").signed(Context::Log, payload.into())).to_vec()
}

#[test]
fn an_entry_of_a_later_version_is_named_and_nothing_is_written_over_it() {
    let (mut group, log) = Group::builder().gateways(0).agents(0).direct(1).lay_with_log();
    group.start();
    group.agent(0).wait_event(40005);
    // From now on nobody has anything more to enter.
    group.server().wait_event(40006);
    group.agent(0).wait_event(40006);
    let (server, rows) = (group.server().mark(), |group: &Group| group.sql::<i64>("SELECT count(*) FROM log")[0]);
    let write = |group: &Group, number: i64, entry: &[u8]| {
        database(group).execute("INSERT INTO log VALUES (?, ?)", params![number, entry]).unwrap();
    };
    let entry =
        |group: &Group, number: i64| group.sql::<Vec<u8>>(&format!("SELECT entry FROM log WHERE number = {number}"));
    let token = ["token", "create", "--role", "agent", "--name", "late.test"];

    let next = rows(&group);
    let later = of_a_later_version(&group, next);
    write(&group, next, &later);
    for _ in 0..2 {
        let output = group.wardline(&token);
        let named = format!("entry {next} was signed by srv1.test");
        assert!(!output.status.success() && said(&output).contains(&named), "{}", said(&output));
    }
    let told = |group: &mut Group, number: u32| {
        group.server().events_since(server).into_iter().filter(|event| event.number == number).count()
    };
    group.server().wait_event_since(server, 40108);
    assert_eq!((told(&mut group, 40108), told(&mut group, 40109)), (1, 0));
    assert_eq!((rows(&group), entry(&group, next)), (next + 1, vec![later.clone()]));
    // What agents say is stored meanwhile.
    log.say("one");
    group.wait_texts(&["one"]);

    // The control: what no server vouches for is no entry, and is removed. That is said.
    let mut forged = of_a_later_version(&group, next + 1);
    let last = forged.len() - 1;
    forged[last] ^= 1;
    database(&group).execute("DELETE FROM log WHERE number = ?", [next]).unwrap();
    // Bytes, what nobody has signed, and what was signed for another place.
    for (place, foreign) in [&b"nonsense"[..], &forged, &later].into_iter().enumerate() {
        let place = next + i64::try_from(place).unwrap();
        write(&group, place, foreign);
        group.done(&token);
        assert_ne!(entry(&group, place), [foreign]);
    }
    wait::until("each was said", LIMIT, || (told(&mut group, 40109) == 3).then_some(()));
    assert_eq!(told(&mut group, 40108), 1);
    assert_eq!(rows(&group), next + 3);
    group.server().restart();
}

#[test]
fn an_entry_that_was_changed_is_named_by_verify_and_at_the_next_start() {
    let mut group = Group::builder().gateways(0).agents(0).direct(1).start();
    let (pin, other) = (group.authority().pin(), wardline_harness::pki::Authority::new("other").pin());
    let verify = |group: &Group, pin: &str| group.wardline(&["keys", "log", "verify", "--pin", pin]);
    // The control: it is right, for who knows the pin.
    let good = |group: &Group| {
        let output = verify(group, &pin);
        assert!(output.status.success() && said(&output).contains("verified"), "{}", said(&output));
    };
    good(&group);
    assert!(!verify(&group, &other).status.success());
    // From now on nobody has anything more to enter.
    group.server().wait_event(40006);
    group.agent(0).wait_event(40006);

    let entries: Vec<Vec<u8>> = group.sql("SELECT entry FROM log ORDER BY number");
    let put = |group: &Group, number: usize, entry: &[u8]| {
        let sql = "UPDATE log SET entry = ? WHERE number = ?";
        let changed = database(group).execute(sql, params![entry, i64::try_from(number).unwrap()]);
        assert_eq!(changed.unwrap(), 1);
    };
    // Every entry but the last, whose change another story tells; changed, and exchanged with its neighbour.
    for number in 0..entries.len() - 1 {
        let mut turned = entries[number].clone();
        let middle = turned.len() / 2;
        turned[middle] ^= 1;
        for wrong in [&turned, &entries[number + 1]] {
            put(&group, number, wrong);
            let output = verify(&group, &pin);
            let named = format!("entry {number} of the trust log");
            assert!(!output.status.success() && said(&output).contains(&named), "{named}: {}", said(&output));
            put(&group, number, &entries[number]);
        }
    }
    good(&group);
    // One that is cut is not what the server has signed the head of.
    let last = "DELETE FROM log WHERE number = (SELECT max(number) FROM log)";
    assert_eq!(database(&group).execute(last, []).unwrap(), 1);
    let output = verify(&group, &pin);
    let named = format!("the server's head is of {} entries", entries.len());
    assert!(!output.status.success() && said(&output).contains(&named), "{}", said(&output));
    let last = "INSERT INTO log (number, entry) SELECT max(number) + 1, ? FROM log";
    assert_eq!(database(&group).execute(last, [entries.last()]).unwrap(), 1);
    good(&group);

    // The server does not start with it, and says which.
    let number = entries.len() / 2;
    let mut turned = entries[number].clone();
    turned[9] ^= 1;
    put(&group, number, &turned);
    group.server().stop();
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    let event = group.server().wait_event(40066);
    assert!(event.text.contains(&format!("entry {number} ")), "{}", event.text);
    put(&group, number, &entries[number]);
    group.server().start();
    good(&group);
}
