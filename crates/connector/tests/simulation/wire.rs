//! What travels. Nobody between the ends can make or alter any of it: signatures are modelled by handing out nothing
//! that could be changed, only kept, repeated, swapped and dropped.

use std::fmt;
use std::rc::Rc;

use wardline_connector::stream::Tail;
use wardline_proto::entry::GapReason;
use wardline_proto::message::{Ack, Answer, BatchHeader, Digest, Mark, Point, Position, Standing, encode};
use wardline_secrets::signature::sha256;

/// What tells one entry from all others. 0 is no entry's.
pub(crate) type Id = u64;

/// An entry.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Fact(Id),
    /// As many entries as `ids` has are missing. Which ones only the simulator knows; programs know the count.
    Gap(GapReason, Rc<[Id]>),
}

impl Item {
    /// How many numbers it takes.
    pub(crate) fn numbers(&self) -> u64 {
        self.ids().len() as u64
    }

    /// The entries that it is or speaks of.
    pub(crate) fn ids(&self) -> &[Id] {
        match self {
            Self::Fact(id) => std::slice::from_ref(id),
            Self::Gap(_, ids) => ids,
        }
    }
}

pub(crate) fn numbers(items: &[Item]) -> u64 {
    items.iter().map(Item::numbers).sum()
}

/// A closed batch: header, its hash, and what it carries.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) header: BatchHeader,
    pub(crate) hash: Digest,
    pub(crate) items: Vec<Item>,
}

impl Sealed {
    /// The next batch of a stream.
    pub(crate) fn next(tail: &Tail, items: Vec<Item>) -> Rc<Self> {
        Self::of(tail.next_header(super::AGENT, numbers(&items), body(&items), 1), items)
    }

    /// The batch that leads from a restored server's watermark to what was acknowledged.
    pub(crate) fn bridge(tail: &Tail, from: &Mark, items: Vec<Item>) -> Rc<Self> {
        Self::of(tail.bridge_header(super::AGENT, from, body(&items), 1), items)
    }

    fn of(header: BatchHeader, items: Vec<Item>) -> Rc<Self> {
        let hash = sha256(&[&encode(&header)]);
        Rc::new(Self { header, hash, items })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        self.items.iter().flat_map(Item::ids).copied()
    }
}

fn body(items: &[Item]) -> Digest {
    let bytes: Vec<u8> = items.iter().flat_map(Item::ids).flat_map(|id| id.to_be_bytes()).collect();
    sha256(&[&bytes])
}

/// From an agent.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Position(Rc<Position>),
    Batch(Rc<Sealed>),
}

/// From the server, or the gateway in front of it.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Way(bool),
    Answer(Answer),
    Ack(Ack),
    /// The stream does not continue what is there.
    Refusal,
    /// Another session of this agent has taken its place.
    Replaced,
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(position) => {
                write!(f, "position {} acknowledged {}", short(&position.epoch), point(&position.acknowledged))?;
                position.kept.iter().try_for_each(|kept| write!(f, ", {}", point(kept)))
            }
            Self::Batch(batch) => {
                let Sealed { header, hash, items } = batch.as_ref();
                let end = Point { number: header.last, hash: hash.to_wire() };
                write!(f, "batch {} {}..{} {items:?}", short(&header.epoch), header.first, point(&end))
            }
        }
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(Answer { standing, watermark, common, .. }) => {
                let standing = Standing::try_from(*standing).unwrap_or_default();
                write!(f, "answer {standing:?}, watermark {}, common {}", point(watermark), point(common))
            }
            Self::Ack(Ack { epoch, upto, .. }) => write!(f, "acknowledged {} {}", short(epoch), point(upto)),
            Self::Way(_) | Self::Refusal | Self::Replaced => write!(f, "{self:?}"),
        }
    }
}

fn short(bytes: &[u8]) -> String {
    bytes.iter().take(2).map(|byte| format!("{byte:02x}")).collect()
}

fn point(point: &Point) -> String {
    format!("{}-{}", point.number, short(&point.hash))
}
