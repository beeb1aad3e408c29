//! The agent's program: its command line and its configuration.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::unistd::geteuid;
use serde::Deserialize;
use serde::de::Error as _;
use tokio::runtime::Builder;
use wardline_agent::clock::Measure;
use wardline_agent::groups::{self, Host};
use wardline_agent::plugin::Runner;
use wardline_connector::config::{self, Mechanism, Membership, Parent, StateFolder};
use wardline_connector::doctor::{Configured, Found};
use wardline_connector::enroll::{self, Target, Wish};
use wardline_connector::kerberos::{self, Kerberos};
use wardline_connector::{certs, doctor, home, journal};
use wardline_packs::{Pack, quantity};
use wardline_proto::event::Event;
use wardline_proto::{Name, Role};
use wardline_runas::ask;
use wardline_secrets::certificate::Identity;
use wardline_secrets::trust::Pin;

/// As it is called.
const PROGRAM: &str = "wardline-agent";
/// The bounds of a queue's budget, bytes.
const BUDGET: std::ops::RangeInclusive<u64> = 64 * 1024..=64 << 30;
/// The bounds of the time between heartbeats.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

#[derive(Parser)]
#[command(version, about = "Watches a host and reports to its parent.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/agent.toml")]
        config: PathBuf,
    },
    /// Makes this host part of a management group: makes its keys, asks a parent, with a join token or until an operator
    /// approves, and keeps what it is given.
    Join(Box<Join>),
    /// Looks at everything between this host and its groups' servers, beside the running program or without it: a line
    /// for each step, for what is wrong its cause and what to do. Run it as the program's user.
    Doctor {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/agent.toml")]
        config: PathBuf,
    },
    /// Lists this host's certificates, as they are on disk: of the channel, and those by which it receives secrets. The
    /// key of the latter is the one that event 7006 names.
    Certs {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/agent.toml")]
        config: PathBuf,
    },
    /// Says whether the configuration file and its packs are right.
    CheckConfig {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/agent.toml")]
        config: PathBuf,
    },
}

#[derive(Args)]
struct Join {
    /// The configuration file, for the name and the state folder.
    #[arg(long, default_value = "/etc/wardline/agent.toml")]
    config: PathBuf,
    /// Whom to ask, in order, and to report to: NAME, NAME:PORT or NAME=HOST:PORT. Repeatable.
    #[arg(long, required = true)]
    parent: Vec<Parent>,
    /// The file with the join token; `-` is standard input. Without it, this host shows a code and waits until an operator
    /// has approved it.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The pin of the group's root, `sha256:...`, as `wardline keys log verify` shows it: without a token, nobody has to
    /// confirm at this host then who has answered.
    #[arg(long, conflicts_with = "token_file")]
    pin: Option<Pin>,
    /// This host's name: the configuration's, when there is that file.
    #[arg(long)]
    name: Option<Name>,
    /// The channel certificate that the company's own PKI has issued to this host, PEM; where the server says so, the
    /// group issues none. The file is looked at from then on: a new one is used without a restart.
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// The private key of that certificate, on P-256, PKCS#8 in PEM.
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// How this host is to prove itself to its parents, and they to it: certificate, kerberos or either. By `kerberos` it
    /// gets no channel certificate. Which principal it has is said in [kerberos] of the configuration.
    #[arg(long, default_value = "certificate")]
    mechanism: Mechanism,
    /// What the group is called that this host is to join by Kerberos alone, with its realm when that is not this host's:
    /// NAME or NAME@REALM. Its servers prove that they are that group's. Where they have no rule for this host, it waits
    /// until an operator has approved it.
    #[arg(long, conflicts_with = "token_file")]
    group: Option<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: Name,
    #[serde(default = "state_dir")]
    state_dir: PathBuf,
    // Nothing is kept there: the folders of secrets are made by wardline-runas.
    #[serde(default = "runtime_dir")]
    runtime_dir: PathBuf,
    #[serde(default, deserialize_with = "socket")]
    runas: Option<PathBuf>,
    #[serde(default)]
    packs: Vec<PathBuf>,
    #[serde(default = "heartbeat", deserialize_with = "interval")]
    heartbeat: Duration,
    #[serde(default = "budget", deserialize_with = "size")]
    queue_budget: u64,
    measure: Option<PathBuf>,
    kerberos: Option<kerberos::Settings>,
    #[serde(default, deserialize_with = "config::groups")]
    group: Vec<Membership>,
}

fn state_dir() -> PathBuf {
    "/var/lib/wardline/agent".into()
}

fn runtime_dir() -> PathBuf {
    "/run/wardline/agent".into()
}

const fn heartbeat() -> Duration {
    Duration::from_secs(60)
}

const fn budget() -> u64 {
    128 << 20
}

fn interval<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let interval = quantity::duration(&String::deserialize(from)?).map_err(D::Error::custom)?;
    if HEARTBEAT.contains(&interval) { Ok(interval) } else { Err(D::Error::custom("from 100ms to 1h is allowed")) }
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let size = quantity::size(&String::deserialize(from)?).map_err(D::Error::custom)?;
    if BUDGET.contains(&size) { Ok(size) } else { Err(D::Error::custom("from 64KiB to 64GiB is allowed")) }
}

fn socket<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    if path.is_absolute() { Ok(Some(path)) } else { Err(D::Error::custom("the absolute path of a socket is allowed")) }
}

fn main() -> ExitCode {
    if let Err(event) = config::no_dumps() {
        journal::emit(event);
        return ExitCode::FAILURE;
    }
    let result = match Arguments::parse().command {
        Command::CheckConfig { config } => read(&config).map(drop),
        Command::Run { config } => run(&config),
        Command::Join(arguments) => return join(*arguments),
        Command::Doctor { config } => {
            let read = read(&config).map(|(config, _)| config);
            let own = read.as_ref().ok().map(|config| plugins(config.runas.as_deref()));
            return doctor::main(PROGRAM, Role::Agent, read.map(configured), own);
        }
        Command::Certs { config } => return certs::main(Role::Agent, config::read(&config).map(configured)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(event) => {
            journal::emit(event);
            ExitCode::FAILURE
        }
    }
}

/// What is looked at without running.
fn configured(config: Config) -> Configured {
    let Config { name, state_dir: state, runtime_dir: runtime, kerberos, group: groups, .. } = config;
    Configured { name, state, runtime, groups, kerberos }
}

/// How plugins are run here, and whether they can be.
fn plugins(runas: Option<&Path>) -> Found {
    let Some(socket) = runas else {
        return Found::Note("plugins run under the agent's own user, and checks with `run_as` do not run".into());
    };
    let runtime = Builder::new_current_thread().enable_io().build();
    match runtime.and_then(|runtime| runtime.block_on(ask::connect(socket))) {
        Ok(_) => Found::Well("plugins run by wardline-runas, as users of their own".into()),
        Err(error) => Found::Wrong {
            step: format!("wardline-runas, by {}", socket.display()),
            cause: error.to_string(),
            next: "start wardline-runas, whose policy names the agent's user: docs/operations/run-as.md".into(),
        },
    }
}

/// The configuration and its packs; all of it or nothing.
fn read(path: &Path) -> Result<(Config, Vec<Pack>), Event> {
    let config: Config = config::read(path)?;
    let mut texts = Vec::new();
    for file in &config.packs {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file)
            .map_err(|error| Event::ConfigurationRefused { file: shown.clone(), reason: error.to_string() })?;
        texts.push((shown, text));
    }
    let packs = Pack::parse_all(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())));
    let packs = packs.map_err(|error| Event::ConfigurationRefused {
        file: error.file.clone(),
        reason: format!("line {}, column {}: {}", error.line, error.column, error.reason),
    })?;
    Ok((config, packs))
}

fn join(join: Join) -> ExitCode {
    let file = join.config;
    // What is wrong with it is said below.
    let settings = config::read::<Config>(&file).ok().and_then(|config| config.kerberos);
    if let Err(event) = kerberos::environment(settings.as_ref()) {
        journal::emit(event);
        return ExitCode::FAILURE;
    }
    let read = || config::read(&file).map(|Config { name, state_dir, group, .. }| (name, state_dir, !group.is_empty()));
    let place = enroll::place(PROGRAM, &file, join.name, read, state_dir());
    let wish = Wish {
        parents: join.parent,
        token: join.token_file,
        pin: join.pin,
        own_pki: enroll::own_pki(join.certificate, join.key),
        mechanism: join.mechanism,
        kerberos: settings,
        group: join.group,
    };
    enroll::main(PROGRAM, Role::Agent, place, wish)
}

fn run(path: &Path) -> Result<(), Event> {
    let (config, packs) = read(path)?;
    kerberos::environment(config.kerberos.as_ref())?;
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let measure = config.measure.as_deref().map(Measure::open).transpose();
    let measure = Arc::new(measure.map_err(|error| refuse(format!("measure: {error}")))?);
    // It stays locked for as long as this runs.
    let state = StateFolder::open(&config.state_dir)?;
    let found = home::find(PROGRAM, path, config.group, &state)?;
    let mut started = vec![Event::Started {
        program: PROGRAM.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        name: config.name.to_string(),
    }];
    let kerberos = config.kerberos.and_then(|settings| Kerberos::new(settings, &config.name, &config.runtime_dir));
    let own = Identity { name: config.name, role: Role::Agent };
    let (heartbeat, queue_budget) = (config.heartbeat, config.queue_budget);
    if config.runas.is_none() {
        started.push(Event::PluginsUnderAgent { user: geteuid().to_string() });
    }
    let runner = Runner::new(config.runas);
    groups::run(found, &state, &Host { own, packs, heartbeat, queue_budget, measure, runner, kerberos }, started)
}
