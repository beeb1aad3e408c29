//! From the health of a check to what is said about it: state changes, alerts and their closing. Pure.
//!
//! A monitor has at most one open alert. It is raised when the health becomes worse than it was and bad enough, raised
//! again under the same id when it then becomes still worse, and closed when all is well: nothing else closes it. What
//! the monitor has to remember for that is a [`Memory`], which goes into the queue together with what was said, so that
//! no alert is doubled or forgotten whenever the agent is killed.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use wardline_packs::{AlertOn, AlertSeverity, Monitor};
use wardline_proto::entry::{Alert, Close, State, What};
use wardline_proto::health::{Health, Severity};

use crate::outcome::Outcome;

/// What a monitor remembers from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its health; `None` before the first look.
    pub health: Option<Health>,
    /// Its open alert.
    pub alert: Option<OpenAlert>,
}

/// An alert that was raised and is not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAlert {
    /// Its id.
    pub id: Uuid,
    /// The highest severity that was said of it.
    pub severity: Severity,
}

/// A [`Memory`] as it is kept.
#[derive(Clone, PartialEq, prost::Message)]
struct Kept {
    #[prost(uint32, optional, tag = "1")]
    health: Option<u32>,
    #[prost(bytes = "bytes", tag = "2")]
    alert: Bytes,
    #[prost(uint32, tag = "3")]
    severity: u32,
}

impl Memory {
    /// Its bytes in the queue.
    pub fn encode(&self) -> Bytes {
        let mut kept = Kept { health: self.health.map(Health::number), ..Kept::default() };
        if let Some(alert) = self.alert {
            kept.alert = alert_id(alert.id);
            kept.severity = alert.severity.number();
        }
        kept.encode_to_vec().into()
    }

    /// From its bytes; `None` when they are not those of [`Memory::encode`].
    pub fn decode(bytes: Bytes) -> Option<Self> {
        let kept = Kept::decode(bytes).ok()?;
        let health = match kept.health {
            Some(number) => Some(Health::from_number(number)?),
            None => None,
        };
        let alert = match kept.alert.as_ref() {
            [] => None,
            id => Some(OpenAlert { id: Uuid::from_slice(id).ok()?, severity: Severity::from_number(kept.severity)? }),
        };
        Some(Self { health, alert })
    }
}

/// What a monitor says about the outcome of a look, in order, and what it remembers then. `source` is its
/// `pack/check`, `id` that of an alert that has to be raised.
pub fn step(monitor: &Monitor, source: &str, before: Memory, outcome: &Outcome, id: Uuid) -> (Memory, Vec<What>) {
    let health = outcome.health;
    let mut after = Memory { health: Some(health), ..before };
    if after == before {
        return (before, Vec::new());
    }
    let name = || source.to_owned();
    let text = || outcome.text.clone();
    let mut said = vec![What::State(State { monitor: name(), health: health.number(), text: text() })];
    let worse = health.badness() > before.health.unwrap_or(Health::Healthy).badness();
    if worse && reaches(monitor.alert_on, health) {
        let severity = severity(monitor.severity, health);
        let alert = match before.alert {
            None => OpenAlert { id, severity },
            Some(open) => OpenAlert { severity: open.severity.max(severity), ..open },
        };
        after.alert = Some(alert);
        said.push(What::Alert(Alert {
            id: alert_id(alert.id),
            monitor: name(),
            severity: alert.severity.number(),
            priority: monitor.priority.number(),
            text: text(),
            detail: outcome.detail.clone(),
        }));
    }
    if health == Health::Healthy
        && let Some(alert) = after.alert.take()
    {
        said.push(What::Close(Close { id: alert_id(alert.id), text: text() }));
    }
    (after, said)
}

/// Whether a health is bad enough for an alert. Not to know counts as a warning.
const fn reaches(alert_on: AlertOn, health: Health) -> bool {
    match alert_on {
        AlertOn::Warning => matches!(health, Health::Warning | Health::Critical | Health::Unknown),
        AlertOn::Critical => matches!(health, Health::Critical),
        AlertOn::Never => false,
    }
}

const fn severity(policy: AlertSeverity, health: Health) -> Severity {
    match (policy, health) {
        (AlertSeverity::Match, Health::Critical) | (AlertSeverity::Critical, _) => Severity::Critical,
        (AlertSeverity::Match, _) | (AlertSeverity::Warning, _) => Severity::Warning,
        (AlertSeverity::Information, _) => Severity::Information,
    }
}

fn alert_id(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

#[cfg(test)]
mod tests {
    use Health::{Critical, Healthy, Unknown, Warning};
    use wardline_proto::health::Priority;

    use super::*;

    /// What a monitor says about a sequence of healths, one text for each step; alerts have the number of the step
    /// that raised them as their id.
    fn told(alert_on: AlertOn, severity: AlertSeverity, healths: &[Health]) -> Vec<String> {
        let monitor = Monitor { alert_on, severity, priority: Priority::High };
        let mut memory = Memory::default();
        let mut told = Vec::new();
        for (number, health) in healths.iter().enumerate() {
            let outcome = Outcome::told(*health, "text", "detail", Vec::new());
            let (after, said) = step(&monitor, "p/c", memory, &outcome, Uuid::from_u128(number as u128));
            assert_eq!(Memory::decode(after.encode()), Some(after));
            memory = after;
            let words = said.into_iter().map(|what| match what {
                What::State(state) => Health::from_number(state.health).unwrap().to_string(),
                What::Alert(alert) => {
                    assert_eq!((alert.text.as_str(), alert.detail.as_str()), ("text", "detail"));
                    assert_eq!((alert.monitor.as_str(), alert.priority), ("p/c", Priority::High.number()));
                    format!("alert {} {}", alert.id[15], Severity::from_number(alert.severity).unwrap())
                }
                What::Close(close) => format!("close {}", close.id[15]),
                other => panic!("{other:?}"),
            });
            told.push(words.collect::<Vec<_>>().join(", "));
        }
        told
    }

    #[test]
    fn an_alert_is_raised_once_and_closed_when_all_is_well() {
        assert_eq!(
            told(AlertOn::Critical, AlertSeverity::Match, &[Healthy, Critical, Critical, Healthy, Healthy, Critical]),
            ["healthy", "critical, alert 1 critical", "", "healthy, close 1", "", "critical, alert 5 critical"]
        );
    }

    #[test]
    fn an_open_alert_that_gets_worse_is_raised_again_under_its_id() {
        assert_eq!(
            told(AlertOn::Warning, AlertSeverity::Match, &[Warning, Critical, Warning, Unknown, Warning, Healthy]),
            [
                "warning, alert 0 warning",
                "critical, alert 0 critical",
                "warning",
                "unknown",
                "warning, alert 0 critical",
                "healthy, close 0"
            ]
        );
    }

    #[test]
    fn only_what_is_bad_enough_raises_an_alert() {
        let healths = [Unknown, Warning, Critical, Unknown, Healthy];
        assert_eq!(
            told(AlertOn::Critical, AlertSeverity::Information, &healths),
            ["unknown", "warning", "critical, alert 2 information", "unknown", "healthy, close 2"]
        );
        assert_eq!(
            told(AlertOn::Warning, AlertSeverity::Critical, &healths)[..2],
            ["unknown, alert 0 critical", "warning, alert 0 critical"]
        );
        assert_eq!(
            told(AlertOn::Never, AlertSeverity::Match, &healths),
            ["unknown", "warning", "critical", "unknown", "healthy"]
        );
    }

    #[test]
    fn whatever_happens_one_alert_at_most_is_open_and_every_change_is_said() {
        for alert_on in [AlertOn::Warning, AlertOn::Critical, AlertOn::Never] {
            for code in 0..4_usize.pow(6) {
                let healths: Vec<_> = (0..6).map(|digit| Health::ALL[code / 4_usize.pow(digit) % 4]).collect();
                let mut open: Option<String> = None;
                let mut last = None;
                for (health, said) in healths.iter().zip(told(alert_on, AlertSeverity::Match, &healths)) {
                    assert_eq!(said.starts_with(health.as_str()), last != Some(*health), "{healths:?}");
                    last = Some(*health);
                    if let Some((_, alert)) = said.split_once("alert ") {
                        let id = alert.split(' ').next().unwrap().to_owned();
                        assert!(open.is_none() || open.as_ref() == Some(&id), "{healths:?}");
                        assert!(reaches(alert_on, *health), "{healths:?}");
                        open = Some(id);
                    }
                    if let Some((_, id)) = said.split_once("close ") {
                        assert_eq!(open.take().as_deref(), Some(id), "{healths:?}");
                    }
                    assert!(*health != Healthy || open.is_none(), "{healths:?}");
                    assert!(!reaches(alert_on, *health) || open.is_some(), "{healths:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_memory_are_not_taken_for_one() {
        for bad in [&b"\x08\x04"[..], b"\x12\x01x", b"\xff"] {
            assert_eq!(Memory::decode(Bytes::from_static(bad)), None, "{bad:?}");
        }
        assert_eq!(Memory::decode(Bytes::new()), Some(Memory::default()));
    }
}
