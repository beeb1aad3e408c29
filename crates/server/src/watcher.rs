//! The watcher of missed heartbeats and withheld batches: looks at what [`Registry`] has heard, and sees to it that every
//! finding has one open alert, and every open alert a finding.
//!
//! While the database takes nothing this server is behind: it may not have looked at what agents have sent. Then nothing
//! is found, and afterwards all that time counts for nothing.
//!
//! Of several servers one tells, the one that holds the lease; each knows from the database whom the others have heard. What
//! is withheld is found where the agent is connected and written into the database, and from that it is seen what became of
//! it, wherever the agent goes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wardline_connector::{journal, now_ms};
use wardline_proto::Name;
use wardline_proto::entry::Alert;
use wardline_proto::event::Event;
use wardline_proto::health::{Priority, Severity};
use wardline_sdk::{AgentFilter, AlertFilter, Page, Time};

use crate::live::Registry;
use crate::store::{Error, Fate, Heard, Store, Term, WITHHELD, Waited};
use crate::watch::Withheld;

/// How often it looks, at least; and how long the database may take.
const PERIOD: Duration = Duration::from_secs(1);
/// The work that one server does for all.
const WORK: &str = "watcher";
/// How long nothing may be heard of who does it, before another one does. It is said every [`PERIOD`].
const LEASE: Duration = Duration::from_secs(5);
/// How much the clocks of servers may differ, milliseconds.
const SLACK: u64 = 10 * 60_000;
/// The monitors of its alerts.
const HEARTBEAT: &str = "wardline/heartbeat";

/// Watches until `stop`, or the store has ended.
pub async fn run(store: Store, registry: Arc<Registry>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = watch_on(&store, &registry) => {}
    }
}

/// Begins again when the database could not be read, and says why, once for each reason. Only the end of the store ends it,
/// and that of the program follows.
async fn watch_on(store: &Store, registry: &Registry) {
    let mut said = String::new();
    loop {
        let Err(error) = watch(store, registry).await;
        if matches!(error, Error::Stopped) {
            return;
        }
        let reason = format!("nobody is watched meanwhile: {error}");
        if reason != said {
            journal::emit(Event::DatabaseBusy {
                path: "what is known of agents and alerts".into(),
                reason: reason.clone(),
            });
            said = reason;
        }
        tokio::time::sleep(PERIOD).await;
        registry.begin_anew(Instant::now());
    }
}

async fn watch(store: &Store, registry: &Registry) -> Result<Infallible, Error> {
    let mut open = open_alerts(store).await?;
    let known = known(store).await?.into_iter().map(|agent| (open.contains(&agent), agent));
    registry.watch(known, Instant::now());
    let (mut lease, mut elsewhere) = (Lease::default(), Elsewhere::default());
    loop {
        let turn = Instant::now();
        let _ = tokio::time::timeout(PERIOD, registry.something_is_found()).await;
        let mut answers = pin!(store.settled());
        if let Ok(answer) = tokio::time::timeout(PERIOD, &mut answers).await {
            answer?;
        } else {
            answers.await?;
            registry.begin_anew(Instant::now());
            continue;
        }
        elsewhere.look(store, registry).await?;
        let waited_for = store.withheld().await?;
        // The program itself was stopped, or the database slow to be read.
        if turn.elapsed() > PERIOD * 4 {
            registry.begin_anew(Instant::now());
            continue;
        }
        // What does not come is found where the agent is; that it has come is known to all.
        for (agent, withheld) in registry.withheld() {
            let known = waited_for.iter().any(|missing| missing.agent == agent);
            if !known && store.withhold(agent.clone(), &withheld, missing(&agent, &withheld), now_ms()).await? {
                journal::emit(withheld_by(&agent, &withheld));
            }
        }
        // Shown at every server, and told by one.
        let grey: BTreeMap<_, _> = registry.judge(Instant::now()).into_iter().collect();
        let Some(term) = lease.look(store).await? else { continue };
        if lease.is_new() {
            open = open_alerts(store).await?;
        }
        let under = (WORK, &term);
        for (agent, reason) in grey.iter().filter(|(agent, _)| !open.contains(*agent)) {
            if store.raise(under, agent.clone(), silent(agent, reason), now_ms()).await? {
                journal::emit(Event::NotHeartbeating { agent: agent.to_string(), reason: reason.clone() });
            }
        }
        for agent in open.iter().filter(|agent| !grey.contains_key(*agent)) {
            let text = "it is heard again, or not to be heard any more";
            if store.close(under, agent.clone(), HEARTBEAT, text.into(), now_ms()).await? {
                journal::emit(Event::Heartbeating { agent: agent.to_string() });
            }
        }
        open = grey.into_keys().collect();
        for Waited { agent, fate } in waited_for {
            let name = agent.to_string();
            let (text, event) = match fate {
                Fate::Come => ("all that was missing has come".to_owned(), Event::WithheldHasCome { agent: name }),
                Fate::Missing if registry.is_agent(&agent) => continue,
                Fate::Missing => ended(name, "it is no longer a member of the group".into()),
                Fate::Ended(taken) => ended(name, format!("its stream stood at {taken} and goes on in a new epoch")),
            };
            if store.no_longer_withheld(under, agent, text, now_ms()).await? {
                journal::emit(event);
            }
        }
    }
}

/// What is said when something that was missing is not waited for any more.
fn ended(agent: String, reason: String) -> (String, Event) {
    (format!("what was missing is not waited for any more: {reason}"), Event::WithheldEnded { agent, reason })
}

/// What is known of who tells.
#[derive(Default)]
struct Lease {
    /// The last word of it, and since when it is the same.
    seen: Option<(Term, Instant)>,
    /// Whether this server has begun to tell with the last look.
    new: bool,
}

impl Lease {
    /// The term, when this server is the one who tells.
    async fn look(&mut self, store: &Store) -> Result<Option<Term>, Error> {
        let over = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() >= LEASE);
        let before = self.seen.as_ref().map(|(term, _)| term.clone());
        let (term, own) = store.lease(WORK, before.clone(), over).await?;
        if before.as_ref() != Some(&term) {
            self.seen = Some((term.clone(), Instant::now()));
        }
        let same = |before: &Term| (&before.holder, before.epoch) == (&term.holder, term.epoch);
        self.new = own && !before.as_ref().is_some_and(same);
        if let Some(before) = before.filter(|before| self.new && before.holder != term.holder) {
            journal::emit(Event::LeaseTaken { work: WORK.into(), from: before.holder });
        }
        Ok(own.then_some(term))
    }

    const fn is_new(&self) -> bool {
        self.new
    }
}

/// Whom other servers have heard.
#[derive(Default)]
struct Elsewhere {
    /// When each was heard last, by the clock of who has heard it, milliseconds since 1970.
    heard: HashMap<Name, u64>,
    /// Nothing before the first look: what was heard before that is no news.
    latest: Option<u64>,
}

impl Elsewhere {
    async fn look(&mut self, store: &Store, registry: &Registry) -> Result<(), Error> {
        // Clocks of servers differ a little; what is not new is passed over.
        let latest = self.latest.unwrap_or(0);
        let heard = store.heard_by_others(latest.saturating_sub(SLACK)).await?;
        let begun = self.latest.replace(latest).is_some();
        let now = Instant::now();
        for Heard { agent, at_ms, late, every } in heard {
            self.latest = self.latest.max(Some(at_ms));
            if self.heard.insert(agent.clone(), at_ms).is_none_or(|before| before < at_ms) && begun {
                registry.heard_elsewhere(&agent, every, now.checked_sub(late).unwrap_or(now));
            }
        }
        Ok(())
    }
}

/// The agents that were ever heard.
async fn known(store: &Store) -> Result<Vec<Name>, Error> {
    let (mut known, mut cursor) = (Vec::new(), None);
    loop {
        let Page { items, next } = store.agents(AgentFilter { limit: None, cursor }).await?;
        known.extend(items.into_iter().map(|agent| agent.name));
        match next {
            Some(_) => cursor = next,
            None => return Ok(known),
        }
    }
}

/// The agents that an earlier run of this program, or another server, has left as grey.
async fn open_alerts(store: &Store) -> Result<BTreeSet<Name>, Error> {
    let (mut open, mut cursor) = (BTreeSet::new(), None);
    loop {
        let Page { items, next } = store.alerts(AlertFilter { cursor, ..AlertFilter::default() }).await?;
        open.extend(items.into_iter().filter(|alert| alert.monitor == HEARTBEAT).map(|alert| alert.agent));
        match next {
            Some(_) => cursor = next,
            None => return Ok(open),
        }
    }
}

/// Names in a sentence.
fn names(gateways: &[Name]) -> String {
    let gateways: Vec<_> = gateways.iter().map(Name::as_str).collect();
    if gateways.is_empty() { "no gateway, it comes directly".into() } else { gateways.join(", ") }
}

fn withheld_by(agent: &Name, Withheld { gateways, taken, handed, .. }: &Withheld) -> Event {
    Event::BatchesWithheld {
        agent: agent.to_string(),
        gateways: names(gateways),
        handed: handed.0.to_string(),
        taken: taken.to_string(),
    }
}

/// The alert that an agent is not heard.
fn silent(agent: &Name, reason: &str) -> Alert {
    alert(
        HEARTBEAT,
        format!("heartbeat missing: {agent} is not heard"),
        format!("More than {} heartbeats in a row were missed: {reason}.", crate::watch::MISSED),
    )
}

/// The alert that something does not come.
fn missing(agent: &Name, Withheld { gateways, taken, handed, .. }: &Withheld) -> Alert {
    alert(
        WITHHELD,
        format!("what {agent} has handed over does not come; on its way: {}", names(gateways)),
        format!(
            "By the agent's own signed word everything up to {} was handed over by {}; up to {taken} has come, while its \
             heartbeats do. One of those on its way withholds or delays it. The agent keeps it. Look at these gateways, or \
             give the agent to others: `wardline agent assign`.",
            handed.0,
            Time(handed.1)
        ),
    )
}

fn alert(monitor: &str, text: String, detail: String) -> Alert {
    Alert {
        id: Uuid::now_v7().into_bytes().to_vec().into(),
        monitor: monitor.into(),
        severity: Severity::Critical.number(),
        priority: Priority::High.number(),
        text,
        detail,
    }
}
