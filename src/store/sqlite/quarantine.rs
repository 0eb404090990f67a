//! Quarantine: pages for people, and retention.

use async_trait::async_trait;
use runwarden_actors::contract::{ThreadId, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{QuarantineDay, QuarantineRow, QuarantineStore};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Uuid;

use super::connection::{BEGIN_WRITE, SqliteStore, settle};
use crate::store::failure::Failure;
use crate::store::rows::{QuarantineDayRow, QuarantineDbRow, records};

#[async_trait]
impl QuarantineStore for SqliteStore {
    #[tracing::instrument(name = "store.quarantine_page", skip_all)]
    async fn quarantine_page(
        &self,
        thread: &ThreadId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<QuarantineRow>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(page(&mut held, thread, before, limit)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.expired_quarantine_objects", skip_all)]
    async fn expired_quarantine_objects(&self, before: Timestamp, most: u32) -> Result<Vec<String>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(expired_objects(&mut held, before, most)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.purge_quarantine", skip_all)]
    async fn purge_quarantine(&self, before: Timestamp, most: u32) -> Result<Vec<QuarantineDay>, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(purge(&mut held, before, most)).await;
        Ok(settle(held, outcome)?)
    }
}

async fn page(
    connection: &mut SqliteConnection,
    thread: &ThreadId,
    before: Option<Uuid>,
    limit: usize,
) -> Result<Vec<QuarantineRow>, Failure> {
    // Retention takes the oldest rows first: where `before` is gone, so is all that is older.
    let rows: Vec<QuarantineDbRow> = sqlx::query_as(
        "select id, thread_id, thread_chat_id, run_id_or_null, active_run_id, repo_full_name, reason, payload_hash, \
         payload_prefix_2k, payload_bytes, payload_r2_key, created_at as created_at \
         from daemon_event_quarantine \
         where thread_id = $1 and ($2 is null or (created_at, id) < \
            (select b.created_at, b.id from daemon_event_quarantine b where b.id = $2 and b.thread_id = $1)) \
         order by created_at desc, id desc limit $3",
    )
    .bind(thread.as_str())
    .bind(before)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    records(rows)
}

async fn expired_objects(
    connection: &mut SqliteConnection,
    before: Timestamp,
    most: u32,
) -> Result<Vec<String>, Failure> {
    // Two rows may name one object: the same body set aside for two reasons.
    Ok(sqlx::query_scalar(
        "select payload_r2_key from daemon_event_quarantine where payload_r2_key is not null \
         group by payload_r2_key having max(created_at) < $1 order by min(created_at), payload_r2_key limit $2",
    )
    .bind(before.as_millis())
    .bind(i64::from(most))
    .fetch_all(connection)
    .await?)
}

async fn purge(connection: &mut SqliteConnection, before: Timestamp, most: u32) -> Result<Vec<QuarantineDay>, Failure> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    // The newest of the rows to go: they are taken oldest first, so one bound tells them all.
    let last: Option<(i64, Uuid)> = sqlx::query_as(
        "select created_at, id from (select created_at, id from daemon_event_quarantine where created_at < $1 \
         order by created_at, id limit $2) order by created_at desc, id desc limit 1",
    )
    .bind(before.as_millis())
    .bind(i64::from(most))
    .fetch_optional(&mut *tx)
    .await?;
    let Some((created_at, id)) = last else {
        tx.rollback().await?;
        return Ok(Vec::new());
    };
    let rows: Vec<QuarantineDayRow> = sqlx::query_as(
        "select date(created_at / 1000, 'unixepoch') as day, repo_full_name, reason, count(*) as rows \
         from daemon_event_quarantine where (created_at, id) <= ($1, $2) group by 1, 2, 3 order by 1, 2, 3",
    )
    .bind(created_at)
    .bind(id)
    .fetch_all(&mut *tx)
    .await?;
    let days: Vec<QuarantineDay> = records(rows)?;
    for day in &days {
        sqlx::query(
            "insert into daemon_event_quarantine_day (day, repo_full_name, reason, rows) values ($1, $2, $3, $4) \
             on conflict (day, repo_full_name, reason) do update set rows = rows + excluded.rows",
        )
        .bind(&day.day)
        .bind(day.repo_full_name.as_str())
        .bind(day.reason.as_str())
        .bind(day.rows)
        .execute(&mut *tx)
        .await?;
    }
    sqlx::query("delete from daemon_event_quarantine where (created_at, id) <= ($1, $2)")
        .bind(created_at)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(days)
}
