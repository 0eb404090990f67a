//! `POST /api/internal/sessions/{id}/previews` (section 8, locked).

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::{CONTAINER_PORT_MIN, INTERNAL_BODY_MAX_BYTES};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::auth::SessionCaller;
use super::super::body::read_body;
use super::super::{ApiError, AppState};
use crate::containers::error::PreviewError;
use crate::containers::no_such_container;

/// The port to register.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "only its schema is used; the body is read field by field, for the locked messages")]
pub(in crate::http) struct RegisterBody {
    /// 1024 to 65535.
    port: u16,
}

/// What was registered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct RegisteredBody {
    session_id: String,
    port: u16,
    registered: bool,
}

/// Registers the port that a session's previews show. The last one wins.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}/previews",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    request_body(content = ref("#/components/schemas/RegisterBody"), content_type = "application/json"),
    responses(
        (status = 200, description = "Registered", body = ref("#/components/schemas/RegisteredBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 409, description = "`conflict`: 10000 sessions have registered a port", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 413, description = "`payload_too_large`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 500, description = "`container_unavailable`, `container_not_running`", body = ref("#/components/schemas/LockedErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn register(
    state: web::Data<AppState>,
    _: SessionCaller,
    request: HttpRequest,
    session: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let port = read_port(&request, payload).await?;
    let session = ContainerSessionId::parse(session.as_str()).map_err(|_| no_such_container(&session))?;
    state.containers.register(&session, None, port).await?;
    Ok(HttpResponse::Ok().json(RegisteredBody { session_id: session.to_string(), port, registered: true }))
}

/// The port that a request wants to register.
pub(super) async fn read_port(request: &HttpRequest, payload: web::Payload) -> Result<u16, ApiError> {
    let body = read_body(request, payload, INTERNAL_BODY_MAX_BYTES).await.map_err(ApiError::as_locked)?;
    port_of(&body).map_err(ApiError::as_locked)
}

/// The body's port, or the locked words for what is wrong with it. A body that has none is missing it, whatever it is.
fn port_of(body: &[u8]) -> Result<u16, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(PreviewError::MissingPort.into());
    }
    // Field by field as it was written: a number that no machine holds is a wrong port and not wrong JSON.
    let Ok(fields) = serde_json::from_slice::<BTreeMap<String, Box<RawValue>>>(body) else {
        serde_json::from_slice::<IgnoredAny>(body)
            .map_err(|error| ApiError::invalid(format!("the body is not JSON: {error}")))?;
        return Err(PreviewError::MissingPort.into());
    };
    let port = fields.get("port").map(|port| serde_json::from_str(port.get()).unwrap_or(Value::from("no number")));
    let Some(port) = port.filter(|port| !port.is_null()) else {
        return Err(PreviewError::MissingPort.into());
    };
    // `3000.0` is an integer to whoever wrote it in JavaScript.
    let whole = port.as_u64().or_else(|| {
        let number = port.as_f64().filter(|number| number.fract() == 0.0)?;
        (0.0..=f64::from(u16::MAX)).contains(&number).then(|| format!("{number:.0}").parse().ok()).flatten()
    });
    let port = whole.and_then(|port| u16::try_from(port).ok()).filter(|port| *port >= CONTAINER_PORT_MIN);
    Ok(port.ok_or(PreviewError::InvalidPort)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_an_integer_from_1024_to_65535() {
        for (body, port) in [("1024", 1024), ("65535", 65535), ("3000.0", 3000), ("3e3", 3000)] {
            assert_eq!(port_of(format!("{{\"port\":{body}}}").as_bytes()).unwrap(), port, "{body}");
        }
        for body in ["1023", "65536", "-1", "0", "80.5", "1e9", "\"3000\"", "true", "[3000]", "{}", "1e400"] {
            let error = port_of(format!("{{\"port\":{body}}}").as_bytes());
            let Err(error) = error else { panic!("{body}") };
            assert_eq!(error.message(), "Port must be an integer between 1024 and 65535", "{body}");
        }
        assert_eq!(port_of(b"{\"other\":1e400,\"port\":80,\"port\":3000}").unwrap(), 3000, "the last one counts");
        for body in ["{\"port\":3000", "{port:3000}", "port=3000", "{\"port\":01e4}", "{\"port\":3000}}"] {
            let Err(error) = port_of(body.as_bytes()) else { panic!("{body}") };
            assert!(error.message().starts_with("the body is not JSON"), "{body}: {error}");
        }
        for body in ["", " ", "{}", "null", "[]", "3000", "[1e400]", "{\"port\":null}", "{\"Port\":3000}"] {
            let Err(error) = port_of(body.as_bytes()) else { panic!("{body}") };
            assert_eq!(error.message(), "Request body field 'port' is required", "{body}");
        }
    }
}
