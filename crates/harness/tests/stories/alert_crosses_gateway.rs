//! A real plugin on a real agent finds trouble; the alert stands in the server's database once, whatever the gateway
//! does meanwhile, and closes when the trouble is over.

use std::time::Duration;

use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::wait;

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

fn json(group: &Group, arguments: &[&str]) -> Value {
    let output = group.wardline(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_alert_crosses_the_gateway_once() {
    let mut group = Group::builder().pack("base", "").lay();
    let (state, pack) = switch(group.folder());
    group.write_pack("base", &pack);
    group.start();
    group.agent(0).wait_event(40005);
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM alert"), [0]);

    set(&state, "2");
    let alert =
        wait::until("an open alert", LIMIT, || json(&group, &["-o", "json", "alert", "list"])[0].as_object().cloned());
    assert_eq!(alert["monitor"], "base/switch");
    assert_eq!(alert["agent"], "agent1.test");
    assert_eq!(alert["severity"], "critical");
    assert_eq!(alert["text"], "SWITCH says 2");

    // The gateway is killed while the trouble lasts; it comes back, and nothing is doubled.
    group.gateway(0).kill9();
    let mark = group.agent(0).mark();
    group.gateway(0).start();
    group.agent(0).wait_event_since(mark, 40005);

    set(&state, "0");
    wait::until("the alert is closed", LIMIT, || {
        (group.sql::<i64>("SELECT count(*) FROM alert WHERE state = 255") == [1]).then_some(())
    });
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM alert"), [1]);

    // Both ends of both hops measured the same.
    let topology = wait::until("both hops measured by both ends", LIMIT, || {
        let topology = json(&group, &["-o", "json", "topology"]);
        let hops = topology["hops"].as_array().unwrap();
        (hops.len() == 2 && hops.iter().all(|hop| hop["agree"] == true)).then_some(topology)
    });
    for hop in topology["hops"].as_array().unwrap() {
        for end in hop["ends"].as_array().unwrap() {
            assert_eq!(end["version"], "TLSv1_3");
            assert_eq!(end["exchange"], "X25519MLKEM768");
            assert_eq!(end["mechanism"], "wardline-cert/1");
        }
    }
}
