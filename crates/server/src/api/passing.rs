//! The data access service of a server without a database: what is asked there is passed on to a server with it, and what
//! that one answers is handed back.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use wardline_connector::relay::{Relay, Unanswered};
use wardline_proto::Kind as MessageKind;
use wardline_proto::message::{self, Reply};
use wardline_sdk::{Kind, Problem};

use super::routes::{Operator, Refusal};

/// What is around the body of a request: path, query and name.
const AROUND: usize = 16 * 1024;

/// Passes everything on.
pub fn passing(relay: Arc<Relay>) -> Router {
    Router::new().fallback(pass).with_state(relay)
}

async fn pass(State(relay): State<Arc<Relay>>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let operator = parts.extensions.get::<Operator>().map(|Operator(name)| name.clone()).unwrap_or_default();
    let (target, limit) = (parts.uri.to_string(), MessageKind::Request.limit() - AROUND);
    let too_long = || Problem::new(Kind::Invalid, "the request is too long", "see `wardline --help`");
    let body = to_bytes(body, limit).await.map_err(|_| too_long())?;
    if target.len() + operator.len() > AROUND / 2 {
        return Err(too_long().into());
    }
    let request = message::Request { method: parts.method.to_string(), target, body, operator };
    let Reply { status, body } = relay.ask(request).await.map_err(unanswered)?;
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
    let kind = if status.is_success() { "application/json" } else { Problem::MEDIA_TYPE };
    Ok((status, [(header::CONTENT_TYPE, kind)], Body::from(body)).into_response())
}

fn unanswered(why: Unanswered) -> Refusal {
    let next = match why {
        Unanswered::NoWay => "see this server's log for why: `journalctl -u wardline-server`",
        Unanswered::Ended | Unanswered::Late => "look whether it was done before it is asked again",
    };
    Refusal(Problem::new(Kind::Unreachable, why.to_string(), next))
}
