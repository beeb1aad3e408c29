//! Sealing keys, accounts and profiles: who can say what of them, and who has what by it.

use wardline_proto::configuration::Missing;
use wardline_proto::message::{AccountId, SealingKey};

use super::*;
use crate::sealing::SealingKey as Pair;

const LOGIN: AccountId = AccountId([1; 16]);
const OTHER: AccountId = AccountId([2; 16]);

/// What a health service says of a fresh sealing key of its own.
fn said(log: &Log, called: &str, serial: u64) -> (SealingKey, KeyId) {
    let from = log.now / 1000 - 60;
    let (pair, _) = Pair::generate(&name(called), Role::Agent, Validity::lasting(from, 3600)).unwrap();
    let certificate = Bytes::copy_from_slice(pair.certificate().der());
    (SealingKey { name: called.into(), role: "agent".into(), serial, certificate }, pair.id())
}

fn fact(by: &SigningKey, about: &str, said: &SealingKey) -> Fact {
    Fact::Sealing(trust::Sealing { name: about.into(), said: by.signed(Context::SealingCert, encode(said)) })
}

fn account(id: AccountId, called: &str, version: u64) -> Fact {
    let secret = sha256(&[&version.to_be_bytes()]).to_wire();
    let (name, kind) = (called.to_owned(), "basic".to_owned());
    Fact::Account(trust::Account { id: id.to_wire(), name, kind, version, secret, user: String::new() })
}

fn distribution(id: AccountId, everywhere: bool, agents: &[&str]) -> Fact {
    let agents = agents.iter().map(ToString::to_string).collect();
    Fact::Distribution(trust::Distribution { account: id.to_wire(), everywhere, agents })
}

fn profile(name: &str) -> Fact {
    Fact::Profile(trust::Profile { name: name.into() })
}

fn binding(profile: &str, agent: &str, account: Option<AccountId>) -> Fact {
    let account = account.map(AccountId::to_wire).unwrap_or_default();
    Fact::Binding(trust::Binding { profile: profile.into(), agent: agent.into(), account })
}

#[test]
fn only_a_members_own_identity_key_vouches_for_its_sealing_key() {
    let mut log = Log::new();
    let (own, stranger) = (SigningKey::generate(GROUP).unwrap().0, SigningKey::generate(GROUP).unwrap().0);
    log.add(member("web1.test", Role::Agent, &own.public().unwrap(), &[], &[])).unwrap();
    log.add(member("web2.test", Role::Agent, &stranger.public().unwrap(), &[], &[])).unwrap();
    let (first, id) = said(&log, "web1.test", 5);
    let (others, _) = said(&log, "web2.test", 5);
    let cut = SealingKey { certificate: first.certificate.slice(1..), ..first.clone() };
    let as_gateway = SealingKey { role: "gateway".into(), ..first.clone() };
    for (bad, why) in [
        (fact(&stranger, "web1.test", &first), "another's signature"),
        (fact(&own, "web2.test", &first), "under another's name"),
        (fact(&own, "web1.test", &others), "another's certificate, by this one's word"),
        (fact(&own, "web1.test", &cut), "no certificate"),
        (fact(&own, "web1.test", &as_gateway), "another role"),
        (fact(&own, "web3.test", &first), "nobody's"),
    ] {
        assert!(unsound(log.add(bad)), "{why}");
    }
    let version = log.view.version(&name("web1.test"));
    log.add(fact(&own, "web1.test", &first)).unwrap();
    let known = |log: &Log| log.view.member_named(&name("web1.test")).unwrap().sealing.clone().unwrap();
    assert_eq!((known(&log).certificate.id(), known(&log).serial), (id, 5));
    assert!(log.view.version(&name("web1.test")) > version);

    // An older word of its own is none any more.
    assert!(unsound(log.add(fact(&own, "web1.test", &first))));
    let (second, next) = said(&log, "web1.test", 6);
    log.add(fact(&own, "web1.test", &second)).unwrap();
    assert!(unsound(log.add(fact(&own, "web1.test", &first))));
    assert_eq!((known(&log).certificate.id(), known(&log).row), (next, 2));

    // Whoever has the name later has another key, and no sealing key of before.
    let identity = own.id().0.to_vec().into();
    log.add(Fact::Removed(Removed { name: "web1.test".into(), identity })).unwrap();
    let new = SigningKey::generate(GROUP).unwrap().0;
    log.add(member("web1.test", Role::Agent, &new.public().unwrap(), &[], &[])).unwrap();
    assert!(log.view.member_named(&name("web1.test")).unwrap().sealing.is_none());
    let (third, _) = said(&log, "web1.test", 7);
    assert!(unsound(log.add(fact(&own, "web1.test", &third))));
}

#[test]
fn who_has_an_account_is_what_operators_have_said_and_a_name_inherits_none_of_it() {
    let mut log = Log::new();
    let key = public();
    for agent in ["web1.test", "web2.test"] {
        log.add(member(agent, Role::Agent, &key, &[], &[])).unwrap();
    }
    let (web1, web2) = (name("web1.test"), name("web2.test"));
    let resolve = |log: &Log, agent: &Name| log.view.run_as().resolve("db", agent).map(|account| account.id);
    assert_eq!(resolve(&log, &web1), Err(Missing::Unassigned));
    for good in [account(LOGIN, "login", 1), account(OTHER, "other", 1), profile("db"), binding("db", "", Some(LOGIN))]
    {
        log.add(good).unwrap();
    }
    assert_eq!(resolve(&log, &web1), Err(Missing::Undistributed));
    log.add(distribution(LOGIN, false, &["web1.test"])).unwrap();
    assert_eq!((resolve(&log, &web1), resolve(&log, &web2)), (Ok(LOGIN), Err(Missing::Undistributed)));
    // The one for an agent goes before the one for all, also when it is not distributed.
    log.add(binding("db", "web1.test", Some(OTHER))).unwrap();
    assert_eq!(resolve(&log, &web1), Err(Missing::Undistributed));
    log.add(distribution(OTHER, true, &[])).unwrap();
    assert_eq!(resolve(&log, &web1), Ok(OTHER));

    // A host that is removed has nothing any more, and the next one of its name begins with what is for all.
    log.add(distribution(LOGIN, false, &["web1.test", "web2.test"])).unwrap();
    let identity = key.id().0.to_vec().into();
    log.add(Fact::Removed(Removed { name: "web1.test".into(), identity })).unwrap();
    log.add(member("web1.test", Role::Agent, &public(), &[], &[])).unwrap();
    assert_eq!((resolve(&log, &web1), resolve(&log, &web2)), (Err(Missing::Undistributed), Ok(LOGIN)));

    // An account that is deleted stands for nothing.
    log.add(Fact::AccountDeleted(trust::AccountDeleted { id: LOGIN.to_wire() })).unwrap();
    assert_eq!(resolve(&log, &web2), Err(Missing::Unassigned));
    for (bad, why) in [
        (account(LOGIN, "other", 1), "another's name"),
        (account(OTHER, "other", 1), "a version that was there, of another secret"),
        (account(LOGIN, "Login", 1), "no name"),
        (distribution(LOGIN, false, &[]), "of an account that is not there"),
        (distribution(OTHER, false, &["db1.test"]), "to who is not there"),
        (distribution(OTHER, false, &["srv1.test"]), "to who is no agent"),
        (profile("db"), "twice"),
        (binding("web", "", Some(OTHER)), "a profile that is not there"),
        (binding("db", "", Some(LOGIN)), "an account that is not there"),
        (binding("db", "db1.test", Some(OTHER)), "an agent that is not there"),
    ] {
        let same = matches!(&bad, Fact::Account(account) if account.id == OTHER.to_wire());
        // The same version with the same secret only changes what is said about it.
        assert_eq!(unsound(log.add(bad)), !same, "{why}");
    }
    assert!(unsound(log.add(account(OTHER, "other", 0))));
}

#[test]
fn each_change_counts_for_those_whom_it_is_about() {
    let mut log = Log::new();
    let key = public();
    for agent in ["web1.test", "web2.test"] {
        log.add(member(agent, Role::Agent, &key, &[], &[])).unwrap();
    }
    let (web1, web2) = (name("web1.test"), name("web2.test"));
    let mut changed = |fact: Fact| {
        let before = (log.view.version(&web1), log.view.version(&web2));
        log.add(fact).unwrap();
        (log.view.version(&web1) > before.0, log.view.version(&web2) > before.1)
    };
    assert_eq!(changed(account(LOGIN, "login", 1)), (false, false));
    assert_eq!(changed(distribution(LOGIN, false, &["web1.test"])), (true, false));
    assert_eq!(changed(account(LOGIN, "login", 2)), (true, false));
    assert_eq!(changed(distribution(LOGIN, false, &["web2.test"])), (true, true));
    assert_eq!(changed(distribution(LOGIN, true, &[])), (true, true));
    assert_eq!(changed(account(LOGIN, "login", 9)), (true, true));
    assert_eq!(changed(profile("db")), (true, true));
    assert_eq!(changed(binding("db", "web2.test", Some(LOGIN))), (false, true));
    assert_eq!(changed(binding("db", "", Some(LOGIN))), (true, true));
}
