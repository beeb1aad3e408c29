//! What is missing.

use rusqlite::{Connection, Row, ToSql};
use wardline_proto::message::Epoch;
use wardline_sdk::{Gap, GapFilter, GapReason, Page, Time, page};

use super::{Error, from_sql, row_name};

/// Lists gap records, newest first.
pub(super) fn list(connection: &Connection, filter: &GapFilter) -> Result<Page<Gap>, Error> {
    let before: i64 = match &filter.cursor {
        Some(cursor) => cursor.parse().map_err(|_| Error::Cursor(cursor.clone()))?,
        None => i64::MAX,
    };
    let limit = page::limit(filter.limit);
    let rows = limit + 1;
    let mut sql =
        "SELECT gap.id, (SELECT name FROM agent WHERE agent.id = gap.agent), stream.epoch, first, last, reason,
                          performance, events, states, alerts, unknown, found_from, found_to, received_at
                   FROM gap CROSS JOIN stream ON stream.id = gap.stream WHERE gap.id < ?"
            .to_owned();
    let mut values: Vec<&dyn ToSql> = vec![&before];
    let agent = filter.agent.as_ref().map(|name| name.as_str());
    if agent.is_some() {
        sql += " AND gap.agent = (SELECT id FROM agent WHERE name = ?)";
        values.push(&agent);
    }
    sql += " ORDER BY gap.id DESC LIMIT ?";
    values.push(&rows);
    let gaps = connection
        .prepare_cached(&sql)?
        .query_map(values.as_slice(), |row| Ok((row.get::<_, i64>(0)?, gap(row)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let page = Page::of(gaps, limit, |(id, _)| id.to_string());
    Ok(Page { items: page.items.into_iter().map(|(_, gap)| gap).collect(), next: page.next })
}

fn gap(row: &Row<'_>) -> rusqlite::Result<Gap> {
    let number = |index| row.get(index).map(from_sql);
    let time = |index| row.get(index).map(|at| (at != 0).then(|| Time(from_sql(at))));
    Ok(Gap {
        agent: row_name(row, 1)?,
        epoch: Epoch(row.get(2)?).to_string(),
        first: number(3)?,
        last: number(4)?,
        reason: GapReason::from_number(row.get(5)?),
        performance: number(6)?,
        events: number(7)?,
        states: number(8)?,
        alerts: number(9)?,
        unknown: number(10)?,
        from: time(11)?,
        to: time(12)?,
        received_at: Time(number(13)?),
    })
}
