//! `make demo`: a management group on this machine, and what it does for its operator, one step after the other.
//!
//! ```text
//!  agent1.test  runs check_http, which logs on to a web service ────┐
//!                                                                   ├── gw1.test ── srv1.test ── SQLite
//!  agent2.test  follows a log file that the demo writes ────────────┘
//! ```
//!
//! Nothing is believed to whoever did it: a step asks the command line, reads the database, or looks into `/proc`.
//!
//! `EXIT=1` leaves after the tour. `BREAK=service` never repairs the web service and `BREAK=gateway` never restarts the
//! gateway: the step that shows the repair must fail then. `BREAK=secret` lays a copy of the password into the gateway's
//! folder: the step that looks for it must find it.

mod web;

use std::collections::HashSet;
use std::env;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use nix::unistd::getuid;
use procfs::ProcError;
use procfs::net::{TcpState, tcp, tcp6, udp, udp6};
use procfs::process::{FDTarget, Process};
use serde::Serialize;
use serde_json::{Value, json};
use wardline_connector::signals;
use wardline_harness::asking::Asking;
use wardline_harness::group::Group;
use wardline_harness::ids::{Log, Tally};
use wardline_harness::search::Search;
use wardline_harness::{Daemon, Helper, program, wait};

use self::web::{BROKEN, USER, Web};

/// What the web service wants to hear from its users.
const PASSWORD: [&str; 2] = ["correct-horse-battery-staple", "Tr0ub4dor-and-3-more-of-them"];
/// The plugin that is run, from Debian's monitoring-plugins-basic.
const PLUGIN: &str = "/usr/lib/nagios/plugins/check_http";
/// How long a step may wait.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a step may wait for what was broken on purpose.
const BROKEN_LIMIT: Duration = Duration::from_secs(5);
/// Lines that are written before the gateway is killed, as often while it is dead, and when it is back.
const LINES: u64 = 1000;

fn main() -> ExitCode {
    let orders = match Orders::read() {
        Ok(orders) => orders,
        Err(why) => {
            eprintln!("demo: {why}");
            return ExitCode::from(2);
        }
    };
    let stop = Stop::watch();
    let mut tour = Tour::prepare(orders.broken, stop);
    tour.go();
    println!("demo: {} steps, {} failed", tour.steps, tour.failed);
    if orders.stay {
        tour.stay();
    }
    if tour.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the environment asks for.
struct Orders {
    stay: bool,
    broken: Option<Break>,
}

/// What is broken for good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    Service,
    Secret,
    Gateway,
}

impl Orders {
    fn read() -> Result<Self, String> {
        let word = |name| env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
        if let Some(argument) = env::args().nth(1) {
            return Err(format!("{argument:?}: there are no arguments, only EXIT and BREAK in the environment"));
        }
        let stay = match word("EXIT").as_str() {
            "" => true,
            "1" => false,
            other => return Err(format!("EXIT={other}: only 1 is allowed")),
        };
        let broken = match word("BREAK").as_str() {
            "" => None,
            "service" => Some(Break::Service),
            "secret" => Some(Break::Secret),
            "gateway" => Some(Break::Gateway),
            other => return Err(format!("BREAK={other}: only service, secret and gateway are allowed")),
        };
        Ok(Self { stay, broken })
    }
}

/// Whether the operator has asked for the end, by Ctrl-C or SIGTERM.
struct Stop {
    asked: Arc<AtomicBool>,
    end: mpsc::Receiver<()>,
}

impl Stop {
    fn watch() -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let (sender, end) = mpsc::channel();
        let flag = Arc::clone(&asked);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("there is memory for a runtime").block_on(async { signals::wait().await });
            flag.store(true, Ordering::Relaxed);
            drop(sender);
        });
        Self { asked, end }
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        // It ends with its sender: nothing is ever sent.
        let _ = self.end.recv();
    }
}

type Seen<T = ()> = Result<T, String>;

/// The group, what surrounds it, and how many steps were gone.
struct Tour {
    group: Group,
    // It runs what the agents ask for, and ends after them.
    _helper: Helper,
    wardline: PathBuf,
    web: Web,
    log: Log,
    broken: Option<Break>,
    stop: Stop,
    steps: u32,
    failed: u32,
}

impl Tour {
    fn prepare(broken: Option<Break>, stop: Stop) -> Self {
        let [wardline, ..] = ["wardline", "wardline-server", "wardline-gateway", "wardline-agent"].map(program::find);
        let mut helper = Helper::new(getuid().as_raw(), "programs = [\"/usr/lib/nagios/plugins/\"]\n");
        helper.restart();
        let mut group = Group::builder().agents(2).tapped().pack("app", "").lay();
        let socket = helper.socket().display().to_string();
        (0..2).for_each(|agent| group.agent(agent).set("runas", socket.clone()));
        let web = Web::start();
        let log = Log::create(&group.folder().join("app.log"), 1);
        let path = log.path().display().to_string();
        group.write_pack("app", &format!("[pack]\nname = \"app\"\n\n[[log]]\nname = \"lines\"\npath = {path:?}\n"));
        no_pack(&group.agent(0).config());
        Self { group, _helper: helper, wardline, web, log, broken, stop, steps: 0, failed: 0 }
    }

    fn go(&mut self) {
        // Without these there is nothing to look at.
        let up = self.step("the server runs and answers", Self::server)
            && self.step("the gateway runs and is connected to the server", Self::gateway)
            && self.step("two agents run, connected through the gateway", Self::agents);
        if !up {
            return;
        }
        self.step("everybody joined with a token of its own, and the trust log leads to the pinned root", Self::joined);
        self.step("a host that comes with a used token is refused", Self::stranger);
        self.step("a host without a token is approved by its code, which two people compare", Self::approved);
        self.step("a Run As account is made, which only agent1.test may have, and a check that uses it", Self::account);
        self.step("check_http logs on with it over TLS, without arguments or environment", Self::plugin);
        self.step("`wardline profile explain` says who has it, and `account show` what became of it", Self::explained);
        self.step("the password is in no file, on no wire and not in the gateway's memory", Self::searched);
        self.step("the password changes, and the check logs on with the new one", Self::changed);
        self.step("the web service breaks, and one alert is raised", Self::raised);
        self.step("`wardline alert show` has what the plugin said", Self::shown);
        self.step("the web service is healthy again, and the alert is closed", Self::closed);
        self.step("every hop is TLS 1.3 with X25519MLKEM768, measured alike by both ends", Self::topology);
        self.step("no agent listens on a port", Self::ports);
        self.step("the gateway is killed under load and comes back: no line lost, none doubled", Self::delivery);
        self.step("`wardline status` counts what the database has", Self::status);
    }

    /// Goes one step and says how it went, in one line.
    fn step(&mut self, what: &str, go: fn(&mut Self) -> Seen) -> bool {
        if self.stop.asked() {
            return false;
        }
        self.steps += 1;
        let begin = Instant::now();
        // The harness says by a panic what is wrong; here that is a line as any other.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let gone = panic::catch_unwind(AssertUnwindSafe(|| go(self)));
        panic::set_hook(hook);
        let seen = gone.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.into())).unwrap_or_default())
        });
        let number = self.steps;
        match &seen {
            Ok(()) => println!("step {number}: {what}: ok ({} ms)", begin.elapsed().as_millis()),
            Err(why) => {
                self.failed += 1;
                let why: Vec<_> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
                println!("step {number}: {what}: FAILED: {}", why.join(" / "));
            }
        }
        seen.is_ok()
    }

    /// Looks until it is seen; why not, when it is not seen in time.
    fn within<T>(&self, limit: Duration, mut look: impl FnMut() -> Seen<T>) -> Seen<T> {
        let end = Instant::now() + limit;
        wait::until("the end of a step's time", limit * 2, || match look() {
            Ok(seen) => Some(Ok(seen)),
            Err(_) if self.stop.asked() => Some(Err("it was asked to stop".into())),
            Err(why) => (Instant::now() >= end).then(|| Err(format!("{why}, after {} s", limit.as_secs()))),
        })
    }

    /// How long to wait for what this breaks.
    fn limit(&self, breaks: Break) -> Duration {
        if self.broken == Some(breaks) { BROKEN_LIMIT } else { LIMIT }
    }

    /// What the command line answers, as JSON.
    fn ask(&self, arguments: &[&str]) -> Seen<Value> {
        let output = self.group.wardline(&[&["-o", "json"], arguments].concat());
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("wardline {}: {}: {said}", arguments.join(" "), output.status));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| format!("wardline {}: {error}", arguments.join(" ")))
    }

    /// The one number that the database answers.
    fn count(&self, query: &str) -> i64 {
        self.group.sql(query).first().copied().unwrap_or_default()
    }

    fn server(&mut self) -> Seen {
        self.group.server().start();
        is_program(self.group.server(), "wardline-server")?;
        let status = self.within(LIMIT, || self.ask(&["status"]))?;
        same("the server's name", &status["name"], "srv1.test")?;
        same("agents of a new database", &status["agents"], 0)
    }

    fn gateway(&mut self) -> Seen {
        self.group.gateway(0).start();
        is_program(self.group.gateway(0), "wardline-gateway")?;
        self.within(LIMIT, || {
            let topology = self.ask(&["topology"])?;
            let service = rows(&topology["services"]).find(|service| service["name"] == "gw1.test");
            let service = service.ok_or("the topology has no gw1.test")?;
            same("gw1.test connected", &service["connected"], true)
        })
    }

    fn agents(&mut self) -> Seen {
        for index in 0..2 {
            self.group.agent(index).start();
            is_program(self.group.agent(index), "wardline-agent")?;
        }
        self.within(LIMIT, || {
            let list = self.ask(&["agent", "list"])?;
            let row = |agent: &Value| format!("{} via {}", word(&agent["name"]), word(&agent["session"]["via"]));
            let agents: Vec<_> = rows(&list).map(row).collect();
            same("the list of agents", agents.join(", "), "agent1.test via gw1.test, agent2.test via gw1.test")
        })
    }

    fn joined(&mut self) -> Seen {
        let log = self.ask(&["keys", "log", "show"])?;
        let joins = |entry: &&Value| word(&entry["what"]) == "member" && word(&entry["act"]).starts_with("token ");
        let mut members: Vec<_> = rows(&log).filter(joins).map(|entry| word(&entry["about"]).to_owned()).collect();
        members.sort();
        let names = ["agent1.test", "agent2.test", "gw1.test"];
        let all = members.len() == names.len() && members.iter().zip(names).all(|(about, name)| about.contains(name));
        if !all {
            return Err(format!("by token joined {members:?}"));
        }
        let pin = self.group.authority().pin();
        let output = self.group.wardline(&["keys", "log", "verify", "--pin", &pin]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn stranger(&mut self) -> Seen {
        let token = self.group.token(&["--role", "agent", "--name", "*", "--via", "gw1.test"]);
        let gateway = self.group.gateway(0).listening().ok_or("the gateway listens nowhere")?;
        let parent = format!("gw1.test={gateway}");
        let mut said = Vec::new();
        for name in ["guest1.test", "guest2.test"] {
            let output = self.group.newcomer(name).join(&parent, &token);
            said.push((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        let refused = said.last().is_some_and(|(joined, why)| !joined && why.contains("used as often as it may be"));
        if said.first().is_some_and(|(joined, _)| *joined) && refused { Ok(()) } else { Err(format!("{said:?}")) }
    }

    fn approved(&mut self) -> Seen {
        let gateway = self.group.gateway(0).listening().ok_or("the gateway listens nowhere")?;
        let host = self.group.newcomer("guest3.test");
        let mut asking = Asking::host(&host, &format!("gw1.test={gateway}"));
        let code = asking.code();
        let waiting = self.ask(&["agent", "pending"])?;
        same("who waits for an operator", &waiting[0]["name"], "guest3.test")?;
        let approved = self.ask(&["agent", "approve", "guest3.test", &code, "--via", "gw1.test"])?;
        let confirmation = word(&approved["confirmation"]).to_owned();
        asking.wait_shown("confirmation code");
        asking.types(&confirmation);
        let (status, shown) = asking.ended();
        if status.success() { Ok(()) } else { Err(shown) }
    }

    /// A secret in a file for the command line, which is removed when it was read.
    fn secret<T>(&self, secret: &str, tell: impl FnOnce(&str) -> T) -> Seen<T> {
        let file = self.group.folder().join("secret");
        std::fs::write(&file, secret).map_err(|error| error.to_string())?;
        let told = tell(&file.display().to_string());
        std::fs::remove_file(&file).map_err(|error| error.to_string())?;
        Ok(told)
    }

    fn account(&mut self) -> Seen {
        self.web.expect(PASSWORD[0]);
        self.secret(PASSWORD[0], |file| {
            let login = ["--kind", "basic", "--user", USER, "--secret-file", file, "--to", "agent1.test"];
            self.ask(&[&["account", "create", "shop"][..], &login].concat())
        })??;
        self.ask(&["profile", "create", "web"])?;
        self.ask(&["profile", "set", "web", "--account", "shop"])?;
        let (ip, port) = (self.web.address.ip(), self.web.address.port());
        let pack = format!(
            "[pack]\nname = \"web\"\n\n[[check]]\nname = \"http\"\n\
             program = [\"{PLUGIN}\", \"-S\", \"-H\", \"{ip}\", \"-p\", \"{port}\"]\n\
             run_as = \"web\"\n\
             extra_opts = {{ section = \"check_http\", options = {{ authorization = \"{{user}}:{{password}}\" }} }}\n\
             every = \"250ms\"\ntimeout = \"10s\"\n[check.monitor]\n"
        );
        let file = self.group.write_pack("web", &pack).display().to_string();
        self.ask(&["pack", "apply", &file, "--agents", "agent1.test"]).map(drop)
    }

    fn explained(&mut self) -> Seen {
        self.within(LIMIT, || {
            let account = self.ask(&["account", "show", "shop"])?;
            let receipts: Vec<_> = rows(&account["receipts"]).collect();
            same("agents with a receipt", receipts.len(), 1)?;
            let receipt = receipts.first().ok_or("there is none")?;
            same("whose it is", &receipt["agent"], "agent1.test")?;
            same("the workflow that used it", &receipt["workflow"], "web/http")?;
            for what in ["sent_at", "opened_at", "used_since"] {
                same(what, receipt[what].is_null(), false)?;
            }
            let explained = self.ask(&["profile", "explain", "web"])?;
            let used = |row: &&Value| row["agent"] == "agent1.test" && row["state"] == "used";
            let others = rows(&explained).filter(|row| row["state"] != "undistributed").count();
            same("agents that use it", rows(&explained).filter(used).count(), 1)?;
            same("agents that have it", others, 1)
        })
    }

    fn searched(&mut self) -> Seen {
        let gateway = self.group.gateway(0).state().to_owned();
        if self.broken == Some(Break::Secret) {
            let copy = Base64::encode_string(PASSWORD[0].as_bytes());
            std::fs::write(gateway.join("copy"), copy).map_err(|error| error.to_string())?;
        }
        let search = Search::of("the password", PASSWORD[0].as_bytes());
        // The same search finds what is there: the gateway's own folder, in its memory; a copy, in a file.
        let control = Search::of("the gateway's folder", gateway.as_os_str().as_encoded_bytes());
        control.memory(self.group.gateway(0).pid()).finds_it();
        let planted = self.group.folder().join("planted");
        std::fs::write(&planted, format!("a log line with {}", PASSWORD[0])).map_err(|error| error.to_string())?;
        search.files(&[&planted]).finds_it();
        std::fs::remove_file(&planted).map_err(|error| error.to_string())?;

        search.memory(self.group.gateway(0).pid()).finds_nothing();
        search.files(&[self.group.folder()]).finds_nothing();
        for child in ["agent1.test", "gw1.test"] {
            search.tap(child, self.group.tap(child)).finds_nothing();
        }
        Ok(())
    }

    fn changed(&mut self) -> Seen {
        let before = self.web.logins();
        self.web.expect(PASSWORD[1]);
        self.secret(PASSWORD[1], |file| self.ask(&["account", "update", "shop", "--secret-file", file]))??;
        self.within(LIMIT, || match self.web.logins() - before {
            0..2 => Err("nobody logs on with the new password".into()),
            _ => Ok(()),
        })?;
        // What the change of the service has brought about in between is over.
        self.within(LIMIT, || same("open alerts", rows(&self.ask(&["alert", "list"])?).count(), 0))
    }

    fn plugin(&mut self) -> Seen {
        if !Path::new(PLUGIN).exists() {
            return Err(format!("{PLUGIN} is missing: install monitoring-plugins-basic"));
        }
        self.within(LIMIT, || match self.web.logins() {
            0 | 1 => Err(format!("the web service saw {} logins by check_http", self.web.logins())),
            _ => Ok(()),
        })?;
        self.within(LIMIT, || {
            let healthy =
                "SELECT count(*) FROM state WHERE monitor = 'web/http' AND health = 0 AND text LIKE '%200 OK%'";
            same("rows of a healthy web/http in the database", self.count(healthy), 1)
        })
    }

    fn raised(&mut self) -> Seen {
        same("open alerts before", rows(&self.ask(&["alert", "list"])?).count(), 0)?;
        let before = self.count("SELECT count(*) FROM alert");
        self.web.set_healthy(false);
        let alert = self.within(LIMIT, || self.one_alert())?;
        same("the alert's agent", &alert["agent"], "agent1.test")?;
        same("the alert's monitor", &alert["monitor"], "web/http")?;
        same("the alert's severity", &alert["severity"], "critical")?;
        // The plugin goes on finding the same; that is not said again.
        let seen = self.web.requests();
        self.within(LIMIT, || match self.web.requests() - seen {
            more @ 0..3 => Err(format!("the plugin looked {more} times since")),
            _ => Ok(()),
        })?;
        same("the alert later", &self.one_alert()?["id"], &alert["id"])?;
        same("more alerts in the database", self.count("SELECT count(*) FROM alert") - before, 1)
    }

    fn one_alert(&self) -> Seen<Value> {
        let list = self.ask(&["alert", "list"])?;
        match list.as_array().map(Vec::as_slice) {
            Some([alert]) => Ok(alert.clone()),
            _ => Err(format!("`wardline alert list` has {} alerts, not 1", rows(&list).count())),
        }
    }

    fn shown(&mut self) -> Seen {
        let id = word(&self.one_alert()?["id"]);
        let alert = self.ask(&["alert", "show", &id])?;
        let text = word(&alert["text"]);
        if !(text.starts_with("HTTP CRITICAL") && text.contains(BROKEN)) {
            return Err(format!("its text is {text:?}"));
        }
        let changes: Vec<_> = rows(&alert["history"]).map(|change| word(&change["change"])).collect();
        same("its history", changes.join(", "), "raised")
    }

    fn closed(&mut self) -> Seen {
        if self.broken != Some(Break::Service) {
            self.web.set_healthy(true);
        }
        self.within(self.limit(Break::Service), || {
            same("open alerts", rows(&self.ask(&["alert", "list"])?).count(), 0)
        })?;
        let all = self.ask(&["alert", "list", "--all"])?;
        let states: HashSet<_> = rows(&all).map(|alert| alert["state"].to_string()).collect();
        same("states of all alerts", states == HashSet::from(["255".to_owned()]), true)
    }

    fn topology(&mut self) -> Seen {
        const HOPS: [(&str, &str); 3] =
            [("agent1.test", "gw1.test"), ("agent2.test", "gw1.test"), ("gw1.test", "srv1.test")];
        self.within(LIMIT, || {
            let topology = self.ask(&["topology"])?;
            same("hops", rows(&topology["hops"]).count(), HOPS.len())?;
            for (from, to) in HOPS {
                let hop = rows(&topology["hops"]).find(|hop| hop["from"] == from && hop["to"] == to);
                let hop = hop.ok_or_else(|| format!("there is no hop from {from} to {to}"))?;
                let what = |what: &str| format!("{from} to {to}: {what}");
                let reporters: HashSet<_> = rows(&hop["ends"]).map(|end| word(&end["reporter"])).collect();
                same(&what("measured by both ends"), reporters == HashSet::from([from.into(), to.into()]), true)?;
                same(&what("ends agree"), &hop["agree"], true)?;
                for end in rows(&hop["ends"]) {
                    same(&what("version"), &end["version"], "TLSv1_3")?;
                    same(&what("key exchange"), &end["exchange"], "X25519MLKEM768")?;
                }
            }
            Ok(())
        })
    }

    fn ports(&mut self) -> Seen {
        // That the look sees what there is, is shown by those who must listen.
        for daemon in [self.group.server().pid(), self.group.gateway(0).pid()] {
            same("ports of a daemon that listens", ports(daemon)?.len(), 1)?;
        }
        for index in 0..2 {
            let pid = self.group.agent(index).pid();
            same(&format!("ports of agent{}.test", index + 1), ports(pid)?.join(", "), "")?;
        }
        Ok(())
    }

    fn delivery(&mut self) -> Seen {
        self.log.append(LINES);
        self.within(LIMIT, || match self.count("SELECT count(*) FROM event") {
            0 => Err("no line of the log arrived".into()),
            _ => Ok(()),
        })?;
        self.log.append(LINES);
        self.group.gateway(0).kill9();
        self.log.append(LINES);
        if self.broken != Some(Break::Gateway) {
            self.group.gateway(0).start();
            self.log.append(LINES);
        }
        let file = std::fs::read_to_string(self.log.path()).map_err(|error| error.to_string())?;
        same("lines in the file", file.lines().count() as u64, self.log.written())?;
        self.within(self.limit(Break::Gateway), || {
            let arrived: Vec<String> =
                self.group.sql("SELECT text FROM event WHERE source = 'app/lines' ORDER BY number");
            let tally = self.log.tally(&arrived);
            if tally != Tally::default() {
                return Err(format!("of {} lines {tally}", self.log.written()));
            }
            same("lines in the order of the file", arrived.iter().map(String::as_str).eq(file.lines()), true)
        })
    }

    fn status(&mut self) -> Seen {
        self.within(LIMIT, || {
            let (status, list) = (self.ask(&["status"])?, self.ask(&["agent", "list"])?);
            let connected = rows(&list).filter(|agent| !agent["session"].is_null()).count();
            same("agents", &status["agents"], self.count("SELECT count(*) FROM agent"))?;
            same("connected agents", &status["agents_connected"], connected)?;
            let open = self.count("SELECT count(*) FROM alert WHERE state <> 255");
            same("open alerts", &status["alerts_open"], open)?;
            same("events", &status["events"], self.count("SELECT count(*) FROM event"))?;
            same("gaps", &status["gaps"], 0)?;
            same("entries set aside", &status["set_aside"], 0)
        })
    }

    /// Says how to look around, and waits until the operator has seen enough.
    fn stay(&mut self) {
        let socket = self.group.server().runtime().join("api.sock");
        let wardline = format!("{} --socket {}", self.wardline.display(), socket.display());
        println!("\nThe group runs until Ctrl-C. Look around:");
        for words in
            ["status", "topology", "agent list", "alert list --all", "profile explain web", "account show shop"]
        {
            println!("  {wardline} {words}");
        }
        println!("Configuration, logs and the database are under {}", self.group.folder().display());
        println!("The web service is https://{}/, for {USER} with {:?}", self.web.address, PASSWORD[1]);
        self.stop.wait();
    }
}

/// Leaves an agent none of the packs in its configuration.
fn no_pack(config: &Path) {
    let text = std::fs::read_to_string(config).expect("the group is laid down");
    let mut table: toml::Table = text.parse().expect("what was written can be read");
    table.insert("packs".into(), toml::Value::Array(Vec::new()));
    std::fs::write(config, table.to_string()).expect("a configuration can be written");
}

/// Whether two values are the same as JSON.
fn same(what: &str, is: impl Serialize, should: impl Serialize) -> Seen {
    let (is, should) = (json!(is), json!(should));
    if is == should { Ok(()) } else { Err(format!("{what}: {is}, not {should}")) }
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// A JSON string as a word; what is none, as it is written.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether the process table has this program under the daemon's number.
fn is_program(daemon: &Daemon, name: &str) -> Seen {
    let pid = i32::try_from(daemon.pid()).map_err(|error| error.to_string())?;
    let exe: PathBuf = Process::new(pid).and_then(|process| process.exe()).map_err(|error| error.to_string())?;
    if exe.file_name() == Some(name.as_ref()) { Ok(()) } else { Err(format!("process {pid} is {}", exe.display())) }
}

/// The TCP ports that a process listens on, and the UDP ports that it has.
fn ports(pid: u32) -> Seen<Vec<String>> {
    let read = || -> Result<Vec<String>, ProcError> {
        let mut sockets = HashSet::new();
        for fd in Process::new(pid.cast_signed())?.fd()? {
            if let FDTarget::Socket(inode) = fd?.target {
                sockets.insert(inode);
            }
        }
        let listening = present(tcp())?.into_iter().chain(present(tcp6())?);
        let listening = listening.filter(|entry| entry.state == TcpState::Listen);
        let tcp = listening.filter(|entry| sockets.contains(&entry.inode)).map(|entry| ("tcp", entry.local_address));
        let bound = present(udp())?.into_iter().chain(present(udp6())?);
        let udp = bound.filter(|entry| sockets.contains(&entry.inode)).map(|entry| ("udp", entry.local_address));
        Ok(tcp.chain(udp).map(|(kind, address)| format!("{kind} {address}")).collect())
    };
    read().map_err(|error| error.to_string())
}

/// A table of the kernel; one without IPv6 lacks half of them.
fn present<T>(table: Result<Vec<T>, ProcError>) -> Result<Vec<T>, ProcError> {
    match table {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        table => table,
    }
}
