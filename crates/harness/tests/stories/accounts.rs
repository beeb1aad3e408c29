//! Run As accounts and profiles as their operator sees them: who has what, why, since when, and who never will.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::pty::openpty;
use rusqlite::{Connection, params};
use serde_json::Value;
use wardline_harness::estate::{Estate, hash};
use wardline_harness::group::Group;
use wardline_harness::program::{said, succeeds};
use wardline_harness::search::Search;
use wardline_harness::{Daemon, scratch, wait};
use wardline_secrets::protect::Vault;

use crate::passwords::accounts;

const LIMIT: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct-horse-battery-staple";
const NEXT: &str = "Tr0ub4dor-and-3-more-of-them";

/// What `profile explain` says of each agent: how far it is, and the account.
fn explained(group: &Group, profile: &str) -> BTreeMap<String, (String, Option<String>)> {
    let rows = group.json(&["profile", "explain", profile]);
    let text = |row: &Value, field: &str| row[field].as_str().map(str::to_owned);
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| (text(row, "agent").unwrap(), (text(row, "state").unwrap(), text(row, "account")))).collect()
}

/// Waits until the agents are as far as this, in the order of their names.
#[track_caller]
fn wait_explained(group: &Group, profile: &str, expected: &[&str]) {
    let states = || explained(group, profile).into_values().map(|(state, _)| state).collect::<Vec<_>>();
    wait::until(&format!("{expected:?}, not {:?}", states()), LIMIT, || (states() == expected).then_some(()));
}

/// The names of the accounts that an agent was sent and keeps.
fn holds(agent: &Daemon) -> Vec<String> {
    accounts(agent).into_iter().map(|data| data.name).collect()
}

#[test]
fn profile_explain_agrees_with_what_each_agent_holds() {
    let mut estate = Estate::lay(Group::builder().agents(2).direct(1), 3);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test,agent2.test");
    estate.another("spare", "other", NEXT, "agent2.test");
    estate.group.done(&["profile", "set", "web", "--account", "spare", "--agent", "agent3.test"]);
    estate.watch(&["agent1.test", "agent3.test"]);
    let agree = |estate: &mut Estate, expected: [(&str, &[&str]); 3]| {
        wait_explained(&estate.group, "web", &expected.map(|(state, _)| state));
        for (number, (_, held)) in expected.into_iter().enumerate() {
            let agent = estate.group.agent(number);
            wait::until(&format!("agent {number} holds {held:?}"), LIMIT, || (holds(agent) == held).then_some(()));
        }
    };
    // The one uses it, nothing that the second runs asks for it, and the third may not have what is meant for it.
    agree(&mut estate, [("used", &["shop"]), ("unused", &[]), ("undistributed", &[])]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let rows = explained(&estate.group, "web");
    assert_eq!(rows["agent3.test"].1.as_deref(), Some("spare"));
    let table = estate.group.done(&["profile", "explain", "web", "--agent", "agent3.test"]);
    assert!(table.contains("`wardline account update spare --also-to agent3.test`"), "{table}");

    // What it says is to be done, is done, and helps.
    estate.group.done(&["account", "update", "spare", "--also-to", "agent3.test"]);
    agree(&mut estate, [("used", &["shop"]), ("unused", &[]), ("used", &["spare"])]);
    estate.meeting.wait("agent3.test", &hash(NEXT));

    // What cannot have come yet is said to be on its way.
    estate.group.agent(1).stop();
    estate.watch(&["agent2.test"]);
    wait_explained(&estate.group, "web", &["used", "unsent", "used"]);
    estate.group.agent(1).start();
    agree(&mut estate, [("used", &["shop"]), ("used", &["shop"]), ("used", &["spare"])]);
    // So is a new secret, whoever has used the old one.
    estate.group.agent(1).stop();
    estate.update(NEXT);
    wait_explained(&estate.group, "web", &["used", "unsent", "used"]);
    estate.group.agent(1).start();
    agree(&mut estate, [("used", &["shop"]), ("used", &["shop"]), ("used", &["spare"])]);

    // What is taken away is gone, on both sides.
    estate.group.done(&["account", "update", "shop", "--not-to", "agent1.test"]);
    agree(&mut estate, [("undistributed", &[]), ("used", &["shop"]), ("used", &["spare"])]);
    estate.group.done(&["profile", "unset", "web", "--agent", "agent3.test"]);
    estate.group.done(&["profile", "unset", "web"]);
    agree(&mut estate, [("unassigned", &[]), ("unassigned", &[]), ("unassigned", &[])]);
    estate.group.agent(1).wait_event(1107);
}

#[test]
fn a_receipt_says_sent_opened_used() {
    let mut estate = Estate::lay(Group::builder(), 1);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    let receipts = |estate: &Estate| {
        let shown = estate.group.json(&["account", "show", "shop"]);
        assert_eq!((shown["login"].as_str(), shown["kind"].as_str()), (Some("ann"), Some("basic")));
        shown["receipts"].as_array().unwrap().clone()
    };
    assert!(receipts(&estate).is_empty(), "nothing that it runs asks for it");
    estate.watch(&["agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let has = |receipt: &Value, fields: &[&str]| fields.iter().all(|field| !receipt[field].is_null());
    let first = wait::until("a receipt of its use", LIMIT, || {
        let found = receipts(&estate);
        let used =
            found.first().is_some_and(|receipt| has(receipt, &["sent_at", "opened_at", "used_since", "used_at"]));
        used.then(|| found[0].clone())
    });
    assert_eq!((&first["agent"], &first["workflow"]), (&"agent1.test".into(), &"web-agent1/login".into()));
    assert!(first["removed_at"].is_null() && first["failed_at"].is_null(), "{first}");

    // A new secret has a receipt of its own, and the old one is wiped.
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    let both = wait::until("a receipt of its end", LIMIT, || {
        let found = receipts(&estate);
        let ended = found.len() == 2 && has(&found[0], &["removed_at"]) && has(&found[1], &["used_since"]);
        ended.then_some(found)
    });
    assert_eq!(both[0]["version"], first["version"]);
    assert!(both[1]["version"].as_u64() > first["version"].as_u64() && both[1]["removed_at"].is_null(), "{both:?}");

    // An account that profiles stand for stays; without them it goes, and the host wipes it.
    let kept = estate.group.wardline(&["account", "delete", "shop"]);
    assert_eq!((kept.status.code(), said(&kept).contains("profiles stand for: web")), (Some(5), true), "{kept:?}");
    let rows = |estate: &Estate| {
        let count = |table| estate.group.sql::<i64>(&format!("SELECT count(*) FROM {table}"))[0];
        (count("account"), count("receipt"))
    };
    let on_disk = estate.group.agent(0).state().join("accounts");
    assert_eq!(rows(&estate), (1, 2), "the control: they are there");
    assert!(!fs::read(&on_disk).unwrap().is_empty(), "the control: it is on the host's disk");
    estate.group.done(&["profile", "unset", "web"]);
    estate.group.done(&["account", "delete", "shop"]);
    assert_eq!(estate.group.wardline(&["account", "show", "shop"]).status.code(), Some(3));
    assert_eq!(rows(&estate), (0, 0), "its secret and its receipts are gone");
    wait::until("the host holds nothing", LIMIT, || {
        (holds(estate.group.agent(0)).is_empty() && fs::read(&on_disk).unwrap().is_empty()).then_some(())
    });
}

#[test]
fn an_agent_cannot_earn_a_credential_by_what_it_claims() {
    let own = "[pack]\nname = \"own\"\n";
    let mut estate = Estate::lay(Group::builder().agents(2).pack("own", own), 2);
    // The second one's host names the profile by itself.
    let claim = "[[check]]\nname = \"claim\"\nprogram = [\"/bin/true\"]\nrun_as = \"web\"\nevery = \"250ms\"\n";
    estate.group.write_pack("own", &format!("{own}{claim}"));
    estate.group.start();
    // Both may have it, and no pack of theirs asks for it.
    estate.account(PASSWORD, "agent1.test,agent2.test");
    estate.group.agent(1).wait_event(1107);
    wait_explained(&estate.group, "web", &["unused", "unused"]);
    estate.group.done(&["account", "update", "shop", "--not-to", "agent2.test"]);
    // An operator has it run a pack that does. Whom the account is for says an operator, too, and has not.
    estate.watch(&["agent1.test", "agent2.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    estate.group.agent(1).wait_event(1108);
    wait_explained(&estate.group, "web", &["used", "undistributed"]);
    assert!(holds(estate.group.agent(1)).is_empty());
    let receipts = |estate: &Estate| {
        let shown = estate.group.json(&["account", "show", "shop"]);
        let agents = shown["receipts"].as_array().unwrap().iter().map(|receipt| receipt["agent"].clone());
        agents.collect::<Vec<_>>()
    };
    assert_eq!(receipts(&estate), ["agent1.test"], "who it was not for never had it");

    // Who has the name of one that had it is another: nothing is inherited, from the moment that the first was removed.
    estate.group.agent(0).stop();
    estate.group.done(&["agent", "remove", "agent1.test"]);
    let mut second = estate.group.newcomer("agent1.test");
    second.configure(&format!("runas = \"{}\"", estate.helper.socket().display()));
    let token = estate.group.token(&["--role", "agent", "--name", "agent1.test", "--via", "gw1.test"]);
    let parent = estate.group.gateway(0).parent();
    succeeds(&second.join(&parent, &token));
    estate.meeting.forget("agent1.test");
    second.start();
    second.wait_event(40006);
    second.wait_event(1108);
    wait_explained(&estate.group, "web", &["undistributed", "undistributed"]);
    assert!(holds(&second).is_empty());
    assert_eq!(estate.meeting.said("agent1.test"), None);
    assert_eq!(receipts(&estate), [""; 0], "nothing is inherited");

    // The control: an operator's word is what it takes, and all that it takes.
    estate.group.done(&["account", "update", "shop", "--also-to", "agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    wait_explained(&estate.group, "web", &["used", "undistributed"]);
}

#[test]
fn a_database_dump_holds_no_secret() {
    let mut estate = Estate::lay(Group::builder(), 1);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.another("spare", "other", PASSWORD, "agent1.test");
    estate.watch(&["agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    wait_explained(&estate.group, "web", &["used"]);

    // The key is on the server, protected, and never in the database.
    let folder = estate.group.server().state().to_owned();
    let vault = Vault::look(folder.parent().unwrap()).unwrap();
    let key = vault.read(&folder.join("group.key"), "group.key").unwrap();
    let search = Search::of("password", PASSWORD.as_bytes()).and("group key", &key);
    let dump = estate.group.folder().join("dump.db");
    let connection = Connection::open(estate.group.database()).unwrap();
    connection.execute("VACUUM INTO ?", [dump.to_str().unwrap()]).unwrap();
    drop(connection);
    // As it lies there with its log, and as a dump of it.
    let database = estate.group.database().to_owned();
    let log = database.with_extension("db-wal");
    search.files(&[&database, &log]).finds_nothing();
    search.files(&[&dump]).finds_nothing();
    // Two accounts with the same secret are not told to be the same.
    let rows: Vec<Vec<u8>> = estate.group.sql("SELECT secret FROM account");
    assert!(rows.len() == 2 && rows[0].len() == rows[1].len());
    // Four bytes, the key's id, a nonce; what is encrypted; a tag.
    let encrypted = |row: &[u8]| row[32..row.len() - 16].to_vec();
    assert_ne!(encrypted(&rows[0]), encrypted(&rows[1]));

    // The control: what somebody writes into it is found by the same search.
    let connection = Connection::open(&dump).unwrap();
    connection.execute_batch("CREATE TABLE planted (secret BLOB)").unwrap();
    connection.execute("INSERT INTO planted VALUES (?)", [PASSWORD]).unwrap();
    connection.execute("INSERT INTO planted VALUES (?)", [key.as_slice()]).unwrap();
    drop(connection);
    let found = search.files(&[&dump]);
    found.finds_it();
    for needle in ["password", "group key"] {
        assert!(found.findings.iter().any(|finding| finding.needle == needle), "{needle}");
    }
}

#[test]
fn a_row_that_was_exchanged_goes_to_nobody() {
    let mut estate = Estate::lay(Group::builder().agents(2), 2);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.another("spare", "other", NEXT, "agent1.test");
    estate.watch(&["agent1.test", "agent2.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let rows: Vec<Vec<u8>> = estate.group.sql("SELECT secret FROM account ORDER BY id");
    let connection = Connection::open(estate.group.database()).unwrap();
    let ids: Vec<Vec<u8>> = estate.group.sql("SELECT id FROM account ORDER BY id");
    let put = |id: &[u8], row: &[u8]| {
        connection.execute("UPDATE account SET secret = ?2 WHERE id = ?1", params![id, row]).unwrap();
    };
    put(&ids[0], &rows[1]);
    put(&ids[1], &rows[0]);
    let mark = estate.group.server().mark();
    estate.group.done(&["account", "update", "shop", "--also-to", "agent2.test"]);
    let told = estate.group.server().wait_event_since(mark, 40183).text;
    assert!(told.contains("shop") && told.contains("not the one that the trust log speaks of"), "{told}");
    wait_explained(&estate.group, "web", &["used", "unsent"]);
    assert!(holds(estate.group.agent(1)).is_empty());
    // Who has it keeps it.
    estate.meeting.forget("agent1.test");
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    // The control: given again, with the login that cannot be read any more, it goes to both.
    let file = estate.secret(NEXT).display().to_string();
    let alone = estate.group.wardline(&["account", "update", "shop", "--secret-file", &file]);
    assert!(alone.status.code() == Some(2) && said(&alone).contains("update shop --user LOGIN"), "{alone:?}");
    estate.update(NEXT);
    for agent in ["agent1.test", "agent2.test"] {
        estate.meeting.wait(agent, &hash(NEXT));
    }
}

#[test]
fn a_lost_group_key_is_not_made_anew_while_secrets_rest_under_it() {
    let mut group = Group::builder().agents(0).gateways(0).lay();
    group.start();
    let secret = group.folder().join("secret");
    fs::write(&secret, PASSWORD).unwrap();
    let secret = secret.display().to_string();
    group.done(&["account", "create", "shop", "--kind", "basic", "--user", "ann", "--secret-file", &secret]);
    let login = |group: &Group| group.json(&["account", "show", "shop"])["login"].as_str().map(str::to_owned);
    assert_eq!(login(&group).as_deref(), Some("ann"));
    group.server().stop();
    let key = group.server().state().join("group.key");
    let kept = fs::read(&key).unwrap();
    fs::rename(&key, key.with_extension("gone")).unwrap();
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    assert!(group.server().wait_event(40160).text.contains("group.key"));
    assert!(!key.exists());
    // What is there and does not open is no better.
    let mut damaged = kept.clone();
    *damaged.last_mut().unwrap() ^= 1;
    scratch::write(&key, damaged, 0o600);
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    group.server().wait_event(40161);
    // The control: as it was, all is well.
    scratch::write(&key, kept, 0o600);
    group.server().start();
    assert_eq!(login(&group).as_deref(), Some("ann"));
}

#[test]
fn an_account_goes_to_every_agent_only_where_the_servers_configuration_allows_it() {
    let mut group = Group::builder().lay();
    group.start();
    let secret = group.folder().join("secret");
    fs::write(&secret, "public\n").unwrap();
    let secret = secret.display().to_string();
    let wide = ["account", "create", "snmp", "--kind", "community", "--secret-file", &secret, "--everywhere"];
    let refused = group.wardline(&wide);
    assert_eq!((refused.status.code(), said(&refused).contains("less_secure_distribution")), (Some(4), true));
    assert!(group.server().events().iter().all(|event| event.number != 40162));
    group.server().stop();
    group.server().set("less_secure_distribution", true);
    group.server().start();
    assert!(group.server().wait_event(40162).text.contains("none"));
    group.done(&wide);
    let status = said(&group.wardline(&["status"]));
    assert!(status.contains("every agent has Run As account snmp"), "{status}");
    let table = group.done(&["account", "list"]);
    assert!(table.contains("every agent"), "{table}");
    // Naming agents ends it.
    group.done(&["account", "update", "snmp", "--to", "agent1.test"]);
    assert!(!said(&group.wardline(&["status"])).contains("every agent has"));
}

/// The command line on a terminal, and somebody who sits at it.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Terminal {
    fn new(group: &Group, arguments: &[&str]) -> Self {
        let terminal = openpty(None, None).unwrap();
        let mut command = group.command(arguments);
        let own = || Stdio::from(terminal.slave.try_clone().unwrap());
        let child = command.stdin(own()).stdout(own()).stderr(own()).spawn().unwrap();
        let (keyboard, mut shown) = (File::from(terminal.master.try_clone().unwrap()), File::from(terminal.master));
        let screen = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&screen);
        let reader = std::thread::spawn(move || {
            let mut part = [0; 1024];
            // Once nobody has the terminal any more, there is nothing to read.
            while let Ok(count @ 1..) = shown.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { child, keyboard, screen, reader }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Types a line once it was asked for.
    fn types(&mut self, asked: &str, line: &str) {
        wait::until(asked, LIMIT, || self.shown().contains(asked).then_some(()));
        writeln!(self.keyboard, "{line}").unwrap();
    }

    fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let shown = self.screen.lock().unwrap();
        (status, String::from_utf8_lossy(&shown).into_owned())
    }
}

#[test]
fn a_secret_is_asked_for_where_nobody_sees_it() {
    let mut group = Group::builder().agents(0).gateways(0).lay();
    group.start();
    let create = ["account", "create", "shop", "--kind", "basic", "--user", "ann"];
    let refused = group.wardline(&create);
    assert_eq!((refused.status.code(), said(&refused).contains("`--secret-file -`")), (Some(2), true), "{refused:?}");

    // On a terminal it is asked for twice, and not shown.
    let mut terminal = Terminal::new(&group, &create);
    terminal.types("password: ", PASSWORD);
    terminal.types("the same password again: ", NEXT);
    let (status, shown) = terminal.ended();
    assert!(status.code() == Some(2) && shown.contains("not the same"), "{shown}");
    let mut terminal = Terminal::new(&group, &create);
    terminal.types("password: ", PASSWORD);
    terminal.types("the same password again: ", PASSWORD);
    let (status, shown) = terminal.ended();
    assert!(status.success() && shown.contains("shop"), "{shown}");
    assert!(!shown.contains(PASSWORD) && !shown.contains(NEXT), "{shown}");
    let first = group.json(&["account", "show", "shop"])["version"].as_u64().unwrap();

    // Or read from standard input; a blank one is refused by the command itself, with the event that explains it.
    let update = |secret: &str| {
        let mut command = group.command(&["account", "update", "shop", "--secret-file", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(secret.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    succeeds(&update(NEXT));
    assert!(group.json(&["account", "show", "shop"])["version"].as_u64().unwrap() > first);
    for blank in ["", "\n", "  \n", "two\nlines\n"] {
        let refused = update(blank);
        let told = said(&refused);
        assert!(refused.status.code() == Some(2) && told.contains("wardline explain 7011"), "{told}");
    }
    assert!(group.done(&["explain", "7011"]).contains("SecretRefused"));
}
