use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wardline_proto::message::{Hop, Reply, Request, RouteOpen};

use super::*;
use crate::config::Parent;
use crate::handshake;
use crate::link::Incoming;
use crate::testing::{Group, Scratch, eventually, listen, parent, reserved, sessions};

/// Starts a gateway; gives where it listens, and what stops it.
async fn gateway(group: &Group, host: &str, parents: Vec<Parent>) -> (SocketAddr, CancellationToken) {
    let (_, address, stop) = relay(group, host, Role::Gateway, parents).await;
    (address, stop)
}

async fn relay(
    group: &Group,
    host: &str,
    role: Role,
    parents: Vec<Parent>,
) -> (Arc<Relay>, SocketAddr, CancellationToken) {
    let stop = CancellationToken::new();
    let channel = group.channel(host, role);
    let own = channel.identity.clone();
    let credential = Credential::from(channel);
    let (identity, scratch) = (group.identity(), Scratch::new());
    let sealing = group.sealing(own.clone(), &identity, &scratch.0);
    let relay = Relay::new(own, group.membership(parents), credential.clone(), identity, sealing);
    tokio::spawn(Arc::clone(&relay).run(stop.clone()));
    let (until, serving) = (stop.clone(), Arc::clone(&relay));
    let serve = move |session| Arc::clone(&serving).serve(session, until.clone());
    (relay, listen(credential, &stop, serve, |_| std::future::ready(())).await, stop)
}

struct Peer {
    hears: Incoming,
    says: Outgoing,
}

impl Peer {
    fn new(session: Session) -> Self {
        let (hears, says, _) = link::open(session);
        Self { hears, says }
    }

    async fn accepted(sessions: &mut mpsc::UnboundedReceiver<Session>) -> Self {
        let peer = Self::new(sessions.recv().await.unwrap());
        peer.say(way(0)).await;
        peer
    }

    async fn agent(group: &Group, host: &str, gateway: (&str, SocketAddr)) -> Self {
        let own = group.channel(host, Role::Agent).into();
        Self::new(handshake::dial(&own, &parent(gateway.0, gateway.1), handshake::PEER_TIMEOUT).await.unwrap())
    }

    async fn say(&self, message: Message) {
        self.says.send(message).await.unwrap();
    }

    /// The next message of this kind, and the hops that were told before it, as `reporter peer`.
    async fn hear(&mut self, kind: Kind) -> (Message, Vec<String>) {
        let mut hops = Vec::new();
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), self.hears.message()).await.unwrap().unwrap();
            if message.kind == kind {
                return (message, hops);
            }
            // Gateways say their sealing keys again and again until somebody confirms.
            if message.kind == Kind::SealingKey {
                continue;
            }
            assert_eq!(message.kind, Kind::Hop);
            let signed: Signed = decode(&message.body).unwrap();
            let hop: Hop = decode(&signed.payload).unwrap();
            hops.push(format!("{} {}", hop.reporter, hop.peer));
        }
    }

    async fn opened(&mut self) -> (u32, RouteOpen, Vec<String>) {
        let (message, hops) = self.hear(Kind::RouteOpen).await;
        (message.route, decode(&message.body).unwrap(), hops)
    }
}

fn way(route: u32) -> Message {
    Message::own(Kind::Way, Way { open: true }).on(route)
}

fn raw(kind: Kind, route: u32) -> Message {
    let body = if kind == Kind::RouteClose { Bytes::new() } else { Bytes::from_static(b"as it is") };
    Message { kind, route, body }
}

#[tokio::test]
async fn what_an_agent_and_a_server_say_goes_through_two_gateways() {
    let (group, stop) = (Group::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let (server, mut arrived) = sessions(group.channel("srv.test", Role::Server), None, &stop).await;
    let (upper, _upper) = gateway(&group, "gw2.test", vec![parent("srv.test", server)]).await;
    let (lower, lower_stop) = gateway(&group, "gw1.test", vec![parent("gw2.test", upper)]).await;
    let mut server = Peer::accepted(&mut arrived).await;
    let mut web1 = Peer::agent(&group, "web1.test", ("gw1.test", lower)).await;
    let (route, open, mut hops) = server.opened().await;
    assert_eq!((open.agent.as_str(), open.via.as_slice()), ("web1.test", &["gw1.test".to_owned()][..]));
    let hashes = open.proofs.iter().chain([&open.proof]).filter(|proof| proof.len() == 64);
    assert_eq!(hashes.count(), 2, "each has shown a certificate to the next one");
    let mut web2 = Peer::agent(&group, "web2.test", ("gw2.test", upper)).await;
    let (direct, open, more) = server.opened().await;
    assert_eq!((open.agent.as_str(), open.via.len(), open.proof.len()), ("web2.test", 0, 64));
    hops.extend(more);
    // Both ends of every hop but the agents' own are told.
    server.say(way(route)).await;
    web1.hear(Kind::Way).await;
    web1.say(raw(Kind::Position, 0)).await;
    let (position, more) = server.hear(Kind::Position).await;
    assert_eq!((position.route, position.body.as_ref()), (route, b"as it is".as_slice()));
    hops.extend(more);
    hops.sort();
    hops.dedup();
    let told =
        ["gw1.test gw2.test", "gw1.test web1.test", "gw2.test gw1.test", "gw2.test srv.test", "gw2.test web2.test"];
    assert_eq!(hops, told);

    // A long message goes through in parts.
    let batch = Message { kind: Kind::Batch, route: 0, body: vec![7; 200_000].into() };
    web1.say(batch.clone()).await;
    assert_eq!(server.hear(Kind::Batch).await.0, batch.on(route));
    for kind in [Kind::Answer, Kind::Ack] {
        server.say(raw(kind, route)).await;
        assert_eq!(web1.hear(kind).await.0, raw(kind, 0));
    }

    // The server does not want one of them: it is told, and its session ends; the other goes on.
    server.say(Message::own(Kind::Refusal, Refusal::of(Reason::NotKnown)).on(route)).await;
    server.say(raw(Kind::RouteClose, route)).await;
    let (refusal, _) = web1.hear(Kind::Refusal).await;
    assert_eq!(decode::<Refusal>(&refusal.body).unwrap().reason(), Reason::NotKnown);
    assert!(web1.hears.message().await.is_err());
    assert_eq!(server.hear(Kind::RouteClose).await.0, raw(Kind::RouteClose, route));
    server.say(way(direct)).await;
    web2.hear(Kind::Way).await;

    // A gateway that is gone takes its routes along.
    let _web3 = Peer::agent(&group, "web3.test", ("gw1.test", lower)).await;
    let (route, open, _) = server.opened().await;
    assert_eq!(open.agent, "web3.test");
    lower_stop.cancel();
    assert_eq!(server.hear(Kind::RouteClose).await.0, raw(Kind::RouteClose, route));
    web2.say(raw(Kind::Position, 0)).await;
    assert_eq!(server.hear(Kind::Position).await.0.route, direct);
}

#[tokio::test]
async fn the_way_of_a_gateway_below_ends_and_begins_with_that_of_the_one_above() {
    let (group, stop) = (Group::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let (_reserved, first) = reserved();
    let (second, mut at_second) = sessions(group.channel("srv2.test", Role::Server), None, &stop).await;
    let parents = vec![parent("srv1.test", first), parent("srv2.test", second)];
    let (upper, _upper) = gateway(&group, "gw2.test", parents).await;
    let (lower, _lower) = gateway(&group, "gw1.test", vec![parent("gw2.test", upper)]).await;
    let mut web1 = Peer::agent(&group, "web1.test", ("gw1.test", lower)).await;
    let mut server = Peer::accepted(&mut at_second).await;
    let (route, ..) = server.opened().await;
    server.say(way(route)).await;
    assert!(decode::<Way>(&web1.hear(Kind::Way).await.0.body).unwrap().open);

    // The first parent is back: the session moves there, and everybody opens anew.
    let (_, mut at_first) = sessions(group.channel("srv1.test", Role::Server), Some(first), &stop).await;
    let mut moved = Peer::accepted(&mut at_first).await;
    assert!(!decode::<Way>(&web1.hear(Kind::Way).await.0.body).unwrap().open);
    while server.hears.message().await.is_ok() {}
    let (route, open, hops) = moved.opened().await;
    assert_eq!((open.agent.as_str(), open.via), ("web1.test", vec!["gw1.test".to_owned()]));
    assert!(hops.contains(&"gw2.test srv1.test".to_owned()), "{hops:?}");
    moved.say(way(route)).await;
    assert!(decode::<Way>(&web1.hear(Kind::Way).await.0.body).unwrap().open);
    web1.say(raw(Kind::Heartbeat, 0)).await;
    assert_eq!(moved.hear(Kind::Heartbeat).await.0, raw(Kind::Heartbeat, route));
}

#[tokio::test]
async fn six_gateways_in_a_row_are_one_too_many() {
    let (group, stop) = (Group::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let (server, mut arrived) = sessions(group.channel("srv.test", Role::Server), None, &stop).await;
    let (mut above, mut stops) = (("srv.test".to_owned(), server), Vec::new());
    let mut addresses = Vec::new();
    for number in (1..=6).rev() {
        let host = format!("gw{number}.test");
        let (address, stop) = gateway(&group, &host, vec![parent(&above.0, above.1)]).await;
        above = (host, address);
        addresses.push(above.clone());
        stops.push(stop.drop_guard());
    }
    let mut server = Peer::accepted(&mut arrived).await;
    let (_, last) = (addresses.pop().unwrap(), addresses.pop().unwrap());
    let _far = Peer::agent(&group, "web1.test", (&last.0, last.1)).await;
    let (_, open, _) = server.opened().await;
    assert_eq!(open.via, ["gw2.test", "gw3.test", "gw4.test", "gw5.test"]);
    let mut farther = Peer::agent(&group, "web2.test", (&above.0, above.1)).await;
    let (refusal, _) = farther.hear(Kind::Refusal).await;
    assert_eq!(decode::<Refusal>(&refusal.body).unwrap().reason(), Reason::NotKnown);
    assert!(farther.hears.message().await.is_err());
}

/// What an operator asks.
fn look() -> Request {
    Request { method: "GET".into(), target: "/api/v1/alerts".into(), ..Request::default() }
}

#[tokio::test]
async fn what_an_operator_asks_is_answered_in_parts_and_not_at_all_when_the_way_ends() {
    let (group, stop) = (Group::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let (address, mut arrived) = sessions(group.channel("srv.test", Role::Server), None, &stop).await;
    let parents = vec![parent("srv.test", address)];
    let (relay, _, _relay) = relay(&group, "ms1.test", Role::Server, parents).await;
    assert_eq!(relay.ask(look()).await, Err(Unanswered::NoWay));
    let mut server = Peer::accepted(&mut arrived).await;
    eventually("a way", || relay.table().up().is_some()).await;
    let ask = || {
        tokio::spawn({
            let relay = Arc::clone(&relay);
            async move { relay.ask(look()).await }
        })
    };
    // Two at once, the second answered first; what is long comes in parts.
    let mut routes = Vec::new();
    let (first, second) = (ask(), ask());
    for _ in 0..2 {
        let (asked, _) = server.hear(Kind::Request).await;
        assert_eq!(decode::<Request>(&asked.body), Some(look()));
        routes.push(asked.route);
    }
    routes.reverse();
    for (number, route) in (1..).zip(&routes) {
        let reply = Reply { status: number, body: vec![7; 300_000].into() };
        server.say(Message::own(Kind::Reply, reply).on(*route)).await;
    }
    let mut answered = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    answered.sort_by_key(|reply| reply.status);
    assert_eq!(answered.map(|reply| (reply.status, reply.body.len())), [(1, 300_000), (2, 300_000)]);
    // What nobody waits for any more is passed over.
    server.say(Message::own(Kind::Reply, Reply::default()).on(routes[0])).await;
    let last = ask();
    server.hear(Kind::Request).await;
    drop(server);
    assert_eq!(last.await.unwrap(), Err(Unanswered::Ended));
}

#[tokio::test]
async fn a_server_reports_to_no_gateway_and_to_no_server_without_a_database() {
    let (group, stop) = (Group::new(), CancellationToken::new());
    let _stops = stop.clone().drop_guard();
    let (server, mut arrived) = sessions(group.channel("srv.test", Role::Server), None, &stop).await;
    for (host, role) in [("gw1.test", Role::Gateway), ("ms1.test", Role::Server)] {
        let (_, address, _stop) = relay(&group, host, role, vec![parent("srv.test", server)]).await;
        let _above = Peer::accepted(&mut arrived).await;
        let channel = group.channel("ms2.test", Role::Server).into();
        match handshake::dial(&channel, &parent(host, address), handshake::PEER_TIMEOUT).await {
            // Neither end goes on.
            Err(error) => assert!(role == Role::Gateway && error.to_string().contains("to servers only"), "{error}"),
            Ok(dialled) => {
                assert_eq!(role, Role::Server, "it is let in nowhere else");
                assert!(Peer::new(dialled).hears.message().await.is_err(), "{host} takes no server");
            }
        }
        // The control: it takes whoever may come.
        let channel = group.channel("gw2.test", Role::Gateway).into();
        let dialled = handshake::dial(&channel, &parent(host, address), handshake::PEER_TIMEOUT).await.unwrap();
        Peer::new(dialled).hear(Kind::Way).await;
    }
    // Nor does a gateway go on with an answer to what it has not asked.
    let (above, mut arrived) = sessions(group.channel("srv.test", Role::Server), None, &stop).await;
    let (_, _, _gw) = relay(&group, "gw1.test", Role::Gateway, vec![parent("srv.test", above)]).await;
    let mut peer = Peer::accepted(&mut arrived).await;
    peer.say(Message::own(Kind::Reply, Reply::default()).on(7)).await;
    while peer.hears.message().await.is_ok() {}
}
