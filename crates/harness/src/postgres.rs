//! A PostgreSQL server of a test: started, hurt, followed by a standby, read beside whoever uses it.
//!
//! It listens on a loopback port, over TLS alone and with a password, and on a unix socket for the test itself.

use std::fs::{File, Permissions, set_permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};
use rusqlite::types::FromSql;

use crate::pki::Service;
use crate::port::Port;
use crate::scratch::{Scratch, write};
use crate::{program, wait};

/// Where Debian keeps its programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Whose the server is when root tests: it refuses root.
const NOBODY: u32 = 65534;
/// Who uses the database.
const USER: &str = "wardline";
/// And the database's name.
const DATABASE: &str = "wardline";
/// The name in the server's certificate.
const HOST: &str = "localhost";

const LIMIT: Duration = Duration::from_secs(30);

/// A server, ended with the test.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    data: PathBuf,
    port: Port,
    server: Option<Child>,
    password: String,
    _scratch: Option<Scratch>,
}

impl Postgres {
    /// A new server with an empty database, in a folder of its own, or with its data in one that is there.
    pub fn start(data: Option<&Path>) -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path().join("postgres");
        std::fs::create_dir(&folder).expect("a folder can be made");
        // Whose the server is must get there, and nobody sees what is in it.
        set_permissions(scratch.path(), Permissions::from_mode(0o711)).expect("a folder of the test");
        set_permissions(&folder, Permissions::from_mode(0o700)).expect("a folder of the test");
        let password = uuid::Uuid::now_v7().simple().to_string();
        let data = data.map_or_else(|| folder.join("data"), Path::to_owned);
        let mut postgres =
            Self { folder, data, port: Port::reserve(), server: None, password, _scratch: Some(scratch) };
        write(&postgres.password_file(), &postgres.password, 0o600);
        let service = Service::new(HOST);
        write(&postgres.ca(), &service.authority, 0o644);
        write(&postgres.at("server.pem"), &service.credential.chain, 0o600);
        write(&postgres.at("server.key"), &service.credential.key, 0o600);
        for name in ["", "password", "ca.pem", "server.pem", "server.key"] {
            postgres.give(&postgres.at(name));
        }
        if postgres.data.exists() {
            postgres.give(&postgres.data);
        }
        let mut init = postgres.command("initdb");
        init.args(["--no-sync", "--data-checksums", "--auth=trust", "--encoding=UTF8", "--username", USER, "--pwfile"]);
        program::succeeds(&init.arg(postgres.password_file()).arg("--pgdata").arg(&postgres.data).output().unwrap());
        // The test itself by the socket; everybody else by TLS and a password.
        let access = "local all all trust\nlocal replication all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(postgres.data.join("pg_hba.conf"), access).expect("a file of the test");
        postgres.run();
        postgres.admin("postgres", &format!("CREATE DATABASE {DATABASE}"));
        postgres
    }

    /// A second server that follows this one. `synchronous`: nothing is committed here before it is durable there.
    pub fn standby(&self, synchronous: bool) -> Self {
        let scratch = Scratch::new();
        let folder = scratch.path().join("postgres");
        std::fs::create_dir(&folder).expect("a folder can be made");
        set_permissions(scratch.path(), Permissions::from_mode(0o711)).expect("a folder of the test");
        let mut standby = Self {
            data: folder.join("data"),
            folder,
            port: Port::reserve(),
            server: None,
            password: self.password.clone(),
            _scratch: Some(scratch),
        };
        standby.give(&standby.at(""));
        for name in ["password", "ca.pem", "server.pem", "server.key"] {
            std::fs::copy(self.at(name), standby.at(name)).expect("a file of the test");
            standby.give(&standby.at(name));
        }
        let mut copy = self.command("pg_basebackup");
        copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-U", USER, "-h"]).arg(&self.folder);
        copy.arg("-p").arg(self.port.address().port().to_string()).arg("-D").arg(&standby.data);
        program::succeeds(&copy.output().unwrap());
        standby.run();
        wait::until("the standby is heard", LIMIT, || {
            (self.admin("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") != "0\0")
                .then_some(())
        });
        if synchronous {
            self.wait_for_standbys();
        }
        standby
    }

    /// From now on nothing is committed before it is durable on a standby.
    pub fn wait_for_standbys(&self) {
        self.admin("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.admin("postgres", "SELECT pg_reload_conf()");
        wait::until("the standby is synchronous", LIMIT, || {
            let state = self.admin("postgres", "SELECT sync_state FROM pg_stat_replication");
            (state == "sync\0").then_some(())
        });
    }

    /// Lets a standby hear nothing of the first one any more.
    pub fn cut_off(&self) {
        self.admin("postgres", "ALTER SYSTEM SET primary_conninfo = ''");
        self.admin("postgres", "SELECT pg_reload_conf()");
        let receivers = "SELECT count(*) FROM pg_stat_wal_receiver";
        wait::until("the standby hears nothing", LIMIT, || (self.sql::<i64>(receivers) == [0]).then_some(()));
    }

    /// Lets a standby take writes from now on.
    pub fn promote(&self) {
        self.admin("postgres", "SELECT pg_promote()");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The certificate of the CA that vouches for the server.
    pub fn ca(&self) -> PathBuf {
        self.at("ca.pem")
    }

    /// A file with the password.
    pub fn password_file(&self) -> PathBuf {
        self.at("password")
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What a server's configuration says of it, and of others that take over.
    pub fn url(&self, others: &[&Self]) -> String {
        let hosts = std::iter::once(self).chain(others.iter().copied());
        let hosts: Vec<_> = hosts.map(|server| format!("{HOST}:{}", server.port.address().port())).collect();
        format!("postgres://{USER}@{}/{DATABASE}", hosts.join(","))
    }

    fn give(&self, path: &Path) {
        if getuid().is_root() {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("root gives files away");
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(format!("{PROGRAMS}/{name}"));
        command.current_dir("/").env_clear().env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        if getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Starts it, and returns when it takes connections.
    ///
    /// # Panics
    /// It does not start; its log says why.
    pub fn run(&mut self) {
        self.run_with(&[]);
    }

    /// Kills it and starts it with these settings besides.
    ///
    /// # Panics
    /// It does not start; its log says why.
    pub fn restart(&mut self, settings: &[&str]) {
        self.kill9();
        self.run_with(settings);
    }

    /// Has the next commit need room for a further part of its log.
    pub fn begin_a_new_log(&self) {
        // Without room it is the one that fails.
        let _ = self.psql("postgres", "SELECT pg_switch_wal()");
    }

    /// Stops it in good order: everything is in its files then.
    pub fn stop(&mut self) {
        let parent = self.processes()[0];
        kill(parent, Signal::SIGINT).expect("it is ours");
        let status = self.server.take().expect("it runs").wait().expect("it is ours");
        assert!(status.success(), "{}", self.log());
    }

    /// Where a row of a table is that this is true of: the file, and the number of the page.
    pub fn page_of(&self, table: &str, row: &str) -> (PathBuf, u64) {
        let file = self.admin(DATABASE, &format!("SELECT pg_relation_filepath('{table}')"));
        let page = self.sql::<i64>(&format!("SELECT (ctid::text::point)[0]::bigint FROM {table} WHERE {row}"))[0];
        (self.data.join(file.trim_end_matches('\0')), page.try_into().expect("the number of a page"))
    }

    /// Takes its checksums away, while it does not run.
    pub fn forget_checksums(&self) {
        program::succeeds(&self.command("pg_checksums").arg("--disable").arg("-D").arg(&self.data).output().unwrap());
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).expect("a log can be read")
    }

    fn run_with(&mut self, settings: &[&str]) {
        let log = File::options().create(true).append(true).open(self.at("log")).expect("a log can be written");
        let mut server = self.command("postgres");
        let port = self.port.address().port();
        let (certificate, key) = (self.at("server.pem"), self.at("server.key"));
        for (name, value) in [
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", self.folder.display().to_string()),
            ("port", port.to_string()),
            // In its folder: what a killed one leaves goes with that.
            ("dynamic_shared_memory_type", "mmap".into()),
            ("ssl", "on".into()),
            ("ssl_cert_file", certificate.display().to_string()),
            ("ssl_key_file", key.display().to_string()),
        ] {
            server.arg("-c").arg(format!("{name}={value}"));
        }
        server.args(settings.iter().flat_map(|setting| ["-c", setting]));
        server.arg("-D").arg(&self.data);
        self.server = Some(server.stdout(Stdio::null()).stderr(log).spawn().expect("postgres can be started"));
        wait::until("PostgreSQL takes connections", LIMIT, || {
            if let Some(status) = self.server.as_mut().and_then(|server| server.try_wait().expect("it is ours")) {
                panic!("postgres ended: {status}: {}", self.log());
            }
            self.psql("postgres", "SELECT 1").ok().map(drop)
        });
    }

    /// The postmaster and what it has started.
    fn processes(&self) -> Vec<Pid> {
        let Some(server) = &self.server else { return Vec::new() };
        let parent = i32::try_from(server.id()).expect("a pid");
        let children = procfs::process::all_processes().expect("proc can be read").flatten();
        let children = children.filter(|process| process.stat().is_ok_and(|stat| stat.ppid == parent));
        std::iter::once(parent).chain(children.map(|process| process.pid())).map(Pid::from_raw).collect()
    }

    /// Sends this to all of its processes.
    pub fn signal(&self, signal: Signal) {
        for process in self.processes() {
            let _ = kill(process, signal);
        }
    }

    /// Kills all of it, in the middle of whatever it does.
    pub fn kill9(&mut self) {
        // Nothing is started meanwhile.
        let processes = self.processes();
        if let Some(parent) = processes.first() {
            let _ = kill(*parent, Signal::SIGSTOP);
        }
        self.signal(Signal::SIGKILL);
        if let Some(mut server) = self.server.take() {
            server.wait().expect("it is ours");
        }
        wait::until("all of PostgreSQL has ended", LIMIT, || {
            processes.iter().all(|process| kill(*process, None).is_err()).then_some(())
        });
    }

    /// The processor time that it has used so far, of all that it has started too.
    pub fn cpu(&self) -> Duration {
        let ticks = self.processes().into_iter().filter_map(|process| {
            let stat = procfs::process::Process::new(process.as_raw()).and_then(|process| process.stat()).ok()?;
            // What it has waited for is what has ended.
            Some(stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime).ok()?)
        });
        Duration::from_secs(ticks.sum()) / u32::try_from(procfs::ticks_per_second()).expect("a rate")
    }

    /// Runs a statement as the database's owner; what psql prints.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn admin(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// One of PostgreSQL's programs that talk to it, as the database's owner.
    fn tool(&self, name: &str) -> Command {
        let mut tool = Command::new(format!("{PROGRAMS}/{name}"));
        tool.env_clear().args(["-U", USER, "-h"]).arg(&self.folder);
        tool.arg("-p").arg(self.port.address().port().to_string());
        tool
    }

    fn client(&self, database: &str) -> Command {
        let mut psql = self.tool("psql");
        psql.args(["-qAtX", "-0", "-v", "ON_ERROR_STOP=1", "-d", database]);
        psql
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output = self.client(database).args(["-c", sql]).output().expect("psql can be run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(text) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Keeps everybody from writing into a table until what is given ends; they still read.
    pub fn lock(&self, table: &str) -> Lock {
        let mut psql = self.client(DATABASE);
        let held = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE; SELECT 1; SELECT pg_sleep(600)");
        let process = psql.args(["-c", &held]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let lock = Lock(process.expect("psql can be run"));
        let locks = format!(
            "SELECT count(*) FROM pg_locks WHERE relation = '{table}'::regclass AND granted
                             AND mode = 'ExclusiveLock'"
        );
        wait::until("the table is locked", LIMIT, || (self.sql::<i64>(&locks) == [1]).then_some(()));
        lock
    }

    /// Copies the database into a file, whoever uses it meanwhile.
    pub fn copy(&self, file: &Path) {
        let mut dump = self.tool("pg_dump");
        program::succeeds(&dump.args(["-Fc", "-d", DATABASE, "-f"]).arg(file).output().expect("it can be run"));
    }

    /// Puts a copy in place of the database, which nobody may use.
    pub fn put_back(&self, file: &Path) {
        self.admin("postgres", &format!("DROP DATABASE {DATABASE} WITH (FORCE)"));
        self.admin("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let mut restore = self.tool("pg_restore");
        program::succeeds(&restore.args(["-d", DATABASE]).arg(file).output().expect("it can be run"));
    }

    /// The first column of what the database answers.
    #[track_caller]
    pub fn sql<T: Cell>(&self, query: &str) -> Vec<T> {
        let answer = self.admin(DATABASE, query);
        // Rows end with NUL, also the last one.
        answer.split_terminator('\0').map(T::parse).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.kill9();
    }
}

/// A table that is locked.
#[derive(Debug)]
pub struct Lock(Child);

impl Drop for Lock {
    fn drop(&mut self) {
        // The server notices by itself that nobody is there any more: not before it has slept, so it is told.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).expect("a pid")), Signal::SIGINT);
        self.0.wait().expect("it is ours");
    }
}

/// What a column is read as, from either database.
pub trait Cell: FromSql {
    /// From what psql prints.
    fn parse(text: &str) -> Self;
}

impl Cell for i64 {
    fn parse(text: &str) -> Self {
        match text {
            "t" => 1,
            "f" => 0,
            text => text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}")),
        }
    }
}

impl Cell for f64 {
    fn parse(text: &str) -> Self {
        text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }
}

impl Cell for String {
    fn parse(text: &str) -> Self {
        text.into()
    }
}

impl Cell for Vec<u8> {
    fn parse(text: &str) -> Self {
        let digits = text.strip_prefix("\\x").expect("bytes are printed in hex").as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        digits.chunks(2).map(|pair| byte(pair).expect("two digits")).collect()
    }
}
