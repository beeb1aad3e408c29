//! The rows of what a batch carries. What makes no sense here is set aside as it came, and the stream goes on.

use prost::Message as _;
use wardline_proto::entry::{Entry, Event, Gap, Performance, State, What};
use wardline_proto::event;
use wardline_proto::health::{Health, Severity};

use super::sql::{self, Connection, Values, params};
use super::streams::Commit;
use super::writer::Effects;
use super::{alerts, receipts, to_sql};

/// A batch and its place in the database.
pub(super) struct Source<'a> {
    pub(super) agent: i64,
    pub(super) stream: i64,
    pub(super) commit: &'a Commit,
}

/// Why an entry has no row of its own.
#[derive(Debug)]
pub(super) enum Refused {
    /// It makes no sense.
    Senseless(&'static str),
    /// The database did not take it.
    Failed(sql::Error),
}

impl From<&'static str> for Refused {
    fn from(reason: &'static str) -> Self {
        Self::Senseless(reason)
    }
}

impl From<sql::Error> for Refused {
    fn from(error: sql::Error) -> Self {
        Self::Failed(error)
    }
}

/// The most bytes of words by which rows are found: an index of PostgreSQL takes 2,700 in all.
const WORDS: usize = 2000;

/// Writes all entries of a batch.
pub(super) fn write(connection: &Connection, effects: &mut Effects, source: &Source<'_>) -> Result<(), sql::Error> {
    let received_at = to_sql(source.commit.received_at_ms);
    let mut number = source.commit.first;
    let mut first_refused = None;
    let mut refused = 0_u64;
    let mut rows = Rows { connection, effects, source, received_at, events: Vec::new() };
    for entry in &source.commit.entries {
        if let Err(reason) = connection.guarded(|| rows.write(number, entry)) {
            let reason = match reason {
                Refused::Senseless(reason) => reason.to_owned(),
                // About this entry alone. Trying it again would only hold up the stream for ever.
                Refused::Failed(error) if error.is_about_the_row() && connection.goes_on() => error.to_string(),
                Refused::Failed(error) => return Err(error),
            };
            rows.set_aside(number, entry, &reason)?;
            refused += 1;
            first_refused.get_or_insert((number, reason));
        }
        number = number.saturating_add(entry.numbers());
    }
    rows.insert_events()?;
    drop(rows);
    if let Some((number, mut reason)) = first_refused {
        // One event per batch: whoever sends nonsense does not fill the journal with it.
        if refused > 1 {
            reason = format!("{reason} (and {} more of its batch)", refused - 1);
        }
        effects.events.push(event::Event::EntrySetAside {
            agent: source.commit.agent.to_string(),
            number: number.to_string(),
            reason,
        });
    }
    Ok(())
}

/// Writes entries of one batch.
struct Rows<'a> {
    connection: &'a Connection,
    effects: &'a mut Effects,
    source: &'a Source<'a>,
    received_at: i64,
    /// By far the most entries are events: they are inserted together.
    events: Vec<(i64, &'a Event)>,
}

impl<'a> Rows<'a> {
    fn write(&mut self, number: u64, entry: &'a Entry) -> Result<(), Refused> {
        let at = to_sql(entry.at);
        match entry.what.as_ref().ok_or("it says nothing that this version knows")? {
            What::Event(event) => self.event(at, event),
            What::Alert(alert) => {
                let new = alerts::raise(self.connection, self.source.agent, alert, at, self.received_at)?;
                self.effects.raised.extend(new);
                Ok(())
            }
            What::Close(close) => alerts::close(self.connection, self.source.agent, close, at, self.received_at),
            What::State(state) => self.state(at, state),
            What::Performance(performance) => self.performance(at, performance),
            What::Gap(gap) => self.gap(number, gap),
            What::Receipt(receipt) => receipts::became(self.connection, self.source.commit.agent.as_str(), receipt, at),
        }
    }

    fn event(&mut self, at: i64, event: &'a Event) -> Result<(), Refused> {
        if event.id.len() != 16 {
            return Err("an id has 16 bytes".into());
        }
        Severity::from_number(event.severity).ok_or("its severity is not known")?;
        self.events.push((at, event));
        if self.connection.is_careful() { Ok(self.insert_events()?) } else { Ok(()) }
    }

    fn insert_events(&mut self) -> Result<(), sql::Error> {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return Ok(());
        }
        let columns = [
            ("agent", Values::Integers(vec![self.source.agent; events.len()])),
            ("at", Values::Integers(events.iter().map(|(at, _)| *at).collect())),
            ("severity", Values::Integers(events.iter().map(|(_, event)| event.severity.into()).collect())),
            ("id", Values::Blobs(events.iter().map(|(_, event)| &event.id[..]).collect())),
            ("source", Values::Texts(events.iter().map(|(_, event)| event.source.as_str()).collect())),
            ("text", Values::Texts(events.iter().map(|(_, event)| event.text.as_str()).collect())),
        ];
        self.connection.insert("event", &columns)
    }

    fn state(&self, at: i64, state: &State) -> Result<(), Refused> {
        Health::from_number(state.health).ok_or("its health is not known")?;
        short(&[&state.monitor])?;
        self.connection.execute(
            "INSERT INTO state (agent, monitor, health, since, text) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (agent, monitor)
             DO UPDATE SET health = excluded.health, since = excluded.since, text = excluded.text",
            params![self.source.agent, &state.monitor, state.health, at, &state.text],
        )?;
        Ok(())
    }

    fn performance(&self, at: i64, performance: &Performance) -> Result<(), Refused> {
        // SQLite would store it as NULL.
        if performance.samples.iter().any(|sample| sample.value.is_nan()) {
            return Err("a sample is not a number".into());
        }
        let agent = self.source.agent;
        for sample in &performance.samples {
            short(&[&performance.source, &sample.label, &sample.unit])?;
        }
        let insert = "INSERT INTO sample (series, at, value)
                      SELECT id, ?5, ?6 FROM series WHERE agent = ?1 AND source = ?2 AND label = ?3 AND unit = ?4";
        for sample in &performance.samples {
            let sampled = params![agent, &performance.source, &sample.label, &sample.unit, at, sample.value];
            if self.connection.execute(insert, sampled)? == 0 {
                self.connection.execute(
                    "INSERT INTO series (agent, source, label, unit) VALUES (?1, ?2, ?3, ?4)",
                    params![agent, &performance.source, &sample.label, &sample.unit],
                )?;
                self.connection.execute(insert, sampled)?;
            }
        }
        Ok(())
    }

    fn gap(&self, number: u64, gap: &Gap) -> Result<(), Refused> {
        let count = gap.count();
        if count == 0 {
            return Err("a gap of nothing".into());
        }
        let insert = "INSERT INTO gap (agent, stream, first, last, reason, performance, events, states, alerts,
                                       unknown, found_from, found_to, received_at)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
        let gap = params![
            self.source.agent,
            self.source.stream,
            to_sql(number),
            to_sql(number.saturating_add(count - 1)),
            gap.reason,
            to_sql(gap.performance),
            to_sql(gap.events),
            to_sql(gap.states),
            to_sql(gap.alerts),
            to_sql(gap.unknown),
            to_sql(gap.from),
            to_sql(gap.to),
            self.received_at
        ];
        self.connection.execute(insert, gap)?;
        Ok(())
    }

    fn set_aside(&self, number: u64, entry: &Entry, reason: &str) -> Result<(), sql::Error> {
        let insert = "INSERT INTO set_aside (stream, number, reason, entry, received_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        let entry = entry.encode_to_vec();
        let row = params![self.source.stream, to_sql(number), reason, &entry, self.received_at];
        self.connection.execute(insert, row).map(drop)
    }
}

/// Words that rows are found by must fit into an index.
fn short(words: &[&str]) -> Result<(), &'static str> {
    // As they are stored: for a NUL three bytes may stand.
    let bytes: usize = words.iter().map(|word| word.len() + 2 * word.matches('\0').count()).sum();
    if bytes > WORDS { Err("its names are too long to be kept") } else { Ok(()) }
}
