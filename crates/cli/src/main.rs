//! The command line of an operator: asks a server through the data access service and shows what it says.
//!
//! Data goes to standard output, everything else to standard error. A file of a noun has what can be done with it.

mod account;
mod agent;
mod alert;
mod ca;
mod db;
mod explain;
mod gap;
mod keys;
mod list;
mod load;
mod log;
mod member;
mod output;
mod pack;
mod profile;
mod secret;
mod status;
mod token;
mod topology;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use wardline_connector::config;
use wardline_proto::Role;
use wardline_sdk::{Client, Kind, Problem, SOCKET};

use crate::output::{Format, Output};

/// Asks a Wardline server and tells it what to do.
#[derive(Parser)]
#[command(name = "wardline", version, disable_help_subcommand = true)]
struct Arguments {
    /// The socket of the server.
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    socket: PathBuf,
    /// How to show what was found.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// What somebody has to look at.
    #[command(subcommand)]
    Alert(alert::Verb),
    /// Who watches hosts.
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Who carries what agents say.
    #[command(subcommand)]
    Gateway(member::Verb),
    /// Who keeps what agents say.
    #[command(subcommand)]
    Server(member::Verb),
    /// What hosts join with.
    #[command(subcommand)]
    Token(token::Verb),
    /// What issues channel certificates, and which of them count.
    #[command(subcommand)]
    Ca(ca::Verb),
    /// The keys of the management group, and the log of who is trusted.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// What agents run by the server's word.
    #[command(subcommand)]
    Pack(pack::Verb),
    /// What hosts log on with (Run As accounts).
    #[command(subcommand)]
    Account(account::Verb),
    /// The names by which checks ask for an account (Run As profiles).
    #[command(subcommand)]
    Profile(profile::Verb),
    /// What is missing.
    #[command(subcommand)]
    Gap(gap::Verb),
    /// Which health services there are, and how the hops between them are protected.
    Topology,
    /// The server's database.
    #[command(subcommand)]
    Db(db::Verb),
    /// How the server is.
    Status,
    /// Makes many agents, to see what gateways and servers carry. For figures, not for a group that is in use.
    Load(load::Load),
    /// What an event means, what causes it and what cures it. Asks no server.
    Explain {
        /// The event's number, as the log has it.
        number: u32,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let limits = |reason: String| Problem::new(Kind::Failed, reason, "see what this user's limits are: `ulimit -a`");
    // It holds passwords and tokens for as long as it takes to seal or hand them over.
    let done = config::no_dumps()
        .map_err(|event| limits(event.text()))
        .and_then(|()| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| limits(error.to_string()))
        })
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let mut stderr = std::io::stderr().lock();
            // When standard error is gone, the exit code still says what it can.
            let _ = writeln!(stderr, "error: {}", output::printable(&problem.detail));
            let _ = writeln!(stderr, " next: {}", output::printable(&problem.next));
            if let Some(event) = problem.event {
                let _ = writeln!(stderr, " more: `wardline explain {event}`");
            }
            exit_code(problem.kind())
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Problem> {
    let output = Output::new(arguments.output);
    let client = Client::over_socket(&arguments.socket)?;
    match arguments.noun {
        Noun::Alert(verb) => alert::run(verb, &client, &output).await,
        Noun::Agent(verb) => agent::run(verb, &client, &output).await,
        Noun::Gateway(verb) => member::run(Role::Gateway, verb, &client, &output).await,
        Noun::Server(verb) => member::run(Role::Server, verb, &client, &output).await,
        Noun::Token(verb) => token::run(verb, &client, &output).await,
        Noun::Ca(verb) => ca::run(verb, &client, &output).await,
        Noun::Keys(verb) => keys::run(verb, &client, &output).await,
        Noun::Pack(verb) => pack::run(verb, &client, &output).await,
        Noun::Account(verb) => account::run(verb, &client, &output).await,
        Noun::Profile(verb) => profile::run(verb, &client, &output).await,
        Noun::Gap(verb) => gap::run(verb, &client, &output).await,
        Noun::Db(verb) => db::run(verb, &client, &output).await,
        Noun::Topology => topology::run(&client, &output).await,
        Noun::Status => status::run(&client, &output).await,
        Noun::Load(load) => load::run(load).await,
        Noun::Explain { number } => explain::run(number, &output),
    }
}

/// Tells whoever watches something that is no data.
fn note(text: &str) {
    // When standard error is gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{}", output::printable(text));
}

/// What scripts decide by; 0 is success, and 2 is also what wrong arguments give.
fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::Failed => 1,
        Kind::Invalid => 2,
        Kind::NotFound => 3,
        Kind::Denied => 4,
        Kind::Conflict => 5,
        Kind::Unreachable => 6,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_may_stand_anywhere() {
        let arguments = Arguments::parse_from(["wardline", "alert", "list", "--agent", "web1", "-o", "jsonl"]);
        assert_eq!(arguments.output, Format::Jsonl);
        assert_eq!(arguments.socket, PathBuf::from(SOCKET));
    }
}
