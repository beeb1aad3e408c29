//! The Run As accounts of a host in one group: opened as they come down, kept protected, handed out for the moment of their
//! use.
//!
//! ```text
//!  configuration ──> open, compare with what it must be ──> protect ──> accounts, in memory and on disk
//!                                                                          │ for_profile
//!                       a workflow, for as long as it runs a program <─────┘ unprotect
//! ```
//!
//! In memory and on disk each secret is under the vault; in the clear it is only with whoever holds a [`Credential`].

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use wardline_proto::configuration::{Content, Missing, RunAs, SecureData};
use wardline_proto::entry::{Became, Entry, Receipt, What};
use wardline_proto::event::Event;
use wardline_proto::message::{AccountId, decode, encode};
use wardline_secrets::account::Secret;
use wardline_secrets::private;
use wardline_secrets::secure_data::{Header, Purpose, Refusal};
use wardline_secrets::signature::KeyId;
use zeroize::Zeroizing;

use crate::outbox::{Outbox, Put, Stopped};
use crate::sealing::Sealing;
use crate::{journal, now_ms};

/// The file, in a group's folder.
const FILE: &str = "accounts";
/// The most bytes of it.
const LIMIT: u64 = 256 * 1024 * 1024;

/// What the file holds. The secrets in it are protected one by one.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(message, repeated, tag = "1")]
    accounts: Vec<KeptAccount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeptAccount {
    #[prost(bytes = "bytes", tag = "1")]
    id: Bytes,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, tag = "3")]
    version: u64,
    /// What the vault has made of the secret.
    #[prost(bytes = "bytes", tag = "4")]
    secret: Bytes,
}

/// An account, in the clear for as long as this lives.
pub struct Credential {
    /// Its id.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// Which version of its secret.
    pub version: u64,
    /// The local user that a program which uses it runs as.
    pub user: Option<String>,
    /// What it holds.
    pub secret: Secret,
}

/// Why a workflow gets no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// The server says so.
    Missing(Missing),
    /// It came and could not be opened, or what is kept of it does not open.
    Unusable(String),
    /// No configuration speaks of this profile: nothing was ever said of it to this host.
    Unknown,
}

#[derive(Default)]
struct State {
    accounts: BTreeMap<AccountId, KeptAccount>,
    profiles: BTreeMap<String, (Result<AccountId, Missing>, Option<String>)>,
    /// Whether the server was told of what is here since the program has started.
    told: bool,
    /// What could not be written: the receipts of what would have been wiped by it.
    unwritten: Option<Vec<(AccountId, u64, Became)>>,
}

/// The accounts of a host in one group.
pub struct Accounts {
    sealing: Arc<Sealing>,
    path: PathBuf,
    state: Mutex<State>,
}

impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accounts").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Accounts {
    /// Loads what is kept in a group's folder. What cannot be read is said, and comes again.
    pub fn open(sealing: Arc<Sealing>, folder: &Path) -> Arc<Self> {
        let path = folder.join(FILE);
        let kept = match private::read_up_to(&path, LIMIT) {
            Ok(bytes) => decode(&Bytes::copy_from_slice(&bytes)).ok_or_else(|| io::Error::other("it is damaged")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Kept::default()),
            Err(error) => Err(error),
        };
        let kept = kept.unwrap_or_else(|error| {
            let group = sealing.group_name().to_string();
            let (account, reason) = (path.display().to_string(), error.to_string());
            journal::emit(Event::SecureDataUnusable { group, account, reason });
            Kept::default()
        });
        let accounts = kept.accounts.into_iter().filter_map(|kept| Some((AccountId::from_wire(&kept.id)?, kept)));
        let state = State { accounts: accounts.collect(), ..State::default() };
        Arc::new(Self { sealing, path, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the accounts of a configuration in place of those before: opens what is new, keeps all of it, wipes what is
    /// not to be here any more. Gives the receipts, for the server: at the first time of all that are here, since those of
    /// before may not have come into the queue. Blocks; not to be called twice at a time.
    pub fn install(&self, content: &Content) -> Vec<Entry> {
        let (mut before, first, unwritten) = {
            let mut state = self.state();
            (state.accounts.clone(), !std::mem::replace(&mut state.told, true), state.unwritten.take())
        };
        let (mut healed, mut changed) = (true, unwritten.is_some());
        let (mut accounts, mut receipts, mut wiped) = (BTreeMap::new(), Vec::new(), unwritten.unwrap_or_default());
        for data in &content.accounts {
            let known = before.remove(&data.account);
            let same = known.as_ref().filter(|known| known.version == data.version && self.opens(data.account, known));
            if let Some(same) = same {
                receipts.extend(first.then_some((data.account, data.version, Became::Opened)));
                accounts.insert(data.account, KeptAccount { name: data.name.clone(), ..same.clone() });
                continue;
            }
            match self.opened(data) {
                Ok(secret) => {
                    changed = true;
                    let id = data.account.to_wire();
                    let kept = KeptAccount { id, name: data.name.clone(), version: data.version, secret };
                    accounts.insert(data.account, kept);
                    receipts.push((data.account, data.version, Became::Opened));
                    let older = known.filter(|known| known.version != data.version);
                    wiped.extend(older.map(|known| (data.account, known.version, Became::Removed)));
                }
                Err(reason) => {
                    healed &= self.sealing.has(KeyId(data.key));
                    let (group, account) = (self.sealing.group_name().to_string(), data.name.clone());
                    journal::emit(Event::SecureDataUnusable { group, account, reason });
                    receipts.push((data.account, data.version, Became::Unopened));
                    accounts.extend(known.map(|known| (data.account, known)));
                }
            }
        }
        changed |= !before.is_empty();
        wiped.extend(before.into_iter().map(|(id, known)| (id, known.version, Became::Removed)));
        // What has come back meanwhile is not gone.
        wiped.retain(|(id, version, _)| accounts.get(id).is_none_or(|kept: &KeptAccount| kept.version != *version));
        // What is not written is not wiped; it is tried again with the next configuration.
        let unwritten = match !changed || self.keep(&accounts) {
            true => {
                receipts.extend(wiped);
                None
            }
            false => Some(wiped),
        };
        let users: BTreeMap<_, _> = content.accounts.iter().map(|data| (data.account, data.user.clone())).collect();
        let profile = |RunAs { profile, account }: &RunAs| {
            let user = account.ok().and_then(|id| users.get(&id).cloned().flatten());
            (profile.clone(), (*account, user))
        };
        let profiles = content.run_as.iter().map(profile).collect();
        self.sealing.needs(content.accounts.iter().map(|data| KeyId(data.key)));
        {
            let mut state = self.state();
            (state.accounts, state.profiles, state.unwritten) = (accounts, profiles, unwritten);
        }
        if !healed {
            self.sealing.heal();
        }
        receipts.into_iter().map(|(account, version, became)| receipt(account, version, became, "")).collect()
    }

    /// Whether what is kept of an account opens.
    fn opens(&self, account: AccountId, kept: &KeptAccount) -> bool {
        self.sealing.vault().unprotect(&description(account, kept.version), &[], &kept.secret).is_ok()
    }

    /// [`Self::install`], and the receipts are put into the queue.
    ///
    /// # Errors
    /// The program is stopping. What was opened comes again.
    pub async fn take(self: &Arc<Self>, content: &Content, outbox: &Outbox) -> Result<(), Stopped> {
        let (own, content) = (Arc::clone(self), content.clone());
        let installed = tokio::task::spawn_blocking(move || own.install(&content)).await;
        let entries = installed.map_err(|_| Stopped)?;
        if entries.is_empty() { Ok(()) } else { outbox.put(Put { entries, memory: Vec::new() }).await }
    }

    /// Writes what is kept, and says which accounts these are. Whether it is written.
    fn keep(&self, accounts: &BTreeMap<AccountId, KeptAccount>) -> bool {
        let group = self.sealing.group_name().to_string();
        let kept = Kept { accounts: accounts.values().cloned().collect() };
        let written = private::write(&self.path, &encode(&kept));
        if let Err(error) = &written {
            // In memory they are in use; after a start they come out of the configuration again.
            journal::emit(Event::StateFolderInUse { path: self.path.display().to_string(), reason: error.to_string() });
        }
        let names: Vec<_> = accounts.values().map(|kept| kept.name.as_str()).collect();
        let accounts = if names.is_empty() { "none".into() } else { names.join(", ") };
        journal::emit(Event::SecureDataProcessed { group, accounts });
        written.is_ok()
    }

    /// Opens an account that has come down, and protects it.
    fn opened(&self, data: &SecureData) -> Result<Bytes, String> {
        let sealed = Base64::decode_vec(&data.sealed).map_err(|_| "it is no base64".to_owned())?;
        let opened = self.sealing.open_secret(&sealed).map_err(|refusal| refusal.to_string())?;
        let expected = Header {
            group: self.sealing.group(),
            recipient: self.sealing.own().name.clone(),
            account: data.account.0,
            version: data.version,
            purpose: Purpose::RunAs,
        };
        let secret = opened.expect(&expected).map_err(|refusal: Refusal| refusal.to_string())?;
        let secret = Secret::from_bytes(secret).map_err(|error| error.to_string())?;
        if secret.kind().as_str() != data.kind {
            return Err(format!("it is of another kind than {}", data.kind));
        }
        let protected = self.sealing.vault().protect(&description(data.account, data.version), &[], secret.as_bytes());
        protected.map(Bytes::from).map_err(|error| error.to_string())
    }

    /// The account that a profile stands for on this host.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn for_profile(&self, profile: &str) -> Result<Credential, Without> {
        let state = self.state();
        let (account, user) = state.profiles.get(profile).ok_or(Without::Unknown)?;
        let account = account.map_err(Without::Missing)?;
        let kept = state.accounts.get(&account);
        let kept = kept.ok_or_else(|| Without::Unusable("it came and could not be opened (event 7022)".into()))?;
        let unusable = |reason: String| Without::Unusable(reason);
        let secret: Zeroizing<Vec<u8>> = self
            .sealing
            .vault()
            .unprotect(&description(account, kept.version), &[], &kept.secret)
            .map_err(|error| unusable(error.to_string()))?;
        let secret = Secret::from_bytes(secret).map_err(|error| unusable(error.to_string()))?;
        Ok(Credential { account, name: kept.name.clone(), version: kept.version, user: user.clone(), secret })
    }
}

/// What the vault calls a secret: it is of this version of this account and of no other.
fn description(account: AccountId, version: u64) -> String {
    format!("account {account} {version}")
}

/// What became of an account.
pub fn receipt(account: AccountId, version: u64, became: Became, workflow: &str) -> Entry {
    let receipt = Receipt { account: account.to_wire(), version, became: became.into(), workflow: workflow.to_owned() };
    Entry { at: now_ms(), what: Some(What::Receipt(receipt)) }
}
