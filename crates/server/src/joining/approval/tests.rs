//! The bounds of what is kept, and what a code does.

use wardline_connector::join::Desk as _;
use wardline_proto::message::decode;
use wardline_secrets::request::request;
use wardline_secrets::signature::{SigningKey, random, sha256};

use super::*;
use crate::founding::tests::{Running, Scratch};
use crate::joining::tests::admission;

fn kept(name: &str, address: &str, now: Instant) -> Kept {
    let public = SigningKey::generate(wardline_proto::GroupId([1; 16])).unwrap().0.public().unwrap();
    Kept {
        id: sha256(&[&random()]),
        name: name.parse().unwrap(),
        role: Role::Agent,
        identity: public.clone(),
        key: Some(public),
        certificate: Bytes::new(),
        principal: None,
        further: None,
        address: format!("{address}:5723").parse().unwrap(),
        since_ms: 0,
        since: now,
        asked: now,
        state: State::Waits,
    }
}

fn refusal(outcome: Result<(), Refused>) -> Option<Why> {
    outcome.err().map(|refused| refused.why)
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn requests_are_few_at_once_few_of_an_address_and_not_too_many_in_all() {
    let (mut requests, mut now) = (Requests::default(), Instant::now());
    let of = |requests: &mut Requests, address: &str, now| refusal(requests.add(kept("web1.test", address, now), now));
    requests.kept.extend((0..OF_ADDRESS).map(|_| kept("web1.test", "192.0.2.1", now)));
    assert_eq!(of(&mut requests, "192.0.2.1", now), Some(Why::TooMany));
    for _ in 0..Quota::OF_ADDRESS {
        assert_eq!(of(&mut requests, "192.0.2.2", now), None);
    }
    assert_eq!(of(&mut requests, "192.0.2.2", now), Some(Why::Busy));
    assert_eq!(of(&mut requests, "192.0.2.99", now), None);
    now += Quota::TIME;
    assert_eq!(of(&mut requests, "192.0.2.2", now), None);
    // Who does not ask any more makes place, and who asks does not.
    now += GONE;
    requests.kept.iter_mut().filter(|kept| kept.address.ip().to_string() == "192.0.2.1").skip(1).for_each(|kept| {
        kept.asked = now;
    });
    assert_eq!(of(&mut requests, "192.0.2.1", now), None);
    assert_eq!(of(&mut requests, "192.0.2.1", now), Some(Why::TooMany));
    // Rejected ones of an address do not count.
    let name = "web1.test".parse().unwrap();
    let waiting = requests.kept.len();
    assert_eq!(requests.reject(Role::Gateway, &name).len(), 0);
    assert_eq!(requests.reject(Role::Agent, &name).len(), waiting);
    assert_eq!(of(&mut requests, "192.0.2.1", now), None);

    let mut requests = Requests::default();
    for i in 0..REQUESTS {
        requests.kept.push(kept("web1.test", &format!("10.0.{}.{}", i >> 8, i & 255), now));
    }
    assert_eq!(of(&mut requests, "192.0.2.1", now), Some(Why::TooMany));
    requests.kept[7].state = State::Rejected;
    assert_eq!(of(&mut requests, "192.0.2.1", now), None);
    assert_eq!((requests.kept.len(), of(&mut requests, "192.0.2.2", now)), (REQUESTS, Some(Why::TooMany)));
    for kept in &mut requests.kept {
        kept.asked = now + KEPT;
    }
    requests.kept[3].state = State::Deciding;
    now += KEPT;
    assert_eq!(of(&mut requests, "192.0.2.1", now), None);
    assert_eq!(requests.kept.len(), 2, "what is over is forgotten, but not while it is decided");
}

#[test]
fn a_flood_from_one_address_takes_no_place_of_those_that_still_ask_nor_all_places() {
    let (mut requests, mut now) = (Requests::default(), Instant::now());
    let honest: Vec<_> = ["192.0.2.1", "192.0.2.2"].map(|address| kept("web1.test", address, now)).into();
    honest.iter().for_each(|kept| requests.add(kept.clone(), now).unwrap());
    let mut taken = 0;
    for i in 0..3600 {
        now += SECOND / 10;
        // Those that wait ask every two seconds; of the flood nobody asks twice.
        honest.iter().filter(|_| i % 20 == 0).for_each(|kept| requests.find(&kept.id).unwrap().asked = now);
        taken += usize::from(requests.add(kept(&format!("h{i}.test"), "192.0.2.1", now), now).is_ok());
        assert!(requests.kept.len() <= OF_ADDRESS + 1);
    }
    assert!(taken > 2 * OF_ADDRESS && honest.iter().all(|kept| requests.find(&kept.id).is_some()));
    // Nor does it keep others from asking.
    assert_eq!(refusal(requests.add(kept("web2.test", "192.0.2.3", now), now)), None);
}

#[test]
fn one_host_waits_once_for_one_name() {
    let (mut requests, now) = (Requests::default(), Instant::now());
    let first = kept("web1.test", "192.0.2.1", now);
    let again = |id: &[u8]| Kept { id: sha256(&[id]), ..first.clone() };
    let gateway = Kept { role: Role::Gateway, ..again(b"gateway") };
    let other = Kept { name: "web2.test".parse().unwrap(), ..again(b"other") };
    let stranger = kept("web1.test", "192.0.2.1", now);
    let second = again(b"second");
    for kept in [&first, &gateway, &other, &stranger, &second] {
        requests.add(kept.clone(), now).unwrap();
    }
    let ids: Vec<_> = requests.kept.iter().map(|kept| kept.id).collect();
    assert_eq!(ids, [gateway.id, other.id, stranger.id, second.id]);
    // What is being decided stays.
    requests.find(&second.id).unwrap().state = State::Deciding;
    requests.add(again(b"third"), now).unwrap();
    assert_eq!(requests.kept.len(), 5);
}

#[test]
fn a_code_is_tried_once() {
    let now = Instant::now();
    let other = code(&sha256(&[b"another"]));
    let name: Name = "web1.test".parse().unwrap();
    let two = || {
        let mut requests = Requests::default();
        for address in ["192.0.2.1", "192.0.2.2"] {
            requests.add(kept("web1.test", address, now), now).unwrap();
        }
        requests.add(kept("web2.test", "192.0.2.3", now), now).unwrap();
        let right = code(&requests.kept[1].id);
        (requests, right)
    };
    let (mut requests, right) = two();
    assert!(matches!(requests.typed(Role::Agent, &"web3.test".parse().unwrap(), &right, now), Typed::Nobody));
    assert!(matches!(requests.typed(Role::Gateway, &name, &right, now), Typed::Nobody));
    assert!(matches!(requests.typed(Role::Agent, &name, &other, now), Typed::Wrong));
    // From now on the right one is worth nothing either; others wait as before.
    assert!(matches!(requests.typed(Role::Agent, &name, &right, now), Typed::Nobody));
    assert_eq!(requests.kept.iter().map(|kept| kept.waits()).collect::<Vec<_>>(), [false, false, true]);

    let (mut requests, right) = two();
    let Typed::Right(found) = requests.typed(Role::Agent, &name, &right, now) else { panic!() };
    assert_eq!((found.id, found.waits()), (requests.kept[1].id, true));
    // Nobody decides twice at once.
    for typed in [&right, &other] {
        assert!(matches!(requests.typed(Role::Agent, &name, typed, now), Typed::Deciding));
    }
    assert!(requests.reject(Role::Agent, &name).iter().all(|kept| kept.id != found.id));
    let (mut requests, right) = two();
    assert!(matches!(requests.typed(Role::Agent, &name, &right, now + KEPT), Typed::Nobody));
}

/// A server with a desk.
struct Served {
    running: Running,
    desk: Arc<JoinDesk>,
    _scratch: Scratch,
}

async fn served(without_token: WithoutToken) -> Served {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    let configurations = Arc::new(crate::configuration::Configurations::new(
        running.store.clone(),
        crate::accounts::tests::accounts(&running.store),
    ));
    let (store, authorities) = (running.store.clone(), running.authorities());
    let desk = JoinDesk::new(store, authorities, admission(without_token), configurations);
    Served { running, desk, _scratch: scratch }
}

struct Host {
    identity: SigningKey,
    request: Request,
}

impl Served {
    /// A host that asks, after `change` was made to what it says.
    fn host(&self, name: &str, change: impl Fn(&mut Request)) -> Host {
        let group = self.running.store.keeper().root.group();
        let (identity, _) = SigningKey::generate(group).unwrap();
        let (_, channel) = SigningKey::generate(group).unwrap();
        let hello = wardline_proto::join::Hello {
            token: Bytes::new(),
            name: name.into(),
            role: "agent".into(),
            identity: identity.public().unwrap().spki().into(),
            request: request(channel.as_bytes(), &name.parse().unwrap(), Role::Agent).unwrap().into(),
            nonce: vec![1; 16].into(),
            ..wardline_proto::join::Hello::default()
        };
        let transcript = sha256(&[&random()]);
        let signature = identity.sign(Context::Join, &transcript.0);
        let mut request = Request {
            hello,
            transcript,
            signature,
            token: Bytes::new(),
            direct: true,
            address: "192.0.2.1:5723".parse().unwrap(),
        };
        change(&mut request);
        Host { identity, request }
    }

    async fn asks(&self, name: &str) -> Host {
        let host = self.host(name, |_| {});
        assert_eq!(self.desk.keep(host.request.clone()).await, Ok(()));
        host
    }

    async fn became(&self, host: &Host) -> Result<Option<wardline_proto::join::Welcome>, Why> {
        let transcript = sha256(&[&random()]);
        let signature = host.identity.sign(Context::Join, &transcript.0);
        let asked = Asked { request: host.request.transcript, transcript, signature };
        let forged = Asked { signature: vec![0; 64].into(), ..asked.clone() };
        assert_eq!(self.desk.look(forged).await, Err(Why::Signature));
        let group = self.running.store.keeper().root.group();
        let signed = self.desk.look(asked).await?;
        let duty = self.running.store.keeper().duty.public().unwrap();
        Ok(signed.map(|signed| {
            let welcome: wardline_proto::join::Welcome =
                decode(duty.open(Context::Join, group, &signed).unwrap()).unwrap();
            assert_eq!(welcome.transcript, transcript.to_wire());
            welcome
        }))
    }

    async fn approve(&self, name: &str, code: &str, via: &[&str]) -> Result<Approved, Kind> {
        let via = via.iter().map(|name| name.parse().unwrap()).collect();
        let approval = Approval { code: code.into(), via, principal: None };
        let name = name.parse().unwrap();
        let approved = self.desk.approve(Role::Agent, &name, approval, "operator ada".into()).await;
        approved.map_err(|problem| problem.kind())
    }
}

#[tokio::test]
async fn who_is_approved_is_a_member_with_a_certificate_and_gets_it_again() {
    let served = served(WithoutToken::Review).await;
    let (first, second) = (served.asks("web1.test").await, served.asks("web1.test").await);
    let other = served.asks("web2.test").await;
    let size = served.running.view().tree().size();
    assert_eq!(served.became(&first).await, Ok(None));
    assert_eq!((served.desk.pending(None).len(), served.desk.pending(Some(Role::Gateway)).len()), (3, 0));
    let right = code(&second.request.transcript).to_string();
    // Neither is a try.
    assert_eq!(served.approve("web1.test", "ABC", &[]).await, Err(Kind::Invalid));
    assert_eq!(served.approve("web1.test", &right, &["gw1.test"]).await, Err(Kind::NotFound));
    assert_eq!(served.running.view().tree().size(), size);

    let approved = served.approve("web1.test", &right.to_lowercase(), &[]).await.unwrap();
    assert_eq!(approved.confirmation, confirmation(&second.request.transcript).to_string());
    let view = served.running.view();
    assert_eq!(view.tree().size(), size + 2, "one act");
    let member = view.member_named(&"web1.test".parse().unwrap()).unwrap();
    assert_eq!((member.key(), member.token), (second.identity.id(), None));
    let welcome = served.became(&second).await.unwrap().unwrap();
    assert!(member.holds(&sha256(&[&welcome.chain[0]])));
    assert_eq!(served.became(&second).await.unwrap().unwrap().chain, welcome.chain);
    // The other one of this name has lost it, and who waits under another name waits.
    assert_eq!(served.became(&first).await, Err(Why::Rejected));
    assert_eq!(served.became(&other).await, Ok(None));
    // Whoever did not see the confirmation code asks for it again.
    assert_eq!(served.approve("web1.test", &right, &[]).await, Ok(approved));
    assert_eq!(served.approve("web1.test", "ABCD-EFGH", &[]).await, Err(Kind::NotFound));
    assert_eq!(served.running.view().tree().size(), size + 2);

    assert_eq!(served.approve("web2.test", "ABCD-EFGH", &[]).await, Err(Kind::Conflict));
    assert_eq!(served.became(&other).await, Err(Why::Rejected));
    let again = served.asks("web2.test").await;
    assert!(served.desk.reject(Role::Agent, &"web2.test".parse().unwrap(), "operator ada").is_ok());
    assert_eq!(served.became(&again).await, Err(Why::Rejected));
    assert!(served.desk.reject(Role::Agent, &"web2.test".parse().unwrap(), "operator ada").is_err());

    let removed = operating::remove(Role::Agent, &"web1.test".parse().unwrap(), &served.running.view()).unwrap();
    served.running.act(removed).await;
    assert_eq!(served.became(&second).await, Err(Why::NotMember));
    assert_eq!(served.approve("web1.test", &right, &[]).await, Err(Kind::Conflict));
}

#[test]
fn a_name_is_shown_few_codes_in_a_minute_and_a_flood_of_names_has_an_end() {
    let (mut requests, now) = (Requests::default(), Instant::now());
    let asked =
        |requests: &mut Requests, name: &str, now| (0..100).filter(|_| requests.may_ask("agent", name, now)).count();
    assert_eq!((asked(&mut requests, "web1.test", now), asked(&mut requests, "web1.test", now)), (5, 0));
    assert!(requests.may_ask("gateway", "web1.test", now));
    let names = (0..10_000).filter(|i| requests.may_ask("agent", &format!("h{i}.test"), now)).count();
    assert_eq!(names, NAMES - 2);
    assert!(!requests.may_ask("agent", "web2.test", now + MINUTE - Duration::from_millis(1)));
    assert_eq!(asked(&mut requests, "web1.test", now + MINUTE), 5);
}

#[tokio::test]
async fn a_request_that_cannot_be_is_refused_and_not_kept() {
    let served = served(WithoutToken::Review).await;
    let stranger = SigningKey::generate(served.running.store.keeper().root.group()).unwrap().0;
    let refused = async |name: &str, why, change: &dyn Fn(&mut Request)| {
        let host = served.host(name, change);
        assert_eq!(served.desk.keep(host.request.clone()).await, Err(why));
        let asked = Asked { request: host.request.transcript, transcript: Digest([0; 32]), signature: Bytes::new() };
        assert_eq!(served.desk.look(asked).await, Err(Why::NoRequest));
    };
    refused("srv1.test", Why::NameTaken, &|_| {}).await;
    refused("web1.test", Why::Signature, &|request| request.transcript = Digest([0; 32])).await;
    refused("web1.test", Why::Signature, &|request| {
        request.signature = stranger.sign(Context::Join, &request.transcript.0);
    })
    .await;
    refused("web1.test", Why::Request, &|request| request.hello.name = "web2.test".into()).await;
    refused("web1.test", Why::Request, &|request| request.hello.role = "server".into()).await;
    assert!(served.desk.pending(None).is_empty());
}

#[tokio::test]
async fn a_server_may_want_tokens_only() {
    let served = served(WithoutToken::Reject).await;
    let host = served.host("web1.test", |_| {});
    assert_eq!(served.desk.keep(host.request).await, Err(Why::TokenNeeded));
}
