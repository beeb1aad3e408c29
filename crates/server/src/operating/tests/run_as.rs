//! What operators may decide about Run As accounts and profiles.

use std::collections::BTreeSet;
use std::slice::from_ref;

use wardline_proto::configuration::DEFAULT_PROFILE;
use wardline_proto::message::{AccountId, Context, SealingKey as Said, encode};
use wardline_sdk::{AccountChange, AccountOrder, BindingOrder, Delivery, Explained, Reach, Recipients, SealedSecret};
use wardline_secrets::account::Kind as Of;
use wardline_secrets::authority::Validity;
use wardline_secrets::sealing::SealingKey;

use super::*;
use crate::accounts::Taken;
use crate::operating::accounts::Policy;
use crate::operating::{accounts, packs, profiles};
use crate::store::Receipt;

const A: AccountId = AccountId([0xa; 16]);
const B: AccountId = AccountId([0xb; 16]);
const STRICT: Policy = Policy { less_secure: false };
const LAX: Policy = Policy { less_secure: true };

fn taken(id: AccountId, replaces: u64) -> Taken {
    Taken { id, replaces, version: replaces + 7, kind: Of::Basic, row: vec![1, 2, 3] }
}

fn sealed() -> SealedSecret {
    SealedSecret { replaces: 0, sealed: String::new() }
}

fn order(called: &str, to: &[&str]) -> AccountOrder {
    let only = (!to.is_empty()).then(|| to.iter().map(|agent| name(agent)).collect());
    AccountOrder {
        id: String::new(),
        name: called.into(),
        kind: "basic".into(),
        user: None,
        recipients: Recipients { only, ..Recipients::default() },
        secret: sealed(),
    }
}

/// A group of agents web1, web2 and a gateway, with an account `web` that goes to web1.
async fn group(scratch: &Scratch) -> Running {
    group_with_key(scratch).await.0
}

/// The same with the identity key of web2.
async fn group_with_key(scratch: &Scratch) -> (Running, SigningKey) {
    let running = super::group(scratch).await;
    let (own, _) = SigningKey::generate(running.view().group()).unwrap();
    let key = own.public().unwrap();
    running
        .act(vec![Fact::Member(trust::Member {
            name: "web2.test".into(),
            role: "agent".into(),
            identity: key.spki().into(),
            parents: Vec::new(),
            ..trust::Member::default()
        })])
        .await;
    let made = accounts::create(&order("web", &["web1.test"]), &taken(A, 0), STRICT, &running.view());
    running.act(made.unwrap()).await;
    (running, own)
}

fn to(change: impl FnOnce(&mut Recipients)) -> AccountChange {
    let mut recipients = Recipients::default();
    change(&mut recipients);
    AccountChange { recipients, ..AccountChange::default() }
}

#[tokio::test]
async fn an_account_has_a_name_of_its_own_and_goes_to_agents_of_the_group_and_nobody_else() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let view = running.view();
    let create = |order: &AccountOrder, id| kind(accounts::create(order, &taken(id, 0), STRICT, &view));
    assert_eq!(create(&order("db", &["web1.test", "web2.test"]), B), None);
    assert_eq!(create(&order("db", &[]), B), None);
    for bad in ["", "Web", "a b", "../x", &"x".repeat(65)] {
        assert_eq!(create(&order(bad, &[]), B), Some(Kind::Invalid), "{bad}");
    }
    assert_eq!(create(&order("web", &[]), B), Some(Kind::Conflict), "the name is taken");
    assert_eq!(create(&order("db", &[]), A), Some(Kind::Conflict), "the id is taken");
    assert_eq!(create(&order("db", &["web9.test"]), B), Some(Kind::NotFound));
    assert_eq!(create(&order("db", &["gw1.test"]), B), Some(Kind::Invalid), "a gateway runs no checks");
    assert_eq!(create(&AccountOrder { kind: "binary".into(), ..order("db", &[]) }, B), Some(Kind::Invalid));
    for (user, fits) in [("oracle", true), ("_svc.web-1", true), ("a b", false), ("root;", false)] {
        let order = AccountOrder { user: Some(user.into()), ..order("db", &[]) };
        assert_eq!(create(&order, B), (!fits).then_some(Kind::Invalid), "{user}");
    }
    let web = view.run_as().account_named("web").unwrap();
    assert_eq!((web.everywhere, &web.agents), (false, &BTreeSet::from([name("web1.test")])));
}

#[tokio::test]
async fn an_account_goes_to_every_agent_only_where_the_servers_configuration_allows_it() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let mut wide = order("db", &[]);
    wide.recipients.everywhere = Some(true);
    assert_eq!(kind(accounts::create(&wide, &taken(B, 0), STRICT, &running.view())), Some(Kind::Denied));
    assert_eq!(kind(accounts::create(&wide, &taken(B, 0), LAX, &running.view())), None);
    let widen = to(|to| to.everywhere = Some(true));
    assert_eq!(kind(accounts::update("web", &widen, None, STRICT, &running.view())), Some(Kind::Denied));
    running.act(accounts::update("web", &widen, None, LAX, &running.view()).unwrap()).await;
    assert!(running.view().run_as().account_named("web").unwrap().everywhere);
    // What goes everywhere already stays so until somebody narrows it, whatever is allowed now.
    let more = to(|to| to.add = vec![name("web2.test")]);
    assert_eq!(kind(accounts::update("web", &more, None, STRICT, &running.view())), None);
    let narrow = to(|to| to.only = Some(vec![name("web2.test")]));
    running.act(accounts::update("web", &narrow, None, STRICT, &running.view()).unwrap()).await;
    let view = running.view();
    let web = view.run_as().account_named("web").unwrap();
    assert_eq!((web.everywhere, &web.agents), (false, &BTreeSet::from([name("web2.test")])));
}

#[tokio::test]
async fn agents_are_added_and_taken_away_and_what_changes_nothing_says_nothing() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let update = |change: &AccountChange, view: &View| accounts::update("web", change, None, STRICT, view);
    let named = |running: &Running| running.view().run_as().account_named("web").unwrap().agents.clone();
    assert!(update(&to(|to| to.add = vec![name("web1.test")]), &running.view()).unwrap().is_empty());
    running.act(update(&to(|to| to.add = vec![name("web2.test")]), &running.view()).unwrap()).await;
    assert_eq!(named(&running).len(), 2);
    running.act(update(&to(|to| to.remove = vec![name("web1.test")]), &running.view()).unwrap()).await;
    assert_eq!(named(&running), BTreeSet::from([name("web2.test")]));
    let gone = to(|to| to.remove = vec![name("web1.test")]);
    assert_eq!(kind(update(&gone, &running.view())), Some(Kind::NotFound));
    running.act(update(&to(|to| to.only = Some(Vec::new())), &running.view()).unwrap()).await;
    assert!(named(&running).is_empty());
    assert_eq!(kind(accounts::update("none", &gone, None, STRICT, &running.view())), Some(Kind::NotFound));
}

#[tokio::test]
async fn a_new_secret_replaces_the_version_that_it_was_made_for_and_keeps_the_kind() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let change = AccountChange::default();
    let known = running.view().run_as().account_named("web").unwrap().version;
    let update = |taken: &Taken| accounts::update("web", &change, Some(taken), STRICT, &running.view());
    assert_eq!(kind(update(&taken(A, known - 1))), Some(Kind::Conflict), "another was quicker");
    assert_eq!(kind(update(&taken(B, known))), Some(Kind::Conflict), "deleted, and made again");
    assert_eq!(kind(update(&Taken { kind: Of::Community, ..taken(A, known) })), Some(Kind::Invalid));
    running.act(update(&taken(A, known)).unwrap()).await;
    let view = running.view();
    let web = view.run_as().account_named("web").unwrap();
    assert_eq!((web.version, web.agents.len()), (known + 7, 1));
    // Who runs programs is changed without a new secret.
    let user = AccountChange { user: Some("oracle".into()), ..AccountChange::default() };
    running.act(accounts::update("web", &user, None, STRICT, &view).unwrap()).await;
    let view = running.view();
    let web = view.run_as().account_named("web").unwrap();
    assert_eq!((web.version, web.user.as_deref()), (known + 7, Some("oracle")));
    let nobody = AccountChange { user: Some(String::new()), ..AccountChange::default() };
    running.act(accounts::update("web", &nobody, None, STRICT, &view).unwrap()).await;
    assert_eq!(running.view().run_as().account_named("web").unwrap().user, None);
}

fn set(account: &str, agent: Option<&str>, replace: bool) -> BindingOrder {
    BindingOrder { account: Some(account.into()), agent: agent.map(name), replace }
}

#[tokio::test]
async fn a_profile_stands_for_another_account_only_when_that_is_wanted_and_an_account_in_use_stays() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    running.act(accounts::create(&order("db", &[]), &taken(B, 0), STRICT, &running.view()).unwrap()).await;
    for bad in ["", "Web", "a b", &"x".repeat(65)] {
        assert_eq!(kind(profiles::create(bad, &running.view())), Some(Kind::Invalid), "{bad}");
    }
    assert_eq!(kind(profiles::bind("login", &set("web", None, false), &running.view())), Some(Kind::NotFound));
    running.act(profiles::create("login", &running.view()).unwrap()).await;
    assert_eq!(kind(profiles::create("login", &running.view())), Some(Kind::Conflict));
    let bind = |order: BindingOrder| profiles::bind("login", &order, &running.view());
    running.act(bind(set("web", None, false)).unwrap()).await;
    assert!(bind(set("web", None, false)).unwrap().is_empty(), "it does already");
    let Err(Refusal(problem)) = bind(set("db", None, false)) else { panic!() };
    assert_eq!((problem.kind(), problem.next.contains("--replace")), (Kind::Conflict, true));
    assert!(problem.detail.contains("already stands for account web on every agent"), "{problem}");
    assert_eq!(kind(bind(set("none", None, true))), Some(Kind::NotFound));
    assert_eq!(kind(bind(set("db", Some("web9.test"), true))), Some(Kind::NotFound));
    assert_eq!(kind(bind(set("db", Some("gw1.test"), true))), Some(Kind::Invalid));
    running.act(bind(set("db", Some("web1.test"), false)).unwrap()).await;
    let stands = |agent: &str| running.view().run_as().profile("login").unwrap().account(&name(agent));
    assert_eq!((stands("web1.test"), stands("web2.test")), (Some(B), Some(A)));

    let Err(Refusal(problem)) = accounts::delete("web", &running.view()) else { panic!() };
    assert_eq!((problem.kind(), problem.detail.contains("login")), (Kind::Conflict, true));
    running.act(bind(BindingOrder::default()).unwrap()).await;
    assert_eq!(kind(bind(BindingOrder::default())), Some(Kind::NotFound));
    running.act(accounts::delete("web", &running.view()).unwrap()).await;
    assert_eq!(kind(accounts::delete("web", &running.view())), Some(Kind::NotFound));
    running.act(profiles::delete("login", &running.view()).unwrap()).await;
    assert_eq!(kind(profiles::delete("login", &running.view())), Some(Kind::NotFound));
}

#[tokio::test]
async fn the_built_in_profile_is_always_there_and_entered_when_it_first_stands_for_something() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    assert_eq!(kind(profiles::create(DEFAULT_PROFILE, &running.view())), Some(Kind::Conflict));
    assert_eq!(kind(profiles::delete(DEFAULT_PROFILE, &running.view())), Some(Kind::Invalid));
    assert!(profiles::known(DEFAULT_PROFILE, &running.view()).unwrap().is_none());
    assert!(packs::name(&[DEFAULT_PROFILE.into()], &running.view()).is_ok());
    running.act(profiles::bind(DEFAULT_PROFILE, &set("web", None, false), &running.view()).unwrap()).await;
    assert_eq!(running.view().run_as().profile(DEFAULT_PROFILE).unwrap().everywhere, Some(A));
    assert_eq!(profiles::bind(DEFAULT_PROFILE, &BindingOrder::default(), &running.view()).unwrap().len(), 1);
}

#[tokio::test]
async fn a_pack_that_names_a_profile_that_is_not_there_is_refused() {
    let scratch = Scratch::new();
    let running = group(&scratch).await;
    let Err(Refusal(problem)) = packs::name(&["login".into()], &running.view()) else { panic!() };
    assert_eq!((problem.kind(), problem.next.contains("profile create login")), (Kind::Conflict, true));
    running.act(profiles::create("login", &running.view()).unwrap()).await;
    assert!(packs::name(&["login".into()], &running.view()).is_ok());
}

/// The agent web2 publishes a sealing key.
async fn publish(running: &Running, identity: &SigningKey) {
    let now = wardline_connector::now_ms() / 1000;
    let validity = Validity::lasting(now - 60, 3600);
    let (sealing, _) = SealingKey::generate(&name("web2.test"), Role::Agent, validity).unwrap();
    let said = Said {
        name: "web2.test".into(),
        role: "agent".into(),
        serial: 1,
        certificate: Bytes::copy_from_slice(sealing.certificate().der()),
    };
    let said = identity.signed(Context::SealingCert, encode(&said));
    running.act(vec![Fact::Sealing(trust::Sealing { name: "web2.test".into(), said })]).await;
}

fn receipt(version: u64) -> Receipt {
    Receipt {
        agent: name("web2.test"),
        account: A,
        version,
        sent_at: Some(1),
        opened_at: None,
        failed_at: None,
        used_since: None,
        used_at: None,
        workflow: None,
        removed_at: None,
    }
}

#[tokio::test]
async fn explain_says_of_each_agent_what_it_gets_why_and_what_to_do_next() {
    let scratch = Scratch::new();
    let (running, identity) = group_with_key(&scratch).await;
    let swap = to(|to| to.only = Some(vec![name("web2.test")]));
    running.act(accounts::update("web", &swap, None, STRICT, &running.view()).unwrap()).await;
    running.act(profiles::create("login", &running.view()).unwrap()).await;
    let explain = |agent: &str, checks: &[&str], receipts: &[Receipt]| -> Explained {
        let view = running.view();
        let member = view.member_named(&name(agent)).unwrap();
        let checks = checks.iter().map(ToString::to_string).collect();
        profiles::explain("login", member, checks, receipts.iter(), &view)
    };
    let row = explain("web2.test", &["shop/login"], &[]);
    assert_eq!((row.state, row.account, row.bound), (Delivery::Unassigned, None, None));
    assert!(row.next.unwrap().contains("`wardline profile set login --account ACCOUNT`"));

    running.act(profiles::bind("login", &set("web", None, false), &running.view()).unwrap()).await;
    let row = explain("web1.test", &["shop/login"], &[]);
    assert_eq!((row.state, row.bound, row.distributed), (Delivery::Undistributed, Some(Reach::Everywhere), None));
    assert!(row.next.unwrap().contains("`wardline account update web --also-to web1.test`"));
    let row = explain("web2.test", &[], &[]);
    assert_eq!((row.state, row.distributed), (Delivery::Unused, Some(Reach::Agent)));
    let row = explain("web2.test", &["shop/login"], &[]);
    assert_eq!((row.state, row.key.is_some()), (Delivery::Keyless, false));
    assert!(row.next.unwrap().contains("wardline-agent certs"));

    publish(&running, &identity).await;
    let version = running.view().run_as().account_named("web").unwrap().version;
    let state = |receipts: &[Receipt]| {
        let row = explain("web2.test", &["shop/login"], receipts);
        assert!(row.key.is_some() && row.version == Some(version));
        assert_eq!(row.next.is_none(), matches!(row.state, Delivery::Opened | Delivery::Used), "{row:?}");
        (row.state, row.since.map(|at| at.0))
    };
    assert_eq!(state(&[]), (Delivery::Unsent, None));
    assert_eq!(state(&[receipt(version - 1)]), (Delivery::Unsent, None), "an older version counts for nothing");
    let sent = receipt(version);
    assert_eq!(state(from_ref(&sent)), (Delivery::Sent, Some(1)));
    let failed = Receipt { failed_at: Some(2), ..sent.clone() };
    assert_eq!(state(from_ref(&failed)), (Delivery::Unopened, Some(2)));
    let opened = Receipt { opened_at: Some(3), ..failed };
    assert_eq!(state(from_ref(&opened)), (Delivery::Opened, Some(3)));
    let used = Receipt { used_since: Some(4), used_at: Some(5), workflow: Some("shop/login".into()), ..opened };
    assert_eq!(state(from_ref(&used)), (Delivery::Used, Some(4)));
    assert_eq!(explain("web2.test", &["shop/login"], from_ref(&used)).workflow.as_deref(), Some("shop/login"));
    assert_eq!(state(&[Receipt { removed_at: Some(6), ..used }]), (Delivery::Removed, Some(6)));
}
