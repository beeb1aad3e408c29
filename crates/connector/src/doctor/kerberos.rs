//! What the doctor looks at where hops may go by Kerberos: this host's keys and the library, the KDC's ticket for each parent,
//! and what the parent makes of it.

use std::fs;
use std::sync::Arc;

use wardline_gss::keytab::Entry;
use wardline_gss::request::Request;
use wardline_gss::{Enctype, Status};

use super::{Found, Walk};
use crate::config::{Parent, date};
use crate::handshake::{DEADLINE, HandshakeError, knock};
use crate::kerberos::{Failure, Kerberos};

/// What to do where the keytab does not fit.
const WRITE: &str = "have the keys of that principal written there, AES among them, for the program's user and nobody else \
                     to read, new ones if others could; or correct `keytab` and `principal` in [kerberos]";
/// What to do where no KDC answers.
const AWAY: &str = "start the KDC, open the firewall to it, or correct its address in krb5.conf";

/// What Kerberos needs on this host. What goes by it only if certificates do not is not `needed`.
pub(super) fn here(kerberos: &Kerberos, dials: bool, needed: bool, listens: bool, walk: &mut Walk) {
    let (initiator, acceptor) = (kerberos.initiator(), kerberos.acceptor());
    if dials {
        keys(kerberos, "dials as", initiator, needed || listens && initiator == acceptor, walk);
    }
    if listens && !(dials && initiator == acceptor) {
        keys(kerberos, "is asked for as", acceptor, true, walk);
    }
    if !dials && !listens {
        return;
    }
    let (settings, needed) = (kerberos.settings(), needed || listens);
    match kerberos.library() {
        Ok(library) => walk.well(format!("Kerberos: the library is {}", library.path().display())),
        Err(failure) => {
            let next = "install it, or correct `library` in [kerberos]";
            walk.off(needed, "Kerberos", failure.to_string(), next);
        }
    }
    if let Err(error) = fs::File::open(&settings.krb5_conf) {
        let step = format!("Kerberos: {}", settings.krb5_conf.display());
        walk.off(needed, step, error.to_string(), "put it there, or correct `krb5_conf` in [kerberos]");
    }
}

fn keys(kerberos: &Kerberos, does: &str, principal: &str, needed: bool, walk: &mut Walk) {
    let step = format!("Kerberos: this host {does} {principal}");
    match kerberos.keys(principal) {
        Ok(keys) => {
            let shown: Vec<_> = keys.iter().map(|Entry { kvno, enctype, .. }| key(*enctype, Some(*kvno))).collect();
            walk.well(format!("{step}, with {}", shown.join(", ")));
        }
        Err(failure) => walk.off(needed, step, failure.to_string(), WRITE),
    }
}

/// What vouches for the group to hosts that join.
pub(super) fn group(kerberos: &Kerberos, service: &str, walk: &mut Walk) {
    keys(kerberos, "vouches for the group as", service, true, walk);
}

fn key(enctype: Enctype, kvno: Option<u32>) -> String {
    kvno.map_or_else(|| enctype.to_string(), |kvno| format!("version {kvno} of {enctype}"))
}

/// Whether this host's keytab has the key that those who come are given tickets for.
pub(super) async fn newest(kerberos: &Arc<Kerberos>, walk: &mut Walk) {
    const ANEW: &str = "write the keytab anew";
    let own = kerberos.acceptor();
    let step = format!("Kerberos: the keys of {own}");
    // That there are none is said.
    let Ok(keys) = kerberos.keys(own) else { return };
    match tokio::time::timeout(DEADLINE, kerberos.ticket(own)).await {
        Ok(Ok(Request { ticket, kvno, .. })) => {
            let now = key(ticket, kvno);
            let known = |key: &Entry| key.enctype == ticket && kvno.is_none_or(|kvno| key.kvno == kvno);
            if keys.iter().any(known) {
                walk.well(format!("Kerberos: who comes has tickets of {now}, which the keytab has"));
            } else {
                let cause = format!("the KDC gives tickets of {now}, which the keytab does not have");
                walk.wrong(step, cause, ANEW);
            }
        }
        Ok(Err(failure)) if own == kerberos.initiator() && is_wrong(&failure) => {
            walk.wrong(step, failure.to_string(), ANEW);
        }
        // To take tickets a host needs no KDC.
        Ok(Err(failure)) => unknown(&failure, walk),
        Err(_) => unknown(&"it does not answer", walk),
    }
}

fn is_wrong(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused { refused, .. } if refused.status() == Status::WrongKey)
}

fn unknown(why: &dyn std::fmt::Display, walk: &mut Walk) {
    walk.0.push(Found::Note(format!(
        "Kerberos: whether the keytab has the newest keys cannot be asked of the KDC: {why}"
    )));
}

/// Whether the KDC gives a ticket for a parent.
pub(super) async fn ticket(at: &str, parent: &Parent, kerberos: &Arc<Kerberos>, needed: bool, walk: &mut Walk) -> bool {
    let target = kerberos.of_parent(parent);
    let step = format!("{at}: the KDC's ticket for {target}");
    match tokio::time::timeout(DEADLINE, kerberos.ticket(&target)).await {
        Ok(Ok(Request { ticket, kvno, .. })) => {
            walk.well(format!("{step} is of {}", key(ticket, kvno)));
            return true;
        }
        // They were looked at.
        Ok(Err(Failure::Library(_) | Failure::Keytab { .. })) => {}
        Ok(Err(failure)) => walk.off(needed, step, failure.to_string(), next(&failure, kerberos.initiator(), &target)),
        Err(_) => walk.off(needed, step, format!("no answer within {} s", DEADLINE.as_secs()), AWAY),
    }
    false
}

/// What to do about a ticket that there is not.
fn next(failure: &Failure, initiator: &str, target: &str) -> String {
    let Failure::Refused { refused, .. } = failure else { return "try again".into() };
    match refused.status() {
        Status::Skew => {
            "set the clocks of this host and of the KDC: `timedatectl`, `chronyc tracking`; how far this one is \
                         from the server's stands below"
                .into()
        }
        Status::KdcUnreachable => AWAY.into(),
        Status::UnknownClient => format!(
            "make {initiator} at the KDC, or correct `principal` and `realms` in [kerberos]: in a directory it is the \
             account that asks, as WEB1$@REALM, and none of its services"
        ),
        Status::UnknownService => {
            format!(
                "make {target} at the KDC, in a directory as a service of its account, or enable it; or correct the \
                 parent's name and `realm`"
            )
        }
        Status::Doubled => format!("leave {target} with one account: in a directory, `setspn -X` shows the others"),
        Status::Disabled => format!("look at the KDC whether {initiator} and {target} are enabled and not expired"),
        Status::WrongKey | Status::NoKey => format!("write the keys of {initiator} into the keytab anew"),
        Status::Enctype => format!("give {initiator} and {target} AES keys, and write both keytabs anew"),
        _ => "the KDC's log says more; look at krb5.conf".into(),
    }
}

/// Whether a parent takes this host's ticket, and answers.
pub(super) async fn takes(at: &str, parent: &Parent, kerberos: &Arc<Kerberos>, needed: bool, walk: &mut Walk) {
    let step = format!("{at}: it takes this host by Kerberos");
    let log = || format!("event 40211 in the log of {} says why; its doctor looks at its keys", parent.name);
    match knock(kerberos, parent).await {
        Ok(ticket) => walk.well(format!("{step}, as {} until {}", ticket.initiator, date(ticket.ends))),
        Err(HandshakeError::Tls(_) | HandshakeError::Mechanism(..)) => {
            let next = "say [kerberos] in its configuration, or correct `mechanism` here";
            walk.off(needed, step, "it takes no Kerberos at all", next);
        }
        Err(HandshakeError::Closed(_)) => walk.off(needed, step, "it does not take this host's ticket", log()),
        Err(error) => walk.off(needed, step, error.to_string(), log()),
    }
}
