//! What an operator asks of the database, and does to it: what it is, what of it may be lost, its schema.

use std::process::Command;

use rusqlite::Connection;
use serde_json::{Value, json};
use wardline_harness::group::Group;
use wardline_harness::program::{self, fails, succeeds};

/// `wardline db info`: what it answers, and what it says besides.
#[track_caller]
fn info(group: &Group) -> (Value, String) {
    let output = group.wardline(&["-o", "json", "db", "info"]);
    let shown = serde_json::from_str(&succeeds(&output)).unwrap();
    (shown, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_a_database_may_lose_is_said() {
    let mut group = Group::builder().gateways(0).agents(0).lay();
    group.server().start();
    let (shown, said) = info(&group);
    assert_eq!(shown["place"], group.database().to_str().unwrap());
    assert_eq!((&shown["engine"], &shown["way"], &shown["standbys"]), (&json!("SQLite"), &json!("file"), &json!([])));
    assert_eq!((shown["schema"].as_u64(), said.as_str()), (shown["newest_schema"].as_u64(), ""), "{shown}");

    let mut group = Group::builder().gateways(0).agents(0).postgres(true).lay();
    group.server().start();
    let (shown, said) = info(&group);
    let place = group.postgres().url(&[]).replace("wardline@", "");
    assert_eq!((&shown["engine"], &shown["place"]), (&json!("PostgreSQL"), &json!(place)));
    let way = shown["way"].as_str().unwrap();
    assert!(way.starts_with("127.0.0.1:") && way.ends_with(" by TLSv1.3"), "{shown}");
    for name in ["data_checksums", "fsync", "full_page_writes", "synchronous_commit"] {
        assert_eq!(shown["settings"][name], "on", "{shown}");
    }
    assert!(shown["bytes"].as_u64() > Some(1 << 20) && shown["version"].as_str().unwrap().starts_with("15"), "{shown}");
    assert_eq!((shown["schema"].as_u64(), said.as_str()), (shown["newest_schema"].as_u64(), ""), "{shown}");

    // A standby that nobody waits for: it is named, with what to do. That done, nothing is left to say.
    let standby = group.postgres().standby(false);
    let (shown, said) = info(&group);
    assert_eq!(shown["standbys"][0]["commits"], "async", "{shown}");
    let named = "warning: standby walreceiver is asynchronous: ";
    assert!(said.contains(named) && said.contains("ALTER SYSTEM SET synchronous_standby_names"), "{said}");
    group.postgres().wait_for_standbys();
    let (shown, said) = info(&group);
    assert_eq!((&shown["standbys"][0]["commits"], said.as_str()), (&json!("sync"), ""), "{shown}");
    assert!(group.done(&["db", "info"]).contains("walreceiver (streaming sync "));
    drop(standby);

    // What would not survive a power cut.
    group.server().kill9();
    group.postgres().admin("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
    group.postgres().stop();
    group.postgres().forget_checksums();
    group.postgres().restart(&["fsync=off", "full_page_writes=off"]);
    group.server().start();
    let (shown, said) = info(&group);
    for name in ["fsync", "full_page_writes", "data_checksums"] {
        assert_eq!(shown["settings"][name], "off", "{shown}");
        assert!(said.contains(&format!("warning: {name} is off: ")), "{said}");
    }
    assert_eq!(shown["warnings"].as_array().unwrap().len(), 3, "{shown}");
}

/// Changes the database beside a server that does not run.
fn write(group: &mut Group, sql: &str) {
    if group.has_postgres() {
        group.postgres().admin("wardline", sql);
    } else {
        Connection::open(group.database()).unwrap().execute_batch(sql).unwrap();
    }
}

#[test]
fn a_schema_only_goes_forward_and_says_so() {
    for postgres in [false, true] {
        let mut group = Group::builder().gateways(0).agents(0).postgres(postgres).lay();
        let version = if postgres { "UPDATE wardline_schema SET version = " } else { "PRAGMA user_version = " };
        let migrate = |group: &mut Group| {
            let mut command = Command::new(program::find("wardline-server"));
            command.arg("migrate").arg("--config").arg(group.server().config()).output().unwrap()
        };
        assert!(succeeds(&migrate(&mut group)).contains("the schema is 6, the newest"));

        // As an earlier version has left it: by the command, and by a start.
        let back = format!("DROP TABLE withheld; ALTER TABLE agent DROP COLUMN heard_late; {version} 5");
        write(&mut group, &back);
        let output = migrate(&mut group);
        assert_eq!(succeeds(&output), "the schema was 5, and is 6 now\n");
        assert!(String::from_utf8(output.stderr).unwrap().contains(" 40033 "));
        write(&mut group, &back);
        let mark = group.server().mark();
        group.server().start();
        assert!(group.server().wait_event_since(mark, 40033).text.ends_with("from 5 to 6"));
        assert_eq!(group.sql::<i64>("SELECT count(*) FROM withheld"), [0]);
        assert_eq!(info(&group).0["schema"], 6);
        fails(&migrate(&mut group), "another program runs on it");

        // A newer one is left alone.
        assert!(group.server().stop().success());
        write(&mut group, &format!("{version} 99"));
        fails(&migrate(&mut group), "has schema 99, this program knows schemas up to 6");
        let mark = group.server().mark();
        group.server().spawn();
        assert!(!group.server().wait_exit().success());
        let said = group.server().wait_event_since(mark, 40022).text;
        assert!(said.contains(if postgres { "postgres://localhost" } else { "wardline.db" }), "{said}");
        // The control: with its number it is good again, nothing of it was changed.
        write(&mut group, &format!("{version} 6"));
        assert!(succeeds(&migrate(&mut group)).contains("nothing to do"));
        group.server().start();
    }
}
