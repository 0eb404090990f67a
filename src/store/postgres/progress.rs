//! `thread_run_progress`: the row that every writer of a run locks first, and whose revision each of them raises.

use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use crate::store::failure::Failure;

/// Locks these runs, in the order that every writer keeps to. What is read of them by later statements holds until the
/// transaction ends.
pub(super) async fn lock(connection: &mut PgConnection, runs: &[Uuid]) -> Result<(), Failure> {
    sqlx::query("select from thread_run_progress where run_id = any ($1) order by run_id for no key update")
        .bind(runs)
        .execute(connection)
        .await?;
    Ok(())
}

/// Says that these runs, which the caller has locked, were written to.
pub(super) async fn raise(connection: &mut PgConnection, runs: &[Uuid], now: OffsetDateTime) -> Result<(), Failure> {
    sqlx::query("update thread_run_progress set revision = revision + 1, updated_at = $2 where run_id = any ($1)")
        .bind(runs)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}
