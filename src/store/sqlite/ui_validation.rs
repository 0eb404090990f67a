//! Chats' validation outcomes.

use async_trait::async_trait;
use runwarden_actors::contract::{ThreadChatId, ThreadId, Timestamp, UiValidationOutcome};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{RunRecord, UiValidation, UiValidationStore};
use sqlx::sqlite::SqliteConnection;

use super::connection::{SqliteStore, settle};
use crate::store::failure::Failure;
use crate::store::rows::UiValidationRow;

#[async_trait]
impl UiValidationStore for SqliteStore {
    #[tracing::instrument(name = "store.load_ui_validation", skip_all)]
    async fn load_ui_validation(
        &self,
        thread: &ThreadId,
        chat: &ThreadChatId,
    ) -> Result<Option<UiValidation>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(load(&mut held, thread, chat)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.record_ui_outcome", skip_all, fields(run_id = %run.run_id))]
    async fn record_ui_outcome(
        &self,
        run: &RunRecord,
        outcome: UiValidationOutcome,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut held = self.writer().await?;
        let written = self.limit(record(&mut held, run, outcome, now)).await;
        Ok(settle(held, written)?)
    }
}

async fn load(
    connection: &mut SqliteConnection,
    thread: &ThreadId,
    chat: &ThreadChatId,
) -> Result<Option<UiValidation>, Failure> {
    let row: Option<UiValidationRow> = sqlx::query_as(
        "select thread_id, thread_chat_id, latest_run_id, ui_validation_outcome, ready_downgrade_state, \
         blocking_reason, updated_at as updated_at \
         from thread_ui_validation where thread_id = $1 and thread_chat_id = $2",
    )
    .bind(thread.as_str())
    .bind(chat.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(UiValidation::try_from).transpose()
}

async fn record(
    connection: &mut SqliteConnection,
    run: &RunRecord,
    outcome: UiValidationOutcome,
    now: Timestamp,
) -> Result<(), Failure> {
    // A pull request is turned back to draft once per run, so a newer run starts without that fact.
    sqlx::query(
        "insert into thread_ui_validation as v (thread_id, thread_chat_id, latest_run_id, ui_validation_outcome, \
         created_at, updated_at) values ($1, $2, $3, $4, $5, $5) \
         on conflict (thread_id, thread_chat_id) do update set \
            latest_run_id = excluded.latest_run_id, \
            ui_validation_outcome = excluded.ui_validation_outcome, \
            updated_at = excluded.updated_at, \
            blocking_reason = case when excluded.ui_validation_outcome = 'blocked' then v.blocking_reason end, \
            ready_downgrade_state = case when v.latest_run_id = excluded.latest_run_id \
                then v.ready_downgrade_state else 'not_attempted' end, \
            ready_downgrade_run_id = case when v.latest_run_id = excluded.latest_run_id \
                then v.ready_downgrade_run_id end, \
            ready_downgraded_at = case when v.latest_run_id = excluded.latest_run_id then v.ready_downgraded_at end \
         where v.latest_run_id <= excluded.latest_run_id",
    )
    .bind(run.thread_id.as_str())
    .bind(run.thread_chat_id.as_str())
    .bind(run.run_id.as_uuid())
    .bind(outcome.as_str())
    .bind(now.as_millis())
    .execute(connection)
    .await?;
    Ok(())
}
