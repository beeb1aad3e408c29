//! `wardline db`: the server's database.

use std::path::PathBuf;

use clap::Subcommand;
use wardline_sdk::{Backup, BackupOrder, Client, Damage, DataAccess as _, Database, Kind, Problem, Standby};

use crate::output::{Cell, Column, Output};

/// What can be done with the database.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Shows which database it is, how it is set and who follows it, and warns of what may be lost.
    Info,
    /// Has the server write a copy of its database, as it is at this moment, while it goes on.
    Backup {
        /// The file on the server's host, which must not be there yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Reads all of the database and lists what of it is damaged. Fails when something is.
    Check,
}

const INFO: &[Column<Database>] = &[
    Column::new("DATABASE", |info| Cell::text(format!("{} {}", info.engine, info.version))),
    Column::new("PLACE", |info| Cell::text(&info.place)),
    Column::new("WAY", |info| Cell::text(&info.way)),
    Column::new("SCHEMA", |info| Cell::text(info.schema)),
    Column::new("NEWEST SCHEMA", |info| Cell::text(info.newest_schema)),
    Column::new("BYTES", |info| Cell::text(info.bytes)),
    Column::new("SETTINGS", |info| {
        let set = info.settings.iter().map(|(name, value)| format!("{name}={value}"));
        Cell::text(set.collect::<Vec<_>>().join(" "))
    }),
    Column::new("STANDBYS", |info| match info.standbys.as_slice() {
        [] => Cell::Nothing,
        standbys => Cell::text(standbys.iter().map(standby).collect::<Vec<_>>().join(", ")),
    }),
];

fn standby(standby: &Standby) -> String {
    let known = [&standby.address, &standby.state, &standby.commits].into_iter().flatten().cloned();
    let behind = standby.behind.map(|bytes| format!("{bytes} bytes behind"));
    format!("{} ({})", standby.name, known.chain(behind).collect::<Vec<_>>().join(" "))
}

const BACKUP: &[Column<Backup>] = &[
    Column::new("FILE", |backup| Cell::text(backup.file.display())),
    Column::new("BYTES", |backup| Cell::text(backup.bytes)),
];

const DAMAGE: &[Column<Damage>] = &[
    Column::new("PLACE", |damage| Cell::text(&damage.place)),
    Column::new("REASON", |damage| Cell::text(&damage.reason)),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Info => {
            let info = client.database().await?;
            output.one(&info, INFO, |info| info.place.clone())?;
            info.warnings.iter().for_each(|warning| crate::note(&format!("warning: {warning}")));
            Ok(())
        }
        Verb::Backup { file } => {
            let file = std::path::absolute(&file).map_err(|error| {
                let detail = format!("{}: {error}", file.display());
                Problem::new(Kind::Invalid, detail, "name the file by its full path")
            })?;
            let backup = client.backup(BackupOrder { file }).await?;
            output.one(&backup, BACKUP, |backup| backup.file.display().to_string())
        }
        Verb::Check => {
            let damages = client.examine().await?.items;
            output.list(&damages, DAMAGE, |damage| damage.place.clone())?;
            if damages.is_empty() {
                return Ok(());
            }
            let detail = format!("{} parts of the database are damaged", damages.len());
            let next = "everything else is there: see what the disk has, then docs/operations: \"Backup\" in install.md or postgresql.md";
            Err(Problem::new(Kind::Failed, detail, next).explained_by(40028))
        }
    }
}
