//! `ANY /previews/{sessionId}/*` and `ANY /internal-previews/proxy/{sessionId}/*` (section 8, locked).

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};

use super::super::{ApiError, AppState};
use crate::containers::relay::Asked;

const PUBLIC: &str = "/previews/";
const INTERNAL: &str = "/internal-previews/proxy/";

/// Carries the request to the session's container, for everybody.
#[utoipa::path(
    get,
    path = "/previews/{session_id}/{path}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("path" = String, Path, description = "The app's own path")),
    responses(
        (status = 200, description = "Whatever the app answers; every method is carried"),
        (status = 404, description = "`not_found`: nothing is registered, or the route is switched off", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 1 GiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 500, description = "`container_unavailable`, `container_not_running`, `container_no_address`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 501, description = "`ws_required`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 502, description = "`upstream_unreachable`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 504, description = "`upstream_timeout`", body = ref("#/components/schemas/LockedErrorBody")),
    ),
)]
pub(in crate::http) async fn public(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let on = state.containers.settings().public;
    carry(&state, on, PUBLIC, &request, payload).await
}

/// The same for an internal network.
#[utoipa::path(
    get,
    path = "/internal-previews/proxy/{session_id}/{path}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("path" = String, Path, description = "The app's own path")),
    responses(
        (status = 200, description = "Whatever the app answers; every method is carried"),
        (status = 404, description = "`not_found`: nothing is registered, or the route is switched off", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 1 GiB", body = ref("#/components/schemas/ErrorBody")),
        (status = 500, description = "`container_unavailable`, `container_not_running`, `container_no_address`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 501, description = "`ws_required`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 502, description = "`upstream_unreachable`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 504, description = "`upstream_timeout`", body = ref("#/components/schemas/LockedErrorBody")),
    ),
)]
pub(in crate::http) async fn internal(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let on = state.containers.settings().internal;
    carry(&state, on, INTERNAL, &request, payload).await
}

async fn carry(state: &AppState, on: bool, prefix: &str, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    // The request line as it came: the router's own view of it is decoded in part.
    let whole = request.uri().path_and_query().map_or("/", |whole| whole.as_str());
    let Some(rest) = whole.strip_prefix(prefix).filter(|_| on) else {
        return ApiError::not_found("route, or it does not take this method").error_response();
    };
    let (session, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !target.starts_with('/') && state.containers.has_registered(session) {
        // Relative links of the page would lead out of the preview.
        return HttpResponse::TemporaryRedirect()
            .insert_header((LOCATION, format!("{prefix}{session}/{target}")))
            .finish();
    }
    state.containers.proxy(request, payload, Asked { session, target }).await
}
