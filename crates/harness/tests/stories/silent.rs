//! An agent that is not heard any more is grey: the list says so and why, and one alert is open until it is heard again.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::wait;

const LIMIT: Duration = Duration::from_secs(60);
const HEARTBEAT: Duration = Duration::from_secs(1);
const AGENT: &str = "agent1.test";

/// How the command line shows an agent.
fn shown(group: &Group, agent: &str) -> (String, Value) {
    let table = group.done(&["agent", "show", agent]);
    let state = table.lines().nth(1).unwrap().split_whitespace().nth(1).unwrap().to_owned();
    (state, group.json(&["agent", "show", agent]))
}

/// Waits until an agent is grey, and the list says this about it.
#[track_caller]
fn wait_grey(group: &Group, reason: &str) {
    wait::until(&format!("{AGENT} is grey: {reason}"), LIMIT, || {
        let (state, agent) = shown(group, AGENT);
        (state == "grey" && agent["grey"].as_str()?.contains(reason)).then_some(())
    });
    assert!(group.done(&["agent", "list"]).contains(reason));
}

/// Waits until it is heard again, and nothing is open about it.
#[track_caller]
fn wait_well(group: &Group) {
    wait::until(&format!("{AGENT} is heard"), LIMIT, || {
        let well = shown(group, AGENT).0 == "connected" && alerts(group, &["alert", "list"]).is_empty();
        well.then_some(())
    });
}

/// The alerts that are listed, about heartbeats and anything else.
fn alerts(group: &Group, arguments: &[&str]) -> Vec<Value> {
    group.json(arguments).as_array().unwrap().clone()
}

/// Waits until the other agent was heard for so long.
#[track_caller]
fn while_heard(group: &Group, time: Duration) {
    let seen = || group.sql::<i64>("SELECT last_seen FROM agent WHERE name = 'agent2.test'")[0];
    let until = seen() + i64::try_from(time.as_millis()).unwrap();
    wait::until("agent2.test is heard", LIMIT, || (seen() >= until).then_some(()));
}

#[test]
fn an_agent_that_falls_silent_is_grey_and_says_why() {
    let mut group = Group::builder().direct(1).heartbeat("1s").start();
    wait::until("both are heard", LIMIT, || (group.sql::<i64>("SELECT count(*) FROM agent") == [2]).then_some(()));

    // Who is heard is not grey, nor who misses two heartbeats.
    while_heard(&group, HEARTBEAT * 5);
    group.agent(0).signal(Signal::SIGSTOP);
    while_heard(&group, HEARTBEAT * 2);
    group.agent(0).signal(Signal::SIGCONT);
    while_heard(&group, HEARTBEAT * 3);
    assert_eq!((shown(&group, AGENT).0.as_str(), alerts(&group, &["alert", "list", "--all"]).len()), ("connected", 0));

    // It hangs; its session stands.
    let begin = Instant::now();
    group.agent(0).signal(Signal::SIGSTOP);
    wait_grey(&group, "its session by gw1.test stands, but the agent hangs");
    assert!(begin.elapsed() > HEARTBEAT * 3, "three may be missed");
    let event = group.server().wait_event(20022);
    assert!(event.text.contains(AGENT), "{}", event.text);
    while_heard(&group, HEARTBEAT * 5);
    let open = alerts(&group, &["alert", "list"]);
    assert_eq!((open.len(), &open[0]["monitor"], &open[0]["agent"]), (1, &"wardline/heartbeat".into(), &AGENT.into()));
    assert!(open[0]["text"].as_str().unwrap().starts_with("heartbeat missing"));
    assert_eq!(shown(&group, "agent2.test").0, "connected", "the other one is heard");
    group.agent(0).signal(Signal::SIGCONT);
    wait_well(&group);
    group.server().wait_event(20020);

    // Its gateway is away; nobody can say more about what is behind it.
    group.gateway(0).kill9();
    wait_grey(&group, "no gateway that it may come by is connected: gw1.test");
    group.gateway(0).start();
    wait_well(&group);

    // It is off. A server that is started meanwhile knows it, and raises nothing twice.
    group.agent(0).stop();
    wait_grey(&group, "or cannot reach gw1.test");
    let open = alerts(&group, &["alert", "list"]);
    group.server().restart();
    wait_grey(&group, "it has no session");
    assert_eq!(alerts(&group, &["alert", "list"]), open);
    group.agent(0).start();
    wait_well(&group);

    // One alert for each time, and a removed agent is missed by nobody.
    let all = alerts(&group, &["alert", "list", "--all"]);
    assert!(all.len() == 3 && all.iter().all(|alert| alert["repeat_count"] == 0), "{all:?}");
    group.agent(0).stop();
    wait_grey(&group, "it has no session");
    group.done(&["agent", "remove", AGENT]);
    wait::until("the alert is closed", LIMIT, || alerts(&group, &["alert", "list"]).is_empty().then_some(()));
}
