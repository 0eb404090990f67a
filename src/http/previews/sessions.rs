//! `POST /api/internal/preview/session/start`, and what a host application does with a session afterwards (section 5).

use std::net::IpAddr;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::limits::PREVIEW_START_ANSWER_MS;
use runwarden_actors::contract::{
    AccessInvalidation, ErrorCode, OpenMode, PreviewErrorCode, PreviewSessionId, PreviewSessionState, RunId,
    ThreadChatId, ThreadId, Timestamp, UnsupportedReason, UserId,
};
use runwarden_actors::ports::BypassUse;
use runwarden_actors::ports::store::{PreviewSession, RevocationScope};
use runwarden_actors::preview::{StartError, StartPreview, begin, bring_up, revoke};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::super::auth::InternalCaller;
use super::super::body::ApiJson;
use super::super::{ApiError, AppState};
use super::{base_path, count, ip_of, open_session, require_vouched, session_id};
use crate::proxy::PreviewServices;

/// What a host application asks for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct StartBody {
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    run_id: RunId,
    /// For whom the preview is.
    user_id: UserId,
    /// How it will be opened; the configuration's own, or a frame, where nothing is said.
    open_mode: Option<OpenMode>,
    /// The address that the person asks from, for the limits of addresses; the caller's own where nothing is said.
    #[schemars(with = "Option<String>")]
    client_ip: Option<IpAddr>,
}

/// A preview session.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct SessionBody {
    preview_session_id: PreviewSessionId,
    run_id: RunId,
    state: PreviewSessionState,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsupported_reason: Option<UnsupportedReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<PreviewErrorCode>,
    /// The last lines of what the preview command printed, where it did not come up.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_output: Option<String>,
    open_mode: OpenMode,
    expires_at: Timestamp,
    /// Below which the app is, on this server's own origin.
    proxy_base_path: String,
    /// The preview's own host, where hosts are configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    preview_host: Option<String>,
    /// To be exchanged for the cookie, once, within 300 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    exchange_token: Option<String>,
}

impl SessionBody {
    fn new(services: &PreviewServices, session: PreviewSession, exchange_token: Option<String>) -> Self {
        let host = |suffix: &String| format!("{}.{suffix}", session.id);
        Self {
            preview_session_id: session.id,
            run_id: session.run_id,
            state: session.state,
            unsupported_reason: session.unsupported_reason,
            error_code: session.error_code,
            preview_host: services.settings.host_suffix.as_ref().map(host),
            error_output: session.error_output,
            open_mode: session.open_mode,
            expires_at: session.expires_at,
            proxy_base_path: base_path(session.id),
            exchange_token,
        }
    }
}

/// Another exchange token.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ExchangeTokenBody {
    exchange_token: String,
}

/// What a revocation did.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct RevokedBody {
    preview_session_id: PreviewSessionId,
    /// Whether it was open until now.
    revoked: bool,
}

impl From<StartError> for ApiError {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::NotFound => return Self::not_found("run"),
            StartError::NotActive => ErrorCode::RunNotActive,
            StartError::Denied => ErrorCode::PermissionDenied,
            StartError::Access(source) => return Self::cache_unavailable(source),
            StartError::Store(source) => return Self::store_unavailable(source),
        };
        Self::new(code, error.to_string())
    }
}

/// Begins a session and waits, at most 25 s, until it is up or cannot be.
#[utoipa::path(
    post,
    path = "/api/internal/preview/session/start",
    tag = "previews",
    request_body(content = ref("#/components/schemas/StartBody"), content_type = "application/json"),
    responses(
        (status = 201, description = "The session: `ready`, `unsupported` or `error`, or still `initializing` after 25 s", body = ref("#/components/schemas/SessionBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong, or the user has no access", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`: no such run, or previews are switched off", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`run_not_active`", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable` or `cache_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn start(
    state: web::Data<AppState>,
    _: InternalCaller,
    request: HttpRequest,
    ApiJson(body): ApiJson<StartBody>,
) -> Result<HttpResponse, ApiError> {
    let services = state.previews.clone();
    let run = services.deps.run.store.load_run(body.run_id).await?.ok_or_else(|| ApiError::not_found("run"))?;
    services.require_live(&body.user_id, &run.repo_full_name).await?;
    // The key vouches for what the host application says; nobody else gets here.
    let ip = match body.client_ip {
        Some(said) => said,
        None => ip_of(&services, &request)?,
    };
    let of = BypassUse { user: &body.user_id, session: None, route: Some("start"), proxy_req_id: None };
    let deps = services.deps.for_user(of).into_owned();
    count(&deps, &deps.options.limits.start(&body.user_id, &ip)).await?;
    let asked = StartPreview {
        thread_id: body.thread_id,
        thread_chat_id: body.thread_chat_id,
        run_id: body.run_id,
        user_id: body.user_id,
        open_mode: body.open_mode,
    };
    let session = begin(&deps, &asked).await?;
    let id = session.id;
    // A task of its own: a caller that hangs up, or the end of the wait, must not leave it half-way.
    let bringing_up = tokio::spawn(async move {
        let brought = bring_up(&deps, session, asked.open_mode).await;
        if let Err(error) = &brought {
            tracing::warn!(preview_session_id = %id, %error, "a preview could not be brought up; the sweep ends it");
        }
        brought
    });
    let session = match timeout(Duration::from_millis(PREVIEW_START_ANSWER_MS), bringing_up).await {
        Ok(Ok(brought)) => brought?,
        Ok(Err(_)) => return Err(ApiError::store_unavailable(&"bringing the preview up ended without a result")),
        Err(_) => {
            let row = services.deps.run.store.load_preview(id).await?;
            row.ok_or_else(|| ApiError::not_found("preview session"))?
        }
    };
    let token = if session.state == PreviewSessionState::Ready {
        Some(services.tokens.mint_exchange(&session.binding(), session.expires_at).await?)
    } else {
        None
    };
    Ok(HttpResponse::Created().json(SessionBody::new(&services, session, token)))
}

/// How a session fares.
#[utoipa::path(
    get,
    path = "/api/internal/preview/session/{session_id}",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text")),
    responses(
        (status = 200, description = "The session, without a token", body = ref("#/components/schemas/SessionBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn get(
    state: web::Data<AppState>,
    _: InternalCaller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let services = &state.previews;
    let row = services.deps.run.store.load_preview(session_id(&id)?).await?;
    let session = row.ok_or_else(|| ApiError::not_found("preview session"))?;
    services.require_live(&session.user_id, &session.repo_full_name).await?;
    Ok(HttpResponse::Ok().json(SessionBody::new(services, session, None)))
}

/// Another exchange token for a ready session.
#[utoipa::path(
    post,
    path = "/api/internal/preview/session/{session_id}/exchange-token",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text")),
    responses(
        (status = 200, description = "The token", body = ref("#/components/schemas/ExchangeTokenBody")),
        (status = 401, description = "`expired` or `revoked`: the session is over", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: it is not ready", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable` or `cache_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn exchange_token(
    state: web::Data<AppState>,
    _: InternalCaller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let services = &state.previews;
    let open = open_session(services, session_id(&id)?).await?;
    let session = &open.record;
    require_vouched(services, &session.user_id)?;
    let exchange_token = services.tokens.mint_exchange(&session.binding(), session.expires_at).await?;
    Ok(HttpResponse::Ok().json(ExchangeTokenBody { exchange_token }))
}

/// Takes a session back: whatever it granted ends within a second, on every server.
#[utoipa::path(
    post,
    path = "/api/internal/preview/session/{session_id}/revoke",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text")),
    responses(
        (status = 200, description = "It is closed", body = ref("#/components/schemas/RevokedBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable` or `cache_unavailable`: it may not have reached every server; ask again", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn revoke_session(
    state: web::Data<AppState>,
    _: InternalCaller,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let services = &state.previews;
    let id = session_id(&id)?;
    if services.deps.run.store.load_preview(id).await?.is_none() {
        return Err(ApiError::not_found("preview session"));
    }
    let scope = RevocationScope::Session(id);
    let closed = revoke(&services.deps, &services.open, &scope, AccessInvalidation::Revocation).await?;
    Ok(HttpResponse::Ok().json(RevokedBody { preview_session_id: id, revoked: closed > 0 }))
}
