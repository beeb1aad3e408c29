//! How things are shown: as a table for people, as JSON, lines of JSON, CSV or bare names for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use jiff::tz::TimeZone;
use serde::Serialize;
use wardline_sdk::{Kind, Problem, Time};

/// How to show what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The columns that fit, times in the local time zone.
    Table,
    /// All columns.
    Wide,
    /// One JSON document.
    Json,
    /// One JSON document per line.
    Jsonl,
    /// All columns, times in UTC (RFC 4180).
    Csv,
    /// Only names or ids, one per line.
    Name,
}

/// A column of things of type `T`.
pub(crate) struct Column<T> {
    title: &'static str,
    wide: bool,
    cell: fn(&T) -> Cell,
}

impl<T> Column<T> {
    /// A column that is always shown.
    pub(crate) const fn new(title: &'static str, cell: fn(&T) -> Cell) -> Self {
        Self { title, wide: false, cell }
    }

    /// A column that narrow tables leave out.
    pub(crate) const fn wide(title: &'static str, cell: fn(&T) -> Cell) -> Self {
        Self { title, wide: true, cell }
    }
}

/// What stands in a column.
pub(crate) enum Cell {
    Text(String),
    Time(Time),
    Nothing,
}

impl Cell {
    /// What `Display` makes of it.
    pub(crate) fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    /// What is there, or nothing.
    pub(crate) fn maybe(value: Option<impl ToString>) -> Self {
        value.map_or(Self::Nothing, Self::text)
    }

    fn for_people(&self, zone: &TimeZone) -> String {
        match self {
            Self::Text(text) => printable(text),
            Self::Time(time) => local(*time, zone),
            Self::Nothing => "-".into(),
        }
    }

    fn for_programs(&self) -> String {
        match self {
            Self::Text(text) => printable(text),
            Self::Time(time) => time.to_string(),
            Self::Nothing => String::new(),
        }
    }
}

/// Where and how to show.
pub(crate) struct Output {
    format: Format,
    zone: TimeZone,
}

impl Output {
    /// Shows on standard output.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, zone: TimeZone::system() }
    }

    /// How.
    pub(crate) const fn format(&self) -> Format {
        self.format
    }

    /// Shows a list.
    pub(crate) fn list<T: Serialize>(
        &self,
        items: &[T],
        columns: &[Column<T>],
        name: fn(&T) -> String,
    ) -> Result<(), Problem> {
        match self.format {
            Format::Table | Format::Wide => self.table(items, columns),
            Format::Json => self.json(items),
            Format::Jsonl => self.print(|out| items.iter().try_for_each(|item| json_line(out, item))),
            Format::Csv => self.csv(items, columns),
            Format::Name => self.names(items, name),
        }
    }

    /// Shows one thing; as a table with a row for each column.
    pub(crate) fn one<T: Serialize>(
        &self,
        item: &T,
        columns: &[Column<T>],
        name: fn(&T) -> String,
    ) -> Result<(), Problem> {
        match self.format {
            Format::Table | Format::Wide => {
                let mut table = bare_table();
                for column in columns {
                    table.add_row([column.title.to_owned(), (column.cell)(item).for_people(&self.zone)]);
                }
                self.print(|out| write_table(out, &table))
            }
            Format::Json => self.json(item),
            Format::Jsonl => self.print(|out| json_line(out, item)),
            Format::Csv => self.csv(std::slice::from_ref(item), columns),
            Format::Name => self.names(std::slice::from_ref(item), name),
        }
    }

    /// Shows a list as a table, whatever the format is.
    pub(crate) fn table<T>(&self, items: &[T], columns: &[Column<T>]) -> Result<(), Problem> {
        let shown = || columns.iter().filter(|column| self.format == Format::Wide || !column.wide);
        let mut table = bare_table();
        table.set_header(shown().map(|column| column.title));
        for item in items {
            table.add_row(shown().map(|column| (column.cell)(item).for_people(&self.zone)));
        }
        self.print(|out| write_table(out, &table))
    }

    /// Shows a list as CSV, whatever the format is.
    pub(crate) fn csv<T>(&self, items: &[T], columns: &[Column<T>]) -> Result<(), Problem> {
        self.print(|out| {
            csv_line(out, columns.iter().map(|column| column.title.to_lowercase().replace(' ', "_")))?;
            items
                .iter()
                .try_for_each(|item| csv_line(out, columns.iter().map(|column| (column.cell)(item).for_programs())))
        })
    }

    /// Shows names, whatever the format is.
    pub(crate) fn names<T>(&self, items: &[T], name: fn(&T) -> String) -> Result<(), Problem> {
        self.print(|out| items.iter().try_for_each(|item| writeln!(out, "{}", printable(&name(item)))))
    }

    /// Shows text as it is, apart from what would control the terminal.
    pub(crate) fn text(&self, text: &str) -> Result<(), Problem> {
        self.print(|out| text.lines().try_for_each(|line| writeln!(out, "{}", printable(line))))
    }

    /// Shows one JSON document, whatever the format is.
    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Problem> {
        self.print(|out| {
            serde_json::to_writer_pretty(&mut *out, value)?;
            writeln!(out)
        })
    }

    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Problem> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        match write(&mut out).and_then(|()| out.flush()) {
            // Whoever read has seen enough, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| {
                let detail = format!("standard output cannot be written: {error}");
                Problem::new(Kind::Failed, detail, "see where the output goes, and whether there is room")
            }),
        }
    }
}

/// What others have written, without characters that would control the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// RFC 3339 with the offset of the local time zone, to the second.
fn local(time: Time, zone: &TimeZone) -> String {
    time.timestamp().to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn write_table(out: &mut dyn Write, table: &Table) -> io::Result<()> {
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim()))
}

fn json_line<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

fn csv_line(out: &mut dyn Write, fields: impl Iterator<Item = String>) -> io::Result<()> {
    for (index, field) in fields.enumerate() {
        if index > 0 {
            write!(out, ",")?;
        }
        if field.contains(['"', ',']) {
            write!(out, "\"{}\"", field.replace('"', "\"\""))?;
        } else {
            write!(out, "{field}")?;
        }
    }
    write!(out, "\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_a_host_does_not_control_the_terminal() {
        assert_eq!(printable("a\u{1b}]0;b\u{7}\n\u{9b}c"), "a ]0;b   c");
    }

    #[test]
    fn csv_quotes_what_would_break_it() {
        let mut line = Vec::new();
        csv_line(&mut line, ["a", "b,c", "d\"e", ""].map(String::from).into_iter()).unwrap();
        assert_eq!(line, b"a,\"b,c\",\"d\"\"e\",\r\n");
    }

    #[test]
    fn times_are_local_for_people_and_utc_for_programs() {
        let time = Cell::Time(Time(1_732_246_800_123));
        let zone = TimeZone::fixed(jiff::tz::offset(-5));
        assert_eq!(time.for_people(&zone), "2024-11-21T22:40:00-05:00");
        assert_eq!(time.for_programs(), "2024-11-22T03:40:00.123Z");
    }
}
