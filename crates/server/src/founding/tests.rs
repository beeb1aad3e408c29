//! What a first start makes, and that it can be interrupted anywhere.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tokio::sync::{Mutex, watch};
use wardline_connector::credential::{Credential, credential};
use wardline_secrets::tls;

use super::*;
use crate::store::{Location, WriterThread};

fn now() -> u64 {
    wardline_connector::now_ms() / 1000
}

fn settings() -> Settings {
    Settings { name: "north".parse().unwrap(), id: None, pin: None, own_pki: None }
}

/// The built-in CA of a group that uses it.
pub(crate) fn issuing(authorities: &Authorities) -> &IssuingAuthority {
    let Issuer::BuiltIn(issuing) = &authorities.issuer else { panic!("{authorities:?}") };
    issuing
}

/// The data protection of a server whose state folder this is.
pub(crate) fn vault(folder: &Path) -> Vault {
    Vault::open(folder, now()).unwrap()
}

fn attempt(folder: &Path, settings: &Settings, now: u64) -> Result<Foundation, Event> {
    let (vault, server) = (vault(folder), "srv1.test".parse().unwrap());
    super::found(&vault, &folder.join("north"), &server, settings, default_lifetime(), now)
}

/// Founds the group north in a folder, or opens what is there, as server srv1.test.
pub(crate) fn found(folder: &Path) -> Foundation {
    attempt(folder, &settings(), now()).unwrap()
}

/// A folder of one test, gone with the value.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("wardline-server-{}", Uuid::now_v7()));
        private::create_folder(&path).unwrap();
        Self(path)
    }

    /// Takes over what protects the files of another.
    fn with_the_keys_of(&self, other: &Self) {
        private::create_folder(&self.0.join("protect")).unwrap();
        let keys = fs::read_dir(other.0.join("protect")).unwrap().map(|file| file.unwrap().path());
        for path in keys.chain([other.0.join("machine.key")]) {
            fs::copy(&path, self.0.join(path.strip_prefix(&other.0).unwrap())).unwrap();
        }
    }

    /// A private key as its file protects it.
    fn key(&self, name: &str) -> Vec<u8> {
        let file = format!("{name}.key");
        let path = self.group().join(&file);
        assert!(wardline_secrets::protect::is_protected(&fs::read(&path).unwrap()), "{name}");
        vault(&self.0).read(&path, &file).unwrap().to_vec()
    }

    fn group(&self) -> PathBuf {
        self.0.join("north")
    }

    /// Every file of the group with its content.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let files = fs::read_dir(self.group()).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_first_start_makes_everything_private_and_a_second_one_changes_nothing() {
    let scratch = Scratch::new();
    let first = found(&scratch.0);
    let files = scratch.files();
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    let expected = [
        "channel.key",
        "channel.pem",
        "duty.key",
        "duty.pem",
        "group.toml",
        "identity.key",
        "issuing.key",
        "issuing.pem",
        "root.key",
        "root.pem",
    ];
    assert_eq!(names, expected);
    for name in expected {
        let mode = fs::metadata(scratch.group().join(name)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let again = found(&scratch.0);
    assert_eq!(scratch.files(), files);
    assert_eq!((again.presence.pin, again.keeper.duty.id()), (first.presence.pin, first.keeper.duty.id()));
    assert_eq!(issuing(&again.authorities).key(), issuing(&first.authorities).key());
    assert_eq!(first.keeper.root.group().0[6] >> 4, 7, "the id is a UUIDv7");
}

/// The order in which files come to be there.
const ORDER: [&str; 14] = [
    "group.toml",
    ".root.pem.new",
    "root.key",
    "root.pem",
    ".issuing.pem.new",
    "issuing.key",
    "issuing.pem",
    ".duty.pem.new",
    "duty.key",
    "duty.pem",
    "identity.key",
    ".channel.pem.new",
    "channel.key",
    "channel.pem",
];

#[test]
fn founding_may_be_interrupted_after_each_file_and_keeps_what_was_made() {
    let whole = Scratch::new();
    let done = found(&whole.0);
    let files = whole.files();
    for (count, last) in ORDER.iter().enumerate() {
        let scratch = Scratch::new();
        scratch.with_the_keys_of(&whole);
        private::create_folder(&scratch.group()).unwrap();
        let lay = |name: &str, from: &str| private::write(&scratch.group().join(name), &files[from]).unwrap();
        for name in &ORDER[..=count] {
            match name.strip_prefix('.').and_then(|name| name.strip_suffix(".new")) {
                // Once it has its name the other name is gone.
                Some(named) if ORDER[..=count].contains(&named) => {}
                Some(named) => lay(name, named),
                None => lay(name, name),
            }
        }
        // A power cut in the middle of the next file.
        private::write(&scratch.group().join(format!(".some.key.{}", "0f".repeat(16))), b"half").unwrap();
        let again = found(&scratch.0);
        let kept: Vec<_> = ORDER[..=count].iter().filter(|name| !name.starts_with('.')).collect();
        assert!(kept.iter().all(|name| scratch.files()[**name] == files[**name]), "after {last}");
        assert_eq!(scratch.files().len(), 10, "after {last}");
        assert_eq!(again.keeper.root.group(), done.keeper.root.group());
        assert_eq!(again.presence.pin == done.presence.pin, count >= 2, "after {last}");
    }
}

#[test]
fn what_does_not_belong_together_is_one_event_that_names_the_file() {
    let (mine, other) = (Scratch::new(), Scratch::new());
    found(&mine.0);
    other.with_the_keys_of(&mine);
    found(&other.0);
    let (files, others) = (mine.files(), other.files());
    let put = |name: &str, bytes: &[u8]| private::write(&mine.group().join(name), bytes).unwrap();
    let tell = |changes: &[&str], number: u32, path: &str| {
        changes.iter().for_each(|name| put(name, &others[*name]));
        let event = attempt(&mine.0, &settings(), now()).unwrap_err();
        assert_eq!(event.number(), number, "{changes:?}: {}", event.text());
        assert!(event.text().contains(path), "{changes:?}: {}", event.text());
        files.iter().for_each(|(name, bytes)| put(name, bytes));
    };
    tell(&["root.pem"], 20068, "root.key");
    tell(&["root.key"], 20068, "root.key");
    tell(&["root.pem", "root.key"], 20066, "issuing.pem");
    tell(&["issuing.pem"], 20068, "issuing.key");
    tell(&["issuing.pem", "issuing.key"], 20066, "issuing.pem");
    tell(&["duty.key"], 20068, "duty.key");
    tell(&["duty.pem", "duty.key"], 20052, "duty.pem");
    tell(&["channel.key"], 20068, "channel.key");
    tell(&["channel.pem", "channel.key"], 40095, "channel.pem");
    for name in ["root.pem", "issuing.key", "duty.pem", "channel.key"] {
        fs::remove_file(mine.group().join(name)).unwrap();
        assert_eq!(attempt(&mine.0, &settings(), now()).unwrap_err().number(), 20066, "{name} is missing");
        put(name, &files[name]);
    }
    fs::set_permissions(mine.group().join("duty.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(attempt(&mine.0, &settings(), now()).unwrap_err().number(), 20066);
}

#[test]
fn a_root_of_ones_own_is_used_and_its_key_may_go_afterwards() {
    let scratch = Scratch::new();
    private::create_folder(&scratch.group()).unwrap();
    let (root, key) = RootAuthority::create("north", Validity::lasting(now() - 60, 3600)).unwrap();
    private::write(&scratch.group().join("root.key"), key.as_bytes()).unwrap();
    let pem = certificates_pem(&[root.certificate()]).unwrap();
    // A key alone is not taken for one that an interrupted start has left.
    assert_eq!(attempt(&scratch.0, &settings(), now()).unwrap_err().number(), 20066);
    assert_eq!(fs::read(scratch.group().join("root.key")).unwrap(), key.as_bytes());
    private::write(&scratch.group().join("root.pem"), pem.as_bytes()).unwrap();
    let made = found(&scratch.0);
    assert_eq!(made.presence.pin, root.pin());
    // Nothing outlives it.
    let ends = (issuing(&made.authorities).not_after(), made.presence.certificate.1);
    assert_eq!(ends, (root.not_after(), root.not_after()));
    fs::remove_file(scratch.group().join("root.key")).unwrap();
    assert_eq!(found(&scratch.0).presence.pin, root.pin());
    fs::remove_file(scratch.group().join("issuing.key")).unwrap();
    fs::remove_file(scratch.group().join("issuing.pem")).unwrap();
    assert!(attempt(&scratch.0, &settings(), now()).unwrap_err().text().contains("root.key"));
}

#[test]
fn id_and_pin_must_be_the_configured_ones_when_there_are_any() {
    let scratch = Scratch::new();
    let id = Uuid::now_v7();
    let wanted = Settings { id: Some(id), ..settings() };
    let made = attempt(&scratch.0, &wanted, now()).unwrap();
    assert_eq!(made.keeper.root.group().0, id.into_bytes());
    let (pin, other) = (Some(made.presence.pin), Some(Pin::of(b"another")));
    assert!(attempt(&scratch.0, &Settings { pin, ..wanted.clone() }, now()).is_ok());
    let refused = |settings: Settings| attempt(&scratch.0, &settings, now()).unwrap_err();
    assert_eq!(refused(Settings { id: Some(Uuid::now_v7()), ..settings() }).number(), 40001);
    assert!(refused(Settings { pin: other, ..wanted }).text().contains(&made.presence.pin.to_string()));
}

#[test]
fn a_channel_certificate_is_made_anew_when_less_than_a_third_of_its_life_is_left() {
    let scratch = Scratch::new();
    // Founded so long ago that this much is left.
    let left = |left: u64| now() + left - CHANNEL_LIFETIME;
    let old = attempt(&scratch.0, &settings(), left(CHANNEL_LIFETIME / 3 + 60)).unwrap();
    assert_eq!(found(&scratch.0).presence.certificate, old.presence.certificate);
    let scratch = Scratch::new();
    let old = attempt(&scratch.0, &settings(), left(CHANNEL_LIFETIME / 3 - 60)).unwrap();
    let new = found(&scratch.0);
    assert_ne!(new.presence.certificate, old.presence.certificate);
    assert_eq!(new.channel.key, old.channel.key);
    assert!(new.presence.certificate.1 + 60 > now() + CHANNEL_LIFETIME);
}

/// What renews a server's certificates, and where its channel certificate is looked up.
pub(crate) fn renewal(
    folder: &Path,
    store: &Store,
    presence: Presence,
    authorities: Arc<Authorities>,
    channel: Channel,
    lifetime: Duration,
) -> (Arc<Renewal>, Credential) {
    let (publisher, credential) = credential(channel.identity.clone(), Some(channel));
    let (presence, authorities) = (Mutex::new(presence), watch::Sender::new(authorities));
    let (vault, folder, store) = (store.keeper().vault.clone(), folder.to_owned(), store.clone());
    let renewal = Renewal { vault, folder, presence, authorities, lifetime, publisher, store };
    (Arc::new(renewal), credential)
}

/// A server whose group is founded, as far as its store.
pub(crate) struct Running {
    pub(crate) store: Store,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) presence: Presence,
    writer: WriterThread,
}

impl Running {
    pub(crate) async fn new(folder: &Path) -> Self {
        Self::start(folder).await.unwrap()
    }

    /// The event with which it does not start.
    pub(crate) async fn start(folder: &Path) -> Result<Self, Event> {
        let Foundation { keeper, authorities, presence, .. } = found(folder);
        let (store, writer) =
            Store::open(Location::File(folder.join("wardline.db")), None, keeper).map_err(|error| error.event())?;
        announce(&store, presence.clone()).await?;
        Ok(Self { store, authorities, presence, writer })
    }

    /// Ends it, and returns when nothing more is written.
    pub(crate) async fn stop(self) {
        drop(self.store);
        self.writer.ended().await;
    }

    /// What it lets hosts in with, which does not change.
    pub(crate) fn authorities(&self) -> watch::Receiver<Arc<Authorities>> {
        watch::channel(Arc::clone(&self.authorities)).1
    }

    pub(crate) fn view(&self) -> Arc<View> {
        Arc::clone(&self.store.view().borrow())
    }

    /// Has a decision made that is not refused.
    pub(crate) async fn act(&self, facts: Vec<Fact>) {
        let decided = self.store.act("operator test".into(), move |_, _| Ok::<_, Unsound>(facts.clone())).await;
        decided.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_group_is_founded_once_and_a_new_certificate_or_key_is_entered_when_there_is_one() {
    let scratch = Scratch::new();
    let view = Running::new(&scratch.0).await.view();
    assert_eq!(view.tree().size(), 5);
    assert_eq!(view.name().map(Name::as_str), Some("north"));
    let server: Name = "srv1.test".parse().unwrap();
    assert_eq!(view.find(&server, Role::Server).unwrap().certificates.len(), 1);
    assert_eq!(view.issuers().len(), 1);
    assert_eq!(Running::new(&scratch.0).await.view().tree().head(), view.tree().head());
    for gone in ["channel.pem", "channel.key"] {
        fs::remove_file(scratch.group().join(gone)).unwrap();
    }
    let view = Running::new(&scratch.0).await.view();
    assert_eq!((view.tree().size(), view.find(&server, Role::Server).unwrap().certificates.len()), (6, 2));
    fs::remove_file(scratch.group().join("identity.key")).unwrap();
    let view = Running::new(&scratch.0).await.view();
    assert_eq!((view.tree().size(), view.find(&server, Role::Server).unwrap().certificates.len()), (9, 1));
    for gone in ["duty.pem", "duty.key"] {
        fs::remove_file(scratch.group().join(gone)).unwrap();
    }
    let running = Running::new(&scratch.0).await;
    assert_eq!(running.view().tree().size(), 10);
    assert_eq!(running.view().duty(&server).unwrap().id(), running.store.keeper().duty.id());
}

#[tokio::test]
async fn a_running_server_makes_itself_a_new_certificate_in_time_and_enters_it() {
    let scratch = Scratch::new();
    let lifetime = Duration::from_secs(12);
    // So old that it is due in a second or two.
    let name = "srv1.test".parse().unwrap();
    let made = super::found(&vault(&scratch.0), &scratch.group(), &name, &settings(), lifetime, now() - 7).unwrap();
    let Foundation { keeper, authorities, channel, presence, .. } = made;
    let (store, _) = Store::open(Location::File(scratch.0.join("wardline.db")), None, keeper).unwrap();
    announce(&store, presence.clone()).await.unwrap();
    let (first, stop) = (channel.not_after, tokio_util::sync::CancellationToken::new());
    let (renewal, credential) = renewal(&scratch.group(), &store, presence, authorities, channel, lifetime);
    let running = tokio::spawn(renewal.run(stop.clone()));
    let mut view = store.view();
    view.mark_unchanged();
    tokio::time::timeout(Duration::from_secs(10), view.changed()).await.unwrap().unwrap();
    stop.cancel();
    running.await.unwrap();
    let second = credential.current().unwrap();
    assert!(second.not_after > first);
    let view = Arc::clone(&view.borrow());
    let certificates = &view.find(&second.identity.name, Role::Server).unwrap().certificates;
    assert_eq!(
        certificates.iter().map(|certificate| certificate.not_after).collect::<Vec<_>>(),
        [first, second.not_after]
    );
}

const YEAR: u64 = 365 * 24 * 3600;

/// A group that was founded so many years ago. Its channel certificate has ended.
fn years_ago(scratch: &Scratch, years: u64) -> BTreeMap<String, Vec<u8>> {
    let ended = attempt(&scratch.0, &settings(), now() - years * YEAR).unwrap_err();
    assert_eq!(ended.number(), 20051);
    scratch.files()
}

#[test]
fn a_start_makes_anew_what_is_due_and_keeps_the_duty_key() {
    for years in [4, 6] {
        let scratch = Scratch::new();
        let old = years_ago(&scratch, years);
        let new = found(&scratch.0);
        let files = scratch.files();
        let changed: Vec<_> = files.keys().filter(|name| files[*name] != old[*name]).map(String::as_str).collect();
        assert_eq!(changed, ["channel.pem", "duty.pem", "issuing.key", "issuing.pem"], "{years}");
        assert!(issuing(&new.authorities).not_after() + 60 > now() + 5 * YEAR, "{years}");
        assert!(new.authorities.due(&new.keeper.root, default_lifetime()) > now() + 3 * YEAR, "{years}");
    }
    // What is not due stays.
    let scratch = Scratch::new();
    let old = years_ago(&scratch, 3);
    found(&scratch.0);
    let files = scratch.files();
    assert!(files.keys().all(|name| name == "channel.pem" || files[name] == old[name]));
}

#[test]
fn a_roll_that_was_interrupted_leaves_one_whole_pair() {
    let scratch = Scratch::new();
    let old = found(&scratch.0);
    let files = scratch.files();
    let (next, key) = {
        let folder = Folder { vault: &vault(&scratch.0), path: &scratch.group(), now: now() };
        let root = folder.authority(old.presence.pin).unwrap();
        root.issue_ca(validity(now(), YEAR, root.not_after())).unwrap()
    };
    // Only the key was written: it is the old one still.
    let by_id = scratch.group().join(tls::key_file("issuing", next.key()));
    private::write(&by_id, key.as_bytes()).unwrap();
    assert_eq!(issuing(&found(&scratch.0).authorities).key(), issuing(&old.authorities).key());
    assert_eq!(scratch.files(), files);
    // The certificate, too: it is the new one, whose key has not its name yet.
    private::write(&by_id, key.as_bytes()).unwrap();
    let pem = certificates_pem(&[next.certificate()]).unwrap();
    private::write(&scratch.group().join("issuing.pem"), pem.as_bytes()).unwrap();
    assert_eq!(issuing(&found(&scratch.0).authorities).key(), next.key());
    assert_eq!(scratch.key("issuing"), key.as_bytes());
    assert_eq!(scratch.files().len(), files.len());
}

#[tokio::test]
async fn a_running_server_makes_anew_what_is_due_once_the_roots_key_is_there() {
    let scratch = Scratch::new();
    years_ago(&scratch, 4);
    let (root_key, away) = (scratch.group().join("root.key"), scratch.0.join("root.key"));
    fs::rename(&root_key, &away).unwrap();
    let Foundation { keeper, authorities, channel, presence, .. } = found(&scratch.0);
    let (store, _) = Store::open(Location::File(scratch.0.join("wardline.db")), None, keeper).unwrap();
    announce(&store, presence.clone()).await.unwrap();
    let lifetime = default_lifetime();
    let (renewal, _) = renewal(&scratch.group(), &store, presence, Arc::clone(&authorities), channel, lifetime);
    let view = || Arc::clone(&store.view().borrow());
    let before = view();
    // Nothing changes without it, and it is told.
    let waits = renewal.renew(now(), None).await.unwrap().unwrap();
    assert!(waits.number() == 40091 && waits.text().contains("root.key"), "{}", waits.text());
    let rotation = Rotation { act: "operator test".into(), revoke: true };
    assert_eq!(renewal.rotate(rotation).await.unwrap_err().number(), 40091);
    assert!(renewal.wants_root());
    assert_eq!(view().tree().head(), before.tree().head());

    fs::rename(&away, &root_key).unwrap();
    assert_eq!(renewal.renew(now(), None).await.unwrap(), None);
    assert!(!renewal.wants_root());
    let (server, view, current) = (store.keeper().server.clone(), view(), Arc::clone(&renewal.authorities.borrow()));
    assert_ne!(issuing(&current).key(), issuing(&authorities).key());
    assert_eq!(view.issuers().last(), Some(issuing(&current).certificate()));
    // Another certificate of the same key.
    assert_ne!(current.duty, authorities.duty);
    assert_eq!(view.duty_certificate(&server), Some(&current.duty));
    assert_eq!(view.duty(&server).map(VerifyingKey::id), Some(store.keeper().duty.id()));
    // Its own channel certificate is of the new CA.
    let newest = view.member_named(&server).unwrap().certificates.last().unwrap();
    assert_eq!(newest.issuer, Some(issuing(&current).key()));
    // What is not due is left alone.
    let size = view.tree().size();
    assert_eq!((renewal.renew(now(), None).await.unwrap(), store.view().borrow().tree().size()), (None, size));
}
