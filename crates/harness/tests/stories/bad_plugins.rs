//! A plugin that breaks does not look like one that found all well: its monitor is unknown, with the reason, at the
//! server. The check beside it goes on, and nothing of it stays behind.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use wardline_harness::group::Group;
use wardline_harness::wait;

const LIMIT: Duration = Duration::from_secs(20);

/// How a plugin misbehaves: its name, what it does (nothing: there is no such file), and the reason.
const BAD: [(&str, Option<&str>, &str); 13] = [
    ("missing", None, "No such file or directory"),
    ("no-script", Some(""), "Exec format error"),
    ("not-executable", Some("echo OK"), "Permission denied"),
    ("hangs", Some("exec sleep 600"), "took longer than 500ms and was killed"),
    (
        "deaf",
        Some("trap '' TERM INT HUP; echo OK; while :; do sleep 600; done"),
        "took longer than 500ms and was killed",
    ),
    ("forks-away", Some("sleep 600 & echo $! >>PIDS; echo OK"), "left a process behind that kept its output open"),
    ("floods", Some("exec yes"), "printed more than 10 MiB and was killed"),
    ("binary", Some("printf 'OK \\377\\376\\n'"), "bytes that are no UTF-8 text"),
    ("perfdata", Some("echo 'OK | load=1,5'"), "bad performance data \"load=1,5\""),
    ("code-77", Some("echo OK; exit 77"), "exit code 77 is none of 0, 1, 2, 3"),
    ("killed", Some("echo OK; kill -KILL $$"), "ended by signal 9 (SIGKILL)"),
    ("silent", Some("echo no such host >&2; exit 2"), "printed nothing (exit code 2); on standard error: no such host"),
    ("cut", Some("printf 'OK'"), "does not end with a newline"),
];

fn plugin(folder: &Path, name: &str, script: Option<&str>) -> PathBuf {
    let path = folder.join(name);
    if let Some(script) = script {
        let pids = folder.join("pids").display().to_string();
        let text = if name == "no-script" { "\0".into() } else { format!("#!/bin/sh\n{script}\n") };
        fs::write(&path, text.replace("PIDS", &pids)).unwrap();
        let mode = if name == "not-executable" { 0o644 } else { 0o755 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    path
}

fn check(name: &str, program: &Path, every: &str) -> String {
    let program = program.display().to_string();
    let timeout = if matches!(name, "hangs" | "deaf") { "500ms" } else { "20s" };
    format!(
        "[[check]]\nname = {name:?}\nprogram = [{program:?}]\nevery = {every:?}\ntimeout = {timeout:?}\n\
         [check.monitor]\nalert_on = \"warning\"\n"
    )
}

fn alerts(group: &Group) -> Vec<Value> {
    group.json(&["alert", "list", "--all"]).as_array().unwrap().clone()
}

#[test]
fn a_plugin_that_misbehaves_is_unknown_with_the_reason() {
    let mut group = Group::builder().pack("bad", "").lay();
    let folder = group.folder().to_owned();
    let mut pack = String::from("[pack]\nname = \"bad\"\n");
    for (name, script, _) in BAD {
        pack += &check(name, &plugin(&folder, name, script), "1s");
    }
    pack += &check("good", &plugin(&folder, "good", Some("echo 'GOOD | is=1'")), "250ms");
    group.write_pack("bad", &pack);
    group.start();

    for (name, _, reason) in BAD {
        let text = wait::until(&format!("{name} is unknown"), LIMIT, || {
            let query = format!("SELECT text FROM state WHERE monitor = 'bad/{name}' AND health = 3");
            group.sql::<String>(&query).pop()
        });
        assert!(text.contains(reason), "{name}: {text}");
    }
    let list = wait::until("an alert of each", LIMIT, || Some(alerts(&group)).filter(|list| list.len() == BAD.len()));
    for (name, _, reason) in BAD {
        let alert = list.iter().find(|alert| alert["monitor"] == format!("bad/{name}")).unwrap();
        assert!(alert["text"].as_str().unwrap().contains(reason), "{alert}");
        assert_eq!((&alert["severity"], &alert["state"]), (&"warning".into(), &0.into()), "{alert}");
    }

    // The good one goes on meanwhile and after; the bad ones are not said again and again.
    let samples = |group: &Group| group.sql::<i64>("SELECT count(*) FROM sample")[0];
    let before = samples(&group);
    wait::until("the good check goes on", LIMIT, || (samples(&group) >= before + 8).then_some(()));
    assert_eq!(group.sql::<String>("SELECT source FROM series"), ["bad/good"]);
    assert_eq!(group.sql::<i64>("SELECT health FROM state WHERE monitor = 'bad/good'"), [0]);
    assert_eq!(alerts(&group), list);
    let said: Vec<_> = group.agent(0).events().into_iter().filter(|event| event.number == 40030).collect();
    assert_eq!(said.len(), BAD.len(), "each is said once: {said:?}");

    // A plugin that is repaired is healthy, and its alert closes.
    plugin(&folder, "missing", Some("echo REPAIRED"));
    wait::until("the repaired one is healthy", LIMIT, || {
        let closed = "SELECT text FROM alert WHERE monitor = 'bad/missing' AND state = 255";
        group.sql::<String>(closed).pop()
    });

    assert!(group.agent(0).stop().success());
    let pids = fs::read_to_string(folder.join("pids")).unwrap();
    assert!(pids.lines().count() > 1, "{pids}");
    wait::until("nothing of a plugin is left", LIMIT, || {
        let ours = |process: procfs::process::Process| {
            let forked = pids.lines().any(|pid| pid == process.pid.to_string());
            let of_folder =
                process.cmdline().is_ok_and(|words| words.iter().any(|word| Path::new(word).starts_with(&folder)));
            let gone = process.stat().map_or(true, |stat| stat.state == 'Z');
            let daemon = process.exe().is_ok_and(|exe| exe.to_string_lossy().contains("wardline-"));
            (forked || of_folder && !daemon) && !gone
        };
        (!procfs::process::all_processes().unwrap().flatten().any(ours)).then_some(())
    });
}
