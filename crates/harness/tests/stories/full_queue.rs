//! A queue that is full drops what matters least, and says how much of what: every number of the stream is a row or is
//! counted in a gap.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wardline_harness::group::Group;
use wardline_harness::ids::Log;
use wardline_harness::log::pack;
use wardline_harness::wait;

use crate::load_kills::wait_for_the_last_line;
use crate::slow_database::Queue;

const LIMIT: Duration = Duration::from_secs(30);
const LOG_SEED: u64 = 14;
const EVENT: u8 = 1;
const STATE: u8 = 2;
const ALERT: u8 = 3;
const GAP: u8 = 4;

/// Lines that are found before the queue is full.
const LINES: i64 = 40;
/// How often the monitor becomes critical and well again. One round is an alert and its closing, about 7,000 bytes, and
/// two state changes, about 2,000: all alerts fit into the queue, but not with all states.
const ROUNDS: i64 = 8;

fn executable(path: &Path, script: &str) -> String {
    fs::write(path, format!("#!/bin/sh\n{script}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Replaced as a whole: whoever reads meanwhile reads the old or the new.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// What the checks do.
struct Checks {
    /// The exit code of one with a monitor.
    code: PathBuf,
    /// While it is there, another one has 300 samples at each look.
    samples: PathBuf,
    /// A line for each look with samples.
    looks: PathBuf,
}

impl Checks {
    fn new(group: &Group, log: &Log) -> Self {
        let at = |name: &str| group.folder().join(name);
        let checks = Self { code: at("code"), samples: at("samples"), looks: at("looks") };
        replace(&checks.code, "0\n");
        fs::write(&checks.looks, "").unwrap();
        fs::write(at("detail"), "d".repeat(4999) + "\n").unwrap();
        let mut performance = "SAMPLES | ".to_owned();
        (0..300).for_each(|number| write!(performance, "v{number:03}={number} ").unwrap());
        fs::write(at("performance"), performance + "\n").unwrap();
        let show = |name: &str| at(name).display().to_string();
        let switch = executable(
            &at("check_switch"),
            &format!(
                "read -r code < {}\necho \"SWITCH says $code {}\"\ncat {}\nexit $code\n",
                show("code"),
                "x".repeat(900),
                show("detail")
            ),
        );
        let samples = executable(
            &at("check_samples"),
            &format!(
                "[ -e {} ] || {{ echo quiet; exit 0; }}\necho >> {}\ncat {}\n",
                show("samples"),
                show("looks"),
                show("performance")
            ),
        );
        let check = |name: &str, program: &str, monitor: &str| {
            format!("[[check]]\nname = \"{name}\"\nprogram = [{program:?}]\nevery = \"250ms\"\n{monitor}")
        };
        let pack =
            pack("base", log.path()) + &check("samples", &samples, "") + &check("switch", &switch, "[check.monitor]\n");
        group.write_pack("base", &pack);
        checks
    }

    fn looks(&self) -> i64 {
        fs::read_to_string(&self.looks).unwrap().len().try_into().unwrap()
    }
}

#[test]
fn a_full_queue_says_what_it_dropped() {
    let mut group = Group::builder().queue_budget("64KiB").pack("base", "").lay();
    let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
    let checks = Checks::new(&group, &log);
    group.start();
    let one = |group: &Group, query: &str| group.sql::<i64>(query)[0];
    wait::until("the monitor's first state", LIMIT, || (one(&group, "SELECT count(*) FROM state") == 1).then_some(()));

    let mark = group.agent(0).mark();
    group.gateway(0).stop();
    group.agent(0).wait_event_since(mark, 20070);
    let queue = Queue::of(&mut group);
    log.append(LINES.try_into().unwrap());
    wait::until("the lines wait in the queue", LIMIT, || (queue.open(EVENT) == LINES).then_some(()));

    // More samples than fit: they go, and nothing else.
    fs::write(&checks.samples, "").unwrap();
    let event = group.agent(0).wait_event_since(mark, 2023);
    println!("{}", event.text);
    assert_eq!((queue.open(EVENT), queue.open(ALERT)), (LINES, 0));
    assert!(queue.open(GAP) > 0, "what went is counted where it was");

    // More of what matters more: events go too, then states, but no alert.
    for round in 1..=ROUNDS {
        for (code, alerts) in [("2\n", 2 * round - 1), ("0\n", 2 * round)] {
            replace(&checks.code, code);
            wait::until("the alert is in the queue", LIMIT, || (queue.open(ALERT) == alerts).then_some(()));
        }
    }
    assert_eq!((queue.open(EVENT), queue.open(ALERT)), (0, 2 * ROUNDS));
    assert!(queue.open(STATE) < 2 * ROUNDS);
    fs::remove_file(&checks.samples).unwrap();
    let bytes: i64 = queue.one("SELECT sum(length(body)) FROM open");
    assert!(bytes <= 64 << 10, "the queue has {bytes} bytes");

    group.gateway(0).start();
    wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
    let sum = |column: &str| one(&group, &format!("SELECT coalesce(sum({column}), 0) FROM gap"));
    let looks = "SELECT count(*) FROM sample JOIN series ON id = series WHERE label = 'v000'";
    wait::until("each look is there or counted", LIMIT, || {
        (one(&group, looks) + sum("performance") == checks.looks()).then_some(())
    });

    let dropped = ["performance", "events", "states", "alerts", "unknown"].map(sum);
    println!("dropped: {dropped:?} of {} looks", checks.looks());
    let [performance, events, states, alerts, unknown] = dropped;
    assert!(performance > 0 && states > 0);
    assert_eq!((events, alerts, unknown), (LINES, 0, 0));
    assert_eq!(one(&group, "SELECT count(*) FROM event"), 1, "the last line");
    assert_eq!(one(&group, "SELECT count(*) FROM alert"), ROUNDS);
    assert_eq!(one(&group, "SELECT count(*) FROM alert_history"), 2 * ROUNDS);
    assert_eq!(one(&group, "SELECT count(*) FROM set_aside"), 0);

    // Every number that the stream has taken is a row or counted. A state change is no row of its own.
    let found = [checks.looks(), LINES + 1, 1 + 2 * ROUNDS, 2 * ROUNDS];
    assert_eq!(group.sql::<i64>("SELECT number FROM stream"), [found.iter().sum::<i64>()]);
    assert_eq!(sum("last - first + 1"), dropped.iter().sum::<i64>());
    let overlapping =
        "SELECT count(*) FROM gap a JOIN gap b ON a.id <> b.id AND a.first <= b.last AND b.first <= a.last";
    assert_eq!(one(&group, overlapping), 0);

    // The operator sees the same.
    let shown = group.json(&["gap", "list"]);
    let shown = shown.as_array().unwrap();
    assert!(shown.iter().all(|gap| gap["agent"] == "agent1.test" && gap["reason"] == "queue-full"), "{shown:?}");
    let total = |field: &str| shown.iter().map(|gap| gap[field].as_i64().unwrap()).sum::<i64>();
    assert_eq!(["performance", "events", "states", "alerts", "unknown"].map(total), dropped);
}
