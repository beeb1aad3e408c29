//! The trust log in the database: read and checked once, at the start; from then on it only grows.
//!
//! ```text
//!  request: decide over the staged view ─► sign ─► apply ─► rows ─► COMMIT ─► kept head, published view ─► answer
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use wardline_connector::now_ms;
use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_proto::message::{AccountId, Signed, decode, encode};
use wardline_proto::trust::Fact;
use wardline_secrets::merkle;
use wardline_secrets::protect::Vault;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::trust::Root;
use wardline_secrets::view::{self, Unread, Unsound, View};

use super::database::{Location, OpenError};
use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};
use super::{Error, accounts, from_sql, kept, packs, to_sql, views};

/// So many entries are read at a time.
const PAGE: u32 = 1000;

/// Who keeps the trust log: what its entries must lead to, and what new ones are signed with.
#[derive(Debug)]
pub struct Keeper {
    /// The group's root.
    pub root: Root,
    /// This server.
    pub server: Name,
    /// Its duty key.
    pub duty: Arc<SigningKey>,
    /// The group's folder.
    pub folder: PathBuf,
    /// What protects the private files there.
    pub vault: Vault,
}

impl Keeper {
    /// The file with the newest head that it has seen.
    pub fn kept(&self) -> PathBuf {
        self.folder.join(kept::FILE)
    }
}

/// Reads the log, and holds it against the head that was kept.
pub(super) fn load(connection: &Connection, location: &Location, keeper: &Keeper) -> Result<View, OpenError> {
    let log = replay(connection, location, keeper)?;
    compare(&log, keeper)?;
    Ok(log)
}

/// Reads the log, whatever was kept.
pub(super) fn replay(connection: &Connection, location: &Location, keeper: &Keeper) -> Result<View, OpenError> {
    let unusable = |error: Error| OpenError::Unusable { place: location.to_string(), reason: error.to_string() };
    let mut log = View::new(keeper.root.clone());
    loop {
        let page = entries(connection, log.tree().size(), PAGE).map_err(unusable)?;
        if page.is_empty() {
            return Ok(log);
        }
        for (number, entry) in page {
            let expected = log.tree().size();
            let damaged = |reason: String| OpenError::LogDamaged { number: expected, reason };
            if number != expected {
                return Err(damaged("it is missing".into()));
            }
            let signed = open(&entry).ok_or_else(|| damaged(Unsound::Encoding.to_string()))?;
            log.apply(&signed).map_err(|unsound| damaged(unsound.to_string()))?;
        }
    }
}

/// Takes over what other servers have appended since. What nobody of them has signed is none of the log; what one of them
/// has signed, and cannot be taken, is noted and told. A log that has not the newest entry that this server knows in its
/// place is another one, and is not gone on with.
pub(super) fn catch_up(connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
    loop {
        let size = effects.view.tree().size();
        let known = size.checked_sub(1);
        let mut page = page(connection, known.unwrap_or(0), PAGE)?;
        if let Some(known) = known {
            let newest = page.first().filter(|(number, _)| *number == known);
            if newest.map(|(_, entry)| merkle::leaf(entry)) != effects.view.tree().last() {
                return Err(sql::Error::LogShorter(effects.view.reach()));
            }
            page.remove(0);
        }
        if page.is_empty() {
            note(effects, None);
            return Ok(());
        }
        let mut next = Arc::clone(&effects.view);
        let staged = Arc::make_mut(&mut next);
        let believed = page.iter().all(|(number, entry)| {
            *number == staged.tree().size() && open(entry).is_some_and(|signed| staged.apply(&signed).is_ok())
        });
        let longer = staged.tree().size() > effects.view.tree().size();
        if longer {
            effects.view = next;
            effects.appended = true;
        }
        if !believed {
            let behind = page.iter().skip_while(|(number, _)| *number < effects.view.tree().size());
            let unread = |(number, entry): &(u64, Vec<u8>)| effects.view.vouched(*number, &open(entry)?);
            note(effects, behind.filter_map(unread).next());
            return Ok(());
        }
    }
}

/// Notes what of the log cannot be taken, and tells it once.
fn note(effects: &mut Effects, unread: Option<Unread>) {
    if effects.view.unread() != unread.as_ref() {
        let told = unread.iter().map(|Unread { number, server }| {
            let (number, server) = (number.to_string(), server.to_string());
            Event::LogUnread { number, server }
        });
        effects.events.extend(told);
        Arc::make_mut(&mut effects.view).note_unread(unread);
        effects.appended = true;
    }
}

/// Whether the log has the newest entry of this view in its place: then all that was written with it is there. Whoever
/// appends now is waited for; it may be this server itself, on a connection that was lost.
pub(super) fn has_newest(connection: &Connection, view: &View) -> Result<bool, sql::Error> {
    connection.transaction(|| {
        connection.lock("log")?;
        let newest = view.tree().size().saturating_sub(1);
        let rows = page(connection, newest, 1)?;
        let there = rows.first().filter(|(number, _)| *number == newest);
        connection.catch_up_standby()?;
        Ok(there.map(|(_, entry)| merkle::leaf(entry)) == view.tree().last())
    })
}

/// The wish to know what other servers have appended.
pub(super) struct Follow;

impl Write for Follow {
    type Answer = ();

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        catch_up(connection, effects)
    }
}

/// An entry from its bytes. Other bytes that would be decoded to the same are another leaf, and none of ours.
fn open(bytes: &[u8]) -> Option<Signed> {
    let signed: Signed = decode(&bytes.to_vec().into())?;
    (encode(&signed) == bytes).then_some(signed)
}

/// The log must begin with all of the log that the kept head is of, or say that it is given up.
fn compare(log: &View, keeper: &Keeper) -> Result<(), OpenError> {
    let unreadable = |error: std::io::Error| OpenError::Kept { path: keeper.kept(), reason: error.to_string() };
    let found = log.reach();
    let rolled_back = |kept: String| {
        let place = keeper.kept().display().to_string();
        Err(OpenError::LogRolledBack { place, kept, found: found.to_string() })
    };
    let Some(kept) = kept::read(&keeper.vault, &keeper.kept()).map_err(unreadable)? else {
        // It is made before the first entry is.
        return match found.head.size {
            0 => kept::write(&keeper.vault, &keeper.kept(), &found).map_err(unreadable),
            _ => rolled_back("nothing: it is missing".into()),
        };
    };
    if !log.continues(&kept) {
        return rolled_back(kept.to_string());
    }
    // Power may have failed between a commit and the writing of its head.
    if kept == found { Ok(()) } else { keep(log, keeper) }
}

/// Keeps how far the log reaches.
pub(super) fn keep(log: &View, keeper: &Keeper) -> Result<(), OpenError> {
    kept::write(&keeper.vault, &keeper.kept(), &log.reach())
        .map_err(|error| OpenError::Kept { path: keeper.kept(), reason: error.to_string() })
}

/// Entries from a number on, as they were signed.
pub(super) fn entries(connection: &Connection, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    Ok(page(connection, from, limit)?)
}

fn page(connection: &Connection, from: u64, limit: u32) -> Result<Vec<(u64, Vec<u8>)>, sql::Error> {
    let select = "SELECT number, entry FROM log WHERE number >= ?1 ORDER BY number LIMIT ?2";
    connection.read(select, params![to_sql(from), limit], |row| Ok((from_sql(row.get(0)?), row.get(1)?)))
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

    fn about(&self) -> String {
        format!("an act of {}", self.act)
    }

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<Self::Answer, sql::Error> {
        connection.lock("log")?;
        catch_up(connection, effects)?;
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
        // Nothing is written over what a server has signed; but whoever stole its keys cannot keep it from being removed so.
        let removes = |unread: &Unread| {
            facts.iter().any(|fact| matches!(fact, Fact::Removed(removed) if removed.name == unread.server.as_str()))
        };
        if let Some(unread) = effects.view.unread().filter(|unread| !removes(unread)) {
            return Ok(Err(Unsound::Unread(unread.clone()).into()));
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
        // What somebody else has written behind it is none of the log.
        let from = effects.view.tree().size();
        let rows = connection.execute("DELETE FROM log WHERE number >= ?1", params![to_sql(from)])?;
        if rows > 0 {
            let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
            effects.events.push(Event::LogRowsRemoved { number: from.to_string(), rows });
        }
        let insert = "INSERT INTO log (number, entry) VALUES (?1, ?2)";
        for (number, entry) in entries {
            connection.execute(insert, params![to_sql(number), &entry[..]])?;
        }
        views::refresh(connection, staged, &facts)?;
        match &self.beside {
            Some(Beside::Pack(name, text)) => packs::put(connection, name, text)?,
            Some(Beside::Account(id, secret)) => accounts::put(connection, *id, secret)?,
            None => {}
        }
        effects.view = next;
        (effects.appended, effects.signed) = (true, true);
        Ok(Ok(facts))
    }
}

#[cfg(test)]
mod tests;
