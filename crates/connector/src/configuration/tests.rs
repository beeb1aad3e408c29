//! What is taken, what is kept, and what is found of it after a crash.

use std::os::unix::fs::PermissionsExt as _;

use wardline_proto::Role;
use wardline_proto::configuration::{Configuration, Form};
use wardline_proto::trust;
use wardline_secrets::authority::Validity;
use wardline_secrets::head::signed_head;
use wardline_secrets::merkle::{self, Tree, leaf};
use wardline_secrets::signature::SigningKey;
use wardline_secrets::view::entry;

use super::*;
use crate::testing::{Group, Scratch, name, vault};

/// A server's duty key with its certificate and a trust log, and a host that is given configurations.
struct Host {
    group: Arc<Group>,
    scratch: Scratch,
    key: SigningKey,
    duty: Duty,
    identity: Arc<SigningKey>,
    sealing: Arc<Sealing>,
    log: Mutex<Vec<Bytes>>,
}

impl Host {
    fn new() -> Self {
        let (group, scratch) = (Group::new(), Scratch::new());
        let key = SigningKey::generate(group.id).unwrap().0;
        let identity = group.identity();
        let own = Identity { name: name("web1.test"), role: Role::Agent };
        let sealing = group.sealing(own, &identity, &scratch.0);
        let public = key.public().unwrap();
        let certificate = group.root.duty(&name("srv.test"), &public, group.hour()).unwrap();
        let chain = vec![Bytes::copy_from_slice(&certificate)];
        let duty = Duty { key: public, chain, cookie: None, version: 0, turn: 0 };
        let host = Self { group, scratch, key, duty, identity, sealing, log: Mutex::default() };
        host.add(host.member("web1.test", &host.identity));
        host
    }

    fn member(&self, called: &str, key: &SigningKey) -> Fact {
        Fact::Member(trust::Member {
            name: called.into(),
            role: "agent".into(),
            identity: key.public().unwrap().spki().into(),
            ..trust::Member::default()
        })
    }

    /// Appends to the log.
    fn add(&self, fact: Fact) -> u64 {
        let number = self.log.lock().unwrap().len() as u64;
        let entry = entry(&self.key, number, 0, &name("srv.test"), "operator test", fact);
        self.log.lock().unwrap().push(encode(&entry));
        number
    }

    fn grow(&self, count: u64) {
        (0..count).for_each(|_| _ = self.add(self.member("other.test", &self.key)));
    }

    fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        self.log.lock().unwrap().iter().for_each(|entry| tree.push(leaf(entry)));
        tree
    }

    fn included(&self, number: u64) -> Included {
        let proof = self.tree().inclusion(number, self.tree().size()).unwrap();
        let entry = self.log.lock().unwrap()[usize::try_from(number).unwrap()].clone();
        Included { entry, proof: proof.into_iter().map(Digest::to_wire).collect() }
    }

    /// What is said of the log to who knows this much of it.
    fn proven(&self, known: Option<u64>, message: message::Configuration) -> message::Configuration {
        let tree = self.tree();
        let consistency = known.and_then(|known| tree.consistency(known, tree.size())).unwrap_or_default();
        let reach = Reach { head: tree.head(), version: tree.size() };
        message::Configuration {
            head: Some(signed_head(&self.key, &reach, 0)),
            consistency: consistency.into_iter().map(Digest::to_wire).collect(),
            included: vec![self.included(0)],
            ..message
        }
    }

    fn open(&self) -> Arc<Configured> {
        self.open_with(&self.sealing)
    }

    /// As a program that was started again: it remembers nothing.
    fn restarted(&self) -> Arc<Configured> {
        let own = Identity { name: name("web1.test"), role: Role::Agent };
        self.open_with(&self.group.sealing(own, &self.identity, &self.scratch.0))
    }

    fn open_with(&self, sealing: &Arc<Sealing>) -> Arc<Configured> {
        let check = |content: &Content| match content.packs.iter().any(|(name, _)| name == "bad") {
            true => Err("a bad pack".to_owned()),
            false => Ok(()),
        };
        Configured::open(sealing, self.scratch.0.clone(), Box::new(check))
    }

    fn content(&self, pack: &str) -> Content {
        Content {
            group: name("north"),
            name: name("web1.test"),
            role: Role::Agent,
            recovery: None,
            disowned: vec![],
            parents: vec![],
            run_as: vec![],
            accounts: vec![],
            packs: vec![(pack.into(), "text".into())],
        }
    }

    fn message(&self, version: u64, pack: &str) -> message::Configuration {
        self.signed(version, self.content(pack))
    }

    fn signed(&self, version: u64, content: Content) -> message::Configuration {
        let cookie = sha256(&[content.to_xml(Form::Unsealed).as_bytes()]);
        let document = Bytes::from(Configuration { cookie, version, content }.to_xml());
        let (agent, hash) = ("web1.test".to_owned(), sha256(&[&document]).to_wire());
        let identity = Bytes::copy_from_slice(&self.identity.id().0);
        let issue = Issue { agent, cookie: cookie.to_wire(), version, document: hash, identity };
        let signed = self.key.signed(Context::Config, encode(&issue));
        message::Configuration { signed: Some(signed), document, ..Default::default() }
    }

    /// Hands it over with what the host needs to know of the log.
    async fn take(&self, configured: &Arc<Configured>, message: message::Configuration) -> Result<(), Refused> {
        let known = known(configured);
        self.hand(configured, self.proven(known, message), self.duty.clone()).await
    }

    async fn hand(
        &self,
        configured: &Arc<Configured>,
        message: message::Configuration,
        duty: Duty,
    ) -> Result<(), Refused> {
        let (_, turn) = configured.ask(duty.cookie).await;
        configured.take(message, Duty { turn, ..duty }, &name("gw.test")).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }
}

/// How much of the log a host knows.
fn known(configured: &Configured) -> Option<u64> {
    configured.log.lock().unwrap().known.head.as_ref().map(|(reach, _)| reach.head.size)
}

/// Version and pack of what is to be used.
fn active(configured: &Configured) -> Option<(u64, String)> {
    configured.active().borrow().as_ref().map(|c| (c.version, c.content.packs[0].0.clone()))
}

fn is(version: u64, pack: &str) -> Option<(u64, String)> {
    Some((version, pack.to_owned()))
}

#[tokio::test]
async fn only_what_is_newer_is_taken_and_what_cannot_be_used_lets_nothing_older_in() {
    let host = Host::new();
    let configured = host.open();
    assert_eq!((active(&configured), configured.ask(None).await.0), (None, ConfigurationAsk::default()));
    host.take(&configured, host.message(5, "a")).await.unwrap();
    assert_eq!(active(&configured), is(5, "a"));
    let mut changes = configured.active();
    changes.mark_unchanged();
    host.take(&configured, host.message(5, "a")).await.unwrap();
    assert!(!changes.has_changed().unwrap(), "a repeat is none");
    for version in [5, 4, 0] {
        assert_eq!(host.take(&configured, host.message(version, "b")).await, Err(Refused::Older(version)));
    }
    for _ in 0..2 {
        host.take(&configured, host.message(7, "bad")).await.unwrap();
    }
    let ask = configured.ask(None).await.0;
    assert_eq!((active(&configured), ask.version, ask.cookie.is_empty()), (is(5, "a"), 7, false), "it is asked for");
    // Neither by this program nor by the next.
    for configured in [configured, host.open()] {
        assert_eq!(host.take(&configured, host.message(6, "b")).await, Err(Refused::Older(6)));
        assert_eq!(active(&configured), is(5, "a"));
    }
    let configured = host.open();
    host.take(&configured, host.message(8, "c")).await.unwrap();
    assert_eq!((active(&configured), active(&host.open())), (is(8, "c"), is(8, "c")));
    // What the server has not said of this host, freshly, nobody says for it.
    let cookie = configured.used().map(|(_, cookie)| cookie);
    let duty = |cookie, version| Duty { cookie, version, ..host.duty.clone() };
    let unchanged = || host.proven(known(&configured), message::Configuration::default());
    assert_eq!(host.hand(&configured, unchanged(), duty(cookie, 1)).await, Ok(()));
    for (cookie, version) in [(cookie, 2), (Some(Digest([1; 32])), 1), (None, 1)] {
        let handed = host.hand(&configured, unchanged(), duty(cookie, version)).await;
        assert!(matches!(handed, Err(Refused::Forged(_))), "{cookie:?} {version}");
    }
    let nothing = message::Configuration::default();
    assert!(matches!(host.hand(&configured, nothing, duty(cookie, 0)).await, Err(Refused::Forged(_))));
    // What an earlier question has brought comes too late.
    let (_, turn) = configured.ask(cookie).await;
    configured.ask(cookie).await;
    let late = host.proven(known(&configured), host.message(9, "d"));
    configured.take(late, Duty { turn, ..host.duty.clone() }, &name("gw.test")).await.unwrap();
    assert_eq!(active(&configured), is(8, "c"));
}

#[tokio::test]
async fn who_is_not_believed_any_more_is_not_after_a_restart_either_and_what_was_kept_is() {
    let host = Host::new();
    let (configured, other) = (host.open(), [7; 16]);
    let chain: Vec<_> = host.duty.chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();
    let at = UnixTime::since_unix_epoch(Duration::from_millis(now_ms()));
    let believed = |configured: &Configured| configured.root.duty(&chain, at).is_ok();
    host.take(&configured, host.message(3, "base")).await.unwrap();
    // By what cannot be used; its server is itself the one.
    let mut disowned = vec![host.key.id().0, other];
    disowned.sort_unstable();
    let named = Content { disowned, ..host.content("bad") };
    host.take(&configured, host.signed(4, named)).await.unwrap();
    assert!(!believed(&configured) && active(&configured) == is(3, "base"));
    for _ in 0..2 {
        let again = host.restarted();
        assert!(!believed(&again) && active(&again) == is(3, "base"));
    }
    // The control: without that it is.
    fs::remove_file(host.path("head")).unwrap();
    assert!(believed(&host.restarted()));
}

#[tokio::test]
async fn a_log_that_grows_is_followed_and_with_any_other_nothing_is_applied() {
    let host = Host::new();
    let configured = host.open();
    host.grow(4);
    host.take(&configured, host.message(5, "a")).await.unwrap();
    let old = fs::read(host.path("head")).unwrap();
    assert_eq!(fs::metadata(host.path("head")).unwrap().permissions().mode() & 0o7777, 0o600);
    host.take(&configured, host.message(5, "a")).await.unwrap();
    assert_eq!(fs::read(host.path("head")).unwrap(), old, "nothing new is not written");
    let honest = host.log.lock().unwrap().clone();
    let lay = |entries: &[Bytes]| *host.log.lock().unwrap() = entries.to_vec();
    // Older, of the same length, longer: another history each, whatever is proved.
    let forks = [(0, 0), (3, 0), (3, 1), (3, 2), (3, 9)];
    for (kept, grown) in forks {
        lay(&honest[..kept.max(1)]);
        host.grow(grown);
        for known in [None, known(&configured)] {
            let message = host.proven(known, host.message(6, "b"));
            assert_eq!(host.hand(&configured, message, host.duty.clone()).await, Ok(()), "delivery goes on");
            assert_eq!((active(&configured), configured.newest().version), (is(5, "a"), 5), "{kept} {grown}");
            assert_eq!(fs::read(host.path("head")).unwrap(), old, "{kept} {grown}");
        }
    }
    // An operator's act that gives up less than what is known changes nothing; one that gives it up is followed.
    let lost = Reach { head: configured.log.lock().unwrap().known.head.as_ref().unwrap().0.head, version: 5 };
    for (head, version, taken) in [
        (merkle::Head { size: 4, ..lost.head }, 5, false),
        (merkle::Head { root: Digest([1; 32]), ..lost.head }, 5, false),
        (lost.head, 5, true),
    ] {
        lay(&honest[..2]);
        let fact = trust::Restored { size: head.size, root: head.root.to_wire(), version };
        let number = host.add(Fact::Restored(fact));
        let mut message = host.proven(known(&configured), host.message(6, "b"));
        let elsewhere = Included { entry: host.included(number).entry, ..host.included(0) };
        message.included.push(elsewhere);
        let forged = host.hand(&configured, message.clone(), host.duty.clone()).await;
        assert!(matches!(forged, Err(Refused::Forged(_))), "it must be in the log");
        *message.included.last_mut().unwrap() = host.included(number);
        host.hand(&configured, message, host.duty.clone()).await.unwrap();
        assert_eq!(active(&configured), if taken { is(6, "b") } else { is(5, "a") }, "{head:?}");
    }
    assert_eq!((known(&configured), known(&host.open())), (Some(3), Some(3)));
    // Its own key must be there, under its own name.
    let other = SigningKey::generate(host.group.id).unwrap().0;
    for fact in [host.member("web1.test", &other), host.member("web2.test", &host.identity)] {
        let number = host.add(fact);
        for included in [vec![], vec![host.included(number)], vec![host.included(0), host.included(number)]] {
            let message = host.proven(known(&configured), host.message(7, "c"));
            let message = message::Configuration { included, ..message };
            let handed = host.hand(&configured, message, host.duty.clone()).await;
            assert!(matches!(handed, Err(Refused::Forged(_))), "{handed:?}");
        }
    }
    host.take(&configured, host.message(7, "c")).await.unwrap();
    assert_eq!(active(&configured), is(7, "c"));
}

#[tokio::test]
async fn a_renewal_shows_an_older_log_and_another_of_the_same_length() {
    let host = Host::new();
    host.grow(4);
    let own = Reach { head: host.tree().head(), version: 5 };
    crate::head::begin(&vault(&host.scratch.0), &host.scratch.0, &signed_head(&host.key, &own, 0)).unwrap();
    let allows = |reach: Reach| {
        Known::load(&vault(&host.scratch.0), &host.scratch.0)
            .allows(&signed_head(&host.key, &reach, 0), &name("gw.test"))
    };
    let other = |size, version| Reach { head: merkle::Head { size, root: Digest([1; 32]) }, version };
    assert!(allows(own) && allows(other(6, 6)) && allows(other(2, 7)));
    assert!(!allows(other(5, 5)) && !allows(other(4, 4)));
    private::write(&host.path("head"), b"nonsense").unwrap();
    assert!(allows(other(1, 1)), "what is damaged says nothing");
}

#[tokio::test]
async fn a_pair_that_is_replaced_is_whole_whatever_is_interrupted() {
    let host = Host::new();
    let read = |name: &str| fs::read(host.path(name)).unwrap();
    let files = || {
        let files = fs::read_dir(&host.scratch.0).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> =
            files.filter(|name| !["head", "machine.key", "protect", "sealing"].contains(&name.as_str())).collect();
        files.sort();
        files
    };
    host.take(&host.open(), host.message(5, "a")).await.unwrap();
    let old = [read(DOCUMENT), read(SIGNATURE)];
    host.take(&host.open(), host.message(6, "b")).await.unwrap();
    let new = [read(DOCUMENT), read(SIGNATURE)];
    let write = |name: &str, bytes: &[u8]| private::write(&host.path(name), bytes).unwrap();
    // The signature was written.
    let lay = |files: [(&str, &Vec<u8>); 3]| files.iter().for_each(|(name, bytes)| write(name, bytes));
    lay([(DOCUMENT, &old[0]), (SIGNATURE, &old[1]), (NEXT, &new[1])]);
    let configured = host.open();
    assert_eq!((active(&configured), files()), (is(5, "a"), vec![DOCUMENT.to_owned(), SIGNATURE.to_owned()]));
    assert_eq!(configured.ask(None).await.0.version, 6, "what was not kept is taken when it comes again");
    host.take(&configured, host.message(6, "b")).await.unwrap();
    assert_eq!(active(&configured), is(6, "b"));
    // The document was, too.
    lay([(DOCUMENT, &new[0]), (SIGNATURE, &old[1]), (NEXT, &new[1])]);
    assert_eq!((active(&host.open()), files()), (is(6, "b"), vec![DOCUMENT.to_owned(), SIGNATURE.to_owned()]));
    assert_eq!(active(&host.open()), is(6, "b"));
    // Of a first one, both.
    fs::remove_file(host.path(SIGNATURE)).unwrap();
    write(NEXT, &new[1]);
    assert_eq!(active(&host.open()), is(6, "b"));
    fs::remove_file(host.path(DOCUMENT)).unwrap();
    fs::rename(host.path(SIGNATURE), host.path(NEXT)).unwrap();
    let configured = host.open();
    assert_eq!((active(&configured), configured.ask(None).await.0.version), (None, 6));
    assert_eq!(host.take(&configured, host.message(5, "a")).await, Err(Refused::Older(5)), "with both files lost");
}

#[tokio::test]
async fn what_was_kept_is_checked_as_if_it_had_just_come_and_damage_lets_nothing_older_in() {
    let host = Host::new();
    host.take(&host.open(), host.message(5, "a")).await.unwrap();
    let [document, signature] = [DOCUMENT, SIGNATURE].map(|name| fs::read(host.path(name)).unwrap());
    for at in (0..document.len()).step_by(7) {
        let mut bad = document.clone();
        bad[at] ^= 1;
        private::write(&host.path(DOCUMENT), &bad).unwrap();
        let configured = host.open();
        assert_eq!(active(&configured), None, "byte {at}");
        let ask = configured.ask(None).await.0;
        assert!(ask.cookie.is_empty() && ask.version == 5);
    }
    let configured = host.open();
    assert_eq!(host.take(&configured, host.message(4, "a")).await, Err(Refused::Older(4)));
    assert_eq!(host.take(&configured, host.message(5, "b")).await, Err(Refused::Older(5)));
    host.take(&configured, host.message(5, "a")).await.unwrap();
    assert_eq!(active(&host.open()), is(5, "a"));
    for at in (0..signature.len()).step_by(11) {
        let mut bad = signature.clone();
        bad[at] ^= 1;
        private::write(&host.path(SIGNATURE), &bad).unwrap();
        let loaded = active(&host.open());
        // A bit of the moment at which it was taken may still leave the certificate valid.
        assert!(loaded.is_none() || at + 8 >= signature.len(), "byte {at}");
    }
    // A key that no certificate of the group's root vouches for.
    let other = Host::new();
    other.take(&other.open(), other.message(5, "a")).await.unwrap();
    for name in [DOCUMENT, SIGNATURE] {
        private::write(&host.path(name), &fs::read(other.path(name)).unwrap()).unwrap();
    }
    assert_eq!(active(&host.open()), None);
    // The certificate counts as it was when the configuration was taken: a server that is away for long changes nothing.
    let now = now_ms() / 1000;
    let ended = host.group.root.duty(&name("srv.test"), &host.duty.key, Validity { from: now - 90, to: now - 30 });
    let kept = |at: u64| {
        let chain = vec![Bytes::copy_from_slice(ended.as_ref().unwrap())];
        let kept = Kept { signed: host.message(5, "a").signed.unwrap(), chain, at: at * 1000 };
        private::write(&host.path(SIGNATURE), &encode(&kept)).unwrap();
        private::write(&host.path(DOCUMENT), &host.message(5, "a").document).unwrap();
        active(&host.open())
    };
    assert_eq!((kept(now - 60), kept(now)), (is(5, "a"), None));
}
