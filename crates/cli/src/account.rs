//! `wardline account`: what hosts log on with. A secret is sealed here, to the server's own key; nothing shows it again.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64ct::{Base64, Encoding as _};
use clap::{Args, Subcommand, ValueEnum};
use wardline_proto::{GroupId, Name, Role};
use wardline_sdk::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, Client, DataAccess as _, Kind as Why, Problem,
    Receipt, Recipients, SealedSecret, Time, Use, hex,
};
use wardline_secrets::account::{Kind, Secret};
use wardline_secrets::sealing::SealingCertificate;
use wardline_secrets::secure_data::{Header, Purpose, seal};
use wardline_secrets::signature::random;

use crate::list::Limit;
use crate::member::names;
use crate::output::{Cell, Column, Format, Output};
use crate::secret;

/// What can be done with accounts.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes one. The secret is asked for on the terminal, or read from a file; it is never shown again.
    Create {
        /// Its name.
        name: String,
        /// What is in it: a login and a password, a community string, or any bytes.
        #[arg(long, value_enum)]
        kind: Of,
        #[command(flatten)]
        given: Given,
        /// The local user that programs run as which use it; without, the one that plugins run as on the host.
        #[arg(long, value_name = "LOCALUSER")]
        run_as_user: Option<String>,
        /// The agents that may have it, in place of none.
        #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',', conflicts_with = "everywhere")]
        to: Vec<Name>,
        /// Every agent may have it. Off in the server's configuration unless somebody has turned it on.
        #[arg(long)]
        everywhere: bool,
    },
    /// Changes one. When nothing else is to be changed, it gets a new secret.
    Update {
        /// Its name.
        name: String,
        #[command(flatten)]
        given: Given,
        /// Asks for a new secret also when something else is changed.
        #[arg(long)]
        secret: bool,
        /// The local user that programs run as which use it.
        #[arg(long, value_name = "LOCALUSER", conflicts_with = "no_run_as_user")]
        run_as_user: Option<String>,
        /// Programs run again as the user that plugins run as on the host.
        #[arg(long)]
        no_run_as_user: bool,
        #[command(flatten)]
        to: To,
    },
    /// Lists them by name.
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Shows one, and what became of it on agents.
    Show {
        /// Its name.
        name: String,
    },
    /// Deletes one. Agents wipe what they have of it.
    Delete {
        /// Its name.
        name: String,
    },
    /// Shows which profiles stand for one, and which checks name them.
    WhereUsed {
        /// Its name.
        name: String,
    },
}

/// The kinds of accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Of {
    /// A login and a password.
    Basic,
    /// A community string.
    Community,
    /// Any bytes: a key, a keytab.
    Binary,
}

impl From<Of> for Kind {
    fn from(of: Of) -> Self {
        match of {
            Of::Basic => Self::Basic,
            Of::Community => Self::Community,
            Of::Binary => Self::Binary,
        }
    }
}

/// What is in an account.
#[derive(Args)]
pub(crate) struct Given {
    /// The name that an account of kind basic logs on with.
    #[arg(long, value_name = "LOGIN")]
    user: Option<String>,
    /// The file with the secret; `-` is standard input. A line break at its end is none of a password.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

/// Who may have an account from now on.
#[derive(Args)]
#[group(multiple = true)]
pub(crate) struct To {
    /// These agents, in place of those that may have it now.
    #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',', conflicts_with_all = ["also_to", "not_to", "everywhere", "nowhere"])]
    to: Vec<Name>,
    /// These agents too.
    #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',')]
    also_to: Vec<Name>,
    /// These agents not any more.
    #[arg(long, value_name = "AGENT,AGENT", value_delimiter = ',')]
    not_to: Vec<Name>,
    /// Every agent. Off in the server's configuration unless somebody has turned it on.
    #[arg(long, conflicts_with = "nowhere")]
    everywhere: bool,
    /// No agent any more.
    #[arg(long, conflicts_with_all = ["also_to", "not_to"])]
    nowhere: bool,
}

impl To {
    fn recipients(self) -> Recipients {
        let only = (self.nowhere || !self.to.is_empty()).then_some(self.to);
        Recipients {
            everywhere: self.everywhere.then_some(true).or(self.nowhere.then_some(false)),
            only,
            add: self.also_to,
            remove: self.not_to,
        }
    }
}

const COLUMNS: &[Column<Account>] = &[
    Column::new("NAME", |account| Cell::text(&account.name)),
    Column::new("KIND", |account| Cell::text(&account.kind)),
    Column::new("VERSION", |account| Cell::text(account.version)),
    Column::new("CHANGED", |account| Cell::Time(account.changed_at)),
    Column::new("GOES TO", goes_to),
    Column::new("PROFILES", |account| words(&account.profiles)),
    Column::new("RUNS AS", |account| Cell::maybe(account.user.as_ref())),
    Column::wide("ID", |account| Cell::text(&account.id)),
];

const DETAIL: &[Column<AccountDetail>] = &[
    Column::new("NAME", |detail| Cell::text(&detail.account.name)),
    Column::new("KIND", |detail| Cell::text(&detail.account.kind)),
    Column::new("LOGIN", |detail| Cell::maybe(detail.login.as_ref())),
    Column::new("VERSION", |detail| Cell::text(detail.account.version)),
    Column::new("CHANGED", |detail| Cell::Time(detail.account.changed_at)),
    Column::new("GOES TO", |detail| goes_to(&detail.account)),
    Column::new("PROFILES", |detail| words(&detail.account.profiles)),
    Column::new("RUNS AS", |detail| Cell::maybe(detail.account.user.as_ref())),
    Column::new("ID", |detail| Cell::text(&detail.account.id)),
];

const RECEIPTS: &[Column<Receipt>] = &[
    Column::new("AGENT", |receipt| Cell::text(&receipt.agent)),
    Column::new("VERSION", |receipt| Cell::text(receipt.version)),
    Column::new("SENT", |receipt| time(receipt.sent_at)),
    Column::new("OPENED", |receipt| time(receipt.opened_at)),
    Column::new("NOT OPENED", |receipt| time(receipt.failed_at)),
    Column::new("USED SINCE", |receipt| time(receipt.used_since)),
    Column::new("LAST USED", |receipt| time(receipt.used_at)),
    Column::new("BY", |receipt| Cell::maybe(receipt.workflow.as_ref())),
    Column::new("REMOVED", |receipt| time(receipt.removed_at)),
];

const USES: &[Column<Use>] = &[
    Column::new("PROFILE", |used| Cell::text(&used.profile)),
    Column::new("ON", |used| Cell::text(used.agent.as_ref().map_or("every agent", Name::as_str))),
    Column::new("CHECKS", |used| words(&used.checks)),
];

fn goes_to(account: &Account) -> Cell {
    match account.everywhere {
        true => Cell::text("every agent"),
        false => names(&account.agents),
    }
}

pub(crate) fn words(words: &[String]) -> Cell {
    Cell::maybe((!words.is_empty()).then(|| words.join(" ")))
}

pub(crate) fn time(time: Option<Time>) -> Cell {
    time.map_or(Cell::Nothing, Cell::Time)
}

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Create { name: called, kind, given, run_as_user, to, everywhere } => {
            let target = Target::of(client).await?;
            let id = random();
            let secret = secret::read(kind.into(), given.user.as_deref(), given.secret_file.as_deref())?;
            let recipients = Recipients {
                everywhere: everywhere.then_some(true),
                only: (!to.is_empty()).then_some(to),
                ..Recipients::default()
            };
            let order = AccountOrder {
                id: hex::encode(&id),
                name: called,
                kind: secret.kind().to_string(),
                user: run_as_user,
                recipients,
                secret: target.sealed(id, 0, &secret)?,
            };
            drop(secret);
            let made = client.create_account(order).await?;
            output.one(&made, COLUMNS, name)?;
            if !made.everywhere && made.agents.is_empty() {
                crate::note(&format!("no agent may have it yet: `wardline account update {} --to AGENT`", made.name));
            }
            crate::note(&format!("say what it is for: `wardline profile set PROFILE --account {}`", made.name));
            Ok(())
        }
        Verb::Update { name: called, given, secret, run_as_user, no_run_as_user, to } => {
            let user = run_as_user.or(no_run_as_user.then(String::new));
            let recipients = to.recipients();
            let other = user.is_some() || recipients != Recipients::default();
            let wanted = secret || given.user.is_some() || given.secret_file.is_some() || !other;
            let secret = match wanted {
                true => Some(anew(&client.account(&called).await?, &Target::of(client).await?, &given)?),
                false => None,
            };
            let change = AccountChange { user, recipients, secret };
            output.one(&client.update_account(&called, change).await?, COLUMNS, name)
        }
        Verb::List { limit } => {
            let ask = async |limit, cursor| client.accounts(AccountFilter { limit: Some(limit), cursor }).await;
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Show { name } => show(&client.account(&name).await?, output),
        Verb::Delete { name: called } => output.one(&client.delete_account(&called).await?, COLUMNS, name),
        Verb::WhereUsed { name } => {
            output.list(&client.account_uses(&name).await?.items, USES, |used| used.profile.clone())
        }
    }
}

/// A new secret for an account that there is.
fn anew(known: &AccountDetail, target: &Target, given: &Given) -> Result<SealedSecret, Problem> {
    let odd = || odd("account");
    let kind: Kind = known.account.kind.parse().map_err(|_| odd())?;
    let id = hex::decode(&known.account.id).and_then(|id| id.try_into().ok()).ok_or_else(odd)?;
    // Most often only the password is another.
    let login = given.user.as_deref().or(known.login.as_deref());
    if kind == Kind::Basic && login.is_none() {
        let detail = "what the server has of it cannot be read, so the name that it logs on with is needed, too";
        let next = format!("`wardline account update {} --user LOGIN`", known.account.name);
        return Err(Problem::new(Why::Invalid, detail, next).explained_by(40183));
    }
    let secret = secret::read(kind, login, given.secret_file.as_deref())?;
    target.sealed(id, known.account.version, &secret)
}

fn show(detail: &AccountDetail, output: &Output) -> Result<(), Problem> {
    output.one(detail, DETAIL, |detail| detail.account.name.clone())?;
    if matches!(output.format(), Format::Table | Format::Wide) && !detail.receipts.is_empty() {
        output.text("\n")?;
        output.table(&detail.receipts, RECEIPTS)?;
    }
    Ok(())
}

fn name(account: &Account) -> String {
    account.name.clone()
}

fn odd(what: &str) -> Problem {
    let next = "use the `wardline` of the server's version";
    Problem::new(Why::Failed, format!("the server's {what} cannot be understood"), next)
}

/// What secrets are sealed to.
struct Target {
    group: GroupId,
    certificate: SealingCertificate,
}

impl Target {
    /// That of the server which answers, held against what it says of itself and of its group.
    async fn of(client: &Client) -> Result<Self, Problem> {
        let (group, target) = (client.group().await?, client.sealing().await?);
        let wrong = || odd("sealing key");
        let id = hex::decode(&group.id).and_then(|id| id.try_into().ok()).map(GroupId).ok_or_else(wrong)?;
        if target.group != group.id || target.server != group.server {
            return Err(wrong());
        }
        let der = Base64::decode_vec(&target.certificate).map_err(|_| wrong())?;
        let certificate = SealingCertificate::read(&der, &group.server, Role::Server, now()).map_err(|fault| {
            let detail = format!("nothing is sealed to the server's sealing certificate: {fault}");
            Problem::new(Why::Failed, detail, "compare this machine's clock with the server's; see the server's log")
        })?;
        if certificate.id().to_string() != target.key {
            return Err(wrong());
        }
        Ok(Self { group: id, certificate })
    }

    /// A secret, for nobody but the server, as this account's, in place of this version.
    fn sealed(&self, account: [u8; 16], replaces: u64, secret: &Secret) -> Result<SealedSecret, Problem> {
        let header = Header {
            group: self.group,
            recipient: self.certificate.name().clone(),
            account,
            version: replaces,
            purpose: Purpose::Submit,
        };
        let sealed = seal(&self.certificate, &header, secret.as_bytes()).map_err(|error| {
            Problem::new(Why::Failed, format!("the secret cannot be sealed: {error}"), "it was sent nowhere")
        })?;
        Ok(SealedSecret { replaces, sealed: Base64::encode_string(&sealed) })
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
