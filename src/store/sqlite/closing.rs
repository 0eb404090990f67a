//! Ending sessions from outside: taken back with their access or their run, or over. What a transaction closes it
//! promises to announce, so that a server that dies right after it leaves nothing open elsewhere.

use runwarden_actors::contract::{PreviewSessionId, PreviewSessionState};
use runwarden_actors::ports::store::{ClosedPreview, RevocationScope};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::connection::BEGIN_WRITE;
use crate::store::failure::Failure;
use crate::store::preview_rows::{Closing, OpenRow, announcements};
use crate::store::rows::name;

/// The open sessions of a condition.
macro_rules! select_open {
    ($condition:literal, $tail:literal) => {
        concat!(
            "select preview_session_id, run_id, state from preview_session \
             where state in ('pending', 'initializing', 'ready') and ",
            $condition,
            " order by preview_session_id ",
            $tail
        )
    };
}

/// Ends the thread's open sessions by the listed transitions, within the caller's transaction: a ready one is revoked,
/// one that is still coming up fails.
pub(super) async fn close_of_thread(connection: &mut SqliteConnection, thread: &str, now: i64) -> Result<(), Failure> {
    let open: Vec<OpenRow> =
        sqlx::query_as(select_open!("thread_id = $1", "")).bind(thread).fetch_all(&mut *connection).await?;
    close(connection, open, Closing::TakenBack, now).await?;
    Ok(())
}

/// Takes back the open sessions of the scope, at most `most`.
pub(super) async fn revoke(
    connection: &mut SqliteConnection,
    scope: &RevocationScope,
    now: i64,
    most: u32,
) -> Result<Vec<ClosedPreview>, Failure> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let open: Vec<OpenRow> = match scope {
        RevocationScope::Session(id) => {
            sqlx::query_as(select_open!("preview_session_id = $1", "limit $2"))
                .bind(id.as_uuid())
                .bind(i64::from(most))
                .fetch_all(&mut *tx)
                .await?
        }
        RevocationScope::Access { user_id, repo_full_name } => {
            sqlx::query_as(select_open!("user_id = $1 and repo_full_name = $3", "limit $2"))
                .bind(user_id.as_str())
                .bind(i64::from(most))
                .bind(repo_full_name.as_str())
                .fetch_all(&mut *tx)
                .await?
        }
    };
    let closed = close(&mut tx, open, Closing::TakenBack, now).await?;
    tx.commit().await?;
    Ok(closed)
}

/// Ends the open sessions whose life is over, and those begun before `begun_before` that have not come up; at most
/// `most`.
pub(super) async fn expire(
    connection: &mut SqliteConnection,
    begun_before: i64,
    now: i64,
    most: u32,
) -> Result<Vec<ClosedPreview>, Failure> {
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let over: Vec<OpenRow> =
        sqlx::query_as(select_open!("(expires_at <= $1 or (state <> 'ready' and created_at < $3))", "limit $2"))
            .bind(now)
            .bind(i64::from(most))
            .bind(begun_before)
            .fetch_all(&mut *tx)
            .await?;
    let closed = close(&mut tx, over, Closing::Ended, now).await?;
    tx.commit().await?;
    Ok(closed)
}

async fn close(
    connection: &mut SqliteConnection,
    open: Vec<OpenRow>,
    why: Closing,
    now: i64,
) -> Result<Vec<ClosedPreview>, Failure> {
    let mut closed = Vec::with_capacity(open.len());
    for (id, run, state) in open {
        let was: PreviewSessionState = name(&state)?;
        let columns = why.columns(was);
        let revocation_version: i64 = sqlx::query_scalar(
            "update preview_session set state = $2, updated_at = $3, revocation_version = revocation_version + $4, \
             revoked_at = case when $2 = 'revoked' then $3 else revoked_at end, error_code = $5, \
             error_output = coalesce(error_output, $6) \
             where preview_session_id = $1 returning revocation_version",
        )
        .bind(id)
        .bind(columns.to.as_str())
        .bind(now)
        .bind(columns.version_step)
        .bind(columns.error_code)
        .bind(columns.error_output)
        .fetch_one(&mut *connection)
        .await?;
        let preview_session_id = PreviewSessionId::from_uuid(id);
        closed.push((run, ClosedPreview { preview_session_id, revocation_version, was, now: columns.to }));
    }
    for (run, kind, effect) in announcements(&closed)? {
        sqlx::query(
            "insert into run_effect (id, run_id, kind, effect, next_attempt_at, created_at) \
             values (randomblob(16), $1, $2, $3, $4, $4)",
        )
        .bind(run)
        .bind(kind)
        .bind(effect)
        .bind(now)
        .execute(&mut *connection)
        .await?;
    }
    Ok(closed.into_iter().map(|(_, session)| session).collect())
}
