//! The outbox.

use async_trait::async_trait;
use runwarden_actors::contract::{ThreadId, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{DueEffect, EffectStore};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Uuid;

use super::connection::{BEGIN_WRITE, SqliteStore, settle};
use crate::store::failure::Failure;
use crate::store::rows::EffectRow;
use crate::store::text::prefix;

/// What is kept of an error, in bytes.
const ERROR_MAX_BYTES: usize = 2048;

#[async_trait]
impl EffectStore for SqliteStore {
    #[tracing::instrument(name = "store.take_due_effects", skip_all)]
    async fn take_due_effects(&self, now: Timestamp, hold_ms: i64, most: u32) -> Result<Vec<DueEffect>, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(take(&mut held, now, hold_ms, most)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.effect_done", skip_all, fields(%id))]
    async fn effect_done(&self, id: Uuid) -> Result<(), StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(done(&mut held, id)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.effect_failed", skip_all, fields(%id))]
    async fn effect_failed(&self, id: Uuid, error: &str, next_attempt_at: Option<Timestamp>) -> Result<(), StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(failed(&mut held, id, error, next_attempt_at)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.has_open_preview", skip_all)]
    async fn has_open_preview(&self, thread: &ThreadId) -> Result<bool, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(open_preview(&mut held, thread)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn take(
    connection: &mut SqliteConnection,
    now: Timestamp,
    hold_ms: i64,
    most: u32,
) -> Result<Vec<DueEffect>, Failure> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    // An attempt counts when it is taken: one that brings its server down must not be tried for ever.
    let rows: Vec<EffectRow> = sqlx::query_as(
        "select id, run_id, effect, attempts from run_effect where next_attempt_at <= $1 \
         order by next_attempt_at, created_at, id limit $2",
    )
    .bind(now.as_millis())
    .bind(i64::from(most))
    .fetch_all(&mut *tx)
    .await?;
    let mut effects = Vec::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        sqlx::query("update run_effect set attempts = attempts + 1, next_attempt_at = $2 where id = $1")
            .bind(id)
            .bind(now.plus_millis(hold_ms).as_millis())
            .execute(&mut *tx)
            .await?;
        match DueEffect::try_from(row) {
            Ok(effect) => effects.push(effect),
            // One unreadable row must not hold up the others.
            Err(failure) => {
                tracing::error!(%id, ?failure, "an effect in the outbox cannot be read and is given up");
                self::failed(&mut tx, id, "cannot be read", None).await?;
            }
        }
    }
    tx.commit().await?;
    Ok(effects)
}

async fn done(connection: &mut SqliteConnection, id: Uuid) -> Result<(), Failure> {
    sqlx::query("delete from run_effect where id = $1").bind(id).execute(connection).await?;
    Ok(())
}

async fn failed(
    connection: &mut SqliteConnection,
    id: Uuid,
    error: &str,
    next_attempt_at: Option<Timestamp>,
) -> Result<(), Failure> {
    sqlx::query("update run_effect set last_error = $2, next_attempt_at = $3 where id = $1")
        .bind(id)
        .bind(prefix(error, ERROR_MAX_BYTES))
        .bind(next_attempt_at.map(Timestamp::as_millis))
        .execute(connection)
        .await?;
    Ok(())
}

async fn open_preview(connection: &mut SqliteConnection, thread: &ThreadId) -> Result<bool, Failure> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from preview_session \
         where thread_id = $1 and state in ('pending', 'initializing', 'ready'))",
    )
    .bind(thread.as_str())
    .fetch_one(connection)
    .await?)
}
