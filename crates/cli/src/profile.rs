//! `wardline profile`: the names by which checks ask for an account.

use clap::Subcommand;
use wardline_proto::Name;
use wardline_sdk::{
    AccountFilter, BindingOrder, Bound, Client, DataAccess as _, ExplainFilter, Explained, Problem, Profile,
    ProfileOrder, Reach,
};

use crate::account::{time, words};
use crate::list::Limit;
use crate::output::{Cell, Column, Format, Output};

/// What can be done with profiles.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes one. A check asks for it by `run_as = "NAME"`.
    Create {
        /// Its name.
        name: String,
    },
    /// Lists them by name.
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one, and what it stands for on which agents.
    Show {
        /// Its name.
        name: String,
    },
    /// Deletes one.
    Delete {
        /// Its name.
        name: String,
    },
    /// Says which account one stands for.
    Set {
        /// Its name.
        name: String,
        /// The account.
        #[arg(long)]
        account: String,
        /// On which agent; without, on every one that has none of its own.
        #[arg(long)]
        agent: Option<Name>,
        /// In place of another that it stands for there.
        #[arg(long)]
        replace: bool,
    },
    /// Has one stand for no account any more.
    Unset {
        /// Its name.
        name: String,
        /// On which agent; without, on every one that has none of its own.
        #[arg(long)]
        agent: Option<Name>,
    },
    /// Shows what one gives each agent, why, how far that is, and what to do where it does not get on.
    Explain {
        /// Its name.
        name: String,
        /// Only for this agent.
        #[arg(long)]
        agent: Option<Name>,
        #[command(flatten)]
        limit: Limit,
    },
}

const COLUMNS: &[Column<Profile>] = &[
    Column::new("NAME", |profile| Cell::text(&profile.name)),
    Column::new("ACCOUNT", |profile| Cell::maybe(profile.account.as_ref())),
    Column::new("OTHERS ON", |profile| {
        let agents: Vec<_> = profile.agents.iter().map(|bound| bound.agent.to_string()).collect();
        words(&agents)
    }),
    Column::new("CHECKS", |profile| words(&profile.checks)),
    Column::wide("BUILT IN", |profile| Cell::text(if profile.built_in { "yes" } else { "no" })),
];

const BOUND: &[Column<Bound>] = &[
    Column::new("AGENT", |bound| Cell::text(&bound.agent)),
    Column::new("ACCOUNT", |bound| Cell::text(&bound.account)),
];

const EXPLAINED: &[Column<Explained>] = &[
    Column::new("AGENT", |row| Cell::text(&row.agent)),
    Column::new("STATE", |row| Cell::text(row.state.as_str())),
    Column::new("ACCOUNT", |row| Cell::maybe(row.account.as_ref())),
    Column::new("BOUND FOR", |row| Cell::maybe(row.bound.map(Reach::as_str))),
    Column::new("DISTRIBUTED TO", |row| Cell::maybe(row.distributed.map(Reach::as_str))),
    Column::new("CHECKS", |row| words(&row.checks)),
    Column::wide("VERSION", |row| Cell::maybe(row.version)),
    Column::wide("SEALING KEY", |row| Cell::maybe(row.key.as_ref())),
    Column::new("RUNS AS", |row| Cell::maybe(row.user.as_ref())),
    Column::new("SINCE", |row| time(row.since)),
    Column::new("LAST USED BY", |row| Cell::maybe(row.workflow.as_ref())),
    Column::new("NEXT", |row| Cell::maybe(row.next.as_ref())),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Create { name: called } => {
            let made = client.create_profile(ProfileOrder { name: called }).await?;
            output.one(&made, COLUMNS, name)?;
            crate::note(&format!("say what it stands for: `wardline profile set {} --account ACCOUNT`", made.name));
            Ok(())
        }
        Verb::List { limit } => {
            let ask = async |limit, cursor| client.profiles(AccountFilter { limit: Some(limit), cursor }).await;
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Show { name } => show(&client.profile(&name).await?, output),
        Verb::Delete { name: called } => {
            let gone = client.delete_profile(&called).await?;
            output.one(&gone, COLUMNS, name)?;
            if !gone.checks.is_empty() {
                let checks = gone.checks.join(", ");
                crate::note(&format!("warning: these checks name it and have no credentials now: {checks}"));
            }
            Ok(())
        }
        Verb::Set { name, account, agent, replace } => {
            let order = BindingOrder { account: Some(account), agent: agent.clone(), replace };
            show(&client.bind_profile(&name, order).await?, output)?;
            let only = agent.map(|agent| format!(" --agent {agent}")).unwrap_or_default();
            crate::note(&format!("see who has it now: `wardline profile explain {name}{only}`"));
            Ok(())
        }
        Verb::Unset { name, agent } => {
            let order = BindingOrder { account: None, agent, replace: false };
            show(&client.bind_profile(&name, order).await?, output)
        }
        Verb::Explain { name, agent, limit } => {
            let ask = async |limit, cursor| {
                client.explain_profile(&name, ExplainFilter { agent: agent.clone(), limit: Some(limit), cursor }).await
            };
            let rows = limit.gather(ask).await?;
            match (rows.as_slice(), &agent) {
                ([row], Some(_)) => output.one(row, EXPLAINED, |row| row.agent.to_string()),
                _ => output.list(&rows, EXPLAINED, |row| row.agent.to_string()),
            }
        }
    }
}

fn show(profile: &Profile, output: &Output) -> Result<(), Problem> {
    output.one(profile, COLUMNS, name)?;
    if matches!(output.format(), Format::Table | Format::Wide) && !profile.agents.is_empty() {
        output.text("\n")?;
        output.table(&profile.agents, BOUND)?;
    }
    Ok(())
}

fn name(profile: &Profile) -> String {
    profile.name.clone()
}
