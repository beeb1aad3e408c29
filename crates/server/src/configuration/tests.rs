//! What agents are given, and what that costs.

use wardline_proto::Role;
use wardline_proto::configuration::{Configuration as Document, Form};
use wardline_proto::message::SealingKey as Said;
use wardline_proto::trust::{self, Fact};
use wardline_sdk::PackOrder;
use wardline_secrets::account::Secret;
use wardline_secrets::authority::Validity;
use wardline_secrets::head::open_head;
use wardline_secrets::sealing::SealingKey;
use wardline_secrets::signature::SigningKey;

use super::*;
use crate::founding::tests::{Running, Scratch};
use crate::operating::{Refusal, packs};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn member(running: &Running, called: &str, parents: &[&str]) -> SigningKey {
    let key = SigningKey::generate(running.view().group()).unwrap().0;
    let member = trust::Member {
        name: called.into(),
        role: "agent".into(),
        identity: key.public().unwrap().spki().into(),
        parents: parents.iter().map(ToString::to_string).collect(),
        ..trust::Member::default()
    };
    running.act(vec![Fact::Member(member)]).await;
    key
}

/// A member that has published a sealing key.
async fn sealing_member(running: &Running, called: &str) {
    let identity = member(running, called, &[]).await;
    let validity = Validity::lasting(now_ms() / 1000 - 60, 3600);
    let (key, _) = SealingKey::generate(&name(called), Role::Agent, validity).unwrap();
    let certificate = Bytes::copy_from_slice(key.certificate().der());
    let said = Said { name: called.into(), role: "agent".into(), serial: 1, certificate };
    let said = identity.signed(Context::SealingCert, encode(&said));
    running.act(vec![Fact::Sealing(trust::Sealing { name: called.into(), said })]).await;
}

fn order(pack: &str, more: &str, agents: Option<&str>) -> PackOrder {
    let text = format!("[pack]\nname = \"{pack}\"\n{more}");
    PackOrder { file: "pack.toml".into(), text, agents: agents.map(ToOwned::to_owned) }
}

async fn apply(running: &Running, pack: &str, more: &str, agents: Option<&str>) {
    let order = order(pack, more, agents);
    let (text, name) = ((pack.to_owned(), order.text.clone()), pack.to_owned());
    let decide = move |view: &View, _, _: &[_]| packs::apply(&name, &order, true, view);
    let applied: Result<_, Refusal> = running.store.act_with_text("operator test".into(), text, decide).await.unwrap();
    applied.unwrap();
}

async fn names(configurations: &Configurations, running: &Running, agent: &str) -> Vec<String> {
    let (view, agent) = (running.view(), name(agent));
    let due = configurations.due(&view, &agent).await.unwrap();
    let (issued, _) = configurations.issue(&view, &agent, due).await.unwrap();
    let document = Document::parse(&issued.document).unwrap();
    assert_eq!((document.cookie, document.version), (due.cookie, due.version));
    assert_eq!(document.cookie, sha256(&[document.content.to_xml(Form::Unsealed).as_bytes()]));
    assert!(due.version <= view.tree().size());
    document.content.packs.into_iter().map(|(name, _)| name).collect()
}

#[tokio::test]
async fn each_agent_is_given_what_is_for_it_and_its_version_only_rises() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    member(&running, "web1.test", &[]).await;
    member(&running, "db1.test", &[]).await;
    let configurations = Configurations::new(running.store.clone(), crate::accounts::tests::accounts(&running.store));
    let due = async |agent: &str| configurations.due(&running.view(), &name(agent)).await.unwrap();
    let (mut web, mut db) = (due("web1.test").await, due("db1.test").await);
    assert_ne!(web.cookie, db.cookie, "each is for one");
    for (pack, more, agents, changed, expected) in [
        ("base", "", None, [true, true], [&["base"][..], &["base"]]),
        ("web", "", Some("web*"), [true, false], [&["base", "web"], &["base"]]),
        ("web", "# new\n", None, [true, false], [&["base", "web"], &["base"]]),
        ("web", "# new\n", None, [false, false], [&["base", "web"], &["base"]]),
        ("web", "# new\n", Some("*.test"), [true, true], [&["base", "web"], &["base", "web"]]),
        ("web", "# new\n", Some("db1.test"), [true, true], [&["base"], &["base", "web"]]),
        ("another", "", Some("other.test"), [false, false], [&["base"], &["base", "web"]]),
    ] {
        apply(&running, pack, more, agents).await;
        for (agent, before, changed, expected) in
            [("web1.test", &mut web, changed[0], expected[0]), ("db1.test", &mut db, changed[1], expected[1])]
        {
            let after = due(agent).await;
            assert!(after.version >= before.version);
            assert_eq!(after.version > before.version, changed, "{agent}: {pack} {more} {agents:?}");
            if !changed {
                assert_eq!(after, *before);
            }
            *before = after;
            assert_eq!(names(&configurations, &running, agent).await, expected);
        }
    }
    running.act(vec![Fact::PackRemoved(trust::PackRemoved { name: "web".into() })]).await;
    assert!(due("db1.test").await.version > db.version && due("web1.test").await.version >= web.version);
    assert_eq!(names(&configurations, &running, "db1.test").await, ["base"]);
    // Who replays the log finds the same.
    let (view, due) = (running.view(), due("db1.test").await);
    drop(running);
    let again = Running::new(&scratch.0).await;
    assert_eq!(again.view().version(&name("db1.test")), view.version(&name("db1.test")));
    let configurations = Configurations::new(again.store.clone(), crate::accounts::tests::accounts(&again.store));
    assert_eq!(configurations.due(&again.view(), &name("db1.test")).await, Some(due));
}

#[tokio::test]
async fn a_text_that_is_not_the_one_of_the_log_is_not_used() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    member(&running, "web1.test", &[]).await;
    member(&running, "db1.test", &[]).await;
    apply(&running, "web", "", Some("web*")).await;
    let sql = |sql: &str| {
        let database = rusqlite::Connection::open(scratch.0.join("wardline.db")).unwrap();
        assert_eq!(database.execute(sql, []).unwrap(), 1, "{sql}");
    };
    let due = async |agent: &str| {
        let configurations =
            Configurations::new(running.store.clone(), crate::accounts::tests::accounts(&running.store));
        configurations.due(&running.view(), &name(agent)).await
    };
    let good = due("web1.test").await.unwrap();
    for bad in ["UPDATE pack SET text = text || '#'", "DELETE FROM pack"] {
        sql(bad);
        assert!(due("web1.test").await.is_none() && due("db1.test").await.is_some());
    }
    sql("INSERT INTO pack VALUES ('web', '[pack]' || char(10) || 'name = \"web\"' || char(10))");
    assert_eq!(due("web1.test").await, Some(good));
    // What is in the table and not in the log is nobody's.
    sql("INSERT INTO pack VALUES ('other', '[pack]')");
    assert_eq!(due("web1.test").await, Some(good));
    let refused = packs::apply("web", &order("web", "", None), false, &running.view()).unwrap();
    assert_eq!(refused.len(), 1, "what is damaged is applied again");
}

#[tokio::test]
async fn what_has_not_changed_is_not_sealed_again() {
    use crate::accounts::tests::{accounts, keep, sealed};
    const SHOP: AccountId = AccountId([7; 16]);

    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    let agents = ["web1.test", "web2.test"];
    for agent in agents {
        sealing_member(&running, agent).await;
    }
    let accounts = accounts(&running.store);
    let give = async |replaces: u64, password: &[u8]| {
        let secret = Secret::basic(b"ann", password).unwrap();
        let taken = accounts.take(SHOP, replaces, &sealed(&accounts, SHOP, replaces, secret.as_bytes())).unwrap();
        keep(&running, &taken, "shop").await;
        taken.version
    };
    let version = give(0, b"Zauberwort 4711").await;
    let to = agents.map(str::to_owned).to_vec();
    let distribution = trust::Distribution { account: SHOP.to_wire(), everywhere: false, agents: to };
    let binding = trust::Binding { profile: "web".into(), agent: String::new(), account: SHOP.to_wire() };
    let profile = Fact::Profile(trust::Profile { name: "web".into() });
    running.act(vec![Fact::Distribution(distribution), profile, Fact::Binding(binding)]).await;
    apply(&running, "web", "[[check]]\nname = \"a\"\nprogram = [\"/bin/true\"]\nrun_as = \"web\"\n", None).await;

    // What is sealed twice is never the same.
    let configurations = Configurations::new(running.store.clone(), accounts.clone());
    let given = async || {
        let (view, mut all) = (running.view(), Vec::new());
        for agent in agents.map(name) {
            let due = configurations.due(&view, &agent).await.unwrap();
            let (issued, with) = configurations.issue(&view, &agent, due).await.unwrap();
            let document = Document::parse(&issued.document).unwrap();
            assert_eq!(with.len(), 1);
            all.extend(document.content.accounts.into_iter().map(|data| (data.version, data.sealed)));
        }
        all
    };
    let first = given().await;
    assert_ne!(first[0], first[1], "each is for one");
    assert_eq!(given().await, first, "for whoever has lost everything");
    apply(&running, "more", "", None).await;
    assert_eq!(given().await, first, "for whoever runs something else, too");
    // The control: another secret is sealed, once for each.
    let next = give(version, b"Zauberwort 4712").await;
    let second = given().await;
    assert!(second.iter().zip(&first).all(|(new, old)| new.0 == next && new.1 != old.1), "{second:?}");
    assert_eq!(given().await, second);
    // The control: without what was remembered, all of it is sealed again.
    configurations.state().sealed.clear();
    assert_ne!(given().await, second);
}

#[tokio::test]
async fn ten_thousand_who_have_their_configuration_cost_one_signature() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    for number in 0..20 {
        member(&running, &format!("web{number}.test"), &[]).await;
    }
    apply(&running, "base", &"# and more\n".repeat(10_000), None).await;
    let configurations = Configurations::new(running.store.clone(), crate::accounts::tests::accounts(&running.store));
    let (view, agents) = (running.view(), (0..20).map(|number| name(&format!("web{number}.test"))).collect::<Vec<_>>());
    for agent in &agents {
        configurations.due(&view, agent).await.unwrap();
    }
    // An older head: whose proof is found, and whose signature is not looked at.
    let known = Signed { signature: Bytes::new(), ..configurations.head(&view) };
    let mut heads = HashSet::new();
    for agent in agents.iter().cycle().take(10_000) {
        configurations.due(&view, agent).await.unwrap();
        let asked = configurations.compare(&view, agent, &known).await;
        let unchanged = configurations.proven(&view, agent, asked.as_ref(), Configuration::default()).await.unwrap();
        assert!(asked.is_some() && unchanged.consistency.is_empty() && unchanged.included.is_empty());
        heads.insert(encode(&unchanged.head.unwrap()));
    }
    assert_eq!(heads.len(), 1);
    let duty = running.store.keeper().duty.public().unwrap();
    assert_eq!(open_head(&duty, view.group(), &configurations.head(&view)), Some(view.reach()));
}

#[test]
fn what_is_no_pack_or_too_much_is_refused() {
    let refused = |order: &PackOrder| packs::read(order).unwrap_err().0.detail;
    assert_eq!(packs::read(&order("web", "", None)).unwrap().name, "web");
    let bad = refused(&order("web", "[[check]]\nname = 1\n", None));
    assert!(bad.starts_with("pack.toml:4:8: "), "{bad}");
    assert!(refused(&order("web", "# \u{ffff}\n", None)).contains("XML"));
    assert!(refused(&order("web", &"# a\n".repeat(packs::TEXT / 4), None)).contains("more than"));
    let texts = vec!["<".repeat(packs::TEXT); 3];
    assert!(packs::fits(&order("web", "", None), texts.iter().map(String::as_str)).is_ok());
    let texts = vec!["<".repeat(packs::TEXT); 4];
    assert!(packs::fits(&order("web", "", None), texts.iter().map(String::as_str)).is_err());
}
