//! The trust log in the database: read and checked once, at the start; from then on it only grows.
//!
//! ```text
//!  request: decide over the staged view ─► sign ─► apply ─► rows ─► COMMIT ─► kept head, published view ─► answer
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, params};
use wardline_connector::now_ms;
use wardline_proto::Name;
use wardline_proto::message::{AccountId, Signed, decode, encode};
use wardline_proto::trust::Fact;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::trust::Root;
use wardline_secrets::view::{self, Unsound, View};

use super::database::OpenError;
use super::writer::{Effects, Write};
use super::{Error, accounts, from_sql, kept, packs, to_sql, views};

/// Who keeps the trust log: what its entries must lead to, and what new ones are signed with.
#[derive(Debug)]
pub struct Keeper {
    /// The group's root.
    pub root: Root,
    /// This server.
    pub server: Name,
    /// Its duty key.
    pub duty: Arc<SigningKey>,
    /// The file with the newest head that it has seen.
    pub kept: PathBuf,
    /// What protects that file.
    pub vault: Vault,
}

/// Reads the log, and holds it against the head that was kept.
pub(super) fn load(connection: &Connection, path: &Path, keeper: &Keeper) -> Result<View, OpenError> {
    let log = replay(connection, path, keeper)?;
    compare(&log, keeper)?;
    Ok(log)
}

/// Reads the log, whatever was kept.
pub(super) fn replay(connection: &Connection, path: &Path, keeper: &Keeper) -> Result<View, OpenError> {
    let unusable = |error: rusqlite::Error| OpenError::Unusable { path: path.into(), reason: error.to_string() };
    let mut log = View::new(keeper.root.clone());
    let mut select = connection.prepare("SELECT number, entry FROM log ORDER BY number").map_err(unusable)?;
    let mut rows = select.query([]).map_err(unusable)?;
    while let Some(row) = rows.next().map_err(unusable)? {
        let expected = log.tree().size();
        let damaged = |reason: String| OpenError::LogDamaged { number: expected, reason };
        let number: i64 = row.get(0).map_err(unusable)?;
        if number != to_sql(expected) {
            return Err(damaged("it is missing".into()));
        }
        let entry: Vec<u8> = row.get(1).map_err(unusable)?;
        let signed = open(&entry).ok_or_else(|| damaged(Unsound::Encoding.to_string()))?;
        log.apply(&signed).map_err(|unsound| damaged(unsound.to_string()))?;
    }
    Ok(log)
}

/// An entry from its bytes. Other bytes that would be decoded to the same are another leaf, and none of ours.
fn open(bytes: &[u8]) -> Option<Signed> {
    let signed: Signed = decode(&bytes.to_vec().into())?;
    (encode(&signed) == bytes).then_some(signed)
}

/// The log must begin with all of the log that the kept head is of, or say that it is given up.
fn compare(log: &View, keeper: &Keeper) -> Result<(), OpenError> {
    let unreadable = |error: std::io::Error| OpenError::Kept { path: keeper.kept.clone(), reason: error.to_string() };
    let found = log.reach();
    let rolled_back = |kept: String| {
        let place = keeper.kept.display().to_string();
        Err(OpenError::LogRolledBack { place, kept, found: found.to_string() })
    };
    let Some(kept) = kept::read(&keeper.vault, &keeper.kept).map_err(unreadable)? else {
        // It is made before the first entry is.
        return match found.head.size {
            0 => kept::write(&keeper.vault, &keeper.kept, &found).map_err(unreadable),
            _ => rolled_back("nothing: it is missing".into()),
        };
    };
    if !log.continues(&kept) {
        return rolled_back(kept.to_string());
    }
    // Power may have failed between a commit and the writing of its head.
    if kept == found { Ok(()) } else { kept::write(&keeper.vault, &keeper.kept, &found).map_err(unreadable) }
}

/// Entries from a number on, as they were signed.
pub(super) fn entries(connection: &Connection, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let entries = connection
        .prepare_cached("SELECT number, entry FROM log WHERE number >= ? ORDER BY number LIMIT ?")?
        .query_map(params![to_sql(from), limit], |row| Ok((from_sql(row.get(0)?), row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(entries)
}

/// What decides whether something is so from now on, and what: from what the log says, the time, milliseconds since
/// 1970, and for a pack the names and texts of the others. It is called again when the transaction is tried again.
type Decide<R> = Box<dyn Fn(&View, u64, &[(String, String)]) -> Result<Vec<Fact>, R> + Send + Sync>;

/// Something that somebody wants to be so.
pub(super) struct Act<R> {
    pub(super) keeper: Arc<Keeper>,
    /// Whose act it is.
    pub(super) act: String,
    pub(super) decide: Decide<R>,
    /// What is kept beside the log, of which that has only the hash.
    pub(super) beside: Option<Beside>,
}

/// What is kept in a table beside the log, in the same transaction.
pub(super) enum Beside {
    /// The name and text of the pack that it is about.
    Pack(String, String),
    /// The id and the encrypted secret of the account that it is about.
    Account(AccountId, Vec<u8>),
}

impl<R: From<Unsound> + Send + Sync + 'static> Write for Act<R> {
    type Answer = Result<Vec<Fact>, R>;

    fn write(&self, connection: &Connection, effects: &mut Effects) -> rusqlite::Result<Self::Answer> {
        let now = now_ms();
        let others = match &self.beside {
            Some(Beside::Pack(name, _)) => packs::others(connection, name)?,
            _ => Vec::new(),
        };
        let facts = match (self.decide)(&effects.view, now, &others) {
            Ok(facts) => facts,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if facts.is_empty() {
            return Ok(Ok(facts));
        }
        let (mut next, mut entries) = (Arc::clone(&effects.view), Vec::with_capacity(facts.len()));
        let staged = Arc::make_mut(&mut next);
        for fact in &facts {
            let number = staged.tree().size();
            let Keeper { duty, server, .. } = &*self.keeper;
            let signed = view::entry(duty, number, now, server, &self.act, fact.clone());
            if let Err(unsound) = staged.apply(&signed) {
                return Ok(Err(unsound.into()));
            }
            entries.push((number, encode(&signed)));
        }
        // What somebody else may have written at these places is none of the log.
        let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO log (number, entry) VALUES (?, ?)")?;
        for (number, entry) in entries {
            insert.execute(params![to_sql(number), &entry[..]])?;
        }
        views::refresh(connection, staged, &facts)?;
        match &self.beside {
            Some(Beside::Pack(name, text)) => packs::put(connection, name, text)?,
            Some(Beside::Account(id, secret)) => accounts::put(connection, *id, secret)?,
            None => {}
        }
        effects.view = next;
        effects.appended = true;
        Ok(Ok(facts))
    }
}

#[cfg(test)]
mod tests;
