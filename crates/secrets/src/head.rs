//! Heads of the trust log: what is signed of them, how one is known to continue another, and what it means that a log was
//! restored. No IO.

use std::fmt;

use bytes::Bytes;
use wardline_proto::GroupId;
use wardline_proto::message::{Context, Digest, Included, Signed, decode, encode};
use wardline_proto::trust::{self, Entry, Record, Recorded};

use crate::merkle::{self, verify_consistency, verify_inclusion};
use crate::signature::{SigningKey, VerifyingKey};

/// The highest version that a restored log goes on from.
const HIGHEST: u64 = 1 << 62;

/// How far a log is, and how far the versions of configurations are that go back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The log.
    pub head: merkle::Head,
    /// The highest version: it rises with every entry, and more when the log was restored to fewer.
    pub version: u64,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, root {}", self.head.size, self.head.root)
    }
}

/// What was given up when the log was restored on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The number of the entry that says so.
    pub number: u64,
    /// How far the log was.
    pub lost: Reach,
}

impl Restored {
    /// What a fact says that stands at this place; nothing when it makes no sense.
    pub fn read(number: u64, fact: &trust::Restored) -> Option<Self> {
        let head = merkle::Head { size: fact.size, root: Digest::from_wire(&fact.root)? };
        (fact.version <= HIGHEST).then_some(Self { number, lost: Reach { head, version: fact.version } })
    }

    /// Whether a log of this reach is given up by it.
    pub fn covers(&self, known: &Reach) -> bool {
        known.head == self.lost.head || known.version < self.lost.version
    }
}

/// What a server promises of its log: signed once for everybody.
pub fn signed_head(key: &SigningKey, reach: &Reach, at: u64) -> Signed {
    let Reach { head, version } = *reach;
    let head = trust::Head { size: head.size, root: head.root.to_wire(), at, version };
    key.signed(Context::Log, encode(&Record { what: Some(Recorded::Head(head)) }))
}

/// A signed head, when its signature fits.
pub fn open_head(key: &VerifyingKey, group: GroupId, signed: &Signed) -> Option<Reach> {
    key.open(Context::Log, group, signed).ok()?;
    read_head(signed)
}

/// What a head says, whoever may have signed it.
pub fn read_head(signed: &Signed) -> Option<Reach> {
    let Some(Recorded::Head(head)) = decode::<Record>(&signed.payload)?.what else { return None };
    let version = head.version.max(head.size);
    Some(Reach { head: merkle::Head { size: head.size, root: Digest::from_wire(&head.root)? }, version })
}

/// What an entry says, whoever may have signed it: its place, whose act it was, and the fact.
pub fn read_entry(entry: &Bytes) -> Option<Entry> {
    let signed: Signed = decode(entry)?;
    match decode::<Record>(&signed.payload)?.what? {
        Recorded::Entry(entry) => Some(entry),
        Recorded::Head(_) => None,
    }
}

/// The entry that is proved to be in the log with this head, at the place that it names.
pub fn open_included(head: &merkle::Head, included: &Included) -> Option<Entry> {
    let entry = read_entry(&included.entry)?;
    let leaf = merkle::leaf(&included.entry);
    verify_inclusion(leaf, entry.number, head, &hashes(&included.proof)?).then_some(entry)
}

/// Why what is shown does not follow what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// It is of another history, or nobody has proved that it is of the same.
    Forked,
    /// It is of an earlier moment.
    Older,
}

/// Whether the log of this reach begins with all of the one that is known, by a proof (RFC 9162, 2.1.4.2).
///
/// # Errors
/// It does not.
pub fn follows(known: &Reach, shown: &Reach, proof: &[Bytes]) -> Result<(), Breach> {
    let grown = || hashes(proof).is_some_and(|proof| verify_consistency(&known.head, &shown.head, &proof));
    if known.head == shown.head || grown() {
        return Ok(());
    }
    Err(if shown.head.size < known.head.size { Breach::Older } else { Breach::Forked })
}

fn hashes(wire: &[Bytes]) -> Option<Vec<Digest>> {
    wire.iter().map(|hash| Digest::from_wire(hash)).collect()
}
