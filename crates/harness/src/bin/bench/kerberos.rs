//! Figures of the channel by Kerberos alone: what it carries beside bare wrapping, and what an idle session holds. Both ends
//! are this program, but for the gateway whose memory is looked at.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::Parent;
use wardline_connector::credential::Credential;
use wardline_connector::handshake::{self, Own, PEER_TIMEOUT};
use wardline_connector::kerberos::{Kerberos, Settings};
use wardline_connector::{link, listener};
use wardline_gss::{Acceptor, Context, Initiator, Library};
use wardline_harness::group::Group;
use wardline_harness::keyed::{self, principal};
use wardline_harness::realm::Realm;
use wardline_harness::{Scratch, hostile};
use wardline_proto::frame::{BODY_LIMIT, Frame, Part};
use wardline_proto::{Kind, Role};
use wardline_secrets::certificate::Identity;

/// Bytes that go through in one run.
const BYTES: u64 = 512 << 20;
/// Idle sessions.
const SESSIONS: usize = 1000;
/// The most bytes of one wrap.
const WRAP: usize = 65_460;

/// A realm whose configuration is where this process has been told to read it.
pub(crate) fn realm(config: &Path) -> Realm {
    let realm = Realm::start("BENCH.TEST");
    std::fs::copy(realm.config(), config).expect("a configuration can be copied");
    realm
}

fn identity(name: &str, role: Role) -> Identity {
    Identity { name: name.parse().expect("a name"), role }
}

/// Two hosts with their keys in one keytab.
struct Pair {
    realm: Realm,
    folder: Scratch,
}

impl Pair {
    fn new(config: &Path) -> Self {
        let (realm, folder) = (realm(config), Scratch::new());
        let names = ["agent1.test", "gw1.test"].map(|name| principal(name, &realm));
        let names = [names[0].as_str(), names[1].as_str()];
        realm.principals(&names);
        realm.keytab(&folder.path().join("keytab"), &names);
        Self { realm, folder }
    }

    fn kerberos(&self, name: &str) -> Arc<Kerberos> {
        let keytab = self.folder.path().join("keytab");
        let settings: Settings =
            toml::from_str(&format!("realms = [{:?}]\nkeytab = {keytab:?}", self.realm.name())).expect("settings");
        Kerberos::new(settings, &name.parse().expect("a name"), self.folder.path()).expect("a realm")
    }

    /// Two contexts with each other.
    fn contexts(&self) -> (Context, Context) {
        let library = Library::load(None).expect("the library is here");
        let keytab = self.folder.path().join("keytab");
        let [agent, gateway] = ["agent1.test", "gw1.test"].map(|name| principal(name, &self.realm));
        let initiator = Arc::new(Initiator::new(&library, &keytab, &agent).expect("a credential"));
        let replays = self.folder.path().join("replays");
        let acceptor = Acceptor::new(&library, &keytab, &gateway, &replays).expect("a credential");
        let (pending, token) = initiator.begin(&gateway, b"bench").expect("a ticket");
        let (accepted, answer) = acceptor.accept(&token, b"bench").expect("a good token");
        (pending.finish(&answer).expect("a good answer"), accepted)
    }
}

/// MiB per second of bare wrapping and unwrapping, each on a thread of its own, and of the channel; both in one process.
pub(crate) fn efficiency(config: &Path, runtime: &Runtime) -> (f64, f64) {
    let pair = Pair::new(config);
    let (mut wraps, mut unwraps) = pair.contexts();
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<u8>>(8);
    let began = Instant::now();
    let wrapping = std::thread::spawn(move || {
        let clear = vec![7; WRAP];
        for _ in 0..BYTES / WRAP as u64 {
            wraps.wrap(&clear, |token| send.send(token.to_vec()).expect("it is read")).expect("it is wrapped");
        }
    });
    let mut read = 0;
    for token in receive {
        unwraps.unwrap(&token, |clear| read += clear.len()).expect("it is unwrapped");
    }
    wrapping.join().expect("it ends");
    let bare = read as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    (bare, runtime.block_on(channel(&pair)))
}

async fn channel(pair: &Pair) -> f64 {
    let stop = CancellationToken::new();
    let listens = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listens.local_addr().expect("an address");
    let frames = BYTES / BODY_LIMIT as u64;
    let all = Arc::new(Notify::new());
    let told = Arc::clone(&all);
    let serve = move |session| {
        let told = Arc::clone(&told);
        async move {
            let (mut incoming, _outgoing, _writer) = link::open(session);
            for _ in 0..frames {
                incoming.frame().await.expect("the other end sends");
            }
            told.notify_one();
        }
    };
    let credential = Credential::by_kerberos(identity("gw1.test", Role::Gateway), pair.kerberos("gw1.test"));
    tokio::spawn(listener::listen(listens, credential, stop.clone(), serve, |_| std::future::ready(())));
    let own = Own {
        identity: identity("agent1.test", Role::Agent),
        certificate: None,
        kerberos: Some(pair.kerberos("agent1.test")),
    };
    let session = dial(&own, address).await;
    let (_incoming, outgoing, _writer) = link::open(session);
    let body = Bytes::from(vec![7; BODY_LIMIT]);
    let began = Instant::now();
    for _ in 0..frames {
        let frame = Frame { kind: Kind::Batch, route: 0, part: Part::Whole, body: body.clone() };
        outgoing.frame(frame).await.expect("the other end reads");
    }
    all.notified().await;
    let rate = (frames * BODY_LIMIT as u64) as f64 / began.elapsed().as_secs_f64() / f64::from(1 << 20);
    stop.cancel();
    rate
}

async fn dial(own: &Own, address: SocketAddr) -> handshake::Session {
    let parent = Parent::new("gw1.test".parse().expect("a name"), address.to_string());
    handshake::dial(own, &parent, PEER_TIMEOUT).await.expect("a session")
}

/// KiB of a gateway for each idle session by Kerberos. No server runs: nothing is said on them.
pub(crate) fn idle(config: &Path, runtime: &Runtime, memory: fn(&wardline_harness::Daemon) -> f64) -> f64 {
    let mut group = Group::builder().agents(0).lay();
    let realm = realm(config);
    keyed::key(group.gateway(0), &realm);
    group.gateway(0).start();
    let names: Vec<_> = (0..=SESSIONS).map(|number| format!("load-{number:05}.test")).collect();
    let principals: Vec<_> = names.iter().map(|name| principal(name, &realm)).collect();
    let principals: Vec<_> = principals.iter().map(String::as_str).collect();
    let keytab = group.folder().join("load.keytab");
    for some in principals.chunks(100) {
        realm.principals(some);
        realm.keytab(&keytab, some);
    }
    let address = hostile::listen(group.gateway(0));
    let text = format!("realms = [{:?}]\nkeytab = {keytab:?}", realm.name());
    let folder = group.folder().to_owned();
    runtime.block_on(async {
        let mut held = Vec::new();
        let mut before = 0.0;
        for name in &names {
            let settings: Settings = toml::from_str(&text).expect("settings");
            let kerberos = Kerberos::new(settings, &name.parse().expect("a name"), &folder);
            let own = Own { identity: identity(name, Role::Agent), certificate: None, kerberos };
            held.push(link::open(dial(&own, address).await));
            // The first has loaded the library.
            if held.len() == 1 {
                before = memory(group.gateway(0));
            }
        }
        (memory(group.gateway(0)) - before) / SESSIONS as f64
    })
}
