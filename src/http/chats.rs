//! `GET /api/internal/threads/{threadId}/chats/{threadChatId}` (section 3).

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::{
    CodesandboxId, ReadyDowngradeState, RunId, RunStatus, SandboxProvider, ThreadChatId, ThreadId, Timestamp,
    UiValidationOutcome,
};
use runwarden_actors::ports::store::{RunContext, UiValidation};
use schemars::JsonSchema;
use serde::Serialize;

use super::auth::InternalCaller;
use super::{ApiError, AppState};

/// A chat: its pointer and its validation outcome; either is null where there is none.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChatBody {
    context: Option<ContextBody>,
    ui_validation: Option<UiValidationBody>,
}

/// The chat's pointer.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ContextBody {
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    active_run_id: RunId,
    active_codesandbox_id: Option<CodesandboxId>,
    active_sandbox_provider: Option<SandboxProvider>,
    active_status: RunStatus,
    version: i64,
    active_updated_at: Timestamp,
}

/// The chat's validation outcome.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct UiValidationBody {
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    latest_run_id: RunId,
    ui_validation_outcome: UiValidationOutcome,
    ready_downgrade_state: ReadyDowngradeState,
    blocking_reason: Option<String>,
    updated_at: Timestamp,
}

/// The chat's pointer and its validation outcome.
#[utoipa::path(
    get,
    path = "/api/internal/threads/{thread_id}/chats/{chat_id}",
    tag = "runs",
    params(("thread_id" = String, Path, description = "Thread"), ("chat_id" = String, Path, description = "Chat")),
    responses(
        (status = 200, description = "The chat", body = ref("#/components/schemas/ChatBody")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 404, description = "`not_found`", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn get(
    state: web::Data<AppState>,
    _: InternalCaller,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let (thread, chat) = path.into_inner();
    let (thread, chat) = (ThreadId::parse(thread)?, ThreadChatId::parse(chat)?);
    let context = state.deps.store.load_context(&thread, &chat).await?;
    let ui_validation = state.deps.store.load_ui_validation(&thread, &chat).await?;
    if context.is_none() && ui_validation.is_none() {
        return Err(ApiError::not_found("chat"));
    }
    Ok(HttpResponse::Ok().json(ChatBody {
        context: context.map(ContextBody::from),
        ui_validation: ui_validation.map(UiValidationBody::from),
    }))
}

impl From<RunContext> for ContextBody {
    fn from(context: RunContext) -> Self {
        Self {
            thread_id: context.thread_id,
            thread_chat_id: context.thread_chat_id,
            active_run_id: context.active_run_id,
            active_codesandbox_id: context.active_codesandbox_id,
            active_sandbox_provider: context.active_sandbox_provider,
            active_status: context.active_status,
            version: context.version,
            active_updated_at: context.active_updated_at,
        }
    }
}

impl From<UiValidation> for UiValidationBody {
    fn from(validation: UiValidation) -> Self {
        Self {
            thread_id: validation.thread_id,
            thread_chat_id: validation.thread_chat_id,
            latest_run_id: validation.latest_run_id,
            ui_validation_outcome: validation.outcome,
            ready_downgrade_state: validation.ready_downgrade_state,
            blocking_reason: validation.blocking_reason,
            updated_at: validation.updated_at,
        }
    }
}
