//! Work that one of several servers does at a time: who holds it, in which epoch, and that nobody writes in an epoch that
//! is over. No clock of the database or of another server counts: who holds it counts its beat up, and who has seen the
//! same beat for too long by its own clock takes it over.

use wardline_proto::Name;

use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};

/// What was found of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Who holds it.
    pub holder: String,
    /// Which epoch it is; each holder begins one.
    pub epoch: i64,
    beat: i64,
}

impl Term {
    /// Of the only server, which holds everything.
    pub(super) fn alone(server: &Name) -> Self {
        Self { holder: server.to_string(), epoch: 0, beat: 0 }
    }
}

/// A look at a lease: one's own is renewed, and one that is over is taken.
pub(super) struct Look {
    pub(super) work: &'static str,
    pub(super) server: Name,
    /// What was found before.
    pub(super) seen: Option<Term>,
    /// Whether that was so for too long.
    pub(super) over: bool,
}

impl Write for Look {
    /// What was found, and whether it is this process's.
    type Answer = (Term, bool);

    fn write(&self, connection: &Connection, _: &mut Effects) -> Result<Self::Answer, sql::Error> {
        let (work, own) = (self.work, self.server.as_str());
        let insert =
            "INSERT INTO lease (work, holder, epoch, beat) VALUES (?1, ?2, 1, 0) ON CONFLICT (work) DO NOTHING";
        connection.execute(insert, params![work, own])?;
        let found = find(connection, work)?.ok_or(sql::Error::Vanished)?;
        let known = self.seen.as_ref();
        let same = known.is_some_and(|known| (known.holder.as_str(), known.epoch) == (own, found.epoch));
        let next = if found.holder == own && same {
            Term { beat: found.beat + 1, ..found }
        } else if found.holder == own && known.is_none() || self.over && known == Some(&found) {
            // Of a process that has ended, this server's own too, nothing is to come any more.
            Term { holder: own.into(), epoch: found.epoch + 1, beat: 0 }
        } else {
            // Under this server's own name too: a copy of it that runs somewhere else.
            return Ok((found, false));
        };
        let update = "UPDATE lease SET holder = ?2, epoch = ?3, beat = ?4 WHERE work = ?1";
        connection.execute(update, params![work, &next.holder, next.epoch, next.beat])?;
        Ok((next, true))
    }
}

/// The lease, which nobody else takes before the transaction ends.
fn find(connection: &Connection, work: &str) -> Result<Option<Term>, sql::Error> {
    let select = format!("SELECT holder, epoch, beat FROM lease WHERE work = ?1{}", connection.for_update());
    connection
        .first(&select, params![work], |row| Ok(Term { holder: row.get(0)?, epoch: row.get(1)?, beat: row.get(2)? }))
}

/// A write of whoever holds a lease: not done when its epoch is over.
pub(super) struct Under<W> {
    pub(super) work: &'static str,
    /// Nothing for the only server.
    pub(super) term: Option<Term>,
    pub(super) write: W,
}

impl<W: Write> Write for Under<W> {
    /// Nothing when it was not done.
    type Answer = Option<W::Answer>;

    fn weight(&self) -> usize {
        self.write.weight()
    }

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<Self::Answer, sql::Error> {
        if let Some(term) = &self.term {
            let found = find(connection, self.work)?;
            if found.is_none_or(|found| (&found.holder, found.epoch) != (&term.holder, term.epoch)) {
                return Ok(None);
            }
        }
        self.write.write(connection, effects).map(Some)
    }
}
