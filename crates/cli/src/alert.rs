//! `wardline alert`: what somebody has to look at.

use clap::Subcommand;
use wardline_proto::Name;
use wardline_proto::health::resolution;
use wardline_sdk::{Alert, AlertChange, AlertDetail, AlertFilter, Client, DataAccess as _, Problem};

use crate::list::Limit;
use crate::output::{Cell, Column, Format, Output};

/// What can be done with alerts.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Lists the open ones, newest first.
    List {
        /// Closed ones too.
        #[arg(long)]
        all: bool,
        /// Only those of this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<Name>,
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one and what became of it.
    Show {
        /// Its id, or as much of its beginning as no other has.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,
    },
}

const COLUMNS: &[Column<Alert>] = &[
    Column::new("ID", |alert| Cell::text(alert.id)),
    Column::new("AGENT", |alert| Cell::text(&alert.agent)),
    Column::new("SEVERITY", |alert| Cell::text(alert.severity)),
    Column::wide("PRIORITY", |alert| Cell::text(alert.priority)),
    Column::new("STATE", |alert| Cell::text(state(alert.state))),
    Column::new("RAISED", |alert| Cell::Time(alert.raised_at)),
    Column::wide("MODIFIED", |alert| Cell::Time(alert.modified_at)),
    Column::wide("CLOSED", |alert| alert.closed_at.map_or(Cell::Nothing, Cell::Time)),
    Column::wide("REPEATED", |alert| Cell::text(alert.repeat_count)),
    Column::new("MONITOR", |alert| Cell::text(&alert.monitor)),
    Column::new("TEXT", |alert| Cell::text(&alert.text)),
];

const HISTORY: &[Column<AlertChange>] = &[
    Column::new("AT", |change| Cell::Time(change.at)),
    Column::wide("RECEIVED", |change| Cell::Time(change.received_at)),
    Column::new("CHANGE", |change| Cell::text(change.change.as_str())),
    Column::new("SEVERITY", |change| Cell::text(change.severity)),
    Column::new("STATE", |change| Cell::text(state(change.state))),
    Column::new("TEXT", |change| Cell::text(&change.text)),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::List { all, agent, limit } => {
            let ask = async |limit, cursor| {
                client.alerts(AlertFilter { all, agent: agent.clone(), limit: Some(limit), cursor }).await
            };
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Show { id } => show(&client.alert(&id).await?, output),
    }
}

fn show(alert: &AlertDetail, output: &Output) -> Result<(), Problem> {
    match output.format() {
        // Programs get all of it as one document.
        Format::Json | Format::Jsonl => output.one(alert, &[], |alert| name(&alert.alert)),
        Format::Csv | Format::Name => output.one(&alert.alert, COLUMNS, name),
        Format::Table | Format::Wide => {
            output.one(&alert.alert, COLUMNS, name)?;
            if !alert.detail.is_empty() {
                output.text(&format!("\n{}", alert.detail))?;
            }
            output.text("\n")?;
            output.table(&alert.history, HISTORY)
        }
    }
}

fn name(alert: &Alert) -> String {
    alert.id.to_string()
}

fn state(state: u8) -> String {
    match state {
        resolution::NEW => "new".into(),
        resolution::CLOSED => "closed".into(),
        own => own.to_string(),
    }
}
