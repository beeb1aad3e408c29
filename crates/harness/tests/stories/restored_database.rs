//! A server's database is put back from a backup: agents send again what they still have, and what they have not is
//! counted, to the line.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use wardline_harness::group::{Group, sql};
use wardline_harness::ids::Log;
use wardline_harness::log::pack;
use wardline_harness::program::{fails, succeeds};
use wardline_harness::wait;

use crate::load_kills::{BURST, Holder, assert_each_line_once, stored, wait_for_the_last_line};
use crate::rolled_back::accept;

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 17;
/// Two agents follow the same file.
const AGENTS: [&str; 2] = ["agent1.test", "agent2.test"];

#[test]
fn a_database_restored_from_backup_says_what_is_missing() {
    restored(false);
}

#[test]
fn a_postgresql_restored_from_backup_says_what_is_missing() {
    restored(true);
}

/// Copies the database while the server runs, by the command for it.
fn copy_by_command(group: &mut Group, backup: &Path) {
    let backup_path = backup.display().to_string();
    let answer = group.json(&["db", "backup", &backup_path]);
    let metadata = backup.metadata().unwrap();
    assert_eq!((answer["file"].as_str(), answer["bytes"].as_u64()), (Some(&*backup_path), Some(metadata.len())));
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o600, nix::unistd::getuid().as_raw()));
    let said = group.server().wait_event(40027);
    assert!(said.text.contains(&backup_path) && said.text.contains("operator "), "{said:?}");
    let whole = fs::read(backup).unwrap();
    fails(&group.wardline(&["db", "backup", &backup_path]), "is there already");
    assert!(fs::read(backup).unwrap() == whole, "a copy is never written over another");
    assert_eq!(sql::<String>(backup, "PRAGMA integrity_check"), ["ok"]);
}

/// Puts the copy in place of the database while the server does not run.
fn put_back(group: &mut Group, backup: &Path) {
    if group.has_postgres() {
        return group.postgres().put_back(backup);
    }
    let database = group.database().to_owned();
    for end in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{end}", database.display())));
    }
    fs::copy(backup, &database).unwrap();
}

fn restored(postgres: bool) {
    let mut group = Group::builder().agents(2).postgres(postgres).pack("base", "").lay();
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    group.write_pack("base", &pack("base", log.path()));
    log.append(2000);
    group.start();
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);

    // A copy while it runs and takes what comes.
    let backup = group.folder().join("backup.db");
    let before = stored(&group);
    log.append(5000);
    wait::until("some of it is stored", LIMIT, || (stored(&group) > before).then_some(()));
    if postgres {
        fails(&group.wardline(&["db", "backup", backup.to_str().unwrap()]), "pg_basebackup or pg_dump");
        group.postgres().copy(&backup);
    } else {
        copy_by_command(&mut group, &backup);
    }

    // More load, which is acknowledged; something is decided about trust; at last some waits in the queues.
    log.append(3000);
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);
    assert_each_line_once(&group, &log, &AGENTS);
    group.token(&["--role", "agent", "--name", "late.test"]);
    let (holder, _) = Holder::hold(&mut group, &mut log);
    let waits = log.append(2000).start - BURST;
    for agent in 0..2 {
        let queue = group.agent(agent).state().join("queue.db");
        let count = "SELECT count(*) FROM batch";
        wait::until("batches wait", LIMIT, || (sql::<i64>(&queue, count)[0] >= 2).then_some(()));
    }
    group.server().kill9();
    holder.release();
    put_back(&mut group, &backup);
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    group.server().wait_event(40065);
    succeeds(&accept(&mut group, &["--yes"]));
    let marks = [0, 1].map(|agent| group.agent(agent).mark());
    group.server().start();
    for (agent, mark) in marks.into_iter().enumerate() {
        group.agent(agent).wait_event_since(mark, 40016);
    }
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 2);

    for agent in AGENTS {
        let tally = log.tally(group.event_texts(agent));
        assert!(tally.doubled.is_empty() && tally.invented.is_empty(), "{agent}: {tally}");
        assert!(!tally.lost.is_empty(), "{agent}: a restore that loses nothing proves nothing");
        assert!(tally.lost.iter().all(|line| *line < waits), "{agent}: what waited came: {tally}");
        let shown = group.json(&["gap", "list", "--agent", agent]);
        let [gap] = shown.as_array().unwrap().as_slice() else { panic!("one gap: {shown}") };
        assert_eq!(gap["reason"], "lost-by-restore", "{shown}");
        let number = |field: &str| gap[field].as_u64().unwrap();
        // Each line is a number of the stream: these are the lines.
        let counted: Vec<_> = (number("first") - 1..number("last")).collect();
        assert_eq!(tally.lost, counted, "{agent}");
        assert_eq!(number("unknown"), counted.len() as u64);
        println!("{agent}: {} lines are gone and counted", counted.len());
    }
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM set_aside"), [0]);
    assert_eq!(group.sql::<i64>("SELECT state FROM stream"), [0, 0], "the same streams go on");
    assert!(group.done(&["gap", "list"]).contains("lost-by-restore"));
    assert_eq!(group.json(&["db", "check"]), serde_json::json!([]));
}
