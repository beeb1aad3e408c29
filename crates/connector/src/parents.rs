//! Which parent a health service talks to: the first that answers, and the first of all as soon as that is back.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wardline_proto::event::Event;
use wardline_secrets::signature::random;

use crate::config::{Membership, Parent};
use crate::credential::Credential;
use crate::handshake::{Facts, HandshakeError, Session, dial};
use crate::journal;
use crate::link::Broken;

/// The pause before the next try after a failed one, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Why a session with a parent has ended.
pub(crate) enum End {
    /// The other end went away.
    Gone(String),
    /// It refused this end, or said what cannot be believed.
    Refused(String),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        let reason = broken.to_string();
        if broken.is_violation() { Self::Refused(reason) } else { Self::Gone(reason) }
    }
}

/// Whose turn it is: who went away is dialled again soon, who refused after the others, later and later.
pub(crate) struct Turns {
    credential: Credential,
    membership: Membership,
    pause: Duration,
    /// Who has just refused.
    last: Option<Parent>,
    /// How often the first has, since anybody went away by itself: it is tried again, later and later.
    refusals: u32,
}

impl Turns {
    pub(crate) const fn new(credential: Credential, membership: Membership) -> Self {
        Self { credential, membership, pause: PAUSE.0, last: None, refusals: 0 }
    }

    /// Dials the parents in turn, with growing pauses, until one session stands; says which failed and why. Waits while
    /// there is no certificate to dial any of them with. Nothing when the program stops.
    pub(crate) async fn connect(&self, stop: &CancellationToken) -> Option<(Session, Parent)> {
        let Self { credential, membership, last, .. } = self;
        let mut parents: Vec<_> = membership.parents.iter().collect();
        parents.sort_by_key(|parent| last.as_ref() == Some(parent));
        let mut pause = PAUSE.0;
        loop {
            let (mut reasons, mut dialled) = (Vec::new(), parents.is_empty());
            for parent in &parents {
                let result = tokio::select! {
                    () = stop.cancelled() => return None,
                    result = attempt(credential, membership, parent) => result,
                };
                let error = match result {
                    Ok(session) => return Some((session, (*parent).clone())),
                    Err(error) => error,
                };
                reasons.push(format!("{}: {error}", parent.name));
                // Who renews the certificate says why there is none.
                if !matches!(error, HandshakeError::NoCertificate) {
                    dialled = true;
                    journal::emit(unreachable(parent, error));
                }
            }
            if !dialled {
                tokio::select! {
                    () = stop.cancelled() => return None,
                    _ = credential.good() => continue,
                }
            }
            journal::emit(Event::NoParent { group: membership.name.to_string(), reason: reasons.join("; ") });
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause + jitter(pause)) => {}
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Returns when a session stands that is better than the present one with `current`: with the first parent, or, before
    /// what the ends have proved themselves with ends, with the same.
    pub(crate) async fn better(&self, current: &Parent, until: Option<Instant>) -> (Session, Parent) {
        let Self { credential, membership, refusals, .. } = self;
        tokio::select! {
            better = first(credential, membership, current, *refusals) => better,
            again = anew(credential, membership, current, until) => again,
        }
    }

    /// The session with this parent has ended: says why, and returns when it is time for the next. False when the program
    /// stops.
    pub(crate) async fn ended(&mut self, parent: &Parent, end: End, stop: &CancellationToken) -> bool {
        let reason = match end {
            End::Gone(reason) => {
                (self.pause, self.last, self.refusals) = (PAUSE.0, None, 0);
                reason
            }
            End::Refused(reason) => {
                (self.pause, self.last) = ((self.pause * 2).min(PAUSE.1), Some(parent.clone()));
                let is_first = self.membership.parents.first() == Some(parent);
                self.refusals = self.refusals.saturating_add(u32::from(is_first));
                reason
            }
        };
        journal::emit(Event::ClosedAfterAuthentication { parent: parent.name.to_string(), reason });
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(self.pause + jitter(self.pause)) => true,
        }
    }
}

/// One dial, as the operator wants it for this parent.
async fn attempt(credential: &Credential, membership: &Membership, parent: &Parent) -> Result<Session, HandshakeError> {
    let wanted = membership.mechanism_to(parent);
    let own = credential.ready(&parent.name, wanted).ok_or(HandshakeError::NoCertificate)?;
    let session = dial(&own, parent, membership.peer_timeout).await?;
    credential.stands(&parent.name, wanted, &session.facts.proof);
    journal::emit(connected(&session));
    Ok(session)
}

/// Dials the same parent again in time before what the ends have proved themselves with ends.
async fn anew(
    credential: &Credential,
    membership: &Membership,
    current: &Parent,
    until: Option<Instant>,
) -> (Session, Parent) {
    let Some(until) = until else { return std::future::pending().await };
    // A fifth is left for a KDC that is away, and those who came together do not come together again.
    let life = (until - Instant::now()).max(Duration::from_secs(1));
    tokio::time::sleep(life.mul_f64(0.7) + jitter(life.mul_f64(0.2))).await;
    let mut pause = PAUSE.0;
    loop {
        let session = async {
            if let Some(kerberos) = credential.kerberos() {
                // By a ticket that is kept it would end as soon.
                kerberos.renew(&kerberos.of_parent(current)).await?;
            }
            attempt(credential, membership, current).await
        };
        match session.await {
            Ok(session) => return (session, current.clone()),
            // Who renews the certificate says why there is none.
            Err(HandshakeError::NoCertificate) => _ = credential.good().await,
            Err(error) => journal::emit(unreachable(current, error)),
        }
        tokio::time::sleep(pause + jitter(pause)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The most that the pause before the first parent is tried grows to, when it refuses again and again: 2 to this.
const PATIENCE: u32 = 6;

/// While the session is with another parent than the first: dials the first from time to time, and returns when a
/// session with it stands. Never returns otherwise. It has refused so often.
async fn first(credential: &Credential, membership: &Membership, current: &Parent, refusals: u32) -> (Session, Parent) {
    // After one refusal as soon as after none.
    let pause = membership.primary_check * (1 << refusals.saturating_sub(1).min(PATIENCE));
    let Some(wanted) = membership.parents.first().filter(|wanted| *wanted != current) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(pause + jitter(pause)).await;
        // That it is still away is no news.
        if let Ok(session) = attempt(credential, membership, wanted).await {
            journal::emit(Event::BackToFirstParent { parent: wanted.to_string(), left: current.to_string() });
            return (session, wanted.clone());
        }
    }
}

fn connected(session: &Session) -> Event {
    let Facts { mechanism, version, cipher, exchange, .. } = session.facts.clone();
    Event::Connected { parent: session.peer.to_string(), mechanism, version, cipher, exchange }
}

/// Up to half of a pause, at random, so that those who lost the same parent do not come back at once.
pub(crate) fn jitter(pause: Duration) -> Duration {
    let [byte, ..] = random();
    pause.mul_f64(f64::from(byte) / 512.0)
}

pub(crate) fn unreachable(parent: &Parent, error: HandshakeError) -> Event {
    let (shown, reason) = (parent.to_string(), error.to_string());
    match error {
        HandshakeError::Resolve(_) => Event::ParentNotResolved { parent: shown, reason },
        HandshakeError::Connect(_) => Event::ParentUnreachable { parent: shown, reason },
        HandshakeError::Certificate(_) => Event::ParentNotTrusted { parent: shown, reason },
        HandshakeError::Kerberos(_) => Event::KerberosFailed { parent: shown, reason },
        HandshakeError::Nothing | HandshakeError::Rule { .. } => Event::MechanismsDiffer { peer: shown, reason },
        HandshakeError::Mechanism(..)
        | HandshakeError::Tls(_)
        | HandshakeError::Closed(_)
        | HandshakeError::NoCertificate
        | HandshakeError::Joins
        | HandshakeError::Bound(_)
        | HandshakeError::Deadline => Event::ClosedBeforeAuthentication { parent: shown, reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Group, parent};
    use wardline_proto::Role;

    #[tokio::test]
    async fn who_refuses_is_dialled_later_and_later_and_who_went_away_soon() {
        let (group, stop) = (Group::new(), CancellationToken::new());
        let parents = ["gw1.test", "gw2.test"].map(|host| parent(host, ([127, 0, 0, 1], 1).into()));
        let credential = group.channel("web1.test", Role::Agent).into();
        let mut turns = Turns::new(credential, group.membership(parents.to_vec()));
        let refused = || End::Refused("no".into());
        for (end, pause, last) in [
            (refused(), 200, true),
            (refused(), 400, true),
            (End::from(Broken::Expired), 100, false),
            (refused(), 200, true),
        ] {
            let began = Instant::now();
            assert!(turns.ended(&parents[0], end, &stop).await);
            assert!(began.elapsed() >= Duration::from_millis(pause));
            assert_eq!((turns.pause.as_millis(), turns.last.is_some()), (pause.into(), last));
        }
        stop.cancel();
        for _ in 0..20 {
            assert!(!turns.ended(&parents[1], refused(), &stop).await);
        }
        assert_eq!((turns.pause, turns.refusals), (PAUSE.1, 1));
    }
}
