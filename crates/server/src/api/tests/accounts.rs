//! Run As accounts and profiles, as the command line asks for them.

use base64ct::{Base64, Encoding as _};
use wardline_sdk::{
    AccountChange, AccountFilter, AccountOrder, BindingOrder, Delivery, ExplainFilter, ProfileOrder, Recipients,
    SealedSecret,
};
use wardline_secrets::account::Secret;
use wardline_secrets::sealing::SealingCertificate;
use wardline_secrets::secure_data::{Header, Purpose, seal};

use super::*;

const PASSWORD: &[u8] = b"Zauberwort 4711";

/// What the command line makes of a secret.
async fn sealed(client: &Client, account: [u8; 16], replaces: u64, secret: &[u8]) -> SealedSecret {
    let (group, target) = (client.group().await.unwrap(), client.sealing().await.unwrap());
    let der = Base64::decode_vec(&target.certificate).unwrap();
    let now = wardline_connector::now_ms() / 1000;
    let certificate = SealingCertificate::read(&der, &group.server, Role::Server, now).unwrap();
    assert_eq!((&target.group, &target.key), (&group.id, &certificate.id().to_string()));
    let header = Header {
        group: wardline_proto::GroupId(hex::decode(&group.id).unwrap().try_into().unwrap()),
        recipient: group.server,
        account,
        version: replaces,
        purpose: Purpose::Submit,
    };
    SealedSecret { replaces, sealed: Base64::encode_string(&seal(&certificate, &header, secret).unwrap()) }
}

async fn order(client: &Client, called: &str, secret: &[u8]) -> AccountOrder {
    let id = wardline_secrets::signature::random();
    AccountOrder {
        id: hex::encode(&id),
        name: called.into(),
        kind: "basic".into(),
        user: None,
        recipients: Recipients::default(),
        secret: sealed(client, id, 0, secret).await,
    }
}

#[tokio::test]
async fn an_account_is_made_changed_and_deleted_and_no_answer_has_its_secret() {
    let served = Served::new();
    let foundation = crate::founding::tests::found(&served.folder);
    crate::founding::announce(&served.store, foundation.presence).await.unwrap();
    let client = &served.client;
    let secret = Secret::basic(b"ada", PASSWORD).unwrap();
    let made = client.create_account(order(client, "web", secret.as_bytes()).await).await.unwrap();
    assert_eq!((made.kind.as_str(), made.agents.len(), made.everywhere), ("basic", 0, false));
    let again = order(client, "web", secret.as_bytes()).await;
    assert_eq!(client.create_account(again).await.unwrap_err().kind(), Kind::Conflict);

    let detail = client.account("web").await.unwrap();
    assert_eq!((detail.login.as_deref(), detail.receipts.len()), (Some("ada"), 0));
    let id: [u8; 16] = hex::decode(&made.id).unwrap().try_into().unwrap();
    let change = |secret| AccountChange { secret: Some(secret), ..AccountChange::default() };
    let next = change(sealed(client, id, made.version, secret.as_bytes()).await);
    let changed = client.update_account("web", next.clone()).await.unwrap();
    assert!(changed.version > made.version);
    // The same once more, by whoever has kept it: it was for the version before.
    assert_eq!(client.update_account("web", next).await.unwrap_err().kind(), Kind::Conflict);
    let blank = [&[1][..], &1_u32.to_be_bytes(), b"x", &0_u32.to_be_bytes()].concat();
    let blank = change(sealed(client, id, changed.version, &blank).await);
    let refused = client.update_account("web", blank).await.unwrap_err();
    assert_eq!((refused.kind(), refused.event), (Kind::Invalid, Some(7011)));
    let other = Secret::community(b"public").unwrap();
    let other = change(sealed(client, id, changed.version, other.as_bytes()).await);
    assert_eq!(client.update_account("web", other).await.unwrap_err().kind(), Kind::Invalid);

    for path in ["accounts", "accounts/web", "accounts/web/uses", "profiles", "sealing", "status"] {
        let request = format!("GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = served.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(!answer.contains("Zauberwort") && !answer.contains(&Base64::encode_string(PASSWORD)), "{path}");
    }
    for path in ["accounts/Web", "accounts/none", "profiles/none", "profiles/none/explain", "accounts/none/uses"] {
        let request = format!("GET /api/v1/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(served.raw(&request).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    assert_eq!(client.accounts(AccountFilter::default()).await.unwrap().items, std::slice::from_ref(&changed));
    assert_eq!(client.status().await.unwrap().accounts, 1);
    assert_eq!(client.delete_account("web").await.unwrap(), changed);
    assert!(client.accounts(AccountFilter::default()).await.unwrap().items.is_empty());
    assert!(client.account("web").await.is_err());
}

#[tokio::test]
async fn a_profile_shows_what_it_stands_for_and_which_checks_name_it() {
    let served = Served::new();
    let foundation = crate::founding::tests::found(&served.folder);
    crate::founding::announce(&served.store, foundation.presence).await.unwrap();
    let client = &served.client;
    let secret = Secret::basic(b"ada", PASSWORD).unwrap();
    client.create_account(order(client, "web", secret.as_bytes()).await).await.unwrap();
    let text = "[pack]\nname = \"shop\"\n[[check]]\nname = \"login\"\nprogram = [\"/bin/true\"]\nrun_as = \"login\"\n";
    let pack = || PackOrder { file: "shop.toml".into(), text: text.into(), agents: None };
    let refused = client.apply_pack(pack()).await.unwrap_err();
    assert!(refused.next.contains("`wardline profile create login`"), "{refused:?}");
    client.create_profile(ProfileOrder { name: "login".into() }).await.unwrap();
    client.apply_pack(pack()).await.unwrap();
    let order = BindingOrder { account: Some("web".into()), ..BindingOrder::default() };
    let profile = client.bind_profile("login", order).await.unwrap();
    assert_eq!((profile.account.as_deref(), profile.checks.as_slice()), (Some("web"), &["shop/login".to_owned()][..]));
    let names: Vec<_> = client.profiles(AccountFilter::default()).await.unwrap().items;
    let names: Vec<_> = names.iter().map(|profile| (profile.name.as_str(), profile.built_in)).collect();
    assert_eq!(names, [("default-action-account", true), ("login", false)]);
    let uses = client.account_uses("web").await.unwrap().items;
    assert_eq!((uses.len(), uses[0].profile.as_str(), &uses[0].agent), (1, "login", &None));
    assert_eq!(client.delete_account("web").await.unwrap_err().kind(), Kind::Conflict);

    // Nobody is in the group yet; then an agent joins.
    assert!(client.explain_profile("login", ExplainFilter::default()).await.unwrap().items.is_empty());
    let filter = ExplainFilter { agent: Some(name("web1.test")), ..ExplainFilter::default() };
    assert_eq!(client.explain_profile("login", filter.clone()).await.unwrap_err().kind(), Kind::NotFound);
    let key = wardline_secrets::signature::SigningKey::generate(served.store.keeper().root.group());
    let member = wardline_proto::trust::Member {
        name: "web1.test".into(),
        role: "agent".into(),
        identity: key.unwrap().0.public().unwrap().spki().into(),
        ..wardline_proto::trust::Member::default()
    };
    let fact = wardline_proto::trust::Fact::Member(member);
    let decide = move |_: &_, _| Ok::<_, wardline_secrets::view::Unsound>(vec![fact.clone()]);
    served.store.act("operator test".into(), decide).await.unwrap().unwrap();
    let rows = client.explain_profile("login", filter).await.unwrap().items;
    assert_eq!((rows.len(), rows[0].state), (1, Delivery::Undistributed));
    assert_eq!(rows[0].checks, ["shop/login"]);
    let to = Recipients { add: vec![name("web1.test")], ..Recipients::default() };
    client.update_account("web", AccountChange { recipients: to, ..AccountChange::default() }).await.unwrap();
    let rows = client.explain_profile("login", ExplainFilter::default()).await.unwrap().items;
    assert_eq!((rows.len(), rows[0].state), (1, Delivery::Keyless));
    assert_eq!(client.status().await.unwrap().agents_without_sealing_key, 1);
    let everywhere = Recipients { everywhere: Some(true), ..Recipients::default() };
    let wide = AccountChange { recipients: everywhere, ..AccountChange::default() };
    assert_eq!(client.update_account("web", wide).await.unwrap_err().kind(), Kind::Denied);
}
