//! Laying a group down: its folders and configurations, its founding, and everybody's join.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;
use wardline_proto::Role;

use super::Group;
use crate::daemon::Daemon;
use crate::log::Log;
use crate::pki::Authority;
use crate::port::Port;
use crate::postgres::Postgres;
use crate::scratch::{Scratch, write};
use crate::tap::Tap;

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
    postgres: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
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
            postgres: false,
        }
    }
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

    /// A program keeps its state in this folder, on a disk of the test's own making. `postgres`: the folder is there.
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

    /// The server keeps its database in PostgreSQL; otherwise in a file.
    pub const fn postgres(mut self, postgres: bool) -> Self {
        self.postgres = postgres;
        self
    }

    /// Lays down the group and starts it, from the server down.
    pub fn start(self) -> Group {
        let mut group = self.lay();
        group.start();
        group
    }

    /// Lays it down as below, with a new log, `app.log`, that every agent follows by a pack of its file, `base`.
    pub fn lay_with_log(self) -> (Group, Log) {
        let group = self.pack("base", "").lay();
        let log = Log::create(group.folder(), "app");
        group.write_pack("base", &log.pack("base"));
        (group, log)
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
        write(&server.group.join("group.toml"), format!("id = \"{id}\"\n"), 0o600);
        let (socket, database) = (server.runtime.join("api.sock"), server.state.join("wardline.db"));
        let data = self.states.get("postgres").map(PathBuf::as_path);
        let postgres = self.postgres.then(|| Postgres::start(data));
        server.write(&match &postgres {
            Some(postgres) => server.server(&self, listen, postgres),
            None => ServerFile {
                common: server.common(&self),
                listen,
                api_socket: socket.clone(),
                database: format!("sqlite:{}", database.display()),
                channel_lifetime: self.channel_lifetime.as_deref(),
                postgres: None,
                group: Pinned { name },
            },
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
            postgres,
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

/// Where a group is laid down.
pub(super) struct Plan<'a> {
    pub(super) builder: &'a Builder,
    pub(super) scratch: &'a Path,
    pub(super) runtime: &'a Path,
}

/// The folders and keys of one program.
pub(super) struct Site {
    name: String,
    role: Role,
    folder: PathBuf,
    state: PathBuf,
    group: PathBuf,
    runtime: PathBuf,
}

impl Site {
    pub(super) fn new(plan: &Plan<'_>, name: &str, role: Role) -> Self {
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

    pub(super) fn common(&self, builder: &Builder) -> Common<'_> {
        Common {
            name: &self.name,
            state_dir: &self.state,
            runtime_dir: &self.runtime,
            measure: (builder.measure && self.role != Role::Gateway).then(|| self.daemon().measure()),
        }
    }

    /// The configuration of a server whose database is on a server of its own.
    pub(super) fn server<'a>(
        &'a self,
        builder: &'a Builder,
        listen: SocketAddr,
        postgres: &Postgres,
    ) -> ServerFile<'a> {
        ServerFile {
            common: self.common(builder),
            listen,
            api_socket: self.runtime.join("api.sock"),
            database: postgres.url(&[]),
            channel_lifetime: builder.channel_lifetime.as_deref(),
            postgres: Some(Login::of(postgres)),
            group: Pinned { name: builder.name },
        }
    }

    /// Has the configuration of a server without a database, below this one.
    pub(super) fn relaying(&self, builder: &Builder, listen: SocketAddr, above: Parent) {
        // Joining makes the group's folder, and wants room for it.
        std::fs::remove_dir(&self.group).expect("an empty folder");
        self.write(&RelayingFile {
            common: self.common(builder),
            listen,
            root_servers: [above],
            group: Pinned { name: builder.name },
        });
    }

    pub(super) fn write(&self, file: &impl Serialize) {
        let text = toml::to_string(file).expect("a configuration can be written");
        write(&self.daemon().config(), &text, 0o644);
    }

    pub(super) fn daemon(&self) -> Daemon {
        Daemon::new(&self.name, self.role, &self.folder, &self.group, &self.runtime)
    }
}

fn folder(path: &Path) {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

pub(super) fn pack_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}

#[derive(Serialize)]
pub(super) struct AgentFile<'a> {
    #[serde(flatten)]
    pub(super) common: Common<'a>,
    pub(super) packs: Vec<PathBuf>,
    pub(super) heartbeat: &'a str,
    pub(super) queue_budget: &'a str,
}

#[derive(Serialize)]
struct GatewayFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: SocketAddr,
}

#[derive(Serialize)]
pub(super) struct ServerFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: SocketAddr,
    api_socket: PathBuf,
    database: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_lifetime: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    postgres: Option<Login>,
    group: Pinned,
}

#[derive(Serialize)]
struct RelayingFile<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    listen: SocketAddr,
    root_servers: [Parent; 1],
    group: Pinned,
}

/// How the server logs on to PostgreSQL.
#[derive(Serialize)]
struct Login {
    ca: PathBuf,
    password_file: PathBuf,
}

impl Login {
    fn of(postgres: &Postgres) -> Self {
        Self { ca: postgres.ca(), password_file: postgres.password_file() }
    }
}

#[derive(Serialize)]
pub(super) struct Common<'a> {
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
pub(super) struct Parent {
    pub(super) name: String,
    pub(super) address: SocketAddr,
}

#[derive(Serialize)]
struct Written {
    group: [Membership; 1],
}

/// Who joins, and by which parents.
pub(super) struct Join {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) parents: Vec<Parent>,
    pub(super) via: Vec<String>,
}
