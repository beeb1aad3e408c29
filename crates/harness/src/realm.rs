//! A Kerberos realm of a test: MIT's KDC on a loopback port, its principals, and what can be done to them.
//!
//! Nothing of the machine's own configuration is read, and no name is looked up.

use std::fs::{File, Permissions, set_permissions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::port::Port;
use crate::scratch::{Scratch, write};
use crate::{program, wait};

/// What keys a principal has when nothing else is said; the first is what tickets are encrypted with.
pub const AES: &[&str] = &["aes256-cts-hmac-sha384-192", "aes256-cts-hmac-sha1-96"];
/// What only a [weak](Realm::weak) realm gives tickets with.
pub const RC4: &str = "arcfour-hmac";

const LIMIT: Duration = Duration::from_secs(20);

/// A realm, ended with the test.
#[derive(Debug)]
pub struct Realm {
    name: String,
    weak: bool,
    folder: PathBuf,
    port: Port,
    kdc: Option<Child>,
    /// How far the KDC's clock is off, as `faketime` says it.
    clock: Option<String>,
    /// Further lines of `[libdefaults]`.
    settings: Vec<String>,
    /// The realms that this one trusts, or that trust it, and where they are asked.
    others: Vec<(String, SocketAddr)>,
    _scratch: Scratch,
}

/// What a new key leaves of those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// The KDC forgets them.
    Gone,
    /// The KDC keeps them, so that they go into keytabs too.
    Kept,
}

/// What a ticket says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The number of the service's key.
    pub kvno: u32,
    /// The kind of that key.
    pub enctype: String,
    /// The kind of the session's key.
    pub session: String,
    /// How long it is good.
    pub life: Duration,
}

impl Realm {
    /// A new one with strong keys only, which answers.
    pub fn start(name: &str) -> Self {
        Self::new(name, false)
    }

    /// A new one that also allows RC4, to everybody who reads its configuration: who is to refuse it must do so alone.
    pub fn weak(name: &str) -> Self {
        Self::new(name, true)
    }

    fn new(name: &str, weak: bool) -> Self {
        let scratch = Scratch::new();
        let folder = folder(&scratch, "realm");
        let (name, settings, others) = (name.to_owned(), Vec::new(), Vec::new());
        let mut realm =
            Self { name, weak, folder, port: free_port(), kdc: None, clock: None, settings, others, _scratch: scratch };
        realm.write_configuration();
        let (at, keys) = (realm.folder.display(), Self::key_salts(AES));
        let address = realm.port.address();
        let kdc = format!(
            "[realms]\n{} = {{\n database_name = {at}/principals\n key_stash_file = {at}/stash\n acl_file = {at}/acl\n \
             kdc_listen = {address}\n kdc_tcp_listen = {address}\n supported_enctypes = {keys}\n \
             master_key_type = {}\n}}\n[logging]\nkdc = FILE:{at}/log\n",
            realm.name, AES[0]
        );
        write(&realm.at("kdc.conf"), kdc, 0o600);
        let mut create = realm.command("/usr/sbin/kdb5_util");
        create.args(["-r", &realm.name, "-P", &secret(), "create", "-s", "-W"]);
        program::succeeds(&create.output().expect("krb5-kdc is here"));
        realm.resume();
        realm
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn key_salts(enctypes: &[&str]) -> String {
        enctypes.iter().map(|enctype| format!("{enctype}:normal")).collect::<Vec<_>>().join(" ")
    }

    fn write_configuration(&self) {
        let own = (self.name.as_str(), self.port.address());
        let others = self.others.iter().map(|(name, kdc)| (name.as_str(), *kdc));
        let realms = std::iter::once(own).chain(others).collect::<Vec<_>>();
        write(&self.config(), configuration(self.weak, &self.settings, &realms), 0o644);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The configuration (`krb5.conf`) of everybody who asks it.
    pub fn config(&self) -> PathBuf {
        self.at("krb5.conf")
    }

    /// Adds a line to `[libdefaults]` of the configuration, for who reads it from now on.
    pub fn configure(&mut self, line: &str) {
        self.settings.push(line.into());
        self.write_configuration();
    }

    /// What the KDC has logged: every request, and what became of it.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).expect("a log can be read")
    }

    /// A program of Kerberos that knows this realm.
    pub fn command(&self, program: &str) -> Command {
        let mut command = client(program, &self.config());
        command.env("KRB5_KDC_PROFILE", self.at("kdc.conf"));
        command
    }

    /// Runs commands of `kadmin.local`, all in one process; what it prints.
    ///
    /// # Panics
    /// One of them fails.
    #[track_caller]
    pub fn admin(&self, commands: &[String]) -> String {
        let mut admin = self.command("/usr/sbin/kadmin.local");
        let output = talk(admin.args(["-r", &self.name]), commands);
        // It succeeds whatever its commands do.
        assert!(output.stderr.is_empty(), "{commands:?}: {}", program::said(&output));
        program::succeeds(&output)
    }

    /// Makes a principal with random keys, as `host/web1.test`.
    #[track_caller]
    pub fn principal(&self, name: &str) {
        self.principals(&[name]);
    }

    /// Makes several, which costs hardly more than one.
    #[track_caller]
    pub fn principals(&self, names: &[&str]) {
        let add = |name: &&str| format!("addprinc -clearpolicy -randkey {name}");
        self.admin(&names.iter().map(add).collect::<Vec<_>>());
    }

    /// Makes a principal that has keys of these kinds only.
    #[track_caller]
    pub fn principal_with(&self, name: &str, enctypes: &[&str]) {
        self.admin(&[format!("addprinc -clearpolicy -randkey -e \"{}\" {name}", Self::key_salts(enctypes))]);
    }

    /// What kinds of session keys a service is given, whatever its own keys are. Else they are of its own kinds, and of
    /// AES with SHA-1 where those are weak.
    #[track_caller]
    pub fn session_keys(&self, service: &str, enctypes: &[&str]) {
        self.admin(&[format!("setstr {service} session_enctypes \"{}\"", enctypes.join(" "))]);
    }

    /// Adds the keys that these principals have now to a keytab, where older ones stay.
    #[track_caller]
    pub fn keytab(&self, file: &Path, principals: &[&str]) {
        self.admin(&[format!("ktadd -norandkey -k \"{}\" {}", file.display(), principals.join(" "))]);
    }

    /// Gives a principal new keys; keytabs know nothing of it.
    #[track_caller]
    pub fn rotate(&self, principal: &str, old: Old) {
        self.rotate_to(principal, AES, old);
    }

    /// Gives a principal new keys of these kinds.
    #[track_caller]
    pub fn rotate_to(&self, principal: &str, enctypes: &[&str], old: Old) {
        let keep = if old == Old::Kept { "-keepold" } else { "" };
        self.admin(&[format!("cpw -randkey {keep} -e \"{}\" {principal}", Self::key_salts(enctypes))]);
    }

    /// The keys that a principal has: number and kind, the newest first.
    #[track_caller]
    pub fn keys(&self, principal: &str) -> Vec<(u32, String)> {
        let shown = self.admin(&[format!("getprinc {principal}")]);
        let keys = shown.lines().filter_map(|line| line.strip_prefix("Key: vno ")?.split_once(", "));
        keys.map(|(kvno, enctype)| (kvno.parse().expect("a number"), enctype.into())).collect()
    }

    /// From now on nobody is given a ticket as this principal or for it.
    #[track_caller]
    pub fn disable(&self, principal: &str) {
        self.admin(&[format!("modprinc -allow_tix {principal}")]);
    }

    /// Ends that.
    #[track_caller]
    pub fn enable(&self, principal: &str) {
        self.admin(&[format!("modprinc +allow_tix {principal}")]);
    }

    /// How long tickets for a service are good at most, or those of a client.
    #[track_caller]
    pub fn ticket_life(&self, principal: &str, life: Duration) {
        self.admin(&[format!("modprinc -maxlife \"{} seconds\" {principal}", life.as_secs())]);
    }

    /// From now on principals of the other realm are given tickets for services of this one, not the other way round.
    /// The configuration of each knows both.
    #[track_caller]
    pub fn trusts(&mut self, other: &mut Self) {
        let add = format!("addprinc -clearpolicy -pw {} krbtgt/{}@{}", secret(), self.name, other.name);
        self.admin(std::slice::from_ref(&add));
        other.admin(&[add]);
        self.meets(other);
        other.meets(self);
    }

    fn meets(&mut self, other: &Self) {
        let other = (other.name.clone(), other.port.address());
        if !self.others.contains(&other) {
            self.others.push(other);
            self.write_configuration();
        }
    }

    /// Asks for a ticket for a service as a host with this keytab does; otherwise what it was told.
    ///
    /// # Errors
    /// There is none.
    pub fn ticket(&self, keytab: &Path, principal: &str, service: &str) -> Result<Ticket, String> {
        ticket(&self.config(), keytab, principal, service)
    }

    /// Kills the KDC: nobody listens then.
    pub fn stop(&mut self) {
        if let Some(mut kdc) = self.kdc.take() {
            kdc.kill().expect("it is ours");
            kdc.wait().expect("it is ours");
        }
    }

    /// Starts the KDC where it was, and returns when it answers.
    ///
    /// # Panics
    /// It does not start; its log says why.
    pub fn resume(&mut self) {
        assert!(self.kdc.is_none(), "the KDC of {} runs already", self.name);
        let said = File::options().create(true).append(true).open(self.at("log")).expect("a log can be written");
        let mut kdc = self.command("/usr/sbin/krb5kdc");
        if let Some(offset) = &self.clock {
            // The program `faketime` would stay before it, and be killed in its place.
            let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
            assert!(Path::new(&library).exists(), "faketime is here");
            kdc.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        kdc.args(["-n", "-r", &self.name]).stdout(Stdio::null()).stderr(said);
        let mut kdc = kdc.spawn().expect("krb5-kdc is here");
        wait_for_kdc(&mut kdc, self.port.address(), &self.at("log"));
        self.kdc = Some(kdc);
    }

    /// Starts the KDC anew with a clock that is this far off (as `+600s`), or right.
    ///
    /// # Panics
    /// It does not start.
    pub fn clock(&mut self, offset: Option<&str>) {
        self.stop();
        self.clock = offset.map(str::to_owned);
        self.resume();
    }

    fn pid(&self) -> Pid {
        let kdc = self.kdc.as_ref().unwrap_or_else(|| panic!("the KDC of {} does not run", self.name));
        Pid::from_raw(kdc.id().try_into().expect("a pid"))
    }

    /// Makes the KDC deaf and dumb: who asks it waits.
    pub fn hang(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("it is ours");
        waitpid(self.pid(), Some(WaitPidFlag::WUNTRACED)).expect("it is ours");
    }

    /// Wakes it.
    pub fn wake(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("it is ours");
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A folder in which programs of other users can read the configuration.
pub(crate) fn folder(scratch: &Scratch, name: &str) -> PathBuf {
    let folder = scratch.path().join(name);
    std::fs::create_dir(&folder).expect("a folder can be made");
    for open in [scratch.path(), &folder] {
        set_permissions(open, Permissions::from_mode(0o711)).expect("a folder of the test");
    }
    folder
}

/// A port for a KDC: reserved for TCP, and free for UDP.
pub(crate) fn free_port() -> Port {
    let reserve = || Some(Port::reserve()).filter(|port| UdpSocket::bind(port.address()).is_ok());
    wait::until("a free port", LIMIT, reserve)
}

/// The text of a `krb5.conf` of the first of these realms; what the settings say goes before.
pub(crate) fn configuration(weak: bool, settings: &[String], realms: &[(&str, SocketAddr)]) -> String {
    let (name, _) = realms[0];
    let mut text = String::from("[libdefaults]\n");
    text.extend(settings.iter().map(|setting| format!(" {setting}\n")));
    let (rc4, allowed) =
        if weak { (RC4, " allow_rc4 = true\n allow_weak_crypto = true\n") } else { Default::default() };
    text += &format!(
        " default_realm = {name}\n dns_lookup_kdc = false\n dns_lookup_realm = false\n rdns = false\n \
         dns_canonicalize_hostname = false\n permitted_enctypes = {} aes128-cts-hmac-sha256-128 \
         aes128-cts-hmac-sha1-96 {rc4}\n{allowed}[realms]\n",
        AES.join(" ")
    );
    text.extend(realms.iter().map(|(name, kdc)| format!("{name} = {{\n kdc = {kdc}\n}}\n")));
    // From one straight to the other.
    text += "[capaths]\n";
    let others = realms[1..].iter().map(|(other, _)| *other);
    text.extend(others.map(|other| format!("{name} = {{\n {other} = .\n}}\n{other} = {{\n {name} = .\n}}\n")));
    text
}

/// Returns when a KDC listens.
///
/// # Panics
/// It does not start; its log says why.
#[track_caller]
pub(crate) fn wait_for_kdc(kdc: &mut Child, address: SocketAddr, log: &Path) {
    wait::until("the KDC listens", LIMIT, || {
        if let Some(status) = kdc.try_wait().expect("it is ours") {
            panic!("the KDC ended: {status}: {}", std::fs::read_to_string(log).unwrap_or_default());
        }
        TcpStream::connect(address).ok()
    });
}

/// Has a program read these lines, until it ends.
pub(crate) fn talk(program: &mut Command, lines: &[String]) -> Output {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = program.spawn().expect("krb5-admin-server and samba-ad-dc are here");
    let lines = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    program.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("it reads");
    program.wait_with_output().expect("it is ours")
}

/// A password that nobody knows.
pub(crate) fn secret() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// A program of Kerberos with nothing but this configuration.
pub(crate) fn client(program: &str, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("TZ", "UTC").env("KRB5_CONFIG", config);
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Asks for a ticket for a service as a host with this configuration and this keytab does; otherwise what it was told.
///
/// # Errors
/// There is none.
pub fn ticket(config: &Path, keytab: &Path, principal: &str, service: &str) -> Result<Ticket, String> {
    let scratch = Scratch::new();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = client(program, config);
        command.env("KRB5CCNAME", scratch.path().join("tickets")).args(arguments);
        let output = command.output().expect("krb5-user is here");
        if output.status.success() { Ok(program::succeeds(&output)) } else { Err(program::said(&output)) }
    };
    run("kinit", &["-k", "-t", keytab.to_str().expect("a path of the test"), principal])?;
    let got = run("kvno", &[service])?;
    let (service, kvno) = got.trim_end().split_once(": kvno = ").expect("kvno says the number");
    let list = run("klist", &["-e"])?;
    let mut lines = list.lines().skip_while(|line| !line.ends_with(&format!(" {service}")));
    let times = lines.next().expect("the ticket is there").split_whitespace().filter_map(seconds).collect::<Vec<_>>();
    let enctypes = lines.next().and_then(|line| line.split_once("Etype (skey, tkt): "));
    let (session, enctype) =
        enctypes.and_then(|(_, both)| both.trim_end().split_once(", ")).expect("klist says the kinds");
    Ok(Ticket {
        kvno: kvno.parse().expect("a number"),
        enctype: enctype.into(),
        session: session.into(),
        // A day at most.
        life: Duration::from_secs((times[1] + DAY - times[0] - 1) % DAY + 1),
    })
}

const DAY: u64 = 24 * 60 * 60;

/// The seconds of the day in `HH:MM:SS`.
fn seconds(time: &str) -> Option<u64> {
    time.contains(':').then(|| time.split(':').try_fold(0, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read as _};
    use std::time::Instant;

    /// A realm in which a host has its keytab, and there is a service.
    struct Hosts {
        realm: Realm,
        keytab: PathBuf,
    }

    impl Hosts {
        fn of(realm: Realm) -> Self {
            let keytab = realm.at("web1.keytab");
            realm.principals(&["host/web1.test", "host/gw1.test"]);
            realm.keytab(&keytab, &["host/web1.test"]);
            Self { realm, keytab }
        }

        fn ask(&self, service: &str) -> Result<Ticket, String> {
            self.realm.ticket(&self.keytab, "host/web1.test", service)
        }

        #[track_caller]
        fn refused(&self, service: &str, words: &str) {
            let told = self.ask(service).unwrap_err();
            assert!(told.contains(words), "{words:?} expected: {told}");
        }
    }

    #[test]
    fn a_host_gets_a_ticket_for_a_service() {
        let begin = Instant::now();
        let mut hosts = Hosts::of(Realm::start("A.TEST"));
        println!("a realm with two principals and a keytab: {:?}", begin.elapsed());
        let day = Duration::from_secs(DAY);
        let Ticket { kvno, enctype, session, life } = hosts.ask("host/gw1.test").unwrap();
        assert_eq!((kvno, enctype.as_str(), session.as_str()), (1, AES[0], AES[0]));
        // It ends with the ticket that it was asked for by, which may be a moment older.
        assert!((day - Duration::from_secs(10)..=day).contains(&life), "{life:?}");
        hosts.refused("host/nobody.test", "Server host/nobody.test@A.TEST not found in Kerberos database");
        assert!(hosts.realm.log().contains("LOOKING_UP_SERVER"));
        hosts.realm.ticket_life("host/gw1.test", Duration::from_secs(90));
        assert_eq!(hosts.ask("host/gw1.test").unwrap().life, Duration::from_secs(90));
        hosts.realm.disable("host/web1.test");
        hosts.refused("host/gw1.test", "Client's credentials have been revoked");
        hosts.realm.enable("host/web1.test");
        hosts.realm.configure("permitted_enctypes = aes256-cts-hmac-sha1-96");
        assert_eq!(hosts.ask("host/gw1.test").unwrap().session, AES[1]);
    }

    #[test]
    fn a_new_key_has_the_next_number_and_keytabs_know_nothing_of_it() {
        let hosts = Hosts::of(Realm::start("A.TEST"));
        let keys = |principal: &str| hosts.realm.keys(principal).into_iter().map(|(kvno, _)| kvno).collect::<Vec<_>>();
        assert_eq!(keys("host/web1.test"), [1, 1]);
        hosts.realm.rotate("host/web1.test", Old::Gone);
        assert_eq!(keys("host/web1.test"), [2, 2]);
        hosts.refused("host/gw1.test", "Password incorrect");
        hosts.realm.keytab(&hosts.keytab, &["host/web1.test"]);
        hosts.realm.rotate("host/gw1.test", Old::Kept);
        assert_eq!(keys("host/gw1.test"), [2, 2, 1, 1]);
        assert_eq!(hosts.ask("host/gw1.test").unwrap().kvno, 2);
    }

    #[test]
    fn a_kdc_that_is_away_or_hangs_is_asked_again_later() {
        let mut hosts = Hosts::of(Realm::start("A.TEST"));
        hosts.realm.stop();
        hosts.refused("host/gw1.test", "Cannot contact any KDC for realm 'A.TEST'");
        hosts.realm.resume();
        hosts.ask("host/gw1.test").unwrap();
        hosts.realm.hang();
        // It is connected to, and does not even complain of a request without end.
        let mut connection = TcpStream::connect(hosts.realm.port.address()).unwrap();
        connection.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        connection.write_all(&i32::MAX.to_be_bytes()).unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        hosts.realm.wake();
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!(connection.read(&mut [0]).unwrap(), 1);
        hosts.ask("host/gw1.test").unwrap();
    }

    #[test]
    fn who_is_trusted_gets_tickets_for_the_other_realm() {
        let [mut here, mut there] = ["A.TEST", "B.TEST"].map(|name| Hosts::of(Realm::start(name)));
        here.realm.trusts(&mut there.realm);
        assert_eq!(there.ask("host/gw1.test@A.TEST").unwrap().kvno, 1);
        here.refused("host/gw1.test@B.TEST", "Server krbtgt/B.TEST@A.TEST not found");
        there.realm.trusts(&mut here.realm);
        here.ask("host/gw1.test@B.TEST").unwrap();
    }

    #[test]
    fn only_a_weak_realm_gives_weak_tickets() {
        let hosts = Hosts::of(Realm::weak("A.TEST"));
        hosts.realm.principal_with("host/old.test", &[RC4]);
        let ticket = hosts.ask("host/old.test").unwrap();
        assert!(ticket.enctype.contains(RC4) && ticket.session == AES[1], "{ticket:?}");
        hosts.realm.session_keys("host/old.test", &[RC4]);
        let ticket = hosts.ask("host/old.test").unwrap();
        assert!(ticket.enctype.contains(RC4) && ticket.session.contains(RC4), "{ticket:?}");
        hosts.realm.rotate_to("host/old.test", &AES[1..], Old::Gone);
        assert_eq!(hosts.ask("host/old.test").unwrap().enctype, AES[1]);
        let hosts = Hosts::of(Realm::start("A.TEST"));
        hosts.realm.principal_with("host/old.test", &[RC4]);
        hosts.refused("host/old.test", "FINDING_SERVER_KEY");
    }
}
