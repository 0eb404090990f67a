//! `POST /api/internal/runs`, `POST …/{runId}/bind`, `GET …/{runId}` (section 3).

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use runwarden_actors::contract::limits::{ID_MAX_BYTES, PAYLOAD_VERSION};
use runwarden_actors::contract::{
    AccessInvalidation, CodesandboxId, CommitSha, DiffSource, FrozenFlagSnapshot, RepoFullName, RunId, RunStatus,
    SandboxProvider, SandboxRef, Seq, StartRequestId, TerminalKind, ThreadChatId, ThreadId, Timestamp, TriggerSource,
    UserId,
};
use runwarden_actors::ports::store::{RunRecord, SandboxBinding};
use runwarden_actors::preview::invalidate_repo_access;
use runwarden_actors::run::{StartRun, bind_run_sandbox, create_run_context};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::InternalCaller;
use super::body::ApiJson;
use super::{ApiError, AppState};

/// Longest `previewConfig`, as JSON.
const PREVIEW_CONFIG_MAX_BYTES: usize = 16 * 1024;

/// What a host application asks for.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreateRun {
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    start_request_id: StartRequestId,
    trigger_source: TriggerSource,
    user_id: UserId,
    repo_full_name: RepoFullName,
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    preview_config: Option<Box<RawValue>>,
}

/// A run that was made or found.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CreatedRun {
    run_id: RunId,
    status: RunStatus,
    frozen_flag_snapshot: FrozenFlagSnapshot,
    payload_version: u8,
    daemon_token: String,
}

/// Makes a run (201) or finds the one that this start request made (200).
#[utoipa::path(
    post,
    path = "/api/internal/runs",
    tag = "runs",
    request_body(content = ref("#/components/schemas/CreateRun"), content_type = "application/json"),
    responses(
        (status = 201, description = "A new run", body = ref("#/components/schemas/CreatedRun")),
        (status = 200, description = "The run that this start request made", body = ref("#/components/schemas/CreatedRun")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`conflict`: other writers moved the chat six times in a row", body = ref("#/components/schemas/ErrorBody")),
        (status = 413, description = "`payload_too_large`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn create(
    state: web::Data<AppState>,
    _: InternalCaller,
    body: ApiJson<CreateRun>,
) -> Result<HttpResponse, ApiError> {
    let ApiJson(body) = body;
    let preview_config = match body.preview_config {
        None => None,
        Some(raw) if raw.get() == "null" => None,
        Some(raw) if raw.get().starts_with('{') && raw.get().len() <= PREVIEW_CONFIG_MAX_BYTES => {
            Some(raw.get().to_owned())
        }
        Some(_) => {
            return Err(ApiError::invalid(format!(
                "previewConfig must be an object of at most {PREVIEW_CONFIG_MAX_BYTES} bytes"
            )));
        }
    };
    let start = StartRun {
        thread_id: body.thread_id,
        thread_chat_id: body.thread_chat_id,
        start_request_id: body.start_request_id,
        trigger_source: body.trigger_source,
        user_id: body.user_id,
        repo_full_name: body.repo_full_name,
        preview_config,
    };
    let (run, created) = create_run_context(&state.deps, &start, state.rollout_phase).await?;
    if created {
        forget_access(&state, &run, AccessInvalidation::NewActiveRun).await;
    }
    let daemon_token = state
        .tokens
        .mint(&run.thread_id, &run.thread_chat_id, run.run_id, run.created_at)
        .map_err(|error| ApiError::store_unavailable(&error))?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(HttpResponse::build(status).json(CreatedRun {
        run_id: run.run_id,
        status: run.status,
        frozen_flag_snapshot: run.frozen_flag_snapshot,
        payload_version: PAYLOAD_VERSION,
        daemon_token,
    }))
}

/// Where a run works. `sandboxInstanceId` is read as `codesandboxId`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BindRun {
    #[serde(flatten)]
    sandbox: SandboxRef,
    sandbox_provider: SandboxProvider,
    run_start_sha: CommitSha,
    repo_dir: Option<String>,
}

/// Writes where the run works.
#[utoipa::path(
    post,
    path = "/api/internal/runs/{run_id}/bind",
    tag = "runs",
    params(("run_id" = String, Path, description = "The run's UUID, as text")),
    request_body(content = ref("#/components/schemas/BindRun"), content_type = "application/json"),
    responses(
        (status = 200, description = "The run", body = ref("#/components/schemas/RunBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 409, description = "`run_not_active` or `conflict`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn bind(
    state: web::Data<AppState>,
    _: InternalCaller,
    run_id: web::Path<String>,
    body: ApiJson<BindRun>,
) -> Result<HttpResponse, ApiError> {
    let run_id = run_id_of(&run_id)?;
    let ApiJson(body) = body;
    let plain = |dir: &String| !dir.is_empty() && dir.len() <= 4 * ID_MAX_BYTES && !dir.chars().any(char::is_control);
    if body.repo_dir.as_ref().is_some_and(|dir| !plain(dir)) {
        return Err(ApiError::invalid("repoDir must be 1 to 800 bytes of text without control characters"));
    }
    if body.sandbox_provider == SandboxProvider::Process && !state.process_allowed {
        return Err(ApiError::invalid("sandboxProvider process is refused: PROCESS_SANDBOX_ROOT is not set"));
    }
    let binding = SandboxBinding {
        sandbox_provider: body.sandbox_provider,
        codesandbox_id: body.sandbox.codesandbox_id,
        run_start_sha: body.run_start_sha,
        repo_dir: body.repo_dir,
    };
    let run = bind_run_sandbox(&state.deps, run_id, &binding).await?;
    forget_access(&state, &run, AccessInvalidation::Rebind).await;
    Ok(HttpResponse::Ok().json(RunBody::from(run)))
}

/// The run's row.
#[utoipa::path(
    get,
    path = "/api/internal/runs/{run_id}",
    tag = "runs",
    params(("run_id" = String, Path, description = "The run's UUID, as text")),
    responses(
        (status = 200, description = "The run", body = ref("#/components/schemas/RunBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn get(
    state: web::Data<AppState>,
    _: InternalCaller,
    run_id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let run = state.deps.store.load_run(run_id_of(&run_id)?).await?;
    let run = run.ok_or_else(|| ApiError::not_found("run"))?;
    Ok(HttpResponse::Ok().json(RunBody::from(run)))
}

/// Section 6. The run is committed already, and while the coordination store is away nobody is let in by what it
/// remembers; what is remembered ends by itself within a minute.
async fn forget_access(state: &AppState, run: &RunRecord, reason: AccessInvalidation) {
    let forgotten = invalidate_repo_access(&state.previews.deps, &run.user_id, &run.repo_full_name, reason).await;
    if let Err(error) = forgotten {
        tracing::warn!(run_id = %run.run_id, %reason, %error, "remembered access could not be forgotten");
    }
}

/// Text that is no run id names no run.
fn run_id_of(text: &str) -> Result<RunId, ApiError> {
    RunId::parse(text).map_err(|_| ApiError::not_found("run"))
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Counters {
    accepted: i64,
    duplicate: i64,
    out_of_order: i64,
    quarantined: i64,
    gaps: i64,
}

/// A run on the wire.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunBody {
    run_id: RunId,
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    start_request_id: StartRequestId,
    trigger_source: TriggerSource,
    user_id: UserId,
    repo_full_name: RepoFullName,
    status: RunStatus,
    is_active: bool,
    codesandbox_id: Option<CodesandboxId>,
    sandbox_provider: Option<SandboxProvider>,
    repo_dir: Option<String>,
    run_start_sha: Option<CommitSha>,
    run_end_sha: Option<CommitSha>,
    frozen_flag_snapshot: FrozenFlagSnapshot,
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    preview_config: Option<Box<RawValue>>,
    daemon_payload_version: Option<u8>,
    terminal_event_id: Option<String>,
    terminal_kind: Option<TerminalKind>,
    failure_reason: Option<String>,
    last_accepted_seq: Option<Seq>,
    counters: Counters,
    diff_source: Option<DiffSource>,
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    diff_source_context: Option<Box<RawValue>>,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<RunRecord> for RunBody {
    fn from(run: RunRecord) -> Self {
        let raw = |text: Option<String>| text.and_then(|text| RawValue::from_string(text).ok());
        Self {
            is_active: run.active_run_id == Some(run.run_id) && run.status.is_active(),
            run_id: run.run_id,
            thread_id: run.thread_id,
            thread_chat_id: run.thread_chat_id,
            start_request_id: run.start_request_id,
            trigger_source: run.trigger_source,
            user_id: run.user_id,
            repo_full_name: run.repo_full_name,
            status: run.status,
            codesandbox_id: run.codesandbox_id,
            sandbox_provider: run.sandbox_provider,
            repo_dir: run.repo_dir,
            run_start_sha: run.run_start_sha,
            run_end_sha: run.run_end_sha,
            frozen_flag_snapshot: run.frozen_flag_snapshot,
            preview_config: raw(run.preview_config),
            daemon_payload_version: run.daemon_payload_version,
            terminal_event_id: run.terminal_event_id,
            terminal_kind: run.terminal_kind,
            failure_reason: run.failure_reason,
            last_accepted_seq: run.last_accepted_seq,
            counters: Counters {
                accepted: run.counters.accepted,
                duplicate: run.counters.duplicate,
                out_of_order: run.counters.out_of_order,
                quarantined: run.counters.quarantined,
                gaps: run.counters.gaps,
            },
            diff_source: run.diff_source,
            diff_source_context: raw(run.diff_source_context),
            started_at: run.started_at,
            ended_at: run.ended_at,
            created_at: run.created_at,
            updated_at: run.updated_at,
        }
    }
}
