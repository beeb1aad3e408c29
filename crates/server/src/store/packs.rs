//! The texts of packs. Whether a text is the right one says the trust log.

use rusqlite::{Connection, OptionalExtension as _};

use super::Error;

/// A pack's text.
pub(super) fn text(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    let mut select = connection.prepare_cached("SELECT text FROM pack WHERE name = ?")?;
    Ok(select.query_row([name], |row| row.get(0)).optional()?)
}

/// Names and texts of all packs but one.
pub(super) fn others(connection: &Connection, name: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut select = connection.prepare_cached("SELECT name, text FROM pack WHERE name <> ?")?;
    select.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// Keeps a pack's text, in place of the one before.
pub(super) fn put(connection: &Connection, name: &str, text: &str) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO pack (name, text) VALUES (?, ?)")?;
    put.execute([name, text]).map(drop)
}

/// A pack's text is not needed any more.
pub(super) fn delete(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM pack WHERE name = ?")?.execute([name]).map(drop)
}
