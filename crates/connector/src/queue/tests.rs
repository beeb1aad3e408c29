//! What rests in a queue's file opens only there, and what does not open any more costs itself and nothing else.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};
use wardline_proto::entry::{self, Class, Entry, GapReason, What};
use wardline_proto::message::{Batch, BatchHeader, Standing, decode};
use wardline_secrets::signature::random;

use super::*;
use crate::testing::{Group, Scratch, eventually, name, vault};

const LIMIT: u64 = 1 << 20;

/// A queue's file in a folder of its own.
struct Site {
    scratch: Scratch,
    key: Arc<SigningKey>,
}

impl Site {
    fn new() -> Self {
        Self { scratch: Scratch::new(), key: Group::new().identity() }
    }

    fn path(&self) -> PathBuf {
        self.scratch.0.join("queue.db")
    }

    fn open(&self) -> (Queue, Outbox, std::thread::JoinHandle<()>) {
        let (agent, group) = (name("web1.test"), name("north"));
        Queue::open(&vault(&self.scratch.0), &self.path(), agent, group, Arc::clone(&self.key), LIMIT).unwrap()
    }

    fn connection(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Where these bytes stand in a file of the queue.
    fn holds(&self, text: &str) -> bool {
        let files = fs::read_dir(&self.scratch.0).unwrap().map(|file| file.unwrap().path());
        let found = |path: &Path| fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes());
        files.filter(|path| path.is_file()).any(|path| found(&path))
    }
}

fn event(text: &str) -> Entry {
    let event = entry::Event { text: text.into(), ..entry::Event::default() };
    Entry { at: 7, what: Some(What::Event(event)) }
}

fn put(text: &str) -> Put {
    Put { entries: vec![event(text)], memory: vec![("log/app".into(), Some(format!("of {text}").into_bytes().into()))] }
}

/// Closes the queue, once what was asked of it is done.
fn close(queue: Queue, outbox: Outbox, thread: std::thread::JoinHandle<()>) {
    drop((queue, outbox));
    thread.join().unwrap();
}

/// What the server says that has everything up to here.
fn answer(mark: Mark) -> Answered {
    Answered { standing: Standing::Live, watermark: mark, common: mark, live: Some(mark.epoch) }
}

/// The texts and gaps of the batches that wait.
fn told(queue: &Queue) -> Vec<String> {
    let mut told = Vec::new();
    for batch in queue.behind(0) {
        let batch = decode::<Batch>(&batch.bytes).unwrap();
        let header = decode::<BatchHeader>(&batch.header).unwrap();
        for entry in entry::entries(&batch.body, header.raw).unwrap() {
            told.push(match entry.what {
                Some(What::Event(event)) => event.text,
                Some(What::Gap(gap)) => {
                    assert_eq!(gap.reason, i32::from(GapReason::Damaged));
                    format!("{} damaged", gap.count())
                }
                other => panic!("{other:?}"),
            });
        }
    }
    told
}

#[tokio::test]
async fn rows_are_read_by_who_has_the_vault_and_in_no_file() {
    let site = Site::new();
    let (queue, outbox, thread) = site.open();
    outbox.put(put("first-line")).await.unwrap();
    queue.compared(queue.compare(&answer(queue.acknowledged()))).await;
    outbox.put(put("second-line")).await.unwrap();
    eventually("it is closed", || told(&queue).len() == 2).await;
    queue.parted().await;
    outbox.put(put("third-line")).await.unwrap();
    assert!(!site.holds("-line"));
    close(queue, outbox, thread);
    assert!(!site.holds("-line"));
    // The control: the search finds a line that is there.
    fs::write(site.scratch.0.join("planted"), "a planted-line").unwrap();
    assert!(site.holds("-line"));
    let (queue, outbox, thread) = site.open();
    assert_eq!(outbox.remembered("log/app").unwrap(), "of third-line");
    queue.compared(queue.compare(&answer(queue.acknowledged()))).await;
    eventually("all is closed", || told(&queue).len() == 3).await;
    assert_eq!(told(&queue), ["first-line", "second-line", "third-line"]);
    close(queue, outbox, thread);
    // Another machine.
    let other = Scratch::new();
    let copied = other.0.join("queue.db");
    fs::copy(site.path(), &copied).unwrap();
    let opened = Queue::open(&vault(&other.0), &copied, name("web1.test"), name("north"), site.key.clone(), LIMIT);
    let error = opened.err().unwrap().to_string();
    assert!(error.contains("its key does not open"), "{error}");
}

#[tokio::test]
async fn a_row_at_another_place_or_changed_is_a_gap_and_the_rest_is_told() {
    let site = Site::new();
    let (queue, outbox, thread) = site.open();
    for text in ["one", "two", "three", "four"] {
        outbox.put(put(text)).await.unwrap();
    }
    close(queue, outbox, thread);
    for change in ["(SELECT body FROM open WHERE first = 3) WHERE first = 2", "zeroblob(length(body)) WHERE first = 3"]
    {
        assert_eq!(site.connection().execute(&format!("UPDATE open SET body = {change}"), []).unwrap(), 1);
    }
    site.connection().execute("UPDATE memory SET value = zeroblob(length(value))", []).unwrap();
    let (queue, outbox, thread) = site.open();
    assert_eq!(outbox.remembered("log/app"), None);
    queue.compared(queue.compare(&answer(queue.acknowledged()))).await;
    eventually("all is closed", || told(&queue).len() == 4).await;
    assert_eq!(told(&queue), ["one", "1 damaged", "1 damaged", "four"]);
    close(queue, outbox, thread);
}

#[tokio::test]
async fn a_damaged_batch_is_a_gap_in_a_new_epoch_unless_the_server_has_it() {
    let site = Site::new();
    let (queue, outbox, thread) = site.open();
    let start = queue.acknowledged();
    queue.compared(queue.compare(&answer(start))).await;
    for text in ["one", "two", "three"] {
        outbox.put(put(text)).await.unwrap();
    }
    eventually("all is closed", || queue.behind(0).len() == 3).await;
    let second = queue.behind(0)[1].link;
    close(queue, outbox, thread);
    site.connection().execute("UPDATE batch SET bytes = zeroblob(length(bytes)) WHERE last = 2", []).unwrap();

    let (queue, outbox, thread) = site.open();
    // The server has it: nothing is lost.
    let has = Mark { epoch: start.epoch, number: second.last, hash: second.hash };
    assert_eq!(queue.compare(&answer(has)), Verdict::Continue(has));
    // The server has it not.
    let verdict = queue.compare(&answer(start));
    assert!(matches!(&verdict, Verdict::Reopen(how) if how.reason.contains("damaged")), "{verdict:?}");
    queue.compared(verdict).await;
    assert_ne!(queue.epoch(), start.epoch);
    queue.compared(queue.compare(&answer(queue.acknowledged()))).await;
    eventually("all is closed", || told(&queue).len() == 3).await;
    let mut told = told(&queue);
    told.sort();
    assert_eq!(told, ["1 damaged", "one", "three"]);
    close(queue, outbox, thread);
}

/// A queue as the first version has left it, with what was deleted still in parts of the file that are not in use.
fn first_version(site: &Site) {
    let connection = site.connection();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection
        .execute_batch(
            "CREATE TABLE stream (
                 id INTEGER PRIMARY KEY CHECK (id = 0), epoch BLOB NOT NULL, previous BLOB, over BLOB,
                 number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
             CREATE TABLE batch (
                 last INTEGER PRIMARY KEY, first INTEGER NOT NULL, hash BLOB NOT NULL, bytes BLOB NOT NULL) STRICT;
             CREATE TABLE open (
                 first INTEGER PRIMARY KEY, class INTEGER NOT NULL, numbers INTEGER NOT NULL,
                 body BLOB NOT NULL) STRICT;
             CREATE INDEX open_class ON open (class, first);
             CREATE TABLE memory (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
             CREATE TABLE gone (text TEXT NOT NULL) STRICT;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    let tail = Tail::new(Epoch(random()));
    disk::save_tail(&connection, &tail).unwrap();
    let line = |text: &str| {
        let mut body = Vec::new();
        entry::append(&event(text), &mut body);
        body
    };
    let (raw, key) = (line("closed-line"), &site.key);
    let body = entry::compress(&raw);
    let hash = wardline_secrets::signature::sha256(&[&body]);
    let header = encode(&tail.next_header("web1.test", 1, hash, u32::try_from(raw.len()).unwrap()));
    let hash = wardline_secrets::signature::sha256(&[&header]);
    let signature = key.sign(Context::Batch, &header);
    let bytes = encode(&Batch { header, signature, body: body.into() });
    let insert = "INSERT INTO batch (last, first, hash, bytes) VALUES (1, 1, ?, ?)";
    connection.execute(insert, params![hash.0.as_slice(), bytes.as_ref()]).unwrap();
    for first in 2..200 {
        let insert = "INSERT INTO open (first, class, numbers, body) VALUES (?, ?, 1, ?)";
        connection.execute(insert, params![first, Class::Event as u8, line(&format!("open-line {first}"))]).unwrap();
    }
    connection.execute("INSERT INTO memory (key, value) VALUES ('log/app', ?)", [b"of a memory-line"]).unwrap();
    for _ in 0..200 {
        connection.execute("INSERT INTO gone (text) VALUES ('a deleted-line')", []).unwrap();
    }
    connection.execute("DELETE FROM gone", []).unwrap();
    connection.execute("DROP TABLE gone", []).unwrap();
}

#[tokio::test]
async fn a_queue_of_the_first_version_comes_under_its_key_and_nothing_of_it_is_left_in_the_clear() {
    let site = Site::new();
    first_version(&site);
    assert!(["open-line", "closed-line", "memory-line", "deleted-line"].iter().all(|text| site.holds(text)));
    // Interrupted after the rows were encrypted, and before the file was written anew: the next start does that.
    let clean =
        || site.connection().query_row("SELECT clean FROM protection", [], |row| row.get::<_, bool>(0)).unwrap();
    for _ in 0..2 {
        let (queue, outbox, thread) = site.open();
        close(queue, outbox, thread);
        assert!(clean() && !site.holds("-line"));
        site.connection().execute("UPDATE protection SET clean = 0", []).unwrap();
    }
    let (queue, outbox, thread) = site.open();
    assert_eq!(outbox.remembered("log/app").unwrap(), "of a memory-line");
    queue.compared(queue.compare(&answer(queue.acknowledged()))).await;
    eventually("all is closed", || told(&queue).len() == 199).await;
    let told = told(&queue);
    assert_eq!(
        (told[0].as_str(), told[1].as_str(), told[198].as_str()),
        ("closed-line", "open-line 2", "open-line 199")
    );
    close(queue, outbox, thread);
    assert!(!site.holds("-line"));
}
