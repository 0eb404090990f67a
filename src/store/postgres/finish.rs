//! Ending runs from outside their daemon: after the HEAD check, and by the backstop sweep.

use runwarden_actors::contract::names::FAILURE_MISSING_END_SHA_TIMEOUT;
use runwarden_actors::contract::{DiffSource, RunId};
use runwarden_actors::ports::store::{RunRecord, SweepLimits};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use super::connection::at;
use super::progress;
use super::runs::select_run;
use crate::store::failure::Failure;
use crate::store::rows::{RunRow, records};

/// Locks the pointers that name these runs, in the order that every writer keeps to.
async fn lock_pointers(connection: &mut PgConnection, runs: &[Uuid]) -> Result<(), Failure> {
    sqlx::query(
        "select from thread_run_context where active_run_id = any ($1) order by thread_id, thread_chat_id for update",
    )
    .bind(runs)
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives the pointers that name these runs the runs' status.
async fn update_pointers(connection: &mut PgConnection, runs: &[Uuid], now: OffsetDateTime) -> Result<(), Failure> {
    sqlx::query(
        "update thread_run_context c set active_status = t.status, active_updated_at = $2 \
         from thread_run t where t.run_id = c.active_run_id and c.active_run_id = any ($1)",
    )
    .bind(runs)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the diff source and ends a `validating` run.
pub(super) async fn finish(
    connection: &mut PgConnection,
    run_id: RunId,
    diff_source: DiffSource,
    context: &str,
    now: OffsetDateTime,
) -> Result<(), Failure> {
    let id = run_id.as_uuid();
    let mut tx = connection.begin().await?;
    lock_pointers(&mut tx, &[id]).await?;
    progress::lock(&mut tx, &[id]).await?;
    let ended = sqlx::query(
        "update thread_run set diff_source = $2, diff_source_context = $3, ended_at = $4, \
         status = case when terminal_kind = 'failed' then 'failed' else 'finished' end \
         where run_id = $1 and status = 'validating'",
    )
    .bind(id)
    .bind(diff_source.as_str())
    .bind(context)
    .bind(now)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if ended == 1 {
        progress::raise(&mut tx, &[id], now).await?;
        update_pointers(&mut tx, &[id], now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Ends stale runs as `failed`.
pub(super) async fn sweep(
    connection: &mut PgConnection,
    limits: SweepLimits,
    now: OffsetDateTime,
) -> Result<Vec<RunRecord>, Failure> {
    let (missing, silent) = (at(limits.missing_end_sha_before), at(limits.silent_before));
    let mut tx = connection.begin().await?;
    let stale: Vec<Uuid> = sqlx::query_scalar(
        "select t.run_id from thread_run t join thread_run_progress p on p.run_id = t.run_id \
         where t.status in ('booting', 'running', 'validating') and (t.missing_end_sha_at < $1 or p.updated_at < $2) \
         order by p.updated_at limit $3",
    )
    .bind(missing)
    .bind(silent)
    .bind(i64::from(limits.most))
    .fetch_all(&mut *tx)
    .await?;
    if stale.is_empty() {
        tx.rollback().await?;
        return Ok(Vec::new());
    }
    lock_pointers(&mut tx, &stale).await?;
    progress::lock(&mut tx, &stale).await?;
    // A sign of life may have come in meanwhile.
    let still: Vec<Uuid> = sqlx::query_scalar(
        "select t.run_id from thread_run t join thread_run_progress p on p.run_id = t.run_id \
         where t.run_id = any ($1) and t.status in ('booting', 'running', 'validating') \
            and (t.missing_end_sha_at < $2 or p.updated_at < $3)",
    )
    .bind(&stale)
    .bind(missing)
    .bind(silent)
    .fetch_all(&mut *tx)
    .await?;
    sqlx::query("update thread_run set status = 'failed', failure_reason = $2, ended_at = $3 where run_id = any ($1)")
        .bind(&still)
        .bind(FAILURE_MISSING_END_SHA_TIMEOUT)
        .bind(now)
        .execute(&mut *tx)
        .await?;
    progress::raise(&mut tx, &still, now).await?;
    update_pointers(&mut tx, &still, now).await?;
    let rows: Vec<RunRow> =
        sqlx::query_as(select_run!("where t.run_id = any ($1)")).bind(&still).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    records(rows)
}
