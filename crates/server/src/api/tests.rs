//! The service as operators meet it: over its socket, by the client that they use.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;
use wardline_proto::entry::{Alert, Entry, What};
use wardline_proto::message::{Digest, Epoch, Mark, Signed, decode};
use wardline_proto::trust::{Record, Recorded};
use wardline_proto::{Name, Role};
use wardline_sdk::{
    AgentFilter, AlertFilter, Assignment, Client, DataAccess as _, GapFilter, Hop, Kind, LogEntry, LogFilter,
    MemberFilter, PackOrder, PrincipalOrder, Problem, RecoveryOrder, Time, TokenFilter, TokenOrder, TokenState,
    Topology, hex,
};

use super::{Connected, Live, Service, Socket, router};
use crate::founding::tests::renewal;
use crate::founding::{Foundation, default_lifetime};
use crate::joining::tests::admission;
use crate::joining::{JoinDesk, WithoutToken};
use crate::operating::accounts::Policy;
use crate::store::{Commit, Location, Open, Opened, Store};

mod accounts;

const A: Epoch = Epoch([0xa; 16]);
const NOW: u64 = 1_732_246_800_000;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A server to which `web1` is connected by `gw`.
#[derive(Default)]
struct Running {
    released: Mutex<Vec<Name>>,
}

impl Live for Running {
    fn name(&self) -> Name {
        name("server1")
    }

    fn started_at_ms(&self) -> u64 {
        NOW
    }

    fn topology(&self) -> Topology {
        Topology { services: vec![], hops: vec![Hop::new(name("web1"), name("gw"), "00".into(), vec![])] }
    }

    fn connected(&self) -> Vec<Connected> {
        vec![Connected { agent: name("web1"), last_heartbeat_ms: NOW + 5, via: Some(name("gw")) }]
    }

    fn grey(&self) -> HashMap<Name, String> {
        HashMap::from([(name("web2"), "it has no session".into())])
    }

    fn released(&self, agent: &Name) {
        self.released.lock().unwrap().push(agent.clone());
    }
}

/// A service that answers, and a client of it.
struct Served {
    folder: PathBuf,
    store: Store,
    live: Arc<Running>,
    client: Client,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<io::Result<()>>,
}

impl Served {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("wardline-api-{}", Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let Foundation { keeper, presence, authorities, channel, .. } = crate::founding::tests::found(&folder);
        let (store, _) = Store::open(Location::File(folder.join("server.db")), None, keeper).unwrap();
        let live = Arc::new(Running::default());
        let socket = folder.join("api.sock");
        let lifetime = default_lifetime();
        let (renewal, _) = renewal(&folder.join("north"), &store, presence, authorities, channel, lifetime);
        let accounts = crate::accounts::tests::accounts(&store);
        let configurations = crate::configuration::Configurations::new(store.clone(), accounts.clone());
        let configurations = Arc::new(configurations);
        let (authorities, review) = (renewal.authorities.subscribe(), WithoutToken::Review);
        let desk = JoinDesk::new(store.clone(), authorities, admission(review), configurations);
        let service =
            Service::new(store.clone(), Arc::clone(&live) as Arc<dyn Live>, desk, renewal, accounts, Policy::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let serving = tokio::spawn(Socket::bind(&socket).unwrap().serve(router(Arc::new(service)), shutdown));
        let client = Client::over_socket(&socket).unwrap();
        Self { folder, store, live, client, stop: Some(stop), serving }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// Sends a request as it is, and gives the answer.
    async fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn open(&self, epoch: u8, previous: Option<u8>, over: Option<u8>) -> Opened {
        let of = |byte| Epoch([byte; 16]);
        let (epoch, previous, over) = (of(epoch), previous.map(of), over.map(of));
        self.store.open_epoch(Open { agent: name("web1"), epoch, previous, over, now_ms: NOW }).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn what_agents_said_can_be_listed_and_shown() {
    let served = Served::new();
    served.open(0xa, None, None).await;
    let id = Uuid::now_v7();
    let alert =
        Alert { id: id.into_bytes().to_vec().into(), severity: 2, text: "disk full".into(), ..Alert::default() };
    let to = Mark { epoch: A, number: 1, hash: Digest([1; 32]) };
    let entries = vec![Entry { at: NOW, what: Some(What::Alert(alert)) }];
    let commit = Commit { agent: name("web1"), from: Mark::start(A), to, first: 1, entries, received_at_ms: NOW };
    served.store.commit(commit).await.unwrap();

    let filter = AlertFilter { agent: Some(name("web1")), limit: Some(5), ..AlertFilter::default() };
    let alerts = served.client.alerts(filter).await.unwrap();
    assert_eq!((alerts.items[0].id, alerts.items[0].text.as_str(), alerts.next), (id, "disk full", None));
    assert_eq!(served.client.alert(&id.to_string()[..20]).await.unwrap().alert, alerts.items[0]);

    let agents = served.client.agents(AgentFilter::default()).await.unwrap().items;
    assert_eq!((agents[0].last_seen, agents[0].number), (Time(NOW + 5), 1));
    assert_eq!(agents[0].session.as_ref().unwrap().via, Some(name("gw")));
    assert!(served.client.gaps(GapFilter::default()).await.unwrap().items.is_empty());
    assert_eq!(served.client.topology().await.unwrap(), served.live.topology());
    let status = served.client.status().await.unwrap();
    assert_eq!((status.name, status.alerts_open, status.agents, status.agents_connected), (name("server1"), 1, 1, 1));
}

#[tokio::test]
async fn a_held_agent_is_released_once_and_its_sessions_hear_of_it() {
    let served = Served::new();
    let release = async |agent: &str| served.client.release(&name(agent)).await;
    assert_eq!(release("web1").await.unwrap_err().kind(), Kind::NotFound);
    for (epoch, previous, over) in
        [(0xa, None, None), (0xb, Some(0xa), Some(0xa)), (0xc, Some(0xa), Some(0xb)), (0xd, Some(0xb), Some(0xc))]
    {
        served.open(epoch, previous, over).await;
    }
    assert!(served.client.agents(AgentFilter::default()).await.unwrap().items[0].held);
    let agent = release("web1").await.unwrap();
    assert_eq!((agent.held, agent.displacements), (false, 0));
    assert_eq!(release("web1").await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(*served.live.released.lock().unwrap(), [name("web1")]);
}

#[tokio::test]
async fn every_refusal_is_a_problem_that_names_the_next_step() {
    let served = Served::new();
    for (method, path, status) in [
        ("GET", "/api/v1/alerts/0190", 404),
        ("GET", "/api/v1/alerts/%ff", 400),
        ("GET", "/api/v1/alerts?limit=many", 400),
        ("GET", "/api/v1/alerts?cursor=x", 400),
        ("GET", "/api/v1/alerts?agent=..%2fweb1", 400),
        ("POST", "/api/v1/agents/..%2fweb1/release", 400),
        ("POST", "/api/v1/agents/web9/release", 404),
        ("GET", "/api/v1/agents/web1/release", 405),
        ("GET", "/", 404),
        ("POST", "/api/v2/alerts", 404),
        ("POST", "/api/v1/tokens", 400),
        ("POST", "/api/v1/tokens/07/revoke", 404),
        ("POST", "/api/v1/members/server/srv1.test/remove", 409),
        ("POST", "/api/v1/members/agent/..%2fweb1/remove", 400),
        ("POST", "/api/v1/members/root/web1/remove", 400),
        ("POST", "/api/v1/group/recovery", 400),
        ("GET", "/api/v1/log?cursor=x", 400),
    ] {
        let answer = served.raw(&format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {head}");
        assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, status);
        assert!(!problem.detail.is_empty() && !problem.next.is_empty(), "{problem:?}");
    }
}

#[tokio::test]
async fn a_socket_is_private_taken_over_from_the_dead_only_and_removed_at_the_end() {
    let mut served = Served::new();
    let path = served.socket();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);

    served.stop.take().unwrap().send(()).unwrap();
    (&mut served.serving).await.unwrap().unwrap();
    assert!(!path.exists());

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    Socket::bind(&path).unwrap();

    let file = served.folder.join("file");
    std::fs::write(&file, "not a socket").unwrap();
    assert_eq!(Socket::bind(&file).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert!(file.is_file());
}

#[tokio::test]
async fn tokens_and_members_are_changed_in_the_operators_name_and_the_log_says_so() {
    let served = Served::new();
    let foundation = crate::founding::tests::found(&served.folder);
    crate::founding::announce(&served.store, foundation.presence).await.unwrap();
    let client = &served.client;
    let order = TokenOrder {
        id: "07".repeat(16),
        key: "01".repeat(32),
        role: Role::Agent,
        name: "web*".into(),
        uses: 2,
        expires: Time(wardline_connector::now_ms() + 60_000),
        via: vec![],
        principal: None,
    };
    let token = client.create_token(order.clone()).await.unwrap();
    assert_eq!((token.state, token.uses, token.used), (TokenState::Good, 2, 0));
    assert_eq!(client.create_token(order).await.unwrap_err().kind(), Kind::Failed, "an id is given once");
    assert_eq!(client.tokens(TokenFilter::default()).await.unwrap().items, std::slice::from_ref(&token));
    assert_eq!(client.revoke_token("07").await.unwrap().state, TokenState::Revoked);
    assert!(client.tokens(TokenFilter::default()).await.unwrap().items.is_empty());
    assert_eq!(client.tokens(TokenFilter { all: true, ..TokenFilter::default() }).await.unwrap().items.len(), 1);

    let members = client.members(MemberFilter::default()).await.unwrap().items;
    assert_eq!((members.len(), members[0].role), (1, Role::Server));
    for role in [Role::Agent, Role::Gateway] {
        assert_eq!(client.remove(role, &name("web1")).await.unwrap_err().kind(), Kind::NotFound);
        let assignment = Assignment::default();
        assert_eq!(client.assign(role, &name("web1"), assignment).await.unwrap_err().kind(), Kind::NotFound);
        let order = PrincipalOrder { principal: Some("WEB1$@CORP".parse().unwrap()) };
        assert_eq!(client.bind_principal(role, &name("web1"), order).await.unwrap_err().kind(), Kind::NotFound);
    }

    assert!(!client.status().await.unwrap().recovery);
    let key = wardline_secrets::recovery::RecoveryKey::generate().unwrap();
    let order = RecoveryOrder { key: key.public().to_base64(), replace: false };
    assert_eq!(client.escrow(order.clone()).await.unwrap().recovery, Some(key.public().id().to_string()));
    assert_eq!(client.escrow(order).await.unwrap_err().kind(), Kind::Conflict);
    assert!(client.status().await.unwrap().recovery);

    let mut entries = Vec::new();
    let mut cursor = None;
    loop {
        let page = client.log(LogFilter { limit: Some(3), cursor }).await.unwrap();
        entries.extend(page.items);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    let act = |entry: &LogEntry| {
        let signed: Signed = decode(&hex::decode(&entry.entry).unwrap().into()).unwrap();
        let record: Record = decode(&signed.payload).unwrap();
        let Some(Recorded::Entry(entry)) = record.what else { panic!() };
        entry.act
    };
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap();
    assert_eq!(act(&entries[0]), "server srv1.test");
    assert!(entries[5..].iter().all(|entry| act(entry) == format!("operator {}", user.name)));
    assert_eq!(
        client.log(LogFilter { limit: None, cursor: Some("x".into()) }).await.unwrap_err().kind(),
        Kind::Invalid
    );
}

#[tokio::test]
async fn packs_that_come_at_once_do_not_pass_together_what_one_configuration_holds() {
    let served = Served::new();
    let foundation = crate::founding::tests::found(&served.folder);
    crate::founding::announce(&served.store, foundation.presence).await.unwrap();
    // Of these four do not fit: each `<` is four bytes in XML.
    let order = |pack: &str| {
        let text = format!("[pack]\nname = \"{pack}\"\n# {}\n", "<".repeat(1024 * 1024 - 100));
        PackOrder { file: "pack.toml".into(), text, agents: None }
    };
    for pack in ["a", "b"] {
        served.client.apply_pack(order(pack)).await.unwrap();
    }
    let (c, d) = tokio::join!(served.client.apply_pack(order("c")), served.client.apply_pack(order("d")));
    assert_eq!([&c, &d].iter().filter(|applied| applied.is_ok()).count(), 1);
    assert_eq!(c.err().or(d.err()).unwrap().kind(), Kind::Conflict);
    assert_eq!(served.store.view().borrow().packs().count(), 3);
}
