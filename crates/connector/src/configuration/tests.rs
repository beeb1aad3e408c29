//! What is taken, what is kept, and what is found of it after a crash.

use wardline_proto::Role;
use wardline_proto::configuration::Configuration;
use wardline_secrets::authority::Validity;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::view::signed_head;

use super::*;
use crate::testing::{Group, Scratch, name};

/// A server's duty key with its certificate, and a host that is given configurations.
struct Host {
    group: Arc<Group>,
    scratch: Scratch,
    key: SigningKey,
    duty: Duty,
}

impl Host {
    fn new() -> Self {
        let (group, scratch) = (Group::new(), Scratch::new());
        let key = SigningKey::generate(group.id).unwrap().0;
        let public = key.public().unwrap();
        let certificate = group.root.duty(&name("srv.test"), &public, group.hour()).unwrap();
        let chain = vec![Bytes::copy_from_slice(&certificate)];
        Self { group, scratch, key, duty: Duty { key: public, chain, cookie: None } }
    }

    fn open(&self) -> Arc<Configured> {
        let check = |content: &Content| match content.packs.iter().any(|(name, _)| name == "bad") {
            true => Err("a bad pack".to_owned()),
            false => Ok(()),
        };
        let (own, folder) = (Identity { name: name("web1.test"), role: Role::Agent }, self.scratch.0.clone());
        Configured::open(own, name("north"), self.group.trusted(), folder, Box::new(check))
    }

    fn message(&self, version: u64, pack: &str) -> message::Configuration {
        let content = Content {
            group: name("north"),
            name: name("web1.test"),
            role: Role::Agent,
            recovery: None,
            parents: vec![],
            packs: vec![(pack.into(), "text".into())],
        };
        let cookie = sha256(&[content.to_xml().as_bytes()]);
        let document = Bytes::from(Configuration { cookie, version, content }.to_xml());
        let (agent, hash) = ("web1.test".to_owned(), sha256(&[&document]).to_wire());
        let issue = Issue { agent, cookie: cookie.to_wire(), version, document: hash };
        let signed = self.key.signed(Context::Config, encode(&issue));
        message::Configuration { signed: Some(signed), document, head: None }
    }

    async fn take(&self, configured: &Arc<Configured>, message: message::Configuration) -> Result<(), Refused> {
        configured.take(message, self.duty.clone(), &name("gw.test")).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.0.join(name)
    }
}

/// Version and pack of what is to be used.
fn active(configured: &Configured) -> Option<(u64, String)> {
    configured.active().borrow().as_ref().map(|c| (c.version, c.content.packs[0].0.clone()))
}

fn is(version: u64, pack: &str) -> Option<(u64, String)> {
    Some((version, pack.to_owned()))
}

#[tokio::test]
async fn only_what_is_newer_is_taken_and_what_cannot_be_used_changes_nothing() {
    let host = Host::new();
    let configured = host.open();
    assert_eq!((active(&configured), configured.ask(None)), (None, ConfigurationAsk::default()));
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
        host.take(&configured, host.message(6, "bad")).await.unwrap();
    }
    assert_eq!((active(&configured), configured.ask(None).version), (is(5, "a"), 5), "it is asked for again");
    host.take(&configured, host.message(7, "c")).await.unwrap();
    assert_eq!((active(&configured), active(&host.open())), (is(7, "c"), is(7, "c")));
    // A head of a log that is shorter than the version says nothing about it.
    let head = |size| {
        let head = wardline_secrets::merkle::Head { size, root: Digest([1; 32]) };
        message::Configuration { head: Some(signed_head(&host.key, &head, 0)), ..Default::default() }
    };
    let cookie = configured.newest().cookie;
    let duty = |cookie| Duty { cookie, ..host.duty.clone() };
    let by = name("gw.test");
    assert_eq!(configured.take(head(7), duty(Some(cookie)), &by).await, Ok(()));
    for (size, cookie) in [(6, Some(cookie)), (7, Some(Digest([1; 32]))), (7, None)] {
        assert!(matches!(configured.take(head(size), duty(cookie), &by).await, Err(Refused::Forged(_))));
    }
    assert!(matches!(host.take(&host.open(), message::Configuration::default()).await, Err(Refused::Forged(_))));
}

#[tokio::test]
async fn a_pair_that_is_replaced_is_whole_whatever_is_interrupted() {
    let host = Host::new();
    let read = |name: &str| fs::read(host.path(name)).unwrap();
    let files = || {
        let files = fs::read_dir(&host.scratch.0).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut files: Vec<_> = files.collect();
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
    assert_eq!(configured.ask(None).version, 5, "what was not kept is taken when it comes again");
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
    assert_eq!((active(&host.open()), host.open().ask(None).version), (None, 0));
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
        let ask = configured.ask(None);
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
