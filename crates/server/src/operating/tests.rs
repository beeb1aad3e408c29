//! What operators may decide, and what is refused.

use wardline_sdk::Time;
use wardline_secrets::signature::SigningKey;

use super::*;
use crate::founding::tests::{Running, Scratch};

mod run_as;

const NOW: u64 = 1_900_000_000_000;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn order() -> TokenOrder {
    TokenOrder {
        id: "07".repeat(16),
        key: "01".repeat(32),
        role: Role::Agent,
        name: "web*".into(),
        uses: 1,
        expires: Time(NOW + 1000),
        via: vec![],
        principal: None,
    }
}

/// A group of gateways gw1, gw2 behind gw1, and agent web1 behind gw2.
async fn group(scratch: &Scratch) -> Running {
    let running = Running::new(&scratch.0).await;
    for (called, role, parents) in [
        ("gw1.test", "gateway", &[][..]),
        ("gw2.test", "gateway", &["gw1.test"]),
        ("web1.test", "agent", &["gw2.test"]),
    ] {
        let key = SigningKey::generate(running.view().group()).unwrap().0.public().unwrap();
        running
            .act(vec![Fact::Member(trust::Member {
                name: called.into(),
                role: role.into(),
                identity: key.spki().into(),
                parents: parents.iter().map(ToString::to_string).collect(),
                ..trust::Member::default()
            })])
            .await;
    }
    running
}

fn kind(decision: Decision) -> Option<Kind> {
    decision.err().map(|Refusal(problem)| {
        assert!(problem.next.contains('`'), "{problem:?}");
        problem.kind()
    })
}

#[tokio::test]
async fn a_token_is_for_somebody_for_some_time_and_behind_gateways_that_there_are() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let view = running.view();
    let create = |change: &dyn Fn(&mut TokenOrder)| {
        let mut order = order();
        change(&mut order);
        kind(create_token(&order, &view, NOW))
    };
    for good in ["*", "web*", "*.test", "web1.test"] {
        assert_eq!(create(&|order| order.name = good.into()), None, "{good}");
    }
    for bad in ["", "w*b", "**", "WEB*", "a b", "web1..test", "../*"] {
        assert_eq!(create(&|order| order.name = bad.into()), Some(Kind::Invalid), "{bad}");
    }
    assert_eq!(create(&|order| order.via = vec![name("gw1.test"), name("gw2.test")]), None);
    let invalid = Some(Kind::Invalid);
    assert_eq!(create(&|order| order.id = "07".repeat(15)), invalid);
    assert_eq!(create(&|order| order.key = "xx".repeat(32)), invalid);
    assert_eq!(create(&|order| order.role = Role::Server), invalid);
    assert_eq!(create(&|order| order.uses = 0), invalid);
    assert_eq!(create(&|order| order.uses = USES + 1), invalid);
    assert_eq!(create(&|order| order.expires = Time(NOW)), invalid);
    assert_eq!(create(&|order| order.expires = Time(u64::MAX)), invalid);
    assert_eq!(create(&|order| order.via = vec![name("gw1.test"), name("gw1.test")]), invalid);
    assert_eq!(create(&|order| order.via = vec![name("gw1.test"); 9]), invalid);
    assert_eq!(create(&|order| order.via = vec![name("web1.test")]), Some(Kind::NotFound));
}

#[tokio::test]
async fn a_token_is_revoked_once_by_as_much_of_its_id_as_is_its_own() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    for id in ["07".repeat(16), "0a".repeat(16)] {
        running.act(create_token(&TokenOrder { id, ..order() }, &running.view(), NOW).unwrap()).await;
    }
    assert_eq!(kind(revoke_token("0", &running.view())), Some(Kind::Conflict));
    assert_eq!(kind(revoke_token("1", &running.view())), Some(Kind::NotFound));
    running.act(revoke_token("07", &running.view()).unwrap()).await;
    assert_eq!(kind(revoke_token("0707", &running.view())), Some(Kind::Conflict));
    assert!(running.view().token(&[7; 16]).unwrap().revoked && !running.view().token(&[10; 16]).unwrap().revoked);
}

#[tokio::test]
async fn members_are_removed_and_assigned_but_never_behind_themselves() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let view = running.view();
    let give = |role, who: &str, via: &[&str]| {
        let via: Vec<_> = via.iter().map(|gateway| name(gateway)).collect();
        assign(role, &name(who), &via, &view)
    };
    assert_eq!(kind(give(Role::Gateway, "gw1.test", &["gw1.test"])), Some(Kind::Conflict));
    assert_eq!(kind(give(Role::Gateway, "gw1.test", &["gw2.test"])), Some(Kind::Conflict));
    assert_eq!(kind(give(Role::Agent, "web1.test", &["none.test"])), Some(Kind::NotFound));
    assert_eq!(kind(give(Role::Agent, "gw1.test", &[])), Some(Kind::NotFound));
    assert_eq!(kind(give(Role::Server, "srv1.test", &[])), Some(Kind::Invalid));
    running.act(give(Role::Agent, "web1.test", &["gw1.test"]).unwrap()).await;
    let via = |gateways: &[&str]| {
        let via: Vec<_> = gateways.iter().map(|gateway| name(gateway)).collect();
        running.view().by_way(&name("web1.test"), Role::Agent, &via).is_some()
    };
    assert!(via(&["gw1.test"]) && !via(&["gw2.test", "gw1.test"]));
    assert_eq!(kind(remove(Role::Server, &name("gw1.test"), &view)), Some(Kind::NotFound));
    assert_eq!(kind(remove(Role::Agent, &name("gw1.test"), &view)), Some(Kind::NotFound));
    running.act(remove(Role::Gateway, &name("gw1.test"), &view).unwrap()).await;
    assert!(!via(&["gw1.test"]));
}

#[tokio::test]
async fn a_recovery_key_is_replaced_only_when_that_is_wanted() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let key = SigningKey::generate(running.view().group()).unwrap().0.public().unwrap();
    let order = RecoveryOrder { key: key.to_base64(), replace: false };
    assert_eq!(
        kind(escrow(&RecoveryOrder { key: "AAAA".into(), replace: true }, &running.view())),
        Some(Kind::Invalid)
    );
    running.act(escrow(&order, &running.view()).unwrap()).await;
    assert_eq!(running.view().recovery(), Some(&key));
    assert_eq!(kind(escrow(&order, &running.view())), Some(Kind::Conflict));
    assert_eq!(kind(escrow(&RecoveryOrder { replace: true, ..order }, &running.view())), None);
}

#[tokio::test]
async fn a_principal_is_one_members_and_an_operator_gives_it_and_takes_it() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let principal = |text: &str| text.parse::<Principal>().unwrap();
    let bind = async |role, who: &str, text: Option<&str>| {
        let decided = bind_principal(role, &name(who), text.map(principal).as_ref(), &running.view());
        if let Ok(facts) = &decided {
            running.act(facts.clone()).await;
        }
        kind(decided)
    };
    let has = |who: &str| running.view().member_named(&name(who)).unwrap().principal.clone();
    let (rule, account) = ("host/web1.test@CORP.TEST", "WEB1$@CORP.TEST");
    assert_eq!(bind(Role::Agent, "web2.test", Some(account)).await, Some(Kind::NotFound));
    assert_eq!(bind(Role::Agent, "web1.test", Some("host/gw1.test@CORP.TEST")).await, Some(Kind::Invalid));
    assert_eq!(bind(Role::Agent, "web1.test", Some(account)).await, None);
    assert_eq!(bind(Role::Gateway, "gw1.test", Some(account)).await, Some(Kind::Conflict));
    assert_eq!((has("web1.test"), has("gw1.test")), (Some(principal(account)), None));
    // It stays when its gateways change, and is not written again.
    running.act(assign(Role::Agent, &name("web1.test"), &[name("gw1.test")], &running.view()).unwrap()).await;
    assert_eq!(has("web1.test"), Some(principal(account)));
    let again = bind_principal(Role::Agent, &name("web1.test"), Some(&principal(account)), &running.view());
    assert_eq!(again, Ok(Vec::new()));
    assert_eq!(bind(Role::Agent, "web1.test", Some(rule)).await, None);
    assert_eq!(running.view().member_named(&name("web1.test")).unwrap().parents, [name("gw1.test")]);
    assert_eq!(bind(Role::Gateway, "gw1.test", Some(account)).await, None);
    assert_eq!((has("web1.test"), has("gw1.test")), (Some(principal(rule)), Some(principal(account))));
    assert_eq!(bind(Role::Agent, "web1.test", None).await, None);
    assert_eq!(has("web1.test"), None);

    // A token with one is for one exact name, once, and not for what is somebody's.
    let order = |text: &str| TokenOrder { name: "web2.test".into(), principal: Some(principal(text)), ..order() };
    let made = |order: TokenOrder| kind(create_token(&order, &running.view(), NOW));
    assert_eq!(made(order("WEB2$@CORP.TEST")), None);
    assert_eq!(made(order(account)), Some(Kind::Conflict));
    assert_eq!(made(order("host/web3.test@CORP.TEST")), Some(Kind::Invalid));
    assert_eq!(made(TokenOrder { name: "web*".into(), ..order("WEB2$@CORP.TEST") }), Some(Kind::Invalid));
    assert_eq!(made(TokenOrder { uses: 2, ..order("WEB2$@CORP.TEST") }), Some(Kind::Invalid));
}
