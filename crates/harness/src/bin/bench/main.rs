//! Figures: what the path from an agent over a gateway into the server's database carries, what it costs, and how long
//! an alert takes. Real programs with their shipped defaults; state on the file system of the temporary folder. And how
//! fast one core seals secrets, and how soon a changed one is where it is used.
//!
//! `EVENTS` (2000000), `REPEATS` (3), `AGENTS` (2000) and `CROWD` (10000) say how much. `ONLY=seal`, `path`, `fleet`,
//! `fanout`, `kerberos` or `latency` measures nothing but that; `ONLY=crowd` what is not measured otherwise.

mod kerberos;

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::agreement::{ECDH_P256, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree};
use serde_json::Value;
use wardline_harness::daemon::cpu;
use wardline_harness::group::{Builder, Group, sql};
use wardline_harness::hostile::{self, Peer};
use wardline_harness::ids::{Log, Tally};
use wardline_harness::pki::Credential;
use wardline_harness::realm::Realm;
use wardline_harness::{Daemon, Scratch, keyed, program, scratch, wait};
use wardline_proto::frame::Message;
use wardline_proto::message::{Configuration, ConfigurationAsk, Issue, RouteOpen, decode};
use wardline_proto::{GroupId, Kind, Name, Role};
use wardline_secrets::account::Secret;
use wardline_secrets::authority::Validity;
use wardline_secrets::sealing::{LIFETIME, SealingCertificate, SealingKey};
use wardline_secrets::secure_data::{Header, Purpose, seal};

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Alerts whose latency is measured.
const ALERTS: usize = 60;
/// Questions for a configuration that has not changed.
const ASKS: usize = 10_000;
/// Secrets that are sealed in one run.
const SEALS: u64 = 40_000;
/// Agents that use one account, and how often its secret is changed.
const FANOUT: u64 = 100;
const FANOUTS: u64 = 5;
/// How often the agents of a crowd say that they live, and in how many processes they are, half of them behind each of
/// two gateways: one process may not have so many files open.
const HEARTBEAT: Duration = Duration::from_secs(30);
const LOADS: u64 = 4;
/// System calls that make data durable.
const SYNCS: &str = "trace=fsync,fdatasync";

fn main() {
    // What the Kerberos library of this process reads, wherever a realm is made later.
    let scratch = Scratch::new();
    let config = scratch.path().join("krb5.conf");
    wardline_gss::environment::replace(&config).expect("there is no other thread yet");
    let events = number("EVENTS", 2_000_000);
    let repeats = number("REPEATS", 3);
    let only = std::env::var("ONLY").ok();
    let wanted = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if wanted("seal") {
        let mut sealed: Vec<_> = (0..repeats.max(3)).map(|_| seals()).collect();
        figure("seal.rate", "seals/s", &mut sealed);
        eprintln!("# the two key operations of a seal alone: {:.0}/s", key_operations());
    }
    if wanted("path") {
        for (name, way) in [("cert.sqlite", Way::Sqlite), ("kerberos", Way::Kerberos), ("postgres", Way::Postgres)] {
            let (rates, costs): (Vec<_>, Vec<_>) = (0..repeats).map(|_| path(events, way)).unzip();
            figure(&format!("path.{name}.rate"), "events/s", &mut { rates });
            figure(&format!("path.{name}.cpu"), "us/event", &mut { costs });
        }
    }
    if wanted("fleet") {
        fleet(number("AGENTS", 2000));
    }
    // Takes ten minutes, and ends with an error where the machine cannot carry so many: only when asked for.
    if only.as_deref() == Some("crowd") {
        let agents = number("CROWD", 10_000);
        figure(&format!("fleet.{agents}"), "s late", &mut [crowd(agents)]);
    }
    if wanted("fanout") {
        figure("credential.fanout.100", "s", &mut fanout());
    }
    if wanted("kerberos") {
        channel(repeats, &config);
    }
    if wanted("latency") {
        alerts("alert.latency", Way::Sqlite);
        alerts("alert.latency.kerberos", Way::Kerberos);
    }
}

/// By what events go, and into what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Certificates; SQLite.
    Sqlite,
    /// Certificates; PostgreSQL.
    Postgres,
    /// Kerberos on both hops; SQLite.
    Kerberos,
}

impl Way {
    /// A group of this kind, laid down; and its realm.
    fn lay(self, builder: Builder) -> (Group, Option<Realm>) {
        let mut group = builder.postgres(self == Self::Postgres).lay();
        let realm = (self == Self::Kerberos).then(|| Realm::start("BENCH.TEST"));
        if let Some(realm) = &realm {
            keyed::lay(&mut group, realm, "kerberos", "kerberos", (1, 1));
        }
        (group, realm)
    }
}

/// What the channel by Kerberos carries, and what it holds.
fn channel(repeats: u64, config: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut shares: Vec<_> = (0..repeats.max(3))
        .map(|_| {
            let (bare, carried) = kerberos::efficiency(config, &runtime);
            eprintln!("# bare wrapping and unwrapping {bare:.0} MiB/s, the channel {carried:.0} MiB/s");
            carried / bare
        })
        .collect();
    figure("wrap.efficiency", "of bare wrapping", &mut shares);
    figure("gateway.idle.kerberos.kib", "KiB/session", &mut [kerberos::idle(config, &runtime, memory)]);
}

/// How long alerts take.
fn alerts(named: &str, way: Way) {
    let mut latencies = latency(way);
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share).round() as usize];
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (min, max) = (at(0.0), at(1.0));
        println!(
            "figure: {named}.{name} {:.3} ms (min {min:.3}, max {max:.3}, n={}, load {:.2})",
            at(share),
            latencies.len(),
            load()
        );
    }
}

/// Secrets that one core seals in a second: a user and a password for an agent whose certificate was read before.
fn seals() -> f64 {
    let now = 1_900_000_000;
    let name: Name = "web1.test".parse().expect("a name");
    let (key, _) = SealingKey::generate(&name, Role::Agent, Validity::lasting(now, LIFETIME)).expect("a key");
    let certificate =
        SealingCertificate::read(key.certificate().der(), &name, Role::Agent, now).expect("a certificate");
    let secret = Secret::basic(b"monitor", b"correct horse battery staple").expect("a secret");
    let mut header =
        Header { group: GroupId([1; 16]), recipient: name, account: [2; 16], version: 0, purpose: Purpose::RunAs };
    let began = Instant::now();
    let mut last = Vec::new();
    while header.version < SEALS {
        header.version += 1;
        last = seal(&certificate, &header, secret.as_bytes()).expect("it is sealed");
    }
    let rate = SEALS as f64 / began.elapsed().as_secs_f64();
    let opened = key.open(&last).and_then(|opened| opened.expect(&header)).expect("it can be opened");
    assert_eq!(opened.as_slice(), secret.as_bytes());
    rate
}

/// How often in a second one core does what no seal goes without: a new key, and agreeing with another's.
fn key_operations() -> f64 {
    let generate = || PrivateKey::generate(&ECDH_P256).expect("a key");
    let theirs = generate().compute_public_key().expect("a public key");
    let theirs = ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, theirs.as_ref())).expect("a public key");
    let began = Instant::now();
    for _ in 0..SEALS {
        agree(&generate(), theirs.clone(), (), |_| Ok(())).expect("they agree");
    }
    SEALS as f64 / began.elapsed().as_secs_f64()
}

/// How fast many agents join and come back, and what they cost a gateway while they are idle.
fn fleet(agents: u64) {
    let mut group = Group::builder().lay();
    group.start();
    group.agent(0).wait_event(40005);
    figure("agent.rss.mib", "MiB", &mut [memory(group.agent(0)) / 1024.0]);

    let folder = Scratch::in_memory();
    let before = memory(group.gateway(0));
    let (load, seconds) = Load::start(&mut group, agents, &folder);
    figure("join.rate", "agents/s", &mut [agents as f64 / seconds]);

    let connected = |group: &Group| connected(group, agents + 1);
    wait::until("all are connected", LIMIT, || connected(&group));
    let each = (memory(group.gateway(0)) - before) / agents as f64;
    figure("gateway.idle.kib", "KiB/agent", &mut [each]);

    group.gateway(0).kill9();
    let used = (group.server().cpu(), cpu(load.0.id()));
    let began = Instant::now();
    let mark = group.gateway(0).mark();
    group.gateway(0).start();
    // The gateway's log costs less to look at than the command line: what is measured is not to be this.
    wait::until("all are at the gateway", LIMIT, || {
        let log = group.gateway(0).log();
        (log[mark..].matches(" information 40040 ").count() as u64 > agents).then_some(())
    });
    wait::until("all are back", LIMIT, || connected(&group));
    let took = began.elapsed().as_secs_f64();
    let (server, agents_cpu) = (group.server().cpu() - used.0, cpu(load.0.id()) - used.1);
    eprintln!(
        "# {agents} agents come back in {took:.2} s; processor seconds: agents {:.2}, gateway {:.2}, server {:.2}",
        agents_cpu.as_secs_f64(),
        group.gateway(0).cpu().as_secs_f64(),
        server.as_secs_f64()
    );
    figure("connect.rate", "agents/s", &mut [agents as f64 / took]);

    drop(load);
    group.gateway(0).stop();
    let mut costs: Vec<_> = (0..3).map(|_| unchanged(&mut group, &folder, agents)).collect();
    figure("config.unchanged", "s", &mut costs);
}

/// Many agents behind two gateways, which do nothing but say that they live: by how many seconds the latest heartbeat of
/// all was late, in two rounds of them.
fn crowd(agents: u64) -> f64 {
    let mut group = Group::builder().gateways(2).agents(0).lay();
    group.start();
    let (folder, began) = (Scratch::in_memory(), Instant::now());
    // All at once: the agents of a process are connected when all of them have joined.
    let start = |load: u64| {
        let gateway = usize::from(load % 2 == 1);
        Load::spawn(&mut group, gateway, &format!("load{load}"), agents / LOADS, &folder)
    };
    let mut loads: Vec<_> = (0..LOADS).map(start).collect();
    loads.iter_mut().for_each(|load| _ = load.joined());
    wait::until("all are connected", LIMIT, || connected(&group, agents));
    eprintln!("# {agents} agents have joined and are connected after {:.0} s", began.elapsed().as_secs_f64());

    let cpu = |group: &mut Group| [group.server().cpu(), group.gateway(0).cpu(), group.gateway(1).cpu()];
    let (used, began) = (cpu(&mut group), Instant::now());
    let mut late: f64 = 0.0;
    let mut next = Duration::ZERO;
    wait::until("two rounds of heartbeats", HEARTBEAT * 3, || {
        // Each second: listing so many costs the server something too.
        if began.elapsed() < next {
            return None;
        }
        next += Duration::from_secs(1);
        let listed = group.json(&["agent", "list", "--limit", &agents.to_string()]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
        let listed = listed.as_array().expect("a list");
        let heard = listed.iter().filter_map(|agent| agent["session"]["last_heartbeat"]["ms"].as_u64());
        let ages: Vec<_> = heard.map(|heard| now.as_secs_f64() - heard as f64 / 1e3).collect();
        assert_eq!(ages.len() as u64, agents, "every agent is heard");
        late = ages.into_iter().map(|age| age - HEARTBEAT.as_secs_f64()).fold(late, f64::max);
        (began.elapsed() >= HEARTBEAT * 2).then_some(())
    });
    assert!(connected(&group, agents).is_some(), "all are still connected");
    let each: Vec<_> = used.iter().zip(cpu(&mut group)).map(|(before, after)| after - *before).collect();
    let share = |used: Duration| 100.0 * used.as_secs_f64() / began.elapsed().as_secs_f64();
    let mib = |daemon: &Daemon| memory(daemon) / 1024.0;
    eprintln!(
        "# memory: server {:.0} MiB, gateways {:.0} and {:.0} MiB; of a processor: server {:.0} %, gateways {:.0} and {:.0} %",
        mib(group.server()),
        mib(group.gateway(0)),
        mib(group.gateway(1)),
        share(each[0]),
        share(each[1]),
        share(each[2])
    );
    drop(loads);
    late
}

/// Where one of many agents in one process keeps its group.
fn kept(folder: &Scratch, agent: &str) -> std::path::PathBuf {
    let files = scratch::files(folder.path());
    let own = |file: &&std::path::PathBuf| {
        file.ends_with("channel.pem") && file.iter().any(|part| part == std::ffi::OsStr::new(agent))
    };
    files.iter().find(own).and_then(|file| file.parent()).expect("it has joined").to_owned()
}

/// Processor seconds of the server while the agents of a gateway ask 10,000 times for a configuration that they have. The
/// gateway is this program.
fn unchanged(group: &mut Group, folder: &Scratch, agents: u64) -> f64 {
    let (credential, server) = (group.credential("gw1.test"), hostile::listen(group.server()));
    let mut peer = Peer::join(server, &credential, "gateway gw1.test", "server srv1.test");
    peer.wait_for(Kind::Way, 0);
    let routes = 1..=u32::try_from(agents).expect("so many agents have names");
    let ask = |route: &u32, ask: &ConfigurationAsk| Message::own(Kind::ConfigurationAsk, ask.clone()).on(*route);
    let mut asks = Vec::new();
    for route in routes {
        let agent = format!("load-{route:05}");
        let proof = Credential::read(&kept(folder, &agent), "channel").proof();
        let open = RouteOpen { agent, proof, ..RouteOpen::default() };
        peer.say(Message::own(Kind::RouteOpen, open).on(route));
        peer.wait_for(Kind::Way, route);
        peer.say(ask(&route, &ConfigurationAsk::default()));
        let given: Configuration = decode(&peer.wait_for(Kind::Configuration, route)).expect("a configuration");
        let issue: Issue = given.signed.and_then(|signed| decode(&signed.payload)).expect("it is signed");
        asks.push((route, ConfigurationAsk { cookie: issue.cookie, version: issue.version, head: given.head }));
    }
    let (before, mut asked) = (group.server().cpu(), 0);
    while asked < ASKS {
        // As many at once as a gateway has room for.
        for turn in asks.chunks(100) {
            turn.iter().for_each(|(route, known)| peer.say(ask(route, known)));
            let mut answers = 0;
            while answers < turn.len() {
                let frame = peer.receive().expect("the server answers");
                if frame.kind == Kind::Configuration {
                    let said: Configuration = decode(&frame.body).expect("an answer");
                    assert!(said.signed.is_none() && said.head.is_some(), "nothing has changed");
                    answers += 1;
                }
            }
            asked += turn.len();
        }
    }
    let cost = group.server().cpu() - before;
    cost.as_secs_f64() * ASKS as f64 / asked as f64
}

/// Seconds from the start of the command that changes a secret until the server knows of every agent, of which all are
/// connected and run a check that asks for it, that it has opened the new one. What has not changed is not sealed again.
fn fanout() -> Vec<f64> {
    let mut group = Group::builder().agents(0).lay();
    group.start();
    let folder = Scratch::in_memory();
    let (_load, _) = Load::start(&mut group, FANOUT, &folder);
    wait::until("all are connected", LIMIT, || connected(&group, FANOUT));
    let keyed = || group.sql::<i64>("SELECT count(*) FROM member WHERE role = 'agent' AND sealing IS NOT NULL");
    wait::until("all have published their keys", LIMIT, || (keyed() == [FANOUT as i64]).then_some(()));

    let agents: Vec<_> = (1..=FANOUT).map(|number| format!("load-{number:05}")).collect();
    let secret = group.folder().join("secret");
    let give = |verb: &[&str], password: &str| {
        scratch::write(&secret, password, 0o600);
        group.done(&[verb, &["--secret-file", &secret.display().to_string()]].concat());
    };
    let create = ["account", "create", "shop", "--kind", "basic", "--user", "ann", "--to", &agents.join(",")];
    give(&create, "correct horse battery staple");
    group.done(&["profile", "create", "web"]);
    group.done(&["profile", "set", "web", "--account", "shop"]);
    let check = "[[check]]\nname = \"login\"\nprogram = [\"/bin/true\"]\nrun_as = \"web\"\n";
    let pack = group.write_pack("web", &format!("[pack]\nname = \"web\"\n{check}"));
    group.done(&["pack", "apply", &pack.display().to_string(), "--agents", "load*"]);
    // Each version that an agent has opened is a receipt of its own; of those of before the newest are kept.
    let newest = "version = (SELECT max(version) FROM receipt)";
    let count = |group: &Group, which: &str| {
        group.sql::<i64>(&format!("SELECT count(*) FROM receipt WHERE {which}"))[0].cast_unsigned()
    };
    let version = |group: &Group| group.json(&["account", "show", "shop"])["version"].as_u64().expect("a number");
    let opened = |group: &Group, before: u64| {
        let what = format!("{FANOUT} agents have opened what came behind version {before}");
        let wanted = format!("opened_at IS NOT NULL AND version > {before}");
        wait::until(&what, LIMIT, || (count(group, &wanted) == FANOUT).then_some(()));
    };
    opened(&group, 0);

    let mut times = Vec::new();
    for change in 1..=FANOUTS {
        // As quiet as before the first one: what is left of the last one is done.
        wait::until("the old one is wiped everywhere", LIMIT, || {
            (count(&group, &format!("removed_at IS NULL AND NOT ({newest})")) == 0).then_some(())
        });
        let before = version(&group);
        let began = Instant::now();
        give(&["account", "update", "shop"], &format!("correct horse battery staple {change}"));
        let answered = began.elapsed();
        opened(&group, before);
        times.push(began.elapsed().as_secs_f64());
        eprintln!("# the command took {:.3} s of {:.3} s", answered.as_secs_f64(), times[times.len() - 1]);
    }

    // All come back and ask: nothing is sent, nothing opened, nothing sealed. What is sealed twice is never the same.
    let documents = || -> Vec<_> {
        let files = scratch::files(folder.path()).into_iter();
        let documents = files.filter(|path| path.ends_with("OpsMgrConnector.Config.xml"));
        documents.map(|path| std::fs::read(path).expect("a document")).collect()
    };
    let (before, used, receipts) = (documents(), group.server().cpu(), count(&group, "TRUE"));
    assert_eq!(before.len() as u64, FANOUT);
    group.gateway(0).kill9();
    group.gateway(0).start();
    wait::until("all are back", LIMIT, || connected(&group, FANOUT));
    let cost = group.server().cpu() - used;
    assert!(documents() == before && count(&group, "TRUE") == receipts, "nothing has changed");
    eprintln!("# {FANOUT} agents come back and nothing is sealed; server: {:.3} s of a processor", cost.as_secs_f64());
    times
}

/// Agents in one process; it ends with this.
struct Load(Child);

impl Load {
    /// Has so many agents join by the first gateway and connect to it; the seconds that joining has taken.
    fn start(group: &mut Group, agents: u64, folder: &Scratch) -> (Self, f64) {
        let mut load = Self::spawn(group, 0, "load", agents, folder);
        let seconds = load.joined();
        (load, seconds)
    }

    /// Lets so many agents, whose names begin like this, join by a gateway.
    fn spawn(group: &mut Group, gateway: usize, prefix: &str, agents: u64, folder: &Scratch) -> Self {
        let (count, via) = (agents.to_string(), group.gateway(gateway).name().to_owned());
        let pattern = format!("{prefix}*");
        let token = group.token(&["--role", "agent", "--name", &pattern, "--uses", &count, "--via", &via]);
        let address = group.gateway(gateway).listening().expect("a gateway listens");
        let mut load = Command::new(program::find("wardline"));
        load.args(["load", "--agents", &count, "--prefix", prefix, "--heartbeat", &HEARTBEAT.as_secs().to_string()]);
        load.args(["--parent", &format!("{via}={address}"), "--token-file"]).arg(&token);
        load.arg("--folder").arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(load.spawn().expect("the command line can be run"))
    }

    /// Waits until all of them have joined; the seconds that it took.
    fn joined(&mut self) -> f64 {
        let mut lines = BufReader::new(self.0.stdout.take().expect("it has one")).lines().map_while(Result::ok);
        let joined = lines.next().expect("it says how fast agents join");
        let seconds = joined.rsplit(' ').nth(1).and_then(|word| word.parse().ok()).expect("a time");
        // The last that it says: from then on nobody has to listen.
        lines.next().expect("it says that they run");
        seconds
    }
}

/// Whether so many agents are connected to the server, and each has told it where its stream stands.
fn connected(group: &Group, agents: u64) -> Option<()> {
    let output = group.wardline(&["-o", "json", "status"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("it answers");
    (status["agents_connected"] == agents && status["agents"] == agents).then_some(())
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The memory that a program has, KiB.
fn memory(daemon: &Daemon) -> f64 {
    let pid = i32::try_from(daemon.pid()).expect("a process id");
    let status = procfs::process::Process::new(pid).and_then(|process| process.status()).expect("it runs");
    status.vmrss.map_or(0.0, |kib| kib as f64)
}

fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => usual,
    }
}

fn load() -> f64 {
    <procfs::LoadAverage as procfs::Current>::current().map_or(0.0, |load| f64::from(load.one))
}

fn figure(name: &str, unit: &str, values: &mut [f64]) {
    use std::io::Write as _;
    values.sort_by(f64::total_cmp);
    let (min, median, max) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    let n = values.len();
    println!("figure: {name} {median:.2} {unit} (min {min:.2}, max {max:.2}, n={n}, load {:.2})", load());
    let _ = std::io::stdout().flush();
}

/// Events per second from the log file into the database, and processor time of the three daemons per event.
fn path(events: u64, way: Way) -> (f64, f64) {
    let (mut group, _realm) = way.lay(Group::builder().pack("bench", ""));
    let (log_path, hidden) = (group.folder().join("app.log"), group.folder().join("app.log.new"));
    let pack = format!("[pack]\nname = \"bench\"\n[[log]]\nname = \"app\"\npath = {log_path:?}\n");
    group.write_pack("bench", &pack);
    let mut log = Log::create(&hidden, 7);
    log.append(events);
    group.start();
    group.agent(0).wait_event(40005);

    let daemons = |group: &mut Group| {
        let database = if way == Way::Postgres { group.postgres().cpu() } else { Duration::ZERO };
        [group.agent(0).cpu(), group.gateway(0).cpu(), group.server().cpu(), database]
    };
    let before = daemons(&mut group);
    let began = Instant::now();
    std::fs::rename(&hidden, &log_path).expect("the log can be moved into its place");
    let queue = group.agent(0).state().join("queue.db");
    wait::until("all events are acknowledged", LIMIT, || {
        (sql::<i64>(&queue, "SELECT number FROM stream") == [events as i64]).then_some(())
    });
    let took = began.elapsed();
    let after = daemons(&mut group);
    let used: Vec<_> = before.iter().zip(after).map(|(before, after)| after - *before).collect();
    let each = |used: Duration| used.as_secs_f64() * 1e6 / events as f64;

    let arrived = group.sql::<String>("SELECT text FROM event");
    assert_eq!(log.tally(&arrived), Tally::default(), "every event arrives once");
    assert_eq!(sql::<i64>(&queue, "SELECT count(*) FROM batch"), [0]);
    let cost = each(used.iter().sum());
    let bytes = group.json(&["status"])["database_bytes"].as_u64().expect("it has a size");
    eprintln!(
        "# {events} events of 200 bytes in {:.2} s; us per event: agent {:.2}, gateway {:.2}, server {:.2}, \
         PostgreSQL {:.2}; {:.0} bytes of the database each; \
         all there once, all acknowledged by signature, the queue is empty",
        took.as_secs_f64(),
        each(used[0]),
        each(used[1]),
        each(used[2]),
        each(used[3]),
        bytes as f64 / events as f64
    );
    (events as f64 / took.as_secs_f64(), cost)
}

/// Milliseconds from an agent's decision to the commit, alert by alert, on a quiet group.
fn latency(way: Way) -> Vec<f64> {
    use std::os::unix::fs::PermissionsExt as _;
    let (mut group, _realm) = way.lay(Group::builder().pack("bench", "").measured());
    let (switch, plugin) = (group.folder().join("switch"), group.folder().join("check_switch"));
    std::fs::write(&switch, "0\n").expect("a file");
    let script = format!("#!/bin/sh\nread -r code < {}\necho \"code $code\"\nexit \"$code\"\n", switch.display());
    std::fs::write(&plugin, script).expect("a file");
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let check = format!("[[check]]\nname = \"switch\"\nprogram = [{plugin:?}]\nevery = \"250ms\"\n[check.monitor]\n");
    group.write_pack("bench", &format!("[pack]\nname = \"bench\"\n{check}"));
    group.start();
    group.agent(0).wait_event(40005);
    let turn = |group: &Group, code: &str, state: &str, count: usize| {
        // Replaced as a whole: a plugin never reads half of it.
        let fresh = switch.with_extension("new");
        std::fs::write(&fresh, format!("{code}\n")).and_then(|()| std::fs::rename(&fresh, &switch)).expect("a file");
        let query = format!("SELECT count(*) FROM alert WHERE state {state} 255");
        wait::until("the alert changes", LIMIT, || (group.sql::<i64>(&query) == [count as i64]).then_some(()));
    };
    for alert in 0..ALERTS {
        turn(&group, "2", "<>", 1);
        turn(&group, "0", "=", alert + 1);
    }
    let read = |path: &Path| -> HashMap<String, f64> {
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pair = |line: &str| Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?));
        text.lines().filter_map(pair).collect()
    };
    let (decided, committed) = (read(&group.agent(0).measure()), read(&group.server().measure()));
    let latencies: Vec<f64> = decided.iter().map(|(id, at)| (committed[id] - at) / 1e6).collect();
    assert_eq!(latencies.len(), ALERTS);

    // The same programs make data durable: each alert costs the agent and the server at least one sync.
    let counts = [group.agent(0).pid(), group.server().pid()].map(|pid| syncs(pid, &group, &turn));
    eprintln!("# system calls that sync, during one alert: agent {}, server {}", counts[0], counts[1]);
    assert!(counts.iter().all(|count| *count >= 1), "data is acknowledged without being synced");
    latencies
}

/// Counts what a process syncs while one alert is raised.
fn syncs(pid: u32, group: &Group, turn: &impl Fn(&Group, &str, &str, usize)) -> usize {
    let output = group.folder().join(format!("syncs-{pid}"));
    let mut strace = Command::new("strace")
        .args(["-f", "-e", SYNCS, "-o"])
        .arg(&output)
        .args(["-p", &pid.to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace is installed");
    wait::until("the process is traced", LIMIT, || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")).then_some(())
    });
    turn(group, "2", "<>", 1);
    let closed = group.sql::<i64>("SELECT count(*) FROM alert WHERE state = 255")[0] as usize;
    turn(group, "0", "=", closed + 1);
    let _ = strace.kill();
    let _ = strace.wait();
    std::fs::read_to_string(&output).map_or(0, |text| text.lines().filter(|line| line.contains("sync(")).count())
}
