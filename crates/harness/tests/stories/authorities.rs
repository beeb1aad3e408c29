//! What certificates come from lives and ends while everything runs: the issuing CA rolls, the duty certificate is made
//! anew, and what was revoked is worth nothing from that moment on, while whoever was meant comes home by itself.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::Value;
use wardline_harness::group::{Builder, Group};
use wardline_harness::hostile::{self, Peer};
use wardline_harness::pki::Credential;
use wardline_harness::program::succeeds;
use wardline_harness::{Daemon, Log, private, program, wait};
use wardline_proto::message::{Reason, Refusal, decode};
use wardline_proto::{Kind, Role};
use wardline_secrets::signature::sha256;
use wardline_secrets::tls;

/// Several lives of a certificate.
const LIMIT: Duration = Duration::from_secs(60);
/// What "within seconds" is on a busy machine.
const SECONDS: Duration = Duration::from_secs(30);

/// A group whose agents follow one log.
struct Watched {
    group: Group,
    log: Log,
    agents: Vec<String>,
}

impl Watched {
    fn lay(builder: Builder, agents: usize) -> Self {
        let (group, log) = builder.lay_with_log();
        Self { group, log, agents: (1..=agents).map(|i| format!("agent{i}.test")).collect() }
    }

    fn start(builder: Builder, agents: usize) -> Self {
        let mut watched = Self::lay(builder, agents);
        watched.group.start();
        watched.write(1);
        watched.arrived();
        watched
    }

    fn write(&self, lines: usize) {
        self.log.go_on(lines);
    }

    /// Waits until the database holds every line of every agent once, in order.
    #[track_caller]
    fn arrived(&self) {
        self.agents.iter().for_each(|agent| self.group.wait_texts_of(agent, &self.log.lines()));
    }

    /// `wardline ca list`.
    #[track_caller]
    fn issuers(&self) -> Vec<Issuer> {
        self.group.json(&["ca", "list"]).as_array().unwrap().iter().map(Issuer::read).collect()
    }

    /// The one in use, which is the newest.
    #[track_caller]
    fn issuer(&self) -> Issuer {
        let issuers = self.issuers();
        let in_use: Vec<_> = issuers.iter().filter(|issuer| issuer.in_use).collect();
        assert_eq!(in_use, [issuers.last().unwrap()]);
        issuers.last().unwrap().clone()
    }

    /// Everybody's process.
    fn processes(&mut self) -> Vec<u32> {
        let agents = 0..self.agents.len();
        let mut processes = vec![self.group.server().pid(), self.group.gateway(0).pid()];
        processes.extend(agents.map(|index| self.group.agent(index).pid()));
        processes
    }

    /// Waits until the newest certificate of every member is of the newest CA, while lines are written.
    #[track_caller]
    fn everybody_has_one_of_the_newest(&mut self, members: u64) {
        wait::until("everybody has a certificate of the newest CA", LIMIT, || {
            self.write(20);
            let issuers = self.issuers();
            let (newest, older) = issuers.split_last().unwrap();
            (newest.members == members && older.iter().all(|issuer| issuer.members == 0)).then_some(())
        });
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Issuer {
    key: String,
    in_use: bool,
    members: u64,
}

impl Issuer {
    fn read(shown: &Value) -> Self {
        let key = shown["key"].as_str().unwrap().to_owned();
        Self { key, in_use: shown["in_use"].as_bool().unwrap(), members: shown["members"].as_u64().unwrap() }
    }
}

fn chain(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).map(Result::unwrap).collect()
}

/// The id of the key of the CA that stands behind the channel certificate on disk.
fn issued_by(daemon: &Daemon) -> String {
    let chain = chain(&fs::read(daemon.state().join("channel.pem")).unwrap());
    tls::facts(&chain[1..]).unwrap().0.to_string()
}

/// SHA-256 of the channel certificate on disk.
fn certificate(daemon: &Daemon) -> String {
    let chain = chain(&fs::read(daemon.state().join("channel.pem")).unwrap());
    sha256(&[&chain[0]]).0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_issuing_ca_rolls_under_load() {
    let mut watched = Watched::start(Group::builder().agents(2).tapped().channel_lifetime("12s"), 2);
    let first = watched.issuer();
    assert_eq!(first.members, 4);
    let before = watched.processes();
    let group = &mut watched.group;
    let marks = [group.server().mark(), group.gateway(0).mark(), group.agent(0).mark(), group.agent(1).mark()];

    watched.group.done(&["ca", "rotate"]);
    wait::until("somebody has a certificate of the second CA", LIMIT, || {
        watched.write(20);
        (watched.issuer().members > 1).then_some(())
    });
    watched.group.done(&["ca", "rotate"]);
    watched.everybody_has_one_of_the_newest(4);
    let newest = watched.issuer();
    assert_eq!((watched.issuers().len(), watched.issuers()[0].key == first.key), (3, true));
    watched.arrived();
    // Nobody was refused, and the sessions that stood still stand.
    let group = &mut watched.group;
    let events = [
        group.server().events_since(marks[0]),
        group.gateway(0).events_since(marks[1]),
        group.agent(0).events_since(marks[2]),
        group.agent(1).events_since(marks[3]),
    ];
    let said = |number| events.concat().into_iter().filter(|event| event.number == number).collect::<Vec<_>>();
    for number in [20000, 20002, 20067, 20070, 20071, 20072, 40002, 40041, 40051, 40062] {
        assert_eq!(said(number), [], "{number}");
    }
    let acts: Vec<_> = said(40090).into_iter().map(|event| event.text).collect();
    assert!(acts.len() == 2 && acts.iter().all(|text| text.contains("by operator ")), "{acts:?}");

    // New sessions show the new certificates, each the one that was there when it began.
    let mut members = BTreeSet::new();
    for child in ["gw1.test", "agent1.test", "agent2.test"] {
        watched.group.tap(child).cut();
    }
    wait::until("three hops by certificates of the newest CA at every end", LIMIT, || {
        watched.write(1);
        let group = &mut watched.group;
        let shown = group.certificates(3);
        members.extend([certificate(group.server()), certificate(group.gateway(0))]);
        members.extend([certificate(group.agent(0)), certificate(group.agent(1))]);
        (shown.len() == 6 && shown.iter().all(|hash| members.contains(hash))).then_some(())
    });
    let group = &mut watched.group;
    assert_eq!(issued_by(group.server()), newest.key);
    assert_eq!([issued_by(group.gateway(0)), issued_by(group.agent(0))], [newest.key.clone(), newest.key.clone()]);
    assert_eq!(watched.processes(), before);

    // Who joins now has one of it, too.
    let token = watched.group.token(&["--role", "agent", "--name", "agent9.test"]);
    let mut newcomer = watched.group.newcomer("agent9.test");
    let parent = watched.group.server().parent();
    succeeds(&newcomer.join(&parent, &token));
    assert_eq!(issued_by(&newcomer), newest.key);
    newcomer.start();
    newcomer.wait_event(40005);
    newcomer.stop();

    // Without the root's key there is no new one, and nothing changes.
    let folder = watched.group.server().state().to_owned();
    fs::rename(folder.join("root.key"), watched.group.folder().join("root.key")).unwrap();
    let files = || ["issuing.pem", "issuing.key"].map(|name| fs::read(folder.join(name)).unwrap());
    let kept = files();
    let output = watched.group.wardline(&["ca", "rotate"]);
    let said = program::said(&output);
    assert!(output.status.code() == Some(1) && said.contains("root.key") && said.contains("40091"), "{said}");
    assert_eq!((watched.issuer().key, watched.issuers().len(), files()), (newest.key.clone(), 3, kept));

    // The next start goes on with the newest.
    watched.group.server().restart();
    assert_eq!((watched.issuer().key, watched.issuers().len()), (newest.key.clone(), 3));
    watched.write(1);
    watched.arrived();
}

#[test]
fn what_ends_soon_is_made_anew_by_itself() {
    let mut watched = Watched::lay(Group::builder().agents(2).channel_lifetime("10s"), 2);
    // Half a minute of life, of which a third is left in a second or two.
    let (from, now) = (SystemTime::now() - Duration::from_secs(20), SystemTime::now());
    let folder = watched.group.server().state().to_owned();
    let ends = now + Duration::from_secs(12);
    watched.group.authority().duty_until("srv1.test", from, ends).write(&folder, "duty");
    watched.group.authority().issuing_until(from, now + Duration::from_secs(22)).write(&folder, "issuing");
    let duty_key = private::read(&folder.join("duty.key"));
    let old = tls::facts(&chain(&fs::read(folder.join("issuing.pem")).unwrap())).unwrap().0.to_string();
    watched.group.start();
    wait::until("those that were laid there are entered, and then made anew", LIMIT, || {
        let events = watched.group.server().events();
        [40090, 40092].iter().all(|of| events.iter().filter(|event| event.number == *of).count() == 2).then_some(())
    });
    assert_ne!(watched.issuer().key, old);
    watched.everybody_has_one_of_the_newest(4);
    wait::until("the old duty certificate has ended", LIMIT, || {
        watched.write(1);
        (SystemTime::now() > ends + Duration::from_secs(1)).then_some(())
    });
    // Answers are believed by the new certificate of the same key, and so is who lets hosts in.
    watched.group.agent(0).restart();
    watched.group.agent(0).wait_event(40005);
    watched.arrived();
    let token = watched.group.token(&["--role", "agent", "--name", "agent9.test"]);
    let newcomer = watched.group.newcomer("agent9.test");
    let parent = watched.group.server().parent();
    succeeds(&newcomer.join(&parent, &token));
    assert_eq!(private::read(&folder.join("duty.key")), duty_key);
    let pin = watched.group.authority().pin();
    watched.group.done(&["keys", "log", "verify", "--pin", &pin]);
}

/// A session of who has a copy of a channel key and certificate, and nothing else.
fn copy(credential: &Credential, own: &str, daemon: &Daemon, role: Role) -> Peer {
    Peer::join(hostile::listen(daemon), credential, own, &format!("{role} {}", daemon.name()))
}

#[track_caller]
fn is_refused(mut copy: Peer) {
    let refusal: Refusal = decode(&copy.wait_for(Kind::Refusal, 0)).unwrap();
    assert_eq!(refusal.reason(), Reason::Certificate);
    copy.wait_closed();
}

#[test]
fn a_revoked_certificate_is_cut_off_and_its_host_comes_home() {
    let mut watched = Watched::start(Group::builder().direct(1), 2);
    let before = watched.processes();
    let stolen = ["agent1.test", "agent2.test", "gw1.test"].map(|name| watched.group.credential(name));
    // The control: until then, a copy is served.
    copy(&stolen[1], "agent agent2.test", watched.group.server(), Role::Server).wait_for(Kind::Way, 0);
    copy(&stolen[2], "gateway gw1.test", watched.group.server(), Role::Server).wait_for(Kind::Way, 0);
    watched.write(1);
    watched.arrived();

    // An agent behind a gateway, one that is behind none, and the gateway.
    for (index, name) in [(0, "agent1.test"), (1, "agent2.test"), (2, "gw1.test")] {
        let host = |group: &mut Group| if index < 2 { group.agent(index).mark() } else { group.gateway(0).mark() };
        let (mark, server) = (host(&mut watched.group), watched.group.server().mark());
        watched.group.done(&["ca", "revoke", name]);
        watched.write(1);
        let host = if index < 2 { watched.group.agent(index) } else { watched.group.gateway(0) };
        wait::until(&format!("{name} is cut off, and has a new certificate"), SECONDS, || {
            let events = host.events_since(mark);
            let cut = events.iter().any(|event| event.number == 20070 && event.text.contains("revoked"));
            (cut && events.iter().any(|event| event.number == 20053)).then_some(())
        });
        let cut = watched.group.server().wait_event_since(server, 20000);
        assert!(cut.text.contains(name) && cut.text.contains("its certificate was revoked"), "{}", cut.text);
        watched.group.server().wait_event_since(server, 40093);
        watched.write(1);
        watched.arrived();
    }

    let group = &mut watched.group;
    is_refused(copy(&stolen[1], "agent agent2.test", group.server(), Role::Server));
    is_refused(copy(&stolen[2], "gateway gw1.test", group.server(), Role::Server));
    // A gateway takes it, and hears from the server that it should not.
    is_refused(copy(&stolen[0], "agent agent1.test", group.gateway(0), Role::Gateway));
    watched.write(1);
    watched.arrived();
    assert_eq!(watched.processes(), before);
    let output = watched.group.wardline(&["ca", "revoke", "srv1.test"]);
    assert_eq!(output.status.code(), Some(2), "{}", program::said(&output));
    let output = watched.group.wardline(&["ca", "revoke", "nobody.test"]);
    assert_eq!(output.status.code(), Some(3), "{}", program::said(&output));
}

#[test]
fn an_issuing_ca_that_was_stolen_is_worth_nothing_once_it_was_rolled() {
    let mut watched = Watched::start(Group::builder().gateways(2).chained().direct(1), 2);
    let before = watched.processes();
    let stolen = ["agent2.test", "gw1.test"].map(|name| watched.group.credential(name));
    copy(&stolen[0], "agent agent2.test", watched.group.server(), Role::Server).wait_for(Kind::Way, 0);
    watched.write(1);
    watched.arrived();
    watched.group.done(&["ca", "rotate", "--revoke"]);
    // So do those behind a gateway that is itself behind another.
    watched.everybody_has_one_of_the_newest(5);
    watched.arrived();
    let group = &mut watched.group;
    is_refused(copy(&stolen[0], "agent agent2.test", group.server(), Role::Server));
    is_refused(copy(&stolen[1], "gateway gw1.test", group.server(), Role::Server));
    let minted = group.authority().channel("agent2.test", Role::Agent);
    is_refused(copy(&minted, "agent agent2.test", group.server(), Role::Server));
    watched.write(1);
    watched.arrived();
    assert_eq!(watched.processes(), before);
}
