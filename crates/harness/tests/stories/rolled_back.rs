//! Whoever puts the server's log back, or another in its place, is found out by the agents and by the server. Who restores
//! it on purpose says so, and everything goes on.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use wardline_harness::daemon::Event;
use wardline_harness::group::Group;
use wardline_harness::program::{fails, succeeds};
use wardline_harness::{Daemon, Log, program, scratch, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// What an agent keeps of its configuration and of the log.
const KEPT: [&str; 3] = ["OpsMgrConnector.Config.xml", "OpsMgrConnector.Config.xml.sig", "head"];

/// A group whose agent runs what the server tells it.
struct Estate {
    group: Group,
    log: Log,
    lines: Vec<String>,
}

impl Estate {
    fn new() -> Self {
        let mut group = Group::builder().lay();
        let log = Log::create(group.folder(), "app");
        group.start();
        let estate = Self { group, log, lines: Vec::new() };
        estate.apply("first");
        estate
    }

    fn agent(&mut self) -> &mut Daemon {
        self.group.agent(0)
    }

    /// Applies the pack in another form.
    fn apply(&self, form: &str) {
        let file = self.group.folder().join("pack.toml");
        fs::write(&file, format!("# {form}\n{}", self.log.pack("app"))).unwrap();
        self.group.done(&["pack", "apply", &file.display().to_string()]);
    }

    /// Applies the pack in another form; the agent runs it.
    #[track_caller]
    fn takes(&mut self, form: &str) {
        let mark = self.agent().mark();
        self.apply(form);
        self.runs(mark, form);
    }

    /// Waits until the agent has taken the pack in this form.
    #[track_caller]
    fn runs(&mut self, mark: usize, form: &str) {
        self.agent().wait_event_since(mark, 21025);
        let what = format!("the agent runs the form {form}");
        let agent = self.agent();
        wait::until(&what, LIMIT, || {
            let document = fs::read_to_string(agent.state().join(KEPT[0])).ok()?;
            (document.contains(&format!("# {form}\n")) && agent.events_since(mark).iter().any(|e| e.number == 1210))
                .then_some(())
        });
    }

    /// Writes a line into the log and waits until the database has every line once.
    #[track_caller]
    fn line(&mut self) {
        let line = format!("line {}", self.lines.len());
        self.log.say(&line);
        self.lines.push(line);
        self.group.wait_texts(&self.lines);
    }

    fn database(&self) -> [PathBuf; 3] {
        let path = self.group.database();
        ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", path.display())))
    }

    fn head(&mut self) -> PathBuf {
        self.group.server().state().join("head")
    }

    /// The alerts about the log that are open.
    fn alerts(&self) -> usize {
        self.group.done(&["alert", "list"]).matches("knows a trust log").count()
    }

    fn accept(&mut self, arguments: &[&str]) -> Output {
        accept(&mut self.group, arguments)
    }

    /// The server does not start, and says why.
    #[track_caller]
    fn refuses_to_start(&mut self) {
        self.group.server().spawn();
        assert!(!self.group.server().wait_exit().success());
        self.group.server().wait_event(40065);
    }
}

/// Says that the database was restored on purpose.
pub fn accept(group: &mut Group, arguments: &[&str]) -> Output {
    let mut command = Command::new(program::find("wardline-server"));
    command.arg("accept-restore").arg("--config").arg(group.server().config()).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output().unwrap()
}

type Copy = Vec<(PathBuf, Option<Vec<u8>>)>;

fn copy(files: impl IntoIterator<Item = PathBuf>) -> Copy {
    files.into_iter().map(|path| (path.clone(), fs::read(path).ok())).collect()
}

fn put(copy: &Copy) {
    for (path, content) in copy {
        match content {
            Some(content) => scratch::write(path, content, 0o600),
            None => drop(fs::remove_file(path)),
        }
    }
}

fn kept(agent: &Daemon) -> Copy {
    copy(KEPT.map(|name| agent.state().join(name)))
}

/// What an agent or a server says when a log does not continue another.
fn about_logs(events: &[Event]) -> Vec<u32> {
    events.iter().map(|event| event.number).filter(|number| (40100..40110).contains(number)).collect()
}

/// Waits for an event that says that the log is older or another one.
#[track_caller]
fn wait_breach(agent: &Daemon, mark: usize) -> Event {
    wait::until("the agent notices", LIMIT, || {
        agent.events_since(mark).into_iter().find(|event| [40100, 40101].contains(&event.number))
    })
}

#[test]
fn a_log_rolled_back_is_noticed_by_server_and_agent() {
    let mut estate = Estate::new();
    // The control: that the log grows is nothing to speak of.
    estate.takes("second");
    estate.group.token(&["--role", "agent", "--name", "other.test"]);
    estate.takes("third");
    estate.line();
    assert_eq!(about_logs(&estate.agent().events()), [0; 0]);
    assert_eq!(about_logs(&estate.group.server().events()), [0; 0]);
    estate.group.server().stop();
    let (head, database) = (estate.head(), estate.database());
    let backup = (copy(database.clone()), copy([head.clone()]));
    estate.group.server().start();
    estate.takes("fourth");
    let before = kept(estate.agent());
    assert_eq!(estate.agent().state().join("head").metadata().unwrap().mode() & 0o7777, 0o600);

    // The database alone: the server does not start.
    estate.group.server().stop();
    put(&backup.0);
    estate.refuses_to_start();
    assert!(estate.group.done(&["explain", "40065"]).contains("accept-restore"));

    // Database and head: it starts, and the agent knows better. It says so, applies nothing, and is heard.
    put(&backup.1);
    let mark = estate.agent().mark();
    estate.group.server().start();
    let event = estate.agent().wait_event_since(mark, 40101);
    assert!(event.severity == "critical" && event.text.contains("gw1.test"), "{event:?}");
    let event = estate.group.server().wait_event(40103);
    assert!(event.severity == "critical" && event.text.contains("agent1.test"), "{event:?}");
    wait::until("an alert", LIMIT, || (estate.alerts() == 1).then_some(()));
    estate.line();
    let mark = estate.agent().mark();
    estate.apply("fifth");
    wait_breach(estate.agent(), mark);
    estate.line();
    // Said again it is still one alert.
    let mark = estate.agent().mark();
    estate.agent().restart();
    wait_breach(estate.agent(), mark);
    estate.line();
    assert_eq!(estate.alerts(), 1);
    assert_eq!(kept(estate.agent()), before);
    assert!(estate.agent().events_since(mark).iter().all(|event| event.number != 21025));
    assert_eq!(estate.group.server().events().iter().filter(|event| event.number == 40103).count(), 1);
    // A server that starts anew is told anew, and raises no other.
    estate.group.server().restart();
    estate.group.server().wait_event(40103);
    estate.line();
    assert_eq!(estate.alerts(), 1);
    assert_eq!(head.with_file_name("claimed").metadata().unwrap().mode() & 0o7777, 0o600);

    // On purpose: not beside a running server, and not without a word.
    fails(&estate.accept(&["--yes"]), "40003");
    estate.group.server().stop();
    fails(&estate.accept(&[]), "nothing was changed");
    let accepted = estate.accept(&["--yes"]);
    succeeds(&accepted);
    let said = program::said(&accepted);
    for word in ["entries", "remove", "revoke", "40105"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let mark = estate.agent().mark();
    estate.group.server().start();
    let event = estate.agent().wait_event_since(mark, 40102);
    assert!(event.severity == "warning" && event.text.contains("by operator "), "{event:?}");
    estate.runs(mark, "fifth");
    estate.takes("sixth");
    estate.line();
    assert_eq!(about_logs(&estate.agent().events_since(mark)), [40102]);
    assert_eq!(about_logs(&estate.group.server().events()), [0; 0]);
    assert_eq!(estate.alerts(), 0);
    let closed = estate.group.done(&["alert", "list", "--all", "-o", "name"]);
    assert!(estate.group.done(&["alert", "show", closed.trim()]).contains("accepted that the server was restored"));
    let log = estate.group.done(&["keys", "log", "show"]);
    assert!(log.contains("restored"), "{log}");

    // A second time, the database alone; what was taken in between is older than what comes then.
    estate.group.server().stop();
    put(&backup.0);
    estate.refuses_to_start();
    let given_up = copy([head.clone()]);
    assert!(estate.accept(&["--yes"]).status.success());
    // As if power had failed before the new head was kept.
    put(&given_up);
    let again = estate.accept(&["--yes"]);
    succeeds(&again);
    assert!(program::said(&again).contains("nothing to accept"), "{}", program::said(&again));
    estate.lines.truncate(1);
    let mark = estate.agent().mark();
    estate.group.server().start();
    estate.agent().wait_event_since(mark, 40102);
    estate.runs(mark, "third");
    estate.takes("seventh");
    estate.line();
}

#[test]
fn a_log_that_was_exchanged_is_noticed_by_server_and_agent() {
    let mut estate = Estate::new();
    estate.takes("second");
    estate.group.server().stop();
    let (head, [database, wal, shm]) = (estate.head(), estate.database());
    let files = [database, wal, shm, head];
    let start = copy(files.clone());
    // One history, which the agent sees.
    estate.group.server().start();
    estate.takes("third");
    estate.line();
    estate.group.server().stop();
    let one = copy(files.clone());
    let before = kept(estate.agent());
    // The other, of the same length, which it does not.
    estate.group.gateway(0).stop();
    put(&start);
    estate.group.server().start();
    estate.apply("other");
    estate.group.server().stop();
    let other = copy(files);

    for longer in [false, true] {
        put(&other);
        let mark = estate.agent().mark();
        estate.group.server().start();
        if longer {
            estate.apply("another");
        }
        estate.group.gateway(0).start();
        let event = estate.agent().wait_event_since(mark, 40100);
        assert!(event.severity == "critical", "{event:?}");
        estate.group.server().wait_event(40103);
        wait::until("an alert", LIMIT, || (estate.alerts() == 1).then_some(()));
        assert_eq!(kept(estate.agent()), before);
        assert!(estate.agent().events_since(mark).iter().all(|event| event.number != 21025));
        estate.group.gateway(0).stop();
        estate.group.server().stop();
    }

    // The control: with the history that it knows everything goes on.
    put(&one);
    let mark = estate.agent().mark();
    estate.group.server().start();
    estate.group.gateway(0).start();
    estate.agent().wait_event_since(mark, 21026);
    estate.takes("fourth");
    estate.line();
    assert_eq!(about_logs(&estate.agent().events_since(mark)), [0; 0]);
    assert_eq!((about_logs(&estate.group.server().events()), estate.alerts()), (vec![], 0));
}
