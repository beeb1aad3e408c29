//! Two servers over one database, under load, killed in turn: either serves every agent, and nothing is lost or doubled.

use std::time::Duration;

use wardline_harness::daemon::Event;
use wardline_harness::group::Group;
use wardline_harness::ids::{self, Log, Tally};
use wardline_harness::log::pack;
use wardline_harness::random::{Random, seeds};
use wardline_harness::{Daemon, wait};

use crate::federation::{joins, reports_to};
use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};

const LIMIT: Duration = Duration::from_secs(60);
/// Both follow the same file, and each has another server first.
const AGENTS: [&str; 2] = ["agent1.test", "agent2.test"];
const SEED: u64 = 23;
/// So many lines are written at once.
const BURST: u64 = 1500;

/// How many of an agent's lines are in the database.
fn stored_of(group: &Group, agent: &str) -> i64 {
    group.sql::<i64>(&format!(
        "SELECT count(*) FROM event JOIN agent ON agent.id = event.agent WHERE agent.name = '{agent}'"
    ))[0]
}

#[test]
fn a_second_server_serves_every_agent() {
    let mut group = Group::builder().gateways(0).agents(0).direct(2).postgres(true).pack("base", "").lay();
    let mut log = Log::create(&group.folder().join("app.log"), SEED);
    group.write_pack("base", &pack("base", log.path()));
    group.server().start();
    let mut second = joins(&mut group, "srv2.test");
    second.start();
    let both = [group.server().parent(), second.parent()];
    for agent in 0..2 {
        reports_to(group.agent(agent), &[&both[agent], &both[1 - agent]]);
        group.agent(agent).start();
    }

    // What is said at one server is known at the other: an agent there runs it.
    let file = group.write_pack("more", "[pack]\nname = \"more\"\n");
    for (agent, name) in AGENTS.iter().enumerate() {
        group.agent(agent).wait_event(40005);
        let mark = group.agent(agent).mark();
        group.done(&["pack", "apply", &file.display().to_string(), "--agents", name]);
        group.agent(agent).wait_event_since(mark, 21025);
    }

    for seed in 0..seeds(12).end.clamp(6, 200) {
        let mut random = Random::new(seed);
        log.append(BURST);
        let goal = stored(&group) + random.below(BURST);
        wait::until("some lines are stored, and some are not", LIMIT, || {
            if stored(&group) == log.written() * 2 {
                log.append(BURST);
            }
            (stored(&group) >= goal).then_some(())
        });
        let away: &mut Daemon = if seed % 2 == 0 { group.server() } else { &mut second };
        away.kill9();
        // Every agent is served by the one that is left.
        log.append(BURST);
        let expected = i64::try_from(log.written()).unwrap();
        for agent in AGENTS {
            let what = format!("seed {seed}: all lines of {agent} are stored");
            wait::until(&what, LIMIT, || (stored_of(&group, agent) >= expected).then_some(()));
        }
        let away: &mut Daemon = if seed % 2 == 0 { group.server() } else { &mut second };
        away.start();
    }
    wait_for_the_last_line(&group, &mut log, SEED, AGENTS.len());
    assert_each_line_once(&group, &log, &AGENTS);
    let written = i64::try_from(log.written()).unwrap();
    assert_eq!(group.sql::<i64>("SELECT number FROM stream"), [written, written]);
    // Each agent was acknowledged by both, and believed them.
    for agent in 0..2 {
        let events = group.agent(agent).events();
        assert!(events.iter().all(|event| event.number != 40010), "an acknowledgement was refused");
        for server in ["server srv1.test", "server srv2.test"] {
            let connected = |event: &Event| event.number == 40004 && event.text.contains(server);
            assert!(events.iter().any(connected), "agent {agent} was never with {server}");
        }
    }

    // What the comparison would have said.
    let mut arrived = group.event_texts(AGENTS[0]);
    arrived.remove(100);
    arrived.push(ids::line(SEED, 7));
    assert_eq!(log.tally(arrived), Tally { lost: vec![100], doubled: vec![7], invented: vec![] });
}
