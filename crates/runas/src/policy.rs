//! The policy file: who may ask, for which users, for which programs. It is root's, and only root can change it.

use std::fmt;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Uid, User};
use serde::Deserialize;
use serde::de::Error as _;
use wardline_proto::event::Event;
use wardline_proto::runas::OUTPUT_LIMIT;

use crate::path::{self, Shared};

/// From where on numbers may be given out: below are those of people and services, and of their containers.
const LOWEST: u32 = 1_000_000;
/// The highest number: above, programs take it for a negative one.
const HIGHEST: u32 = 0x7fff_fffe;
/// The most numbers.
const MOST: u32 = 1024;

/// Who may ask, and for what.
#[derive(Debug)]
pub struct Policy {
    /// The agent's user, who may ask.
    pub agent: Uid,
    /// Where it asks.
    pub socket: PathBuf,
    /// Where the folders of secrets are made, in memory.
    pub runtime: PathBuf,
    /// The numbers that stand for `wardline-check`.
    pub numbers: RangeInclusive<u32>,
    /// What they may run.
    programs: Vec<PathBuf>,
    /// The local users, and what each may run.
    users: Vec<Allowed>,
    /// For every run.
    pub limits: Limits,
}

/// What a program may use.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Seconds of processor time, of each process.
    pub cpu: u64,
    /// MiB of address space, of each process.
    pub memory: u64,
    /// How many processes and threads a number may have. A local user has those that the system gives him.
    pub processes: u64,
    /// How many files a process may have open.
    pub files: u64,
    /// MiB of output; what the request says if that is less.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu: 60, memory: 1024, processes: 64, files: 256, output: OUTPUT_LIMIT / (1024 * 1024) }
    }
}

/// A local user.
#[derive(Clone, Debug)]
struct Allowed {
    name: String,
    target: Target,
    programs: Vec<PathBuf>,
}

/// As whom a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The user.
    pub uid: Uid,
    /// The group. There are no others.
    pub gid: Gid,
}

/// Why a request is not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No such user in the policy.
    #[error("the user {0:?} is not allowed by the policy")]
    User(String),
    /// Not for this user.
    #[error("the program {0} is not allowed by the policy for {1}")]
    Program(String, String),
    /// Somebody else than root can change it.
    #[error("the program {0}: {1}")]
    Path(String, path::Untrusted),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    agent_user: Who,
    #[serde(default = "socket")]
    socket: PathBuf,
    #[serde(default = "runtime")]
    runtime_dir: PathBuf,
    #[serde(default = "numbers", deserialize_with = "range")]
    users: RangeInclusive<u32>,
    #[serde(default, deserialize_with = "programs")]
    programs: Vec<PathBuf>,
    #[serde(default)]
    allow: Vec<Allow>,
    #[serde(default)]
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allow {
    user: String,
    #[serde(deserialize_with = "programs")]
    programs: Vec<PathBuf>,
}

/// A user by name or number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Who {
    Name(String),
    Number(u32),
}

fn socket() -> PathBuf {
    "/run/wardline/runas.sock".into()
}

fn runtime() -> PathBuf {
    "/run/wardline/runas".into()
}

const fn numbers() -> RangeInclusive<u32> {
    2_000_000_000..=2_000_000_063
}

fn range<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RangeInclusive<u32>, D::Error> {
    let text = String::deserialize(from)?;
    let numbers = text.split_once('-').and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
    let fits = |range: &RangeInclusive<u32>| {
        let count = range.end().checked_sub(*range.start());
        count.is_some_and(|count| (1..MOST).contains(&count)) && *range.start() >= LOWEST && *range.end() <= HIGHEST
    };
    numbers.filter(fits).ok_or_else(|| {
        D::Error::custom(format!(
            "FROM-TO is allowed, as in \"2000000000-2000000063\": 2 to {MOST} numbers within {LOWEST} to {HIGHEST}"
        ))
    })
}

fn programs<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    let programs: Vec<PathBuf> = Vec::deserialize(from)?;
    let wrong = programs.iter().find(|path| !path.is_absolute() || path.as_path() == Path::new("/"));
    match wrong {
        None => Ok(programs),
        Some(wrong) => Err(D::Error::custom(format!("{wrong:?} is no absolute path of a program or folder"))),
    }
}

impl Policy {
    /// Reads the policy file.
    ///
    /// # Errors
    /// Event 40153: somebody else than root can write the file, or something in it is wrong.
    pub fn read(file: &Path) -> Result<Self, Event> {
        let refuse = |reason: String| Event::PolicyRefused { file: file.display().to_string(), reason };
        let text = open(file).map_err(refuse)?;
        let parsed: File = toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
            refuse(format!("line {line}, column {column}: {}", error.message()))
        })?;
        Self::checked(parsed).map_err(refuse)
    }

    fn checked(file: File) -> Result<Self, String> {
        let agent = match file.agent_user {
            Who::Number(number) => Uid::from_raw(number),
            Who::Name(name) => local(&name)?.uid,
        };
        for number in file.users.clone() {
            let taken = User::from_uid(Uid::from_raw(number)).map_err(|error| format!("users: {error}"))?;
            if let Some(user) = taken {
                return Err(format!("users: {number} is the local user {}; take numbers that nobody has", user.name));
            }
        }
        if file.users.contains(&agent.as_raw()) {
            return Err("users: the agent's own number is among them".into());
        }
        let mut users: Vec<Allowed> = Vec::with_capacity(file.allow.len());
        for Allow { user: name, programs } in file.allow {
            let User { uid, gid, .. } = local(&name)?;
            let why = match () {
                () if uid.is_root() => "a plugin never runs as root",
                () if uid == agent => "a plugin never runs as the agent's own user",
                () if users.iter().any(|other| other.name == name) => "it is there twice",
                () if programs.is_empty() => "it may run no program",
                () => "",
            };
            if !why.is_empty() {
                return Err(format!("allow: user {name:?}: {why}"));
            }
            users.push(Allowed { name, target: Target { uid, gid }, programs });
        }
        let Limits { cpu, memory, processes, files, output } = file.limits;
        if [cpu, memory, processes, files].contains(&0) || output == 0 || output > OUTPUT_LIMIT / (1024 * 1024) {
            return Err("limits: each is at least 1, and output at most 10".into());
        }
        let (socket, runtime) = (file.socket, file.runtime_dir);
        if !socket.is_absolute() || !runtime.is_absolute() {
            return Err("socket and runtime_dir are absolute paths".into());
        }
        Ok(Self { agent, socket, runtime, numbers: file.users, programs: file.programs, users, limits: file.limits })
    }

    /// The local user of this name; none: `wardline-check`, for which there is no name.
    ///
    /// # Errors
    /// He is not allowed.
    pub fn target(&self, user: &str) -> Result<Option<Target>, Denied> {
        if user.is_empty() {
            return Ok(None);
        }
        let allowed = self.users.iter().find(|allowed| allowed.name == user);
        allowed.map(|allowed| Some(allowed.target)).ok_or_else(|| Denied::User(user.into()))
    }

    /// Checks that a user may run this program, and that nobody but root can have changed it.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, user: &str, program: &str) -> Result<(), Denied> {
        let programs = match self.users.iter().find(|allowed| allowed.name == user) {
            Some(allowed) => &allowed.programs,
            None if user.is_empty() => &self.programs,
            None => return Err(Denied::User(user.into())),
        };
        let real = path::program(Path::new(program)).map_err(|error| Denied::Path(program.into(), error))?;
        // What is listed may lead over links as well: as on hosts where /bin is one.
        let listed = |path: &PathBuf| std::fs::canonicalize(path).is_ok_and(|path| real.starts_with(path));
        if programs.iter().any(listed) {
            return Ok(());
        }
        let who = if user.is_empty() { "wardline-check".into() } else { format!("user {user:?}") };
        Err(Denied::Program(program.into(), who))
    }

    /// How long a program may run by this policy, and how much it may print.
    pub fn bounds(&self, time: u64, output: u64) -> (Duration, usize) {
        let most = self.limits.output.saturating_mul(1024 * 1024);
        (Duration::from_millis(time), usize::try_from(output).unwrap_or(most).min(most))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}", self.uid)
    }
}

fn local(name: &str) -> Result<User, String> {
    let user = User::from_name(name).map_err(|error| format!("user {name:?}: {error}"))?;
    user.ok_or_else(|| format!("there is no user {name:?} on this host"))
}

/// The text of a file that only root can change.
fn open(file: &Path) -> Result<String, String> {
    path::root_only(file, Shared::Sticky).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(1024 * 1024).read_to_string(&mut text));
    read.map(|_| text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned()).and_then(Policy::checked)
    }

    #[test]
    fn a_policy_is_read_with_its_defaults() {
        let read = policy("agent_user = 12345\nprograms = [\"/usr/lib/nagios/plugins/\"]\n").unwrap();
        assert_eq!((read.agent, read.numbers.clone().count()), (Uid::from_raw(12345), 64));
        assert_eq!((read.limits.processes, read.limits.output), (64, 10));
        assert_eq!(read.bounds(5, 7), (Duration::from_millis(5), 7));
        assert_eq!(read.bounds(5, u64::MAX).1, OUTPUT_LIMIT);
        assert_eq!(read.target("").unwrap(), None);
        assert!(read.target("daemon").unwrap_err().to_string().contains("not allowed"));
        let read = policy("agent_user = \"daemon\"\n[[allow]]\nuser = \"bin\"\nprograms = [\"/usr/bin/id\"]").unwrap();
        assert_eq!(read.target("bin").unwrap().unwrap().uid, local("bin").unwrap().uid);
    }

    #[test]
    fn a_policy_that_would_give_too_much_is_refused() {
        let allow = |user: &str| {
            policy(&format!("agent_user = \"daemon\"\n[[allow]]\nuser = {user:?}\nprograms = [\"/usr/bin/id\"]"))
        };
        assert!(allow("bin").is_ok());
        for (user, reason) in [("root", "never runs as root"), ("daemon", "agent's own"), ("no-such-user", "no user")] {
            assert!(allow(user).unwrap_err().contains(reason), "{user}");
        }
        for (text, reason) in [
            ("", "agent_user"),
            ("agent_user = \"no-such-user\"", "no user"),
            ("agent_user = 1\nsockets = \"/x\"", "unknown field"),
            ("agent_user = 1\nusers = \"1000-1010\"", "FROM-TO"),
            ("agent_user = 1\nusers = \"2000000000-2000000000\"", "FROM-TO"),
            ("agent_user = 1\nusers = \"2000000001-2000000000\"", "FROM-TO"),
            ("agent_user = 1\nusers = \"2000000000-4294967295\"", "FROM-TO"),
            ("agent_user = 2000000001", "own number"),
            ("agent_user = 1\nprograms = [\"/\"]", "no absolute path"),
            ("agent_user = 1\nprograms = [\"bin/id\"]", "no absolute path"),
            ("agent_user = 1\n[limits]\noutput = 11", "at most 10"),
            ("agent_user = 1\n[limits]\ncpu = 0", "at least 1"),
            ("agent_user = 1\nsocket = \"runas.sock\"", "absolute"),
            ("agent_user = \"daemon\"\n[[allow]]\nuser = \"bin\"\nprograms = []", "no program"),
        ] {
            let error = policy(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn only_listed_programs_that_nobody_but_root_can_change_are_allowed() {
        let listed = policy("agent_user = 1\nprograms = [\"/bin/sh\", \"/etc/alternatives/\"]").unwrap();
        assert!(listed.allows("", "/bin/sh").is_ok());
        assert!(listed.allows("", "/usr/bin/sh").is_ok());
        let denied = |program: &str| listed.allows("", program).unwrap_err().to_string();
        assert!(denied("/usr/bin/id").contains("not allowed by the policy for wardline-check"));
        // A link in a listed folder that leads out of it.
        assert!(denied("/etc/alternatives/awk").contains("not allowed by the policy"));
        assert!(denied("/usr/bin/no-such-program").contains("No such file"));
        assert!(denied("/etc/alternatives").contains("no regular file"));
        assert!(listed.allows("bin", "/bin/sh").unwrap_err().to_string().contains("user \"bin\" is not allowed"));
    }
}
