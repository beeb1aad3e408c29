//! Requests of operators who ask at a server without a database, as they come by its session: answered by the same
//! service, on behalf of who asks there, by that server's word.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, header};
use bytes::Bytes;
use tower::ServiceExt as _;
use wardline_proto::message::{self, Reply};
use wardline_proto::{Kind as MessageKind, Name};
use wardline_sdk::{Kind, Problem};

use super::routes::{Operator, relayed};
use super::service::Service;

/// The most characters of an operator's name.
const OPERATOR: usize = 64;
/// What is around the body of an answer.
const AROUND: usize = 64;

/// Answers them.
#[derive(Clone)]
pub struct Relayed {
    service: Service,
    /// The servers without a database from which commands are taken.
    commands_from: Arc<[Name]>,
}

impl Relayed {
    /// By this service; from those servers, commands too.
    pub fn new(service: Service, commands_from: Vec<Name>) -> Self {
        Self { service, commands_from: commands_from.into() }
    }

    /// Answers one that came by this server.
    pub async fn answer(&self, by: &Name, request: message::Request) -> Reply {
        let commanding = self.commands_from.contains(by);
        let router = relayed(Arc::new(self.service.relayed_by(by)), commanding);
        answered(router, request).await.unwrap_or_else(|problem| refusal(&problem))
    }

    /// The answer when too many are under way.
    pub fn busy() -> Reply {
        let detail = "too many requests of this server are under way at the server with the database";
        refusal(&Problem::new(Kind::Unreachable, detail, "try again in a moment"))
    }
}

async fn answered(router: Router, request: message::Request) -> Result<Reply, Problem> {
    let wrong = |what: &str| Problem::new(Kind::Invalid, what, "use programs of one version");
    let message::Request { method, target, body, operator } = request;
    // It stands in the trust log for ever.
    if operator.chars().count() > OPERATOR || operator.chars().any(char::is_control) {
        return Err(wrong("the name of who asks is none"));
    }
    let method: Method = method.parse().map_err(|_| wrong("the request has no method"))?;
    let request = Request::builder().method(method).uri(target).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(Body::from(body)).map_err(|_| wrong("the request has no path"))?;
    request.extensions_mut().insert(Operator(if operator.is_empty() { "unknown".into() } else { operator }));
    // It never fails: what is wrong is an answer.
    let Ok(response) = router.oneshot(request).await;
    reply(response).await
}

async fn reply(response: Response<Body>) -> Result<Reply, Problem> {
    let status = response.status().as_u16().into();
    let body = to_bytes(response.into_body(), MessageKind::Reply.limit() - AROUND).await.map_err(|_| {
        let detail = "the answer is longer than a server without a database passes on";
        Problem::new(Kind::Invalid, detail, "ask for less, with `--limit`, or at a server with the database")
    })?;
    Ok(Reply { status, body })
}

fn refusal(problem: &Problem) -> Reply {
    let body = serde_json::to_vec(problem).map(Bytes::from).unwrap_or_default();
    Reply { status: problem.status.into(), body }
}
