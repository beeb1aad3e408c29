//! Which database it is, how it is set, and what of that an operator should change.

use std::collections::BTreeMap;

use wardline_sdk::{Database, Standby};

use super::sql::{self, Connection, Engine, params};
use super::{Error, Location, database, from_sql};

/// Settings, as name and value.
type Set = BTreeMap<String, String>;

pub(super) fn of_database(connection: &Connection, location: &Location) -> Result<Database, Error> {
    let (engine, about, settings) = match connection.engine() {
        // How it is set is not left to anybody.
        Engine::Sqlite(_) => ("SQLite", "SELECT sqlite_version(), 'file'", "SELECT '', '' LIMIT 0"),
        Engine::Postgres(_) => (
            "PostgreSQL",
            "SELECT current_setting('server_version'), coalesce(host(inet_server_addr()) || ':' || inet_server_port()
                    || ' by ' || coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()), 'no TLS'),
                    'unix socket')",
            "SELECT name, setting FROM pg_settings WHERE name IN ('data_checksums', 'fsync', 'full_page_writes',
                    'synchronous_commit', 'synchronous_standby_names')",
        ),
    };
    let pair = |row: &sql::Row| Ok((row.get::<String>(0)?, row.get::<String>(1)?));
    let (version, way) = connection.first(about, params![], pair)?.ok_or(sql::Error::Vanished)?;
    let settings: Set = connection.read(settings, params![], pair)?.into_iter().collect();
    let standbys = standbys(connection)?;
    Ok(Database {
        engine: engine.into(),
        version,
        place: location.to_string(),
        way,
        schema: from_sql(database::schema(connection)?) as u32,
        newest_schema: database::known(),
        bytes: from_sql(connection.bytes()?),
        warnings: warnings(&settings, &standbys),
        settings,
        standbys,
    })
}

fn standbys(connection: &Connection) -> Result<Vec<Standby>, sql::Error> {
    if matches!(connection.engine(), Engine::Sqlite(_)) {
        return Ok(Vec::new());
    }
    // Also whoever only makes a copy is in that view.
    let select = "SELECT application_name, host(client_addr), state, sync_state,
                         pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint
                  FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup' ORDER BY application_name, pid";
    connection.read(select, params![], |row| {
        Ok(Standby {
            name: row.get(0)?,
            address: row.get(1)?,
            state: row.get(2)?,
            commits: row.get(3)?,
            behind: row.get(4)?,
        })
    })
}

/// What keeps a database from keeping what it has said to keep.
fn warnings(settings: &Set, standbys: &[Standby]) -> Vec<String> {
    let off = |name: &str| settings.get(name).is_some_and(|value| value == "off");
    let mut warnings = Vec::new();
    for (name, what) in [
        ("fsync", "a power cut may take what was acknowledged, or all of the database"),
        ("full_page_writes", "a power cut may leave half of a page"),
    ] {
        if off(name) {
            warnings.push(format!("{name} is off: {what}; `ALTER SYSTEM SET {name} = on`, `SELECT pg_reload_conf()`"));
        }
    }
    if off("data_checksums") {
        warnings.push(
            "data_checksums is off: what a disk has changed is taken for good; stop PostgreSQL and run `pg_checksums \
             --enable`"
                .into(),
        );
    }
    let names = settings.get("synchronous_standby_names").map_or("", String::as_str);
    let is = |standby: &Standby, words: &[&str]| standby.commits.as_deref().is_some_and(|word| words.contains(&word));
    let waits = standbys.iter().any(|standby| is(standby, &["sync", "quorum"]));
    for standby in standbys.iter().filter(|standby| !is(standby, &["sync", "quorum"])) {
        let name = &standby.name;
        warnings.push(if standby.commits.is_none() {
            format!("how standby {name} follows is not shown to this role: `GRANT pg_monitor TO` it")
        } else if waits {
            format!("standby {name} is asynchronous, and others are not: promote one of those")
        } else {
            format!(
                "standby {name} is asynchronous: what was acknowledged last is gone when it is promoted, and without an \
                 entry of the trust log servers stop (40065); `ALTER SYSTEM SET synchronous_standby_names = '*'`, \
                 `SELECT pg_reload_conf()`"
            )
        });
    }
    // Who may not see how they follow, cannot say that nobody is waited for.
    if !names.is_empty() && !waits && standbys.iter().all(|standby| standby.commits.is_some()) {
        warnings.push(format!("no standby of synchronous_standby_names ({names}) is there: commits wait until one is"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warned(settings: &[(&str, &str)], standbys: &[(&str, Option<&str>)]) -> Vec<String> {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let standby = |(name, commits): &(&str, Option<&str>)| Standby {
            name: (*name).into(),
            address: None,
            state: None,
            commits: commits.map(str::to_owned),
            behind: None,
        };
        warnings(&settings, &standbys.iter().map(standby).collect::<Vec<_>>())
    }

    #[track_caller]
    fn assert_warned(warned: &[String], expected: &[&str]) {
        let fits = |(warning, beginning): (&String, &&str)| warning.starts_with(beginning);
        assert!(warned.len() == expected.len() && warned.iter().zip(expected).all(fits), "{warned:?}");
    }

    #[test]
    fn what_may_be_lost_is_warned_of_and_nothing_else() {
        let (sync, none) = (("synchronous_standby_names", "*"), ("synchronous_standby_names", ""));
        let good = [("data_checksums", "on"), ("fsync", "on"), ("full_page_writes", "on")];
        assert_warned(&warned(&good, &[]), &[]);
        let bad = [("data_checksums", "off"), ("fsync", "off"), ("full_page_writes", "off")];
        assert_warned(&warned(&bad, &[]), &["fsync is off", "full_page_writes is off", "data_checksums is off"]);
        for waited_for in ["sync", "quorum"] {
            assert_warned(&warned(&[sync], &[("a", Some(waited_for))]), &[]);
        }
        assert_warned(&warned(&[none], &[("a", Some("async"))]), &["standby a is asynchronous: what was"]);
        let two = [("a", Some("sync")), ("b", Some("potential"))];
        assert_warned(&warned(&[sync], &two), &["standby b is asynchronous, and others"]);
        assert_warned(&warned(&[sync], &[]), &["no standby of synchronous_standby_names (*)"]);
        let other = [("a", Some("async"))];
        assert_warned(&warned(&[sync], &other), &["standby a is asynchronous: what", "no standby of"]);
        assert_warned(&warned(&[sync], &[("a", None)]), &["how standby a follows"]);
    }
}
