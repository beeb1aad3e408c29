//! Which role may send which kind of message, in which direction. Everything that has no row is refused.

use crate::Role;

/// The direction of a message on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the end that dialled to the end that listens: from the watched hosts towards the database.
    Up,
    /// From the end that listens to the end that dialled.
    Down,
}

/// On whose behalf a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behalf {
    /// The sender's own: route 0.
    Own,
    /// On a gateway's session, or on that of a server without a database, that of one agent behind it, or behind gateways
    /// behind it: its route. On the latter also that of an operator who asks there.
    Relayed,
}

/// The kind of a message. Adding one does not compile until [`Kind::allowed`] and [`Kind::limit`] say what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Kind {
    /// First message each way: ties the conversation to the encrypted session. [`crate::message::Bound`]
    Bound = 1,
    /// Last message before closing: a coarse reason. [`crate::message::Refusal`]
    Refusal = 2,
    /// A gateway opens a route for an agent. [`crate::message::RouteOpen`]
    RouteOpen = 3,
    /// A route has ended. Empty.
    RouteClose = 4,
    /// Whether there is a way to the database now. [`crate::message::Way`]
    Way = 5,
    /// An agent's signed position of its stream, asking for an answer. [`crate::message::Signed`]
    Position = 6,
    /// The server's signed answer to a position. [`crate::message::Signed`]
    Answer = 7,
    /// A signed batch of entries. [`crate::message::Batch`]
    Batch = 8,
    /// The server's signed acknowledgement: committed. [`crate::message::Signed`]
    Ack = 9,
    /// An agent's signed position, as a sign of life. [`crate::message::Signed`]
    Heartbeat = 10,
    /// Signed measured facts of one hop. [`crate::message::Signed`]
    Hop = 11,
    /// An agent's cookie, asking for what it has not. [`crate::message::ConfigurationAsk`]
    ConfigurationAsk = 12,
    /// An agent's configuration, signed by the server. [`crate::message::Configuration`]
    Configuration = 13,
    /// A health service's sealing key, signed. [`crate::message::Signed`]
    SealingKey = 14,
    /// The server's signed word which sealing key the trust log has. [`crate::message::Signed`]
    SealingConfirmed = 15,
    /// A sign of life of the other end of the session, when it has nothing else to say; goes no further. Empty.
    Alive = 16,
    /// What an agent's next heartbeats repeat. [`crate::message::Challenge`]
    Challenge = 17,
    /// What an operator asks at a server without a database, on a route of its own. [`crate::message::Request`]
    Request = 18,
    /// The answer of the server with the database, on the same route. [`crate::message::Reply`]
    Reply = 19,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 19] = [
        Self::Bound,
        Self::Refusal,
        Self::RouteOpen,
        Self::RouteClose,
        Self::Way,
        Self::Position,
        Self::Answer,
        Self::Batch,
        Self::Ack,
        Self::Heartbeat,
        Self::Hop,
        Self::ConfigurationAsk,
        Self::Configuration,
        Self::SealingKey,
        Self::SealingConfirmed,
        Self::Alive,
        Self::Challenge,
        Self::Request,
        Self::Reply,
    ];

    /// The kind that a number on the wire stands for.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }

    /// The most bytes a message of this kind may have, checked before anything is allocated for it.
    pub const fn limit(self) -> usize {
        match self {
            Self::Bound | Self::Hop | Self::SealingKey | Self::SealingConfirmed => 4 * 1024,
            Self::Refusal | Self::Way => 512,
            // Five names, each with what proves it.
            Self::RouteOpen => 4096,
            Self::RouteClose | Self::Alive => 0,
            Self::Challenge => 64,
            Self::Position | Self::Heartbeat => 16 * 1024,
            Self::Answer => 8 * 1024,
            Self::Ack => 1024,
            Self::ConfigurationAsk => 512,
            // With its signature and its proofs.
            Self::Configuration => crate::configuration::LIMIT + 32 * 1024,
            // A pack, whose quotes and line ends are escaped.
            Self::Request => 2 * 1024 * 1024 + 128 * 1024,
            Self::Reply => 8 * 1024 * 1024,
            // What does not compress grows a little.
            Self::Batch => crate::entry::RAW_LIMIT + 16 * 1024,
        }
    }

    /// Whether a peer with this authenticated role may send this kind here.
    pub const fn allowed(self, sender: Role, direction: Direction, behalf: Behalf) -> bool {
        use Behalf::{Own, Relayed};
        use Direction::{Down, Up};
        use Role::{Agent, Gateway, Server};
        // Upward a server sends as a gateway does: only one without a database dials, and it is held against the trust log.
        match self {
            // The handshake's own first message, once; and each end's sign of life.
            Self::Bound | Self::Alive => {
                matches!(
                    (sender, direction, behalf),
                    (Agent | Gateway | Server, Up, Own) | (Gateway | Server, Down, Own)
                )
            }
            Self::Refusal => {
                matches!((sender, direction, behalf), (Agent | Gateway | Server, Up, Own) | (Gateway | Server, Down, _))
            }
            Self::RouteOpen => matches!((sender, direction, behalf), (Gateway | Server, Up, Relayed)),
            Self::RouteClose => {
                matches!((sender, direction, behalf), (Gateway | Server, Up | Down, Relayed))
            }
            Self::Way => matches!((sender, direction, behalf), (Gateway | Server, Down, _)),
            // What an agent says: by itself, or through the gateway it was given to.
            Self::Position | Self::Batch | Self::Heartbeat | Self::ConfigurationAsk => {
                matches!((sender, direction, behalf), (Agent, Up, Own) | (Gateway | Server, Up, Relayed))
            }
            // Everybody below has a sealing key of its own; a gateway behind a gateway says it like its hop facts.
            Self::SealingKey => matches!((sender, direction, behalf), (Agent, Up, Own) | (Gateway | Server, Up, _)),
            // What a server answers: to the agent itself, or passed on by gateways; between two of them, on a route.
            Self::Answer | Self::Ack | Self::Configuration | Self::SealingConfirmed | Self::Challenge => {
                matches!((sender, direction, behalf), (Gateway | Server, Down, _))
            }
            // Facts of a hop: everybody who dials reports, a gateway also for its agents' sessions.
            Self::Hop => matches!((sender, direction, behalf), (Agent, Up, Own) | (Gateway | Server, Up, _)),
            // Operators ask where there are servers, and nowhere else.
            Self::Request => matches!((sender, direction, behalf), (Server, Up, Relayed)),
            Self::Reply => matches!((sender, direction, behalf), (Server, Down, Relayed)),
        }
    }
}
