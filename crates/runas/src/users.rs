//! The numbers that stand for `wardline-check`: each is one run's alone, and nothing of the run is left when it is given
//! out again.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::policy::Target;

/// How long the processes of a number may take to be gone.
const GONE_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at those that are not gone yet.
const LOOK: Duration = Duration::from_millis(10);

/// The numbers, of which the last is nobody's: whoever ends processes of the others has it, so that they cannot end him.
#[derive(Debug)]
pub struct Users {
    keeper: u32,
    free: Mutex<VecDeque<u32>>,
    count: Semaphore,
    /// Those who end processes are all the keeper, and would end each other.
    sweeping: tokio::sync::Mutex<()>,
}

impl Users {
    /// All of them, free.
    pub fn new(numbers: &RangeInclusive<u32>) -> Self {
        let keeper = *numbers.end();
        let free: VecDeque<_> = (*numbers.start()..keeper).collect();
        Self {
            keeper,
            count: Semaphore::new(free.len()),
            free: Mutex::new(free),
            sweeping: tokio::sync::Mutex::default(),
        }
    }

    /// Takes the one that has been free for longest; waits for one at most as long as `limit`.
    pub async fn take(&self, limit: Duration) -> Option<Target> {
        let permit = timeout(limit, self.count.acquire()).await.ok()?.ok()?;
        permit.forget();
        let number = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front()?;
        Some(Target { uid: Uid::from_raw(number), gid: Gid::from_raw(number) })
    }

    /// Ends everything that runs under a number, and gives it back.
    ///
    /// # Errors
    /// Something of it could not be ended: the number is not given out again.
    pub async fn give_back(&self, Target { uid, .. }: Target) -> Result<(), String> {
        self.clear(uid.as_raw()).await?;
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(uid.as_raw());
        self.count.add_permits(1);
        Ok(())
    }

    /// Ends everything that runs under any of the numbers: what an earlier process has left.
    ///
    /// # Errors
    /// Something could not be ended.
    pub async fn clear_all(&self) -> Result<(), String> {
        let first = self.free.lock().unwrap_or_else(PoisonError::into_inner).front().copied();
        let ours = first.unwrap_or(self.keeper)..=self.keeper;
        let found = running().map_err(|error| format!("/proc: {error}"))?;
        for number in found.into_iter().filter(|number| ours.contains(number)) {
            self.clear(number).await?;
        }
        Ok(())
    }

    async fn clear(&self, number: u32) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let mut sweep = Command::new("/proc/self/exe");
            sweep.args(["sweep", &number.to_string(), &self.keeper.to_string()]).env_clear().current_dir("/");
            sweep.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            let one = self.sweeping.lock().await;
            let swept = sweep.status().await.map_err(|error| error.to_string())?;
            drop(one);
            let left = running().map_err(|error| format!("/proc: {error}"))?.contains(&number);
            if swept.success() && !left {
                return Ok(());
            }
            if begun.elapsed() > GONE_LIMIT {
                return Err(if left { "a process hangs in the kernel".into() } else { format!("sweep: {swept}") });
            }
            sleep(LOOK).await;
        }
    }
}

/// The users of all processes that have not ended: real, effective and saved.
fn running() -> io::Result<BTreeSet<u32>> {
    let mut users = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        // It may have ended meanwhile.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        if !field("State:").trim_start().starts_with(['Z', 'X']) {
            users.extend(field("Uid:").split_whitespace().filter_map(|number| number.parse::<u32>().ok()));
        }
    }
    Ok(users)
}

/// Ends every process of a user, as a process of its own that has become this user. The kernel signals all of them at
/// once, so none can get away by making others; and none can end this process first, because its real and saved user is
/// the keeper, who is nobody else.
///
/// # Errors
/// The user cannot be changed.
pub fn sweep(number: u32, keeper: u32) -> nix::Result<()> {
    let (user, keeper) = (Uid::from_raw(number), Uid::from_raw(keeper));
    // A signal to everybody, sent with a root's identity, would end the host.
    if user.is_root() || keeper.is_root() {
        return Err(nix::errno::Errno::EINVAL);
    }
    let group = Gid::from_raw(keeper.as_raw());
    setgroups(&[])?;
    setresgid(group, group, group)?;
    setresuid(keeper, user, keeper)?;
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        // There is nobody else.
        Ok(()) | Err(nix::errno::Errno::ESRCH | nix::errno::Errno::EPERM) => Ok(()),
        Err(error) => Err(error),
    }
}
