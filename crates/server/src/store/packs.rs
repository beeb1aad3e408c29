//! The texts of packs. Whether a text is the right one says the trust log.

use super::Error;
use super::sql::{self, Connection, params};

/// A pack's text.
pub(super) fn text(connection: &Connection, name: &str) -> Result<Option<String>, Error> {
    Ok(connection.first("SELECT text FROM pack WHERE name = ?1", params![name], |row| row.get(0))?)
}

/// Names and texts of all packs but one.
pub(super) fn others(connection: &Connection, name: &str) -> Result<Vec<(String, String)>, sql::Error> {
    let others = "SELECT name, text FROM pack WHERE name <> ?1";
    connection.read(others, params![name], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Keeps a pack's text, in place of the one before.
pub(super) fn put(connection: &Connection, name: &str, text: &str) -> Result<(), sql::Error> {
    let put = "INSERT INTO pack (name, text) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET text = excluded.text";
    connection.execute(put, params![name, text]).map(drop)
}

/// A pack's text is not needed any more.
pub(super) fn delete(connection: &Connection, name: &str) -> Result<(), sql::Error> {
    connection.execute("DELETE FROM pack WHERE name = ?1", params![name]).map(drop)
}
