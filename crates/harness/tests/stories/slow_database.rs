//! Somebody else holds the server's database: agents keep what they find, logs wait, nobody is disconnected, and
//! afterwards everything arrives once, also what was sent a second time meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;

use wardline_harness::group::{Group, sql};
use wardline_harness::ids::{self, Log};
use wardline_harness::log::pack;
use wardline_harness::postgres::Cell;
use wardline_harness::tap::Way;
use wardline_harness::wait;

use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 13;

/// The agent's queue, read beside it.
pub struct Queue(pub PathBuf);

impl Queue {
    pub fn of(group: &mut Group) -> Self {
        Self(group.agent(0).state().join("queue.db"))
    }

    #[track_caller]
    pub fn one<T: Cell>(&self, query: &str) -> T {
        sql(&self.0, query).pop().unwrap_or_else(|| panic!("no row: {query}"))
    }

    /// How many entries of a class are in no batch yet.
    #[track_caller]
    pub fn open(&self, class: u8) -> i64 {
        self.one(&format!("SELECT coalesce(sum(numbers), 0) FROM open WHERE class = {class}"))
    }
}

/// The class of samples in the queue.
const PERFORMANCE: u8 = 0;

#[test]
fn a_slow_database_holds_agents_back_and_loses_nothing() {
    let mut group = Group::builder().tapped().pack("base", "").lay();
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    let clock = "[[check]]\nname = \"clock\"\nprogram = [\"/bin/echo\", \"OK | v=1\"]\nevery = \"250ms\"\n";
    group.write_pack("base", &format!("{}{clock}", pack("base", log.path())));
    log.append(100);
    group.start();
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);

    let queue = Queue::of(&mut group);
    let acknowledged = || queue.one::<i64>("SELECT number FROM stream");
    let other = Connection::open(group.database()).unwrap();
    other.busy_timeout(LIMIT).unwrap();
    let (mark, agents_mark) = (group.server().mark(), group.agent(0).mark());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let committed: i64 = group.sql("SELECT number FROM stream")[0];
    wait::until("everything committed is acknowledged", LIMIT, || (acknowledged() == committed).then_some(()));

    // Much more than the agent may have under way.
    log.append(40_000);
    group.server().wait_event_since(mark, 40020);
    let window = || queue.one::<i64>("SELECT count(*) FROM batch");
    wait::until("the agent has sent what it may", LIMIT, || (window() >= 32).then_some(()));
    // The agent goes on: checks are never held back, and tell the time here. The log is: it stays where it is.
    let looks = |count| {
        let goal = queue.open(PERFORMANCE) + count;
        wait::until("checks go on", LIMIT, || (queue.open(PERFORMANCE) >= goal).then_some(()));
    };
    let position = || queue.one::<Vec<u8>>("SELECT value FROM memory WHERE key = 'log/base/app'");
    looks(2);
    let waits_at = position();
    looks(8);
    assert_eq!(position(), waits_at, "the log waits");
    let kept = "(SELECT sum(last - first + 1) FROM batch) + (SELECT sum(numbers) FROM open)";
    let kept: i64 = queue.one(&format!("SELECT {kept}"));
    println!("the queue keeps {kept} entries, of {} lines", log.written());
    assert!(kept < 30_000, "the queue is bounded: {kept}");
    assert_eq!((acknowledged(), stored(&group)), (committed, 101), "nothing is acknowledged that is not committed");
    let gone = group.agent(0).events_since(agents_mark).into_iter().find(|event| event.number == 20070);
    assert_eq!(gone, None, "the agent is held back, not thrown out");
    assert_eq!(group.server().events_since(mark).iter().filter(|event| event.number == 40020).count(), 1);

    // What waits in the server comes a second time, by a new session, before any of it is written.
    let sent = |group: &Group| group.tap("gw1.test").count(Way::Up);
    let agents_mark = group.agent(0).mark();
    group.gateway(0).kill9();
    let before = sent(&group);
    group.gateway(0).start();
    group.agent(0).wait_event_since(agents_mark, 40005);
    let batches: i64 = queue.one("SELECT sum(length(bytes)) FROM batch");
    let goal = before + usize::try_from(batches).unwrap();
    wait::until("every batch is sent again", LIMIT, || (sent(&group) >= goal).then_some(()));
    assert_eq!((acknowledged(), stored(&group)), (committed, 101));

    other.execute_batch("ROLLBACK").unwrap();
    group.server().wait_event_since(mark, 40021);
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
    assert_each_line_once(&group, &log, &["agent1.test"]);
    wait::until("everything is acknowledged", LIMIT, || (acknowledged() > committed + 40_000).then_some(()));

    let mut arrived = group.event_texts("agent1.test");
    arrived.retain(|line| ids::number(line) != Some(40_000));
    assert_eq!(log.tally(arrived).lost, [40_000], "one line that is missing would be seen");
}
