//! What the daemons' configuration files have in common, and the folder that belongs to one of them.

use std::fmt;
use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use wardline_proto::event::Event;
use wardline_proto::principal::Realm;
use wardline_proto::{GroupId, Name, PORT, Role};
use wardline_secrets::certificate;
use wardline_secrets::protect::{self, ProtectError, Vault};
use wardline_secrets::signature::SigningKey;
use wardline_secrets::tls::{Channel, LoadError};
use wardline_secrets::trust::{Pin, Root};

use crate::handshake::{PEER_TIMEOUT, PEER_TIMEOUTS};
use crate::own_pki::OwnPair;

/// The file in a state folder that is locked while its program runs.
const LOCK: &str = "lock";

/// Reads a configuration file.
///
/// # Errors
/// Event 40001: file, line and column, and what is allowed there.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Event> {
    let refuse = |reason: String| Event::ConfigurationRefused { file: path.display().to_string(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    toml::from_str(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count()) + 1;
        refuse(format!("line {line}, column {column}: {}", error.message()))
    })
}

/// A management group as its own server knows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The group's name, and of the folder that holds its keys.
    #[serde(deserialize_with = "group_name")]
    pub name: Name,
    /// Its id.
    #[serde(deserialize_with = "group_id")]
    pub id: GroupId,
    /// The pin of its root.
    #[serde(deserialize_with = "pin")]
    pub pin: Pin,
}

/// A management group as an agent or gateway knows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// The group's name, and of the folder that holds its keys.
    #[serde(deserialize_with = "group_name")]
    pub name: Name,
    /// Its id.
    #[serde(deserialize_with = "group_id")]
    pub id: GroupId,
    /// The pin of its root.
    #[serde(deserialize_with = "pin")]
    pub pin: Pin,
    /// Where to report, tried in this order. At least one.
    #[serde(deserialize_with = "parents")]
    pub parents: Vec<Parent>,
    /// How to authenticate.
    #[serde(default)]
    pub mechanism: Mechanism,
    /// While another parent than the first is used: how often the first is tried.
    #[serde(default = "primary_check", deserialize_with = "interval")]
    pub primary_check: Duration,
    /// How long nothing may come from the other end of a session with a parent before both take it for dead.
    #[serde(default = "peer_timeout", deserialize_with = "patience")]
    pub peer_timeout: Duration,
    /// Where the company's own PKI lays the channel certificate down, instead of the built-in CA issuing one.
    pub own_pki: Option<OwnPair>,
}

impl Membership {
    /// How to authenticate to one of its parents.
    pub fn mechanism_to(&self, parent: &Parent) -> Mechanism {
        parent.mechanism.unwrap_or(self.mechanism)
    }

    /// The group without its parents.
    pub fn group(&self) -> Group {
        Group { name: self.name.clone(), id: self.id, pin: self.pin }
    }
}

const fn primary_check() -> Duration {
    Duration::from_secs(60)
}

const fn peer_timeout() -> Duration {
    PEER_TIMEOUT
}

/// From 100 ms.
fn interval<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    const SHAPE: &str = "a whole number and one of ms, s, m, h is allowed, from 100ms to 24h";
    duration(from, Duration::from_millis(100)..=Duration::from_secs(24 * 3600), SHAPE)
}

fn patience<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    duration(from, PEER_TIMEOUTS, "a whole number and one of ms, s, m, h is allowed, from 1s to 5m")
}

fn duration<'de, D: serde::Deserializer<'de>>(
    from: D,
    bounds: RangeInclusive<Duration>,
    shape: &'static str,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).unwrap_or_default();
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return Err(D::Error::custom(shape)),
    };
    let milliseconds = number.parse::<u32>().map_err(|_| D::Error::custom(shape))?;
    let duration = Duration::from_millis(u64::from(milliseconds) * factor);
    bounds.contains(&duration).then_some(duration).ok_or_else(|| D::Error::custom(shape))
}

/// How to authenticate to a parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mechanism {
    /// By certificates, both ends.
    #[default]
    Certificate,
    /// By Kerberos, both ends. There is no channel certificate.
    Kerberos,
    /// By certificates where both ends have one, otherwise by Kerberos.
    Either,
}

impl FromStr for Mechanism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "certificate" => Ok(Self::Certificate),
            "kerberos" => Ok(Self::Kerberos),
            "either" => Ok(Self::Either),
            _ => Err(format!("{text:?}: certificate, kerberos or either is allowed")),
        }
    }
}

/// A parent: who it must prove to be, and where it listens. The two are apart on purpose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parent {
    /// Its exact name.
    pub name: Name,
    /// `host:port` to connect to.
    pub address: String,
    /// How to authenticate to it, when that is not as to the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mechanism: Option<Mechanism>,
    /// Its Kerberos realm, when that is not this host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub realm: Option<Realm>,
}

impl Parent {
    /// To which one authenticates as to the others, of this host's own realm.
    pub const fn new(name: Name, address: String) -> Self {
        Self { name, address, mechanism: None, realm: None }
    }

    /// From `NAME` or `NAME:PORT`.
    fn short(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        let port = if port.is_empty() { Ok(PORT) } else { port.parse().map(NonZeroU16::get) };
        let port = port.map_err(|_| format!("{text:?}: the port is a number from 1 to 65535"))?;
        let name: Name = host.parse().map_err(|error| format!("{error}"))?;
        Ok(Self::new(name.clone(), format!("{name}:{port}")))
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.address)
    }
}

impl FromStr for Parent {
    type Err = String;

    /// From `NAME`, `NAME:PORT` or `NAME=HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None => Self::short(text),
            Some((name, address)) => {
                let name: Name = name.parse().map_err(|error| format!("{error}"))?;
                is_address(address).then(|| Self::new(name, address.to_owned())).ok_or_else(|| no_address(address))
            }
        }
    }
}

fn is_address(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    !host.is_empty() && port.parse::<NonZeroU16>().is_ok()
}

fn no_address(text: &str) -> String {
    format!("{text:?}: an address is HOST:PORT")
}

impl<'de> Deserialize<'de> for Parent {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            name: Name,
            address: String,
            mechanism: Option<Mechanism>,
            realm: Option<Realm>,
        }

        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Parent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"NAME\", \"NAME:PORT\" or { name = \"NAME\", address = \"HOST:PORT\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Parent, E> {
                Parent::short(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Parent, A::Error> {
                let Long { name, address, mechanism, realm } = Long::deserialize(MapAccessDeserializer::new(map))?;
                if is_address(&address) {
                    Ok(Parent { name, address, mechanism, realm })
                } else {
                    Err(A::Error::custom(no_address(&address)))
                }
            }
        }

        from.deserialize_any(Written)
    }
}

/// For the name of a group, which is that of its folder, too: what else is in a state folder is no group.
///
/// # Errors
/// It is no name, or that of something else.
pub fn group_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Name, D::Error> {
    let name = Name::deserialize(from)?;
    if [protect::FOLDER, protect::MACHINE_KEY, LOCK].contains(&name.as_str()) {
        return Err(D::Error::custom(format!("no group can be called {name}: that is a name in every state folder")));
    }
    Ok(name)
}

fn group_id<'de, D: serde::Deserializer<'de>>(from: D) -> Result<GroupId, D::Error> {
    let id = String::deserialize(from)?.parse::<uuid::Uuid>();
    id.map(|id| GroupId(id.into_bytes())).map_err(|error| D::Error::custom(format!("an id is a UUID: {error}")))
}

/// For `listen`: an address and a port.
///
/// # Errors
/// It is none.
pub fn listen<'de, D: serde::Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let address = String::deserialize(from)?.parse();
    address.map_err(|_| D::Error::custom("ADDRESS:PORT is allowed, as in \"0.0.0.0:5723\" or \"[::]:5723\""))
}

/// For `group` of an agent, which may be part of several: their names and ids differ.
///
/// # Errors
/// There is none, one is wrong, or two have a name or an id in common.
pub fn groups<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Membership>, D::Error> {
    from.deserialize_seq(Groups { one: false })
}

/// For `group` of a gateway: a second one must not be passed over.
///
/// # Errors
/// There is none, it is wrong, or there is more than one.
pub fn one_group<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Membership>, D::Error> {
    from.deserialize_seq(Groups { one: true }).map(|groups| groups.into_iter().next())
}

/// Reads `[[group]]`.
struct Groups {
    /// Whether one is all that may stand there.
    one: bool,
}

impl<'de> Visitor<'de> for Groups {
    type Value = Vec<Membership>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.one { "one [[group]]" } else { "[[group]], once or more" })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
        let mut groups: Vec<Membership> = Vec::new();
        while let Some(group) = from.next_element::<Membership>()? {
            if self.one && !groups.is_empty() {
                return Err(A::Error::custom("only one [[group]] is allowed: a gateway is part of one group"));
            }
            if groups.iter().any(|other| other.name == group.name || other.id == group.id) {
                return Err(A::Error::custom("each [[group]] has a name and an id of its own"));
            }
            groups.push(group);
        }
        if groups.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(groups) }
    }
}

fn parents<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Parent>, D::Error> {
    let parents = Vec::deserialize(from)?;
    if parents.is_empty() { Err(D::Error::custom("at least one parent is needed")) } else { Ok(parents) }
}

fn pin<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Pin, D::Error> {
    String::deserialize(from)?.parse().map_err(D::Error::custom)
}

/// The state folder of a daemon, held by a lock for as long as this lives.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    vault: Vault,
    _lock: Flock<File>,
}

impl StateFolder {
    /// Opens a state folder, which is made when it is missing, locks it, and opens its data protection, under which the
    /// private files of an earlier version come.
    ///
    /// # Errors
    /// Event 40003: another program runs on it, or others may use it; 40130, 40131: what protects it cannot be used.
    pub fn open(path: &Path) -> Result<Self, Event> {
        let refuse = |reason: String| Event::StateFolderInUse { path: path.display().to_string(), reason };
        private_folder(path).map_err(|error| refuse(error.to_string()))?;
        let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK));
        let file = file.map_err(|error| refuse(error.to_string()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => refuse("another program runs on it".into()),
            errno => refuse(errno.to_string()),
        })?;
        let vault = Vault::open(path, crate::now_ms() / 1000).map_err(|error| unprotected(path, error))?;
        for path in vault.unusable() {
            crate::journal::emit(Event::MasterKeyUnusable { path: path.display().to_string() });
        }
        if !vault.is_locked() {
            crate::journal::emit(Event::MemoryNotLocked { path: path.display().to_string() });
        }
        crate::home::take_over(&vault, path).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { path: path.to_owned(), vault, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What protects the private files in it.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The folder of one management group.
    pub fn group(&self, group: &Group) -> PathBuf {
        self.path.join(group.name.as_str())
    }
}

/// For the top of a program: nothing of its memory is dumped; see [`wardline_locked::no_dumps`].
///
/// # Errors
/// Event 40131: the kernel does not do it.
pub fn no_dumps() -> Result<(), Event> {
    let failed = |error: io::Error| format!("core dumps cannot be switched off: {error}");
    wardline_locked::no_dumps()
        .map_err(|error| Event::ProtectionUnusable { path: "memory".into(), reason: failed(error) })
}

/// Why the data protection of a state folder cannot be used.
pub fn unprotected(state: &Path, error: ProtectError) -> Event {
    match error {
        ProtectError::MachineKeyMissing { path } => Event::MachineKeyMissing { path: path.display().to_string() },
        error => Event::ProtectionUnusable { path: state.display().to_string(), reason: error.to_string() },
    }
}

/// Makes a folder that only its owner may use, or checks that it is one.
///
/// # Errors
/// It cannot be made, or others may use it.
pub fn private_folder(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        // The umask can only take away from this mode.
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(0o700))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let meta = std::fs::metadata(path)?;
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!("its mode is {:04o}; `chmod 700` it", meta.mode() & 0o7777)));
    }
    Ok(())
}

/// Makes the runtime folder and notes the address that a daemon listens on: on standard output and in the file `addr`.
///
/// # Errors
/// The folder cannot be made or written.
pub fn announce(runtime: &Path, address: SocketAddr) -> io::Result<()> {
    private_folder(runtime)?;
    std::fs::write(runtime.join("addr"), format!("{address}\n"))?;
    use io::Write as _;
    writeln!(io::stdout().lock(), "listening: {address}")
}

/// What a health service holds of its group: its channel certificate, its identity key, and the group's root.
#[derive(Debug)]
pub struct Keys<C = Channel> {
    /// For the channel.
    pub channel: C,
    /// Signs what this health service says.
    pub identity: SigningKey,
    /// What everything trusted leads to.
    pub root: Root,
}

impl Keys {
    /// Loads and checks them.
    ///
    /// # Errors
    /// One event that names the file and what is wrong with it.
    pub fn load(vault: &Vault, folder: &Path, group: &Group, name: &Name, role: Role) -> Result<Self, Event> {
        let Keys { channel, identity, root } = Keys::with_channel(vault, folder, group, name, role)?;
        Ok(Self { channel: channel.map_err(|error| own_certificate(error, name))?, identity, root })
    }
}

impl Keys<()> {
    /// Loads and checks those of a host that has no channel certificate.
    ///
    /// # Errors
    /// One event that names the file and what is wrong with it.
    pub fn load_bare(vault: &Vault, folder: &Path, group: &Group) -> Result<Self, Event> {
        let path = folder.join("root.pem");
        let missing = |error: &dyn ToString| Event::CertificateMissing {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let root = Root::load(&path, group.id, group.pin).map_err(|error| missing(&error))?;
        let identity = signing_key(vault, &folder.join(IDENTITY), IDENTITY, group.id)?;
        Ok(Self { channel: (), identity, root })
    }
}

impl Keys<Option<Channel>> {
    /// Loads and checks them. A channel certificate that is not valid now is said (event 20051) and left out: it can be
    /// renewed.
    ///
    /// # Errors
    /// One event that names the file and what is wrong with it.
    pub fn load_renewable(vault: &Vault, folder: &Path, group: &Group, name: &Name, role: Role) -> Result<Self, Event> {
        let Keys { channel, identity, root } = Keys::with_channel(vault, folder, group, name, role)?;
        let channel = match channel {
            Ok(channel) => Some(channel),
            Err(error) => match own_certificate(error, name) {
                ended @ Event::CertificateNotValidNow { .. } => {
                    crate::journal::emit(ended);
                    None
                }
                other => return Err(other),
            },
        };
        Ok(Self { channel, identity, root })
    }
}

impl Keys<Result<Channel, LoadError>> {
    fn with_channel(vault: &Vault, folder: &Path, group: &Group, name: &Name, role: Role) -> Result<Self, Event> {
        let Keys { identity, root, .. } = Keys::load_bare(vault, folder, group)?;
        let channel = Channel::load(vault, folder, root.clone(), name, role);
        if let Ok(channel) = &channel {
            crate::journal::emit(loaded(folder, channel));
        }
        Ok(Self { channel, identity, root })
    }
}

/// That a channel certificate was loaded.
pub fn loaded(folder: &Path, channel: &Channel) -> Event {
    Event::CertificateLoaded {
        path: folder.join("channel.pem").display().to_string(),
        key: channel.key.to_string(),
        to: date(channel.not_after),
    }
}

/// The file of the identity key, and what that is protected as.
pub const IDENTITY: &str = "identity.key";

/// Loads a private key that signs, protected as this description.
///
/// # Errors
/// Event 20066 or 20068.
pub fn signing_key(vault: &Vault, path: &Path, description: &str, group: GroupId) -> Result<SigningKey, Event> {
    let shown = path.display().to_string();
    let pem = vault
        .read(path, description)
        .map_err(|error| Event::CertificateMissing { path: shown.clone(), reason: error.to_string() })?;
    SigningKey::from_pem(&pem, group)
        .map_err(|error| Event::PrivateKeyUnusable { path: shown, reason: error.to_string() })
}

/// What is wrong with this end's channel certificate: one event for each check.
pub fn own_certificate(error: LoadError, name: &Name) -> Event {
    use certificate::Fault;
    match error {
        LoadError::File { path, reason } => Event::CertificateMissing { path: path.display().to_string(), reason },
        LoadError::Key { path, reason } => Event::PrivateKeyUnusable { path: path.display().to_string(), reason },
        LoadError::Certificate { path, fault } => {
            let (path, reason) = (path.display().to_string(), fault.to_string());
            match fault {
                Fault::Validity(from, to) => Event::CertificateNotValidNow { path, from: date(from), to: date(to) },
                Fault::NoName | Fault::Names(_) | Fault::Name(_) | Fault::Role(_) | Fault::Other { .. } => {
                    Event::CertificateName { path, name: name.to_string(), reason }
                }
                Fault::Usage(_) => Event::CertificateUsage { path, reason },
                Fault::Key => Event::PrivateKeyUnusable { path, reason },
                Fault::Encoding | Fault::Chain(_) | Fault::Disowned | Fault::Unwanted => {
                    Event::CertificateChain { path, reason }
                }
            }
        }
    }
}

/// Seconds since 1970 as people read them.
pub(crate) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| seconds.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_a_name_with_a_port_or_an_address_of_its_own() {
        let parent = |text: &str| text.parse::<Parent>().map(|parent| parent.to_string());
        assert_eq!(parent("gw1.test"), Ok("gw1.test (gw1.test:5723)".into()));
        assert_eq!(parent("gw1.test:99"), Ok("gw1.test (gw1.test:99)".into()));
        assert_eq!(parent("gw1.test=[::1]:99"), Ok("gw1.test ([::1]:99)".into()));
        for bad in ["", "GW1", "gw1:0", "gw1:x", "gw1=", "gw1=10.0.0.1", "gw1=:5", "gw1=a:65536", "=a:1"] {
            assert!(parent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn groups_have_names_and_ids_of_their_own() {
        #[derive(Debug, Deserialize)]
        struct Agent {
            #[serde(default, deserialize_with = "groups")]
            group: Vec<Membership>,
        }
        let group = |name: &str, id: u8| {
            let (id, pin) = (uuid::Uuid::from_bytes([id; 16]), "0".repeat(64));
            format!("[[group]]\nname = \"{name}\"\nid = \"{id}\"\npin = \"sha256:{pin}\"\nparents = [\"gw1.test\"]\n")
        };
        let read = |groups: &[String]| toml::from_str::<Agent>(&groups.concat()).map(|agent| agent.group.len());
        assert_eq!(read(&[]).unwrap(), 0);
        assert_eq!(read(&[group("north", 1), group("south", 2)]).unwrap(), 2);
        for twins in [[group("north", 1), group("north", 2)], [group("north", 1), group("south", 1)]] {
            assert!(read(&twins).unwrap_err().to_string().contains("a name and an id of its own"));
        }
        assert!(read(&["group = []".into()]).is_err());
    }

    #[test]
    fn the_times_of_a_membership_have_bounds() {
        let id = "id = \"0193a0e4-7b7e-7c52-9d6f-2f1d1c9a4b10\"";
        let base = format!("name = \"north\"\n{id}\npin = \"sha256:{}\"\nparents = [\"gw1.test\"]\n", "0".repeat(64));
        let membership = |check: &str| toml::from_str::<Membership>(&format!("{base}{check}"));
        let read = |check: &str| membership(check).map(|m| m.primary_check);
        assert_eq!(read("").unwrap(), Duration::from_secs(60));
        for (text, expected) in [("100ms", 100), ("2s", 2000), ("3m", 180_000), ("24h", 86_400_000)] {
            assert_eq!(read(&format!("primary_check = \"{text}\"")).unwrap(), Duration::from_millis(expected));
        }
        for text in ["99ms", "25h", "1", "s", "1d", "-1s", "", "5000000000s"] {
            assert!(read(&format!("primary_check = \"{text}\"")).is_err(), "{text}");
        }
        let read = |timeout: &str| membership(timeout).map(|m| m.peer_timeout);
        assert_eq!(read("").unwrap(), Duration::from_secs(30));
        for (text, expected) in [("1s", 1), ("5m", 300)] {
            assert_eq!(read(&format!("peer_timeout = \"{text}\"")).unwrap(), Duration::from_secs(expected));
        }
        for text in ["999ms", "301s", "0s"] {
            assert!(read(&format!("peer_timeout = \"{text}\"")).is_err(), "{text}");
        }
    }
}
