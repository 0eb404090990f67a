//! `ANY /previews/{sessionId}/*` and `ANY /internal-previews/proxy/{sessionId}/*` (section 8, locked).

use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};

use super::super::{ApiError, AppState};
use super::escapes::plain;
use crate::containers::relay::Asked;

const PUBLIC: &str = "/previews/";
const INTERNAL: &str = "/internal-previews/proxy/";
const PUBLIC_NAMED: &str = "/preview-ports/";
const INTERNAL_NAMED: &str = "/internal-previews/ports/";

/// Carries the request to the session's container, for everybody.
#[utoipa::path(
    get,
    path = "/previews/{session_id}/{path}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("path" = String, Path, description = "The app's own path")),
    responses(
        (status = 200, description = "Whatever the app answers; every method is carried"),
        (status = 404, description = "`not_found`: nothing is registered, or the route is switched off", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 413, description = "`payload_too_large`: at most 1 GiB", body = ref("#/components/schemas/LockedErrorBody")),
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
        (status = 413, description = "`payload_too_large`: at most 1 GiB", body = ref("#/components/schemas/LockedErrorBody")),
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

/// A named port, for everybody. Off unless `CONTAINER_NAMED_PORTS` is on.
#[utoipa::path(
    get,
    path = "/preview-ports/{session_id}/{path}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("path" = String, Path, description = "The port's name, and behind it the app's own path")),
    responses((status = 200, description = "Whatever the app answers; errors are those of `/previews`")),
)]
pub(in crate::http) async fn public_named(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let settings = state.containers.settings();
    carry_named(&state, settings.public, PUBLIC_NAMED, &request, payload).await
}

/// The same for an internal network.
#[utoipa::path(
    get,
    path = "/internal-previews/ports/{session_id}/{path}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("path" = String, Path, description = "The port's name, and behind it the app's own path")),
    responses((status = 200, description = "Whatever the app answers; errors are those of `/internal-previews/proxy`")),
)]
pub(in crate::http) async fn internal_named(
    state: web::Data<AppState>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let settings = state.containers.settings();
    carry_named(&state, settings.internal, INTERNAL_NAMED, &request, payload).await
}

async fn carry(state: &AppState, on: bool, prefix: &str, request: &HttpRequest, payload: web::Payload) -> HttpResponse {
    let Some(rest) = behind(request, prefix).filter(|_| on) else { return nothing() };
    let (written, target) = first_segment(rest);
    let session = plain(written);
    if !target.starts_with('/') && state.containers.has_registered(&session, None) {
        return with_slash(&format!("{prefix}{written}/{target}"));
    }
    state.containers.proxy(request, payload, Asked { session: &session, name: None, target }).await
}

async fn carry_named(
    state: &AppState,
    on: bool,
    prefix: &str,
    request: &HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let on = on && state.containers.settings().named_ports;
    let Some(rest) = behind(request, prefix).filter(|_| on) else { return nothing() };
    let (written, rest) = first_segment(rest);
    let (written_name, target) = first_segment(rest.strip_prefix('/').unwrap_or_default());
    let (session, name) = (plain(written), plain(written_name));
    if !target.starts_with('/') && state.containers.has_registered(&session, Some(&name)) {
        return with_slash(&format!("{prefix}{written}/{written_name}/{target}"));
    }
    state.containers.proxy(request, payload, Asked { session: &session, name: Some(&name), target }).await
}

/// The request line as it came, behind the prefix: the router's own view of it is decoded in part.
fn behind<'a>(request: &'a HttpRequest, prefix: &str) -> Option<&'a str> {
    request.uri().path_and_query().and_then(|whole| whole.as_str().strip_prefix(prefix))
}

fn first_segment(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()))
}

/// Without the slash, relative links of the page would lead out of the preview.
fn with_slash(to: &str) -> HttpResponse {
    HttpResponse::TemporaryRedirect().insert_header((LOCATION, to)).finish()
}

fn nothing() -> HttpResponse {
    ApiError::not_found("route, or it does not take this method").error_response()
}
