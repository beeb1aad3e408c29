//! The server's program: configuration, keys, the database, the listener for health services and the data access
//! service.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, Membership, Parent, StateFolder};
use wardline_connector::credential::credential;
use wardline_connector::doctor::Configured;
use wardline_connector::enroll::{self, Further};
use wardline_connector::journal::Strangers;
use wardline_connector::kerberos::{self, Kerberos};
use wardline_connector::sealing::Sealing;
use wardline_connector::{certs, doctor, home, journal, listener, now_ms, signals};
use wardline_proto::event::Event;
use wardline_proto::{Name, PORT, Role};
use wardline_secrets::protect::Vault;
use wardline_secrets::view::View;
use wardline_server::accounts::{self, Accounts, OwnKeys};
use wardline_server::api::{Live, Relayed, Service, Socket, router};
use wardline_server::configuration::Configurations;
use wardline_server::founding::{self, Following, Foundation, Renewal};
use wardline_server::ingest::Ingest;
use wardline_server::joining::{self, Admission, JoinDesk, Vouching, WithoutToken};
use wardline_server::live::Registry;
use wardline_server::operating::accounts::Policy;
use wardline_server::relaying::{self, Relaying};
use wardline_server::restore;
use wardline_server::sealing::{self, Publications};
use wardline_server::store::{self, Location, Login, Settings, Store};
use wardline_server::watcher;

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
    /// Makes this host a further server of a group, by a code that is compared at both ends: with the group's database in
    /// the configuration also by a token for its name (`wardline token create --role server`); with `root_servers` in it, a
    /// server without a database.
    Join {
        /// The server to ask: NAME, NAME:PORT or NAME=HOST:PORT. No gateway. Without a database: those of `root_servers`.
        server: Option<Parent>,
        /// The file with the token; `-` reads the first line of standard input. Without a database there is none.
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
    },
    /// Says that the database was restored on purpose: shows what it has forgotten, and lets the trust log go on from
    /// there. The server must not run.
    AcceptRestore {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Takes the root's key off this server: writes it into a file, in the clear, and removes it from the state folder. The
    /// server may run. Run it as the server's user.
    ExportRoot {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
        /// The file, which must not be there yet: on a medium that is taken away.
        #[arg(long)]
        to: PathBuf,
    },
    /// Takes the steps that the database's schema lacks, and says which; `run` does so too. The server must not run.
    Migrate {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
    },
    /// Looks at this host's files and its part in Kerberos, and of a server without a database at everything between it and
    /// the servers with one, beside the running program or without it: a line for each step, for what is wrong its cause and
    /// what to do. Run it as the program's user.
    Doctor {
        /// The configuration file.
        #[arg(long, default_value = "/etc/wardline/server.toml")]
        config: PathBuf,
    },
    /// Of a server without a database: lists this host's certificates, as they are on disk: of the channel, and those by
    /// which it receives secrets.
    Certs {
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
    /// In place of a database: the servers with it, in order.
    #[serde(default)]
    root_servers: Vec<Parent>,
    /// The servers without a database from which commands are taken.
    #[serde(default)]
    commands_from: Vec<Name>,
    #[serde(default)]
    postgres: Login,
    measure: Option<PathBuf>,
    #[serde(default = "founding::default_lifetime", deserialize_with = "founding::lifetime")]
    channel_lifetime: Duration,
    #[serde(default)]
    join_without_token: WithoutToken,
    #[serde(default)]
    join_by_kerberos: Vec<joining::Rule>,
    kerberos: Option<kerberos::Settings>,
    #[serde(default)]
    less_secure_distribution: bool,
    group: founding::Settings,
}

/// As it is called.
const PROGRAM: &str = "wardline-server";
/// How often the tables that show the trust log are compared with it.
const COMPARE: Duration = Duration::from_secs(60);
/// How often a server whose database others may use looks what they have appended to the trust log.
const FOLLOW: Duration = Duration::from_millis(500);

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
    if let Err(event) = config::no_dumps() {
        journal::emit(event);
        return ExitCode::FAILURE;
    }
    let result = match Arguments::parse().command {
        Command::Join { server, token_file, config } => join(&config, server, token_file),
        Command::Doctor { config } => return doctor(&config),
        Command::Certs { config } => return certs::main(Role::Server, member(&config)),
        Command::CheckConfig { config } => read(&config).map(|_| true),
        Command::Run { config } => run(&config).map(|()| true),
        Command::AcceptRestore { config, yes } => accept_restore(&config, yes),
        Command::Migrate { config } => migrate(&config).map(|()| true),
        Command::ExportRoot { config, to } => export_root(&config, &to).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(event) => {
            journal::emit(event);
            ExitCode::FAILURE
        }
    }
}

/// The configuration, and where the database is; nothing for a server without one.
fn read(path: &Path) -> Result<(Config, Option<Location>), Event> {
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let config: Config = config::read(path)?;
    if !config.root_servers.is_empty() {
        if config.database.is_some() {
            return Err(refuse(
                "database and root_servers: a server has a database, or servers above that have it".into(),
            ));
        }
        if config.group.own_pki.is_some() {
            return Err(refuse(
                "group: a server without a database gets its channel certificate from the group: leave out own_pki"
                    .into(),
            ));
        }
        return Ok((config, None));
    }
    let own = || config.state_dir.join(config.group.name.as_str()).join("wardline.db");
    let database = match config.database.as_deref() {
        None => Location::File(own()),
        Some(url) => match (url.strip_prefix("sqlite:"), url.starts_with("postgres://")) {
            (Some(file), _) if !file.is_empty() => Location::File(file.into()),
            (None, true) => Location::Server(Box::new(Settings::new(url, &config.postgres).map_err(refuse)?)),
            _ => return Err(refuse("database: `sqlite:PATH` or `postgres://USER@HOST/DATABASE` is allowed".into())),
        },
    };
    Ok((config, Some(database)))
}

/// The configuration of a server with a database, and where that is.
fn with_database(path: &Path) -> Result<(Config, Location), Event> {
    let (config, database) = read(path)?;
    let none = || Event::ConfigurationRefused {
        file: path.display().to_string(),
        reason: "it has root_servers: this server has no database, and none of the group's keys".into(),
    };
    Ok((config, database.ok_or_else(none)?))
}

fn export_root(path: &Path, to: &Path) -> Result<(), Event> {
    let (config, _) = with_database(path)?;
    let vault = Vault::look(&config.state_dir).map_err(|error| config::unprotected(&config.state_dir, error))?;
    founding::export_root(&vault, &config.state_dir.join(config.group.name.as_str()), to)
}

/// Whether this host has become a further server.
fn join(path: &Path, server: Option<Parent>, token: Option<PathBuf>) -> Result<bool, Event> {
    let (config, database) = read(path)?;
    let refuse = |reason: &str| Event::ConfigurationRefused { file: path.display().to_string(), reason: reason.into() };
    let Some(database) = database else {
        if server.is_some() || token.is_some() {
            return Err(refuse(
                "it has root_servers: a server without a database asks those, and joins without a token",
            ));
        }
        return Ok(relaying::join(relaying(config)));
    };
    let (Some(server), Some(token)) = (server, token) else {
        return Err(refuse(
            "a further server names the one to ask, and the file with its token: `join SERVER --token-file FILE`",
        ));
    };
    if matches!(database, Location::File(_)) {
        return Err(refuse("database: a further server uses the one that the group's servers share: `postgres://...`"));
    }
    if config.group.own_pki.is_some() {
        return Err(refuse(
            "group: a further server gets its channel certificate from the built-in CA: leave out own_pki",
        ));
    }
    let state = StateFolder::open(&config.state_dir)?;
    let folder = state.path().join(config.group.name.as_str());
    if std::fs::read_dir(&folder).is_ok_and(|mut files| files.next().is_some()) {
        let reason = "this server is part of a group already; move the folder away if it is to join anew".into();
        return Err(Event::StateFolderInUse { path: folder.display().to_string(), reason });
    }
    let Config { name, group, channel_lifetime, .. } = &config;
    let further = Further { program: PROGRAM, name, group: &group.name, server, token: &token };
    Ok(enroll::further(&further, |given| {
        founding::receive(state.vault(), state.path(), name, group, *channel_lifetime, given)
    }))
}

fn accept_restore(path: &Path, sure: bool) -> Result<bool, Event> {
    let (config, database) = with_database(path)?;
    let state = StateFolder::open(&config.state_dir)?;
    let folder = config.state_dir.join(config.group.name.as_str());
    // Nothing is founded either where there is nothing to accept.
    there(&database, "it is not there; restore it first")?;
    let foundation =
        founding::found(state.vault(), &folder, &config.name, &config.group, config.channel_lifetime, now_ms() / 1000)?;
    restore::accept(database, foundation, sure)
}

fn migrate(path: &Path) -> Result<(), Event> {
    let (config, database) = with_database(path)?;
    let _state = StateFolder::open(&config.state_dir)?;
    there(&database, "it is not there; the server makes it at its first start")?;
    let (found, now) = store::migrate(&database).map_err(|error| error.event())?;
    // Who does not read what is said here loses nothing that counts.
    let _ = match found == now {
        true => writeln!(std::io::stdout(), "the schema is {now}, the newest that this program knows: nothing to do"),
        false => writeln!(std::io::stdout(), "the schema was {found}, and is {now} now"),
    };
    Ok(())
}

/// Nothing is made where there is no file.
fn there(database: &Location, next: &str) -> Result<(), Event> {
    match database {
        Location::File(file) if !file.exists() => {
            Err(Event::DatabaseUnusable { path: file.display().to_string(), reason: next.into() })
        }
        _ => Ok(()),
    }
}

fn doctor(path: &Path) -> ExitCode {
    match read(path) {
        Ok((
            Config { name, group, state_dir: state, runtime_dir: runtime, kerberos, join_by_kerberos, .. },
            Some(_),
        )) => {
            let own = state.join(group.name.as_str());
            let joins = Some(&group.name).filter(|_| !join_by_kerberos.is_empty());
            let configured = Configured { name, state, runtime, groups: Vec::new(), kerberos };
            doctor::of_root(PROGRAM, configured, &own, joins)
        }
        _ => doctor::main(PROGRAM, Role::Server, member(path), None),
    }
}

/// What a server without a database is part of, and by whom.
fn member(path: &Path) -> Result<Configured, Event> {
    let (config, database) = read(path)?;
    if database.is_some() {
        let reason =
            "this server has a database; this looks at one without: see `wardline status`, `wardline ca list`".into();
        return Err(Event::ConfigurationRefused { file: path.display().to_string(), reason });
    }
    let Config { name, state_dir: state, runtime_dir: runtime, root_servers, kerberos, .. } = config;
    let joined = home::memberships(&state)?.into_iter();
    let reports = joined.map(|(_, membership)| Membership { parents: root_servers.clone(), ..membership });
    Ok(Configured { name, state, runtime, groups: reports.collect(), kerberos })
}

fn relaying(config: Config) -> Relaying {
    let Config { name, state_dir, runtime_dir, listen, api_socket, root_servers, group, kerberos, .. } = config;
    let api_socket = api_socket.unwrap_or_else(|| runtime_dir.join("api.sock"));
    Relaying {
        program: PROGRAM,
        name,
        group: group.name,
        pin: group.pin,
        state_dir,
        runtime_dir,
        listen,
        api_socket,
        root_servers,
        kerberos,
    }
}

fn run(path: &Path) -> Result<(), Event> {
    let (config, database) = read(path)?;
    kerberos::environment(config.kerberos.as_ref())?;
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let Some(database) = database else { return relaying::run(path, relaying(config)) };
    let state = StateFolder::open(&config.state_dir)?;
    if home::memberships(state.path()).is_ok_and(|joined| !joined.is_empty()) {
        return Err(refuse("this host has joined as a server without a database: it needs root_servers; to make it one with it, remove it (`wardline server remove`), move its state folder away, and join anew".into()));
    }
    let folder = config.state_dir.join(config.group.name.as_str());
    let measure = config.measure.as_deref().map(|file| std::fs::File::options().append(true).create(true).open(file));
    let measure = measure.transpose().map_err(|error| refuse(format!("measure: {error}")))?;
    let foundation =
        founding::found(state.vault(), &folder, &config.name, &config.group, config.channel_lifetime, now_ms() / 1000)?;
    let Foundation { keeper, authorities, identity, channel, presence } = foundation;
    let shared = matches!(database, Location::Server(_));
    let (store, writer) = Store::open(database, measure, keeper).map_err(|error| error.event())?;
    let key = accounts::group_key(state.vault(), &folder, &store.view().borrow())?;
    let root = store.keeper().root.clone();
    let identity = Arc::new(identity);
    let signs = Arc::clone(&identity);
    let sealing = Sealing::open(
        channel.identity.clone(),
        config.group.name.clone(),
        root,
        signs,
        &folder,
        state.vault().clone(),
    )?;
    let accounts = Accounts::new(key, store.clone(), Arc::clone(&sealing) as Arc<dyn OwnKeys>);
    let policy = Policy { less_secure: config.less_secure_distribution };
    let registry = Registry::new(config.name.clone(), store.view());

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| refuse(format!("listen = {}: {error}", config.listen)))?;
        let address = listener.local_addr().map_err(|error| refuse(error.to_string()))?;
        config::private_folder(&config.runtime_dir).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        let socket = config.api_socket.clone().unwrap_or_else(|| config.runtime_dir.join("api.sock"));
        let socket = Socket::bind(&socket).map_err(|error| refuse(format!("api_socket: {error}")))?;
        let stopped = signals::wait();
        config::announce(&config.runtime_dir, address).map_err(|error| refuse(format!("runtime_dir: {error}")))?;
        journal::emit(Event::Started {
            program: PROGRAM.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.to_string(),
        });
        founding::announce(&store, presence.clone()).await?;
        policy.tell(&store.view().borrow());
        let stop = CancellationToken::new();
        let own = channel.identity.clone();
        let (publisher, credential) = credential(own.clone(), Some(channel));
        let kerberos =
            config.kerberos.clone().and_then(|settings| Kerberos::new(settings, &config.name, &config.runtime_dir));
        let credential = credential.with_kerberos(kerberos);
        let lifetime = config.channel_lifetime;
        let (presence, published) = (Mutex::new(presence), watch::Sender::new(authorities));
        let vault = state.vault().clone();
        let authorities = published.subscribe();
        let vouching = Vouching::new(config.kerberos, config.join_by_kerberos, &folder);
        let renewal = Arc::new(Renewal {
            vault,
            folder,
            presence,
            authorities: published,
            lifetime,
            publisher,
            store: store.clone(),
        });
        let following = renewal.own_pki().map(|pki| Following { pki, renewal: Arc::clone(&renewal) });
        let following = following.map(|following| tokio::spawn(following.run(stop.clone())));
        let renewing = tokio::spawn(Arc::clone(&renewal).run(stop.clone()));
        let making = tokio::spawn(Arc::clone(&sealing).run(stop.clone()));
        let entering = tokio::spawn(sealing::run(store.clone(), sealing, authorities.clone(), stop.clone()));
        let configurations = Arc::new(Configurations::new(store.clone(), accounts.clone()));
        let (issues, known, without_token) =
            (authorities.clone(), Arc::clone(&configurations), config.join_without_token);
        let admission = Admission { lifetime, without_token, vouching };
        let desk = JoinDesk::new(store.clone(), issues, admission, known);
        let live = Arc::clone(&registry) as Arc<dyn Live>;
        let service = Service::new(store.clone(), live, Arc::clone(&desk), renewal, accounts, policy);
        let relayed = Relayed::new(service.clone(), config.commands_from);
        let api = tokio::spawn(socket.serve(router(Arc::new(service)), stop.clone().cancelled_owned()));
        let comparing = tokio::spawn(compare(store.clone(), stop.clone()));
        let removed = removed(store.view(), config.name.clone());
        let keeping_up = shared.then(|| tokio::spawn(follow(store.clone(), stop.clone())));
        let watching = tokio::spawn(watcher::run(store.clone(), Arc::clone(&registry), stop.clone()));
        let signs = Arc::clone(&store.keeper().duty);
        let ingest = Ingest {
            own,
            identity,
            duty: signs,
            authorities,
            registry,
            configurations,
            publications: Publications::default(),
            relayed,
            store,
            strangers: Strangers::default(),
        };
        let (ingest, below) = (Arc::new(ingest), stop.clone());
        let waking = tokio::spawn(Arc::clone(&ingest).wake(stop.clone()));
        let serve = move |session| Arc::clone(&ingest).serve(session, below.clone());
        let join = move |knocking| joining::serve(Arc::clone(&desk), knocking);
        let listening = tokio::spawn(listener::listen(listener, credential, stop.clone(), serve, join));
        tokio::select! {
            () = stopped => {}
            // Nobody believes it any more; it stands in the way of those who are believed.
            () = removed => {
                let (service, act) = (format!("server {}", config.name), "an operator at another server".into());
                journal::emit(Event::MemberRemoved { service, act });
            }
        }
        stop.cancel();
        let following = async {
            for task in [following, keeping_up].into_iter().flatten() {
                let _ = task.await;
            }
        };
        let all =
            async { tokio::join!(api, listening, waking, comparing, watching, renewing, following, making, entering) };
        let _ = tokio::time::timeout(signals::STOPPING, all).await;
        // What waits is written; what cannot be was acknowledged to nobody.
        let _ = tokio::time::timeout(signals::STOPPING, writer.ended()).await;
        Ok(())
    })
}

/// Compares the tables that show the trust log with it, again and again.
async fn compare(store: Store, stop: CancellationToken) {
    while pause(COMPARE, &stop).await && !matches!(store.compare().await, Err(store::Error::Stopped)) {}
}

/// Takes over what other servers append to the trust log, again and again.
async fn follow(store: Store, stop: CancellationToken) {
    while pause(FOLLOW, &stop).await && !matches!(store.follow().await, Err(store::Error::Stopped)) {}
}

/// Returns when this server, which is a member, is none any more.
async fn removed(mut view: watch::Receiver<Arc<View>>, own: Name) {
    if view.wait_for(|view| view.find(&own, Role::Server).is_none()).await.is_err() {
        // The store has ended before the program does.
        std::future::pending().await
    }
}

/// Waits; `false` when the program stops.
async fn pause(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}
