//! What a disk has changed is named, and costs what it held and nothing else: a batch in an agent's queue, a page of the
//! server's database, also in PostgreSQL.

use std::fs::{self, OpenOptions};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use wardline_harness::group::{Group, sql};
use wardline_harness::ids::{self, Log};
use wardline_harness::log::pack;
use wardline_harness::program::fails;
use wardline_harness::wait;

use crate::load_kills::wait_for_the_last_line;

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 16;
/// A page of SQLite.
const PAGE: usize = 4096;
/// And one of PostgreSQL, which has a checksum over all of it.
const PAGE_OF_POSTGRES: usize = 8192;

/// Where these bytes stand in a file; there may be copies in parts that are not in use.
fn places(file: &Path, bytes: &[u8]) -> Vec<usize> {
    let all = fs::read(file).unwrap();
    let places: Vec<_> = (0..all.len() - bytes.len()).filter(|at| all[*at..].starts_with(bytes)).collect();
    assert!(!places.is_empty(), "{}", file.display());
    places
}

/// Changes a bit of a file.
fn flip(file: &Path, at: usize) {
    let open = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, at as u64).unwrap();
    open.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
}

/// The numbers of the lines that a database has not, of those that an agent has found; all others are there once.
fn lost(group: &Group, log: &Log, texts: &[String]) -> Vec<u64> {
    let tally = log.tally(texts);
    assert!(tally.doubled.is_empty() && tally.invented.is_empty(), "{tally}");
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM set_aside"), [0]);
    tally.lost
}

/// The only gap: its first and its last number, and how many entries it counts.
fn gap(group: &Group, reason: &str) -> (RangeInclusive<u64>, u64) {
    let shown = group.json(&["gap", "list"]);
    let [gap] = shown.as_array().unwrap().as_slice() else { panic!("one gap: {shown}") };
    assert_eq!(gap["reason"], reason, "{shown}");
    let number = |field: &str| gap[field].as_u64().unwrap();
    (number("first")..=number("last"), number("unknown"))
}

/// The seconds of a day in the time of an event.
fn seconds(time: &str) -> f64 {
    time[11..].trim_end_matches('Z').split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap())
}

/// A group with an agent that follows a log, of which the first lines are stored.
fn group(postgres: bool) -> (Group, Log) {
    let mut group = Group::builder().postgres(postgres).pack("base", "").lay();
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    group.write_pack("base", &pack("base", log.path()));
    log.append(100);
    group.start();
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
    (group, log)
}

#[test]
fn a_damaged_record_is_named_and_the_rest_stays() {
    let (mut group, mut log) = group(false);
    a_batch_in_the_queue(&mut group, &mut log);
    a_page_of_the_database(&mut group, &mut log);
    // A copy that lacks something is none.
    let copy = group.folder().join("copy.db");
    fails(&group.wardline(&["db", "backup", &copy.display().to_string()]), "malformed");
    assert!(!copy.exists());
}

#[test]
fn a_damaged_page_of_postgresql_is_named_and_the_rest_stays() {
    let (mut group, mut log) = group(true);
    log.append(3000);
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
    a_page_of_the_database(&mut group, &mut log);

    // What has no numbers is named by its table.
    let (file, page) = group.postgres().page_of("stream", "number > 0");
    group.server().kill9();
    group.postgres().stop();
    flip(&file, usize::try_from(page).unwrap() * PAGE_OF_POSTGRES + 5000);
    group.postgres().run();
    let (mark, agent) = (group.server().mark(), group.agent(0).mark());
    group.server().start();
    log.append(10);
    // Nothing can be compared with it, so nothing is acknowledged; that is said once, and where to look.
    let said = group.server().wait_event_since(mark, 40028);
    assert!(said.text.contains("invalid page"), "{said:?}");
    assert!(group.done(&["explain", "40028"]).contains("wardline db check"));
    // The agent comes again, later and later.
    let refused = wait::until("the agent is refused again and again", LIMIT, || {
        let events = group.agent(0).events_since(agent);
        let refused = events.iter().filter(|event| event.text.contains("the database cannot be read now"));
        let times: Vec<f64> = refused.map(|event| seconds(&event.time)).collect();
        (times.len() >= 5).then_some(times)
    });
    assert!(refused[4] - refused[3] > 0.5, "{refused:?}");
    let said = group.server().events_since(mark).into_iter().filter(|event| event.number == 40028);
    assert_eq!(said.count(), 1);
    let output = group.wardline(&["-o", "json", "db", "check"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown[1]["place"], "the table stream", "{shown}");

    // An entry that a server of the group has signed is looked at by itself: its page is good, and it is not.
    group.server().kill9();
    let change = "UPDATE log SET entry = set_byte(entry, 20, get_byte(entry, 20) # 16) WHERE number = 2";
    group.postgres().admin("wardline", change);
    let mark = group.server().mark();
    group.server().spawn();
    assert!(!group.server().wait_exit().success());
    assert!(group.server().wait_event_since(mark, 40066).text.contains("entry 2 "));
}

fn a_batch_in_the_queue(group: &mut Group, log: &mut Log) {
    // Batches that the agent has closed and the server has not stored.
    let other = Connection::open(group.database()).unwrap();
    other.busy_timeout(LIMIT).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    log.append(3000);
    let queue = group.agent(0).state().join("queue.db");
    wait::until("batches wait", LIMIT, || (sql::<i64>(&queue, "SELECT count(*) FROM batch") >= vec![4]).then_some(()));
    group.gateway(0).stop();
    group.server().kill9();
    drop(other);
    // The control: started as it is it misses nothing. A start also brings everything from SQLite's log into the file.
    group.agent(0).restart();
    assert!(group.agent(0).events().iter().all(|event| event.number != 40134));
    group.agent(0).kill9();
    let second = |column: &str| format!("SELECT {column} FROM batch ORDER BY last LIMIT 1 OFFSET 1");
    let [first, last] = ["first", "last"].map(|column| sql::<i64>(&queue, &second(column))[0] as u64);
    let bytes = sql::<Vec<u8>>(&queue, &second("bytes")).remove(0);
    places(&queue, &bytes[..32]).into_iter().for_each(|at| flip(&queue, at + 20));
    group.server().start();
    group.gateway(0).start();
    group.agent(0).start();
    let event = group.agent(0).wait_event(40134);
    assert!(event.text.contains(&format!("the batch of entries {first} to {last}")), "{event:?}");
    group.agent(0).wait_event(40013);
    wait_for_the_last_line(group, log, LOG_SEED, 1);

    // The lines of that batch are gone and counted, and no others. Each line is a number of the stream.
    let lines: Vec<_> = (first - 1..last).collect();
    assert_eq!(lost(group, log, &group.event_texts("agent1.test")), lines);
    assert_eq!(gap(group, "damaged").1, lines.len() as u64);
}

/// The control: before, nothing is wrong. Then a bit is changed in the page that has this line.
fn damage_the_page_of(group: &mut Group, line: &str) {
    assert_eq!(group.json(&["db", "check"]), serde_json::json!([]));
    if group.has_postgres() {
        let (file, page) = group.postgres().page_of("event", &format!("text = '{line}'"));
        group.server().kill9();
        group.postgres().stop();
        flip(&file, usize::try_from(page).unwrap() * PAGE_OF_POSTGRES + 5000);
        group.postgres().run();
    } else {
        // A start brings everything from SQLite's log into the file.
        group.server().restart();
        group.server().kill9();
        let database = group.database().to_owned();
        // The first byte of a page says what the page is.
        places(&database, line.as_bytes()).into_iter().for_each(|at| flip(&database, at / PAGE * PAGE));
    }
}

fn a_page_of_the_database(group: &mut Group, log: &mut Log) {
    let before = group.event_texts("agent1.test");
    let numbers: Vec<i64> = group.sql("SELECT number FROM event ORDER BY number");
    let known = lost(group, log, &before);
    damage_the_page_of(group, &before[1000]);
    group.server().start();

    // The server takes what comes.
    log.append(500);
    let last = ids::line(LOG_SEED, log.append(1).start);
    let newest = "SELECT text FROM event ORDER BY number DESC LIMIT 1";
    wait::until("the last line is stored", LIMIT, || (group.sql::<String>(newest) == [last.as_str()]).then_some(()));
    // What is damaged is named, by rows.
    if group.has_postgres() {
        // It would rather read the whole table, whatever is asked of it, as it does with other figures than these.
        group.postgres().admin("postgres", "ALTER DATABASE wardline SET random_page_cost = 100000");
    }
    let output = group.wardline(&["-o", "json", "db", "check"]);
    if group.has_postgres() {
        group.postgres().admin("postgres", "ALTER DATABASE wardline RESET random_page_cost");
    }
    fails(&output, "damaged");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = shown[0]["place"].as_str().unwrap();
    let event = group.server().wait_event(40028);
    assert!(event.severity == "critical" && event.text.contains(rows), "{event:?}");
    let ends: Vec<i64> = rows.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [from, to] = ends[..] else { panic!("{rows}") };
    assert!(rows.ends_with("of the table event") && to - from < 100, "{shown}");
    // The rest is there, and nothing else is gone. PostgreSQL would read the whole table if it may.
    let only = if group.has_postgres() { "SET enable_seqscan = off; SET enable_sort = off; " } else { "" };
    let read = |rows: String| group.sql::<String>(&format!("{only}SELECT text FROM event {rows}"));
    let begin = numbers.iter().filter(|number| **number < from).count();
    let rest = read(format!("WHERE number >= {} ORDER BY number", to + 1));
    let texts = [read(format!("ORDER BY number LIMIT {begin}")), rest].concat();
    let gone: Vec<_> = lost(group, log, &texts).into_iter().filter(|line| !known.contains(line)).collect();
    let damaged = before.iter().zip(&numbers).filter(|(_, number)| (from..=to).contains(number));
    assert_eq!(gone, damaged.map(|(line, _)| ids::number(line).unwrap()).collect::<Vec<_>>());
    for list in [["alert", "list"], ["agent", "list"]] {
        group.done(&list);
    }
    group.done(&["status"]);
}
