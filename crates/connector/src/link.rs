//! Messages on a session. What comes in is checked against the who-may-send table before anybody sees it; what goes out
//! is written by one task, small messages between the parts of large ones. Each end says that it lives when it has
//! nothing else to say, so that either notices when nothing comes any more, whatever stands between: a cut, packets that
//! vanish in one direction, a program that hangs.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsStream;
use wardline_proto::authority::{Behalf, Direction};
use wardline_proto::frame::{Assembler, BODY_LIMIT, Frame, FrameError, Message, Part, UNFINISHED_LIMIT};
use wardline_proto::{Kind, Role};

use crate::handshake::Session;
use crate::wire::{CHUNK, Opener, Sealer, is_wrong};

/// So many signs of life are due before the other end takes this one for dead.
const SIGNS: u32 = 3;
/// Frames that wait to be written, per lane.
const LANE: usize = 64;
/// The same towards an agent below: a relay, which cannot wait, must have room for a whole configuration.
const AGENT_LANE: usize = LANE + Kind::Configuration.limit() / BODY_LIMIT + 1;
/// The same towards a gateway or a server without a database below, which carries what many agents are told: only a configuration is longer than 8 KiB.
const WIDE_LANE: usize = 8 * 1024;

/// Why nothing more comes in.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The other end closed, or the connection failed.
    #[error("{0}")]
    Closed(io::Error),
    /// The other end has said nothing for so long, not even that it lives.
    #[error("nothing was heard of it for {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// What the ends have proved themselves with has ended.
    #[error("its Kerberos ticket has ended")]
    Expired,
    /// Bytes that the other end did not wrap, or that are not the next ones.
    #[error("{0}")]
    Wrapped(io::Error),
    /// Bytes that are no message.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A message that this peer may not send.
    #[error("a {kind:?} message ({behalf:?}) from a {role}, which may not send it")]
    NotAllowed {
        /// What was sent.
        kind: Kind,
        /// By whom.
        role: Role,
        /// On whose behalf.
        behalf: Behalf,
    },
    /// The unfinished messages of this session held too much, most of it on this route. What else comes on it is
    /// dropped until the peer has closed it; the session goes on.
    #[error("the unfinished messages of the session held more than {UNFINISHED_LIMIT} bytes, most of it on route {0}")]
    Overfull(u32),
}

impl Broken {
    /// Whether the peer broke the protocol, other than by going away.
    pub const fn is_violation(&self) -> bool {
        !matches!(self, Self::Closed(_) | Self::Silent(_) | Self::Expired)
    }
}

/// What comes in on a session.
#[derive(Debug)]
pub struct Incoming {
    read: ReadHalf<TlsStream<TcpStream>>,
    opener: Opener,
    buffer: BytesMut,
    peer_timeout: Duration,
    /// When something came last.
    heard: Instant,
    /// When what the ends have proved themselves with ends.
    until: Option<Instant>,
    assembler: Assembler,
    /// Routes that are not listened to until they are closed.
    deaf: HashSet<u32>,
    sender: Role,
    travels: Direction,
}

/// Where messages to the other end go. Cheap to clone; the session is closed when the last one is gone.
#[derive(Clone, Debug)]
pub struct Outgoing {
    urgent: Lane,
    bulk: Lane,
}

/// A lane's room is taken in blocks of many frames; boxed, an idle session's lanes are small.
type Lane = mpsc::Sender<Box<Frame>>;

/// What waits to be written.
#[derive(Debug)]
pub(crate) struct Lanes {
    urgent: mpsc::Receiver<Box<Frame>>,
    bulk: mpsc::Receiver<Box<Frame>>,
}

impl Lanes {
    /// Two empty lanes with room for so many frames each.
    pub(crate) fn new(room: usize) -> (Outgoing, Self) {
        let ((urgent, urgent_lane), (bulk, bulk_lane)) = (mpsc::channel(room), mpsc::channel(room));
        (Outgoing { urgent, bulk }, Self { urgent: urgent_lane, bulk: bulk_lane })
    }

    /// Everything that waits.
    #[cfg(test)]
    pub(crate) fn drain(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.urgent.try_recv().or_else(|_| self.bulk.try_recv()).ok())
            .map(|frame| *frame)
            .collect()
    }
}

/// A task that ends with this.
pub(crate) struct AbortOnDrop<T>(pub(crate) JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Ended;

/// Splits a session into what comes in, what goes out, and the task that writes.
pub fn open(session: Session) -> (Incoming, Outgoing, JoinHandle<io::Result<()>>) {
    let Session { peer, direction, peer_timeout, until, stream, sealer, opener, buffer, .. } = session;
    let travels = match direction {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    };
    let (read, write) = tokio::io::split(stream);
    let (outgoing, lanes) = Lanes::new(match (direction, peer.role) {
        (Direction::Down, Role::Gateway | Role::Server) => WIDE_LANE,
        (Direction::Down, _) => AGENT_LANE,
        (Direction::Up, _) => LANE,
    });
    let writer = tokio::spawn(write_all(write, sealer, lanes, peer_timeout / SIGNS));
    let incoming = Incoming {
        read,
        opener,
        buffer,
        peer_timeout,
        heard: Instant::now(),
        until,
        assembler: Assembler::default(),
        deaf: HashSet::new(),
        sender: peer.role,
        travels,
    };
    (incoming, outgoing, writer)
}

impl Incoming {
    /// The next frame that this peer may send. Safe to cancel.
    ///
    /// # Errors
    /// Nothing more comes in.
    pub async fn frame(&mut self) -> Result<Frame, Broken> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer)? {
                let behalf = if frame.route == 0 { Behalf::Own } else { Behalf::Relayed };
                // The first message is the handshake's; it never comes again.
                if frame.kind == Kind::Bound || !frame.kind.allowed(self.sender, self.travels, behalf) {
                    return Err(Broken::NotAllowed { kind: frame.kind, role: self.sender, behalf });
                }
                if frame.kind == Kind::Alive {
                    continue;
                }
                return Ok(frame);
            }
            let late = self.heard + self.peer_timeout;
            let ends = self.until.filter(|until| *until < late);
            let read = tokio::select! {
                // In this order: who was held up here finds what has come meanwhile.
                biased;
                read = self.opener.read(&mut self.read, &mut self.buffer) => read,
                () = tokio::time::sleep_until(ends.unwrap_or(late)) => {
                    return Err(if ends.is_some() { Broken::Expired } else { Broken::Silent(self.peer_timeout) });
                }
            };
            match read {
                Ok(0) => return Err(Broken::Closed(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => self.heard = Instant::now(),
                Err(error) if is_wrong(&error) => return Err(Broken::Wrapped(error)),
                Err(error) => return Err(Broken::Closed(error)),
            }
            // A session on which much comes is always woken by what comes.
            if self.until.is_some_and(|until| until <= self.heard) {
                return Err(Broken::Expired);
            }
        }
    }

    /// The next whole message. Safe to cancel.
    ///
    /// # Errors
    /// Nothing more comes in; or, when it is [`Broken::Overfull`], nothing more of one route.
    pub async fn message(&mut self) -> Result<Message, Broken> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == Kind::RouteClose {
                // What it began to say there is never finished.
                self.assembler.forget(frame.route);
                self.deaf.remove(&frame.route);
            }
            if self.deaf.contains(&frame.route) {
                continue;
            }
            if let Some(message) = self.assembler.push(frame)? {
                return Ok(message);
            }
            if let Some(route) = self.assembler.relieve() {
                self.deaf.insert(route);
                return Err(Broken::Overfull(route));
            }
        }
    }
}

/// Only what is large goes by the bulk lane, and what must not overtake it: positions, and the end of a route.
const fn is_bulk(kind: Kind) -> bool {
    matches!(kind, Kind::Batch | Kind::Position | Kind::Configuration | Kind::RouteClose | Kind::Request | Kind::Reply)
}

impl Outgoing {
    const fn lane(&self, kind: Kind) -> &Lane {
        if is_bulk(kind) { &self.bulk } else { &self.urgent }
    }

    /// Sends a message, waiting while the other end does not read.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn send(&self, message: Message) -> Result<(), Ended> {
        for frame in message.into_frames() {
            self.frame(frame).await?;
        }
        Ok(())
    }

    /// Sends one frame as it is, waiting while the other end does not read.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn frame(&self, frame: Frame) -> Result<(), Ended> {
        self.lane(frame.kind).send(Box::new(frame)).await.map_err(|_| Ended)
    }

    /// Sends one frame if there is room for it.
    ///
    /// # Errors
    /// The session has ended, or the other end does not read.
    pub fn try_frame(&self, frame: Frame) -> Result<(), Ended> {
        self.lane(frame.kind).try_send(Box::new(frame)).map_err(|_| Ended)
    }

    /// Sends a message if there is room for it.
    ///
    /// # Errors
    /// The session has ended, or the other end does not read.
    pub fn try_send(&self, message: Message) -> Result<(), Ended> {
        message.into_frames().try_for_each(|frame| self.try_frame(frame))
    }
}

/// What to write next; nothing when nobody has anything to say any more.
async fn next(Lanes { urgent, bulk }: &mut Lanes) -> Option<Box<Frame>> {
    tokio::select! {
        biased;
        Some(frame) = urgent.recv() => Some(frame),
        Some(frame) = bulk.recv() => Some(frame),
        else => None,
    }
}

/// Writes what waits, and that this end lives when for `quiet` nothing did.
async fn write_all(
    mut write: WriteHalf<TlsStream<TcpStream>>,
    mut sealer: Sealer,
    mut lanes: Lanes,
    quiet: Duration,
) -> io::Result<()> {
    let alive = Frame { kind: Kind::Alive, route: 0, part: Part::Whole, body: Bytes::new() };
    let mut out = BytesMut::new();
    loop {
        match tokio::time::timeout(quiet, next(&mut lanes)).await {
            Ok(Some(first)) => first.encode(&mut out),
            Ok(None) => break,
            Err(_) => alive.encode(&mut out),
        }
        let Lanes { urgent, bulk } = &mut lanes;
        while out.len() < CHUNK {
            let Ok(frame) = urgent.try_recv().or_else(|_| bulk.try_recv()) else { break };
            frame.encode(&mut out);
        }
        sealer.write(&mut write, &mut out).await?;
        // What one burst needed is not kept for an idle session.
        if urgent.is_empty() && bulk.is_empty() {
            sealer.rest();
            if out.capacity() > CHUNK / 16 {
                out = BytesMut::new();
            }
        }
    }
    write.shutdown().await
}
