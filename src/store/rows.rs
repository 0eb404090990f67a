//! Rows as both databases give them: UUIDs, text, and milliseconds. Each knows how to become a record of the port.

use std::fmt::Display;
use std::str::FromStr;

use runwarden_actors::contract::{InvalidId, RunId, Seq, Timestamp};
use runwarden_actors::ports::store::{
    NewQuarantine, QuarantineRow, RunContext, RunCounters, RunRecord, StoredEvent, UiValidation,
};
use sqlx::FromRow;
use sqlx::types::Uuid;

use super::failure::Failure;

pub(super) fn corrupt(error: impl Display) -> Failure {
    Failure::Corrupt(error.to_string())
}

pub(super) fn name<T: FromStr<Err: Display>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(corrupt)
}

pub(super) fn name_or_none<T: FromStr<Err: Display>>(text: Option<&str>) -> Result<Option<T>, Failure> {
    text.map(name).transpose()
}

fn id_or_none<T>(text: Option<&str>, parse: fn(&str) -> Result<T, InvalidId>) -> Result<Option<T>, Failure> {
    text.map(parse).transpose().map_err(corrupt)
}

fn seq_or_none(value: Option<i64>) -> Result<Option<Seq>, Failure> {
    value.map(Seq::new).transpose().map_err(corrupt)
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], Failure> {
    bytes.try_into().map_err(|_| Failure::Corrupt("a hash is not 32 bytes long".to_owned()))
}

/// `thread_run` with what its chat's pointer names.
#[derive(FromRow)]
pub(super) struct RunRow {
    run_id: Uuid,
    thread_id: String,
    thread_chat_id: String,
    start_request_id: String,
    trigger_source: String,
    user_id: String,
    repo_full_name: String,
    status: String,
    codesandbox_id: Option<String>,
    sandbox_provider: Option<String>,
    repo_dir: Option<String>,
    run_start_sha: Option<String>,
    run_end_sha: Option<String>,
    frozen_flag_snapshot: String,
    preview_config: Option<String>,
    daemon_payload_version: Option<i16>,
    terminal_event_id: Option<String>,
    terminal_kind: Option<String>,
    failure_reason: Option<String>,
    missing_end_sha_at: Option<i64>,
    diff_source: Option<String>,
    diff_source_context: Option<String>,
    last_accepted_seq: Option<i64>,
    accepted_count: i64,
    duplicate_count: i64,
    out_of_order_count: i64,
    quarantined_count: i64,
    gap_count: i64,
    revision: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
    active_run_id: Option<Uuid>,
    last_payload_hash: Option<Vec<u8>>,
}

impl TryFrom<RunRow> for RunRecord {
    type Error = Failure;

    fn try_from(row: RunRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            run_id: RunId::from_uuid(row.run_id),
            thread_id: c::ThreadId::parse(&row.thread_id).map_err(corrupt)?,
            thread_chat_id: c::ThreadChatId::parse(&row.thread_chat_id).map_err(corrupt)?,
            start_request_id: c::StartRequestId::parse(&row.start_request_id).map_err(corrupt)?,
            trigger_source: name(&row.trigger_source)?,
            user_id: c::UserId::parse(&row.user_id).map_err(corrupt)?,
            repo_full_name: c::RepoFullName::parse(&row.repo_full_name).map_err(corrupt)?,
            status: name(&row.status)?,
            codesandbox_id: id_or_none(row.codesandbox_id.as_deref(), |text| c::CodesandboxId::parse(text))?,
            sandbox_provider: name_or_none(row.sandbox_provider.as_deref())?,
            repo_dir: row.repo_dir,
            run_start_sha: id_or_none(row.run_start_sha.as_deref(), |text| c::CommitSha::parse(text))?,
            run_end_sha: id_or_none(row.run_end_sha.as_deref(), |text| c::CommitSha::parse(text))?,
            frozen_flag_snapshot: serde_json::from_str(&row.frozen_flag_snapshot).map_err(corrupt)?,
            preview_config: row.preview_config,
            daemon_payload_version: row.daemon_payload_version.map(u8::try_from).transpose().map_err(corrupt)?,
            terminal_event_id: row.terminal_event_id,
            terminal_kind: name_or_none(row.terminal_kind.as_deref())?,
            failure_reason: row.failure_reason,
            missing_end_sha_at: row.missing_end_sha_at.map(Timestamp::from_millis),
            diff_source: name_or_none(row.diff_source.as_deref())?,
            diff_source_context: row.diff_source_context,
            last_accepted_seq: seq_or_none(row.last_accepted_seq)?,
            counters: RunCounters {
                accepted: row.accepted_count,
                duplicate: row.duplicate_count,
                out_of_order: row.out_of_order_count,
                quarantined: row.quarantined_count,
                gaps: row.gap_count,
            },
            revision: row.revision,
            started_at: row.started_at.map(Timestamp::from_millis),
            ended_at: row.ended_at.map(Timestamp::from_millis),
            created_at: Timestamp::from_millis(row.created_at),
            updated_at: Timestamp::from_millis(row.updated_at),
            active_run_id: row.active_run_id.map(RunId::from_uuid),
            last_payload_hash: row.last_payload_hash.as_deref().map(hash).transpose()?,
        })
    }
}

/// `thread_run_context`.
#[derive(FromRow)]
pub(super) struct ContextRow {
    thread_id: String,
    thread_chat_id: String,
    active_run_id: Uuid,
    active_codesandbox_id: Option<String>,
    active_sandbox_provider: Option<String>,
    active_status: String,
    version: i64,
    active_updated_at: i64,
}

impl TryFrom<ContextRow> for RunContext {
    type Error = Failure;

    fn try_from(row: ContextRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            thread_id: c::ThreadId::parse(&row.thread_id).map_err(corrupt)?,
            thread_chat_id: c::ThreadChatId::parse(&row.thread_chat_id).map_err(corrupt)?,
            active_run_id: RunId::from_uuid(row.active_run_id),
            active_codesandbox_id: id_or_none(row.active_codesandbox_id.as_deref(), |text| {
                c::CodesandboxId::parse(text)
            })?,
            active_sandbox_provider: name_or_none(row.active_sandbox_provider.as_deref())?,
            active_status: name(&row.active_status)?,
            version: row.version,
            active_updated_at: Timestamp::from_millis(row.active_updated_at),
        })
    }
}

/// `run_event`.
#[derive(FromRow)]
pub(super) struct EventRow {
    seq: i64,
    event_id: Option<String>,
    payload: String,
    received_at: i64,
}

impl TryFrom<EventRow> for StoredEvent {
    type Error = Failure;

    fn try_from(row: EventRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            seq: Seq::new(row.seq).map_err(corrupt)?,
            event_id: id_or_none(row.event_id.as_deref(), |text| c::EventId::parse(text))?,
            payload: row.payload.into(),
            received_at: Timestamp::from_millis(row.received_at),
        })
    }
}

/// `daemon_event_quarantine`.
#[derive(FromRow)]
pub(super) struct QuarantineDbRow {
    id: Uuid,
    thread_id: String,
    thread_chat_id: String,
    run_id_or_null: Option<String>,
    active_run_id: Option<Uuid>,
    repo_full_name: String,
    reason: String,
    payload_hash: Vec<u8>,
    payload_prefix_2k: String,
    payload_bytes: i64,
    payload_r2_key: Option<String>,
    created_at: i64,
}

impl TryFrom<QuarantineDbRow> for QuarantineRow {
    type Error = Failure;

    fn try_from(row: QuarantineDbRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(NewQuarantine {
            id: row.id,
            thread_id: c::ThreadId::parse(&row.thread_id).map_err(corrupt)?,
            thread_chat_id: c::ThreadChatId::parse(&row.thread_chat_id).map_err(corrupt)?,
            run_id_or_null: row.run_id_or_null,
            active_run_id: row.active_run_id.map(RunId::from_uuid),
            repo_full_name: c::RepoFullName::parse(&row.repo_full_name).map_err(corrupt)?,
            reason: name(&row.reason)?,
            payload_hash: hash(&row.payload_hash)?,
            payload_prefix_2k: row.payload_prefix_2k,
            payload_bytes: row.payload_bytes,
            payload_r2_key: row.payload_r2_key,
            created_at: Timestamp::from_millis(row.created_at),
        })
    }
}

/// `daemon_event_quarantine_day`.
#[derive(FromRow)]
pub(super) struct QuarantineDayRow {
    day: String,
    repo_full_name: String,
    reason: String,
    rows: i64,
}

impl TryFrom<QuarantineDayRow> for runwarden_actors::ports::store::QuarantineDay {
    type Error = Failure;

    fn try_from(row: QuarantineDayRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            day: row.day,
            repo_full_name: c::RepoFullName::parse(&row.repo_full_name).map_err(corrupt)?,
            reason: name(&row.reason)?,
            rows: row.rows,
        })
    }
}

/// `run_effect`, as it is taken.
#[derive(FromRow)]
pub(super) struct EffectRow {
    pub(super) id: Uuid,
    run_id: Uuid,
    effect: String,
    attempts: i32,
}

impl TryFrom<EffectRow> for runwarden_actors::ports::store::DueEffect {
    type Error = Failure;

    fn try_from(row: EffectRow) -> Result<Self, Failure> {
        use runwarden_actors::ports::store::{CommittedEffect, DueEffect};
        Ok(DueEffect {
            effect: CommittedEffect {
                id: row.id,
                run_id: RunId::from_uuid(row.run_id),
                effect: serde_json::from_str(&row.effect).map_err(corrupt)?,
            },
            attempts: u32::try_from(row.attempts).map_err(corrupt)?,
        })
    }
}

/// `thread_ui_validation`.
#[derive(FromRow)]
pub(super) struct UiValidationRow {
    thread_id: String,
    thread_chat_id: String,
    latest_run_id: Uuid,
    ui_validation_outcome: String,
    ready_downgrade_state: String,
    blocking_reason: Option<String>,
    updated_at: i64,
}

impl TryFrom<UiValidationRow> for UiValidation {
    type Error = Failure;

    fn try_from(row: UiValidationRow) -> Result<Self, Failure> {
        use runwarden_actors::contract as c;
        Ok(Self {
            thread_id: c::ThreadId::parse(&row.thread_id).map_err(corrupt)?,
            thread_chat_id: c::ThreadChatId::parse(&row.thread_chat_id).map_err(corrupt)?,
            latest_run_id: RunId::from_uuid(row.latest_run_id),
            outcome: name(&row.ui_validation_outcome)?,
            ready_downgrade_state: name(&row.ready_downgrade_state)?,
            blocking_reason: row.blocking_reason,
            updated_at: Timestamp::from_millis(row.updated_at),
        })
    }
}

/// Every row as its record.
pub(super) fn records<R, T: TryFrom<R, Error = Failure>>(rows: Vec<R>) -> Result<Vec<T>, Failure> {
    rows.into_iter().map(T::try_from).collect()
}
