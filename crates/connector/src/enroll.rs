//! The command that makes a host part of a group: it makes the keys, asks with a token or waits for an operator, checks
//! what comes, and writes the group's folder. All of it or nothing; each step is shown.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use wardline_proto::event::Event;
use wardline_proto::join::Why;
use wardline_proto::{GroupId, Name, Principal, Role};
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::request::request;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::token::Token;
use wardline_secrets::trust::Pin;
use zeroize::Zeroizing;

use crate::config::{IDENTITY, Mechanism, Membership, Parent, StateFolder};
use crate::home;
use crate::join::{Admitted, Applicant, Cause, JoinError, Step, With, ask};
use crate::kerberos::Settings;
use crate::own_pki::{Offered, OwnPair};
use crate::quiet::Quiet;

/// The most bytes of a token's text that are read.
const TOKEN_LIMIT: u64 = 4096;
/// The most bytes of a line that somebody types.
const TYPED_LIMIT: u64 = 256;

/// What a configuration file says that matters here: the name, the state folder, and whether it has a group.
pub type Configured = (Name, PathBuf, bool);

/// The name and the state folder: as the configuration says, or where there is none yet, as the command line and the
/// program do.
///
/// # Errors
/// What is wrong, in words.
pub fn place(
    program: &str,
    file: &Path,
    name: Option<Name>,
    read: impl Fn() -> Result<Configured, Event>,
    state: PathBuf,
) -> Result<(Name, PathBuf), String> {
    match (name, file.exists()) {
        (Some(name), false) => Ok((name, state)),
        (name, _) => {
            let (configured, state, group) = read().map_err(|event| event.text())?;
            let file = file.display();
            if group {
                return Err(format!("{file} has a [[group]], which {program} would use instead; remove it first"));
            }
            match name.filter(|name| *name != configured) {
                Some(name) => Err(format!("{file} says that this host is {configured}, not {name}")),
                None => Ok((configured, state)),
            }
        }
    }
}

/// By what a host comes, as the command line says it.
#[derive(Debug)]
pub struct Wish {
    /// Whom to ask, in order, and to report to later.
    pub parents: Vec<Parent>,
    /// Where the token is.
    pub token: Option<PathBuf>,
    /// The pin of the group's root.
    pub pin: Option<Pin>,
    /// The certificate of the company's own PKI, and its key.
    pub own_pki: Option<OwnPair>,
    /// How it is to report.
    pub mechanism: Mechanism,
    /// What the configuration says about Kerberos.
    pub kerberos: Option<Settings>,
    /// The group that it is to join by Kerberos.
    pub group: Option<Target>,
}

/// The command as a program runs it.
pub fn main(program: &'static str, role: Role, place: Result<(Name, PathBuf), String>, wish: Wish) -> ExitCode {
    let mut out = io::stdout().lock();
    let Wish { parents, token, pin, own_pki, mechanism, kerberos, group } = wish;
    let by = |(name, state): (Name, PathBuf)| {
        let by = match (mechanism, kerberos) {
            (Mechanism::Certificate, _) => None,
            (_, Some(settings)) => Some(ByKerberos::new(settings, &name, group)?),
            (_, None) => return Err("a host that comes by Kerberos has a [kerberos] in its configuration".to_owned()),
        };
        Ok((name, state, by))
    };
    let joined = match place.and_then(by) {
        Ok((name, state, kerberos)) => {
            let enrolment = Enrolment { program, role, name, state, parents, token, pin, own_pki, mechanism, kerberos };
            enroll(&enrolment, &mut out)
        }
        Err(cause) => {
            let next = format!("correct it, then {program} join again");
            let _ = writeln!(out, "\u{2717} the configuration: {cause}\n  next: {next}");
            false
        }
    };
    if joined { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What somebody wants to join, and how.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The program, as it is called.
    pub program: &'static str,
    /// What this host is to be.
    pub role: Role,
    /// Its name.
    pub name: Name,
    /// The program's state folder.
    pub state: PathBuf,
    /// Whom to ask, in order, and to report to later.
    pub parents: Vec<Parent>,
    /// Where the token is: a file, or `-` for standard input. Without it, an operator has to approve.
    pub token: Option<PathBuf>,
    /// The pin of the group's root, where it is known. Then nothing needs to be confirmed here without a token.
    pub pin: Option<Pin>,
    /// Where a channel certificate of the company's own PKI lies, if the built-in CA is not to issue one.
    pub own_pki: Option<OwnPair>,
    /// How it is to report.
    pub mechanism: Mechanism,
    /// By what, when by Kerberos.
    pub kerberos: Option<ByKerberos>,
}

impl Enrolment {
    /// The pair that this host brings, if it does.
    fn own(&self, group: GroupId) -> Result<Option<Offered>, String> {
        self.own_pki.as_ref().map(|files| files.read(group)).transpose().map_err(|event| event.text())
    }

    /// The Kerberos principal by which its hops are to be proved.
    fn principal(&self) -> Option<Principal> {
        self.kerberos.as_ref().map(|by| by.principal.clone())
    }

    /// How it is to report once it was let in.
    fn way(&self) -> home::Way<'_> {
        home::Way { mechanism: self.mechanism, parents: &self.parents, own_pki: self.own_pki.as_ref() }
    }
}

/// Where a channel certificate of the company's own PKI lies, as the command line says: what is relative there is so for
/// the command only.
pub fn own_pki(certificate: Option<PathBuf>, key: Option<PathBuf>) -> Option<OwnPair> {
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    certificate.zip(key).map(|(certificate, key)| OwnPair { certificate: absolute(certificate), key: absolute(key) })
}

/// Why a step failed, and what to do next.
#[derive(Debug)]
struct Failed {
    step: String,
    cause: String,
    next: String,
}

/// Joins, and shows each step. Whether it succeeded.
pub fn enroll(enrolment: &Enrolment, out: &mut impl Write) -> bool {
    let outcome = match (&enrolment.token, &enrolment.kerberos) {
        (Some(file), _) => run(enrolment, file, out),
        (None, Some(by)) => kerberos::join(enrolment, by, out),
        (None, None) => approval::run(enrolment, typed, out),
    };
    show(enrolment.program, outcome, out)
}

/// Shows how it ended. Whether it succeeded.
fn show(program: &str, outcome: Result<PathBuf, Failed>, out: &mut impl Write) -> bool {
    // Where nothing can be shown, the exit code says it.
    let shown = match &outcome {
        Ok(folder) => writeln!(out, "joined; the keys are in {}. Next: {program} run", folder.display()),
        Err(Failed { step, cause, next }) => writeln!(out, "\u{2717} {step}: {cause}\n  next: {next}"),
    };
    outcome.is_ok() && shown.is_ok()
}

fn tick(out: &mut impl Write, step: &str) {
    let _ = writeln!(out, "\u{2713} {step}");
}

/// A line that somebody typed; empty at the end.
fn typed() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().take(TYPED_LIMIT).read_line(&mut line).map(|_| line)
}

fn run(enrolment: &Enrolment, token: &Path, out: &mut impl Write) -> Result<PathBuf, Failed> {
    let again = format!("{} join, again with the same arguments", enrolment.program);
    let failed = |step: &str, cause: String| Failed { step: step.to_owned(), cause, next: again.clone() };

    let token =
        read_token(token, false).and_then(|text| Token::parse(&text).map_err(|error| error.to_string())).map_err(
            |cause| Failed { next: "`wardline token create` on the server".into(), ..failed("the join token", cause) },
        )?;
    tick(out, &format!("the join token is of group {}", uuid::Uuid::from_bytes(token.group.0)));

    let state = StateFolder::open(&enrolment.state).map_err(|event| failed("the state folder", event.text()))?;
    let (folder, fresh) =
        folder(state.path(), token.group, enrolment.role).map_err(|cause| failed("the state folder", cause))?;
    let rejoins = !folder.starts_with(home::pending(state.path(), token.group));
    let own = enrolment.own(token.group);
    let keys = own.and_then(|own| Keys::of(state.vault(), &folder, token.group, own, enrolment.mechanism)).map_err(
        |cause| {
            if fresh {
                let _ = fs::remove_dir_all(&folder);
            }
            failed("the keys of this host", cause)
        },
    )?;
    tick(out, &format!("the keys of this host are {}", if fresh { "made" } else { "there" }));

    let pin = token.pin;
    let taken = if rejoins { Ok(Vec::new()) } else { names(state.path()) };
    let taken = taken.map_err(|error| failed("the state folder", error.to_string()))?;
    let admitted = keys.ask(enrolment, With::Token { token, taken }, out).map_err(|error| {
        let open = error.as_ref().is_some_and(JoinError::is_open);
        let refused = error.as_ref().is_some_and(|error| error.0.iter().all(is_final));
        if !rejoins && !open && (fresh || refused) {
            let _ = fs::remove_dir_all(&folder);
        }
        let cause = error.as_ref().map_or_else(|| "it cannot be asked".to_owned(), summary);
        let next = if open && !rejoins {
            format!("{again}: the keys of this host are kept, because a server may have let it in already")
        } else if error.as_ref().is_some_and(|error| error.0.iter().any(|a| matches!(a.cause, Cause::Taken(_)))) {
            format!("move that folder away if this host has left its group, then {again}; otherwise it can be part of one of the two")
        } else {
            again.clone()
        };
        Failed { step: "asking to join".into(), cause, next }
    })?;

    let wrong = |error: &dyn std::fmt::Display| failed("writing the group's folder", error.to_string());
    keys.keep(state.vault(), &folder, &admitted, pin, enrolment).map_err(|error| wrong(&error))?;
    let target = match rejoins {
        true => folder,
        false => settle(state.path(), &folder, &admitted.group_name).map_err(|error| wrong(&error))?,
    };
    tick(out, &format!("group {} is written", admitted.group_name));
    Ok(target)
}

/// Whether a server has decided for good.
fn is_final(attempt: &crate::join::Attempt) -> bool {
    match attempt.cause {
        Cause::Refused(why) => !matches!(why, Why::Busy | Why::Unavailable),
        _ => false,
    }
}

fn summary(error: &JoinError) -> String {
    let one = |attempt: &crate::join::Attempt| format!("{}: {}", attempt.parent, attempt.cause);
    error.0.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The folder in which the keys of this group are or are to be, and whether it was made just now.
fn folder(state: &Path, group: GroupId, role: Role) -> Result<(PathBuf, bool), String> {
    let mut joined = home::memberships(state).map_err(|event| event.text())?;
    if let Some(at) = joined.iter().position(|(_, membership)| membership.id == group) {
        return Ok((joined.swap_remove(at).0, false));
    }
    one_only(role, &joined)?;
    let pending = home::pending(state, group);
    let fresh = !pending.exists();
    private::create_folder(&pending).map_err(|error| format!("{}: {error}", pending.display()))?;
    Ok((pending, fresh))
}

/// What a gateway, or a server without a database, passes on does not say of which group it is.
fn one_only(role: Role, joined: &[(PathBuf, Membership)]) -> Result<(), String> {
    match joined.first().filter(|_| role != Role::Agent) {
        Some((folder, membership)) => Err(format!(
            "this {role} is part of group {} already, and can carry for one only; run another {role} beside it, with a state folder and a port of its own, or remove {} to leave the group",
            membership.name,
            folder.display()
        )),
        None => Ok(()),
    }
}

/// The names in a state folder that could be those of groups.
fn names(state: &Path) -> io::Result<Vec<Name>> {
    let entries: Vec<_> = fs::read_dir(state)?.collect::<io::Result<_>>()?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Gives the finished folder its name.
fn settle(state: &Path, pending: &Path, name: &Name) -> io::Result<PathBuf> {
    let target = state.join(name.as_str());
    if target.exists() {
        let target = target.display();
        return Err(io::Error::other(format!("{target} is there already and is not of this join; move it away")));
    }
    fs::rename(pending, &target)?;
    fs::File::open(state)?.sync_all()?;
    Ok(target)
}

/// The keys of a host.
struct Keys {
    identity: Arc<SigningKey>,
    /// That of its channel certificate, PKCS#8 in PEM; none when it comes by Kerberos alone.
    channel: Option<(SigningKey, Zeroizing<Vec<u8>>)>,
    /// The channel certificate that it brings; empty when the server is to issue one.
    certificate: Bytes,
}

impl Keys {
    /// Those that are in a folder, or that this host brings; what is missing is made.
    fn of(
        vault: &Vault,
        folder: &Path,
        group: GroupId,
        own: Option<Offered>,
        mechanism: Mechanism,
    ) -> Result<Self, String> {
        home::settle(folder, home::CHANNEL).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (identity, _) = key(vault, &folder.join(IDENTITY), IDENTITY, group)?;
        let identity = Arc::new(identity);
        let (channel, certificate) = match (own, mechanism) {
            (Some(Offered { leaf, key, pem }), _) => (Some((key, pem)), Bytes::copy_from_slice(&leaf)),
            (None, Mechanism::Kerberos) => (None, Bytes::new()),
            (None, Mechanism::Certificate | Mechanism::Either) => {
                (Some(key(vault, &folder.join("channel.key"), "channel.key", group)?), Bytes::new())
            }
        };
        Ok(Self { identity, channel, certificate })
    }

    /// Writes what came. A key that this host brings takes its place with its certificate, and not before.
    fn keep(
        &self,
        vault: &Vault,
        folder: &Path,
        admitted: &Admitted,
        pin: Pin,
        enrolment: &Enrolment,
    ) -> io::Result<()> {
        if let Some((channel, pem)) = self.channel.as_ref().filter(|_| !self.certificate.is_empty()) {
            home::write_key(vault, folder, home::CHANNEL, channel.id(), pem)?;
        }
        let id = self.channel.as_ref().map(|(channel, _)| channel.id());
        home::keep(vault, folder, admitted, pin, enrolment.way(), id)
    }

    /// Asks the parents, and shows how far each came.
    fn ask(&self, enrolment: &Enrolment, with: With, out: &mut impl Write) -> Result<Admitted, Option<JoinError>> {
        let (name, role) = (enrolment.name.clone(), enrolment.role);
        let request = self.channel.as_ref().map(|(_, pem)| request(pem, &name, role)).transpose();
        let request = request.map_err(|_| None)?.unwrap_or_default();
        let (identity, certificate) = (Arc::clone(&self.identity), self.certificate.clone());
        let principal = enrolment.principal();
        let applicant = Applicant { name, role, identity, request, certificate, principal, with };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|_| None)?;
        let outcome = runtime.block_on(ask(&enrolment.parents, &applicant));
        // A resolver that hangs must not hang the command.
        runtime.shutdown_background();
        let attempts = outcome.as_ref().err().map_or(&[][..], |error| &error.0);
        for attempt in attempts {
            steps(out, &attempt.parent, |step| step < attempt.step);
            let _ = writeln!(out, "\u{2717} {}: {}: {}", attempt.parent, attempt.step, attempt.cause);
        }
        if let Ok(admitted) = &outcome {
            steps(out, &admitted.parent, |_| true);
        }
        outcome.map_err(Some)
    }
}

fn steps(out: &mut impl Write, parent: &Parent, done: impl Fn(Step) -> bool) {
    for step in Step::ALL.into_iter().filter(|step| done(*step)) {
        tick(out, &format!("{parent}: {step}"));
    }
}

fn key(
    vault: &Vault,
    path: &Path,
    description: &str,
    group: GroupId,
) -> Result<(SigningKey, Zeroizing<Vec<u8>>), String> {
    let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if !path.exists() {
        let (_, pem) = SigningKey::generate(group).map_err(|error| shown(&error))?;
        vault.write(path, description, pem.as_bytes()).map_err(|error| shown(&error))?;
    }
    let pem = vault.read(path, description).map_err(|error| shown(&error))?;
    let key = SigningKey::from_pem(&pem, group).map_err(|error| shown(&error))?;
    Ok((key, pem))
}

/// The text of the token: from a file, or from standard input, where a terminal does not show it.
/// `line`: what comes behind its line is for somebody else.
fn read_token(from: &Path, line: bool) -> Result<Zeroizing<String>, String> {
    let stdin = io::stdin();
    let mut text = Zeroizing::new(String::with_capacity(TOKEN_LIMIT as usize));
    let read = match from {
        path if path != Path::new("-") => {
            let file = fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
            file.take(TOKEN_LIMIT).read_to_string(&mut text)
        }
        _ if stdin.is_terminal() => {
            let _ = write!(io::stderr().lock(), "join token: ");
            let _quiet = Quiet::new(&stdin);
            let read = stdin.lock().take(TOKEN_LIMIT).read_line(&mut text);
            let _ = writeln!(io::stderr().lock());
            read
        }
        _ if line => stdin.lock().take(TOKEN_LIMIT).read_line(&mut text),
        _ => stdin.lock().take(TOKEN_LIMIT).read_to_string(&mut text),
    };
    read.map(|_| text).map_err(|error| error.to_string())
}

mod approval;
mod further;
mod kerberos;
pub use further::{Further, Given, further, header as header_for_further};
pub use kerberos::{ByKerberos, Target};

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tokio_util::sync::{CancellationToken, DropGuard};
    use wardline_proto::event::Event;
    use wardline_secrets::certificate::Identity;

    use super::*;
    use crate::testing::{Group, Scratch, TestDesk, Twist, name, parent, server};

    pub(super) struct Site {
        pub(super) group: Arc<Group>,
        pub(super) desk: Arc<TestDesk>,
        scratch: Scratch,
        pub(super) enrolment: Enrolment,
        _stops: DropGuard,
    }

    pub(super) async fn site() -> Site {
        let (group, scratch, stop) = (Group::new(), Scratch::new(), CancellationToken::new());
        let (desk, token) = TestDesk::new(&group);
        let parents = vec![parent("srv.test", server(&desk, &stop).await)];
        let file = scratch.0.join("token");
        fs::write(&file, format!("{}\n", token.text())).unwrap();
        let enrolment = Enrolment {
            program: "wardline-agent",
            role: Role::Agent,
            name: name("web1.test"),
            state: scratch.0.join("state"),
            parents,
            token: Some(file),
            pin: None,
            own_pki: None,
            mechanism: Mechanism::Certificate,
            kerberos: None,
        };
        Site { group, desk, scratch, enrolment, _stops: stop.drop_guard() }
    }

    impl Site {
        async fn join(&self) -> (bool, String) {
            let enrolment = self.enrolment.clone();
            let joined = tokio::task::spawn_blocking(move || {
                let mut out = Vec::new();
                let joined = enroll(&enrolment, &mut out);
                (joined, String::from_utf8(out).unwrap())
            });
            joined.await.unwrap()
        }

        pub(super) fn files(&self, folder: &str) -> Vec<String> {
            let folder = fs::read_dir(self.enrolment.state.join(folder));
            let mut names: Vec<_> = folder
                .into_iter()
                .flatten()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .filter(|name| !["lock", "machine.key", "protect"].contains(&name.as_str()))
                .collect();
            names.sort();
            names
        }

        pub(super) fn open(&self) -> Result<home::Member, Event> {
            let state = StateFolder::open(&self.enrolment.state).unwrap();
            let own = Identity { name: self.enrolment.name.clone(), role: self.enrolment.role };
            home::open("wardline-agent", Path::new("agent.toml"), None, &state, &own, None)
        }

        pub(super) fn twist(&self, twist: Twist) {
            *self.desk.twist.lock().unwrap() = twist;
        }

        /// The identity keys that were let in.
        fn keys(&self) -> Vec<Bytes> {
            self.desk.members.lock().unwrap().iter().map(|(key, _)| key.clone()).collect()
        }
    }

    const FILES: [&str; 7] =
        ["channel.key", "channel.pem", "head", "identity.key", "membership.toml", "recovery.pem", "root.pem"];

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_joins_has_all_it_needs_and_nobody_else_may_read_it() {
        nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        let site = site().await;
        let Event::ConfigurationRefused { reason, .. } = site.open().unwrap_err() else { panic!() };
        assert!(reason.contains("`wardline-agent join --parent NAME --token-file FILE`"), "{reason}");
        let (joined, shown) = site.join().await;
        assert!(joined && !shown.contains('\u{2717}'), "{shown}");
        assert_eq!(shown.matches('\u{2713}').count(), 7, "{shown}");
        assert_eq!(site.files(""), ["north"]);
        assert_eq!(site.files("north"), FILES);
        let folder = site.enrolment.state.join("north");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&folder), 0o700);
        for file in FILES {
            assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        }
        let member = site.open().unwrap();
        assert_eq!(member.membership.parents, site.enrolment.parents);
        assert_eq!(member.membership.primary_check, std::time::Duration::from_secs(60));
        let channel = member.credential.current().unwrap();
        assert_eq!(channel.identity.to_string(), "agent web1.test");
        assert_eq!(site.keys(), [member.identity.public().unwrap().spki()]);
        assert!(member.renewal.is_some());
        let recovery = fs::read_to_string(folder.join("recovery.pem")).unwrap();
        assert!(recovery.starts_with("-----BEGIN PUBLIC KEY-----\nMFkw"), "{recovery}");

        // Once more, by another way: the keys stay.
        let again = Site {
            enrolment: Enrolment {
                parents: [&site.enrolment.parents[..], &site.enrolment.parents].concat(),
                ..site.enrolment.clone()
            },
            ..site
        };
        let (joined, shown) = again.join().await;
        assert!(joined, "{shown}");
        assert_eq!((again.files(""), again.files("north")), (vec!["north".into()], FILES.map(String::from).to_vec()));
        let member = again.open().unwrap();
        assert_eq!((member.membership.parents.len(), member.credential.current().unwrap().key), (2, channel.key));
        assert_eq!(again.keys()[0], again.keys()[1]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_join_that_fails_leaves_nothing_and_says_why() {
        let mut site = site().await;
        site.twist(Twist::Refuses(Why::TokenName));
        let (joined, shown) = site.join().await;
        assert!(!joined && shown.contains("the token is for another name") && shown.contains("  next: "), "{shown}");
        assert!(site.files("").is_empty(), "{:?}", site.files(""));
        site.twist(Twist::None);
        let there = std::mem::replace(&mut site.enrolment.parents, vec!["gone.test=127.0.0.1:1".parse().unwrap()]);
        let (joined, shown) = site.join().await;
        assert!(!joined && shown.contains("\u{2717} gone.test (127.0.0.1:1): connect: no connection"), "{shown}");
        assert!(site.files("").is_empty());
        site.enrolment.parents = there;
        let token = site.scratch.0.join("token");
        let text = fs::read_to_string(&token).unwrap();
        fs::write(&token, &text[..100]).unwrap();
        let (joined, shown) = site.join().await;
        assert!(!joined && shown.contains("mistyped") && shown.contains("wardline token create"), "{shown}");
        // Of another group, whose server does not know it.
        let (_, other) = TestDesk::new(&Group::new());
        fs::write(&token, other.text()).unwrap();
        let (joined, shown) = site.join().await;
        assert!(!joined && shown.contains("find out who answers there"), "{shown}");
        assert!(site.files("").is_empty() && site.group.id != other.group);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn keys_that_a_server_may_know_already_are_asked_with_again() {
        let site = site().await;
        // Somebody on the way gives another answer than the server's.
        site.twist(Twist::OtherKey);
        let (joined, shown) = site.join().await;
        assert!(!joined && shown.contains("the keys of this host are kept"), "{shown}");
        let pending = site.files("");
        assert!(pending.len() == 1 && pending[0].starts_with(".join-"), "{pending:?}");
        assert_eq!(site.files(&pending[0]), ["channel.key", "identity.key"]);
        assert!(site.open().is_err());
        site.twist(Twist::Refuses(Why::Busy));
        assert!(!site.join().await.0);
        assert_eq!(site.files(""), pending);
        site.twist(Twist::None);
        let (joined, shown) = site.join().await;
        assert!(joined, "{shown}");
        assert_eq!(site.files(""), ["north"]);
        let keys = site.keys();
        assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]));

        // A gateway is part of one group.
        let mut site = site;
        site.enrolment.role = Role::Gateway;
        let (_, other) = TestDesk::new(&Group::new());
        fs::write(site.scratch.0.join("token"), other.text()).unwrap();
        let (joined, shown) = site.join().await;
        assert!(
            !joined && shown.contains("part of group north already") && shown.contains("another gateway"),
            "{shown}"
        );
        assert_eq!(site.files(""), ["north"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_group_of_the_same_name_is_refused_before_anything_is_proved() {
        let mut site = site().await;
        assert!(site.join().await.0);
        let kept = |site: &Site| {
            let folder = site.enrolment.state.join("north");
            FILES.map(|file| fs::read(folder.join(file)).unwrap())
        };
        let before = kept(&site);
        // Each group of these tests is called north.
        let stop = CancellationToken::new();
        let (desk, token) = TestDesk::new(&Group::new());
        site.enrolment.parents = vec![parent("srv.test", server(&desk, &stop).await)];
        fs::write(site.scratch.0.join("token"), token.text()).unwrap();
        let (joined, shown) = site.join().await;
        assert!(
            !joined && shown.contains("the group is called north") && shown.contains("move that folder"),
            "{shown}"
        );
        assert!(desk.members.lock().unwrap().is_empty());
        assert_eq!((site.files(""), kept(&site) == before), (vec!["north".to_owned()], true));
        // Nor where a file or a folder of something else has the name.
        fs::rename(site.enrolment.state.join("north"), site.scratch.0.join("away")).unwrap();
        fs::write(site.enrolment.state.join("north"), "").unwrap();
        assert!(!site.join().await.0);
        fs::remove_file(site.enrolment.state.join("north")).unwrap();
        // The control: with room for it, the same token is good.
        let (joined, shown) = site.join().await;
        assert!(joined && desk.members.lock().unwrap().len() == 1, "{shown}");
        assert_eq!(site.files("north"), FILES);
        stop.cancel();
    }
}
