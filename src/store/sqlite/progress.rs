//! `thread_run_progress`: whose revision every writer of a run raises.

use sqlx::sqlite::SqliteConnection;
use sqlx::types::Uuid;

use crate::store::failure::Failure;

/// Says that the run was written to.
pub(super) async fn raise(connection: &mut SqliteConnection, run: Uuid, now: i64) -> Result<(), Failure> {
    sqlx::query("update thread_run_progress set revision = revision + 1, updated_at = $2 where run_id = $1")
        .bind(run)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}
