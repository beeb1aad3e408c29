//! The secrets of Run As accounts, as they are encrypted. Whether one is the right one says the trust log.

use wardline_proto::message::AccountId;

use super::Error;
use super::sql::{self, Connection, params};

/// An account's secret.
pub(super) fn secret(connection: &Connection, id: AccountId) -> Result<Option<Vec<u8>>, Error> {
    Ok(connection.first("SELECT secret FROM account WHERE id = ?1", params![&id.0], |row| row.get(0))?)
}

/// Keeps an account's secret, in place of the one before.
pub(super) fn put(connection: &Connection, id: AccountId, secret: &[u8]) -> Result<(), sql::Error> {
    let put =
        "INSERT INTO account (id, secret) VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET secret = excluded.secret";
    connection.execute(put, params![&id.0, secret]).map(drop)
}

/// An account is not there any more.
pub(super) fn delete(connection: &Connection, id: &[u8]) -> Result<(), sql::Error> {
    connection.execute("DELETE FROM account WHERE id = ?1", params![id]).map(drop)
}
