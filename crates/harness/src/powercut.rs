//! A disk that forgets what was not synced when its power is cut.
//!
//! ```text
//!  the test ── PowerCut ──(orders, a line each)──┐
//!                                                │  the program `powercut`
//!  programs ── kernel (page cache, locks) ── mount ── disk: what was written, what was synced
//! ```
//!
//! What a power cut leaves behind:
//! - Of each file, what was there at its last fsync or fdatasync. Of what was written since, each sector of 512 bytes
//!   survives or not, as the seed decides: large writes are torn, and later ones may survive earlier ones.
//! - Of each folder, the names that were there at its last fsync. Of the changes since, in their order, a first part
//!   survives. A synced file whose name was never synced is lost: that is all that POSIX promises. (ext4 keeps the name
//!   of a new file that was synced. SQLite does not rely on it, nor may we.)
//! - Modes and owners are kept at once.
//!
//! The disk is a process of its own. One that maps a file from a disk that it serves itself (SQLite does) ends up
//! waiting for itself: the kernel writes the map back while it holds the lock on the memory of the process.

mod disk;
mod mount;

use std::io::{BufRead as _, BufReader, Write as _, stdin, stdout};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::mount::{MntFlags, umount2};

use crate::{Scratch, program};
use disk::Disk;

/// A mounted disk in memory. It is unmounted and forgotten when dropped; end the programs on it first.
#[derive(Debug)]
pub struct PowerCut {
    line: Mutex<Option<Line>>,
    process: Child,
    folder: Scratch,
}

/// Orders one way, answers the other.
#[derive(Debug)]
struct Line {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Line {
    fn answer(&mut self) -> u64 {
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the disk answers");
        answer.trim_end().parse().expect("the disk answers by a number")
    }
}

impl PowerCut {
    /// Mounts an empty one. Needs root, or `fusermount3`.
    pub fn mount() -> Self {
        let folder = Scratch::new();
        let mut command = Command::new(program::own("powercut"));
        // Out of reach of what ends the test's own group: it unmounts when the orders end.
        command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut process = command.spawn().expect("the disk can be started");
        let (orders, answers) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        let mut line = Line { orders, answers: BufReader::new(answers) };
        line.answer();
        Self { line: Mutex::new(Some(line)), process, folder }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes everything that is there durable, as `sync` does.
    pub fn settle(&self) {
        self.order("settle");
    }

    /// Cuts the power, unless it is out already, and turns it on again. What was open stays dead: every use of it is
    /// EIO. What is opened from now on finds what the cut left.
    pub fn cut(&self, seed: u64) {
        self.order(&format!("cut {seed}"));
    }

    /// The power goes out by itself at the `count`-th change from now on, which is not done any more: a write, a sync,
    /// a change of a name or length. Until [`Self::cut`] everything is EIO.
    pub fn cut_at(&self, count: u64, seed: u64) {
        self.order(&format!("cut_at {count} {seed}"));
    }

    /// Whether the power is out.
    pub fn is_out(&self) -> bool {
        self.order("is_out") == 1
    }

    /// How many changes there were so far, see [`Self::cut_at`].
    pub fn changes(&self) -> u64 {
        self.order("changes")
    }

    /// The next so many syncs of files of this name fail, in place of what was ordered before. What they should have made
    /// durable is lost with the next cut, even when a later sync succeeds, unless it is written again: as Linux does it.
    pub fn fail_syncs(&self, name: &str, count: u64) {
        self.order(&format!("fail_syncs {count} {name}"));
    }

    /// How many syncs are still to fail.
    pub fn failing(&self) -> u64 {
        self.order("failing")
    }

    /// So many bytes fit from now on, of all files together: a write that does not fit is done in part or not at all.
    /// What is there stays, and can be overwritten.
    pub fn limit(&self, bytes: u64) {
        self.order(&format!("limit {bytes}"));
    }

    /// How many bytes all files take.
    pub fn used(&self) -> u64 {
        self.order("used")
    }

    fn order(&self, order: &str) -> u64 {
        let mut line = self.line.lock().expect("no order panics");
        let line = line.as_mut().expect("it is there until the drop");
        writeln!(line.orders, "{order}").expect("the disk takes orders");
        line.answer()
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        if let Ok(line) = self.line.get_mut() {
            *line = None;
        }
        // It unmounts and ends. The folder under it is removed only then.
        let _ = self.process.wait();
    }
}

/// The other end: serves a disk at a folder and obeys the orders on standard input until they end.
pub fn serve(folder: &Path) {
    let disk = Arc::new(Mutex::new(Disk::new()));
    let session = mount::mount(Arc::clone(&disk), folder);
    let answer = |number: u64| writeln!(stdout(), "{number}").and_then(|()| stdout().flush());
    let mut answered = answer(0);
    for order in stdin().lines() {
        let Ok(order) = order else { break };
        if answered.is_err() {
            break;
        }
        let words: Vec<_> = order.split_whitespace().collect();
        answered = answer(obey(&mut disk.lock().expect("no thread of the disk panics"), &words));
    }
    // Also from under programs that are still on it. An ordinary user may not, and leaves it to `fusermount3`.
    let _ = umount2(folder, MntFlags::MNT_DETACH);
    drop(session);
}

fn obey(disk: &mut Disk, order: &[&str]) -> u64 {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match order {
        ["settle"] => disk.settle(),
        ["cut", seed] => {
            disk.cut(number(seed));
            disk.power_on();
        }
        ["cut_at", count, seed] => disk.cut_at(number(count), number(seed)),
        ["is_out"] => return disk.is_out().into(),
        ["changes"] => return disk.changes(),
        ["fail_syncs", count, name] => disk.fail_syncs(name, number(count)),
        ["failing"] => return disk.failing(),
        ["limit", bytes] => disk.limit(usize::try_from(number(bytes)).expect("a size")),
        ["used"] => return disk.used() as u64,
        _ => panic!("no such order: {order:?}"),
    }
    0
}
