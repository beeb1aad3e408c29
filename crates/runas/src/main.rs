//! The helper's program: its command line, and what it needs before it answers.

mod become_user;
mod folder;
mod journal;
mod path;
mod policy;
mod serve;
mod users;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Uid, close, geteuid};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use wardline_proto::event::Event;

use become_user::Become;
use folder::Runtime;
use policy::Policy;
use serve::Server;
use users::Users;

/// As it is called.
const PROGRAM: &str = "wardline-runas";
/// How long what hangs in the kernel is waited for at the end.
const HANGING: Duration = Duration::from_secs(1);

#[derive(Parser)]
#[command(version, about = "Runs plugins as other users, for the agent on this host. Runs as root.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the helper until SIGTERM or SIGINT.
    Run {
        /// The policy file. It is root's, and nobody else may write it.
        #[arg(long, default_value = "/etc/wardline/runas.toml")]
        config: PathBuf,
    },
    /// Says whether the policy file is right.
    CheckConfig {
        /// The policy file.
        #[arg(long, default_value = "/etc/wardline/runas.toml")]
        config: PathBuf,
    },
    /// A plugin's process, before it is the plugin.
    #[command(hide = true)]
    Become(Become),
    /// A process that ends all others of a user.
    #[command(hide = true)]
    Sweep { uid: u32, keeper: u32 },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run(&config),
        Command::CheckConfig { config } => Policy::read(&config).map(drop),
        Command::Become(become_user) => {
            become_user.become_it();
            return ExitCode::FAILURE;
        }
        Command::Sweep { uid, keeper } => {
            return if users::sweep(uid, keeper).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(event) => {
            journal::emit(&event);
            ExitCode::FAILURE
        }
    }
}

/// Closes what whoever started this had open, so that no plugin gets it. Nothing of this program's own is open yet.
fn close_inherited() -> std::io::Result<()> {
    let open = std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for descriptor in open.collect::<Vec<i32>>().into_iter().filter(|descriptor| *descriptor > 2) {
        // The one by which this list was read is closed already.
        let _ = close(descriptor);
    }
    Ok(())
}

fn run(config: &Path) -> Result<(), Event> {
    let not_started = |reason: String| Event::RunAsNotStarted { reason };
    let system = |error: std::io::Error| not_started(error.to_string());
    if !geteuid().is_root() {
        return Err(not_started(format!("it runs as user {}: only root can become another user", Uid::effective())));
    }
    close_inherited().map_err(system)?;
    // What passes through here is not left in a file, and is read by nobody but root.
    let hidden = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false));
    hidden.map_err(|error| system(error.into()))?;
    let policy = Policy::read(config)?;
    let (runtime, left) = Runtime::open(&policy.runtime).map_err(not_started)?;
    if left > 0 {
        let path = policy.runtime.display().to_string();
        journal::emit(&Event::RunAsLeftovers { path, count: left.to_string() });
    }
    let users = Users::new(&policy.numbers);
    // One thread: plugins are killed with the thread that started them.
    let tokio = Builder::new_current_thread().enable_all().build().map_err(system)?;
    let result = tokio.block_on(async {
        users.clear_all().await.map_err(not_started)?;
        let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
            (Ok(term), Ok(int)) => (term, int),
            (Err(error), _) | (_, Err(error)) => return Err(system(error)),
        };
        let listener = serve::bind(&policy)
            .map_err(|error| not_started(format!("socket {}: {error}", policy.socket.display())))?;
        journal::emit(&Event::Started {
            program: PROGRAM.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: format!("root, for user {}", policy.agent),
        });
        let stop = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        Server::new(policy, runtime, users).run(listener, stop).await;
        Ok(())
    });
    // A look at a path that hangs in the kernel cannot be ended.
    tokio.shutdown_timeout(HANGING);
    result
}
