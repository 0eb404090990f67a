//! `POST|GET|DELETE /api/internal/sessions/{id}`, `POST …/start`, `POST …/stop` (section 8).

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use runwarden_actors::contract::limits::CONTAINER_STOP_GRACE_MAX_SECONDS;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::auth::SessionCaller;
use super::super::body::{ApiJson, OptionalJson};
use super::super::{ApiError, AppState};
use super::{environment, session_id};
use crate::config::ContainerBounds;
use crate::sandbox::{ContainerSpec, ContainerView};

/// Most words of a command.
const COMMAND_WORDS_MAX: usize = 256;

/// What is to run, and within which bounds; the operator's settings are both default and maximum.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct CreateContainer {
    /// An image that the engine has.
    image: Option<String>,
    /// Program and arguments; without them the container waits for `exec`.
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// User, or `user:group`, by name or number.
    user: Option<String>,
    memory_bytes: Option<u64>,
    /// Thousandths of a CPU.
    cpu_millis: Option<u64>,
    pids: Option<u64>,
    read_only_root: Option<bool>,
}

/// How long a container may take to end.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct StopContainer {
    /// 0 to 10.
    grace_seconds: Option<u32>,
}

/// A session's container at this moment.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ContainerBody {
    session_id: String,
    container_id: String,
    name: String,
    /// As the engine calls it: `created`, `running`, `paused`, `exited` and so on.
    state: String,
    running: bool,
    image: String,
    /// Null until it was started for the first time.
    started_at: Option<String>,
    address: Option<String>,
    /// Whether it was created here, within our bounds.
    managed: bool,
    preview_port: Option<u16>,
}

impl CreateContainer {
    fn spec(self, bounds: &ContainerBounds) -> Result<ContainerSpec, ApiError> {
        let bounded = |name: &str, wanted: Option<u64>, min: u64, max: u64| match wanted {
            None => Ok(max),
            Some(wanted) if (min..=max).contains(&wanted) => Ok(wanted),
            Some(_) => Err(ApiError::invalid(format!("{name} must be from {min} to {max}"))),
        };
        let clean = |text: &str, max: usize| !text.is_empty() && text.len() <= max && !text.contains(char::is_control);
        let image = self.image.or_else(|| bounds.image.clone());
        let image = image.ok_or_else(|| ApiError::invalid("image is missing, and CONTAINER_IMAGE names none"))?;
        if !clean(&image, 255) {
            return Err(ApiError::invalid("image must be short text without control characters"));
        }
        if self.user.as_deref().is_some_and(|user| !is_user(user)) {
            let message = "user must be a user, or a user and a group (`user:group`), each by name or by number up to \
                           2147483647";
            return Err(ApiError::invalid(message));
        }
        if self.command.len() > COMMAND_WORDS_MAX || self.command.iter().any(|word| word.contains('\0')) {
            return Err(ApiError::invalid(format!("command must be at most {COMMAND_WORDS_MAX} words without NUL")));
        }
        if bounds.read_only_root && self.read_only_root == Some(false) {
            return Err(ApiError::invalid("readOnlyRoot must be true: CONTAINER_READ_ONLY_ROOT is on"));
        }
        Ok(ContainerSpec {
            image,
            command: self.command,
            env: environment(self.env)?,
            user: self.user,
            memory_bytes: bounded("memoryBytes", self.memory_bytes, 8 * 1024 * 1024, bounds.memory_max_bytes)?,
            cpu_millis: bounded("cpuMillis", self.cpu_millis, 10, bounds.cpu_max_millis)?,
            pids: bounded("pids", self.pids, 2, bounds.pids_max)?,
            read_only_root: self.read_only_root.unwrap_or(bounds.read_only_root),
        })
    }
}

/// Whether it can name a user and a group. Whether the image has them is seen when the container starts.
fn is_user(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'$');
    let one = |part: &str| {
        let name = part.len() <= 64 && part.bytes().all(letters) && !part.starts_with(['-', '.', '$']);
        let number = part.bytes().all(|byte| byte.is_ascii_digit());
        !part.is_empty() && if number { part.parse::<i32>().is_ok() } else { name }
    };
    text.split(':').count() <= 2 && text.split(':').all(one)
}

/// The engine writes the year 1 for a container that was never started.
fn started_at(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty() && !text.starts_with("0001-"))
}

async fn answer(state: &AppState, session: &str, status: StatusCode) -> Result<HttpResponse, ApiError> {
    let session = session_id(session)?;
    let view: ContainerView = state.containers.engine().inspect(&session).await?;
    Ok(HttpResponse::build(status).json(ContainerBody {
        session_id: session.to_string(),
        container_id: view.life.id,
        name: session.container_name(),
        state: view.state,
        running: view.running,
        image: view.image,
        started_at: started_at(view.life.started_at),
        address: view.endpoint.map(|endpoint| endpoint.address.to_string()),
        managed: view.ours,
        preview_port: state.containers.port(&session),
    }))
}

/// Makes a session's container; `start` runs it.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    request_body(content = ref("#/components/schemas/CreateContainer"), content_type = "application/json"),
    responses(
        (status = 201, description = "Made, not started", body = ref("#/components/schemas/ContainerBody")),
        (status = 400, description = "`invalid_request`: above a bound, or no such image", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 409, description = "`conflict`: there is one", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn create(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
    body: ApiJson<CreateContainer>,
) -> Result<HttpResponse, ApiError> {
    let id = session_id(&session)?;
    let settings = state.containers.settings();
    let spec = body.0.spec(&settings.bounds)?;
    state.containers.engine().create(&id, &spec, &settings.around).await?;
    tracing::info!(session_id = %id, image = spec.image, "container created");
    answer(&state, &session, StatusCode::CREATED).await
}

/// A session's container at this moment.
#[utoipa::path(
    get,
    path = "/api/internal/sessions/{session_id}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    responses(
        (status = 200, description = "The container", body = ref("#/components/schemas/ContainerBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn get(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    answer(&state, &session, StatusCode::OK).await
}

/// Starts it; nothing happens where it runs.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}/start",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    responses(
        (status = 200, description = "It runs", body = ref("#/components/schemas/ContainerBody")),
        (status = 400, description = "`invalid_request`: what it was made with is wrong, such as a user that the image does not have", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn start(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = session_id(&session)?;
    let _in_use = state.containers.in_use(&id);
    state.containers.engine().start(&id).await?;
    tracing::info!(session_id = %id, "container started");
    answer(&state, &session, StatusCode::OK).await
}

/// Stops it; nothing happens where it does not run. Its workspace stays.
#[utoipa::path(
    post,
    path = "/api/internal/sessions/{session_id}/stop",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    request_body(content = ref("#/components/schemas/StopContainer"), content_type = "application/json"),
    responses(
        (status = 200, description = "It does not run", body = ref("#/components/schemas/ContainerBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn stop(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
    body: OptionalJson<StopContainer>,
) -> Result<HttpResponse, ApiError> {
    let id = session_id(&session)?;
    let grace = body.0.grace_seconds.unwrap_or(CONTAINER_STOP_GRACE_MAX_SECONDS);
    if grace > CONTAINER_STOP_GRACE_MAX_SECONDS {
        return Err(ApiError::invalid(format!("graceSeconds must be from 0 to {CONTAINER_STOP_GRACE_MAX_SECONDS}")));
    }
    state.containers.engine().stop(&id, grace).await?;
    tracing::info!(session_id = %id, "container stopped");
    answer(&state, &session, StatusCode::OK).await
}

/// Removes it with its workspace, whether it runs or not.
#[utoipa::path(
    delete,
    path = "/api/internal/sessions/{session_id}",
    tag = "containers",
    params(("session_id" = String, Path, description = "The container's name behind `sandbox-session-`")),
    responses(
        (status = 204, description = "Removed"),
        (status = 403, description = "`permission_denied`: `Forbidden`", body = ref("#/components/schemas/LockedErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: it is being removed", body = ref("#/components/schemas/ErrorBody")),
        (status = 502, description = "`upstream_unreachable`: the engine refused or is away", body = ref("#/components/schemas/ErrorBody")),
        (status = 504, description = "`upstream_timeout`: the engine did not answer in time", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(in crate::http) async fn remove(
    state: web::Data<AppState>,
    _: SessionCaller,
    session: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = session_id(&session)?;
    state.containers.engine().remove(&id).await?;
    tracing::info!(session_id = %id, "container removed");
    Ok(HttpResponse::NoContent().finish())
}
