//! A database that was restored on purpose: the trust log goes on from what is there, and says what is given up.

use std::path::Path;
use std::sync::Arc;

use wardline_connector::now_ms;
use wardline_proto::trust::{self, Fact};
use wardline_secrets::head::Reach;
use wardline_secrets::view::{Unsound, View};

use super::database::Location;
use super::log::{Act, Keeper, replay};
use super::sql::{self, Connection};
use super::writer::{Effects, Write as _};
use super::{OpenError, claims, database, kept};

/// A database whose trust log does not continue what is known of it.
pub struct Restoring {
    location: Location,
    connection: Connection,
    keeper: Arc<Keeper>,
    view: Arc<View>,
    lost: Reach,
}

impl Restoring {
    /// Looks at a database that nobody has open. Nothing when its log continues all that this server and agents know of
    /// it.
    ///
    /// # Errors
    /// As for [`super::Store::open`], but for a log that was rolled back.
    pub fn open(location: Location, keeper: Keeper) -> Result<Option<Self>, OpenError> {
        let connection = database::create_or_open(&location)?;
        let view = replay(&connection, &location, &keeper)?;
        let read = |path: &Path| {
            kept::read(&keeper.vault, path)
                .map_err(|error| OpenError::Kept { path: path.into(), reason: error.to_string() })
        };
        let (kept, claimed) = (read(&keeper.kept())?, read(&claims::file(&keeper))?);
        let foreign = [kept, claimed].into_iter().flatten().filter(|known| !view.continues(known));
        // Where no head was kept at all, nobody can say what is lost.
        let lost = foreign.max_by_key(|lost| lost.version).or_else(|| kept.is_none().then(|| view.reach()));
        let (keeper, view) = (Arc::new(keeper), Arc::new(view));
        Ok(lost.map(|lost| Self { location, connection, keeper, view, lost }))
    }

    /// How far the log is that is there.
    pub fn found(&self) -> Reach {
        self.view.reach()
    }

    /// When its newest entry was made, milliseconds since 1970.
    pub fn since(&self) -> u64 {
        self.view.latest()
    }

    /// How far the log was that is given up.
    pub const fn lost(&self) -> Reach {
        self.lost
    }

    /// Appends, in the name of `act`, that the log goes on from what is there, behind other facts that it is to say;
    /// closes the alerts about it, and keeps the new head. From then on the server starts, and agents follow. Interrupted
    /// anywhere, it is done or not done.
    ///
    /// # Errors
    /// The log does not take it, or a file cannot be written.
    pub fn accept(
        self,
        act: String,
        facts: impl Fn(&View) -> Result<Vec<Fact>, Unsound> + Send + Sync + 'static,
    ) -> Result<(), OpenError> {
        let lost = self.lost;
        let decide = move |view: &View, _, _: &[_]| {
            let mut decided = facts(view)?;
            let version = lost.version.max(view.reach().version + decided.len() as u64);
            let (size, root) = (lost.head.size, lost.head.root.to_wire());
            decided.push(Fact::Restored(trust::Restored { size, root, version }));
            Ok::<_, Unsound>(decided)
        };
        let closing = format!("{act} accepted that the server was restored");
        let act = Act { keeper: Arc::clone(&self.keeper), act, decide: Box::new(decide), beside: None };
        let mut effects = Effects::none(self.view);
        let connection = &self.connection;
        let write = |effects: &mut Effects| {
            connection.begin()?;
            let decided = act.write(connection, effects)?;
            claims::close(connection, now_ms(), &closing)?;
            if decided.is_ok() {
                connection.commit()?
            } else {
                connection.rollback()?
            }
            Ok::<_, sql::Error>(decided)
        };
        // What has failed is rolled back with the connection, which nobody uses again.
        let written = write(&mut effects);
        let unusable = |reason: String| OpenError::Unusable { place: self.location.to_string(), reason };
        written.map_err(|error| unusable(error.to_string()))?.map_err(|unsound| unusable(unsound.to_string()))?;
        // Without it the server starts all the same: the entry gives up what was kept.
        kept::write(&self.keeper.vault, &self.keeper.kept(), &effects.view.reach())
            .map_err(|error| OpenError::Kept { path: self.keeper.kept(), reason: error.to_string() })
    }
}
