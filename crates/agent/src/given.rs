//! The Run As accounts that a group's server has given this host, for the checks of that group.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wardline_connector::accounts::{self, Accounts, Without, receipt};
use wardline_connector::outbox::{Outbox, Put};
use wardline_proto::configuration;
use wardline_proto::entry::Became;
use wardline_proto::message::AccountId;
use zeroize::Zeroizing;

use crate::credentials::{Credential, Credentials, Missing};

/// How often the server is told that a workflow still uses an account.
const TOLD: Duration = Duration::from_secs(600);

/// By account, its version and the workflow: when the server was told last.
type Uses = HashMap<(AccountId, u64, String), Instant>;

/// What a host was given, and who is told that it is used.
pub struct Given {
    accounts: Arc<Accounts>,
    outbox: Outbox,
    uses: Mutex<Uses>,
}

impl Given {
    /// These accounts; receipts go into this queue.
    pub fn new(accounts: Arc<Accounts>, outbox: Outbox) -> Self {
        Self { accounts, outbox, uses: Mutex::default() }
    }

    /// Whether the server is to be told of a use at this moment.
    fn is_news(&self, account: AccountId, version: u64, workflow: &str, now: Instant) -> bool {
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        // What was used by earlier versions is over.
        uses.retain(|(known, of, _), _| *known != account || *of >= version);
        let told = uses.entry((account, version, workflow.to_owned()));
        let mut news = false;
        told.and_modify(|at| {
            if now.saturating_duration_since(*at) >= TOLD {
                (*at, news) = (now, true);
            }
        })
        .or_insert_with(|| {
            news = true;
            now
        });
        news
    }
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("accounts", &self.accounts).finish_non_exhaustive()
    }
}

impl Credentials for Given {
    fn of(&self, profile: &str) -> Result<Option<Credential>, Missing> {
        let accounts::Credential { account: id, name, version, user, secret } = match self.accounts.for_profile(profile)
        {
            Ok(credential) => credential,
            Err(Without::Unknown | Without::Missing(configuration::Missing::Unassigned)) => return Ok(None),
            Err(Without::Missing(configuration::Missing::Undistributed)) => return Err(Missing::Undistributed),
            Err(Without::Missing(configuration::Missing::Keyless)) => {
                return Err(Missing::Unusable("the server has no key yet to encrypt it to".into()));
            }
            Err(Without::Unusable(reason)) => return Err(Missing::Unusable(reason)),
        };
        let fields = secret.fields().map(|(name, value)| (name.to_owned(), Zeroizing::new(value.to_vec()))).collect();
        Ok(Some(Credential { id, account: name, version, user, fields }))
    }

    fn used(&self, account: AccountId, version: u64, workflow: &str) {
        if !self.is_news(account, version, workflow, Instant::now()) {
            return;
        }
        let put = Put { entries: vec![receipt(account, version, Became::Used, workflow)], memory: Vec::new() };
        let outbox = self.outbox.clone();
        // Whoever runs checks does not wait for it. When the program is stopping, it is told the next time.
        tokio::spawn(async move { outbox.put(put).await });
    }
}
