//! The gateway's program: configuration, keys, a listener below, a session above, and the relay between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, Mechanism, Membership, Parent, StateFolder};
use wardline_connector::doctor::Configured;
use wardline_connector::enroll::{self, Target, Wish};
use wardline_connector::kerberos::{self, Kerberos};
use wardline_connector::relay::Relay;
use wardline_connector::sealing::Sealing;
use wardline_connector::{certs, doctor, home, journal, signals};
use wardline_proto::event::Event;
use wardline_proto::{Name, PORT, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::trust::Pin;

#[derive(Parser)]
#[command(version, about = "Carries what agents say across a network boundary, unread.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/gateway.toml")]
        config: PathBuf,
    },
    /// Makes this host part of a management group: makes its keys, asks a parent, with a join token or until an operator
    /// approves, and keeps what it is given.
    Join(Box<Join>),
    /// Looks at everything between this host and its groups' servers, beside the running program or without it: a line
    /// for each step, for what is wrong its cause and what to do. Run it as the program's user.
    Doctor {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/gateway.toml")]
        config: PathBuf,
    },
    /// Lists this host's certificates, as they are on disk: of the channel, and those by which it receives secrets. The
    /// key of the latter is the one that event 7006 names.
    Certs {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/gateway.toml")]
        config: PathBuf,
    },
    /// Says whether the configuration file is right.
    CheckConfig {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/gateway.toml")]
        config: PathBuf,
    },
}

#[derive(Args)]
struct Join {
    /// The configuration file, for the name and the state folder.
    #[arg(long, default_value = "/etc/wardline/gateway.toml")]
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

/// As it is called.
const PROGRAM: &str = "wardline-gateway";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: Name,
    #[serde(default = "state_dir")]
    state_dir: PathBuf,
    #[serde(default = "runtime_dir")]
    runtime_dir: PathBuf,
    #[serde(default = "listen", deserialize_with = "config::listen")]
    listen: SocketAddr,
    kerberos: Option<kerberos::Settings>,
    #[serde(default, deserialize_with = "config::one_group")]
    group: Option<Membership>,
}

fn state_dir() -> PathBuf {
    "/var/lib/wardline/gateway".into()
}

fn runtime_dir() -> PathBuf {
    "/run/wardline/gateway".into()
}

fn listen() -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT))
}

fn main() -> ExitCode {
    if let Err(event) = config::no_dumps() {
        journal::emit(event);
        return ExitCode::FAILURE;
    }
    let result = match Arguments::parse().command {
        Command::CheckConfig { config } => config::read(&config).map(|_: Config| ()),
        Command::Run { config } => run(&config),
        Command::Join(arguments) => return join(*arguments),
        Command::Doctor { config } => return doctor::main(PROGRAM, Role::Gateway, configured(&config), None),
        Command::Certs { config } => return certs::main(Role::Gateway, configured(&config)),
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
fn configured(path: &Path) -> Result<Configured, Event> {
    let Config { name, state_dir: state, runtime_dir: runtime, kerberos, group, .. } = config::read(path)?;
    Ok(Configured { name, state, runtime, groups: group.into_iter().collect(), kerberos })
}

fn join(join: Join) -> ExitCode {
    let file = join.config;
    // What is wrong with it is said below.
    let settings = config::read::<Config>(&file).ok().and_then(|config| config.kerberos);
    if let Err(event) = kerberos::environment(settings.as_ref()) {
        journal::emit(event);
        return ExitCode::FAILURE;
    }
    let read = || config::read(&file).map(|Config { name, state_dir, group, .. }| (name, state_dir, group.is_some()));
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
    enroll::main(PROGRAM, Role::Gateway, place, wish)
}

fn run(path: &Path) -> Result<(), Event> {
    let config: Config = config::read(path)?;
    kerberos::environment(config.kerberos.as_ref())?;
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let state = StateFolder::open(&config.state_dir)?;
    let own = Identity { name: config.name.clone(), role: Role::Gateway };
    let kerberos = config.kerberos.and_then(|settings| Kerberos::new(settings, &own.name, &config.runtime_dir));
    let home::Member { membership, folder, credential, identity, root, vault, renewal } =
        home::open(PROGRAM, path, config.group, &state, &own, kerberos)?;
    let sealing = Sealing::open(own.clone(), membership.name.clone(), root, Arc::clone(&identity), &folder, vault)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| refuse(format!("listen = {}: {error}", config.listen)))?;
        let address = listener.local_addr().map_err(|error| refuse(error.to_string()))?;
        let stopped = signals::wait();
        config::announce(&config.runtime_dir, address).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        journal::emit(Event::Started {
            program: PROGRAM.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.to_string(),
        });
        let stop = CancellationToken::new();
        if let Some(renewal) = renewal {
            tokio::spawn(renewal.run(stop.clone()));
        }
        let relay = Relay::new(own, membership, credential, identity, sealing);
        let carrying = tokio::spawn(relay.carry(listener, stop.clone()));
        stopped.await;
        stop.cancel();
        let _ = tokio::time::timeout(signals::STOPPING, carrying).await;
        Ok(())
    })
}
