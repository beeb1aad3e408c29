//! What was found to be withheld of agents, until it has come or will not come any more.

use wardline_proto::Name;
use wardline_proto::entry::Alert;
use wardline_proto::message::Epoch;

use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};
use super::{Error, from_sql, own_alerts, row_name, to_sql};

/// The monitor whose alerts say so.
pub const WITHHELD: &str = "wardline/withheld";

/// An agent of which something was missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Which.
    pub agent: Name,
    /// What became of it.
    pub fate: Fate,
}

/// What became of what was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is still.
    Missing,
    /// It is in the database, all of it.
    Come,
    /// It will not be: its stream stood there, and another one is live.
    Ended(u64),
}

/// All of them.
pub(super) fn list(connection: &Connection) -> Result<Vec<Waited>, Error> {
    let select = "SELECT agent.name, withheld.number, stream.number, stream.state
                  FROM withheld JOIN agent ON agent.id = withheld.agent
                  JOIN stream ON stream.agent = withheld.agent AND stream.epoch = withheld.epoch";
    Ok(connection.read(select, params![], |row| {
        let (number, taken): (i64, i64) = (row.get(1)?, row.get(2)?);
        let fate = match row.get::<i64>(3)? {
            _ if taken >= number => Fate::Come,
            0 => Fate::Missing,
            _ => Fate::Ended(from_sql(taken)),
        };
        Ok(Waited { agent: row_name(row, 0)?, fate })
    })?)
}

/// That everything up to a number of an agent's live stream is missing, with an alert; not when something of it is already,
/// or what was overtaken has come by now.
pub(super) struct Withhold {
    pub(super) agent: Name,
    pub(super) epoch: Epoch,
    pub(super) overtaken: u64,
    pub(super) upto: u64,
    pub(super) alert: Alert,
    pub(super) now_ms: u64,
}

impl Write for Withhold {
    /// Whether it was said.
    type Answer = bool;

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<bool, sql::Error> {
        let select = "SELECT agent.id FROM agent JOIN stream ON stream.agent = agent.id
                      WHERE agent.name = ?1 AND stream.epoch = ?2 AND stream.state = 0 AND stream.number < ?3";
        let stream = params![self.agent.as_str(), &self.epoch.0, to_sql(self.overtaken)];
        let Some(agent) = connection.first(select, stream, |row| row.get::<i64>(0))? else { return Ok(false) };
        let insert = "INSERT INTO withheld (agent, epoch, number) VALUES (?1, ?2, ?3)
                      ON CONFLICT (agent) DO NOTHING RETURNING agent";
        let row = params![agent, &self.epoch.0, to_sql(self.upto)];
        let new = connection.first(insert, row, |row| row.get::<i64>(0))?.is_some();
        if new {
            own_alerts::raise(connection, effects, &self.agent, &self.alert, self.now_ms)?;
        }
        Ok(new)
    }
}

/// Nothing is missing any more.
pub(super) struct Over {
    pub(super) agent: Name,
    pub(super) text: String,
    pub(super) now_ms: u64,
}

impl Write for Over {
    type Answer = ();

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        let delete = "DELETE FROM withheld WHERE agent = (SELECT id FROM agent WHERE name = ?1)";
        connection.execute(delete, params![self.agent.as_str()])?;
        let Self { agent, text, now_ms } = self;
        own_alerts::Close { agent: agent.clone(), monitor: WITHHELD, text: text.clone(), now_ms: *now_ms }
            .write(connection, effects)
    }
}
