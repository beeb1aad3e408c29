//! Several servers over one database: how a further one comes to the group's keys, that it goes on alone when the first is
//! lost for good, and that either serves every agent.

use std::fs;
use std::time::Duration;

use wardline_harness::asking::Asking;
use wardline_harness::estate::{Estate, hash};
use wardline_harness::group::Group;
use wardline_harness::{Daemon, hostile, scratch, wait};

const LIMIT: Duration = Duration::from_secs(40);
const SECOND: &str = "srv2.test";
const PASSWORD: &str = "Zauberwort-4711";
const NEXT: &str = "Zauberwort-4712";

/// Lets a host become a further server: the code of each terminal is typed at the other one.
fn joins(group: &mut Group, name: &str) -> Daemon {
    let host = group.further_server(name);
    let token = group.token(&["--role", "server", "--name", name]);
    let mut asking = Asking::server(&host, &group.server().parent(), &token);
    let approved = group.json(&["server", "approve", name, &asking.code()]);
    asking.wait_shown("type the confirmation code");
    nothing_of_the_group(&host);
    asking.types(approved["confirmation"].as_str().unwrap());
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");
    host
}

/// What was refused has left nothing but what protects whatever may come.
#[track_caller]
fn nothing_of_the_group(host: &Daemon) {
    let folder = host.state().parent().unwrap();
    let machine = ["lock", "machine.key", "protect"].map(|name| folder.join(name));
    let left = scratch::files(folder);
    assert!(left.iter().all(|path| machine.iter().any(|own| path.starts_with(own))), "{left:?}");
}

/// Gives an agent these servers as parents, in this order.
fn reports_to(agent: &Daemon, servers: &[(&str, String)]) {
    let parents = servers.iter().map(|(name, address)| {
        toml::Value::Table(
            [("name".to_owned(), (*name).into()), ("address".to_owned(), address.as_str().into())]
                .into_iter()
                .collect(),
        )
    });
    let parents = parents.collect();
    agent.change_membership(|membership| {
        membership.insert("parents".into(), toml::Value::Array(parents));
    });
}

fn servers(group: &Group) -> Vec<String> {
    let listed = group.json(&["server", "list"]);
    listed.as_array().unwrap().iter().map(|server| server["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_joining_server_gets_the_keys_and_the_first_may_die() {
    let mut estate = Estate::lay(Group::builder().gateways(0).agents(0).direct(1).postgres(true), 1);
    estate.group.start();
    estate.account(PASSWORD, "agent1.test");
    estate.watch(&["agent1.test"]);
    estate.meeting.wait("agent1.test", &hash(PASSWORD));

    let mut second = joins(&mut estate.group, SECOND);
    second.start();
    assert_eq!(servers(&estate.group), ["srv1.test", SECOND]);
    let first = hostile::listen(estate.group.server()).to_string();
    let other = hostile::listen(&second).to_string();
    estate.group.agent(0).stop();
    reports_to(estate.group.agent(0), &[("srv1.test", first), (SECOND, other)]);
    estate.group.agent(0).start();
    estate.group.agent(0).wait_event(40005);

    // The first is lost for good.
    let mark = estate.group.agent(0).mark();
    estate.group.server().kill9();
    fs::remove_dir_all(estate.group.server().state()).unwrap();
    estate.group.agent(0).wait_event_since(mark, 40005);
    estate.group.ask(&second);
    estate.update(NEXT);
    estate.meeting.wait("agent1.test", &hash(NEXT));
    assert_eq!(servers(&estate.group), ["srv1.test", SECOND]);
}
