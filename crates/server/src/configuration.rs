//! What each agent is to do, computed from the trust log and the texts of packs. [`content`] is pure; around it is a
//! memory, so that who has its configuration already costs one comparison of hashes.
//!
//! ```text
//!   View, texts --content--> Content --hash--> cookie --differs from the agent's--> document, signed
//!                                                 \----is the agent's-------------> signed head of the log, once for all
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wardline_connector::{journal, now_ms};
use wardline_proto::Name;
use wardline_proto::configuration::{Content, LIMIT, document, packs_to_xml};
use wardline_proto::event::Event;
use wardline_proto::message::{Configuration, Context, Digest, Issue, Signed, encode};
use wardline_secrets::signature::sha256;
use wardline_secrets::view::{Pack, View, signed_head};

use crate::store::Store;

/// How long a signed head serves everybody.
const HEAD: Duration = Duration::from_secs(10);
/// How many sets of packs are remembered as XML.
const SETS: usize = 16;

/// Good texts of packs by their hashes.
type Texts = HashMap<Digest, Arc<str>>;

/// What an agent is to do.
///
/// # Errors
/// The text of this pack is not there.
pub fn content(view: &View, agent: &Name, texts: &Texts) -> Result<Option<Content>, Arc<Pack>> {
    let (Some(group), Some(member)) = (view.name(), view.member_named(agent)) else { return Ok(None) };
    let text = |pack: &Arc<Pack>| match texts.get(&pack.text) {
        Some(text) => Ok((pack.name.clone(), Arc::clone(text))),
        None => Err(Arc::clone(pack)),
    };
    Ok(Some(Content {
        group: group.clone(),
        name: member.name.clone(),
        role: member.role,
        recovery: view.recovery().map(|key| key.to_base64()),
        parents: member.parents.clone(),
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

#[derive(Default)]
struct State {
    texts: Texts,
    sets: HashMap<Set, Arc<str>>,
    due: HashMap<Name, Due>,
    head: Option<(u64, Instant, Signed)>,
    /// What the operator was told of.
    told: HashSet<(String, Digest)>,
}

/// The configurations of all agents.
pub struct Configurations {
    store: Store,
    state: Mutex<State>,
}

impl Configurations {
    /// With nothing computed yet.
    pub fn new(store: Store) -> Self {
        Self { store, state: Mutex::default() }
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
        let (head, packs) = self.parts(view, agent).await?;
        let due = Due { version, cookie: sha256(&[head.as_bytes(), packs.as_bytes()]) };
        let mut state = self.state();
        if state.due.len() > 2 * view.members().count() {
            state.due.retain(|name, _| view.member_named(name).is_some());
        }
        state.due.insert(agent.clone(), due);
        Some(due)
    }

    /// An agent's configuration, signed.
    pub async fn issue(&self, view: &View, agent: &Name, due: Due) -> Option<Configuration> {
        let (head, packs) = self.parts(view, agent).await?;
        let document = document(&due.cookie, due.version, &[&head, &packs]);
        if document.len() > LIMIT {
            self.tell(&format!("of {agent}"), due.cookie, format!("its configuration has more than {LIMIT} bytes"));
            return None;
        }
        let issue = Issue {
            agent: agent.to_string(),
            cookie: due.cookie.to_wire(),
            version: due.version,
            document: sha256(&[document.as_bytes()]).to_wire(),
        };
        let signed = self.store.keeper().duty.signed(Context::Config, encode(&issue));
        Some(Configuration { signed: Some(signed), document: document.into(), head: None })
    }

    /// That nothing has changed: signed once for everybody.
    pub fn unchanged(&self, view: &View) -> Configuration {
        let head = view.tree().head();
        let mut state = self.state();
        let known = state.head.as_ref().filter(|(size, at, _)| *size == head.size && at.elapsed() < HEAD);
        let signed = match known {
            Some((_, _, signed)) => signed.clone(),
            None => {
                let signed = signed_head(&self.store.keeper().duty, &head, now_ms());
                state.head = Some((head.size, Instant::now(), signed.clone()));
                signed
            }
        };
        drop(state);
        Configuration { head: Some(signed), ..Configuration::default() }
    }

    /// A configuration's content as XML, in front of the packs and of the packs.
    async fn parts(&self, view: &View, agent: &Name) -> Option<(String, Arc<str>)> {
        let (mut texts, mut missing) = (Texts::new(), Vec::new());
        {
            let state = self.state();
            for pack in view.packs_of(agent) {
                match state.texts.get(&pack.text) {
                    Some(text) => drop(texts.insert(pack.text, Arc::clone(text))),
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
        Some((content.head_to_xml(), packs))
    }

    /// The text of a pack, when it is the one that the log speaks of.
    async fn text(&self, pack: &Pack) -> Option<Arc<str>> {
        let text = self.store.pack_text(pack.name.clone()).await.ok()?;
        let reason = match text {
            Some(text) if sha256(&[text.as_bytes()]) == pack.text => {
                let text: Arc<str> = text.into();
                let view = Arc::clone(&self.store.view().borrow());
                let mut state = self.state();
                state.texts.retain(|hash, _| view.packs().any(|pack| pack.text == *hash));
                state.texts.insert(pack.text, Arc::clone(&text));
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
