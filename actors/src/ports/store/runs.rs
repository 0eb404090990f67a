//! Runs, their pointer, and what is written to them by the host application.

use crate::contract::{
    CodesandboxId, CommitSha, DiffSource, FrozenFlagSnapshot, ReadyDowngradeState, RepoFullName, RunId, RunStatus,
    SandboxProvider, Seq, StartRequestId, TerminalKind, ThreadChatId, ThreadId, Timestamp, TriggerSource,
    UiValidationOutcome, UserId,
};

/// What a host application gives to start a run.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// The identity to use where the start request is unknown.
    pub run_id: RunId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Idempotency key.
    pub start_request_id: StartRequestId,
    /// Who asked.
    pub trigger_source: TriggerSource,
    /// User.
    pub user_id: UserId,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Flags to freeze.
    pub frozen_flag_snapshot: FrozenFlagSnapshot,
    /// Preview configuration as JSON text, where one was given.
    pub preview_config: Option<String>,
    /// Now.
    pub now: Timestamp,
}

/// Where a run works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxBinding {
    /// Provider.
    pub sandbox_provider: SandboxProvider,
    /// Sandbox.
    pub codesandbox_id: CodesandboxId,
    /// HEAD after checkout, before the daemon starts.
    pub run_start_sha: CommitSha,
    /// The repository's folder inside the sandbox.
    pub repo_dir: Option<String>,
}

/// What has been counted for a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunCounters {
    /// Events stored.
    pub accepted: i64,
    /// Envelopes whose `eventId` was known (case 7).
    pub duplicate: i64,
    /// Envelopes whose `seq` was not above the last (case 9).
    pub out_of_order: i64,
    /// Quarantine rows.
    pub quarantined: i64,
    /// Jumps in `seq`.
    pub gaps: i64,
}

/// How a run's own terminal event ended it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalRecord {
    /// The event; for a version 1 envelope without `eventId`, its `seq` as `seq:N`.
    pub event_id: String,
    /// How.
    pub kind: TerminalKind,
    /// `endSha`, where the envelope had one.
    pub end_sha: Option<CommitSha>,
}

/// One row of `thread_run`, and whether its chat's pointer names it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// Identity.
    pub run_id: RunId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Idempotency key.
    pub start_request_id: StartRequestId,
    /// Who asked.
    pub trigger_source: TriggerSource,
    /// User.
    pub user_id: UserId,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Where it stands.
    pub status: RunStatus,
    /// Sandbox id, once bound.
    pub codesandbox_id: Option<CodesandboxId>,
    /// Sandbox provider, once bound.
    pub sandbox_provider: Option<SandboxProvider>,
    /// The repository's folder in the sandbox, where `bind` gave one.
    pub repo_dir: Option<String>,
    /// HEAD at the start, once bound.
    pub run_start_sha: Option<CommitSha>,
    /// HEAD at the end as the daemon gave it.
    pub run_end_sha: Option<CommitSha>,
    /// Frozen flags.
    pub frozen_flag_snapshot: FrozenFlagSnapshot,
    /// Preview configuration as JSON text.
    pub preview_config: Option<String>,
    /// Version of the first stored envelope.
    pub daemon_payload_version: Option<u8>,
    /// The terminal event.
    pub terminal_event_id: Option<String>,
    /// How it ended.
    pub terminal_kind: Option<TerminalKind>,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// When a terminal envelope came without `endSha` (case 10), until one with it comes.
    pub missing_end_sha_at: Option<Timestamp>,
    /// What changed files are read from, once compared.
    pub diff_source: Option<DiffSource>,
    /// Why, as JSON text.
    pub diff_source_context: Option<String>,
    /// The highest stored `seq`.
    pub last_accepted_seq: Option<Seq>,
    /// Counters.
    pub counters: RunCounters,
    /// Goes up with every write to this row; the compare-and-swap of `commit`.
    pub revision: i64,
    /// First sign of life of its daemon.
    pub started_at: Option<Timestamp>,
    /// End.
    pub ended_at: Option<Timestamp>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last write.
    pub updated_at: Timestamp,
    /// The run that the chat's pointer names.
    pub active_run_id: Option<RunId>,
    /// SHA-256 of the last stored body, kept only for version 1 envelopes without `eventId`.
    pub last_payload_hash: Option<[u8; 32]>,
}

/// One row of `thread_run_context`.
#[derive(Debug, Clone, PartialEq)]
pub struct RunContext {
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// The chat's current run.
    pub active_run_id: RunId,
    /// Its sandbox.
    pub active_codesandbox_id: Option<CodesandboxId>,
    /// Its provider.
    pub active_sandbox_provider: Option<SandboxProvider>,
    /// Its status.
    pub active_status: RunStatus,
    /// Compare-and-swap version.
    pub version: i64,
    /// Last move.
    pub active_updated_at: Timestamp,
}

/// One row of `thread_ui_validation`.
#[derive(Debug, Clone, PartialEq)]
pub struct UiValidation {
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// The run that the outcome belongs to.
    pub latest_run_id: RunId,
    /// Outcome.
    pub outcome: UiValidationOutcome,
    /// Whether a ready pull request was turned back.
    pub ready_downgrade_state: ReadyDowngradeState,
    /// Why it is blocked.
    pub blocking_reason: Option<String>,
    /// Last write.
    pub updated_at: Timestamp,
}

/// What came of `create_run`.
#[derive(Debug, Clone)]
pub enum CreateRunOutcome {
    /// A new run.
    Created {
        /// It.
        run: Box<RunRecord>,
        /// The run that was active before, ended by this one if it had not ended.
        superseded: Option<RunId>,
    },
    /// The start request was known.
    Known(Box<RunRecord>),
    /// Somebody else moved the pointer; nothing was written.
    Conflict,
}

/// What came of `bind_run_sandbox`.
#[derive(Debug, Clone)]
pub enum BindOutcome {
    /// Bound, or bound to the very same already.
    Bound(Box<RunRecord>),
    /// No such run.
    NotFound,
    /// The run is not the chat's active one, has ended, or has another `runStartSha` already.
    NotActive(Box<RunRecord>),
    /// Somebody else moved the pointer; nothing was written.
    Conflict,
}
