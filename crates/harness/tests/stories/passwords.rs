//! A password travels from an operator to one agent: it opens there and nowhere else, whoever stands in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use rusqlite::{Connection, params};
use wardline_harness::estate::{Estate, hash, sealing_keys};
use wardline_harness::group::Group;
use wardline_harness::search::{Report, Search};
use wardline_harness::{Daemon, program, scratch, wait};
use wardline_proto::configuration::{Configuration as Document, Content, Form, SecureData};
use wardline_proto::message::{self, Context, Issue, SealingConfirmed, SealingKey, Signed, decode, encode};
use wardline_proto::trust::{self, Fact};
use wardline_proto::{GroupId, Kind, Role};
use wardline_secrets::authority::Validity;
use wardline_secrets::protect::Vault;
use wardline_secrets::sealing::SealingKey as Pair;
use wardline_secrets::signature::{SigningKey, random, sha256};
use wardline_secrets::view::entry;

use crate::configuration::{Between, issue, with};

const LIMIT: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct-horse-battery-staple";
const NEXT: &str = "Tr0ub4dor-and-3-more-of-them";

/// The configuration that an agent keeps.
fn kept(agent: &Daemon) -> PathBuf {
    agent.state().join("OpsMgrConnector.Config.xml")
}

fn read(document: &[u8]) -> Document {
    Document::parse(document).unwrap()
}

/// The accounts that an agent was sent.
pub(crate) fn accounts(agent: &Daemon) -> Vec<SecureData> {
    read(&fs::read(kept(agent)).unwrap()).content.accounts
}

/// The private sealing key of an agent and its certificate, in files for OpenSSL.
fn opener(group: &mut Group, agent: usize) -> (PathBuf, PathBuf) {
    let (config, state) = (group.agent(agent).config(), group.agent(agent).state().to_owned());
    let (id, folder) = (sealing_keys(&config).remove(0), state.join("sealing"));
    let vault = Vault::look(state.parent().unwrap()).unwrap();
    let pem = vault.read(&folder.join(format!("{id}.key")), "sealing key").unwrap();
    let key = group.folder().join(format!("{id}.key"));
    scratch::write(&key, pem.as_slice(), 0o600);
    (key, folder.join(format!("{id}.pem")))
}

/// What OpenSSL makes of secure data with a key.
fn openssl(group: &Group, (key, certificate): &(PathBuf, PathBuf), data: &SecureData) -> Option<Vec<u8>> {
    let file = group.folder().join("secure.der");
    fs::write(&file, Base64::decode_vec(&data.sealed).unwrap()).unwrap();
    let mut command = Command::new("openssl");
    command.args(["cms", "-decrypt", "-binary", "-inform", "DER", "-in"]).arg(file);
    let output = command.arg("-inkey").arg(key).arg("-recip").arg(certificate).output().unwrap();
    output.status.success().then_some(output.stdout)
}

/// The schema takes a document.
#[track_caller]
fn valid(document: &Path) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/OpsMgrConnector.Config.xsd");
    let output = Command::new("xmllint").args(["--noout", "--nonet", "--schema", schema]).arg(document).output();
    program::succeeds(&output.unwrap());
}

#[test]
fn a_run_as_password_is_readable_only_by_its_agent() {
    let mut estate = Estate::lay(Group::builder().agents(2), 2);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.watch(&["agent1.test", "agent2.test"]);
    // The one that it was distributed to logs on with it, the other is told why it cannot.
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let told = estate.group.agent(1).wait_event(1108).text;
    assert!(told.contains("web-agent2/login") && told.contains("profile web"), "{told}");
    assert_eq!(estate.meeting.said("agent2.test"), None);
    assert!(accounts(estate.group.agent(1)).is_empty());
    for agent in [0, 1] {
        estate.group.agent(agent).wait_event(7006);
        estate.group.agent(agent).wait_event(40006);
        valid(&kept(estate.group.agent(agent)));
    }

    // Nobody but the one can open what came down.
    let sent = accounts(estate.group.agent(0));
    assert_eq!((sent.len(), sent[0].name.as_str(), sent[0].kind.as_str()), (1, "shop", "basic"));
    let keys = [opener(&mut estate.group, 0), opener(&mut estate.group, 1)];
    let opened = openssl(&estate.group, &keys[0], &sent[0]).expect("OpenSSL opens it with the agent's key");
    assert!(opened.ends_with(PASSWORD.as_bytes()), "the control: it is what was encrypted");
    assert_eq!(openssl(&estate.group, &keys[1], &sent[0]), None);

    // A new secret takes the place of the old one, while the check goes on.
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    assert!(accounts(estate.group.agent(0))[0].version > sent[0].version);

    // Given to another, it is gone from the host.
    estate.group.done(&["account", "update", "shop", "--to", "agent2.test"]);
    estate.meeting.wait("agent2.test", &hash(NEXT));
    estate.group.agent(0).wait_event(1108);
    assert!(accounts(estate.group.agent(0)).is_empty());
    let kept = fs::read(estate.group.agent(0).state().join("accounts")).unwrap();
    assert!(kept.is_empty(), "nothing of it is kept");
}

/// A group behind a hostile gateway, whose agent1 has had its accounts through the real one before.
fn behind_a_hostile_gateway(estate: &mut Estate) -> Between {
    estate.group.start();
    estate.account(PASSWORD, "agent1.test,agent2.test");
    estate.another("database", "db", "another-good-password", "agent1.test");
    estate.watch(&["agent1.test", "agent2.test"]);
    estate.check("agent1.test", "db", "echo OK");
    for agent in ["agent1.test", "agent2.test"] {
        estate.meeting.wait(agent, &hash(PASSWORD));
    }
    wait::until("both accounts", LIMIT, || (accounts(estate.group.agent(0)).len() == 2).then_some(()));
    (0..2).for_each(|agent| assert!(estate.group.agent(agent).stop().success()));
    estate.group.gateway(0).stop();
    let mut gateway = Between::new(&mut estate.group);
    estate.group.agent(0).start();
    gateway.meet();
    gateway
}

/// What the server has sent, with another content that everything in it agrees with, and signed by this key.
fn made_of(genuine: &message::Configuration, content: Content, by: &SigningKey) -> message::Configuration {
    let cookie = sha256(&[content.to_xml(Form::Unsealed).as_bytes()]);
    let document = Document { content, cookie, ..read(&genuine.document) }.to_xml();
    let issue = Issue { cookie: cookie.to_wire(), ..issue(genuine) };
    with(genuine, document, by, Context::Config, &issue)
}

#[test]
fn a_gateway_cannot_bind_a_password_to_its_own_check() {
    let mut estate = Estate::lay(Group::builder().agents(2).written(), 2);
    let mut gateway = behind_a_hostile_gateway(&mut estate);
    let ask = gateway.open();
    let unchanged = gateway.asked(ask);
    gateway.down(Kind::Configuration, encode(&unchanged));
    estate.update(NEXT);
    let genuine = gateway.sent();
    // It has what it needs to try: the account, encrypted, and the check that uses it, in the clear.
    let text = String::from_utf8(genuine.document.to_vec()).unwrap();
    let found = |search: &Search| {
        let mut report = Report::default();
        search.bytes("what came down", &genuine.document, &mut report);
        report
    };
    found(&Search::of("the password", NEXT.as_bytes()).and("the one before", PASSWORD.as_bytes())).finds_nothing();
    found(&Search::of("the check", b"sha256sum")).finds_it();
    let stolen = estate.meeting.path().join("stolen");
    let own = "sum=$(sha256sum &lt;";
    let with_own_check =
        text.replacen(own, &format!("cp \\\"$CREDENTIALS_DIRECTORY/password\\\" {}; {own}", stolen.display()), 1);
    assert_ne!(with_own_check, text, "the control: the check is there");
    let content = read(genuine.document.as_ref()).content;
    let account = |name: &str| content.accounts.iter().find(|data| data.name == name).unwrap().account;
    let bound = |name: &str| format!("Profile=\"db\" Account=\"{}\"", account(name));
    let other_profile = text.replacen(&bound("database"), &bound("shop"), 1);
    assert_ne!(other_profile, text, "the control: the profile is there");
    let key = estate.group.key("gw1.test", "identity");
    for (what, document) in [("a check of its own", &with_own_check), ("another profile for it", &other_profile)] {
        let changed = message::Configuration { document: document.clone().into(), ..genuine.clone() };
        gateway.refused(estate.group.agent(0), what, 40080, &changed);
        let signed = made_of(&genuine, read(document.as_bytes()).content, &key);
        gateway.refused(estate.group.agent(0), &format!("{what}, signed by itself"), 40080, &signed);
    }
    assert!(!stolen.exists());
    // The control: what the server has signed is taken.
    gateway.down(Kind::Configuration, encode(&genuine));
    estate.meeting.wait("agent1.test", &hash(NEXT));
}

#[test]
fn secure_data_swapped_between_agents_accounts_or_versions_is_refused() {
    let mut estate = Estate::lay(Group::builder().agents(2).written(), 2);
    let mut gateway = behind_a_hostile_gateway(&mut estate);
    let older = accounts(estate.group.agent(0));
    let ask = gateway.open();
    let unchanged = gateway.asked(ask);
    gateway.down(Kind::Configuration, encode(&unchanged));
    // Whoever had the duty key, but no key of an account, could put things together as he likes.
    let duty = estate.group.key("srv1.test", "duty");
    for (number, what) in ["of another account", "of another agent", "of an older version"].into_iter().enumerate() {
        estate.update(&format!("{NEXT}-{number}"));
        let genuine = gateway.sent();
        let mut content = read(genuine.document.as_ref()).content;
        let shop = content.accounts.iter().position(|data| data.name == "shop").unwrap();
        content.accounts[shop].sealed = match number {
            0 => {
                // Said to be of the other one's version, too: nothing but the account tells them apart.
                content.accounts[shop].version = content.accounts[1 - shop].version;
                content.accounts[1 - shop].sealed.clone()
            }
            1 => {
                let own = gateway.route;
                let others = gateway.of("agent2.test");
                gateway.route = own;
                read(others.document.as_ref()).content.accounts[0].sealed.clone()
            }
            _ => older[shop].sealed.clone(),
        };
        let swapped = made_of(&genuine, content, &duty);
        let mark = estate.group.agent(0).mark();
        gateway.down(Kind::Configuration, encode(&swapped));
        let told = estate.group.agent(0).wait_event_since(mark, 7022).text;
        assert!(told.contains("shop"), "{what}: {told}");
        // What was good before stays in use.
        estate.meeting.forget("agent1.test");
        estate.meeting.wait("agent1.test", &hash(PASSWORD));
    }
    // The control: as the server has made it, it is used.
    estate.update(NEXT);
    let genuine = gateway.sent();
    gateway.down(Kind::Configuration, encode(&genuine));
    estate.meeting.wait("agent1.test", &hash(NEXT));
}

/// A sealing key that somebody makes for another, with what says so, signed by this key.
fn forged(by: &SigningKey, about: &str) -> Signed {
    let from = now() - 3600;
    let (pair, _) = Pair::generate(&about.parse().unwrap(), Role::Agent, Validity::lasting(from, 86_400)).unwrap();
    let certificate = Bytes::copy_from_slice(pair.certificate().der());
    let said = SealingKey { name: about.into(), role: "agent".into(), serial: u64::MAX, certificate };
    by.signed(Context::SealingCert, encode(&said))
}

fn by_group(group: &Group) -> GroupId {
    GroupId(group.id().into_bytes())
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The entries of the log that say which sealing key an agent has.
fn said_of(group: &Group, agent: &str) -> Vec<String> {
    let log = group.done(&["keys", "log", "show"]);
    log.lines().filter(|line| line.contains("sealing key") && line.contains(agent)).map(str::to_owned).collect()
}

#[test]
fn a_key_nobody_vouched_for_is_never_sealed_to() {
    let mut estate = Estate::lay(Group::builder().agents(2).written(), 2);
    let mut gateway = behind_a_hostile_gateway(&mut estate);
    let own = sealing_keys(&estate.group.agent(0).config()).remove(0);
    let before = said_of(&estate.group, "agent1.test");
    assert!(before.len() == 1 && before[0].contains(&own), "{before:?}");

    // A gateway on the way says another key in the agent's name: with its own signature, or with none that fits.
    let ask = gateway.open();
    gateway.asked(ask);
    let said = gateway.below().wait_for(Kind::SealingKey, 0);
    let key = estate.group.key("gw1.test", "identity");
    let by_gateway = forged(&key, "agent1.test");
    let mark = estate.group.server().mark();
    gateway.up(Kind::SealingKey, encode(&by_gateway));
    let told = estate.group.server().wait_event_since(mark, 40180).text;
    assert!(told.contains("agent1.test") && told.contains("has not signed it"), "{told}");
    // What the agent itself has said is confirmed, and is no news.
    gateway.meet();
    gateway.open();
    gateway.up(Kind::SealingKey, said);
    let word: Signed = decode(&gateway.confirmed()).unwrap();
    let word: SealingConfirmed = decode(&word.payload).unwrap();
    assert_eq!((word.name.as_str(), hex(&word.key)), ("agent1.test", own.clone()));
    assert_eq!(said_of(&estate.group, "agent1.test"), before);

    // Who can write the database: the tables show what the log says, and nobody reads them.
    let database = estate.group.database().to_owned();
    let connection = Connection::open(&database).unwrap();
    connection.execute("UPDATE member SET sealing = ?1 WHERE name = 'agent1.test'", params![[9_u8; 16]]).unwrap();
    drop(connection);
    // And the log takes nothing that no duty key has signed.
    estate.group.server().stop();
    let duty = SigningKey::generate(by_group(&estate.group)).unwrap().0;
    let identity = SigningKey::generate(by_group(&estate.group)).unwrap().0;
    let log = || -> Vec<Vec<u8>> {
        let connection = Connection::open(&database).unwrap();
        let mut select = connection.prepare("SELECT entry FROM log ORDER BY number").unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>();
        rows.unwrap()
    };
    let good = log();
    let next = i64::try_from(good.len()).unwrap();
    let fact = |said: Signed| Fact::Sealing(trust::Sealing { name: "agent1.test".into(), said });
    let server = "srv1.test".parse().unwrap();
    let written = |number: i64, fact: Fact| {
        let number = number.cast_unsigned();
        encode(&entry(&duty, number, now() * 1000, &server, "agent agent1.test", fact)).to_vec()
    };
    let new = forged(&identity, "agent1.test");
    let member = Fact::Member(trust::Member {
        name: "agent1.test".into(),
        role: "agent".into(),
        identity: identity.public().unwrap().spki().into(),
        ..trust::Member::default()
    });
    let own_entry = |agent: &str| {
        let is_own = |bytes: &&Vec<u8>| {
            let signed: Signed = decode(&Bytes::from((*bytes).clone())).unwrap();
            let record: trust::Record = decode(&signed.payload).unwrap();
            let Some(trust::Recorded::Entry(entry)) = record.what else { return false };
            matches!(entry.fact, Some(Fact::Sealing(sealing)) if sealing.name == agent)
        };
        good.iter().find(is_own).unwrap().clone()
    };
    for (what, rows) in [
        ("a new sealing key", vec![written(next, fact(new.clone()))]),
        ("with a new identity key that signs it", vec![written(next, member), written(next + 1, fact(new))]),
        ("another agent's rows", vec![own_entry("agent2.test")]),
        ("an older valid key", vec![own_entry("agent1.test")]),
    ] {
        let connection = Connection::open(&database).unwrap();
        for (number, row) in (next..).zip(&rows) {
            connection.execute("INSERT INTO log (number, entry) VALUES (?, ?)", params![number, row]).unwrap();
        }
        drop(connection);
        estate.group.server().spawn();
        assert!(!estate.group.server().wait_exit().success(), "{what}");
        estate.group.server().wait_event(40066);
        let connection = Connection::open(&database).unwrap();
        connection.execute("DELETE FROM log WHERE number >= ?", [next]).unwrap();
    }
    // The control: as it was, it is read; the table is right again; and what is sent is for the agent's own key.
    assert_eq!(log(), good);
    estate.group.server().start();
    let shown = || estate.group.sql::<Vec<u8>>("SELECT sealing FROM member WHERE name = 'agent1.test'").remove(0);
    assert_eq!(hex(&shown()), own);
    drop(gateway);
    estate.group.agent(0).stop();
    estate.group.gateway(0).start();
    estate.group.agent(0).start();
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    assert!(accounts(estate.group.agent(0)).iter().all(|data| hex(&data.key) == own));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_deleted_certificate_is_made_again() {
    let mut estate = Estate::lay(Group::builder(), 1);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.watch(&["agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let config = estate.group.agent(0).config();
    let first = sealing_keys(&config);
    assert_eq!(first.len(), 1);
    assert!(estate.group.agent(0).wait_event(7006).text.contains(&first[0]));

    estate.group.agent(0).stop();
    fs::remove_dir_all(estate.group.agent(0).state().join("sealing")).unwrap();
    assert!(sealing_keys(&config).is_empty(), "the control: it is gone");
    estate.meeting.forget("agent1.test");
    estate.group.gateway(0).stop();
    estate.group.agent(0).start();
    // What was here is still used, with nobody to ask; and there is a new key without anybody's doing.
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
    let second = sealing_keys(&config);
    assert!(second.len() == 1 && second != first);
    estate.group.gateway(0).start();
    for number in [7006, 40006] {
        assert!(estate.group.agent(0).wait_event(number).text.contains(&second[0]), "{number}");
    }
    wait::until("the account is sealed to the new key", LIMIT, || {
        let sent = accounts(estate.group.agent(0));
        sent.iter().all(|data| hex(&data.key) == second[0]).then_some(())
    });
    let (sent, opener) = (accounts(estate.group.agent(0)), opener(&mut estate.group, 0));
    let opened = openssl(&estate.group, &opener, &sent[0]).expect("OpenSSL opens it with the new key");
    assert!(opened.ends_with(PASSWORD.as_bytes()));
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    // One that was only damaged is the same.
    estate.group.agent(0).stop();
    let key = estate.group.agent(0).state().join("sealing").join(format!("{}.key", second[0]));
    scratch::write(&key, "nonsense", 0o600);
    estate.group.agent(0).start();
    assert!(estate.group.agent(0).wait_event(40182).text.contains(&second[0]));
    estate.update(PASSWORD);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));
}

#[test]
fn a_gateway_that_keeps_every_byte_learns_no_password() {
    // Made here: a text of this program stands in the program.
    let password = format!("{:032x}", u128::from_be_bytes(random()));
    let decoy = format!("decoy-{:032x}", u128::from_be_bytes(random()));
    let mut estate = Estate::lay(Group::builder().agents(2).tapped(), 2);
    estate.group.start();
    let before = Search::of("the password", password.as_bytes());
    // It is given while the gateway looks, and used again and again.
    estate.account(&password, "agent1.test");
    let script = r#"secret=$(cat "$CREDENTIALS_DIRECTORY/password")
                    echo "$$" >"$1.new" && mv "$1.new" "$1"
                    while [ ! -e "$1-go" ]; do sleep 0.02; done
                    printf 'CRITICAL %s, %s\n' "$secret" "$(printf ann:%s "$secret" | base64 -w0)"
                    exit 2"#;
    estate.check("agent1.test", "web", script);
    wait::until("the plugin runs", LIMIT, || estate.meeting.said("agent1.test"));
    // The control: whoever uses it has it, for as long as it is used. The agent takes it out of what the plugin says.
    before.memory(estate.group.agent(0).pid()).finds_it();

    let places: Vec<_> = [estate.group.folder().to_owned()].into();
    let gateway = estate.group.gateway(0).pid();
    before.memory(gateway).finds_nothing();
    before.files(&places).finds_nothing();
    for child in ["agent1.test", "agent2.test", "gw1.test"] {
        before.tap(child, estate.group.tap(child)).finds_nothing();
    }
    // Others know it no better: neither the server, once it rests there, nor an agent that it is not for.
    before.memory(estate.group.server().pid()).finds_nothing();
    before.memory(estate.group.agent(1).pid()).finds_nothing();

    // The plugin says it, plain and encoded. What comes of that at the server has it no more, nor who carried it there.
    fs::write(estate.meeting.path().join("agent1.test-go"), "").unwrap();
    let said =
        wait::until("the server has heard of it", LIMIT, || estate.group.sql::<String>("SELECT text FROM alert").pop());
    assert_eq!(said, "CRITICAL ***, ***");
    before.memory(gateway).finds_nothing();
    before.files(&places).finds_nothing();
    for child in ["agent1.test", "gw1.test"] {
        before.tap(child, estate.group.tap(child)).finds_nothing();
    }
    before.memory(estate.group.server().pid()).finds_nothing();

    // When the plugin has ended it is nowhere any more.
    estate.group.done(&["pack", "remove", "web-agent1"]);
    wait::until("the plugin has ended", LIMIT, || estate.helper.processes().is_empty().then_some(()));
    wait::until("the agent has forgotten it", LIMIT, || {
        before.memory(estate.group.agent(0).pid()).findings.is_empty().then_some(())
    });
    before.files(&places).finds_nothing();

    // The control of the search: what the gateway has in its memory, and what lies there, it finds.
    let control = Search::of("the decoy", decoy.as_bytes());
    let config = estate.group.gateway(0).config();
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("# {decoy}\n{text}")).unwrap();
    control.files(&places).finds_it();
    estate.group.gateway(0).stop();
    fs::write(&config, &text).unwrap();
    let folder = estate.group.gateway(0).state().join(&decoy);
    fs::create_dir(&folder).unwrap();
    control.files(&places).finds_it();
    fs::remove_dir(&folder).unwrap();
    let runtime = estate.group.gateway(0).runtime().join(&decoy).display().to_string();
    fs::write(&config, text.replacen("runtime_dir = ", &format!("runtime_dir = {runtime:?} # "), 1)).unwrap();
    estate.group.gateway(0).spawn();
    wait::until("the gateway has the decoy", LIMIT, || {
        (!control.memory(estate.group.gateway(0).pid()).findings.is_empty()).then_some(())
    });
}
