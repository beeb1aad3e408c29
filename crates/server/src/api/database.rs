//! Answers about copies of the database, and damage to it.

use wardline_connector::journal;
use wardline_proto::event::Event;
use wardline_sdk::{Backup, BackupOrder, Damage, Kind, Page, Problem};

use super::service::{Service, problem};
use crate::store::BackupError;

pub(super) async fn backup(service: &Service, BackupOrder { file }: BackupOrder) -> Result<Backup, Problem> {
    if !file.is_absolute() {
        let detail = format!("{} is no full path", file.display());
        return Err(Problem::new(Kind::Invalid, detail, "begin it with /"));
    }
    let bytes = service.store.backup(file.clone()).await.map_err(|error| {
        let detail = error.to_string();
        match error {
            BackupError::Exists(_) => Problem::new(Kind::Conflict, detail, "name another file, or move that one away"),
            BackupError::File(..) => {
                let next = "name a file in a folder that the server's user may write, on a disk with room for it";
                Problem::new(Kind::Failed, detail, next)
            }
            BackupError::Store(error) => problem(error),
        }
    })?;
    let act = service.act();
    journal::emit(Event::DatabaseCopied { path: file.display().to_string(), act });
    Ok(Backup { file, bytes })
}

pub(super) async fn examine(service: &Service) -> Result<Page<Damage>, Problem> {
    let items = service.store.examine().await.map_err(problem)?;
    for Damage { place, reason } in items.clone() {
        journal::emit(Event::DatabaseDamaged { place, reason });
    }
    Ok(Page { items, next: None })
}
