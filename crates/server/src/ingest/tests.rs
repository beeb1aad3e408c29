//! Who may connect, and by which gateways.

use wardline_proto::trust::{self, Fact};
use wardline_secrets::signature::sha256;

use super::*;
use crate::founding::tests::{Running, Scratch};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A group of gateways gw1, gw2 behind gw1, agent web1 behind gw2 and agent web2 behind none, and agent web3 behind ms1, a
/// server without a database. Each holds the certificate
/// whose hash is that of its name.
async fn group(scratch: &Scratch) -> Running {
    let running = Running::new(&scratch.0).await;
    for (called, role, parents) in [
        ("gw1.test", "gateway", &[][..]),
        ("gw2.test", "gateway", &["gw1.test"]),
        ("web1.test", "agent", &["gw2.test"]),
        ("web2.test", "agent", &[]),
        ("ms1.test", "server", &[]),
        ("web3.test", "agent", &["ms1.test"]),
    ] {
        let key = SigningKey::generate(running.view().group()).unwrap().0.public().unwrap();
        let member = trust::Member {
            name: called.into(),
            role: role.into(),
            identity: key.spki().into(),
            parents: parents.iter().map(ToString::to_string).collect(),
            relays: role == "server",
            ..trust::Member::default()
        };
        let certificate = sha256(&[called.as_bytes()]).to_wire();
        let issued =
            trust::Issued { name: called.into(), certificate, not_after: u64::MAX, ..trust::Issued::default() };
        running.act(vec![Fact::Member(member), Fact::Issued(issued)]).await;
    }
    running
}

#[tokio::test]
async fn only_a_member_that_may_come_directly_with_its_own_certificate_is_served() {
    let scratch = Scratch::new();
    let view = group(&scratch).await.view();
    let come = |called: &str, role, certificate: &str| {
        let come = direct(&view, &Identity { name: name(called), role }, &shown(certificate));
        come.map(|_| ()).map_err(|(_, reason)| reason)
    };
    assert_eq!(come("web2.test", Role::Agent, "web2.test"), Ok(()));
    assert_eq!(come("gw1.test", Role::Gateway, "gw1.test"), Ok(()));
    assert_eq!(come("ms1.test", Role::Server, "ms1.test"), Ok(()));
    for (called, role, certificate, reason) in [
        ("web2.test", Role::Agent, "web1.test", "not issued to this member"),
        ("web1.test", Role::Agent, "web1.test", "it is to come by gw2.test"),
        ("gw2.test", Role::Gateway, "gw2.test", "it is to come by gw1.test"),
        ("web2.test", Role::Gateway, "web2.test", "not a member"),
        ("web3.test", Role::Agent, "web3.test", "it is to come by ms1.test"),
        ("web4.test", Role::Agent, "web4.test", "not a member"),
        ("ms1.test", Role::Server, "web2.test", "not issued to this member"),
        ("ms1.test", Role::Gateway, "ms1.test", "not a member"),
        ("srv1.test", Role::Server, "srv1.test", "servers with the database do not"),
    ] {
        assert!(come(called, role, certificate).unwrap_err().contains(reason), "{called}");
    }
}

#[tokio::test]
async fn who_is_removed_replaced_or_assigned_elsewhere_does_not_stand_any_more() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let before = running.view();
    let (web1, way) = (before.member_named(&name("web1.test")).unwrap(), [name("gw2.test"), name("gw1.test")]);
    let stands = |view: &View, member, via: &[Name]| stands(view, member, via, before.tree().size()).is_ok();
    assert!(stands(&before, web1, &way));
    assert!(!stands(&before, web1, &way[..1]) && !stands(&before, web1, &[]));
    let mut changes = running.store.view();
    changes.mark_unchanged();
    running.act(crate::operating::assign(Role::Agent, &name("web1.test"), &[way[1].clone()], &before).unwrap()).await;
    let assigned = changed(&mut changes).await;
    assert!(!stands(&assigned, web1, &way) && stands(&assigned, web1, &way[1..]));
    running.act(crate::operating::remove(Role::Gateway, &way[1], &assigned).unwrap()).await;
    assert!(!stands(&running.view(), web1, &way[1..]));
    let web2 = before.member_named(&name("web2.test")).unwrap();
    running.act(crate::operating::remove(Role::Agent, &name("web2.test"), &before).unwrap()).await;
    let key = SigningKey::generate(before.group()).unwrap().0.public().unwrap();
    let again = trust::Member {
        name: "web2.test".into(),
        role: "agent".into(),
        identity: key.spki().into(),
        parents: vec![],
        ..trust::Member::default()
    };
    running.act(vec![Fact::Member(again)]).await;
    assert!(!stands(&running.view(), web2, &[]), "another host of this name");
}

#[tokio::test]
async fn a_way_ends_with_the_gateway_that_speaks_and_has_a_limit() {
    let scratch = Scratch::new();
    let view = group(&scratch).await.view();
    let open = |via: &[&str]| {
        way(
            &RouteOpen {
                agent: "web1.test".into(),
                via: via.iter().map(ToString::to_string).collect(),
                proofs: vec![String::new(); via.len()],
                ..Default::default()
            },
            &name("gw1.test"),
        )
    };
    assert_eq!(open(&[]).unwrap(), [name("gw1.test")]);
    assert_eq!(open(&["gw2.test"]).unwrap(), [name("gw2.test"), name("gw1.test")]);
    let unproved = RouteOpen { via: vec!["gw2.test".into()], ..RouteOpen::default() };
    assert!(way(&unproved, &name("gw1.test")).is_err());
    assert!(open(&["../gw"]).is_err() && open(&["a"; WAY]).is_err() && open(&["a"; WAY - 1]).is_ok());
    assert!(is_behind(&view, &name("gw2.test"), &name("gw1.test"), WAY));
    assert!(!is_behind(&view, &name("gw1.test"), &name("gw2.test"), WAY));
    assert!(!is_behind(&view, &name("web1.test"), &name("gw1.test"), WAY), "an agent carries nobody");
}

#[tokio::test]
async fn who_was_revoked_or_comes_by_a_gateway_that_was_does_not_stand_any_more_and_is_told_who() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let before = running.view();
    let (web1, web2) = ["web1.test", "web2.test"].map(|called| before.member_named(&name(called)).unwrap()).into();
    let way = [name("gw2.test"), name("gw1.test")];
    let told =
        |view: &View, member, via: &[Name], since: u64| stands(view, member, via, since).map_err(|(told, _)| told);
    running.act(crate::operating::revoke(&way[0], &before).unwrap()).await;
    let view = running.view();
    assert_eq!(told(&view, web1, &way, before.tree().size()), Err(Refusal::by_gateway(&way[0])));
    assert_eq!(told(&view, web2, &[], before.tree().size()), Ok(()));
    running.act(crate::operating::revoke(&web2.name, &before).unwrap()).await;
    let after = running.view();
    assert_eq!(told(&after, web2, &[], view.tree().size()), Err(Refusal::of(Reason::Certificate)));
    // Who began after it has another certificate.
    assert_eq!(told(&after, web2, &[], after.tree().size()), Ok(()));
    let known = Identity { name: web2.name.clone(), role: Role::Agent };
    let come = direct(&after, &known, &shown("web2.test"));
    assert_eq!(come.map(|_| ()).map_err(|(reason, _)| reason), Err(Reason::Certificate));
    for (called, kind) in [("srv1.test", wardline_sdk::Kind::Invalid), ("web9.test", wardline_sdk::Kind::NotFound)] {
        let refused = crate::operating::revoke(&name(called), &after).unwrap_err();
        assert_eq!(refused.0.kind(), kind, "{called}");
    }
}

#[tokio::test]
async fn only_a_hop_between_a_member_and_one_of_its_parents_can_be() {
    let scratch = Scratch::new();
    let view = group(&scratch).await.view();
    let hash = sha256(&[b"hop"]).to_wire();
    let hop = |peer: &str, dialled| Hop {
        id: hash.clone(),
        peer: peer.into(),
        peer_certificate: hash.clone(),
        dialled,
        ..Hop::default()
    };
    let can = |reporter: &str, via: Option<&[&str]>, hop: &Hop| {
        let via: Option<Vec<_>> = via.map(|via| via.iter().map(|gateway| name(gateway)).collect());
        let reporter = view.member_named(&name(reporter)).unwrap();
        can_be(&view, &name("srv1.test"), hop, reporter, via.as_deref())
    };
    for (reporter, via, peer, dialled) in [
        ("web2.test", Some(&[][..]), "srv1.test", true),
        ("web1.test", Some(&["gw2.test", "gw1.test"]), "gw2.test", true),
        ("gw1.test", None, "srv1.test", true),
        ("gw1.test", None, "gw2.test", false),
        ("gw2.test", None, "gw1.test", true),
        ("gw2.test", None, "web1.test", false),
    ] {
        let good = hop(peer, dialled);
        assert!(can(reporter, via, &good), "{reporter} {peer}");
        assert!(!can(reporter, via, &Hop { dialled: !dialled, ..good.clone() }), "{reporter} {peer}");
        let ended = Hop { ended: true, ..good.clone() };
        assert_eq!(can(reporter, via, &ended), !dialled, "{reporter} {peer}");
        let long = "x".repeat(WORD + 1);
        for bad in [
            Hop { id: Bytes::new(), ..good.clone() },
            Hop { peer_certificate: Bytes::from_static(b"certificate"), ..good.clone() },
            Hop { cipher: long, ..good.clone() },
            Hop { peer: "../".into(), ..good.clone() },
        ] {
            assert!(!can(reporter, via, &bad), "{bad:?}");
        }
    }
    // A gateway says nothing of who is above it, nor of whom it was not given; an agent of nobody but its parent.
    for (reporter, via, peer) in [
        ("gw2.test", None, "gw1.test"),
        ("gw1.test", None, "web1.test"),
        ("gw1.test", None, "web2.test"),
        ("gw2.test", None, "gone.test"),
        ("web1.test", Some(&["gw2.test", "gw1.test"][..]), "gw1.test"),
        ("web1.test", Some(&["gw2.test", "gw1.test"]), "gw2.test"),
    ] {
        assert!(!can(reporter, via, &hop(peer, false)), "{reporter} {peer}");
    }
    for (reporter, via, peer) in [
        ("gw2.test", None, "srv1.test"),
        ("gw1.test", None, "gw2.test"),
        ("web1.test", Some(&["gw2.test", "gw1.test"][..]), "gw1.test"),
        ("web2.test", Some(&[]), "gw1.test"),
    ] {
        assert!(!can(reporter, via, &hop(peer, true)), "{reporter} {peer}");
    }
}

/// A channel certificate of these bytes.
fn shown(certificate: &str) -> Proof {
    Proof::Certificate { hash: sha256(&[certificate.as_bytes()]), not_after: 0 }
}
