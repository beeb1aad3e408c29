//! Replays what Debian's monitoring plugins really printed: all of it is understood.

use wardline_agent::outcome::{Exit, Outcome};
use wardline_proto::health::Health;

/// Each recorded run: the command, the exit code, what it printed.
fn runs() -> Vec<(&'static str, i32, &'static str)> {
    let recorded = include_str!("recorded/plugins.txt");
    let runs = recorded.split("$ ").skip(1).filter_map(|run| {
        let (command, run) = run.split_once("\nexit ")?;
        let (code, output) = run.split_once('\n')?;
        Some((command, code.parse().ok()?, output))
    });
    runs.collect()
}

#[test]
fn what_real_plugins_print_is_understood() {
    let runs = runs();
    assert_eq!(runs.len(), 30);
    for (command, code, output) in runs {
        let outcome = Outcome::of_plugin(Exit::Code(code), output.as_bytes(), b"");
        assert!(!outcome.failed, "{command}: {}", outcome.text);
        assert_eq!(outcome.health, Health::from_number(code as u32).unwrap(), "{command}");
        assert!(output.starts_with(&outcome.text), "{command}: {}", outcome.text);
        // Counted by other means than the parser's: labels here have no `=`, and no text in front of a bar counts.
        let expected: usize = match output.split_once('|') {
            Some((_, data)) => data.lines().next().unwrap().matches('=').count(),
            None => 0,
        };
        assert_eq!(outcome.samples.len(), expected, "{command}");
    }
}

#[test]
fn values_are_those_that_were_printed() {
    let sample = |command: &str, label: &str| {
        let (_, code, output) = runs().into_iter().find(|(name, ..)| *name == command).unwrap();
        let samples = Outcome::of_plugin(Exit::Code(code), output.as_bytes(), b"").samples;
        let sample = samples.into_iter().find(|sample| sample.label == label).unwrap();
        (sample.value, sample.unit)
    };
    assert_eq!(sample("check_disk -w 20% -c 10% -p /", "/"), (12_853_444_608.0, "B".into()));
    assert_eq!(sample("check_disk -w 20% -c 10% -u GB -p /srv/a b", "/srv/a b"), (0.0, "B".into()));
    assert_eq!(sample("check_load -r -w 5,4,3 -c 10,8,6", "scaled_load15"), (0.125, String::new()));
    assert_eq!(sample("check_http -H 127.0.0.1 -p 18081 -E", "time_headers"), (0.000_028, "s".into()));
    assert_eq!(sample("check_icmp -H 127.0.0.1 -n 2", "rtmin"), (0.012, "ms".into()));
    assert_eq!(sample("check_icmp -H 127.0.0.1 -n 2", "pl"), (0.0, "%".into()));
    assert_eq!(sample("check_procs -w 1:2 -c 1:3", "procs"), (69.0, String::new()));
}
