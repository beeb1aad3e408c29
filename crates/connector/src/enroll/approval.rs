//! Without a token: the host shows a code that an operator has to type at the server, and waits; then somebody has to
//! type here the code that the operator was given. Nothing is written before that: what is given up leaves nothing.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use wardline_proto::{GroupId, Name};
use wardline_secrets::private;
use wardline_secrets::request::request;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::token::Code;
use wardline_secrets::trust::Pin;
use zeroize::Zeroizing;

use super::{Enrolment, Failed, one_only, settle, steps, summary, tick};
use crate::config::{IDENTITY, Mechanism, Parent, StateFolder};
use crate::home;
use crate::join::{self, Admitted, Applying, JoinError, Step, Waiting};
use crate::own_pki::Offered;

/// How often a confirmation code may be typed.
const TRIES: u32 = 3;

/// A host that asks, with keys that are in memory only.
struct Host {
    applying: Applying,
    /// That of its channel certificate; none when it comes by Kerberos alone.
    channel: Option<(SigningKey, Zeroizing<Vec<u8>>)>,
}

pub(super) fn run(
    enrolment: &Enrolment,
    typed: impl FnMut() -> io::Result<String>,
    out: &mut impl Write,
) -> Result<PathBuf, Failed> {
    let Enrolment { program, role, name, .. } = enrolment;
    let again = format!("{program} join, again with the same arguments");
    let failed = |step: &str, cause: String| Failed { step: step.to_owned(), cause, next: again.clone() };

    let state = StateFolder::open(&enrolment.state).map_err(|event| failed("the state folder", event.text()))?;
    let joined = home::memberships(state.path()).map_err(|event| failed("the state folder", event.text()))?;
    one_only(*role, &joined).map_err(|cause| failed("the state folder", cause))?;
    let host = Host::new(enrolment).map_err(|cause| failed("the keys of this host", cause))?;
    tick(out, "the keys of this host are made");

    let place = |group: &Name| {
        let target = state.path().join(group.as_str());
        if !target.exists() {
            return Ok(());
        }
        let cause = format!("the group is called {group}, and {} is there already", target.display());
        let next = format!("move it away if this host is to join anew, or has left its group; then {again}");
        Err(Failed { next, ..failed("the state folder", cause) })
    };
    let pinned = enrolment.pin.is_some();
    let (admitted, pin) = approved(program, &enrolment.parents, &host.applying, place, pinned, typed, out)?;
    let written = host.keep(&state, enrolment, &admitted, pin);
    let target = written.map_err(|error| Failed {
        next: format!("wardline {role} remove {name} on the server; then {again}"),
        ..failed("writing the group's folder", error.to_string())
    })?;
    tick(out, &format!("group {} is written", admitted.group_name));
    Ok(target)
}

/// Asks, shows the code, waits until an operator has typed it, and has the confirmation code typed, unless who answers is
/// known by a pin and that is enough. What comes then is to be believed.
pub(super) fn approved(
    program: &str,
    parents: &[Parent],
    applying: &Applying,
    place: impl Fn(&Name) -> Result<(), Failed>,
    pinned: bool,
    typed: impl FnMut() -> io::Result<String>,
    out: &mut impl Write,
) -> Result<(Admitted, Pin), Failed> {
    let Applying { name, role, .. } = applying;
    let again = format!("{program} join, again with the same arguments");
    let failed = |step: &str, cause: String| Failed { step: step.to_owned(), cause, next: again.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("asking to join", error.to_string()))?;
    let asking = |error: JoinError| failed("asking to join", summary(&error));
    let waiting = runtime.block_on(join::request(parents, applying)).map_err(asking)?;
    place(&waiting.group_name)?;
    let Waiting { parent, group_name, pin, confirmation, code, .. } = &waiting;
    tick(out, &format!("{parent}: {}", Step::Request));
    let (parent, pin, confirmation) = (parent.clone(), *pin, *confirmation);
    let _ = writeln!(
        out,
        "  who answers says that the group is {group_name}, with the root {pin}\n\
         \n  the code of this host: {code}\n\
         \n  ask an operator to run: wardline {role} approve {name} {code}\n\
         \n  this waits for half an hour; Ctrl-C gives up, and leaves nothing"
    );
    let decided = runtime.block_on(waiting.decided(|cause| {
        let _ = writeln!(out, "  no answer now, asking again: {cause}");
    }));
    // A resolver that hangs must not hang the command.
    runtime.shutdown_background();
    let admitted = decided.map_err(|error| {
        for attempt in &error.0 {
            let _ = writeln!(out, "\u{2717} {}: {}: {}", attempt.parent, attempt.step, attempt.cause);
        }
        asking(error)
    })?;
    steps(out, &parent, |step| step > Step::Challenge);

    // Up to here whoever is on the way may have answered.
    if pinned {
        tick(out, "the root is the pinned one");
    } else {
        confirm(&confirmation, typed, out).map_err(|cause| Failed {
            next: format!("wardline {role} remove {name} on the server, if it is a member there; then {again}"),
            ..failed("the confirmation", cause)
        })?;
        tick(out, "the confirmation code is the right one");
    }
    Ok((admitted, pin))
}

/// Has the confirmation code typed.
fn confirm(right: &Code, mut typed: impl FnMut() -> io::Result<String>, out: &mut impl Write) -> Result<(), String> {
    let _ = writeln!(out, "\n  type the confirmation code that the operator was given, then Enter:");
    for left in (0..TRIES).rev() {
        let line = typed().map_err(|error| error.to_string())?;
        if line.is_empty() {
            return Err("nobody has typed the confirmation code; nothing was written".into());
        }
        match line.parse::<Code>() {
            Ok(code) if code == *right => return Ok(()),
            Ok(_) => {
                let _ = writeln!(out, "  this is not the right code; {left} tries are left");
            }
            Err(error) => {
                let _ = writeln!(out, "  {error}; {left} tries are left");
            }
        }
    }
    Err(format!("{TRIES} wrong codes: somebody else than the operator's server may have answered; nothing was written"))
}

impl Host {
    fn new(enrolment: &Enrolment) -> Result<Self, String> {
        // Which group they sign for is told later.
        let group = GroupId([0; 16]);
        let make = || SigningKey::generate(group).map_err(|error| error.to_string());
        let bytes = |pem: Zeroizing<String>| Zeroizing::new(pem.as_bytes().to_vec());
        let (_, identity) = make()?;
        let (channel, certificate) = match (enrolment.own(group)?, enrolment.mechanism) {
            (Some(Offered { leaf, key, pem }), _) => (Some((key, pem)), Bytes::copy_from_slice(&leaf)),
            (None, Mechanism::Kerberos) => (None, Bytes::new()),
            (None, Mechanism::Certificate | Mechanism::Either) => {
                make().map(|(key, pem)| (Some((key, bytes(pem))), Bytes::new()))?
            }
        };
        let (name, role) = (enrolment.name.clone(), enrolment.role);
        let request = channel.as_ref().map(|(_, pem)| request(pem, &name, role)).transpose();
        let request = request.map_err(|error| error.to_string())?.unwrap_or_default();
        let (principal, pin, identity) = (enrolment.principal(), enrolment.pin, bytes(identity));
        let applying = Applying { name, role, identity, request, certificate, principal, pin, further: None };
        Ok(Self { applying, channel })
    }

    /// Writes everything, or nothing.
    fn keep(&self, state: &StateFolder, enrolment: &Enrolment, admitted: &Admitted, pin: Pin) -> io::Result<PathBuf> {
        let (vault, state) = (state.vault(), state.path());
        let pending = home::pending(state, admitted.group);
        let write = || {
            // What an attempt with a token has left there: its keys are in no use, or the name would be taken.
            if pending.exists() {
                fs::remove_dir_all(&pending)?;
            }
            private::create_folder(&pending)?;
            vault.write(&pending.join(IDENTITY), IDENTITY, &self.applying.identity)?;
            if let Some((_, pem)) = &self.channel {
                vault.write(&pending.join("channel.key"), "channel.key", pem)?;
            }
            let id = self.channel.as_ref().map(|(channel, _)| channel.id());
            home::keep(vault, &pending, admitted, pin, enrolment.way(), id)?;
            settle(state, &pending, &admitted.group_name)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_dir_all(&pending);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use wardline_proto::join::Why;

    use super::super::tests::{Site, site};
    use super::*;
    use crate::testing::{Twist, eventually};

    /// Runs to its end, with these lines typed; `None` is the right code.
    async fn join(site: &Site, lines: &[Option<&str>]) -> (bool, String) {
        let enrolment = Enrolment { token: None, ..site.enrolment.clone() };
        let lines: Vec<_> = lines.iter().map(|line| line.map(str::to_owned)).collect();
        let desk = Arc::clone(&site.desk);
        let joined = tokio::task::spawn_blocking(move || {
            let (mut out, mut lines) = (Vec::new(), lines.into_iter());
            let typed = || {
                let right = || {
                    let transcript = desk.requests.lock().unwrap().last().unwrap().transcript;
                    wardline_secrets::token::confirmation(&transcript).to_string()
                };
                Ok(lines.next().map(|line| format!("{}\n", line.unwrap_or_else(right))).unwrap_or_default())
            };
            let outcome = run(&enrolment, typed, &mut out);
            let shown = String::from_utf8(out).unwrap();
            (outcome.is_ok(), shown + &outcome.err().map(|failed| failed.cause + &failed.next).unwrap_or_default())
        });
        joined.await.unwrap()
    }

    fn approves(site: &Site, says: Result<(), Why>) {
        *site.desk.says.lock().unwrap() = Some(says);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_waits_until_it_is_approved_and_believes_when_the_right_code_is_typed() {
        let site = Arc::new(site().await);
        let (sender, outcome) = mpsc::channel();
        let asking = Arc::clone(&site);
        let joining = tokio::spawn(async move { sender.send(join(&asking, &[Some("abcd-efgh"), None]).await) });
        let desk = Arc::clone(&site.desk);
        eventually("it asks", || desk.requests.lock().unwrap().len() == 1).await;
        assert!(outcome.try_recv().is_err() && site.files("").is_empty());
        approves(&site, Ok(()));
        joining.await.unwrap().unwrap();
        let (joined, shown) = outcome.recv().unwrap();
        assert!(joined, "{shown}");
        let transcript = site.desk.requests.lock().unwrap()[0].transcript;
        let code = wardline_secrets::token::code(&transcript);
        assert!(shown.contains(&format!("wardline agent approve web1.test {code}\n")), "{shown}");
        assert!(shown.contains("not the right code; 2 tries are left"), "{shown}");
        assert!(!shown.contains(&wardline_secrets::token::confirmation(&transcript).to_string()), "{shown}");
        assert_eq!(site.files(""), ["north"]);
        let member = site.open().unwrap();
        assert_eq!(member.membership.pin, site.group.root.pin());
        assert_eq!(member.identity.public().unwrap().spki(), site.desk.members.lock().unwrap()[0].0);
        // It is part of that group now, and of none that has the same name.
        let (joined, shown) = join(&site, &[None]).await;
        assert!(!joined && shown.contains("the group is called north") && shown.contains("move it away"), "{shown}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_host_that_is_not_confirmed_or_not_approved_keeps_nothing() {
        let mut site = site().await;
        approves(&site, Ok(()));
        let wrong = Some("abcd-efgh");
        for (lines, word) in [
            (&[wrong, Some("?"), wrong, None][..], "3 wrong codes"),
            (&[wrong], "nobody has typed"),
            (&[], "nobody has typed"),
        ] {
            let (joined, shown) = join(&site, lines).await;
            assert!(!joined && shown.contains(word), "{shown}");
            assert!(site.files("").is_empty());
        }
        site.twist(Twist::OtherKey);
        let (joined, shown) = join(&site, &[None]).await;
        assert!(!joined && shown.contains("another key"), "{shown}");
        site.twist(Twist::None);
        approves(&site, Err(Why::Rejected));
        let (joined, shown) = join(&site, &[None]).await;
        assert!(!joined && shown.contains("an operator has rejected"), "{shown}");
        site.twist(Twist::Refuses(Why::TokenNeeded));
        let (joined, shown) = join(&site, &[None]).await;
        assert!(!joined && shown.contains("with a token only"), "{shown}");
        assert!(site.files("").is_empty());
        // With another root pinned it does not even show itself; with the right one nobody needs to type anything.
        site.twist(Twist::None);
        approves(&site, Ok(()));
        let asked = site.desk.requests.lock().unwrap().len();
        site.enrolment.pin = Some([7; 32].into());
        let (joined, shown) = join(&site, &[None]).await;
        assert!(!joined && shown.contains("does not show the group's root"), "{shown}");
        assert!(site.files("").is_empty() && site.desk.requests.lock().unwrap().len() == asked);
        site.enrolment.pin = Some(site.group.root.pin());
        let (joined, shown) = join(&site, &[]).await;
        assert!(joined, "{shown}");
    }
}
