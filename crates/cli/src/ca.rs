//! `wardline ca`: what issues channel certificates, and which of them count.

use clap::Subcommand;
use wardline_proto::Name;
use wardline_sdk::{Client, DataAccess as _, Issuer, Problem, RotationOrder};

use crate::member;
use crate::output::{Cell, Column, Output};

/// What can be done with the CA.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Lists the CAs that issue, or have issued, channel certificates, oldest first.
    List,
    /// Makes a new issuing CA now, by the root's key, which must be at the server. Everybody gets a certificate of it when
    /// they renew; until then those of the one before are good.
    Rotate {
        /// What the one before has issued to agents and gateways is worth nothing from now on: for when its key was stolen.
        /// Their sessions end, and they come home at once, by their identity keys.
        #[arg(long)]
        revoke: bool,
    },
    /// Revokes the channel certificates of an agent or gateway: its sessions end, and it comes home at once, by its identity
    /// key. To let one not come back, remove it.
    Revoke {
        /// Its name.
        name: Name,
    },
}

const COLUMNS: &[Column<Issuer>] = &[
    Column::new("KEY", |issuer| Cell::text(&issuer.key)),
    Column::new("SUBJECT", |issuer| Cell::text(&issuer.subject)),
    Column::new("FROM", |issuer| Cell::Time(issuer.from)),
    Column::new("TO", |issuer| Cell::Time(issuer.to)),
    Column::new("STATE", |issuer| Cell::text(if issuer.in_use { "in use" } else { "old" })),
    Column::new("MEMBERS", |issuer| Cell::text(issuer.members)),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::List => output.list(&client.issuers().await?.items, COLUMNS, key),
        Verb::Rotate { revoke } => output.one(&client.rotate(RotationOrder { revoke }).await?, COLUMNS, key),
        Verb::Revoke { name } => output.one(&client.revoke(&name).await?, member::COLUMNS, member::name),
    }
}

fn key(issuer: &Issuer) -> String {
    issuer.key.clone()
}
