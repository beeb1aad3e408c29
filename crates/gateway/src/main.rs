//! The gateway's program: configuration, keys, a listener below, a session above, and the relay between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, Keys, Membership, StateFolder};
use wardline_connector::relay::Relay;
use wardline_connector::{journal, listener, signals};
use wardline_proto::event::Event;
use wardline_proto::{Name, PORT, Role};
use wardline_secrets::roster::{Listed, Roster};

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
    /// Says whether the configuration file is right.
    CheckConfig {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/gateway.toml")]
        config: PathBuf,
    },
}

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
    #[serde(deserialize_with = "config::one_group")]
    group: [Membership; 1],
    #[serde(default)]
    agent: Vec<Listed>,
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
    let result = match Arguments::parse().command {
        Command::CheckConfig { config } => read(&config).map(drop),
        Command::Run { config } => run(&config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(event) => {
            journal::emit(event);
            ExitCode::FAILURE
        }
    }
}

/// The configuration and the roster.
fn read(path: &Path) -> Result<(Config, Roster), Event> {
    let mut config: Config = config::read(path)?;
    let agents = std::mem::take(&mut config.agent).into_iter().map(|listed| (Role::Agent, listed));
    let roster = Roster::new(agents).map_err(|name| Event::ConfigurationRefused {
        file: path.display().to_string(),
        reason: format!("{name} is listed twice"),
    })?;
    Ok((config, roster))
}

fn run(path: &Path) -> Result<(), Event> {
    let (config, roster) = read(path)?;
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let [membership] = config.group;
    let state = StateFolder::open(&config.state_dir)?;
    let keys = Keys::load(&state.group(&membership.group()), &membership.group(), &config.name, Role::Gateway)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| refuse(format!("listen = {}: {error}", config.listen)))?;
        let address = listener.local_addr().map_err(|error| refuse(error.to_string()))?;
        config::announce(&config.runtime_dir, address).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        journal::emit(Event::Started {
            program: "wardline-gateway".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.to_string(),
        });
        let stop = CancellationToken::new();
        let relay = Relay::new(membership, keys.channel.clone(), keys.identity, roster);
        let above = tokio::spawn(Arc::clone(&relay).run(stop.clone()));
        let below = stop.clone();
        let serve = move |session| Arc::clone(&relay).serve(session, below.clone());
        let listening = tokio::spawn(listener::listen(listener, keys.channel, stop.clone(), serve));
        signals::wait().await;
        stop.cancel();
        let _ = tokio::time::timeout(signals::STOPPING, async { tokio::join!(above, listening) }).await;
        Ok(())
    })
}
