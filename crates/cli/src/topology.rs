//! `wardline topology`: which health services there are, and how the hops between them are protected.

use wardline_sdk::{Client, DataAccess as _, Hop, HopEnd, Problem, Service, Ticket};

use crate::output::{Cell, Column, Format, Output};

const SERVICES: &[Column<Service>] = &[
    Column::new("NAME", |service| Cell::text(&service.name)),
    Column::new("ROLE", |service| crate::member::role(service.role, service.relays)),
    Column::new("CONNECTED", |service| Cell::text(yes(service.connected))),
];

/// A hop as one of its ends measured it; without an end when none has said so yet.
struct Measured {
    hop: Hop,
    end: Option<HopEnd>,
}

impl Measured {
    fn fact(&self, fact: fn(&HopEnd) -> &String) -> Cell {
        Cell::maybe(self.end.as_ref().map(fact))
    }

    fn ticket(&self, fact: fn(&Ticket) -> &String) -> Cell {
        Cell::maybe(self.end.as_ref().and_then(|end| end.kerberos.as_ref()).map(fact))
    }
}

const HOPS: &[Column<Measured>] = &[
    Column::new("FROM", |row| Cell::text(&row.hop.from)),
    Column::new("TO", |row| Cell::text(&row.hop.to)),
    Column::new("SAID BY", |row| Cell::maybe(row.end.as_ref().map(|end| &end.reporter))),
    Column::new("MECHANISM", |row| row.fact(|end| &end.mechanism)),
    Column::new("ALLOWED", |row| Cell::maybe(row.end.as_ref().map(|end| allowed(end)))),
    Column::new("VERSION", |row| row.fact(|end| &end.version)),
    Column::new("CIPHER", |row| row.fact(|end| &end.cipher)),
    Column::new("EXCHANGE", |row| row.fact(|end| &end.exchange)),
    Column::new("AGREE", |row| Cell::text(yes(row.hop.agree))),
    Column::wide("SINCE", |row| row.end.as_ref().map_or(Cell::Nothing, |end| Cell::Time(end.since))),
    Column::wide("PRINCIPAL", |row| row.ticket(|ticket| &ticket.initiator)),
    Column::wide("SESSION KEY", |row| row.ticket(|ticket| &ticket.session)),
    Column::wide("PEER CERTIFICATE", |row| row.fact(|end| &end.peer_certificate)),
    Column::wide("HOP", |row| Cell::text(&row.hop.id)),
];

/// Shows it. As CSV only the hops, of which there is a row for each end.
pub(crate) async fn run(client: &Client, output: &Output) -> Result<(), Problem> {
    let topology = client.topology().await?;
    match output.format() {
        Format::Json => output.json(&topology),
        Format::Jsonl => output.one(&topology, &[], |_| String::new()),
        Format::Csv => output.csv(&rows(topology.hops), HOPS),
        Format::Name => output.names(&topology.services, |service| service.name.to_string()),
        Format::Table | Format::Wide => {
            output.table(&topology.services, SERVICES)?;
            output.text("\n")?;
            output.table(&rows(topology.hops), HOPS)
        }
    }
}

/// What the operator of who dialled allows.
fn allowed(end: &HopEnd) -> &'static str {
    match end.offered.as_slice() {
        [_, _, ..] => "either",
        [one] if one.starts_with("wardline-krb5/") => "kerberos",
        _ => "certificate",
    }
}

fn rows(hops: Vec<Hop>) -> Vec<Measured> {
    let ends = |hop: Hop| -> Vec<Measured> {
        if hop.ends.is_empty() {
            return vec![Measured { hop, end: None }];
        }
        hop.ends.iter().map(|end| Measured { hop: hop.clone(), end: Some(end.clone()) }).collect()
    };
    hops.into_iter().flat_map(ends).collect()
}

const fn yes(is: bool) -> &'static str {
    if is { "yes" } else { "no" }
}
