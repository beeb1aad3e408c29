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
use wardline_harness::group::Group;
use wardline_harness::realm::Realm;
use wardline_harness::{Daemon, program, scratch};
use wardline_proto::GroupId;
use wardline_proto::join::{Answered, Challenge, Down, Hello, Proof, Said, Up, Why};
use wardline_proto::message::{Context, decode, encode};
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
        self.group.sql("SELECT name FROM member WHERE role = 'agent' ORDER BY name")
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
