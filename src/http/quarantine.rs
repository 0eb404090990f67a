//! `GET /api/internal/quarantine?threadId=…` (section 3): newest first.

use actix_web::{HttpResponse, web};
use runwarden_actors::contract::ThreadId;
use runwarden_actors::contract::limits::QUARANTINE_PAGE_MAX;
use runwarden_actors::ports::store::QuarantineRow;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::auth::InternalCaller;
use super::{ApiError, AppState};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuarantineQuery {
    thread_id: Option<String>,
    before: Option<String>,
}

/// One page of at most [`QUARANTINE_PAGE_MAX`] rows; `next` goes into `before` of the next call.
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
    Ok(HttpResponse::Ok().json(json!({"items": rows.iter().map(row_body).collect::<Vec<_>>(), "next": next})))
}

fn row_body(row: &QuarantineRow) -> Value {
    json!({
        "id": row.id,
        "threadId": row.thread_id,
        "threadChatId": row.thread_chat_id,
        "runIdOrNull": row.run_id_or_null,
        "activeRunId": row.active_run_id,
        "repoFullName": row.repo_full_name,
        "reason": row.reason,
        "payloadHash": hex::encode(row.payload_hash),
        "payloadPrefix2k": row.payload_prefix_2k,
        "payloadBytes": row.payload_bytes,
        "payloadR2Key": row.payload_r2_key,
        "createdAt": row.created_at,
    })
}
