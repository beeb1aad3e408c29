//! `wardline-server accept-restore`: an operator says that the database was restored on purpose.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _, Write};

use nix::unistd::{User, getuid};
use wardline_connector::journal;
use wardline_proto::event::Event;

use crate::founding::{Foundation, moment};
use crate::store::{Location, Restoring};

/// The longest answer that is read.
const ANSWER: u64 = 64;
/// What an operator types to go on.
const YES: &str = "restored";

/// Shows what a database has forgotten, has it confirmed, unless that is `sure`, and lets the trust log go on from there.
/// Gives whether it does.
///
/// # Errors
/// One event: the database, its log or a file cannot be used. Nothing was changed then.
pub fn accept(database: Location, foundation: Foundation, sure: bool) -> Result<bool, Event> {
    let Foundation { keeper, presence, .. } = foundation;
    let mut out = io::stdout().lock();
    // Who does not read what is said here loses nothing that counts.
    let mut say = |text: &str| drop(writeln!(out, "{text}"));
    let Some(restoring) = Restoring::open(database, keeper).map_err(|error| error.event())? else {
        say("the trust log continues all that this server and its agents have shown of it: there is nothing to accept");
        return Ok(true);
    };
    let (found, lost) = (restoring.found(), restoring.lost());
    let gone = lost.head.size.saturating_sub(found.head.size);
    say(&format!("the trust log that is there:    {found}"));
    say(&format!("its newest entry is from        {}", moment(restoring.since() / 1000)));
    say(&format!("the one that will be given up:  {lost}"));
    say(&format!("{gone} entries or more that came after that moment are lost. Do again what they said:"));
    say("  - remove who was removed since: they are members again (`wardline agent|gateway remove`)");
    say("  - revoke tokens that were revoked or used since: they are good again (`wardline token list`)");
    say("  - apply and remove packs as it was done since (`wardline pack list`)");
    say("  - let hosts join anew that have joined since; make the recovery key anew if that was done since");
    if !sure && !confirmed(&mut say) {
        say("nothing was changed");
        return Ok(false);
    }
    let user = getuid();
    let name = User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name);
    let act = format!("operator {name}");
    restoring.accept(act.clone(), move |view| presence.facts(view)).map_err(|error| error.event())?;
    journal::emit(Event::RestoreAccepted { act, from: found.to_string(), lost: lost.to_string() });
    Ok(true)
}

/// Whether somebody at a terminal confirms it.
fn confirmed(say: &mut impl FnMut(&str)) -> bool {
    let input = io::stdin();
    if !input.is_terminal() {
        say("nobody can be asked here: run it on a terminal, or with --yes");
        return false;
    }
    say(&format!("if the database was restored on purpose, type `{YES}`, then Enter:"));
    let mut answer = String::new();
    input.lock().take(ANSWER).read_line(&mut answer).is_ok() && answer.trim() == YES
}
