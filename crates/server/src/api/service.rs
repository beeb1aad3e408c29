//! The answers: the store knows what was, [`Live`] knows what is connected.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use wardline_proto::{Name, Role};
use wardline_sdk::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, Agent, AgentFilter, Alert, AlertDetail,
    AlertFilter, Approval, Approved, Assignment, Backup, BackupOrder, BindingOrder, Damage, DataAccess, Database,
    ExplainFilter, Explained, Gap, GapFilter, Group, Issuer, Kind, LogEntry, LogFilter, Member, MemberFilter, Pack,
    PackDetail, PackFilter, PackOrder, Page, Pending, PendingFilter, PrincipalOrder, Problem, Profile, ProfileOrder,
    RecoveryOrder, RotationOrder, SealingTarget, Session, Status, Time, Token, TokenFilter, TokenOrder, Topology, Use,
};
use wardline_secrets::view::View;

use super::routes::at_home_only;
use super::{accounts, database, packs, trust};
use crate::accounts::Accounts;
use crate::founding::Renewal;
use crate::joining::JoinDesk;
use crate::operating::accounts::Policy;
use crate::store::{self, Found, Released, Store};

/// What only the running server knows.
pub trait Live: Send + Sync {
    /// The server's own name.
    fn name(&self) -> Name;

    /// When the program was started, milliseconds since 1970.
    fn started_at_ms(&self) -> u64;

    /// Services and hops as they stand now.
    fn topology(&self) -> Topology;

    /// The agents with a session.
    fn connected(&self) -> Vec<Connected>;

    /// The agents that are not heard, and why that may be.
    fn grey(&self) -> HashMap<Name, String>;

    /// An operator has released this agent: its sessions compare positions anew.
    fn released(&self, agent: &Name);
}

/// An agent with a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// Which agent.
    pub agent: Name,
    /// When its last heartbeat came, milliseconds since 1970, the server's clock.
    pub last_heartbeat_ms: u64,
    /// The gateway it comes by; nothing when it comes directly.
    pub via: Option<Name>,
}

/// The data access service of a server.
#[derive(Clone)]
pub struct Service {
    /// What was.
    pub store: Store,
    /// What is.
    pub live: Arc<dyn Live>,
    /// Where hosts ask to join.
    pub desk: Arc<JoinDesk>,
    /// What makes the issuing CA anew.
    pub renewal: Arc<Renewal>,
    /// What keeps secrets.
    pub accounts: Accounts,
    /// What operators may do with them.
    pub policy: Policy,
    /// On whose behalf.
    operator: Arc<str>,
    /// The server without a database at which that one asks, if it is not this server.
    pub(super) by: Option<Name>,
}

/// A data access service that is told who asks.
pub trait OnBehalf: DataAccess {
    /// The same service on behalf of an operator.
    #[must_use]
    fn on_behalf_of(&self, operator: &str) -> Self;
}

impl OnBehalf for Service {
    fn on_behalf_of(&self, operator: &str) -> Self {
        Self { operator: operator.into(), ..self.clone() }
    }
}

impl Service {
    /// A service on behalf of nobody in particular.
    pub fn new(
        store: Store,
        live: Arc<dyn Live>,
        desk: Arc<JoinDesk>,
        renewal: Arc<Renewal>,
        accounts: Accounts,
        policy: Policy,
    ) -> Self {
        Self { store, live, desk, renewal, accounts, policy, operator: "unknown".into(), by: None }
    }

    /// The same service for who asks at a server without a database.
    pub(super) fn relayed_by(&self, by: &Name) -> Self {
        Self { by: Some(by.clone()), ..self.clone() }
    }

    /// What is about a server, or leads to a secret, is done for nobody who asks elsewhere.
    pub(super) fn at_home(&self, needed: bool) -> Result<(), Problem> {
        if needed && self.by.is_some() { Err(at_home_only()) } else { Ok(()) }
    }

    /// Whose acts these are.
    pub(super) fn act(&self) -> String {
        match &self.by {
            None => format!("operator {}", self.operator),
            // The name is that server's word.
            Some(by) => format!("operator {}@{by}", self.operator),
        }
    }

    fn sessions(&self) -> HashMap<Name, Session> {
        let session = |Connected { agent, last_heartbeat_ms, via }| {
            (agent, Session { last_heartbeat: Time(last_heartbeat_ms), via })
        };
        self.live.connected().into_iter().map(session).collect()
    }
}

/// Adds what only the running server knows: sessions, and who is grey. A heartbeat that the store has not heard of yet is
/// the newer news.
fn with_live(
    mut agent: Agent,
    view: &View,
    sessions: &mut HashMap<Name, Session>,
    grey: &mut HashMap<Name, String>,
) -> Agent {
    (agent.session, agent.grey) = (sessions.remove(&agent.name), grey.remove(&agent.name));
    agent.principal = view.find(&agent.name, Role::Agent).and_then(|member| member.principal.clone());
    if let Some(session) = &agent.session {
        agent.last_seen = agent.last_seen.max(session.last_heartbeat);
    }
    agent
}

/// What to do about an agent that is not, or not so.
const SHOWS_AGENTS: &str = "`wardline agent list` shows the agents and which of them are held";

fn unknown(agent: &Name) -> Problem {
    Problem::new(Kind::NotFound, format!("no agent {agent} was ever heard"), SHOWS_AGENTS)
}

impl DataAccess for Service {
    async fn alerts(&self, filter: AlertFilter) -> Result<Page<Alert>, Problem> {
        self.store.alerts(filter).await.map_err(problem)
    }

    async fn alert(&self, id: &str) -> Result<AlertDetail, Problem> {
        let next = "`wardline alert list --all -o name` shows the ids";
        match self.store.alert(id).await.map_err(problem)? {
            Found::One(alert) => Ok(alert),
            Found::Nothing => Err(Problem::new(Kind::NotFound, format!("no alert has an id like {id}"), next)),
            Found::Many => {
                Err(Problem::new(Kind::Conflict, format!("more than one alert has an id that begins with {id}"), next))
            }
        }
    }

    async fn agents(&self, filter: AgentFilter) -> Result<Page<Agent>, Problem> {
        let page = self.store.agents(filter).await.map_err(problem)?;
        let (mut sessions, mut grey) = (self.sessions(), self.live.grey());
        let view = Arc::clone(&self.store.view().borrow());
        let items = page.items.into_iter().map(|agent| with_live(agent, &view, &mut sessions, &mut grey)).collect();
        Ok(Page { items, next: page.next })
    }

    async fn agent(&self, name: &Name) -> Result<Agent, Problem> {
        let agent = self.store.agent(name.clone()).await.map_err(problem)?.ok_or_else(|| unknown(name))?;
        let view = Arc::clone(&self.store.view().borrow());
        Ok(with_live(agent, &view, &mut self.sessions(), &mut self.live.grey()))
    }

    async fn release(&self, agent: &Name) -> Result<Agent, Problem> {
        match self.store.release(agent.clone(), now_ms()).await.map_err(problem)? {
            Released::Released => self.live.released(agent),
            Released::NotHeld => {
                return Err(Problem::new(Kind::Conflict, format!("agent {agent} is not held"), SHOWS_AGENTS));
            }
            Released::NotKnown => return Err(unknown(agent)),
        }
        self.agent(agent).await
    }

    async fn gaps(&self, filter: GapFilter) -> Result<Page<Gap>, Problem> {
        self.store.gaps(filter).await.map_err(problem)
    }

    async fn topology(&self) -> Result<Topology, Problem> {
        Ok(self.live.topology())
    }

    async fn status(&self) -> Result<Status, Problem> {
        let counts = self.store.counts().await.map_err(problem)?;
        let view = Arc::clone(&self.store.view().borrow());
        let everywhere = view.run_as().accounts().filter(|account| account.everywhere);
        let keyless = view.members().filter(|member| member.role == Role::Agent && member.sealing.is_none());
        Ok(Status {
            name: self.live.name(),
            by: self.by.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            started_at: Time(self.live.started_at_ms()),
            schema: counts.schema,
            database_bytes: counts.bytes,
            agents: counts.agents,
            agents_connected: self.live.connected().len() as u64,
            agents_held: counts.held,
            alerts_open: counts.alerts_open,
            events: counts.events,
            gaps: counts.gaps,
            set_aside: counts.set_aside,
            recovery: view.recovery().is_some(),
            root_key_needed: self.renewal.wants_root(),
            accounts: view.run_as().accounts().count() as u64,
            accounts_everywhere: everywhere.map(|account| account.name.clone()).collect(),
            less_secure_distribution: self.policy.less_secure,
            agents_without_sealing_key: keyless.count() as u64,
            protector: self.renewal.vault.protector(),
        })
    }

    async fn database(&self) -> Result<Database, Problem> {
        self.store.about().await.map_err(problem)
    }

    async fn backup(&self, order: BackupOrder) -> Result<Backup, Problem> {
        database::backup(self, order).await
    }

    async fn examine(&self) -> Result<Page<Damage>, Problem> {
        database::examine(self).await
    }

    async fn create_token(&self, order: TokenOrder) -> Result<Token, Problem> {
        trust::create_token(self, order).await
    }

    async fn tokens(&self, filter: TokenFilter) -> Result<Page<Token>, Problem> {
        Ok(trust::tokens(&self.store.view().borrow(), &filter, now_ms()))
    }

    async fn revoke_token(&self, id: &str) -> Result<Token, Problem> {
        trust::revoke_token(self, id).await
    }

    async fn members(&self, filter: MemberFilter) -> Result<Page<Member>, Problem> {
        Ok(trust::members(self, &filter))
    }

    async fn remove(&self, role: Role, name: &Name) -> Result<Member, Problem> {
        trust::remove(self, role, name).await
    }

    async fn assign(&self, role: Role, name: &Name, assignment: Assignment) -> Result<Member, Problem> {
        trust::assign(self, role, name, assignment).await
    }

    async fn bind_principal(&self, role: Role, name: &Name, order: PrincipalOrder) -> Result<Member, Problem> {
        trust::bind_principal(self, role, name, order).await
    }

    async fn revoke(&self, member: &Name) -> Result<Member, Problem> {
        trust::revoke(self, member).await
    }

    async fn issuers(&self) -> Result<Page<Issuer>, Problem> {
        Ok(Page { items: trust::issuers(self), next: None })
    }

    async fn rotate(&self, order: RotationOrder) -> Result<Issuer, Problem> {
        trust::rotate(self, order).await
    }

    async fn pending(&self, filter: PendingFilter) -> Result<Page<Pending>, Problem> {
        Ok(trust::pending(self, &filter))
    }

    async fn approve(&self, role: Role, name: &Name, approval: Approval) -> Result<Approved, Problem> {
        self.at_home(role == Role::Server)?;
        self.desk.approve(role, name, approval, self.act()).await
    }

    async fn reject(&self, role: Role, name: &Name) -> Result<Pending, Problem> {
        self.at_home(role == Role::Server)?;
        self.desk.reject(role, name, &self.act())
    }

    async fn log(&self, filter: LogFilter) -> Result<Page<LogEntry>, Problem> {
        trust::log(self, &filter).await
    }

    async fn group(&self) -> Result<Group, Problem> {
        trust::group(self)
    }

    async fn escrow(&self, order: RecoveryOrder) -> Result<Group, Problem> {
        trust::escrow(self, order).await
    }

    async fn packs(&self, filter: PackFilter) -> Result<Page<Pack>, Problem> {
        Ok(packs::packs(&self.store.view().borrow(), &filter))
    }

    async fn pack(&self, name: &str) -> Result<PackDetail, Problem> {
        packs::pack(self, name).await
    }

    async fn apply_pack(&self, order: PackOrder) -> Result<Pack, Problem> {
        packs::apply(self, order).await
    }

    async fn remove_pack(&self, name: &str) -> Result<Pack, Problem> {
        packs::remove(self, name).await
    }

    async fn sealing(&self) -> Result<SealingTarget, Problem> {
        accounts::sealing(self)
    }

    async fn accounts(&self, filter: AccountFilter) -> Result<Page<Account>, Problem> {
        Ok(accounts::list(&self.store.view().borrow(), &filter))
    }

    async fn account(&self, name: &str) -> Result<AccountDetail, Problem> {
        accounts::one(self, name).await
    }

    async fn create_account(&self, order: AccountOrder) -> Result<Account, Problem> {
        accounts::create(self, order).await
    }

    async fn update_account(&self, name: &str, change: AccountChange) -> Result<Account, Problem> {
        accounts::update(self, name, change).await
    }

    async fn delete_account(&self, name: &str) -> Result<Account, Problem> {
        accounts::delete(self, name).await
    }

    async fn account_uses(&self, name: &str) -> Result<Page<Use>, Problem> {
        accounts::uses(self, name).await
    }

    async fn profiles(&self, filter: AccountFilter) -> Result<Page<Profile>, Problem> {
        accounts::list_profiles(self, &filter).await
    }

    async fn profile(&self, name: &str) -> Result<Profile, Problem> {
        accounts::one_profile(self, name).await
    }

    async fn create_profile(&self, order: ProfileOrder) -> Result<Profile, Problem> {
        accounts::create_profile(self, order).await
    }

    async fn delete_profile(&self, name: &str) -> Result<Profile, Problem> {
        accounts::delete_profile(self, name).await
    }

    async fn bind_profile(&self, name: &str, order: BindingOrder) -> Result<Profile, Problem> {
        accounts::bind(self, name, order).await
    }

    async fn explain_profile(&self, name: &str, filter: ExplainFilter) -> Result<Page<Explained>, Problem> {
        accounts::explain(self, name, &filter).await
    }
}

/// What whoever asked is told when the store has no answer.
pub(super) fn problem(error: store::Error) -> Problem {
    let detail = error.to_string();
    match error {
        store::Error::Stopped => {
            Problem::new(Kind::Unreachable, detail, "try again once it runs: `systemctl status wardline-server`")
        }
        store::Error::Cursor(_) => Problem::new(Kind::Invalid, detail, "begin the list anew, without a cursor"),
        store::Error::NoFile => Problem::new(Kind::Conflict, detail, "use PostgreSQL's own: pg_basebackup or pg_dump"),
        store::Error::Unreadable(_) | store::Error::Refused(_) => {
            let explains = if matches!(error, store::Error::Refused(_)) { 40029 } else { 40023 };
            Problem::new(Kind::Failed, detail, "look at the server's log: `journalctl -u wardline-server`")
                .explained_by(explains)
        }
    }
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
