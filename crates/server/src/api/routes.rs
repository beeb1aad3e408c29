//! HTTP to questions, answers to JSON, refusals to problem details (RFC 9457).

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use wardline_proto::{Name, Role};
use wardline_sdk::access::path;
use wardline_sdk::{
    Account, AccountChange, AccountDetail, AccountFilter, AccountOrder, Agent, AgentFilter, Alert, AlertDetail,
    AlertFilter, Approval, Approved, Assignment, Backup, BackupOrder, BindingOrder, Damage, DataAccess, Database,
    ExplainFilter, Explained, Gap, GapFilter, Group, Issuer, Kind, LogEntry, LogFilter, Member, MemberFilter, Pack,
    PackDetail, PackFilter, PackOrder, Page, Pending, PendingFilter, PrincipalOrder, Problem, Profile, ProfileOrder,
    RecoveryOrder, RotationOrder, SealingTarget, Status, Token, TokenFilter, TokenOrder, Topology, Use,
};

use super::service::OnBehalf;

/// The most bytes of a request's body.
const BODY_LIMIT: usize = 64 * 1024;
/// The same with a pack in it, whose quotes and line ends are escaped.
const PACK_LIMIT: usize = 2 * crate::operating::packs::TEXT + BODY_LIMIT;

/// The same with a sealed secret in it, and the names of as many agents as there may be.
const ACCOUNT_LIMIT: usize = 2 * wardline_secrets::secure_data::LIMIT + 256 * wardline_secrets::view::RECIPIENTS;

/// Who wants something changed, as the socket knows him.
#[derive(Clone, Debug)]
pub(super) struct Operator(pub(super) String);

/// The routes of the data access service. What changes something needs to be told who wants it, as the socket does.
pub fn router<D: OnBehalf + 'static>(data: Arc<D>) -> Router {
    reading()
        .merge(commands())
        .merge(at_home())
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(data)
}

/// The routes for who asks at a server without a database: whoever has taken that over asks here what he likes. Nothing
/// that gives out a key of the group or a secret, or leads to one, is among them.
pub fn relayed<D: OnBehalf + 'static>(data: Arc<D>, commanding: bool) -> Router {
    let commands = if commanding { commands() } else { commands().route_layer(from_fn(not_commanding)) };
    reading()
        .merge(commands)
        .fallback(not_from_there)
        .method_not_allowed_fallback(not_from_there)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(data)
}

/// What changes nothing, and says nothing that is secret.
fn reading<D: OnBehalf + 'static>() -> Router<Arc<D>> {
    Router::new()
        .route(path::ALERTS, get(alerts::<D>))
        .route(path::ALERT, get(alert::<D>))
        .route(path::AGENTS, get(agents::<D>))
        .route(path::AGENT, get(agent::<D>))
        .route(path::GAPS, get(gaps::<D>))
        .route(path::TOPOLOGY, get(topology::<D>))
        .route(path::STATUS, get(status::<D>))
        .route(path::DATABASE, get(database::<D>))
        .route(path::TOKENS, get(tokens::<D>))
        .route(path::MEMBERS, get(members::<D>))
        .route(path::ISSUERS, get(issuers::<D>))
        .route(path::PENDING, get(pending::<D>))
        .route(path::LOG, get(log::<D>))
        .route(path::GROUP, get(group::<D>))
        .route(path::PACKS, get(packs::<D>))
        .route(path::PACK, get(pack::<D>))
        .route(path::ACCOUNTS, get(accounts::<D>))
        .route(path::ACCOUNT, get(account::<D>))
        .route(path::ACCOUNT_USES, get(account_uses::<D>))
        .route(path::PROFILES, get(profiles::<D>))
        .route(path::PROFILE, get(profile::<D>))
        .route(path::PROFILE_EXPLAIN, get(explain_profile::<D>))
}

/// What an operator decides about hosts, and what they run.
fn commands<D: OnBehalf + 'static>() -> Router<Arc<D>> {
    Router::new()
        .route(path::RELEASE, post(release::<D>))
        .route(path::TOKENS, post(create_token::<D>))
        .route(path::REVOKE, post(revoke_token::<D>))
        .route(path::REMOVE, post(remove::<D>))
        .route(path::ASSIGN, post(assign::<D>))
        .route(path::PRINCIPAL, post(bind_principal::<D>))
        .route(path::REVOKE_CERTIFICATES, post(revoke::<D>))
        .route(path::APPROVE, post(approve::<D>))
        .route(path::REJECT, post(reject::<D>))
        .route(path::PACKS, post(apply_pack::<D>).layer(DefaultBodyLimit::max(PACK_LIMIT)))
        .route(path::PACK_REMOVE, post(remove_pack::<D>))
}

/// What is about the group's keys, secrets and who has them, and the database itself.
fn at_home<D: OnBehalf + 'static>() -> Router<Arc<D>> {
    Router::new()
        .route(path::BACKUP, post(backup::<D>))
        .route(path::EXAMINE, post(examine::<D>))
        .route(path::ROTATE, post(rotate::<D>))
        .route(path::RECOVERY, post(escrow::<D>))
        .route(path::SEALING, get(sealing::<D>))
        .route(path::ACCOUNTS, post(create_account::<D>).layer(DefaultBodyLimit::max(ACCOUNT_LIMIT)))
        .route(path::ACCOUNT_UPDATE, post(update_account::<D>).layer(DefaultBodyLimit::max(ACCOUNT_LIMIT)))
        .route(path::ACCOUNT_DELETE, post(delete_account::<D>))
        .route(path::PROFILES, post(create_profile::<D>))
        .route(path::PROFILE_DELETE, post(delete_profile::<D>))
        .route(path::PROFILE_BIND, post(bind_profile::<D>))
}

/// A problem as an answer.
pub(super) struct Refusal(pub(super) Problem);

type Answer<T> = Result<Json<T>, Refusal>;

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self(Problem::new(Kind::Invalid, rejection.body_text(), "correct the query"))
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self(Problem::new(Kind::Invalid, rejection.body_text(), "correct the path"))
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(Problem::new(Kind::Invalid, rejection.body_text(), "use the `wardline` of the server's version"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, Problem::MEDIA_TYPE)], Json(self.0)).into_response()
    }
}

async fn alerts<D: DataAccess>(
    State(data): State<Arc<D>>,
    filter: Result<Query<AlertFilter>, QueryRejection>,
) -> Answer<Page<Alert>> {
    Ok(Json(data.alerts(filter?.0).await?))
}

async fn alert<D: DataAccess>(
    State(data): State<Arc<D>>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<AlertDetail> {
    Ok(Json(data.alert(&id?.0).await?))
}

async fn agents<D: DataAccess>(
    State(data): State<Arc<D>>,
    filter: Result<Query<AgentFilter>, QueryRejection>,
) -> Answer<Page<Agent>> {
    Ok(Json(data.agents(filter?.0).await?))
}

async fn agent<D: DataAccess>(State(data): State<Arc<D>>, name: Result<Path<Name>, PathRejection>) -> Answer<Agent> {
    Ok(Json(data.agent(&name?.0).await?))
}

async fn release<D: DataAccess>(
    State(data): State<Arc<D>>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Agent> {
    let name: Name = name?.0.parse().map_err(|error: wardline_proto::name::NameError| {
        Problem::new(Kind::Invalid, error.to_string(), "`wardline agent list` shows the names")
    })?;
    Ok(Json(data.release(&name).await?))
}

async fn gaps<D: DataAccess>(
    State(data): State<Arc<D>>,
    filter: Result<Query<GapFilter>, QueryRejection>,
) -> Answer<Page<Gap>> {
    Ok(Json(data.gaps(filter?.0).await?))
}

async fn topology<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Topology> {
    Ok(Json(data.topology().await?))
}

async fn status<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Status> {
    Ok(Json(data.status().await?))
}

type Asked<T> = Result<Query<T>, QueryRejection>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Named = Result<Path<String>, PathRejection>;

async fn database<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Database> {
    Ok(Json(data.database().await?))
}

async fn backup<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<BackupOrder>,
) -> Answer<Backup> {
    Ok(Json(data.on_behalf_of(&operator).backup(order?.0).await?))
}

async fn examine<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Page<Damage>> {
    Ok(Json(data.examine().await?))
}

async fn create_token<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<TokenOrder>,
) -> Answer<Token> {
    Ok(Json(data.on_behalf_of(&operator).create_token(order?.0).await?))
}

async fn tokens<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<TokenFilter>) -> Answer<Page<Token>> {
    Ok(Json(data.tokens(filter?.0).await?))
}

async fn revoke_token<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    id: Result<Path<String>, PathRejection>,
) -> Answer<Token> {
    Ok(Json(data.on_behalf_of(&operator).revoke_token(&id?.0).await?))
}

async fn members<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<MemberFilter>) -> Answer<Page<Member>> {
    Ok(Json(data.members(filter?.0).await?))
}

async fn remove<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    member: Result<Path<(Role, Name)>, PathRejection>,
) -> Answer<Member> {
    let Path((role, name)) = member?;
    Ok(Json(data.on_behalf_of(&operator).remove(role, &name).await?))
}

async fn assign<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    member: Result<Path<(Role, Name)>, PathRejection>,
    assignment: Body<Assignment>,
) -> Answer<Member> {
    let Path((role, name)) = member?;
    Ok(Json(data.on_behalf_of(&operator).assign(role, &name, assignment?.0).await?))
}

async fn bind_principal<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    member: Result<Path<(Role, Name)>, PathRejection>,
    order: Body<PrincipalOrder>,
) -> Answer<Member> {
    let Path((role, name)) = member?;
    Ok(Json(data.on_behalf_of(&operator).bind_principal(role, &name, order?.0).await?))
}

async fn revoke<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Result<Path<Name>, PathRejection>,
) -> Answer<Member> {
    Ok(Json(data.on_behalf_of(&operator).revoke(&name?.0).await?))
}

async fn issuers<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Page<Issuer>> {
    Ok(Json(data.issuers().await?))
}

async fn rotate<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<RotationOrder>,
) -> Answer<Issuer> {
    Ok(Json(data.on_behalf_of(&operator).rotate(order?.0).await?))
}

async fn pending<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<PendingFilter>) -> Answer<Page<Pending>> {
    Ok(Json(data.pending(filter?.0).await?))
}

async fn approve<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    host: Result<Path<(Role, Name)>, PathRejection>,
    approval: Body<Approval>,
) -> Answer<Approved> {
    let Path((role, name)) = host?;
    Ok(Json(data.on_behalf_of(&operator).approve(role, &name, approval?.0).await?))
}

async fn reject<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    host: Result<Path<(Role, Name)>, PathRejection>,
) -> Answer<Pending> {
    let Path((role, name)) = host?;
    Ok(Json(data.on_behalf_of(&operator).reject(role, &name).await?))
}

async fn log<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<LogFilter>) -> Answer<Page<LogEntry>> {
    Ok(Json(data.log(filter?.0).await?))
}

async fn group<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<Group> {
    Ok(Json(data.group().await?))
}

async fn escrow<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<RecoveryOrder>,
) -> Answer<Group> {
    Ok(Json(data.on_behalf_of(&operator).escrow(order?.0).await?))
}

async fn packs<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<PackFilter>) -> Answer<Page<Pack>> {
    Ok(Json(data.packs(filter?.0).await?))
}

async fn pack<D: DataAccess>(
    State(data): State<Arc<D>>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<PackDetail> {
    Ok(Json(data.pack(&name?.0).await?))
}

async fn apply_pack<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<PackOrder>,
) -> Answer<Pack> {
    Ok(Json(data.on_behalf_of(&operator).apply_pack(order?.0).await?))
}

async fn remove_pack<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Pack> {
    Ok(Json(data.on_behalf_of(&operator).remove_pack(&name?.0).await?))
}

async fn sealing<D: DataAccess>(State(data): State<Arc<D>>) -> Answer<SealingTarget> {
    Ok(Json(data.sealing().await?))
}

async fn accounts<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<AccountFilter>) -> Answer<Page<Account>> {
    Ok(Json(data.accounts(filter?.0).await?))
}

async fn account<D: DataAccess>(State(data): State<Arc<D>>, name: Named) -> Answer<AccountDetail> {
    Ok(Json(data.account(&name?.0).await?))
}

async fn create_account<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<AccountOrder>,
) -> Answer<Account> {
    Ok(Json(data.on_behalf_of(&operator).create_account(order?.0).await?))
}

async fn update_account<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Named,
    change: Body<AccountChange>,
) -> Answer<Account> {
    Ok(Json(data.on_behalf_of(&operator).update_account(&name?.0, change?.0).await?))
}

async fn delete_account<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Named,
) -> Answer<Account> {
    Ok(Json(data.on_behalf_of(&operator).delete_account(&name?.0).await?))
}

async fn account_uses<D: DataAccess>(State(data): State<Arc<D>>, name: Named) -> Answer<Page<Use>> {
    Ok(Json(data.account_uses(&name?.0).await?))
}

async fn profiles<D: DataAccess>(State(data): State<Arc<D>>, filter: Asked<AccountFilter>) -> Answer<Page<Profile>> {
    Ok(Json(data.profiles(filter?.0).await?))
}

async fn profile<D: DataAccess>(State(data): State<Arc<D>>, name: Named) -> Answer<Profile> {
    Ok(Json(data.profile(&name?.0).await?))
}

async fn create_profile<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    order: Body<ProfileOrder>,
) -> Answer<Profile> {
    Ok(Json(data.on_behalf_of(&operator).create_profile(order?.0).await?))
}

async fn delete_profile<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Named,
) -> Answer<Profile> {
    Ok(Json(data.on_behalf_of(&operator).delete_profile(&name?.0).await?))
}

async fn bind_profile<D: OnBehalf>(
    State(data): State<Arc<D>>,
    Extension(Operator(operator)): Extension<Operator>,
    name: Named,
    order: Body<BindingOrder>,
) -> Answer<Profile> {
    Ok(Json(data.on_behalf_of(&operator).bind_profile(&name?.0, order?.0).await?))
}

async fn explain_profile<D: DataAccess>(
    State(data): State<Arc<D>>,
    name: Named,
    filter: Asked<ExplainFilter>,
) -> Answer<Page<Explained>> {
    Ok(Json(data.explain_profile(&name?.0, filter?.0).await?))
}

async fn no_such_path(uri: Uri) -> Refusal {
    let detail = format!("there is nothing at {}", uri.path());
    Refusal(Problem::new(Kind::NotFound, detail, "use the `wardline` of the server's version"))
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let detail = format!("{} does not take {method}", uri.path());
    let problem = Problem::new(Kind::Invalid, detail, "use the `wardline` of the server's version");
    Refusal(Problem { status: 405, title: "Method Not Allowed".into(), ..problem })
}

/// Why a command that comes by a server without a database is not done.
async fn not_commanding(_: Request, _: Next) -> Refusal {
    let detail = "commands from this server, which has no database, are not allowed";
    let next = "run it at a server with the database, or name this one in `commands_from` in that one's server.toml";
    Refusal(Problem::new(Kind::Denied, detail, next))
}

async fn not_from_there() -> Refusal {
    Refusal(at_home_only())
}

/// What is never done for who asks at a server without a database.
pub(super) fn at_home_only() -> Problem {
    let detail = "this server has no database, and what has to do with keys, secrets and servers does not pass by it";
    Problem::new(Kind::Denied, detail, "run it at a server with the database: `wardline server list` shows them")
}
