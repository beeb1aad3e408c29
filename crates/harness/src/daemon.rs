//! One process of the group: started, watched, stopped, killed.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wardline_proto::Role;

use crate::network::Door;
use crate::{hostile, program, wait};

/// How long anything that should happen at once may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The event that every program begins with.
const STARTED: u32 = 40000;

/// A program of the group with its files. The process ends with it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    role: Role,
    folder: PathBuf,
    state: PathBuf,
    runtime: PathBuf,
    child: Option<Child>,
    /// Where in the log the present process began.
    begin: usize,
    /// Whose process it is, where that is somebody else than who runs the test.
    user: Option<u32>,
    /// The host it runs on, where that is one of the test's own.
    host: Option<Door>,
}

/// A line of a log: `TIME SEVERITY NUMBER TEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, as it was written.
    pub time: String,
    /// The word for how serious it is.
    pub severity: String,
    /// Its number in the catalogue.
    pub number: u32,
    /// What happened.
    pub text: String,
}

impl Event {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ');
        let mut word = || words.next().map(str::to_owned);
        let (time, severity, number, text) = (word()?, word()?, word()?, word()?);
        Some(Self { time, severity, number: number.parse().ok()?, text })
    }
}

impl Daemon {
    /// Of a folder with its configuration in `config.toml`; logs go there too. Nothing is started.
    pub(crate) fn new(name: &str, role: Role, folder: &Path, state: &Path, runtime: &Path) -> Self {
        Self {
            name: name.into(),
            role,
            folder: folder.into(),
            state: state.into(),
            runtime: runtime.into(),
            child: None,
            begin: 0,
            user: None,
            host: None,
        }
    }

    /// From its next start on it runs on this host.
    pub(crate) fn enter(&mut self, host: Door) {
        self.host = Some(host);
    }

    /// From now on it runs as this user and with the group of this number, whose its files become. Only root can test so.
    ///
    /// # Panics
    /// They cannot be given away.
    pub fn run_as(&mut self, user: u32) {
        for folder in [&self.folder, &self.state, &self.runtime] {
            give(folder, user);
        }
        self.user = Some(user);
    }

    fn become_user(&self, command: &mut Command) {
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
    }

    /// Its name in the group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config.toml")
    }

    /// What it wrote to standard error, over all starts.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its state of the group: keys and what it keeps.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its folder in memory.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// The file in which it measures, when the group does.
    pub fn measure(&self) -> PathBuf {
        self.folder.join("measure")
    }

    /// This gateway or server as a host names it when it joins: `NAME=ADDRESS`.
    pub fn parent(&self) -> String {
        format!("{}={}", self.name, hostile::listen(self))
    }

    /// Changes what it keeps of its membership, while it does not run.
    ///
    /// # Panics
    /// It has not joined.
    pub fn change_membership(&self, change: impl FnOnce(&mut toml::Table)) {
        let path = self.state.join("membership.toml");
        let text = std::fs::read_to_string(&path).expect("it has joined");
        let mut membership = text.parse().expect("a membership is TOML");
        change(&mut membership);
        std::fs::write(path, membership.to_string()).expect("a membership can be written");
    }

    /// Joins its group by this parent (`NAME=ADDRESS`; several have spaces between them), with the token in a file.
    ///
    /// # Panics
    /// The program cannot be run.
    pub fn join(&self, parent: &str, token: &Path) -> Output {
        self.join_with(parent, token, &[])
    }

    /// Joins as above, with more arguments.
    ///
    /// # Panics
    /// The program cannot be run.
    pub fn join_with(&self, parent: &str, token: &Path, more: &[&str]) -> Output {
        let mut command = Command::new(program::find(&format!("wardline-{}", self.role)));
        command.arg("join").arg("--config").arg(self.config());
        command
            .args(parent.split(' ').flat_map(|parent| ["--parent", parent]))
            .arg("--token-file")
            .arg(token)
            .args(more);
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(&self.folder).stdin(Stdio::null());
        command.output().unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Runs the doctor of its program, with the clock this far off (as `+365d`) where that is said: whether all is well,
    /// and what it shows.
    ///
    /// # Panics
    /// The program cannot be run.
    pub fn doctor(&self, clock: Option<&str>) -> (bool, String) {
        let program = program::find(&format!("wardline-{}", self.role));
        let mut command = match clock {
            Some(offset) => {
                let mut command = Command::new("faketime");
                command.args(["-f", offset]).arg(program).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
                command
            }
            None => Command::new(program),
        };
        command.env_remove("LD_PRELOAD").arg("doctor").arg("--config").arg(self.config()).stdin(Stdio::null());
        self.become_user(&mut command);
        let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let shown = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success(), shown.into_owned())
    }

    /// Adds to its configuration.
    ///
    /// # Panics
    /// It has none.
    pub fn configure(&self, text: &str) {
        let old = std::fs::read_to_string(self.config()).expect("it has a configuration");
        std::fs::write(self.config(), format!("{old}\n{text}")).expect("a configuration can be written");
    }

    /// Sets a key of its configuration.
    ///
    /// # Panics
    /// It has no configuration.
    pub fn set(&self, key: &str, value: impl Into<toml::Value>) {
        let old = std::fs::read_to_string(self.config()).expect("it has a configuration");
        let mut file: toml::Table = old.parse().expect("a configuration is TOML");
        file.insert(key.into(), value.into());
        std::fs::write(self.config(), file.to_string()).expect("a configuration can be written");
    }

    /// Begins its log anew, while it does not run.
    pub(crate) fn forget(&mut self) {
        std::fs::remove_file(self.log_path()).expect("it has said something");
        self.begin = 0;
    }

    /// Starts it and returns when it is ready: a listener when it listens, an agent when it has passed its checks.
    ///
    /// # Panics
    /// It ended, or took too long.
    pub fn start(&mut self) {
        self.spawn();
        let what = format!("{} is ready", self.name);
        wait::until(&what, LIMIT, || {
            self.assert_running();
            self.is_ready().then_some(())
        });
    }

    /// Whether its present process is ready, see [`Self::start`].
    pub fn is_ready(&self) -> bool {
        match self.role {
            Role::Agent => self.events().iter().any(|event| event.number == STARTED),
            Role::Gateway | Role::Server => self.listening().is_some(),
        }
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        self.begin = self.log().len();
        let log = OpenOptions::new().create(true).append(true).open(self.log_path()).expect("a log can be opened");
        let out = File::create(self.folder.join("out")).expect("a file can be made");
        let program = program::find(&format!("wardline-{}", self.role));
        let mut command = self.host.map_or_else(|| Command::new(&program), |host| host.command(&program));
        command.arg("run").arg("--config").arg(self.config()).current_dir(&self.folder);
        // What the test was started with must not matter.
        command.env_clear().env("PATH", "/usr/bin:/bin").env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(out).stderr(log);
        self.become_user(&mut command);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.name)));
    }

    /// Its process id.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// Sends a signal: SIGSTOP makes it deaf and dumb, SIGCONT wakes it.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Kills it without warning.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait_exit();
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_exit()
    }

    /// Stops and starts it.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// It does not run, or does not end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap_or_else(|| panic!("{} does not run", self.name));
        let status = wait::until(&format!("{} ends", self.name), LIMIT, || child.try_wait().expect("a child is ours"));
        self.assert_no_panic();
        status
    }

    /// The address it listens on now, once it does.
    pub fn listening(&self) -> Option<SocketAddr> {
        let out = std::fs::read_to_string(self.folder.join("out")).ok()?;
        out.lines().find_map(|line| line.strip_prefix("listening: ")).and_then(|address| address.parse().ok())
    }

    /// What it wrote to standard error, over all starts.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path()).map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into())
    }

    /// How long its log is: what follows can be waited for apart, see [`Self::wait_event_since`].
    pub fn mark(&self) -> usize {
        self.log().len()
    }

    /// The events of its present, or last, process.
    pub fn events(&self) -> Vec<Event> {
        self.events_since(self.begin)
    }

    /// The events behind a mark.
    pub fn events_since(&self, mark: usize) -> Vec<Event> {
        // A line without an end is still being written.
        let log = self.log();
        let lines = log.get(mark..).unwrap_or_default().split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.filter_map(|line| Event::parse(line.trim_end())).collect()
    }

    /// Waits until its present process has said this event.
    #[track_caller]
    pub fn wait_event(&self, number: u32) -> Event {
        self.wait_event_since(self.begin, number)
    }

    /// Waits until it has said this event behind a mark.
    #[track_caller]
    pub fn wait_event_since(&self, mark: usize, number: u32) -> Event {
        wait::until(&format!("event {number} of {}", self.name), LIMIT, || {
            self.events_since(mark).into_iter().find(|event| event.number == number)
        })
    }

    /// What it has said first of a session that ended, began or moved behind a mark: nothing while its own stands.
    pub fn moved(&self, mark: usize) -> Option<Event> {
        self.events_since(mark).into_iter().find(|event| [20070, 40004, 40050].contains(&event.number))
    }

    /// How many descriptors its present process has open.
    ///
    /// # Panics
    /// It does not run.
    pub fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}")).count()
    }

    /// The processor time that its present process has used, all threads, user and system.
    pub fn cpu(&self) -> Duration {
        cpu(self.pid())
    }

    fn assert_running(&mut self) {
        let status = self.child.as_mut().and_then(|child| child.try_wait().expect("a child is ours"));
        if let Some(status) = status {
            self.child = None;
            panic!("{} ended: {status}\n{}", self.name, self.tail());
        }
    }

    /// A program under test never panics, whatever is done to it.
    fn assert_no_panic(&self) {
        let log = self.log();
        let log = log.get(self.begin..).unwrap_or_default();
        assert!(!log.contains("panicked at"), "{} panicked:\n{}", self.name, self.tail());
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Gives a folder and everything in it to a user.
fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let inside = path.read_dir().into_iter().flatten().map(|entry| entry.expect("a folder can be read").path());
    for entry in inside {
        if entry.is_dir() { give(&entry, user) } else { chown(&entry, Some(user), Some(user)).expect("it is a file") }
    }
}

/// The processor time that a process has used, all threads, user and system.
pub fn cpu(pid: u32) -> Duration {
    let pid = i32::try_from(pid).expect("a process id");
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).expect("it runs");
    Duration::from_secs(stat.utime + stat.stime) / u32::try_from(procfs::ticks_per_second()).expect("a rate")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the end of the log of {}\n{}", self.name, self.tail());
        } else {
            self.assert_no_panic();
        }
    }
}
