//! A plugin runs as a user of its own and gets its secret as a file that only this user can read; whatever it tries, it
//! reads nothing of the agent and of others, and nothing of it is left.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::unistd::getuid;
use wardline_harness::group::Group;
use wardline_harness::helper::{Helper, as_root, request};
use wardline_harness::{Scratch, program, wait};
use wardline_proto::runas::{Ended, Request};

const LIMIT: Duration = Duration::from_secs(20);
const SECRET: &str = "Tr0ub4dor-and-3-more";

/// A folder in which a plugin, whoever it runs as, can say something to the test.
struct Meeting(Scratch);

impl Meeting {
    fn new() -> Self {
        let scratch = Scratch::in_memory();
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o1777)).unwrap();
        Self(scratch)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Waits for what a plugin says in a file, a whole line.
    fn wait(&self, name: &str) -> String {
        wait::until(name, LIMIT, || {
            let said = fs::read_to_string(self.path(name)).ok()?;
            said.strip_suffix('\n').map(str::to_owned)
        })
    }

    fn say(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }
}

/// Says its process id and its folder, then waits until it may go on. `$1` is the meeting, `$2` its own name there.
const MEET: &str = r#"
echo "$$ $CREDENTIALS_DIRECTORY" >"$1/$2.new" && mv "$1/$2.new" "$1/$2"
while [ ! -e "$1/$2-go" ]; do sleep 0.02; done
"#;

/// A file that only root can read.
fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let output = as_root("cat").arg(path.as_ref()).output().unwrap();
    assert!(output.status.success(), "{}", program::said(&output));
    output.stdout
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Everything that processes show of themselves to others: their arguments and their environment.
fn shown() -> Vec<u8> {
    let script = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; true";
    as_root("sh").args(["-c", script]).output().unwrap().stdout
}

#[test]
fn a_run_as_secret_reaches_a_plugin_without_arguments_or_environment() {
    let (helper, meeting) = (Helper::start(""), Meeting::new());
    let script = format!("{MEET} cat \"$CREDENTIALS_DIRECTORY/password\"; id -u; id -G; cat \"$3\"");
    let in_argument = "{credentials}/password";
    let (answer, printed) = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let arguments = [&meeting.arg(), "a", in_argument];
            helper.shell(&script, &arguments, &[("user", "ann"), ("password", SECRET)])
        });
        let met = meeting.wait("a");
        let (pid, folder) = met.split_once(' ').unwrap();
        // While it runs: the secret is in its folder, and nowhere that others can look.
        assert_eq!(read(format!("{folder}/password")), SECRET.as_bytes(), "the control: it is there");
        assert_eq!(read(format!("{folder}/user")), b"ann");
        assert!(holds(&read(format!("/proc/{pid}/cmdline")), in_argument.strip_prefix("{credentials}").unwrap()));
        assert!(holds(&read(format!("/proc/{pid}/environ")), "CREDENTIALS_DIRECTORY="));
        for what in ["cmdline", "environ"] {
            assert!(!holds(&read(format!("/proc/{pid}/{what}")), SECRET), "{what} of the plugin");
        }
        let shown = shown();
        assert!(holds(&shown, folder), "the control: the arguments of all processes are read");
        assert!(!holds(&shown, SECRET));
        // Nobody else may look: neither into the folder nor, who there is.
        let status = as_root("stat").args(["-c", "%a %U %u %g", folder]).output().unwrap();
        let status = program::succeeds(&status);
        let words: Vec<_> = status.split_whitespace().collect();
        assert_eq!((words[0], words[2]), ("750", "0"), "it stays root's: {status}");
        let mode = as_root("stat").args(["-c", "%a %u %g"]).arg(format!("{folder}/password")).output().unwrap();
        let of_file = program::succeeds(&mode);
        assert_eq!(of_file.trim(), format!("400 {0} {0}", words[3]));
        assert!(helper.gives(words[3].parse().unwrap()), "{status}");
        let limits = read(format!("/proc/{pid}/limits"));
        let limits = String::from_utf8(limits).unwrap();
        let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(limit("Max core file size").contains(" 0 "), "{limits}");
        assert!(limit("Max processes").contains(" 64 "), "{limits}");
        let status = String::from_utf8(read(format!("/proc/{pid}/status"))).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        meeting.say("a-go");
        asked.join().unwrap()
    });
    assert_eq!((answer.ended(), answer.number, answer.text.as_str()), (Ended::Exit, 0, ""));
    let said = String::from_utf8(printed.stdout.to_vec()).unwrap();
    let numbers: Vec<_> = said.strip_prefix(SECRET).unwrap().strip_suffix(SECRET).unwrap().split_whitespace().collect();
    assert_eq!(numbers, [numbers[0]; 2], "one group, of the same number");
    assert!(helper.gives(numbers[0].parse().unwrap()), "{numbers:?}");
    // Afterwards nothing of it is left.
    assert_eq!(helper.folders(), [""; 0]);
    assert!(helper.processes().is_empty());
}

/// Answers one request by HTTP, and gives what it was.
fn http(listener: &TcpListener) -> String {
    let (mut tcp, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tcp.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    let known = String::from_utf8(request).unwrap();
    let status = if known.contains("\r\nAuthorization: Basic ") { "200 OK" } else { "401 Unauthorized" };
    write!(tcp, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    known
}

#[test]
fn a_plugin_as_it_comes_with_the_system_reads_its_login_from_its_folder() {
    let mut helper = Helper::new(getuid().as_raw(), "programs = [\"/usr/lib/nagios/plugins/\"]\n");
    helper.restart();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let check = |options: Option<&str>| {
        let file = options.map(|options| ("extra-opts.ini", options));
        let mut request = request("", &[], file.as_slice());
        request.program = "/usr/lib/nagios/plugins/check_http".into();
        request.arguments = ["-H", "127.0.0.1", "-p", &port, "-t", "10"].map(str::to_owned).to_vec();
        if options.is_some() {
            request.arguments.push("--extra-opts=check_http@{credentials}/extra-opts.ini".into());
        }
        thread::scope(|scope| {
            let asked = scope.spawn(|| helper.ask(&request, options.map(str::as_bytes).as_slice()));
            let seen = http(&listener);
            (seen, asked.join().unwrap())
        })
    };
    // The control: without a login it does not get in.
    let (_, (answer, printed)) = check(None);
    let said = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert_eq!((answer.ended(), answer.number), (Ended::Exit, 1), "{said}");
    assert!(said.contains("401 Unauthorized"), "{said}");
    // What a password may have in it: a file of options has no quotes and no comments behind a value.
    let (seen, (answer, printed)) = check(Some("[check_http]\nauthorization=ann:a \"b\"=c;#d%\\\n"));
    let said = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert_eq!((answer.ended(), answer.number), (Ended::Exit, 0), "{said}");
    assert!(seen.contains("Authorization: Basic YW5uOmEgImIiPWM7I2QlXA==\r\n"), "{seen}");
}

/// Tries what a plugin should not be able to, and says of each whether it could. `$1` is the meeting; `$2` the agent's
/// process, `$3` its key, `$4` another run's process, `$5` its folder, `$6` the folder of folders, `$7` the helper's
/// process.
const HOSTILE: &str = r#"
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name yes"; else echo "$name no"; fi; }
meeting=$1; agent=$2; key=$3; other=$4; folder=$5; folders=$6; helper=$7
peek() (dd if="/proc/$1/mem" bs=1 count=1 skip="$((0x$(head -n 1 "/proc/$1/maps" | cut -d- -f1)))")
try agent-key cat "$key"
try agent-keys ls "$(dirname "$key")"
try agent-memory peek "$agent"
try agent-environment cat "/proc/$agent/environ"
try agent-descriptors ls "/proc/$agent/fd/"
try agent-signal kill -0 "$agent"
try other-secret cat "$folder/password"
try other-folder ls "$folder"
try folders ls "$folders"
try other-memory peek "$other"
try other-environment cat "/proc/$other/environ"
try other-signal kill -0 "$other"
try own-folder mkdir "$CREDENTIALS_DIRECTORY/nested"
try own-folder-mode chmod 777 "$CREDENTIALS_DIRECTORY"
try own-names mv "$CREDENTIALS_DIRECTORY/password" "$CREDENTIALS_DIRECTORY/kept"
try helper-memory peek "$helper"
try helper-signal kill -0 "$helper"
"#;

/// Makes itself sessions of its own, and processes in them that hold on to nothing and hear no signal.
const ESCAPE: &str = r#"
for i in 1 2 3; do
    setsid setsid sh -c 'trap "" TERM INT HUP; echo $$ >>"$1"; while :; do sleep 600; done' sh "$1/escaped" \
        >/dev/null 2>&1 </dev/null &
done
while [ "$(wc -l <"$1/escaped" 2>/dev/null)" != 3 ]; do sleep 0.02; done
"#;

/// Which tries have succeeded, of all that were made.
fn tries(printed: &[u8]) -> (Vec<String>, usize) {
    let text = String::from_utf8_lossy(printed).into_owned();
    let made = text.lines().filter(|line| line.ends_with(" yes") || line.ends_with(" no")).count();
    (text.lines().filter_map(|line| line.strip_suffix(" yes")).map(str::to_owned).collect(), made)
}

#[test]
fn a_hostile_plugin_cannot_read_the_agents_keys_or_anothers_secret() {
    let mut group = Group::builder().gateways(0).agents(0).direct(1).lay();
    // An agent is nobody special, where the test can give it a user.
    let agent = if getuid().is_root() { 1_899_999_999 } else { getuid().as_raw() };
    if getuid().is_root() {
        group.open();
        group.agent(0).run_as(agent);
    }
    group.start();
    let (helper, meeting) = (Helper::start(""), Meeting::new());
    let key = group.agent(0).state().join("identity.key").display().to_string();
    let pid = group.agent(0).pid().to_string();
    assert_eq!(
        program::succeeds(&as_root("stat").args(["-c", "%u", &key]).output().unwrap()).trim(),
        agent.to_string()
    );

    let script = format!("{HOSTILE}{ESCAPE}");
    let printed = thread::scope(|scope| {
        // The other, with a secret, at the same time.
        let other = scope.spawn(|| helper.shell(MEET, &[&meeting.arg(), "other"], &[("password", SECRET)]));
        let met = meeting.wait("other");
        let (victim, folder) = met.split_once(' ').unwrap();
        let (runtime, own) = (helper.runtime().display().to_string(), helper.pid().to_string());
        let place = meeting.arg();
        let arguments = [&place, &pid, &key, victim, folder, &runtime, &own];
        // The control: who may do all that can do it, by the same script.
        let mut control = as_root("env");
        control.arg(format!("CREDENTIALS_DIRECTORY={place}")).args(["sh", "-c", HOSTILE, "sh"]).args(arguments);
        fs::write(meeting.path("password"), "").unwrap();
        let control = control.output().unwrap();
        let (could, made) = tries(&control.stdout);
        assert_eq!((could.len(), made), (17, 17), "the control: {}", program::said(&control));

        let (answer, printed) = helper.shell(&script, &arguments, &[("password", "its own")]);
        assert_eq!((answer.ended(), answer.number), (Ended::Exit, 0), "{}", answer.text);
        meeting.say("other-go");
        let (answer, _) = other.join().unwrap();
        assert_eq!((answer.ended(), answer.number), (Ended::Exit, 0), "the other has noticed nothing");
        printed
    });
    assert_eq!(tries(&printed.stdout), (Vec::new(), 17), "{}", String::from_utf8_lossy(&printed.stdout));
    // It got away from its process group, and was ended all the same.
    let escaped = fs::read_to_string(meeting.path("escaped")).unwrap();
    assert_eq!(escaped.lines().count(), 3, "the control: they were there");
    let runs = |pid: &str| procfs::process::Process::new(pid.parse().unwrap()).and_then(|process| process.stat());
    for pid in escaped.lines() {
        assert!(runs(pid).is_err() || runs(pid).is_ok_and(|stat| stat.state == 'Z'), "process {pid} is left");
    }
    assert!(helper.processes().is_empty());
    assert_eq!(helper.folders(), [""; 0]);
    assert!(group.agent(0).stop().success());
}

#[test]
fn a_program_that_would_make_a_plugin_root_does_not() {
    let helper = Helper::start("");
    // On a disk, where such programs count.
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    let suid = scratch.path().join("id");
    let installed = as_root("install").args(["-o", "root", "-m", "4755", "/usr/bin/id"]).arg(&suid).output().unwrap();
    program::succeeds(&installed);
    let control = as_root("setpriv").args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(&suid).output();
    assert!(program::succeeds(&control.unwrap()).contains("euid=0"), "the control: it does for others");
    let (answer, printed) = helper.shell("\"$1\"; echo $?", &[&suid.display().to_string()], &[]);
    assert_eq!((answer.ended(), answer.number), (Ended::Exit, 0));
    let said = String::from_utf8(printed.stdout.to_vec()).unwrap();
    assert!(said.starts_with("uid=19") && !said.contains("euid=0"), "{said}");
    program::succeeds(&as_root("rm").arg(&suid).output().unwrap());
}

#[test]
fn nothing_is_left_of_a_run_that_nobody_waits_for_or_whose_helper_was_killed() {
    let (mut helper, meeting) = (Helper::start(""), Meeting::new());
    let script = format!("{ESCAPE}{MEET}");
    let (socket, place) = (helper.socket(), meeting.arg());
    let asking = |name: &'static str| {
        let (socket, place) = (socket.clone(), place.clone());
        let request = request(&script, &[&place, name], &[("password", SECRET)]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let _ = wardline_runas::ask::ask(&socket, &request, &[SECRET.as_bytes()]).await;
        });
        runtime
    };
    let gone = |helper: &Helper| {
        let left = || helper.processes().is_empty() && helper.folders().is_empty();
        wait::until("nothing is left", LIMIT, || left().then_some(()));
    };
    // Who has asked goes away.
    let asked = asking("a");
    meeting.wait("a");
    assert!(helper.processes().len() >= 4 && helper.folders().len() == 1, "the control: it runs");
    asked.shutdown_background();
    gone(&helper);
    // The helper is stopped, then killed.
    for (name, signal) in [("b", false), ("c", true)] {
        fs::remove_file(meeting.path("escaped")).unwrap();
        let asked = asking(name);
        meeting.wait(name);
        assert!(helper.processes().len() >= 4 && helper.folders().len() == 1, "the control: it runs");
        if signal {
            helper.kill9();
            assert_eq!(helper.folders().len(), 1, "the control: it had no time");
            helper.restart();
            assert!(helper.events().iter().any(|event| event.number == 40156), "{}", helper.log());
        } else {
            helper.stop();
            gone(&helper);
            helper.restart();
        }
        gone(&helper);
        asked.shutdown_background();
    }
    let (answer, printed) = helper.shell("echo OK", &[], &[]);
    assert_eq!((answer.ended(), &printed.stdout[..]), (Ended::Exit, &b"OK\n"[..]));
}

/// How many bytes of a process's memory can be read, and how often a text stands in them.
fn memory(pid: &str, text: &str) -> (usize, usize) {
    let script = "import sys\npid, text = sys.argv[1], sys.stdin.buffer.read()\nread = found = 0\n\
                  with open(f'/proc/{pid}/maps') as maps, open(f'/proc/{pid}/mem', 'rb', 0) as memory:\n \
                  for line in maps:\n  \
                  if line.split()[1][0] != 'r' or '[v' in line: continue\n  \
                  begin, end = (int(at, 16) for at in line.split()[0].split('-'))\n  \
                  memory.seek(begin)\n  \
                  try: part = memory.read(end - begin)\n  \
                  except OSError: continue\n  \
                  read += len(part); found += part.count(text)\n\
                  print(read, found)";
    let mut command = as_root("/usr/bin/python3");
    command.args(["-c", script, pid]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = program::succeeds(&child.wait_with_output().unwrap());
    let (read, found) = said.trim().split_once(' ').unwrap();
    (read.parse().unwrap(), found.parse().unwrap())
}

#[test]
fn the_helper_has_no_secret_in_its_memory_while_a_plugin_runs_or_afterwards() {
    let (helper, meeting) = (Helper::start(""), Meeting::new());
    let script = format!("secret=$(cat \"$CREDENTIALS_DIRECTORY/password\"); {MEET} echo \"$secret\"");
    let own = helper.pid().to_string();
    let (read, found) = thread::scope(|scope| {
        let asked =
            scope.spawn(|| helper.shell(&script, &[&meeting.arg(), "a"], &[("user", "ann"), ("password", SECRET)]));
        let met = meeting.wait("a");
        let (pid, folder) = met.split_once(' ').unwrap();
        assert!(memory(pid, SECRET).1 > 0, "the control: the plugin has it");
        assert!(memory(&own, folder).1 > 0, "the control: the helper knows the folder");
        let while_it_runs = memory(&own, SECRET);
        meeting.say("a-go");
        let (answer, printed) = asked.join().unwrap();
        assert_eq!((answer.ended(), &printed.stdout[..]), (Ended::Exit, format!("{SECRET}\n").as_bytes()));
        while_it_runs
    });
    assert!(read > 1024 * 1024, "the control: {read} bytes were read");
    assert_eq!(found, 0, "while the plugin runs");
    // It has passed the plugin's output on, in which the secret stood.
    assert_eq!(memory(&own, SECRET).1, 0, "afterwards");
}

#[test]
fn a_plugin_that_makes_processes_without_end_is_bounded_and_gone() {
    let helper = Helper::start("[limits]\nprocesses = 40\nmemory = 512\ncpu = 1\n");
    let bomb = Request { time: 2000, ..request("f() { f & sleep 600 & wait; }; f", &[], &[]) };
    let (most, (answer, _)) = thread::scope(|scope| {
        let asked = scope.spawn(|| helper.ask(&bomb, &[]));
        let mut most = 0;
        while !asked.is_finished() {
            most = most.max(helper.processes().len());
        }
        (most, asked.join().unwrap())
    });
    assert_eq!(answer.text, "the plugin took longer than 2s and was killed");
    // Those that end while it is counted may be among them.
    assert!((10..=50).contains(&most), "{most} processes at a time");
    assert!(helper.processes().is_empty());
    // What eats the processor or the memory is ended by the kernel; what does neither goes on.
    let (answer, _) = helper.shell("while :; do :; done", &[], &[]);
    assert_eq!((answer.ended(), answer.number), (Ended::Signal, 9), "the limit of processor time");
    let (answer, printed) = helper.shell("dd if=/dev/zero of=/dev/null bs=600M count=1 2>&1; ulimit -c", &[], &[]);
    let said = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert_eq!((answer.ended(), answer.number), (Ended::Exit, 0));
    assert!(said.contains("exhausted") && said.ends_with("0\n"), "{said}");
    let (answer, printed) = helper.shell("echo OK", &[], &[]);
    assert_eq!((answer.ended(), &printed.stdout[..]), (Ended::Exit, &b"OK\n"[..]));
}

#[test]
fn two_runs_at_a_time_are_never_one_user_and_the_rest_waits() {
    let (helper, meeting) = (Helper::start(""), Meeting::new());
    // More than there are numbers, each in its own thread.
    let script = "id -u; mkdir \"$1/user-$(id -u)\" || exit 7; : >\"$1/run-$2\"
        while [ \"$(ls -d \"$1\"/run-* | wc -l)\" -lt 7 ]; do sleep 0.02; done; rmdir \"$1/user-$(id -u)\"";
    let said: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..12)
            .map(|i| {
                let (helper, place) = (&helper, meeting.arg());
                scope.spawn(move || helper.shell(script, &[&place, &i.to_string()], &[]))
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(said.iter().all(|(answer, _)| (answer.ended(), answer.number) == (Ended::Exit, 0)));
    // Nobody has found its own number at work. Seven had to run at the same time for the first to end.
    let mut users: Vec<_> =
        said.iter().map(|(_, printed)| String::from_utf8_lossy(&printed.stdout).into_owned()).collect();
    users.sort();
    users.dedup();
    assert_eq!(users.len(), 7, "{users:?}");
}

/// What an agent is to check: who it runs as, and something that needs a login.
const PACK: &str = r#"
[pack]
name = "who"
[[check]]
name = "am-i"
program = ["/bin/sh", "-c", "echo \"uid $(id -u)\"; exit $(( $(id -u) / 1900000000 ))"]
every = "250ms"
[check.monitor]
alert_on = "warning"
[[check]]
name = "login"
program = ["/bin/sh", "-c", "echo it has run"]
every = "250ms"
run_as = "web-shop"
extra_opts = { section = "check_http", options = { authorization = "{user}:{password}" } }
[check.monitor]
alert_on = "warning"
"#;

/// Waits until the server knows a state of a monitor with these words.
fn state(group: &Group, monitor: &str, words: &str) -> String {
    wait::until(&format!("{monitor}: {words}"), LIMIT, || {
        let query = format!("SELECT text FROM state WHERE monitor = 'who/{monitor}'");
        group.sql::<String>(&query).pop().filter(|text| text.contains(words))
    })
}

#[test]
fn plugins_of_an_agent_run_as_users_of_their_own_or_not_at_all() {
    let user = if getuid().is_root() { 1_899_999_998 } else { getuid().as_raw() };
    let mut group = Group::builder().gateways(0).agents(0).direct(1).pack("who", PACK).lay();
    if getuid().is_root() {
        group.open();
        group.agent(0).run_as(user);
    }
    // Without the helper: as the agent's own user, and what needs a credential does not run.
    group.start();
    assert!(group.agent(0).wait_event(40150).text.contains(&format!("own user, {user}")));
    assert_eq!(state(&group, "am-i", "uid"), format!("uid {user}"));
    state(&group, "login", "of the profile web-shop: plugins run under the agent's own user");
    let said = group.agent(0).wait_event(40152).text;
    assert!(said.contains("check who/login does not run: it needs a credential of the profile web-shop"), "{said}");
    let (well, shown) = group.agent(0).doctor(None);
    assert!(well && shown.contains("! plugins run under the agent's own user"), "{shown}");

    // With it.
    let mut helper = Helper::new(user, "programs = [\"/bin/sh\"]\n");
    helper.restart();
    group.agent(0).stop();
    let socket = helper.socket().display().to_string();
    group.agent(0).configure(&format!("runas = \"{socket}\""));
    group.agent(0).start();
    let said = group.agent(0).wait_event(1107).text;
    assert!(said.contains("check who/login") && said.contains("profile web-shop"), "{said}");
    let number = |text: &str| text.strip_prefix("uid ").and_then(|number| number.parse().ok());
    wait::until("a user of its own", LIMIT, || {
        let text = group.sql::<String>("SELECT text FROM state WHERE monitor = 'who/am-i'").pop()?;
        number(&text).filter(|number| helper.gives(*number))
    });
    assert!(!group.agent(0).events().iter().any(|event| event.number == 40150));
    let (well, shown) = group.agent(0).doctor(None);
    assert!(well && shown.contains("plugins run by wardline-runas"), "{shown}");
    // While the helper is away nothing runs as the agent's user instead.
    helper.stop();
    let said = group.agent(0).wait_event(40151).text;
    assert!(said.contains(&socket), "{said}");
    state(&group, "am-i", "wardline-runas cannot be asked");
    let (well, shown) = group.agent(0).doctor(None);
    assert!(!well && shown.contains("next: start wardline-runas"), "{shown}");
    helper.restart();
    state(&group, "am-i", "uid");
    assert_eq!(helper.folders(), [""; 0]);
}
