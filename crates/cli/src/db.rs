//! `wardline db`: the server's database as a file.

use std::path::PathBuf;

use clap::Subcommand;
use wardline_sdk::{Backup, BackupOrder, Client, Damage, DataAccess as _, Kind, Problem};

use crate::output::{Cell, Column, Output};

/// What can be done with the database.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Has the server write a copy of its database, as it is at this moment, while it goes on.
    Backup {
        /// The file on the server's host, which must not be there yet.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Reads all of the database and lists what of it is damaged. Fails when something is.
    Check,
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
            let next = "everything else is there: see what the disk has, then docs/operations/install.md, \"Backup\"";
            Err(Problem::new(Kind::Failed, detail, next).explained_by(40028))
        }
    }
}
