//! `GET /api/internal/quarantine?threadId=…` (section 3): newest first.

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::limits::QUARANTINE_PAGE_MAX;
use runwarden_actors::contract::{QuarantineReason, RepoFullName, RunId, ThreadChatId, ThreadId, Timestamp};
use runwarden_actors::ports::store::QuarantineRow;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::auth::InternalCaller;
use super::{ApiError, AppState};

#[derive(Deserialize)]
// A misspelt name must not widen what is meant.
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct QuarantineQuery {
    thread_id: Option<String>,
    before: Option<String>,
}

/// A page, newest first.
#[derive(Serialize, JsonSchema)]
pub(super) struct QuarantinePage {
    items: Vec<QuarantineItem>,
    next: Option<String>,
}

/// An event that was set aside.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct QuarantineItem {
    id: String,
    thread_id: ThreadId,
    thread_chat_id: ThreadChatId,
    run_id_or_null: Option<String>,
    active_run_id: Option<RunId>,
    repo_full_name: RepoFullName,
    reason: QuarantineReason,
    payload_hash: String,
    // Written out: the rule for camel case would make it `payloadPrefix2K`.
    #[serde(rename = "payloadPrefix2k")]
    payload_prefix_2k: String,
    payload_bytes: i64,
    payload_r2_key: Option<String>,
    created_at: Timestamp,
}

/// One page of at most [`QUARANTINE_PAGE_MAX`] rows; `next` goes into `before` of the next call.
#[utoipa::path(
    get,
    path = "/api/internal/quarantine",
    tag = "quarantine",
    params(("threadId" = String, Query, description = "Thread"), ("before" = Option<String>, Query, description = "`next` of the page before")),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/QuarantinePage")),
        (status = 400, description = "`invalid_request`", body = ref("#/components/schemas/ErrorBody")),
        (status = 403, description = "`permission_denied`: the key is missing or wrong", body = ref("#/components/schemas/ErrorBody")),
        (status = 503, description = "`store_unavailable`; `Retry-After` says when to come back", body = ref("#/components/schemas/ErrorBody")),
    ),
    security(("internal" = [])),
)]
pub(super) async fn list(
    state: web::Data<AppState>,
    _: InternalCaller,
    query: web::Query<QuarantineQuery>,
) -> Result<HttpResponse, ApiError> {
    let thread = query.thread_id.as_deref().ok_or_else(|| ApiError::invalid("threadId is missing"))?;
    let thread = ThreadId::parse(thread)?;
    let before = match query.before.as_deref() {
        None => None,
        Some(text) => {
            Some(Uuid::try_parse(text).map_err(|_| ApiError::invalid("before must be a `next` of this list"))?)
        }
    };
    let rows = state.deps.store.quarantine_page(&thread, before, QUARANTINE_PAGE_MAX).await?;
    let next = if rows.len() == QUARANTINE_PAGE_MAX { rows.last().map(|row| row.id) } else { None };
    let items = rows.into_iter().map(QuarantineItem::from).collect();
    Ok(HttpResponse::Ok().json(QuarantinePage { items, next: next.map(|id| id.to_string()) }))
}

impl From<QuarantineRow> for QuarantineItem {
    fn from(row: QuarantineRow) -> Self {
        Self {
            id: row.id.to_string(),
            thread_id: row.thread_id,
            thread_chat_id: row.thread_chat_id,
            run_id_or_null: row.run_id_or_null,
            active_run_id: row.active_run_id,
            repo_full_name: row.repo_full_name,
            reason: row.reason,
            payload_hash: hex::encode(row.payload_hash),
            payload_prefix_2k: row.payload_prefix_2k,
            payload_bytes: row.payload_bytes,
            payload_r2_key: row.payload_r2_key,
            created_at: row.created_at,
        }
    }
}
