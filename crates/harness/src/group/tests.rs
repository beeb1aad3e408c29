use super::*;
use toml::{Table, Value};

fn file(daemon: &Daemon) -> Table {
    std::fs::read_to_string(daemon.config()).unwrap().parse().unwrap()
}

fn at<'a>(file: &'a Table, path: &str) -> &'a Value {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    rest.split('.').filter(|key| !key.is_empty()).fold(&file[first], |value, key| match key.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[key],
    })
}

#[test]
fn everybody_knows_whom_it_should() {
    let mut group =
        Group::builder().gateways(2).agents(3).direct(1).written().pack("base", "[pack]\nname = \"base\"\n").lay();
    group.server().start();
    let parents = group.sql::<String>("SELECT name || ' ' || parents FROM member WHERE role = 'agent' ORDER BY name");
    for (parents, gateway) in parents.iter().zip(["gw1.test", "gw2.test", "gw1.test"]) {
        assert!(parents.contains(gateway), "{parents}");
    }
    assert!(!parents[3].contains("gw"), "{}", parents[3]);
    let (server, second) = (file(group.server()), file(group.gateway(1)));
    assert_eq!(at(&second, "group.0.parents.0.address"), &server["listen"]);
    let agents = [file(group.agent(1)), file(group.agent(3))];
    assert_eq!(at(&agents[0], "group.0.parents.0.address"), &second["listen"]);
    assert_eq!(at(&agents[0], "group.0.parents.0.name").as_str(), Some("gw2.test"));
    assert_eq!(at(&agents[1], "group.0.parents.0.name").as_str(), Some("srv1.test"));
    assert_eq!(at(&agents[0], "group.0.id").as_str(), Some(group.id().to_string().as_str()));
    let pack = at(&agents[0], "packs.0").as_str().unwrap();
    assert_eq!(std::fs::read_to_string(pack).unwrap(), "[pack]\nname = \"base\"\n");
}

#[test]
fn private_files_are_private() {
    let mut group = Group::builder().lay();
    let state = group.server().state().to_owned();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(state.parent().unwrap())), (0o700, 0o700));
    assert_eq!(mode(group.server().runtime()), 0o700);
    for key in ["identity.key", "channel.key", "duty.key"] {
        assert_eq!(mode(&state.join(key)), 0o600, "{key}");
    }
}

#[test]
fn connections_go_through_taps_where_asked() {
    let mut group = Group::builder().tapped().written().lay();
    let tap = group.tap("agent1.test").address().to_string();
    let (agent, gateway) = (file(group.agent(0)), file(group.gateway(0)));
    assert_eq!(at(&agent, "group.0.parents.0.address").as_str(), Some(tap.as_str()));
    assert_ne!(gateway["listen"].as_str(), Some(tap.as_str()));
}
