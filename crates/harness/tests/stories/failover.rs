//! Who has several parents goes to the next when one is away, and comes back to the first; gateways stand behind
//! gateways. Whatever is killed on the way, every line arrives once, and its acknowledgement comes back.

use std::time::Duration;

use wardline_harness::group::{Builder, Group, sql};
use wardline_harness::{Daemon, Log, hostile, wait};

const LIMIT: Duration = Duration::from_secs(40);

/// A group whose agent follows a log.
struct Watched {
    group: Group,
    log: Log,
}

impl Watched {
    fn lay(builder: Builder) -> Self {
        let (group, log) = builder.lay_with_log();
        Self { group, log }
    }

    /// Waits until the database holds every line once, and the agent knows it.
    #[track_caller]
    fn arrived(&mut self) {
        self.group.wait_texts(&self.log.lines());
        let queue = self.group.agent(0).state().join("queue.db");
        let waiting = "SELECT (SELECT count(*) FROM batch) + (SELECT count(*) FROM open)";
        wait::until("an empty queue", LIMIT, || (sql::<i64>(&queue, waiting) == [0]).then_some(()));
    }

    /// Waits, and goes on writing meanwhile, until the agent is heard by this gateway.
    #[track_caller]
    fn heard_by(&mut self, gateway: &str) {
        wait::until(&format!("the agent is heard by {gateway}"), LIMIT, || {
            self.log.go_on(1);
            let agents = self.group.json(&["agent", "list"]);
            (agents[0]["session"]["via"] == gateway).then_some(())
        });
        self.log.go_on(1);
        self.arrived();
    }
}

/// Waits until a program has said this event behind a mark, with these words.
#[track_caller]
fn wait_said(daemon: &Daemon, mark: usize, number: u32, words: &[&str]) {
    wait::until(&format!("event {number} of {}: {words:?}", daemon.name()), LIMIT, || {
        let events = daemon.events_since(mark).into_iter();
        let mut events = events.filter(|event| event.number == number);
        events.find(|event| words.iter().all(|word| event.text.contains(word))).map(drop)
    });
}

/// How often who is with another parent tries the first.
fn look_often(membership: &mut toml::Table) {
    membership.insert("primary_check".into(), "200ms".into());
}

#[test]
fn an_agent_fails_over_and_comes_back() {
    let mut watched = Watched::lay(Group::builder().gateways(2).any_gateway());
    watched.group.agent(0).change_membership(look_often);
    watched.group.start();
    watched.heard_by("gw1.test");
    let process = watched.group.agent(0).pid();
    for _ in 0..2 {
        watched.group.gateway(0).kill9();
        watched.heard_by("gw2.test");
        watched.group.gateway(0).start();
        watched.heard_by("gw1.test");
    }
    // While the first is there, nobody needs the other.
    let mark = watched.group.agent(0).mark();
    watched.group.gateway(1).kill9();
    watched.heard_by("gw1.test");
    assert_eq!(watched.group.agent(0).moved(mark), None);
    watched.group.gateway(1).start();
    // By an operator's word it is not to come by the first, which refuses it; and then it is again, and leaves the other.
    watched.group.done(&["agent", "assign", "agent1.test", "--via", "gw2.test"]);
    watched.heard_by("gw2.test");
    watched.group.done(&["agent", "assign", "agent1.test", "--via", "gw1.test", "--via", "gw2.test"]);
    watched.heard_by("gw1.test");
    assert_eq!(watched.group.agent(0).pid(), process);
    assert_eq!(watched.group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}

#[test]
fn a_gateway_fails_over_and_comes_back() {
    let mut watched = Watched::lay(Group::builder().gateways(3));
    // The third goes behind both others, and the agent behind the third: as an operator moves them.
    let Watched { group, .. } = &mut watched;
    let addresses = [0, 1, 2].map(|gateway| hostile::listen(group.gateway(gateway)));
    group.server().start();
    for arguments in [
        &["gateway", "assign", "gw3.test", "--via", "gw1.test", "--via", "gw2.test"][..],
        &["agent", "assign", "agent1.test", "--via", "gw3.test"],
    ] {
        group.done(arguments);
    }
    group.gateway(2).change_membership(|membership| {
        look_often(membership);
        membership["parents"] = hostile::parents(&[("gw1.test", addresses[0]), ("gw2.test", addresses[1])]);
    });
    group.agent(0).change_membership(|membership| {
        membership["parents"] = hostile::parents(&[("gw3.test", addresses[2])]);
    });
    (0..3).for_each(|gateway| group.gateway(gateway).start());
    group.agent(0).start();

    wait_said(group.gateway(2), 0, 40004, &["gateway gw1.test"]);
    watched.heard_by("gw3.test");
    let agent = watched.group.agent(0).mark();
    for _ in 0..2 {
        let mark = watched.group.gateway(2).mark();
        watched.group.gateway(0).kill9();
        wait_said(watched.group.gateway(2), mark, 40004, &["gateway gw2.test"]);
        watched.heard_by("gw3.test");
        watched.group.gateway(0).start();
        wait_said(watched.group.gateway(2), mark, 40050, &["gw1.test", "gw2.test"]);
        // What it left is not needed any more.
        let mark = watched.group.gateway(2).mark();
        watched.group.gateway(1).kill9();
        watched.heard_by("gw3.test");
        assert_eq!(watched.group.gateway(2).moved(mark), None);
        watched.group.gateway(1).start();
    }
    // The agent's session stood all the time.
    let ended = watched.group.agent(0).events_since(agent).into_iter().find(|event| event.number == 20070);
    assert_eq!(ended, None);
    assert_eq!(watched.group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}

#[test]
fn a_gateway_behind_a_gateway_carries_both_ways() {
    let mut watched = Watched::lay(Group::builder().gateways(2).chained());
    watched.group.start();
    watched.heard_by("gw2.test");
    // The server sees both gateways, and what both ends of the hop between them have measured.
    let seen = |watched: &Watched, connected: [bool; 2], hop: bool| {
        wait::until("gateways and the hop between them are shown as they are", LIMIT, || {
            let topology = watched.group.json(&["topology"]);
            let service = |name| topology["services"].as_array()?.iter().find(|service| service["name"] == name);
            let found = ["gw1.test", "gw2.test"].map(|name| service(name).is_some_and(|s| s["connected"] == true));
            let mut hops = topology["hops"].as_array()?.iter();
            let between = hops.find(|hop| hop["from"] == "gw2.test" && hop["to"] == "gw1.test");
            (found == connected && between.is_some_and(|hop| hop["agree"] == true) == hop).then_some(())
        });
    };
    seen(&watched, [true, true], true);
    watched.group.gateway(1).kill9();
    seen(&watched, [true, false], false);
    watched.group.gateway(1).start();
    seen(&watched, [true, true], true);
    watched.group.gateway(0).kill9();
    seen(&watched, [false, false], false);
    watched.group.gateway(0).start();
    seen(&watched, [true, true], true);
    for killed in [&[0][..], &[1], &[0], &[1], &[0, 1], &[1, 0]] {
        killed.iter().for_each(|gateway| watched.group.gateway(*gateway).kill9());
        watched.log.go_on(1);
        for gateway in killed {
            watched.group.gateway(*gateway).start();
            watched.log.go_on(1);
        }
        watched.heard_by("gw2.test");
    }
    assert_eq!(watched.group.sql::<i64>("SELECT count(*) FROM gap"), [0]);
}
