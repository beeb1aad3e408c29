//! A real plugin on a real agent finds trouble; the alert stands in the server's database once, whatever the gateway
//! does meanwhile, and closes when the trouble is over.

use std::time::Duration;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use wardline_harness::group::Group;
use wardline_harness::tap::Way;
use wardline_harness::wait;

use crate::slow_database::Queue;

const LIMIT: Duration = Duration::from_secs(20);

/// Says what the check is to find. Replaced as a whole: a plugin never reads half of it.
fn set(switch: &std::path::Path, code: &str) {
    let fresh = switch.with_extension("new");
    std::fs::write(&fresh, format!("{code}\n")).and_then(|()| std::fs::rename(&fresh, switch)).unwrap();
}

/// A check whose health is what a file says.
pub fn switch(folder: &std::path::Path) -> (std::path::PathBuf, String) {
    use std::os::unix::fs::PermissionsExt as _;
    let (state, plugin) = (folder.join("switch"), folder.join("check_switch"));
    set(&state, "0");
    let script = format!(
        "#!/bin/sh\nread -r code < {}\necho \"SWITCH says $code | code=$code\"\nexit \"$code\"\n",
        state.display()
    );
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let pack = format!(
        "[pack]\nname = \"base\"\n[[check]]\nname = \"switch\"\nprogram = [{:?}]\nevery = \"250ms\"\n[check.monitor]\n",
        plugin.display().to_string()
    );
    (state, pack)
}

#[test]
fn an_alert_crosses_the_gateway_once() {
    let mut group = Group::builder().tapped().pack("base", "").lay();
    let (state, pack) = switch(group.folder());
    group.write_pack("base", &pack);
    group.start();
    group.agent(0).wait_event(40005);
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM alert"), [0]);
    let queue = Queue::of(&mut group);
    let said = || -> Vec<u8> { queue.one("SELECT value FROM memory WHERE key = 'monitor/base/switch'") };
    let sent = |group: &Group, child: &str| group.tap(child).count(Way::Up);
    let unsent = || -> usize {
        let bytes = queue.one::<i64>("SELECT coalesce(sum(length(bytes)), 0) FROM batch");
        usize::try_from(bytes).unwrap()
    };
    // The agent has found something else than before, and all that it had to say about that has left this child.
    let tell = |group: &Group, code: &str, child: &str| {
        let (before, known) = (sent(group, child), said());
        set(&state, code);
        wait::until("the agent has noticed", LIMIT, || (said() != known).then_some(()));
        let goal = before + unsent();
        wait::until("what it says of it is sent", LIMIT, || (sent(group, child) >= goal).then_some(()));
    };
    wait::until("a first look", LIMIT, || (group.sql::<i64>("SELECT count(*) FROM state") == [1]).then_some(()));

    // The alert is in the server's memory, and not in its database, when the gateway is killed: the agent, which was
    // promised nothing, sends it again, and the server has it twice.
    let other = Connection::open(group.database()).unwrap();
    other.busy_timeout(LIMIT).unwrap();
    let mark = group.server().mark();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    tell(&group, "2", "gw1.test");
    group.server().wait_event_since(mark, 40020);
    let mark = group.agent(0).mark();
    group.gateway(0).kill9();
    let before = sent(&group, "gw1.test");
    group.gateway(0).start();
    group.agent(0).wait_event_since(mark, 40005);
    let goal = before + unsent();
    wait::until("it is sent again", LIMIT, || (sent(&group, "gw1.test") >= goal).then_some(()));
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM alert"), [0]);
    other.execute_batch("ROLLBACK").unwrap();

    let alert = wait::until("an open alert", LIMIT, || group.json(&["alert", "list"])[0].as_object().cloned());
    assert_eq!(alert["monitor"], "base/switch");
    assert_eq!(alert["agent"], "agent1.test");
    assert_eq!(alert["severity"], "critical");
    assert_eq!(alert["text"], "SWITCH says 2");
    // The trouble lasts: what was said once is not said at each look.
    let look_on = |group: &Group| {
        let looks = || group.sql::<i64>("SELECT count(*) FROM sample")[0];
        let goal = looks() + 4;
        wait::until("more looks", LIMIT, || (looks() >= goal).then_some(()));
    };
    look_on(&group);

    // The gateway dies with the news that the trouble is over.
    group.gateway(0).signal(Signal::SIGSTOP);
    tell(&group, "0", "agent1.test");
    group.gateway(0).kill9();
    group.gateway(0).start();
    wait::until("the alert is closed", LIMIT, || {
        (group.sql::<i64>("SELECT count(*) FROM alert WHERE state = 255") == [1]).then_some(())
    });
    look_on(&group);

    // Raised, closed, and nothing else.
    assert_eq!(group.sql::<i64>("SELECT change FROM alert_history ORDER BY alert, step"), [0, 3]);
    assert_eq!(group.sql::<i64>("SELECT repeat_count FROM alert"), [0]);
    for table in ["gap", "set_aside"] {
        assert_eq!(group.sql::<i64>(&format!("SELECT count(*) FROM {table}")), [0], "{table}");
    }

    // Both ends of both hops measured the same.
    for hop in group.hops(2) {
        for end in hop["ends"].as_array().unwrap() {
            assert_eq!(end["version"], "TLSv1_3");
            assert_eq!(end["exchange"], "X25519MLKEM768");
            assert_eq!(end["mechanism"], "wardline-cert/1");
        }
    }
}
