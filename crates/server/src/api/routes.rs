//! HTTP to questions, answers to JSON, refusals to problem details (RFC 9457).

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use wardline_proto::Name;
use wardline_sdk::access::path;
use wardline_sdk::{
    Agent, AgentFilter, Alert, AlertDetail, AlertFilter, DataAccess, Gap, GapFilter, Kind, Page, Problem, Status,
    Topology,
};

/// The most bytes of a request's body.
const BODY_LIMIT: usize = 64 * 1024;

/// The routes of the data access service.
pub fn router<D: DataAccess + 'static>(data: Arc<D>) -> Router {
    Router::new()
        .route(path::ALERTS, get(alerts::<D>))
        .route(path::ALERT, get(alert::<D>))
        .route(path::AGENTS, get(agents::<D>))
        .route(path::RELEASE, post(release::<D>))
        .route(path::GAPS, get(gaps::<D>))
        .route(path::TOPOLOGY, get(topology::<D>))
        .route(path::STATUS, get(status::<D>))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(data)
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

async fn no_such_path(uri: Uri) -> Refusal {
    let detail = format!("there is nothing at {}", uri.path());
    Refusal(Problem::new(Kind::NotFound, detail, "use the `wardline` of the server's version"))
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let detail = format!("{} does not take {method}", uri.path());
    let problem = Problem::new(Kind::Invalid, detail, "use the `wardline` of the server's version");
    Refusal(Problem { status: 405, title: "Method Not Allowed".into(), ..problem })
}
