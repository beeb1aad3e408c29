//! Members of the group: `wardline gateway`, and what `wardline agent` has in common with it.

use clap::Subcommand;
use wardline_proto::principal::PrincipalError;
use wardline_proto::{Name, Principal, Role};
use wardline_sdk::{
    Approval, Approved, Assignment, Client, DataAccess as _, Member, MemberFilter, Pending, PendingFilter,
    PrincipalOrder, Problem,
};
use wardline_secrets::token::Code;

use crate::list::Limit;
use crate::output::{Cell, Column, Output};

/// What can be done with gateways.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Lists those that are members of the group, by name.
    List {
        #[command(flatten)]
        limit: Limit,
    },
    #[command(flatten)]
    Change(Change),
}

/// What can be done with a member.
#[derive(Subcommand)]
pub(crate) enum Change {
    /// Lists those that ask to join without a token and wait for an operator, by name.
    Pending {
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets one in that asks, when the code is the one that it shows. There is one try: a wrong code rejects it.
    Approve {
        /// Its name.
        name: Name,
        /// The code that it shows.
        code: Code,
        /// A gateway, or a server without a database, that may speak for it, may be given more than once; without, it
        /// reports to servers itself.
        #[arg(long, value_name = "GATEWAY")]
        via: Vec<Name>,
        /// Its Kerberos principal, when that does not follow from its name: the one that it says is its own.
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<Principal>,
    },
    /// Turns one away that asks.
    Reject {
        /// Its name.
        name: Name,
    },
    /// Removes one from the group: its sessions end, and its keys and certificates are worth nothing any more.
    Remove {
        /// Its name.
        name: Name,
    },
    /// Has other gateways speak for one.
    Assign {
        /// Its name.
        name: Name,
        /// A gateway, or a server without a database, that may speak for it, may be given more than once; without, it
        /// reports to servers itself.
        #[arg(long, value_name = "GATEWAY")]
        via: Vec<Name>,
    },
    /// Says by which Kerberos principal the hops of one may be proved, besides its certificates.
    Principal {
        /// Its name.
        name: Name,
        /// host/NAME@REALM with its own name, or an account, ACCOUNT$@REALM; `none` takes it away.
        #[arg(value_name = "PRINCIPAL|none", value_parser = bound)]
        principal: Bound,
    },
}

/// A principal, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound(Option<Principal>);

fn bound(text: &str) -> Result<Bound, PrincipalError> {
    if text == "none" { Ok(Bound(None)) } else { text.parse().map(|principal| Bound(Some(principal))) }
}

pub(crate) const COLUMNS: &[Column<Member>] = &[
    Column::new("NAME", |member| Cell::text(&member.name)),
    Column::new("ROLE", |member| role(member.role, member.relays)),
    Column::new("STATE", |member| Cell::text(if member.connected { "connected" } else { "away" })),
    Column::new("VIA", |member| names(&member.via)),
    Column::new("JOINED", |member| Cell::Time(member.joined_at)),
    Column::new("CERTIFICATE ENDS", |member| member.certificate_ends.map_or(Cell::Nothing, Cell::Time)),
    Column::wide("IDENTITY KEY", |member| Cell::text(&member.key)),
    Column::wide("TOKEN", |member| Cell::maybe(member.token.as_ref())),
    Column::wide("PRINCIPAL", |member| Cell::maybe(member.principal.as_ref())),
];

const PENDING: &[Column<Pending>] = &[
    Column::new("NAME", |pending| Cell::text(&pending.name)),
    Column::new("ROLE", |pending| role(pending.role, pending.relays)),
    Column::new("IDENTITY KEY", |pending| Cell::text(&pending.key)),
    Column::new("SINCE", |pending| Cell::Time(pending.since)),
    Column::new("FROM", |pending| Cell::text(&pending.from)),
    Column::new("PRINCIPAL", |pending| Cell::maybe(pending.principal.as_ref())),
];

const APPROVED: &[Column<Approved>] = &[
    Column::new("NAME", |approved| Cell::text(&approved.name)),
    Column::new("ROLE", |approved| role(approved.role, approved.relays)),
    Column::new("IDENTITY KEY", |approved| Cell::text(&approved.key)),
    Column::new("VIA", |approved| names(&approved.via)),
    Column::wide("PRINCIPAL", |approved| Cell::maybe(approved.principal.as_ref())),
    Column::new("CONFIRMATION", |approved| Cell::text(&approved.confirmation)),
];

/// A role; of a server without a database also that.
pub(crate) fn role(role: Role, relays: bool) -> Cell {
    if relays { Cell::text(format!("{role} (relay)")) } else { Cell::text(role) }
}

/// Names in one column.
pub(crate) fn names(names: &[Name]) -> Cell {
    let names: Vec<_> = names.iter().map(Name::as_str).collect();
    Cell::maybe((!names.is_empty()).then(|| names.join(" ")))
}

/// Does it.
pub(crate) async fn run(role: Role, verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::List { limit } => {
            let ask = async |limit, cursor| {
                client.members(MemberFilter { role: Some(role), limit: Some(limit), cursor }).await
            };
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Change(verb) => change(role, verb, client, output).await,
    }
}

/// Changes a member.
pub(crate) async fn change(role: Role, verb: Change, client: &Client, output: &Output) -> Result<(), Problem> {
    let member = match verb {
        Change::Pending { limit } => {
            let ask = async |limit, cursor| {
                client.pending(PendingFilter { role: Some(role), limit: Some(limit), cursor }).await
            };
            return output.list(&limit.gather(ask).await?, PENDING, waiting);
        }
        Change::Approve { name, code, via, principal } => {
            let approved = client.approve(role, &name, Approval { code: code.to_string(), via, principal }).await?;
            output.one(&approved, APPROVED, |approved| approved.name.to_string())?;
            let code = &approved.confirmation;
            crate::note(&format!("now have this typed at the host, which believes nobody before that: {code}"));
            return Ok(());
        }
        Change::Reject { name } => return output.one(&client.reject(role, &name).await?, PENDING, waiting),
        Change::Remove { name } => client.remove(role, &name).await?,
        Change::Assign { name, via } => client.assign(role, &name, Assignment { via }).await?,
        Change::Principal { name, principal: Bound(principal) } => {
            client.bind_principal(role, &name, PrincipalOrder { principal }).await?
        }
    };
    output.one(&member, COLUMNS, name)
}

fn waiting(pending: &Pending) -> String {
    pending.name.to_string()
}

pub(crate) fn name(member: &Member) -> String {
    member.name.to_string()
}
