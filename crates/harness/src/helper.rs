//! `wardline-runas` in a test: a process of root's, whoever runs the test. Root starts it directly, others by `sudo -n`.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::unistd::getuid;
use wardline_proto::runas::{Answer, Credential, Request};
use wardline_runas::ask::ask;
use wardline_runas::bounded::Printed;

use crate::daemon::Event;
use crate::{Scratch, program, wait};

/// How long anything that should happen at once may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
/// How many numbers each helper gives out; the last of its range is the keeper's.
const NUMBERS: u32 = 7;

/// A helper with its files: `BASE.toml`, `BASE.sock`, and the folder BASE for the folders of secrets, in memory.
#[derive(Debug)]
pub struct Helper {
    base: PathBuf,
    users: (u32, u32),
    child: Option<Child>,
    scratch: Scratch,
}

/// Has a program run as root.
pub fn as_root(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}

impl Helper {
    /// A helper that does not run yet, with the policy that its agent is the user `agent`, and `more`.
    pub fn new(agent: u32, more: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Tests run at the same time, and none may give out, or end, another's numbers.
        let from = 1_900_000_000 + std::process::id() % 1_000_000 * 64 + count % 8 * 8;
        let users = (from, from + NUMBERS);
        let base = PathBuf::from(format!("/dev/shm/wardline-runas-{}-{count}", std::process::id()));
        let helper = Self { base, users, child: None, scratch: Scratch::new() };
        helper.write_policy(&format!("agent_user = {agent}\n{}{more}", helper.places()), "root", "644");
        helper
    }

    /// A helper that runs, for whoever runs the test, and lets any user that is this run's alone run `/bin/sh`.
    pub fn start(more: &str) -> Self {
        let mut helper = Self::new(getuid().as_raw(), &format!("programs = [\"/bin/sh\"]\n{more}"));
        helper.restart();
        helper
    }

    /// Where it is to keep things, as a policy says it.
    pub fn places(&self) -> String {
        let (base, (from, to)) = (self.base.display(), self.users);
        format!("socket = \"{base}.sock\"\nruntime_dir = \"{base}\"\nusers = \"{from}-{to}\"\n")
    }

    /// Writes its policy, for this owner and with this mode.
    pub fn write_policy(&self, text: &str, owner: &str, mode: &str) {
        let file = self.scratch.path().join("policy");
        std::fs::write(&file, text).expect("a file can be written");
        root(Command::arg(&mut as_root("install"), "-m").arg(mode).args(["-o", owner]).arg(file).arg(self.policy()));
    }

    /// The policy file.
    pub fn policy(&self) -> PathBuf {
        self.base.with_extension("toml")
    }

    /// Where it is asked.
    pub fn socket(&self) -> PathBuf {
        self.base.with_extension("sock")
    }

    /// Where the folders of secrets are.
    pub fn runtime(&self) -> &Path {
        &self.base
    }

    /// Whether a number is one of those that it gives out.
    pub fn gives(&self, user: u32) -> bool {
        (self.users.0..self.users.1).contains(&user)
    }

    /// The folders of secrets that there are now.
    pub fn folders(&self) -> Vec<String> {
        let listed = root(as_root("ls").arg("-A").arg(&self.base));
        listed.split_whitespace().map(str::to_owned).collect()
    }

    /// The processes that run under its numbers, by their ids, those that have ended left out.
    pub fn processes(&self) -> Vec<i32> {
        let all = procfs::process::all_processes().expect("/proc can be read").flatten();
        let ours = |process: &procfs::process::Process| {
            let status = process.status();
            status.is_ok_and(|status| {
                (self.users.0..=self.users.1).contains(&status.ruid) && !status.state.starts_with('Z')
            })
        };
        all.filter(ours).map(|process| process.pid).collect()
    }

    /// Starts it, after it has been killed where it runs, and waits until it answers.
    pub fn restart(&mut self) {
        self.kill9();
        let mark = self.events().len();
        self.spawn();
        wait::until("the helper runs", LIMIT, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child is ours"));
            assert!(ended.is_none(), "the helper ended: {ended:?}\n{}", self.log());
            self.events().iter().skip(mark).any(|event| event.number == 40000).then_some(())
        });
    }

    fn spawn(&mut self) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log can be opened");
        let mut command = as_root(program::find("wardline-runas"));
        command.arg("run").arg("--config").arg(self.policy()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the helper can be started"));
    }

    /// Starts it where it must not start: what it says.
    pub fn refused(&mut self) -> String {
        self.spawn();
        let mut child = self.child.take().expect("just started");
        let status = wait::until("the helper ends", LIMIT, || child.try_wait().expect("a child is ours"));
        assert!(!status.success(), "{}", self.log());
        self.log()
    }

    /// Its process id.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self) -> i32 {
        let child = i32::try_from(self.child.as_ref().expect("it runs").id()).expect("a process id");
        if getuid().is_root() {
            return child;
        }
        // Of sudo it is the child.
        let listed = std::fs::read_to_string(format!("/proc/{child}/task/{child}/children")).unwrap_or_default();
        listed.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(child)
    }

    /// Kills it without warning, if it runs.
    pub fn kill9(&mut self) {
        self.end("-KILL");
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.end("-TERM");
    }

    fn end(&mut self, signal: &str) {
        if self.child.is_some() {
            // It may have ended.
            let _ = as_root("kill").arg(signal).arg(self.pid().to_string()).output();
        }
        if let Some(mut child) = self.child.take() {
            wait::until("the helper ends", LIMIT, || child.try_wait().expect("a child is ours"));
        }
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// What it has said, over all starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its events, over all starts.
    pub fn events(&self) -> Vec<Event> {
        self.log().lines().filter_map(Event::parse).collect()
    }

    /// Asks it as the agent does.
    ///
    /// # Panics
    /// It cannot be asked.
    pub fn ask(&self, request: &Request, contents: &[&[u8]]) -> (Answer, Printed) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let socket = self.socket();
        let asked = runtime.block_on(async { tokio::time::timeout(LIMIT * 3, ask(&socket, request, contents)).await });
        asked.expect("it answers in time").unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    /// Has it run a script with these credentials.
    pub fn shell(&self, script: &str, arguments: &[&str], credentials: &[(&str, &str)]) -> (Answer, Printed) {
        let contents: Vec<_> = credentials.iter().map(|(_, content)| content.as_bytes()).collect();
        self.ask(&request(script, arguments, credentials), &contents)
    }
}

/// The request to run a script.
pub fn request(script: &str, arguments: &[&str], credentials: &[(&str, &str)]) -> Request {
    let length = |content: &str| u32::try_from(content.len()).expect("a short one");
    let file = |(name, content): &(&str, &str)| Credential { name: (*name).into(), length: length(content) };
    let arguments = ["-c", script, "sh"].iter().chain(arguments).map(ToString::to_string).collect();
    Request {
        user: String::new(),
        program: "/bin/sh".into(),
        arguments,
        time: 20_000,
        output: 1024 * 1024,
        credentials: credentials.iter().map(file).collect(),
    }
}

/// What a command that root runs, and that must succeed, prints.
#[track_caller]
fn root(command: &mut Command) -> String {
    let output: Output = command.stdin(Stdio::null()).output().expect("root's programs can be run");
    program::succeeds(&output)
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stop();
        let _ = as_root("rm").arg("-rf").arg(&self.base).arg(self.policy()).arg(self.socket()).output();
        if std::thread::panicking() {
            eprintln!("---- the log of the helper\n{}", self.log());
        } else {
            assert!(!self.log().contains("panicked at"), "the helper panicked:\n{}", self.log());
        }
    }
}
