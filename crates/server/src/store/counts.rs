//! How much there is.

use super::sql::Connection;
use super::{Error, database, from_sql};

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The version of the schema.
    pub schema: u32,
    /// How large the database is, bytes, without its write-ahead log.
    pub bytes: u64,
    /// How many agents were ever heard.
    pub agents: u64,
    /// How many of them are held.
    pub held: u64,
    /// How many alerts are open.
    pub alerts_open: u64,
    /// How many events there are.
    pub events: u64,
    /// How many gap records.
    pub gaps: u64,
    /// How many entries were set aside.
    pub set_aside: u64,
}

pub(super) fn of_database(connection: &Connection) -> Result<Counts, Error> {
    let number = |sql| connection.number(sql).map(from_sql);
    Ok(Counts {
        schema: from_sql(database::schema(connection)?) as u32,
        bytes: from_sql(connection.bytes()?),
        agents: number("SELECT count(*) FROM agent")?,
        held: number("SELECT count(*) FROM agent WHERE held <> 0")?,
        alerts_open: number("SELECT count(*) FROM alert WHERE state <> 255")?,
        // Numbers have no holes but those of what was rolled back; counting would read every page.
        events: number("SELECT coalesce(max(number), 0) FROM event")?,
        gaps: number("SELECT count(*) FROM gap")?,
        set_aside: number("SELECT count(*) FROM set_aside")?,
    })
}
