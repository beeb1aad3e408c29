//! What follows from one look of a check: what goes into the queue, and what the operator is told. Pure.

use bytes::Bytes;
use uuid::Uuid;
use wardline_connector::outbox::Put;
use wardline_packs::Monitor;
use wardline_proto::entry::{Entry, Performance, What};

use crate::monitor::{self, Memory};
use crate::outcome::Outcome;

/// A check between two looks.
#[derive(Debug)]
pub struct Standing {
    source: String,
    monitor: Option<Monitor>,
    memory: Memory,
    failed: bool,
}

/// What follows from one look.
#[derive(Debug)]
pub struct Decision {
    /// What goes into the queue; may be nothing.
    pub put: Put,
    /// The id of the alert that was raised anew.
    pub raised: Option<Uuid>,
    /// Why the check has begun to fail.
    pub failure: Option<String>,
}

impl Standing {
    /// Where a check, named `pack/check`, stood when `remembered` was kept under its [`key`].
    pub fn new(source: String, monitor: Option<Monitor>, remembered: Option<Bytes>) -> Self {
        let memory = remembered.and_then(Memory::decode).unwrap_or_default();
        Self { source, monitor, memory, failed: false }
    }

    /// Decides what follows from an outcome, at `at` milliseconds since 1970. `id` is for an alert.
    pub fn decide(&mut self, outcome: Outcome, at: u64, id: Uuid) -> Decision {
        let mut put = Put::default();
        let mut raised = None;
        if let Some(monitor) = &self.monitor {
            let (after, said) = monitor::step(monitor, &self.source, self.memory, &outcome, id);
            put.entries.extend(said.into_iter().map(|what| Entry { at, what: Some(what) }));
            if after != self.memory {
                put.memory.push((key(&self.source), Some(after.encode())));
                raised = after.alert.filter(|_| self.memory.alert.is_none()).map(|alert| alert.id);
                self.memory = after;
            }
        }
        let began_to_fail = outcome.failed && !self.failed;
        self.failed = outcome.failed;
        if !outcome.samples.is_empty() {
            let performance = Performance { source: self.source.clone(), samples: outcome.samples };
            put.entries.push(Entry { at, what: Some(What::Performance(performance)) });
        }
        Decision { put, raised, failure: began_to_fail.then_some(outcome.text) }
    }
}

/// The key under which a check's memory is kept.
pub fn key(source: &str) -> String {
    format!("monitor/{source}")
}

#[cfg(test)]
mod tests {
    use wardline_packs::{AlertOn, AlertSeverity};
    use wardline_proto::entry::Sample;
    use wardline_proto::health::{Health, Priority};

    use super::*;

    const MONITOR: Monitor =
        Monitor { alert_on: AlertOn::Critical, severity: AlertSeverity::Match, priority: Priority::Normal };

    fn outcome(health: Health) -> Outcome {
        let sample = Sample { label: "a".into(), value: 1.0, unit: String::new() };
        Outcome::told(health, "text", "", vec![sample])
    }

    #[test]
    fn a_result_that_changes_nothing_is_performance_only() {
        let mut standing = Standing::new("p/c".into(), Some(MONITOR), None);
        assert_eq!(standing.decide(outcome(Health::Healthy), 1, Uuid::now_v7()).put.entries.len(), 2);
        let put = standing.decide(outcome(Health::Healthy), 2, Uuid::now_v7()).put;
        assert!(matches!(put.entries[..], [Entry { at: 2, what: Some(What::Performance(_)) }]));
        assert!(put.memory.is_empty());
    }

    #[test]
    fn an_agent_that_was_killed_goes_on_from_what_was_kept_with_the_alert() {
        let mut standing = Standing::new("p/c".into(), Some(MONITOR), None);
        let id = Uuid::now_v7();
        let decision = standing.decide(outcome(Health::Critical), 1, id);
        assert_eq!(decision.raised, Some(id));
        let [(key, kept)] = decision.put.memory.try_into().unwrap();
        assert_eq!(key, "monitor/p/c");

        let mut standing = Standing::new("p/c".into(), Some(MONITOR), kept);
        let again = standing.decide(outcome(Health::Critical), 2, Uuid::now_v7());
        assert_eq!((again.raised, again.put.entries.len(), again.put.memory.len()), (None, 1, 0));
        let put = standing.decide(outcome(Health::Healthy), 3, Uuid::now_v7()).put;
        let closed = put
            .entries
            .iter()
            .any(|entry| matches!(&entry.what, Some(What::Close(close)) if close.id == id.as_bytes()[..]));
        assert!(closed, "{put:?}");

        // Killed before it was kept: the same is decided again.
        let mut standing = Standing::new("p/c".into(), Some(MONITOR), None);
        assert!(standing.decide(outcome(Health::Critical), 4, Uuid::now_v7()).raised.is_some());
    }

    #[test]
    fn a_check_without_a_monitor_collects_and_tells_when_it_fails() {
        let mut standing = Standing::new("p/c".into(), None, None);
        assert_eq!(standing.decide(outcome(Health::Critical), 1, Uuid::now_v7()).put.entries.len(), 1);
        for (outcome, told) in [
            (Outcome::failed("no such file"), Some("no such file")),
            (Outcome::failed("no such file"), None),
            (outcome(Health::Healthy), None),
            (Outcome::failed("time limit"), Some("time limit")),
        ] {
            assert_eq!(standing.decide(outcome, 1, Uuid::now_v7()).failure.as_deref(), told);
        }
    }
}
