//! A host is part of two management groups that have nothing to do with each other: each has its own keys, queue and
//! packs on it, and neither notices what becomes of the other.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use wardline_harness::asking::Asking;
use wardline_harness::group::Group;
use wardline_harness::program::{fails, said, succeeds};
use wardline_harness::{Daemon, Log, scratch, wait};

const LIMIT: Duration = Duration::from_secs(20);
const AGENT: &str = "agent1.test";
const KEYS: [&str; 3] = ["identity.key", "channel.key", "channel.pem"];
/// More than a queue of 256 KiB holds.
const MANY: usize = 4000;

/// The files of a folder, and what is in them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |path: PathBuf| match fs::read(&path) {
        // It was being replaced.
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        bytes => Some((path, bytes.unwrap())),
    };
    scratch::files(folder).into_iter().filter_map(read).collect()
}

/// Whether some bytes are anywhere in what a program keeps or has said.
fn holds(daemon: &Daemon, text: &str) -> bool {
    let files = files(daemon.config().parent().unwrap());
    files.values().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Waits for an event of a group behind a mark.
#[track_caller]
fn wait_event_of(agent: &Daemon, mark: usize, number: u32, group: &str) {
    wait::until(&format!("event {number} of {group}"), LIMIT, || {
        let of = |text: &str| text.contains(&format!("group {group}"));
        agent.events_since(mark).into_iter().find(|event| event.number == number && of(&event.text))
    });
}

fn lines(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix} {number:04} {}", "x".repeat(80))).collect()
}

/// Two groups, and a host that has joined both. In both there are a server and a gateway of the same names.
fn two_groups(pack: &str) -> (Group, Group) {
    let north = Group::builder().named("north").queue_budget("256KiB").pack("host", pack).lay();
    let south = Group::builder().named("south").gateways(1).agents(0).lay();
    (north, south)
}

/// A token by which the agent of one group can join the other, by its gateway.
fn token(group: &Group) -> PathBuf {
    group.token(&["--role", "agent", "--name", AGENT, "--via", "gw1.test"])
}

#[test]
fn an_agent_in_two_groups_keeps_them_apart() {
    let (mut north, mut south) = two_groups("");
    let [host, app, other] = ["host", "app", "other"].map(|name| Log::create(north.folder(), name));
    let check = "[[check]]\nname = \"load\"\nbuiltin = \"load\"\nevery = \"1s\"\ncritical = 0.0\n[check.monitor]\n";
    north.write_pack("host", &(host.pack("host") + check));
    for group in [&mut north, &mut south] {
        group.server().start();
        group.gateway(0).start();
        group.gateway(0).wait_event(40004);
    }

    // Joining the second changes nothing of the first.
    let of_north = north.agent(0).state().to_owned();
    let of_south = of_north.with_file_name("south");
    let before = files(&of_north);
    succeeds(&north.agent(0).join(&south.gateway(0).parent(), &token(&south)));
    assert!(before.len() > 5 && files(&of_north) == before);
    for name in KEYS.into_iter().chain(["root.pem", "membership.toml"]) {
        let [one, two] = [&of_north, &of_south].map(|folder| fs::read(folder.join(name)).unwrap());
        assert!(one != two, "{name}");
    }

    // What each server sends runs and reports there only; what the host's own file names, for both.
    let only = [lines("only-north", 3), lines("only-south", 3)];
    let both = lines("of-both", 3);
    for (group, log, name) in [(&north, &app, "pack-of-north"), (&south, &other, "pack-of-south")] {
        let file = group.folder().join("pack.toml");
        fs::write(&file, log.pack(name)).unwrap();
        group.done(&["pack", "apply", &file.display().to_string()]);
    }
    north.agent(0).start();
    for group in ["north", "south"] {
        wait_event_of(north.agent(0), 0, 40005, group);
        wait_event_of(north.agent(0), 0, 21025, group);
    }
    let (well, shown) = north.agent(0).doctor(None);
    let member =
        |group| move |line: &str| line.contains(&format!(" {group}: gw1.test")) && line.contains("is a member");
    assert!(well && ["north", "south"].into_iter().all(|group| shown.lines().any(member(group))), "{shown}");
    host.say(both.join("\n"));
    app.say(only[0].join("\n"));
    other.say(only[1].join("\n"));
    north.wait_texts_mixed(AGENT, &[&both[..], &only[0]].concat());
    south.wait_texts_mixed(AGENT, &[&both[..], &only[1]].concat());
    let alerts = [&north, &south]
        .map(|group| wait::until("an alert", LIMIT, || group.sql::<Vec<u8>>("SELECT id FROM alert").pop()));
    assert_ne!(alerts[0], alerts[1]);
    let epochs = [&north, &south].map(|group| group.sql::<Vec<u8>>("SELECT epoch FROM stream"));
    assert!(epochs[0].len() == 1 && epochs[1].len() == 1 && epochs[0] != epochs[1]);

    // Nothing of one is anywhere with the other; and the search finds what is there.
    for (group, own, others) in [(&mut north, "north", "south"), (&mut south, "south", "north")] {
        for marker in [format!("pack-of-{own}"), format!("only-{own}")] {
            assert!(holds(group.server(), &marker), "the search finds {marker}");
        }
        for marker in [format!("pack-of-{others}"), format!("only-{others}"), format!("group {others}")] {
            assert!(!holds(group.server(), &marker) && !holds(group.gateway(0), &marker), "{marker} at {own}");
        }
    }
    for (folder, own, others) in [(&of_north, "north", "south"), (&of_south, "south", "north")] {
        let document = fs::read_to_string(folder.join("OpsMgrConnector.Config.xml")).unwrap();
        assert!(document.contains(&format!("pack-of-{own}")) && !document.contains(&format!("pack-of-{others}")));
    }

    // One server is away, and its queue has no room left: the other group goes on. What is missing comes when it is back.
    south.server().kill9();
    let mark = north.agent(0).mark();
    let many = lines("while-south-is-away", MANY);
    host.say(many.join("\n"));
    north.wait_texts_mixed(AGENT, &[&both[..], &only[0], &many].concat());
    assert!(north.agent(0).events_since(mark).iter().all(|event| !event.text.contains("group north")));
    south.server().start();
    south.wait_texts_mixed(AGENT, &[&both[..], &only[1], &many].concat());

    // The keys of one group are worth nothing in the other: that group is left out, and the other goes on.
    assert!(north.agent(0).stop().success());
    let own = KEYS.map(|key| fs::read(of_south.join(key)).unwrap());
    for key in KEYS {
        fs::copy(of_north.join(key), of_south.join(key)).unwrap();
    }
    let mark = north.agent(0).mark();
    north.agent(0).start();
    wait_event_of(north.agent(0), mark, 40095, "south");
    wait_event_of(north.agent(0), mark, 40120, "south");
    let mut more = lines("while-south-is-broken", 3);
    host.say(more.join("\n"));
    north.wait_texts_mixed(AGENT, &[&both[..], &only[0], &many, &more].concat());
    assert!(north.agent(0).stop().success());
    // Where only the identity is another's, it is the server that notices.
    let [identity, channel @ ..] = KEYS;
    for (key, bytes) in channel.iter().zip(&own[1..]) {
        fs::write(of_south.join(key), bytes).unwrap();
    }
    let (mark, at_server) = (north.agent(0).mark(), south.server().mark());
    north.agent(0).start();
    assert!(south.server().wait_event_since(at_server, 40011).text.contains(AGENT));
    wait_event_of(north.agent(0), mark, 20070, "south");
    let again = lines("while-south-has-another-identity", 3);
    host.say(again.join("\n"));
    more.extend(again);
    north.wait_texts_mixed(AGENT, &[&both[..], &only[0], &many, &more].concat());
    south.wait_texts_mixed(AGENT, &[&both[..], &only[1], &many].concat());
    assert!(north.agent(0).stop().success());
    fs::write(of_south.join(identity), &own[0]).unwrap();
    north.agent(0).start();
    south.wait_texts_mixed(AGENT, &[&both[..], &only[1], &many, &more].concat());

    // Removed from one, it goes on in the other.
    let mark = north.agent(0).mark();
    north.done(&["agent", "remove", AGENT]);
    wait_event_of(north.agent(0), mark, 20070, "north");
    let last = lines("removed-from-north", 3);
    host.say(last.join("\n"));
    south.wait_texts_mixed(AGENT, &[&both[..], &only[1], &many, &more, &last].concat());
    north.wait_texts_mixed(AGENT, &[&both[..], &only[0], &many, &more].concat());

    // Whatever is said says of which group it is, but for what is about the program.
    for event in north.agent(0).events() {
        let named = ["group north", "group south"].iter().any(|group| event.text.contains(group));
        assert!(named || [40000, 40150].contains(&event.number), "{event:?}");
    }
    assert!(north.agent(0).stop().success());

    // With one group it is as it was: nobody is named, and what is broken ends it. With none left of two it ends, too.
    fs::remove_file(of_south.join("root.pem")).unwrap();
    let gone = of_north.join("root.pem");
    fs::rename(&gone, of_north.join("away.pem")).unwrap();
    north.agent(0).spawn();
    assert!(!north.agent(0).wait_exit().success());
    north.agent(0).wait_event(40121);
    fs::remove_dir_all(&of_south).unwrap();
    north.agent(0).spawn();
    assert!(!north.agent(0).wait_exit().success());
    let events = north.agent(0).events();
    assert!(events.len() == 1 && events[0].number == 20066 && !events[0].text.contains("group"), "{events:?}");
}

#[test]
fn a_second_group_is_joined_only_where_it_can_be_kept_apart() {
    let (mut north, mut south) = two_groups("[pack]\nname = \"host\"\n");
    let mut namesake = Group::builder().named("north").agents(0).lay();
    for group in [&mut south, &mut namesake] {
        group.start();
        group.gateway(0).wait_event(40004);
    }
    // Another group of the same name: refused before the token is used up, and the folder is as it was.
    let before = files(north.agent(0).state());
    let once = token(&namesake);
    let refused = north.agent(0).join(&namesake.gateway(0).parent(), &once);
    assert!(!refused.status.success(), "{}", said(&refused));
    let shown = said(&refused);
    assert!(shown.contains("the group is called north") && shown.contains("next: move that folder away"), "{shown}");
    assert!(files(north.agent(0).state()) == before);
    let (status, shown) = Asking::host(north.agent(0), &namesake.gateway(0).parent()).ended();
    assert!(!status.success() && shown.contains("the group is called north"), "by code: {shown}");
    assert!(files(north.agent(0).state()) == before);
    let elsewhere = namesake.newcomer(AGENT);
    let joined = elsewhere.join(&namesake.gateway(0).parent(), &once);
    assert!(joined.status.success(), "the token is as good as new: {}", said(&joined));

    // A gateway carries for one group.
    let by = south.server().parent();
    fails(
        &north.gateway(0).join(&by, &south.token(&["--role", "gateway", "--name", "gw1.test"])),
        "run another gateway beside it",
    );

    // The control: a group of another name is joined, and joined again; and one by code.
    let (by, twice) = (south.gateway(0).parent(), token(&south));
    for _ in 0..2 {
        succeeds(&north.agent(0).join(&by, &twice));
    }
    let mut west = Group::builder().named("west").gateways(0).agents(0).lay();
    west.start();
    let (by, pin) = (west.server().parent(), west.authority().pin());
    let mut asking = Asking::new("wardline-agent", &north.agent(0).config(), &["--parent", &by, "--pin", &pin]);
    west.done(&["agent", "approve", AGENT, &asking.code()]);
    let (status, shown) = asking.ended();
    assert!(status.success(), "{shown}");

    // The groups may stand in the configuration file, too.
    north.start();
    for group in ["north", "south", "west"] {
        wait_event_of(north.agent(0), 0, 40005, group);
    }
    assert!(north.agent(0).stop().success());
    let written = ["north", "south", "west"].map(|group| {
        let file = north.agent(0).state().with_file_name(group).join("membership.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::remove_file(file).unwrap();
        format!("\n[[group]]\n{}", text.replace("[[parents]]", "[[group.parents]]"))
    });
    let config = north.agent(0).config();
    fs::write(&config, fs::read_to_string(&config).unwrap() + &written.concat()).unwrap();
    let mark = north.agent(0).mark();
    north.agent(0).start();
    for group in ["north", "south", "west"] {
        wait_event_of(north.agent(0), mark, 40005, group);
    }
}
