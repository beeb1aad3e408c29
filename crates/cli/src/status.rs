//! `wardline status`: how the server is.

use wardline_sdk::{Client, DataAccess as _, Problem, Status};

use crate::output::{Cell, Column, Output};

const COLUMNS: &[Column<Status>] = &[
    Column::new("SERVER", |status| Cell::text(&status.name)),
    Column::new("ASKED BY", |status| Cell::maybe(status.by.as_ref())),
    Column::new("VERSION", |status| Cell::text(&status.version)),
    Column::new("STARTED", |status| Cell::Time(status.started_at)),
    Column::new("AGENTS", |status| Cell::text(status.agents)),
    Column::new("CONNECTED", |status| Cell::text(status.agents_connected)),
    Column::new("HELD", |status| Cell::text(status.agents_held)),
    Column::new("OPEN ALERTS", |status| Cell::text(status.alerts_open)),
    Column::new("EVENTS", |status| Cell::text(status.events)),
    Column::new("GAPS", |status| Cell::text(status.gaps)),
    Column::new("SET ASIDE", |status| Cell::text(status.set_aside)),
    Column::new("RECOVERY KEY", |status| Cell::text(if status.recovery { "yes" } else { "no" })),
    Column::new("ACCOUNTS", |status| Cell::text(status.accounts)),
    Column::new("AGENTS WITHOUT SEALING KEY", |status| Cell::text(status.agents_without_sealing_key)),
    Column::new("PROTECTED BY", |status| Cell::text(&status.protector)),
    Column::new("SCHEMA", |status| Cell::text(status.schema)),
    Column::new("DATABASE BYTES", |status| Cell::text(status.database_bytes)),
];

/// Shows it.
pub(crate) async fn run(client: &Client, output: &Output) -> Result<(), Problem> {
    let status = client.status().await?;
    output.one(&status, COLUMNS, |status| status.name.to_string())?;
    if !status.recovery {
        crate::note("warning: the group has no recovery key; make one: `wardline keys escrow`");
    }
    for account in &status.accounts_everywhere {
        crate::note(&format!(
            "warning: every agent has Run As account {account}; name those that need it: `wardline account update \
             {account} --to AGENT,AGENT`"
        ));
    }
    if status.less_secure_distribution {
        crate::note("warning: accounts may go to every agent, by `less_secure_distribution` in server.toml");
    }
    if status.root_key_needed {
        crate::note(
            "warning: the issuing CA or the duty certificate is due and waits for root.key: `wardline explain 40091`",
        );
    }
    Ok(())
}
