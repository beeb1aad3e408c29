//! Kerberos v5 by the system's GSSAPI library (RFC 2743, RFC 2744, RFC 4121), which is loaded when it is asked for: a
//! program that speaks no Kerberos needs none.
//!
//! ```text
//!  Library: loaded from a path that only root can change
//!     |
//!     +-- Initiator (keytab, principal) --begin--> Pending --finish--+
//!     |                                                              +--> Context: wrap, unwrap, facts
//!     +-- Acceptor  (keytab, principal) ----------accept-------------+
//! ```
//!
//! - `library`: from where it is loaded
//! - `table`: its functions and structures; with `call`, all that is unsafe
//! - `call`: one safe call for each function that is used
//! - `context`: how a security context comes to be, and what must be true of it
//! - `request`: what an AP-REQ says in the clear (RFC 4120)
//! - `keytab`: what is in a keytab, without its keys
//! - `environment`: what the library would read from the environment
//!
//! A context that stands is mutual, private, bound to its channel and of AES keys. There is no way to make another.
//!
//! Every call that talks to a KDC or reads a file blocks. Nothing here knows of tasks or time limits.

mod call;
mod context;
pub mod environment;
pub mod keytab;
mod library;
pub mod request;
mod table;

pub use call::{Failed, Status};
pub use context::{Acceptor, Context, Facts, Initiator, OVERHEAD, Pending, Refused};
pub use library::{Library, Unusable, default_paths};

/// An encryption type by its number (RFC 3961, section 8; registry "Kerberos Encryption Type Numbers").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Enctype(pub i32);

impl Enctype {
    /// Those that are used, the best first: AES with SHA-2 (RFC 8009), then AES with SHA-1 (RFC 3962).
    pub const AES: [Self; 4] = [Self(20), Self(19), Self(18), Self(17)];

    /// Whether it is AES. Everything else is refused.
    pub fn is_aes(self) -> bool {
        Self::AES.contains(&self)
    }
}

impl std::fmt::Display for Enctype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            1 => "des-cbc-crc",
            3 => "des-cbc-md5",
            16 => "des3-cbc-sha1",
            17 => "aes128-cts-hmac-sha1-96",
            18 => "aes256-cts-hmac-sha1-96",
            19 => "aes128-cts-hmac-sha256-128",
            20 => "aes256-cts-hmac-sha384-192",
            23 => "arcfour-hmac",
            24 => "arcfour-hmac-exp",
            25 => "camellia128-cts-cmac",
            26 => "camellia256-cts-cmac",
            other => return write!(f, "encryption type {other}"),
        })
    }
}

impl std::fmt::Debug for Enctype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}
