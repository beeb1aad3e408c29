//! The secrets of Run As accounts, as they are encrypted. Whether one is the right one says the trust log.

use rusqlite::{Connection, OptionalExtension as _, params};
use wardline_proto::message::AccountId;

use super::Error;

/// An account's secret.
pub(super) fn secret(connection: &Connection, id: AccountId) -> Result<Option<Vec<u8>>, Error> {
    let mut select = connection.prepare_cached("SELECT secret FROM account WHERE id = ?")?;
    Ok(select.query_row([id.0], |row| row.get(0)).optional()?)
}

/// Keeps an account's secret, in place of the one before.
pub(super) fn put(connection: &Connection, id: AccountId, secret: &[u8]) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO account (id, secret) VALUES (?, ?)")?;
    put.execute(params![id.0, secret]).map(drop)
}

/// An account is not there any more.
pub(super) fn delete(connection: &Connection, id: &[u8]) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM account WHERE id = ?")?.execute([id]).map(drop)
}
