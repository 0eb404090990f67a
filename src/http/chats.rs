//! `GET /api/internal/threads/{threadId}/chats/{threadChatId}` (section 3).

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::{ThreadChatId, ThreadId};
use runwarden_actors::ports::store::{RunContext, UiValidation};
use serde_json::{Value, json};

use super::auth::InternalCaller;
use super::{ApiError, AppState};

/// The chat's pointer and its validation outcome; either is null where there is none.
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
    Ok(HttpResponse::Ok().json(json!({
        "context": context.as_ref().map(context_body),
        "uiValidation": ui_validation.as_ref().map(ui_validation_body),
    })))
}

fn context_body(context: &RunContext) -> Value {
    json!({
        "threadId": context.thread_id,
        "threadChatId": context.thread_chat_id,
        "activeRunId": context.active_run_id,
        "activeCodesandboxId": context.active_codesandbox_id,
        "activeSandboxProvider": context.active_sandbox_provider,
        "activeStatus": context.active_status,
        "version": context.version,
        "activeUpdatedAt": context.active_updated_at,
    })
}

fn ui_validation_body(validation: &UiValidation) -> Value {
    json!({
        "threadId": validation.thread_id,
        "threadChatId": validation.thread_chat_id,
        "latestRunId": validation.latest_run_id,
        "uiValidationOutcome": validation.outcome,
        "readyDowngradeState": validation.ready_downgrade_state,
        "blockingReason": validation.blocking_reason,
        "updatedAt": validation.updated_at,
    })
}
