//! Power cuts of the agent's and of the server's disk, in turn, under load: what was acknowledged is still there, and
//! everything else is delivered again, once.

use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use wardline_harness::group::Group;
use wardline_harness::ids::Log;
use wardline_harness::log::pack;
use wardline_harness::random::{Random, seeds};
use wardline_harness::{Daemon, PowerCut, wait};

use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 12;
/// So many lines are written at each look whether the power is out already.
const LINES: u64 = 100;
/// The power goes out within so many changes of a disk under load, and of one on which a program starts.
const CHANGES: (u64, u64) = (1500, 30);
/// As many as the disks, which are in memory, have room for lines.
const MOST_SEEDS: usize = 200;

/// Lets the power go out under a running program, in the middle of what it does; gives when it is back.
fn cut(disk: &PowerCut, daemon: &mut Daemon, log: &mut Log, changes: u64, seed: u64) {
    disk.cut_at(changes, seed);
    wait::until("the power goes out under load", LIMIT, || {
        log.append(LINES);
        disk.is_out().then_some(())
    });
    // The host has no power; what its program would say now must not matter.
    daemon.kill9();
    disk.cut(seed);
}

#[test]
fn a_power_cut_loses_nothing_acknowledged() {
    let disks = [PowerCut::mount(), PowerCut::mount()];
    let mut group = Group::builder()
        .state("agent1.test", &disks[0].path().join("state"))
        .state("srv1.test", &disks[1].path().join("state"))
        .pack("base", "")
        .lay();
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    group.write_pack("base", &pack("base", log.path()));
    // Keys were made long ago.
    disks.iter().for_each(PowerCut::settle);
    group.start();
    group.agent(0).wait_event(40005);

    let mut cuts = 0;
    for seed in seeds(16).take(MOST_SEEDS) {
        let mut random = Random::new(seed);
        let of_agent = seed % 2 == 0;
        let disk = &disks[usize::from(!of_agent)];
        let before = stored(&group);
        let daemon = if of_agent { group.agent(0) } else { group.server() };
        cut(disk, daemon, &mut log, 1 + random.below(CHANGES.0), seed);
        cuts += 1;
        // Also while it reads what the first cut has left.
        if random.below(2) == 0 {
            daemon.spawn();
            cut(disk, daemon, &mut log, 1 + random.below(CHANGES.1), !seed);
            cuts += 1;
        }
        daemon.start();
        let now = stored(&group);
        assert!(now >= before, "seed {seed}: {before} lines were in the database, {now} are left");
        let streams: i64 = group.sql("SELECT count(*) FROM stream")[0];
        assert_eq!(streams, 1, "seed {seed}: queue and database did not belong together any more");
        println!("seed {seed}: {} of {} lines are in the database", now, log.written());
    }
    println!("{cuts} cuts");
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
    assert_each_line_once(&group, &log, &["agent1.test"]);

    drop(group);
    for disk in &disks {
        let lost: i64 = (0..10).map(|seed| lost_by_a_careless_writer(disk, seed)).sum();
        assert!(lost > 0, "a writer that does not sync loses nothing on this disk: it proves nothing");
    }
}

/// How many rows a writer that does not sync had been promised, and has not any more after a cut.
fn lost_by_a_careless_writer(disk: &PowerCut, seed: u64) -> i64 {
    let path = disk.path().join(format!("careless-{seed}.db"));
    let open = |path: &Path| -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        // Without shared memory: to lose that under its feet would kill this process.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        Ok(connection)
    };
    let promised = {
        let connection = open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)").unwrap();
        disk.settle();
        disk.cut_at(1 + Random::new(seed).below(300), seed);
        let promised = (0..10_000_i64).take_while(|n| connection.execute("INSERT INTO t VALUES (?)", [n]).is_ok());
        promised.count()
    };
    assert!(disk.is_out());
    disk.cut(seed);
    // One that cannot be read any more has lost everything.
    let found = open(&path).and_then(|connection| connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)));
    i64::try_from(promised).unwrap() - found.unwrap_or(0)
}
