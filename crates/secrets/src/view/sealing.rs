//! Sealing keys in the trust log: each by the word of its health service, signed with the identity key that it has.

use std::sync::Arc;

use wardline_proto::message::{Context, SealingKey, Signed, decode};
use wardline_proto::trust;
use wardline_proto::{GroupId, Name};

use super::{Member, Unsound, View};
use crate::sealing::{SealingCertificate, SealingFault};

/// Milliseconds.
const DAY: u64 = 24 * 3600 * 1000;

/// The sealing key of a health service.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// What is sealed to: read, and valid when the entry was made.
    pub certificate: SealingCertificate,
    /// Rises with every key of this health service.
    pub serial: u64,
    /// When it was entered, milliseconds since 1970.
    pub at: u64,
    /// How many were entered in a row, each within a day of the one before.
    pub row: u32,
    /// The number of the entry that says so.
    pub entry: u64,
}

impl PartialEq for Sealing {
    fn eq(&self, other: &Self) -> bool {
        (self.certificate.der(), self.serial, self.entry) == (other.certificate.der(), other.serial, other.entry)
    }
}

impl View {
    /// A member's sealing key: by its own word, signed with the identity key that it has now.
    pub(super) fn sealing(&mut self, sealing: &trust::Sealing, at: u64) -> Result<(), Unsound> {
        let wrong = Unsound::Fact;
        let name: Name = sealing.name.parse().map_err(|_| wrong("a member's name"))?;
        let member = self.members.get(&name).ok_or(wrong("a member that is not there"))?;
        let key = read_sealing(member, self.group(), &sealing.said, at);
        let key = key.map_err(|_| wrong("a sealing key that is none, or that its health service has not signed"))?;
        if member.sealing.as_ref().is_some_and(|known| known.serial >= key.serial) {
            return Err(wrong("a sealing key that is not newer than the one before"));
        }
        let (entry, version) = (self.tree.size(), self.next());
        let member = self.members.get_mut(&name).ok_or(wrong("a member that is not there"))?;
        let before = member.sealing.as_ref().filter(|known| at.saturating_sub(known.at) < DAY);
        let row = before.map_or(1, |known| known.row.saturating_add(1));
        Arc::make_mut(member).sealing = Some(Arc::new(Sealing { entry, row, ..key }));
        self.versions.members.insert_mut(name, version);
        Ok(())
    }
}

/// Why what somebody says of a sealing key is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSealing {
    /// The member's identity key has not signed it.
    #[error("its identity key has not signed it")]
    Signature,
    /// It is about somebody else, or about nothing.
    #[error("it is about {0}")]
    Other(String),
    /// Its certificate misses a need.
    #[error("its certificate: {0}")]
    Certificate(#[from] SealingFault),
}

/// What a member has said of its sealing key, at a moment (milliseconds since 1970).
///
/// # Errors
/// Its identity key has not signed that, or it is about another, or nothing that can be sealed to.
pub fn read_sealing(member: &Member, group: GroupId, said: &Signed, at: u64) -> Result<Sealing, NotSealing> {
    let payload = member.identity.open(Context::SealingCert, group, said).map_err(|_| NotSealing::Signature)?;
    let said: SealingKey = decode(payload).ok_or_else(|| NotSealing::Other("nothing that can be decoded".into()))?;
    if said.name != member.name.as_str() || said.role != member.role.as_str() {
        return Err(NotSealing::Other(said.name));
    }
    let certificate = SealingCertificate::read(&said.certificate, &member.name, member.role, at / 1000)?;
    Ok(Sealing { certificate, serial: said.serial, at, row: 0, entry: 0 })
}
