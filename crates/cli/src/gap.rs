//! `wardline gap`: what is missing.

use clap::Subcommand;
use wardline_proto::Name;
use wardline_sdk::{Client, DataAccess as _, Gap, GapFilter, Problem};

use crate::list::Limit;
use crate::output::{Cell, Column, Output};

/// What can be done with gaps.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Lists what agents had found and the database will never have, newest first.
    List {
        /// Only those of this agent.
        #[arg(long, value_name = "NAME")]
        agent: Option<Name>,
        #[command(flatten)]
        limit: Limit,
    },
}

const COLUMNS: &[Column<Gap>] = &[
    Column::new("AGENT", |gap| Cell::text(&gap.agent)),
    Column::new("FIRST", |gap| Cell::text(gap.first)),
    Column::new("LAST", |gap| Cell::text(gap.last)),
    Column::new("REASON", |gap| Cell::text(gap.reason.as_str())),
    Column::new("PERFORMANCE", |gap| Cell::text(gap.performance)),
    Column::new("EVENTS", |gap| Cell::text(gap.events)),
    Column::new("STATES", |gap| Cell::text(gap.states)),
    Column::new("ALERTS", |gap| Cell::text(gap.alerts)),
    Column::new("UNKNOWN", |gap| Cell::text(gap.unknown)),
    Column::wide("FROM", |gap| gap.from.map_or(Cell::Nothing, Cell::Time)),
    Column::wide("TO", |gap| gap.to.map_or(Cell::Nothing, Cell::Time)),
    Column::new("RECEIVED", |gap| Cell::Time(gap.received_at)),
    Column::wide("EPOCH", |gap| Cell::text(&gap.epoch)),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    let Verb::List { agent, limit } = verb;
    let ask = async |limit, cursor| client.gaps(GapFilter { agent: agent.clone(), limit: Some(limit), cursor }).await;
    output.list(&limit.gather(ask).await?, COLUMNS, |gap| format!("{}/{}-{}", gap.agent, gap.first, gap.last))
}
