//! What each agent is to do, computed from the trust log and the texts of packs. [`content`] is pure; around it is a
//! memory, so that who has its configuration already costs one comparison of hashes.
//!
//! ```text
//!   View, texts --content--> Content --hash--> cookie --differs from the agent's--> accounts sealed, document signed
//!                                                 \----is the agent's-------------> nothing
//!   View --------------------------------------------------------------------------> signed head of the log, once for all;
//!                                                 proofs that it continues what the agent knows, and has the agent's keys
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use wardline_connector::{journal, now_ms};
use wardline_proto::Name;
use wardline_proto::configuration::{
    Content, DEFAULT_PROFILE, Form, LIMIT, Missing, RunAs, SecureData, document, packs_to_xml,
};
use wardline_proto::event::Event;
use wardline_proto::message::{AccountId, Configuration, Context, Digest, Included, Issue, Signed, encode};
use wardline_secrets::head::{Reach, open_head, read_head, signed_head};
use wardline_secrets::secure_data::{Header, Purpose, seal};
use wardline_secrets::signature::sha256;
use wardline_secrets::view::{Member, Pack, View};

use crate::accounts::{Accounts, Unusable};
use crate::store::Store;

/// How long a signed head serves everybody.
const HEAD: Duration = Duration::from_secs(10);
/// How many sets of packs are remembered as XML.
const SETS: usize = 16;

/// Good texts of packs by their hashes.
type Texts = HashMap<Digest, Text>;

/// The text of a pack, and the Run As profiles that it names.
#[derive(Clone, Debug)]
pub struct Text {
    text: Arc<str>,
    profiles: Arc<BTreeSet<String>>,
}

impl Text {
    /// Reads a pack's text. One that this program cannot read names nothing: agents say what is wrong with it.
    fn read(name: &str, text: String) -> Self {
        let pack = wardline_packs::Pack::parse(name, &text).ok();
        let profiles = pack.iter().flat_map(|pack| pack.profiles()).map(str::to_owned).collect();
        Self { text: text.into(), profiles: Arc::new(profiles) }
    }
}

/// What Run As profiles stand for on an agent, and the accounts that it is to have for that, not encrypted yet: by what
/// operators have said, and by which packs it is to run.
pub fn run_as(view: &View, agent: &Member, profiles: &BTreeSet<String>) -> (Vec<RunAs>, Vec<SecureData>) {
    let (mut stands, mut accounts) = (Vec::new(), BTreeMap::new());
    for profile in profiles {
        let account = match (view.run_as().resolve(profile, &agent.name), &agent.sealing) {
            // Who names no profile has none unless somebody says otherwise.
            (Err(Missing::Unassigned), _) if profile == DEFAULT_PROFILE => continue,
            (Err(missing), _) => Err(missing),
            (Ok(_), None) => Err(Missing::Keyless),
            (Ok(account), Some(sealing)) => {
                accounts.entry(account.id).or_insert_with(|| SecureData {
                    account: account.id,
                    name: account.name.clone(),
                    kind: account.kind.clone(),
                    user: account.user.clone(),
                    version: account.version,
                    key: sealing.certificate.id().0,
                    sealed: Arc::default(),
                });
                Ok(account.id)
            }
        };
        stands.push(RunAs { profile: profile.clone(), account });
    }
    (stands, accounts.into_values().collect())
}

/// What an agent is to do, with nothing in it encrypted yet.
///
/// # Errors
/// The text of this pack is not there.
pub fn content(view: &View, agent: &Name, texts: &Texts) -> Result<Option<Content>, Arc<Pack>> {
    let (Some(group), Some(member)) = (view.name(), view.member_named(agent)) else { return Ok(None) };
    let text = |pack: &Arc<Pack>| match texts.get(&pack.text) {
        Some(text) => Ok((pack.name.clone(), Arc::clone(&text.text))),
        None => Err(Arc::clone(pack)),
    };
    let named = view.packs_of(agent).filter_map(|pack| texts.get(&pack.text)).flat_map(|text| text.profiles.iter());
    let profiles = named.map(String::as_str).chain([DEFAULT_PROFILE]).map(str::to_owned).collect();
    let (run_as, accounts) = run_as(view, member, &profiles);
    Ok(Some(Content {
        group: group.clone(),
        name: member.name.clone(),
        role: member.role,
        recovery: view.recovery().map(|key| key.to_base64()),
        disowned: view.disowned().map(|key| key.0).collect(),
        parents: member.parents.clone(),
        run_as,
        accounts,
        packs: view.packs_of(agent).map(text).collect::<Result<_, _>>()?,
    }))
}

/// Which configuration an agent is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its version.
    pub version: u64,
    /// Its cookie.
    pub cookie: Digest,
}

/// A set of packs, by names and hashes of texts.
type Set = Vec<(String, Digest)>;

/// What was sealed, as base64, by account, its version and the sealing key.
type Sealed = HashMap<(AccountId, u64, [u8; 16]), Arc<str>>;

#[derive(Default)]
struct State {
    texts: Texts,
    sets: HashMap<Set, Arc<str>>,
    due: HashMap<Name, Due>,
    head: Option<(u64, Instant, Signed)>,
    /// What was sealed for each agent: nothing is sealed twice.
    sealed: HashMap<Name, Sealed>,
    /// What the operator was told of.
    told: HashSet<(String, Digest)>,
    /// The head of another log that an agent has shown last.
    foreign: HashMap<Name, Digest>,
}

/// The configurations of all agents.
pub struct Configurations {
    store: Store,
    accounts: Accounts,
    state: Mutex<State>,
}

/// Why an agent's configuration cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotIssued {
    /// It may be in a moment: the database does not answer, or goes on.
    Passing,
    /// Not before somebody gives something anew, which the trust log will say.
    Lasting,
}

impl Configurations {
    /// With nothing computed yet.
    pub fn new(store: Store, accounts: Accounts) -> Self {
        Self { store, accounts, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and nothing waits.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which configuration an agent is to have; nothing when there is none that could be sent.
    pub async fn due(&self, view: &View, agent: &Name) -> Option<Due> {
        let version = view.version(agent);
        if let Some(due) = self.state().due.get(agent).filter(|due| due.version == version) {
            return Some(*due);
        }
        let (content, packs) = self.parts(view, agent).await?;
        let head = content.head_to_xml(Form::Unsealed);
        let due = Due { version, cookie: sha256(&[head.as_bytes(), packs.as_bytes()]) };
        let mut state = self.state();
        if state.due.len() > 2 * view.members().len() {
            state.due.retain(|name, _| view.member_named(name).is_some());
            state.sealed.retain(|name, _| view.member_named(name).is_some());
        }
        state.due.insert(agent.clone(), due);
        Some(due)
    }

    /// An agent's configuration, signed, with the accounts that are in it.
    ///
    /// # Errors
    /// It cannot be had, an account of it for example: then the agent keeps what it has.
    pub async fn issue(
        &self,
        view: &View,
        agent: &Name,
        due: Due,
    ) -> Result<(Configuration, Vec<(AccountId, u64)>), NotIssued> {
        let member = view.member_named(agent).ok_or(NotIssued::Lasting)?;
        let identity = Bytes::copy_from_slice(&member.key().0);
        let (mut content, packs) = self.parts(view, agent).await.ok_or(NotIssued::Passing)?;
        self.seal(view, member, &mut content).await?;
        let accounts = content.accounts.iter().map(|data| (data.account, data.version)).collect();
        let head = content.head_to_xml(Form::Sealed);
        let document = document(&due.cookie, due.version, &[&head, &packs]);
        if document.len() > LIMIT {
            self.tell(&format!("of {agent}"), due.cookie, format!("its configuration has more than {LIMIT} bytes"));
            return Err(NotIssued::Lasting);
        }
        let issue = Issue {
            agent: agent.to_string(),
            cookie: due.cookie.to_wire(),
            version: due.version,
            document: sha256(&[document.as_bytes()]).to_wire(),
            identity,
        };
        let signed = self.store.keeper().duty.signed(Context::Config, encode(&issue));
        let issued = Configuration { signed: Some(signed), document: document.into(), ..Configuration::default() };
        Ok((issued, accounts))
    }

    /// Encrypts the accounts in an agent's configuration to its sealing key, those that were not yet.
    async fn seal(&self, view: &View, agent: &Member, content: &mut Content) -> Result<(), NotIssued> {
        let mut now = HashMap::with_capacity(content.accounts.len());
        for data in &mut content.accounts {
            let which = (data.account, data.version, data.key);
            let known = self.state().sealed.get(&agent.name).and_then(|sealed| sealed.get(&which).cloned());
            let sealed = match known {
                Some(sealed) => Ok(sealed),
                None => self.sealed(view, agent, data.account).await,
            };
            data.sealed = match sealed {
                Ok(sealed) => sealed,
                Err(why) => {
                    // What is done is not done again.
                    self.state().sealed.entry(agent.name.clone()).or_default().extend(now);
                    return Err(why);
                }
            };
            now.insert(which, Arc::clone(&data.sealed));
        }
        let mut state = self.state();
        match now.is_empty() {
            true => drop(state.sealed.remove(&agent.name)),
            false => drop(state.sealed.insert(agent.name.clone(), now)),
        }
        Ok(())
    }

    /// An account's secret, encrypted to an agent's sealing key: the one that the view has, by the agent's own word.
    async fn sealed(&self, view: &View, agent: &Member, id: AccountId) -> Result<Arc<str>, NotIssued> {
        let account = view.run_as().account(id).ok_or(NotIssued::Lasting)?;
        let sealing = agent.sealing.as_ref().ok_or(NotIssued::Lasting)?;
        let sealed = match self.accounts.secret(account).await {
            Ok(secret) => {
                let header = Header {
                    group: view.group(),
                    recipient: agent.name.clone(),
                    account: id.0,
                    version: account.version,
                    purpose: Purpose::RunAs,
                };
                seal(&sealing.certificate, &header, secret.as_bytes()).map_err(|error| error.to_string())
            }
            // The database does not answer just now: that is no word about the account.
            Err(Unusable::Store(_)) => return Err(NotIssued::Passing),
            Err(error) => Err(error.to_string()),
        };
        match sealed {
            Ok(der) => Ok(Base64::encode_string(&der).into()),
            Err(reason) => {
                // Who looks with the view of a moment ago finds the row of a moment later.
                let now = self.store.view().borrow().run_as().account(id).map(|now| now.secret);
                let name = format!("account {}", account.name);
                if now != Some(account.secret) {
                    return Err(NotIssued::Passing);
                }
                if self.state().told.insert((name, account.secret)) {
                    journal::emit(Event::AccountUnusable { account: account.name.clone(), reason });
                }
                Err(NotIssued::Lasting)
            }
        }
    }

    /// Adds the head of the log, and the proofs that it follows what the agent knows and has the agent's own keys. A
    /// message with no configuration says by it that nothing has changed. Nothing when the log cannot be read.
    pub async fn proven(
        &self,
        view: &View,
        agent: &Name,
        known: Option<&Reach>,
        message: Configuration,
    ) -> Option<Configuration> {
        let (tree, size) = (view.tree(), view.tree().size());
        let wire = |proof: Vec<Digest>| proof.into_iter().map(Digest::to_wire).collect();
        let consistency = known.and_then(|known| tree.consistency(known.head.size, size)).unwrap_or_default();
        // What the agent has seen of its own keys comes again only with a configuration.
        let seen = known.filter(|known| message.signed.is_none() && view.has(known)).map_or(0, |known| known.head.size);
        let own = view.member_named(agent).into_iter().flat_map(|member| {
            [Some(member.entry), member.issued, member.sealing.as_ref().map(|sealing| sealing.entry)]
        });
        let own = own.flatten();
        let given_up = known.filter(|known| !view.has(known)).and_then(|known| view.gave_up(known));
        let own = own.filter(|number| *number >= seen);
        let numbers: Vec<_> = own.chain(given_up.map(|restored| restored.number)).collect();
        let mut included = Vec::with_capacity(numbers.len());
        for number in numbers {
            let entries = self.store.log(number, 1).await.ok()?;
            let (_, entry) = entries.into_iter().next().filter(|(found, _)| *found == number)?;
            included.push(Included { entry: entry.into(), proof: wire(tree.inclusion(number, size)?) });
        }
        Some(Configuration { head: Some(self.head(view)), consistency: wire(consistency), included, ..message })
    }

    /// Compares a head that an agent knows with the log. Gives how far the log is that it is of; nothing when it is none
    /// of this group. One that the log neither continues nor gives up is kept and said, once for each agent: somebody has
    /// exchanged this log.
    pub async fn compare(&self, view: &View, agent: &Name, signed: &Signed) -> Option<Reach> {
        let known = read_head(signed);
        if let Some(known) = known.filter(|known| view.continues(known)) {
            return Some(known);
        }
        let verified = known.filter(|_| self.is_ours(view, signed));
        // What nobody has signed is said once, however many of it come.
        let hash = verified.map_or_else(Digest::default, |_| sha256(&[&signed.payload]));
        if self.state().foreign.insert(agent.clone(), hash) == Some(hash) {
            return verified;
        }
        let name = agent.to_string();
        let Some(shown) = verified else {
            let reason = if known.is_some() { "its signature does not fit" } else { "it is no head" };
            journal::emit(Event::HeadNotSigned { agent: name, reason: reason.into() });
            return None;
        };
        journal::emit(Event::LogDisowned { agent: name, shown: shown.to_string(), own: view.reach().to_string() });
        // When it has stopped, nobody is told any more of anything.
        let _ = self.store.claim(agent.clone(), shown, now_ms()).await;
        Some(shown)
    }

    /// Whether a duty key of the group has signed a head.
    fn is_ours(&self, view: &View, signed: &Signed) -> bool {
        let own = self.store.keeper().duty.public().ok();
        own.iter().chain(view.duties()).any(|key| open_head(key, view.group(), signed).is_some())
    }

    /// The head of the log: signed once for everybody.
    fn head(&self, view: &View) -> Signed {
        let head = view.reach();
        let mut state = self.state();
        let known = state.head.as_ref().filter(|(size, at, _)| *size == head.head.size && at.elapsed() < HEAD);
        match known {
            Some((_, _, signed)) => signed.clone(),
            None => {
                let signed = signed_head(&self.store.keeper().duty, &head, now_ms());
                state.head = Some((head.head.size, Instant::now(), signed.clone()));
                signed
            }
        }
    }

    /// A configuration's content, with nothing encrypted yet, and its packs as XML.
    async fn parts(&self, view: &View, agent: &Name) -> Option<(Content, Arc<str>)> {
        let (mut texts, mut missing) = (Texts::new(), Vec::new());
        {
            let state = self.state();
            for pack in view.packs_of(agent) {
                match state.texts.get(&pack.text) {
                    Some(text) => drop(texts.insert(pack.text, text.clone())),
                    None => missing.push(Arc::clone(pack)),
                }
            }
        }
        for pack in missing {
            let text = self.text(&pack).await?;
            texts.insert(pack.text, text);
        }
        let content = content(view, agent, &texts).ok().flatten()?;
        let set: Set = view.packs_of(agent).map(|pack| (pack.name.clone(), pack.text)).collect();
        let known = self.state().sets.get(&set).cloned();
        let packs = match known {
            Some(packs) => packs,
            None => {
                let packs: Arc<str> = packs_to_xml(&content.packs).into();
                let mut state = self.state();
                if state.sets.len() >= SETS {
                    state.sets.clear();
                }
                state.sets.insert(set, Arc::clone(&packs));
                packs
            }
        };
        Some((content, packs))
    }

    /// The text of a pack, when it is the one that the log speaks of.
    async fn text(&self, pack: &Pack) -> Option<Text> {
        let text = self.store.pack_text(pack.name.clone()).await.ok()?;
        let reason = match text {
            Some(text) if sha256(&[text.as_bytes()]) == pack.text => {
                let text = Text::read(&pack.name, text);
                let view = Arc::clone(&self.store.view().borrow());
                let mut state = self.state();
                state.texts.retain(|hash, _| view.packs().any(|pack| pack.text == *hash));
                state.texts.insert(pack.text, text.clone());
                return Some(text);
            }
            Some(_) => "its text is not the one that the trust log speaks of",
            None => "its text is missing",
        };
        // Who looks with the view of a moment ago finds the text of a moment later.
        let now = self.store.view().borrow().pack(&pack.name).map(|now| now.text);
        if now == Some(pack.text) {
            self.tell(&pack.name, pack.text, reason.to_owned());
        }
        None
    }

    fn tell(&self, pack: &str, hash: Digest, reason: String) {
        if self.state().told.insert((pack.to_owned(), hash)) {
            journal::emit(Event::PackUnusable { pack: pack.to_owned(), reason });
        }
    }
}

#[cfg(test)]
mod tests;
