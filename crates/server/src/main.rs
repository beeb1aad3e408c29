//! The server's program: configuration, keys, the database, the listener for health services and the data access
//! service.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, Group, Keys, StateFolder};
use wardline_connector::{journal, listener, signals};
use wardline_proto::event::Event;
use wardline_proto::{Name, PORT, Role};
use wardline_secrets::private;
use wardline_secrets::roster::{Listed, Roster};
use wardline_server::api::{Live, Service, Socket};
use wardline_server::ingest::Ingest;
use wardline_server::live::Registry;
use wardline_server::store::Store;

#[derive(Parser)]
#[command(version, about = "Keeps what agents say, exactly once, and gives access to it.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server until SIGTERM or SIGINT.
    Run {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
    },
    /// Says whether the configuration file is right.
    CheckConfig {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
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
    api_socket: Option<PathBuf>,
    database: Option<String>,
    measure: Option<PathBuf>,
    group: Group,
    #[serde(default)]
    agent: Vec<Listed>,
    #[serde(default)]
    gateway: Vec<Listed>,
}

fn state_dir() -> PathBuf {
    "/var/lib/wardline/server".into()
}

fn runtime_dir() -> PathBuf {
    "/run/wardline/server".into()
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

/// The configuration, the roster and the database's path.
fn read(path: &Path) -> Result<(Config, Roster, Option<PathBuf>), Event> {
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let mut config: Config = config::read(path)?;
    if let Some(odd) = config.gateway.iter().find(|gateway| gateway.gateway.is_some()) {
        return Err(refuse(format!("gateway {}: a gateway behind a gateway is not supported yet", odd.name)));
    }
    let agents = std::mem::take(&mut config.agent).into_iter().map(|listed| (Role::Agent, listed));
    let gateways = std::mem::take(&mut config.gateway).into_iter().map(|listed| (Role::Gateway, listed));
    let roster = Roster::new(agents.chain(gateways)).map_err(|name| refuse(format!("{name} is listed twice")))?;
    let database = match config.database.as_deref().map(|url| url.strip_prefix("sqlite:")) {
        None => None,
        Some(Some(file)) if !file.is_empty() => Some(PathBuf::from(file)),
        Some(_) => return Err(refuse("database: `sqlite:PATH` is allowed".into())),
    };
    Ok((config, roster, database))
}

fn run(path: &Path) -> Result<(), Event> {
    let (config, roster, database) = read(path)?;
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let state = StateFolder::open(&config.state_dir)?;
    let folder = state.group(&config.group);
    let keys = Keys::load(&folder, &config.group, &config.name, Role::Server)?;
    let (duty, duty_chain) = duty(&folder, &config, &keys)?;
    let measure = config.measure.as_deref().map(|file| std::fs::File::options().append(true).create(true).open(file));
    let measure = measure.transpose().map_err(|error| refuse(format!("measure: {error}")))?;
    let database = database.unwrap_or_else(|| folder.join("wardline.db"));
    let (store, writer) = Store::open(&database, measure).map_err(|error| error.event())?;
    let roster = Arc::new(roster);
    let registry = Registry::new(config.name.clone(), Arc::clone(&roster));

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| refuse(format!("listen = {}: {error}", config.listen)))?;
        let address = listener.local_addr().map_err(|error| refuse(error.to_string()))?;
        config::private_folder(&config.runtime_dir).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        let socket = config.api_socket.clone().unwrap_or_else(|| config.runtime_dir.join("api.sock"));
        let socket = Socket::bind(&socket).map_err(|error| refuse(format!("api_socket: {error}")))?;
        config::announce(&config.runtime_dir, address).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        journal::emit(Event::Started {
            program: "wardline-server".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.to_string(),
        });
        let stop = CancellationToken::new();
        let service = Service { store: store.clone(), live: Arc::clone(&registry) as Arc<dyn Live> };
        let api = tokio::spawn(socket.serve(Arc::new(service), stop.clone().cancelled_owned()));
        let Keys { channel, identity, .. } = keys;
        let ingest = Arc::new(Ingest { channel: channel.clone(), identity, duty, duty_chain, roster, registry, store });
        let below = stop.clone();
        let serve = move |session| Arc::clone(&ingest).serve(session, below.clone());
        let listening = tokio::spawn(listener::listen(listener, channel, stop.clone(), serve));
        signals::wait().await;
        stop.cancel();
        let _ = tokio::time::timeout(signals::STOPPING, async { tokio::join!(api, listening) }).await;
        // What waits is written; what cannot be was acknowledged to nobody.
        let _ = tokio::time::timeout(signals::STOPPING, writer.ended()).await;
        Ok(())
    })
}

/// The duty key and its certificate, which must lead to the group's root and name this server.
fn duty(
    folder: &Path,
    config: &Config,
    keys: &Keys,
) -> Result<(wardline_secrets::signature::SigningKey, Vec<Bytes>), Event> {
    let key = config::signing_key(&folder.join("duty.key"), config.group.id)?;
    let path = folder.join("duty.pem");
    let shown = path.display().to_string();
    let missing = |reason: String| Event::CertificateMissing { path: shown.clone(), reason };
    let pem = private::read_public(&path).map_err(|error| missing(error.to_string()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|error| missing(error.to_string()))?;
    let unfit = |reason: String| Event::CertificateName { path: shown.clone(), name: config.name.to_string(), reason };
    let (name, certified) = keys.root.duty(&chain, UnixTime::now()).map_err(|fault| unfit(fault.to_string()))?;
    if name != config.name {
        return Err(unfit(format!("it is the duty certificate of {name}")));
    }
    if certified.id() != key.id() {
        return Err(Event::PrivateKeyUnusable {
            path: folder.join("duty.key").display().to_string(),
            reason: "it does not belong to the certificate".into(),
        });
    }
    Ok((key, chain.into_iter().map(|der| Bytes::copy_from_slice(&der)).collect()))
}
