//! The channel certificate is renewed in time, and at once when it has ended or was refused: that is how a host that was
//! away, or whose certificate was revoked, comes home. It asks as a member, with its identity key, for a certificate of a
//! fresh key; or, where certificates come from the company's own PKI, has the one registered that somebody has laid down.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_secrets::certificate::Identity;
use wardline_secrets::protect::Vault;
use wardline_secrets::request::request;
use wardline_secrets::signature::SigningKey;
use wardline_secrets::tls::Channel;
use wardline_secrets::trust::Root;

use crate::config::{self, Membership};
use crate::credential::Publisher;
use crate::head::Known;
use crate::join::{Applicant, With, ask};
use crate::own_pki::{Follower, Offered};
use crate::parents::jitter;
use crate::{home, journal, now_ms};

/// The pause before the next try after a failed one, at first and at most.
pub(crate) const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How long is slept at most before the clock is looked at again: it may have been set, or the host may have slept.
const LOOK: Duration = Duration::from_secs(3600);
/// The least time between two renewals for refusals; doubled for each one that follows, to [`LOOK`] at most: whoever says
/// no without end must not make the trust log grow.
const REFUSED: Duration = Duration::from_secs(60);

/// What is needed to renew.
#[derive(Debug)]
pub struct Renewal {
    /// Who this is.
    pub own: Identity,
    /// Whom to ask.
    pub membership: Membership,
    /// The group's folder.
    pub folder: PathBuf,
    /// Proves that it is the member.
    pub identity: Arc<SigningKey>,
    /// What the answer must lead to.
    pub root: Root,
    /// What protects the private files.
    pub vault: Vault,
    /// Where the new certificate is made known.
    pub publisher: Publisher,
}

/// Seconds until a certificate is to be renewed: at a third of its life before its end. 0 when that is past, and when
/// it is not valid yet: then a clock is wrong, or was.
pub fn due(not_before: u64, not_after: u64, now: u64) -> u64 {
    let life = not_after.saturating_sub(not_before);
    if now < not_before { 0 } else { (not_after - life / 3).saturating_sub(now) }
}

impl Renewal {
    /// Renews until the program stops.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.for_ever() => {}
        }
    }

    async fn for_ever(&self) {
        match &self.membership.own_pki {
            Some(files) => self.follow(Follower::new(files.clone())).await,
            None => self.renew_in_time().await,
        }
    }

    /// Has each new certificate registered that is laid down, and uses it.
    async fn follow(&self, mut follower: Follower) {
        loop {
            let Offered { leaf, key, pem } = follower.next(&self.publisher, self.root.group()).await;
            match self.ask(&key, &pem, Bytes::copy_from_slice(&leaf)).await {
                Ok(channel) => {
                    self.publish(channel);
                    follower.taken();
                }
                Err(reason) => follower.refused(&reason),
            }
        }
    }

    fn publish(&self, channel: Channel) {
        journal::emit(config::loaded(&self.folder, &channel));
        self.publisher.publish(channel);
    }

    async fn renew_in_time(&self) {
        let mut pause = PAUSE.0;
        // Hosts that joined together do not renew in one moment.
        let mut late = Duration::ZERO;
        // When a refusal was the reason to renew, and how long the next one waits from then on.
        let mut refused: Option<(Instant, Duration)> = None;
        loop {
            let current = self.publisher.current();
            let wait =
                current.as_ref().map_or(0, |channel| due(channel.not_before, channel.not_after, now_ms() / 1000));
            if let Some(channel) = current.as_ref().filter(|_| wait > 0) {
                late = jitter(Duration::from_secs(channel.not_after.saturating_sub(channel.not_before) / 16));
                let rest = refused.map_or(Duration::ZERO, |(at, rest)| rest.saturating_sub(at.elapsed()));
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(wait).min(LOOK)) => continue,
                    () = async { tokio::join!(self.publisher.refused(), tokio::time::sleep(rest)); } => {}
                }
                let before = refused.filter(|(at, _)| at.elapsed() < LOOK);
                refused = Some((Instant::now(), before.map_or(REFUSED, |(_, rest)| (rest * 2).min(LOOK))));
                late = Duration::ZERO;
            }
            tokio::time::sleep(std::mem::take(&mut late)).await;
            match self.renew().await {
                Ok(channel) => {
                    self.publish(channel);
                    pause = PAUSE.0;
                    // What is due again at once is not asked for at once: a certificate of some seconds, or a clock.
                    tokio::time::sleep(PAUSE.0).await;
                }
                Err(reason) => {
                    // It is the pause that holds back then.
                    refused = None;
                    let next = pause + jitter(pause);
                    let to = current.map_or_else(|| "it has ended".into(), |channel| config::date(channel.not_after));
                    let (group, seconds) = (self.membership.name.to_string(), next.as_secs().to_string());
                    journal::emit(Event::CertificateNotRenewed { group, to, reason, seconds });
                    tokio::time::sleep(next).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn renew(&self) -> Result<Channel, String> {
        let (key, pem) = SigningKey::generate(self.root.group()).map_err(|error| error.to_string())?;
        self.ask(&key, pem.as_bytes(), Bytes::new()).await
    }

    /// Asks for a certificate of a key (PKCS#8 in PEM), or with one of its own, and keeps what comes.
    async fn ask(&self, key: &SigningKey, pem: &[u8], certificate: Bytes) -> Result<Channel, String> {
        let request = request(pem, &self.own.name, self.own.role).map_err(|error| error.to_string())?;
        let applicant = Applicant {
            name: self.own.name.clone(),
            role: self.own.role,
            identity: Arc::clone(&self.identity),
            request,
            certificate,
            principal: None,
            with: With::Root(self.root.clone()),
        };
        let admitted = ask(&self.membership.parents, &applicant).await.map_err(|error| error.to_string())?;
        let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", self.folder.display());
        // A server that has forgotten something may have forgotten the newer recovery key, too.
        if Known::load(&self.vault, &self.folder).allows(&admitted.head, &admitted.parent.name) {
            home::recovery(&self.folder, &admitted.recovery).map_err(|error| shown(&error))?;
        }
        let replaced = home::replace(&self.vault, &self.folder, home::CHANNEL, key.id(), pem, &admitted.chain);
        replaced.map_err(|error| shown(&error))?;
        let loaded = Channel::load(&self.vault, &self.folder, self.root.clone(), &self.own.name, self.own.role);
        loaded.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wardline_proto::Role;
    use wardline_secrets::authority::{Validity, certificates_pem};
    use wardline_secrets::private;

    use super::*;
    use crate::config::StateFolder;
    use crate::credential::credential;
    use crate::testing::{Group, Scratch, TestDesk, eventually, name, parent, server, vault};

    #[tokio::test]
    async fn a_host_whose_certificate_has_ended_starts_comes_home_and_renews_in_time() {
        let (group, scratch, stop) = (Group::new(), Scratch::new(), CancellationToken::new());
        let _stops = stop.clone().drop_guard();
        let (desk, _) = TestDesk::new(&group);
        let server = parent("srv.test", server(&desk, &stop).await);
        let folder = scratch.0.join("north");
        private::create_folder(&folder).unwrap();
        let now = now_ms() / 1000;
        let ended = group.write(&folder, "web1.test", Role::Agent, Validity { from: now - 7200, to: now - 3600 });
        let (identity, pem) = SigningKey::generate(group.id).unwrap();
        private::write(&folder.join("identity.key"), pem.as_bytes()).unwrap();
        let root = certificates_pem(&[group.root.certificate()]).unwrap();
        private::write(&folder.join("root.pem"), root.as_bytes()).unwrap();
        let (id, pin, address) = (uuid::Uuid::from_bytes(group.id.0), group.root.pin(), &server.address);
        let parents = format!("[{{ name = \"srv.test\", address = \"{address}\" }}]");
        let membership = format!("name = \"north\"\nid = \"{id}\"\npin = \"{pin}\"\nparents = {parents}\n");
        private::write(&folder.join("membership.toml"), membership.as_bytes()).unwrap();

        let own = Identity { name: name("web1.test"), role: Role::Agent };
        let state = StateFolder::open(&scratch.0).unwrap();
        let open = || home::open("wardline-agent", Path::new("agent.toml"), None, &state, &own, None).unwrap();
        let member = open();
        assert!(member.credential.current().is_none());
        // The server is not ready to take it home yet; it asks again.
        let renewal = tokio::spawn(member.renewal.unwrap().run(stop.clone()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(member.credential.current().is_none());
        *desk.life.lock().unwrap() = Validity { from: now - 60, to: now + 31 };
        let public = identity.public().unwrap().spki().into();
        desk.members.lock().unwrap().push((public, Bytes::new()));
        let first = member.credential.good().await.unwrap();
        assert!(first.key != ended.id() && first.not_after == now + 31);
        // That one is past two thirds of its life: the next one comes at once, and is there when the program starts anew.
        *desk.life.lock().unwrap() = group.hour();
        for _ in 0..500 {
            if member.credential.current().is_some_and(|channel| channel.key != first.key) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        renewal.abort();
        let second = member.credential.current().unwrap();
        assert!(second.key != first.key && second.not_after > now + 3000);
        assert_eq!(open().credential.current().unwrap().key, second.key);
        let names = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(
            names,
            ["channel.key", "channel.pem", "identity.key", "membership.toml", "recovery.pem", "root.pem"]
        );
    }

    #[tokio::test]
    async fn a_certificate_that_is_refused_is_renewed_at_once_but_not_again_and_again() {
        let (group, scratch, stop) = (Group::new(), Scratch::new(), CancellationToken::new());
        let _stops = stop.clone().drop_guard();
        let (desk, _) = TestDesk::new(&group);
        let parents = vec![parent("srv.test", server(&desk, &stop).await)];
        let (own, identity) = (Identity { name: name("web1.test"), role: Role::Agent }, group.identity());
        let public = identity.public().unwrap().spki().into();
        desk.members.lock().unwrap().push((public, Bytes::new()));
        group.write(&scratch.0, "web1.test", Role::Agent, group.hour());
        let channel = Channel::load(&vault(&scratch.0), &scratch.0, group.trusted(), &own.name, own.role).unwrap();
        let (publisher, credential) = credential(own.clone(), Some(channel));
        let (membership, folder, root) = (group.membership(parents), scratch.0.clone(), group.trusted());
        tokio::spawn(
            Renewal { vault: vault(&scratch.0), own, membership, folder, identity, root, publisher }.run(stop.clone()),
        );
        let first = credential.current().unwrap().key;
        // Another one is not what is in use.
        credential.refused(group.identity().id());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(credential.current().unwrap().key, first);
        credential.refused(first);
        eventually("a new certificate", || credential.current().unwrap().key != first).await;
        let second = credential.current().unwrap().key;
        credential.refused(second);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(credential.current().unwrap().key, second);
    }

    #[test]
    fn a_certificate_is_due_at_a_third_of_its_life_before_its_end_and_at_once_when_it_is_not_valid() {
        for (from, to, now, expected) in [
            (1000, 1900, 1000, 600),
            (1000, 1900, 1599, 1),
            (1000, 1900, 1600, 0),
            (1000, 1900, 5000, 0),
            (1000, 1900, 999, 0),
            (1000, 1000, 1000, 0),
            (1900, 1000, 1900, 0),
            (0, u64::MAX, 0, u64::MAX - u64::MAX / 3),
        ] {
            assert_eq!(due(from, to, now), expected, "{from} {to} {now}");
        }
    }
}
