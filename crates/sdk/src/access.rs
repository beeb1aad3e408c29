//! The contract in one trait: the server fulfils it from its store and its sessions, the client over HTTP.

use std::future::Future;

use wardline_proto::{Name, Role};

use crate::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, Agent, AgentFilter, Alert, AlertDetail,
    AlertFilter, Approval, Approved, Assignment, Backup, BackupOrder, BindingOrder, Damage, Database, ExplainFilter,
    Explained, Gap, GapFilter, Group, Issuer, LogEntry, LogFilter, Member, MemberFilter, Pack, PackDetail, PackFilter,
    PackOrder, Page, Pending, PendingFilter, PrincipalOrder, Problem, Profile, ProfileOrder, RecoveryOrder,
    RotationOrder, SealingTarget, Status, Token, TokenFilter, TokenOrder, Topology, Use,
};

/// What an operator can ask of a management group. Every method fails with a [`Problem`] that says what to do next.
pub trait DataAccess: Send + Sync {
    /// Lists alerts, newest first.
    fn alerts(&self, filter: AlertFilter) -> impl Future<Output = Result<Page<Alert>, Problem>> + Send;

    /// The alert with this id; a prefix that fits only one is enough.
    fn alert(&self, id: &str) -> impl Future<Output = Result<AlertDetail, Problem>> + Send;

    /// Lists agents by name.
    fn agents(&self, filter: AgentFilter) -> impl Future<Output = Result<Page<Agent>, Problem>> + Send;

    /// The agent of this name.
    fn agent(&self, name: &Name) -> impl Future<Output = Result<Agent, Problem>> + Send;

    /// Releases an agent that is held because two queues of it displaced each other, and gives how it stands then. A
    /// conflict when it is not held.
    fn release(&self, agent: &Name) -> impl Future<Output = Result<Agent, Problem>> + Send;

    /// Lists gap records, newest first.
    fn gaps(&self, filter: GapFilter) -> impl Future<Output = Result<Page<Gap>, Problem>> + Send;

    /// Services and hops as they stand now.
    fn topology(&self) -> impl Future<Output = Result<Topology, Problem>> + Send;

    /// How the server is.
    fn status(&self) -> impl Future<Output = Result<Status, Problem>> + Send;

    /// Which database the server uses, how it is set, and what of that to change.
    fn database(&self) -> impl Future<Output = Result<Database, Problem>> + Send;

    /// The server writes a copy of its database.
    fn backup(&self, order: BackupOrder) -> impl Future<Output = Result<Backup, Problem>> + Send;

    /// What of the database is damaged, as far as can be seen. Reads all of it.
    fn examine(&self) -> impl Future<Output = Result<Page<Damage>, Problem>> + Send;

    /// Hosts may join with a new token.
    fn create_token(&self, order: TokenOrder) -> impl Future<Output = Result<Token, Problem>> + Send;

    /// Lists tokens by id.
    fn tokens(&self, filter: TokenFilter) -> impl Future<Output = Result<Page<Token>, Problem>> + Send;

    /// Nobody may join any more with the token of this id; a prefix that fits only one is enough.
    fn revoke_token(&self, id: &str) -> impl Future<Output = Result<Token, Problem>> + Send;

    /// Lists members by name.
    fn members(&self, filter: MemberFilter) -> impl Future<Output = Result<Page<Member>, Problem>> + Send;

    /// A member is not part of the group any more; gives how it was.
    fn remove(&self, role: Role, name: &Name) -> impl Future<Output = Result<Member, Problem>> + Send;

    /// Other gateways speak for a member from now on; gives how it is then.
    fn assign(
        &self,
        role: Role,
        name: &Name,
        assignment: Assignment,
    ) -> impl Future<Output = Result<Member, Problem>> + Send;

    /// Another Kerberos principal proves a member's hops from now on, or none does; gives how it is then.
    fn bind_principal(
        &self,
        role: Role,
        name: &Name,
        order: PrincipalOrder,
    ) -> impl Future<Output = Result<Member, Problem>> + Send;

    /// A member's channel certificates are worth nothing any more; gives how it is then. It comes home by its identity key.
    fn revoke(&self, member: &Name) -> impl Future<Output = Result<Member, Problem>> + Send;

    /// Lists the CAs that issue, or have issued, channel certificates, oldest first.
    fn issuers(&self) -> impl Future<Output = Result<Page<Issuer>, Problem>> + Send;

    /// Channel certificates are issued by a new CA from now on, which is given.
    fn rotate(&self, order: RotationOrder) -> impl Future<Output = Result<Issuer, Problem>> + Send;

    /// Lists those that ask to join without a token, by name.
    fn pending(&self, filter: PendingFilter) -> impl Future<Output = Result<Page<Pending>, Problem>> + Send;

    /// One that asks is part of the group from now on, when the code is the one that it shows. A wrong one rejects it: a
    /// conflict.
    fn approve(
        &self,
        role: Role,
        name: &Name,
        approval: Approval,
    ) -> impl Future<Output = Result<Approved, Problem>> + Send;

    /// One that asks is told no.
    fn reject(&self, role: Role, name: &Name) -> impl Future<Output = Result<Pending, Problem>> + Send;

    /// Lists entries of the trust log, oldest first.
    fn log(&self, filter: LogFilter) -> impl Future<Output = Result<Page<LogEntry>, Problem>> + Send;

    /// The management group, with the newest head of its trust log.
    fn group(&self) -> impl Future<Output = Result<Group, Problem>> + Send;

    /// The group has a recovery key from now on.
    fn escrow(&self, order: RecoveryOrder) -> impl Future<Output = Result<Group, Problem>> + Send;

    /// Lists packs by name.
    fn packs(&self, filter: PackFilter) -> impl Future<Output = Result<Page<Pack>, Problem>> + Send;

    /// The pack of this name, with its text.
    fn pack(&self, name: &str) -> impl Future<Output = Result<PackDetail, Problem>> + Send;

    /// Agents run a pack from now on, in place of one of the same name.
    fn apply_pack(&self, order: PackOrder) -> impl Future<Output = Result<Pack, Problem>> + Send;

    /// Nobody runs a pack any more; gives how it was.
    fn remove_pack(&self, name: &str) -> impl Future<Output = Result<Pack, Problem>> + Send;

    /// What secrets for the server are to be sealed to.
    fn sealing(&self) -> impl Future<Output = Result<SealingTarget, Problem>> + Send;

    /// Lists Run As accounts by name.
    fn accounts(&self, filter: AccountFilter) -> impl Future<Output = Result<Page<Account>, Problem>> + Send;

    /// The account of this name, with what became of it on agents.
    fn account(&self, name: &str) -> impl Future<Output = Result<AccountDetail, Problem>> + Send;

    /// There is a new account.
    fn create_account(&self, order: AccountOrder) -> impl Future<Output = Result<Account, Problem>> + Send;

    /// Something is another at an account from now on; gives how it is then.
    fn update_account(
        &self,
        name: &str,
        change: AccountChange,
    ) -> impl Future<Output = Result<Account, Problem>> + Send;

    /// There is no such account any more; gives how it was. A conflict while profiles stand for it.
    fn delete_account(&self, name: &str) -> impl Future<Output = Result<Account, Problem>> + Send;

    /// Where an account is used.
    fn account_uses(&self, name: &str) -> impl Future<Output = Result<Page<Use>, Problem>> + Send;

    /// Lists Run As profiles by name.
    fn profiles(&self, filter: AccountFilter) -> impl Future<Output = Result<Page<Profile>, Problem>> + Send;

    /// The profile of this name.
    fn profile(&self, name: &str) -> impl Future<Output = Result<Profile, Problem>> + Send;

    /// There is a new profile.
    fn create_profile(&self, order: ProfileOrder) -> impl Future<Output = Result<Profile, Problem>> + Send;

    /// There is no such profile any more; gives how it was.
    fn delete_profile(&self, name: &str) -> impl Future<Output = Result<Profile, Problem>> + Send;

    /// A profile stands for an account from now on, or for none; gives how it is then.
    fn bind_profile(&self, name: &str, order: BindingOrder) -> impl Future<Output = Result<Profile, Problem>> + Send;

    /// What a profile gives each agent, by name, and why.
    fn explain_profile(
        &self,
        name: &str,
        filter: ExplainFilter,
    ) -> impl Future<Output = Result<Page<Explained>, Problem>> + Send;
}

/// Where each question is asked.
pub mod path {
    /// `GET`: list of alerts.
    pub const ALERTS: &str = "/api/v1/alerts";
    /// `GET`: one alert.
    pub const ALERT: &str = "/api/v1/alerts/{id}";
    /// `GET`: list of agents.
    pub const AGENTS: &str = "/api/v1/agents";
    /// `GET`: one agent.
    pub const AGENT: &str = "/api/v1/agents/{name}";
    /// `POST`: release an agent.
    pub const RELEASE: &str = "/api/v1/agents/{name}/release";
    /// `GET`: list of gap records.
    pub const GAPS: &str = "/api/v1/gaps";
    /// `GET`: services and hops.
    pub const TOPOLOGY: &str = "/api/v1/topology";
    /// `GET`: how the server is.
    pub const STATUS: &str = "/api/v1/status";
    /// `GET`: which database it is, and how it is set.
    pub const DATABASE: &str = "/api/v1/database";
    /// `POST`: copy the database.
    pub const BACKUP: &str = "/api/v1/database/backup";
    /// `POST`: look what of the database is damaged.
    pub const EXAMINE: &str = "/api/v1/database/examine";
    /// `GET`: list of join tokens. `POST`: make one good.
    pub const TOKENS: &str = "/api/v1/tokens";
    /// `POST`: revoke a token.
    pub const REVOKE: &str = "/api/v1/tokens/{id}/revoke";
    /// `GET`: list of members.
    pub const MEMBERS: &str = "/api/v1/members";
    /// `POST`: remove a member.
    pub const REMOVE: &str = "/api/v1/members/{role}/{name}/remove";
    /// `POST`: give a member to gateways.
    pub const ASSIGN: &str = "/api/v1/members/{role}/{name}/assign";
    /// `POST`: give a member a Kerberos principal, or take it away.
    pub const PRINCIPAL: &str = "/api/v1/members/{role}/{name}/principal";
    /// `POST`: revoke a member's channel certificates.
    pub const REVOKE_CERTIFICATES: &str = "/api/v1/certificates/{name}/revoke";
    /// `GET`: list of issuing CAs.
    pub const ISSUERS: &str = "/api/v1/issuers";
    /// `POST`: make a new issuing CA.
    pub const ROTATE: &str = "/api/v1/issuers/rotate";
    /// `GET`: who asks to join without a token.
    pub const PENDING: &str = "/api/v1/pending";
    /// `POST`: let one in that asks.
    pub const APPROVE: &str = "/api/v1/pending/{role}/{name}/approve";
    /// `POST`: turn one away that asks.
    pub const REJECT: &str = "/api/v1/pending/{role}/{name}/reject";
    /// `GET`: entries of the trust log.
    pub const LOG: &str = "/api/v1/log";
    /// `GET`: the management group.
    pub const GROUP: &str = "/api/v1/group";
    /// `POST`: the public half of a recovery key.
    pub const RECOVERY: &str = "/api/v1/group/recovery";
    /// `GET`: list of packs. `POST`: have agents run one.
    pub const PACKS: &str = "/api/v1/packs";
    /// `GET`: one pack.
    pub const PACK: &str = "/api/v1/packs/{name}";
    /// `POST`: have nobody run a pack any more.
    pub const PACK_REMOVE: &str = "/api/v1/packs/{name}/remove";
    /// `GET`: what secrets are to be sealed to.
    pub const SEALING: &str = "/api/v1/sealing";
    /// `GET`: list of accounts. `POST`: make one.
    pub const ACCOUNTS: &str = "/api/v1/accounts";
    /// `GET`: one account.
    pub const ACCOUNT: &str = "/api/v1/accounts/{name}";
    /// `POST`: change an account.
    pub const ACCOUNT_UPDATE: &str = "/api/v1/accounts/{name}/update";
    /// `POST`: delete an account.
    pub const ACCOUNT_DELETE: &str = "/api/v1/accounts/{name}/delete";
    /// `GET`: where an account is used.
    pub const ACCOUNT_USES: &str = "/api/v1/accounts/{name}/uses";
    /// `GET`: list of profiles. `POST`: make one.
    pub const PROFILES: &str = "/api/v1/profiles";
    /// `GET`: one profile.
    pub const PROFILE: &str = "/api/v1/profiles/{name}";
    /// `POST`: delete a profile.
    pub const PROFILE_DELETE: &str = "/api/v1/profiles/{name}/delete";
    /// `POST`: have a profile stand for an account, or for none.
    pub const PROFILE_BIND: &str = "/api/v1/profiles/{name}/bind";
    /// `GET`: what a profile gives each agent.
    pub const PROFILE_EXPLAIN: &str = "/api/v1/profiles/{name}/explain";
}
