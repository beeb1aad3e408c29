//! What a new user runs first: the demo goes all its steps, names the one that was broken on purpose, and leaves nothing
//! behind.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn demo() -> Command {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.env_remove("EXIT").env_remove("BREAK").stdin(Stdio::null());
    demo
}

/// A demo that is running; it is ended with the story, also when that fails.
struct Running(Child);

impl Running {
    fn end(&mut self) -> ExitStatus {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM);
        self.0.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.try_wait().unwrap().is_none() {
            self.end();
        }
    }
}

fn tour(broken: &str) -> (Output, Vec<String>) {
    let output = demo().env("EXIT", "1").env("BREAK", broken).output().unwrap();
    let lines = String::from_utf8(output.stdout.clone()).unwrap().lines().map(str::to_owned).collect();
    (output, lines)
}

/// Each line but the last is a step, in order; gives those that failed.
fn failed(lines: &[String]) -> Vec<&str> {
    let (last, steps) = lines.split_last().unwrap();
    for (number, line) in (1..).zip(steps) {
        assert!(line.starts_with(&format!("step {number}: ")), "{line}");
        assert!(line.contains(": FAILED: ") || line.contains(": ok (") && line.ends_with(" ms)"), "{line}");
    }
    let failed: Vec<_> = steps.iter().map(String::as_str).filter(|line| line.contains(": FAILED: ")).collect();
    assert_eq!(*last, format!("demo: {} steps, {} failed", steps.len(), failed.len()));
    assert!(steps.len() >= 14, "{lines:?}");
    failed
}

#[test]
fn the_demo_succeeds_and_each_break_is_named() {
    let (output, lines) = tour("");
    assert_eq!(failed(&lines), Vec::<&str>::new());
    assert_eq!(output.status.code(), Some(0));

    thread::scope(|scope| {
        for (broken, step) in [
            ("service", "the alert is closed: FAILED"),
            ("secret", "the password is in no file"),
            ("gateway", "no line lost"),
        ] {
            scope.spawn(move || {
                let (output, lines) = tour(broken);
                let failed = failed(&lines);
                assert!(failed.len() == 1 && failed[0].contains(step), "BREAK={broken}: {lines:?}");
                assert_eq!(output.status.code(), Some(1), "BREAK={broken}");
            });
        }
    });

    let (output, lines) = tour("everything");
    assert!(lines.is_empty(), "{lines:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("BREAK=everything") && said.contains("service, secret and gateway"), "{said}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_demo_stays_until_it_is_asked_to_end() {
    let mut running = Running(demo().stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let look = lines.find(|line| line.ends_with(" status")).expect("it says how to look around");
    let folder = lines.find_map(|line| line.split(" are under ").nth(1).map(str::to_owned)).expect("it names a folder");
    assert!(Path::new(&folder).is_dir());
    let mut words = look.split_whitespace();
    let looked = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(looked.status.success(), "{look}: {}", String::from_utf8_lossy(&looked.stderr));
    assert!(String::from_utf8_lossy(&looked.stdout).contains("srv1.test"));

    assert_eq!(running.end().code(), Some(0));
    assert!(!Path::new(&folder).exists(), "{folder} is left");
    let of_group = |process: procfs::process::Process| {
        process.cmdline().is_ok_and(|words| words.iter().any(|word| word.starts_with(&folder)))
    };
    assert!(!procfs::process::all_processes().unwrap().flatten().any(of_group), "a process is left");
}
