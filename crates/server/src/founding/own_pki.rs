//! Channel certificates from the company's own PKI instead of the built-in CA. The group's root certifies the company's
//! CA once (a cross certificate, kept in `own-ca.pem` with the certificate that it was made for), so that everybody who
//! has pinned the root believes what that CA issues.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use wardline_connector::config::{self, own_certificate};
use wardline_connector::own_pki::{Follower, Offered, OwnPair};
use wardline_connector::{home, journal};
use wardline_proto::event::Event;
use wardline_proto::{Name, Role};
use wardline_secrets::authority::{AuthorityError, IssuingAuthority, OwnCa, RootAuthority};
use wardline_secrets::certificate::Fault;
use wardline_secrets::private;
use wardline_secrets::signature::sha256;
use wardline_secrets::tls::{self, Channel, LoadError};
use wardline_secrets::trust::{Root, not_after};

use super::{Folder, Presence, Renewal, enter, moment, pem_of, shown, validity};

/// The company's PKI as the server's configuration names it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnPki {
    /// The certificate of the CA that issues channel certificates, PEM.
    pub ca: PathBuf,
    /// The channel certificate of this server, PEM.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 in PEM.
    pub key: PathBuf,
}

impl OwnPki {
    fn pair(&self) -> OwnPair {
        OwnPair { certificate: self.certificate.clone(), key: self.key.clone() }
    }
}

/// Where channel certificates come from.
#[derive(Clone, Debug)]
pub enum Issuer {
    /// The group's own CA issues them.
    BuiltIn(Arc<IssuingAuthority>),
    /// The company's PKI does; with it the cross certificate of its CA. The built-in CA is not even opened.
    Own(OwnPki, CertificateDer<'static>),
}

impl Issuer {
    /// What leads from a channel certificate to the root.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        match self {
            Self::BuiltIn(issuing) => issuing.certificate(),
            Self::Own(_, cross) => cross,
        }
    }
}

impl Folder<'_> {
    /// The cross certificate of the CA that is configured: the one that was made for it, or a new one.
    pub(super) fn cross(
        &self,
        authority: Option<&RootAuthority>,
        ca_path: &Path,
    ) -> Result<CertificateDer<'static>, Event> {
        let refused = |reason: String| Event::OwnCaRefused { path: shown(ca_path), reason };
        let pem = private::read_public(ca_path).map_err(|error| refused(error.to_string()))?;
        let ca = OwnCa::from_pem(&pem, self.now).map_err(|fault| refused(fault.to_string()))?;
        let path = self.file("own-ca", "pem");
        let kept = private::read_public(&path).unwrap_or_default();
        let kept: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&kept).collect();
        if let Ok([cross, made_for]) = kept.as_deref()
            && made_for == ca.certificate()
        {
            return Ok(cross.clone());
        }
        let authority = authority.ok_or_else(|| {
            let path = shown(&self.file("root", "key"));
            refused(format!("the root has not certified it yet; put {path} in its place for one start"))
        })?;
        let lasts = ca.validity().to.saturating_sub(self.now);
        let valid = validity(self.now, lasts, ca.validity().to.min(authority.not_after()));
        let cross = authority.cross(&ca, valid).map_err(|error: AuthorityError| refused(error.to_string()))?;
        self.write(&path, pem_of(&path, &[&cross, ca.certificate()])?.as_bytes())?;
        journal::emit(Event::OwnCaTaken { path: shown(ca_path), name: ca.name(), to: moment(valid.to) });
        Ok(cross)
    }

    /// Takes this server's own channel certificate over into the folder, once it is what it must be.
    pub(super) fn adopt(
        &self,
        root: &Root,
        cross: &CertificateDer<'static>,
        pki: &OwnPki,
        server: &Name,
    ) -> Result<(), Event> {
        let Offered { leaf, key, pem } = pki.pair().read(root.group())?;
        let chain = [leaf, cross.clone()];
        let wrong = |fault: Fault| LoadError::Certificate { path: pki.certificate.clone(), fault };
        let certified = tls::certified(root, &chain, server, Role::Server);
        certified.map_err(|fault| own_certificate(wrong(fault), server))?;
        let (path, [leaf, cross]) = (self.file("channel", "pem"), &chain);
        let unusable =
            |error: std::io::Error| Event::StateFolderInUse { path: shown(self.path), reason: error.to_string() };
        home::settle(self.path, home::CHANNEL).map_err(unusable)?;
        if private::read_public(&path)
            .is_ok_and(|there| pem_of(&path, &[leaf, cross]).is_ok_and(|pem| pem.as_bytes() == there))
        {
            return Ok(());
        }
        home::replace(self.vault, self.path, home::CHANNEL, key.id(), &pem, &chain).map_err(unusable)
    }
}

/// Looks at the files of this server's own channel certificate while it runs, and uses a new one.
pub struct Following {
    /// Where the certificate lies.
    pub pki: OwnPki,
    /// What else of this server is made anew.
    pub renewal: Arc<Renewal>,
}

impl Following {
    /// Follows them until the program stops.
    pub async fn run(self, stop: CancellationToken) {
        let mut follower = Follower::new(self.pki.pair());
        let follow = async {
            loop {
                follower.next(&self.renewal.publisher, self.renewal.store.keeper().root.group()).await;
                match self.take().await {
                    Ok(()) => follower.taken(),
                    Err(event) => follower.refused(&event.text()),
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    }

    async fn take(&self) -> Result<(), Event> {
        let Renewal { vault, folder: path, presence, publisher, store, .. } = &*self.renewal;
        let mut presence = presence.lock().await;
        let folder = Folder { vault, path, now: wardline_connector::now_ms() / 1000 };
        let Presence { root, server, issuing, .. } = &*presence;
        folder.adopt(root, issuing, &self.pki, server)?;
        let channel = Channel::load(vault, path, root.clone(), server, Role::Server);
        let channel = channel.map_err(|error| own_certificate(error, server))?;
        let (leaf, act) = (folder.certificate("channel.pem")?, format!("server {server}"));
        presence.certificate = (sha256(&[&leaf]), not_after(&leaf));
        enter(store, presence.clone(), act, false).await?;
        journal::emit(config::loaded(path, &channel));
        publisher.publish(channel);
        Ok(())
    }
}
