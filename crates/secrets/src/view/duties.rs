//! The duty keys of the servers in the trust log: whose word counts, whose does not any more, and what to make of an entry
//! that somebody vouches for and that cannot be taken.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, UnixTime};
use wardline_proto::message::{Context, Signed, decode};
use wardline_proto::trust::{self, Record, Recorded};
use wardline_proto::{Name, Role};

use super::{REMEMBERED, Unsound, View};
use crate::signature::{KeyId, VerifyingKey};
use crate::trust::not_after;

/// An entry that a server of the group has signed to stand at its place, and that cannot be taken: the server knows more
/// than this program, or less.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("entry {number} was signed by {server}, and this program cannot take it")]
pub struct Unread {
    /// Its place.
    pub number: u64,
    /// The server.
    pub server: Name,
}

/// The duty keys of a server.
#[derive(Clone, Debug)]
pub(super) struct Duties {
    /// The newest, which signs entries.
    key: VerifyingKey,
    /// Its certificate, DER.
    certificate: Bytes,
    /// When that was entered, milliseconds since 1970.
    at: u64,
    /// Every key that was ever certified for it, and when that ends, seconds since 1970: agents believe each until then.
    certified: BTreeMap<KeyId, u64>,
}

impl View {
    /// A server's duty key.
    pub fn duty(&self, server: &Name) -> Option<&VerifyingKey> {
        self.duties.get(server).map(|duties| &duties.key)
    }

    /// The certificate of a server's duty key, DER.
    pub fn duty_certificate(&self, server: &Name) -> Option<&Bytes> {
        self.duties.get(server).map(|duties| &duties.certificate)
    }

    /// The servers' duty keys.
    pub fn duties(&self) -> impl Iterator<Item = &VerifyingKey> {
        self.duties.values().map(|duties| &duties.key)
    }

    /// Whether a server of this name is no member, and its duty key is believed all the same: it has removed itself.
    pub fn lingers(&self, server: &Name) -> bool {
        self.duties.contains_key(server) && self.find(server, Role::Server).is_none()
    }

    /// Those of whom that is so, and since when they have their duty key, milliseconds since 1970.
    pub fn lingering(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.duties.iter().filter(|(server, _)| self.lingers(server)).map(|(server, duties)| (server, duties.at))
    }

    /// The ids of duty keys of servers that were removed, in order.
    pub fn disowned(&self) -> impl Iterator<Item = &KeyId> {
        self.disowned.iter()
    }

    /// What an entry is that cannot be taken, when it stands at this place: nothing when no server whose word counts has
    /// signed it to stand there.
    pub fn vouched(&self, number: u64, signed: &Signed) -> Option<Unread> {
        let signs = |key: &VerifyingKey| key.open(Context::Log, self.group(), signed).is_ok();
        let record: Record = decode(&signed.payload)?;
        let server = match record.what {
            Some(Recorded::Entry(entry)) if entry.number == number => {
                entry.server.parse().ok().filter(|server| self.duty(server).is_some_and(signs))
            }
            Some(_) => None,
            // Neither an entry nor a head, of which this program knows.
            None => self.duties.iter().find(|(_, duties)| signs(&duties.key)).map(|(server, _)| server.clone()),
        };
        server.map(|server| Unread { number, server })
    }

    /// The first entry behind these that a server has signed, and that cannot be taken. Nothing is to be appended then.
    pub const fn unread(&self) -> Option<&Unread> {
        self.unread.as_ref()
    }

    /// Notes that there is one, or none any more.
    pub fn note_unread(&mut self, unread: Option<Unread>) {
        self.unread = unread;
    }

    /// A server's duty key, by the certificate that comes with it.
    pub(super) fn enter_duty(&mut self, duty: trust::Duty, at: u64) -> Result<(), Unsound> {
        let (server, key) = self.certified(&duty, at)?;
        if self.find(&server, Role::Server).is_some_and(|member| member.relays) {
            return Err(Unsound::Fact("a duty key of a server without a database"));
        }
        let mut certified = self.duties.remove(&server).map(|duties| duties.certified).unwrap_or_default();
        let ends = certified.entry(key.id()).or_default();
        *ends = (*ends).max(not_after(&CertificateDer::from(duty.certificate.as_ref())));
        self.duties.insert(server, Duties { key, certificate: duty.certificate, at, certified });
        Ok(())
    }

    /// What a server signs that was removed is not believed any more, which every agent has to know.
    pub(super) fn disown(&mut self, server: Name, at: u64) {
        // By the clock of who removes it; those of agents may be behind.
        let ended = |ends: u64| ends.saturating_add(REMEMBERED) < at / 1000;
        let certified = self.duties.remove(&server).map(|duties| duties.certified).unwrap_or_default();
        self.disowned.extend(certified.into_iter().filter(|(_, ends)| !ended(*ends)).map(|(key, _)| key));
        self.versions.all = self.next();
        self.gone.insert(server);
    }

    /// The server, and the duty key that a certificate certified at a moment by the root's word. No entry can claim a
    /// moment for it before those of entries in front of it, or a key whose certificate has ended would come back.
    pub(super) fn certified(&self, duty: &trust::Duty, at: u64) -> Result<(Name, VerifyingKey), Unsound> {
        let chain = [CertificateDer::from(duty.certificate.as_ref())];
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at.max(self.latest)));
        let (name, key) = self.root.duty(&chain, at).map_err(|_| Unsound::Fact("a duty certificate"))?;
        if self.disowned.contains(&key.id()) {
            Err(Unsound::Fact("a duty key of a server that was removed"))
        } else if name.as_str() == duty.server {
            Ok((name, key))
        } else {
            Err(Unsound::Fact("a duty certificate of another server"))
        }
    }
}
