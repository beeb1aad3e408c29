//! What agents know of a trust log that this one does not continue: kept, and said.

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;
use wardline_proto::Name;
use wardline_proto::entry::Alert;
use wardline_proto::event::Event;
use wardline_proto::health::{Priority, Severity};
use wardline_secrets::head::Reach;

use super::log::Keeper;
use super::sql::{self, Connection, params};
use super::writer::{Effects, Write};
use super::{alerts, kept, own_alerts, to_sql};

/// Whose alerts these are.
const MONITOR: &str = "wardline.trust-log";

/// A head that an agent has shown. Its signature was checked.
pub(super) struct Claim {
    pub(super) keeper: Arc<Keeper>,
    pub(super) agent: Name,
    pub(super) shown: Reach,
    pub(super) now_ms: u64,
}

/// The file with the highest head that was shown.
pub(super) fn file(keeper: &Keeper) -> PathBuf {
    keeper.folder.join("claimed")
}

impl Write for Claim {
    type Answer = ();

    fn write(&self, connection: &Connection, effects: &mut Effects) -> Result<(), sql::Error> {
        let path = file(&self.keeper);
        let known = kept::read(&self.keeper.vault, &path).ok().flatten();
        if known.is_none_or(|known| known.version < self.shown.version)
            && let Err(error) = kept::write(&self.keeper.vault, &path, &self.shown)
        {
            let (path, reason) = (path.display().to_string(), error.to_string());
            effects.events.push(Event::StateFolderInUse { path, reason });
        }
        let alert = self.alert(&effects.view.reach());
        own_alerts::raise(connection, effects, &self.agent, &alert, self.now_ms)
    }
}

impl Claim {
    fn alert(&self, own: &Reach) -> Alert {
        Alert {
            id: Uuid::now_v7().into_bytes().to_vec().into(),
            monitor: MONITOR.into(),
            severity: Severity::Critical.number(),
            priority: Priority::High.number(),
            text: format!("{} knows a trust log that the server's does not continue", self.agent),
            detail: format!(
                "The agent has kept a head of {}, signed by a server of this group; the server has {own}. The database was \
                 rolled back or exchanged together with the file beside it: removals, revocations and packs may be \
                 missing. Find out who did that. If it was restored on purpose, stop the server and run \
                 `wardline-server accept-restore`.",
                self.shown
            ),
        }
    }
}

/// Closes all alerts of this.
pub(super) fn close(connection: &Connection, now_ms: u64, text: &str) -> Result<(), sql::Error> {
    let agents = "SELECT DISTINCT agent FROM alert WHERE monitor = ?1 AND state <> 255";
    let agents = connection.read(agents, params![MONITOR], |row| row.get::<i64>(0))?;
    agents.into_iter().try_for_each(|agent| alerts::close_all_of(connection, agent, MONITOR, to_sql(now_ms), text))
}
