//! `POST /api/daemon-event` and `GET /api/daemon/position` (section 4).

use actix_web::http::StatusCode;
use actix_web::web::{self, Bytes};
use actix_web::{HttpRequest, HttpResponse};
use runwarden_actors::contract::limits::ENVELOPE_MAX_BYTES;
use runwarden_actors::contract::{Ack, ErrorCode, Position};
use runwarden_actors::run::{Envelope, RunError};

use super::auth::Daemon;
use super::body::read_body;
use super::{ApiError, AppState};
use crate::auth::DaemonClaims;

/// Parses an envelope and compares it with what the token is bound to: cases 1 and 2.
pub(super) fn parse_bound(body: Bytes, claims: &DaemonClaims) -> Result<Envelope, ApiError> {
    let envelope = Envelope::parse(body)?;
    if envelope.thread_id != claims.thread_id.as_str() || envelope.thread_chat_id != claims.thread_chat_id.as_str() {
        return Err(ApiError::new(ErrorCode::BindingMismatch, "the token is bound to another thread or chat"));
    }
    Ok(envelope)
}

/// One envelope; answers once it is durable.
#[utoipa::path(
    post,
    path = "/api/daemon-event",
    tag = "daemon",
    params(("X-Daemon-Version" = Option<String>, Header, description = "The daemon's version"), ("X-Daemon-Capabilities" = Option<String>, Header, description = "A comma-separated list")),
    request_body(content = ref("#/components/schemas/DaemonEnvelope"), content_type = "application/json"),
    responses(
        (status = 200, description = "Stored", body = ref("#/components/schemas/Ack")),
        (status = 202, description = "Known, late, or set aside; `reason` says why", body = ref("#/components/schemas/Ack")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 401, description = "`permission_denied` without a token, `signature_mismatch` with a wrong one", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`binding_mismatch`: the token is for another thread or chat", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 8 MiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("daemon" = [])),
)]
pub(super) async fn post_event(
    state: web::Data<AppState>,
    daemon: Daemon,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let Daemon(claims) = daemon;
    let body = read_body(&request, payload, ENVELOPE_MAX_BYTES).await?;
    let envelope = parse_bound(body, &claims)?;
    // A daemon that hangs up must not take back what is on its way to the database.
    let submitted = actix_web::rt::spawn(async move { state.runs.submit(claims.run_id, vec![envelope]).await });
    let mut acks = submitted.await.map_err(|_| RunError::Stopped)??;
    let ack: Ack = acks.pop().ok_or(RunError::Stopped)?;
    let status = StatusCode::from_u16(ack.http_status()).unwrap_or(StatusCode::ACCEPTED);
    Ok(HttpResponse::build(status).json(ack))
}

/// Where a restarted daemon goes on.
#[utoipa::path(
    get,
    path = "/api/daemon/position",
    tag = "daemon",
    responses(
        (status = 200, description = "The place", body = ref("#/components/schemas/Position")),
        (status = 401, description = "`permission_denied` without a token, `signature_mismatch` with a wrong one", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("daemon" = [])),
)]
pub(super) async fn get_position(state: web::Data<AppState>, daemon: Daemon) -> Result<web::Json<Position>, ApiError> {
    let run_id = daemon.0.run_id;
    let last_accepted_seq = state.runs.last_accepted_seq(run_id).await?;
    Ok(web::Json(Position { run_id, last_accepted_seq }))
}
