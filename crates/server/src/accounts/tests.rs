//! What becomes of secrets between an operator and an agent's configuration.

use std::fs;

use wardline_proto::Role;
use wardline_proto::trust::{self, Fact};
use wardline_secrets::authority::Validity;
use wardline_secrets::secure_data::seal;
use wardline_secrets::view::Unsound;

use super::*;
use crate::founding::tests::{Running, Scratch};

const A: AccountId = AccountId([0xa; 16]);
const B: AccountId = AccountId([0xb; 16]);

fn now() -> u64 {
    wardline_connector::now_ms() / 1000
}

/// The accounts of a server that keeps its own sealing key in memory.
pub(crate) fn accounts(store: &Store) -> Accounts {
    let server = store.keeper().server.clone();
    let (own, _) = SealingKey::generate(&server, Role::Server, Validity::lasting(now() - 60, 3600)).unwrap();
    Accounts::new(GroupKey::generate().unwrap(), store.clone(), Arc::new(own))
}

/// What a command line makes of a secret for an account of this server.
pub(crate) fn sealed(accounts: &Accounts, id: AccountId, replaces: u64, secret: &[u8]) -> String {
    let keeper = accounts.0.store.keeper();
    let (group, recipient) = (keeper.root.group(), keeper.server.clone());
    let header = Header { group, recipient, account: id.0, version: replaces, purpose: Purpose::Submit };
    Base64::encode_string(&seal(&accounts.certificate().unwrap(), &header, secret).unwrap())
}

fn fact(taken: &Taken, name: &str) -> Fact {
    Fact::Account(trust::Account {
        id: taken.id.to_wire(),
        name: name.into(),
        kind: taken.kind.to_string(),
        version: taken.version,
        secret: taken.hash().to_wire(),
        user: String::new(),
    })
}

/// Keeps a secret as an account of this name.
pub(crate) async fn keep(running: &Running, taken: &Taken, name: &str) {
    let (row, fact) = ((taken.id, taken.row.clone()), fact(taken, name));
    let decide = move |_: &View, _| Ok::<_, Unsound>(vec![fact.clone()]);
    running.store.act_with_secret("operator test".into(), row, decide).await.unwrap().unwrap();
}

fn secret() -> Secret {
    Secret::basic(b"ada", b"Zauberwort 4711").unwrap()
}

#[tokio::test]
async fn a_secret_that_was_taken_is_had_again_and_every_exchanged_row_is_refused() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    let accounts = accounts(&running.store);
    let take = |id, replaces| accounts.take(id, replaces, &sealed(&accounts, id, replaces, secret().as_bytes()));
    let first = take(A, 0).unwrap();
    keep(&running, &first, "web").await;
    let account = async || Arc::clone(running.view().run_as().account(A).unwrap());
    let had = accounts.secret(&*account().await).await.unwrap();
    assert_eq!(had.field("password"), Some(&b"Zauberwort 4711"[..]));

    // Another version of it, which is above the first; then the row of the first is put back, or another account's.
    let second = take(A, first.version).unwrap();
    assert!(second.version > first.version);
    keep(&running, &second, "web").await;
    assert!(accounts.secret(&*account().await).await.is_ok());
    let other = take(B, 0).unwrap();
    let database = rusqlite::Connection::open(scratch.0.join("wardline.db")).unwrap();
    for row in [&first.row, &other.row] {
        database.execute("UPDATE account SET secret = ?", [row]).unwrap();
        assert!(matches!(accounts.secret(&*account().await).await, Err(Unusable::Other)));
    }
    database.execute("DELETE FROM account", []).unwrap();
    assert!(matches!(accounts.secret(&*account().await).await, Err(Unusable::Missing)));

    // Whoever could even write the log's hash cannot move a row: it is bound to its place.
    let moved = Account { secret: other.hash(), ..(*account().await).clone() };
    database.execute("INSERT INTO account VALUES (?, ?)", rusqlite::params![A.0, other.row]).unwrap();
    assert!(matches!(accounts.secret(&moved).await, Err(Unusable::Key(GroupKeyError::Refused))));
}

#[tokio::test]
async fn only_what_was_sealed_to_this_server_for_this_account_and_version_is_taken() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    let (accounts, elsewhere) = (accounts(&running.store), accounts(&running.store));
    let good = sealed(&accounts, A, 3, secret().as_bytes());
    assert_eq!(accounts.take(A, 3, &good).unwrap().kind, Kind::Basic);
    let refused = |id, replaces, sealed: &str| match accounts.take(id, replaces, sealed) {
        Err(NotTaken::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(B, 3, &good), Refusal::Other("account"));
    assert_eq!(refused(A, 2, &good), Refusal::Other("version"));
    assert_eq!(refused(A, 3, &sealed(&elsewhere, A, 3, secret().as_bytes())), Refusal::OtherKey);
    assert!(matches!(accounts.take(A, 3, "=="), Err(NotTaken::Base64)));

    // What was sealed to a server for an agent's use is nothing that an operator gives.
    let keeper = running.store.keeper();
    let (group, recipient) = (keeper.root.group(), keeper.server.clone());
    let header = Header { group, recipient, account: A.0, version: 3, purpose: Purpose::RunAs };
    let run_as = seal(&accounts.certificate().unwrap(), &header, secret().as_bytes()).unwrap();
    assert_eq!(refused(A, 3, &Base64::encode_string(&run_as)), Refusal::Other("purpose"));

    // The command line refuses a blank secret; so does the server, from whatever has sealed it.
    let blank = [&[1][..], &3_u32.to_be_bytes(), b"ada", &0_u32.to_be_bytes()].concat();
    let taken = accounts.take(A, 3, &sealed(&accounts, A, 3, &blank));
    assert!(matches!(taken, Err(NotTaken::Secret(SecretError::Blank("password")))), "{taken:?}");
}

#[tokio::test]
async fn a_group_key_is_made_once_and_never_again_while_there_are_accounts() {
    let scratch = Scratch::new();
    let running = Running::new(&scratch.0).await;
    let (vault, folder) = (Vault::open(&scratch.0, now()).unwrap(), scratch.0.join("north"));
    let key = || group_key(&vault, &folder, &running.view());
    let first = key().unwrap().id();
    assert_eq!(key().unwrap().id(), first);
    // Nothing rests under it yet.
    fs::remove_file(folder.join(FILE)).unwrap();
    let second = key().unwrap();
    assert_ne!(second.id(), first);

    let accounts = accounts(&running.store);
    keep(&running, &accounts.take(A, 0, &sealed(&accounts, A, 0, secret().as_bytes())).unwrap(), "web").await;
    assert_eq!(key().unwrap().id(), second.id());
    fs::remove_file(folder.join(FILE)).unwrap();
    assert_eq!(key().unwrap_err().number(), 40160);
    assert!(!folder.join(FILE).exists());
    vault.write(&folder.join(FILE), FILE, b"damaged").unwrap();
    assert_eq!(key().unwrap_err().number(), 40161);
    second.keep(&vault, &folder).unwrap();
    assert_eq!(key().unwrap().id(), second.id());
}
