//! The secrets of Run As accounts: taken from operators, kept in the database, given to whoever seals them for an agent.
//!
//! ```text
//!  operator ──sealed to this server──> taken ──group key──> row          trust log: version, hash of the row
//!  row ──is it the one of the trust log?──group key──> secret ──> configuration: sealed to one agent
//! ```

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64ct::{Base64, Encoding as _};
use wardline_connector::sealing::Sealing;
use wardline_proto::event::Event;
use wardline_proto::message::{AccountId, Digest};
use wardline_secrets::account::{Kind, Secret, SecretError};
use wardline_secrets::group_key::{FILE, GroupKey, GroupKeyError};
use wardline_secrets::protect::Vault;
use wardline_secrets::sealing::{SealingCertificate, SealingKey};
use wardline_secrets::secure_data::{Header, Opened, Purpose, Refusal};
use wardline_secrets::signature::sha256;
use wardline_secrets::view::{Account, View};

use crate::store::{self, Store};

/// The group's key, from its folder. It is made where there is no account that could rest under another.
///
/// # Errors
/// Event 40160: it is lost; 40161: it cannot be used.
pub fn group_key(vault: &Vault, folder: &Path, view: &View) -> Result<GroupKey, Event> {
    let path = folder.join(FILE).display().to_string();
    let unusable = |reason: String| Event::GroupKeyUnusable { path: path.clone(), reason };
    if let Some(key) = GroupKey::load(vault, folder).map_err(|error| unusable(error.to_string()))? {
        return Ok(key);
    }
    let accounts = view.run_as().accounts().count();
    if accounts > 0 {
        return Err(Event::GroupKeyMissing { path, accounts: accounts.to_string() });
    }
    let key = GroupKey::generate().map_err(|error| unusable(error.to_string()))?;
    key.keep(vault, folder).map_err(|error| unusable(error.to_string()))?;
    Ok(key)
}

/// This server's own sealing keys: what operators seal secrets to.
pub trait OwnKeys: Send + Sync {
    /// What is to be sealed to now.
    fn certificate(&self) -> Option<SealingCertificate>;

    /// Opens what was sealed to one of them.
    ///
    /// # Errors
    /// It was not, or was changed.
    fn open(&self, sealed: &[u8]) -> Result<Opened, Refusal>;
}

impl OwnKeys for SealingKey {
    fn certificate(&self) -> Option<SealingCertificate> {
        Some(Self::certificate(self).clone())
    }

    fn open(&self, sealed: &[u8]) -> Result<Opened, Refusal> {
        Self::open(self, sealed)
    }
}

impl OwnKeys for Sealing {
    fn certificate(&self) -> Option<SealingCertificate> {
        Self::certificate(self)
    }

    fn open(&self, sealed: &[u8]) -> Result<Opened, Refusal> {
        self.open_secret(sealed)
    }
}

/// Why the secret of an account is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The database does not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// There is none.
    #[error("the database has no secret of it")]
    Missing,
    /// There is one, and the trust log speaks of another.
    #[error("the secret in the database is not the one that the trust log speaks of")]
    Other,
    /// It does not open.
    #[error("the secret in the database does not open: {0}")]
    Key(#[from] GroupKeyError),
    /// What is in it is no secret of the kind that the trust log names.
    #[error("what is in it cannot be used: {0}")]
    Secret(#[from] SecretError),
}

/// Why what an operator gives is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is no base64.
    #[error("it is no base64")]
    Base64,
    /// It does not open, or is not what it is given as.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is no secret that would be kept.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// It cannot be encrypted.
    #[error(transparent)]
    Key(#[from] GroupKeyError),
}

/// A secret that an operator has given, encrypted for its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The account.
    pub id: AccountId,
    /// Which version of the account is replaced; 0: there is none yet.
    pub replaces: u64,
    /// Its own version.
    pub version: u64,
    /// Its kind.
    pub kind: Kind,
    /// What is to be in the database.
    pub row: Vec<u8>,
}

impl Taken {
    /// What the trust log is to say of the row.
    pub fn hash(&self) -> Digest {
        sha256(&[&self.row])
    }
}

struct Inner {
    key: GroupKey,
    store: Store,
    own: Arc<dyn OwnKeys>,
}

/// The secrets of the group's Run As accounts. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accounts")
    }
}

impl Accounts {
    /// Those in this database, under this key; operators seal theirs to one of the server's own.
    pub fn new(key: GroupKey, store: Store, own: Arc<dyn OwnKeys>) -> Self {
        Self(Inner { key, store, own }.into())
    }

    /// What operators are to seal secrets to now.
    pub fn certificate(&self) -> Option<SealingCertificate> {
        self.0.own.certificate()
    }

    /// The secret of an account: what the database has, if it is what the trust log speaks of.
    ///
    /// # Errors
    /// It is not, or does not open.
    pub async fn secret(&self, account: &Account) -> Result<Secret, Unusable> {
        let row = self.0.store.account_secret(account.id).await?.ok_or(Unusable::Missing)?;
        if sha256(&[&row]) != account.secret {
            return Err(Unusable::Other);
        }
        let secret = Secret::from_bytes(self.0.key.open(account.id, account.version, &row)?)?;
        let same = secret.kind().as_str() == account.kind;
        same.then_some(secret).ok_or(Unusable::Secret(SecretError::Kind))
    }

    /// Takes a secret that an operator has sealed to this server (base64) for an account, in place of this version of it;
    /// 0: there is none yet. Its own version is above all that the log has known.
    ///
    /// # Errors
    /// It was sealed as something else, or is no secret.
    pub fn take(&self, id: AccountId, replaces: u64, sealed: &str) -> Result<Taken, NotTaken> {
        let sealed = Base64::decode_vec(sealed).map_err(|_| NotTaken::Base64)?;
        let keeper = self.0.store.keeper();
        let expected = Header {
            group: keeper.root.group(),
            recipient: keeper.server.clone(),
            account: id.0,
            version: replaces,
            purpose: Purpose::Submit,
        };
        let secret = Secret::from_bytes(self.0.own.open(&sealed)?.expect(&expected)?)?;
        let version = self.0.store.view().borrow().reach().version.max(replaces).saturating_add(1);
        let row = self.0.key.seal(id, version, secret.as_bytes())?;
        Ok(Taken { id, replaces, version, kind: secret.kind(), row })
    }
}

#[cfg(test)]
pub(crate) mod tests;
