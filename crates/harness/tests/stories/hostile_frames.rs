//! Bytes that are no messages, connections that lead to nothing, ends that do not read: the programs refuse or outlast
//! them, a real agent's events and heartbeats go on meanwhile, and what was taken up is given back.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer};
use wardline_harness::pki::Credential;
use wardline_harness::realm::Realm;
use wardline_harness::tap::Way;
use wardline_harness::{Daemon, Log, keyed, wait};
use wardline_proto::Kind;
use wardline_proto::frame::{FRAME_LIMIT, Frame, Part};

const LIMIT: Duration = Duration::from_secs(30);
/// Connections that lead to nothing, to each program; more than handshakes may be under way.
const HALF_OPEN: usize = 1500;
/// By how much memory may grow.
const GROWTH: u64 = 64 * 1024 * 1024;

/// Bytes behind a good handshake that are no message.
fn nonsense() -> Vec<(&'static str, Vec<u8>)> {
    let too_long = u32::try_from(FRAME_LIMIT + 1).unwrap();
    let frames = |parts: &[(Kind, Part, usize)]| {
        let mut out = BytesMut::new();
        for (kind, part, length) in parts {
            Frame { kind: *kind, route: 0, part: *part, body: Bytes::from(vec![0; *length]) }.encode(&mut out);
        }
        out.to_vec()
    };
    vec![
        ("length 0", vec![0; 4]),
        ("the greatest length", vec![0xff; 4]),
        ("one more than allowed", too_long.to_be_bytes().to_vec()),
        ("no header", vec![0, 0, 0, 1, 0xff]),
        ("unknown type", vec![0, 0, 0, 2, 8, 99]),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("more than its kind allows", frames(&[(Kind::Batch, Part::First(u32::MAX), 10)])),
        ("a part that continues nothing", frames(&[(Kind::Batch, Part::Next, 10)])),
        ("first parts twice", frames(&[(Kind::Batch, Part::First(100_000), 10), (Kind::Batch, Part::First(100), 10)])),
        ("a part of another kind", frames(&[(Kind::Batch, Part::First(1000), 10), (Kind::Position, Part::Next, 10)])),
        ("more than announced", frames(&[(Kind::Batch, Part::First(20), 10), (Kind::Batch, Part::Next, 11)])),
        ("an empty part", frames(&[(Kind::Batch, Part::First(20), 10), (Kind::Batch, Part::Next, 0)])),
    ]
}

fn process(daemon: &Daemon) -> procfs::process::Process {
    procfs::process::Process::new(i32::try_from(daemon.pid()).unwrap()).unwrap()
}

fn descriptors(daemon: &Daemon) -> usize {
    process(daemon).fd_count().unwrap()
}

/// The most memory that was ever resident, bytes.
fn memory(daemon: &Daemon) -> u64 {
    process(daemon).status().unwrap().vmhwm.unwrap() * 1024
}

/// A hostile health service, and the program that it troubles.
struct Trouble {
    address: SocketAddr,
    credential: Credential,
    own: &'static str,
    other: &'static str,
}

impl Trouble {
    fn join(&self) -> Peer {
        let mut peer = Peer::join(self.address, &self.credential, self.own, self.other);
        peer.wait_for(Kind::Way, 0);
        peer
    }

    fn speak(&self, daemon: &Daemon) {
        for (what, bytes) in nonsense() {
            let mut peer = self.join();
            let mark = daemon.mark();
            let _ = peer.write(&bytes);
            peer.wait_closed();
            let told =
                wait::until(what, LIMIT, || daemon.events_since(mark).into_iter().find(|event| event.number == 40002));
            assert!(told.text.contains(self.own), "{what}: {}", told.text);
        }
    }

    /// Sessions that stand and go nowhere: a frame that never ends, a message that never ends, an end that never reads.
    fn stall(&self) -> Vec<Peer> {
        let mut unfinished = self.join();
        let _ = unfinished.write(&[0, 0, 0xff, 0, 8]);
        let mut endless = self.join();
        let limit = u32::try_from(Kind::Batch.limit()).unwrap();
        let first = Frame { kind: Kind::Batch, route: 0, part: Part::First(limit), body: vec![0; 60_000].into() };
        endless.frame(&first).unwrap();
        let mut deaf = self.join();
        deaf.patience(Duration::from_millis(200));
        let whole = Frame { kind: Kind::Batch, route: 0, part: Part::Whole, body: vec![0; 60_000].into() };
        for _ in 0..1000 {
            if deaf.frame(&whole).is_err() {
                break;
            }
        }
        vec![unfinished, endless, deaf]
    }

    /// Connections that send nothing, the first byte of a record, or one of a record that announces more.
    fn half_open(&self) -> Vec<TcpStream> {
        let beginnings: [&[u8]; 3] = [&[], &[22], &[22, 3, 1, 2, 0, 1]];
        let open = |i: usize| {
            let mut tcp = TcpStream::connect(self.address).unwrap();
            let _ = tcp.write_all(beginnings[i % 3]);
            tcp
        };
        (0..HALF_OPEN).map(open).collect()
    }
}

/// The real agent is heard: a new line arrives, and a heartbeat later than it.
fn heard(group: &Group, log: &Log) {
    log.go_on(1);
    group.wait_texts(&log.lines());
    let seen = || group.sql::<i64>("SELECT last_seen FROM agent WHERE name = 'agent1.test'");
    let before = seen();
    wait::until("a heartbeat", LIMIT, || (seen() > before).then_some(()));
}

#[test]
fn hostile_frames_and_half_open_connections_harm_nobody() {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most.min(65_536), most).unwrap();
    let (mut group, log) = Group::builder().agents(2).direct(1).heartbeat("250ms").lay_with_log();
    group.server().start();
    group.gateway(0).start();
    group.agent(0).start();
    heard(&group, &log);

    let gateway = Trouble {
        address: hostile::listen(group.gateway(0)),
        credential: group.credential("agent2.test"),
        own: "agent agent2.test",
        other: "gateway gw1.test",
    };
    let server = Trouble {
        address: hostile::listen(group.server()),
        credential: group.credential("agent3.test"),
        own: "agent agent3.test",
        other: "server srv1.test",
    };
    let before = [descriptors(group.gateway(0)), descriptors(group.server())];
    let memory_before = [memory(group.gateway(0)), memory(group.server())];
    let mark = group.server().mark();

    gateway.speak(group.gateway(0));
    server.speak(group.server());
    heard(&group, &log);
    let stalled = [gateway.stall(), server.stall()];
    heard(&group, &log);
    let half_open = [gateway.half_open(), server.half_open()];
    heard(&group, &log);
    // Among so many that lead nowhere, more than may be in progress, a new one is let in.
    group.agent(0).restart();
    heard(&group, &log);
    let harmed = group.server().events_since(mark).into_iter().find(|event| event.text.contains("gateway gw1.test"));
    assert_eq!(harmed, None, "what one agent says is nothing that its gateway is blamed for");

    drop((stalled, half_open));
    heard(&group, &log);
    for (index, before) in before.into_iter().enumerate() {
        let daemon = if index == 0 { group.gateway(0) } else { group.server() };
        wait::until("descriptors come back", LIMIT, || (descriptors(daemon) <= before + 8).then_some(()));
        let grown = memory(daemon) - memory_before[index];
        assert!(grown < GROWTH, "{} grew by {grown} bytes", daemon.name());
    }
    heard(&group, &log);
}

/// What a program says when it takes the other end for the one that did wrong.
const BLAME: [u32; 4] = [20000, 20002, 20071, 40002];

/// Flips bits on both hops, both ways, one after the other, under what an agent says.
fn flip_bits(group: &mut Group, log: &Log) {
    group.start();
    log.go_on(1);
    group.wait_texts(&log.lines());
    for child in ["agent1.test", "gw1.test"] {
        for way in [Way::Up, Way::Down] {
            group.hops(2);
            let marks = [group.agent(0).mark(), group.gateway(0).mark(), group.server().mark()];
            // Behind the header of the next record.
            group.tap(child).flip(way, 20);
            log.go_on(10);
            group.wait_texts(&log.lines());
            wait::until("the bit is flipped", LIMIT, || group.tap(child).flipped(way).then_some(()));
            let at = usize::from(child == "gw1.test");
            for (host, number) in [(at, 20070), (at + 1, 40041), (at, 40004)] {
                let daemon = match host {
                    0 => group.agent(0),
                    1 => group.gateway(0),
                    _ => group.server(),
                };
                daemon.wait_event_since(marks[host], number);
            }
            let said = [
                group.agent(0).events_since(marks[0]),
                group.gateway(0).events_since(marks[1]),
                group.server().events_since(marks[2]),
            ];
            let blamed = said.concat().into_iter().find(|event| BLAME.contains(&event.number));
            assert_eq!(blamed, None, "{child}, {way:?}");
        }
    }
    // The control: where nobody flips anything, the sessions stand.
    let connections = |group: &Group| ["agent1.test", "gw1.test"].map(|child| group.tap(child).accepted());
    let before = connections(group);
    log.go_on(10);
    group.wait_texts(&log.lines());
    assert_eq!(connections(group), before);
}

#[test]
fn a_bit_flipped_on_the_wire_ends_that_session_and_nothing_is_lost_or_believed() {
    let (mut group, log) = Group::builder().tapped().lay_with_log();
    flip_bits(&mut group, &log);
    drop(group);
    let realm = Realm::start("NORTH.TEST");
    let (mut group, log) = Group::builder().tapped().lay_with_log();
    keyed::lay(&mut group, &realm, "kerberos", "kerberos", (1, 1));
    flip_bits(&mut group, &log);
}
