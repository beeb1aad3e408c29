//! By Kerberos: a KDC vouches for this host to the group, and for the group to this host. Where the group has no key there,
//! or no rule lets this host in by that alone, it waits for an operator as any other.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use wardline_proto::join::Why;
use wardline_proto::name::NameError;
use wardline_proto::principal::PrincipalError;
use wardline_proto::{GroupId, Name, Principal, Realm};
use wardline_secrets::private;
use wardline_secrets::trust::Pin;
use wardline_secrets::view::pin_of;

use super::{Enrolment, Failed, Keys, approval, one_only, settle, tick, typed};
use crate::config::{Membership, StateFolder};
use crate::home;
use crate::join::{Cause, JoinError, Kerberos, With};
use crate::kerberos::Settings;

/// By what a host comes that comes by Kerberos.
#[derive(Clone, Debug)]
pub struct ByKerberos {
    /// Its principal.
    pub(super) principal: Principal,
    settings: Settings,
    group: Option<Target>,
}

/// The group that a host wants to join without a token or an operator: the KDC vouches for a name, and which one is meant
/// has to be said at the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    name: Name,
    /// The realm of its servers, when that is not the host's own.
    realm: Option<Realm>,
}

impl FromStr for Target {
    type Err = String;

    /// From `NAME` or `NAME@REALM`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, realm) = text.split_once('@').map_or((text, None), |(name, realm)| (name, Some(realm)));
        let realm = realm.map(str::parse).transpose().map_err(|error: PrincipalError| error.to_string())?;
        Ok(Self { name: name.parse().map_err(|error: NameError| error.to_string())?, realm })
    }
}

impl ByKerberos {
    /// By what the configuration of a host of this name says.
    ///
    /// # Errors
    /// It lists no realm.
    pub(super) fn new(settings: Settings, name: &Name, group: Option<Target>) -> Result<Self, String> {
        let own = settings.realms.first().ok_or("[kerberos] lists no realm")?;
        let principal = settings.principal.clone();
        let principal = principal.unwrap_or_else(|| Principal::of_host(name.clone(), own.clone()));
        Ok(Self { principal, settings, group })
    }
}

/// Asks to be let in by Kerberos alone; `None` when an operator has to decide.
pub(super) fn run(
    enrolment: &Enrolment,
    by: &ByKerberos,
    target: &Target,
    out: &mut impl Write,
) -> Result<Option<PathBuf>, Failed> {
    let again = format!("{} join, again with the same arguments", enrolment.program);
    let failed = |step: &str, cause: String| Failed { step: step.to_owned(), cause, next: again.clone() };

    let group = &target.name;
    let state = StateFolder::open(&enrolment.state).map_err(|event| failed("the state folder", event.text()))?;
    let joined = home::memberships(state.path()).map_err(|event| failed("the state folder", event.text()))?;
    let known = joined.iter().find(|(_, membership)| membership.name == *group);
    if known.is_none() {
        one_only(enrolment.role, &joined).map_err(|cause| failed("the state folder", cause))?;
    }
    let pin = pin(enrolment.pin, known).map_err(|cause| failed("the state folder", cause))?;
    let realm = target.realm.as_ref().unwrap_or(by.principal.realm());
    let Settings { library, keytab, .. } = &by.settings;
    let kerberos = Kerberos::open(library.as_deref(), keytab, &by.principal, (group, realm), pin);
    let kerberos = kerberos.map_err(|cause| failed("this host's key for Kerberos", cause))?;
    tick(out, &format!("the KDC knows this host as {}", by.principal));

    let folder = known.map_or_else(|| home::pending_named(state.path(), group), |(folder, _)| folder.clone());
    let fresh = !folder.exists();
    let give_up = || {
        if fresh {
            let _ = fs::remove_dir_all(&folder);
        }
    };
    // Which group they sign for is told later.
    let keys = private::create_folder(&folder).map_err(|error| error.to_string()).and_then(|()| {
        let own = enrolment.own(GroupId([0; 16]))?;
        Keys::of(state.vault(), &folder, GroupId([0; 16]), own, enrolment.mechanism)
    });
    let keys = keys.map_err(|cause| {
        give_up();
        failed("the keys of this host", cause)
    })?;
    tick(out, &format!("the keys of this host are {}", if fresh { "made" } else { "there" }));

    let admitted = match keys.ask(enrolment, With::Kerberos(kerberos), out) {
        Ok(admitted) => admitted,
        Err(Some(JoinError(attempts))) if attempts.iter().any(|attempt| is_review(&attempt.cause)) => {
            give_up();
            return Ok(None);
        }
        Err(error) => {
            let open = error.as_ref().is_some_and(JoinError::is_open);
            if !open {
                give_up();
            }
            let cause = error.as_ref().map_or_else(|| "it cannot be asked".to_owned(), super::summary);
            return Err(failed("asking to join", cause));
        }
    };
    let wrong = |error: &dyn std::fmt::Display| failed("writing the group's folder", error.to_string());
    let pin = pin_of(admitted.root.certificate()).ok_or_else(|| wrong(&"the root is none"))?;
    keys.keep(state.vault(), &folder, &admitted, pin, enrolment).map_err(|error| wrong(&error))?;
    let target = match known {
        Some(_) => folder,
        None => settle(state.path(), &folder, group).map_err(|error| wrong(&error))?,
    };
    tick(out, &format!("group {group} is written"));
    Ok(Some(target))
}

/// Whether a person has to decide. Whoever says so need not be a server: to wait for a code is no harm.
const fn is_review(cause: &Cause) -> bool {
    matches!(cause, Cause::Refused(Why::KerberosReview | Why::KerberosNone))
}

/// The pin of the root: what is known of the group already, and what was said now, must be one.
fn pin(said: Option<Pin>, known: Option<&(PathBuf, Membership)>) -> Result<Option<Pin>, String> {
    match (said, known) {
        (Some(said), Some((folder, membership))) if said != membership.pin => {
            Err(format!("{} is of a group with another root; move it away to join this one", folder.display()))
        }
        (_, Some((_, membership))) => Ok(Some(membership.pin)),
        (said, None) => Ok(said),
    }
}

/// Joins by Kerberos, or waits for an operator.
pub(super) fn join(enrolment: &Enrolment, by: &ByKerberos, out: &mut impl Write) -> Result<PathBuf, Failed> {
    if let Some(target) = &by.group {
        if let Some(folder) = run(enrolment, by, target, out)? {
            return Ok(folder);
        }
        let _ = writeln!(out, "  nobody but a person can let this host in");
    }
    approval::run(enrolment, typed, out)
}
