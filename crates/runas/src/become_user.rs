//! The process between this program and a plugin: it gives up everything, becomes the plugin's user, and then the plugin.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use clap::Args;
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, dup2_stdin, getppid, setgroups, setresgid, setresuid, setsid};

use crate::policy::{Limits, Target};

/// The memory unit of the policy.
const MIB: u64 = 1024 * 1024;

/// As whom, within what, and which program.
#[derive(Debug, Args)]
pub struct Become {
    #[arg(long)]
    uid: u32,
    #[arg(long)]
    gid: u32,
    #[arg(long)]
    cpu: u64,
    #[arg(long)]
    memory: u64,
    /// Only where the user is this run's alone.
    #[arg(long)]
    processes: Option<u64>,
    #[arg(long)]
    files: u64,
    /// Whose child this is.
    #[arg(long)]
    parent: i32,
    #[arg(last = true, required = true)]
    program: Vec<String>,
}

/// The arguments that make this program such a process.
pub fn arguments(target: Target, alone: bool, limits: Limits, program: &str, arguments: &[String]) -> Vec<String> {
    let Limits { cpu, memory, processes, files, .. } = limits;
    let mut list = vec!["become".to_owned()];
    let mut option = |name: &str, value: String| list.extend([format!("--{name}"), value]);
    option("uid", target.uid.to_string());
    option("gid", target.gid.to_string());
    option("cpu", cpu.to_string());
    option("memory", memory.to_string());
    option("files", files.to_string());
    if alone {
        option("processes", processes.to_string());
    }
    option("parent", std::process::id().to_string());
    list.extend(["--".to_owned(), program.to_owned()]);
    list.extend_from_slice(arguments);
    list
}

impl Become {
    /// Becomes the program. Returns only if that fails; then the reason is written to what is standard input here: it is a
    /// pipe to the parent that the program does not get.
    pub fn become_it(&self) {
        // Closed by the kernel where the program begins.
        let Ok(parent) = io::stdin().as_fd().try_clone_to_owned() else { return };
        let reason = self.attempt().err().map(|error| error.to_string()).unwrap_or_default();
        let _ = std::fs::File::from(parent).write_all(reason.as_bytes());
    }

    fn attempt(&self) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        if user.is_root() {
            return Err(io::Error::other("a plugin never runs as root"));
        }
        dup2_stdin(std::fs::File::open("/dev/null")?)?;
        setsid()?;
        umask(Mode::from_bits_truncate(0o077));
        limit(Resource::RLIMIT_CORE, 0)?;
        limit(Resource::RLIMIT_CPU, self.cpu)?;
        limit(Resource::RLIMIT_AS, self.memory.saturating_mul(MIB))?;
        limit(Resource::RLIMIT_NOFILE, self.files)?;
        if let Some(processes) = self.processes {
            limit(Resource::RLIMIT_NPROC, processes)?;
        }
        setgroups(&[])?;
        setresgid(group, group, group)?;
        setresuid(user, user, user)?;
        set_no_new_privs()?;
        // After the change of user, which undoes it.
        set_pdeathsig(Signal::SIGKILL)?;
        if getppid().as_raw() != self.parent {
            return Err(io::Error::other("wardline-runas has ended"));
        }
        let (program, arguments) = self.program.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        Err(Command::new(program).args(arguments).current_dir("/").stdin(Stdio::inherit()).exec())
    }
}

/// Limits a resource, and never to more than it was.
fn limit(resource: Resource, most: rlim_t) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, most.min(hard), most.min(hard))
}
