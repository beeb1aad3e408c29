//! Epochs and watermarks: which of an agent's streams is live, how far it is in the database, and that a batch moves it
//! or has no effect.

use std::collections::HashSet;

use uuid::Uuid;
use wardline_proto::Name;
use wardline_proto::entry::{Alert, Entry};
use wardline_proto::health::{Priority, Severity};
use wardline_proto::message::{Digest, Epoch, Mark, Standing};

use super::entries::Refused;
use super::sql::{self, Connection, Row, params};
use super::writer::{Effects, Write};
use super::{Error, alerts, entries, from_sql, to_sql};

/// How many batch ends of a stream are remembered.
const REMEMBERED: i64 = 1024;

/// So many displacements by queues that did not know of each other, and the agent is held.
const DISPLACEMENTS: u32 = 2;

/// The monitor of the alert that an agent is held.
pub(super) const MONITOR: &str = "wardline/stream";

/// A stream's state in the database.
const LIVE: i64 = 0;
const DISPLACED: i64 = 1;
/// Displaced before it was ever live.
const LATE: i64 = 2;

/// A batch that was checked, to be written.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Whose stream it continues.
    pub agent: Name,
    /// Where the stream must stand for the batch to fit.
    pub from: Mark,
    /// Where it stands with the batch.
    pub to: Mark,
    /// The number of the first entry.
    pub first: u64,
    /// What the batch carries.
    pub entries: Vec<Entry>,
    /// When it came, milliseconds since 1970, the server's clock.
    pub received_at_ms: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the database.
    Committed,
    /// The stream does not stand where the batch begins, is not live, or is held. Nothing was written.
    Conflict,
}

/// How an agent's streams stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStreams {
    /// Nothing is taken until an operator releases the agent.
    pub held: bool,
    /// How often a queue was displaced by one that did not know of it.
    pub displacements: u32,
    /// The watermark of the live stream.
    pub live: Option<Mark>,
    /// The watermark and the standing of the epoch that was asked about; nothing when it is not known.
    pub known: Option<(Mark, Standing)>,
}

/// What became of the wish to open an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It was known before, or everything of the agent is held already. Nothing was changed.
    Known(Standing),
    /// Another epoch is live than the one that it was decided over: it is known now, and displaced from the beginning.
    Late,
    /// It is the live one now.
    Live {
        /// Where the stream stood that was live before.
        displaced: Option<Mark>,
    },
    /// It would have been the second of two queues that displace each other: from now on the agent is held.
    Held,
}

impl Opened {
    /// How the epoch stands.
    pub const fn standing(self) -> Standing {
        match self {
            Self::Known(standing) => standing,
            Self::Live { .. } => Standing::Live,
            Self::Late => Standing::Displaced,
            Self::Held => Standing::Held,
        }
    }
}

impl Write for Commit {
    type Answer = Outcome;

    fn about(&self) -> String {
        format!("a batch of {}", self.agent)
    }

    fn weight(&self) -> usize {
        self.entries.len() + 2
    }

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<Outcome, sql::Error> {
        // Beyond the database's integers two numbers would be taken for one.
        if self.from.epoch != self.to.epoch || i64::try_from(self.to.number).is_err() {
            return Ok(Outcome::Conflict);
        }
        let moved = connection.first(
            "UPDATE stream SET number = ?1, hash = ?2, commits = commits + 1
             WHERE agent = (SELECT id FROM agent WHERE name = ?3 AND held = 0) AND epoch = ?4
               AND number = ?5 AND hash = ?6 AND state = ?7
             RETURNING id, agent, commits",
            params![
                to_sql(self.to.number),
                &self.to.hash.0,
                self.agent.as_str(),
                &self.from.epoch.0,
                to_sql(self.from.number),
                &self.from.hash.0,
                LIVE
            ],
            |row| Ok((row.get::<i64>(0)?, row.get::<i64>(1)?, row.get::<i64>(2)?)),
        )?;
        let Some((stream, agent, commits)) = moved else { return Ok(Outcome::Conflict) };
        connection.execute(
            "INSERT INTO chain (stream, slot, number, hash) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (stream, slot) DO UPDATE SET number = excluded.number, hash = excluded.hash",
            params![stream, commits % REMEMBERED, to_sql(self.to.number), &self.to.hash.0],
        )?;
        entries::write(connection, effects, &entries::Source { agent, stream, commit: self })?;
        Ok(Outcome::Committed)
    }
}

/// The wish to open an epoch.
#[derive(Clone, Debug)]
pub struct Open {
    /// Whose.
    pub agent: Name,
    /// Which.
    pub epoch: Epoch,
    /// The epoch that the agent's queue wrote before.
    pub previous: Option<Epoch>,
    /// The epoch that was live when this one was decided on.
    pub over: Option<Epoch>,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

impl Write for Open {
    type Answer = Opened;

    fn about(&self) -> String {
        format!("the beginning of an epoch of {}", self.agent)
    }

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<Opened, sql::Error> {
        let now = to_sql(self.now_ms);
        connection.execute(
            "INSERT INTO agent (name, first_seen, last_seen) VALUES (?1, ?2, ?2) ON CONFLICT DO NOTHING",
            params![self.agent.as_str(), now],
        )?;
        let agent = Agent::load(connection, &self.agent, connection.for_update())?.ok_or(sql::Error::Vanished)?;

        if let Some(stream) = Stream::load(connection, agent.id, self.epoch)? {
            return Ok(Opened::Known(agent.standing(&stream)));
        }
        if agent.held {
            return Ok(Opened::Known(Standing::Held));
        }
        let Some(live) = Stream::live(connection, agent.id)? else {
            self.insert(connection, agent.id, LIVE)?;
            return Ok(Opened::Live { displaced: None });
        };
        // What was decided over another epoch than the live one may hold what the live one has delivered: its queue must
        // look again. So must a new queue, which knows of none.
        if self.over != Some(live.mark.epoch) {
            self.insert(connection, agent.id, LATE)?;
            return Ok(Opened::Late);
        }
        // A queue that was rolled back goes on from the live epoch, and one that was late from an epoch that never was.
        // One that goes on from another was itself displaced, by a queue that it knows nothing of.
        let before = match self.previous {
            Some(previous) => Stream::load(connection, agent.id, previous)?,
            None => None,
        };
        let foreign = before.is_some_and(|before| before.state == DISPLACED);
        let displacements = agent.displacements + u32::from(foreign);
        let held = foreign && displacements >= DISPLACEMENTS;
        connection.execute(
            "UPDATE agent SET displacements = ?1, held = ?2 WHERE id = ?3",
            params![displacements, held, agent.id],
        )?;
        if held {
            self.insert(connection, agent.id, DISPLACED)?;
            let alert = self.alert();
            match alerts::raise(connection, agent.id, &alert, now, now) {
                Ok(new) => effects.raised.extend(new),
                Err(Refused::Failed(error)) => return Err(error),
                // Not of an alert that is made here.
                Err(Refused::Senseless(_)) => {}
            }
            return Ok(Opened::Held);
        }
        connection.execute("UPDATE stream SET state = ?1 WHERE id = ?2", params![DISPLACED, live.id])?;
        self.insert(connection, agent.id, LIVE)?;
        Ok(Opened::Live { displaced: Some(live.mark) })
    }
}

impl Open {
    fn insert(&self, connection: &Connection, agent: i64, state: i64) -> Result<(), sql::Error> {
        let start = Mark::start(self.epoch);
        let insert = "INSERT INTO stream (agent, epoch, previous, state, number, hash, opened_at)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let stream = params![
            agent,
            &self.epoch.0,
            self.previous.as_ref().map(|epoch| &epoch.0),
            state,
            to_sql(start.number),
            &start.hash.0,
            to_sql(self.now_ms)
        ];
        connection.execute(insert, stream).map(drop)
    }

    fn alert(&self) -> Alert {
        Alert {
            id: Uuid::now_v7().into_bytes().to_vec().into(),
            monitor: MONITOR.into(),
            severity: Severity::Critical.number(),
            priority: Priority::High.number(),
            text: format!("two queues of {} displace each other; both are held", self.agent),
            detail: format!(
                "The same identity key is in use on two hosts. Nothing of either is stored until an operator gives one \
                 of them a name and keys of its own and runs `wardline agent release {}`.",
                self.agent
            ),
        }
    }
}

/// How an agent's streams stand.
pub(super) fn of_agent(connection: &Connection, name: &Name, epoch: Epoch) -> Result<AgentStreams, Error> {
    let Some(agent) = Agent::load(connection, name, "")? else { return Ok(AgentStreams::default()) };
    let known = Stream::load(connection, agent.id, epoch)?;
    Ok(AgentStreams {
        held: agent.held,
        displacements: agent.displacements,
        live: Stream::live(connection, agent.id)?.map(|stream| stream.mark),
        known: known.map(|stream| (stream.mark, agent.standing(&stream))),
    })
}

/// The newest of the points that the database knows.
pub(super) fn remembers(
    connection: &Connection,
    name: &Name,
    epoch: Epoch,
    points: &[(u64, Digest)],
) -> Result<Option<Mark>, Error> {
    let Some(agent) = Agent::load(connection, name, "")? else { return Ok(None) };
    let Some(stream) = Stream::load(connection, agent.id, epoch)? else { return Ok(None) };
    let ends = "SELECT number, hash FROM chain WHERE stream = ?1";
    let ends = connection.read(ends, params![stream.id], |row| Ok((from_sql(row.get(0)?), Digest(row.get(1)?))))?;
    let mut known: HashSet<_> = ends.into_iter().collect();
    known.insert((stream.mark.number, stream.mark.hash));
    // The start is in every queue's past. It says something only while nothing behind it was forgotten: a queue that
    // was rolled back further than that must not be told that nothing of it has arrived.
    if i64::try_from(known.len()).unwrap_or(i64::MAX) < REMEMBERED {
        let start = Mark::start(epoch);
        known.insert((start.number, start.hash));
    }
    let newest = points.iter().filter(|point| known.contains(point)).max_by_key(|(number, _)| *number);
    Ok(newest.map(|&(number, hash)| Mark { epoch, number, hash }))
}

/// What the database says of an agent.
struct Agent {
    id: i64,
    held: bool,
    displacements: u32,
}

impl Agent {
    /// Reads it, `locked` for who will write it or not.
    fn load(connection: &Connection, name: &Name, locked: &str) -> Result<Option<Self>, sql::Error> {
        let select = format!("SELECT id, held, displacements FROM agent WHERE name = ?1{locked}");
        connection.first(&select, params![name.as_str()], |row| {
            Ok(Self { id: row.get(0)?, held: row.get(1)?, displacements: row.get(2)? })
        })
    }

    const fn standing(&self, stream: &Stream) -> Standing {
        match (self.held, stream.state) {
            (true, _) => Standing::Held,
            (false, LIVE) => Standing::Live,
            (false, _) => Standing::Displaced,
        }
    }
}

/// What the database says of a stream.
struct Stream {
    id: i64,
    state: i64,
    mark: Mark,
}

impl Stream {
    fn load(connection: &Connection, agent: i64, epoch: Epoch) -> Result<Option<Self>, sql::Error> {
        let select = "SELECT id, state, epoch, number, hash FROM stream WHERE agent = ?1 AND epoch = ?2";
        connection.first(select, params![agent, &epoch.0], Self::from_row)
    }

    fn live(connection: &Connection, agent: i64) -> Result<Option<Self>, sql::Error> {
        let select = "SELECT id, state, epoch, number, hash FROM stream WHERE agent = ?1 AND state = 0";
        connection.first(select, params![agent], Self::from_row)
    }

    fn from_row(row: &Row) -> Result<Self, sql::Error> {
        let mark = Mark { epoch: Epoch(row.get(2)?), number: from_sql(row.get(3)?), hash: Digest(row.get(4)?) };
        Ok(Self { id: row.get(0)?, state: row.get(1)?, mark })
    }
}
