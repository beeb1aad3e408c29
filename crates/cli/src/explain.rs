//! `wardline explain`: what an event means. Asks no server: the catalogue is part of every program.

use serde::Serialize;
use wardline_proto::event;
use wardline_proto::health::Severity;
use wardline_sdk::{Kind, Problem};

use crate::output::{Cell, Column, Output};

/// An event of the catalogue.
#[derive(Serialize)]
struct Explanation {
    number: u32,
    severity: Severity,
    name: &'static str,
    text: &'static str,
    meaning: &'static str,
    cause: &'static str,
    cure: &'static str,
}

const COLUMNS: &[Column<Explanation>] = &[
    Column::new("EVENT", |event| Cell::text(event.number)),
    Column::new("NAME", |event| Cell::text(event.name)),
    Column::new("SEVERITY", |event| Cell::text(event.severity)),
    Column::new("TEXT", |event| Cell::text(event.text)),
    Column::new("MEANING", |event| Cell::text(event.meaning)),
    Column::new("CAUSE", |event| Cell::text(event.cause)),
    Column::new("CURE", |event| Cell::text(event.cure)),
];

/// Shows it.
pub(crate) fn run(number: u32, output: &Output) -> Result<(), Problem> {
    let Some(entry) = event::explain(number) else {
        let next = "take the number from the log: `journalctl -u 'wardline-*'`; it stands behind the severity";
        return Err(Problem::new(Kind::NotFound, format!("there is no event {number}"), next));
    };
    let event::Entry { number, severity, name, text, meaning, cause, cure, fields: _ } = *entry;
    let event = Explanation { number, severity, name, text, meaning, cause, cure };
    output.one(&event, COLUMNS, |event| event.name.to_owned())
}
