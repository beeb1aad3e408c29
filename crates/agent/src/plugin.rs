//! Runs a program with the interface of monitoring plugins, so that whatever it does, it is over at its time limit.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::outcome::{Exit, Outcome};

/// The most bytes that a plugin may print, standard output and standard error together.
const OUTPUT_LIMIT: usize = 10 * 1024 * 1024;
/// The most bytes that are kept of standard error.
const STDERR_LIMIT: usize = 4 * 1024;
/// How long the output of a plugin that has ended may stay open.
const OPEN_LIMIT: Duration = Duration::from_secs(1);
/// How long a process may take to be gone after SIGKILL. One that hangs in the kernel is left to the runtime, which
/// collects it whenever it ends.
const REAP_LIMIT: Duration = Duration::from_secs(1);

/// Why a plugin gave no result.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the plugin {path} cannot be started: {reason}")]
    Start { path: String, reason: io::Error },
    #[error("the plugin cannot be observed: {0}")]
    Observe(#[from] io::Error),
    #[error("the plugin took longer than {0:?} and was killed")]
    TimeLimit(Duration),
    #[error("the plugin printed more than 10 MiB and was killed")]
    TooMuch,
    #[error("the plugin ended but left a process behind that kept its output open; that was killed")]
    LeftOpen,
    #[error("the plugin cannot be ended: it hangs in the kernel")]
    Stuck,
}

/// Runs a program once. It gets a process group of its own, an empty standard input, an environment of nothing but
/// `PATH` and `LC_ALL`, and `/` as its folder. When it has ended, or at its limit, or when the future is dropped, the
/// whole group is killed; a process that left the group by making a session of its own is not in it any more. What goes
/// wrong is told by the outcome.
pub async fn run(path: &Path, arguments: &[String], limit: Duration) -> Outcome {
    let mut printed = Printed::default();
    match execute(path, arguments, limit, &mut printed).await {
        Ok(status) => {
            let exit = match status.code() {
                Some(code) => Exit::Code(code),
                None => Exit::Signal(status.signal().unwrap_or_default()),
            };
            Outcome::of_plugin(exit, &printed.stdout, &printed.stderr)
        }
        Err(failure) => Outcome::failed(failure.to_string()),
    }
}

async fn execute(
    path: &Path,
    arguments: &[String],
    limit: Duration,
    printed: &mut Printed,
) -> Result<ExitStatus, Failure> {
    let start = |reason| Failure::Start { path: path.display().to_string(), reason };
    let child = Command::new(path)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let mut group = Group(child);
    let pid = group.id().ok_or_else(|| start(io::Error::other("it has no process id")))?;
    let (Some(stdout), Some(stderr)) = (group.0.stdout.take(), group.0.stderr.take()) else {
        return Err(start(io::Error::other("it has no output")));
    };
    let watched = async {
        let mut reading = pin!(printed.read(stdout, stderr));
        tokio::select! {
            read = &mut reading => {
                read?;
                ended(pid).await?;
            }
            ended = ended(pid) => {
                ended?;
                timeout(OPEN_LIMIT, reading).await.map_err(|_| Failure::LeftOpen)??;
            }
        }
        Ok(())
    };
    let result = timeout(limit, watched).await.unwrap_or(Err(Failure::TimeLimit(limit)));
    group.kill();
    let status = timeout(REAP_LIMIT, group.0.wait()).await;
    result?;
    Ok(status.map_err(|_| Failure::Stuck)??)
}

/// A child that leads a process group, which is killed with it.
struct Group(Child);

impl Group {
    /// The group's id, as long as the child has not been collected: afterwards the number may be somebody else's.
    fn id(&self) -> Option<Pid> {
        self.0.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    fn kill(&self) {
        if let Some(group) = self.id() {
            // Fails only when nobody is left in it.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns when a child has ended, without collecting it: its group can still be killed by its number.
async fn ended(pid: Pid) -> io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
    while waitid(Id::Pid(pid), look)? == WaitStatus::StillAlive {
        children.recv().await;
    }
    Ok(())
}

/// What a plugin has printed.
#[derive(Default)]
struct Printed {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Printed {
    /// Reads both outputs to their ends.
    async fn read(
        &mut self,
        mut stdout: impl AsyncRead + Unpin,
        mut stderr: impl AsyncRead + Unpin,
    ) -> Result<(), Failure> {
        let (mut out, mut err) = (vec![0; 64 * 1024], vec![0; 4 * 1024]);
        let (mut out_open, mut err_open) = (true, true);
        let mut total = 0_usize;
        while out_open || err_open {
            let (read, buffer, open, kept, limit) = tokio::select! {
                read = stdout.read(&mut out), if out_open =>
                    (read?, &out, &mut out_open, &mut self.stdout, OUTPUT_LIMIT),
                read = stderr.read(&mut err), if err_open =>
                    (read?, &err, &mut err_open, &mut self.stderr, STDERR_LIMIT),
            };
            *open = read > 0;
            total = total.saturating_add(read);
            if total > OUTPUT_LIMIT {
                return Err(Failure::TooMuch);
            }
            let keep = read.min(limit.saturating_sub(kept.len()));
            kept.extend_from_slice(buffer.get(..keep).unwrap_or_default());
        }
        Ok(())
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

    async fn shell(script: &str, limit: Duration) -> Outcome {
        run(Path::new("/bin/sh"), &["-c".into(), script.into()], limit).await
    }

    async fn unknown(script: &str, limit: Duration, reason: &str) {
        let begun = Instant::now();
        let outcome = shell(script, limit).await;
        assert_eq!(outcome.health, Health::Unknown, "{script}");
        assert!(outcome.failed && outcome.text.contains(reason), "{script}: {outcome:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{script} took {:?}", begun.elapsed());
    }

    /// A folder that is removed with its owner.
    struct Folder(std::path::PathBuf);

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
        unknown("setsid sleep 3 & echo OK; exec sleep 0.1", LIMIT, "left a process behind").await;
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
