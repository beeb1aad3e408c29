//! The search for secrets: in the memory of processes, in files, in what went over the wire; however they are written.
//!
//! ```text
//!  Search      what is looked for, in every encoding
//!   ├ memory    a process: /proc/PID/mem, all of it, and its arguments and environment
//!   ├ files     everything under folders
//!   └ tap       what a tap has recorded
//!      └ each of them plain, joined over line ends, URL-decoded, and what is compressed in it
//! ```
//!
//! A search that finds nothing says nothing unless the same search finds what was planted.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use base64ct::{Base64Unpadded, Encoding as _};
use memchr::memmem;

use crate::tap::{Tap, Way};

pub mod memory;
mod undone;

use memory::Image;

/// Shorter ones are found everywhere.
const SHORTEST: usize = 8;
/// The most findings of one encoding in one place.
const MOST: usize = 8;
/// How many times what is compressed is undone: something compressed in something compressed. LZ4 blocks only once.
const DEPTH: usize = 2;
/// How much of a file is searched at once, and how much of it once more with what follows.
const CHUNK: usize = 8 << 20;
const OVERLAP: usize = 1 << 20;

/// Where a secret was found, and how it was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked for, by the name that it was given.
    pub needle: String,
    /// Where: a path, a process and an address, a direction of a tap.
    pub place: String,
    /// How: `plain`, `base64`, `gzip: hex`.
    pub encoding: String,
    /// How far into the place; of what was undone, how far into that.
    pub offset: u64,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}+{:#x}, {}", self.needle, self.place, self.offset, self.encoding)
    }
}

/// What a search has found, and how much it has looked at.
#[derive(Debug, Default)]
pub struct Report {
    /// What was found.
    pub findings: Vec<Finding>,
    /// How many bytes were looked at.
    pub bytes: u64,
    /// How many files, processes or directions.
    pub places: usize,
}

impl Report {
    /// How a secret was written where it was found, each way once.
    pub fn encodings(&self) -> BTreeSet<&str> {
        self.findings.iter().map(|finding| finding.encoding.as_str()).collect()
    }

    /// This and what another search has found.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.findings.extend(other.findings);
        self.bytes += other.bytes;
        self.places += other.places;
        self
    }

    /// That nothing was found, in something.
    ///
    /// # Panics
    /// Something was found, or nothing was looked at.
    #[track_caller]
    pub fn finds_nothing(&self) {
        assert!(self.bytes > 0, "nothing was looked at");
        let shown: Vec<_> = self.findings.iter().take(20).map(ToString::to_string).collect();
        assert!(shown.is_empty(), "found {} times: {shown:#?}", self.findings.len());
    }

    /// That something was found.
    ///
    /// # Panics
    /// It was not.
    #[track_caller]
    pub fn finds_it(&self) {
        let (bytes, places) = (self.bytes, self.places);
        assert!(!self.findings.is_empty(), "nothing was found in {bytes} bytes of {places} places");
    }
}

/// What is looked for.
#[derive(Debug, Default)]
pub struct Search {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    needle: String,
    encoding: &'static str,
    finder: memmem::Finder<'static>,
}

impl Search {
    /// Looks for this, shown by a name.
    ///
    /// # Panics
    /// It is too short.
    pub fn of(name: &str, secret: &[u8]) -> Self {
        Self::default().and(name, secret)
    }

    /// Looks for this, too.
    ///
    /// # Panics
    /// It is too short.
    #[must_use]
    pub fn and(mut self, name: &str, secret: &[u8]) -> Self {
        assert!(secret.len() >= SHORTEST, "what is shorter than {SHORTEST} bytes is found everywhere: {name}");
        let mut seen = BTreeSet::new();
        for (encoding, pattern) in encodings(secret) {
            if seen.insert(pattern.clone()) {
                let finder = memmem::Finder::new(&pattern).into_owned();
                self.patterns.push(Pattern { needle: name.to_owned(), encoding, finder });
            }
        }
        self
    }

    /// In the memory of a process, its arguments and its environment. As an ordinary user by `sudo -n`, if need be.
    ///
    /// # Panics
    /// It cannot be read, or less of it than the process has in memory.
    pub fn memory(&self, pid: u32) -> Report {
        let image = Image::of(pid);
        image.is_whole();
        let mut report = Report { bytes: image.read, places: 1, ..Report::default() };
        for (address, run) in &image.runs {
            let place = format!("process {pid}, {address:#x}");
            self.look(&place, 0, run, &mut report.findings);
        }
        for file in ["cmdline", "environ"] {
            // A zombie has none; others' are root's, and their bytes in the memory that was read above.
            if let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) {
                self.look(&format!("/proc/{pid}/{file}"), 0, &bytes, &mut report.findings);
            }
        }
        report
    }

    /// In all files under folders, and in their names. Links are not followed.
    ///
    /// # Panics
    /// Something that is there cannot be read.
    pub fn files<P: AsRef<Path>>(&self, folders: &[P]) -> Report {
        let mut report = Report::default();
        folders.iter().for_each(|folder| self.under(folder.as_ref(), &mut report));
        report
    }

    fn under(&self, path: &Path, report: &mut Report) {
        match self.entry(path, report) {
            // Programs that run make and delete files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    fn entry(&self, path: &Path, report: &mut Report) -> io::Result<()> {
        let (kind, name) = (fs::symlink_metadata(path)?.file_type(), path.as_os_str().as_encoded_bytes());
        self.look(&format!("the name of {}", path.display()), 0, name, &mut report.findings);
        if kind.is_dir() {
            for entry in fs::read_dir(path)? {
                self.under(&entry?.path(), report);
            }
        } else if kind.is_file() {
            report.places += 1;
            report.bytes += self.file(path, &mut report.findings)?;
        }
        Ok(())
    }

    fn file(&self, path: &Path, findings: &mut Vec<Finding>) -> io::Result<u64> {
        let (mut file, place) = (File::open(path)?, path.display().to_string());
        let (mut chunk, mut before) = (Vec::new(), 0);
        loop {
            let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)?;
            self.look(&place, before, &chunk, findings);
            if read < CHUNK {
                return Ok(before + chunk.len() as u64);
            }
            let done = chunk.len() - OVERLAP;
            chunk.drain(..done);
            before += done as u64;
        }
    }

    /// In what a tap has recorded, both ways.
    pub fn tap(&self, place: &str, tap: &Tap) -> Report {
        let mut report = Report::default();
        for way in [Way::Up, Way::Down] {
            let recorded = tap.recorded(way);
            self.bytes(&format!("{place}, {way:?}"), &recorded, &mut report);
        }
        report
    }

    /// In bytes from anywhere.
    pub fn bytes(&self, place: &str, data: &[u8], report: &mut Report) {
        report.bytes += data.len() as u64;
        report.places += 1;
        self.look(place, 0, data, &mut report.findings);
    }

    fn look(&self, place: &str, before: u64, data: &[u8], findings: &mut Vec<Finding>) {
        self.undo(place, before, data, "", 0, findings);
    }

    fn undo(&self, place: &str, before: u64, data: &[u8], how: &str, depth: usize, findings: &mut Vec<Finding>) {
        self.patterns_in(place, before, data, how, findings);
        for (what, changed) in [("joined", joined(data)), ("url", url_decoded(data))] {
            if let Some(changed) = changed {
                self.patterns_in(place, 0, &changed, &format!("{how}{what}: "), findings);
            }
        }
        if depth == 0 {
            let blocks = undone::blocks(data);
            self.undo(&format!("blocks in {place}"), 0, &blocks, "lz4: ", 1, findings);
        }
        if depth < DEPTH {
            for (kind, at, content) in undone::streams(data) {
                let place = format!("{place}+{:#x}", before + at as u64);
                self.undo(&place, 0, &content, &format!("{how}{kind}: "), depth + 1, findings);
            }
        }
    }

    fn patterns_in(&self, place: &str, before: u64, data: &[u8], how: &str, findings: &mut Vec<Finding>) {
        for Pattern { needle, encoding, finder } in &self.patterns {
            for at in finder.find_iter(data).take(MOST) {
                findings.push(Finding {
                    needle: needle.clone(),
                    place: place.to_owned(),
                    encoding: format!("{how}{encoding}"),
                    offset: before + at as u64,
                });
            }
        }
    }
}

/// How a secret may be written.
fn encodings(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let text = String::from_utf8_lossy(secret);
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let decimal: Vec<_> = secret.iter().map(ToString::to_string).collect();
    let json = serde_json::to_string(&text).expect("a text can be JSON");
    let xml = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let mut all = vec![
        ("plain", secret.to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("decimal", decimal.join(", ").into_bytes()),
        ("decimal", decimal.join(",").into_bytes()),
        ("utf-16le", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("utf-16be", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        ("json", json.as_bytes()[1..json.len() - 1].to_vec()),
        ("xml", xml.clone().into_bytes()),
        ("xml", xml.replace('\'', "&apos;").into_bytes()),
        ("form", text.replace(' ', "+").into_bytes()),
    ];
    for offset in 0..3 {
        let standard = base64_within(secret, offset);
        let url: String = standard
            .chars()
            .map(|c| {
                if c == '+' {
                    '-'
                } else if c == '/' {
                    '_'
                } else {
                    c
                }
            })
            .collect();
        all.extend([("base64", standard.into_bytes()), ("base64url", url.into_bytes())]);
    }
    all
}

/// The characters of base64 that a secret alone decides, so many bytes behind a multiple of three.
fn base64_within(secret: &[u8], offset: usize) -> String {
    let whole = Base64Unpadded::encode_string(&[&[0, 0][..offset], secret].concat());
    whole[(offset * 8).div_ceil(6)..(offset + secret.len()) * 8 / 6].to_owned()
}

/// The data without its line ends, if it has any: base64 and hex are often broken into lines.
fn joined(data: &[u8]) -> Option<Vec<u8>> {
    let mut ends = memchr::memchr2_iter(b'\n', b'\r', data).peekable();
    ends.peek()?;
    let (mut all, mut from) = (Vec::with_capacity(data.len()), 0);
    for end in ends {
        all.extend_from_slice(&data[from..end]);
        from = end + 1;
    }
    all.extend_from_slice(&data[from..]);
    Some(all)
}

/// The data with every `%XX` undone (RFC 3986, section 2.1), if there is one.
fn url_decoded(data: &[u8]) -> Option<Vec<u8>> {
    let byte = |at: usize| {
        let digits = data.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut escapes = memchr::memchr_iter(b'%', data).filter_map(|at| Some((at, byte(at)?))).peekable();
    escapes.peek()?;
    let (mut all, mut from) = (Vec::with_capacity(data.len()), 0);
    for (at, byte) in escapes {
        // An escape has no escape in it: `%%41` is `%A`, and nothing of it is read twice.
        all.extend_from_slice(&data[from..at]);
        all.push(byte);
        from = at + 3;
    }
    all.extend_from_slice(&data[from..]);
    Some(all)
}

#[cfg(test)]
mod tests;
