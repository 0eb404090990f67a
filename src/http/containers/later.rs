//! What later phases add beside the locked routes (section 8). Each is off unless a setting asks for it, and then there
//! is no such route.

use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::{ContainerSessionId, PortName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::auth::SessionCaller;
use super::super::{ApiError, AppState};
use super::previews::read_port;
use super::session_id;
use crate::containers::error::PreviewError;
use crate::containers::no_such_container;

/// What was registered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct NamedBody {
    session_id: String,
    name: String,
    port: u16,
    registered: bool,
}

/// How a preview fares.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct HealthBody {
    session_id: String,
    port: Option<u16>,
    healthy: bool,
    /// `not_registered`, `container_unavailable`, `container_not_running`, `container_no_address`, `container_moved`,
    /// `connection_refused`, `connect_timeout`, `not_http`, `no_answer` or `server_error`.
    reason: Option<&'static str>,
    message: String,
    /// Of `GET /`.
    status: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct HealthQuery {
    name: Option<String>,
}

fn only_if(on: bool) -> Result<(), ApiError> {
    if on { Ok(()) } else { Err(ApiError::not_found("route, or it does not take this method")) }
}

fn port_name(text: &str) -> Result<PortName, ApiError> {
    PortName::parse(text).map_err(|error| ApiError::from(error).as_locked())
}

fn not_registered(session: &ContainerSessionId, name: Option<&PortName>) -> PreviewError {
    match name {
        None => PreviewError::NotRegistered(session.to_string()),
        Some(name) => PreviewError::NameNotRegistered { id: session.to_string(), name: name.to_string() },
    }
}

/// Removes the registration of the port without a name.
#[utoipa::path(
    delete,
    path = "/api/internal/sessions/{session_id}/previews",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    responses(
        (status = 204, description = "Removed"),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`: nothing is registered, or CONTAINER_PREVIEW_REMOVAL is off", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn remove(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    only_if(state.containers.settings().removal)?;
    removed(&state, &session_id(&session)?, None)
}

/// Removes the registration of a named port.
#[utoipa::path(
    delete,
    path = "/api/internal/sessions/{session_id}/previews/{name}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("name" = String, Path, description = "The port's name")),
    responses(
        (status = 204, description = "Removed"),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`: nothing is registered, or a setting is off", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn remove_named(
    state: web::Data<AppState>,
    _: SessionCaller,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let settings = state.containers.settings();
    only_if(settings.removal && settings.named_ports)?;
    removed(&state, &session_id(&path.0)?, Some(&port_name(&path.1)?))
}

fn removed(state: &AppState, session: &ContainerSessionId, name: Option<&PortName>) -> Result<HttpResponse, ApiError> {
    if state.containers.unregister(session, name) {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(not_registered(session, name).into())
    }
}

/// Registers one more port of a session, by name. The last one wins.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}/previews/{name}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("name" = String, Path, description = "1 to 32 lower-case letters, digits or `-`")),
    request_body(content = ref("#/components/schemas/RegisterBody"), content_type = "application/json"),
    responses(
        (status = 200, description = "Registered", body = ref("#/components/schemas/NamedBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`: CONTAINER_NAMED_PORTS is off", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: the session has 16 named ports", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 500, description = "`container_unavailable`, `container_not_running`", body = ref("#/components/schemas/LockedErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn register_named(
    state: web::Data<AppState>,
    _: SessionCaller,
    request: HttpRequest,
    path: web::Path<(String, String)>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    only_if(state.containers.settings().named_ports)?;
    let (session, name) = path.into_inner();
    let name = port_name(&name)?;
    let port = read_port(&request, payload).await?;
    let session = ContainerSessionId::parse(&session).map_err(|_| no_such_container(&session))?;
    state.containers.register(&session, Some(&name), port).await?;
    let body = NamedBody { session_id: session.to_string(), name: name.to_string(), port, registered: true };
    Ok(HttpResponse::Ok().json(body))
}

/// Says why a preview does not answer, or that it does.
#[utoipa::path(
    get,
    path = "/api/internal/sessions/{session_id}/preview-health",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`"), ("name" = Option<String>, Query, description = "The port's name, where it has one")),
    responses(
        (status = 200, description = "How it fares", body = ref("#/components/schemas/HealthBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`: CONTAINER_PREVIEW_HEALTH is off", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn health(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
    query: web::Query<HealthQuery>,
) -> Result<HttpResponse, ApiError> {
    only_if(state.containers.settings().health)?;
    let session = session_id(&session)?;
    let name = query.name.as_deref().map(port_name).transpose()?;
    let health = state.containers.health(&session, name.as_ref()).await;
    Ok(HttpResponse::Ok().json(HealthBody {
        session_id: session.to_string(),
        port: health.port,
        healthy: health.reason.is_none(),
        reason: health.reason,
        message: health.message,
        status: health.status,
    }))
}
