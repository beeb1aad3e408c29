//! Who was heard, when, and how far.

use std::time::Duration;

use wardline_proto::Name;
use wardline_proto::message::Epoch;
use wardline_sdk::{Agent, AgentFilter, Page, Time, page};

use super::sql::{self, Connection, Row, params};
use super::writer::{Effects, Write};
use super::{Error, alerts, from_sql, row_name, streams, to_sql};

/// What became of the wish to release an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It goes on with its live stream.
    Released,
    /// It was not held.
    NotHeld,
    /// It was never heard.
    NotKnown,
}

/// The wish to release an agent.
pub(super) struct Release {
    pub(super) agent: Name,
    pub(super) now_ms: u64,
}

impl Write for Release {
    type Answer = Released;

    fn write(&self, connection: &Connection, _: &mut Effects) -> Result<Released, sql::Error> {
        let select = format!("SELECT id, held FROM agent WHERE name = ?1{}", connection.for_update());
        let agent = connection
            .first(&select, params![self.agent.as_str()], |row| Ok((row.get::<i64>(0)?, row.get::<bool>(1)?)))?;
        let agent = match agent {
            Some((agent, true)) => agent,
            Some((_, false)) => return Ok(Released::NotHeld),
            None => return Ok(Released::NotKnown),
        };
        connection.execute("UPDATE agent SET held = 0, displacements = 0 WHERE id = ?1", params![agent])?;
        alerts::close_all_of(connection, agent, streams::MONITOR, to_sql(self.now_ms), "released by an operator")?;
        Ok(Released::Released)
    }
}

/// That an agent was heard.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which.
    pub agent: Name,
    /// When it lived, by the clock of who has heard it, milliseconds since 1970.
    pub at_ms: u64,
    /// How long before its heartbeat came that was.
    pub late: Duration,
    /// How often it is heard.
    pub every: Duration,
}

/// An agent was heard, by this server.
pub(super) struct Seen {
    pub(super) heard: Heard,
    pub(super) by: Name,
}

impl Write for Seen {
    type Answer = ();

    fn write(&self, connection: &Connection, _: &mut Effects) -> Result<(), sql::Error> {
        let update =
            // The clock of whoever heard it before may be ahead.
            "UPDATE agent SET last_seen = ?2, heard_every = ?3, heard_late = ?4, heard_by = ?5
             WHERE name = ?1 AND (last_seen < ?2 OR heard_by <> ?5)";
        let Heard { agent, at_ms, late, every } = &self.heard;
        let [late, every] = [late, every].map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        let heard = params![agent.as_str(), to_sql(*at_ms), every, late, self.by.as_str()];
        connection.execute(update, heard).map(drop)
    }
}

/// Who was heard by other servers since a moment.
pub(super) fn heard_by_others(connection: &Connection, own: &Name, since_ms: u64) -> Result<Vec<Heard>, Error> {
    let select = "SELECT name, last_seen, heard_late, heard_every FROM agent
                  WHERE heard_by NOT IN (?1, '') AND last_seen >= ?2";
    Ok(connection.read(select, params![own.as_str(), to_sql(since_ms)], |row| {
        let time = |column| Ok::<_, sql::Error>(Duration::from_millis(from_sql(row.get(column)?)));
        Ok(Heard { agent: row_name(row, 0)?, at_ms: from_sql(row.get(1)?), late: time(2)?, every: time(3)? })
    })?)
}

/// What is shown of an agent; what goes behind `WHERE` is to be added.
const SELECT: &str = "SELECT agent.name, first_seen, last_seen, held, displacements, stream.epoch, stream.number,
                             (SELECT count(*) FROM gap WHERE gap.agent = agent.id)
                      FROM agent LEFT JOIN stream ON stream.agent = agent.id AND stream.state = 0 WHERE ";

/// Lists agents by name.
pub(super) fn list(connection: &Connection, filter: &AgentFilter) -> Result<Page<Agent>, Error> {
    let limit = page::limit(filter.limit);
    let select = format!("{SELECT} name > ?1 ORDER BY name LIMIT ?2");
    let agents = connection.read(&select, params![filter.cursor.as_deref().unwrap_or_default(), limit + 1], agent)?;
    Ok(Page::of(agents, limit, |agent| agent.name.to_string()))
}

/// One agent.
pub(super) fn one(connection: &Connection, name: &Name) -> Result<Option<Agent>, Error> {
    Ok(connection.first(&format!("{SELECT} name = ?1"), params![name.as_str()], agent)?)
}

fn agent(row: &Row) -> Result<Agent, sql::Error> {
    Ok(Agent {
        name: row_name(row, 0)?,
        first_seen: Time(from_sql(row.get(1)?)),
        last_seen: Time(from_sql(row.get(2)?)),
        session: None,
        grey: None,
        held: row.get(3)?,
        displacements: row.get(4)?,
        epoch: row.get::<Option<[u8; 16]>>(5)?.map(|epoch| Epoch(epoch).to_string()),
        number: from_sql(row.get::<Option<i64>>(6)?.unwrap_or(0)),
        gaps: from_sql(row.get(7)?),
        principal: None,
    })
}
