//! Runs a program with the interface of monitoring plugins: what to run, and the two ways to run it. Whatever the program
//! does, it is over at its time limit.
//!
//! With `wardline-runas` beside the agent a plugin runs as a user of its own and gets its credential as files that only
//! this user can read. Without it a plugin runs under the agent's own user, and gets no credential.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;
use wardline_connector::journal;
use wardline_proto::event::Event;
use wardline_proto::runas::{Credential, Ended, OUTPUT_LIMIT, Request, WAIT_LIMIT};
use wardline_runas::ask;
use wardline_runas::bounded::{self, Printed};

use crate::credentials::File;
use crate::outcome::{Exit, Outcome};
use crate::scrub::Scrubber;

/// How much longer than the program itself the helper may take: it may have to wait for a free user, and ends what is
/// left.
const HELPER: Duration = Duration::from_millis(WAIT_LIMIT + 10_000);

/// What to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// The program's absolute path.
    pub path: &'a Path,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may run.
    pub limit: Duration,
    /// The local user that it runs as; none: a user that nothing else has.
    pub user: Option<String>,
    /// What it finds in its folder of credentials.
    pub files: Vec<File>,
    /// Takes what it must not say out of what it says.
    pub scrubber: Scrubber,
}

/// How plugins are run on this host.
#[derive(Clone, Debug)]
pub enum Runner {
    /// Under the agent's own user.
    Own,
    /// By the helper.
    Helper(Helper),
}

/// The socket of `wardline-runas`.
#[derive(Clone, Debug)]
pub struct Helper {
    socket: PathBuf,
    /// Whether it could not be asked, and that was said.
    away: Arc<AtomicBool>,
}

impl Runner {
    /// By the helper that listens at `socket`, if there is one.
    pub fn new(socket: Option<PathBuf>) -> Self {
        socket.map_or(Self::Own, |socket| Self::Helper(Helper { socket, away: Arc::default() }))
    }

    /// Whether a plugin can be handed a credential.
    pub const fn keeps_apart(&self) -> bool {
        matches!(self, Self::Helper(_))
    }

    /// Runs a program once. It gets an empty standard input, an environment of nothing but `PATH`, `LC_ALL` and, with
    /// credentials, `CREDENTIALS_DIRECTORY`, and `/` as its folder. When it has ended, or at its limit, or when the future
    /// is dropped, it is killed with its process group; under a user of its own, with everything of that user. What goes
    /// wrong is told by the outcome. With it comes whether the program has begun.
    pub async fn run(&self, job: &Job<'_>) -> (Outcome, bool) {
        let result = match self {
            Self::Own => own(job).await,
            Self::Helper(helper) => helper.run(job).await,
        };
        match result {
            Ok((exit, printed)) => {
                let (stdout, stderr) = (job.scrubber.scrub(printed.stdout), job.scrubber.scrub(printed.stderr));
                (Outcome::of_plugin(exit, &stdout, &stderr), true)
            }
            Err(NoResult { reason, begun }) => (Outcome::failed(reason), begun),
        }
    }
}

/// Why a plugin has given no result.
struct NoResult {
    reason: String,
    /// Whether it has begun all the same.
    begun: bool,
}

impl NoResult {
    fn not_begun(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), begun: false }
    }
}

/// Runs a program under the agent's own user, in a process group of its own. A process that left the group by making a
/// session of its own is not ended with it.
async fn own(job: &Job<'_>) -> Result<(Exit, Printed), NoResult> {
    if job.user.is_some() || !job.files.is_empty() {
        return Err(NoResult::not_begun("a plugin under the agent's own user gets no credential"));
    }
    let mut command = Command::new(job.path);
    command
        .args(&job.arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .process_group(0);
    let mut printed = Printed::default();
    let status = bounded::run(command, job.limit, OUTPUT_LIMIT, &mut printed).await;
    let status = status.map_err(|failure| NoResult { reason: failure.to_string(), begun: true })?;
    let exit = match status.code() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.signal().unwrap_or_default()),
    };
    Ok((exit, printed))
}

impl Helper {
    async fn run(&self, job: &Job<'_>) -> Result<(Exit, Printed), NoResult> {
        let length = |file: &File| u32::try_from(file.content.len()).unwrap_or(u32::MAX);
        let request = Request {
            user: job.user.clone().unwrap_or_default(),
            program: job.path.display().to_string(),
            arguments: job.arguments.clone(),
            time: u64::try_from(job.limit.as_millis()).unwrap_or(u64::MAX),
            output: OUTPUT_LIMIT as u64,
            credentials: job
                .files
                .iter()
                .map(|file| Credential { name: file.name.clone(), length: length(file) })
                .collect(),
        };
        let contents: Vec<&[u8]> = job.files.iter().map(|file| file.content.as_slice()).collect();
        let asked = timeout(job.limit.saturating_add(HELPER), ask::ask(&self.socket, &request, &contents)).await;
        let (answer, printed) = match asked {
            Ok(Ok(answered)) => {
                self.away.store(false, Ordering::Relaxed);
                answered
            }
            Ok(Err(error)) => return Err(NoResult::not_begun(self.unusable(&error.to_string()))),
            Err(_) => return Err(NoResult { reason: self.unusable("it does not answer"), begun: true }),
        };
        match answer.ended() {
            Ended::Exit => Ok((Exit::Code(answer.number), printed)),
            Ended::Signal => Ok((Exit::Signal(answer.number), printed)),
            Ended::Failed => Err(NoResult { reason: answer.text, begun: true }),
            Ended::NotStarted => Err(NoResult::not_begun(answer.text)),
            Ended::Refused => {
                Err(NoResult::not_begun(format!("wardline-runas refused to run the plugin: {}", answer.text)))
            }
            Ended::Unspecified => Err(NoResult::not_begun("wardline-runas gave an answer that says nothing")),
        }
    }

    /// Says that the helper cannot be asked, once until it can.
    fn unusable(&self, reason: &str) -> String {
        let path = self.socket.display().to_string();
        if !self.away.swap(true, Ordering::Relaxed) {
            journal::emit(Event::RunAsUnusable { path: path.clone(), reason: reason.to_owned() });
        }
        format!("wardline-runas cannot be asked by {path}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use wardline_proto::health::Health;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn run(path: &Path, arguments: &[String], limit: Duration) -> Outcome {
        let (arguments, scrubber) = (arguments.to_vec(), Scrubber::default());
        Runner::Own.run(&Job { path, arguments, limit, user: None, files: Vec::new(), scrubber }).await.0
    }

    async fn shell(script: &str, limit: Duration) -> Outcome {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], limit).await
    }

    async fn unknown(script: &str, limit: Duration, reason: &str) {
        let begun = Instant::now();
        let outcome = shell(script, limit).await;
        assert_eq!(outcome.health, Health::Unknown, "{script}");
        assert!(outcome.failed && outcome.text.contains(reason), "{script}: {outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{script} took {:?}", begun.elapsed());
    }

    /// A folder that is removed with its owner.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("wardline-plugin-{}", uuid::Uuid::now_v7()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Whether a process runs; one that has ended and waits to be collected does not.
    fn runs(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    async fn gone(pid: &str) {
        let begun = Instant::now();
        while runs(pid) {
            assert!(begun.elapsed() < Duration::from_secs(10), "process {pid} is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_plugin_that_keeps_to_the_interface_is_believed() {
        let outcome = shell("echo 'WEB WARNING - slow | time=2.5s'; echo more; echo noise >&2; exit 1", LIMIT).await;
        assert_eq!((outcome.health, outcome.failed), (Health::Warning, false));
        assert_eq!((outcome.text.as_str(), outcome.detail.as_str()), ("WEB WARNING - slow", "more"));
        assert_eq!(outcome.samples.len(), 1);
    }

    #[tokio::test]
    async fn a_plugin_gets_nothing_but_its_arguments() {
        let outcome = shell("echo $(env | sort | tr '\\n' ' ') $(pwd) $(cat | wc -c)", LIMIT).await;
        assert_eq!(outcome.text, "LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin PWD=/ / 0");
        let arguments = ["%s|%s\\n".into(), "$(id)".into(), "; a b".into()];
        let outcome = run(Path::new("/usr/bin/printf"), &arguments, LIMIT).await;
        assert_eq!(outcome.text, "bad performance data \";\": no = behind the label");
        assert_eq!(outcome.detail, "$(id)|; a b");
    }

    #[tokio::test]
    async fn what_breaks_the_interface_is_unknown_and_soon_over() {
        unknown("exec sleep 600", Duration::from_millis(250), "took longer than 250ms").await;
        unknown("trap '' TERM; while :; do :; done", Duration::from_millis(250), "took longer than 250ms").await;
        unknown("exec >&- 2>&-; sleep 600", Duration::from_millis(250), "took longer than 250ms").await;
        unknown("sleep 600 & echo OK", LIMIT, "left a process behind").await;
        unknown("setsid sleep 10 & echo OK; exec sleep 0.1", LIMIT, "left a process behind").await;
        unknown("yes | head -c 11000000", LIMIT, "more than 10 MiB").await;
        unknown("yes >&2", LIMIT, "more than 10 MiB").await;
        unknown("head -c 1000 /dev/urandom; echo", LIMIT, "no UTF-8").await;
        unknown("printf 'OK\\0\\n'", LIMIT, "no UTF-8").await;
        unknown("printf OK", LIMIT, "newline").await;
        unknown("echo 'OK | load'", LIMIT, "\"load\"").await;
        unknown("echo 'OK | load=1,5'", LIMIT, "\"load=1,5\"").await;
        unknown("kill -SEGV $$", LIMIT, "signal 11 (SIGSEGV)").await;
        unknown("echo OK; kill -KILL $$", LIMIT, "signal 9 (SIGKILL)").await;
        unknown("exit 0", LIMIT, "printed nothing").await;
        unknown("echo trouble >&2; exit 2", LIMIT, "on standard error: trouble").await;
        unknown("echo OK; exit 4", LIMIT, "exit code 4").await;
    }

    #[tokio::test]
    async fn what_cannot_be_started_is_unknown() {
        let folder = Folder::new();
        let plain = folder.0.join("plain");
        fs::write(&plain, "#!/bin/sh\necho OK\n").unwrap();
        fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
        for (path, reason) in [
            (folder.0.join("missing"), "No such file"),
            (plain.clone(), "Permission denied"),
            (folder.0.clone(), "Permission denied"),
            (plain.join("below"), "Not a directory"),
        ] {
            let outcome = run(&path, &[], LIMIT).await;
            assert!(outcome.failed && outcome.text.contains(reason), "{outcome:?}");
            assert!(outcome.text.contains(&path.display().to_string()), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn a_credential_is_never_handed_to_a_plugin_under_the_agents_own_user() {
        let file = File { name: "password".into(), content: zeroize::Zeroizing::new(b"secret".to_vec()) };
        for (user, files) in [(Some("bin".into()), vec![]), (None, vec![file])] {
            let (path, arguments) = (Path::new("/bin/echo"), vec!["OK".to_owned()]);
            let job = Job { path, arguments, limit: LIMIT, user, files, scrubber: Scrubber::default() };
            let (outcome, begun) = Runner::Own.run(&job).await;
            assert!(!begun);
            assert!(outcome.failed && outcome.text.contains("gets no credential"), "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn without_the_helper_that_it_is_to_ask_nothing_runs() {
        let runner = Runner::new(Some("/nonexistent/runas.sock".into()));
        let (path, arguments) = (Path::new("/bin/echo"), vec!["OK".to_owned()]);
        let job = Job { path, arguments, limit: LIMIT, user: None, files: vec![], scrubber: Scrubber::default() };
        let (outcome, begun) = runner.run(&job).await;
        assert!(!begun);
        assert!(outcome.failed && outcome.text.contains("/nonexistent/runas.sock: No such file"), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_process_that_was_left_behind_quietly_is_killed_and_the_result_stands() {
        let outcome = shell("sleep 600 >/dev/null 2>&1 & echo $!", LIMIT).await;
        assert_eq!(outcome.health, Health::Healthy);
        gone(&outcome.text).await;
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_plugin_that_is_not_waited_for() {
        let folder = Folder::new();
        let file = folder.0.join("pids");
        let script = format!("sleep 600 & echo $$ $! >{0}.new; mv {0}.new {0}; wait", file.display());
        let running = tokio::spawn(async move { shell(&script, LIMIT).await });
        let begun = Instant::now();
        let pids = loop {
            match fs::read_to_string(&file) {
                Ok(pids) => break pids,
                Err(_) => assert!(begun.elapsed() < Duration::from_secs(10), "the script does not start"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        running.abort();
        for pid in pids.split_whitespace() {
            gone(pid).await;
        }
    }
}
