//! Log lines that can be counted again: each has a number and could have been written by nobody else.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::random::Random;

/// The length of a line without its end.
pub const LENGTH: usize = 200;

const WORDS: [&str; 24] = [
    "accepted",
    "backend",
    "cache",
    "checkout",
    "client",
    "closed",
    "connection",
    "customer",
    "deadline",
    "gateway",
    "handler",
    "inventory",
    "latency",
    "miss",
    "order",
    "payment",
    "pool",
    "queue",
    "request",
    "response",
    "retry",
    "session",
    "timeout",
    "upstream",
];

/// Line number `number` of a seed, without its end.
pub fn line(seed: u64, number: u64) -> String {
    let mut random = Random::new(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
    let (seconds, millis) = (number / 1000, number % 1000);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let level = random.pick(&["INFO", "INFO", "INFO", "WARN", "ERROR"]);
    let mut text = format!("{h:02}:{m:02}:{s:02}.{millis:03} {level} id={number:012} request={:016x}", random.next());
    while text.len() < LENGTH {
        let _ = match random.below(4) {
            0 => write!(text, " {}={}", random.pick(&WORDS), random.below(100_000)),
            _ => write!(text, " {}", random.pick(&WORDS)),
        };
    }
    text.truncate(LENGTH);
    text
}

/// The number in a line.
pub fn number(line: &str) -> Option<u64> {
    line.split_once("id=")?.1.get(..12)?.parse().ok()
}

/// A log file that grows.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    seed: u64,
    written: u64,
}

impl Log {
    /// A new, empty one.
    pub fn create(path: &Path, seed: u64) -> Self {
        let file = File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path: path.to_owned(), file: BufWriter::new(file), seed, written: 0 }
    }

    /// Appends the next lines and gives their numbers.
    pub fn append(&mut self, count: u64) -> Range<u64> {
        let numbers = self.written..self.written + count;
        for number in numbers.clone() {
            writeln!(self.file, "{}", line(self.seed, number)).expect("a line can be appended");
        }
        self.file.flush().expect("lines can be appended");
        self.written = numbers.end;
        numbers
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many lines there are.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Compares what arrived with what was written.
    pub fn tally(&self, arrived: impl IntoIterator<Item = impl AsRef<str>>) -> Tally {
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut tally = Tally::default();
        for text in arrived {
            let text = text.as_ref();
            match number(text) {
                Some(number) if number < self.written && line(self.seed, number) == text => {
                    *seen.entry(number).or_default() += 1;
                }
                _ => tally.invented.push(text.to_owned()),
            }
        }
        tally.lost = (0..self.written).filter(|number| !seen.contains_key(number)).collect();
        tally.doubled = seen.into_iter().filter(|(_, times)| *times > 1).map(|(number, _)| number).collect();
        tally.doubled.sort_unstable();
        tally
    }
}

/// What is wrong with what arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Written, but not arrived.
    pub lost: Vec<u64>,
    /// Arrived more than once.
    pub doubled: Vec<u64>,
    /// Arrived, but never written like that.
    pub invented: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, doubled, invented } = self;
        write!(f, "lost {}, doubled {}, invented {}", lost.len(), doubled.len(), invented.len())?;
        let first = |f: &mut fmt::Formatter<'_>, what, first: Option<&dyn fmt::Debug>| match first {
            Some(first) => write!(f, "; first {what} {first:?}"),
            None => Ok(()),
        };
        first(f, "lost", lost.first().map(|n| n as _))?;
        first(f, "doubled", doubled.first().map(|n| n as _))?;
        first(f, "invented", invented.first().map(|text| text as _))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;
    use std::collections::HashSet;

    #[test]
    fn each_line_has_its_number_and_differs_from_all_others() {
        let lines: Vec<_> = (0..10_000).map(|n| line(7, n)).collect();
        assert!(lines.iter().all(|line| line.len() == LENGTH && line.is_ascii() && !line.contains('\n')));
        assert!(lines.iter().zip(0..).all(|(line, n)| number(line) == Some(n)));
        // Also apart from time and number.
        assert_eq!(lines.iter().map(|line| &line[40..]).collect::<HashSet<_>>().len(), lines.len());
        assert_ne!(line(7, 1), line(8, 1));
        assert_eq!(line(7, 1), lines[1]);
    }

    #[test]
    fn what_is_missing_double_or_foreign_is_told() {
        let scratch = Scratch::new();
        let mut log = Log::create(&scratch.path().join("app.log"), 3);
        assert_eq!((log.append(3), log.append(2)), (0..3, 3..5));
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert_eq!(log.tally(text.lines()), Tally::default());
        assert_eq!(log.tally(text.lines()).to_string(), "lost 0, doubled 0, invented 0");

        let altered = line(3, 4).replace("id=000000000004 request=", "id=000000000004 request+");
        let arrived = [line(3, 0), line(3, 2), line(3, 2), line(3, 3), line(3, 5), "x".into(), altered.clone()];
        let tally = log.tally(&arrived);
        assert_eq!(
            tally,
            Tally { lost: vec![1, 4], doubled: vec![2], invented: vec![line(3, 5), "x".into(), altered] }
        );
        assert!(tally.to_string().starts_with("lost 2, doubled 1, invented 3; first lost 1; first doubled 2;"));
    }
}
