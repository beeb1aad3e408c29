//! A PostgreSQL server of one test, on a unix socket in a folder of its own.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use uuid::Uuid;

use crate::store::{Location, Login, Settings};

/// Where Debian keeps its programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Whose they are when root tests: they refuse root.
const NOBODY: u32 = 65534;

/// A server, ended and removed with the test.
pub(in crate::store) struct Cluster {
    folder: PathBuf,
}

impl Cluster {
    pub(in crate::store) fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("wardline-cluster-{}", Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::getuid().is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let cluster = Self { folder };
        cluster.run("initdb", &["--no-sync", "--auth=trust", "--username=wardline", "--encoding=UTF8"]);
        // It returns when connections are taken.
        let socket = format!("-c listen_addresses= -k {}", cluster.folder.display());
        cluster.run("pg_ctl", &["start", "--wait", "--silent", "--log=log", "--options", &socket]);
        cluster
    }

    /// Runs one of its programs, as who it belongs to.
    fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(format!("{PROGRAMS}/{program}"));
        command.args(arguments).arg("--pgdata").arg(self.folder.join("data"));
        command.current_dir(&self.folder).env_clear().env("LC_ALL", "C.UTF-8");
        if nix::unistd::getuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
    }

    /// A new database.
    pub(in crate::store) fn database(&self) -> Location {
        let name = format!("d{}", Uuid::now_v7().simple());
        self.sql("postgres", &format!("CREATE DATABASE {name}")).unwrap();
        let url = format!("postgres://wardline@/{name}?host={}", self.folder.display());
        Location::Server(Box::new(Settings::new(&url, &Login::default()).unwrap()))
    }

    /// What psql prints; nothing when it fails.
    fn sql(&self, database: &str, sql: &str) -> Option<String> {
        let mut psql = Command::new(format!("{PROGRAMS}/psql"));
        psql.args(["-qAtX", "-U", "wardline", "-c", sql, "-h"]).arg(&self.folder).arg(database);
        let output = psql.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.run("pg_ctl", &["stop", "--mode=immediate", "--silent"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
