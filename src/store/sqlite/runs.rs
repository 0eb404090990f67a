//! Runs and their pointer: creating, binding, loading.

use async_trait::async_trait;
use runwarden_actors::contract::{DiffSource, EventId, RunId, RunStatus, Seq, ThreadChatId, ThreadId, Timestamp};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{
    BindOutcome, CommitOutcome, CreateRunOutcome, NewRun, RunCommit, RunContext, RunRecord, RunStore, SandboxBinding,
    Seen, StoredEvent, SweepLimits,
};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;
use sqlx::types::Uuid;

use super::connection::{BEGIN_WRITE, SqliteStore, settle};
use super::{closing, events, finish, progress};
use crate::store::binding::{is_bound, may_bind};
use crate::store::failure::Failure;
use crate::store::rows::{ContextRow, RunRow};
use crate::store::text::without_nul;

/// A run's row as [`RunRow`] reads it.
macro_rules! select_run {
    ($tail:literal) => {
        concat!(
            "select t.run_id, t.thread_id, t.thread_chat_id, t.start_request_id, t.trigger_source, t.user_id, \
             t.repo_full_name, t.status, t.codesandbox_id, t.sandbox_provider, t.repo_dir, t.run_start_sha, \
             t.run_end_sha, t.frozen_flag_snapshot, t.preview_config, \
             t.daemon_payload_version, t.terminal_event_id, t.terminal_kind, t.failure_reason, \
             t.missing_end_sha_at as missing_end_sha_at, \
             t.diff_source, t.diff_source_context, p.last_accepted_seq, p.accepted_count, p.duplicate_count, \
             p.out_of_order_count, p.quarantined_count, p.gap_count, p.revision, \
             t.started_at as started_at, \
             t.ended_at as ended_at, \
             t.created_at as created_at, \
             p.updated_at as updated_at, \
             c.active_run_id, \
             (select e.payload_hash from run_event e where e.run_id = t.run_id and e.seq = p.last_accepted_seq) \
                as last_payload_hash \
             from thread_run t \
             join thread_run_progress p on p.run_id = t.run_id \
             left join thread_run_context c \
                on c.thread_id = t.thread_id and c.thread_chat_id = t.thread_chat_id ",
            $tail
        )
    };
}

#[async_trait]
impl RunStore for SqliteStore {
    #[tracing::instrument(name = "store.create_run", skip_all, fields(run_id = %new.run_id))]
    async fn create_run(&self, new: &NewRun) -> Result<CreateRunOutcome, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(create(&mut held, new)).await;
        match settle(held, outcome) {
            Err(failure) if failure.is_lost_race() => Ok(CreateRunOutcome::Conflict),
            other => Ok(other?),
        }
    }

    #[tracing::instrument(name = "store.bind_run_sandbox", skip_all, fields(%run_id))]
    async fn bind_run_sandbox(
        &self,
        run_id: RunId,
        binding: &SandboxBinding,
        now: Timestamp,
    ) -> Result<BindOutcome, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(bind(&mut held, run_id, binding, now.as_millis())).await;
        match settle(held, outcome) {
            Err(failure) if failure.is_lost_race() => Ok(BindOutcome::Conflict),
            other => Ok(other?),
        }
    }

    #[tracing::instrument(name = "store.load_run", skip_all, fields(%run_id))]
    async fn load_run(&self, run_id: RunId) -> Result<Option<RunRecord>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(load(&mut held, run_id.as_uuid())).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.load_context", skip_all)]
    async fn load_context(&self, thread: &ThreadId, chat: &ThreadChatId) -> Result<Option<RunContext>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(context(&mut held, thread, chat)).await;
        Ok(settle(held, outcome)?)
    }

    async fn commit(&self, commit: RunCommit) -> Result<CommitOutcome, StoreError> {
        self.commits.commit(commit).await
    }

    #[tracing::instrument(name = "store.seen", skip_all, fields(%run_id))]
    async fn seen(&self, run_id: RunId, asked: &[(Option<EventId>, Option<Seq>)]) -> Result<Vec<Seen>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(events::seen(&mut held, run_id, asked)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.events_after", skip_all, fields(%run_id))]
    async fn events_after(
        &self,
        run_id: RunId,
        after: Option<Seq>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut held = self.reader().await?;
        let outcome = self.limit(events::after(&mut held, run_id, after, limit, max_bytes)).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.finish_run", skip_all, fields(%run_id))]
    async fn finish_run(
        &self,
        run_id: RunId,
        diff_source: DiffSource,
        context: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut held = self.writer().await?;
        let outcome =
            self.limit(finish::finish(&mut held, run_id, diff_source, &without_nul(context), now.as_millis())).await;
        Ok(settle(held, outcome)?)
    }

    #[tracing::instrument(name = "store.sweep_stale_runs", skip_all)]
    async fn sweep_stale_runs(&self, limits: SweepLimits, now: Timestamp) -> Result<Vec<RunRecord>, StoreError> {
        let mut held = self.writer().await?;
        let outcome = self.limit(finish::sweep(&mut held, limits, now.as_millis())).await;
        Ok(settle(held, outcome)?)
    }
}

/// The run's row.
pub(super) async fn load(connection: &mut SqliteConnection, run_id: Uuid) -> Result<Option<RunRecord>, Failure> {
    let row: Option<RunRow> =
        sqlx::query_as(select_run!("where t.run_id = $1")).bind(run_id).fetch_optional(connection).await?;
    row.map(RunRecord::try_from).transpose()
}

async fn loaded(connection: &mut SqliteConnection, run_id: Uuid) -> Result<Box<RunRecord>, Failure> {
    let run = load(connection, run_id).await?;
    run.map(Box::new).ok_or_else(|| Failure::Corrupt("a run is gone that was just there".to_owned()))
}

async fn context(
    connection: &mut SqliteConnection,
    thread: &ThreadId,
    chat: &ThreadChatId,
) -> Result<Option<RunContext>, Failure> {
    let row: Option<ContextRow> = sqlx::query_as(
        "select thread_id, thread_chat_id, active_run_id, active_codesandbox_id, active_sandbox_provider, \
         active_status, version, active_updated_at as active_updated_at \
         from thread_run_context where thread_id = $1 and thread_chat_id = $2",
    )
    .bind(thread.as_str())
    .bind(chat.as_str())
    .fetch_optional(connection)
    .await?;
    row.map(RunContext::try_from).transpose()
}

async fn create(connection: &mut SqliteConnection, new: &NewRun) -> Result<CreateRunOutcome, Failure> {
    let (thread, chat) = (new.thread_id.as_str(), new.thread_chat_id.as_str());
    let (run_id, now) = (new.run_id.as_uuid(), new.now.as_millis());
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    // The whole database is locked by now; the placeholder keeps the steps the same as in the other adapter.
    let first = sqlx::query(
        "insert into thread_run_context (thread_id, thread_chat_id, active_run_id, active_status, version, \
         active_updated_at) values ($1, $2, $3, $4, 0, $5) on conflict (thread_id, thread_chat_id) do nothing",
    )
    .bind(thread)
    .bind(chat)
    .bind(run_id)
    .bind(RunStatus::Booting.as_str())
    .bind(now)
    .execute(&mut *tx)
    .await?
    .rows_affected()
        == 1;
    let (active, version): (Uuid, i64) = sqlx::query_as(
        "select active_run_id, version from thread_run_context where thread_id = $1 and thread_chat_id = $2",
    )
    .bind(thread)
    .bind(chat)
    .fetch_one(&mut *tx)
    .await?;
    let known: Option<Uuid> = sqlx::query_scalar(
        "select run_id from thread_run where thread_id = $1 and thread_chat_id = $2 and start_request_id = $3",
    )
    .bind(thread)
    .bind(chat)
    .bind(new.start_request_id.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    if let Some(known) = known {
        let run = loaded(&mut tx, known).await?;
        tx.rollback().await?;
        return Ok(CreateRunOutcome::Known(run));
    }
    let superseded = (!first).then(|| RunId::from_uuid(active));
    if superseded.is_some() {
        supersede(&mut tx, thread, chat, active, now).await?;
    }
    insert(&mut tx, new, now).await?;
    let moved = sqlx::query(
        "update thread_run_context set active_run_id = $3, active_codesandbox_id = null, \
         active_sandbox_provider = null, active_status = $4, version = version + 1, active_updated_at = $5 \
         where thread_id = $1 and thread_chat_id = $2 and version = $6",
    )
    .bind(thread)
    .bind(chat)
    .bind(run_id)
    .bind(RunStatus::Booting.as_str())
    .bind(now)
    .bind(version)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if moved != 1 {
        tx.rollback().await?;
        return Ok(CreateRunOutcome::Conflict);
    }
    closing::close_of_thread(&mut tx, thread, now).await?;
    let run = loaded(&mut tx, run_id).await?;
    tx.commit().await?;
    Ok(CreateRunOutcome::Created { run, superseded })
}

/// Ends what is active in the chat. The revision of the former run goes up even if it had ended: its actor, perhaps
/// on another server, must notice.
async fn supersede(
    connection: &mut SqliteConnection,
    thread: &str,
    chat: &str,
    former: Uuid,
    now: i64,
) -> Result<(), Failure> {
    let runs: Vec<Uuid> = sqlx::query_scalar(
        "select run_id from thread_run where thread_id = $1 and thread_chat_id = $2 \
         and (run_id = $3 or status in ('booting', 'running', 'validating'))",
    )
    .bind(thread)
    .bind(chat)
    .bind(former)
    .fetch_all(&mut *connection)
    .await?;
    for run in runs {
        end(connection, run, now).await?;
        progress::raise(connection, run, now).await?;
    }
    Ok(())
}

/// Ends the run as `finished` where it has not ended.
async fn end(connection: &mut SqliteConnection, run: Uuid, now: i64) -> Result<(), Failure> {
    sqlx::query(
        "update thread_run set ended_at = $2, status = 'finished' \
         where run_id = $1 and status in ('booting', 'running', 'validating')",
    )
    .bind(run)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert(connection: &mut SqliteConnection, new: &NewRun, now: i64) -> Result<(), Failure> {
    let snapshot =
        serde_json::to_string(&new.frozen_flag_snapshot).map_err(|error| Failure::Rejected(error.to_string()))?;
    sqlx::query(
        "insert into thread_run (run_id, thread_id, thread_chat_id, start_request_id, trigger_source, user_id, \
         repo_full_name, status, frozen_flag_snapshot, preview_config, created_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(new.run_id.as_uuid())
    .bind(new.thread_id.as_str())
    .bind(new.thread_chat_id.as_str())
    .bind(new.start_request_id.as_str())
    .bind(new.trigger_source.as_str())
    .bind(new.user_id.as_str())
    .bind(new.repo_full_name.as_str())
    .bind(RunStatus::Booting.as_str())
    .bind(snapshot)
    .bind(new.preview_config.as_deref())
    .bind(now)
    .execute(&mut *connection)
    .await?;
    sqlx::query("insert into thread_run_progress (run_id, updated_at) values ($1, $2)")
        .bind(new.run_id.as_uuid())
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

async fn bind(
    connection: &mut SqliteConnection,
    run_id: RunId,
    binding: &SandboxBinding,
    now: i64,
) -> Result<BindOutcome, Failure> {
    let id = run_id.as_uuid();
    // The chat of a run never changes, so it can be read before anything is locked.
    let Some(before) = load(connection, id).await? else {
        return Ok(BindOutcome::NotFound);
    };
    let (thread, chat) = (before.thread_id.as_str(), before.thread_chat_id.as_str());
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let pointer: Option<(Uuid, i64)> = sqlx::query_as(
        "select active_run_id, version from thread_run_context where thread_id = $1 and thread_chat_id = $2",
    )
    .bind(thread)
    .bind(chat)
    .fetch_optional(&mut *tx)
    .await?;
    let run = loaded(&mut tx, id).await?;
    let version = match pointer {
        Some((active, version)) if active == id && may_bind(&run, &binding.run_start_sha) => version,
        _ => {
            tx.rollback().await?;
            return Ok(BindOutcome::NotActive(run));
        }
    };
    if is_bound(&run, binding) {
        tx.rollback().await?;
        return Ok(BindOutcome::Bound(run));
    }
    let status = if run.status == RunStatus::Booting { RunStatus::Running } else { run.status };
    sqlx::query(
        "update thread_run set codesandbox_id = $2, sandbox_provider = $3, repo_dir = $4, run_start_sha = $5, \
         status = $6 where run_id = $1",
    )
    .bind(id)
    .bind(binding.codesandbox_id.as_str())
    .bind(binding.sandbox_provider.as_str())
    .bind(binding.repo_dir.as_deref())
    .bind(binding.run_start_sha.as_str())
    .bind(status.as_str())
    .execute(&mut *tx)
    .await?;
    progress::raise(&mut tx, id, now).await?;
    let moved = sqlx::query(
        "update thread_run_context set active_codesandbox_id = $3, active_sandbox_provider = $4, active_status = $5, \
         version = version + 1, active_updated_at = $6 where thread_id = $1 and thread_chat_id = $2 and version = $7",
    )
    .bind(thread)
    .bind(chat)
    .bind(binding.codesandbox_id.as_str())
    .bind(binding.sandbox_provider.as_str())
    .bind(status.as_str())
    .bind(now)
    .bind(version)
    .execute(&mut *tx)
    .await?
    .rows_affected();
    if moved != 1 {
        tx.rollback().await?;
        return Ok(BindOutcome::Conflict);
    }
    closing::close_of_thread(&mut tx, thread, now).await?;
    let run = loaded(&mut tx, id).await?;
    tx.commit().await?;
    Ok(BindOutcome::Bound(run))
}
