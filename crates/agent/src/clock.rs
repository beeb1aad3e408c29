//! The two clocks: one to date what is found, one to measure how long it takes to arrive.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// Now, in milliseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A file that notes when alerts were decided, for measuring how long they travel: lines of an alert's id and the
/// nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug)]
pub struct Measure(File);

impl Measure {
    /// Opens a file, and creates it when it is missing; notes are appended.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(Self)
    }

    /// Notes that an alert was decided just now.
    pub fn note(&self, alert: Uuid) {
        let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return };
        let nanoseconds = i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec());
        // One write for each line, so that lines stay whole. A measurement that fails must not stop what it measures.
        let _ = (&self.0).write_all(format!("{alert} {nanoseconds}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_an_id_and_a_time_that_rises() {
        let path = std::env::temp_dir().join(format!("wardline-measure-{}", Uuid::now_v7()));
        let ids = [Uuid::now_v7(), Uuid::now_v7()];
        for id in ids {
            Measure::open(&path).unwrap().note(id);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let notes: Vec<(Uuid, u64)> = text
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(id, time)| (id.parse().unwrap(), time.parse().unwrap()))
            .collect();
        assert_eq!([notes[0].0, notes[1].0], ids);
        assert!(0 < notes[0].1 && notes[0].1 <= notes[1].1);
    }
}
