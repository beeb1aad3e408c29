//! A channel certificate of the company's own PKI: somebody lays it down in two files, and it is looked at again and
//! again, so that a new one is used without a restart.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use wardline_proto::GroupId;
use wardline_proto::event::Event;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::{private, tls};
use zeroize::Zeroizing;

use crate::credential::Publisher;
use crate::renewal::{PAUSE, due};
use crate::{config, journal, now_ms};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is said that a certificate ends soon.
const SAID: Duration = Duration::from_secs(24 * 3600);

/// Where a channel certificate of the company's own PKI lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OwnPair {
    /// The certificate in PEM. What stands behind it in the file is not looked at.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8 in PEM, for the program alone.
    pub key: PathBuf,
}

/// What lies in the two files. The key belongs to the certificate; nothing else is checked.
#[derive(Debug)]
pub struct Offered {
    /// The certificate, without what leads to the root.
    pub leaf: CertificateDer<'static>,
    /// Its key.
    pub key: SigningKey,
    /// The key, PKCS#8 in PEM.
    pub pem: Zeroizing<Vec<u8>>,
}

impl OwnPair {
    /// Reads both files.
    ///
    /// # Errors
    /// Event 20066 or 20068 about the one that cannot be used.
    pub fn read(&self, group: GroupId) -> Result<Offered, Event> {
        let shown = |path: &Path| path.display().to_string();
        let missing =
            |path, reason: &dyn ToString| Event::CertificateMissing { path: shown(path), reason: reason.to_string() };
        let pem = private::read_public(&self.certificate).map_err(|error| missing(&self.certificate, &error))?;
        let leaf = CertificateDer::from_pem_slice(&pem)
            .map_err(|_| missing(&self.certificate, &"it is no certificate in PEM"))?;
        let pem = private::read(&self.key).map_err(|error| missing(&self.key, &error))?;
        let unusable = |reason: String| Event::PrivateKeyUnusable { path: shown(&self.key), reason };
        let key = SigningKey::from_pem(&pem, group).map_err(|error| {
            let make = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
            unusable(format!("{error}; {make}"))
        })?;
        let of = tls::facts(std::slice::from_ref(&leaf)).map(|(of, ..)| of);
        if of != Some(key.id()) {
            return Err(unusable(format!("it does not belong to the certificate in {}", shown(&self.certificate))));
        }
        Ok(Offered { leaf, key, pem })
    }

    /// What changes when somebody replaces a file.
    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let meta = std::fs::metadata(path).ok()?;
            Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()))
        })
    }
}

type Stamp = [Option<(u64, u64, i64, i64, i64, i64)>; 2];

/// Looks at the two files, again and again.
#[derive(Debug)]
pub struct Follower {
    files: OwnPair,
    /// What was there when it was looked at last.
    seen: Stamp,
    /// When that is to be read: never once it is in use.
    due: Option<Instant>,
    /// The pause after the next failure.
    pause: Duration,
    /// When it was said last that the certificate ends soon.
    said: Option<Instant>,
}

impl Follower {
    /// Nothing was tried yet.
    pub fn new(files: OwnPair) -> Self {
        Self { files, seen: [None; 2], due: Some(Instant::now()), pause: PAUSE.0, said: None }
    }

    /// Waits until the files hold another certificate than the one in use. Meanwhile says that this one ends soon (event
    /// 40097), or that the files cannot be used (40098).
    pub async fn next(&mut self, publisher: &Publisher, group: GroupId) -> Offered {
        loop {
            let current = publisher.current();
            if self.is_due() {
                match self.files.read(group) {
                    Ok(offered) if current.as_ref().and_then(|channel| channel.leaf()) != Some(&offered.leaf) => {
                        return offered;
                    }
                    Ok(_) => self.taken(),
                    Err(event) => self.refused(&event.text()),
                }
            }
            if let Some(channel) = current.filter(|channel| {
                due(channel.not_before, channel.not_after, now_ms() / 1000) == 0
                    && self.said.is_none_or(|said| said.elapsed() >= SAID)
            }) {
                let path = self.files.certificate.display().to_string();
                journal::emit(Event::CertificateEnds { path, to: config::date(channel.not_after) });
                self.said = Some(Instant::now());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a file has changed, or what is there was not taken and is to be tried again.
    fn is_due(&mut self) -> bool {
        let (stamp, now) = (self.files.stamp(), Instant::now());
        if std::mem::replace(&mut self.seen, stamp) != stamp {
            (self.due, self.pause) = (Some(now), PAUSE.0);
        }
        self.due.is_some_and(|due| due <= now)
    }

    /// What is there is in use.
    pub const fn taken(&mut self) {
        (self.due, self.pause) = (None, PAUSE.0);
    }

    /// What is there is not used (event 40098). It is tried again later and later, and when a file changes.
    pub fn refused(&mut self, reason: &str) {
        let (path, seconds) = (self.files.certificate.display().to_string(), self.pause.as_secs().max(LOOK.as_secs()));
        let (reason, seconds) = (reason.to_owned(), seconds.to_string());
        journal::emit(Event::CertificateNotTaken { path, reason, seconds });
        self.due = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE.1);
    }
}
