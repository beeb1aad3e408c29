//! What lies on a host's disk opens only there; what an earlier version has left lying in the clear comes under
//! protection; and no memory of a daemon goes to a disk, or to another process of its user.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use wardline_harness::group::{Group, sql};
use wardline_harness::program::{fails, succeeds};
use wardline_harness::{Daemon, PowerCut, private, program, scratch, wait};
use wardline_secrets::protect::is_protected;

const LIMIT: Duration = Duration::from_secs(20);
/// The private files of a group's folder: keys, and heads of the trust log.
const PRIVATE: [&str; 7] = ["identity.key", "channel.key", "duty.key", "issuing.key", "root.key", "head", "claimed"];
/// A daemon's user in a story that needs one.
const NOBODY: u32 = 65534;

/// The private files that a daemon has.
fn private_files(daemon: &Daemon) -> Vec<PathBuf> {
    PRIVATE.iter().map(|name| daemon.state().join(name)).filter(|path| path.exists()).collect()
}

/// The state folder, which the group's folder is in.
fn state(daemon: &Daemon) -> &Path {
    daemon.state().parent().unwrap()
}

/// Where one of these stands in a file of a folder, but for those whose names begin so.
fn find(folder: &Path, needles: &[Vec<u8>], but: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        needles.iter().any(|needle| bytes.windows(needle.len()).any(|part| part == needle))
    };
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let files = scratch::files(folder).into_iter();
    files.filter(|path| (but.is_empty() || !named(path).starts_with(but)) && holds(path)).collect()
}

/// What would give a private file away: its lines, and of a key what these stand for.
fn traces(path: &Path) -> Vec<Vec<u8>> {
    let content = private::read(path);
    let Ok(key) = PrivateKeyDer::from_pem_slice(&content) else { return vec![content] };
    let lines = content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"-----"));
    // The private key proper, 32 bytes, has its place in PKCS#8 of a P-256 key (RFC 5915).
    lines.map(<[u8]>::to_vec).chain([key.secret_der()[36..68].to_vec()]).collect()
}

#[test]
fn what_lies_on_a_hosts_disk_opens_only_there() {
    let (mut group, log) = Group::builder().lay_with_log();
    group.start();
    log.say("a-line-that-came");
    group.wait_texts(&["a-line-that-came"]);
    // Something waits on the agent, in a batch or not.
    group.server().stop();
    log.say("a-line-that-waits");
    let queue = group.agent(0).state().join("queue.db");
    let waits = "SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM open)";
    wait::until("it waits", LIMIT, || (sql::<i64>(&queue, waits) != [0]).then_some(()));
    group.agent(0).stop();
    group.gateway(0).stop();
    let group_folder = group.folder().to_owned();
    for index in 0..3 {
        let daemon: &Daemon = match index {
            0 => group.agent(0),
            1 => group.gateway(0),
            _ => group.server(),
        };
        let files = private_files(daemon);
        assert!(files.len() >= 3, "{files:?}");
        let mut needles = vec![b"PRIVATE KEY".to_vec(), b"a-line-that".to_vec()];
        for file in &files {
            assert!(is_protected(&fs::read(file).unwrap()), "{}", file.display());
            needles.extend(traces(file));
        }
        // The database of a server holds what it is there to show.
        assert_eq!(find(state(daemon), &needles, "wardline.db"), Vec::<PathBuf>::new(), "{}", daemon.name());
        // The control: the same search finds a key and a line that are there, and where the database has the line.
        let planted = daemon.state().join("planted");
        for content in [private::read(&files[0]), b"... a-line-that-was-planted".to_vec()] {
            scratch::write(&planted, content, 0o600);
            assert_eq!(find(state(daemon), &needles, "wardline.db"), std::slice::from_ref(&planted));
        }
        fs::remove_file(&planted).unwrap();
        assert_eq!(find(state(daemon), &needles, "").is_empty(), index != 2);
    }

    // A copy of the agent's state, without the machine key, with that of another machine, and with its own.
    let agent = group.agent(0);
    let copy = group_folder.join("copy");
    succeeds(&Command::new("cp").arg("-a").arg(state(agent)).arg(&copy).output().unwrap());
    let config = fs::read_to_string(agent.config()).unwrap();
    let config = config.replace(state(agent).to_str().unwrap(), copy.to_str().unwrap());
    let file = group_folder.join("copy.toml");
    scratch::write(&file, &config, 0o644);
    let start = |verb: &str| {
        let mut command = Command::new("timeout");
        command.arg("20").arg(program::find("wardline-agent")).arg(verb).arg("--config").arg(&file);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output().unwrap()
    };
    let machine = copy.join("machine.key");
    let own = fs::read(&machine).unwrap();
    fs::remove_file(&machine).unwrap();
    fails(&start("run"), " critical 40130 ");
    fails(&start("doctor"), "machine.key is not there");
    assert!(!machine.exists(), "no other is made");
    let other = fs::read(state(group.gateway(0)).join("machine.key")).unwrap();
    scratch::write(&machine, other, 0o600);
    fails(&start("run"), " critical 40131 ");
    scratch::write(&machine, own, 0o600);
    let shown = program::said(&start("doctor"));
    let protector = format!("private files are protected by: machine key file {}", machine.display());
    assert!(shown.contains(&protector) && shown.contains("the identity key is"), "{shown}");

    // All goes on, nothing was lost.
    group.start();
    group.wait_texts(&["a-line-that-came", "a-line-that-waits"]);
    let status = group.json(&["status"]);
    let machine = state(group.server()).join("machine.key");
    assert_eq!(status["protector"], format!("machine key file {}", machine.display()));
}

/// Leaves everything that a daemon has protected in the clear, as an earlier version did.
fn make_plain(daemon: &Daemon) {
    for file in private_files(daemon) {
        let content = private::read(&file);
        scratch::write(&file, content, 0o600);
    }
    // What an earlier version did not have.
    let _ = fs::remove_dir_all(daemon.state().join("sealing"));
    for new in [daemon.state().join("group.key"), daemon.state().join("accounts")] {
        let _ = fs::remove_file(new);
    }
    fs::remove_file(state(daemon).join("machine.key")).unwrap();
    fs::remove_dir_all(state(daemon).join("protect")).unwrap();
}

/// A queue as an earlier version has left it, with an entry that waits, and what is left of others in its file.
fn earlier_queue(path: &Path, text: &str) {
    use wardline_proto::entry::{self, Entry, Event, What};

    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    let schema = "CREATE TABLE stream (id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL, previous BLOB,
                      over BLOB, number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
                  CREATE TABLE batch (last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash BLOB NOT NULL,
                      bytes BLOB NOT NULL) STRICT;
                  CREATE TABLE open (first INTEGER PRIMARY KEY, class INTEGER NOT NULL, numbers INTEGER NOT NULL,
                      body BLOB NOT NULL) STRICT;
                  CREATE INDEX open_class ON open (class, first);
                  CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
                  INSERT INTO stream VALUES (0, randomblob(16), NULL, NULL, 0, zeroblob(32));
                  PRAGMA user_version = 1;";
    connection.execute_batch(schema).unwrap();
    let at = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    for number in 1..=500 {
        let id = uuid::Uuid::now_v7().into_bytes().to_vec().into();
        let event = Event { id, source: "base/app".into(), severity: 2, text: text.into() };
        let entry = Entry { at, what: Some(What::Event(event)) };
        let mut body = Vec::new();
        entry::append(&entry, &mut body);
        connection.execute("INSERT INTO open VALUES (?, ?, 1, ?)", (number, entry.class() as u8, body)).unwrap();
    }
    connection.execute_batch("DELETE FROM open WHERE first > 1; PRAGMA wal_checkpoint(TRUNCATE);").unwrap();
}

/// What the keys of a daemon are, once they are opened.
fn keys(daemon: &Daemon) -> Vec<(PathBuf, Vec<u8>)> {
    let files = private_files(daemon).into_iter().filter(|file| !file.ends_with("head") && !file.ends_with("claimed"));
    files.map(|file| (file.clone(), private::read(&file))).collect()
}

#[test]
fn files_of_an_earlier_version_come_under_protection_whatever_is_interrupted() {
    let disk = PowerCut::mount();
    let place = |name: &str| disk.path().join(name);
    let states = [("srv1.test", place("srv1")), ("gw1.test", place("gw1")), ("agent1.test", place("agent1"))];
    let builder = states.iter().fold(Group::builder(), |builder, (name, state)| builder.state(name, state));
    let (mut group, log) = builder.lay_with_log();
    let queue = group.agent(0).state().join("queue.db");
    earlier_queue(&queue, "a-line-of-before");
    let mut needles = vec![b"PRIVATE KEY".to_vec(), b"a-line-of".to_vec()];
    for index in 0..3 {
        let daemon: &mut Daemon = match index {
            0 => group.server(),
            1 => group.gateway(0),
            _ => group.agent(0),
        };
        let files = private_files(daemon);
        let before = keys(daemon);
        make_plain(daemon);
        needles.extend(files.iter().filter(|file| !file.ends_with("head")).flat_map(|file| traces(file)));
        // The control: they are in the clear now.
        assert!(find(state(daemon), &needles, "wardline.db").len() + 1 >= files.len());
        // The power goes out at its first change of the disk, at the second of what is left to do, and so on, until there
        // is less left than that. Whatever is there then, nothing is lost.
        disk.settle();
        let mut cuts = 0;
        for moment in 1.. {
            disk.cut_at(moment, moment);
            daemon.spawn();
            let what = format!("{} is ready, or has no power", daemon.name());
            let out = wait::until(&what, LIMIT, || {
                // Ready before the power went out, when it is both.
                let out = disk.is_out();
                (out || daemon.is_ready()).then_some(out)
            });
            daemon.kill9();
            disk.cut(moment);
            assert!(keys(daemon) == before, "{} after {moment} changes", daemon.name());
            if !out {
                break;
            }
            cuts += 1;
        }
        println!("{}: {cuts} cuts", daemon.name());
        assert!(cuts >= 5, "{}: {cuts} cuts", daemon.name());
        daemon.start();
        let protected = |path: &PathBuf| is_protected(&fs::read(path).unwrap());
        assert!(files.iter().all(protected), "{}", daemon.name());
    }
    // Who they are they still are: what waited arrives, and what comes.
    log.say("a-line-of-today");
    group.wait_texts(&["a-line-of-before", "a-line-of-today"]);
    group.agent(0).stop();
    group.gateway(0).stop();
    for daemon in [group.agent(0).state().to_owned(), group.gateway(0).state().to_owned()] {
        assert_eq!(find(&daemon, &needles, ""), Vec::<PathBuf>::new());
    }
}

#[test]
fn the_roots_key_goes_offline_and_comes_back() {
    let mut group = Group::builder().gateways(0).agents(0).lay();
    group.server().start();
    let (inside, outside) = (group.server().state().join("root.key"), group.folder().join("root.key"));
    let content = private::read(&inside);
    let (config, folder) = (group.server().config(), group.folder().to_owned());
    let export = |to: &Path| {
        let mut command = Command::new(program::find("wardline-server"));
        command.arg("export-root").arg("--config").arg(&config).arg("--to").arg(to);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output().unwrap()
    };
    // Nothing is overwritten, and what cannot be written costs nothing.
    scratch::write(&outside, "something else", 0o600);
    fails(&export(&outside), "40135");
    fails(&export(&folder.join("missing/root.key")), "40135");
    assert_eq!((private::read(&inside), fs::read(&outside).unwrap()), (content.clone(), b"something else".to_vec()));
    fs::remove_file(&outside).unwrap();
    let exported = export(&outside);
    assert!(exported.status.success() && program::said(&exported).contains("40136"), "{}", program::said(&exported));
    // Any machine opens it, and this one has it not.
    assert_eq!((fs::read(&outside).unwrap(), inside.exists()), (content, false));
    let key = Command::new("openssl").args(["pkey", "-noout", "-in"]).arg(&outside).output().unwrap();
    succeeds(&key);
    fails(&export(&folder.join("again.key")), "root.key");
    fails(&group.wardline(&["ca", "rotate"]), "40091");
    fs::copy(&outside, &inside).unwrap();
    succeeds(&group.wardline(&["ca", "rotate"]));
    assert!(is_protected(&fs::read(&inside).unwrap()));
}

/// A process that ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of a program that runs as an ordinary user, when that can be had.
fn unprivileged(program: &str) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let user = NOBODY.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", program]);
    command
}

#[test]
fn a_daemon_leaves_no_core_dump_and_only_root_reads_its_memory() {
    let mut group = Group::builder().lay();
    group.start();
    let pids = [group.agent(0).pid(), group.gateway(0).pid(), group.server().pid()];
    for pid in pids {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    }

    // A server as an ordinary user, and that user, who looks at its memory.
    let folder = scratch::Scratch::new();
    let [state, runtime] = ["state", "run"].map(|name| folder.path().join(name));
    for path in [&state, &runtime] {
        fs::DirBuilder::new().mode(0o700).create(path).unwrap();
    }
    let config = folder.path().join("server.toml");
    let text = format!(
        "name = \"srv9.test\"\nstate_dir = {state:?}\nruntime_dir = {runtime:?}\nlisten = \"127.0.0.1:0\"\ngroup.name = \"own\"\n"
    );
    scratch::write(&config, text, 0o644);
    // The program where that user gets at it.
    let server = folder.path().join("wardline-server");
    fs::copy(program::find("wardline-server"), &server).unwrap();
    if nix::unistd::geteuid().is_root() {
        for path in [folder.path(), &state, &runtime, &config] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let mut command = unprivileged(server.to_str().unwrap());
    command.arg("run").arg("--config").arg(&config).current_dir(folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Running(command.spawn().unwrap());
    wait::until("it listens", LIMIT, || runtime.join("addr").exists().then_some(()));
    let reads = |pid: u32, what: &str| {
        let output = unprivileged("head").args(["-c", "1"]).arg(format!("/proc/{pid}/{what}")).output().unwrap();
        program::said(&output)
    };
    for what in ["mem", "environ", "maps"] {
        let said = reads(daemon.0.id(), what);
        assert!(said.contains("Permission denied"), "{what}: {said}");
    }
    // The control: of another program of its own the user reads all that.
    let other = Running(unprivileged("sleep").arg("60").spawn().unwrap());
    for what in ["environ", "maps"] {
        wait::until(what, LIMIT, || (!reads(other.0.id(), what).contains("Permission denied")).then_some(()));
    }
}
