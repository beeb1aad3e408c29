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
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use uuid::Uuid;
use wardline_proto::Role;

use crate::daemon::Daemon;
use crate::pki::{self, Authority, Credential};
use crate::port::Port;
use crate::tap::Tap;
use crate::{Scratch, program};

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
    packs: PathBuf,
    _ports: Vec<Port>,
    runtime: Scratch,
    scratch: Scratch,
}

/// What a group is to be like.
#[derive(Clone, Debug)]
pub struct Builder {
    name: &'static str,
    gateways: usize,
    agents: usize,
    direct: usize,
    heartbeat: String,
    queue_budget: String,
    measure: bool,
    tapped: bool,
    packs: Vec<(String, String)>,
    states: HashMap<String, PathBuf>,
    written: bool,
    chained: bool,
    any_gateway: bool,
    channel_lifetime: Option<String>,
}

impl Builder {
    /// Its name, and of the folder that each program keeps for it; `test` when not said.
    pub const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// How many gateways; one when not said.
    pub const fn gateways(mut self, count: usize) -> Self {
        self.gateways = count;
        self
    }

    /// How many agents behind gateways; one when not said.
    pub const fn agents(mut self, count: usize) -> Self {
        self.agents = count;
        self
    }

    /// How many more agents that talk to the server themselves; none when not said.
    pub const fn direct(mut self, count: usize) -> Self {
        self.direct = count;
        self
    }

    /// How often agents say that they live; `60s` when not said.
    pub fn heartbeat(mut self, every: &str) -> Self {
        self.heartbeat = every.into();
        self
    }

    /// The size of an agent's queue; `128MiB` when not said.
    pub fn queue_budget(mut self, size: &str) -> Self {
        self.queue_budget = size.into();
        self
    }

    /// Programs measure into a file, see [`Daemon::measure`].
    pub const fn measured(mut self) -> Self {
        self.measure = true;
        self
    }

    /// Every connection goes through a tap, see [`Group::tap`].
    pub const fn tapped(mut self) -> Self {
        self.tapped = true;
        self
    }

    /// Every agent has this pack.
    pub fn pack(mut self, name: &str, text: &str) -> Self {
        self.packs.push((name.into(), text.into()));
        self
    }

    /// A program keeps its state in this folder, on a disk of the test's own making.
    pub fn state(mut self, name: &str, folder: &Path) -> Self {
        self.states.insert(name.into(), folder.into());
        self
    }

    /// Agents and gateways have their group in their configuration, over what joining has left in their state.
    pub const fn written(mut self) -> Self {
        self.written = true;
        self
    }

    /// Each gateway is behind the one before it, and every agent behind the last.
    pub const fn chained(mut self) -> Self {
        self.chained = true;
        self
    }

    /// Agents behind gateways may go by each of them: all are their parents, their own the first.
    pub const fn any_gateway(mut self) -> Self {
        self.any_gateway = true;
        self
    }

    /// How long channel certificates are valid.
    pub fn channel_lifetime(mut self, lifetime: &str) -> Self {
        self.channel_lifetime = Some(lifetime.into());
        self
    }

    /// Lays down the group and starts it, from the server down.
    pub fn start(self) -> Group {
        let mut group = self.lay();
        group.start();
        group
    }

    /// Lays down all files, lets the server found the group and everybody join it, and leaves nothing running.
    pub fn lay(self) -> Group {
        let (scratch, runtime) = (Scratch::new(), Scratch::in_memory());
        let plan = Plan { builder: &self, scratch: scratch.path(), runtime: runtime.path() };
        let (name, authority, id) = (self.name, Authority::new(self.name), Uuid::now_v7());
        let packs = scratch.path().join("packs");
        folder(&packs);
        let mut ports = Vec::new();
        let mut taps = HashMap::new();

        let mut reserve = || {
            ports.push(Port::reserve());
            ports.last().expect("just pushed").address()
        };
        let listen = reserve();
        let server = Site::new(&plan, "srv1.test", Role::Server);
        let gateways: Vec<_> =
            (1..=self.gateways).map(|i| (Site::new(&plan, &format!("gw{i}.test"), Role::Gateway), reserve())).collect();
        let agents: Vec<_> = (1..=self.agents + self.direct)
            .map(|i| {
                let gateway = || if self.chained { gateways.len() - 1 } else { (i - 1) % gateways.len() };
                let behind = (i <= self.agents).then(|| &gateways[gateway()]);
                (Site::new(&plan, &format!("agent{i}.test"), Role::Agent), behind)
            })
            .collect();

        let mut parent = |child: &Site, parent: &Site, address: SocketAddr| {
            let address = if self.tapped {
                let tap = Tap::to(address);
                let address = tap.address();
                taps.insert(child.name.clone(), tap);
                address
            } else {
                address
            };
            Parent { name: parent.name.clone(), address }
        };
        let pin = authority.pin();
        let membership = |parents: &[Parent]| Membership {
            name,
            id,
            pin: pin.clone(),
            parents: parents.to_vec(),
            mechanism: "certificate",
        };
        let mut joins = Vec::new();

        for (agent, behind) in &agents {
            let (parent_site, address) = behind.map_or((&server, listen), |(gateway, address)| (gateway, *address));
            let parent = parent(agent, parent_site, address);
            agent.write(&AgentFile {
                common: agent.common(&self),
                packs: self.packs.iter().map(|(name, _)| pack_path(&packs, name)).collect(),
                heartbeat: &self.heartbeat,
                queue_budget: &self.queue_budget,
            });
            let others = gateways.iter().filter(|(site, _)| self.any_gateway && site.name != parent.name);
            let others = others.map(|(site, address)| Parent { name: site.name.clone(), address: *address });
            let others: Vec<_> = others.filter(|_| behind.is_some()).collect();
            let parents = [vec![parent], others].concat();
            let via = parents.iter().filter(|_| behind.is_some()).map(|parent| parent.name.clone()).collect();
            joins.push(Join { name: agent.name.clone(), role: Role::Agent, parents, via });
        }
        for (i, (gateway, address)) in gateways.iter().enumerate() {
            let above = i.checked_sub(1).filter(|_| self.chained).map(|above| &gateways[above]);
            let (parent_site, parent_address) = above.map_or((&server, listen), |(site, address)| (site, *address));
            let parent = parent(gateway, parent_site, parent_address);
            gateway.write(&GatewayFile { common: gateway.common(&self), listen: *address });
            let via = above.map(|(above, _)| above.name.clone()).into_iter().collect();
            joins.push(Join { name: gateway.name.clone(), role: Role::Gateway, parents: vec![parent], via });
        }
        authority.write(&server.group);
        pki::write(&server.group.join("group.toml"), &format!("id = \"{id}\"\n"), 0o644);
        let (socket, database) = (server.runtime.join("api.sock"), server.state.join("wardline.db"));
        server.write(&ServerFile {
            common: server.common(&self),
            listen,
            api_socket: socket.clone(),
            database: format!("sqlite:{}", database.display()),
            channel_lifetime: self.channel_lifetime.as_deref(),
            group: Pinned { name },
        });

        let mut group = Group {
            agents: agents.iter().map(|(site, _)| site.daemon()).collect(),
            gateways: gateways.iter().map(|(site, _)| site.daemon()).collect(),
            server: server.daemon(),
            taps,
            authority,
            name,
            id,
            socket,
            database,
            packs,
            _ports: ports,
            runtime,
            scratch,
        };
        for (name, text) in &self.packs {
            group.write_pack(name, text);
        }
        // Whoever carries others joins first; the sort keeps the order among them.
        joins.sort_by_key(|join| join.role == Role::Agent);
        group.server.start();
        for join in &joins {
            group.join(join);
        }
        for daemon in group.gateways.iter_mut().chain([&mut group.server]) {
            daemon.stop();
            daemon.forget();
        }
        if self.written {
            for join in &joins {
                let text = toml::to_string(&Written { group: [membership(&join.parents)] });
                group.member(&join.name).configure(&text.expect("a configuration can be written"));
            }
        }
        group
    }
}

impl Group {
    /// One server, one gateway, one agent behind it, unless said otherwise.
    pub fn builder() -> Builder {
        Builder {
            name: "test",
            gateways: 1,
            agents: 1,
            direct: 0,
            heartbeat: "60s".into(),
            queue_budget: "128MiB".into(),
            measure: false,
            tapped: false,
            packs: Vec::new(),
            states: HashMap::new(),
            written: false,
            chained: false,
            any_gateway: false,
            channel_lifetime: None,
        }
    }

    /// Lets an agent or gateway join with a token of its own; a gateway runs from then on.
    fn join(&mut self, join: &Join) {
        let mut arguments = vec!["--role", join.role.as_str(), "--name", &join.name];
        arguments.extend(join.via.iter().flat_map(|via| ["--via", via]));
        let token = self.token(&arguments);
        let daemon = self.member(&join.name);
        let parents: Vec<_> = join.parents.iter().map(|parent| format!("{}={}", parent.name, parent.address)).collect();
        let output = daemon.join(&parents.join(" "), &token);
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} joins: {said}", join.name);
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
        let output = self.wardline(&[&["token", "create"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let file = self.scratch.path().join(format!("token-{}", Uuid::now_v7()));
        pki::write(&file, &String::from_utf8_lossy(&output.stdout), 0o600);
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

    /// The channel certificate and key that a member has.
    pub fn credential(&self, member: &str) -> Credential {
        Credential::read(&self.folder().join(member).join("state").join(self.name), "channel")
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

    /// Writes a pack, over what is there. Agents have it when the builder named it.
    pub fn write_pack(&self, name: &str, text: &str) -> PathBuf {
        let path = pack_path(&self.packs, name);
        pki::write(&path, text, 0o644);
        path
    }

    /// Runs the command line against the server's socket.
    pub fn wardline(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(program::find("wardline"));
        command.arg("--socket").arg(&self.socket).args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("TZ", "UTC");
        command.output().expect("the command line can be run")
    }

    /// The first column of what the database answers, read beside the server.
    #[track_caller]
    pub fn sql<T: FromSql>(&self, query: &str) -> Vec<T> {
        sql(&self.database, query)
    }

    /// The texts of an agent's events, as they arrived.
    #[track_caller]
    pub fn event_texts(&self, agent: &str) -> Vec<String> {
        let agent = format!("(SELECT id FROM agent WHERE name = '{agent}')");
        self.sql(&format!("SELECT text FROM event WHERE agent = {agent} ORDER BY number"))
    }

    /// The database's file.
    pub fn database(&self) -> &Path {
        &self.database
    }
}

/// The first column of what a program's database answers, read beside the program, which must run: the one that closes
/// a database last does more than to read it.
#[track_caller]
pub fn sql<T: FromSql>(database: &Path, query: &str) -> Vec<T> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let read = |connection: Connection| -> rusqlite::Result<Vec<T>> {
        let mut statement = connection.prepare(query)?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    connection.and_then(read).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Where a group is laid down.
struct Plan<'a> {
    builder: &'a Builder,
    scratch: &'a Path,
    runtime: &'a Path,
}

/// The folders and keys of one program.
struct Site {
    name: String,
    role: Role,
    folder: PathBuf,
    state: PathBuf,
    group: PathBuf,
    runtime: PathBuf,
}

impl Site {
    fn new(plan: &Plan<'_>, name: &str, role: Role) -> Self {
        let own = plan.scratch.join(name);
        let state = plan.builder.states.get(name).cloned().unwrap_or_else(|| own.join("state"));
        let (group, runtime) = (state.join(plan.builder.name), plan.runtime.join(name));
        for path in [&own, &state, &runtime] {
            folder(path);
        }
        if role == Role::Server {
            folder(&group);
        }
        Self { name: name.into(), role, folder: own, state, group, runtime }
    }

    fn common(&self, builder: &Builder) -> Common<'_> {
        Common {
            name: &self.name,
            state_dir: &self.state,
            runtime_dir: &self.runtime,
            measure: (builder.measure && self.role != Role::Gateway).then(|| self.daemon().measure()),
        }
    }

    fn write(&self, file: &impl Serialize) {
        let text = toml::to_string(file).expect("a configuration can be written");
        pki::write(&self.daemon().config(), &text, 0o644);
    }

    fn daemon(&self) -> Daemon {
        Daemon::new(&self.name, self.role, &self.folder, &self.group, &self.runtime)
    }
}

fn folder(path: &Path) {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn pack_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}

#[derive(Serialize)]
struct AgentFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    packs: Vec<PathBuf>,
    heartbeat: &'a str,
    queue_budget: &'a str,
}

#[derive(Serialize)]
struct GatewayFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: SocketAddr,
}

#[derive(Serialize)]
struct ServerFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: SocketAddr,
    api_socket: PathBuf,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_lifetime: Option<&'a str>,
    group: Pinned,
}

#[derive(Serialize)]
struct Common<'a> {
    name: &'a str,
    state_dir: &'a Path,
    runtime_dir: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    measure: Option<PathBuf>,
}

#[derive(Serialize)]
struct Pinned {
    name: &'static str,
}

#[derive(Serialize)]
struct Membership {
    name: &'static str,
    id: Uuid,
    pin: String,
    parents: Vec<Parent>,
    mechanism: &'static str,
}

#[derive(Clone, Serialize)]
struct Parent {
    name: String,
    address: SocketAddr,
}

#[derive(Serialize)]
struct Written {
    group: [Membership; 1],
}

/// Who joins, and by which parents.
struct Join {
    name: String,
    role: Role,
    parents: Vec<Parent>,
    via: Vec<String>,
}

#[cfg(test)]
mod tests;
