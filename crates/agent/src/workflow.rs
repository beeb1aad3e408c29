//! The workflows of an agent: one task for each check and each log, and who looks after them. The thin ring of effects
//! around what [`crate::check`], [`crate::builtin`] and [`crate::log_file`] decide.

use std::any::Any;
use std::collections::HashMap;
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wardline_connector::journal;
use wardline_connector::outbox::{Outbox, Stopped};
use wardline_packs::{Check, Log, Pack, Probe};
use wardline_proto::event::Event;

use crate::builtin::Builtin;
use crate::check::{self, Standing};
use crate::clock::{self, Measure};
use crate::log_file::{self, Follower};
use crate::outcome::Outcome;
use crate::plugin;

/// The longest that a check waits for its first run.
const FIRST_RUN_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at a log that has nothing new.
const LOG_INTERVAL: Duration = Duration::from_millis(200);
/// How long workflows may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A workflow ended although nobody stopped it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workflow {workflow} ended by itself: {reason}")]
pub struct Ended {
    /// Its name, `pack/check` or `pack/log`.
    pub workflow: String,
    /// What it said when it ended.
    pub reason: String,
}

/// Runs what packs, whose names differ, ask for, and puts what is found into the queue: until `stop`, or until the
/// queue takes nothing any more. No workflow is left when it returns.
///
/// # Errors
/// A workflow ended by itself, which only a mistake in this program can bring about: it was reported, and the others
/// were stopped. The agent must not go on watching less than it was asked to.
pub async fn run(
    packs: Vec<Pack>,
    measure: Arc<Option<Measure>>,
    outbox: Outbox,
    stop: CancellationToken,
) -> Result<(), Ended> {
    let mut workflows = Workflows::default();
    for pack in packs {
        for check in pack.checks {
            let source = format!("{}/{}", pack.name, check.name);
            workflows.start(source.clone(), watch(source, check, Arc::clone(&measure), outbox.clone()));
        }
        for log in pack.logs {
            let source = format!("{}/{}", pack.name, log.name);
            workflows.start(source.clone(), follow(source, log, outbox.clone()));
        }
    }
    let result = workflows.look_after(stop).await;
    if let Err(Ended { workflow, reason }) = result.clone() {
        journal::emit(Event::WorkflowEnded { workflow, reason });
    }
    result
}

/// The tasks of all workflows.
#[derive(Default)]
struct Workflows {
    tasks: JoinSet<Stopped>,
    names: HashMap<Id, String>,
}

impl Workflows {
    fn start(&mut self, name: String, workflow: impl Future<Output = Stopped> + Send + 'static) {
        let id = self.tasks.spawn(workflow).id();
        self.names.insert(id, name);
    }

    /// Waits for the order to stop or for the first workflow to end, then stops them all.
    async fn look_after(mut self, stop: CancellationToken) -> Result<(), Ended> {
        let result = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.tasks.join_next_with_id() => match ended {
                // The queue stops with the program, and whoever owns it reports why.
                Ok((_, Stopped)) => Ok(()),
                Err(error) => {
                    let workflow = self.names.remove(&error.id()).unwrap_or_default();
                    Err(Ended { workflow, reason: reason(error) })
                }
            },
        };
        // Dropping a workflow kills the plugin it waits for. What it had not put is found again at the next start.
        let _ = timeout(STOP_LIMIT, self.tasks.shutdown()).await;
        result
    }
}

fn reason(error: JoinError) -> String {
    fn message(payload: &(dyn Any + Send)) -> String {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
    }
    match error.try_into_panic() {
        Ok(payload) => format!("it panicked: {}", message(payload.as_ref())),
        Err(error) => error.to_string(),
    }
}

/// Looks again and again. A look that takes longer than the interval delays the next one; those that were missed
/// meanwhile are left out.
async fn watch(source: String, check: Check, measure: Arc<Option<Measure>>, outbox: Outbox) -> Stopped {
    let mut standing = Standing::new(source.clone(), check.monitor, outbox.remembered(&check::key(&source)));
    let mut builtin = match &check.probe {
        Probe::Builtin { subject, limits } => Some(Builtin::new(subject.clone(), *limits)),
        Probe::Program { .. } => None,
    };
    let mut ticks = interval_at(Instant::now() + first_run(&source, check.every), check.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let outcome = look(&check, builtin.as_mut()).await;
        let decision = standing.decide(outcome, clock::now(), Uuid::now_v7());
        if let (Some(measure), Some(alert)) = (measure.as_ref(), decision.raised) {
            measure.note(alert);
        }
        if let Some(reason) = decision.failure {
            journal::emit(Event::CheckFailed { workflow: source.clone(), reason });
        }
        if !decision.put.entries.is_empty()
            && let Err(stopped) = outbox.put(decision.put).await
        {
            return stopped;
        }
    }
}

async fn look(check: &Check, builtin: Option<&mut Builtin>) -> Outcome {
    match (&check.probe, builtin) {
        (Probe::Program { path, arguments }, _) => plugin::run(path, arguments, check.timeout).await,
        (_, Some(builtin)) => builtin.look(check.timeout).await,
        (Probe::Builtin { .. }, None) => Outcome::failed("it was not set up"),
    }
}

/// When a check runs first after the start: spread by its name, so that not all start at once.
fn first_run(source: &str, every: Duration) -> Duration {
    // FNV-1a: the same in every build, unlike the standard library's hashes.
    let hash = source
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The last bytes reach only the low bits well.
    every.min(FIRST_RUN_LIMIT).mul_f64((hash % 1000) as f64 / 1000.0)
}

/// Follows a log file step by step; each step may block, and so runs on a thread for that.
async fn follow(source: String, log: Log, outbox: Outbox) -> Stopped {
    let path = log.path.display().to_string();
    let mut follower = Follower::new(source.clone(), log, outbox.remembered(&log_file::key(&source)));
    loop {
        outbox.room().await;
        let stepping = tokio::task::spawn_blocking(move || {
            let step = follower.step(clock::now());
            (follower, step)
        });
        let step = match stepping.await {
            Ok((back, step)) => {
                follower = back;
                step
            }
            Err(error) => match error.try_into_panic() {
                Ok(payload) => panic::resume_unwind(payload),
                // The runtime is going down.
                Err(_) => return Stopped,
            },
        };
        if let Some(reason) = step.skipped {
            journal::emit(Event::LogSkipped { workflow: source.clone(), path: path.clone(), reason });
        }
        if !(step.put.entries.is_empty() && step.put.memory.is_empty())
            && let Err(stopped) = outbox.put(step.put).await
        {
            return stopped;
        }
        if step.wait {
            sleep(LOG_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn first_runs_are_spread_over_a_second_at_most() {
        let delays: Vec<_> =
            (0..100).map(|n| first_run(&format!("base/check-{n}"), Duration::from_secs(60)).as_millis()).collect();
        assert!(delays.iter().all(|delay| *delay <= 1000));
        for tenth in 0..10 {
            let within = delays.iter().filter(|delay| (tenth * 100..=tenth * 100 + 100).contains(*delay)).count();
            assert!((2..30).contains(&within), "{within} of 100 start in one tenth of a second");
        }
        assert!(first_run("base/cpu", Duration::from_millis(250)) <= Duration::from_millis(250));
        assert_eq!(first_run("base/cpu", Duration::from_secs(1)), first_run("base/cpu", Duration::from_secs(60)));
    }

    #[tokio::test]
    async fn an_order_stops_every_workflow() {
        let stop = CancellationToken::new();
        let mut workflows = Workflows::default();
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        workflows.start("base/a".into(), async move {
            let _alive = alive;
            pending().await
        });
        stop.cancel();
        assert_eq!(workflows.look_after(stop).await, Ok(()));
        assert_eq!(gone.recv().await, None);
    }

    #[tokio::test]
    async fn a_workflow_that_panics_stops_the_others_and_is_named() {
        let mut workflows = Workflows::default();
        workflows.start("base/a".into(), pending());
        workflows.start("base/b".into(), async { panic!("no {}", "good") });
        let ended = workflows.look_after(CancellationToken::new()).await.unwrap_err();
        assert_eq!(ended, Ended { workflow: "base/b".into(), reason: "it panicked: no good".into() });
    }

    #[tokio::test]
    async fn a_queue_that_takes_nothing_any_more_is_no_fault_of_a_workflow() {
        let mut workflows = Workflows::default();
        workflows.start("base/a".into(), pending());
        workflows.start("base/b".into(), async { Stopped });
        assert_eq!(workflows.look_after(CancellationToken::new()).await, Ok(()));
    }

    #[tokio::test]
    async fn without_workflows_there_is_only_the_order_to_wait_for() {
        let stop = CancellationToken::new();
        let waiting = tokio::spawn(Workflows::default().look_after(stop.clone()));
        stop.cancel();
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
}
