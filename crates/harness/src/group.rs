//! A management group: founded by its server, joined by everybody else, its programs run.
//!
//! ```text
//!  agent1.test ──┐
//!                ├── gw1.test ──┐
//!  agent2.test ──┘              ├── srv1.test ── database
//!  agent3.test (direct) ────────┘
//! ```
//!
//! Agents are spread over the gateways in turn. Every connection may go through a [`Tap`].

use std::collections::HashMap;
use std::fmt::Debug;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use uuid::Uuid;
use wardline_proto::{GroupId, Role};
use wardline_secrets::signature::SigningKey;

use crate::asking::Asking;
use crate::daemon::Daemon;
use crate::pki::{Authority, Credential};
use crate::port::Port;
use crate::postgres::{Cell, Postgres};
use crate::tap::Tap;
use crate::{Scratch, hostile, private, program, scratch, wait};

mod builder;

pub use builder::Builder;
use builder::{AgentFile, Join, Parent, Plan, Site, pack_path};

/// How long what is found may take to come to the server: several lives of the shortest certificate.
const LIMIT: Duration = Duration::from_secs(60);

/// A running management group. Everything of it ends and vanishes with it.
pub struct Group {
    // In the order in which they end.
    agents: Vec<Daemon>,
    gateways: Vec<Daemon>,
    server: Daemon,
    taps: HashMap<String, Tap>,
    authority: Authority,
    name: &'static str,
    id: Uuid,
    socket: PathBuf,
    database: PathBuf,
    postgres: Option<Postgres>,
    packs: PathBuf,
    _ports: Vec<Port>,
    runtime: Scratch,
    scratch: Scratch,
}

impl Group {
    /// One server, one gateway, one agent behind it, unless said otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Lets an agent or gateway join with a token of its own; a gateway runs from then on.
    fn join(&mut self, join: &Join) {
        let mut arguments = vec!["--role", join.role.as_str(), "--name", &join.name];
        arguments.extend(join.via.iter().flat_map(|via| ["--via", via]));
        let token = self.token(&arguments);
        let daemon = self.member(&join.name);
        let parents: Vec<_> = join.parents.iter().map(|parent| format!("{}={}", parent.name, parent.address)).collect();
        program::succeeds(&daemon.join(&parents.join(" "), &token));
        if join.role == Role::Gateway {
            daemon.start();
        }
    }

    fn member(&mut self, name: &str) -> &mut Daemon {
        let mut daemons = self.gateways.iter_mut().chain(&mut self.agents);
        daemons.find(|daemon| daemon.name() == name).expect("it was laid down")
    }

    /// A new join token, in a file: `wardline token create` with these arguments.
    #[track_caller]
    pub fn token(&self, arguments: &[&str]) -> PathBuf {
        let token = self.done(&[&["token", "create"], arguments].concat());
        let file = self.scratch.path().join(format!("token-{}", Uuid::now_v7()));
        scratch::write(&file, token, 0o600);
        file
    }

    /// An agent that has a configuration and nothing else: it has not joined. Its host is none of those that the group
    /// has, whatever its name.
    pub fn newcomer(&self, name: &str) -> Daemon {
        let builder = Self::builder().named(self.name);
        let host = Uuid::now_v7().to_string();
        let (scratch, runtime) = (self.scratch.path().join(&host), self.runtime.path().join(&host));
        let plan = Plan { builder: &builder, scratch: &scratch, runtime: &runtime };
        let site = Site::new(&plan, name, Role::Agent);
        let (packs, heartbeat, queue_budget) = (Vec::new(), "60s", "128MiB");
        site.write(&AgentFile { common: site.common(&builder), packs, heartbeat, queue_budget });
        site.daemon()
    }

    /// A host that is to be a further server: it has a configuration with the group's database and nothing else.
    pub fn further_server(&mut self, name: &str) -> Daemon {
        let postgres = self.postgres.as_ref().expect("the servers of a group share a database");
        let builder = Self::builder().named(self.name);
        let plan = Plan { builder: &builder, scratch: self.scratch.path(), runtime: self.runtime.path() };
        let site = Site::new(&plan, name, Role::Server);
        let port = Port::reserve();
        site.write(&site.server(&builder, port.address(), postgres));
        self._ports.push(port);
        site.daemon()
    }

    /// A server without a database below the group's server, which must run and approves it. It has joined and does not run.
    #[track_caller]
    pub fn relaying_server(&mut self, name: &str) -> Daemon {
        let builder = Self::builder().named(self.name);
        let plan = Plan { builder: &builder, scratch: self.scratch.path(), runtime: self.runtime.path() };
        let site = Site::new(&plan, name, Role::Server);
        let port = Port::reserve();
        let above = Parent { name: self.server.name().into(), address: hostile::listen(&self.server) };
        site.relaying(&builder, port.address(), above);
        self._ports.push(port);
        let host = site.daemon();
        let mut asking = Asking::new("wardline-server", &host.config(), &[]);
        let approved = self.json(&["server", "approve", name, &asking.code()]);
        asking.wait_shown("type the confirmation code");
        asking.types(approved["confirmation"].as_str().expect("a code"));
        let (status, shown) = asking.ended();
        assert!(status.success(), "{shown}");
        host
    }

    /// From now on the command line asks this server.
    pub fn ask(&mut self, server: &Daemon) {
        self.socket = server.runtime().join("api.sock");
    }

    /// The channel certificate and key that a member has.
    pub fn credential(&self, member: &str) -> Credential {
        Credential::read(&self.state(member), "channel")
    }

    /// What a member keeps of the group.
    fn state(&self, member: &str) -> PathBuf {
        self.folder().join(member).join("state").join(self.name)
    }

    /// Starts every program, from the server down.
    pub fn start(&mut self) {
        self.server.start();
        self.gateways.iter_mut().chain(&mut self.agents).for_each(Daemon::start);
    }

    /// The server.
    pub const fn server(&mut self) -> &mut Daemon {
        &mut self.server
    }

    /// A gateway, counted from 0.
    pub fn gateway(&mut self, index: usize) -> &mut Daemon {
        &mut self.gateways[index]
    }

    /// An agent, counted from 0.
    pub fn agent(&mut self, index: usize) -> &mut Daemon {
        &mut self.agents[index]
    }

    /// The wire from this agent or gateway to its parent.
    ///
    /// # Panics
    /// The group is not tapped.
    pub fn tap(&self, child: &str) -> &Tap {
        self.taps.get(child).unwrap_or_else(|| panic!("{child} has no tap"))
    }

    /// Who issues the group's certificates.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The group's id.
    pub const fn id(&self) -> Uuid {
        self.id
    }

    /// A folder for what a story needs besides.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Lets every user of this host pass through the group's folders to what he may read.
    ///
    /// # Panics
    /// They are not the test's.
    pub fn open(&self) {
        for folder in [self.scratch.path(), self.runtime.path(), &self.packs] {
            set_permissions(folder, Permissions::from_mode(0o755)).expect("a folder of the test");
        }
    }

    /// Writes a pack, over what is there. Agents have it when the builder named it.
    pub fn write_pack(&self, name: &str, text: &str) -> PathBuf {
        let path = pack_path(&self.packs, name);
        scratch::write(&path, text, 0o644);
        path
    }

    /// Runs the command line against the server's socket.
    pub fn wardline(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command line can be run")
    }

    /// The command line against the server's socket, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        command(&self.socket, arguments)
    }

    /// Runs the command line against another server's socket.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn wardline_at(&self, server: &Daemon, arguments: &[&str]) -> Output {
        let mut command = command(&server.runtime().join("api.sock"), arguments);
        command.output().expect("the command line can be run")
    }

    /// Runs the command line, which must succeed; what it prints.
    #[track_caller]
    pub fn done(&self, arguments: &[&str]) -> String {
        program::succeeds(&self.wardline(arguments))
    }

    /// Runs the command line, which must succeed; what it answers, as JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let answer = self.done(&[&["-o", "json"], arguments].concat());
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// Waits until both ends of so many hops have measured them, and agree; the hops of `wardline topology`.
    #[track_caller]
    pub fn hops(&self, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} hops measured by both ends"), LIMIT, || {
            let topology = self.json(&["topology"]);
            let hops = topology["hops"].as_array().expect("a list");
            (hops.len() == count && hops.iter().all(|hop| hop["agree"] == true)).then(|| hops.clone())
        })
    }

    /// The certificates that the ends of so many hops have shown, as SHA-256 in hex, sorted, once all are measured.
    #[track_caller]
    pub fn certificates(&self, hops: usize) -> Vec<String> {
        let hops = self.hops(hops);
        let ends = hops.iter().flat_map(|hop| hop["ends"].as_array().expect("a list"));
        let shown = ends.map(|end| end["peer_certificate"].as_str().expect("a hash").to_owned());
        sorted(shown.collect())
    }

    /// The first column of what the database answers, read beside the server.
    #[track_caller]
    pub fn sql<T: Cell>(&self, query: &str) -> Vec<T> {
        match &self.postgres {
            Some(postgres) => postgres.sql(query),
            None => sql(&self.database, query),
        }
    }

    /// The texts of an agent's events, as they arrived.
    #[track_caller]
    pub fn event_texts(&self, agent: &str) -> Vec<String> {
        let agent = format!("(SELECT id FROM agent WHERE name = '{agent}')");
        self.sql(&format!("SELECT text FROM event WHERE agent = {agent} ORDER BY number"))
    }

    /// The texts of all events, of whichever agent.
    #[track_caller]
    pub fn all_texts(&self) -> Vec<String> {
        self.sql("SELECT text FROM event ORDER BY number")
    }

    /// Waits until these are the texts of all events.
    #[track_caller]
    pub fn wait_texts<T: Debug>(&self, expected: &[T])
    where
        String: PartialEq<T>,
    {
        wait::until(&format!("{expected:?} in the database"), LIMIT, || (self.all_texts() == expected).then_some(()));
    }

    /// Waits until these are the texts of an agent's events.
    #[track_caller]
    pub fn wait_texts_of<T: Debug>(&self, agent: &str, expected: &[T])
    where
        String: PartialEq<T>,
    {
        let what = format!("{expected:?} of {agent}");
        wait::until(&what, LIMIT, || (self.event_texts(agent) == expected).then_some(()));
    }

    /// Waits until these are the texts of an agent's events, in any order: they come from several logs.
    #[track_caller]
    pub fn wait_texts_mixed(&self, agent: &str, expected: &[impl ToString]) {
        let expected = sorted(expected.iter().map(ToString::to_string).collect());
        let what = format!("{expected:?} of {agent}, in any order");
        wait::until(&what, LIMIT, || (sorted(self.event_texts(agent)) == expected).then_some(()));
    }

    /// A private key that a member has: `identity`, `channel`, of a server also `duty`.
    ///
    /// # Panics
    /// It has none of this name.
    pub fn key(&self, member: &str, name: &str) -> SigningKey {
        let path = self.state(member).join(name).with_extension("key");
        SigningKey::from_pem(&private::read(&path), GroupId(self.id.into_bytes())).expect("a key in PEM")
    }

    /// The database's file.
    ///
    /// # Panics
    /// It is no file.
    pub fn database(&self) -> &Path {
        assert!(self.postgres.is_none(), "the database is no file");
        &self.database
    }

    /// From now on the database is read there; gives the server where it was.
    ///
    /// # Panics
    /// It is a file.
    pub const fn take_over(&mut self, by: Postgres) -> Postgres {
        self.postgres.replace(by).expect("the builder was asked for it")
    }

    /// Whether the database is on a server of its own.
    pub const fn has_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// The database's server.
    ///
    /// # Panics
    /// It is a file.
    pub const fn postgres(&mut self) -> &mut Postgres {
        self.postgres.as_mut().expect("the builder was asked for it")
    }
}

fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program::find("wardline"));
    command.arg("--socket").arg(socket).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
    command
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

/// The first column of what a program's database answers, read beside the program, which must run: the one that closes
/// a database last does more than to read it.
#[track_caller]
pub fn sql<T: Cell>(database: &Path, query: &str) -> Vec<T> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let read = |connection: Connection| -> rusqlite::Result<Vec<T>> {
        let mut statement = connection.prepare(query)?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    connection.and_then(read).unwrap_or_else(|error| panic!("{query}: {error}"))
}

#[cfg(test)]
mod tests;
