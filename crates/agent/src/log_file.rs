//! Follows a log file by its name: each line becomes an event, once.
//!
//! The position is kept in the queue, in the same transaction as the lines before it: whatever is killed, no line is
//! lost or doubled. A file that is seen for the first time is read from its beginning. When the name leads to another
//! file (rotation), the earlier one is read to its end first, also when that happened while the agent was away and the
//! earlier one lies in the same folder under another name. A file that became shorter than the position (cut in place)
//! is read from its beginning, and the operator is told.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead as _, Read as _, Seek as _, SeekFrom};
use std::mem;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use bytes::Bytes;
use nix::fcntl::OFlag;
use prost::Message as _;
use uuid::Uuid;
use wardline_connector::outbox::Put;
use wardline_packs::Log;
use wardline_proto::entry::{Entry, Event, What};

/// The most bytes that are read ahead of the position.
const AHEAD_LIMIT: usize = 128 * 1024;
/// The most lines of one put.
const MOST_LINES: usize = 512;
/// The most bytes of one line's text; what is longer is cut.
const LINE_LIMIT: usize = 16 * 1024;
/// How many looks in a row must find nothing new in a file that was renamed before the new one is read: a program
/// writes into the old one until it is told to open its log again.
const QUIET_LOOKS: u32 = 10;

/// How far a log was read.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct Position {
    /// The file system of the file.
    #[prost(uint64, tag = "1")]
    device: u64,
    /// The file.
    #[prost(uint64, tag = "2")]
    inode: u64,
    /// The bytes that became events.
    #[prost(uint64, tag = "3")]
    offset: u64,
    /// Whether this is within a line that was cut, of which the rest is passed over.
    #[prost(bool, tag = "4")]
    within: bool,
}

impl Position {
    fn start_of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), offset: 0, within: false }
    }

    fn is_in(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }
}

/// A log file that is followed. Its methods block on the file, and on nothing else.
#[derive(Debug)]
pub struct Follower {
    source: String,
    log: Log,
    /// `None` before the file was ever seen.
    position: Option<Position>,
    file: Option<File>,
    /// What was read from the file behind the position.
    ahead: Vec<u8>,
    /// Why the file cannot be read, as long as it cannot.
    trouble: Option<String>,
    quiet: u32,
}

/// What one step of following found.
#[derive(Debug, Default)]
pub struct Step {
    /// What goes into the queue, before the next step; may be nothing.
    pub put: Put,
    /// What the operator has to know.
    pub skipped: Option<String>,
    /// Whether there is nothing to do until the file changes.
    pub wait: bool,
}

impl Step {
    fn wait() -> Self {
        Self { wait: true, ..Self::default() }
    }
}

impl Follower {
    /// Goes on where `remembered`, kept under the log's [`key`], says. `source` is its `pack/log`.
    pub fn new(source: String, log: Log, remembered: Option<Bytes>) -> Self {
        let position = remembered.and_then(|bytes| Position::decode(bytes).ok());
        Self { source, log, position, file: None, ahead: Vec::new(), trouble: None, quiet: 0 }
    }

    /// Follows one step further, at `at` milliseconds since 1970.
    pub fn step(&mut self, at: u64) -> Step {
        match self.advance(at) {
            Ok(step) => step,
            Err(error) => {
                self.file = None;
                self.ahead.clear();
                let reason = match error.kind() {
                    io::ErrorKind::NotFound => "there is no such file; it is read when there is one".to_owned(),
                    _ => format!("it cannot be read: {error}"),
                };
                let skipped = Some(reason).filter(|reason| self.trouble.as_ref() != Some(reason));
                self.trouble = skipped.clone().or_else(|| self.trouble.take());
                Step { skipped, wait: true, ..Step::default() }
            }
        }
    }

    fn advance(&mut self, at: u64) -> io::Result<Step> {
        let (Some(file), Some(position)) = (&mut self.file, &mut self.position) else {
            return self.open();
        };
        let before = self.ahead.len();
        let room = AHEAD_LIMIT.saturating_sub(before) as u64;
        file.by_ref().take(room).read_to_end(&mut self.ahead)?;
        let grown = self.ahead.len() > before;
        let cut = Cut::new(&self.ahead, position.within, false);
        if cut.consumed > 0 {
            let entries = entries(&cut.lines, &self.source, &self.log, at);
            let step = self.consumed(cut.consumed, cut.within, entries);
            return Ok(step);
        }
        if grown {
            self.quiet = 0;
        }
        self.look_again(at)
    }

    /// Moves the position behind what became events.
    fn consumed(&mut self, bytes: usize, within: bool, entries: Vec<Entry>) -> Step {
        self.ahead.drain(..bytes);
        self.quiet = 0;
        if let Some(position) = &mut self.position {
            position.offset += bytes as u64;
            position.within = within;
        }
        // Where nothing became an event (empty lines, the rest of a cut line), the position need not be kept.
        let memory = if entries.is_empty() { Vec::new() } else { self.memory() };
        Step { put: Put { entries, memory }, ..Step::default() }
    }

    /// At the end of the file: whether it was cut, or another one has its name.
    fn look_again(&mut self, at: u64) -> io::Result<Step> {
        let (Some(file), Some(position)) = (&self.file, self.position) else {
            return Ok(Step::default());
        };
        let metadata = file.metadata()?;
        let end = position.offset + self.ahead.len() as u64;
        if metadata.len() < end {
            self.file = None;
            return Ok(self.start(&metadata, format!("it was cut to {} of {end} bytes", metadata.len())));
        }
        if metadata.len() > end {
            return Ok(Step::default());
        }
        let named = match fs::metadata(&self.log.path) {
            Ok(named) => named,
            // Between the two halves of a rotation, or removed: until there is a file of that name, nothing is missed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Step::wait()),
            Err(error) => return Err(error),
        };
        if position.is_in(&named) {
            return Ok(Step::wait());
        }
        self.quiet += 1;
        if self.quiet < QUIET_LOOKS {
            return Ok(Step::wait());
        }
        // A last line without its newline is as complete as it will ever be.
        let cut = Cut::new(&self.ahead, position.within, true);
        let entries = entries(&cut.lines, &self.source, &self.log, at);
        self.restart(&named);
        Ok(Step { put: Put { entries, memory: self.memory() }, ..Step::default() })
    }

    /// Opens the file that the position is in.
    fn open(&mut self) -> io::Result<Step> {
        let named = open(&self.log.path);
        let Some(position) = self.position else {
            let (file, metadata) = named?;
            self.position = Some(Position::start_of(&metadata));
            return Ok(self.opened(file));
        };
        let (mut file, metadata) = match named {
            Ok((file, metadata)) if position.is_in(&metadata) => (file, metadata),
            other => match (renamed(&self.log.path, position), other) {
                (Some(found), _) => found,
                (None, Ok((_, metadata))) => {
                    let reason = "the file read so far is gone; what was written to it last may be missing";
                    return Ok(self.start(&metadata, reason.to_owned()));
                }
                (None, Err(error)) => return Err(error),
            },
        };
        if metadata.len() < position.offset {
            let reason = format!("it was cut to {} of {} bytes", metadata.len(), position.offset);
            return Ok(self.start(&metadata, reason));
        }
        file.seek(SeekFrom::Start(position.offset))?;
        Ok(self.opened(file))
    }

    fn opened(&mut self, file: File) -> Step {
        self.file = Some(file);
        self.trouble = None;
        Step::default()
    }

    /// Begins a file anew, and says why.
    fn start(&mut self, metadata: &Metadata, reason: String) -> Step {
        self.restart(metadata);
        let put = Put { entries: Vec::new(), memory: self.memory() };
        Step { put, skipped: Some(format!("{reason}; it is read from its beginning")), ..Step::default() }
    }

    fn restart(&mut self, metadata: &Metadata) {
        self.file = None;
        self.ahead.clear();
        self.quiet = 0;
        self.position = Some(Position::start_of(metadata));
    }

    fn memory(&self) -> Vec<(String, Option<Bytes>)> {
        let Some(position) = &self.position else { return Vec::new() };
        vec![(key(&self.source), Some(position.encode_to_vec().into()))]
    }
}

/// The key under which the position in a log is kept.
pub fn key(source: &str) -> String {
    format!("log/{source}")
}

/// Opens a regular file to read it. Does not block on a pipe that has its name.
fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((file, metadata))
}

/// The file that a position is in, under another name in the same folder.
fn renamed(path: &Path, position: Position) -> Option<(File, Metadata)> {
    let entries = fs::read_dir(path.parent()?).ok()?;
    let same = entries.flatten().filter(|entry| entry.ino() == position.inode);
    same.filter_map(|entry| open(&entry.path()).ok()).find(|(_, metadata)| position.is_in(metadata))
}

/// The lines that bytes begin with.
#[derive(Debug, PartialEq)]
struct Cut<'a> {
    /// Without their ends; empty ones are left out.
    lines: Vec<&'a [u8]>,
    /// How many bytes they are, with their ends and the empty ones.
    consumed: usize,
    /// Whether the last one goes on behind these bytes.
    within: bool,
}

impl<'a> Cut<'a> {
    /// Takes at most [`MOST_LINES`] complete lines; of a line that is longer than all that is read ahead, its beginning.
    /// `within` says that the bytes begin with the rest of a line to pass over, `last` that nothing follows them.
    fn new(bytes: &'a [u8], mut within: bool, last: bool) -> Self {
        let mut lines = Vec::with_capacity(MOST_LINES);
        let mut rest = bytes;
        while lines.len() < MOST_LINES {
            let here = rest;
            // Reading from memory does not fail; the search is the C library's, fast in every build.
            let length = rest.skip_until(b'\n').unwrap_or(0);
            let line = here.get(..length).unwrap_or_default();
            let complete = line.ends_with(b"\n");
            let too_long = length >= AHEAD_LIMIT;
            if line.is_empty() || !(complete || too_long || within || last) {
                rest = here;
                break;
            }
            if !mem::replace(&mut within, !complete) {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                if !line.is_empty() {
                    lines.push(line);
                }
            }
        }
        Self { lines, consumed: bytes.len() - rest.len(), within }
    }
}

fn entries(lines: &[&[u8]], source: &str, log: &Log, at: u64) -> Vec<Entry> {
    let ids = ids(lines.len());
    let event = |(index, line): (usize, &&[u8])| {
        let id = ids.slice(index * 16..index * 16 + 16);
        let event = Event { id, source: source.to_owned(), severity: log.severity.number(), text: text(line) };
        Entry { at, what: Some(What::Event(event)) }
    };
    lines.iter().enumerate().map(event).collect()
}

/// A line as text within [`LINE_LIMIT`].
fn text(line: &[u8]) -> String {
    // A few bytes more than the limit: a character that the first cut breaks is behind the second.
    let line = line.get(..LINE_LIMIT + 4).unwrap_or(line);
    // Nearly every line is text as it is, and finding that out is many times faster than mending it.
    let mut text = str::from_utf8(line).map_or_else(|_| String::from_utf8_lossy(line).into_owned(), str::to_owned);
    text.truncate(text.floor_char_boundary(LINE_LIMIT));
    text
}

/// UUIDv7 of events found together, 16 bytes each: one random start, counted up in its last 62 bits (RFC 9562, section
/// 6.2, method 2). A random draw for each would cost more than everything else about a line.
fn ids(count: usize) -> Bytes {
    const RANDOM: u128 = (1 << 62) - 1;
    let first = Uuid::now_v7().as_u128();
    let mut ids = Vec::with_capacity(count * 16);
    for number in 0..count as u128 {
        let id = (first & !RANDOM) | ((first + number) & RANDOM);
        ids.extend_from_slice(&id.to_be_bytes());
    }
    ids.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use wardline_proto::health::Severity;

    use super::*;

    /// A log in a folder of its own, what was kept of it, and what was found.
    struct Scene {
        folder: PathBuf,
        path: PathBuf,
        follower: Follower,
        kept: Option<Bytes>,
        lines: Vec<String>,
        skipped: Vec<String>,
    }

    impl Scene {
        fn new() -> Self {
            let folder = std::env::temp_dir().join(format!("wardline-log-{}", Uuid::now_v7()));
            fs::create_dir(&folder).unwrap();
            let path = folder.join("app.log");
            let follower = Self::follower(&path, None);
            Self { folder, path, follower, kept: None, lines: Vec::new(), skipped: Vec::new() }
        }

        fn follower(path: &Path, kept: Option<Bytes>) -> Follower {
            let log = Log { name: "app".into(), path: path.into(), severity: Severity::Warning };
            Follower::new("base/app".into(), log, kept)
        }

        fn write(&self, text: impl AsRef<[u8]>) {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
            file.write_all(text.as_ref()).unwrap();
        }

        fn rename(&self, to: &str) {
            fs::rename(&self.path, self.folder.join(to)).unwrap();
        }

        /// As after kill -9: only what was put is there.
        fn restart(&mut self) {
            self.follower = Self::follower(&self.path, self.kept.clone());
        }

        /// One step; returns whether there was something to do.
        fn step(&mut self) -> bool {
            let step = self.follower.step(7);
            assert!(step.put.entries.len() <= MOST_LINES);
            for entry in step.put.entries {
                let Some(What::Event(event)) = entry.what else { panic!("{entry:?}") };
                assert_eq!((entry.at, event.source.as_str(), event.severity), (7, "base/app", 1));
                assert_eq!(Uuid::from_slice(&event.id).unwrap().get_version_num(), 7);
                self.lines.push(event.text);
            }
            for (key, value) in step.put.memory {
                assert_eq!(key, "log/base/app");
                self.kept = value;
            }
            self.skipped.extend(step.skipped);
            !step.wait
        }

        /// Follows until nothing has happened for longer than a rotation waits, and returns the lines.
        fn follow(&mut self) -> Vec<String> {
            let mut idle = 0;
            while idle <= QUIET_LOOKS {
                idle = if self.step() { 0 } else { idle + 1 };
            }
            mem::take(&mut self.lines)
        }

        fn skipped(&mut self) -> String {
            mem::take(&mut self.skipped).join(" / ")
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn each_complete_line_is_found_once() {
        let mut scene = Scene::new();
        scene.write("one\ntwo\r\n\n\nthr");
        assert_eq!(scene.follow(), ["one", "two"]);
        scene.write("ee\nfour");
        assert_eq!(scene.follow(), ["three"]);
        scene.restart();
        assert_eq!(scene.follow(), [""; 0]);
        scene.write("\nbäd\n");
        scene.restart();
        assert_eq!(scene.follow(), ["four", "bäd"]);
        scene.write(b"b\xe4d\n");
        assert_eq!(scene.follow(), ["b\u{fffd}d"]);
        assert_eq!(scene.skipped(), "");
    }

    #[test]
    fn no_kill_loses_or_doubles_a_line() {
        let mut scene = Scene::new();
        let expected: Vec<_> = (0..5000).map(|number| format!("line {number}")).collect();
        scene.write(expected.join("\n") + "\n");
        let mut found = Vec::new();
        while found.len() < expected.len() {
            // What a step found and did not keep is as good as not found.
            let _ = scene.follower.step(7);
            scene.restart();
            while scene.lines.is_empty() {
                scene.step();
            }
            found.append(&mut scene.lines);
            scene.restart();
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_waited_for_and_named_once() {
        let mut scene = Scene::new();
        assert_eq!(scene.follow(), [""; 0]);
        assert_eq!(scene.skipped(), "there is no such file; it is read when there is one");
        scene.write("one\n");
        assert_eq!(scene.follow(), ["one"]);
        assert_eq!(scene.skipped(), "");
    }

    #[test]
    fn what_is_no_file_is_named() {
        let mut scene = Scene::new();
        fs::create_dir(&scene.path).unwrap();
        scene.follow();
        assert_eq!(scene.skipped(), "it cannot be read: it is no regular file");
        fs::remove_dir(&scene.path).unwrap();
        nix::unistd::mkfifo(&scene.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        scene.follow();
        assert_eq!(scene.skipped(), "");
        fs::remove_file(&scene.path).unwrap();
        scene.write("one\n");
        assert_eq!(scene.follow(), ["one"]);
    }

    #[test]
    fn a_rotated_file_is_read_to_its_end_before_the_new_one() {
        let mut scene = Scene::new();
        scene.write("one\n");
        assert_eq!(scene.follow(), ["one"]);
        scene.write("two\nthree");
        let mut old = OpenOptions::new().append(true).open(&scene.path).unwrap();
        scene.rename("app.log.1");
        assert_eq!(scene.follow(), ["two"]);
        scene.write("five\n");
        assert!(!scene.step());
        // The program has not opened its log again yet.
        old.write_all(b" and a half\nfour, the last").unwrap();
        assert_eq!(scene.follow(), ["three and a half", "four, the last", "five"]);
        assert_eq!(scene.skipped(), "");
    }

    #[test]
    fn a_rotation_while_the_agent_was_away_loses_nothing() {
        let mut scene = Scene::new();
        scene.write("one\n");
        assert_eq!(scene.follow(), ["one"]);
        scene.write("two\n");
        scene.rename("app.log.1");
        scene.write("three\n");
        scene.restart();
        assert_eq!(scene.follow(), ["two", "three"]);
        scene.restart();
        assert_eq!(scene.follow(), [""; 0]);
        assert_eq!(scene.skipped(), "");
    }

    #[test]
    fn a_file_that_was_replaced_while_the_agent_was_away_is_read_and_the_doubt_is_told() {
        let mut scene = Scene::new();
        scene.write("one\n");
        assert_eq!(scene.follow(), ["one"]);
        // Both exist for a moment, so that the new one is another inode.
        scene.rename("old");
        scene.write("two\n");
        fs::remove_file(scene.folder.join("old")).unwrap();
        scene.restart();
        assert_eq!(scene.follow(), ["two"]);
        assert!(scene.skipped().contains("the file read so far is gone"));
        scene.restart();
        assert_eq!((scene.follow(), scene.skipped()), (vec![], String::new()));
    }

    #[test]
    fn a_file_that_was_cut_is_read_from_its_beginning_and_that_is_told() {
        for restarted in [false, true] {
            let mut scene = Scene::new();
            scene.write("one\ntwo\nthr");
            assert_eq!(scene.follow(), ["one", "two"]);
            File::create(&scene.path).unwrap();
            scene.write("four\n");
            if restarted {
                scene.restart();
            }
            assert_eq!(scene.follow(), ["four"]);
            let end = if restarted { 8 } else { 11 };
            assert_eq!(scene.skipped(), format!("it was cut to 5 of {end} bytes; it is read from its beginning"));
        }
    }

    #[test]
    fn a_long_line_is_cut_and_its_rest_passed_over() {
        let mut scene = Scene::new();
        let long = "ä".repeat(LINE_LIMIT);
        let longer = "x".repeat(3 * AHEAD_LIMIT + 5);
        scene.write(format!("{long}\n{longer}\nnext\n"));
        while scene.lines.len() < 2 {
            scene.step();
        }
        // Killed in the midst of the longer line.
        scene.restart();
        let lines = scene.follow();
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_LIMIT, LINE_LIMIT, 4]);
        assert!(long.starts_with(&lines[0]) && longer.starts_with(&lines[1]));
    }

    #[test]
    fn ids_are_distinct_and_rise() {
        let ids = ids(1000);
        let ids: Vec<_> = ids.chunks(16).map(|id| Uuid::from_slice(id).unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1] && pair[0].get_timestamp() == pair[1].get_timestamp()));
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }
}
