//! `wardline pack`: what agents run by the server's word.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use wardline_packs::Pack as Read;
use wardline_sdk::{Client, DataAccess as _, Kind, Pack, PackFilter, PackOrder, Problem};

use crate::list::Limit;
use crate::output::{self, Cell, Column, Output};

/// What can be done with packs.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Says what is wrong with files of packs, and where. Asks no server.
    Lint {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Shows in which lines a file differs from what the server has of the pack.
    Diff {
        /// The file.
        file: PathBuf,
    },
    /// Has agents run a pack, in place of the one of the same name.
    Apply {
        /// The file.
        file: PathBuf,
        /// The name of the agent that is to run it, or a pattern with one `*` at its beginning or end. Without, it stays
        /// as it is; a new pack is for every agent.
        #[arg(long, value_name = "NAME|PATTERN")]
        agents: Option<String>,
    },
    /// Lists packs by name.
    List {
        #[command(flatten)]
        limit: Limit,
    },
    /// Has nobody run a pack any more.
    Remove {
        /// Its name.
        name: String,
    },
}

const COLUMNS: &[Column<Pack>] = &[
    Column::new("NAME", |pack| Cell::text(&pack.name)),
    Column::new("AGENTS", |pack| Cell::text(&pack.agents)),
    Column::new("MEMBERS", |pack| Cell::text(pack.members)),
    Column::new("APPLIED", |pack| Cell::Time(pack.applied_at)),
    Column::wide("HASH", |pack| Cell::text(&pack.hash)),
];

/// Does it.
pub(crate) async fn run(verb: Verb, client: &Client, output: &Output) -> Result<(), Problem> {
    match verb {
        Verb::Lint { files } => lint(&files),
        Verb::Diff { file } => {
            let text = text_of(&file)?;
            let name = read(&file, &text)?.name;
            let known = client.pack(&name).await?;
            let missing = || {
                let detail = format!("the text that the server keeps of {name} is not the one that was applied");
                Problem::new(Kind::Conflict, detail, "apply it again: `wardline pack apply FILE`").explained_by(40085)
            };
            output.text(&differences(&known.text.ok_or_else(missing)?, &text))
        }
        Verb::Apply { file, agents } => {
            let text = text_of(&file)?;
            let order = PackOrder { file: file.display().to_string(), text, agents };
            output.one(&client.apply_pack(order).await?, COLUMNS, name)
        }
        Verb::List { limit } => {
            let ask = async |limit, cursor| client.packs(PackFilter { limit: Some(limit), cursor }).await;
            output.list(&limit.gather(ask).await?, COLUMNS, name)
        }
        Verb::Remove { name: pack } => output.one(&client.remove_pack(&pack).await?, COLUMNS, name),
    }
}

fn name(pack: &Pack) -> String {
    pack.name.clone()
}

fn text_of(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file).map_err(|error| {
        Problem::new(Kind::Invalid, format!("{}: {error}", file.display()), "see that it is there and readable")
    })
}

fn read(file: &Path, text: &str) -> Result<Read, Problem> {
    Read::parse(&file.display().to_string(), text)
        .map_err(|error| Problem::new(Kind::Invalid, error.to_string(), "correct it: docs/reference/packs.md"))
}

/// Every file is looked at; each mistake is a line of its own.
fn lint(files: &[PathBuf]) -> Result<(), Problem> {
    let mut wrong = Vec::new();
    for file in files {
        wrong.extend(text_of(file).and_then(|text| read(file, &text)).err());
    }
    let Some(last) = wrong.pop() else { return Ok(()) };
    for problem in wrong {
        // When standard error is gone, the exit code still says what it can.
        let _ = writeln!(std::io::stderr(), "error: {}", output::printable(&problem.detail));
    }
    Err(last)
}

/// The most lines of which differences are looked for; of more, all between the first and the last difference differ.
const LINES: usize = 4000;

/// What lines of the old text are gone and what lines of the new one are new, with up to three around them.
fn differences(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    let mut lines = Vec::new();
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    lines.extend(old.iter().take(same).map(|line| (' ', *line)));
    let (old, new) = (old.get(same..).unwrap_or_default(), new.get(same..).unwrap_or_default());
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old_middle, ending) = old.split_at(old.len() - tail);
    let new_middle = new.split_at(new.len() - tail).0;
    if old_middle.len().max(new_middle.len()) > LINES {
        lines.extend(old_middle.iter().map(|line| ('-', *line)));
        lines.extend(new_middle.iter().map(|line| ('+', *line)));
    } else {
        changed(old_middle, new_middle, &mut lines);
    }
    lines.extend(ending.iter().map(|line| (' ', *line)));
    let near = |at: usize| {
        let around = lines.get(at.saturating_sub(3)..(at + 4).min(lines.len())).unwrap_or_default();
        around.iter().any(|(mark, _)| *mark != ' ')
    };
    let (mut text, mut left_out) = (String::new(), false);
    for (at, (mark, line)) in lines.iter().enumerate() {
        if !near(at) {
            left_out = true;
            continue;
        }
        if std::mem::take(&mut left_out) {
            text += "...\n";
        }
        text.push(*mark);
        text += &output::printable(line);
        text.push('\n');
    }
    text
}

/// The longest common subsequence decides what stays.
fn changed<'a>(old: &[&'a str], new: &[&'a str], lines: &mut Vec<(char, &'a str)>) {
    // By how much of each is left: how many lines they have in common.
    let width = new.len() + 1;
    let mut common = vec![0_u16; (old.len() + 1) * width];
    let at = |common: &[u16], i: usize, j: usize| common.get(i * width + j).copied().unwrap_or_default();
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let value = match a == b {
                true => at(&common, i + 1, j + 1) + 1,
                false => at(&common, i + 1, j).max(at(&common, i, j + 1)),
            };
            if let Some(place) = common.get_mut(i * width + j) {
                *place = value;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a == b => {
                lines.push((' ', a));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || at(&common, i + 1, j) >= at(&common, i, j + 1) => {
                lines.push(('-', a));
                i += 1;
            }
            (_, Some(b)) => {
                lines.push(('+', b));
                j += 1;
            }
            (Some(_) | None, None) => break,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_the_lines_that_are_gone_and_new_and_a_few_around_them() {
        assert_eq!(differences("a\nb\n", "a\nb\n"), "");
        assert_eq!(differences("", "a\n"), "+a\n");
        assert_eq!(differences("a\nb\nc\n", "a\nx\nc\n"), " a\n-b\n+x\n c\n");
        assert_eq!(differences("1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\n5\n6\n7\n"), "...\n 4\n 5\n 6\n+7\n");
        assert_eq!(differences("a\nb\nc\nd\n", "b\nc\nx\nd\ny\n"), "-a\n b\n c\n+x\n d\n+y\n");
        assert!(differences("a\n", "\u{1b}[2J\n").chars().all(|c| c != '\u{1b}'), "a file controls no terminal");
    }
}
