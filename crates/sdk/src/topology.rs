//! Topology: which health services there are, which hops connect them, and what both ends of each measured.

use serde::{Deserialize, Serialize};
use wardline_proto::{Name, Role};

use crate::Time;

/// Services and hops, as they stand now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The health services.
    pub services: Vec<Service>,
    /// The sessions between them.
    pub hops: Vec<Hop>,
}

/// A health service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// What it is.
    pub role: Role,
    /// Whether a session with it stands.
    pub connected: bool,
    /// Of a server: it has no database, and relays to servers that have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relays: bool,
}

/// A session between two health services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Who dialled.
    pub from: Name,
    /// Who listened.
    pub to: Name,
    /// The hop's id, which both ends derive from the session, hexadecimal.
    pub id: String,
    /// What each end measured and signed; one is missing while it has not said so.
    pub ends: Vec<HopEnd>,
    /// Whether both ends said the same.
    pub agree: bool,
}

/// What one end of a hop measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopEnd {
    /// Which end says so.
    pub reporter: Name,
    /// The ALPN name of the mechanism.
    pub mechanism: String,
    /// Those that the operator of who dialled allows there, the preferred one first: more than one is `either`.
    #[serde(default)]
    pub offered: Vec<String>,
    /// Protocol version, as TLS names it.
    pub version: String,
    /// Cipher suite, as TLS names it.
    pub cipher: String,
    /// Key exchange group, as TLS names it.
    pub exchange: String,
    /// SHA-256 of the certificate that the other end proved itself with, hexadecimal; empty by Kerberos.
    pub peer_certificate: String,
    /// By Kerberos: what the ends proved themselves with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kerberos: Option<Ticket>,
    /// When the session began, this end's clock.
    pub since: Time,
}

/// A Kerberos security context, as one end of a hop measured it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The principal of who dialled, with its realm.
    pub initiator: String,
    /// The principal of who listened.
    pub acceptor: String,
    /// To what the context is bound: `tls-exporter` (RFC 9266).
    pub binding: String,
    /// The encryption type of the ticket.
    pub ticket: String,
    /// The version of the key that it is encrypted with; 0 when it does not say.
    pub kvno: u32,
    /// The encryption type of the authenticator.
    pub authenticator: String,
    /// That of the key under which messages are wrapped.
    pub session: String,
    /// When the ticket ends, this end's clock.
    pub ends: Time,
}

impl Hop {
    /// A hop with what its ends said so far. They agree when there are two different ones and both measured the same
    /// mechanism, version, cipher and key exchange, and by Kerberos the same ticket.
    pub fn new(from: Name, to: Name, id: String, ends: Vec<HopEnd>) -> Self {
        let agree = match ends.as_slice() {
            [a, b] => {
                let facts = |end: &HopEnd| HopEnd {
                    reporter: from.clone(),
                    peer_certificate: String::new(),
                    since: Time(0),
                    kerberos: end.kerberos.clone().map(|ticket| Ticket { ends: Time(0), ..ticket }),
                    ..end.clone()
                };
                a.reporter != b.reporter && facts(a) == facts(b)
            }
            _ => false,
        };
        Self { from, to, id, ends, agree }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_agree_only_when_two_different_ones_say_the_same() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let end = |reporter: &str, cipher: &str| HopEnd {
            reporter: name(reporter),
            mechanism: "wardline-cert/1".into(),
            version: "TLSv1.3".into(),
            cipher: cipher.into(),
            exchange: "X25519MLKEM768".into(),
            peer_certificate: reporter.into(),
            kerberos: None,
            offered: Vec::new(),
            since: Time(1),
        };
        let agree = |ends| Hop::new(name("a"), name("b"), String::new(), ends).agree;
        assert!(agree(vec![end("a", "x"), end("b", "x")]));
        assert!(!agree(vec![end("a", "x"), end("b", "y")]));
        assert!(!agree(vec![end("a", "x"), end("a", "x")]));
        assert!(!agree(vec![end("a", "x")]));
    }
}
