//! What became of Run As accounts on agents: sent, opened, used, removed.

use wardline_proto::Name;
use wardline_proto::entry::{Became, Receipt};
use wardline_proto::message::AccountId;

use super::entries::Refused;
use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};
use super::{Error, from_sql, row_name, to_sql};

/// What is known of one version of an account on one agent. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The agent.
    pub agent: Name,
    /// The account.
    pub account: AccountId,
    /// Which version of its secret.
    pub version: u64,
    /// When the server sent it first.
    pub sent_at: Option<u64>,
    /// When the agent had opened it.
    pub opened_at: Option<u64>,
    /// When the agent could not open it.
    pub failed_at: Option<u64>,
    /// When a workflow used it first.
    pub used_since: Option<u64>,
    /// When a workflow used it last, as far as that was told.
    pub used_at: Option<u64>,
    /// The workflow that did.
    pub workflow: Option<String>,
    /// When the agent had wiped it.
    pub removed_at: Option<u64>,
}

/// Of how many versions of an account receipts are kept for each agent, the newest.
const VERSIONS: u32 = 4;

/// An account is not there any more, or an agent.
pub(super) fn forget(connection: &Connection, account: Option<&[u8]>, agent: Option<&str>) -> Result<(), sql::Error> {
    connection.execute("DELETE FROM receipt WHERE account = ?1 OR agent = ?2", params![account, agent]).map(drop)
}

/// Writes what an agent has said of a secret.
pub(super) fn became(connection: &Connection, agent: &str, receipt: &Receipt, at: i64) -> Result<(), Refused> {
    let account = AccountId::from_wire(&receipt.account).ok_or("the id of an account has 16 bytes")?;
    let columns = match receipt.became() {
        Became::Opened => "opened_at = coalesce(opened_at, ?4), failed_at = NULL, removed_at = NULL",
        Became::Unopened => "failed_at = ?4",
        Became::Used => "used_since = coalesce(used_since, ?4), used_at = ?4, workflow = ?5",
        Became::Removed => "removed_at = ?4",
        Became::Unspecified => return Err("what became of an account is not known".into()),
    };
    // One that the server has not begun itself: after a restore. Nobody makes more of them than there can be.
    let begun = "INSERT INTO receipt (agent, account, version) SELECT ?1, ?2, ?3
                 WHERE EXISTS (SELECT 1 FROM account WHERE id = ?2) AND EXISTS (SELECT 1 FROM member WHERE name = ?1)
                   AND (SELECT count(*) FROM receipt WHERE agent = ?1 AND account = ?2) <= ?4
                 ON CONFLICT DO NOTHING";
    connection.execute(begun, params![agent, &account.0, to_sql(receipt.version), VERSIONS])?;
    let update = format!("UPDATE receipt SET {columns} WHERE agent = ?1 AND account = ?2 AND version = ?3");
    let (version, workflow) = (to_sql(receipt.version), receipt.workflow.as_str());
    match receipt.became() {
        Became::Used => connection.execute(&update, params![agent, &account.0, version, at, workflow])?,
        _ => connection.execute(&update, params![agent, &account.0, version, at])?,
    };
    Ok(())
}

/// That versions of accounts were sent to an agent, as of now (milliseconds since 1970).
pub(super) struct Sent {
    pub(super) agent: Name,
    pub(super) accounts: Vec<(AccountId, u64)>,
    pub(super) now_ms: u64,
}

impl Write for Sent {
    type Answer = ();

    fn write(&self, connection: &Connection, _effects: &mut Effects) -> Result<(), sql::Error> {
        // Either may have gone while this was in line.
        let insert = "INSERT INTO receipt (agent, account, version, sent_at) SELECT ?1, ?2, ?3, ?4
             WHERE EXISTS (SELECT 1 FROM account WHERE id = ?2) AND EXISTS (SELECT 1 FROM member WHERE name = ?1)
             ON CONFLICT (agent, account, version) DO UPDATE SET sent_at = coalesce(receipt.sent_at, excluded.sent_at)";
        let forget = "DELETE FROM receipt WHERE agent = ?1 AND account = ?2 AND version NOT IN
                 (SELECT version FROM receipt WHERE agent = ?1 AND account = ?2 ORDER BY version DESC LIMIT ?3)";
        for (account, version) in &self.accounts {
            connection
                .execute(insert, params![self.agent.as_str(), &account.0, to_sql(*version), to_sql(self.now_ms)])?;
            connection.execute(forget, params![self.agent.as_str(), &account.0, VERSIONS])?;
        }
        Ok(())
    }
}

/// What is known of an account on every agent.
pub(super) fn of_account(connection: &Connection, account: AccountId) -> Result<Vec<Known>, Error> {
    let select = "SELECT agent, version, sent_at, opened_at, failed_at, used_since, used_at, workflow, removed_at
         FROM receipt WHERE account = ?1 ORDER BY agent, version";
    let known = connection.read(select, params![&account.0], |row| {
        let time = |index| Ok::<_, sql::Error>(row.get::<Option<i64>>(index)?.map(from_sql));
        Ok(Known {
            agent: row_name(row, 0)?,
            account,
            version: from_sql(row.get(1)?),
            sent_at: time(2)?,
            opened_at: time(3)?,
            failed_at: time(4)?,
            used_since: time(5)?,
            used_at: time(6)?,
            workflow: row.get(7)?,
            removed_at: time(8)?,
        })
    })?;
    Ok(known)
}
