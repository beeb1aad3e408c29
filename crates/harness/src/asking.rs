//! A host that joins without a token: what it shows, and what somebody types at it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Daemon, program, wait};

/// How long anything that should happen at once may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A host that asks without a token, and somebody who sits at its keyboard.
#[derive(Debug)]
pub struct Asking {
    child: Child,
    keyboard: ChildStdin,
    screen: PathBuf,
}

impl Asking {
    /// Runs `PROGRAM join` with these arguments.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn new(program: &str, config: &Path, arguments: &[&str]) -> Self {
        let screen = config.with_file_name("screen");
        let mut command = Command::new(program::find(program));
        command.arg("join").arg("--config").arg(config).args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::piped());
        let mut child = command
            .stdout(File::create(&screen).expect("a joining host"))
            .stderr(Stdio::null())
            .spawn()
            .expect("a joining host");
        let keyboard = child.stdin.take().expect("a joining host");
        Self { child, keyboard, screen }
    }

    /// An agent that asks this parent (`NAME=ADDRESS`).
    pub fn host(host: &Daemon, parent: &str) -> Self {
        Self::new("wardline-agent", &host.config(), &["--parent", parent])
    }

    /// A further server that asks this one (`NAME=ADDRESS`), with the token in a file.
    pub fn server(host: &Daemon, by: &str, token: &Path) -> Self {
        let token = token.to_str().expect("a path of the test");
        Self::new("wardline-server", &host.config(), &[by, "--token-file", token])
    }

    /// What it has shown so far.
    pub fn shown(&self) -> String {
        fs::read_to_string(&self.screen).expect("a joining host")
    }

    /// The code in the command that it shows for an operator.
    #[track_caller]
    pub fn code(&self) -> String {
        wait::until("the host shows a code", LIMIT, || {
            let shown = self.shown();
            let command =
                shown.split_inclusive('\n').find(|line| line.contains("ask an operator to run: wardline "))?;
            command.ends_with('\n').then(|| command.trim_end().rsplit(' ').next().expect("a joining host").to_owned())
        })
    }

    /// Waits until it has shown these words.
    #[track_caller]
    pub fn wait_shown(&self, words: &str) {
        wait::until(words, LIMIT, || self.shown().contains(words).then_some(()));
    }

    /// Types a line.
    pub fn types(&mut self, code: &str) {
        writeln!(self.keyboard, "{code}").expect("a joining host");
    }

    /// Presses Ctrl-C.
    pub fn interrupts(&self) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("a joining host");
    }

    /// Waits until it has ended; how, and what it showed.
    #[track_caller]
    pub fn ended(&mut self) -> (ExitStatus, String) {
        let status = wait::until("the host ends", LIMIT, || self.child.try_wait().expect("a joining host"));
        (status, self.shown())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
