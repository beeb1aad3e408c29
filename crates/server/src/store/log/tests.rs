//! That nobody can write into the log or its tables unnoticed, and that a decision is there when it is answered.

use rusqlite::Connection;
use wardline_proto::trust::{self, Fact};
use wardline_proto::{Name, Role};
use wardline_secrets::private;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::view::{Unsound, View};

use crate::founding::tests::{Running, Scratch};

/// A server with two agents and a token that was revoked.
struct Served {
    scratch: Scratch,
    running: Running,
}

impl Served {
    async fn new() -> Self {
        let scratch = Scratch::new();
        let running = Running::new(&scratch.0).await;
        let served = Self { scratch, running };
        let token = trust::Token {
            id: vec![7; 16].into(),
            key: vec![1; 32].into(),
            role: "agent".into(),
            name: "*".into(),
            uses: 3,
            expires: u64::MAX,
            ..trust::Token::default()
        };
        served.running.act(vec![Fact::Token(token), served.agent("web1.test"), served.agent("web2.test")]).await;
        served.running.act(vec![Fact::TokenRevoked(trust::TokenRevoked { id: vec![7; 16].into() })]).await;
        served
    }

    fn agent(&self, name: &str) -> Fact {
        let key = SigningKey::generate(self.running.store.keeper().root.group()).unwrap().0;
        Fact::Member(trust::Member {
            name: name.into(),
            role: "agent".into(),
            identity: key.public().unwrap().spki().into(),
            parents: vec![],
            token: vec![7; 16].into(),
            ..trust::Member::default()
        })
    }

    fn sql(&self, sql: &str) {
        let changed = Connection::open(self.scratch.0.join("wardline.db")).unwrap().execute(sql, []).unwrap();
        assert!(changed > 0, "{sql}");
    }

    fn number(&self, sql: &str) -> i64 {
        let connection = Connection::open(self.scratch.0.join("wardline.db")).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// The number of the event with which the server does not start any more, after somebody has written this.
    async fn tampered(sql: &[&str]) -> Option<u32> {
        let served = Self::new().await;
        let Self { scratch, running } = served;
        drop(running);
        let served = Connection::open(scratch.0.join("wardline.db")).unwrap();
        for sql in sql {
            assert!(served.execute(sql, []).unwrap() > 0, "{sql}");
        }
        Running::start(&scratch.0).await.err().map(|event| event.number())
    }
}

/// The last byte of the signature is another one than it was, whatever it was.
const OTHER_SIGNATURE: &str = "UPDATE log SET entry = CAST(substr(entry, 1, length(entry) - 1)
                                 || iif(substr(entry, -1) = x'00', x'01', x'00') AS BLOB)
     WHERE number = 8";

#[tokio::test]
async fn a_log_that_somebody_has_written_into_does_not_start() {
    assert_eq!(Served::tampered(&["UPDATE log SET entry = entry"]).await, None);
    for (sql, event) in [
        (&["DELETE FROM log WHERE number = 8"][..], 40065),
        (&["DELETE FROM log WHERE number > 4"], 40065),
        (&["DELETE FROM log"], 40065),
        (&["DELETE FROM log WHERE number = 6"], 40066),
        (&["DELETE FROM log WHERE number = 0"], 40066),
        (&["UPDATE log SET entry = zeroblob(200) WHERE number = 6"], 40066),
        (&["UPDATE log SET entry = (SELECT entry FROM log WHERE number = 7) WHERE number = 6"], 40066),
        (&[OTHER_SIGNATURE], 40066),
        // An unknown field behind the entry: decoded the same, and another leaf.
        (&["UPDATE log SET entry = CAST(entry || x'1800' AS BLOB) WHERE number = 8"], 40066),
        (&["INSERT INTO log VALUES (9, x'00')"], 40066),
        (&["INSERT INTO log SELECT 9, entry FROM log WHERE number = 7"], 40066),
        (&["DELETE FROM log WHERE number = 6", "UPDATE log SET number = number - 1 WHERE number > 6"], 40066),
    ] {
        assert_eq!(Served::tampered(sql).await, Some(event), "{sql:?}");
    }
}

#[tokio::test]
async fn a_log_that_another_history_has_signed_does_not_start() {
    let served = Served::new().await;
    let backup = served.scratch.0.join("backup");
    let vacuum = format!("VACUUM INTO '{}'", backup.display());
    Connection::open(served.scratch.0.join("wardline.db")).unwrap().execute_batch(&vacuum).unwrap();
    served.running.act(vec![served.agent_without("web3.test")]).await;
    let vault = crate::founding::tests::vault(&served.scratch.0);
    let kept = vault.read(&served.scratch.0.join("north/head"), "head").unwrap();
    let Served { scratch, running } = served;
    running.stop().await;
    let restore = || {
        for ending in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(scratch.0.join(format!("wardline.db{ending}")));
        }
        std::fs::copy(&backup, scratch.0.join("wardline.db")).unwrap();
    };
    restore();
    assert_eq!(Running::start(&scratch.0).await.err().map(|event| event.number()), Some(40065));
    let head = scratch.0.join("north/head");
    std::fs::remove_file(&head).unwrap();
    assert_eq!(Running::start(&scratch.0).await.err().map(|event| event.number()), Some(40065), "no head at all");
    private::write(&head, b"nonsense").unwrap();
    assert_eq!(Running::start(&scratch.0).await.err().map(|event| event.number()), Some(40003));
    private::write(&head, &kept).unwrap();
    let mut lower = String::from_utf8(kept.to_vec()).unwrap();
    lower.replace_range(..1, "5");
    private::write(&head, lower.as_bytes()).unwrap();
    assert_eq!(Running::start(&scratch.0).await.err().map(|event| event.number()), Some(40065), "another root");
}

impl Served {
    fn agent_without(&self, name: &str) -> Fact {
        let Fact::Member(member) = self.agent(name) else { panic!() };
        Fact::Member(trust::Member { token: vec![].into(), ..member })
    }
}

#[tokio::test]
async fn rows_that_do_not_say_what_the_log_says_are_put_right_and_nobody_is_trusted_by_them() {
    let served = Served::new().await;
    let changes = [
        "UPDATE member SET identity = x'00' WHERE name = 'web1.test'",
        "UPDATE member SET identity = (SELECT identity FROM member WHERE name = 'web2.test') WHERE name = 'web1.test'",
        "UPDATE token SET revoked = 0",
        "UPDATE token SET used = 0, expires = 1",
        "INSERT INTO member SELECT 'web9.test', role, identity, parents, token, joined_at, certificate, not_after, sealing
         FROM member WHERE name = 'web2.test'",
        "INSERT INTO token SELECT x'0707', key, role, name, uses, used, expires, parents, 0 FROM token",
        "DELETE FROM member WHERE name = 'srv1.test'",
        "DELETE FROM token",
    ];
    let sums = |served: &Served| {
        let member = served.number("SELECT sum(length(name) * length(hex(identity))) + count(*) FROM member");
        let token =
            served.number("SELECT sum(uses + used * 7 + revoked * 31) + count(*) + min(expires % 1000003) FROM token");
        (member, token, served.number("SELECT count(DISTINCT identity) FROM member"))
    };
    let right = sums(&served);
    for sql in changes {
        let before = served.running.view();
        served.sql(sql);
        served.running.store.compare().await.unwrap();
        assert_eq!(sums(&served), right, "{sql}");
        assert!(std::sync::Arc::ptr_eq(&before, &served.running.view()), "{sql}");
        served.sql(sql);
        let again = Running::new(&served.scratch.0).await;
        assert_eq!(sums(&served), right, "at the start: {sql}");
        assert!(again.view().token(&[7; 16]).unwrap().revoked);
        assert!(again.view().member_named(&"web9.test".parse::<Name>().unwrap()).is_none());
    }
}

#[tokio::test]
async fn a_refused_decision_and_one_that_makes_no_sense_leave_nothing() {
    let served = Served::new().await;
    let before = served.running.view().tree().head();
    let refused = served.running.store.act("operator test".into(), |_, _| Err::<Vec<Fact>, _>(Unsound::Encoding)).await;
    assert_eq!(refused.unwrap(), Err(Unsound::Encoding));
    // The second of two cannot be: the first is not there either.
    let facts = vec![served.agent_without("web4.test"), served.agent_without("web1.test")];
    let decided = served.running.store.act("operator test".into(), move |_, _| Ok::<_, Unsound>(facts.clone())).await;
    assert!(matches!(decided.unwrap(), Err(Unsound::Fact(_))));
    assert_eq!(served.running.view().tree().head(), before);
    assert_eq!(served.number("SELECT count(*) FROM log"), 9);
    assert_eq!(served.number("SELECT count(*) FROM member WHERE name = 'web4.test'"), 0);
}

#[tokio::test]
async fn what_is_answered_is_in_the_view_the_log_and_the_kept_head() {
    let served = Served::new().await;
    let store = served.running.store.clone();
    let acts: Vec<_> = (0..40).map(|i| served.agent_without(&format!("host{i}.test"))).collect();
    let acts = acts.into_iter().map(|fact| {
        let store = store.clone();
        tokio::spawn(async move {
            let Fact::Member(member) = &fact else { panic!() };
            let name: Name = member.name.parse().unwrap();
            let facts = vec![fact];
            store.act("x".into(), move |_: &View, _| Ok::<_, Unsound>(facts.clone())).await.unwrap().unwrap();
            let size = store.view().borrow().tree().size();
            assert!(store.view().borrow().find(&name, Role::Agent).is_some());
            (size, store.log(size - 1, 10).await.unwrap().len())
        })
    });
    for act in acts.collect::<Vec<_>>() {
        assert!(act.await.unwrap().1 >= 1);
    }
    let head = served.running.view().tree().head();
    assert_eq!(head.size, 49);
    let kept = crate::founding::tests::vault(&served.scratch.0).read(&served.scratch.0.join("north/head"), "head");
    assert_eq!(kept.unwrap().as_slice(), format!("49 {} 49\n", head.root).as_bytes());
    assert_eq!(Running::new(&served.scratch.0).await.view().tree().head(), head);
}
