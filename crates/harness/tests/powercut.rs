//! The disk that loses its power: that it is a disk, and that it finds who does not sync.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use rusqlite::Connection;
use wardline_harness::PowerCut;
use wardline_harness::random::{Random, seeds};

fn open(path: &Path, synchronous: &str) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    Ok(connection)
}

#[test]
fn it_is_a_file_system_like_any_other() {
    let disk = PowerCut::mount();
    let at = |name: &str| disk.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::write(at("a/b/file"), "text").unwrap();
    fs::rename(at("a/b/file"), at("a/renamed")).unwrap();
    assert_eq!(fs::read_to_string(at("a/renamed")).unwrap(), "text");
    let mut file = File::options().read(true).write(true).open(at("a/renamed")).unwrap();
    file.seek(SeekFrom::Start(10_000)).unwrap();
    file.write_all(b"end").unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10_003);
    file.set_len(6).unwrap();
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"text\0\0");
    let names = |path| fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(at("a")), ["b", "renamed"]);
    assert!(fs::remove_dir(at("a")).is_err());
    fs::remove_file(at("a/renamed")).unwrap();
    fs::remove_dir_all(at("a")).unwrap();
    assert!(names(disk.path().into()).is_empty());
    // What was removed can still be read by who has it open.
    file.rewind().unwrap();
    assert_eq!(file.read_to_end(&mut bytes).unwrap(), 6);
}

#[test]
fn a_cut_keeps_what_was_synced_and_kills_what_was_open() {
    let disk = PowerCut::mount();
    let at = |name: &str| disk.path().join(name);
    let mut synced = File::create(at("synced")).unwrap();
    synced.write_all(b"kept").unwrap();
    synced.sync_all().unwrap();
    File::create(at("nameless")).unwrap().sync_all().unwrap();
    fs::remove_file(at("nameless")).unwrap();
    File::open(disk.path()).unwrap().sync_all().unwrap();
    let mut nameless = File::create(at("nameless")).unwrap();
    nameless.write_all(b"lost").unwrap();
    nameless.sync_all().unwrap();

    disk.cut(1);
    assert!(synced.write_all(b"more").is_err());
    assert_eq!(fs::read_to_string(at("synced")).unwrap(), "kept");

    // The name of a synced file survives as the seed decides, and by no seed once it was kept.
    let survives = |seed| {
        File::create(at(&format!("{seed}"))).unwrap().sync_all().unwrap();
        disk.cut(seed);
        at(&format!("{seed}")).exists()
    };
    let survivors = (100..130).filter(|seed| survives(*seed)).count();
    assert!((1..30).contains(&survivors), "{survivors}");
}

#[test]
fn a_failed_fsync_loses_what_it_should_have_kept() {
    let disk = PowerCut::mount();
    let path = disk.path().join("file");
    let mut file = File::create(&path).unwrap();
    disk.settle();
    file.write_all(&[1; 512]).unwrap();
    disk.fail_syncs("file", 1);
    let mut other = File::create(disk.path().join("other")).unwrap();
    other.write_all(b"text").unwrap();
    other.sync_all().unwrap();
    assert!(file.sync_all().is_err());
    assert_eq!(disk.failing(), 0);
    file.write_all(&[2; 512]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [[1; 512], [2; 512]].concat(), "it looks as if all were well");
    disk.cut(0);
    assert_eq!(fs::read(&path).unwrap(), [[0; 512], [2; 512]].concat());
}

#[test]
fn a_full_disk_takes_nothing_new() {
    let disk = PowerCut::mount();
    let path = disk.path().join("file");
    fs::write(&path, [1; 1000]).unwrap();
    disk.limit(1000);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(&[2; 1000]).unwrap();
    let full = Some(nix::errno::Errno::ENOSPC as i32);
    assert_eq!(file.write_all(&[2; 1]).unwrap_err().raw_os_error(), full);
    assert_eq!(File::create(disk.path().join("other")).unwrap_err().raw_os_error(), full);
    // What fits in part is written in part, as disks do it.
    disk.limit(1003);
    assert_eq!(file.write(&[2; 10]).unwrap(), 3);
    assert_eq!((disk.used(), file.write(&[2; 10]).unwrap_err().raw_os_error()), (1003, full));
    file.set_len(1000).unwrap();
    assert_eq!(file.write(&[2; 3]).unwrap_err().raw_os_error(), full, "behind a hole");
    disk.limit(u64::MAX);
    file.write_all(&[2; 1]).unwrap();
}

#[test]
fn two_connections_share_a_database() {
    let disk = PowerCut::mount();
    let path = disk.path().join("data.db");
    let one = open(&path, "FULL").unwrap();
    one.execute_batch("create table t (n integer)").unwrap();
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let two = open(&path, "FULL").unwrap();
            let mut last = 0;
            while last < 500 {
                let now: i64 = two.query_row("select count(*) from t", [], |row| row.get(0)).unwrap();
                assert!(now >= last);
                last = now;
            }
        }
    });
    for n in 0..500 {
        one.execute("insert into t values (?)", [n]).unwrap();
    }
    reader.join().unwrap();
    assert!(path.with_extension("db-shm").exists(), "they share memory by a file");
}

/// How many rows a writer had been promised when the power went out, and how many are there afterwards.
fn promised_and_found(disk: &PowerCut, synchronous: &str, seed: u64) -> (i64, i64) {
    let path = disk.path().join(format!("{synchronous}-{seed}.db"));
    let mut random = Random::new(seed);
    let promised = {
        let connection = open(&path, synchronous).unwrap();
        // Without shared memory: to lose that under its feet would kill this process, not only the writer.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
        // So small that copying the log into the database is cut as often as writing it.
        connection.pragma_update(None, "wal_autocheckpoint", 10).unwrap();
        connection.execute_batch("create table t (n integer primary key, text)").unwrap();
        disk.settle();
        disk.cut_at(1 + random.below(600), seed);
        let insert = |n: u64| {
            let text = "x".repeat(usize::try_from(100 + n % 7 * 300).unwrap());
            connection.execute("insert into t values (?, ?)", (n as i64, text))
        };
        let promised = (0..10_000).take_while(|n| insert(*n).is_ok()).count();
        assert!(disk.is_out(), "the writer ended because the power did");
        promised as i64
    };
    disk.cut(seed);
    let found = open(&path, synchronous).and_then(|connection| {
        let sound: String = connection.query_row("pragma integrity_check", [], |row| row.get(0))?;
        // Rows have no gaps, or the highest number would lie.
        let count = "select count(*) from t having count(*) = coalesce(max(n) + 1, 0)";
        if sound == "ok" { connection.query_row(count, [], |row| row.get(0)) } else { Ok(DAMAGED) }
    });
    (promised, found.unwrap_or(DAMAGED))
}

/// More of them say nothing new, and the disk remembers each.
const MOST_SEEDS: usize = 2000;
/// In place of a count of rows: the database cannot be used any more.
const DAMAGED: i64 = -1;

#[test]
fn it_finds_the_writer_that_does_not_sync_and_clears_the_one_that_does() {
    let disk = PowerCut::mount();
    let cuts = |synchronous| {
        let (mut promised, mut lost, mut damaged) = (0, 0, 0);
        for seed in seeds(60).take(MOST_SEEDS) {
            let (told, found) = promised_and_found(&disk, synchronous, seed);
            // The row at which the power went out may be there.
            assert!(found <= told + 1, "seed {seed}: {found} of {told}");
            promised += told;
            lost += (told - found.max(0)).max(0);
            damaged += u32::from(found == DAMAGED);
        }
        println!("synchronous={synchronous}: lost {lost} of {promised} promised rows, {damaged} databases damaged");
        (lost > 0, damaged > 0)
    };
    assert_eq!(cuts("FULL"), (false, false));
    assert_eq!(cuts("NORMAL"), (true, false), "it promises only that the database stays sound");
    assert_eq!(cuts("OFF"), (true, true));
}
