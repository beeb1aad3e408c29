//! What is missing.

use wardline_proto::message::Epoch;
use wardline_sdk::{Gap, GapFilter, GapReason, Page, Time, page};

use super::sql::{self, Connection, Param, Row, params};
use super::{Error, from_sql, row_name};

/// Lists gap records, newest first.
pub(super) fn list(connection: &Connection, filter: &GapFilter) -> Result<Page<Gap>, Error> {
    let before: i64 = match &filter.cursor {
        Some(cursor) => cursor.parse().map_err(|_| Error::Cursor(cursor.clone()))?,
        None => i64::MAX,
    };
    let limit = page::limit(filter.limit);
    let mut sql =
        "SELECT gap.id, (SELECT name FROM agent WHERE agent.id = gap.agent), stream.epoch, first, last, reason,
                          performance, events, states, alerts, unknown, found_from, found_to, received_at
                   FROM gap JOIN stream ON stream.id = gap.stream WHERE gap.id < ?1"
            .to_owned();
    let mut values: Vec<Param<'_>> = params![before, limit + 1].to_vec();
    if let Some(agent) = &filter.agent {
        sql += " AND gap.agent = (SELECT id FROM agent WHERE name = ?3)";
        values.push(agent.as_str().into());
    }
    sql += " ORDER BY gap.id DESC LIMIT ?2";
    let gaps = connection.read(&sql, &values, |row| Ok((row.get::<i64>(0)?, gap(row)?)))?;
    let page = Page::of(gaps, limit, |(id, _)| id.to_string());
    Ok(Page { items: page.items.into_iter().map(|(_, gap)| gap).collect(), next: page.next })
}

fn gap(row: &Row) -> Result<Gap, sql::Error> {
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
