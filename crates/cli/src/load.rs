//! `wardline load`: many agents in one process, each with a name, an identity, a session and a queue of its own, over the
//! code that the real agent runs. They check nothing: they are there to be carried.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use wardline_connector::accounts::Accounts;
use wardline_connector::config::{Mechanism, Parent, StateFolder};
use wardline_connector::configuration::Configured;
use wardline_connector::enroll::{Enrolment, enroll};
use wardline_connector::home;
use wardline_connector::outbox::Outbox;
use wardline_connector::queue::Queue;
use wardline_connector::sealing::Sealing;
use wardline_connector::signals;
use wardline_connector::uplink::Uplink;
use wardline_proto::configuration::Configuration;
use wardline_proto::event::Event;
use wardline_proto::join::Why;
use wardline_proto::{Name, Role};
use wardline_sdk::{Kind, Problem};
use wardline_secrets::certificate::Identity;

/// The most hosts that join at once: several of these programs together stay below what a listener allows.
const AT_ONCE: usize = 12;
/// How often one of them asks while the server has no time, and the pause between.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(100);
/// The most bytes of a queue.
const BUDGET: u64 = 1 << 20;

/// What to load whom with.
#[derive(Args)]
pub(crate) struct Load {
    /// How many agents.
    #[arg(long, default_value_t = 100)]
    agents: u32,
    /// Whom they report to, in order: NAME, NAME:PORT or NAME=HOST:PORT. Repeatable.
    #[arg(long, required = true)]
    parent: Vec<Parent>,
    /// The file with a join token for all of them: its name must be a pattern, its uses as many as there are agents.
    #[arg(long)]
    token_file: PathBuf,
    /// The folder for their keys and queues; on a tmpfs, unless the disk is to be part of the load.
    #[arg(long)]
    folder: PathBuf,
    /// What their names begin with.
    #[arg(long, default_value = "load")]
    prefix: String,
    /// Seconds between heartbeats.
    #[arg(long, default_value_t = 60)]
    heartbeat: u64,
}

/// An agent that has joined.
struct Joined {
    state: StateFolder,
    own: Identity,
}

/// Joins all agents, says how fast, and keeps them connected until the program is told to stop.
pub(crate) async fn run(load: Load) -> Result<(), Problem> {
    let (began, count) = (Instant::now(), load.agents);
    let (mut joining, mut joined) = (JoinSet::new(), Vec::new());
    for number in 1..=count {
        let enrolment = enrolment(&load, number)?;
        joining.spawn_blocking(move || join(&enrolment));
        if joining.len() >= AT_ONCE {
            joined.push(next(&mut joining).await?);
        }
    }
    while !joining.is_empty() {
        joined.push(next(&mut joining).await?);
    }
    say(&format!("joined: {count} in {:.3} s", began.elapsed().as_secs_f64()))?;

    let stop = CancellationToken::new();
    let mut running = JoinSet::new();
    let mut outboxes: Vec<Outbox> = Vec::new();
    let heartbeat = Duration::from_secs(load.heartbeat);
    // The folders stay locked for as long as this runs.
    for Joined { state, own } in &joined {
        let (uplink, outbox, accounts) = uplink(state, own, heartbeat).map_err(failed)?;
        let taking = take(accounts, uplink.configured.active(), outbox.clone());
        outboxes.push(outbox);
        running.spawn(uplink.run(stop.clone()));
        // It ends with the runtime.
        tokio::spawn(taking);
    }
    say(&format!("running: {count}"))?;
    signals::wait().await;
    stop.cancel();
    let _ = tokio::time::timeout(signals::STOPPING, running.join_all()).await;
    Ok(())
}

fn enrolment(load: &Load, number: u32) -> Result<Enrolment, Problem> {
    let name = format!("{}-{number:05}", load.prefix);
    let named: Result<Name, _> = name.parse();
    let name = named.map_err(|error| {
        Problem::new(Kind::Invalid, format!("--prefix {}: {error}", load.prefix), "choose another prefix")
    })?;
    let state = load.folder.join(name.as_str());
    Ok(Enrolment {
        program: "wardline load",
        role: Role::Agent,
        name,
        state,
        parents: load.parent.clone(),
        token: Some(load.token_file.clone()),
        pin: None,
        own_pki: None,
        mechanism: Mechanism::Certificate,
        kerberos: None,
    })
}

/// Joins as soon as the server has time for it.
fn join(enrolment: &Enrolment) -> Result<Joined, String> {
    let mut tries = 0;
    loop {
        let mut said = Vec::new();
        if enroll(enrolment, &mut said) {
            break;
        }
        let said = String::from_utf8_lossy(&said).into_owned();
        tries += 1;
        if tries == TRIES || !said.contains(Why::Busy.as_str()) {
            return Err(format!("{}: {said}", enrolment.name));
        }
        std::thread::sleep(PAUSE);
    }
    let state = StateFolder::open(&enrolment.state).map_err(|event| event.text())?;
    Ok(Joined { state, own: Identity { name: enrolment.name.clone(), role: Role::Agent } })
}

async fn next(joining: &mut JoinSet<Result<Joined, String>>) -> Result<Joined, Problem> {
    let failed = |reason: String| {
        Problem::new(Kind::Failed, format!("an agent cannot join: {reason}"), "look at the token and the parent's log")
    };
    match joining.join_next().await {
        Some(Ok(joined)) => joined.map_err(failed),
        Some(Err(error)) => Err(failed(error.to_string())),
        None => Err(failed("there is none".into())),
    }
}

/// Takes the accounts of each configuration, as an agent does.
async fn take(accounts: Arc<Accounts>, mut active: watch::Receiver<Option<Arc<Configuration>>>, outbox: Outbox) {
    active.mark_changed();
    while active.changed().await.is_ok() {
        let now = active.borrow_and_update().clone();
        if let Some(configuration) = now
            && accounts.take(&configuration.content, &outbox).await.is_err()
        {
            return;
        }
    }
}

fn uplink(state: &StateFolder, own: &Identity, heartbeat: Duration) -> Result<(Uplink, Outbox, Arc<Accounts>), Event> {
    let home::Member { membership, folder, credential, identity, root, vault, .. } =
        home::open("wardline load", state.path(), None, state, own, None)?;
    let file = folder.join("queue.db");
    let queue = Queue::open(&vault, &file, own.name.clone(), membership.name.clone(), Arc::clone(&identity), BUDGET);
    let (queue, outbox, _thread) = queue
        .map_err(|error| Event::DatabaseUnusable { path: file.display().to_string(), reason: error.to_string() })?;
    // It is kept, and nothing of it is run.
    let group = membership.name.clone();
    let keys = Arc::clone(&identity);
    let sealing = Sealing::open(own.clone(), group, root.clone(), keys, &folder, vault)?;
    let accounts = Accounts::open(Arc::clone(&sealing), &folder);
    let configured = Configured::open(&sealing, folder, Box::new(|_| Ok(())));
    let own = own.clone();
    let uplink = Uplink { own, membership, credential, root, identity, queue, heartbeat, configured, sealing };
    Ok((uplink, outbox, accounts))
}

fn failed(event: Event) -> Problem {
    Problem::new(Kind::Failed, event.text(), "begin with an empty folder").explained_by(event.number())
}

fn say(line: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    let said = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    said.map_err(|error| Problem::new(Kind::Failed, error.to_string(), "give it a standard output"))
}
