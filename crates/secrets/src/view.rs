//! The trust log, replayed: who is in the group, by whose word. Decisions about trust read this and nothing else; every
//! entry is checked again when it is replayed, so that a log that somebody has written into is noticed where it begins.
//!
//! ```text
//!  entries (Signed) --apply, one by one--> View: members, tokens, duty keys, issuers, and the Merkle tree over all
//! ```

mod duties;
mod run_as;
mod sealing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};
use rustls_pki_types::CertificateDer;
use wardline_proto::message::{Context, Digest, Signed, decode, encode};
use wardline_proto::trust::{self, Entry, Fact, Record, Recorded};
use wardline_proto::{GroupId, Name, Principal, Role};

use crate::certificate::Parsed;
use crate::head::{Reach, Restored};
use crate::merkle::{self, Tree};
use crate::signature::{KeyId, SigningKey, VerifyingKey};
use crate::trust::{Pin, Root};

use self::duties::Duties;
pub use self::duties::Unread;
use self::run_as::Affected;
pub use self::run_as::{Account, Profile, RECIPIENTS, RunAs};
pub use self::sealing::{NotSealing, Sealing, read_sealing};

/// The most gateways that may speak for one member.
pub const PARENTS: usize = 8;
/// The most gateways on a way.
pub const WAY: usize = 4;
/// How long an ended certificate is remembered, seconds: a session that it opened may stand longer than it.
const REMEMBERED: u64 = 24 * 3600;
/// The most certificates of one member that are remembered.
const CERTIFICATES: usize = 64;

/// A health service of the group.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its name.
    pub name: Name,
    /// Its role.
    pub role: Role,
    /// The key that signs what it says.
    pub identity: VerifyingKey,
    /// The gateways that may speak for it, in order; none: it reports to servers itself.
    pub parents: Vec<Name>,
    /// The token that it joined with.
    pub token: Option<[u8; 16]>,
    /// The Kerberos principal by which its hops may be proved; without one, by certificates only.
    pub principal: Option<Principal>,
    /// When it joined, milliseconds since 1970.
    pub joined_at: u64,
    /// The channel certificates that were issued to it and not revoked; newest last. The oldest are forgotten once they
    /// have ended.
    pub certificates: Vec<Certificate>,
    /// How many entries the log had with the newest that revoked its channel certificates, or took its Kerberos principal
    /// away; 0: none did.
    pub revoked: u64,
    /// The number of the entry that says all this.
    pub entry: u64,
    /// The number of the entry of its newest channel certificate that was not revoked.
    pub issued: Option<u64>,
    /// What secrets for it are encrypted to.
    pub sealing: Option<Arc<Sealing>>,
    /// Of a server: it has no database and none of the group's keys, and relays to servers that have.
    pub relays: bool,
}

/// A channel certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of it.
    pub hash: Digest,
    /// When it ends, seconds since 1970.
    pub not_after: u64,
    /// The id of the key of the CA that issued it.
    pub issuer: Option<KeyId>,
    /// When it was issued, milliseconds since 1970.
    pub at: u64,
}

/// A join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The public half of its key.
    pub key: [u8; 32],
    /// The role of who may use it.
    pub role: Role,
    /// The name of who may use it, or a pattern with one `*` at its beginning or end.
    pub name: String,
    /// How many may use it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// Until when, milliseconds since 1970.
    pub expires: u64,
    /// The gateways that are to speak for who joins with it.
    pub parents: Vec<Name>,
    /// The Kerberos principal of who may use it, where it was named.
    pub principal: Option<Principal>,
    /// Whether it was revoked.
    pub revoked: bool,
}

impl Token {
    /// Whether it is for this name.
    pub fn is_for(&self, name: &Name) -> bool {
        fits(&self.name, name)
    }
}

/// Whether a name, or a pattern with one `*` at its beginning or end, is of this health service.
pub fn fits(pattern: &str, name: &Name) -> bool {
    let name = name.as_str();
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (None, Some(beginning)) => name.starts_with(beginning),
        (None, None) => pattern == name,
    }
}

/// A pack that agents are to run. Its text is not in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// Its name.
    pub name: String,
    /// SHA-256 of its text.
    pub text: Digest,
    /// The name of the agent that is to run it, or a pattern with one `*` at its beginning or end.
    pub agents: String,
    /// When it was applied, milliseconds since 1970.
    pub applied_at: u64,
}

/// How many entries the log had when what decides about configurations was said last, with what is added to it then.
#[derive(Clone, Debug, Default)]
struct Versions {
    /// What is added since the log was restored.
    added: u64,
    /// By member.
    members: HashTrieMapSync<Name, u64>,
    /// By the names and patterns that packs were or are for.
    agents: HashMap<String, u64>,
    /// Of what is in each: the recovery key, and that the log was restored.
    all: u64,
}

/// Why an entry is not what can stand at its place. Somebody has written into the log, or forged it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// Not the bytes of an entry.
    #[error("it cannot be decoded")]
    Encoding,
    /// It says that it stands elsewhere.
    #[error("it is entry {0} by what it says itself")]
    Number(u64),
    /// No duty key of the server that it names has signed it.
    #[error("it is not signed by a duty key of {0}")]
    Signature(String),
    /// What it says cannot be.
    #[error("it makes no sense: {0}")]
    Fact(&'static str),
    /// At its place stands one that this program cannot take, and that a server has signed.
    #[error("{0}")]
    Unread(Unread),
}

/// What the log says, up to an entry. What there are thousands of is shared by clones: whoever appends an entry begins with
/// one.
#[derive(Clone, Debug)]
pub struct View {
    root: Root,
    name: Option<Name>,
    tree: Tree,
    /// The latest moment that an entry has named.
    latest: u64,
    /// The duty keys of each server.
    duties: HashMap<Name, Duties>,
    issuers: Vec<CertificateDer<'static>>,
    recovery: Option<VerifyingKey>,
    tokens: HashTrieMapSync<[u8; 16], Arc<Token>>,
    members: HashTrieMapSync<Name, Arc<Member>>,
    /// Whose each Kerberos principal is.
    principals: HashTrieMapSync<Principal, Name>,
    /// The duty keys of servers that were removed: they never come back.
    disowned: BTreeSet<KeyId>,
    /// The servers of these names were removed; whoever has such a name later is another.
    gone: HashSet<Name>,
    /// The identity keys of those who were removed: they never come back, by whatever name.
    removed: HashTrieSetSync<KeyId>,
    /// The names of those who were removed.
    named: HashTrieSetSync<Name>,
    packs: BTreeMap<String, Arc<Pack>>,
    run_as: RunAs,
    versions: Versions,
    restored: Option<Restored>,
    unread: Option<Unread>,
}

/// Signs an entry, to be the next one of a log of `number` entries.
pub fn entry(key: &SigningKey, number: u64, at: u64, server: &Name, act: &str, fact: Fact) -> Signed {
    let entry = Entry { number, at, server: server.to_string(), act: act.to_owned(), fact: Some(fact) };
    key.signed(Context::Log, encode(&Record { what: Some(Recorded::Entry(entry)) }))
}

impl View {
    /// An empty log of a group with this root.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            name: None,
            tree: Tree::default(),
            latest: 0,
            duties: HashMap::new(),
            issuers: Vec::new(),
            recovery: None,
            tokens: HashTrieMapSync::default(),
            members: HashTrieMapSync::default(),
            principals: HashTrieMapSync::default(),
            disowned: BTreeSet::new(),
            gone: HashSet::new(),
            removed: HashTrieSetSync::default(),
            named: HashTrieSetSync::default(),
            packs: BTreeMap::new(),
            run_as: RunAs::default(),
            versions: Versions::default(),
            restored: None,
            unread: None,
        }
    }

    /// Takes the next entry. Nothing is changed when it is refused.
    ///
    /// # Errors
    /// It cannot stand there.
    pub fn apply(&mut self, signed: &Signed) -> Result<(), Unsound> {
        let record: Record = decode(&signed.payload).ok_or(Unsound::Encoding)?;
        let Some(Recorded::Entry(entry)) = record.what else { return Err(Unsound::Encoding) };
        if entry.number != self.tree.size() {
            return Err(Unsound::Number(entry.number));
        }
        let fact = entry.fact.ok_or(Unsound::Encoding)?;
        // A duty key's own entry brings the certificate that vouches for it; so does the first of all.
        let own = match &fact {
            Fact::Duty(duty) if duty.server == entry.server => {
                let (server, key) = self.certified(duty, entry.at)?;
                (!self.gone.contains(&server)).then_some(key)
            }
            _ => None,
        };
        let known = entry.server.parse::<Name>().ok().and_then(|server| self.duty(&server).cloned());
        let unsigned = || Unsound::Signature(entry.server.clone());
        let by = [own, known].into_iter().flatten().find(|key| key.open(Context::Log, self.group(), signed).is_ok());
        by.ok_or_else(unsigned)?;
        // A server that makes its identity key anew says so itself, and keeps its duty key.
        let removed = match &fact {
            Fact::Removed(removed) if removed.name != entry.server => removed.name.parse::<Name>().ok(),
            _ => None,
        };
        let is_server = |name: &Name| self.find(name, Role::Server).is_some_and(|member| !member.relays);
        let removed = removed.filter(|name| self.duties.contains_key(name) || is_server(name));
        self.take(fact, entry.at)?;
        removed.into_iter().for_each(|server| self.disown(server, entry.at));
        self.latest = self.latest.max(entry.at);
        self.tree.push(merkle::leaf(&encode(signed)));
        self.unread = None;
        Ok(())
    }

    fn take(&mut self, fact: Fact, at: u64) -> Result<(), Unsound> {
        let (wrong, number) = (Unsound::Fact, self.tree.size());
        if self.name.is_none() && !matches!(fact, Fact::Duty(_) | Fact::Founded(_)) {
            return Err(wrong("the group was not founded yet"));
        }
        match fact {
            Fact::Founded(founded) => {
                if self.name.is_some() || founded.group != self.group().0.as_slice() {
                    return Err(wrong("the group was founded already, or it is another"));
                }
                if pin_of(&founded.root) != pin_of(self.root.certificate()) {
                    return Err(wrong("it is founded on another root"));
                }
                self.name = Some(founded.name.parse().map_err(|_| wrong("the group's name"))?);
            }
            Fact::Issuer(issuer) => self.issuers.push(CertificateDer::from(issuer.certificate.to_vec())),
            Fact::Duty(duty) => self.enter_duty(duty, at)?,
            Fact::Recovery(recovery) => {
                let key = VerifyingKey::from_spki(&recovery.key).map_err(|_| wrong("the recovery key"))?;
                self.recovery = Some(key);
                self.versions.all = self.next();
            }
            Fact::Token(token) => {
                let id = <[u8; 16]>::try_from(token.id.as_ref()).map_err(|_| wrong("a token's id"))?;
                let taken = Token {
                    key: token.key.as_ref().try_into().map_err(|_| wrong("a token's key"))?,
                    role: token.role.parse().map_err(|_| wrong("a token's role"))?,
                    name: token.name,
                    uses: token.uses,
                    used: 0,
                    expires: token.expires,
                    parents: names(&token.parents)?,
                    principal: principal(&token.principal)?,
                    revoked: false,
                };
                if self.tokens.contains_key(&id) {
                    return Err(wrong("a token that is there already"));
                }
                self.tokens.insert_mut(id, Arc::new(taken));
            }
            Fact::TokenRevoked(revoked) => {
                let token = self.token_mut(&revoked.id).ok_or(wrong("a token that is not there"))?;
                token.revoked = true;
            }
            Fact::Member(member) => self.member(&member, at)?,
            Fact::Removed(removed) => {
                let name: Name = removed.name.parse().map_err(|_| wrong("a member's name"))?;
                if removed.identity.is_empty() && self.lingers(&name) {
                    return Ok(());
                }
                let known = self.members.get(&name).filter(|member| member.identity.id().0 == *removed.identity);
                let known = known.ok_or(wrong("a member that is not there"))?;
                let (key, principal) = (known.key(), known.principal.clone());
                self.removed.insert_mut(key);
                self.named.insert_mut(name.clone());
                self.members.remove_mut(&name);
                principal.map(|principal| self.principals.remove_mut(&principal));
                self.run_as.remove(&name);
            }
            Fact::Sealing(sealing) => self.sealing(&sealing, at)?,
            fact @ (Fact::Account(_)
            | Fact::AccountDeleted(_)
            | Fact::Distribution(_)
            | Fact::Profile(_)
            | Fact::ProfileDeleted(_)
            | Fact::Binding(_)) => {
                let members = &self.members;
                let is_agent = |name: &Name| members.get(name).is_some_and(|member| member.role == Role::Agent);
                let affected = self.run_as.take(fact, at, is_agent)?;
                let version = self.next();
                match affected {
                    Affected::All => self.versions.all = version,
                    Affected::These(names) => {
                        names.into_iter().for_each(|name| self.versions.members.insert_mut(name, version));
                    }
                }
            }
            Fact::Pack(pack) => {
                if pack.name.is_empty() || pack.agents.is_empty() {
                    return Err(wrong("a pack without a name, or for nobody"));
                }
                let text = Digest::from_wire(&pack.text).ok_or(wrong("the hash of a pack's text"))?;
                let trust::Pack { name, agents, .. } = pack;
                let before = self.packs.get(&name).map(|before| before.agents.clone());
                before.into_iter().chain([agents.clone()]).for_each(|agents| self.decided(agents));
                self.packs.insert(name.clone(), Arc::new(Pack { name, text, agents, applied_at: at }));
            }
            Fact::PackRemoved(removed) => {
                let pack = self.packs.remove(&removed.name).ok_or(wrong("a pack that is not there"))?;
                self.decided(pack.agents.clone());
            }
            Fact::Issued(issued) => {
                let name: Name = issued.name.parse().map_err(|_| wrong("a member's name"))?;
                let hash = Digest::from_wire(&issued.certificate).ok_or(wrong("a certificate's hash"))?;
                let issuer = match issued.issuer.as_ref() {
                    [] => self.issuers.last().and_then(|newest| key_of(newest)),
                    id => Some(KeyId(id.try_into().map_err(|_| wrong("the id of an issuing CA's key"))?)),
                };
                let member = self.members.get_mut(&name).ok_or(wrong("a member that is not there"))?;
                let certificates = &mut Arc::make_mut(member).certificates;
                certificates.retain(|known| known.not_after.saturating_add(REMEMBERED) >= at / 1000);
                let surplus = (certificates.len() + 1).saturating_sub(CERTIFICATES);
                certificates.drain(..surplus);
                certificates.push(Certificate { hash, not_after: issued.not_after, issuer, at });
                Arc::make_mut(member).issued = Some(number);
            }
            Fact::Revoked(revoked) => {
                let revoke = |member: &mut Arc<Member>| {
                    let member = Arc::make_mut(member);
                    (member.certificates, member.issued, member.revoked) = (Vec::new(), None, number + 1);
                };
                if revoked.name.is_empty() {
                    let all = self.members().filter(|member| member.role != Role::Server || member.relays);
                    let names: Vec<_> = all.map(|member| member.name.clone()).collect();
                    names.iter().for_each(|name| _ = self.members.get_mut(name).map(revoke));
                } else {
                    let name: Name = revoked.name.parse().map_err(|_| wrong("a member's name"))?;
                    self.members.get_mut(&name).map(revoke).ok_or(wrong("a member that is not there"))?;
                }
            }
            Fact::Restored(restored) => {
                let restored = Restored::read(number, &restored).ok_or(wrong("what was given up"))?;
                // Versions rise, whatever was forgotten.
                let added = restored.lost.version.checked_sub(number).filter(|added| *added >= self.versions.added);
                self.versions.added = added.ok_or(wrong("a version that is not above those before"))?;
                self.versions.all = self.next();
                self.restored = Some(restored);
            }
        }
        Ok(())
    }

    /// The version that the present entry makes.
    fn next(&self) -> u64 {
        self.tree.size() + self.versions.added + 1
    }

    /// The present entry decides what these agents run.
    fn decided(&mut self, agents: String) {
        let version = self.next();
        self.versions.agents.insert(agents, version);
    }

    /// A member that is new, or has new parents or another principal. Another identity key needs another life: a name inherits nothing.
    fn member(&mut self, member: &trust::Member, at: u64) -> Result<(), Unsound> {
        let wrong = Unsound::Fact;
        let name: Name = member.name.parse().map_err(|_| wrong("a member's name"))?;
        let identity = VerifyingKey::from_spki(&member.identity).map_err(|_| wrong("an identity key"))?;
        let role: Role = member.role.parse().map_err(|_| wrong("a member's role"))?;
        let parents = names(&member.parents)?;
        if parents.contains(&name) {
            return Err(wrong("a member that is its own gateway"));
        }
        let principal = principal(&member.principal)?;
        if principal.as_ref().is_some_and(|principal| !principal.can_be_of(&name)) {
            return Err(wrong("a member with the principal of another host"));
        }
        if principal.as_ref().and_then(|principal| self.principals.get(principal)).is_some_and(|other| *other != name) {
            return Err(wrong("a principal that another member has"));
        }
        let relays = member.relays;
        if relays && (role != Role::Server || self.duties.contains_key(&name)) {
            return Err(wrong("a server without a database that is no server, or has a duty key"));
        }
        let (entry, version) = (self.tree.size(), self.next());
        if let Some(known) = self.members.get_mut(&name) {
            if known.identity != identity || known.role != role || known.relays != relays {
                return Err(wrong("a name that another has"));
            }
            let known = Arc::make_mut(known);
            (known.parents, known.entry) = (parents, entry);
            let before = std::mem::replace(&mut known.principal, principal.clone());
            if known.principal != before
                && let Some(before) = before
            {
                // What stands by the one of before ends.
                known.revoked = entry + 1;
                self.principals.remove_mut(&before);
            }
            if let Some(principal) = principal {
                self.principals.insert_mut(principal, name.clone());
            }
            self.versions.members.insert_mut(name, version);
            return Ok(());
        }
        if self.removed.contains(&identity.id()) {
            return Err(wrong("an identity key that was removed"));
        }
        let token = match member.token.as_ref() {
            [] => None,
            id => {
                let token = self.token_mut(id).ok_or(wrong("a token that is not there"))?;
                let over = token.used >= token.uses || token.revoked || at > token.expires;
                if over || token.role != role || !token.is_for(&name) {
                    return Err(wrong("a token that is not good for it"));
                }
                token.used += 1;
                id.try_into().ok()
            }
        };
        let member = Member {
            name: name.clone(),
            role,
            identity,
            parents,
            token,
            principal: principal.clone(),
            joined_at: at,
            certificates: Vec::new(),
            revoked: 0,
            entry,
            issued: None,
            sealing: None,
            relays,
        };
        self.versions.members.insert_mut(name.clone(), version);
        if member.role == Role::Server && !relays {
            self.gone.remove(&name);
        }
        if let Some(principal) = principal {
            self.principals.insert_mut(principal, name.clone());
        }
        self.members.insert_mut(name, Arc::new(member));
        Ok(())
    }

    fn token_mut(&mut self, id: &[u8]) -> Option<&mut Token> {
        let id: [u8; 16] = id.try_into().ok()?;
        self.tokens.get_mut(&id).map(Arc::make_mut)
    }

    /// The group's id.
    pub const fn group(&self) -> GroupId {
        self.root.group()
    }

    /// The group's name, once it was founded.
    pub const fn name(&self) -> Option<&Name> {
        self.name.as_ref()
    }

    /// The group's root.
    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The Merkle tree over the entries.
    pub const fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The latest moment that an entry has named, milliseconds since 1970.
    pub const fn latest(&self) -> u64 {
        self.latest
    }

    /// How far it is.
    pub fn reach(&self) -> Reach {
        let head = self.tree.head();
        Reach { head, version: head.size + self.versions.added }
    }

    /// Whether the log begins with one of this reach, or says that it is given up.
    pub fn continues(&self, known: &Reach) -> bool {
        self.has(known) || self.gave_up(known).is_some()
    }

    /// Whether the log begins with one of this reach.
    pub fn has(&self, known: &Reach) -> bool {
        self.tree.root_at(known.head.size) == Some(known.head.root)
    }

    /// What says that a log of this reach is given up.
    pub fn gave_up(&self, known: &Reach) -> Option<&Restored> {
        self.restored.as_ref().filter(|restored| restored.covers(known))
    }

    /// The public half of the recovery key, once there is one.
    pub const fn recovery(&self) -> Option<&VerifyingKey> {
        self.recovery.as_ref()
    }

    /// The CAs that may issue channel certificates, newest last.
    pub fn issuers(&self) -> &[CertificateDer<'static>] {
        &self.issuers
    }

    /// Every pack, by name.
    pub fn packs(&self) -> impl Iterator<Item = &Arc<Pack>> {
        self.packs.values()
    }

    /// The pack of this name.
    pub fn pack(&self, name: &str) -> Option<&Arc<Pack>> {
        self.packs.get(name)
    }

    /// The packs that an agent of this name is to run, by name.
    pub fn packs_of<'a>(&'a self, agent: &'a Name) -> impl Iterator<Item = &'a Arc<Pack>> {
        self.packs.values().filter(|pack| fits(&pack.agents, agent))
    }

    /// Run As accounts and profiles.
    pub const fn run_as(&self) -> &RunAs {
        &self.run_as
    }

    /// The version of a member's configuration: how many entries the log had with the last of those that decide what it
    /// says, and what was added when it was restored. Whoever replays the log finds the same, and it only rises.
    pub fn version(&self, member: &Name) -> u64 {
        let Versions { members, agents, all, .. } = &self.versions;
        let packs = agents.iter().filter(|(agents, _)| fits(agents, member)).map(|(_, version)| *version);
        packs.chain(members.get(member).copied()).fold(*all, u64::max)
    }

    /// A token.
    pub fn token(&self, id: &[u8; 16]) -> Option<&Arc<Token>> {
        self.tokens.get(id)
    }

    /// Every token, by its id.
    pub fn tokens(&self) -> impl Iterator<Item = (&[u8; 16], &Arc<Token>)> {
        self.tokens.iter()
    }

    /// The member of this name.
    pub fn member_named(&self, name: &Name) -> Option<&Arc<Member>> {
        self.members.get(name)
    }

    /// The member of this name and role.
    pub fn find(&self, name: &Name, role: Role) -> Option<&Arc<Member>> {
        self.members.get(name).filter(|member| member.role == role)
    }

    /// The member whose hops this Kerberos principal proves.
    pub fn of_principal(&self, principal: &Principal) -> Option<&Arc<Member>> {
        self.principals.get(principal).and_then(|name| self.members.get(name))
    }

    /// The member of this name, if others may be behind it: a gateway, or a server without a database.
    pub fn relay(&self, name: &Name) -> Option<&Arc<Member>> {
        self.members.get(name).filter(|member| member.is_relay())
    }

    /// Whether a member with this identity key was removed.
    pub fn was_removed(&self, identity: &KeyId) -> bool {
        self.removed.contains(identity)
    }

    /// Whether a member of this name was removed at any time.
    pub fn was_named(&self, name: &Name) -> bool {
        self.named.contains(name)
    }

    /// Every member.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Arc<Member>> {
        self.members.values()
    }

    /// The member of this name and role, if it may come by these gateways, the nearest to it first; none: directly. Each
    /// must be a parent of the one before, and itself a member.
    pub fn by_way(&self, name: &Name, role: Role, via: &[Name]) -> Option<&Arc<Member>> {
        if via.len() > WAY {
            return None;
        }
        let member = self.find(name, role)?;
        match via.split_first() {
            None => member.parents.is_empty().then_some(member),
            Some((gateway, above)) => {
                self.by_way(gateway, self.relay(gateway)?.role, above)?;
                member.parents.contains(gateway).then_some(member)
            }
        }
    }
}

impl Member {
    /// Whether this channel certificate was issued to it.
    pub fn holds(&self, certificate: &Digest) -> bool {
        self.certificates.iter().any(|known| known.hash == *certificate)
    }

    /// The id of its identity key.
    pub fn key(&self) -> KeyId {
        self.identity.id()
    }

    /// Whether others may be behind it.
    pub fn is_relay(&self) -> bool {
        self.role == Role::Gateway || self.relays
    }
}

/// The pin of a root with this certificate in DER; `None` when it is no certificate.
pub fn pin_of(certificate: &[u8]) -> Option<Pin> {
    let spki = Parsed::new(certificate).and_then(|parsed| parsed.spki());
    spki.ok().map(|spki| Pin::of(&spki))
}

/// The id of the key of a certificate in DER; `None` when it is no certificate.
pub fn key_of(certificate: &[u8]) -> Option<KeyId> {
    let spki = Parsed::new(certificate).and_then(|parsed| parsed.spki());
    spki.ok().map(|spki| KeyId::of(&spki))
}

fn principal(text: &str) -> Result<Option<Principal>, Unsound> {
    let read = (!text.is_empty()).then(|| text.parse());
    read.transpose().map_err(|_| Unsound::Fact("a Kerberos principal"))
}

fn names(texts: &[String]) -> Result<Vec<Name>, Unsound> {
    if texts.len() > PARENTS {
        return Err(Unsound::Fact("more gateways than there may be"));
    }
    texts.iter().map(|text| text.parse().map_err(|_| Unsound::Fact("a gateway's name"))).collect()
}

#[cfg(test)]
mod tests;
