//! What the log may say, and what nobody can make it say.

mod credentials;

use bytes::Bytes;
use wardline_proto::message::Included;
use wardline_proto::trust::{Certificate, Duty, Founded, Issued, Recovery, Removed, TokenRevoked};

use super::*;
use crate::authority::tests::{GROUP, Group, at, group, name, public};
use crate::authority::{RootAuthority, Validity};
use crate::head::{Breach, follows, open_head, open_included, read_entry, read_head, signed_head};
use crate::signature::sha256;

/// A server that keeps a log.
struct Log {
    group: Group,
    duty: SigningKey,
    view: View,
    entries: Vec<Signed>,
    now: u64,
}

const TOKEN: [u8; 16] = [7; 16];

impl Log {
    /// A founded group.
    fn new() -> Self {
        let group = group();
        let duty = SigningKey::generate(GROUP).unwrap().0;
        let now = (group.from + 60) * 1000;
        let mut log = Self { view: View::new(group.trusted()), group, duty, entries: Vec::new(), now };
        for fact in [log.certified("srv1.test", &log.duty.public().unwrap()), log.founded(), log.issuer()] {
            log.add(fact).unwrap();
        }
        log
    }

    fn certified(&self, server: &str, key: &VerifyingKey) -> Fact {
        let certificate = self.group.root.duty(&name(server), key, self.group.days()).unwrap().to_vec().into();
        Fact::Duty(Duty { server: server.into(), certificate })
    }

    fn founded(&self) -> Fact {
        let root = self.group.root.certificate().to_vec().into();
        Fact::Founded(Founded { group: GROUP.0.to_vec().into(), name: "north".into(), root })
    }

    fn issuer(&self) -> Fact {
        Fact::Issuer(Certificate { certificate: self.group.issuing.certificate().to_vec().into() })
    }

    fn signed(&self, key: &SigningKey, fact: Fact) -> Signed {
        entry(key, self.view.tree().size(), self.now, &name("srv1.test"), "operator root", fact)
    }

    fn add(&mut self, fact: Fact) -> Result<(), Unsound> {
        let signed = self.signed(&self.duty, fact);
        let before = self.view.tree().head();
        let applied = self.view.apply(&signed);
        match &applied {
            Ok(()) => self.entries.push(signed),
            Err(_) => assert_eq!(self.view.tree().head(), before),
        }
        applied
    }

    fn token(&self, role: Role, name: &str, uses: u32) -> trust::Token {
        let (role, name) = (role.to_string(), name.to_owned());
        let (id, key) = (TOKEN.to_vec().into(), vec![1; 32].into());
        trust::Token { id, key, role, name, uses, expires: self.now + 1000, ..trust::Token::default() }
    }
}

fn member(called: &str, role: Role, key: &VerifyingKey, parents: &[&str], token: &[u8]) -> Fact {
    Fact::Member(trust::Member {
        name: called.into(),
        role: role.to_string(),
        identity: key.spki().into(),
        parents: parents.iter().map(ToString::to_string).collect(),
        token: token.to_vec().into(),
        ..trust::Member::default()
    })
}

fn unsound(applied: Result<(), Unsound>) -> bool {
    matches!(applied, Err(Unsound::Fact(_)))
}

#[test]
fn a_replayed_log_gives_the_same_view_and_no_changed_missing_or_moved_entry_is_taken() {
    let mut log = Log::new();
    let key = public();
    log.add(Fact::Token(log.token(Role::Agent, "web*", 2))).unwrap();
    log.add(member("web1.test", Role::Agent, &key, &["gw.test"], &TOKEN)).unwrap();
    let issued =
        Issued { name: "web1.test".into(), certificate: vec![9; 32].into(), not_after: u64::MAX, ..Issued::default() };
    log.add(Fact::Issued(issued)).unwrap();
    log.add(Fact::Recovery(Recovery { key: public().spki().into() })).unwrap();
    log.add(Fact::TokenRevoked(TokenRevoked { id: TOKEN.to_vec().into() })).unwrap();

    let replay = |entries: &[Signed]| {
        let mut view = View::new(log.group.trusted());
        let taken = entries.iter().take_while(|entry| view.apply(entry).is_ok()).count();
        (view, taken)
    };
    let (view, taken) = replay(&log.entries);
    assert_eq!((taken, view.tree().head()), (log.entries.len(), log.view.tree().head()));
    assert_eq!(view.member_named(&name("web1.test")), log.view.member_named(&name("web1.test")));
    let token = view.token(&TOKEN).unwrap();
    assert_eq!((token.used, token.revoked), (1, true));
    assert_eq!(view.recovery(), log.view.recovery());
    assert!(view.member_named(&name("web1.test")).unwrap().holds(&Digest([9; 32])));

    for at in 0..log.entries.len() {
        let mut changed = log.entries.clone();
        let mut payload = changed[at].payload.to_vec();
        *payload.last_mut().unwrap() ^= 1;
        changed[at].payload = payload.into();
        assert_eq!(replay(&changed).1, at, "changed");
        let mut without = log.entries.clone();
        without.remove(at);
        assert_eq!(replay(&without).1, at.min(without.len()), "left out");
        let mut twice = log.entries.clone();
        twice.insert(at, log.entries[at].clone());
        assert_eq!(replay(&twice).1, at + 1, "twice");
    }
}

#[test]
fn only_a_duty_key_under_the_root_writes() {
    let mut log = Log::new();
    let stranger = SigningKey::generate(GROUP).unwrap().0;
    let fact = Fact::Token(log.token(Role::Agent, "*", 1));
    let forged = log.signed(&stranger, fact.clone());
    assert!(matches!(log.view.apply(&forged), Err(Unsound::Signature(_))));
    // A certificate that does not lead to the root brings nobody in.
    let (other, _) = RootAuthority::create("north", log.group.days()).unwrap();
    let public = stranger.public().unwrap();
    let certificate = other.duty(&name("srv1.test"), &public, log.group.days()).unwrap().to_vec().into();
    let own = log.signed(&stranger, Fact::Duty(Duty { server: "srv1.test".into(), certificate }));
    assert!(unsound(log.view.apply(&own)));
    let [by_issuing, _] = log.group.crossed(&name("srv1.test"), &public);
    let certificate = by_issuing.to_vec().into();
    let own = log.signed(&stranger, Fact::Duty(Duty { server: "srv1.test".into(), certificate }));
    assert!(unsound(log.view.apply(&own)));
    // One under the root does, and the one before it writes no more.
    let own = log.signed(&stranger, log.certified("srv1.test", &public));
    log.view.apply(&own).unwrap();
    assert!(matches!(log.add(fact), Err(Unsound::Signature(_))));
}

#[test]
fn a_duty_key_whose_certificate_has_ended_does_not_come_back_under_an_earlier_time() {
    let mut log = Log::new();
    let old = SigningKey::generate(GROUP).unwrap().0;
    let valid = Validity::lasting(log.group.from, 600);
    let certificate = log.group.root.duty(&name("srv1.test"), &old.public().unwrap(), valid).unwrap().to_vec().into();
    let early = log.now;
    log.now += 3_600_000;
    log.add(Fact::Token(log.token(Role::Agent, "*", 1))).unwrap();
    log.now = early;
    let back = log.signed(&old, Fact::Duty(Duty { server: "srv1.test".into(), certificate }));
    assert!(unsound(log.view.apply(&back)));
}

#[test]
fn nothing_stands_before_the_founding_and_there_is_one_founding_on_this_root() {
    let log = Log::new();
    let mut empty = View::new(log.group.trusted());
    let first = |fact| entry(&log.duty, 0, log.now, &name("srv1.test"), "server srv1.test", fact);
    assert!(matches!(empty.apply(&first(log.founded())), Err(Unsound::Signature(_))));
    empty.apply(&first(log.certified("srv1.test", &log.duty.public().unwrap()))).unwrap();
    let second = |fact| entry(&log.duty, 1, log.now, &name("srv1.test"), "server srv1.test", fact);
    assert!(unsound(empty.apply(&second(log.issuer()))));
    let Fact::Founded(founded) = log.founded() else { panic!() };
    let (other, _) = RootAuthority::create("north", log.group.days()).unwrap();
    let root = other.certificate().to_vec().into();
    assert!(unsound(empty.apply(&second(Fact::Founded(Founded { root, ..founded.clone() })))));
    let another = Fact::Founded(Founded { group: vec![4; 16].into(), ..founded });
    assert!(unsound(empty.apply(&second(another))));
    let mut log = Log::new();
    assert!(unsound(log.add(log.founded())));
}

#[test]
fn a_token_lets_in_whom_it_is_for_as_often_as_it_says() {
    let key = public();
    let attempt = |change: &dyn Fn(&mut trust::Token), role, called: &str, later: u64| {
        let mut log = Log::new();
        let mut token = log.token(Role::Agent, "web*", 1);
        change(&mut token);
        log.add(Fact::Token(token)).unwrap();
        log.now += later;
        log.add(member(called, role, &key, &[], &TOKEN))
    };
    assert!(attempt(&|_| (), Role::Agent, "web1.test", 1000).is_ok());
    assert!(unsound(attempt(&|_| (), Role::Agent, "web1.test", 1001)));
    assert!(unsound(attempt(&|_| (), Role::Agent, "db1.test", 0)));
    assert!(unsound(attempt(&|_| (), Role::Gateway, "web1.test", 0)));
    assert!(unsound(attempt(&|token| token.uses = 0, Role::Agent, "web1.test", 0)));
    assert!(attempt(&|token| token.name = "*.test".into(), Role::Agent, "web1.test", 0).is_ok());
    assert!(unsound(attempt(&|token| token.name = "web1".into(), Role::Agent, "web1.test", 0)));
    let mut log = Log::new();
    log.add(Fact::Token(log.token(Role::Agent, "*", 1))).unwrap();
    assert!(unsound(log.add(Fact::Token(log.token(Role::Agent, "*", 1)))), "an id is given once");
    log.add(member("a.test", Role::Agent, &key, &[], &TOKEN)).unwrap();
    assert!(unsound(log.add(member("b.test", Role::Agent, &key, &[], &TOKEN))));
    assert!(unsound(log.add(member("c.test", Role::Agent, &key, &[], &[8; 16]))));
}

#[test]
fn a_name_belongs_to_one_key_until_it_is_removed_and_inherits_nothing() {
    let mut log = Log::new();
    let (first, second) = (public(), public());
    log.add(member("web1.test", Role::Agent, &first, &["gw.test"], &[])).unwrap();
    let issued =
        Issued { name: "web1.test".into(), certificate: vec![9; 32].into(), not_after: u64::MAX, ..Issued::default() };
    log.add(Fact::Issued(issued)).unwrap();
    assert!(unsound(log.add(member("web1.test", Role::Agent, &second, &[], &[]))));
    assert!(unsound(log.add(member("web1.test", Role::Gateway, &first, &[], &[]))));
    assert!(unsound(log.add(member("web2.test", Role::Agent, &first, &["web2.test"], &[]))));
    let remove =
        |key: &VerifyingKey| Fact::Removed(Removed { name: "web1.test".into(), identity: key.id().0.to_vec().into() });
    assert!(unsound(log.add(remove(&second))));
    log.add(remove(&first)).unwrap();
    log.add(member("web1.test", Role::Agent, &second, &[], &[])).unwrap();
    let member = log.view.member_named(&name("web1.test")).unwrap();
    assert!(member.certificates.is_empty() && member.parents.is_empty());
}

#[test]
fn a_way_leads_by_parents_that_are_members_and_in_their_order() {
    let mut log = Log::new();
    for (called, role, parents) in [
        ("gw1.test", Role::Gateway, &["gw2.test"][..]),
        ("gw2.test", Role::Gateway, &[]),
        ("web1.test", Role::Agent, &["gw1.test", "gw2.test"]),
        ("web2.test", Role::Agent, &[]),
    ] {
        log.add(member(called, role, &public(), parents, &[])).unwrap();
    }
    let by = |log: &Log, agent: &str, via: &[&str]| {
        let via: Vec<_> = via.iter().map(|gateway| name(gateway)).collect();
        log.view.by_way(&name(agent), Role::Agent, &via).is_some()
    };
    assert!(by(&log, "web1.test", &["gw1.test", "gw2.test"]) && by(&log, "web1.test", &["gw2.test"]));
    assert!(by(&log, "web2.test", &[]));
    for (agent, via) in [
        ("web1.test", &[][..]),
        ("web1.test", &["gw1.test"]),
        ("web1.test", &["gw2.test", "gw1.test"]),
        ("web1.test", &["web2.test"]),
        ("web2.test", &["gw2.test"]),
        ("gw2.test", &[]),
        ("none.test", &[]),
    ] {
        assert!(!by(&log, agent, via), "{agent} {via:?}");
    }
    let gateway = log.view.member_named(&name("gw2.test")).unwrap().key();
    log.add(Fact::Removed(Removed { name: "gw2.test".into(), identity: gateway.0.to_vec().into() })).unwrap();
    assert!(!by(&log, "web1.test", &["gw1.test", "gw2.test"]) && !by(&log, "web1.test", &["gw2.test"]));
}

#[test]
fn certificates_that_ended_long_ago_are_forgotten_and_there_are_never_too_many() {
    let mut log = Log::new();
    log.add(member("web1.test", Role::Agent, &public(), &[], &[])).unwrap();
    let now = log.now / 1000;
    let mut issue = |byte: u8, not_after| {
        let certificate = sha256(&[&[byte]]).to_wire();
        log.add(Fact::Issued(Issued { name: "web1.test".into(), certificate, not_after, ..Issued::default() }))
            .unwrap();
    };
    issue(0, now - REMEMBERED - 1);
    issue(1, now - 1);
    (2..200).for_each(|byte| issue(byte, now + 60));
    let member = log.view.member_named(&name("web1.test")).unwrap();
    assert_eq!(member.certificates.len(), CERTIFICATES);
    assert!(member.holds(&sha256(&[&[199]])) && !member.holds(&sha256(&[&[0]])));
}

#[test]
fn a_head_is_no_entry_and_an_entry_no_head() {
    let mut log = Log::new();
    let (reach, public) = (log.view.reach(), log.duty.public().unwrap());
    let signed = signed_head(&log.duty, &reach, log.now);
    assert_eq!((open_head(&public, GROUP, &signed), read_entry(&encode(&signed))), (Some(reach), None));
    assert_eq!(log.view.apply(&signed), Err(Unsound::Encoding));
    assert_eq!(open_head(&public, GROUP, &log.entries[0]), None);
    assert_eq!(open_head(&crate::authority::tests::public(), GROUP, &signed), None);
    assert!(log.group.trusted().duty(&[], at(log.group.from)).is_err());
}

#[test]
fn packs_are_for_whom_they_fit_and_each_change_counts_for_those_before_and_after() {
    let mut log = Log::new();
    let key = public();
    for agent in ["web1.test", "db1.test"] {
        log.add(member(agent, Role::Agent, &key, &[], &[])).unwrap();
    }
    let pack = |name: &str, agents: &str| {
        let text = sha256(&[name.as_bytes()]).to_wire();
        Fact::Pack(trust::Pack { name: name.into(), text, agents: agents.into() })
    };
    let removed = |name: &str| Fact::PackRemoved(trust::PackRemoved { name: name.into() });
    let (web, db) = (name("web1.test"), name("db1.test"));
    let of = |log: &Log, agent: &Name| log.view.packs_of(agent).map(|pack| pack.name.clone()).collect::<Vec<_>>();
    let at = |log: &Log| log.view.tree().size();
    let joined = (log.view.version(&web), log.view.version(&db));
    assert_eq!(joined, (at(&log) - 1, at(&log)));
    log.add(pack("b", "web*")).unwrap();
    log.add(pack("a", "*")).unwrap();
    assert_eq!((of(&log, &web), of(&log, &db)), (vec!["a".into(), "b".into()], vec!["a".to_owned()]));
    assert_eq!((log.view.version(&web), log.view.version(&db)), (at(&log), at(&log)));
    let before = at(&log);
    log.add(pack("b", "db1.test")).unwrap();
    assert_eq!((of(&log, &web), of(&log, &db)), (vec!["a".to_owned()], vec!["a".into(), "b".into()]));
    assert_eq!((log.view.version(&web), log.view.version(&db)), (before + 1, before + 1));
    log.add(pack("c", "other.test")).unwrap();
    log.add(removed("b")).unwrap();
    assert_eq!((log.view.version(&web), log.view.version(&db)), (before + 1, before + 3));
    log.add(Fact::Recovery(Recovery { key: public().spki().into() })).unwrap();
    assert_eq!((log.view.version(&web), log.view.version(&db)), (at(&log), at(&log)));
    let nobodys = trust::Pack { name: "d".into(), text: vec![1; 31].into(), agents: "*".into() };
    for bad in [removed("b"), pack("", "*"), pack("d", ""), Fact::Pack(nobodys)] {
        assert!(unsound(log.add(bad)));
    }
}

#[test]
fn what_was_issued_before_a_revocation_does_not_count_and_what_comes_after_does() {
    let mut log = Log::new();
    let hosts = [("srv1.test", Role::Server), ("gw1.test", Role::Gateway), ("web1.test", Role::Agent)];
    let issued = |host: &str, byte: u8, issuer: &[u8]| {
        let (certificate, issuer) = (vec![byte; 32].into(), issuer.to_vec().into());
        Fact::Issued(Issued { name: host.into(), certificate, not_after: u64::MAX, issuer })
    };
    for (byte, (host, role)) in (1..).zip(hosts) {
        log.add(member(host, role, &public(), &[], &[])).unwrap();
        log.add(issued(host, byte, &[])).unwrap();
    }
    let newest = |log: &Log, host: &str| log.view.member_named(&name(host)).unwrap().certificates.last().copied();
    // Older entries do not say who issued: it was the newest CA then.
    let issuer = key_of(&log.view.issuers()[0]);
    assert!(issuer.is_some() && newest(&log, "web1.test").unwrap().issuer == issuer);
    let revoked = |host: &str| Fact::Revoked(trust::Revoked { name: host.into() });
    assert!(unsound(log.add(revoked("web2.test"))));
    log.add(revoked("web1.test")).unwrap();
    assert_eq!((newest(&log, "web1.test"), newest(&log, "gw1.test").is_some()), (None, true));
    assert_eq!(log.view.member_named(&name("web1.test")).unwrap().revoked, log.view.tree().size());
    log.add(issued("web1.test", 9, &[7; 16])).unwrap();
    assert_eq!(newest(&log, "web1.test").unwrap().issuer, Some(KeyId([7; 16])));
    assert!(unsound(log.add(issued("web1.test", 9, &[7; 15]))));
    // Everybody's but the servers'.
    log.add(revoked("")).unwrap();
    let left = hosts.map(|(host, _)| newest(&log, host).is_some());
    assert_eq!(left, [true, false, false]);
}

fn restored(lost: &Reach) -> Fact {
    let Reach { head, version } = *lost;
    Fact::Restored(trust::Restored { size: head.size, root: head.root.to_wire(), version })
}

/// An entry of a log, with its proof.
fn included(log: &Log, number: u64) -> Included {
    let proof = log.view.tree().inclusion(number, log.view.tree().size()).unwrap();
    let entry = encode(&log.entries[usize::try_from(number).unwrap()]);
    Included { entry, proof: proof.into_iter().map(Digest::to_wire).collect() }
}

/// Whether who knows one log follows another by the proof that the other gives.
fn leads(known: &Reach, log: &Log) -> Result<(), Breach> {
    let (tree, shown) = (log.view.tree(), log.view.reach());
    let proof = tree.consistency(known.head.size, shown.head.size).unwrap_or_default();
    let proof: Vec<_> = proof.into_iter().map(Digest::to_wire).collect();
    follows(known, &shown, &proof).or_else(|breach| log.view.gave_up(known).map(drop).ok_or(breach))
}

#[test]
fn a_restored_log_is_followed_by_those_that_it_gives_up_and_versions_rise_over_any_number_of_restores() {
    let mut log = Log::new();
    log.add(member("web1.test", Role::Agent, &public(), &[], &[])).unwrap();
    let backup = (log.view.clone(), log.entries.clone());
    let (mut known, web) = (vec![log.view.reach()], name("web1.test"));
    let mut versions = vec![log.view.version(&web)];
    // The same backup, again and again, after longer and shorter lives.
    for (turn, life) in [7, 1, 3].into_iter().enumerate() {
        for number in 0..life {
            let pack = Fact::Pack(trust::Pack {
                name: "a".into(),
                text: sha256(&[&[turn as u8, number]]).to_wire(),
                agents: "*".into(),
            });
            log.add(pack).unwrap();
            known.push(log.view.reach());
            versions.push(log.view.version(&web));
        }
        let lost = log.view.reach();
        (log.view, log.entries) = backup.clone();
        let oldest = known[0];
        for known in &known[1..] {
            assert_eq!(leads(known, &log), Err(Breach::Older), "{turn}: {known}");
        }
        assert_eq!(leads(&oldest, &log), Ok(()));
        log.add(restored(&lost)).unwrap();
        for known in &known {
            assert_eq!((leads(known, &log), log.view.continues(known)), (Ok(()), true), "{turn}: {known}");
        }
        // Of what came behind what is given up, it says nothing.
        for version in [lost.version, lost.version + 1] {
            let head = merkle::Head { size: 90, root: Digest([1; 32]) };
            let other = Reach { head, version };
            assert_eq!((leads(&other, &log), log.view.continues(&other)), (Err(Breach::Older), false));
        }
        known.push(log.view.reach());
        versions.push(log.view.version(&web));
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert!(known.windows(2).all(|pair| pair[0].version < pair[1].version));
    // A version that was there before is none.
    let (lost, size) = (log.view.reach(), log.view.tree().size());
    for version in [0, size, lost.version - 1, u64::MAX] {
        assert!(matches!(log.add(restored(&Reach { version, ..lost })), Err(Unsound::Fact(_))), "{version}");
    }
}

#[test]
fn a_fork_is_followed_by_nobody_who_knows_the_other_and_an_entry_is_believed_at_its_place_only() {
    let (mut log, key) = (Log::new(), public());
    let start = (log.view.clone(), log.entries.clone());
    log.add(member("web1.test", Role::Agent, &key, &[], &[])).unwrap();
    let certificate = sha256(&[b"certificate"]).to_wire();
    log.add(Fact::Issued(Issued { name: "web1.test".into(), certificate, not_after: 1, issuer: Bytes::new() }))
        .unwrap();
    let web = Arc::clone(log.view.member_named(&name("web1.test")).unwrap());
    assert_eq!((web.entry, web.issued), (3, Some(4)));
    let (one, head) = (log.view.reach(), log.view.tree().head());
    for number in 0..5 {
        let whole = included(&log, number);
        assert_eq!(open_included(&head, &whole).unwrap().number, number);
        let other = included(&log, (number + 1) % 5);
        assert_eq!(open_included(&head, &Included { proof: other.proof, ..whole.clone() }), None);
        assert_eq!(open_included(&head, &Included { entry: other.entry, ..whole.clone() }), None);
        assert_eq!(open_included(&head, &Included { proof: vec![Bytes::from_static(b"short")], ..whole }), None);
    }
    (log.view, log.entries) = start;
    for agent in ["db1.test", "db2.test", "db3.test"] {
        log.add(member(agent, Role::Agent, &public(), &[], &[])).unwrap();
        let size = log.view.tree().size();
        assert_eq!(leads(&one, &log), Err(if size < 5 { Breach::Older } else { Breach::Forked }), "{agent}");
    }
    let before = Record {
        what: Some(Recorded::Head(trust::Head { size: 9, root: one.head.root.to_wire(), at: 0, version: 0 })),
    };
    let old = log.duty.signed(Context::Log, encode(&before));
    assert_eq!(read_head(&old).map(|reach| reach.version), Some(9), "of a server that named none");
}

#[test]
fn what_a_removed_server_signs_counts_for_nothing_whatever_it_brings() {
    let mut log = Log::new();
    let key = || SigningKey::generate(GROUP).unwrap().0;
    let (identity, duty, other) = (key(), key(), key());
    let public = identity.public().unwrap();
    log.add(member("srv2.test", Role::Server, &public, &[], &[])).unwrap();
    log.add(log.certified("srv2.test", &duty.public().unwrap())).unwrap();
    let web = name("web1.test");
    let version = log.view.version(&web);
    let by = |log: &Log, key: &SigningKey, fact| {
        entry(key, log.view.tree().size(), log.now, &name("srv2.test"), "server srv2.test", fact)
    };
    let token = Fact::Token(log.token(Role::Agent, "*", 1));
    // As long as it is a member its word counts, also that it has another identity key.
    let mut standing = log.view.clone();
    standing.apply(&by(&log, &duty, token.clone())).unwrap();
    let removed =
        |key: &VerifyingKey| Fact::Removed(Removed { name: "srv2.test".into(), identity: key.id().0.to_vec().into() });
    let mut renewed = log.view.clone();
    renewed.apply(&by(&log, &duty, removed(&public))).unwrap();
    assert_eq!((renewed.disowned().count(), renewed.duty(&name("srv2.test")).is_some()), (0, true));

    log.add(removed(&public)).unwrap();
    assert_eq!(log.view.disowned().copied().collect::<Vec<_>>(), [duty.id()]);
    assert!(log.view.version(&web) > version, "agents are told");
    let refused = |log: &Log, key: &SigningKey, fact| log.view.clone().apply(&by(log, key, fact)).is_err();
    assert!(refused(&log, &duty, token.clone()));
    // Nor when it enters its certificate anew, or one of another key that the root has certified.
    assert!(refused(&log, &duty, log.certified("srv2.test", &duty.public().unwrap())));
    assert!(refused(&log, &other, log.certified("srv2.test", &other.public().unwrap())));
    assert!(
        log.view.clone().apply(&log.signed(&log.duty, log.certified("srv2.test", &duty.public().unwrap()))).is_err()
    );
    // Another server may have its name, with keys of its own.
    log.add(member("srv2.test", Role::Server, &other.public().unwrap(), &[], &[])).unwrap();
    log.add(log.certified("srv2.test", &other.public().unwrap())).unwrap();
    assert!(refused(&log, &duty, token.clone()) && !refused(&log, &other, token));
}

#[test]
fn a_server_that_has_removed_itself_loses_every_key_that_it_was_certified_for() {
    let key = || SigningKey::generate(GROUP).unwrap().0;
    let srv2 = name("srv2.test");
    for taken in [false, true] {
        let mut log = Log::new();
        let (identity, ended, older, newest, next) = (key(), key(), key(), key(), key());
        let certified = |log: &Log, key: &SigningKey, valid| {
            let certificate = log.group.root.duty(&srv2, &key.public().unwrap(), valid).unwrap().to_vec().into();
            Fact::Duty(Duty { server: srv2.to_string(), certificate })
        };
        let by = |log: &Log, key: &SigningKey, fact| {
            entry(key, log.view.tree().size(), log.now, &srv2, "server srv2.test", fact)
        };
        let removed = |identity: &[u8]| {
            Fact::Removed(Removed { name: srv2.to_string(), identity: Bytes::copy_from_slice(identity) })
        };
        let (days, identity) = (log.group.days(), identity.public().unwrap());
        log.add(member("srv2.test", Role::Server, &identity, &[], &[])).unwrap();
        assert!(unsound(log.add(removed(&[]))), "it is a member");
        for (key, valid) in [(&ended, Validity::lasting(log.group.from, 600)), (&older, days), (&newest, days)] {
            log.add(certified(&log, key, valid)).unwrap();
        }

        // It takes its name off the list, and may give it to somebody else. Its word counts as before.
        log.view.apply(&by(&log, &newest, removed(&identity.id().0))).unwrap();
        if taken {
            log.view.apply(&by(&log, &newest, member("srv2.test", Role::Agent, &public(), &[], &[]))).unwrap();
        }
        assert!(log.view.lingers(&srv2) && log.view.lingering().any(|(server, _)| *server == srv2));
        assert_eq!(log.view.disowned().count(), 0);

        log.now += (600 + 2 * REMEMBERED) * 1000;
        log.add(removed(&[])).unwrap();
        let mut good = [older.id(), newest.id()];
        good.sort();
        assert!(log.view.disowned().eq(&good), "what has ended needs no mention");
        assert_eq!((log.view.lingers(&srv2), log.view.member_named(&srv2).is_some()), (false, taken));
        assert!(unsound(log.add(removed(&[]))), "once");
        if taken {
            continue;
        }
        // Nor does somebody who has the name later bring them back.
        log.add(member("srv2.test", Role::Server, &next.public().unwrap(), &[], &[])).unwrap();
        let refused = |log: &Log, key| log.view.clone().apply(&by(log, key, certified(log, key, days))).is_err();
        assert!(refused(&log, &older) && refused(&log, &newest) && !refused(&log, &next));
    }
}

#[test]
fn no_two_members_have_one_principal_and_who_is_removed_gives_it_back() {
    let mut log = Log::new();
    let keys = [public(), public()];
    let as_principal = |called: &str, key: &VerifyingKey, principal: &str| {
        let Fact::Member(member) = member(called, Role::Agent, key, &[], &[]) else { unreachable!() };
        Fact::Member(trust::Member { principal: principal.into(), ..member })
    };
    let (rule, account) = ("host/web1.test@CORP.TEST", "WEB1$@CORP.TEST");
    let whose = |log: &Log, principal: &str| {
        let principal: Principal = principal.parse().unwrap();
        let member = log.view.of_principal(&principal)?;
        assert_eq!(member.principal, Some(principal));
        Some(member.name.to_string())
    };
    for wrong in ["host/web2.test@CORP.TEST", "web1@CORP.TEST", "host\\/web1.test@CORP.TEST", "WEB1$"] {
        assert!(unsound(log.add(as_principal("web1.test", &keys[0], wrong))), "{wrong}");
    }
    log.add(as_principal("web1.test", &keys[0], rule)).unwrap();
    assert_eq!(whose(&log, rule).as_deref(), Some("web1.test"));
    // The same key may change it, and has the old one no more.
    log.add(as_principal("web1.test", &keys[0], account)).unwrap();
    assert_eq!((whose(&log, rule), whose(&log, account).as_deref()), (None, Some("web1.test")));
    log.add(as_principal("web1.test", &keys[0], account)).unwrap();
    assert!(unsound(log.add(as_principal("web2.test", &keys[1], account))));
    assert!(unsound(log.add(as_principal("web1.test", &keys[1], rule))));
    log.add(as_principal("web2.test", &keys[1], "")).unwrap();
    assert!(unsound(log.add(as_principal("web2.test", &keys[1], account))));
    assert_eq!(whose(&log, account).as_deref(), Some("web1.test"));
    let identity = keys[0].id().0.to_vec().into();
    log.add(Fact::Removed(Removed { name: "web1.test".into(), identity })).unwrap();
    assert_eq!(whose(&log, account), None);
    log.add(as_principal("web2.test", &keys[1], account)).unwrap();
    assert_eq!(whose(&log, account).as_deref(), Some("web2.test"));
    log.add(as_principal("web2.test", &keys[1], "")).unwrap();
    assert_eq!(whose(&log, account), None);
    // A log that is replayed says the same.
    let mut again = View::new(log.group.trusted());
    log.entries.iter().for_each(|entry| again.apply(entry).unwrap());
    assert_eq!(again.of_principal(&account.parse().unwrap()), None);
}

#[test]
fn a_server_without_a_database_carries_others_and_has_no_duty_key() {
    let mut log = Log::new();
    let (key, duty) = (public(), SigningKey::generate(GROUP).unwrap().0);
    let without = |called: &str, role| match member(called, role, &key, &[], &[]) {
        Fact::Member(member) => Fact::Member(trust::Member { relays: true, ..member }),
        other => other,
    };
    for (called, role) in [("ms1.test", Role::Gateway), ("ms1.test", Role::Agent), ("srv1.test", Role::Server)] {
        assert!(unsound(log.add(without(called, role))), "{called} {role}");
    }
    log.add(without("ms1.test", Role::Server)).unwrap();
    log.add(member("gw1.test", Role::Gateway, &public(), &["ms1.test"], &[])).unwrap();
    log.add(member("web1.test", Role::Agent, &public(), &["gw1.test"], &[])).unwrap();
    let (web, way) = (name("web1.test"), [name("gw1.test"), name("ms1.test")]);
    assert!(log.view.by_way(&web, Role::Agent, &way).is_some());
    assert!(log.view.relay(&way[1]).is_some() && log.view.relay(&name("srv1.test")).is_none());

    // It stays what it is, and nobody certifies a duty key for it that would count.
    assert!(unsound(log.add(member("ms1.test", Role::Server, &key, &[], &[]))));
    assert!(unsound(log.add(log.certified("ms1.test", &duty.public().unwrap()))));
    let own = entry(
        &duty,
        log.view.tree().size(),
        log.now,
        &name("ms1.test"),
        "server ms1.test",
        log.certified("ms1.test", &duty.public().unwrap()),
    );
    assert!(unsound(log.view.apply(&own)));
    // What is worth nothing any more of everybody is so of it, too; and nobody need be told that it is gone.
    let hash = vec![3; 32];
    let issued =
        Issued { name: "ms1.test".into(), certificate: hash.clone().into(), not_after: u64::MAX, ..Issued::default() };
    log.add(Fact::Issued(issued)).unwrap();
    let holds = |view: &View| view.member_named(&way[1]).unwrap().holds(&Digest::from_wire(&hash).unwrap());
    assert!(holds(&log.view));
    log.add(Fact::Revoked(trust::Revoked::default())).unwrap();
    assert!(!holds(&log.view));
    let version = log.view.version(&web);
    let identity = key.id().0.to_vec().into();
    log.add(Fact::Removed(Removed { name: "ms1.test".into(), identity })).unwrap();
    assert_eq!((log.view.version(&web), log.view.disowned().count()), (version, 0));
    assert!(log.view.by_way(&web, Role::Agent, &way).is_none());
}
