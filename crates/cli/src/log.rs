//! The trust log as a client reads and checks it: nothing that the server says is believed without a signature that leads
//! to the pin.

use serde::Serialize;
use wardline_proto::message::{SealingKey, Signed, decode};
use wardline_proto::trust::{Entry, Fact, Record, Recorded};
use wardline_proto::{GroupId, Name};
use wardline_sdk::{Client, DataAccess as _, Group, Kind, LogEntry, LogFilter, Problem, Time, hex, page};
use wardline_secrets::certificate::subject;
use wardline_secrets::head::{open_head, read_head};
use wardline_secrets::merkle::Head;
use wardline_secrets::signature::KeyId;
use wardline_secrets::trust::{Pin, Root};
use wardline_secrets::view::{View, key_of};

/// An entry, in words.
#[derive(Serialize)]
pub(crate) struct Shown {
    pub(crate) number: u64,
    pub(crate) at: Time,
    pub(crate) server: String,
    pub(crate) act: String,
    pub(crate) what: &'static str,
    pub(crate) about: String,
}

/// Every entry from the first on, at most so many.
pub(crate) async fn entries(client: &Client, most: u64) -> Result<Vec<Signed>, Problem> {
    let (mut entries, mut cursor) = (Vec::new(), None);
    while (entries.len() as u64) < most {
        let page = client.log(LogFilter { limit: Some(page::MOST), cursor }).await?;
        for LogEntry { number, entry } in page.items {
            let signed = hex::decode(&entry).and_then(|bytes| decode::<Signed>(&bytes.into()));
            let in_place = signed.filter(|_| number == entries.len() as u64);
            entries.push(in_place.ok_or_else(|| damaged(number, "it cannot be decoded, or is not in its place"))?);
        }
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ok(entries)
}

fn damaged(number: u64, reason: &str) -> Problem {
    let detail = format!("entry {number} of the trust log cannot be believed: {reason}");
    Problem::new(
        Kind::Failed,
        detail,
        "trust nothing that this server says until it is known who wrote into its database",
    )
    .explained_by(40066)
}

/// An entry in words. It is not checked.
pub(crate) fn shown(number: u64, signed: &Signed) -> Result<Shown, Problem> {
    let record: Option<Record> = decode(&signed.payload);
    let Some(Recorded::Entry(Entry { at, server, act, fact: Some(fact), .. })) = record.and_then(|record| record.what)
    else {
        return Err(damaged(number, "it cannot be decoded"));
    };
    let (what, about) = about(&fact);
    Ok(Shown { number, at: Time(at), server, act, what, about })
}

fn about(fact: &Fact) -> (&'static str, String) {
    let via = |parents: &[String]| match parents {
        [] => String::new(),
        parents => format!(" via {}", parents.join(" ")),
    };
    match fact {
        Fact::Founded(founded) => ("founded", founded.name.clone()),
        Fact::Issuer(issuer) => {
            let name = subject(&issuer.certificate).unwrap_or_default();
            ("issuer", format!("channel certificates come from {name}"))
        }
        Fact::Duty(duty) => ("duty", format!("server {}", duty.server)),
        Fact::Recovery(recovery) => ("recovery", format!("key {}", KeyId::of(&recovery.key))),
        Fact::Token(token) => {
            let id = hex::encode(&token.id);
            ("token", format!("{id} for {} {}, {} uses{}", token.role, token.name, token.uses, via(&token.parents)))
        }
        Fact::TokenRevoked(revoked) => ("token revoked", hex::encode(&revoked.id)),
        Fact::Member(member) => {
            let key = KeyId::of(&member.identity);
            let principal = match member.principal.as_str() {
                "" => String::new(),
                principal => format!(", by Kerberos {principal}"),
            };
            let without = if member.relays { " without a database" } else { "" };
            let via = via(&member.parents);
            ("member", format!("{} {}{without}, key {key}{via}{principal}", member.role, member.name))
        }
        Fact::Removed(removed) if removed.identity.is_empty() => {
            ("removed", format!("{}, its duty keys alone", removed.name))
        }
        Fact::Removed(removed) => ("removed", format!("{}, key {}", removed.name, hex::encode(&removed.identity))),
        Fact::Pack(pack) => ("pack", format!("{} for {}, text {}", pack.name, pack.agents, hex::encode(&pack.text))),
        Fact::PackRemoved(removed) => ("pack removed", removed.name.clone()),
        Fact::Sealing(sealing) => {
            let key = decode::<SealingKey>(&sealing.said.payload).and_then(|said| key_of(&said.certificate));
            ("sealing key", format!("{}, key {}", sealing.name, key.map_or_else(|| "?".into(), |key| key.to_string())))
        }
        Fact::Account(account) => {
            let (id, user) = (hex::encode(&account.id), &account.user);
            let user = if user.is_empty() { String::new() } else { format!(", as local user {user}") };
            ("account", format!("{} {}, {} version {}{user}", account.name, id, account.kind, account.version))
        }
        Fact::AccountDeleted(deleted) => ("account deleted", hex::encode(&deleted.id)),
        Fact::Distribution(distribution) => {
            let to = if distribution.everywhere { "every agent".into() } else { distribution.agents.join(" ") };
            ("distribution", format!("{} to {to}", hex::encode(&distribution.account)))
        }
        Fact::Profile(profile) => ("profile", profile.name.clone()),
        Fact::ProfileDeleted(deleted) => ("profile deleted", deleted.name.clone()),
        Fact::Binding(binding) => {
            let on = if binding.agent.is_empty() { "every agent" } else { binding.agent.as_str() };
            let account = if binding.account.is_empty() { "nothing".into() } else { hex::encode(&binding.account) };
            ("binding", format!("{} on {on} is {account}", binding.profile))
        }
        Fact::Restored(restored) => (
            "restored",
            format!("what is given up had {} entries, root {}", restored.size, hex::encode(&restored.root)),
        ),
        Fact::Issued(issued) => ("issued", format!("{}, {}", issued.name, hex::encode(&issued.certificate))),
        Fact::Revoked(revoked) if revoked.name.is_empty() => {
            ("revoked", "everybody but servers with the database".into())
        }
        Fact::Revoked(revoked) => ("revoked", revoked.name.clone()),
    }
}

/// What a client has verified.
#[derive(Serialize)]
pub(crate) struct Verified {
    pub(crate) group: Name,
    pub(crate) pin: String,
    pub(crate) server: Name,
    pub(crate) entries: u64,
    pub(crate) root: String,
    pub(crate) members: usize,
    pub(crate) recovery: bool,
}

/// Checks that these entries are a log that leads to the pin, and that the head that the server has signed is of them.
pub(crate) fn verify(group: &Group, pin: Pin, head: &Head, entries: &[Signed]) -> Result<Verified, Problem> {
    let forged = |detail: String| {
        Problem::new(Kind::Failed, detail, "compare the pin with the one that was noted when the group was founded")
    };
    let id = id(group).ok_or_else(|| forged("the group's id cannot be understood".into()))?;
    let root = hex::decode(&group.root).unwrap_or_default();
    let root = Root::from_certificate(&root, id, pin).map_err(|error| forged(format!("the group's root: {error}")))?;
    let mut view = View::new(root);
    for (number, signed) in (0..).zip(entries) {
        view.apply(signed).map_err(|unsound| damaged(number, &unsound.to_string()))?;
    }
    let found = view.tree().head();
    if found != *head {
        let (size, root) = (found.size, found.root);
        let detail = format!(
            "the server's head is of {} entries with root {}, but what it gives are {size} with root {root}",
            head.size, head.root
        );
        return Err(forged(detail).explained_by(40065));
    }
    let signed = signed_head(group).ok_or_else(|| forged("the server's head cannot be understood".into()))?;
    let by = view.duty(&group.server).and_then(|key| open_head(key, id, &signed));
    if by != Some(view.reach()) {
        return Err(forged(format!("the head is not signed by a duty key of {}", group.server)));
    }
    let name = view.name().cloned().ok_or_else(|| forged("the log does not found a group".into()))?;
    Ok(Verified {
        group: name,
        pin: pin.to_string(),
        server: group.server.clone(),
        entries: found.size,
        root: found.root.to_string(),
        members: view.members().count(),
        recovery: view.recovery().is_some(),
    })
}

/// What the server says its head is; [`verify`] checks who has signed it.
pub(crate) fn head(group: &Group) -> Option<Head> {
    Some(read_head(&signed_head(group)?)?.head)
}

fn signed_head(group: &Group) -> Option<Signed> {
    decode(&hex::decode(&group.head)?.into())
}

fn id(group: &Group) -> Option<GroupId> {
    hex::decode(&group.id)?.try_into().ok().map(GroupId)
}

#[cfg(test)]
mod tests {
    use wardline_proto::Role;
    use wardline_proto::message::encode;
    use wardline_proto::trust::{self, Fact};
    use wardline_secrets::authority::{RootAuthority, Validity};
    use wardline_secrets::head::signed_head;
    use wardline_secrets::signature::SigningKey;
    use wardline_secrets::view::{entry, pin_of};

    use super::*;

    /// What a server of a group of three entries says.
    fn said() -> (Group, Pin, Vec<Signed>) {
        let (id, server) = (GroupId([3; 16]), "srv1.test".parse::<Name>().unwrap());
        let valid = Validity { from: 1_000, to: 2_000_000_000 };
        let (root, _) = RootAuthority::create("north", valid).unwrap();
        let (duty, _) = SigningKey::generate(id).unwrap();
        let certificate = root.duty(&server, &duty.public().unwrap(), valid).unwrap();
        let (der, pin) = (root.certificate().to_vec(), root.pin());
        assert_eq!(pin_of(&der), Some(pin));
        let mut view = View::new(Root::from_certificate(&der, id, pin).unwrap());
        let facts = [
            Fact::Duty(trust::Duty { server: server.to_string(), certificate: certificate.to_vec().into() }),
            Fact::Founded(trust::Founded {
                group: id.0.to_vec().into(),
                name: "north".into(),
                root: der.clone().into(),
            }),
            Fact::Member(trust::Member {
                name: server.to_string(),
                role: Role::Server.to_string(),
                identity: duty.public().unwrap().spki().into(),
                ..trust::Member::default()
            }),
        ];
        let entries = (0..).zip(facts).map(|(number, fact)| {
            let signed = entry(&duty, number, 1_000_000_000, &server, "server srv1.test", fact);
            view.apply(&signed).unwrap();
            signed
        });
        let entries: Vec<_> = entries.collect();
        let group = Group {
            name: "north".parse().unwrap(),
            id: hex::encode(&id.0),
            pin: pin.to_string(),
            root: hex::encode(&der),
            server,
            head: hex::encode(&encode(&signed_head(&duty, &view.reach(), 1))),
            recovery: None,
        };
        (group, pin, entries)
    }

    #[test]
    fn a_log_that_leads_to_the_pin_is_verified_and_every_other_is_not() {
        let (group, pin, entries) = said();
        let check = |group: &Group, pin, entries: &[Signed]| verify(group, pin, &head(group).unwrap(), entries);
        let verified = check(&group, pin, &entries).unwrap();
        assert_eq!((verified.entries, verified.members, verified.recovery), (3, 1, false));

        let problem = |group: &Group, pin, entries: &[Signed]| {
            let problem = check(group, pin, entries).err().unwrap();
            (problem.event, problem.detail)
        };
        // The pin that was noted decides, not what the server says it is.
        let (other, ..) = said();
        assert!(problem(&group, other.pin.parse().unwrap(), &entries).1.contains("not the pinned root"));
        assert!(problem(&Group { root: other.root, ..group.clone() }, pin, &entries).1.contains("not the pinned root"));
        assert_eq!(problem(&Group { id: hex::encode(&[4; 16]), ..group.clone() }, pin, &entries).0, Some(40066));
        for at in 0..entries.len() {
            let mut changed = entries.clone();
            changed[at].signature = vec![0; 64].into();
            let (event, detail) = problem(&group, pin, &changed);
            assert!(event == Some(40066) && detail.starts_with(&format!("entry {at} ")), "{detail}");
        }
        assert_eq!(problem(&group, pin, &entries[..2]).0, Some(40065));
        assert_eq!(problem(&group, pin, &entries[1..]).0, Some(40066));
        // A head that somebody else has signed, or that is none.
        let stranger = SigningKey::generate(GroupId([3; 16])).unwrap().0;
        let forged = signed_head(&stranger, &read_head(&super::signed_head(&group).unwrap()).unwrap(), 1);
        let forged = Group { head: hex::encode(&encode(&forged)), ..group.clone() };
        assert!(problem(&forged, pin, &entries).1.contains("not signed by a duty key"));
        assert!(head(&Group { head: hex::encode(&encode(&entries[0])), ..group }).is_none());
    }

    #[test]
    fn every_entry_is_shown_in_words() {
        let (_, _, entries) = said();
        let shown: Vec<_> = (0..).zip(&entries).map(|(number, entry)| shown(number, entry).unwrap()).collect();
        assert_eq!(shown.iter().map(|entry| entry.what).collect::<Vec<_>>(), ["duty", "founded", "member"]);
        assert!(shown[2].about.starts_with("server srv1.test, key "), "{}", shown[2].about);
        let broken = Signed::default();
        assert!(super::shown(7, &broken).err().unwrap().detail.starts_with("entry 7 "));
    }
}
