//! What the store promises, on a real file and on a real server.

mod cluster;
mod schema;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::Connection;
use uuid::Uuid;
use wardline_proto::Name;
use wardline_proto::entry::{self, Entry, What};
use wardline_proto::health::{Health, Severity};
use wardline_proto::message::{Digest, Epoch, Mark, Standing};
use wardline_sdk::{AgentFilter, AlertFilter, Change, GapFilter, GapReason};

use super::sql::Engine;
use super::{Commit, Error, Found, Heard, Location, Open, Opened, Outcome, Released, Store, WriterThread, database};
use cluster::Cluster;

thread_local! {
    /// Where databases of this thread's tests are, when not in files.
    static CLUSTER: RefCell<Option<Cluster>> = const { RefCell::new(None) };
}

/// A folder of one test, removed with it, and the place of its database.
pub(super) struct Folder(PathBuf, Location);

impl Folder {
    pub(super) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wardline-store-{}", Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        let file = || Location::File(path.join("server.db"));
        let location = CLUSTER.with_borrow(|cluster| cluster.as_ref().map_or_else(file, Cluster::database));
        Self(path, location)
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// The keeper of this folder's trust log.
    pub(super) fn keeper(&self) -> super::Keeper {
        crate::founding::tests::found(&self.0).keeper
    }

    pub(super) fn database(&self) -> PathBuf {
        self.0.join("server.db")
    }

    pub(super) fn location(&self) -> Location {
        self.1.clone()
    }

    fn open(&self) -> (Store, WriterThread) {
        apart(|| Store::open(self.location(), None, self.keeper()).unwrap())
    }

    /// Somebody else who uses the database.
    fn second_connection(&self) -> Connection {
        Connection::open(self.database()).unwrap()
    }

    fn count(&self, from: &str) -> i64 {
        self.read(&format!("SELECT count(*) FROM {from}"))[0]
    }

    /// The first column of an answer.
    fn read(&self, sql: &str) -> Vec<i64> {
        apart(|| database::open_to_read(&self.1).unwrap().read(sql, &[], |row| row.get(0)).unwrap())
    }

    /// Changes the database as nobody does who uses it.
    fn change(&self, in_a_file: &str, on_a_server: &str) {
        apart(|| {
            let connection = database::create_or_open(&self.1).unwrap();
            let sql = if matches!(connection.engine(), Engine::Sqlite(_)) { in_a_file } else { on_a_server };
            connection.execute(sql, &[]).unwrap();
        });
    }
}

/// Does what may block, apart from the test's own runtime.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const A: Epoch = Epoch([0xa; 16]);
const B: Epoch = Epoch([0xb; 16]);
const C: Epoch = Epoch([0xc; 16]);
const D: Epoch = Epoch([0xd; 16]);
const NOW: u64 = 1_732_246_800_000;

/// The wish to open an epoch of [`web1`].
fn open(epoch: Epoch, previous: Option<Epoch>, over: Option<Epoch>) -> Open {
    Open { agent: web1(), epoch, previous, over, now_ms: NOW }
}

fn web1() -> Name {
    "web1.example".parse().unwrap()
}

fn mark(epoch: Epoch, number: u64) -> Mark {
    if number == 0 {
        return Mark::start(epoch);
    }
    let mut hash = [epoch.0[0]; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    Mark { epoch, number, hash: Digest(hash) }
}

/// A batch of `web1.example` that continues what ends with `after`.
fn batch(epoch: Epoch, after: u64, entries: Vec<Entry>) -> Commit {
    let last = after + entries.iter().map(Entry::numbers).sum::<u64>();
    Commit {
        agent: web1(),
        from: mark(epoch, after),
        to: mark(epoch, last),
        first: after + 1,
        entries,
        received_at_ms: NOW,
    }
}

fn said(what: What) -> Entry {
    Entry { at: NOW - 1000, what: Some(what) }
}

fn event(text: &str) -> Entry {
    said(What::Event(entry::Event {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        source: "linux/syslog".into(),
        severity: Severity::Warning.number(),
        text: text.into(),
    }))
}

fn alert(id: Uuid, severity: Severity, text: &str) -> Entry {
    said(What::Alert(entry::Alert {
        id: id.into_bytes().to_vec().into(),
        monitor: "linux/disk".into(),
        severity: severity.number(),
        priority: 1,
        text: text.into(),
        detail: "/ 99%".into(),
    }))
}

fn close(id: Uuid, text: &str) -> Entry {
    said(What::Close(entry::Close { id: id.into_bytes().to_vec().into(), text: text.into() }))
}

fn sample(label: &str, value: f64) -> Entry {
    let samples = vec![entry::Sample { label: label.into(), value, unit: "B".into() }];
    said(What::Performance(entry::Performance { source: "linux/disk".into(), samples }))
}

async fn opened(folder: &Folder) -> Store {
    let (store, _) = folder.open();
    assert_eq!(store.open_epoch(open(A, None, None)).await.unwrap(), Opened::Live { displaced: None });
    store
}

async fn watermark(store: &Store) -> Mark {
    store.streams(web1(), A).await.unwrap().live.unwrap()
}

#[tokio::test]
async fn a_batch_moves_its_stream_once_and_a_repeat_has_no_effect() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let first = batch(A, 0, vec![event("one"), event("two")]);
    assert_eq!(store.commit(first.clone()).await.unwrap(), Outcome::Committed);
    assert_eq!(store.commit(first).await.unwrap(), Outcome::Conflict);
    assert_eq!(watermark(&store).await, mark(A, 2));
    assert_eq!(folder.count("event"), 2);
}

#[tokio::test]
async fn a_batch_that_does_not_continue_its_stream_writes_nothing() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    assert_eq!(store.commit(batch(A, 0, vec![event("one")])).await.unwrap(), Outcome::Committed);
    let wrong = |change: fn(&mut Commit)| {
        let mut commit = batch(A, 1, vec![event("two")]);
        change(&mut commit);
        commit
    };
    for commit in [
        wrong(|commit| commit.from.number = 2),
        wrong(|commit| commit.from.hash = Digest([7; 32])),
        wrong(|commit| commit.from.epoch = B),
        wrong(|commit| (commit.from.epoch, commit.to.epoch) = (B, B)),
        wrong(|commit| commit.agent = "web2.example".parse().unwrap()),
        wrong(|commit| commit.to.number = u64::MAX),
    ] {
        assert_eq!(store.commit(commit.clone()).await.unwrap(), Outcome::Conflict, "{commit:?}");
    }
    assert_eq!(watermark(&store).await, mark(A, 1));
    assert_eq!(folder.count("event"), 1);
}

#[tokio::test]
async fn what_waits_is_committed_together_and_a_conflict_harms_nobody_else() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let lock = folder.second_connection();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut waiting = Vec::new();
    for number in 0..20 {
        for commit in [batch(A, number, vec![event("good")]), batch(A, number + 5, vec![event("bad")])] {
            let store = store.clone();
            waiting.push(tokio::spawn(async move { store.commit(commit).await.unwrap() }));
            // In this order into the channel.
            tokio::task::yield_now().await;
        }
    }
    lock.execute_batch("COMMIT").unwrap();
    for (index, outcome) in waiting.into_iter().enumerate() {
        let expected = if index % 2 == 0 { Outcome::Committed } else { Outcome::Conflict };
        assert_eq!(outcome.await.unwrap(), expected, "{index}");
    }
    assert_eq!(watermark(&store).await, mark(A, 20));
    assert_eq!((folder.count("event WHERE text = 'good'"), folder.count("event WHERE text = 'bad'")), (20, 0));
}

#[tokio::test]
async fn a_locked_database_holds_back_and_goes_on_by_itself() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let lock = folder.second_connection();
    lock.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let commit = tokio::spawn({
        let store = store.clone();
        async move { store.commit(batch(A, 0, vec![event("held back")])).await.unwrap() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!commit.is_finished());
    assert_eq!(watermark(&store).await, mark(A, 0), "lists and positions can be read meanwhile");
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(commit.await.unwrap(), Outcome::Committed);
    assert_eq!(folder.count("event"), 1);
}

#[tokio::test]
async fn a_store_that_nobody_uses_any_more_writes_what_waits_and_ends_even_when_it_cannot() {
    let folder = Folder::new();
    let (store, thread) = folder.open();
    store.open_epoch(open(A, None, None)).await.unwrap();
    store.seen(Heard { agent: web1(), at_ms: NOW + 5, late: Duration::ZERO, every: Duration::from_secs(60) });
    drop(store);
    thread.ended().await;
    assert_eq!(folder.count(&format!("agent WHERE last_seen = {}", NOW + 5)), 1);

    let (store, thread) = folder.open();
    let lock = folder.second_connection();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(20), store.commit(batch(A, 0, vec![event("x")]))).await;
    assert!(waiting.is_err());
    drop(store);
    thread.ended().await;
    lock.execute_batch("ROLLBACK").unwrap();
    assert_eq!(folder.count("event"), 0);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let folder = Folder::new();
    let (store, thread) = folder.open();
    store.open_epoch(open(A, None, None)).await.unwrap();
    store.commit(batch(A, 0, vec![event("one")])).await.unwrap();
    drop(store);
    thread.ended().await;
    let (store, _) = folder.open();
    assert_eq!(watermark(&store).await, mark(A, 1));
    assert_eq!(store.open_epoch(open(A, None, None)).await.unwrap(), Opened::Known(Standing::Live));
}

#[tokio::test]
async fn a_new_epoch_displaces_the_live_one_whose_batches_are_refused_from_then_on() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    store.commit(batch(A, 0, vec![event("one")])).await.unwrap();
    let opened = store.open_epoch(open(B, Some(A), Some(A))).await.unwrap();
    assert_eq!(opened, Opened::Live { displaced: Some(mark(A, 1)) });
    assert_eq!(store.commit(batch(A, 1, vec![event("two")])).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.commit(batch(B, 0, vec![event("one")])).await.unwrap(), Outcome::Committed);
    let streams = store.streams(web1(), A).await.unwrap();
    assert_eq!(streams.live, Some(mark(B, 1)));
    assert_eq!(streams.known, Some((mark(A, 1), Standing::Displaced)));
    assert_eq!(streams.displacements, 0);
    assert_eq!(store.open_epoch(open(A, None, None)).await.unwrap(), Opened::Known(Standing::Displaced));
    assert_eq!(store.streams("web2.example".parse().unwrap(), A).await.unwrap(), super::AgentStreams::default());
}

#[tokio::test]
async fn an_epoch_that_was_decided_over_another_than_the_live_one_comes_too_late() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    store.open_epoch(open(B, Some(A), Some(A))).await.unwrap();
    assert_eq!(store.open_epoch(open(C, Some(A), Some(A))).await.unwrap(), Opened::Late);
    let streams = store.streams(web1(), C).await.unwrap();
    assert_eq!((streams.live, streams.known), (Some(mark(B, 0)), Some((mark(C, 0), Standing::Displaced))));
    assert_eq!(store.commit(batch(C, 0, vec![event("x")])).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.commit(batch(B, 0, vec![event("x")])).await.unwrap(), Outcome::Committed);
}

#[tokio::test]
async fn a_queue_that_is_wiped_again_and_again_is_not_held() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let mut live = A;
    for (new, next) in [(2, 3), (4, 5), (6, 7)].map(|(new, next)| (Epoch([new; 16]), Epoch([next; 16]))) {
        assert_eq!(store.open_epoch(open(new, None, None)).await.unwrap(), Opened::Late);
        let opened = store.open_epoch(open(next, Some(new), Some(live))).await.unwrap();
        assert_eq!(opened, Opened::Live { displaced: Some(mark(live, 0)) });
        live = next;
    }
}

#[tokio::test]
async fn two_queues_that_displace_each_other_are_held_until_an_operator_releases_them() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    // A copy of the host goes on from A; the original, displaced, goes on from A too; the copy goes on from B.
    store.open_epoch(open(B, Some(A), Some(A))).await.unwrap();
    assert!(matches!(store.open_epoch(open(C, Some(A), Some(B))).await.unwrap(), Opened::Live { .. }));
    assert_eq!(store.streams(web1(), C).await.unwrap().displacements, 1);
    assert_eq!(store.open_epoch(open(D, Some(B), Some(C))).await.unwrap(), Opened::Held);

    let streams = store.streams(web1(), C).await.unwrap();
    assert!(streams.held);
    assert_eq!(streams.known, Some((mark(C, 0), Standing::Held)));
    assert_eq!(store.commit(batch(C, 0, vec![event("x")])).await.unwrap(), Outcome::Conflict);
    assert_eq!(store.open_epoch(open(D, Some(B), Some(C))).await.unwrap(), Opened::Known(Standing::Held));
    assert_eq!(store.open_epoch(open(Epoch([9; 16]), None, None)).await.unwrap(), Opened::Known(Standing::Held));
    assert_eq!(folder.count("stream"), 4, "nothing grows while it is held");
    let alerts = store.alerts(AlertFilter::default()).await.unwrap().items;
    assert_eq!(
        (alerts.len(), alerts[0].monitor.as_str(), alerts[0].severity),
        (1, "wardline/stream", Severity::Critical)
    );

    assert_eq!(store.release(web1(), NOW + 9).await.unwrap(), Released::Released);
    assert_eq!(store.release(web1(), NOW + 9).await.unwrap(), Released::NotHeld);
    assert_eq!(store.release("web2.example".parse().unwrap(), NOW).await.unwrap(), Released::NotKnown);
    assert!(store.alerts(AlertFilter::default()).await.unwrap().items.is_empty());
    assert_eq!(store.streams(web1(), C).await.unwrap().displacements, 0);
    assert_eq!(store.commit(batch(C, 0, vec![event("x")])).await.unwrap(), Outcome::Committed);
    assert_eq!(store.open_epoch(open(D, Some(B), Some(C))).await.unwrap(), Opened::Known(Standing::Displaced));
}

#[tokio::test]
async fn the_newest_1024_batch_ends_are_remembered_and_the_start_while_none_is_forgotten() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    for number in 0..1030 {
        store.commit(batch(A, number, vec![sample("used", 1.0)])).await.unwrap();
    }
    assert_eq!(folder.count("chain"), 1024);
    let point = |number| (mark(A, number).number, mark(A, number).hash);
    let remembers = |points| store.remembers(web1(), A, points);
    assert_eq!(remembers(vec![point(3), point(0)]).await.unwrap(), None);
    assert_eq!(remembers(vec![point(3), point(6)]).await.unwrap(), None);
    assert_eq!(remembers(vec![point(0), point(7), point(1029), point(1031)]).await.unwrap(), Some(mark(A, 1029)));
    assert_eq!(remembers(vec![point(1030)]).await.unwrap(), Some(mark(A, 1030)));
    assert_eq!(remembers(vec![(1029, Digest([1; 32]))]).await.unwrap(), None);
    assert_eq!(store.remembers(web1(), B, vec![(0, Digest::default())]).await.unwrap(), None);
}

#[tokio::test]
async fn an_alert_is_raised_said_again_closed_and_opened_again() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let id = Uuid::now_v7();
    let life = vec![
        alert(id, Severity::Warning, "90 % used"),
        alert(id, Severity::Critical, "99 % used"),
        close(id, "10 % used"),
        close(id, "10 % used"),
        alert(id, Severity::Warning, "91 % used"),
    ];
    store.commit(batch(A, 0, life)).await.unwrap();
    let Found::One(found) = store.alert(&id.to_string()[..18]).await.unwrap() else { panic!("not found") };
    assert_eq!(found.alert.id, id);
    assert_eq!((found.alert.state, found.alert.repeat_count, found.alert.closed_at), (0, 2, None));
    assert_eq!((found.alert.text.as_str(), found.detail.as_str()), ("91 % used", "/ 99%"));
    let history: Vec<_> = found.history.iter().map(|step| (step.change, step.severity, step.state)).collect();
    assert_eq!(
        history,
        [
            (Change::Raised, Severity::Warning, 0),
            (Change::Repeated, Severity::Critical, 0),
            (Change::Closed, Severity::Critical, 255),
            (Change::Reopened, Severity::Warning, 0),
        ]
    );
    store.commit(batch(A, 5, vec![close(id, "well")])).await.unwrap();
    assert!(store.alerts(AlertFilter::default()).await.unwrap().items.is_empty());
    let all = store.alerts(AlertFilter { all: true, ..AlertFilter::default() }).await.unwrap().items;
    assert_eq!((all[0].state, all[0].closed_at, all[0].raised_at.0), (255, Some(all[0].modified_at), NOW - 1000));
}

#[tokio::test]
async fn an_agent_cannot_touch_the_alert_of_another() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let id = Uuid::now_v7();
    store.commit(batch(A, 0, vec![alert(id, Severity::Critical, "mine")])).await.unwrap();
    let other: Name = "web2.example".parse().unwrap();
    store.open_epoch(Open { agent: other.clone(), ..open(B, None, None) }).await.unwrap();
    let attack = vec![alert(id, Severity::Information, "nothing to see"), close(id, "all is well")];
    let outcome = store.commit(Commit { agent: other, ..batch(B, 0, attack) }).await.unwrap();
    assert_eq!(outcome, Outcome::Committed);
    let alerts = store.alerts(AlertFilter::default()).await.unwrap().items;
    assert_eq!((alerts.len(), alerts[0].text.as_str(), alerts[0].repeat_count), (1, "mine", 0));
    assert_eq!(folder.count("set_aside"), 2);
}

#[tokio::test]
async fn an_id_is_found_by_a_beginning_that_only_it_has() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let ids =
        ["01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-0000000000ff"].map(|id| id.parse().unwrap());
    store.commit(batch(A, 0, ids.map(|id| alert(id, Severity::Warning, "x")).to_vec())).await.unwrap();
    assert_eq!(store.alert("0190").await.unwrap(), Found::Many);
    for nothing in ["", "0191", "x", "-", "' OR 1", &"0".repeat(33)] {
        assert_eq!(store.alert(nothing).await.unwrap(), Found::Nothing, "{nothing}");
    }
    for one in ["01900000-0000-7000-8000-0000000000f", "019000000000700080000000000000FF"] {
        assert!(matches!(store.alert(one).await.unwrap(), Found::One(found) if found.alert.id == ids[1]), "{one}");
    }
}

#[tokio::test]
async fn lists_are_read_page_by_page_and_by_agent() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let ids: Vec<_> = (0..5).map(|_| Uuid::now_v7()).collect();
    store.commit(batch(A, 0, ids.iter().map(|id| alert(*id, Severity::Warning, "x")).collect())).await.unwrap();
    for all in [false, true] {
        for agent in [None, Some(web1())] {
            let mut filter = AlertFilter { all, agent, limit: Some(2), cursor: None };
            let mut seen = Vec::new();
            loop {
                let page = store.alerts(filter.clone()).await.unwrap();
                seen.extend(page.items.iter().map(|alert| alert.id));
                let Some(next) = page.next else { break };
                filter.cursor = Some(next);
            }
            assert!(seen.iter().eq(ids.iter().rev()));
        }
    }
    let other = AlertFilter { agent: Some("web2.example".parse().unwrap()), ..AlertFilter::default() };
    assert!(store.alerts(other).await.unwrap().items.is_empty());
    let cursor = AlertFilter { cursor: Some("x".into()), ..AlertFilter::default() };
    assert!(matches!(store.alerts(cursor).await, Err(Error::Cursor(_))));
}

#[tokio::test]
async fn entries_that_make_no_sense_are_set_aside_and_the_stream_goes_on() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let mut short = entry::Alert { id: Bytes::from_static(b"short"), ..entry::Alert::default() };
    let short_id = said(What::Alert(short.clone()));
    short.id = Bytes::from_static(&[1; 16]);
    short.severity = 3;
    let senseless = vec![
        Entry { at: NOW, what: None },
        short_id,
        said(What::Alert(short)),
        said(What::Event(entry::Event { id: Bytes::from_static(&[1; 16]), severity: 9, ..entry::Event::default() })),
        said(What::State(entry::State { health: 4, ..entry::State::default() })),
        close(Uuid::now_v7(), "never raised"),
        sample("used", f64::NAN),
    ];
    let count = senseless.len() as u64;
    let entries = [vec![event("before")], senseless, vec![event("after")]].concat();
    assert_eq!(store.commit(batch(A, 0, entries)).await.unwrap(), Outcome::Committed);
    assert_eq!(folder.count("event"), 2);
    assert_eq!(store.counts().await.unwrap().set_aside, count);
    let numbers = folder.read("SELECT number FROM set_aside ORDER BY id");
    assert_eq!(numbers, [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(watermark(&store).await, mark(A, count + 2));
}

#[tokio::test]
async fn a_gap_takes_the_numbers_that_it_counts() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let gap = entry::Gap { reason: 1, performance: 7, events: 3, from: NOW, ..entry::Gap::default() };
    store.commit(batch(A, 0, vec![event("x"), said(What::Gap(gap)), event("y")])).await.unwrap();
    assert_eq!(watermark(&store).await, mark(A, 12));
    for agent in [None, Some(web1())] {
        let gaps = store.gaps(GapFilter { agent, ..GapFilter::default() }).await.unwrap().items;
        assert_eq!((gaps[0].first, gaps[0].last, gaps[0].reason), (2, 11, GapReason::QueueFull));
        assert_eq!((gaps[0].from.unwrap().0, gaps[0].to, gaps[0].epoch.clone()), (NOW, None, A.to_string()));
    }
    let agents = store.agents(AgentFilter::default()).await.unwrap().items;
    assert_eq!((agents[0].gaps, agents[0].number, agents[0].epoch.clone()), (1, 12, Some(A.to_string())));
    assert_eq!(store.agent(web1()).await.unwrap().as_ref(), agents.first());
}

#[tokio::test]
async fn states_are_kept_as_they_are_now_and_samples_by_series() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let state = |health: Health| {
        let state = entry::State { monitor: "linux/disk".into(), health: health.number(), text: health.to_string() };
        said(What::State(state))
    };
    let entries = vec![
        state(Health::Warning),
        sample("used", 1.0),
        sample("used", 2.0),
        sample("free", f64::INFINITY),
        state(Health::Healthy),
    ];
    store.commit(batch(A, 0, entries)).await.unwrap();
    assert_eq!((folder.count("series"), folder.count("sample"), folder.count("state")), (2, 3, 1));
    assert_eq!(folder.count("state WHERE health = 0 AND text = 'healthy'"), 1);
}

#[tokio::test]
async fn texts_are_kept_whatever_is_in_them() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let texts = ["a\0b", "'; DROP TABLE event; --", "ÄÖ \u{1f600} \r\n\t\u{7f}", "\\x00", "?1 $1", ""];
    store.commit(batch(A, 0, texts.map(event).to_vec())).await.unwrap();
    let id = Uuid::now_v7();
    store.commit(batch(A, 6, vec![alert(id, Severity::Warning, "a\0b")])).await.unwrap();
    assert_eq!((folder.count("event"), folder.count("set_aside")), (6, 0));
    let kept = if matches!(folder.1, Location::File(_)) { "a\0b" } else { "a\u{2400}b" };
    assert_eq!(store.alerts(AlertFilter::default()).await.unwrap().items[0].text, kept);
}

#[tokio::test]
async fn the_store_counts_what_there_is() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    store.commit(batch(A, 0, vec![event("x"), alert(Uuid::now_v7(), Severity::Warning, "x")])).await.unwrap();
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.schema, counts.agents, counts.held), (6, 1, 0));
    assert_eq!((counts.events, counts.alerts_open, counts.gaps, counts.set_aside), (1, 1, 0, 0));
    assert!(counts.bytes > 10_000);
}

#[tokio::test]
async fn every_new_alert_is_measured_once_after_its_commit() {
    let folder = Folder::new();
    let path = folder.0.join("measure");
    let (store, thread) =
        apart(|| Store::open(folder.location(), Some(std::fs::File::create(&path).unwrap()), folder.keeper()).unwrap());
    store.open_epoch(open(A, None, None)).await.unwrap();
    let ids = [Uuid::now_v7(), Uuid::now_v7()];
    store.commit(batch(A, 0, ids.map(|id| alert(id, Severity::Warning, "x")).to_vec())).await.unwrap();
    store.commit(batch(A, 2, vec![alert(ids[0], Severity::Critical, "x")])).await.unwrap();
    drop(store);
    thread.ended().await;
    let lines = std::fs::read_to_string(path).unwrap();
    let measured: Vec<_> = lines.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert!(measured.iter().map(|(id, _)| id.parse::<Uuid>().unwrap()).eq(ids));
    assert!(measured.iter().all(|(_, time)| time.parse::<u64>().unwrap() > 0));
}

#[tokio::test]
async fn a_row_that_the_database_does_not_take_is_set_aside_with_its_reason() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    // A rule that this program does not know, as a newer one may add.
    folder.change(
        "CREATE TRIGGER rule BEFORE INSERT ON event WHEN new.text = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "ALTER TABLE event ADD CONSTRAINT no CHECK (text <> 'bad')",
    );
    folder.change(
        "CREATE TRIGGER other BEFORE INSERT ON state WHEN new.text = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END",
        "ALTER TABLE state ADD CONSTRAINT no CHECK (text <> 'bad')",
    );
    let state = |text: &str| {
        said(What::State(entry::State { monitor: "m".into(), health: Health::Healthy.number(), text: text.into() }))
    };
    let entries = vec![event("good"), event("bad"), state("good"), state("bad"), event("good")];
    assert_eq!(store.commit(batch(A, 0, entries)).await.unwrap(), Outcome::Committed);
    assert_eq!((folder.count("event"), folder.count("state")), (2, 1));
    assert_eq!(folder.count("set_aside WHERE reason LIKE '%no%'"), 2);
    // Names that are short until they are stored.
    let long = "\0\u{1}".repeat(900);
    let long = said(What::State(entry::State { monitor: long, health: Health::Healthy.number(), text: "x".into() }));
    assert_eq!(store.commit(batch(A, 5, vec![long, event("good")])).await.unwrap(), Outcome::Committed);
    assert_eq!((folder.count("event"), folder.count("set_aside")), (3, 3));
}

#[tokio::test]
async fn one_write_that_the_database_does_not_take_holds_up_no_other() {
    let folder = Folder::new();
    let store = opened(&folder).await;
    let other: Name = "web2.example".parse().unwrap();
    store.open_epoch(Open { agent: other.clone(), ..open(B, None, None) }).await.unwrap();
    // Somebody has written by hand what cannot be counted up.
    folder.change(
        "UPDATE stream SET commits = 9223372036854775807 WHERE epoch = x'0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'",
        "UPDATE stream SET commits = 9223372036854775807 WHERE epoch = '\\x0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a'",
    );
    let good = |first| Commit { agent: other.clone(), ..batch(B, first, vec![event("good")]) };
    let (bad, one) = tokio::join!(store.commit(batch(A, 0, vec![event("bad")])), store.commit(good(0)));
    assert!(matches!(bad, Err(Error::Refused(_))), "{bad:?}");
    assert_eq!(one.unwrap(), Outcome::Committed);
    assert_eq!((store.commit(good(1)).await.unwrap(), folder.count("event")), (Outcome::Committed, 2));
    // The control: put right, it is taken.
    folder.change("UPDATE stream SET commits = 7", "UPDATE stream SET commits = 7");
    assert_eq!(store.commit(batch(A, 0, vec![event("bad")])).await.unwrap(), Outcome::Committed);
}

/// The same tests, and those that lock a file, which is done otherwise on a server.
#[test]
fn what_a_file_promises_a_server_promises_too() {
    let tests: [fn(); 20] = [
        a_batch_moves_its_stream_once_and_a_repeat_has_no_effect,
        a_batch_that_does_not_continue_its_stream_writes_nothing,
        what_was_committed_is_there_after_a_restart,
        a_new_epoch_displaces_the_live_one_whose_batches_are_refused_from_then_on,
        an_epoch_that_was_decided_over_another_than_the_live_one_comes_too_late,
        a_queue_that_is_wiped_again_and_again_is_not_held,
        two_queues_that_displace_each_other_are_held_until_an_operator_releases_them,
        the_newest_1024_batch_ends_are_remembered_and_the_start_while_none_is_forgotten,
        an_alert_is_raised_said_again_closed_and_opened_again,
        an_agent_cannot_touch_the_alert_of_another,
        an_id_is_found_by_a_beginning_that_only_it_has,
        lists_are_read_page_by_page_and_by_agent,
        entries_that_make_no_sense_are_set_aside_and_the_stream_goes_on,
        a_gap_takes_the_numbers_that_it_counts,
        states_are_kept_as_they_are_now_and_samples_by_series,
        texts_are_kept_whatever_is_in_them,
        the_store_counts_what_there_is,
        every_new_alert_is_measured_once_after_its_commit,
        a_row_that_the_database_does_not_take_is_set_aside_with_its_reason,
        one_write_that_the_database_does_not_take_holds_up_no_other,
    ];
    const OF_A_FILE: usize = 3;
    let all = include_str!("tests.rs").matches("\n#[tokio::test]\n").count();
    assert_eq!(tests.len() + OF_A_FILE, all, "a test is missing here");
    CLUSTER.set(Some(Cluster::start()));
    tests.iter().for_each(|test| test());
}
