//! The rules of numbered, chained, signed streams. No IO, no clock, no keys: what each end knows goes in, what it must
//! do comes out, so that a simulator can drive the same code that the programs run.
//!
//! An agent's queue is one epoch: entries are numbered from 1, batches are closed once, each names the hash of the one
//! before. The server moves its watermark (epoch, number, hash) in the transaction that writes a batch's rows.
//!
//! ```text
//!   agent:   acknowledged ..... closed batches ..... open entries
//!                    |               |
//!   server:      watermark: some batch's end, if both belong together
//! ```

use std::collections::VecDeque;

use wardline_proto::message::{Answer, BatchHeader, Digest, Epoch, Mark, Point, Position, Standing};

/// A closed batch: its place in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its first number.
    pub first: u64,
    /// Its last number.
    pub last: u64,
    /// The chain's hash behind it.
    pub hash: Digest,
}

/// What an agent knows of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Everything up to here is in the database.
    pub acknowledged: Mark,
    /// The epoch that this queue wrote before.
    pub previous: Option<Epoch>,
    /// The epoch that was live when this one was decided on: it displaces that one, and no other.
    pub over: Option<Epoch>,
    /// Closed batches that wait for acknowledgement, oldest first.
    pub closed: VecDeque<Link>,
}

/// What an agent must do after comparing positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything up to this mark is in the database; deliver what follows.
    Continue(Mark),
    /// The server was restored to `from`; what lies between it and what was acknowledged is lost there.
    Bridge {
        /// The server's watermark.
        from: Mark,
    },
    /// This queue and the server's watermark do not belong together: go on in a new epoch.
    Reopen(Reopening),
    /// Two queues displace each other; wait for an operator.
    Held,
}

/// How a queue goes on in a new epoch: what is left out because the database has it, what is only counted because
/// nobody can tell, and what is told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopening {
    /// How many of the closed batches the server has.
    pub committed: usize,
    /// Whether it cannot be told if the server has the other closed ones.
    pub uncertain: bool,
    /// What waited already when the program started may have been delivered up to this number, by a later state of
    /// this queue, which was then rolled back.
    pub doubtful: u64,
    /// How many numbers the server had acknowledged and does not know any more.
    pub forgotten: u64,
    /// The epoch that is live at the server.
    pub over: Option<Epoch>,
    /// In words.
    pub reason: &'static str,
}

impl Tail {
    /// A queue's first epoch.
    pub const fn new(epoch: Epoch) -> Self {
        Self { acknowledged: Mark::start(epoch), previous: None, over: None, closed: VecDeque::new() }
    }

    /// The epoch that follows this one.
    #[must_use]
    pub fn next(&self, epoch: Epoch, reopening: &Reopening) -> Self {
        Self { previous: Some(self.acknowledged.epoch), over: reopening.over, ..Self::new(epoch) }
    }

    /// Where the chain ends: the next batch begins behind it.
    pub fn head(&self) -> Mark {
        let last = self.closed.back().map(|link| (link.last, link.hash));
        let (number, hash) = last.unwrap_or((self.acknowledged.number, self.acknowledged.hash));
        Mark { epoch: self.acknowledged.epoch, number, hash }
    }

    /// The header of the next batch, which takes `numbers` numbers.
    pub fn next_header(&self, agent: &str, numbers: u64, body: Digest, raw: u32) -> BatchHeader {
        let head = self.head();
        BatchHeader {
            agent: agent.to_owned(),
            epoch: head.epoch.to_wire(),
            first: head.number + 1,
            last: head.number + numbers,
            previous: head.hash.to_wire(),
            body: body.to_wire(),
            raw,
            bridge: bytes::Bytes::new(),
        }
    }

    /// The header of the batch that leads from a restored server's watermark to what it had acknowledged.
    pub fn bridge_header(&self, agent: &str, from: &Mark, body: Digest, raw: u32) -> BatchHeader {
        BatchHeader {
            agent: agent.to_owned(),
            epoch: from.epoch.to_wire(),
            first: from.number + 1,
            last: self.acknowledged.number,
            previous: from.hash.to_wire(),
            body: body.to_wire(),
            raw,
            bridge: self.acknowledged.hash.to_wire(),
        }
    }

    /// Takes an acknowledgement: how many closed batches it covers. `None`: it is not of this chain.
    pub fn acknowledge(&mut self, mark: &Mark) -> Option<usize> {
        if *mark == self.acknowledged {
            return Some(0);
        }
        let covered = self.covered(mark)?;
        self.acknowledged = *mark;
        self.closed.drain(..covered);
        Some(covered)
    }

    /// How many closed batches a mark covers; `None` when it is not the end of one, or of the acknowledged part.
    fn covered(&self, mark: &Mark) -> Option<usize> {
        if *mark == self.acknowledged {
            return Some(0);
        }
        let at = self.closed.iter().position(|link| link.last == mark.number && link.hash == mark.hash)?;
        (mark.epoch == self.acknowledged.epoch).then_some(at + 1)
    }

    /// Compares with what the server says of this epoch.
    pub fn compare(&self, answer: &Answered) -> Verdict {
        let Answered { standing, watermark, common, live } = answer;
        match standing {
            Standing::Held | Standing::Unspecified => return Verdict::Held,
            Standing::Live => {
                if self.covered(watermark).is_some() {
                    return Verdict::Continue(*watermark);
                }
                if watermark.number < self.acknowledged.number {
                    return Verdict::Bridge { from: *watermark };
                }
            }
            Standing::Displaced => {}
        }
        // The server has more of this epoch than this queue, something else, or has closed it. What it remembers of
        // this queue's batches it has; batches behind that were never there. When it remembers none of them, the
        // queue is too old to tell.
        let committed = self.covered(common);
        let (doubtful, reason) = match (standing, committed) {
            // What waited may have gone on in the newer one's epoch.
            (Standing::Displaced, _) => (u64::MAX, "another queue of this agent is the live one"),
            (_, None) => (watermark.number, "the server has gone on without this queue, long ago"),
            (_, Some(_)) => (watermark.number, "the server has gone on without this queue"),
        };
        Verdict::Reopen(Reopening {
            committed: committed.unwrap_or(0),
            uncertain: committed.is_none(),
            doubtful,
            forgotten: self.acknowledged.number.saturating_sub(watermark.number),
            over: *live,
            reason,
        })
    }

    /// How to go on when a closed batch behind the first `committed` is lost, and the server has none of them.
    pub(crate) fn broken(&self, committed: usize, answer: &Answered) -> Reopening {
        Reopening {
            committed,
            uncertain: false,
            doubtful: 0,
            forgotten: self.acknowledged.number.saturating_sub(answer.watermark.number),
            over: answer.live,
            reason: "a batch that waited was damaged on the disk",
        }
    }

    /// The points that a position names.
    pub fn kept(&self) -> Vec<Point> {
        self.closed.iter().map(|link| Point { number: link.last, hash: link.hash.to_wire() }).collect()
    }
}

/// A batch header whose fields have the right lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where it begins: the mark in front of it.
    pub from: Mark,
    /// Where it leads: the mark behind it.
    pub to: Mark,
    /// SHA-256 of its body.
    pub body: Digest,
    /// The body's length before compression.
    pub raw: u32,
}

impl Header {
    /// From the wire. `hash` is SHA-256 of the header's bytes. `None` when it makes no sense.
    pub fn parse(header: &BatchHeader, hash: Digest) -> Option<Self> {
        let epoch = Epoch::from_wire(&header.epoch)?;
        let previous = Digest::from_wire(&header.previous)?;
        let behind = if header.bridge.is_empty() { hash } else { Digest::from_wire(&header.bridge)? };
        if header.first == 0 || header.last < header.first || header.last >= 1 << 62 {
            return None;
        }
        Some(Self {
            from: Mark { epoch, number: header.first - 1, hash: previous },
            to: Mark { epoch, number: header.last, hash: behind },
            body: Digest::from_wire(&header.body)?,
            raw: header.raw,
        })
    }

    /// How many numbers it takes.
    pub const fn numbers(&self) -> u64 {
        self.to.number - self.from.number
    }
}

/// What a server does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It follows: write it.
    Next,
    /// It is there already: acknowledge again, write nothing.
    Repeat,
    /// It does not follow: positions must be compared anew. In words, why.
    Broken(&'static str),
}

/// Judges a batch by the end of what was taken from this stream before.
pub fn judge(taken: &Mark, batch: &Header) -> Judgement {
    if batch.from.epoch != taken.epoch {
        return Judgement::Broken("the batch is of another epoch");
    }
    if batch.from == *taken {
        return Judgement::Next;
    }
    if batch.to.number <= taken.number {
        return Judgement::Repeat;
    }
    Judgement::Broken(if batch.from.number > taken.number {
        "batches are missing in front of it"
    } else if batch.from.number == taken.number {
        "the batch in front of it is another than the one that is here"
    } else {
        "it overlaps with what is here"
    })
}

/// A position whose fields have the right lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The agent's epoch.
    pub epoch: Epoch,
    /// The one that its queue wrote before.
    pub previous: Option<Epoch>,
    /// The one that it displaces.
    pub over: Option<Epoch>,
    /// The points that it knows, oldest first: what was acknowledged, then the closed batches.
    pub points: Vec<(u64, Digest)>,
}

impl Asked {
    /// From the wire; `None` when a field has the wrong length.
    pub fn parse(position: &Position) -> Option<Self> {
        let previous = optional(&position.previous)?;
        let over = optional(&position.over)?;
        let all = std::iter::once(&position.acknowledged).chain(&position.kept);
        let points = all.map(|point| Some((point.number, Digest::from_wire(&point.hash)?))).collect::<Option<_>>()?;
        Some(Self { epoch: Epoch::from_wire(&position.epoch)?, previous, over, points })
    }
}

/// An epoch that may be left out; the outer `None`: a wrong length.
fn optional(bytes: &[u8]) -> Option<Option<Epoch>> {
    if bytes.is_empty() { Some(None) } else { Epoch::from_wire(bytes).map(Some) }
}

/// An answer whose fields have the right lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// How the epoch stands.
    pub standing: Standing,
    /// What the database holds of it.
    pub watermark: Mark,
    /// The newest point that both know.
    pub common: Mark,
    /// The epoch that is live there.
    pub live: Option<Epoch>,
}

impl Answered {
    /// From the wire, about an epoch; `None` when a field has the wrong length.
    pub fn parse(answer: &Answer, epoch: Epoch) -> Option<Self> {
        Some(Self {
            standing: Standing::try_from(answer.standing).ok()?,
            watermark: answer.watermark.mark(epoch)?,
            common: answer.common.mark(epoch)?,
            live: optional(&answer.live)?,
        })
    }
}
