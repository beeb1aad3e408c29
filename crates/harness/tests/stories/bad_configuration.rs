//! What an operator got wrong is refused at the start, by an event that names the file, the place in it, and what is
//! allowed there; nothing is applied. Keys and certificates likewise, and a script can tell failures apart.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use wardline_harness::group::Group;
use wardline_harness::pki::{Authority, Fault};
use wardline_harness::{Daemon, program, scratch};
use wardline_proto::Role;

const PACK: &str = "[pack]\nname = \"base\"\n\n[[check]]\nname = \"load\"\nbuiltin = \"load\"\n[check.monitor]\n";

/// A mistake: the line that begins with `line` becomes `becomes` (a new first line when it is empty), and the event
/// names the place of `at` in the new text, if any, and says `says`.
struct Mistake {
    line: &'static str,
    becomes: &'static str,
    at: &'static str,
    says: &'static str,
}

const fn mistake(line: &'static str, becomes: &'static str, at: &'static str, says: &'static str) -> Mistake {
    Mistake { line, becomes, at, says }
}

/// What is the same in the files of agents and gateways.
const MEMBER: &[Mistake] = &[
    mistake("", "nmae = \"x\"", "nmae", "unknown field `nmae`, expected one of `name`,"),
    mistake("name = ", "name = 5", "5", "expected a string"),
    mistake("name = ", "name = \"Web_1\"", "\"Web_1\"", "only lower-case letters, digits, hyphens and dots"),
    mistake("name = ", "name = \"ä\" x", "x", "expected"),
    mistake("[[group]]", "[group]", "[group]", "[[group]]"),
    mistake("id = ", "id = \"12\"", "\"12\"", "an id is a UUID"),
    mistake("pin = ", "pin = \"sha256:+1\"", "\"sha256:+1\"", "`sha256:` and 64 hex digits"),
    mistake("pin = ", "pin = \"md5:00\"", "\"md5:00\"", "`sha256:` and 64 hex digits"),
    mistake("mechanism = ", "mechanism = \"none\"", "\"none\"", "expected one of `certificate`"),
    mistake("address = ", "adress = \"x:1\"", "adress", "expected one of `name`, `address`"),
    mistake("address = ", "address = \"localhost\"", "[[group.parents]]", "an address is HOST:PORT"),
];

const AGENT: &[Mistake] = &[
    mistake("heartbeat = ", "heartbeat = \"10ms\"", "\"10ms\"", "from 100ms to 1h is allowed"),
    mistake("heartbeat = ", "heartbeat = 10", "10", "expected a string"),
    mistake("heartbeat = ", "heartbeat = \"often\"", "\"often\"", "a whole number and one of the units ms, s, m, h, d"),
    mistake("queue_budget = ", "queue_budget = \"1KiB\"", "\"1KiB\"", "from 64KiB to 64GiB is allowed"),
    mistake("packs = ", "packs = \"base\"", "\"base\"", "expected a sequence"),
];

const GATEWAY: &[Mistake] = &[
    mistake("listen = ", "listen = \"localhost\"", "\"localhost\"", "ADDRESS:PORT is allowed"),
    mistake("", "agent = []", "agent", "unknown field `agent`, expected one of `name`,"),
];

const SERVER: &[Mistake] = &[
    mistake("", "packs = []", "packs", "unknown field `packs`, expected one of `name`,"),
    mistake("listen = ", "listen = 5723", "5723", "expected a string"),
    mistake("[group]", "[group]\nown_pki = { ca = \"ca.pem\" }", "{ ca", "missing field `certificate`"),
    mistake("database = ", "database = \"oracle:x\"", "", "`sqlite:PATH` or `postgres:"),
    mistake("name = \"test\"", "name = \"protect\"", "\"protect\"", "no group can be called protect"),
    mistake("name = \"test\"", "name = \"test\"\npin = \"sha256:12\"", "\"sha256:12\"", "`sha256:` and 64 hex digits"),
];

const PACKS: &[Mistake] = &[
    mistake(
        "builtin = ",
        "builtin = \"load\"\ncolour = 1",
        "colour",
        "unknown field `colour`, expected one of `name`,",
    ),
    mistake("builtin = ", "builtin = \"lod\"", "\"lod\"", "expected one of `cpu`, `memory`, `disk`, `load`"),
    mistake("builtin = ", "builtin = \"load\"\nevery = \"1ms\"", "\"1ms\"", "not within 250ms to 24h"),
    mistake("builtin = ", "program = [\"check_load\"]", "[\"check_load\"]", "no absolute path"),
    mistake(
        "builtin = ",
        "builtin = \"load\"\n[[log]]\nname = \"load\"\npath = \"/x\"",
        "\"load\"\npath",
        "\"load\" already",
    ),
    mistake("[check.monitor]", "[check.monitor]\nalert_on = \"red\"", "\"red\"", "`warning`, `critical`, `never`"),
    mistake("name = \"other\"", "name = \"base\"", "\"base\"", "another pack is named \"base\" already"),
];

impl Mistake {
    /// The text with the mistake, and where it is, counted from 1.
    fn make(&self, text: &str) -> (String, Option<(usize, usize)>) {
        let text = if self.line.is_empty() {
            format!("{}\n{text}", self.becomes)
        } else {
            let mut lines: Vec<_> = text.lines().collect();
            let line = lines.iter_mut().find(|line| line.starts_with(self.line));
            *line.unwrap_or_else(|| panic!("there is no {:?} in\n{text}", self.line)) = self.becomes;
            lines.join("\n") + "\n"
        };
        // Behind the beginning of what was changed: the same may stand earlier, for another reason.
        let from = text.find(self.becomes).unwrap();
        let place = (!self.at.is_empty()).then(|| {
            let at = text[from..].find(self.at).map_or_else(|| text.find(self.at).unwrap(), |at| from + at);
            let before = &text[..at];
            (before.matches('\n').count() + 1, before.rsplit('\n').next().unwrap().chars().count() + 1)
        });
        (text, place)
    }
}

/// Runs a program until it ends by itself; gives its exit code and what it said.
fn run(role: Role, verb: &str, config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "10"]).arg(program::find(&format!("wardline-{role}")));
    let output = command.arg(verb).arg("--config").arg(config).env_remove("JOURNAL_STREAM").output().unwrap();
    assert!(output.stdout.is_empty(), "it listened");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// Every file below some folders, but the lock and the machine's keys of a state folder, and what SQLite needs to read a
/// database at all.
fn files(folders: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found: BTreeSet<_> = folders.iter().flat_map(|folder| scratch::files(folder)).collect();
    let machine = ["lock", "machine.key", "wardline.db-wal", "wardline.db-shm"];
    found.retain(|path| {
        !machine.iter().any(|name| path.ends_with(name)) && !path.parent().unwrap().ends_with("protect")
    });
    found
}

/// Runs it, expects one event with these words and nothing else, and that no file was made.
fn refused(daemon: &Daemon, role: Role, verb: &str, number: u32, words: &[&str]) {
    let folders = [daemon.state().parent().unwrap().to_owned(), daemon.runtime().to_owned()];
    let before = files(&folders);
    let (code, said) = run(role, verb, &daemon.config());
    assert_eq!(code, Some(1), "{role} {verb} {words:?}: {said}");
    let event = said.lines().last().unwrap_or_default();
    assert!(event.contains(&format!(" critical {number} ")), "{role} {verb}: {said}");
    assert!(words.iter().all(|word| event.contains(word)), "{role} {verb}, {words:?} expected: {said}");
    // What went well before may be said; only that nothing runs matters.
    assert!(!said.contains(" 40000 "), "{said}");
    assert_eq!(files(&folders), before, "{role} {verb}");
}

#[test]
fn bad_configuration_is_refused_with_file_line_and_column() {
    let mut group =
        Group::builder().agents(2).pack("base", PACK).pack("other", &PACK.replace("base", "other")).written().lay();
    let pack = group.folder().join("packs/other.toml");
    for role in [Role::Agent, Role::Gateway, Role::Server] {
        let (daemon, mistakes): (&Daemon, Vec<&[Mistake]>) = match role {
            Role::Agent => (group.agent(0), vec![MEMBER, AGENT, PACKS]),
            Role::Gateway => (group.gateway(0), vec![MEMBER, GATEWAY]),
            _ => (group.server(), vec![SERVER]),
        };
        assert_eq!(run(role, "check-config", &daemon.config()), (Some(0), String::new()));
        for mistakes in mistakes {
            let file = if std::ptr::eq(mistakes, PACKS) { pack.clone() } else { daemon.config() };
            let right = fs::read_to_string(&file).unwrap();
            for mistake in mistakes {
                let (wrong, place) = mistake.make(&right);
                fs::write(&file, &wrong).unwrap();
                let place = place.map_or_else(String::new, |(line, column)| format!("line {line}, column {column}: "));
                let words = [&format!("{} is refused: {place}", file.display()), mistake.says];
                for verb in ["check-config", "run"] {
                    refused(daemon, role, verb, 40001, &words);
                }
            }
            fs::write(&file, right).unwrap();
        }
    }

    // A second group is not passed over, nor is one taken for another; and a missing file is named.
    for (role, says) in [(Role::Gateway, "only one [[group]] is allowed"), (Role::Agent, "a name and an id of its own")]
    {
        let daemon: &Daemon = if role == Role::Agent { group.agent(0) } else { group.gateway(0) };
        let right = fs::read_to_string(daemon.config()).unwrap();
        let (_, membership) = right.split_once("[[group]]").unwrap();
        fs::write(daemon.config(), format!("{right}\n[[group]]{membership}")).unwrap();
        refused(daemon, role, "run", 40001, &["line ", says]);
        fs::write(daemon.config(), right).unwrap();
    }
    let agent = group.agent(0);
    let right = fs::read_to_string(agent.config()).unwrap();
    fs::write(agent.config(), right.replace("base.toml", "gone.toml")).unwrap();
    refused(agent, Role::Agent, "run", 40001, &["packs/gone.toml is refused: No such file"]);
    fs::remove_file(agent.config()).unwrap();
    refused(agent, Role::Agent, "run", 40001, &["config.toml is refused: No such file"]);
}

#[test]
fn keys_and_certificates_that_do_not_fit_are_refused_at_the_start() {
    let mut group = Group::builder().written().lay();
    let authority = Authority::new("test");
    // Of the group itself, what is at fault; of another, a good one.
    let issued = |group: &Group, fault, role| group.authority().faulty(fault, "agent1.test", role);
    let credentials = [
        (issued(&group, Fault::OtherName, Role::Agent), 20052, "other.test"),
        (
            issued(&group, Fault::OtherRole, Role::Agent),
            20052,
            "it belongs to server agent1.test, but agent agent1.test was expected",
        ),
        (issued(&group, Fault::Expired, Role::Agent), 20051, "valid from"),
        (issued(&group, Fault::NotYetValid, Role::Agent), 20051, "valid from"),
        (issued(&group, Fault::ClientUsageOnly, Role::Agent), 20050, "channel.pem"),
        (issued(&group, Fault::OtherKey, Role::Agent), 20068, "channel.key"),
        (authority.channel("agent1.test", Role::Agent), 40095, "channel.pem"),
    ];
    let agent = group.agent(0);
    let state = agent.state().to_owned();
    let right = ["channel.pem", "channel.key"].map(|name| (state.join(name), fs::read(state.join(name)).unwrap()));
    for (credential, number, word) in credentials {
        credential.write(&state, "channel");
        refused(agent, Role::Agent, "run", number, &[word]);
    }
    for (path, content) in right {
        fs::write(path, content).unwrap();
    }

    for (role, name) in [
        (Role::Agent, "channel.key"),
        (Role::Agent, "identity.key"),
        (Role::Gateway, "channel.key"),
        (Role::Server, "identity.key"),
        (Role::Server, "duty.key"),
    ] {
        let daemon: &Daemon = match role {
            Role::Agent => group.agent(0),
            Role::Gateway => group.gateway(0),
            _ => group.server(),
        };
        let key = daemon.state().join(name);
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        refused(daemon, role, "run", 20066, &[&key.display().to_string(), "0644"]);
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    }

    // A pin of another root: nothing that is there can be trusted.
    for role in [Role::Agent, Role::Gateway, Role::Server] {
        let daemon: &Daemon = match role {
            Role::Agent => group.agent(0),
            Role::Gateway => group.gateway(0),
            _ => group.server(),
        };
        let right = fs::read_to_string(daemon.config()).unwrap();
        let wrong = format!("pin = {:?}", authority.pin());
        let wrong = match right.lines().find(|line| line.starts_with("pin = ")) {
            Some(pin) => right.replace(pin, &wrong),
            // A server's group is the last in its file.
            None => format!("{right}{wrong}\n"),
        };
        fs::write(daemon.config(), wrong).unwrap();
        refused(daemon, role, "run", 20066, &["root.pem", "pin"]);
        fs::write(daemon.config(), right).unwrap();
    }

    // All is right again.
    group.start();
}

#[test]
fn a_script_can_tell_why_the_command_line_failed() {
    let mut group = Group::builder().lay();
    let code = |group: &Group, arguments: &[&str]| {
        let output = group.wardline(arguments);
        assert!(output.status.success() || output.stdout.is_empty(), "{arguments:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (unreachable, said) = code(&group, &["status"]);
    assert_eq!(unreachable, 6, "{said}");
    assert!(said.contains("error: ") && said.contains(" next: "), "{said}");
    group.server().start();
    assert_eq!(code(&group, &["agent", "list"]), (0, String::new()));
    let (good, said) = code(&group, &["status"]);
    assert!(good == 0 && said.contains("warning: ") && said.contains("wardline keys escrow"), "{good}: {said}");
    let (missing, said) = code(&group, &["alert", "show", "01900000-0000-7000-8000-000000000000"]);
    assert_eq!(missing, 3, "{said}");
    assert!(said.contains("error: ") && said.contains(" next: "), "{said}");
    for wrong in [&["alert", "frobnicate"][..], &["--colour", "status"], &["agent", "release", "Web_1"], &[]] {
        let (usage, said) = code(&group, wrong);
        assert_eq!(usage, 2, "{wrong:?}: {said}");
        assert!(!said.is_empty());
    }
}
