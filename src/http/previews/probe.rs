//! `GET /api/preview/probe/{id}`: would a frame of this page get its cookie? Asked before any frame is mounted
//! (section 5). The first answer sets a cookie and sends the browser back to read it.

use actix_web::http::header::{self};
use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::{OpenMode, PreviewSessionId, UnsupportedReason};
use runwarden_actors::preview::OpenError;
use serde::{Deserialize, Serialize};

use super::super::{ApiError, AppState};
use super::browser::{allow_page, readable};
use super::{count_stranger, ip_of, require_vouched, session_id};
use crate::auth::cookies::{CookieScope, probe_cookie, probe_values};
use crate::proxy::{PreviewServices, Routing};

#[derive(Deserialize)]
pub(in crate::http) struct ProbeQuery {
    check: Option<String>,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum ProbeResult {
    /// Mount the frame.
    Ok,
    /// The browser keeps our cookie out of frames; open a tab.
    CookieBlocked,
    /// The app needs WebSocket, which is off here; open a tab.
    WsRequired,
    /// The session is over; start another.
    Expired,
}

impl ProbeResult {
    /// As it goes over the wire.
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::CookieBlocked => UnsupportedReason::CookieBlocked.as_str(),
            Self::WsRequired => UnsupportedReason::WsRequired.as_str(),
            Self::Expired => "expired",
        }
    }
}

/// The body.
#[derive(Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ProbeBody {
    result: ProbeResult,
}

/// Sets a cookie, comes back, and says whether it came back too.
#[utoipa::path(
    get,
    path = "/api/preview/probe/{session_id}",
    tag = "previews",
    params(("session_id" = String, Path, description = "The session's UUID, as text"), ("check" = Option<String>, Query, description = "Set by the redirect of the first answer")),
    responses(
        (status = 200, description = "`ok`, `cookie_blocked`, `ws_required` or `expired`", body = ref("#/components/schemas/ProbeBody")),
        (status = 302, description = "Sets the probe's cookie and leads back here"),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 429, description = "`rate_limited`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`cache_unavailable` or `store_unavailable`", body = ref("#/components/schemas/ErrorBody")),
    ),
)]
pub(in crate::http) async fn probe(
    state: web::Data<AppState>,
    request: HttpRequest,
    id: web::Path<String>,
    query: web::Query<ProbeQuery>,
) -> HttpResponse {
    let services = &state.previews;
    let answered = match session_id(&id) {
        Ok(id) => {
            let routing = Routing::Path { sandbox: services.settings.path_sandbox };
            let back = format!("/api/preview/probe/{id}");
            probe_for(services, &request, id, query.check.as_deref(), CookieScope::Path(id), routing, &back).await
        }
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| readable(services, &request, &error))
}

/// For either routing; `back` is where the redirect leads.
pub(super) async fn probe_for(
    services: &PreviewServices,
    request: &HttpRequest,
    id: PreviewSessionId,
    check: Option<&str>,
    scope: CookieScope,
    routing: Routing,
    back: &str,
) -> Result<HttpResponse, ApiError> {
    let ip = ip_of(services, request)?;
    count_stranger(services, &services.deps.options.limits.exchange_ip(&ip)).await?;
    let mut builder = HttpResponse::Ok();
    allow_page(services, request, &mut builder);
    let opened = services.open(id).await;
    services.require_live_session(id, &opened).await?;
    let result = match opened {
        Ok(open) => {
            require_vouched(services, &open.record.user_id)?;
            let needs = open.record.config.as_ref().is_some_and(|config| config.requires_websocket);
            if needs && !services.websocket_on(routing) {
                ProbeResult::WsRequired
            } else if let Some(check) = check {
                let lines = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
                let came_back = lines.flat_map(|line| probe_values(scope, line)).any(|value| value == check);
                if came_back { ProbeResult::Ok } else { ProbeResult::CookieBlocked }
            } else {
                return Ok(ask_back(services, request, open.record.open_mode, scope, back));
            }
        }
        Err(OpenError::Expired | OpenError::Revoked) => ProbeResult::Expired,
        Err(OpenError::NotReady(_)) => not_ready(services, id).await?,
        Err(error) => return Err(error.into()),
    };
    services.deps.run.observer.preview_probed(result.name());
    Ok(builder.json(ProbeBody { result }))
}

/// A session that never came up: for want of WebSocket, or for another reason.
async fn not_ready(services: &PreviewServices, id: PreviewSessionId) -> Result<ProbeResult, ApiError> {
    let row = services.deps.run.store.load_preview(id).await?;
    match row.and_then(|row| row.unsupported_reason) {
        Some(UnsupportedReason::WsRequired) => Ok(ProbeResult::WsRequired),
        _ => Err(ApiError::new(runwarden_actors::contract::ErrorCode::Conflict, "the preview session is not ready")),
    }
}

fn ask_back(
    services: &PreviewServices,
    request: &HttpRequest,
    mode: OpenMode,
    scope: CookieScope,
    back: &str,
) -> HttpResponse {
    // Nothing is guarded by it: it only has to be another one each time.
    let value = services.deps.run.ids.uuid_v7().to_string();
    let mut builder = HttpResponse::Found();
    allow_page(services, request, &mut builder);
    builder
        .append_header((header::SET_COOKIE, probe_cookie(scope, mode, services.settings.path_sandbox, &value)))
        .insert_header((header::LOCATION, format!("{back}?check={value}")))
        .finish()
}
