//! A log of short lines that a story writes, and the pack with which agents follow it.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A log file. What stands in it is what agents are to find.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

impl Log {
    /// A new, empty one: `NAME.log` in this folder.
    ///
    /// # Panics
    /// It cannot be made, as below when it cannot be written or read.
    pub fn create(folder: &Path, name: &str) -> Self {
        let log = Self(folder.join(name).with_extension("log"));
        log.clear();
        log
    }

    /// Begins it anew, empty.
    pub fn clear(&self) {
        File::create(&self.0).expect("a log can be made");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Appends a line, or several with line ends between them, at once.
    pub fn say(&self, line: impl AsRef<str>) {
        let mut file = File::options().append(true).open(&self.0).expect("a log can be appended to");
        file.write_all(format!("{}\n", line.as_ref()).as_bytes()).expect("a log can be appended to");
    }

    /// Appends so many lines that differ from all before: `line 0`, `line 1`.
    pub fn go_on(&self, count: usize) {
        let from = self.lines().len();
        let lines: Vec<_> = (from..from + count).map(|number| format!("line {number}")).collect();
        self.say(lines.join("\n"));
    }

    /// All its lines.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).expect("a log can be read");
        text.lines().map(str::to_owned).collect()
    }

    /// A pack of this name with which agents follow it.
    pub fn pack(&self, name: &str) -> String {
        pack(name, &self.0)
    }
}

/// A pack of this name with which agents follow a log, which is called as its file is.
pub fn pack(name: &str, log: &Path) -> String {
    let called = log.file_stem().expect("a file has a name").display().to_string();
    let path = log.display().to_string();
    format!("[pack]\nname = {name:?}\n[[log]]\nname = {called:?}\npath = {path:?}\n")
}
