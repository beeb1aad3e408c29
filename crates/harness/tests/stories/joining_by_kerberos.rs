//! Hosts join by Kerberos: a KDC vouches for them to the group, and for the group to them, whatever is on the way. Who is
//! on no list waits for an operator, as a host without Kerberos does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use bytes::Bytes;
use serde_json::Value;
use wardline_connector::now_ms;
use wardline_harness::asking::Asking;
use wardline_harness::directory::Directory;
use wardline_harness::group::Group;
use wardline_harness::initiator::{Initiator, Wrapped};
use wardline_harness::realm::Realm;
use wardline_harness::{Daemon, Log, hostile, program, scratch};
use wardline_proto::frame::Message;
use wardline_proto::join::{Answered, Challenge, Down, Hello, Proof, Said, Up, Why};
use wardline_proto::message::{Context, decode, encode};
use wardline_proto::{GroupId, Kind};
use wardline_secrets::authority::{RootAuthority, Validity};
use wardline_secrets::signature::{SigningKey, random, sha256};

use crate::gateway_trust::{Between, hello, proof, said};

/// The group's own principal.
const SERVICE: &str = "MSOMHSvc/test";
/// Agents of one realm whose names begin with `web`.
const RULE: &str = "[[join_by_kerberos]]\nrealms = [\"CORP.TEST\"]\nnames = [\"web*\"]\nvia = [\"gw1.test\"]\n";

/// A group whose server has the keys of these principals, and a realm.
struct Site {
    group: Group,
    realm: Realm,
    by: String,
}

impl Site {
    /// With a gateway, and these hosts' principals besides.
    fn new(servers: &[&str], hosts: &[&str]) -> Self {
        let realm = Realm::start("CORP.TEST");
        realm.principals(&[&["host/srv1.test", SERVICE], hosts].concat());
        let group = Group::builder().agents(0).lay();
        let mut site = Self { group, realm, by: String::new() };
        let keytab = site.keytab("srv1", servers);
        let server = site.kerberos(&keytab, "") + RULE;
        site.group.server().configure(&server);
        site.group.start();
        site.group.gateway(0).wait_event(40004);
        site.by = site.group.gateway(0).parent();
        site
    }

    /// The keys that these principals have.
    fn keytab(&self, name: &str, principals: &[&str]) -> PathBuf {
        let keytab = self.group.folder().join(format!("{name}.keytab"));
        self.realm.keytab(&keytab, principals);
        keytab
    }

    /// What a configuration says about Kerberos.
    fn kerberos(&self, keytab: &Path, more: &str) -> String {
        let krb5_conf = self.realm.config();
        format!("[kerberos]\nrealms = [\"CORP.TEST\"]\nkeytab = {keytab:?}\nkrb5_conf = {krb5_conf:?}\n{more}\n")
    }

    /// A host with the key of a principal, its own when nothing else is said.
    fn host(&self, name: &str, principal: Option<&str>) -> Daemon {
        let host = self.group.newcomer(name);
        let key = principal.map_or_else(|| format!("host/{name}"), |principal| principal.replace("@CORP.TEST", ""));
        let keytab = self.keytab(&format!("{}-{}", name, key.replace(['/', '$'], "-")), &[&key]);
        let more = principal.map(|principal| format!("principal = \"{principal}\"")).unwrap_or_default();
        host.configure(&self.kerberos(&keytab, &more));
        host
    }

    /// A host that asks, and may have to wait.
    fn asks(&self, host: &Daemon, mechanism: &str) -> Asking {
        let arguments = ["--parent", &self.by, "--mechanism", mechanism, "--group", "test"];
        Asking::new("wardline-agent", &host.config(), &arguments)
    }

    /// A host that is let in at once, with nobody at its keyboard.
    #[track_caller]
    fn joins(&self, host: &Daemon, mechanism: &str) -> String {
        let (status, shown) = self.asks(host, mechanism).ended();
        assert!(status.success() && !shown.contains("the code of this host"), "{shown}");
        shown
    }

    fn members(&self) -> Vec<String> {
        members(&self.group)
    }
}

/// A server of somebody's own making, that says it is of the same group and has its key.
struct Pretended {
    group: GroupId,
    root: RootAuthority,
    duty: SigningKey,
    certificate: Bytes,
    asked: Mutex<Bytes>,
}

impl Pretended {
    fn new(group: &Group) -> Self {
        let id = GroupId(group.id().into_bytes());
        let hour = Validity::lasting(now_ms() / 1000 - 60, 3600);
        let (root, _) = RootAuthority::create("test", hour).unwrap();
        let (duty, _) = SigningKey::generate(id).unwrap();
        let certificate = root.duty(&"srv1.test".parse().unwrap(), &duty.public().unwrap(), hour).unwrap();
        let certificate = Bytes::copy_from_slice(&certificate);
        Self { group: id, root, duty, certificate, asked: Mutex::default() }
    }

    /// Its challenge to who has asked.
    fn challenge(&self) -> Bytes {
        let challenge = Challenge {
            hello: sha256(&[&self.asked.lock().unwrap()]).to_wire(),
            nonce: Bytes::copy_from_slice(&random()),
            group: Bytes::copy_from_slice(&self.group.0),
            name: "test".into(),
            chain: vec![self.certificate.clone(), Bytes::copy_from_slice(self.root.certificate())],
            at: now_ms(),
            service: format!("{SERVICE}@CORP.TEST"),
        };
        let challenge = self.duty.signed(Context::Join, encode(&challenge));
        encode(&Down { answered: Some(Answered::Challenge(challenge)) })
    }
}

/// Runs a join to its end, with nobody at the keyboard.
fn join(host: &Daemon, parent: &str) -> Output {
    let mut command = Command::new(program::find("wardline-agent"));
    command.arg("join").arg("--config").arg(host.config());
    command.args(["--parent", parent, "--mechanism", "kerberos", "--group", "test"]);
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command.output().unwrap()
}

fn members(group: &Group) -> Vec<String> {
    group.sql("SELECT name FROM member WHERE role = 'agent' ORDER BY name")
}

fn keeps(host: &Daemon, file: &str) -> bool {
    scratch::files(host.state().parent().unwrap()).iter().any(|path| path.ends_with(file))
}

#[test]
fn a_host_of_a_listed_realm_and_name_joins_by_its_keytab_alone() {
    let mut site = Site::new(&["host/srv1.test", SERVICE], &["host/web1.test", "host/web2.test"]);
    let mut web1 = site.host("web1.test", None);
    // A KDC vouches for whichever group has a key: which one is meant is said here.
    let other = ["--parent", &site.by, "--mechanism", "either", "--group", "other"];
    let (status, shown) = Asking::new("wardline-agent", &web1.config(), &other).ended();
    assert!(!status.success() && shown.contains("the group is called test"), "{shown}");
    assert!(site.members().is_empty() && !keeps(&web1, "identity.key"));
    let shown = site.joins(&web1, "either");
    assert!(shown.contains("the KDC knows this host as host/web1.test@CORP.TEST"), "{shown}");
    let joined = site.group.server().wait_event(40061);
    assert!(joined.text.contains("agent web1.test"), "{}", joined.text);
    assert!(joined.text.contains("principal host/web1.test@CORP.TEST"), "{}", joined.text);
    let identity = fs::read(web1.state().join("identity.key")).unwrap();
    web1.start();
    web1.wait_event(40005);
    let known = site.group.json(&["agent", "show", "web1.test"]);
    assert_eq!(known["principal"], "host/web1.test@CORP.TEST");
    assert_eq!(known["session"]["via"], "gw1.test");
    web1.stop();

    // Once more, as when the answer was lost: it is the same member, with the same keys.
    site.joins(&web1, "either");
    assert_eq!(fs::read(web1.state().join("identity.key")).unwrap(), identity);
    assert_eq!(site.members(), ["web1.test"]);

    // Who comes by Kerberos alone has no channel certificate, and is given none.
    let web2 = site.host("web2.test", None);
    site.joins(&web2, "kerberos");
    assert_eq!(site.members(), ["web1.test", "web2.test"]);
    assert!(keeps(&web2, "identity.key") && !keeps(&web2, "channel.pem") && !keeps(&web2, "channel.key"));
    let membership = fs::read_to_string(web2.state().join("membership.toml")).unwrap();
    assert!(membership.contains("mechanism = \"kerberos\""), "{membership}");
    let log = site.group.json(&["keys", "log", "show"]);
    let issued = |name: &str| {
        let about = |entry: &&Value| entry["what"] == "issued" && entry["about"].as_str().unwrap().contains(name);
        log.as_array().unwrap().iter().filter(about).count()
    };
    assert_eq!((issued("web1.test"), issued("web2.test")), (2, 0));

    // An operator's word is above the list: who was removed comes back by a person's word only.
    site.group.done(&["agent", "remove", "web1.test"]);
    fs::rename(web1.state(), site.group.folder().join("away")).unwrap();
    let mark = site.group.server().mark();
    let mut asking = site.asks(&web1, "either");
    asking.code();
    let refused = site.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("was removed"), "{}", refused.text);
    assert_eq!(site.members(), ["web2.test"]);
    site.group.done(&["agent", "reject", "web1.test"]);
    assert!(!asking.ended().0.success());
}

#[test]
fn who_is_on_no_list_waits_for_the_code_and_no_other_hosts_key_helps() {
    let hosts = ["host/app1.test", "APP2$", "host/web4.test", "host/web5.test"];
    let mut site = Site::new(&["host/srv1.test", SERVICE], &hosts);
    let exit = |site: &Site, arguments: &[&str]| site.group.wardline(arguments).status.code();

    // A name that no rule has.
    let app1 = site.host("app1.test", None);
    let mark = site.group.server().mark();
    let mut asking = site.asks(&app1, "kerberos");
    let code = asking.code();
    let refused = site.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("no rule is for host/app1.test@CORP.TEST"), "{}", refused.text);
    let pending = site.group.json(&["agent", "pending"]);
    assert_eq!(
        (&pending[0]["name"], &pending[0]["principal"]),
        (&"app1.test".into(), &"host/app1.test@CORP.TEST".into())
    );
    assert!(site.members().is_empty() && !keeps(&app1, "identity.key"));
    let approved = site.group.json(&["agent", "approve", "app1.test", &code]);
    assert_eq!(approved["principal"], "host/app1.test@CORP.TEST");
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    assert!(keeps(&app1, "identity.key") && !keeps(&app1, "channel.pem"));

    // An account is whose an operator says that it is, and nobody else has it then.
    let app2 = site.host("app2.test", Some("APP2$@CORP.TEST"));
    let mut asking = site.asks(&app2, "kerberos");
    let code = asking.code();
    assert_eq!(exit(&site, &["agent", "approve", "app2.test", &code]), Some(5));
    assert_eq!(exit(&site, &["agent", "approve", "app2.test", &code, "--principal", "APP3$@CORP.TEST"]), Some(5));
    let named = ["agent", "approve", "app2.test", &code, "--principal", "APP2$@CORP.TEST"];
    let approved = site.group.json(&named);
    assert_eq!(approved["principal"], "APP2$@CORP.TEST");
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    assert!(asking.ended().0.success());
    assert_eq!(exit(&site, &["agent", "principal", "app1.test", "APP2$@CORP.TEST"]), Some(5));
    assert_eq!(exit(&site, &["agent", "principal", "app2.test", "none"]), Some(0));
    assert_eq!(exit(&site, &["agent", "principal", "app1.test", "APP2$@CORP.TEST"]), Some(0));
    assert_eq!(site.members(), ["app1.test", "app2.test"]);

    // Another host's key, said openly: that principal is never of this name, whoever approves.
    let web4 = site.host("web4.test", Some("host/web5.test@CORP.TEST"));
    let (status, shown) = site.asks(&web4, "kerberos").ended();
    assert!(!status.success() && shown.contains("does not follow from this host's name"), "{shown}");
    // And hidden: what is proved counts, and not what is said.
    let lie = |claims: &str, proves: &str, site: &Site| {
        let keytab = site.keytab(&format!("lie-{}", proves.replace('/', "-")), &[proves]);
        let mut liar = Command::new(program::find("pretender"));
        liar.args([&site.by, "web4.test", &format!("{claims}@CORP.TEST"), &format!("{proves}@CORP.TEST")]);
        liar.arg(keytab).arg("test").env_clear().env("KRB5_CONFIG", site.realm.config());
        program::succeeds(&liar.output().unwrap())
    };
    let mark = site.group.server().mark();
    let told = lie("host/web4.test", "host/web5.test", &site);
    assert!(told.contains("the proof by Kerberos was not accepted"), "{told}");
    let refused = site.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("it proves to be host/web5.test@CORP.TEST"), "{}", refused.text);
    assert_eq!(site.members(), ["app1.test", "app2.test"]);
    // The control: the truth.
    assert_eq!(lie("host/web4.test", "host/web4.test", &site), "let in\n");

    // A realm that the other trusts gives tickets, and is not listed.
    let mut west = Realm::start("WEST.TEST");
    site.realm.trusts(&mut west);
    west.principal("host/web6.test");
    let keytab = site.group.folder().join("west.keytab");
    west.keytab(&keytab, &["host/web6.test"]);
    west.ticket(&keytab, "host/web6.test@WEST.TEST", "MSOMHSvc/test@CORP.TEST").expect("the realm is trusted");
    let web6 = site.group.newcomer("web6.test");
    let krb5_conf = west.config();
    web6.configure(&format!(
        "[kerberos]\nrealms = [\"WEST.TEST\", \"CORP.TEST\"]\nkeytab = {keytab:?}\nkrb5_conf = {krb5_conf:?}\n"
    ));
    let mark = site.group.server().mark();
    let arguments = ["--parent", &site.by, "--mechanism", "kerberos", "--group", "test@CORP.TEST"];
    let asking = Asking::new("wardline-agent", &web6.config(), &arguments);
    let code = asking.code();
    let refused = site.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("no rule is for host/web6.test@WEST.TEST"), "{}", refused.text);
    assert_eq!(exit(&site, &["agent", "approve", "web6.test", &code]), Some(5));
    site.group.done(&["agent", "reject", "web6.test"]);
}

#[test]
fn a_gateway_cannot_swap_a_kerberos_agents_identity_key() {
    let mut site = Site::new(&["host/srv1.test", SERVICE], &["host/web1.test", "host/web2.test"]);
    let between = Between::new(&mut site.group);
    let (own, _) = SigningKey::generate(GroupId(site.group.id().into_bytes())).unwrap();
    let spki: Bytes = own.public().unwrap().spki().into();
    let web1 = site.host("web1.test", None);

    // It puts its own key in the place of the host's, and proves that it has it. To the host it answers as a server of its
    // own making: a host without a pin cannot know better by then.
    let mark = site.group.server().mark();
    let server = Pretended::new(&site.group);
    let (mut swapped, mut above) = (Bytes::new(), Bytes::new());
    let (output, came) = between.pass_by(
        |parent| join(&web1, parent),
        |step, message| {
            Some(match step {
                0 => {
                    let Some(Up { said: Some(Said::Hello(below)) }) = decode(message) else { panic!("no hello") };
                    *server.asked.lock().unwrap() = below;
                    swapped = encode(&Hello { identity: spki.clone(), ..hello(message) });
                    said(Said::Hello(swapped.clone()))
                }
                1 => {
                    let Some(Answered::Challenge(said)) = decode::<Down>(message).unwrap().answered else { panic!() };
                    above = said.payload;
                    server.challenge()
                }
                2 => {
                    let transcript = sha256(&[&swapped, &above]);
                    said(Said::Proof(Proof { identity: own.sign(Context::Join, &transcript.0), ..proof(message) }))
                }
                _ => message.clone(),
            })
        },
    );
    assert!(!output.status.success() && came.len() == 4, "{}", program::said(&output));
    let refused = site.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("agent web1.test"), "{}", refused.text);
    assert!(refused.text.contains("bound to another session"), "{}", refused.text);
    assert!(site.members().is_empty());

    // Nor is what the host has proved good for anything in another session, with its key or with another.
    let (output, seen) =
        between.pass_by(|parent| join(&web1, parent), |step, message| (step < 2).then(|| message.clone()));
    assert!(!output.status.success() && seen.len() == 3, "{}", program::said(&output));
    assert!(!proof(&seen[2]).kerberos.is_empty());
    let first = hello(&seen[0]);
    for hello in [Hello { identity: spki.clone(), ..first.clone() }, first] {
        let mark = site.group.server().mark();
        let why = between.refused(&said(Said::Hello(encode(&hello))), |transcript| {
            said(Said::Proof(Proof { identity: own.sign(Context::Join, transcript), ..proof(&seen[2]) }))
        });
        assert_eq!(why, Why::KerberosProof);
        site.group.server().wait_event_since(mark, 40062);
        assert!(site.members().is_empty());
    }

    // One bit of each message turned, at places all over it: nobody is let in, or the host believes nothing of it.
    for step in 0..4 {
        for place in 0..4 {
            let turn = |at: usize, message: &Bytes| {
                let mut message = message.to_vec();
                if at == step {
                    let byte = place * (message.len() - 1) / 3;
                    message[byte] ^= 1 << place;
                }
                Some(message.into())
            };
            let (output, came) = between.pass_by(|parent| join(&web1, parent), turn);
            let what = format!("step {step}, place {place}: {}", program::said(&output));
            assert!(!output.status.success() && came.len() > step, "{what}");
            assert!(step == 3 || site.members().is_empty(), "{what}");
        }
    }
    // The control: unchanged it joins, with the keys that it had.
    let (output, came) = between.pass_by(|parent| join(&web1, parent), |_, message| Some(message.clone()));
    assert!(output.status.success() && came.len() == 4, "{}", program::said(&output));
    assert_eq!(site.members(), ["web1.test"]);
    assert!(keeps(&web1, "identity.key"));
}

#[test]
fn without_the_groups_keytab_a_kerberos_host_waits_and_nothing_is_sealed_to_it_before() {
    let mut site = Site::new(&["host/srv1.test"], &["host/web1.test"]);
    let mut web1 = site.host("web1.test", None);
    let mut asking = site.asks(&web1, "either");
    let code = asking.code();
    assert!(asking.shown().contains("has no key of the group's Kerberos principal"), "{}", asking.shown());
    let unusable = site.group.server().wait_event(40201);
    assert!(unusable.text.contains("no key of MSOMHSvc/test@CORP.TEST"), "{}", unusable.text);
    assert!(site.members().is_empty());
    let secret = site.group.folder().join("secret");
    scratch::write(&secret, "secret", 0o600);
    let create = |group: &Group, name: &str| {
        let file = secret.to_str().unwrap();
        let what = ["--kind", "basic", "--user", "u", "--to", "web1.test", "--secret-file", file];
        group.wardline(&[&["account", "create", name][..], &what].concat()).status.success()
    };
    assert!(!create(&site.group, "early"));
    assert!(!keeps(&web1, "identity.key"));

    let approved = site.group.json(&["agent", "approve", "web1.test", &code, "--via", "gw1.test"]);
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    web1.start();
    web1.wait_event(40005);
    assert!(create(&site.group, "later"));
}

/// A directory's gateway and agents, of which the group's server needs to know nothing.
struct Domain {
    group: Group,
    directory: Directory,
    by: String,
}

impl Domain {
    fn start(machines: &[&str]) -> Self {
        let directory = Directory::start();
        let services = machines.iter().map(|name| format!("host/{}.test", name.to_lowercase())).collect::<Vec<_>>();
        let named = machines.iter().copied().zip(services.iter().map(String::as_str));
        directory.computers(&named.chain([("GW1", "host/gw1.test")]).collect::<Vec<_>>());
        let group = Group::builder().agents(0).lay();
        let accounts = machines.iter().map(|name| (Self::file(&group, name), format!("{name}$")));
        let keys = accounts.chain([(Self::file(&group, "GW1"), "host/gw1.test".into())]).collect::<Vec<_>>();
        directory.keytabs(&keys.iter().map(|(file, key)| (file.as_path(), key.as_str())).collect::<Vec<_>>());
        let mut domain = Self { group, directory, by: String::new() };
        let gateway = domain.kerberos("GW1", "");
        domain.group.gateway(0).configure(&gateway);
        domain.group.start();
        domain.group.gateway(0).wait_event(40004);
        domain.by = domain.group.gateway(0).parent();
        domain
    }

    fn file(group: &Group, machine: &str) -> PathBuf {
        group.folder().join(format!("{machine}.keytab"))
    }

    fn kerberos(&self, machine: &str, more: &str) -> String {
        let (keytab, krb5_conf) = (Self::file(&self.group, machine), self.directory.config());
        format!("[kerberos]\nrealms = [\"AD.TEST\"]\nkeytab = {keytab:?}\nkrb5_conf = {krb5_conf:?}\n{more}\n")
    }

    /// A host that has the key of this account and no other.
    fn host(&self, name: &str, machine: &str) -> Daemon {
        let host = self.group.newcomer(name);
        host.configure(&self.kerberos(machine, &format!("principal = \"{machine}$@AD.TEST\"")));
        host
    }

    /// Joins with a token.
    fn joins(&self, host: &Daemon, token: &Path) -> (bool, String) {
        let output = host.join_with(&self.by, token, &["--mechanism", "kerberos"]);
        (output.status.success(), program::said(&output))
    }
}

#[test]
fn an_active_directory_machine_account_joins() {
    let mut domain = Domain::start(&["WEB1", "WEB2", "WEB3", "WEB4"]);
    let token = |domain: &Domain, name: &str, principal: &[&str]| {
        domain.group.token(&[&["--role", "agent", "--name", name, "--via", "gw1.test"], principal].concat())
    };
    let exit = |domain: &Domain, arguments: &[&str]| domain.group.wardline(arguments).status.code();

    // By a token that names its account; nothing else of it is known to anybody, and it gets no certificate.
    let mut web1 = domain.host("web1.test", "WEB1");
    let named = token(&domain, "web1.test", &["--principal", "WEB1$@AD.TEST"]);
    let (joined, shown) = domain.joins(&web1, &named);
    assert!(joined && keeps(&web1, "identity.key") && !keeps(&web1, "channel.pem"), "{shown}");
    let log = domain.group.done(&["keys", "log", "show"]);
    let about =
        |log: &str, words: [&str; 2]| log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
    assert_eq!(about(&log, ["web1.test", "WEB1$@AD.TEST"]), 1, "{log}");
    assert_eq!(about(&log, ["issued", "web1.test"]), 0, "{log}");
    web1.start();
    web1.wait_event(40005);

    // It reports, by Kerberos.
    let lines = Log::create(domain.group.folder(), "app");
    let pack = domain.group.write_pack("app", &lines.pack("app")).display().to_string();
    domain.group.done(&["pack", "apply", &pack, "--agents", "web1.test"]);
    lines.go_on(3);
    domain.group.wait_texts_of("web1.test", &lines.lines());
    let hops = domain.group.hops(2);
    let hop = hops.iter().find(|hop| hop["from"] == "web1.test").unwrap();
    for end in hop["ends"].as_array().unwrap() {
        assert_eq!(end["mechanism"], "wardline-krb5/1");
        assert_eq!(end["kerberos"]["initiator"], "WEB1$@AD.TEST");
        assert_eq!(end["kerberos"]["acceptor"], "host/gw1.test@AD.TEST");
    }
    let (well, shown) = web1.doctor(None);
    assert!(well && shown.contains("the group knows this host as WEB1$@AD.TEST"), "{shown}");
    // A service of the directory asks for no tickets, and a gateway that takes them needs none.
    let (well, shown) = domain.group.gateway(0).doctor(None);
    assert!(well && shown.contains("this host is asked for as host/gw1.test@AD.TEST"), "{shown}");

    // Another machine of the domain says that it is the same host: it takes nobody's place, and its heartbeats are none.
    let (mark, above) = (web1.mark(), domain.group.server().mark());
    let keytab = Domain::file(&domain.group, "WEB2");
    let initiator = Initiator::new(&domain.directory.config(), &keytab, "host/gw1.test@AD.TEST");
    let address = hostile::listen(domain.group.gateway(0));
    let mut other = Wrapped::dial(address, initiator).expect("a gateway has no lists");
    let bound = other.bound("agent web1.test", "WEB2$@AD.TEST", "host/gw1.test@AD.TEST");
    other.say(Message::own(Kind::Bound, bound));
    let refused = domain.group.server().wait_event_since(above, 20000);
    assert!(refused.text.contains("WEB2$@AD.TEST"), "{}", refused.text);
    assert!(refused.text.contains("which is not the Kerberos principal"), "{}", refused.text);
    other.peer.wait_gone();
    lines.go_on(3);
    domain.group.wait_texts_of("web1.test", &lines.lines());
    assert_eq!(web1.moved(mark), None);
    // The control: with the right key the same client is taken for it.
    let own = Initiator::new(&domain.directory.config(), &Domain::file(&domain.group, "WEB1"), "host/gw1.test@AD.TEST");
    let mut same = Wrapped::dial(address, own).expect("a good token is taken");
    let bound = same.bound("agent web1.test", "WEB1$@AD.TEST", "host/gw1.test@AD.TEST");
    same.say(Message::own(Kind::Bound, bound));
    web1.wait_event_since(mark, 40005);
    drop(same);

    // A service that the directory lets act for everybody is not taken for who it acts for.
    domain.directory.may_act("WEB4", "host/gw1.test");
    let service =
        domain.directory.in_the_name_of("WEB1$", (&Domain::file(&domain.group, "WEB4"), "WEB4$"), "host/gw1.test");
    let (mark, by) = (domain.group.gateway(0).mark(), &domain.directory.config());
    let acts = Initiator::with_tickets(by, &service, "host/gw1.test@AD.TEST");
    assert!(Wrapped::dial(address, acts).is_none());
    let refused = domain.group.gateway(0).wait_event_since(mark, 40211);
    assert!(refused.text.contains("in the name of WEB1$@AD.TEST (constrained delegation)"), "{}", refused.text);

    // A token is for the account that it names, whoever brings it.
    let named = token(&domain, "web3.test", &["--principal", "WEB3$@AD.TEST"]);
    let thief = domain.host("web3.test", "WEB2");
    let (joined, shown) = domain.joins(&thief, &named);
    assert!(!joined && !keeps(&thief, "identity.key"), "{shown}");
    let web3 = domain.host("web3.test", "WEB3");
    let (joined, shown) = domain.joins(&web3, &named);
    assert!(joined, "{shown}");

    // Which account a host has follows from nothing: a token that names none lets nobody in, and an operator has to say it.
    let mut web4 = domain.host("web4.test", "WEB4");
    let (joined, shown) = domain.joins(&web4, &token(&domain, "web4.test", &[]));
    assert!(!joined && shown.contains("does not follow from this host's name"), "{shown}");
    let arguments = ["--parent", &domain.by, "--mechanism", "kerberos"];
    let mut asking = Asking::new("wardline-agent", &web4.config(), &arguments);
    let code = asking.code();
    let approve = ["agent", "approve", "web4.test", &code, "--via", "gw1.test"];
    assert_eq!(exit(&domain, &approve), Some(5));
    let taken = [&approve[..], &["--principal", "WEB1$@AD.TEST"]].concat();
    assert_eq!(exit(&domain, &taken), Some(5));
    assert_eq!(members(&domain.group), ["web1.test", "web3.test"]);
    let approved = domain.group.json(&[&approve[..], &["--principal", "WEB4$@AD.TEST"]].concat());
    asking.wait_shown("type the confirmation code");
    asking.types(approved["confirmation"].as_str().unwrap());
    assert!(asking.ended().0.success());
    web4.start();
    web4.wait_event(40005);
}
