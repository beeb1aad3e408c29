//! What one look of a check found, and how a plugin's output says it.

use nix::sys::signal::Signal;
use wardline_proto::entry::Sample;
use wardline_proto::health::Health;

use crate::perfdata;

/// The most bytes of the one line that says how it is.
pub const TEXT_LIMIT: usize = 1024;
/// The most bytes that are kept of what else a check printed.
pub const DETAIL_LIMIT: usize = 64 * 1024;

/// What one look of a check found.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How it is.
    pub health: Health,
    /// One line, at most [`TEXT_LIMIT`] bytes.
    pub text: String,
    /// What else there is to read, at most [`DETAIL_LIMIT`] bytes; may be empty.
    pub detail: String,
    /// What was measured.
    pub samples: Vec<Sample>,
    /// Whether the look itself failed: `text` is our reason then, not the check's word.
    pub failed: bool,
}

/// How a plugin's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Outcome {
    /// What a check said by itself.
    pub fn told(health: Health, text: &str, detail: &str, samples: Vec<Sample>) -> Self {
        Self { health, text: line(text), detail: paragraph(detail), samples, failed: false }
    }

    /// The look failed.
    pub fn failed(reason: impl AsRef<str>) -> Self {
        let (health, text) = (Health::Unknown, line(reason.as_ref()));
        Self { health, text, detail: String::new(), samples: Vec::new(), failed: true }
    }

    /// Reads what a plugin left behind: its exit code is its health, the first line of its output the text, what
    /// follows the detail, and what stands behind a `|` in either is performance data, to the end of the output.
    ///
    /// Where the output is not what the interface asks for, the check failed, whatever the exit code: a plugin that
    /// broke must not look like one that found all well. Standard error is only a reason for having printed nothing.
    pub fn of_plugin(exit: Exit, stdout: &[u8], stderr: &[u8]) -> Self {
        let code = match exit {
            Exit::Code(code) => code,
            Exit::Signal(number) => {
                let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
                return Self::failed(format!("the plugin was ended by signal {number} ({name})"));
            }
        };
        if stdout.trim_ascii().is_empty() {
            let stderr = String::from_utf8_lossy(stderr);
            let reason = match stderr.trim() {
                "" => format!("the plugin printed nothing (exit code {code})"),
                said => format!("the plugin printed nothing (exit code {code}); on standard error: {said}"),
            };
            return Self::failed(reason);
        }
        let Some(output) = std::str::from_utf8(stdout).ok().filter(|text| !text.contains('\0')) else {
            return Self::failed("the plugin printed bytes that are no UTF-8 text");
        };
        let health = u32::try_from(code).ok().and_then(Health::from_number);
        let Some(health) = health else {
            let failed = Self::failed(format!("the plugin's exit code {code} is none of 0, 1, 2, 3"));
            return Self { detail: paragraph(output), ..failed };
        };
        if !output.ends_with('\n') {
            let failed = Self::failed("the plugin's output was cut: its last line does not end with a newline");
            return Self { detail: paragraph(output), ..failed };
        }
        let (first, rest) = output.split_once('\n').unwrap_or((output, ""));
        let (text, first_data) = first.split_once('|').unwrap_or((first, ""));
        let (detail, rest_data) = rest.split_once('|').unwrap_or((rest, ""));
        let samples = perfdata::parse(first_data).and_then(|mut samples| {
            samples.extend(perfdata::parse(rest_data)?);
            Ok(samples)
        });
        match samples {
            Ok(samples) if samples.len() > perfdata::MOST_SAMPLES => {
                Self { detail: paragraph(output), ..Self::failed("the plugin printed more than 512 values") }
            }
            Ok(samples) => Self::told(health, if text.trim().is_empty() { "(no text)" } else { text }, detail, samples),
            Err(bad) => Self { detail: paragraph(output), ..Self::failed(bad.to_string()) },
        }
    }
}

/// A text as one line within [`TEXT_LIMIT`].
fn line(text: &str) -> String {
    let text = text.trim();
    let text = text.get(..text.floor_char_boundary(TEXT_LIMIT)).unwrap_or(text);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A text within [`DETAIL_LIMIT`], without the control characters that would move a terminal's cursor.
fn paragraph(text: &str) -> String {
    let text = text.trim();
    let text = text.get(..text.floor_char_boundary(DETAIL_LIMIT)).unwrap_or(text);
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(code: i32, stdout: &str) -> Outcome {
        Outcome::of_plugin(Exit::Code(code), stdout.as_bytes(), b"")
    }

    #[test]
    fn the_exit_code_is_the_health_and_the_first_line_the_text() {
        for health in Health::ALL {
            let outcome = plugin(*health as i32, "DISK - so so\n");
            assert_eq!(outcome, Outcome::told(*health, "DISK - so so", "", Vec::new()));
        }
    }

    #[test]
    fn performance_data_stands_behind_either_bar() {
        let outcome = plugin(0, "DISK OK | /=1MB\nmore\nstill more | /var=2MB;;;\n/home=3MB\n/srv=4MB\n");
        assert_eq!((outcome.text.as_str(), outcome.detail.as_str()), ("DISK OK", "more\nstill more"));
        let labels: Vec<_> = outcome.samples.iter().map(|sample| sample.label.as_str()).collect();
        assert_eq!(labels, ["/", "/var", "/home", "/srv"]);
        assert_eq!(plugin(0, "|a=1\n").text, "(no text)");
    }

    #[test]
    fn output_that_breaks_the_interface_is_unknown_with_the_reason() {
        let cases: [(Exit, &[u8], &[u8], &str); 10] = [
            (Exit::Code(0), b"", b"", "printed nothing (exit code 0)"),
            (Exit::Code(2), b" \n", b"no such host\n", "on standard error: no such host"),
            (Exit::Code(0), b"OK \xff\n", b"", "no UTF-8"),
            (Exit::Code(0), b"OK\0\n", b"", "no UTF-8"),
            (Exit::Code(0), b"OK", b"", "newline"),
            (Exit::Code(4), b"OK\n", b"", "exit code 4 is none of"),
            (Exit::Code(-1), b"OK\n", b"", "exit code -1 is none of"),
            (Exit::Signal(11), b"OK\n", b"", "signal 11 (SIGSEGV)"),
            (Exit::Code(0), b"OK | a=1 load\n", b"", "\"load\""),
            (Exit::Code(0), b"OK\nmore | 'a\n", b"", "\"'a\""),
        ];
        for (exit, stdout, stderr, reason) in cases {
            let outcome = Outcome::of_plugin(exit, stdout, stderr);
            assert_eq!(outcome.health, Health::Unknown, "{reason}");
            assert!(outcome.failed && outcome.samples.is_empty() && outcome.text.contains(reason), "{outcome:?}");
        }
        let both = format!("OK | {}\n | {}\n", "a=1 ".repeat(300), "b=1 ".repeat(300));
        assert!(plugin(0, &both).text.contains("512"));
    }

    #[test]
    fn texts_are_bounded_and_carry_no_control_characters() {
        let outcome = plugin(0, &format!("{}\n{}\n", "ä".repeat(4000), "ö".repeat(100_000)));
        assert_eq!((outcome.text.len(), outcome.detail.len()), (TEXT_LIMIT, DETAIL_LIMIT));
        let outcome = plugin(0, "a\x1b[2Jb\tc\r\nd\x07\te\n");
        assert_eq!((outcome.text.as_str(), outcome.detail.as_str()), ("a [2Jb c", "d \te"));
    }
}
