//! What a server has in its group's folder, made at its first start as far as it is not there: nothing is asked, and what
//! somebody has put there before is used as it is.
//!
//! ```text
//!  group.toml      the group's id
//!  root.*          the group's root; the key may be elsewhere once the others were made
//!  issuing.*       the CA under it that issues channel certificates; own-ca.pem in its place where another PKI does
//!  duty.*          what signs this server's promises and the trust log
//!  identity.key    what signs what this server measures
//!  channel.*       this server's channel certificate
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use uuid::Uuid;
use wardline_connector::config::{self, Group, IDENTITY, Keys};
use wardline_connector::{home, journal};
use wardline_proto::event::Event;
use wardline_proto::message::Digest;
use wardline_proto::trust::{self, Fact};
use wardline_proto::{GroupId, Name, Role};
use wardline_secrets::authority::{
    AuthorityError, CHANNEL_LIFETIME, ISSUING_LIFETIME, IssuingAuthority, ROOT_LIFETIME, RootAuthority, Validity,
    certificates_pem,
};
use wardline_secrets::private;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::{SigningKey, VerifyingKey, sha256};
use wardline_secrets::tls::Channel;
use wardline_secrets::trust::{Pin, Root, not_after};
use wardline_secrets::view::{Unsound, View, key_of, pin_of};
use zeroize::Zeroizing;

use crate::store::{Keeper, Store};

/// How long a duty certificate is valid, seconds.
const DUTY_LIFETIME: u64 = ISSUING_LIFETIME;
/// The file of the root's key, and what it is protected as.
pub(crate) const ROOT_KEY: &str = "root.key";
/// The name of the pair of files of the issuing CA.
const ISSUING: &str = "issuing";
/// How far a new certificate reaches back, seconds, for clocks that are behind; at most a tenth of how long it is valid.
const BACK: u64 = 3600;
/// What a channel certificate may be valid for, seconds.
const LIFETIMES: std::ops::RangeInclusive<u64> = 10..=365 * 24 * 3600;

/// A management group as its server's configuration names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its name, and of the folder that holds its keys.
    #[serde(deserialize_with = "config::group_name")]
    pub name: Name,
    /// Its id, if it must be this one.
    pub id: Option<Uuid>,
    /// The pin of its root, if it must be this one.
    #[serde(default, deserialize_with = "pin")]
    pub pin: Option<Pin>,
    /// The company's PKI, if channel certificates come from there.
    pub own_pki: Option<OwnPki>,
}

fn pin<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Pin>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

/// For `channel_lifetime`: a duration from 10 seconds to 365 days.
///
/// # Errors
/// It is none.
pub fn lifetime<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    use serde::de::Error as _;
    let lifetime = wardline_packs::quantity::duration(&String::deserialize(from)?).map_err(D::Error::custom)?;
    let allowed = LIFETIMES.contains(&lifetime.as_secs()) && lifetime <= Duration::from_secs(*LIFETIMES.end());
    allowed.then_some(lifetime).ok_or_else(|| D::Error::custom("from 10s to 365d are allowed"))
}

/// What `channel_lifetime` is when nobody says otherwise.
pub const fn default_lifetime() -> Duration {
    Duration::from_secs(CHANNEL_LIFETIME)
}

/// Everything that a server holds of its group.
#[derive(Debug)]
pub struct Foundation {
    /// For the trust log.
    pub keeper: Keeper,
    /// What it issues and answers with.
    pub authorities: Arc<Authorities>,
    /// Signs what this server measures.
    pub identity: SigningKey,
    /// Its channel.
    pub channel: Channel,
    /// What the trust log is to say of it.
    pub presence: Presence,
}

/// What a server lets hosts in with and is believed by. It changes while the server runs; [`Renewal`] publishes it.
#[derive(Debug)]
pub struct Authorities {
    /// Where channel certificates come from.
    pub issuer: Issuer,
    /// The certificate of this server's duty key, DER.
    pub duty: Bytes,
}

impl Authorities {
    /// From when on one of them is to be made anew, seconds since 1970, by this root and for channel certificates that are
    /// valid for so long.
    pub fn due(&self, root: &Root, lifetime: Duration) -> u64 {
        let root = not_after(root.certificate());
        let issuing = match &self.issuer {
            Issuer::BuiltIn(issuing) => issuing_due(issuing.certificate(), lifetime, root),
            Issuer::Own(..) => u64::MAX,
        };
        issuing.min(duty_due(&self.duty, root))
    }
}

/// What the trust log is to say of the group and of this server.
#[derive(Clone, Debug)]
pub struct Presence {
    /// The group's name.
    pub group: Name,
    /// The pin of its root.
    pub pin: Pin,
    /// The certificate of this server's duty key, DER.
    pub duty: Bytes,
    root: Root,
    server: Name,
    issuing: CertificateDer<'static>,
    /// The public half of the identity key.
    identity: VerifyingKey,
    /// SHA-256 of the channel certificate, and when that ends, seconds since 1970.
    certificate: (Digest, u64),
}

/// How long a certificate is to be valid from now on, but not longer than what it leads to.
pub fn validity(now: u64, seconds: u64, ends: u64) -> Validity {
    let from = now.saturating_sub(BACK.min(seconds / 10));
    Validity { from, to: now.saturating_add(seconds).min(ends) }
}

/// Gives what is in the group's folder, and makes what is missing. `now` is in seconds since 1970.
///
/// May be interrupted anywhere: the next start goes on from what is there.
///
/// # Errors
/// One event about the first thing that cannot be used, or does not belong to the rest.
pub fn found(
    vault: &Vault,
    folder: &Path,
    server: &Name,
    settings: &Settings,
    lifetime: Duration,
    now: u64,
) -> Result<Foundation, Event> {
    let unusable = |error: std::io::Error| Event::StateFolderInUse { path: shown(folder), reason: error.to_string() };
    private::create_folder(folder).map_err(unusable)?;
    clear(folder).map_err(unusable)?;
    home::settle(folder, ISSUING).map_err(unusable)?;
    let folder = Folder { vault, path: folder, now };
    let id = folder.id(settings)?;
    let (root, authority) = folder.root(id, settings)?;
    let (issuer, rolled) = match &settings.own_pki {
        None => {
            let (issuing, rolled) = folder.issuing(&root, authority.as_ref(), lifetime, false)?;
            (Issuer::BuiltIn(issuing.into()), rolled)
        }
        Some(pki) => (Issuer::Own(pki.clone(), folder.cross(authority.as_ref(), &pki.ca)?), false),
    };
    let (duty, certificate) = folder.duty(&root, authority.as_ref(), server)?;
    let identity = folder.path.join(IDENTITY);
    if !exists(&identity)? {
        let (_, pem) = SigningKey::generate(id).map_err(|error| key_event(&identity, &error))?;
        folder.write_key(&identity, IDENTITY, pem.as_bytes())?;
    }
    match &issuer {
        Issuer::BuiltIn(issuing) => folder.channel(issuing, server, lifetime, rolled)?,
        Issuer::Own(pki, cross) => folder.adopt(&root, cross, pki, server)?,
    }
    let pin = pin_of(root.certificate()).ok_or_else(|| key_event(folder.path, &"its root has no key"))?;
    let group = Group { name: settings.name.clone(), id, pin };
    let Keys { channel, identity, .. } = Keys::load(vault, folder.path, &group, server, Role::Server)?;
    let leaf = folder.certificate("channel.pem")?;
    let presence = Presence {
        group: settings.name.clone(),
        pin,
        duty: certificate.clone(),
        root: root.clone(),
        server: server.clone(),
        issuing: issuer.certificate().clone(),
        identity: identity.public().map_err(|error| key_event(folder.path, &error))?,
        certificate: (sha256(&[&leaf]), not_after(&leaf)),
    };
    let (server, duty) = (server.clone(), Arc::new(duty));
    let keeper = Keeper { root, server, duty, folder: folder.path.to_owned(), vault: vault.clone() };
    let authorities = Arc::new(Authorities { issuer, duty: certificate });
    Ok(Foundation { keeper, authorities, identity, channel, presence })
}

/// Enters into the trust log what it does not say yet of the group and this server. Event 40060 when that founds the
/// group, 40090 and 40092 when its start has made something anew, 40068 as long as there is no recovery key.
///
/// # Errors
/// One event: the log does not take it.
pub async fn announce(store: &Store, presence: Presence) -> Result<(), Event> {
    let (group, pin) = (presence.group.to_string(), presence.pin.to_string());
    let act = format!("server {}", presence.server);
    let facts = enter(store, presence, act, false).await?;
    if facts.iter().any(|fact| matches!(fact, Fact::Founded(_))) {
        journal::emit(Event::GroupFounded { group: group.clone(), pin });
    }
    if store.view().borrow().recovery().is_none() {
        journal::emit(Event::NoRecoveryKey { group });
    }
    Ok(())
}

/// Enters what the trust log does not say yet, and tells it; gives what that was. On demand the certificates of every agent
/// and gateway are worth nothing from then on.
async fn enter(store: &Store, presence: Presence, act: String, revoke: bool) -> Result<Vec<Fact>, Event> {
    let path = shown(&store.keeper().kept());
    let refused = |reason: String| Event::StateFolderInUse { path: path.clone(), reason };
    let decide = move |view: &View, _| {
        let all = Fact::Revoked(trust::Revoked::default());
        Ok(presence.facts(view)?.into_iter().chain(revoke.then_some(all)).collect())
    };
    let nothing = decide(&store.view().borrow(), 0).is_ok_and(|facts: Vec<_>| facts.is_empty());
    if nothing {
        return Ok(Vec::new());
    }
    let decided = store.act(act.clone(), decide).await;
    let decided: Result<_, Unsound> = decided.map_err(|error| refused(error.to_string()))?;
    let facts = decided.map_err(|error| refused(error.to_string()))?;
    if !facts.iter().any(|fact| matches!(fact, Fact::Founded(_))) {
        facts.iter().filter_map(|fact| news(fact, &act)).for_each(journal::emit);
    }
    Ok(facts)
}

/// What operators are told of an entry about this server.
fn news(fact: &Fact, act: &str) -> Option<Event> {
    let ends = |certificate: &[u8]| moment(life(certificate).1);
    let act = act.to_owned();
    match fact {
        Fact::Issuer(trust::Certificate { certificate }) => {
            let key = key_of(certificate).map(|key| key.to_string()).unwrap_or_default();
            Some(Event::IssuingCaRolled { key, to: ends(certificate), act })
        }
        Fact::Duty(trust::Duty { server, certificate }) => {
            Some(Event::DutyCertificateRenewed { server: server.clone(), to: ends(certificate) })
        }
        Fact::Revoked(_) => {
            Some(Event::CertificatesRevoked { service: "everybody but servers with the database".into(), act })
        }
        _ => None,
    }
}

impl Presence {
    /// What the trust log does not say yet: everything when the group is founded, nothing when nothing has changed.
    ///
    /// # Errors
    /// The log is that of another group, or says that another has this server's name.
    pub fn facts(&self, view: &View) -> Result<Vec<Fact>, Unsound> {
        let copy = |der: &[u8]| Bytes::copy_from_slice(der);
        let name = self.server.to_string();
        let mut facts = Vec::new();
        if view.duty_certificate(&self.server) != Some(&self.duty) {
            facts.push(Fact::Duty(trust::Duty { server: name.clone(), certificate: self.duty.clone() }));
        }
        match view.name() {
            Some(known) if *known != self.group => {
                return Err(Unsound::Fact("it is the log of a group of another name"));
            }
            Some(_) => {}
            None => {
                let (group, name) = (copy(&self.root.group().0), self.group.to_string());
                facts.push(Fact::Founded(trust::Founded { group, name, root: copy(self.root.certificate()) }));
            }
        }
        if !view.issuers().contains(&self.issuing) {
            facts.push(Fact::Issuer(trust::Certificate { certificate: copy(&self.issuing) }));
        }
        let known = view.member_named(&self.server);
        if known.is_some_and(|member| member.role != Role::Server || member.relays) {
            return Err(Unsound::Fact("another health service has this server's name"));
        }
        let same = known.filter(|member| member.identity == self.identity);
        if let (Some(other), None) = (known, same) {
            // Its identity key was replaced, in its own folder.
            let identity = copy(&other.key().0);
            facts.push(Fact::Removed(trust::Removed { name: name.clone(), identity }));
        }
        if same.is_none() {
            facts.push(Fact::Member(trust::Member {
                name: name.clone(),
                role: Role::Server.to_string(),
                identity: self.identity.spki().into(),
                ..trust::Member::default()
            }));
        }
        let (certificate, not_after) = self.certificate;
        if same.is_none_or(|member| !member.holds(&certificate)) {
            let issuer = key_of(&self.issuing).map(|key| copy(&key.0)).unwrap_or_default();
            facts.push(Fact::Issued(trust::Issued { name, certificate: certificate.to_wire(), not_after, issuer }));
        }
        Ok(facts)
    }
}

/// A group's folder at a moment.
struct Folder<'a> {
    vault: &'a Vault,
    path: &'a Path,
    now: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    id: Uuid,
}

impl Folder<'_> {
    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.path.join(format!("{name}.{ending}"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), Event> {
        let unusable = |error: std::io::Error| Event::StateFolderInUse { path: shown(path), reason: error.to_string() };
        private::write(path, bytes).map_err(unusable)
    }

    /// Writes a private key, protected as this description.
    fn write_key(&self, path: &Path, description: &str, pem: &[u8]) -> Result<(), Event> {
        let unusable = |error: std::io::Error| Event::StateFolderInUse { path: shown(path), reason: error.to_string() };
        self.vault.write(path, description, pem).map_err(unusable)
    }

    /// Nothing is made anew of which there is proof that it was there before: it would be another group's.
    fn is_new(&self, path: &Path, later: &[&str]) -> Result<(), Event> {
        for name in later {
            if exists(&self.path.join(name))? {
                let reason =
                    format!("it is not there, but {name} is, which was made after it; restore it from a backup");
                return Err(missing(path, &reason));
            }
        }
        Ok(())
    }

    /// The group's id: the one that is there, or else the configured one, or else a new one.
    fn id(&self, settings: &Settings) -> Result<GroupId, Event> {
        let path = self.path.join("group.toml");
        if !exists(&path)? {
            self.is_new(&path, &["duty.pem"])?;
            let id = settings.id.unwrap_or_else(Uuid::now_v7);
            self.write(&path, format!("id = \"{id}\"\n").as_bytes())?;
        }
        let GroupFile { id } = config::read(&path)?;
        match settings.id.filter(|wanted| *wanted != id) {
            None => Ok(GroupId(id.into_bytes())),
            Some(wanted) => {
                let reason = format!("its id is {id}, but the server's configuration says {wanted}");
                Err(Event::ConfigurationRefused { file: shown(&path), reason })
            }
        }
    }

    /// The root, and what issues in its name as long as its key is here.
    fn root(&self, group: GroupId, settings: &Settings) -> Result<(Root, Option<RootAuthority>), Event> {
        let (path, key) = (self.file("root", "pem"), self.file("root", "key"));
        let authority = if exists(&path)? && !exists(&key)? {
            None
        } else {
            let (pem, key_pem) = self.pair("root", || {
                self.is_new(&path, &["issuing.pem", "duty.pem"])?;
                let made = RootAuthority::create(settings.name.as_str(), validity(self.now, ROOT_LIFETIME, u64::MAX));
                let (authority, key) = made.map_err(|error| authority_event(&path, &error))?;
                Ok((pem_of(&path, &[authority.certificate()])?, key))
            })?;
            Some(RootAuthority::open(&pem, &key_pem).map_err(|error| authority_event(&path, &error))?)
        };
        let certificate = self.certificate("root.pem")?;
        let found = pin_of(&certificate).ok_or_else(|| missing(&path, "it cannot be decoded as a certificate"))?;
        let pin = settings.pin.unwrap_or(found);
        let root = Root::from_certificate(&certificate, group, pin);
        Ok((root.map_err(|error| missing(&path, &error.to_string()))?, authority))
    }

    /// What makes issuing CAs and duty certificates, from the files of the root with this pin.
    fn authority(&self, pin: Pin) -> Result<RootAuthority, Event> {
        let (path, key_path) = (self.file("root", "pem"), self.file("root", "key"));
        let pem = private::read_public(&path).map_err(|error| missing(&path, &error.to_string()))?;
        let key = self.vault.read(&key_path, ROOT_KEY).map_err(|error| missing(&key_path, &error.to_string()))?;
        let authority = RootAuthority::open(&pem, &key).map_err(|error| authority_event(&path, &error))?;
        if authority.pin() == pin { Ok(authority) } else { Err(missing(&path, "it is another root than at the start")) }
    }

    /// The issuing CA: made when it is not there, and made anew when it is due or wanted and the root's key is here. And
    /// whether it was made anew.
    fn issuing(
        &self,
        root: &Root,
        authority: Option<&RootAuthority>,
        lifetime: Duration,
        wanted: bool,
    ) -> Result<(IssuingAuthority, bool), Event> {
        let path = self.file(ISSUING, "pem");
        let make = |authority: &RootAuthority| {
            let made = authority.issue_ca(validity(self.now, ISSUING_LIFETIME, authority.not_after()));
            made.map_err(|error| authority_event(&path, &error))
        };
        let (pem, key) = self.pair(ISSUING, || {
            let (issuing, key) = make(authority.ok_or_else(|| no_root_key(&path))?)?;
            Ok((pem_of(&path, &[issuing.certificate()])?, key))
        })?;
        let mut issuing = IssuingAuthority::open(&pem, &key).map_err(|error| authority_event(&path, &error))?;
        let due = issuing_due(issuing.certificate(), lifetime, not_after(root.certificate()));
        let anew = authority.filter(|_| wanted || self.now >= due);
        if let Some(authority) = anew {
            let (next, key) = make(authority)?;
            let chain = std::slice::from_ref(next.certificate());
            let replaced = home::replace(self.vault, self.path, ISSUING, next.key(), key.as_bytes(), chain);
            replaced.map_err(|error| missing(&path, &error.to_string()))?;
            issuing = next;
        }
        // What it would issue must be believed by everybody.
        let key = SigningKey::generate(root.group()).and_then(|(key, _)| key.public());
        let key = key.map_err(|error| key_event(&path, &error))?;
        let name = probe_name().ok_or_else(|| missing(&path, "it cannot be tried"))?;
        let probe = issuing.channel(&name, Role::Agent, &key, validity(self.now, 60, issuing.not_after()));
        let probe = probe.map_err(|error| authority_event(&path, &error))?;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(self.now));
        let believed = root.channel(&probe, std::slice::from_ref(issuing.certificate()), at);
        believed.map_err(|fault| missing(&path, &format!("what it issues is worth nothing: {fault}")))?;
        Ok((issuing, anew.is_some()))
    }

    /// The duty key and its certificate, which the root must have issued to this server: made anew, for the same key, when
    /// it is due and the root's key is here.
    fn duty(
        &self,
        root: &Root,
        authority: Option<&RootAuthority>,
        server: &Name,
    ) -> Result<(SigningKey, Bytes), Event> {
        let (path, key_path) = (self.file("duty", "pem"), self.file("duty", "key"));
        let certify = |authority: &RootAuthority, public: &VerifyingKey| {
            let valid = validity(self.now, DUTY_LIFETIME, authority.not_after());
            let certificate = authority.duty(server, public, valid).map_err(|error| authority_event(&path, &error))?;
            pem_of(&path, &[&certificate])
        };
        let (_, key) = self.pair("duty", || {
            let authority = authority.ok_or_else(|| no_root_key(&path))?;
            let made = SigningKey::generate(root.group()).and_then(|(key, pem)| Ok((key.public()?, pem)));
            let (public, key) = made.map_err(|error| key_event(&key_path, &error))?;
            Ok((certify(authority, &public)?, key))
        })?;
        let key = SigningKey::from_pem(&key, root.group()).map_err(|error| key_event(&key_path, &error))?;
        let mut certificate = self.certificate("duty.pem")?;
        let due =
            key_of(&certificate) == Some(key.id()) && self.now >= duty_due(&certificate, not_after(root.certificate()));
        if let Some(authority) = authority.filter(|_| due) {
            let public = key.public().map_err(|error| key_event(&key_path, &error))?;
            self.write(&path, certify(authority, &public)?.as_bytes())?;
            certificate = self.certificate("duty.pem")?;
        }
        let unfit = |reason: String| Event::CertificateName { path: shown(&path), name: server.to_string(), reason };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(self.now));
        let certified = root.duty(std::slice::from_ref(&certificate), at);
        let (name, certified) = certified.map_err(|fault| unfit(fault.to_string()))?;
        if name != *server {
            return Err(unfit(format!("it is the duty certificate of {name}")));
        }
        if certified.id() != key.id() {
            return Err(key_event(&key_path, &"it does not belong to the certificate"));
        }
        Ok((key, Bytes::copy_from_slice(&certificate)))
    }

    /// This server's channel certificate: made when it is not there, and made anew, for the same key, when it is wanted or
    /// less than a third of its life is left. It is checked when it is loaded.
    fn channel(
        &self,
        issuing: &IssuingAuthority,
        server: &Name,
        lifetime: Duration,
        wanted: bool,
    ) -> Result<(), Event> {
        let (path, key_path) = (self.file("channel", "pem"), self.file("channel", "key"));
        let group = GroupId([0; 16]);
        let issue = |public: &VerifyingKey| {
            let valid = validity(self.now, lifetime.as_secs(), issuing.not_after());
            let leaf = issuing.channel(server, Role::Server, public, valid);
            let leaf = leaf.map_err(|error| authority_event(&path, &error))?;
            pem_of(&path, &[&leaf, issuing.certificate()]).map(|pem| (pem, valid.to))
        };
        let (_, key) = self.pair("channel", || {
            let made = SigningKey::generate(group).and_then(|(key, pem)| Ok((key.public()?, pem)));
            let (public, key) = made.map_err(|error| key_event(&key_path, &error))?;
            Ok((issue(&public)?.0, key))
        })?;
        let ends = not_after(&self.certificate("channel.pem")?);
        // What cannot be decoded is for whoever loads it to tell.
        if ends == 0 || !wanted && self.now < due(ends, lifetime.as_secs() / 3, issuing.not_after()) {
            return Ok(());
        }
        let public = SigningKey::from_pem(&key, group).and_then(|key| key.public());
        let (pem, to) = issue(&public.map_err(|error| key_event(&key_path, &error))?)?;
        self.write(&path, pem.as_bytes())?;
        journal::emit(Event::CertificateIssued { service: format!("server {server}"), to: moment(to) });
        Ok(())
    }

    /// The PEM of a certificate and of its key. When neither is there they are made: the certificate under another name,
    /// the key, and then the certificate gets its name. So a certificate is never there without a key that was made for
    /// it, and a key that somebody else has put there is never overwritten.
    fn pair(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<(String, Zeroizing<String>), Event>,
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), Event> {
        let (certificate, key, new) =
            (self.file(name, "pem"), self.file(name, "key"), self.path.join(format!(".{name}.pem.new")));
        let description = format!("{name}.key");
        if !exists(&certificate)? {
            if !exists(&key)? {
                let (pem, private) = make()?;
                self.write(&new, pem.as_bytes())?;
                self.write_key(&key, &description, private.as_bytes())?;
            }
            if exists(&new)? {
                let named = fs::rename(&new, &certificate).and_then(|()| File::open(self.path)?.sync_all());
                named.map_err(|error| missing(&certificate, &error.to_string()))?;
            }
        }
        let read = private::read_public(&certificate).map_err(|error| missing(&certificate, &error.to_string()))?;
        let private = self.vault.read(&key, &description).map_err(|error| missing(&key, &error.to_string()))?;
        Ok((read, private))
    }

    /// The first certificate of a file.
    fn certificate(&self, name: &str) -> Result<CertificateDer<'static>, Event> {
        let path = self.path.join(name);
        let pem = private::read_public(&path).map_err(|error| missing(&path, &error.to_string()))?;
        CertificateDer::from_pem_slice(&pem).map_err(|_| missing(&path, "it is no certificate in PEM"))
    }
}

/// Removes what an interrupted start has left half-written: it may be half of a private key. Nobody else writes here.
fn clear(folder: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let random = name.to_str().filter(|name| name.starts_with('.')).and_then(|name| name.rsplit('.').next());
        if random.is_some_and(|end| end.len() == 32 && end.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A name for a certificate that nobody gets to see.
fn probe_name() -> Option<Name> {
    "probe.invalid".parse().ok()
}

/// A moment, seconds since 1970, as events have it.
pub fn moment(seconds: u64) -> String {
    wardline_sdk::Time(seconds.saturating_mul(1000)).to_string()
}

fn exists(path: &Path) -> Result<bool, Event> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(missing(path, &error.to_string())),
    }
}

fn pem_of(path: &Path, chain: &[&CertificateDer<'_>]) -> Result<String, Event> {
    certificates_pem(chain).map_err(|error| authority_event(path, &error))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn missing(path: &Path, reason: &str) -> Event {
    Event::CertificateMissing { path: shown(path), reason: reason.to_owned() }
}

fn no_root_key(path: &Path) -> Event {
    missing(path, "it is not there, and neither is root.key, which could make it")
}

fn key_event(path: &Path, reason: &dyn ToString) -> Event {
    Event::PrivateKeyUnusable { path: shown(path), reason: reason.to_string() }
}

fn authority_event(path: &Path, error: &AuthorityError) -> Event {
    match error {
        AuthorityError::Key(_) | AuthorityError::OtherKey => key_event(&path.with_extension("key"), error),
        _ => missing(path, &error.to_string()),
    }
}

mod due;
mod export;
mod further;
mod own_pki;
mod renewal;
use due::{due, duty_due, issuing_due, life};
pub use export::export_root;
pub use further::{give, receive};
pub use own_pki::{Following, Issuer, OwnPki};
pub use renewal::{Renewal, Rotation};

#[cfg(test)]
pub(crate) mod tests;
