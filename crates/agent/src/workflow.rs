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
use wardline_packs::{Check, Log, Pack, Probe, RunAs};
use wardline_proto::configuration::DEFAULT_PROFILE;
use wardline_proto::event::Event;
use wardline_proto::message::AccountId;

use crate::builtin::Builtin;
use crate::check::{self, Standing};
use crate::clock::{self, Measure};
use crate::credentials::{Credentials, Handed, Missing};
use crate::log_file::{self, Follower};
use crate::outcome::Outcome;
use crate::plugin::{Job, Runner};
use crate::scrub::Scrubber;

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

/// What workflows run plugins with.
#[derive(Clone, Debug)]
pub struct Plugins {
    /// How.
    pub runner: Runner,
    /// Where their credentials come from.
    pub credentials: Arc<dyn Credentials>,
}

/// Runs what packs, whose names differ, ask for, and puts what is found into the queue: until `stop`, or until the
/// queue takes nothing any more. No workflow is left when it returns.
///
/// # Errors
/// A workflow ended by itself, which only a mistake in this program can bring about: it was reported, and the others
/// were stopped. The agent must not go on watching less than it was asked to.
pub async fn run(
    packs: Vec<Pack>,
    plugins: Plugins,
    measure: Arc<Option<Measure>>,
    outbox: Outbox,
    stop: CancellationToken,
) -> Result<(), Ended> {
    let mut workflows = Workflows::default();
    for pack in packs {
        for check in pack.checks {
            let source = format!("{}/{}", pack.name, check.name);
            workflows
                .start(source.clone(), watch(source, check, plugins.clone(), Arc::clone(&measure), outbox.clone()));
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
async fn watch(
    source: String,
    check: Check,
    plugins: Plugins,
    measure: Arc<Option<Measure>>,
    outbox: Outbox,
) -> Stopped {
    let mut standing = Standing::new(source.clone(), check.monitor, outbox.remembered(&check::key(&source)));
    let mut builtin = match &check.probe {
        Probe::Builtin { subject, limits } => Some(Builtin::new(subject.clone(), *limits)),
        Probe::Program { .. } => None,
    };
    let mut ticks = interval_at(Instant::now() + first_run(&source, check.every), check.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let looked = look(&source, &check, &plugins, builtin.as_mut()).await;
        let withheld = looked.as_ref().err().cloned();
        let outcome = looked.unwrap_or_else(|Withheld { profile, missing }| {
            Outcome::failed(format!("there is no credential of the profile {profile}: {missing}"))
        });
        let decision = standing.decide(outcome, clock::now(), Uuid::now_v7());
        if let (Some(measure), Some(alert)) = (measure.as_ref(), decision.raised) {
            measure.note(alert);
        }
        if let Some(reason) = decision.failure {
            let workflow = source.clone();
            journal::emit(match withheld {
                Some(Withheld { profile, missing }) => match missing {
                    Missing::Unassigned => Event::ProfileUnassigned { workflow, profile },
                    Missing::Undistributed => Event::AccountUndistributed { workflow, profile },
                    Missing::Unusable(reason) => Event::CredentialWithheld { workflow, profile, reason },
                },
                None => Event::CheckFailed { workflow, reason },
            });
        }
        if !decision.put.entries.is_empty()
            && let Err(stopped) = outbox.put(decision.put).await
        {
            return stopped;
        }
    }
}

/// A check does not run, because it lacks the credential that it asks for.
#[derive(Clone, Debug)]
struct Withheld {
    profile: String,
    missing: Missing,
}

async fn look(
    source: &str,
    check: &Check,
    plugins: &Plugins,
    builtin: Option<&mut Builtin>,
) -> Result<Outcome, Withheld> {
    match (&check.probe, builtin) {
        (Probe::Program { path, arguments, run_as }, _) => {
            let profile = run_as.as_ref().map_or(DEFAULT_PROFILE, |run_as| run_as.profile.as_str());
            let held = plugins.hold(run_as.as_ref(), profile);
            let held = held.map_err(|missing| Withheld { profile: profile.to_owned(), missing })?;
            let mut job = Job {
                path,
                arguments: arguments.clone(),
                limit: check.timeout,
                user: None,
                files: Vec::new(),
                scrubber: Scrubber::default(),
            };
            let used = held.map(|Held { account, version, user, handed: Handed { files, arguments, scrubber } }| {
                job.arguments.extend(arguments);
                (job.user, job.files, job.scrubber) = (user, files, scrubber);
                (account, version)
            });
            let (outcome, begun) = plugins.runner.run(&job).await;
            if let Some((account, version)) = used.filter(|_| begun) {
                plugins.credentials.used(account, version, source);
            }
            Ok(outcome)
        }
        (_, Some(builtin)) => Ok(builtin.look(check.timeout).await),
        (Probe::Builtin { .. }, None) => Ok(Outcome::failed("it was not set up")),
    }
}

/// A credential that a plugin is about to be handed.
struct Held {
    account: AccountId,
    version: u64,
    user: Option<String>,
    handed: Handed,
}

impl Plugins {
    /// The credential for one run: none where the check names no profile and none is bound to the default one.
    fn hold(&self, run_as: Option<&RunAs>, profile: &str) -> Result<Option<Held>, Missing> {
        match (self.runner.keeps_apart(), run_as) {
            (true, _) => {}
            (false, None) => return Ok(None),
            (false, Some(_)) => {
                let reason = "plugins run under the agent's own user: docs/operations/run-as.md";
                return Err(Missing::Unusable(reason.into()));
            }
        }
        let credential = match self.credentials.of(profile) {
            // Who asks for none gets none where the one for all is not for this host.
            Err(Missing::Undistributed) if run_as.is_none() => None,
            other => other?,
        };
        match credential {
            Some(credential) => {
                let (account, version) = (credential.id, credential.version);
                let user = credential.user.clone();
                Ok(Some(Held { account, version, user, handed: credential.hand(run_as)? }))
            }
            None if run_as.is_none() => Ok(None),
            None => Err(Missing::Unassigned),
        }
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

    const SHOP: AccountId = AccountId([7; 16]);

    /// One account, bound to one profile.
    #[derive(Debug, Default)]
    struct One(std::sync::Mutex<Vec<String>>);

    impl Credentials for One {
        fn of(&self, profile: &str) -> Result<Option<crate::credentials::Credential>, Missing> {
            let fields = vec![("password".to_owned(), zeroize::Zeroizing::new(b"secret".to_vec()))];
            let (account, user) = ("shop".to_owned(), Some("postgres".to_owned()));
            match profile {
                "web" => Ok(Some(crate::credentials::Credential { id: SHOP, account, version: 3, user, fields })),
                "sealed" => Err(Missing::Unusable("it cannot be opened".into())),
                _ => Ok(None),
            }
        }

        fn used(&self, account: AccountId, version: u64, workflow: &str) {
            assert_eq!(account, SHOP);
            self.0.lock().unwrap().push(format!("{version} {workflow}"));
        }
    }

    fn check(run_as: &str) -> Check {
        let pack =
            format!("[pack]\nname = \"p\"\n[[check]]\nname = \"c\"\nprogram = [\"/bin/echo\", \"OK\"]\n{run_as}");
        Pack::parse("p", &pack).unwrap().checks.remove(0)
    }

    #[tokio::test]
    async fn a_check_that_asks_for_a_credential_does_not_run_without_it() {
        let store = Arc::new(One::default());
        let own = Plugins { runner: Runner::Own, credentials: Arc::<One>::clone(&store) };
        let away = Runner::new(Some("/nonexistent/runas.sock".into()));
        let apart = Plugins { runner: away, credentials: Arc::<One>::clone(&store) };
        for (plugins, profile, reason) in [
            (&own, "web", "under the agent's own user"),
            (&apart, "mail", "no account is assigned"),
            (&apart, "sealed", "cannot be opened"),
        ] {
            let looked = look("p/c", &check(&format!("run_as = \"{profile}\"")), plugins, None).await;
            let withheld = looked.unwrap_err();
            assert_eq!(withheld.profile, profile);
            assert!(withheld.missing.to_string().contains(reason), "{withheld:?}");
        }
        assert!(store.0.lock().unwrap().is_empty(), "nothing has run");
        // One that asks for none runs, as before.
        let outcome = look("p/c", &check(""), &own, None).await.unwrap();
        assert_eq!((outcome.text.as_str(), outcome.failed), ("OK", false));
        assert!(store.0.lock().unwrap().is_empty(), "no credential was in it");
        // The helper is asked with the credential; as it is not there, nothing was used.
        let outcome = look("p/c", &check("run_as = \"web\""), &apart, None).await.unwrap();
        assert!(outcome.text.contains("runas.sock"), "{outcome:?}");
        assert!(store.0.lock().unwrap().is_empty());
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
