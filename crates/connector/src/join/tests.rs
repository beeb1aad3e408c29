use std::sync::{Arc, Mutex};

use tokio::io::AsyncReadExt as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use wardline_proto::join::{Answered, Commitment, Down, Hello, Open, Refusal, Said, Up, Why};
use wardline_proto::message::{Context, decode, encode};
use wardline_proto::{ALPN_CERTIFICATE, GroupId, Role};
use wardline_secrets::head::read_head;
use wardline_secrets::token::{code, confirmation};

use super::*;
use crate::handshake;
use crate::testing::{Group, TestDesk, Twist, eventually, listen, name, nobody, parent, passing, server};

struct Site {
    group: Arc<Group>,
    desk: Arc<TestDesk>,
    token: String,
    server: SocketAddr,
    stop: CancellationToken,
    _stops: DropGuard,
}

async fn site() -> Site {
    let group = Group::new();
    let (desk, token) = TestDesk::new(&group);
    let stop = CancellationToken::new();
    let server = server(&desk, &stop).await;
    Site { group, desk, token: token.text().to_owned(), server, _stops: stop.clone().drop_guard(), stop }
}

impl Site {
    fn applicant(&self) -> Applicant {
        let (_, pem) = wardline_secrets::signature::SigningKey::generate(self.group.id).unwrap();
        Applicant {
            name: name("web1.test"),
            role: Role::Agent,
            identity: self.group.identity(),
            request: wardline_secrets::request::request(pem.as_bytes(), &name("web1.test"), Role::Agent).unwrap(),
            certificate: Bytes::new(),
            principal: None,
            with: With::Token { token: wardline_secrets::token::Token::parse(&self.token).unwrap(), taken: Vec::new() },
        }
    }

    async fn ask_at(&self, address: SocketAddr) -> Result<Admitted, Attempt> {
        let asked = ask(&[parent("srv.test", address)], &self.applicant()).await;
        asked.map_err(|JoinError(mut attempts)| attempts.pop().unwrap())
    }

    fn admitted(&self) -> usize {
        self.desk.members.lock().unwrap().len()
    }
}

#[tokio::test]
async fn a_host_joins_directly_and_through_gateways_and_comes_home_without_a_token() {
    let site = site().await;
    let lower = passing(vec![parent("srv.test", site.server)], &site.stop).await;
    // The first of the upper one's parents is away.
    let upper =
        passing(vec![parent("gone.test", "127.0.0.1:1".parse().unwrap()), parent("gw.test", lower)], &site.stop);
    let upper = upper.await;
    for address in [site.server, lower, upper] {
        let admitted = site.ask_at(address).await.unwrap();
        assert_eq!(
            (admitted.group, admitted.group_name, admitted.server),
            (site.group.id, name("north"), name("srv.test"))
        );
        assert_eq!((admitted.chain.len(), admitted.recovery.len()), (2, 91));
        assert_eq!(read_head(&admitted.head).map(|reach| reach.version), Some(7));
    }
    let home = |identity| Applicant { with: With::Root(site.group.trusted()), identity, ..site.applicant() };
    let parents = [parent("gw.test", upper)];
    let JoinError(attempts) = ask(&parents, &home(site.group.identity())).await.unwrap_err();
    assert!(matches!(attempts[0].cause, Cause::Refused(Why::NotMember)), "{}", attempts[0]);
    let member = site.applicant();
    let identity = Arc::clone(&member.identity);
    ask(&parents, &member).await.unwrap();
    ask(&parents, &home(identity)).await.unwrap();
}

#[tokio::test]
async fn every_parent_is_asked_in_order_and_each_failure_is_named() {
    let site = site().await;
    *site.desk.twist.lock().unwrap() = Twist::Refuses(Why::TokenExpired);
    let away = parent("gone.test", "127.0.0.1:1".parse().unwrap());
    let parents = [away.clone(), parent("srv.test", site.server)];
    let error = ask(&parents, &site.applicant()).await.unwrap_err();
    assert!(!error.is_open());
    let text = error.to_string();
    assert!(text.contains("by gone.test (127.0.0.1:1): connect: no connection"), "{text}");
    assert!(text.contains("the server lets this host in: it does not: the token has expired"), "{text}");
    *site.desk.twist.lock().unwrap() = Twist::None;
    assert_eq!(ask(&parents, &site.applicant()).await.unwrap().parent, parents[1]);
}

#[tokio::test]
async fn a_host_with_a_certificate_of_its_own_takes_no_other() {
    let site = site().await;
    let applicant = || site.applicant();
    let parents = [parent("srv.test", site.server)];
    let certificate = Bytes::from_static(b"its own");
    let JoinError(attempts) = ask(&parents, &Applicant { certificate, ..applicant() }).await.unwrap_err();
    assert!(matches!(attempts[0].cause, Cause::Forged(_)), "{}", attempts[0]);
    assert!(attempts[0].to_string().contains("another certificate"), "{}", attempts[0]);
    ask(&parents, &applicant()).await.unwrap();
}

/// A gateway that changes one byte of one message, and keeps the messages it saw.
async fn meddler(site: &Site, change: Arc<Mutex<(usize, usize)>>, saw: Arc<Mutex<Vec<Bytes>>>) -> SocketAddr {
    let server = parent("srv.test", site.server);
    let on_join = move |knocking: Knocking| {
        let (server, change, saw) = (server.clone(), Arc::clone(&change), Arc::clone(&saw));
        async move {
            let (mut below, mut above) = (knocking.stream, dial(&server).await.unwrap());
            let (at, byte) = *change.lock().unwrap();
            for turn in 0..4 {
                let (from, to) = if turn % 2 == 0 { (&mut below, &mut above) } else { (&mut above, &mut below) };
                let Ok(Some(message)) = read(from).await else { break };
                saw.lock().unwrap().push(message.clone());
                let mut message = message.to_vec();
                // Signatures in DER differ in length by some bytes.
                if turn == at {
                    let byte = byte % message.len();
                    message[byte] ^= 0x10;
                }
                if write(to, &message).await.is_err() {
                    break;
                }
            }
            close(&mut below).await;
        }
    };
    listen(nobody(), &site.stop, |_| async {}, on_join).await
}

#[tokio::test]
async fn a_byte_changed_on_the_way_is_noticed_and_a_proof_is_good_for_one_session() {
    let site = site().await;
    let (change, saw) = (Arc::new(Mutex::new((9, 0))), Arc::default());
    let gateway = meddler(&site, Arc::clone(&change), Arc::clone(&saw)).await;
    site.ask_at(gateway).await.unwrap();
    let honest = saw.lock().unwrap().clone();
    assert_eq!(honest.len(), 4);
    for (turn, message) in honest.iter().enumerate() {
        let before = site.admitted();
        // The first bytes, where lengths and fields are told, and some of all that follow.
        let bytes: Vec<_> = (0..8).chain((8..message.len()).step_by(7)).collect();
        let tries = bytes.len();
        for byte in bytes {
            *change.lock().unwrap() = (turn, byte);
            let refused = site.ask_at(gateway).await;
            let Err(Attempt { cause, .. }) = refused else {
                panic!("byte {byte} of message {turn} was changed unnoticed");
            };
            // What a server says of a changed proof is no word about the one of the host.
            assert!(turn != 2 || !matches!(cause, Cause::Refused(_)), "byte {byte}: {cause}");
        }
        // Only when the server's last word was changed had it let the host in.
        assert_eq!(site.admitted() - before, if turn == 3 { tries } else { 0 }, "message {turn}");
    }

    // Hello and proof of the first session, once more.
    let mut stream = dial(&parent("srv.test", site.server)).await.unwrap();
    write(&mut stream, &honest[0]).await.unwrap();
    let challenge = read(&mut stream).await.unwrap().unwrap();
    assert!(matches!(decode::<Down>(&challenge), Some(Down { answered: Some(Answered::Challenge(_)) })));
    assert!(matches!(decode::<Up>(&honest[2]), Some(Up { said: Some(Said::Proof(_)) })));
    write(&mut stream, &honest[2]).await.unwrap();
    let Some(Down { answered: Some(Answered::Refused(signed)) }) = hear(&mut stream).await.unwrap() else {
        panic!("a proof was good twice");
    };
    let refusal: Refusal = decode(&signed.payload).unwrap();
    assert_eq!(refusal.why(), Why::Signature);
}

fn applying() -> Applying {
    let (_, identity) = wardline_secrets::signature::SigningKey::generate(GroupId([0; 16])).unwrap();
    let (_, channel) = wardline_secrets::signature::SigningKey::generate(GroupId([0; 16])).unwrap();
    let name = name("web1.test");
    let request = wardline_secrets::request::request(channel.as_bytes(), &name, Role::Agent).unwrap();
    let (identity, certificate) = (identity.as_bytes().to_vec().into(), Bytes::new());
    Applying { name, role: Role::Agent, identity, request, certificate, principal: None, pin: None, further: None }
}

#[tokio::test]
async fn both_ends_of_a_request_have_the_same_codes_and_never_the_same_twice() {
    let site = site().await;
    let gateway = passing(vec![parent("srv.test", site.server)], &site.stop).await;
    let (parents, applying) = ([parent("gw.test", gateway)], applying());
    let mut codes = Vec::new();
    for _ in 0..3 {
        let waiting = request(&parents, &applying).await.unwrap();
        let kept = site.desk.requests.lock().unwrap().last().unwrap().transcript;
        assert_eq!((waiting.code, waiting.pin), (code(&kept), site.group.root.pin()));
        assert_eq!(waiting.confirmation, confirmation(&kept));
        codes.extend([waiting.code.to_string(), waiting.confirmation.to_string()]);
    }
    codes.sort();
    codes.dedup();
    assert_eq!(codes.len(), 6);
    assert_eq!(site.admitted(), 0);
}

#[tokio::test]
async fn a_byte_of_a_request_changed_on_the_way_is_noticed() {
    let site = site().await;
    let (change, saw) = (Arc::new(Mutex::new((9, 0))), Arc::default());
    let parents = [parent("gw.test", meddler(&site, Arc::clone(&change), Arc::clone(&saw)).await)];
    let applying = applying();
    request(&parents, &applying).await.unwrap();
    let honest = saw.lock().unwrap().clone();
    assert_eq!(honest.len(), 4);
    // What the server says last is that it has nothing to say yet.
    for (turn, message) in honest.iter().enumerate().take(3) {
        for byte in (0..8).chain((8..message.len()).step_by(7)) {
            *change.lock().unwrap() = (turn, byte);
            let refused = request(&parents, &applying).await;
            assert!(refused.is_err(), "byte {byte} of message {turn} was changed unnoticed");
        }
    }
    assert_eq!(site.desk.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn only_what_was_committed_to_can_be_opened() {
    let site = site().await;
    let identity = site.group.identity();
    let hello = |host: &str| {
        let request = applying().request.into();
        let (token, identity) = (Bytes::new(), identity.public().unwrap().spki().into());
        let (name, role, nonce) = (host.to_owned(), "agent".to_owned(), vec![1; 16].into());
        encode(&Hello { token, name, role, identity, request, nonce, ..Hello::default() })
    };
    let hash = |nonce: &[u8], hello: &[u8]| sha256(&[nonce, hello]).to_wire();
    let talk = async |digest: Bytes, nonce: &[u8], hello: Bytes| {
        let mut stream = dial(&parent("srv.test", site.server)).await.unwrap();
        let commitment = encode(&Commitment { digest, name: "web1.test".into(), role: "agent".into() });
        say(&mut stream, &Up { said: Some(Said::Commitment(commitment.clone())) }).await.unwrap();
        let Some(Down { answered: Some(Answered::Challenge(challenge)) }) = hear(&mut stream).await.unwrap() else {
            panic!("it was not asked");
        };
        let transcript = transcript(&[&commitment, &challenge.payload, nonce, &hello]);
        let identity = identity.sign(Context::Join, &transcript.0);
        let open = Open { nonce: Bytes::copy_from_slice(nonce), hello, identity, token: Bytes::new() };
        say(&mut stream, &Up { said: Some(Said::Open(open)) }).await.unwrap();
        let Some(Down { answered: Some(answered) }) = hear(&mut stream).await.unwrap() else { panic!("no answer") };
        answered
    };
    let (one, other) = (hello("web1.test"), hello("web2.test"));
    let right = talk(hash(&[1; 32], &one), &[1; 32], one.clone()).await;
    assert!(matches!(right, Answered::Pending(_)));
    let longer = [&[1; 32][..], &one[..1]].concat();
    for (digest, nonce, hello) in [
        (hash(&[1; 32], &one), &[2; 32][..], one.clone()),
        (hash(&[1; 32], &one), &[1; 32], hello("web1.test")),
        // Another name than the one that it was said for.
        (hash(&[1; 32], &other), &[1; 32], other.clone()),
        // The same bytes, divided otherwise.
        (hash(&[1; 32], &one), &longer, one.slice(1..)),
        (hash(&[1; 31], &one), &[1; 31], one.clone()),
    ] {
        let Answered::Refusal(refusal) = talk(digest, nonce, hello).await else { panic!("{nonce:?}") };
        assert_eq!(refusal.why(), Why::Protocol);
    }
    assert_eq!(site.desk.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_host_that_waits_is_turned_away_by_nobody_but_a_server() {
    let site = site().await;
    // A gateway that says no to whoever asks what became of a request: in its own name, then in the middle of a session.
    let noes = Arc::new(Mutex::new(vec![1, 0]));
    let (server, left) = (parent("srv.test", site.server), Arc::clone(&noes));
    let on_join = move |knocking: Knocking| {
        let (server, left) = (server.clone(), Arc::clone(&left));
        async move {
            let (mut below, mut above) = (knocking.stream, dial(&server).await.unwrap());
            for turn in 0..2 {
                let Ok(Some(message)) = read(&mut below).await else { return };
                let poll = matches!(decode::<Up>(&message), Some(Up { said: Some(Said::Poll(_) | Said::Proof(_)) }));
                let refuses = poll && left.lock().unwrap().pop_if(|at| *at == turn).is_some();
                write(&mut above, &message).await.unwrap();
                let mut answer = read(&mut above).await.unwrap().unwrap();
                if refuses {
                    let refusal = Refusal { why: Why::Rejected.into(), transcript: Bytes::new() };
                    answer = encode(&Down { answered: Some(Answered::Refusal(refusal)) });
                }
                write(&mut below, &answer).await.unwrap();
            }
            close(&mut below).await;
        }
    };
    let gateway = listen(nobody(), &site.stop, |_| async {}, on_join).await;
    let parents = [parent("gw.test", gateway)];
    let waiting = request(&parents, &applying()).await.unwrap();
    *site.desk.says.lock().unwrap() = Some(Ok(()));
    let mut told = Vec::new();
    let decided = waiting.decided(|cause| told.push(cause.to_string()));
    assert_eq!(decided.await.unwrap().group, site.group.id);
    assert!(told.len() == 1 && told[0].contains("no server has signed it"), "{told:?}");
    assert!(noes.lock().unwrap().is_empty());

    // The control: a server's word is enough.
    let waiting = request(&parents, &applying()).await.unwrap();
    *site.desk.says.lock().unwrap() = Some(Err(Why::Rejected));
    let JoinError(attempts) = waiting.decided(|_| {}).await.unwrap_err();
    assert!(matches!(attempts[0].cause, Cause::Refused(Why::Rejected)), "{}", attempts[0]);
}

#[tokio::test]
async fn a_host_that_was_approved_by_a_server_that_has_forgotten_comes_home_as_a_member() {
    let site = site().await;
    let parents = [parent("srv.test", site.server)];
    let forgotten = async || {
        let waiting = request(&parents, &applying()).await.unwrap();
        let request = site.desk.requests.lock().unwrap().pop().unwrap();
        (waiting, request)
    };
    let (waiting, _) = forgotten().await;
    let JoinError(attempts) = waiting.decided(|_| {}).await.unwrap_err();
    assert!(matches!(attempts[0].cause, Cause::Refused(Why::NoRequest)), "{}", attempts[0]);
    let (waiting, request) = forgotten().await;
    site.desk.members.lock().unwrap().push((request.hello.identity, Bytes::new()));
    assert_eq!(waiting.decided(|_| {}).await.unwrap().group, site.group.id);
}

#[tokio::test]
async fn a_server_that_does_not_lead_to_the_pinned_root_learns_nothing_but_the_hello() {
    let (site, other) = (site().await, site().await);
    let refused = site.ask_at(other.server).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Forged(_)) && refused.step == Step::Challenge, "{refused}");
    assert_eq!(other.admitted(), 0);
    // It shows the right root and id, but has not a duty key under it.
    let (desk, _) = TestDesk::new(&Group::with(site.group.id));
    let shows = site.group.root.certificate().clone();
    let desk = Arc::new(TestDesk { shows, ..Arc::into_inner(desk).unwrap() });
    let address = server(&desk, &site.stop).await;
    let refused = site.ask_at(address).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Forged(_)) && refused.step == Step::Challenge, "{refused}");
    let member = Applicant { with: With::Root(site.group.trusted()), ..site.applicant() };
    let JoinError(attempts) = ask(&[parent("srv.test", address)], &member).await.unwrap_err();
    assert!(matches!(attempts[0].cause, Cause::Forged(_)) && attempts[0].step == Step::Challenge);
}

#[tokio::test]
async fn a_certificate_for_another_key_or_name_is_refused() {
    let site = site().await;
    for (twist, word) in [(Twist::OtherKey, "another key"), (Twist::OtherName, "other.test")] {
        *site.desk.twist.lock().unwrap() = twist;
        let refused = site.ask_at(site.server).await.unwrap_err();
        assert_eq!(refused.step, Step::Certificate);
        assert!(refused.to_string().contains(word), "{refused}");
        assert!(JoinError(vec![refused]).is_open());
    }
}

#[tokio::test]
async fn what_is_too_long_or_has_a_wrong_shape_is_refused() {
    let site = site().await;
    let say_raw = async |bytes: &[u8]| {
        let mut stream = dial(&parent("srv.test", site.server)).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes).await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        all
    };
    for length in [0, LIMIT as u32 + 1, u32::MAX] {
        assert!(say_raw(&length.to_be_bytes()).await.is_empty(), "{length}");
    }
    let refused = say_raw(&[0, 0, 0, 2, 8, 8]).await;
    let down = Down { answered: Some(Answered::Refusal(Refusal { why: Why::Protocol.into(), ..Default::default() })) };
    assert_eq!(refused[4..], encode(&down));
}

#[tokio::test]
async fn joins_and_sessions_do_not_keep_each_other_out() {
    let site = site().await;
    let (channel, desk) = (site.group.channel("srv.test", Role::Server), Arc::clone(&site.desk));
    let on_join = move |knocking: Knocking| {
        let desk = Arc::clone(&desk);
        async move { serve(knocking, desk.as_ref()).await }
    };
    let served = Arc::new(Mutex::new(0));
    let count = Arc::clone(&served);
    let on_session = move |session: handshake::Session| {
        *count.lock().unwrap() += 1;
        async move { drop(session) }
    };
    let address = listen(channel.into(), &site.stop, on_session, on_join).await;
    let srv = parent("srv.test", address);
    let mut idle = Vec::new();
    for _ in 0..SESSIONS {
        idle.push(dial(&srv).await.unwrap());
    }
    let refused = site.ask_at(address).await.unwrap_err();
    assert!(refused.step <= Step::Challenge, "{refused}");
    let agent = site.group.channel("web1.test", Role::Agent);
    let session = handshake::dial(&agent.into(), &srv, handshake::PEER_TIMEOUT).await.unwrap();
    assert_eq!(session.facts.mechanism.as_bytes(), ALPN_CERTIFICATE);
    eventually("the session is served", || *served.lock().unwrap() == 1).await;
    idle.clear();
    for _ in 0..100 {
        if site.ask_at(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("there is no place although nobody joins any more");
}
