//! Disks that are full and disks that fail, of the server and of an agent, under load: it is said, what was acknowledged
//! stays, and everything arrives once without a hand.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use wardline_harness::group::Group;
use wardline_harness::ids::Log;
use wardline_harness::log::pack;
use wardline_harness::random::{Random, seeds};
use wardline_harness::{Daemon, PowerCut, wait};

use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};
use crate::slow_database::Queue;

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 15;
/// So much room is left on a disk that fills up.
const ROOM: u64 = 256 << 10;
/// Lines that take more than that.
const LINES: u64 = 20_000;

/// As many as the disks, which are in memory, have room for lines.
const MOST_SEEDS: usize = 60;

/// A group whose agent and server, or the server's PostgreSQL, each have a disk of their own. The agent follows a log, and
/// counts how often it looks.
struct Site {
    // Its programs end before their disks.
    group: Group,
    log: Log,
    of_agent: PowerCut,
    of_server: PowerCut,
}

impl Site {
    fn new(postgres: bool) -> Self {
        let (of_agent, of_server) = (PowerCut::mount(), PowerCut::mount());
        let state = of_server.path().join("state");
        if postgres {
            // Whose PostgreSQL is must get there.
            fs::set_permissions(of_server.path(), Permissions::from_mode(0o711)).unwrap();
            fs::create_dir(&state).unwrap();
        }
        let group = Group::builder()
            .postgres(postgres)
            .state("agent1.test", &of_agent.path().join("state"))
            .state(if postgres { "postgres" } else { "srv1.test" }, &state)
            .pack("base", "")
            .lay();
        let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
        let looks = group.folder().join("looks");
        fs::write(&looks, "0\n").unwrap();
        let count = format!("read -r n < {0}; n=$((n + 1)); echo $n > {0}; echo \"OK | look=$n\"", looks.display());
        let check =
            format!("[[check]]\nname = \"looks\"\nprogram = [\"/bin/sh\", \"-c\", {count:?}]\nevery = \"250ms\"\n");
        group.write_pack("base", &(pack("base", log.path()) + &check));
        [&of_agent, &of_server].into_iter().for_each(PowerCut::settle);
        log.append(100);
        let mut site = Self { group, log, of_agent, of_server };
        site.group.start();
        site.last_line();
        site
    }

    /// The disk of the agent, or of the server, and its program.
    fn half(&mut self, of_agent: bool) -> (&PowerCut, &mut Daemon) {
        if of_agent { (&self.of_agent, self.group.agent(0)) } else { (&self.of_server, self.group.server()) }
    }

    fn last_line(&mut self) {
        wait_for_the_last_line(&self.group, &mut self.log, LOG_SEED, 1);
    }

    /// How often the agent has looked.
    fn looks(&self) -> u64 {
        let text = fs::read_to_string(self.group.folder().join("looks")).unwrap();
        text.trim().parse().unwrap_or(0)
    }

    fn looks_on(&self) {
        let goal = self.looks() + 3;
        wait::until("checks go on", LIMIT, || (self.looks() >= goal).then_some(()));
    }

    /// Each number of the stream is a row: what was committed was committed as a whole.
    fn assert_nothing_in_parts(&self) {
        let query = "SELECT (SELECT number FROM stream) - (SELECT count(*) FROM event) - (SELECT count(*) FROM sample)";
        assert_eq!(self.group.sql::<i64>(query), [0]);
    }

    /// Each line and each look has arrived once.
    fn assert_all_once(&mut self) {
        self.last_line();
        assert_each_line_once(&self.group, &self.log, &["agent1.test"]);
        let looks = self.group.sql::<f64>("SELECT value FROM sample ORDER BY value");
        let all: Vec<f64> = (1..=looks.len()).map(|look| look as f64).collect();
        assert_eq!(looks, all, "each look once");
        self.assert_nothing_in_parts();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_says_so() {
    let mut site = Site::new(false);
    site.fills_up(false, "wardline.db");
    site.fills_up(true, "queue.db");
    site.would_see_a_line_less();
}

#[test]
fn a_full_disk_of_postgresql_loses_nothing_and_says_so() {
    let mut site = Site::new(true);
    let place = site.group.postgres().url(&[]).replace("wardline@", "");
    site.fills_up(false, &place);
    site.postgres_has_no_room_for_its_log(&place);
    site.would_see_a_line_less();
}

impl Site {
    /// The disk of the agent, or of the server's database, fills up, and later has room again.
    fn fills_up(&mut self, of_agent: bool, file: &str) {
        let marks = self.marks();
        let (disk, daemon) = self.half(of_agent);
        let mark = daemon.mark();
        disk.limit(disk.used() + ROOM);
        self.log.append(LINES);
        let (disk, daemon) = self.half(of_agent);
        let event = daemon.wait_event_since(mark, 40025);
        assert!(event.severity == "critical" && event.text.contains(&format!("{file} is full")), "{event:?}");
        // The control: it is.
        let error = fs::write(disk.path().join("more"), vec![0; 2 << 20]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        drop(fs::remove_file(disk.path().join("more")));

        // What an agent finds goes into its queue; on its own disk it waits for room.
        if !of_agent {
            self.looks_on();
        }
        let queue = Queue::of(&mut self.group);
        self.assert_nothing_in_parts();
        let acknowledged = queue.one::<i64>("SELECT number FROM stream");
        assert!(acknowledged <= self.group.sql::<i64>("SELECT number FROM stream")[0]);
        let status = self.group.json(&["status"]);
        assert_eq!(status["agents_connected"], 1, "nobody was thrown out: {status}");
        assert!(self.group.done(&["explain", "40025"]).contains("Make room"));
        let before = stored(&self.group);
        assert!(before < self.log.written(), "something is held back");

        let (disk, daemon) = self.half(of_agent);
        disk.limit(u64::MAX);
        let event = daemon.wait_event_since(mark, 40021);
        assert!(event.text.contains(file), "{event:?}");
        self.looks_on();
        self.assert_all_once();
        let (_, daemon) = self.half(of_agent);
        // Something small may fit yet, and it is full again behind that: said once until it is over. Two at a time may last,
        // of the database and of its log of writes.
        let events = daemon.events_since(mark);
        let [full, over] = [40025, 40021].map(|number| events.iter().filter(|event| event.number == number).count());
        assert!(full <= over + 2, "said {full} times, {over} times over: at each try");
        self.assert_nobody_went(marks);
    }

    /// PostgreSQL ends what it does when it cannot write its log, and does not come back before there is room.
    fn postgres_has_no_room_for_its_log(&mut self, place: &str) {
        let (marks, mark) = (self.marks(), self.group.server().mark());
        self.of_server.limit(self.of_server.used());
        self.group.postgres().begin_a_new_log();
        self.log.append(LINES);
        // Whichever of its processes is the first to have no room.
        let said = wait::until("it is said", LIMIT, || {
            let events = self.group.server().events_since(mark);
            events.into_iter().find(|event| [40020, 40025].contains(&event.number))
        });
        assert!(said.text.contains(place), "{said:?}");
        // The control: it did.
        wait::until("PostgreSQL gives up", LIMIT, || {
            let log = self.group.postgres().log();
            log.lines().any(|line| line.contains("PANIC: ") && line.contains("pg_wal")).then_some(())
        });
        self.looks_on();
        self.of_server.limit(u64::MAX);
        self.group.postgres().restart(&[]);
        self.group.server().wait_event_since(mark, 40021);
        self.assert_all_once();
        self.assert_nobody_went(marks);
    }

    fn marks(&mut self) -> [usize; 2] {
        [self.group.server().mark(), self.group.agent(0).mark()]
    }

    /// No session has ended since.
    fn assert_nobody_went(&mut self, [server, agent]: [usize; 2]) {
        let gone = [self.group.server().events_since(server), self.group.agent(0).events_since(agent)].concat();
        assert!(gone.iter().all(|event| ![20070, 40041].contains(&event.number)), "{gone:?}");
    }

    /// The control of all that.
    fn would_see_a_line_less(&self) {
        let mut arrived = self.group.event_texts("agent1.test");
        arrived.remove(5000);
        assert_eq!(self.log.tally(arrived).lost.len(), 1);
    }
}

/// How a sync fails.
#[derive(Clone, Copy, Debug)]
struct Fault {
    of_agent: bool,
    file: &'static str,
    /// So many times, or until the program was killed.
    times: Option<u64>,
}

const FAULTS: [Fault; 5] = [
    Fault { of_agent: false, file: "wardline.db-wal", times: Some(1) },
    Fault { of_agent: true, file: "queue.db-wal", times: Some(1) },
    Fault { of_agent: false, file: "wardline.db-wal", times: None },
    Fault { of_agent: true, file: "queue.db-wal", times: None },
    // The log of writes is copied there now and then.
    Fault { of_agent: true, file: "queue.db", times: Some(1) },
];

#[test]
fn an_fsync_error_is_never_acknowledged() {
    let mut site = Site::new(false);
    for seed in seeds(6).take(MOST_SEEDS) {
        let fault = FAULTS[usize::try_from(seed).unwrap() % FAULTS.len()];
        let mut random = Random::new(seed);
        let queue = Queue::of(&mut site.group);
        let (disk, daemon) = site.half(fault.of_agent);
        let mark = daemon.mark();
        disk.fail_syncs(fault.file, fault.times.unwrap_or(u64::MAX));
        let burst = 1 + random.below(2000);
        let event = wait::until("it is said", LIMIT, || {
            site.log.append(burst);
            let (_, daemon) = site.half(fault.of_agent);
            daemon.events_since(mark).into_iter().find(|event| event.number == 40026)
        });
        let (disk, daemon) = site.half(fault.of_agent);
        assert!(event.severity == "critical" && event.text.contains(&*disk.path().to_string_lossy()), "{event:?}");
        if fault.times.is_none() {
            // The program goes, the kernel's cache stays: what it shows there was never kept.
            daemon.kill9();
            disk.fail_syncs(fault.file, 0);
            daemon.start();
        } else {
            wait::until("it is over", LIMIT, || {
                site.log.append(burst);
                let (_, daemon) = site.half(fault.of_agent);
                daemon.events_since(mark).iter().any(|event| event.number == 40021).then_some(())
            });
        }
        // On what is there now more is built, and acknowledged.
        site.log.append(1 + random.below(500));
        site.last_line();
        let [stored] = site.group.sql::<i64>("SELECT number FROM stream")[..] else { panic!("there is one stream") };
        let acknowledged = wait::until("it is acknowledged", LIMIT, || {
            Some(queue.one::<i64>("SELECT number FROM stream")).filter(|number| *number >= stored)
        });

        let mark = site.group.agent(0).mark();
        let (disk, daemon) = site.half(fault.of_agent);
        daemon.kill9();
        disk.cut(seed);
        daemon.start();
        site.group.agent(0).wait_event_since(mark, 40005);
        let [number] = site.group.sql::<i64>("SELECT number FROM stream")[..] else {
            panic!("seed {seed}, {fault:?}: queue and database did not belong together any more")
        };
        assert!(number >= acknowledged, "seed {seed}, {fault:?}: {acknowledged} was acknowledged, {number} is there");
        let gaps = site.group.json(&["gap", "list"]);
        assert_eq!(gaps, serde_json::json!([]), "seed {seed}, {fault:?}: what was acknowledged is gone");
        println!("seed {seed}, {fault:?}: {number} numbers, {acknowledged} acknowledged before the cut");
    }
    site.last_line();
    assert_each_line_once(&site.group, &site.log, &["agent1.test"]);
    let lost = lost_by_who_believes_the_second_sync(site.of_server.path(), &site.of_server);
    assert!(lost, "who believes the second sync loses nothing on this disk: it proves nothing");
}

/// Whether a writer loses what a second sync said was kept.
fn lost_by_who_believes_the_second_sync(folder: &Path, disk: &PowerCut) -> bool {
    let path = folder.join("credulous");
    let mut file = File::create(&path).unwrap();
    disk.settle();
    file.write_all(b"kept?").unwrap();
    disk.fail_syncs("credulous", 1);
    assert!(file.sync_all().is_err());
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"kept?", "it looks as if all were well");
    disk.cut(0);
    fs::read(&path).unwrap() != b"kept?"
}
