//! What a batch carries: entries, each one thing that an agent has to say, and their encoding.

use bytes::{Buf, Bytes};
use prost::Message as _;

/// The most bytes of one encoded entry.
pub const ENTRY_LIMIT: usize = 256 * 1024;
/// The most bytes of a batch's body before compression.
pub const RAW_LIMIT: usize = 512 * 1024;

/// One thing that an agent has to say.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Entry {
    /// When it was found, milliseconds since 1970, the agent's clock.
    #[prost(uint64, tag = "1")]
    pub at: u64,
    /// What it is.
    #[prost(oneof = "What", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub what: Option<What>,
}

/// What an entry is.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum What {
    /// Something happened.
    #[prost(message, tag = "2")]
    Event(Event),
    /// A monitor became worse.
    #[prost(message, tag = "3")]
    Alert(Alert),
    /// A monitor is healthy again, and so its alert is done with.
    #[prost(message, tag = "4")]
    Close(Close),
    /// A monitor changed its state.
    #[prost(message, tag = "5")]
    State(State),
    /// Samples of one check.
    #[prost(message, tag = "6")]
    Performance(Performance),
    /// Entries that were dropped, in their place.
    #[prost(message, tag = "7")]
    Gap(Gap),
    /// What became of a Run As account that came down.
    #[prost(message, tag = "8")]
    Receipt(Receipt),
}

/// Something happened: a line of a log, an event of a program.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// UUIDv7.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The pack and rule that found it: `pack/rule`.
    #[prost(string, tag = "2")]
    pub source: String,
    /// [`crate::health::Severity`].
    #[prost(uint32, tag = "3")]
    pub severity: u32,
    /// What happened.
    #[prost(string, tag = "4")]
    pub text: String,
}

/// A monitor became worse.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Alert {
    /// UUIDv7.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The pack and monitor that raised it: `pack/monitor`.
    #[prost(string, tag = "2")]
    pub monitor: String,
    /// [`crate::health::Severity`].
    #[prost(uint32, tag = "3")]
    pub severity: u32,
    /// [`crate::health::Priority`].
    #[prost(uint32, tag = "4")]
    pub priority: u32,
    /// One line.
    #[prost(string, tag = "5")]
    pub text: String,
    /// What else the check printed.
    #[prost(string, tag = "6")]
    pub detail: String,
}

/// An alert is done with, because its monitor is healthy again.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Close {
    /// The alert's id.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// One line: what the monitor saw.
    #[prost(string, tag = "2")]
    pub text: String,
}

/// A monitor changed its state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct State {
    /// `pack/monitor`.
    #[prost(string, tag = "1")]
    pub monitor: String,
    /// [`crate::health::Health`] now.
    #[prost(uint32, tag = "2")]
    pub health: u32,
    /// One line: what the check said.
    #[prost(string, tag = "3")]
    pub text: String,
}

/// Samples of one check, taken together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Performance {
    /// `pack/check`.
    #[prost(string, tag = "1")]
    pub source: String,
    /// The samples.
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    /// What was measured.
    #[prost(string, tag = "1")]
    pub label: String,
    /// How much.
    #[prost(double, tag = "2")]
    pub value: f64,
    /// The unit as the plugin gave it; empty for a plain number.
    #[prost(string, tag = "3")]
    pub unit: String,
}

/// What became of a Run As account that came down.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Receipt {
    /// The account's id.
    #[prost(bytes = "bytes", tag = "1")]
    pub account: Bytes,
    /// Which version of its secret.
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// What.
    #[prost(enumeration = "Became", tag = "3")]
    pub became: i32,
    /// The workflow that used it, `pack/check`; empty otherwise.
    #[prost(string, tag = "4")]
    pub workflow: String,
}

/// What a health service has done with a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Became {
    /// Nothing was said.
    Unspecified = 0,
    /// It was opened and is kept.
    Opened = 1,
    /// A workflow has used it.
    Used = 2,
    /// It was wiped: it is not to be here any more, or a newer version has come.
    Removed = 3,
    /// It could not be opened.
    Unopened = 4,
}

/// Why entries were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum GapReason {
    /// Nothing was said.
    Unspecified = 0,
    /// The queue was full.
    QueueFull = 1,
    /// The server had acknowledged them and was restored to an earlier state.
    LostByRestore = 2,
    /// The queue was rolled back to an earlier state; whether the server had these cannot be told any more.
    QueueRolledBack = 3,
    /// They were damaged on the agent's disk.
    Damaged = 4,
}

/// Entries that were dropped, counted, in their place in the stream: it takes as many numbers as it counts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Gap {
    /// Why.
    #[prost(enumeration = "GapReason", tag = "1")]
    pub reason: i32,
    /// How many performance entries.
    #[prost(uint64, tag = "2")]
    pub performance: u64,
    /// How many events.
    #[prost(uint64, tag = "3")]
    pub events: u64,
    /// How many state changes.
    #[prost(uint64, tag = "4")]
    pub states: u64,
    /// How many alerts and closings.
    #[prost(uint64, tag = "5")]
    pub alerts: u64,
    /// How many of which only the number is known.
    #[prost(uint64, tag = "6")]
    pub unknown: u64,
    /// When the first of them was found, milliseconds since 1970; 0 when not known.
    #[prost(uint64, tag = "7")]
    pub from: u64,
    /// When the last of them was found.
    #[prost(uint64, tag = "8")]
    pub to: u64,
}

/// What a full queue drops first: the order of this enum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// Samples.
    Performance = 0,
    /// Events.
    Event = 1,
    /// State changes and receipts.
    State = 2,
    /// Alerts and closings.
    Alert = 3,
    /// Gap records: never dropped.
    Gap = 4,
}

impl Class {
    /// From its number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Performance, Self::Event, Self::State, Self::Alert, Self::Gap].get(usize::from(number)).copied()
    }
}

impl Entry {
    /// What a full queue would treat it as.
    pub const fn class(&self) -> Class {
        match self.what {
            Some(What::Performance(_)) | None => Class::Performance,
            Some(What::Event(_)) => Class::Event,
            Some(What::State(_) | What::Receipt(_)) => Class::State,
            Some(What::Alert(_) | What::Close(_)) => Class::Alert,
            Some(What::Gap(_)) => Class::Gap,
        }
    }

    /// How many numbers of the stream it takes: one, or what a gap counts.
    pub const fn numbers(&self) -> u64 {
        match &self.what {
            Some(What::Gap(gap)) => gap.count(),
            _ => 1,
        }
    }
}

impl Gap {
    /// How many entries were dropped.
    pub const fn count(&self) -> u64 {
        self.performance
            .saturating_add(self.events)
            .saturating_add(self.states)
            .saturating_add(self.alerts)
            .saturating_add(self.unknown)
    }

    /// Counts entries of a class.
    pub const fn add(&mut self, class: Class, count: u64) {
        match class {
            Class::Performance => self.performance += count,
            Class::Event => self.events += count,
            Class::State => self.states += count,
            Class::Alert => self.alerts += count,
            Class::Gap => self.unknown += count,
        }
    }
}

/// Why a body cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The announced length is above [`RAW_LIMIT`].
    #[error("a body of more than {RAW_LIMIT} bytes")]
    TooLong,
    /// Not an LZ4 block of the announced length.
    #[error("the body cannot be decompressed")]
    Compression,
    /// Not a sequence of entries.
    #[error("the body is no sequence of entries")]
    Encoding,
}

/// Appends one entry, length-delimited, to a body that is not compressed yet.
pub fn append(entry: &Entry, body: &mut Vec<u8>) {
    // Cannot fail: a Vec grows.
    let _ = entry.encode_length_delimited(body);
}

/// Compresses a body as it travels.
pub fn compress(raw: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(raw)
}

/// The entries of a body as it travels. `raw` is the length that its signed header gives.
///
/// # Errors
/// The body is not what [`append`] and [`compress`] make.
pub fn entries(body: &[u8], raw: u32) -> Result<Vec<Entry>, BodyError> {
    let length = raw as usize;
    if length > RAW_LIMIT {
        return Err(BodyError::TooLong);
    }
    let mut plain = vec![0; length];
    let got = lz4_flex::block::decompress_into(body, &mut plain).map_err(|_| BodyError::Compression)?;
    if got != length {
        return Err(BodyError::Compression);
    }
    let mut plain = Bytes::from(plain);
    let mut entries = Vec::with_capacity(length / 64);
    while plain.has_remaining() {
        entries.push(Entry::decode_length_delimited(&mut plain).map_err(|_| BodyError::Encoding)?);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Entry {
        let event = Event { id: Bytes::from_static(&[1; 16]), source: "p/r".into(), severity: 1, text: text.into() };
        Entry { at: 5, what: Some(What::Event(event)) }
    }

    #[test]
    fn a_body_survives_its_journey() {
        let sent: Vec<_> = (0..1000).map(|i| event(&format!("line {i}"))).collect();
        let mut raw = Vec::new();
        sent.iter().for_each(|entry| append(entry, &mut raw));
        let body = compress(&raw);
        assert!(body.len() < raw.len() / 2);
        assert_eq!(entries(&body, raw.len() as u32).unwrap(), sent);
        assert_eq!(entries(&compress(&[]), 0).unwrap(), []);
    }

    #[test]
    fn a_bomb_and_a_lie_about_the_length_are_refused() {
        let bomb = compress(&vec![0; RAW_LIMIT * 4]);
        assert_eq!(entries(&bomb, (RAW_LIMIT * 4) as u32), Err(BodyError::TooLong));
        assert_eq!(entries(&bomb, 1000), Err(BodyError::Compression));
        assert_eq!(entries(&compress(&[0xff; 100]), 100), Err(BodyError::Encoding));
        assert_eq!(entries(&compress(&[0; 10]), 20), Err(BodyError::Compression));
    }
}
