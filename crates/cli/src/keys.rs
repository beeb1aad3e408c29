//! `wardline keys`: the log of who is trusted, and the key that lies on paper.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Subcommand;
use wardline_sdk::{Client, DataAccess as _, Kind, Problem, RecoveryOrder};
use wardline_secrets::recovery::RecoveryKey;
use wardline_secrets::trust::Pin;
use zeroize::Zeroizing;

use crate::log::{self, Shown, Verified};
use crate::output::{Cell, Column, Output};

/// What can be done with keys.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// The trust log: every fact that decides who is trusted.
    #[command(subcommand)]
    Log(Log),
    /// Makes the group's recovery key and shows its private half, once. The server gets to know its public half only.
    Escrow {
        /// Where to show it: a file descriptor instead of the terminal.
        #[arg(long, value_name = "N")]
        fd: Option<u32>,
        /// In place of the one that there is.
        #[arg(long)]
        replace: bool,
    },
}

/// What can be done with the trust log.
#[derive(Subcommand)]
pub(crate) enum Log {
    /// Shows its entries, oldest first.
    Show,
    /// Checks here, not at the server, that every entry is signed by who may, and that the server's head is of them.
    Verify {
        /// The pin of the group's root, as it was noted; without, the server is asked.
        #[arg(long)]
        pin: Option<Pin>,
    },
}

const ENTRIES: &[Column<Shown>] = &[
    Column::new("NUMBER", |entry| Cell::text(entry.number)),
    Column::new("AT", |entry| Cell::Time(entry.at)),
    Column::wide("SERVER", |entry| Cell::text(&entry.server)),
    Column::new("ACT", |entry| Cell::text(&entry.act)),
    Column::new("WHAT", |entry| Cell::text(entry.what)),
    Column::new("ABOUT", |entry| Cell::text(&entry.about)),
];

const VERIFIED: &[Column<Verified>] = &[
    Column::new("GROUP", |verified| Cell::text(&verified.group)),
    Column::new("PIN", |verified| Cell::text(&verified.pin)),
    Column::new("HEAD SIGNED BY", |verified| Cell::text(&verified.server)),
    Column::new("ENTRIES", |verified| Cell::text(verified.entries)),
    Column::new("ROOT OF THE LOG", |verified| Cell::text(&verified.root)),
    Column::new("MEMBERS", |verified| Cell::text(verified.members)),
    Column::new("RECOVERY KEY", |verified| Cell::text(if verified.recovery { "yes" } else { "no" })),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Log(Log::Show) => {
            let entries = log::entries(client, u64::MAX).await?;
            let entries: Result<Vec<_>, _> = (0..).zip(&entries).map(|(number, e)| log::shown(number, e)).collect();
            output.list(&entries?, ENTRIES, |entry| entry.number.to_string())
        }
        Verb::Log(Log::Verify { pin }) => verify(pin, client, output).await,
        Verb::Escrow { fd, replace } => escrow(fd, replace, client).await,
    }
}

async fn verify(pin: Option<Pin>, client: &Client, output: &Output) -> Result<(), Problem> {
    let odd = |what: &str| {
        let next = "use the `wardline` of the server's version";
        Problem::new(Kind::Failed, format!("the server's {what} cannot be understood"), next)
    };
    let group = client.group().await?;
    let asked = pin.is_none();
    let pin = pin.map_or_else(|| group.pin.parse().map_err(|_| odd("pin")), Ok)?;
    let head = log::head(&group).ok_or_else(|| odd("head"))?;
    let entries = log::entries(client, head.size).await?;
    let verified = log::verify(&group, pin, &head, &entries)?;
    output.one(&verified, VERIFIED, |verified| verified.root.clone())?;
    crate::note(
        "verified: every entry's place and signature, that each leads to the pinned root, and the server's head",
    );
    if asked {
        crate::note("note: the pin came from the server itself; give the one that was noted: `--pin sha256:...`");
    }
    Ok(())
}

async fn escrow(fd: Option<u32>, replace: bool, client: &Client) -> Result<(), Problem> {
    // Before anything is shown that would be worth nothing.
    if client.group().await?.recovery.is_some() && !replace {
        let next = "if the one on paper is lost: `wardline keys escrow --replace`";
        return Err(Problem::new(Kind::Conflict, "the group has a recovery key", next));
    }
    let failed = |error: &dyn std::error::Error| {
        Problem::new(Kind::Failed, format!("no key can be made: {error}"), "try again once the system has started")
    };
    let key = RecoveryKey::generate().map_err(|error| failed(&error))?;
    let text = key.text().map_err(|error| failed(&error))?;
    show(fd, &text)?;
    drop(text);
    let order = RecoveryOrder { key: key.public().to_base64(), replace };
    client.escrow(order).await.map_err(|problem| {
        let detail = format!("what was shown is worth nothing, destroy it: {}", problem.detail);
        Problem { detail, ..problem }
    })?;
    crate::note(&format!(
        "the group's recovery key is {}; keep what was shown away from the servers",
        key.public().id()
    ));
    Ok(())
}

/// Shows the private half where it was asked for, and nowhere else.
fn show(fd: Option<u32>, text: &str) -> Result<(), Problem> {
    let (path, shown) = match fd {
        Some(fd) => (PathBuf::from(format!("/proc/self/fd/{fd}")), Zeroizing::new(format!("{text}\n"))),
        None => {
            let shown = format!("\n    {text}\n\nThis is shown once. Write it down and keep it on paper.\n\n");
            (PathBuf::from("/dev/tty"), Zeroizing::new(shown))
        }
    };
    let written = File::options().append(true).open(&path).and_then(|mut file| file.write_all(shown.as_bytes()));
    written.map_err(|error| {
        let next = "run it on a terminal, or give it a file descriptor: `wardline keys escrow --fd 3 3>FILE`";
        Problem::new(Kind::Failed, format!("the key cannot be shown on {}: {error}", path.display()), next)
    })
}
