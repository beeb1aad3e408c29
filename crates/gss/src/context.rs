//! How a security context comes to be, and what must be true of it: mutual, private, in order, bound to its channel, by AES
//! keys, between two exact principals. What is not so is no [`Context`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::call::{Credential, Failed, Name, Output, Raw, Status, Usage};
use crate::request::{self, Request};
use crate::{Enctype, Library};

/// Bytes of the header of a wrapped message.
const HEADER: usize = 16;
const CONFOUNDER: usize = 16;
/// The most bytes that wrapping adds (RFC 4121, section 4.2.6.2): a header, a confounder, the header again, a checksum.
pub const OVERHEAD: usize = HEADER + CONFOUNDER + HEADER + 24;

const MUTUAL: u32 = 0x2;
const REPLAY: u32 = 0x4;
const SEQUENCE: u32 = 0x8;
const CONFIDENTIAL: u32 = 0x10;
const INTEGRITY: u32 = 0x20;
const WANTED: u32 = MUTUAL | REPLAY | SEQUENCE | CONFIDENTIAL | INTEGRITY;
const DELEGATED: u32 = 0x1;
/// `GSS_C_CHANNEL_BOUND_FLAG`: the initiator's token has bindings, and they are these. Only the acceptor sees it.
const CHANNEL_BOUND: u32 = 0x800;

const CONTINUE_NEEDED: u32 = 0x1;
/// `GSS_S_DUPLICATE_TOKEN`, `GSS_S_OLD_TOKEN`, `GSS_S_UNSEQ_TOKEN`, `GSS_S_GAP_TOKEN`: a success for the library, not here.
const OUT_OF_ORDER: u32 = 0x2 | 0x4 | 0x8 | 0x10;

/// Why there is no context.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// The library says no.
    #[error("{0}")]
    Failed(#[from] Failed),
    /// The other end's token is not that of Kerberos v5.
    #[error("a token that is none of Kerberos v5")]
    Token,
    /// Keys that are too weak.
    #[error("{what} is of {enctype}; only AES is taken")]
    Enctype {
        /// Which of the keys.
        what: &'static str,
        /// What it is.
        enctype: Enctype,
    },
    /// The initiator did not say to which channel it means to speak.
    #[error("it does not bind itself to this connection (no channel binding)")]
    Unbound,
    /// Something that is demanded was not granted.
    #[error("a context without {0}")]
    Flags(&'static str),
    /// Somebody else has got the ticket, as the KDC allows him to (S4U2Proxy).
    #[error("another service has got this ticket in the name of {0} (constrained delegation)")]
    Delegated(String),
    /// Another principal answers than was asked for.
    #[error("{found} answers, and {wanted} was asked for")]
    Principal {
        /// Who answers.
        found: String,
        /// Who was asked for.
        wanted: String,
    },
}

impl Refused {
    /// What it is known by.
    pub const fn status(&self) -> Status {
        match self {
            Self::Failed(failed) => failed.status,
            Self::Token => Status::Token,
            Self::Enctype { .. } => Status::Enctype,
            Self::Unbound => Status::Bindings,
            Self::Flags(_) | Self::Delegated(_) | Self::Principal { .. } => Status::Other,
        }
    }
}

/// What is known of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The principal that began, with its realm.
    pub initiator: String,
    /// The principal that accepted.
    pub acceptor: String,
    /// Under which the service's key encrypts the ticket.
    pub ticket: Enctype,
    /// The version of that key, when the ticket says it.
    pub kvno: Option<u32>,
    /// Under which the ticket's session key encrypts the authenticator.
    pub authenticator: Enctype,
    /// Under which messages are wrapped.
    pub session: Enctype,
    /// When the ticket ends.
    pub ends: Instant,
}

/// A security context that stands.
pub struct Context {
    raw: Raw,
    facts: Facts,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.facts).finish()
    }
}

impl Context {
    fn stand(mut raw: Raw, request: Request, flags: u32) -> Result<Self, Refused> {
        for (flag, name) in [
            (MUTUAL, "mutual authentication"),
            (CONFIDENTIAL, "encryption"),
            (INTEGRITY, "integrity"),
            (REPLAY, "replay detection"),
            (SEQUENCE, "sequence detection"),
        ] {
            if flags & flag == 0 {
                return Err(Refused::Flags(name));
            }
        }
        if flags & DELEGATED != 0 {
            return Err(Refused::Flags("nothing delegated"));
        }
        let session = raw.enctype()?;
        let found = raw.inquire()?;
        if found.is_delegated {
            return Err(Refused::Delegated(found.initiator));
        }
        let keys = [
            ("the ticket", request.ticket),
            ("the authenticator", request.authenticator),
            ("the session's key", session),
        ];
        if let Some((what, enctype)) = keys.into_iter().find(|(_, enctype)| !enctype.is_aes()) {
            return Err(Refused::Enctype { what, enctype });
        }
        let facts = Facts {
            initiator: found.initiator,
            acceptor: found.acceptor,
            ticket: request.ticket,
            kvno: request.kvno,
            authenticator: request.authenticator,
            session,
            ends: Instant::now() + Duration::from_secs(found.lifetime.into()),
        };
        Ok(Self { raw, facts })
    }

    /// What is known of it.
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Encrypts a message; it is handed over wrapped, and longer by at most [`OVERHEAD`].
    ///
    /// # Errors
    /// The library cannot.
    pub fn wrap(&mut self, clear: &[u8], wrapped: impl FnOnce(&[u8])) -> Result<(), Failed> {
        self.raw.wrap(clear).map(|out: Output| wrapped(out.bytes()))
    }

    /// Decrypts the next message of the other end and hands it over; what was decrypted is wiped afterwards.
    ///
    /// # Errors
    /// It is not the next message of the other end, unchanged and encrypted. The context is worth nothing any more.
    pub fn unwrap(&mut self, wrapped: &[u8], clear: impl FnOnce(&[u8])) -> Result<(), Failed> {
        if !is_private(wrapped, self.facts.session) {
            return Err(Failed::new(Status::Token, "a message that is not wrapped with privacy, as it is here"));
        }
        let (out, major) = self.raw.unwrap(wrapped)?;
        if major & OUT_OF_ORDER != 0 {
            return Err(Failed::new(Status::Token, "a message that was there before, or is not the next one"));
        }
        clear(out.bytes());
        Ok(())
    }
}

/// Whether a message is wrapped with privacy, neither filled up nor rotated (RFC 4121, section 4.2.6.2), as the library
/// wraps. It believes the numbers before it has checked them (CVE-2024-37370, CVE-2024-37371), and rotates in the memory
/// that it reads.
fn is_private(wrapped: &[u8], session: Enctype) -> bool {
    let checksum = match session {
        Enctype(17 | 18) => 12,
        Enctype(19) => 16,
        _ => 24,
    };
    // TOK_ID 05 04, Flags with Sealed, Filler ff, EC 0, RRC 0.
    matches!(wrapped, [0x05, 0x04, flags, 0xff, 0, 0, 0, 0, ..] if flags & 0x2 != 0)
        && wrapped.len() >= HEADER + CONFOUNDER + HEADER + checksum
}

/// Begins contexts as one principal, by its key in a keytab. Tickets are kept in memory until it is dropped.
pub struct Initiator {
    library: Library,
    credential: Credential,
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").finish_non_exhaustive()
    }
}

impl Initiator {
    /// By the key of this principal, which is written with its realm. May ask the KDC, and block.
    ///
    /// # Errors
    /// The keytab has no such key, or the KDC gives no ticket for it.
    pub fn new(library: &Library, keytab: &Path, principal: &str) -> Result<Self, Failed> {
        let keytab = keytab.display().to_string();
        let credential = Credential::new(&library.table, Usage::Initiate, principal, &keytab, "")?;
        credential.allow(&Enctype::AES)?;
        Ok(Self { library: library.clone(), credential })
    }

    /// The first token of a context with exactly this principal, bound to a channel that `binding` tells from every other.
    /// May ask the KDC, and block.
    ///
    /// # Errors
    /// There is no ticket for it, or one that is too weak.
    pub fn begin(self: &Arc<Self>, target: &str, binding: &[u8]) -> Result<(Pending, Vec<u8>), Refused> {
        let mut raw = Raw::new(&self.library.table);
        let name = Name::new(&self.library.table, target)?;
        let step = raw.initiate(&self.credential, &name, WANTED, binding, &[])?;
        if step.major & CONTINUE_NEEDED == 0 {
            return Err(Refused::Flags("mutual authentication"));
        }
        let token = step.token.bytes().to_vec();
        let request = request::read(&token).ok_or(Refused::Token)?;
        if !request.ticket.is_aes() {
            return Err(Refused::Enctype { what: "the ticket", enctype: request.ticket });
        }
        let pending =
            Pending { by: Arc::clone(self), raw, name, request, target: target.to_owned(), binding: binding.to_vec() };
        Ok((pending, token))
    }
}

/// A context that waits for the acceptor's token.
pub struct Pending {
    by: Arc<Initiator>,
    raw: Raw,
    name: Name,
    request: Request,
    target: String,
    binding: Vec<u8>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Pending {
    /// The context, with the acceptor's token.
    ///
    /// # Errors
    /// It is not the token of who was asked for, or does not grant what is demanded.
    pub fn finish(self, token: &[u8]) -> Result<Context, Refused> {
        let Self { by, mut raw, name, request, target, binding } = self;
        let step = raw.initiate(&by.credential, &name, WANTED, &binding, token)?;
        if step.major & CONTINUE_NEEDED != 0 || !step.token.bytes().is_empty() {
            return Err(Refused::Token);
        }
        let context = Context::stand(raw, request, step.flags)?;
        if context.facts.acceptor != target {
            return Err(Refused::Principal { found: context.facts.acceptor, wanted: target });
        }
        Ok(context)
    }
}

/// Accepts contexts as one principal, by its keys in a keytab. The file is read for each: new keys in it are used at once.
pub struct Acceptor {
    library: Library,
    credential: Credential,
    principal: String,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("principal", &self.principal).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// By the keys of this principal, which is written with its realm. What was seen is kept in the file `replays`.
    ///
    /// # Errors
    /// The keytab has no such key.
    pub fn new(library: &Library, keytab: &Path, principal: &str, replays: &Path) -> Result<Self, Failed> {
        let (keytab, replays) = (keytab.display().to_string(), replays.display().to_string());
        let credential = Credential::new(&library.table, Usage::Accept, principal, &keytab, &replays)?;
        Ok(Self { library: library.clone(), credential, principal: principal.to_owned() })
    }

    /// The context of an initiator's token, which must be bound to the channel that `binding` tells from every other, and
    /// the token to answer with.
    ///
    /// # Errors
    /// It is not to be accepted.
    pub fn accept(&self, token: &[u8], binding: &[u8]) -> Result<(Context, Vec<u8>), Refused> {
        let request = request::read(token).ok_or(Refused::Token)?;
        for (what, enctype) in [("the ticket", request.ticket), ("the authenticator", request.authenticator)] {
            if !enctype.is_aes() {
                return Err(Refused::Enctype { what, enctype });
            }
        }
        let mut raw = Raw::new(&self.library.table);
        let step = raw.accept(&self.credential, binding, token)?;
        if step.major & CONTINUE_NEEDED != 0 || step.major & OUT_OF_ORDER != 0 {
            return Err(Refused::Token);
        }
        if step.flags & CHANNEL_BOUND == 0 {
            return Err(Refused::Unbound);
        }
        let context = Context::stand(raw, request, step.flags)?;
        if context.facts.acceptor != self.principal {
            return Err(Refused::Principal { found: context.facts.acceptor, wanted: self.principal.clone() });
        }
        Ok((context, step.token.bytes().to_vec()))
    }
}
