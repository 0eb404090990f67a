//! The hot path: many decisions as one statement, one round trip, one durable write.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runwarden_actors::contract::limits::{ID_MAX_BYTES, QUARANTINE_PREFIX_BYTES};
use runwarden_actors::contract::{CommitSha, EventId, RunId, RunStatus, Seq};
use runwarden_actors::ports::store::{CommitOutcome, NewEvent, NewQuarantine, RunCommit};
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};
use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use super::connection::{PING_AFTER_IDLE, acquire, at};
use super::plain::{is_plain, write_plain};
use super::reach::Reach;
use crate::store::batch::BatchWriter;
use crate::store::failure::Failure;
use crate::store::text::prefix;

const COMMIT: &str = include_str!("commit.sql");

/// Longest time that a connection stays away from the pool, which bounds its life.
const KEPT_FOR: Duration = Duration::from_mins(1);

/// Carries out the batches of the group commit.
///
/// It keeps its connections from one batch to the next: a pool asks the database whether each connection that comes
/// back is still good, a second round trip for every write, and the next write would wait for it.
pub(super) struct Writer {
    pool: PgPool,
    reach: Reach,
    call_timeout: Duration,
    /// Those that no write has; as many as there are writes at once.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    connection: PoolConnection<Postgres>,
    /// When it came from the pool.
    since: Instant,
    /// When its last write ended.
    used: Instant,
}

impl Writer {
    pub(super) fn new(pool: PgPool, reach: Reach, call_timeout: Duration) -> Self {
        Self { pool, reach, call_timeout, kept: Mutex::default() }
    }

    /// A connection that has just been used, or one from the pool.
    async fn take(&self) -> Result<Kept, Failure> {
        let is_good = |kept: &Kept| kept.used.elapsed() < PING_AFTER_IDLE && kept.since.elapsed() < KEPT_FOR;
        let kept = {
            let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            // The others go back to the pool.
            all.retain(is_good);
            all.pop()
        };
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let connection = acquire(&self.pool, &self.reach, self.call_timeout).await?;
        let now = Instant::now();
        Ok(Kept { connection, since: now, used: now })
    }

    fn keep(&self, mut kept: Kept) {
        if self.pool.is_closed() {
            return;
        }
        kept.used = Instant::now();
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }

    /// Gives back what it has and closes the pool. No write may be under way.
    pub(super) async fn close(&self) {
        drop(std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner)));
        self.pool.close().await;
    }
}

#[async_trait]
impl BatchWriter for Writer {
    #[tracing::instrument(name = "store.commit", skip_all, fields(commits = commits.len()))]
    async fn write(&self, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
        let mut kept = self.take().await?;
        let outcome = tokio::time::timeout(self.call_timeout, write_any(&mut kept.connection, commits)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(Failure::too_slow()));
        if matches!(outcome, Err(Failure::Unavailable(_))) {
            // Nobody knows what it still does.
            kept.connection.close_on_drop();
        } else {
            self.keep(kept);
        }
        outcome
    }
}

#[derive(Default)]
struct Runs<'a> {
    run_id: Vec<Uuid>,
    expected_revision: Vec<i64>,
    now: Vec<OffsetDateTime>,
    seq: Vec<Option<i64>>,
    accepted: Vec<i64>,
    duplicate: Vec<i64>,
    out_of_order: Vec<i64>,
    gaps: Vec<i64>,
    status: Vec<Option<&'static str>>,
    payload_version: Vec<Option<i16>>,
    terminal_event_id: Vec<Option<&'a str>>,
    terminal_kind: Vec<Option<&'static str>>,
    end_sha: Vec<Option<&'a str>>,
    missing_end_sha_at: Vec<Option<OffsetDateTime>>,
    started_at: Vec<Option<OffsetDateTime>>,
    ended_at: Vec<Option<OffsetDateTime>>,
    with_status: Vec<Uuid>,
}

impl<'a> Runs<'a> {
    fn push(&mut self, commit: &'a RunCommit) {
        let change = &commit.change;
        let terminal = change.terminal.as_ref();
        self.run_id.push(commit.run_id.as_uuid());
        self.expected_revision.push(commit.expected_revision);
        self.now.push(at(commit.now));
        self.seq.push(change.last_accepted_seq.map(Seq::get));
        self.accepted.push(commit.counters.accepted);
        self.duplicate.push(commit.counters.duplicate);
        self.out_of_order.push(commit.counters.out_of_order);
        self.gaps.push(commit.counters.gaps);
        self.status.push(change.status.map(RunStatus::as_str));
        self.payload_version.push(change.daemon_payload_version.map(i16::from));
        self.terminal_event_id.push(terminal.map(|terminal| terminal.event_id.as_str()));
        self.terminal_kind.push(terminal.map(|terminal| terminal.kind.as_str()));
        self.end_sha.push(terminal.and_then(|terminal| terminal.end_sha.as_ref()).map(CommitSha::as_str));
        self.missing_end_sha_at.push(change.missing_end_sha_at.map(at));
        self.started_at.push(change.started_at.map(at));
        self.ended_at.push(change.ended_at.map(at));
        if change.status.is_some() {
            self.with_status.push(commit.run_id.as_uuid());
        }
    }
}

/// New events, a column each.
#[derive(Default)]
pub(super) struct Events<'a> {
    pub(super) run_id: Vec<Uuid>,
    pub(super) seq: Vec<i64>,
    pub(super) event_id: Vec<Option<&'a str>>,
    pub(super) payload: Vec<&'a str>,
    pub(super) payload_hash: Vec<Option<&'a [u8]>>,
    pub(super) received_at: Vec<OffsetDateTime>,
}

impl<'a> Events<'a> {
    /// Adds one.
    pub(super) fn push(&mut self, run_id: Uuid, event: &'a NewEvent) -> Result<(), Failure> {
        let payload = std::str::from_utf8(&event.payload)
            .map_err(|_| Failure::Rejected("the payload of an event is not UTF-8".to_owned()))?;
        self.run_id.push(run_id);
        self.seq.push(event.seq.get());
        self.event_id.push(event.event_id.as_ref().map(EventId::as_str));
        self.payload.push(payload);
        self.payload_hash.push(event.payload_hash.as_ref().map(<[u8; 32]>::as_slice));
        self.received_at.push(at(event.received_at));
        Ok(())
    }
}

#[derive(Default)]
struct Quarantine<'a> {
    owner: Vec<Uuid>,
    id: Vec<Uuid>,
    thread_id: Vec<&'a str>,
    thread_chat_id: Vec<&'a str>,
    run_id_or_null: Vec<Option<String>>,
    active_run_id: Vec<Option<Uuid>>,
    repo_full_name: Vec<&'a str>,
    reason: Vec<&'static str>,
    payload_hash: Vec<&'a [u8]>,
    payload_prefix_2k: Vec<String>,
    payload_bytes: Vec<i64>,
    payload_r2_key: Vec<Option<&'a str>>,
    created_at: Vec<OffsetDateTime>,
}

impl<'a> Quarantine<'a> {
    fn push(&mut self, owner: Uuid, row: &'a NewQuarantine) {
        self.owner.push(owner);
        self.id.push(row.id);
        self.thread_id.push(row.thread_id.as_str());
        self.thread_chat_id.push(row.thread_chat_id.as_str());
        self.run_id_or_null.push(row.run_id_or_null.as_deref().map(|text| prefix(text, ID_MAX_BYTES)));
        self.active_run_id.push(row.active_run_id.map(RunId::as_uuid));
        self.repo_full_name.push(row.repo_full_name.as_str());
        self.reason.push(row.reason.as_str());
        self.payload_hash.push(&row.payload_hash);
        self.payload_prefix_2k.push(prefix(&row.payload_prefix_2k, QUARANTINE_PREFIX_BYTES));
        self.payload_bytes.push(row.payload_bytes);
        self.payload_r2_key.push(row.payload_r2_key.as_deref());
        self.created_at.push(at(row.created_at));
    }
}

#[derive(Default)]
struct Effects {
    id: Vec<Uuid>,
    run_id: Vec<Uuid>,
    kind: Vec<&'static str>,
    effect: Vec<String>,
}

async fn write_any(connection: &mut PgConnection, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
    if commits.iter().all(is_plain) {
        match write_plain(connection, commits).await {
            // One of the event ids is known. The whole statement says whose, and writes the others.
            Err(Failure::Taken(_)) => {}
            outcome => return outcome,
        }
    }
    write(connection, commits).await
}

pub(super) async fn write(connection: &mut PgConnection, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
    let (mut runs, mut events) = (Runs::default(), Events::default());
    let (mut quarantine, mut effects) = (Quarantine::default(), Effects::default());
    for commit in commits {
        let run_id = commit.run_id.as_uuid();
        runs.push(commit);
        for event in &commit.events {
            events.push(run_id, event)?;
        }
        for row in &commit.quarantine {
            quarantine.push(run_id, row);
        }
        for promised in &commit.effects {
            effects.id.push(promised.id);
            effects.run_id.push(promised.run_id.as_uuid());
            effects.kind.push(promised.effect.kind());
            effects
                .effect
                .push(serde_json::to_string(&promised.effect).map_err(|error| Failure::Rejected(error.to_string()))?);
        }
    }
    let applied: Vec<(Uuid, i64)> = sqlx::query_as(COMMIT)
        .bind(runs.run_id)
        .bind(runs.expected_revision)
        .bind(runs.now)
        .bind(runs.seq)
        .bind(runs.accepted)
        .bind(runs.duplicate)
        .bind(runs.out_of_order)
        .bind(runs.gaps)
        .bind(runs.status)
        .bind(runs.payload_version)
        .bind(runs.terminal_event_id)
        .bind(runs.terminal_kind)
        .bind(runs.end_sha)
        .bind(runs.missing_end_sha_at)
        .bind(runs.started_at)
        .bind(runs.ended_at)
        .bind(runs.with_status)
        .bind(events.run_id)
        .bind(events.seq)
        .bind(events.event_id)
        .bind(events.payload)
        .bind(events.payload_hash)
        .bind(events.received_at)
        .bind(quarantine.owner)
        .bind(quarantine.id)
        .bind(quarantine.thread_id)
        .bind(quarantine.thread_chat_id)
        .bind(quarantine.run_id_or_null)
        .bind(quarantine.active_run_id)
        .bind(quarantine.repo_full_name)
        .bind(quarantine.reason)
        .bind(quarantine.payload_hash)
        .bind(quarantine.payload_prefix_2k)
        .bind(quarantine.payload_bytes)
        .bind(quarantine.payload_r2_key)
        .bind(quarantine.created_at)
        .bind(effects.id)
        .bind(effects.run_id)
        .bind(effects.kind)
        .bind(effects.effect)
        .fetch_all(connection)
        .await?;
    let applied: HashMap<Uuid, i64> = applied.into_iter().collect();
    Ok(commits
        .iter()
        .map(|commit| match applied.get(&commit.run_id.as_uuid()) {
            Some(rows) => CommitOutcome::Applied { quarantined: u32::try_from(*rows).unwrap_or(u32::MAX) },
            None => CommitOutcome::Conflict,
        })
        .collect())
}
