//! A certificate with any fault opens no door: no program listens to a client that shows it, and none says a word to a
//! server that shows it. Beside each stands a good one that passes.

use std::net::SocketAddr;

use wardline_harness::daemon::Event;
use wardline_harness::group::Group;
use wardline_harness::hostile::{self, Peer, Rogue, Speech};
use wardline_harness::pki::{Credential, Fault};
use wardline_harness::{Daemon, wait};
use wardline_proto::frame::Message;
use wardline_proto::{ALPN_CERTIFICATE, ALPN_JOIN, ALPN_KERBEROS, Kind, Role};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// The event that names this address, of those that could.
fn event_about(daemon: &Daemon, address: SocketAddr, numbers: &[u32]) -> u32 {
    let address = address.to_string();
    let what = format!("one of {numbers:?} about {address} of {}", daemon.name());
    let about = |event: &Event| numbers.contains(&event.number) && event.text.contains(&address);
    wait::until(&what, LIMIT, || daemon.events().into_iter().find(about)).number
}

/// The certificates of one name and role.
struct Certificates {
    name: &'static str,
    role: Role,
    bad: Vec<(Fault, Credential)>,
    good: Credential,
}

impl Certificates {
    fn new(group: &Group, name: &'static str, role: Role) -> Self {
        let (authority, good) = (group.authority(), group.credential(name));
        let bad = Fault::ALL.into_iter().map(|fault| (fault, authority.faulty(fault, name, role))).collect();
        Self { name, role, bad, good }
    }

    /// Shows each of them to a program that listens.
    fn knock(&self, daemon: &Daemon, other: &str) {
        let address = hostile::listen(daemon);
        let own = format!("{} {}", self.role, self.name);
        // A gateway takes everybody of the group; whether it may speak for them the server decides.
        let judged = |fault: &Fault| *fault != Fault::OtherName || !other.starts_with("gateway");
        for (fault, credential) in self.bad.iter().filter(|(fault, _)| judged(fault)) {
            // In TLS 1.3 the dialling end is done before the other has looked at its certificate.
            let mut peer = Peer::dial(address, Some(credential), &Speech::good()).expect("this end's part");
            // It says of itself what its certificate says.
            let own = match fault {
                Fault::OtherName => format!("{} other.test", self.role),
                Fault::OtherRole if self.role == Role::Agent => format!("server {}", self.name),
                Fault::OtherRole => format!("agent {}", self.name),
                _ => own.clone(),
            };
            let bound = peer.bound(&own, other);
            peer.say(Message::own(Kind::Bound, bound));
            let from = peer.address();
            peer.wait_closed();
            let seen = (event_about(daemon, from, &[20000, 20002, 20067]), peer.received());
            match fault {
                // Good certificates: the handshake succeeds, and then nobody knows this health service.
                Fault::OtherName => assert_eq!(seen.0, 20000, "{fault:?}"),
                // No server dials a gateway; and by another role's name nobody is known.
                Fault::OtherRole if other.starts_with("gateway") => assert_eq!(seen.0, 20002, "{fault:?}"),
                Fault::OtherRole => assert_eq!(seen.0, 20000, "{fault:?}"),
                // A signature that does not fit is TLS's own affair.
                Fault::OtherKey => assert_eq!(seen, (20002, 0), "{fault:?}"),
                _ => assert_eq!(seen, (20067, 0), "{fault:?}"),
            }
        }
        for (what, credential, speech) in [
            ("no certificate", None, Speech::good()),
            ("no ALPN", Some(&self.good), Speech::alpn(&[])),
            ("Kerberos", Some(&self.good), Speech::alpn(&[ALPN_KERBEROS])),
            ("joining as well", Some(&self.good), Speech::alpn(&[ALPN_CERTIFICATE, ALPN_JOIN])),
            ("X25519", Some(&self.good), Speech::classical()),
        ] {
            if let Ok(mut peer) = Peer::dial(address, credential, &speech) {
                peer.wait_closed();
                assert_eq!(peer.received(), 0, "{what}");
            }
        }
        let let_in = daemon.events().into_iter().find(|event| event.number == 40040);
        assert_eq!(let_in, None, "nobody was let in");

        let peer = Peer::join(address, &self.good, &own, other);
        event_about(daemon, peer.address(), &[40040]);
    }

    /// Starts a program that has a rogue server with each of them for a parent, and behind them the real one.
    fn tempt(&self, daemon: &mut Daemon, parent: SocketAddr) {
        let rogue = |what: &str, number, credential: &Credential, speech| {
            (what.to_owned(), number, Rogue::new(credential.clone(), speech))
        };
        let mut rogues: Vec<_> = self
            .bad
            .iter()
            .map(|(fault, credential)| {
                let number = if *fault == Fault::OtherKey { 20071 } else { 20072 };
                rogue(&format!("{fault:?}"), number, credential, Speech::good())
            })
            .collect();
        rogues.push(rogue("no ALPN", 20071, &self.good, Speech::alpn(&[])));
        rogues.push(rogue("Kerberos", 20071, &self.good, Speech::alpn(&[ALPN_KERBEROS])));
        rogues.push(rogue("joining", 20071, &self.good, Speech::alpn(&[ALPN_JOIN])));
        rogues.push(rogue("X25519", 20071, &self.good, Speech::classical()));
        rogues.push(("TLS 1.2".into(), 20071, Rogue::old()));
        let good = Rogue::new(self.good.clone(), Speech::good());

        let mut parents: Vec<_> = rogues.iter().map(|(_, _, rogue)| (self.name, rogue.address())).collect();
        parents.extend([(self.name, good.address()), (self.name, parent)]);
        hostile::set_parents(daemon, &parents);
        daemon.start();
        daemon.wait_event(40004);
        for (what, number, rogue) in rogues {
            let seen = rogue.seen();
            assert_eq!(event_about(daemon, rogue.address(), &[20071, 20072]), number, "{what}");
            // The one without ALPN has the certificate that a parent has: it may know who dials, and nothing else.
            assert_eq!(seen.certificates > 0, what == "no ALPN", "{what}: {seen:?}");
            assert_eq!(seen.bytes, 0, "{what}: {seen:?}");
        }
        // The control: to one that is as a parent must be the same program talks, and that is counted.
        let seen = good.seen();
        assert!(seen.certificates > 0 && seen.bytes > 0, "{seen:?}");
    }
}

#[test]
fn a_bad_certificate_is_refused() {
    let mut group = Group::builder().direct(1).written().lay();
    let certificates = |name, role| Certificates::new(&group, name, role);
    let behind = certificates("agent1.test", Role::Agent);
    let direct = certificates("agent2.test", Role::Agent);
    let gateway = certificates("gw1.test", Role::Gateway);
    let server = certificates("srv1.test", Role::Server);
    let (above, between) = (hostile::listen(group.server()), hostile::listen(group.gateway(0)));

    group.server().start();
    gateway.knock(group.server(), "server srv1.test");
    group.server().restart();
    direct.knock(group.server(), "server srv1.test");
    server.tempt(group.gateway(0), above);
    behind.knock(group.gateway(0), "gateway gw1.test");
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM agent"), [0], "nobody has said anything");

    gateway.tempt(group.agent(0), between);
    server.tempt(group.agent(1), above);
    for agent in 0..2 {
        group.agent(agent).wait_event(40005);
    }
    assert_eq!(group.sql::<i64>("SELECT count(*) FROM agent"), [2]);
}
