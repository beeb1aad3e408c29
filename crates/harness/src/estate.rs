//! A group whose agents run a plugin that logs on with a Run As account: the account `shop`, the profile `web`, and a check
//! that uses it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::unistd::getuid;

use crate::group::{Builder, Group};
use crate::helper::Helper;
use crate::{Scratch, program, scratch, wait};

/// How long what should happen soon may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// A folder in which a plugin, whoever it runs as, can say something to the test.
pub struct Meeting(Scratch);

impl Default for Meeting {
    fn default() -> Self {
        Self::new()
    }
}

impl Meeting {
    /// An empty one, in memory.
    ///
    /// # Panics
    /// There is no room for it.
    pub fn new() -> Self {
        let scratch = Scratch::in_memory();
        // Without the sticky bit: the next run, under another user, replaces what the one before has said.
        fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).expect("a folder of ours");
        Self(scratch)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// What was said under a name, a whole line.
    pub fn said(&self, name: &str) -> Option<String> {
        let said = fs::read_to_string(self.path().join(name)).ok()?;
        said.strip_suffix('\n').map(str::to_owned)
    }

    /// Waits until this is said under a name.
    ///
    /// # Panics
    /// It is not, for long.
    #[track_caller]
    pub fn wait(&self, name: &str, expected: &str) {
        let heard = || (self.said(name)? == expected).then_some(());
        wait::until(&format!("{name} says {expected}, not {:?}", self.said(name)), LIMIT, heard);
    }

    /// Nothing was said.
    ///
    /// # Panics
    /// It cannot be removed.
    pub fn forget(&self, name: &str) {
        match fs::remove_file(self.path().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }
}

/// The group, and what its plugins need.
pub struct Estate {
    /// The group. Nothing of it is started.
    pub group: Group,
    /// What runs plugins as other users.
    pub helper: Helper,
    /// Where plugins say what they were given.
    pub meeting: Meeting,
}

/// SHA-256 of a secret, in hex, as `sha256sum` shows it: plugins say no secret in the clear.
pub fn hash(secret: &str) -> String {
    wardline_secrets::signature::sha256(&[secret.as_bytes()]).to_string()
}

impl Estate {
    /// Lays a group down; all of its agents have the plugins run by one helper.
    ///
    /// # Panics
    /// It cannot be laid down.
    pub fn lay(builder: Builder, agents: usize) -> Self {
        let mut helper = Helper::new(getuid().as_raw(), "programs = [\"/bin/sh\"]\n");
        helper.restart();
        let mut group = builder.lay();
        for agent in 0..agents {
            group.agent(agent).set("runas", helper.socket().display().to_string());
        }
        Self { group, helper, meeting: Meeting::new() }
    }

    /// Has every agent say, under its name and again and again, the hash of the password that the profile gives it.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn watch(&self, agents: &[&str]) {
        for agent in agents {
            let script = r#"sum=$(sha256sum <"$CREDENTIALS_DIRECTORY/password") && echo "${sum%% *}" >"$1.new" &&
                            mv "$1.new" "$1" && echo OK"#;
            self.check(agent, "web", script);
        }
    }

    /// Has an agent run a script with a profile's account; `$1` is the path of what the agent says.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn check(&self, agent: &str, profile: &str, script: &str) {
        let place = self.meeting.path().join(agent);
        let name = format!("{profile}-{}", agent.split('.').next().unwrap_or_default());
        let pack = format!(
            "[pack]\nname = \"{name}\"\n[[check]]\nname = \"login\"\n\
             program = [\"/bin/sh\", \"-c\", {script:?}, \"sh\", \"{}\"]\n\
             run_as = \"{profile}\"\nevery = \"250ms\"\ntimeout = \"60s\"\n[check.monitor]\n",
            place.display()
        );
        let file = self.group.write_pack(&name, &pack);
        self.group.done(&["pack", "apply", &file.display().to_string(), "--agents", agent]);
    }

    /// Writes a secret into a file, for the command line.
    pub fn secret(&self, secret: &str) -> PathBuf {
        let file = self.group.folder().join("secret");
        scratch::write(&file, secret, 0o600);
        file
    }

    /// Makes the account and the profile, and has the one stand for the other everywhere; distributed to these agents.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn account(&self, secret: &str, agents: &str) {
        self.another("shop", "web", secret, agents);
    }

    /// The same with an account and a profile of these names.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn another(&self, account: &str, profile: &str, secret: &str, agents: &str) {
        let file = self.secret(secret).display().to_string();
        let basic = ["--kind", "basic", "--user", "ann", "--secret-file", &file, "--to", agents];
        self.group.done(&[&["account", "create", account][..], &basic].concat());
        self.group.done(&["profile", "create", profile]);
        self.group.done(&["profile", "set", profile, "--account", account]);
        fs::remove_file(file).expect("a file of ours");
    }

    /// Gives the account another secret.
    ///
    /// # Panics
    /// The server does not take it.
    pub fn update(&self, secret: &str) {
        let file = self.secret(secret).display().to_string();
        self.group.done(&["account", "update", "shop", "--user", "ann", "--secret-file", &file]);
        fs::remove_file(file).expect("a file of ours");
    }
}

/// `certs` of an agent: the ids of its sealing keys, newest first.
///
/// # Panics
/// It fails.
pub fn sealing_keys(config: &Path) -> Vec<String> {
    let mut command = Command::new(program::find("wardline-agent"));
    let output: Output = command.arg("certs").arg("--config").arg(config).output().expect("it can be run");
    let listed = program::succeeds(&output);
    let sealing = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.nth(1)? == "sealing").then(|| words.next().map(str::to_owned))?
    });
    sealing.collect()
}
