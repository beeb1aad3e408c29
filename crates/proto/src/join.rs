//! How a host joins a group, renews its channel certificate and comes home: three messages on a session of their own
//! ([`crate::ALPN_JOIN`]), which any number of gateways pass on unread. TLS gives them privacy only; who speaks is proved
//! by the signatures in them.
//!
//! ```text
//!   host                                              server
//!    | Hello: who, with which keys, nonce  ------------->|
//!    |<------------- Challenge: nonce, chain of its duty key, signed over Hello
//!    | Proof: signatures over both by the token's key and the identity key -->|
//!    |<------------- Outcome: the certificate, signed over all three, or a refusal
//! ```
//!
//! A host without a token, and every further server, commits itself first, so that nobody who sees what one end contributes can choose what the
//! other end is shown: two people compare a code of 40 bits, made of all of it ([`crate::join::Commitment`]).
//!
//! ```text
//!   host                                              server
//!    | Commitment: hash of nonce and Hello, name, role ->|
//!    |<------------- Challenge: nonce, chain of its duty key, signed over the commitment
//!    | Open: nonce, Hello, signature by the identity key ->|
//!    |<------------- Pending: an operator has to approve, or a refusal
//!
//!    | Poll: which request, every two seconds, on a session of its own ->|
//!    |<------------- Challenge
//!    | Proof: signature by the identity key ------------>|
//!    |<------------- Pending, Welcome or a refusal
//! ```
//!
//! A further server joins by both: what it commits itself to names a token, and is a [`Further`]. What it is given of the
//! group's keys is encrypted to a key of its own in there. It must speak to a server itself, which both ends see by their
//! TLS session: nobody is between.
//!
//! A host that comes by Kerberos brings in its Proof what its KDC has given it for the group's own service, bound to the
//! transcript. A server that has that service's key answers by it, so that both know each other whatever is between, and
//! what the host is told of the group is what that server says ([`Vouched`]).
//!
//! A member asks how it stands by a Standing in the place of Poll, and is answered by [`Stands`] or a refusal.
//!
//! On the wire each is its length (4 bytes, big endian, at most [`LIMIT`]) and the protobuf of an [`Up`] or a [`Down`].

use bytes::Bytes;

use crate::message::Signed;

/// The most bytes of one message.
pub const LIMIT: usize = 16 * 1024;

/// What the transcript of a Poll begins with.
pub const POLLED: &[u8] = b"wardline/join/poll/1\0";
/// What the transcript of a Standing begins with.
pub const STANDING: &[u8] = b"wardline/join/standing/1\0";

/// The label by which both ends of a TLS session export what tells it from every other (RFC 9266).
pub const SESSION: &[u8] = b"EXPORTER-wardline-join";

/// What a host says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Up {
    /// One of them.
    #[prost(oneof = "Said", tags = "1, 2, 3, 4, 5, 6")]
    pub said: Option<Said>,
}

/// What a host says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Said {
    /// The bytes of a [`Hello`]: the transcript begins with them as they are.
    #[prost(bytes = "bytes", tag = "1")]
    Hello(Bytes),
    /// That it is who it says.
    #[prost(message, tag = "2")]
    Proof(Proof),
    /// The bytes of a [`Commitment`]: the transcript begins with them as they are.
    #[prost(bytes = "bytes", tag = "3")]
    Commitment(Bytes),
    /// What the host had committed itself to.
    #[prost(message, tag = "4")]
    Open(Open),
    /// The bytes of a [`Poll`].
    #[prost(bytes = "bytes", tag = "5")]
    Poll(Bytes),
    /// The bytes of a [`Standing`].
    #[prost(bytes = "bytes", tag = "6")]
    Standing(Bytes),
}

/// A member asks how it stands with the group. Nothing comes of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Standing {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// `agent` or `gateway`.
    #[prost(string, tag = "2")]
    pub role: String,
    /// Its identity key: SubjectPublicKeyInfo, DER.
    #[prost(bytes = "bytes", tag = "3")]
    pub identity: Bytes,
    /// SHA-256 of its channel certificate, 32 bytes.
    #[prost(bytes = "bytes", tag = "4")]
    pub certificate: Bytes,
    /// 16 fresh random bytes.
    #[prost(bytes = "bytes", tag = "5")]
    pub nonce: Bytes,
}

/// How a member stands with the group, told to nobody else.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stands {
    /// The transcript, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub transcript: Bytes,
    /// Whether the channel certificate was issued to it.
    #[prost(bool, tag = "2")]
    pub certificate: bool,
    /// The gateways that may speak for it, in order; none: it reports to servers itself.
    #[prost(string, repeated, tag = "3")]
    pub gateways: Vec<String>,
    /// The cookie of the configuration that it is to have, 32 bytes; empty when there is none.
    #[prost(bytes = "bytes", tag = "4")]
    pub cookie: Bytes,
    /// The Kerberos principal by which its hops may be proved; empty when there is none.
    #[prost(string, tag = "5")]
    pub principal: String,
}

/// What a host without a token, or a further server, will say, before it has heard anything.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Commitment {
    /// SHA-256 over the nonce and the bytes of Hello that it will open, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
    /// The name that it wants.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `agent`, `gateway` or `server`.
    #[prost(string, tag = "3")]
    pub role: String,
}

/// What a host had committed itself to. The transcript is SHA-256 over the bytes of the Commitment, the Challenge's
/// payload, the nonce and the bytes of Hello: what two people compare is made of it. No signature is part of it, because
/// who signs can choose among many.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// 32 fresh random bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub nonce: Bytes,
    /// The bytes of a [`Hello`]: without a token, but of a further server.
    #[prost(bytes = "bytes", tag = "2")]
    pub hello: Bytes,
    /// By the identity key over the transcript ([`crate::message::Context::Join`], 64 bytes).
    #[prost(bytes = "bytes", tag = "3")]
    pub identity: Bytes,
    /// By the token's key over the transcript (Ed25519, 64 bytes), of a further server; otherwise empty.
    #[prost(bytes = "bytes", tag = "4")]
    pub token: Bytes,
}

/// A host asks what became of its request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Poll {
    /// The request: its transcript, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub request: Bytes,
    /// 16 fresh random bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
}

/// Who wants to be let in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// The token's id, 16 bytes; empty when a member renews or comes home.
    #[prost(bytes = "bytes", tag = "1")]
    pub token: Bytes,
    /// The name that it wants, or has.
    #[prost(string, tag = "2")]
    pub name: String,
    /// `agent` or `gateway`; of a further server `server`.
    #[prost(string, tag = "3")]
    pub role: String,
    /// Its identity key: SubjectPublicKeyInfo, DER.
    #[prost(bytes = "bytes", tag = "4")]
    pub identity: Bytes,
    /// A certificate signing request (PKCS #10, RFC 2986) with the key of the channel certificate that it wants, DER; empty
    /// when it comes by Kerberos alone and wants none.
    #[prost(bytes = "bytes", tag = "5")]
    pub request: Bytes,
    /// 16 fresh random bytes.
    #[prost(bytes = "bytes", tag = "6")]
    pub nonce: Bytes,
    /// The channel certificate that the company's own PKI has issued to it, for the key of the request, DER, alone; empty
    /// when the server is to issue one.
    #[prost(bytes = "bytes", tag = "7")]
    pub certificate: Bytes,
    /// What a further server brings besides.
    #[prost(message, optional, tag = "8")]
    pub further: Option<Further>,
    /// The Kerberos principal by which its hops are to be proved; empty: by certificates only.
    #[prost(string, tag = "9")]
    pub principal: String,
}

/// What a further server brings besides.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Further {
    /// A certificate signing request with its duty key, DER, which shows that it has that.
    #[prost(bytes = "bytes", tag = "1")]
    pub duty: Bytes,
    /// A sealing certificate, DER, made for this join: what it is given is encrypted to its key.
    #[prost(bytes = "bytes", tag = "2")]
    pub sealing: Bytes,
    /// 32 bytes exported from its TLS session ([`crate::join::SESSION`]).
    #[prost(bytes = "bytes", tag = "3")]
    pub session: Bytes,
}

/// That a host is who it says: signatures over the transcript, which is SHA-256 over the bytes of Hello and of the
/// Challenge's payload. Of a Poll, the transcript begins with [`POLLED`], of a Standing with [`STANDING`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Proof {
    /// By the token's key (Ed25519, 64 bytes); empty without a token.
    #[prost(bytes = "bytes", tag = "1")]
    pub token: Bytes,
    /// By the identity key ([`crate::message::Context::Join`], 64 bytes).
    #[prost(bytes = "bytes", tag = "2")]
    pub identity: Bytes,
    /// The first token of a Kerberos context with the group's service, with the transcript as its channel binding
    /// (RFC 4121); empty when no KDC is to vouch.
    #[prost(bytes = "bytes", tag = "3")]
    pub kerberos: Bytes,
}

/// What a server says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Down {
    /// One of them.
    #[prost(oneof = "Answered", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub answered: Option<Answered>,
}

/// What a server says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answered {
    /// A [`Challenge`], by the duty key that its chain certifies ([`crate::message::Context::Join`]).
    #[prost(message, tag = "1")]
    Challenge(Signed),
    /// A [`Welcome`], by the same key.
    #[prost(message, tag = "2")]
    Welcome(Signed),
    /// No, said by whoever it is.
    #[prost(message, tag = "3")]
    Refusal(Refusal),
    /// Not yet: an operator decides.
    #[prost(message, tag = "4")]
    Pending(Pending),
    /// No: a [`Refusal`], by the same key as the challenge.
    #[prost(message, tag = "5")]
    Refused(Signed),
    /// A [`Stands`], by the same key as the challenge.
    #[prost(message, tag = "6")]
    Stands(Signed),
    /// A [`Welcome`] to a host that has proved itself by Kerberos.
    #[prost(message, tag = "7")]
    Vouched(Vouched),
}

/// A Welcome of which the host knows by Kerberos that the group's service says it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Vouched {
    /// The [`Welcome`], by the same key as the challenge.
    #[prost(message, required, tag = "1")]
    pub welcome: Signed,
    /// The second token of the Kerberos context.
    #[prost(bytes = "bytes", tag = "2")]
    pub reply: Bytes,
    /// SHA-256 of the Welcome's payload, wrapped by the context.
    #[prost(bytes = "bytes", tag = "3")]
    pub wrapped: Bytes,
}

/// An operator has to decide. The host asks again.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Pending {}

/// What the host has to sign, and who asks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Challenge {
    /// SHA-256 of the bytes of the Hello, Commitment, Poll or Standing that it answers, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub hello: Bytes,
    /// Fresh random bytes, good once: 16, or 32 when a Commitment is answered.
    #[prost(bytes = "bytes", tag = "2")]
    pub nonce: Bytes,
    /// The group's id, 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub group: Bytes,
    /// The group's name.
    #[prost(string, tag = "4")]
    pub name: String,
    /// The certificate of the server's duty key, then the root's, DER.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub chain: Vec<Bytes>,
    /// When it was said, milliseconds since 1970 by the server's clock.
    #[prost(uint64, tag = "6")]
    pub at: u64,
    /// The Kerberos principal of the group, when this server has its key; otherwise empty.
    #[prost(string, tag = "7")]
    pub service: String,
}

/// The host is part of the group.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// The transcript, 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub transcript: Bytes,
    /// The channel certificate and what leads to the root, DER; nothing when it wanted none.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub chain: Vec<Bytes>,
    /// The public half of the group's recovery key, SubjectPublicKeyInfo, DER; empty while there is none.
    #[prost(bytes = "bytes", tag = "3")]
    pub recovery: Bytes,
    /// The trust log's head with this in it: a signed [`crate::trust::Record`].
    #[prost(message, required, tag = "4")]
    pub head: Signed,
    /// What a further server is given of the group's keys: secure data, to the key that it brought.
    #[prost(bytes = "bytes", tag = "5")]
    pub sealed: Bytes,
}

/// Not let in. What the host may know; the server's log has the details.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// Why.
    #[prost(enumeration = "Why", tag = "1")]
    pub why: i32,
    /// The transcript, 32 bytes, when it is signed.
    #[prost(bytes = "bytes", tag = "2")]
    pub transcript: Bytes,
}

/// Why a host is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Why {
    /// Nothing was said.
    Unspecified = 0,
    /// What came is no message of this session, or out of order.
    Protocol = 1,
    /// The token is not known here, or was revoked.
    TokenUnknown = 2,
    /// The token's time is over.
    TokenExpired = 3,
    /// The token was used as often as it may be.
    TokenUsed = 4,
    /// The token is for another name.
    TokenName = 5,
    /// The token is for another role.
    TokenRole = 6,
    /// A signature does not fit.
    Signature = 7,
    /// The signing request is not for this name, role and key.
    Request = 8,
    /// Somebody else has this name.
    NameTaken = 9,
    /// Nobody of this name and identity key is part of the group.
    NotMember = 10,
    /// Too many knock at once: try again later.
    Busy = 11,
    /// The server cannot decide now: its database takes no data.
    Unavailable = 12,
    /// Hosts join with a token only.
    TokenNeeded = 13,
    /// An operator has rejected the request.
    Rejected = 14,
    /// There is no such request, or not any more.
    NoRequest = 15,
    /// Too many requests wait for an operator already.
    TooMany = 16,
    /// The identity key was removed from the group.
    KeyRemoved = 17,
    /// A further server does not speak to a server itself.
    NotDirect = 18,
    /// Channel certificates come from the company's own PKI here, and the host brought none.
    CertificateNeeded = 30,
    /// The host brought a certificate of its own, and the group's built-in CA issues here.
    CertificateUnwanted = 31,
    /// The certificate that it brought was not issued by the CA that the server names.
    CertificateChain = 32,
    /// It is not valid now.
    CertificateValidity = 33,
    /// It does not say one DNS name and one role, this host's.
    CertificateName = 34,
    /// It is not for both ends of a channel, or for more.
    CertificateUsage = 35,
    /// Its key is not on P-256, or not that of the request.
    CertificateKey = 36,
    /// Its Kerberos principal does not follow from its name, and nobody has named it.
    PrincipalUnfit = 40,
    /// Another member has its Kerberos principal.
    PrincipalTaken = 41,
    /// What it has proved by Kerberos is not what it says it is.
    KerberosProof = 42,
    /// It has proved itself by Kerberos, and yet a person has to approve it.
    KerberosReview = 43,
    /// The server has no key of the group's Kerberos principal.
    KerberosNone = 44,
}

impl Why {
    /// In words, with what to do.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "no reason was given; see the server's log",
            Self::Protocol => "the server did not understand what was said; are both programs of one version?",
            Self::TokenUnknown => {
                "the token is not known there, or was revoked; make a new one: `wardline token create`"
            }
            Self::TokenExpired => "the token has expired; make a new one: `wardline token create`",
            Self::TokenUsed => "the token was used as often as it may be; make a new one: `wardline token create`",
            Self::TokenName => "the token is for another name; make one for this name: `wardline token create --name`",
            Self::TokenRole => "the token is for another role; make one for this role: `wardline token create --role`",
            Self::Signature => "a signature does not fit; join anew, and if it stays so, see the server's log",
            Self::Request => "the certificate request is not for this name, role and key",
            Self::NameTaken => "another host has this name; remove that one first: `wardline agent remove NAME`",
            Self::NotMember => {
                "no member of the group has this name and identity key; join anew, with a token (`wardline token create`) \
                 or by code (`join` without `--token-file`)"
            }
            Self::Busy => "too many hosts join at once; try again in a minute",
            Self::Unavailable => "the server's database takes no data now; try again later",
            Self::TokenNeeded => {
                "hosts join with a token only; make one: `wardline token create`, then join with `--token-file`"
            }
            Self::Rejected => "an operator has rejected the request; ask why, then join again",
            Self::NoRequest => {
                "the request is not known there any more: it waited too long, or the server was restarted; join again"
            }
            Self::KeyRemoved => {
                "this host was removed, and its identity key is worth nothing any more; move the group's folder in its \
                 state folder away, then join again"
            }
            Self::NotDirect => {
                "a further server joins at a server with the database, and through no gateway: name that server itself"
            }
            Self::CertificateNeeded => {
                "channel certificates come from the company's own PKI here: have one issued to this host, then join with \
                 `--certificate` and `--key`; a member names both under [own_pki] in its membership.toml"
            }
            Self::CertificateUnwanted => {
                "the group's own CA issues channel certificates here: join without `--certificate`; a member removes \
                 [own_pki] from its membership.toml"
            }
            Self::CertificateChain => {
                "the certificate was not issued by the CA that `own_pki` on the server names; have that one issue it"
            }
            Self::CertificateValidity => "the certificate, or its CA's, is not valid now; have a new one issued",
            Self::CertificateName => {
                "the certificate's subject alternative name is not this host's DNS name and its role's URI, \
                 urn:wardline:agent or urn:wardline:gateway, and nothing else; have it issued with these"
            }
            Self::CertificateUsage => {
                "the certificate's extended key usage is not serverAuth and clientAuth and nothing else; have it issued \
                 with these"
            }
            Self::CertificateKey => {
                "the certificate's key is not on P-256, or not the one in the key file; have it issued for a key that \
                 `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` made"
            }
            Self::PrincipalUnfit => {
                "the Kerberos principal does not follow from this host's name and the realms that the server lists, or is \
                 not the one that was named for it; name it: `wardline token create --principal`, or `wardline agent \
                 approve --principal`"
            }
            Self::PrincipalTaken => {
                "another member has this Kerberos principal; take it away there first: `wardline agent principal NAME none`"
            }
            Self::KerberosProof => "the proof by Kerberos was not accepted; the server's log has the reason",
            Self::KerberosReview => {
                "no rule of the server lets a host of this name and realm in by Kerberos alone: somebody has to approve it"
            }
            Self::KerberosNone => {
                "the server has no key of the group's Kerberos principal, so that nobody but a person can vouch for this host"
            }
            Self::TooMany => {
                "too many hosts wait for an operator already, here or from this address; `wardline agent pending` shows \
                 them, and `wardline gateway pending`"
            }
        }
    }
}
