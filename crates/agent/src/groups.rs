//! The management groups of an agent. Each has everything of its own: folder, keys, queue, session, configuration,
//! workflows, and a runtime with threads of its own. What is broken, slow or hangs in one is nothing to the others.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use wardline_connector::accounts::Accounts;
use wardline_connector::config::StateFolder;
use wardline_connector::configuration::Configured;
use wardline_connector::home::{self, Found, Member};
use wardline_connector::kerberos::Kerberos;
use wardline_connector::outbox::Outbox;
use wardline_connector::queue::Queue;
use wardline_connector::sealing::Sealing;
use wardline_connector::uplink::Uplink;
use wardline_connector::{journal, signals};
use wardline_packs::Pack;
use wardline_proto::configuration::Content;
use wardline_proto::event::Event;
use wardline_secrets::certificate::Identity;
use wardline_secrets::protect::Vault;

use crate::clock::Measure;
use crate::configured;
use crate::given::Given;
use crate::plugin::Runner;
use crate::workflow::Plugins;

/// How long looks at the host that hang in the kernel are waited for at the end. They cannot be ended.
const HANGING: Duration = Duration::from_secs(1);

/// What is the same in every group of a host.
#[derive(Clone)]
pub struct Host {
    /// Who the agent is.
    pub own: Identity,
    /// The packs of the host's own configuration file. They run for each group.
    pub packs: Vec<Pack>,
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// How many bytes the queue of each group may hold.
    pub queue_budget: u64,
    /// Where alerts are measured.
    pub measure: Arc<Option<Measure>>,
    /// How plugins are run.
    pub runner: Runner,
    /// Kerberos, where it is configured.
    pub kerberos: Option<Arc<Kerberos>>,
}

/// A group that is ready to run.
struct Group {
    member: Member,
    queue: Queue,
    outbox: Outbox,
    sealing: Arc<Sealing>,
    accounts: Arc<Accounts>,
    host: Host,
}

/// What becomes of a group that cannot go on.
#[derive(Clone, Debug)]
struct Place {
    group: String,
    /// Whether it is the only one.
    alone: bool,
    state: PathBuf,
}

/// Runs every group that was found, until the program is told to stop. `started` is said when they are open.
///
/// # Errors
/// The only group cannot be run, or none of several.
pub fn run(found: Vec<Found>, state: &StateFolder, host: &Host, started: Vec<Event>) -> Result<(), Event> {
    let (vault, state) = (state.vault(), state.path().to_owned());
    let unusable =
        |error: io::Error| Event::StateFolderInUse { path: state.display().to_string(), reason: error.to_string() };
    let main = Builder::new_current_thread().enable_all().build().map_err(unusable)?;
    let alone = found.len() == 1;
    let (mut runtimes, mut groups, mut outcome) = (Vec::new(), Vec::new(), Ok(()));
    for found in found {
        let place = Place { group: found.name(), alone, state: state.clone() };
        let runtime = runtime(&place).map_err(unusable)?;
        let (opening, host, vault) = (place.clone(), host.clone(), vault.clone());
        let opened = runtime
            .spawn(async move { opening.outcome(spawn_blocking(move || Group::open(found, host, &vault)).await) });
        match main.block_on(opened).unwrap_or_else(|error| Err(ended(error))) {
            Ok(group) => groups.push((runtime.handle().clone(), place, group)),
            Err(event) => outcome = Err(event),
        }
        runtimes.push(runtime);
    }
    if !groups.is_empty() {
        outcome = main.block_on(until_stopped(groups, started));
    }
    let deadline = Instant::now() + HANGING;
    for runtime in runtimes {
        runtime.shutdown_timeout(deadline.saturating_duration_since(Instant::now()));
    }
    outcome
}

/// The threads of one group. In an agent that is part of several, their events say of which one they are.
fn runtime(place: &Place) -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if !place.alone {
        let group = place.group.clone();
        builder.on_thread_start(move || journal::works_for(&group));
    }
    builder.worker_threads(2).enable_all().build()
}

/// Runs groups, each on its own threads, until the program is told to stop or none is left.
async fn until_stopped(groups: Vec<(tokio::runtime::Handle, Place, Group)>, started: Vec<Event>) -> Result<(), Event> {
    let stopped = signals::wait();
    started.into_iter().for_each(journal::emit);
    let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
    for (runtime, place, group) in groups {
        let stop = stop.child_token();
        running.spawn_on(async move { place.outcome(tokio::spawn(group.run(stop)).await) }, &runtime);
    }
    tokio::select! {
        () = stopped => {
            stop.cancel();
            all(&mut running).await
        }
        outcome = all(&mut running) => outcome,
    }
}

/// Waits until all have ended. What the last one says counts.
async fn all(running: &mut JoinSet<Result<(), Event>>) -> Result<(), Event> {
    let mut outcome = Ok(());
    while let Some(result) = running.join_next().await {
        outcome = result.unwrap_or_else(|error| Err(ended(error)));
    }
    outcome
}

/// Only a mistake in this program can bring it about.
fn ended(error: JoinError) -> Event {
    Event::WorkflowEnded { workflow: "the group".into(), reason: error.to_string() }
}

impl Place {
    /// What became of a task of the group. That it panicked is the trouble of the group, too.
    fn outcome<T>(&self, task: Result<Result<T, Event>, JoinError>) -> Result<T, Event> {
        task.unwrap_or_else(|error| Err(ended(error))).map_err(|event| self.left_out(event))
    }

    /// Says why a group does not go on, where there are others. Gives what the program ends with if it is the last.
    fn left_out(&self, event: Event) -> Event {
        if self.alone {
            return event;
        }
        let number = event.number().to_string();
        journal::emit(event);
        journal::emit(Event::GroupLeftOut { group: self.group.clone(), event: number });
        Event::NoGroupLeft { path: self.state.display().to_string() }
    }
}

impl Group {
    /// Loads what is kept of a group, and opens its queue.
    fn open(found: Found, host: Host, vault: &Vault) -> Result<Self, Event> {
        let member = home::load(found, &host.own, vault, host.kerberos.clone())?;
        let file = member.folder.join("queue.db");
        let (name, group, key) = (host.own.name.clone(), member.membership.name.clone(), Arc::clone(&member.identity));
        let queue = Queue::open(vault, &file, name, group, key, host.queue_budget);
        let (queue, outbox, _thread) = queue
            .map_err(|error| Event::DatabaseUnusable { path: file.display().to_string(), reason: error.to_string() })?;
        let (name, group, by) = (host.own.clone(), member.membership.name.clone(), Arc::clone(&member.identity));
        let sealing = Sealing::open(name, group, member.root.clone(), by, &member.folder, vault.clone())?;
        let accounts = Accounts::open(Arc::clone(&sealing), &member.folder);
        Ok(Self { member, queue, outbox, sealing, accounts, host })
    }

    /// Runs it until `stop`.
    async fn run(self, stop: CancellationToken) -> Result<(), Event> {
        let Self { member, queue, outbox, sealing, accounts, host } = self;
        let Member { membership, folder, credential, identity, root, renewal, .. } = member;
        let Host { own, packs, heartbeat, measure, runner, .. } = host;
        let given = Given::new(Arc::clone(&accounts), outbox.clone());
        let plugins = Plugins { runner, credentials: Arc::new(given) };
        if let Some(renewal) = renewal {
            tokio::spawn(renewal.run(stop.clone()));
        }
        let names: Vec<_> = packs.iter().map(|pack| pack.name.clone()).collect();
        let check = move |content: &Content| configured::packs(names.iter().map(String::as_str), content).map(drop);
        tokio::spawn(Arc::clone(&sealing).run(stop.clone()));
        let configured = Configured::open(&sealing, folder, Box::new(check));
        let active = configured.active();
        let uplink = Uplink { own, membership, credential, root, identity, queue, heartbeat, configured, sealing };
        let mut uplink = tokio::spawn(uplink.run(stop.clone()));
        let mut workflows =
            tokio::spawn(configured::run(packs, active, accounts, plugins, measure, outbox, stop.clone()));
        // Neither ends before it is told to, unless something in this program is broken: then it must not look alive.
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            _ = &mut workflows => Some("the workflows"),
            _ = &mut uplink => Some("the uplink"),
        };
        stop.cancel();
        if let Some(task) = ended {
            return Err(Event::WorkflowEnded { workflow: task.into(), reason: "it ended by itself".into() });
        }
        let _ = timeout(signals::STOPPING, async { tokio::join!(workflows, uplink) }).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(alone: bool) -> Place {
        Place { group: "north".into(), alone, state: "/state".into() }
    }

    #[test]
    fn the_only_group_ends_the_program_with_its_own_trouble_and_one_of_several_does_not() {
        let trouble = Event::StreamHeld { agent: "web1.test".into() };
        assert_eq!(place(true).left_out(trouble.clone()), trouble);
        assert_eq!(place(false).left_out(trouble), Event::NoGroupLeft { path: "/state".into() });
    }

    #[tokio::test]
    async fn a_group_that_ends_by_itself_does_not_end_the_others() {
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let (one, other) = (place(false), stop.clone());
        running.spawn(async move { one.outcome(tokio::spawn(async { panic!("a mistake") }).await) });
        running.spawn(async move {
            other.cancelled().await;
            Ok(())
        });
        let mut waiting = std::pin::pin!(all(&mut running));
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        stop.cancel();
        assert_eq!(waiting.await, Ok(()));
    }
}
