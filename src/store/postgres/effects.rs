//! The outbox.

use async_trait::async_trait;
use runwarden_actors::contract::{ThreadId, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{DueEffect, EffectStore};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;

use super::connection::{PostgresStore, at, settle};
use crate::store::failure::Failure;
use crate::store::rows::EffectRow;
use crate::store::text::prefix;

/// What is kept of an error, in bytes.
const ERROR_MAX_BYTES: usize = 2048;

#[async_trait]
impl EffectStore for PostgresStore {
    #[tracing::instrument(name = "store.take_due_effects", skip_all)]
    async fn take_due_effects(&self, now: Timestamp, hold_ms: i64, most: u32) -> Result<Vec<DueEffect>, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(take(&mut held, now, hold_ms, most)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.effect_done", skip_all, fields(%id))]
    async fn effect_done(&self, id: Uuid) -> Result<(), StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(done(&mut held, id)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.effect_failed", skip_all, fields(%id))]
    async fn effect_failed(&self, id: Uuid, error: &str, next_attempt_at: Option<Timestamp>) -> Result<(), StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(failed(&mut held, id, error, next_attempt_at)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.has_open_preview", skip_all)]
    async fn has_open_preview(&self, thread: &ThreadId) -> Result<bool, StoreError> {
        let mut held = self.acquire().await?;
        let outcome = self.limit(open_preview(&mut held, thread)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn take(
    connection: &mut PgConnection,
    now: Timestamp,
    hold_ms: i64,
    most: u32,
) -> Result<Vec<DueEffect>, Failure> {
    // An attempt counts when it is taken: one that brings its server down must not be tried for ever.
    let rows: Vec<EffectRow> = sqlx::query_as(
        "with due as materialized ( \
            select id, attempts, next_attempt_at, created_at from run_effect where next_attempt_at <= $1 \
            order by next_attempt_at, created_at, id limit $3 for update skip locked \
         ), taken as ( \
            update run_effect e set attempts = e.attempts + 1, next_attempt_at = $2 \
            from due where e.id = due.id \
            returning e.id, e.run_id, e.effect \
         ) \
         select t.id, t.run_id, t.effect, due.attempts from taken t join due on due.id = t.id \
         order by due.next_attempt_at, due.created_at, due.id",
    )
    .bind(at(now))
    .bind(at(now.plus_millis(hold_ms)))
    .bind(i64::from(most))
    .fetch_all(&mut *connection)
    .await?;
    let mut effects = Vec::with_capacity(rows.len());
    for row in rows {
        let id = row.id;
        match DueEffect::try_from(row) {
            Ok(effect) => effects.push(effect),
            // One unreadable row must not hold up the others.
            Err(failure) => {
                tracing::error!(%id, ?failure, "an effect in the outbox cannot be read and is given up");
                self::failed(connection, id, "cannot be read", None).await?;
            }
        }
    }
    Ok(effects)
}

async fn done(connection: &mut PgConnection, id: Uuid) -> Result<(), Failure> {
    sqlx::query("delete from run_effect where id = $1").bind(id).execute(connection).await?;
    Ok(())
}

async fn failed(
    connection: &mut PgConnection,
    id: Uuid,
    error: &str,
    next_attempt_at: Option<Timestamp>,
) -> Result<(), Failure> {
    sqlx::query("update run_effect set last_error = $2, next_attempt_at = $3 where id = $1")
        .bind(id)
        .bind(prefix(error, ERROR_MAX_BYTES))
        .bind(next_attempt_at.map(at))
        .execute(connection)
        .await?;
    Ok(())
}

async fn open_preview(connection: &mut PgConnection, thread: &ThreadId) -> Result<bool, Failure> {
    Ok(sqlx::query_scalar(
        "select exists (select from preview_session \
         where thread_id = $1 and state in ('pending', 'initializing', 'ready'))",
    )
    .bind(thread.as_str())
    .fetch_one(connection)
    .await?)
}
