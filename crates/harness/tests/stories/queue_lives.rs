//! An agent's queue is wiped, rolled back with its host, copied: the server notices, says so, and goes on without a
//! hand, with nothing doubled and nothing lost that was found afterwards.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use wardline_harness::group::{Group, sql};
use wardline_harness::program::succeeds;
use wardline_harness::{Daemon, Log, program, scratch, wait};

const LIMIT: Duration = Duration::from_secs(20);

/// A running group whose agent follows a log.
struct Watched {
    group: Group,
    log: Log,
}

impl Watched {
    fn new() -> Self {
        let (mut group, log) = Group::builder().lay_with_log();
        group.start();
        Self { group, log }
    }

    fn agent(&mut self) -> &mut Daemon {
        self.group.agent(0)
    }

    /// The files that the agent's queue consists of.
    fn queue(&mut self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.agent().state()).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("queue.db")).collect()
    }

    fn wipe(&mut self) {
        let files = self.queue();
        assert!(!files.is_empty());
        files.iter().for_each(|file| fs::remove_file(file).unwrap());
    }

    /// Of a stopped agent's host: its queue, and the log that it follows.
    fn snapshot(&mut self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = self.queue();
        files.push(self.log.path().to_owned());
        files.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    fn restore(&mut self, snapshot: &[(PathBuf, Vec<u8>)]) {
        self.wipe();
        for (path, bytes) in snapshot {
            scratch::write(path, bytes, 0o600);
        }
    }
}

#[test]
fn a_wiped_queue_is_not_taken_for_repeats() {
    let mut watched = Watched::new();
    watched.log.say("one");
    watched.log.say("two");
    watched.group.wait_texts(&["one", "two"]);
    // The control: a queue that is only closed and opened again goes on where it was.
    let mark = watched.group.server().mark();
    watched.agent().restart();
    watched.log.say("three");
    watched.group.wait_texts(&["one", "two", "three"]);
    let noticed = watched.group.server().events_since(mark).into_iter().find(|event| event.number == 40014);
    assert_eq!(noticed, None);

    watched.agent().stop();
    watched.wipe();
    // With the queue the place in the log is gone; the log begins anew here.
    watched.log.clear();
    watched.agent().start();
    // The numbers are those of entries that the server has, the entries are not.
    watched.log.say("four");
    watched.log.say("five");
    watched.group.wait_texts(&["one", "two", "three", "four", "five"]);
    watched.group.server().wait_event_since(mark, 40014);
    assert_eq!(watched.group.sql::<i64>("SELECT count(*) FROM stream WHERE state = 0"), [1]);
}

#[test]
fn a_snapshot_rolled_back_is_noticed() {
    let mut watched = Watched::new();
    watched.log.say("one");
    watched.group.wait_texts(&["one"]);
    // Something waits in the snapshot, numbered but in no batch yet.
    watched.group.gateway(0).stop();
    watched.log.say("two");
    let queue = watched.agent().state().join("queue.db");
    wait::until("it waits", LIMIT, || (sql::<i64>(&queue, "SELECT count(*) FROM open") == [1]).then_some(()));
    watched.agent().stop();
    let snapshot = watched.snapshot();
    watched.group.gateway(0).start();
    watched.agent().start();
    watched.log.say("three");
    watched.log.say("four");
    watched.group.wait_texts(&["one", "two", "three", "four"]);
    // The control: what waited when the agent was stopped came once, and nothing was counted.
    assert_eq!(watched.group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
    watched.agent().stop();
    watched.restore(&snapshot);

    let mark = watched.group.server().mark();
    watched.agent().start();
    watched.agent().wait_event(40013);
    watched.group.server().wait_event_since(mark, 40014);
    watched.log.say("five");
    watched.group.wait_texts(&["one", "two", "three", "four", "five"]);
    // What waited in the snapshot may have come: it is counted, and not told again.
    let shown = watched.group.json(&["gap", "list"]);
    let gaps = shown.as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{shown}");
    assert_eq!((&gaps[0]["reason"], &gaps[0]["events"]), (&"queue-rolled-back".into(), &1.into()), "{shown}");
}

#[test]
fn two_copies_of_an_agent_are_held() {
    let mut watched = Watched::new();
    watched.log.say("one");
    watched.group.wait_texts(&["one"]);
    watched.agent().stop();
    let snapshot = watched.snapshot();
    // Two queues that grew from one take turns. The first change is a roll-back, which goes on by itself.
    let mut lives = [snapshot.clone(), snapshot];
    let mark = watched.group.server().mark();
    let mut held = false;
    for turn in 0..6 {
        watched.restore(&lives[turn % 2]);
        watched.agent().start();
        watched.log.say(format!("turn {turn}"));
        wait::until("the turn is over", LIMIT, || {
            let rows = watched.group.all_texts();
            held = watched.group.sql::<i64>("SELECT held FROM agent") == [1];
            (held || rows.contains(&format!("turn {turn}"))).then_some(())
        });
        if held {
            break;
        }
        watched.agent().stop();
        lives[turn % 2] = watched.snapshot();
    }
    assert!(held, "two queues displaced each other and nobody noticed");
    watched.group.server().wait_event_since(mark, 40015);
    watched.agent().wait_event(40015);

    // Nothing is stored while they are held; what is found is kept, and comes when an operator lets one go on.
    let queue = watched.agent().state().join("queue.db");
    let waiting = || sql::<i64>(&queue, "SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM open)");
    let (before, waited) = (watched.group.sql::<i64>("SELECT count(*) FROM event"), waiting());
    watched.log.say("kept");
    wait::until("it is kept", LIMIT, || (waiting() > waited).then_some(()));
    assert_eq!(before, watched.group.sql::<i64>("SELECT count(*) FROM event"));
    let released = watched.group.wardline(&["agent", "release", "agent1.test"]);
    succeeds(&released);
    wait::until("what was kept", LIMIT, || {
        (watched.group.sql::<i64>("SELECT count(*) FROM event WHERE text = 'kept'") == [1]).then_some(())
    });
}

#[test]
fn a_second_daemon_on_one_state_folder_is_refused() {
    let mut watched = Watched::new();
    for (name, config) in [
        ("wardline-agent", watched.group.agent(0).config()),
        ("wardline-gateway", watched.group.gateway(0).config()),
        ("wardline-server", watched.group.server().config()),
    ] {
        // One that is not refused would run on.
        let mut second = Command::new("timeout");
        second.arg("20").arg(program::find(name)).arg("run").arg("--config").arg(config);
        second.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        let output = second.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{name}");
        assert!(text.contains(" critical 40003 "), "{name}: {text}");
    }
    // The first ones go on.
    watched.log.say("one");
    watched.group.wait_texts(&["one"]);
}
