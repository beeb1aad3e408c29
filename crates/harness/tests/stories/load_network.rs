//! The network between an agent, its gateway and the server is cut, swallows packets in one direction or both, flaps; or
//! a program hangs. Both ends notice, and when it is over everything goes on by itself: every line arrives once, and
//! nothing is left behind.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wardline_harness::group::Group;
use wardline_harness::ids::{self, Log, Tally};
use wardline_harness::log::pack;
use wardline_harness::network::Fault;
use wardline_harness::{Daemon, Network, wait};

use crate::load_kills::{assert_each_line_once, stored, wait_for_the_last_line};

const LIMIT: Duration = Duration::from_secs(40);
const LOG_SEED: u64 = 17;
const BURST: u64 = 1000;
/// After so long each end takes a session for dead on which nothing comes.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);
/// By then both have said so, on a busy machine: of the one the other closes, too.
const NOTICED: Duration = Duration::from_secs(20);
/// A session that a program dialled has ended, as it says; and one that it accepted.
const ENDS: [u32; 2] = [20070, 40041];

/// A group on three hosts, with an agent that follows a log.
struct Estate {
    group: Group,
    network: Network,
    log: Log,
    /// How many descriptors each program has when all is well.
    descriptors: [usize; 3],
}

impl Estate {
    fn start() -> Self {
        let mut group = Group::builder().heartbeat("500ms").pack("base", "").lay();
        let mut log = Log::create(&group.folder().join("app.log"), LOG_SEED);
        group.write_pack("base", &pack("base", log.path()));
        let network = Network::of(&mut group, 1);
        let timeout = |file: &mut toml::Table| _ = file.insert("peer_timeout".into(), "1s".into());
        group.agent(0).change_membership(timeout);
        group.gateway(0).change_membership(timeout);
        group.start();
        wait_for_the_last_line(&group, &mut log, LOG_SEED, 1);
        group.hops(2);
        let mut estate = Self { group, network, log, descriptors: [0; 3] };
        // Where nothing is wrong nobody takes anybody for dead, however long nothing is said.
        let seen = |estate: &Self| estate.group.sql::<i64>("SELECT last_seen FROM agent")[0];
        let since = seen(&estate);
        let enough = i64::try_from(3 * PEER_TIMEOUT.as_millis()).unwrap();
        wait::until("heartbeats", LIMIT, || (seen(&estate) > since + enough).then_some(()));
        for host in 0..3 {
            let ended = estate.host(host).events().into_iter().find(|event| ENDS.contains(&event.number));
            assert_eq!(ended, None);
        }
        estate.descriptors = [0, 1, 2].map(|host| estate.host(host).descriptors());
        estate
    }

    /// The programs from the agent up.
    fn host(&mut self, index: usize) -> &mut Daemon {
        match index {
            0 => self.group.agent(0),
            1 => self.group.gateway(0),
            _ => self.group.server(),
        }
    }

    /// Writes lines, and returns while some of them are under way.
    fn load(&mut self) {
        let goal = stored(&self.group) + 1;
        self.log.append(BURST);
        wait::until("lines are under way", LIMIT, || {
            let stored = stored(&self.group);
            if stored == self.log.written() {
                self.log.append(BURST);
            }
            (stored >= goal && stored < self.log.written()).then_some(())
        });
    }

    /// Waits until both ends of a link have said behind these marks that their session has ended.
    fn noticed(&mut self, link: usize, marks: [usize; 3]) {
        for (host, event) in [(link, ENDS[0]), (link + 1, ENDS[1])] {
            let daemon = self.host(host);
            let what = format!("event {event} of {}", daemon.name());
            let said = || daemon.events_since(marks[host]).into_iter().find(|said| said.number == event);
            wait::until(&what, NOTICED, said);
        }
    }

    fn marks(&mut self) -> [usize; 3] {
        [0, 1, 2].map(|host| self.host(host).mark())
    }

    /// Waits until every line has arrived and all is as before: each hop once, and no descriptor more.
    fn recovered(&mut self, what: &str) {
        let begin = Instant::now();
        wait_for_the_last_line(&self.group, &mut self.log, LOG_SEED, 1);
        println!("{what}: everything is there after {:.1} s", begin.elapsed().as_secs_f32());
        self.group.hops(2);
        for host in 0..3 {
            let before = self.descriptors[host];
            let daemon = self.host(host);
            let back = || (daemon.descriptors() <= before).then_some(());
            wait::until(&format!("{what}: {} has {before} descriptors again", daemon.name()), LIMIT, back);
        }
        // The server reads from one gateway, which reads from it and from one agent.
        for (host, expected) in [(0, 1), (1, 2), (2, 1)] {
            let connections = connections(self.host(host).pid());
            assert_eq!(connections, expected, "{what}: connections of host {host}");
        }
    }

    /// What became of all lines; and what would have been said had one been lost, doubled or invented.
    fn assert_each_line_once(&self) {
        assert_each_line_once(&self.group, &self.log, &["agent1.test"]);
        let mut arrived = self.group.event_texts("agent1.test");
        arrived.remove(100);
        arrived.push(ids::line(LOG_SEED, 7));
        arrived.push(ids::line(LOG_SEED, self.log.written()));
        let invented = vec![ids::line(LOG_SEED, self.log.written())];
        assert_eq!(self.log.tally(arrived), Tally { lost: vec![100], doubled: vec![7], invented });
    }
}

/// How many TCP connections stand on the host that a process runs on.
fn connections(pid: u32) -> usize {
    let process = procfs::process::Process::new(i32::try_from(pid).unwrap()).unwrap();
    let connections = process.tcp().unwrap();
    connections.iter().filter(|connection| connection.state == procfs::net::TcpState::Established).count()
}

#[test]
fn a_cut_network_heals_without_loss() {
    let mut estate = Estate::start();
    for (link, fault) in [
        (0, Fault::Cut),
        (1, Fault::Cut),
        (0, Fault::Up),
        (1, Fault::Up),
        (0, Fault::Down),
        (1, Fault::Down),
        (0, Fault::BlackHole),
        (1, Fault::BlackHole),
    ] {
        estate.load();
        let marks = estate.marks();
        estate.network.hurt(link, fault);
        estate.log.append(BURST);
        estate.noticed(link, marks);
        estate.network.heal(link);
        estate.recovered(&format!("{fault:?} of link {link}"));
    }
    // Flapping: it is gone again and again before anybody notices, and then again as soon as a session stands.
    estate.load();
    for flap in 0..10 {
        estate.network.hurt(flap % 2, Fault::BlackHole);
        estate.log.append(BURST / 10);
        estate.network.heal(flap % 2);
    }
    for flap in 0..4 {
        let (link, marks) = (flap % 2, estate.marks());
        estate.network.hurt(link, Fault::BlackHole);
        estate.noticed(link, marks);
        estate.network.heal(link);
        estate.log.append(BURST / 10);
        let above = estate.host(link + 1);
        above.wait_event_since(marks[link + 1], 40040);
    }
    estate.recovered("flapping");
    estate.assert_each_line_once();
}

#[test]
fn a_program_that_hangs_is_given_up_and_goes_on_where_it_was() {
    let mut estate = Estate::start();
    for (host, links) in [(1, [0, 1].as_slice()), (2, &[1]), (0, &[0])] {
        estate.load();
        let marks = estate.marks();
        estate.host(host).signal(Signal::SIGSTOP);
        estate.log.append(BURST);
        // Of each of its links the other end.
        for link in links {
            let (other, event) = if *link == host { (host + 1, ENDS[1]) } else { (*link, ENDS[0]) };
            let daemon = estate.host(other);
            let said = || daemon.events_since(marks[other]).into_iter().find(|said| said.number == event);
            wait::until(&format!("event {event} of {}", daemon.name()), NOTICED, said);
        }
        estate.host(host).signal(Signal::SIGCONT);
        for link in links {
            estate.noticed(*link, marks);
        }
        estate.recovered(&format!("host {host} stopped"));
    }
    estate.assert_each_line_once();
}
