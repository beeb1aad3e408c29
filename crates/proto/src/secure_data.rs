//! How a secret that was sealed says what it is. Nobody signs this: what it says is compared with what the reader
//! expects, and the signed configuration around it says who wrote it.
//!
//! ```text
//!  content of secure data:  length 2 | Header | the secret
//! ```

use bytes::Bytes;

/// The format of what is sealed today.
pub const FORMAT: u32 = 1;
/// The most bytes of a header.
pub const HEADER_LIMIT: usize = 512;

/// What stands before the secret, under the same encryption.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Header {
    /// [`FORMAT`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// The group's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub group: Bytes,
    /// The name of the health service that is to open it.
    #[prost(string, tag = "3")]
    pub recipient: String,
    /// The id of the key that it was sealed to, 16 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub key: Bytes,
    /// The account's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub account: Bytes,
    /// The account's version.
    #[prost(uint64, tag = "6")]
    pub version: u64,
    /// What the recipient may do with it.
    #[prost(enumeration = "Purpose", tag = "7")]
    pub purpose: i32,
}

/// What a secret was sealed for: one for a purpose is refused for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Purpose {
    /// Nothing: refused.
    Unspecified = 0,
    /// A server gives an account to a health service that is to use it.
    RunAs = 1,
    /// An operator gives an account to a server that is to keep it.
    Submit = 2,
    /// A server gives the group's keys to a further server.
    Further = 3,
}
