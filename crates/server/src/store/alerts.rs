//! An alert's life: raised, said again, closed; and lists of alerts for whoever looks at them.

use uuid::Uuid;
use wardline_proto::entry::{self, Close};
use wardline_proto::health::{Priority, Severity, resolution};
use wardline_sdk::{Alert, AlertChange, AlertDetail, AlertFilter, Change, Page, Time, page};

use super::entries::Refused;
use super::sql::{self, Connection, Param, Row, params};
use super::{Error, from_sql, row_name, row_word};

/// What was found by the beginning of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Nothing begins so.
    Nothing,
    /// Just one.
    One(T),
    /// More than one begins so.
    Many,
}

/// How a change is written down.
const CHANGES: [Change; 4] = [Change::Raised, Change::Repeated, Change::Reopened, Change::Closed];

/// An alert as far as its next change depends on it.
struct Known {
    number: i64,
    agent: i64,
    severity: u32,
    state: u8,
}

/// A monitor became worse. An alert that is there already is said again, and is open again if it had been closed. Gives
/// the id of a new one.
pub(super) fn raise(
    connection: &Connection,
    agent: i64,
    alert: &entry::Alert,
    at: i64,
    received_at: i64,
) -> Result<Option<Uuid>, Refused> {
    let id = Uuid::from_slice(&alert.id).map_err(|_| "an id has 16 bytes")?;
    Severity::from_number(alert.severity).ok_or("its severity is not known")?;
    Priority::from_number(alert.priority).ok_or("its priority is not known")?;
    let Some(known) = look(connection, &id)? else {
        let insert = "INSERT INTO alert (id, agent, monitor, severity, priority, text, detail, state, repeat_count,
                                         raised_at, modified_at)
                      VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?9) RETURNING number";
        let new = params![
            id.as_bytes(),
            agent,
            &alert.monitor,
            alert.severity,
            alert.priority,
            &alert.text,
            &alert.detail,
            resolution::NEW,
            at
        ];
        let number = connection.first(insert, new, |row| row.get(0))?.ok_or(sql::Error::Vanished)?;
        let known = Known { number, agent, severity: alert.severity, state: resolution::NEW };
        note(connection, &known, Change::Raised, at, received_at, &alert.text)?;
        return Ok(Some(id));
    };
    // An id is no secret: another agent's alert is not to be changed by knowing it.
    if known.agent != agent {
        return Err("its id is that of another agent's alert".into());
    }
    let (change, state) = match known.state {
        resolution::CLOSED => (Change::Reopened, resolution::NEW),
        state => (Change::Repeated, state),
    };
    connection.execute(
        "UPDATE alert SET severity = ?2, priority = ?3, text = ?4, detail = ?5, state = ?6, modified_at = ?7,
                          closed_at = NULL, repeat_count = repeat_count + 1
         WHERE number = ?1",
        params![known.number, alert.severity, alert.priority, &alert.text, &alert.detail, state, at],
    )?;
    let known = Known { severity: alert.severity, state, ..known };
    note(connection, &known, change, at, received_at, &alert.text)?;
    Ok(None)
}

/// A monitor is healthy again. Closing what is closed changes nothing.
pub(super) fn close(
    connection: &Connection,
    agent: i64,
    close: &Close,
    at: i64,
    received_at: i64,
) -> Result<(), Refused> {
    let id = Uuid::from_slice(&close.id).map_err(|_| "an id has 16 bytes")?;
    let known = look(connection, &id)?.filter(|known| known.agent == agent);
    let known = known.ok_or("it closes an alert that is not here")?;
    if known.state != resolution::CLOSED {
        shut(connection, known, at, received_at, &close.text)?;
    }
    Ok(())
}

/// Closes what is open of one monitor of an agent.
pub(super) fn close_all_of(
    connection: &Connection,
    agent: i64,
    monitor: &str,
    now: i64,
    text: &str,
) -> Result<(), sql::Error> {
    let open = "SELECT number, agent, severity, state FROM alert WHERE agent = ?1 AND monitor = ?2 AND state <> 255";
    let open = connection.read(open, params![agent, monitor], Known::from_row)?;
    open.into_iter().try_for_each(|known| shut(connection, known, now, now, text))
}

fn shut(connection: &Connection, known: Known, at: i64, received_at: i64, text: &str) -> Result<(), sql::Error> {
    connection.execute(
        "UPDATE alert SET state = ?2, modified_at = ?3, closed_at = ?3 WHERE number = ?1",
        params![known.number, resolution::CLOSED, at],
    )?;
    let known = Known { state: resolution::CLOSED, ..known };
    note(connection, &known, Change::Closed, at, received_at, text)
}

fn look(connection: &Connection, id: &Uuid) -> Result<Option<Known>, sql::Error> {
    let select = format!("SELECT number, agent, severity, state FROM alert WHERE id = ?1{}", connection.for_update());
    connection.first(&select, params![id.as_bytes()], Known::from_row)
}

impl Known {
    fn from_row(row: &Row) -> Result<Self, sql::Error> {
        Ok(Self { number: row.get(0)?, agent: row.get(1)?, severity: row.get(2)?, state: row.get(3)? })
    }
}

/// Writes a change into the history, with the alert as it is from then on.
fn note(
    connection: &Connection,
    alert: &Known,
    change: Change,
    at: i64,
    received_at: i64,
    text: &str,
) -> Result<(), sql::Error> {
    let change = CHANGES.iter().position(|known| *known == change).unwrap_or_default() as i64;
    connection
        .execute(
            "INSERT INTO alert_history (alert, step, change, at, received_at, severity, state, text)
             SELECT ?1, coalesce(max(step), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7 FROM alert_history WHERE alert = ?1",
            params![alert.number, change, at, received_at, alert.severity, alert.state, text],
        )
        .map(drop)
}

/// What a list shows of an alert.
const COLUMNS: &str = "id, (SELECT name FROM agent WHERE agent.id = alert.agent), monitor, severity, priority, state, \
                       text, repeat_count, raised_at, modified_at, closed_at";

/// Lists alerts, newest first.
pub(super) fn list(connection: &Connection, filter: &AlertFilter) -> Result<Page<Alert>, Error> {
    let before = match &filter.cursor {
        Some(cursor) => cursor.parse().map_err(|_| Error::Cursor(cursor.clone()))?,
        None => Uuid::max(),
    };
    let limit = page::limit(filter.limit);
    let mut sql = format!("SELECT {COLUMNS} FROM alert WHERE id < ?1");
    let mut values: Vec<Param<'_>> = params![before.as_bytes(), limit + 1].to_vec();
    if !filter.all {
        sql += " AND state <> 255";
    }
    if let Some(agent) = &filter.agent {
        sql += " AND agent = (SELECT id FROM agent WHERE name = ?3)";
        values.push(agent.as_str().into());
    }
    sql += " ORDER BY id DESC LIMIT ?2";
    let alerts = connection.read(&sql, &values, alert)?;
    Ok(Page::of(alerts, limit, |alert| alert.id.to_string()))
}

/// The alert whose id begins with `prefix`, and what became of it.
pub(super) fn find(connection: &Connection, prefix: &str) -> Result<Found<AlertDetail>, Error> {
    let Some((low, high)) = range(prefix) else { return Ok(Found::Nothing) };
    let select = format!("SELECT {COLUMNS}, number, detail FROM alert WHERE id BETWEEN ?1 AND ?2 LIMIT 2");
    let found = connection
        .read(&select, params![&low, &high], |row| Ok((alert(row)?, row.get::<i64>(11)?, row.get::<String>(12)?)))?;
    if found.len() > 1 {
        return Ok(Found::Many);
    }
    let Some((alert, number, detail)) = found.into_iter().next() else { return Ok(Found::Nothing) };
    let select =
        "SELECT change, at, received_at, severity, state, text FROM alert_history WHERE alert = ?1 ORDER BY step";
    let history = connection.read(select, params![number], change)?;
    Ok(Found::One(AlertDetail { alert, detail, history }))
}

/// The first and the last id that begin with these hexadecimal digits.
fn range(prefix: &str) -> Option<([u8; 16], [u8; 16])> {
    let digits: String = prefix.chars().filter(|c| *c != '-').collect();
    if digits.is_empty() || digits.len() > 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = |digits: String| u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes);
    Some((bytes(format!("{digits:0<32}"))?, bytes(format!("{digits:f<32}"))?))
}

fn alert(row: &Row) -> Result<Alert, sql::Error> {
    Ok(Alert {
        id: Uuid::from_bytes(row.get(0)?),
        agent: row_name(row, 1)?,
        monitor: row.get(2)?,
        severity: row_word(row, 3, Severity::from_number)?,
        priority: row_word(row, 4, Priority::from_number)?,
        state: row.get(5)?,
        text: row.get(6)?,
        repeat_count: row.get(7)?,
        raised_at: Time(from_sql(row.get(8)?)),
        modified_at: Time(from_sql(row.get(9)?)),
        closed_at: row.get::<Option<i64>>(10)?.map(|at| Time(from_sql(at))),
    })
}

fn change(row: &Row) -> Result<AlertChange, sql::Error> {
    Ok(AlertChange {
        change: row_word(row, 0, |number| CHANGES.get(number as usize).copied())?,
        at: Time(from_sql(row.get(1)?)),
        received_at: Time(from_sql(row.get(2)?)),
        severity: row_word(row, 3, Severity::from_number)?,
        state: row.get(4)?,
        text: row.get(5)?,
    })
}
