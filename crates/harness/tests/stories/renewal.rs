//! Channel certificates are renewed while everything runs, and a host that was away for longer than its certificate was
//! valid comes home by itself, with its identity key and nothing else.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wardline_harness::daemon::Event;
use wardline_harness::group::{Builder, Group};
use wardline_harness::{Log, wait};
use wardline_proto::GroupId;
use wardline_secrets::signature::SigningKey;

/// Several lives of a certificate.
const LIMIT: Duration = Duration::from_secs(60);

/// A running group whose agent follows a log.
struct Watched {
    group: Group,
    log: Log,
}

impl Watched {
    fn new(builder: Builder) -> Self {
        let (mut group, log) = builder.lay_with_log();
        group.start();
        Self { group, log }
    }

    fn write(&self) {
        self.log.go_on(1);
    }

    /// Waits until the database holds every line once.
    #[track_caller]
    fn arrived(&self) {
        self.group.wait_texts(&self.log.lines());
    }
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    let mut watched = Watched::new(Group::builder().tapped().channel_lifetime("12s"));
    watched.write();
    watched.arrived();
    let old = watched.group.certificates(2);
    let Watched { group, .. } = &mut watched;
    let processes = |group: &mut Group| [group.server().pid(), group.gateway(0).pid(), group.agent(0).pid()];
    let before = processes(group);
    let marks = [group.agent(0).mark(), group.gateway(0).mark()];
    // The server's own is renewed, too; it says so as whoever issues.
    let server = group.server().mark();

    wait::until("agent, gateway and server have new certificates", LIMIT, || {
        watched.write();
        let group = &mut watched.group;
        let renewed = |events: Vec<Event>, number: u32, word: &str| {
            events.iter().any(|event| event.number == number && event.text.contains(word))
        };
        let all = renewed(group.agent(0).events_since(marks[0]), 20053, "channel.pem")
            && renewed(group.gateway(0).events_since(marks[1]), 20053, "channel.pem")
            && renewed(group.server().events_since(server), 40063, "server srv1.test");
        all.then_some(())
    });
    watched.arrived();
    // Sessions that stand go on over it.
    let Watched { group, .. } = &mut watched;
    let events = [group.agent(0).events_since(marks[0]), group.gateway(0).events_since(marks[1])].concat();
    assert!(events.iter().all(|event| event.number != 20070), "{events:?}");
    assert_eq!(watched.group.certificates(2), old);

    // New ones show the new certificates, at all four ends.
    watched.group.tap("gw1.test").cut();
    watched.group.tap("agent1.test").cut();
    wait::until("new certificates at every end", LIMIT, || {
        watched.write();
        watched.group.certificates(2).iter().all(|shown| !old.contains(shown)).then_some(())
    });
    watched.write();
    watched.arrived();
    assert_eq!(processes(&mut watched.group), before);
}

/// Waits until the newest certificate of the agent has ended.
fn wait_ended(group: &Group) {
    wait::until("the certificate has ended", LIMIT, || {
        let ends = group.sql::<i64>("SELECT not_after FROM member WHERE name = 'agent1.test'");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        (now > u64::try_from(ends[0]).unwrap()).then_some(())
    });
}

#[test]
fn an_agent_away_past_expiry_comes_home() {
    let mut watched = Watched::new(Group::builder().channel_lifetime("10s"));
    watched.write();
    watched.arrived();
    watched.group.agent(0).stop();
    wait_ended(&watched.group);

    // With another identity key it is nobody, whatever else it has.
    let path = watched.group.agent(0).state().join("identity.key");
    let identity = fs::read(&path).unwrap();
    let (_, other) = SigningKey::generate(GroupId(watched.group.id().into_bytes())).unwrap();
    fs::write(&path, other.as_bytes()).unwrap();
    let mark = watched.group.server().mark();
    watched.group.agent(0).start();
    watched.group.agent(0).wait_event(20051);
    wait::until("it is refused twice", LIMIT, || {
        let events = watched.group.agent(0).events();
        (events.iter().filter(|event| event.number == 40051).count() >= 2).then_some(())
    });
    let refused = watched.group.server().wait_event_since(mark, 40062);
    assert!(refused.text.contains("agent agent1.test"), "{}", refused.text);
    let events = watched.group.agent(0).events();
    assert!(events.iter().all(|event| ![20053, 40004, 40005].contains(&event.number)), "{events:?}");
    watched.group.agent(0).stop();

    // With its own it comes home by itself, and delivers.
    fs::write(&path, identity).unwrap();
    watched.write();
    watched.group.agent(0).start();
    watched.group.agent(0).wait_event(20051);
    watched.group.agent(0).wait_event(20053);
    watched.group.agent(0).wait_event(40005);
    watched.write();
    watched.arrived();
    // It goes on with it: the next start finds a certificate that is good.
    watched.group.agent(0).restart();
    watched.group.agent(0).wait_event(40005);
    let ended = watched.group.agent(0).events().into_iter().find(|event| event.number == 20051);
    assert_eq!(ended, None);
    watched.arrived();
}
