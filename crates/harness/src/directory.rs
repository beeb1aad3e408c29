//! An Active Directory of a test: Samba's domain controller on a loopback port, with the accounts of machines.
//!
//! Of its services only Kerberos runs, so that anybody can start it; accounts are made in its database itself.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::port::Port;
use crate::program;
use crate::realm::{Ticket, client, configuration, folder, free_port, secret, talk, ticket, wait_for_kdc};
use crate::scratch::{Scratch, write};

/// The realm.
pub const REALM: &str = "AD.TEST";

/// Runs commands of samba-tool until one fails.
const TOOL: &str = "
import shlex, sys, samba.provision
from samba.netcmd.main import cmd_sambatool
# Only root could give the shared files away, which nobody uses.
samba.provision.setsysvolacl = lambda *arguments, **named: None
for line in sys.stdin:
    if cmd_sambatool()._run('samba-tool', *shlex.split(line), '-s', sys.argv[1]):
        sys.exit(line)
";

/// A domain controller, ended with the test.
#[derive(Debug)]
pub struct Directory {
    folder: PathBuf,
    server: Child,
    _port: Port,
    _scratch: Scratch,
}

impl Directory {
    /// A new one, with strong keys only, which answers.
    pub fn start() -> Self {
        let scratch = Scratch::new();
        let folder = folder(&scratch, "directory");
        for name in ["private", "lock", "state", "cache", "run", "dns", "rpc"] {
            DirBuilder::new().mode(0o700).create(folder.join(name)).expect("a folder can be made");
        }
        let (at, port) = (folder.display(), free_port());
        let settings = format!(
            "[global]
             workgroup = AD
             realm = {REALM}
             netbios name = DC1
             server role = active directory domain controller
             server services = kdc
             interfaces = 127.0.0.1/8
             bind interfaces only = yes
             krb5 port = {}
             kpasswd port = 0
             kdc supported enctypes = 0x18
             kdc default domain supported enctypes = 0x18
             private dir = {at}/private
             lock directory = {at}/lock
             state directory = {at}/state
             cache directory = {at}/cache
             pid directory = {at}/run
             binddns dir = {at}/dns
             ncalrpc dir = {at}/rpc
             winbindd socket directory = {at}/winbind
             ntp signd socket directory = {at}/ntp
             logging = file
             log file = {at}/log
             [sysvol]
             path = {at}/state/sysvol
             [netlogon]
             path = {at}/state/sysvol/scripts\n",
            port.address().port()
        );
        write(&folder.join("smb.conf"), settings, 0o600);
        write(&folder.join("krb5.conf"), configuration(false, &[], &[(REALM, port.address())]), 0o644);
        admin(
            &folder,
            &[format!(
                "domain provision --realm={REALM} --domain=AD --server-role=dc --dns-backend=NONE --host-name=dc1 \
                 --host-ip=127.0.0.1 --adminpass={}",
                password()
            )],
        );
        let mut server = tool("/usr/sbin/samba", &folder);
        server.args(["--interactive", "--no-process-group", "--model=single", "-s"]).arg(folder.join("smb.conf"));
        // It ends with the pipe, whatever ends the test.
        let log = File::create(folder.join("said")).expect("a log can be written");
        server.stdin(Stdio::piped()).stderr(log.try_clone().expect("a file")).stdout(log);
        let mut server = server.spawn().expect("samba is here");
        wait_for_kdc(&mut server, port.address(), &folder.join("said"));
        Self { folder, server, _port: port, _scratch: scratch }
    }

    /// The configuration (`krb5.conf`) of everybody who asks it.
    pub fn config(&self) -> PathBuf {
        self.folder.join("krb5.conf")
    }

    /// Runs commands of `samba-tool`, all in one process.
    ///
    /// # Panics
    /// One of them fails.
    #[track_caller]
    pub fn admin(&self, commands: &[String]) {
        admin(&self.folder, commands);
    }

    /// Makes the accounts of machines, as `WEB1` for `WEB1$`, and the service that each is: `host/web1.ad.test`.
    #[track_caller]
    pub fn computers(&self, computers: &[(&str, &str)]) {
        let make = |(name, service): &(&str, &str)| {
            let create = format!("computer create {name} --service-principal-name={service}");
            // An account without a password has no keys.
            [create, set_password(name)]
        };
        self.admin(&computers.iter().flat_map(make).collect::<Vec<_>>());
    }

    /// Adds the keys that these have now to a keytab: accounts as `WEB1$`, and their services.
    ///
    /// # Panics
    /// There are none.
    #[track_caller]
    pub fn keytab(&self, file: &Path, principals: &[&str]) {
        self.keytabs(&principals.iter().map(|principal| (file, *principal)).collect::<Vec<_>>());
    }

    /// Several, which costs hardly more than one.
    ///
    /// # Panics
    /// There are none.
    #[track_caller]
    pub fn keytabs(&self, keytabs: &[(&Path, &str)]) {
        let export = |(file, principal): &(&Path, &str)| {
            format!("domain exportkeytab {} --principal={principal}", file.display())
        };
        self.admin(&keytabs.iter().map(export).collect::<Vec<_>>());
        // It succeeds without keys too.
        for (file, principal) in keytabs {
            let mut list = client("klist", &self.config());
            let keys = program::succeeds(&list.arg("-k").arg(file).output().expect("krb5-user is here"));
            assert!(keys.contains(&format!(" {principal}@{REALM}")), "no keys of {principal}: {keys}");
        }
    }

    /// Gives the account of a machine a new password, and so new keys; keytabs know nothing of it.
    #[track_caller]
    pub fn rotate(&self, computer: &str) {
        self.admin(&[set_password(computer)]);
    }

    /// The account of a machine may ask for tickets for a service in anybody's name.
    #[track_caller]
    pub fn may_act(&self, computer: &str, service: &str) {
        self.admin(&[
            format!("delegation add-service {computer}$ {service}"),
            format!("delegation for-any-protocol {computer}$ on"),
        ]);
    }

    /// Has the account of a machine ask for a ticket for a service in another's name; where that is kept.
    ///
    /// # Panics
    /// It gets none.
    #[track_caller]
    pub fn in_the_name_of(&self, other: &str, (keytab, computer): (&Path, &str), service: &str) -> PathBuf {
        let (own, got) = (self.folder.join("own.tickets"), self.folder.join("got.tickets"));
        let run = |program: &str, arguments: &[&Path]| {
            let mut command = client(program, &self.config());
            program::succeeds(&command.env("KRB5CCNAME", &own).args(arguments).output().expect("krb5-user is here"));
        };
        let [flags, into] = ["-k", "--out-cache"].map(Path::new);
        run("kinit", &["-f".as_ref(), flags, "-t".as_ref(), keytab, computer.as_ref()]);
        run("kvno", &[flags, keytab, "-I".as_ref(), other.as_ref(), "-P".as_ref(), into, &got, service.as_ref()]);
        got
    }

    /// Asks for a ticket for a service as a host with this keytab does; otherwise what it was told.
    ///
    /// # Errors
    /// There is none.
    pub fn ticket(&self, keytab: &Path, principal: &str, service: &str) -> Result<Ticket, String> {
        ticket(&self.config(), keytab, principal, service)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// One that the directory finds good enough.
fn password() -> String {
    format!("Aa-{}", secret())
}

fn set_password(computer: &str) -> String {
    format!("user setpassword {computer}$ --newpassword={}", password())
}

/// A program of Samba in this folder.
fn tool(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin").env("LC_ALL", "C").env("HOME", folder);
    command.env("KRB5_CONFIG", folder.join("krb5.conf")).current_dir(folder);
    command
}

#[track_caller]
fn admin(folder: &Path, commands: &[String]) {
    let mut admin = tool("/usr/bin/python3", folder);
    let output = talk(admin.args(["-c", TOOL]).arg(folder.join("smb.conf")), commands);
    assert!(output.status.success(), "{}", program::said(&output));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realm::AES;
    use std::time::Instant;

    #[test]
    fn a_machine_of_a_directory_gets_a_ticket_for_a_service() {
        let begin = Instant::now();
        let directory = Directory::start();
        println!("a directory: {:?}", begin.elapsed());
        let begin = Instant::now();
        directory.computers(&[("WEB1", "host/web1.ad.test"), ("GW1", "host/gw1.ad.test")]);
        let [web1, gw1] = ["web1.keytab", "gw1.keytab"].map(|name| directory.folder.join(name));
        directory.keytab(&web1, &["WEB1$", "host/web1.ad.test"]);
        directory.keytab(&gw1, &["host/gw1.ad.test"]);
        println!("two machines with their keytabs: {:?}", begin.elapsed());
        let ticket = directory.ticket(&web1, "WEB1$", "host/gw1.ad.test").unwrap();
        // The strongest that it knows.
        assert_eq!([&ticket.enctype, &ticket.session], [AES[1]; 2]);
        let refused = |principal: &str, service: &str, words: &str| {
            let told = directory.ticket(&web1, principal, service).unwrap_err();
            assert!(told.contains(words), "{words:?} expected: {told}");
        };
        refused("WEB1$", "host/nobody.ad.test", "Server not found");
        // A service is not who asks.
        refused("host/web1.ad.test", "host/gw1.ad.test", "Client 'host/web1.ad.test@AD.TEST' not found");
        directory.rotate("GW1");
        assert_eq!(directory.ticket(&web1, "WEB1$", "host/gw1.ad.test").unwrap().kvno, ticket.kvno + 1);
        directory.rotate("WEB1");
        refused("WEB1$", "host/gw1.ad.test", "Preauthentication failed");
        directory.keytab(&web1, &["WEB1$"]);
        directory.ticket(&web1, "WEB1$", "host/gw1.ad.test").unwrap();
    }
}
