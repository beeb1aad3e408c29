//! Runs a program so that whatever it does, it is over at its time limit.

use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use wardline_proto::runas::STDERR_LIMIT;
use zeroize::Zeroizing;

/// How long the output of a program that has ended may stay open.
const OPEN_LIMIT: Duration = Duration::from_secs(1);
/// How long a process may take to be gone after SIGKILL. One that hangs in the kernel is left to the runtime, which
/// collects it whenever it ends.
const REAP_LIMIT: Duration = Duration::from_secs(1);

/// Why a program gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no process.
    #[error("the plugin {path} cannot be started: {reason}")]
    Start {
        /// The program.
        path: String,
        /// What the system says.
        reason: io::Error,
    },
    /// What it does cannot be seen.
    #[error("the plugin cannot be observed: {0}")]
    Observe(#[from] io::Error),
    /// It was killed at its time limit.
    #[error("the plugin took longer than {0:?} and was killed")]
    TimeLimit(Duration),
    /// It was killed for what it printed.
    #[error("the plugin printed more than {} and was killed", size(*.0))]
    TooMuch(usize),
    /// Something of it went on.
    #[error("the plugin ended but left a process behind that kept its output open; that was killed")]
    LeftOpen,
    /// SIGKILL did not end it.
    #[error("the plugin cannot be ended: it hangs in the kernel")]
    Stuck,
}

fn size(bytes: usize) -> String {
    match bytes {
        whole if whole % (1024 * 1024) == 0 => format!("{} MiB", whole / (1024 * 1024)),
        other => format!("{other} bytes"),
    }
}

/// What a program has printed. It may have printed a secret.
#[derive(Default)]
pub struct Printed {
    /// On standard output.
    pub stdout: Zeroizing<Vec<u8>>,
    /// On standard error, cut at [`STDERR_LIMIT`].
    pub stderr: Zeroizing<Vec<u8>>,
}

/// Runs a program once, with its standard input as `command` says. At its end, at its time limit `time`, when it prints
/// more than `most` bytes, or when the future is dropped, its process group is killed, provided that the program leads
/// one; a process that left the group by making a session of its own is not in it any more.
///
/// # Errors
/// It gave no result: why not.
pub async fn run(
    mut command: Command,
    time: Duration,
    most: usize,
    printed: &mut Printed,
) -> Result<ExitStatus, Failure> {
    let path = command.as_std().get_program().display().to_string();
    let start = |reason| Failure::Start { path: path.clone(), reason };
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(start)?;
    // What the command holds of the program's standard input ends here.
    drop(command);
    let mut group = Group(child);
    let pid = group.id().ok_or_else(|| start(io::Error::other("it has no process id")))?;
    let (Some(stdout), Some(stderr)) = (group.0.stdout.take(), group.0.stderr.take()) else {
        return Err(start(io::Error::other("it has no output")));
    };
    let watched = async {
        let mut reading = pin!(printed.read(stdout, stderr, most));
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
    let result = timeout(time, watched).await.unwrap_or(Err(Failure::TimeLimit(time)));
    group.kill();
    let status = timeout(REAP_LIMIT, group.0.wait()).await;
    result?;
    Ok(status.map_err(|_| Failure::Stuck)??)
}

/// A child that leads, or will lead, a process group, which is killed with it.
struct Group(Child);

impl Group {
    /// The group's id, as long as the child has not been collected: afterwards the number may be somebody else's.
    fn id(&self) -> Option<Pid> {
        self.0.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw)
    }

    fn kill(&self) {
        if let Some(group) = self.id() {
            // Fails only when nobody is left in it, or when it is not made yet.
            let _ = killpg(group, Signal::SIGKILL);
            let _ = kill(group, Signal::SIGKILL);
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

impl Printed {
    /// Reads both outputs to their ends.
    async fn read(
        &mut self,
        mut stdout: impl AsyncRead + Unpin,
        mut stderr: impl AsyncRead + Unpin,
        most: usize,
    ) -> Result<(), Failure> {
        let (mut out, mut err) = (Zeroizing::new(vec![0; 64 * 1024]), Zeroizing::new(vec![0; 4 * 1024]));
        let (mut out_open, mut err_open) = (true, true);
        let mut total = 0_usize;
        while out_open || err_open {
            let (read, buffer, open, kept, limit) = tokio::select! {
                read = stdout.read(&mut out), if out_open => (read?, &out, &mut out_open, &mut self.stdout, most),
                read = stderr.read(&mut err), if err_open =>
                    (read?, &err, &mut err_open, &mut self.stderr, STDERR_LIMIT),
            };
            *open = read > 0;
            total = total.saturating_add(read);
            if total > most {
                return Err(Failure::TooMuch(most));
            }
            let keep = read.min(limit.saturating_sub(kept.len()));
            append(kept, buffer.get(..keep).unwrap_or_default());
        }
        Ok(())
    }
}

/// Appends without leaving a copy behind where the buffer has to grow.
fn append(buffer: &mut Zeroizing<Vec<u8>>, more: &[u8]) {
    let needed = buffer.len().saturating_add(more.len());
    if needed > buffer.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(buffer.capacity().saturating_mul(2))));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(more);
}
