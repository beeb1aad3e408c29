//! `wardline agent`: who watches hosts.

use clap::Subcommand;
use wardline_proto::{Name, Role};
use wardline_sdk::{Agent, AgentFilter, Client, DataAccess as _, Problem};

use crate::list::Limit;
use crate::member;
use crate::output::{Cell, Column, Output};

/// What can be done with agents.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Lists those that were heard, by name.
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one.
    Show {
        /// Its name.
        name: Name,
    },
    /// Lets one go on that is held because two queues of it displaced each other.
    Release {
        /// Its name.
        name: Name,
    },
    #[command(flatten)]
    Member(member::Change),
}

const COLUMNS: &[Column<Agent>] = &[
    Column::new("NAME", |agent| Cell::text(&agent.name)),
    Column::new("STATE", |agent| Cell::text(state(agent))),
    Column::new("VIA", |agent| Cell::maybe(agent.session.as_ref().and_then(|session| session.via.as_ref()))),
    Column::new("LAST SEEN", |agent| Cell::Time(agent.last_seen)),
    Column::wide("FIRST SEEN", |agent| Cell::Time(agent.first_seen)),
    Column::new("NUMBER", |agent| Cell::text(agent.number)),
    Column::new("GAPS", |agent| Cell::text(agent.gaps)),
    Column::wide("DISPLACEMENTS", |agent| Cell::text(agent.displacements)),
    Column::new("REASON", |agent| Cell::maybe(agent.grey.as_ref())),
    Column::wide("PRINCIPAL", |agent| Cell::maybe(agent.principal.as_ref())),
    Column::wide("EPOCH", |agent| Cell::maybe(agent.epoch.as_ref())),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::List { limit } => {
            let ask = async |limit, cursor| client.agents(AgentFilter { limit: Some(limit), cursor }).await;
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Show { name: agent } => output.one(&client.agent(&agent).await?, COLUMNS, name),
        Verb::Member(change) => member::change(Role::Agent, change, client, output).await,
        Verb::Release { name: agent } => output.one(&client.release(&agent).await?, COLUMNS, name),
    }
}

fn name(agent: &Agent) -> String {
    agent.name.to_string()
}

fn state(agent: &Agent) -> &'static str {
    match (agent.held, &agent.grey, &agent.session) {
        (true, ..) => "held",
        (false, Some(_), _) => "grey",
        (false, None, Some(_)) => "connected",
        (false, None, None) => "away",
    }
}
