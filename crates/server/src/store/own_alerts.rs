//! Alerts about agents that the server raises by itself: of each monitor one that is open, at most.

use wardline_proto::Name;
use wardline_proto::entry::Alert;

use super::entries::Refused;
use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};
use super::{alerts, to_sql};

/// Raises an alert about an agent, unless it has one of that monitor that is open, or was never heard.
pub(super) fn raise(
    connection: &Connection,
    effects: &mut Effects,
    agent: &Name,
    alert: &Alert,
    now_ms: u64,
) -> Result<(), sql::Error> {
    let open = "SELECT id, EXISTS (SELECT 1 FROM alert WHERE alert.agent = agent.id AND monitor = ?1 AND state <> 255)
                FROM agent WHERE name = ?2";
    let found = connection
        .first(open, params![&alert.monitor, agent.as_str()], |row| Ok((row.get::<i64>(0)?, row.get::<bool>(1)?)))?;
    let Some((agent, false)) = found else { return Ok(()) };
    let now = to_sql(now_ms);
    match alerts::raise(connection, agent, alert, now, now) {
        Ok(new) => effects.raised.extend(new),
        Err(Refused::Failed(error)) => return Err(error),
        // Not of an alert that is made here.
        Err(Refused::Senseless(_)) => {}
    }
    Ok(())
}

/// An alert about an agent, unless it has one of that monitor that is open.
pub(super) struct Raise {
    pub(super) agent: Name,
    pub(super) alert: Alert,
    pub(super) now_ms: u64,
}

impl Write for Raise {
    type Answer = ();

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        raise(connection, effects, &self.agent, &self.alert, self.now_ms)
    }
}

/// What is open of a monitor of an agent is over.
pub(super) struct Close {
    pub(super) agent: Name,
    pub(super) monitor: &'static str,
    pub(super) text: String,
    pub(super) now_ms: u64,
}

impl Write for Close {
    type Answer = ();

    fn write(&self, connection: &Connection, _: &mut Effects) -> Result<(), sql::Error> {
        let select = "SELECT id FROM agent WHERE name = ?1";
        match connection.first(select, params![self.agent.as_str()], |row| row.get::<i64>(0))? {
            Some(agent) => alerts::close_all_of(connection, agent, self.monitor, to_sql(self.now_ms), &self.text),
            None => Ok(()),
        }
    }
}
