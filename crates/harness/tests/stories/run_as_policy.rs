//! What the helper does is said by root alone, asked for by the agent alone, and anything else is refused with its reason.

use std::process::Command;
use std::time::Duration;

use nix::unistd::getuid;
use wardline_harness::helper::{Helper, as_root, request};
use wardline_harness::{Scratch, program, wait};
use wardline_proto::runas::{Ended, REQUEST_LIMIT, Request};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_policy_that_others_can_write_or_a_folder_on_a_disk_is_refused() {
    let own = getuid().as_raw();
    let mut helper = Helper::new(own, "");
    let good = format!("agent_user = {own}\n{}", helper.places());
    let refused = |helper: &mut Helper, text: &str, owner: &str, mode: &str, reason: &str| {
        let before = helper.events().len();
        helper.write_policy(text, owner, mode);
        let said = helper.refused();
        let told = helper.events().split_off(before);
        assert!(told.last().is_some_and(|event| event.text.contains(reason)), "{reason}: {said}");
        told.last().unwrap().number
    };
    assert_eq!(refused(&mut helper, &good, "root", "666", "can be written by others than root (mode 0666)"), 40153);
    assert_eq!(refused(&mut helper, &good, "root", "664", "can be written by others than root (mode 0664)"), 40153);
    assert_eq!(refused(&mut helper, &good, "daemon", "644", "belongs to user 1, not to root"), 40153);
    let unknown = good.replace("agent_user", "agent_usr");
    assert_eq!(refused(&mut helper, &unknown, "root", "644", "line 1, column 1: unknown field"), 40153);
    let root = format!("{good}[[allow]]\nuser = \"root\"\nprograms = [\"/usr/bin/id\"]\n");
    assert_eq!(refused(&mut helper, &root, "root", "644", "a plugin never runs as root"), 40153);
    let disk = good.replace(&format!("\"{}\"", helper.runtime().display()), "\"/var/tmp/wardline-runas-test\"");
    assert_eq!(refused(&mut helper, &disk, "root", "644", "is on a disk"), 40154);
    program::succeeds(&as_root("rm").args(["-r", "/var/tmp/wardline-runas-test"]).output().unwrap());
    let shared = good.replace(&format!("\"{}\"", helper.runtime().display()), "\"/dev/shm\"");
    assert_eq!(refused(&mut helper, &shared, "root", "644", "it needs a folder of its own"), 40154);
    // Who is not root cannot become anybody.
    let mut command = Command::new(program::find("wardline-runas"));
    if getuid().is_root() {
        let program = std::mem::replace(&mut command, Command::new("setpriv"));
        command.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(program.get_program());
    }
    let output = command.args(["run", "--config"]).arg(helper.policy()).output().unwrap();
    program::fails(&output, "only root can become another user");
    // The control: the good policy is taken; a second helper is not.
    helper.write_policy(&good, "root", "644");
    helper.restart();
    let output =
        as_root(program::find("wardline-runas")).args(["run", "--config"]).arg(helper.policy()).output().unwrap();
    program::fails(&output, "another wardline-runas works in it");
}

#[test]
fn a_request_that_the_policy_does_not_allow_is_refused_with_its_reason() {
    let policy = "[[allow]]\nuser = \"daemon\"\nprograms = [\"/usr/bin/id\"]\n";
    let helper = Helper::start(policy);
    let refused = |request: &Request, contents: &[&[u8]], reason: &str| {
        let (answer, printed) = helper.ask(request, contents);
        assert_eq!((answer.ended(), printed.stdout.len()), (Ended::Refused, 0), "{reason}");
        assert!(answer.text.contains(reason), "{reason}: {}", answer.text);
        let said = || helper.events().into_iter().find(|event| event.number == 40155 && event.text.contains(reason));
        wait::until(&format!("event 40155: {reason}"), LIMIT, said);
    };
    // The controls: what is allowed.
    let (answer, printed) = helper.shell("echo OK", &[], &[]);
    assert_eq!((answer.ended(), &printed.stdout[..]), (Ended::Exit, &b"OK\n"[..]));
    let id = Request { program: "/usr/bin/id".into(), arguments: vec![], ..request("", &[], &[]) };
    let (_, printed) = helper.ask(&Request { user: "daemon".into(), ..id.clone() }, &[]);
    assert_eq!(&printed.stdout[..], b"uid=1(daemon) gid=1(daemon) groups=1(daemon)\n");

    refused(&id, &[], "the program /usr/bin/id is not allowed by the policy for wardline-check");
    let shell = request("echo OK", &[], &[]);
    refused(&Request { user: "daemon".into(), ..shell.clone() }, &[], "/bin/sh is not allowed by the policy for user");
    for user in ["bin", "root", "0", "1900000000"] {
        let reason = format!("the user \"{user}\" is not allowed by the policy");
        refused(&Request { user: user.into(), ..shell.clone() }, &[], &reason);
    }
    // A link that anybody could have made, to a program that is allowed.
    let scratch = Scratch::new();
    let link = scratch.path().join("sh");
    std::os::unix::fs::symlink("/bin/sh", &link).unwrap();
    let linked = Request { program: link.display().to_string(), ..shell.clone() };
    refused(&linked, &[], "/tmp can be written by others than root");
    refused(&Request { program: "/bin/../bin/sh".into(), ..shell.clone() }, &[], "is no absolute path");
    refused(&Request { program: "/bin/no-such-program".into(), ..shell.clone() }, &[], "No such file");
    refused(&Request { time: 0, ..shell.clone() }, &[], "a time limit of 0 ms");
    for name in ["../password", "a/b", "..", ""] {
        let named = request("echo OK", &[], &[(name, "x")]);
        refused(&named, &[b"x"], &format!("{name:?} is no name for a credential"));
    }
    let large = Request { arguments: vec!["x".repeat(REQUEST_LIMIT)], ..shell };
    refused(&large, &[], "bytes; 1 to 524288 are allowed");
    assert_eq!(helper.folders(), [""; 0]);
}

#[test]
fn nobody_but_the_agents_user_may_ask() {
    let mut helper = Helper::new(12345, "programs = [\"/bin/sh\"]\n");
    helper.restart();
    let asked = |user: u32| {
        // By a program that says nothing but what it gets back. Who may not ask is not listened to.
        let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                      try: s.sendall(bytes.fromhex(sys.argv[2]))\nexcept BrokenPipeError: pass\n\
                      part = b'.'\nwhile part:\n \
                      try: part = s.recv(65536)\n \
                      except ConnectionResetError: break\n \
                      sys.stdout.buffer.write(part)";
        let user = user.to_string();
        let mut command = as_root("setpriv");
        command.args([
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ]);
        command.arg(helper.socket()).arg("00000001ff").output().unwrap()
    };
    // The control: the agent's user is listened to, and told that this is no request.
    assert!(program::succeeds(&asked(12345)).contains("the request cannot be decoded"));
    program::fails(&asked(12346), "PermissionError");
    // Root gets through to it, and is not the agent.
    assert!(program::succeeds(&asked(0)).contains("user 0 may not ask"));
    assert!(helper.events().iter().any(|event| event.number == 40155 && event.text.contains("user 0 may not ask")));
}
