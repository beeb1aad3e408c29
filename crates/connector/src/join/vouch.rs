//! A KDC vouches, end to end: a host proves its principal to a server of the group, and that proves to have the key of the
//! group's own principal. The context between them is bound to the transcript, so that whoever is on the way can change
//! nothing of what either has said, and what comes back by it is what that server says.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use wardline_gss::{Acceptor, Context, Initiator, Library, Pending, Status};
use wardline_proto::join::Vouched;
use wardline_proto::message::{Digest, Signed};
use wardline_proto::principal::of_group;
use wardline_proto::{Name, Principal, Realm};
use wardline_secrets::signature::sha256;
use wardline_secrets::trust::Pin;

use super::Cause;
use crate::kerberos::keys;

/// What the channel bindings begin with: those of a hop are others.
const BINDING: &[u8] = b"wardline-join:";

/// By what a host that joins by Kerberos proves itself, and knows the group.
#[derive(Clone, Debug)]
pub struct Kerberos {
    initiator: Arc<Initiator>,
    /// What the group must be called.
    pub group: Name,
    /// The group's principal.
    pub service: String,
    /// The pin of its root, where that is known besides.
    pub pin: Option<Pin>,
}

impl Kerberos {
    /// By the host's own key in a keytab. Asks the KDC, and blocks.
    ///
    /// # Errors
    /// There is no library, no such key, or no ticket for it.
    pub fn open(
        library: Option<&Path>,
        keytab: &Path,
        principal: &Principal,
        (group, realm): (&Name, &Realm),
        pin: Option<Pin>,
    ) -> Result<Self, String> {
        keys(keytab, &principal.to_string()).map_err(|failure| failure.to_string())?;
        let library = Library::load(library).map_err(|error| error.to_string())?;
        let initiator = Initiator::new(&library, keytab, &principal.to_string());
        let initiator = initiator.map_err(|failed| format!("{}: {failed}", keytab.display()))?;
        let service = of_group(group, realm);
        Ok(Self { initiator: Arc::new(initiator), group: group.clone(), service, pin })
    }

    /// Asks the KDC for what proves this host to the group's service, in this session and no other.
    pub(super) async fn begin(&self, transcript: &Digest) -> Result<(Begun, Bytes), Cause> {
        let (initiator, service, binding) = (Arc::clone(&self.initiator), self.service.clone(), binding(transcript));
        let begun = tokio::task::spawn_blocking(move || initiator.begin(&service, &binding)).await;
        let begun = begun.map_err(|error| Cause::Kerberos(error.to_string()))?;
        begun
            .map(|(pending, token)| (Begun(pending), token.into()))
            .map_err(|refused| Cause::Kerberos(refused.to_string()))
    }
}

fn binding(transcript: &Digest) -> Vec<u8> {
    [BINDING, &transcript.0].concat()
}

/// A context that waits for the server's answer.
#[derive(Debug)]
pub(super) struct Begun(Pending);

impl Begun {
    /// Whether the group's service says this Welcome.
    pub(super) fn says(self, vouched: &Vouched) -> Result<(), Cause> {
        let forged = |reason: &dyn fmt::Display| Cause::Forged(format!("it is not the group's service: {reason}"));
        let mut context = self.0.finish(&vouched.reply).map_err(|refused| forged(&refused))?;
        let Digest(expected) = sha256(&[&vouched.welcome.payload]);
        let mut same = false;
        context.unwrap(&vouched.wrapped, |clear| same = clear == expected).map_err(|failed| forged(&failed))?;
        same.then_some(()).ok_or_else(|| forged(&"its welcome is another than the service has sent"))
    }
}

/// Proves to hosts that join that this is a server of the group, and hears who they are.
#[derive(Debug)]
pub struct Voucher {
    acceptor: Arc<Acceptor>,
    /// The group's principal.
    pub service: String,
}

impl Voucher {
    /// By the group's key in a keytab. What was seen is kept in the file `replays`.
    ///
    /// # Errors
    /// There is no library, or no such key.
    pub fn open(
        library: Option<&Path>,
        keytab: &Path,
        group: &Name,
        realm: &Realm,
        replays: &Path,
    ) -> Result<Self, String> {
        let service = of_group(group, realm);
        keys(keytab, &service).map_err(|failure| failure.to_string())?;
        let library = Library::load(library).map_err(|error| error.to_string())?;
        let acceptor = Acceptor::new(&library, keytab, &service, replays);
        let acceptor = Arc::new(acceptor.map_err(|failed| format!("{service}: {failed}"))?);
        Ok(Self { acceptor, service })
    }

    /// Hears what a host proves, in this session and no other.
    ///
    /// # Errors
    /// What is wrong with it, for the log.
    pub async fn hear(&self, token: Bytes, transcript: &Digest) -> Result<Heard, String> {
        let (acceptor, binding) = (Arc::clone(&self.acceptor), binding(transcript));
        let accepted = tokio::task::spawn_blocking(move || acceptor.accept(&token, &binding)).await;
        let accepted = accepted.map_err(|error| error.to_string())?;
        let (context, reply) = accepted.map_err(|refused| match refused.status() {
            Status::Bindings => "what it proves is bound to another session".to_owned(),
            _ => refused.to_string(),
        })?;
        Ok(Heard { context, reply: reply.into() })
    }
}

/// A host that has proved its principal.
#[derive(Debug)]
pub struct Heard {
    context: Context,
    reply: Bytes,
}

impl Heard {
    /// Its principal, as the KDC writes it.
    pub fn principal(&self) -> &str {
        &self.context.facts().initiator
    }

    /// A Welcome that it can believe.
    ///
    /// # Errors
    /// The library cannot wrap.
    pub fn vouch(mut self, welcome: Signed) -> Result<Vouched, String> {
        let Digest(hash) = sha256(&[&welcome.payload]);
        let mut wrapped = Bytes::new();
        let done = self.context.wrap(&hash, |bytes| wrapped = Bytes::copy_from_slice(bytes));
        done.map_err(|failed| failed.to_string())?;
        Ok(Vouched { welcome, reply: self.reply, wrapped })
    }
}
