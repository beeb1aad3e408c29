//! Bytes on a session: frames, parts, and the limits that are checked before anything is allocated.
//!
//! ```text
//! frame   := length (u32, big endian) Header              at most FRAME_LIMIT bytes behind the length
//! Header  := protobuf { kind = 1, route = 2, part = 3, total = 4, body = 5 }
//! message := one frame with part = whole
//!          | frame with part = first and the message's total length, then frames with part = next until it is there
//! ```
//!
//! Parts of one message come in order; frames of other messages may come between them, so that nothing small waits
//! behind something large. At most one message per route is in parts at a time.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::Kind;

/// The most bytes of a frame behind its length: one message of the Kerberos channel holds it.
pub const FRAME_LIMIT: usize = 65_460;
/// The most bytes of a body that travels in one frame.
pub const BODY_LIMIT: usize = FRAME_LIMIT - 32;
/// The most bytes that all unfinished messages of one session may hold together: what a hundred agents who finish
/// nothing could hold, and a thousand honest ones in one moment do.
pub const UNFINISHED_LIMIT: usize = 64 * 1024 * 1024;

/// What is wrong with bytes that claim to be a frame. The session that sent them is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is 0 or above [`FRAME_LIMIT`].
    #[error("a frame of {0} bytes; 1 to {FRAME_LIMIT} are allowed")]
    Length(u32),
    /// Not the protobuf of a header.
    #[error("the frame's header cannot be decoded")]
    Header,
    /// No kind has this number.
    #[error("unknown message type {0}")]
    Kind(u32),
    /// The message is longer than its kind allows.
    #[error("a {kind:?} message of {length} bytes; at most {} are allowed", kind.limit())]
    TooLong {
        /// The kind that the frame claims.
        kind: Kind,
        /// The length that it claims.
        length: usize,
    },
    /// A part that continues nothing, a first part where another message is unfinished, or more bytes than announced.
    #[error("a part of a {0:?} message out of order")]
    Part(Kind),
}

/// Where in its message a frame stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The frame is the whole message.
    Whole,
    /// The first part of a message of this many bytes.
    First(u32),
    /// A further part.
    Next,
}

/// One frame: a message, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the message is.
    pub kind: Kind,
    /// On whose behalf it travels: 0 the sender's, otherwise a route that a gateway opened on this session.
    pub route: u32,
    /// Where in its message it stands.
    pub part: Part,
    /// The bytes.
    pub body: Bytes,
}

/// One whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// On whose behalf it travels; see [`Frame::route`].
    pub route: u32,
    /// The bytes, at most [`Kind::limit`].
    pub body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    route: u32,
    #[prost(uint32, tag = "3")]
    part: u32,
    #[prost(uint32, tag = "4")]
    total: u32,
    #[prost(bytes = "bytes", tag = "5")]
    body: Bytes,
}

impl Message {
    /// A message of the sender's own.
    pub fn own(kind: Kind, body: impl prost::Message) -> Self {
        Self { kind, route: 0, body: body.encode_to_vec().into() }
    }

    /// The same message on behalf of a route.
    #[must_use]
    pub fn on(self, route: u32) -> Self {
        Self { route, ..self }
    }

    /// The frames that carry it. None of them copies the body.
    pub fn into_frames(self) -> impl Iterator<Item = Frame> {
        let Self { kind, route, mut body } = self;
        let total = body.len();
        let mut first = true;
        std::iter::from_fn(move || {
            let part = match (first, total > BODY_LIMIT) {
                (true, false) => Part::Whole,
                (true, true) => Part::First(u32::try_from(total).unwrap_or(u32::MAX)),
                (false, _) if body.is_empty() => return None,
                (false, _) => Part::Next,
            };
            first = false;
            let body = body.split_to(body.len().min(BODY_LIMIT));
            Some(Frame { kind, route, part, body })
        })
    }
}

impl Frame {
    /// Appends the frame's bytes to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let (part, total) = match self.part {
            Part::Whole => (0, 0),
            Part::First(total) => (1, total),
            Part::Next => (2, 0),
        };
        let header = Header { kind: self.kind as u32, route: self.route, part, total, body: self.body.clone() };
        let length = header.encoded_len();
        out.reserve(4 + length);
        out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        // Cannot fail: BytesMut grows.
        let _ = header.encode(out);
    }

    /// Takes one whole frame off the front of `buffer`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are no frame, or the message it begins is longer than its kind allows.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(prefix) = buffer.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix);
        let size = length as usize;
        if size == 0 || size > FRAME_LIMIT {
            return Err(FrameError::Length(length));
        }
        if buffer.len() < 4 + size {
            return Ok(None);
        }
        buffer.advance(4);
        let header = Header::decode(buffer.split_to(size).freeze()).map_err(|_| FrameError::Header)?;
        let kind = Kind::from_number(header.kind).ok_or(FrameError::Kind(header.kind))?;
        let (part, length) = match header.part {
            0 => (Part::Whole, header.body.len()),
            1 => (Part::First(header.total), header.total as usize),
            2 => (Part::Next, header.body.len()),
            _ => return Err(FrameError::Header),
        };
        if length > kind.limit() {
            return Err(FrameError::TooLong { kind, length });
        }
        Ok(Some(Self { kind, route: header.route, part, body: header.body }))
    }
}

/// Follows the parts of one sender's messages without keeping them: a relay passes on only what can be put together
/// again, so that nobody behind it can have its own session closed.
#[derive(Debug, Default)]
pub struct Order {
    /// The kind of the unfinished message, and how many bytes of it are to come.
    unfinished: Option<(Kind, usize)>,
}

impl Order {
    /// Checks the next frame.
    ///
    /// # Errors
    /// [`Assembler::push`] would refuse it.
    pub fn check(&mut self, frame: &Frame) -> Result<(), FrameError> {
        let left = match (frame.part, self.unfinished) {
            (Part::Whole, _) => return Ok(()),
            (Part::First(total), None) => total as usize,
            (Part::Next, Some((kind, left))) if kind == frame.kind => left,
            _ => return Err(FrameError::Part(frame.kind)),
        };
        let left = left.checked_sub(frame.body.len()).filter(|_| !frame.body.is_empty());
        let left = left.ok_or(FrameError::Part(frame.kind))?;
        self.unfinished = (left > 0).then_some((frame.kind, left));
        Ok(())
    }
}

/// Puts parts together again, for all routes of one session.
#[derive(Debug, Default)]
pub struct Assembler {
    unfinished: HashMap<u32, Unfinished>,
    held: usize,
}

#[derive(Debug)]
struct Unfinished {
    kind: Kind,
    total: usize,
    body: BytesMut,
}

impl Assembler {
    /// Takes a frame; gives the message when it is whole.
    ///
    /// # Errors
    /// The part does not fit what came before it on its route. What was unfinished on that route is gone then.
    pub fn push(&mut self, frame: Frame) -> Result<Option<Message>, FrameError> {
        let Frame { kind, route, part, body } = frame;
        match part {
            Part::Whole => return Ok(Some(Message { kind, route, body })),
            Part::First(total) => {
                if self.forget(route) {
                    return Err(FrameError::Part(kind));
                }
                let total = total as usize;
                self.unfinished.insert(route, Unfinished { kind, total, body: BytesMut::new() });
            }
            Part::Next => {}
        }
        let Some(message) = self.unfinished.get_mut(&route) else { return Err(FrameError::Part(kind)) };
        let fits = message.kind == kind && !body.is_empty() && message.body.len() + body.len() <= message.total;
        if !fits {
            self.forget(route);
            return Err(FrameError::Part(kind));
        }
        message.body.extend_from_slice(&body);
        self.held += body.len();
        if message.body.len() < message.total {
            return Ok(None);
        }
        let whole = self.unfinished.remove(&route).map(|message| message.body.freeze()).unwrap_or_default();
        self.held -= whole.len();
        Ok(Some(Message { kind, route, body: whole }))
    }

    /// When all routes together hold more than [`UNFINISHED_LIMIT`]: drops what the one holds that holds most, and names
    /// it.
    pub fn relieve(&mut self) -> Option<u32> {
        let over = self.held > UNFINISHED_LIMIT;
        let largest = || self.unfinished.iter().max_by_key(|(_, message)| message.body.len());
        let route = over.then(largest).flatten().map(|(route, _)| *route)?;
        self.forget(route);
        Some(route)
    }

    /// Drops what is unfinished on a route. Whether there was something.
    pub fn forget(&mut self, route: u32) -> bool {
        let gone = self.unfinished.remove(&route);
        self.held -= gone.as_ref().map_or(0, |message| message.body.len());
        gone.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roundtrip(message: &Message) -> Message {
        let mut wire = BytesMut::new();
        for frame in message.clone().into_frames() {
            frame.encode(&mut wire);
        }
        let mut assembler = Assembler::default();
        let mut whole = None;
        while let Some(frame) = Frame::decode(&mut wire).unwrap() {
            assert!(whole.is_none(), "frames behind the whole message");
            whole = assembler.push(frame).unwrap();
        }
        assert_eq!(assembler.held, 0);
        whole.unwrap()
    }

    #[test]
    fn messages_of_every_size_survive_framing() {
        for size in [0, 1, BODY_LIMIT - 1, BODY_LIMIT, BODY_LIMIT + 1, 2 * BODY_LIMIT, 500_000] {
            let kind = if size == 0 { Kind::RouteClose } else { Kind::Batch };
            let message = Message { kind, route: u32::MAX, body: vec![7; size].into() };
            assert!(message.clone().into_frames().all(|frame| {
                let mut out = BytesMut::new();
                frame.encode(&mut out);
                out.len() <= 4 + FRAME_LIMIT
            }));
            assert_eq!(roundtrip(&message), message);
        }
    }

    #[test]
    fn a_small_message_passes_between_the_parts_of_a_large_one() {
        let large = Message { kind: Kind::Batch, route: 3, body: vec![1; 200_000].into() };
        let small = Message { kind: Kind::Heartbeat, route: 3, body: vec![2; 20].into() };
        let mut frames: Vec<_> = large.clone().into_frames().collect();
        frames.splice(1..1, small.clone().into_frames());
        let mut assembler = Assembler::default();
        let seen: Vec<_> = frames.into_iter().filter_map(|frame| assembler.push(frame).unwrap()).collect();
        assert_eq!(seen, [small, large]);
    }

    #[test]
    fn when_too_much_is_unfinished_the_route_that_holds_most_gives_way() {
        let mut assembler = Assembler::default();
        let mut begin = |route, size| {
            let part = Part::First(500_000);
            assert_eq!(assembler.push(Frame { kind: Kind::Batch, route, part, body: vec![0; size].into() }), Ok(None));
            assembler.relieve()
        };
        let hold = UNFINISHED_LIMIT / 200;
        assert!((1..=200).all(|route| begin(route, hold - usize::from(route == 1)).is_none()), "it is not full yet");
        assert_eq!(begin(201, hold + 7), Some(201));
        assert_eq!(begin(202, 1), None);
        assert!((2..=200).contains(&begin(203, 100).unwrap()), "not the one that holds little");
    }

    #[test]
    fn lengths_are_refused_before_anything_is_allocated() {
        let decode = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0, 0, 0, 0]), Err(FrameError::Length(0)));
        assert_eq!(decode(&[0xff; 4]), Err(FrameError::Length(u32::MAX)));
        assert_eq!(decode(&[0, 0, 0]), Ok(None));
        assert_eq!(decode(&[0, 0, 0, 2, 8, 99]), Err(FrameError::Kind(99)));
        assert_eq!(decode(&[0, 0, 0, 1, 0xff]), Err(FrameError::Header));
        let mut out = BytesMut::new();
        Frame { kind: Kind::Batch, route: 0, part: Part::First(u32::MAX), body: Bytes::from_static(b"x") }
            .encode(&mut out);
        assert!(matches!(Frame::decode(&mut out), Err(FrameError::TooLong { kind: Kind::Batch, .. })));
    }

    #[test]
    fn parts_that_continue_nothing_or_overrun_are_refused() {
        let frame = |part, size| Frame { kind: Kind::Batch, route: 1, part, body: vec![0; size].into() };
        let mut assembler = Assembler::default();
        assert!(assembler.push(frame(Part::Next, 5)).is_err());
        assert_eq!(assembler.push(frame(Part::First(10), 5)), Ok(None));
        assert!(assembler.push(frame(Part::First(10), 5)).is_err());
        assert!(assembler.push(frame(Part::Next, 5)).is_err(), "what was unfinished is gone");
        assert_eq!(assembler.push(frame(Part::First(10), 5)), Ok(None));
        assert!(assembler.push(frame(Part::Next, 6)).is_err());
        assert_eq!(assembler.held, 0);
    }
}
