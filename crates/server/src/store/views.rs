//! The tables that show what the trust log says: kept up with every entry, compared with the log again and again, and put
//! right. Nothing decides by them.

use std::collections::BTreeMap;

use wardline_proto::Name;
use wardline_proto::event::Event;
use wardline_proto::trust::Fact;
use wardline_secrets::view::{Member, Token, View};

use super::sql::{self, Connection, Param, Value, params};
use super::writer::{Effects, Write};
use super::{accounts, log, packs, receipts, to_sql};

/// A table: its name, and its columns, of which the first is the key.
struct Table {
    name: &'static str,
    key: &'static str,
    columns: &'static str,
}

const MEMBER: Table = Table {
    name: "member",
    key: "name",
    columns: "name, role, identity, parents, token, joined_at, certificate, not_after, sealing",
};

const TOKEN: Table =
    Table { name: "token", key: "id", columns: "id, key, role, name, uses, used, expires, parents, revoked" };

/// A row by its key's bytes.
type Rows = BTreeMap<Vec<u8>, Vec<Value>>;

fn joined(names: &[Name]) -> Value {
    Value::Text(names.iter().map(Name::as_str).collect::<Vec<_>>().join(" "))
}

fn member(member: &Member) -> Vec<Value> {
    let newest = member.certificates.last();
    vec![
        Value::Text(member.name.to_string()),
        Value::Text(member.role.to_string()),
        Value::Blob(member.identity.spki()),
        joined(&member.parents),
        member.token.map_or(Value::Null, |id| Value::Blob(id.to_vec())),
        Value::Integer(to_sql(member.joined_at)),
        newest.map_or(Value::Null, |newest| Value::Blob(newest.hash.0.to_vec())),
        newest.map_or(Value::Null, |newest| Value::Integer(to_sql(newest.not_after))),
        member.sealing.as_ref().map_or(Value::Null, |sealing| Value::Blob(sealing.certificate.id().0.to_vec())),
    ]
}

fn token(id: &[u8; 16], token: &Token) -> Vec<Value> {
    vec![
        Value::Blob(id.to_vec()),
        Value::Blob(token.key.to_vec()),
        Value::Text(token.role.to_string()),
        Value::Text(token.name.clone()),
        Value::Integer(token.uses.into()),
        Value::Integer(token.used.into()),
        Value::Integer(to_sql(token.expires)),
        joined(&token.parents),
        Value::Integer(token.revoked.into()),
    ]
}

fn members(view: &View) -> Rows {
    view.members().map(|m| (m.name.as_str().as_bytes().to_vec(), member(m))).collect()
}

fn tokens(view: &View) -> Rows {
    view.tokens().map(|(id, t)| (id.to_vec(), token(id, t))).collect()
}

impl Table {
    /// What is in it.
    fn rows(&self, connection: &Connection) -> Result<Rows, sql::Error> {
        let rows = connection.query(&format!("SELECT {} FROM {}", self.columns, self.name), params![])?;
        let rows = rows.into_iter().map(|sql::Row(values)| {
            let key = match values.first() {
                Some(Value::Text(text)) => text.clone().into_bytes(),
                Some(Value::Blob(bytes)) => bytes.clone(),
                _ => Vec::new(),
            };
            (key, values)
        });
        Ok(rows.collect())
    }

    fn put(&self, connection: &Connection, row: &[Value]) -> Result<(), sql::Error> {
        let Self { name, key, columns } = self;
        let places: Vec<_> = (1..=row.len()).map(|place| format!("?{place}")).collect();
        let changes: Vec<_> = columns.split(", ").map(|column| format!("{column} = excluded.{column}")).collect();
        let (places, changes) = (places.join(", "), changes.join(", "));
        let put =
            format!("INSERT INTO {name} ({columns}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {changes}");
        let row: Vec<Param<'_>> = row.iter().map(Value::param).collect();
        connection.execute(&put, &row).map(drop)
    }

    fn delete(&self, connection: &Connection, key: &Value) -> Result<(), sql::Error> {
        let delete = format!("DELETE FROM {} WHERE {} IS NOT DISTINCT FROM ?1", self.name, self.key);
        connection.execute(&delete, &[key.param()]).map(drop)
    }

    /// Puts right what does not say what it should; how many rows that were.
    fn rebuild(&self, connection: &Connection, expected: &Rows) -> Result<usize, sql::Error> {
        let found = self.rows(connection)?;
        let mut wrong = 0;
        for (key, row) in &found {
            if !expected.contains_key(key) {
                row.first().map_or(Ok(()), |key| self.delete(connection, key))?;
                wrong += 1;
            }
        }
        for (key, row) in expected {
            if found.get(key) != Some(row) {
                self.put(connection, row)?;
                wrong += 1;
            }
        }
        Ok(wrong)
    }
}

/// Puts the tables right: an event for each that was wrong.
fn rebuild(connection: &Connection, view: &View) -> Result<Vec<Event>, sql::Error> {
    let mut events = Vec::new();
    for (table, expected) in [(MEMBER, members(view)), (TOKEN, tokens(view))] {
        let wrong = table.rebuild(connection, &expected)?;
        if wrong > 0 {
            let rows = if wrong == 1 { "1 row".to_owned() } else { format!("{wrong} rows") };
            events.push(Event::RowsRebuilt { table: table.name.into(), rows });
        }
    }
    Ok(events)
}

/// Brings up to date what these facts, which the view knows already, are about.
pub(super) fn refresh(connection: &Connection, view: &View, facts: &[Fact]) -> Result<(), sql::Error> {
    let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok();
    for fact in facts {
        let (name, id) = match fact {
            Fact::Member(member) => (Some(&member.name), id(&member.token)),
            Fact::Removed(removed) => {
                // Whoever has the name later was given nothing yet.
                receipts::forget(connection, None, Some(&removed.name))?;
                (Some(&removed.name), None)
            }
            Fact::Issued(issued) => (Some(&issued.name), None),
            Fact::Sealing(sealing) => (Some(&sealing.name), None),
            Fact::AccountDeleted(deleted) => {
                accounts::delete(connection, &deleted.id)?;
                receipts::forget(connection, Some(&deleted.id), None)?;
                (None, None)
            }
            Fact::Revoked(revoked) if revoked.name.is_empty() => {
                MEMBER.rebuild(connection, &members(view))?;
                (None, None)
            }
            Fact::Revoked(revoked) => (Some(&revoked.name), None),
            Fact::Token(token) => (None, id(&token.id)),
            Fact::TokenRevoked(revoked) => (None, id(&revoked.id)),
            Fact::PackRemoved(removed) => {
                packs::delete(connection, &removed.name)?;
                (None, None)
            }
            // Its text, or secret, is written by whoever has it.
            Fact::Pack(_) | Fact::Account(_) => (None, None),
            Fact::Founded(_) | Fact::Issuer(_) | Fact::Duty(_) | Fact::Recovery(_) | Fact::Restored(_) => (None, None),
            Fact::Distribution(_) | Fact::Profile(_) | Fact::ProfileDeleted(_) | Fact::Binding(_) => (None, None),
        };
        if let Some(name) = name {
            match name.parse().ok().and_then(|name| view.member_named(&name)) {
                Some(known) => MEMBER.put(connection, &member(known))?,
                None => MEMBER.delete(connection, &Value::Text(name.clone()))?,
            }
        }
        if let Some((id, known)) = id.and_then(|id| Some((id, view.token(&id)?))) {
            TOKEN.put(connection, &token(&id, known))?;
        }
    }
    Ok(())
}

/// The wish that the tables say what the log says.
pub(super) struct Compare;

impl Write for Compare {
    type Answer = ();

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        // Nobody appends meanwhile: the tables would show what is no longer so.
        connection.lock("log")?;
        log::catch_up(connection, effects)?;
        effects.events.extend(rebuild(connection, &effects.view)?);
        Ok(())
    }
}
