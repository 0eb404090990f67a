//! Ending runs from outside their daemon: after the HEAD check, and by the backstop sweep.

use runwarden_actors::contract::names::FAILURE_MISSING_END_SHA_TIMEOUT;
use runwarden_actors::contract::{DiffSource, RunId};
use runwarden_actors::ports::store::{RunRecord, SweepLimits};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Uuid;

use super::connection::BEGIN_WRITE;
use super::progress;
use super::runs::load;
use crate::store::failure::Failure;

/// Gives the pointer that names this run the run's status.
async fn update_pointer(connection: &mut SqliteConnection, run: Uuid, now: i64) -> Result<(), Failure> {
    sqlx::query(
        "update thread_run_context set active_updated_at = $2, \
         active_status = (select t.status from thread_run t where t.run_id = $1) where active_run_id = $1",
    )
    .bind(run)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the diff source and ends a `validating` run.
pub(super) async fn finish(
    connection: &mut SqliteConnection,
    run_id: RunId,
    diff_source: DiffSource,
    context: &str,
    now: i64,
) -> Result<(), Failure> {
    let id = run_id.as_uuid();
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
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
        progress::raise(&mut tx, id, now).await?;
        update_pointer(&mut tx, id, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Ends stale runs as `failed`.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    limits: SweepLimits,
    now: i64,
) -> Result<Vec<RunRecord>, Failure> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let stale: Vec<Uuid> = sqlx::query_scalar(
        "select t.run_id from thread_run t join thread_run_progress p on p.run_id = t.run_id \
         where t.status in ('booting', 'running', 'validating') and (t.missing_end_sha_at < $1 or p.updated_at < $2) \
         order by p.updated_at limit $3",
    )
    .bind(limits.missing_end_sha_before.as_millis())
    .bind(limits.silent_before.as_millis())
    .bind(i64::from(limits.most))
    .fetch_all(&mut *tx)
    .await?;
    let mut ended = Vec::with_capacity(stale.len());
    for run in stale {
        sqlx::query("update thread_run set status = 'failed', failure_reason = $2, ended_at = $3 where run_id = $1")
            .bind(run)
            .bind(FAILURE_MISSING_END_SHA_TIMEOUT)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        progress::raise(&mut tx, run, now).await?;
        update_pointer(&mut tx, run, now).await?;
        ended.extend(load(&mut tx, run).await?);
    }
    tx.commit().await?;
    Ok(ended)
}
