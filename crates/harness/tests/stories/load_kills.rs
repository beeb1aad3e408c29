//! Whatever is killed, whenever, under load: every line of a followed log is in the database once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use rusqlite::Connection;
use wardline_harness::Daemon;
use wardline_harness::group::Group;
use wardline_harness::ids::{self, Log, Tally};
use wardline_harness::keyed;
use wardline_harness::log::pack;
use wardline_harness::postgres::Lock;
use wardline_harness::random::{Random, seeds};
use wardline_harness::realm::Realm;
use wardline_harness::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Two agents follow the same file, so each line arrives twice, from different agents.
const AGENTS: [&str; 2] = ["agent1.test", "agent2.test"];

const LOG_SEED: u64 = 11;
/// So many lines are written at once.
pub const BURST: u64 = 2500;
/// So few kills say nothing, and so many are as many as the disk has room for lines.
const KILLS: RangeInclusive<u64> = 40..=600;

/// How many lines are in the database, from all agents together.
pub fn stored(group: &Group) -> u64 {
    // In a file rows are numbered by ones and never deleted; counting them would read them all.
    let count = if group.has_postgres() { "count(*)" } else { "coalesce(max(number), 0)" };
    group.sql::<i64>(&format!("SELECT {count} FROM event"))[0].try_into().unwrap()
}

/// Appends one line and waits until it is in the database from every agent: what was to come before it is there then.
pub fn wait_for_the_last_line(group: &Group, log: &mut Log, seed: u64, agents: usize) {
    let last = ids::line(seed, log.append(1).start);
    let query = format!("SELECT count(DISTINCT agent) FROM event WHERE text = '{last}'");
    wait::until("the last line is stored from every agent", Duration::from_secs(90), || {
        (group.sql::<i64>(&query) == [i64::try_from(agents).unwrap()]).then_some(())
    });
}

/// Nothing is missing, and no recovery needed a new stream or left anything aside.
#[track_caller]
pub fn assert_each_line_once(group: &Group, log: &Log, agents: &[&str]) {
    for agent in agents {
        assert_eq!(log.tally(group.event_texts(agent)).to_string(), "lost 0, doubled 0, invented 0", "{agent}");
    }
    for table in ["gap", "set_aside"] {
        assert_eq!(group.sql::<i64>(&format!("SELECT count(*) FROM {table}")), [0], "{table}");
    }
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM stream"), [i64::try_from(agents.len()).unwrap()]);
}

/// Everything that can be killed.
fn daemon(group: &mut Group, index: usize) -> &mut Daemon {
    match index {
        0 | 1 => group.agent(index),
        2 => group.gateway(0),
        _ => group.server(),
    }
}

/// What is beside the group's own programs and is killed, too.
enum Beside {
    Nothing,
    Postgres,
    Kdc(Box<Realm>),
}

/// Its index.
const BESIDE: usize = 4;

impl Beside {
    /// How many can be killed.
    fn victims(&self) -> usize {
        BESIDE + usize::from(!matches!(self, Self::Nothing))
    }

    /// Kills one of all; its name.
    fn kill9(&mut self, group: &mut Group, index: usize) -> String {
        match self {
            Self::Postgres if index == BESIDE => {
                group.postgres().kill9();
                "postgres".into()
            }
            Self::Kdc(realm) if index == BESIDE => {
                realm.stop();
                "kdc".into()
            }
            _ => {
                daemon(group, index).kill9();
                daemon(group, index).name().into()
            }
        }
    }

    fn start(&mut self, group: &mut Group, index: usize) {
        match self {
            Self::Postgres if index == BESIDE => group.postgres().run(),
            Self::Kdc(realm) if index == BESIDE => realm.resume(),
            _ => daemon(group, index).start(),
        }
    }
}

/// Somebody else who holds the database.
pub enum Holder {
    File(Connection),
    Server(Lock),
}

impl Holder {
    /// Locks the server's database, and returns when the server has something to write; with the mark before.
    pub fn hold(group: &mut Group, log: &mut Log) -> (Self, usize) {
        // An outage is said once: one of before, of a database that was killed, is over first.
        let before = stored(group);
        log.append(BURST);
        wait::until("the database takes something", LIMIT, || (stored(group) > before).then_some(()));
        let mark = group.server().mark();
        let holder = if group.has_postgres() {
            Self::Server(group.postgres().lock("stream"))
        } else {
            let other = Connection::open(group.database()).unwrap();
            other.busy_timeout(LIMIT).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            Self::File(other)
        };
        log.append(BURST);
        group.server().wait_event_since(mark, 40020);
        (holder, mark)
    }

    pub fn release(self) {
        match self {
            Self::File(connection) => connection.execute_batch("ROLLBACK").unwrap(),
            Self::Server(lock) => drop(lock),
        }
    }
}

#[test]
fn killing_any_process_loses_and_doubles_nothing() {
    whatever_is_killed(Beside::Nothing);
}

#[test]
fn killing_postgresql_or_any_process_before_it_loses_and_doubles_nothing() {
    whatever_is_killed(Beside::Postgres);
}

#[test]
fn killing_a_kdc_or_any_process_where_hops_go_by_kerberos_loses_and_doubles_nothing() {
    whatever_is_killed(Beside::Kdc(Realm::start("NORTH.TEST").into()));
}

fn whatever_is_killed(mut beside: Beside) {
    let postgres = matches!(beside, Beside::Postgres);
    let mut group = Group::builder().agents(2).postgres(postgres).pack("base", "").lay();
    if let Beside::Kdc(realm) = &beside {
        keyed::lay(&mut group, realm, "kerberos", "kerberos", (2, 1));
    }
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    group.write_pack("base", &pack("base", log.path()));
    group.start();

    let victims = beside.victims();
    let (mut killed, mut locked) = (BTreeMap::new(), 0);
    for seed in 0..seeds(40).end.clamp(*KILLS.start(), *KILLS.end()) {
        let mut random = Random::new(seed);
        let victim = usize::try_from(random.below(victims as u64)).unwrap();
        // A fifth of the kills comes at once, while what was killed before connects again; the others come when some
        // of a burst of lines is stored and some is not.
        let goal = stored(&group) + if random.below(5) == 0 { 0 } else { 1 + random.below(BURST) };
        log.append(BURST);
        let in_flight = wait::until("events are under way", LIMIT, || {
            let left = (log.written() * 2).checked_sub(stored(&group)).expect("a line is stored twice");
            if left == 0 {
                log.append(BURST);
            }
            (left > 0 && log.written() * 2 - left >= goal).then_some(left)
        });
        assert!(in_flight > 0);
        // Some find the database locked: what the server has taken is not written yet when it comes a second time.
        let lock = (victim < 3 && random.below(4) == 0).then(|| Holder::hold(&mut group, &mut log));
        let marks = [0, 1].map(|agent| group.agent(agent).mark());
        let name = beside.kill9(&mut group, victim);
        println!("seed {seed}: killed {name} with {in_flight} lines under way");
        *killed.entry(name).or_insert(0) += 1;
        if let Some((lock, mark)) = lock {
            beside.start(&mut group, victim);
            // Those whose way was cut compare with what the database holds, which is less than the server has.
            for agent in (0..2).filter(|agent| victim == 2 || victim == *agent) {
                group.agent(agent).wait_event_since(marks[agent], 40005);
            }
            lock.release();
            // An outage is said once: the next one must be another.
            group.server().wait_event_since(mark, 40021);
            locked += 1;
            continue;
        }
        match random.below(4) {
            // Killed again while it starts.
            0 if victim != BESIDE => {
                daemon(&mut group, victim).spawn();
                daemon(&mut group, victim).kill9();
            }
            // Another one goes while it is away.
            1 => {
                let other = (victim + 1 + usize::try_from(random.below(victims as u64 - 1)).unwrap()) % victims;
                beside.kill9(&mut group, other);
                // A server does not start without its database.
                if other != BESIDE && victim == BESIDE {
                    beside.start(&mut group, victim);
                    beside.start(&mut group, other);
                    continue;
                }
                beside.start(&mut group, other);
            }
            _ => {}
        }
        beside.start(&mut group, victim);
    }
    println!("killed: {killed:?}; with the database locked: {locked}; lines: {}", log.written());
    assert!(
        killed.len() == victims && killed.values().all(|times| *times >= 4),
        "the seeds reach everybody: {killed:?}"
    );
    assert!(locked >= 3, "the seeds lock the database: {locked}");

    wait_for_the_last_line(&group, &mut log, LOG_SEED, AGENTS.len());
    assert_each_line_once(&group, &log, &AGENTS);
    // One number of the stream for each line: nothing was numbered twice either.
    let written = i64::try_from(log.written()).unwrap();
    assert_eq!(group.sql::<i64>("SELECT number FROM stream"), [written, written]);

    // What the comparison would have said of a line that is missing, one that came twice, and one that nobody wrote.
    let mut arrived = group.event_texts(AGENTS[0]);
    arrived.remove(100);
    arrived.push(ids::line(LOG_SEED, 7));
    arrived.push(ids::line(LOG_SEED, log.written()));
    let wrong = Tally { lost: vec![100], doubled: vec![7], invented: vec![ids::line(LOG_SEED, log.written())] };
    assert_eq!(log.tally(arrived), wrong);
}
