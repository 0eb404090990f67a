//! The hot path: many decisions in one transaction, one durable write.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::contract::limits::{ID_MAX_BYTES, QUARANTINE_PREFIX_BYTES};
use runwarden_actors::contract::{CommitSha, EventId, RunId, RunStatus, Seq, Timestamp};
use runwarden_actors::ports::store::{CommitOutcome, CommittedEffect, NewEvent, NewQuarantine, RunChange, RunCommit};
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use sqlx::{AssertSqlSafe, Connection};

use super::connection::{BEGIN_WRITE, acquire, settle};
use super::events::json_list;
use crate::store::batch::BatchWriter;
use crate::store::failure::Failure;
use crate::store::text::prefix;

/// Rows of `run_event` in one statement; the rest goes one by one.
const CHUNK: usize = 32;

const INSERT_EVENT: &str =
    "insert into run_event (run_id, seq, event_id, payload, payload_hash, received_at) values (?, ?, ?, ?, ?, ?)";
static INSERT_CHUNK: LazyLock<Arc<str>> =
    LazyLock::new(|| format!("{INSERT_EVENT}{}", ", (?, ?, ?, ?, ?, ?)".repeat(CHUNK - 1)).into());

/// Moves the run's place and counters where the commit applies.
const MOVE: &str = "update thread_run_progress set revision = revision + 1, updated_at = $3, \
     last_accepted_seq = coalesce($4, last_accepted_seq), accepted_count = accepted_count + $5, \
     duplicate_count = duplicate_count + $6, out_of_order_count = out_of_order_count + $7, \
     gap_count = gap_count + $8 \
     where run_id = $1 and revision = $2 \
        and ($4 is null or last_accepted_seq is null or last_accepted_seq < $4) \
        and ($9 is null or not exists (select 1 from run_event e \
            where e.run_id = $1 and e.event_id in (select value from json_each($9))))";

const CHANGE: &str = "update thread_run set status = coalesce($2, status), \
     daemon_payload_version = coalesce($3, daemon_payload_version), \
     terminal_event_id = coalesce($4, terminal_event_id), \
     terminal_kind = coalesce($5, terminal_kind), \
     run_end_sha = coalesce($6, run_end_sha), \
     missing_end_sha_at = case when $4 is not null then null else coalesce($7, missing_end_sha_at) end, \
     started_at = coalesce(started_at, $8), \
     ended_at = coalesce(ended_at, $9) \
     where run_id = $1";

/// Carries out the batches of the group commit.
pub(super) struct Writer {
    pub(super) pool: SqlitePool,
    pub(super) call_timeout: Duration,
}

#[async_trait]
impl BatchWriter for Writer {
    #[tracing::instrument(name = "store.commit", skip_all, fields(commits = commits.len()))]
    async fn write(&self, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
        let mut connection = acquire(&self.pool, self.call_timeout).await?;
        let outcome = tokio::time::timeout(self.call_timeout, write(&mut connection, commits)).await.ok();
        settle(connection, outcome)
    }
}

async fn write(connection: &mut SqliteConnection, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
    // One writer at a time, so what is read here still holds when it is written.
    let mut tx = connection.begin_with(BEGIN_WRITE).await?;
    let mut outcomes = Vec::with_capacity(commits.len());
    let mut events = Vec::new();
    for commit in commits {
        if !move_run(&mut tx, commit).await? {
            outcomes.push(CommitOutcome::Conflict);
            continue;
        }
        events.extend(commit.events.iter().map(|event| (commit.run_id, event)));
        let quarantined = quarantine(&mut tx, commit.run_id, &commit.quarantine).await?;
        for effect in &commit.effects {
            promise(&mut tx, effect, commit.now).await?;
        }
        if let Some(status) = commit.change.status {
            point(&mut tx, commit.run_id, status, commit.now).await?;
        }
        outcomes.push(CommitOutcome::Applied { quarantined });
    }
    add_events(&mut tx, &events).await?;
    tx.commit().await?;
    Ok(outcomes)
}

/// Writes the run's rows where the commit applies; whether it does.
async fn move_run(connection: &mut SqliteConnection, commit: &RunCommit) -> Result<bool, Failure> {
    let change = &commit.change;
    let event_ids: Vec<&str> =
        commit.events.iter().filter_map(|event| event.event_id.as_ref()).map(EventId::as_str).collect();
    let event_ids = if event_ids.is_empty() { None } else { Some(json_list(&event_ids)?) };
    let moved = sqlx::query(MOVE)
        .bind(commit.run_id.as_uuid())
        .bind(commit.expected_revision)
        .bind(commit.now.as_millis())
        .bind(change.last_accepted_seq.map(Seq::get))
        .bind(commit.counters.accepted)
        .bind(commit.counters.duplicate)
        .bind(commit.counters.out_of_order)
        .bind(commit.counters.gaps)
        .bind(event_ids)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    if moved == 1 && !change.only_moves() {
        change_run(connection, commit.run_id, change).await?;
    }
    Ok(moved == 1)
}

async fn change_run(connection: &mut SqliteConnection, run_id: RunId, change: &RunChange) -> Result<(), Failure> {
    let terminal = change.terminal.as_ref();
    sqlx::query(CHANGE)
        .bind(run_id.as_uuid())
        .bind(change.status.map(RunStatus::as_str))
        .bind(change.daemon_payload_version.map(i64::from))
        .bind(terminal.map(|terminal| terminal.event_id.as_str()))
        .bind(terminal.map(|terminal| terminal.kind.as_str()))
        .bind(terminal.and_then(|terminal| terminal.end_sha.as_ref()).map(CommitSha::as_str))
        .bind(change.missing_end_sha_at.map(Timestamp::as_millis))
        .bind(change.started_at.map(Timestamp::as_millis))
        .bind(change.ended_at.map(Timestamp::as_millis))
        .execute(connection)
        .await?;
    Ok(())
}

async fn add_events(connection: &mut SqliteConnection, events: &[(RunId, &NewEvent)]) -> Result<(), Failure> {
    let chunks = events.chunks_exact(CHUNK);
    let singles = chunks.remainder();
    for rows in chunks.chain(singles.chunks(1)) {
        let mut query = if rows.len() == CHUNK {
            sqlx::query(AssertSqlSafe(Arc::clone(&INSERT_CHUNK)))
        } else {
            sqlx::query(INSERT_EVENT)
        };
        for (run_id, event) in rows {
            let payload = std::str::from_utf8(&event.payload)
                .map_err(|_| Failure::Rejected("the payload of an event is not UTF-8".to_owned()))?;
            query = query
                .bind(run_id.as_uuid())
                .bind(event.seq.get())
                .bind(event.event_id.as_ref().map(EventId::as_str))
                .bind(payload)
                .bind(event.payload_hash.as_ref().map(<[u8; 32]>::as_slice))
                .bind(event.received_at.as_millis());
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Adds the rows that are new and counts them.
async fn quarantine(connection: &mut SqliteConnection, run_id: RunId, rows: &[NewQuarantine]) -> Result<u32, Failure> {
    let mut added = 0;
    for row in rows {
        added += sqlx::query(
            "insert into daemon_event_quarantine (id, thread_id, thread_chat_id, run_id_or_null, active_run_id, \
             repo_full_name, reason, payload_hash, payload_prefix_2k, payload_bytes, payload_r2_key, created_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             on conflict (thread_id, thread_chat_id, coalesce(run_id_or_null, ''), reason, payload_hash) do nothing",
        )
        .bind(row.id)
        .bind(row.thread_id.as_str())
        .bind(row.thread_chat_id.as_str())
        .bind(row.run_id_or_null.as_deref().map(|text| prefix(text, ID_MAX_BYTES)))
        .bind(row.active_run_id.map(RunId::as_uuid))
        .bind(row.repo_full_name.as_str())
        .bind(row.reason.as_str())
        .bind(row.payload_hash.as_slice())
        .bind(prefix(&row.payload_prefix_2k, QUARANTINE_PREFIX_BYTES))
        .bind(row.payload_bytes)
        .bind(row.payload_r2_key.as_deref())
        .bind(row.created_at.as_millis())
        .execute(&mut *connection)
        .await?
        .rows_affected();
    }
    let added = u32::try_from(added).unwrap_or(u32::MAX);
    if added > 0 {
        sqlx::query("update thread_run_progress set quarantined_count = quarantined_count + $2 where run_id = $1")
            .bind(run_id.as_uuid())
            .bind(i64::from(added))
            .execute(connection)
            .await?;
    }
    Ok(added)
}

async fn promise(connection: &mut SqliteConnection, promised: &CommittedEffect, now: Timestamp) -> Result<(), Failure> {
    let effect = serde_json::to_string(&promised.effect).map_err(|error| Failure::Rejected(error.to_string()))?;
    sqlx::query(
        "insert into run_effect (id, run_id, kind, effect, next_attempt_at, created_at) \
         values ($1, $2, $3, $4, $5, $5)",
    )
    .bind(promised.id)
    .bind(promised.run_id.as_uuid())
    .bind(promised.effect.kind())
    .bind(effect)
    .bind(now.as_millis())
    .execute(connection)
    .await?;
    Ok(())
}

/// Where the chat's pointer names the run, gives it the run's new status.
async fn point(
    connection: &mut SqliteConnection,
    run_id: RunId,
    status: RunStatus,
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "update thread_run_context set active_status = $2, active_updated_at = $3 \
         where active_run_id = $1 and active_status <> $2",
    )
    .bind(run_id.as_uuid())
    .bind(status.as_str())
    .bind(now.as_millis())
    .execute(connection)
    .await?;
    Ok(())
}
