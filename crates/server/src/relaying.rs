//! A server without a database: the relay of the connector between who is below and the servers with the database, and
//! the operators' socket, whose requests go up the same way. It has a channel certificate of a server and nothing else: no
//! duty key, so that nobody takes its word for a server's, no issuing CA, no group key.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, Mechanism, Parent, StateFolder};
use wardline_connector::enroll::{self, Wish};
use wardline_connector::kerberos::{self, Kerberos};
use wardline_connector::relay::Relay;
use wardline_connector::sealing::Sealing;
use wardline_connector::{home, journal, signals};
use wardline_proto::event::Event;
use wardline_proto::{Name, Role};
use wardline_secrets::certificate::Identity;
use wardline_secrets::trust::Pin;

use crate::api::{Socket, passing};

/// What its configuration says.
#[derive(Clone, Debug)]
pub struct Relaying {
    /// The program, as it is called.
    pub program: &'static str,
    /// The server's name.
    pub name: Name,
    /// The group's name.
    pub group: Name,
    /// The pin of its root, if it must be this one: nobody has to confirm at this host who has answered then.
    pub pin: Option<Pin>,
    /// What it keeps.
    pub state_dir: PathBuf,
    /// What it has while it runs.
    pub runtime_dir: PathBuf,
    /// Where health services reach it.
    pub listen: SocketAddr,
    /// Where operators do.
    pub api_socket: PathBuf,
    /// The servers with the database, in order.
    pub root_servers: Vec<Parent>,
    /// Kerberos, where it is configured.
    pub kerberos: Option<kerberos::Settings>,
}

/// Makes this host a server without a database, once an operator has approved it, and shows each step. Whether it is one.
pub fn join(relaying: Relaying) -> bool {
    let Relaying { program, name, pin, state_dir, root_servers, .. } = relaying;
    let (parents, mechanism) = (root_servers, Mechanism::Certificate);
    let wish = Wish { parents, token: None, pin, own_pki: None, mechanism, kerberos: None, group: None };
    enroll::main(program, Role::Server, Ok((name, state_dir)), wish) == ExitCode::SUCCESS
}

/// Runs until the program is to stop.
///
/// # Errors
/// One event: it has not joined, or something of it cannot be used.
pub fn run(file: &Path, relaying: Relaying) -> Result<(), Event> {
    let Relaying { program, name, group, pin, state_dir, runtime_dir, listen, api_socket, root_servers, kerberos } =
        relaying;
    let refuse = |reason: String| Event::ConfigurationRefused { file: file.display().to_string(), reason };
    let state = StateFolder::open(&state_dir)?;
    let found = home::groups(Vec::new(), state.path())?.into_iter().find(|found| found.name() == group.as_str());
    let mut found = found.ok_or_else(|| {
        refuse(format!(
            "this host is no server without a database of the group {group}; to make it one: `{program} join`"
        ))
    })?;
    // The configuration decides whom it reports to, whatever it was when it joined.
    if let Ok(membership) = &mut found.membership {
        membership.parents = root_servers;
    }
    let own = Identity { name: name.clone(), role: Role::Server };
    let kerberos = kerberos.and_then(|settings| Kerberos::new(settings, &name, &runtime_dir));
    let home::Member { membership, folder, credential, identity, root, vault, renewal } =
        home::load(found, &own, state.vault(), kerberos)?;
    if pin.is_some_and(|pin| pin != membership.pin) {
        return Err(refuse(
            "group: the root of the group that this host has joined is not the one that `pin` names".into(),
        ));
    }
    let sealing = Sealing::open(own.clone(), membership.name.clone(), root, Arc::clone(&identity), &folder, vault)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| refuse(error.to_string()))?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await;
        let listener = listener.map_err(shown("listen")).map_err(refuse)?;
        let address = listener.local_addr().map_err(shown("listen")).map_err(refuse)?;
        config::private_folder(&runtime_dir).map_err(shown("runtime_dir")).map_err(refuse)?;
        let socket = Socket::bind(&api_socket).map_err(shown("api_socket")).map_err(refuse)?;
        let stopped = signals::wait();
        config::announce(&runtime_dir, address).map_err(shown("runtime_dir")).map_err(refuse)?;
        journal::emit(Event::Started {
            program: program.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            name: name.to_string(),
        });
        let stop = CancellationToken::new();
        if let Some(renewal) = renewal {
            tokio::spawn(renewal.run(stop.clone()));
        }
        let relay = Relay::new(own, membership, credential, identity, sealing);
        let api = tokio::spawn(socket.serve(passing(Arc::clone(&relay)), stop.clone().cancelled_owned()));
        let carrying = tokio::spawn(relay.carry(listener, stop.clone()));
        stopped.await;
        stop.cancel();
        let _ = tokio::time::timeout(signals::STOPPING, async { tokio::join!(api, carrying) }).await;
        Ok(())
    })
}

fn shown(what: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{what}: {error}")
}
