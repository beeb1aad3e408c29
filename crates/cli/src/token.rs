//! `wardline token`: what hosts join with. The token is made here; the server gets to know its public half only.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Subcommand, ValueEnum};
use wardline_packs::quantity::{self, QuantityError};
use wardline_proto::{GroupId, Name, Principal, Role};
use wardline_sdk::{Client, DataAccess as _, Group, Kind, Problem, Time, Token, TokenFilter, TokenOrder, hex};
use wardline_secrets::token;

use crate::list::Limit;
use crate::member::names;
use crate::output::{Cell, Column, Output};

/// What can be done with tokens.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes one. It is a secret: it alone goes to standard output, once.
    Create {
        /// Who may join with it.
        #[arg(long, value_enum)]
        role: Joins,
        /// The name of who may join, or a pattern with one `*` at its beginning or end.
        #[arg(long, value_name = "NAME|PATTERN", default_value = "*")]
        name: String,
        /// How many may join with it.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it is good.
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = expires)]
        expires: Duration,
        /// A gateway that is to speak for who joins, may be given more than once.
        #[arg(long, value_name = "GATEWAY")]
        via: Vec<Name>,
        /// The Kerberos principal of who joins, when that does not follow from its name; needs one exact `--name`.
        #[arg(long, value_name = "PRINCIPAL")]
        principal: Option<Principal>,
    },
    /// Lists those that are good.
    List {
        /// Those too that are not good any more.
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        limit: Limit,
    },
    /// Lets nobody join with one any more. Who has joined with it stays.
    Revoke {
        /// Its id, or as much of its beginning as no other has.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        id: String,
    },
}

/// Who joins with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Joins {
    /// Agents.
    Agent,
    /// Gateways.
    Gateway,
    /// A further server, of exactly this name.
    Server,
}

impl From<Joins> for Role {
    fn from(joins: Joins) -> Self {
        match joins {
            Joins::Agent => Self::Agent,
            Joins::Gateway => Self::Gateway,
            Joins::Server => Self::Server,
        }
    }
}

fn expires(text: &str) -> Result<Duration, QuantityError> {
    quantity::duration(text)
}

const COLUMNS: &[Column<Token>] = &[
    Column::new("ID", |token| Cell::text(&token.id)),
    Column::new("ROLE", |token| Cell::text(token.role)),
    Column::new("FOR", |token| Cell::text(&token.name)),
    Column::new("USED", |token| Cell::text(format!("{}/{}", token.used, token.uses))),
    Column::new("EXPIRES", |token| Cell::Time(token.expires)),
    Column::new("STATE", |token| Cell::text(token.state.as_str())),
    Column::new("VIA", |token| names(&token.via)),
    Column::wide("PRINCIPAL", |token| Cell::maybe(token.principal.as_ref())),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Create { role, name, uses, expires, via, principal } => {
            let group = client.group().await?;
            let order = |id: &[u8], key: &[u8]| TokenOrder {
                id: hex::encode(id),
                key: hex::encode(key),
                role: role.into(),
                name,
                uses,
                expires: Time(now_ms().saturating_add(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX))),
                via,
                principal,
            };
            create(&group, client, order).await
        }
        Verb::List { all, limit } => {
            let ask = async |limit, cursor| client.tokens(TokenFilter { all, limit: Some(limit), cursor }).await;
            output.list(&limit.gather(ask).await?, COLUMNS, id)
        }
        Verb::Revoke { id: token } => output.one(&client.revoke_token(&token).await?, COLUMNS, id),
    }
}

async fn create(group: &Group, client: &Client, order: impl FnOnce(&[u8], &[u8]) -> TokenOrder) -> Result<(), Problem> {
    let made = made(group)?;
    let known = client.create_token(order(&made.0.id, &made.1)).await?;
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", made.0.text()).and_then(|()| out.flush());
    written.map_err(|error| {
        let next = format!("nobody has seen it; revoke it: `wardline token revoke {}`", known.id);
        Problem::new(Kind::Failed, format!("standard output cannot be written: {error}"), next)
    })?;
    crate::note(&format!(
        "token {} for {} {}, to be used {} by {}; whoever has it can join: hand it over like a password",
        known.id,
        known.role,
        known.name,
        if known.uses == 1 { "once".to_owned() } else { format!("{} times", known.uses) },
        known.expires,
    ));
    let parent = if known.role == Role::Server { "SERVER" } else { "--parent PARENT" };
    crate::note(&format!("then, on the host: `wardline-{} join {parent} --token-file FILE`", known.role));
    Ok(())
}

/// A token of this group, and the public half of its key.
fn made(group: &Group) -> Result<(token::Token, [u8; 32]), Problem> {
    let odd = |what: &str| {
        let next = "use the `wardline` of the server's version";
        Problem::new(Kind::Failed, format!("the server's {what} cannot be understood"), next)
    };
    let id = hex::decode(&group.id).and_then(|id| id.try_into().ok()).ok_or_else(|| odd("group id"))?;
    let pin = group.pin.parse().map_err(|_| odd("pin"))?;
    token::Token::create(GroupId(id), pin)
        .map_err(|error| Problem::new(Kind::Failed, error.to_string(), "try again once the system has started"))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn id(token: &Token) -> String {
    token.id.clone()
}
