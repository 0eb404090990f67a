//! The database, as the decisions see it (section 2). Two adapters carry it out; one suite of tests runs
//! against both. Nothing here retries: a caller decides what a lost race means.

use async_trait::async_trait;
use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

use crate::contract::{
    CodesandboxId, CommitSha, DiffSource, EventId, FeatureFlag, FlagScope, FrozenFlagSnapshot, QuarantineReason,
    ReadyDowngradeState, RepoFullName, RunId, RunStatus, SandboxProvider, Seq, StartRequestId, TerminalKind,
    ThreadChatId, ThreadId, Timestamp, TriggerSource, UiValidationOutcome, UserId,
};
use crate::run::effect::Effect;

/// The database failed. Whether the write happened is unknown unless the variant says so.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Out of reach, out of space, or too slow; nothing is known about the write.
    #[error("the database is out of reach: {0}")]
    Unavailable(String),
    /// The database refused: a constraint or a type. Nothing was written.
    #[error("the database refused: {0}")]
    Rejected(String),
    /// A row does not hold what the contract says.
    #[error("a row does not hold what it should: {0}")]
    Corrupt(String),
}

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

/// An event to store.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its place.
    pub seq: Seq,
    /// The daemon's name for it; version 1 may have none.
    pub event_id: Option<EventId>,
    /// The whole envelope as it came.
    pub payload: Bytes,
    /// SHA-256 of it, for version 1 envelopes without `eventId`.
    pub payload_hash: Option<[u8; 32]>,
    /// When it came.
    pub received_at: Timestamp,
}

/// A stored event, as readers get it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Its place.
    pub seq: Seq,
    /// The daemon's name for it.
    pub event_id: Option<EventId>,
    /// The whole envelope as it came.
    pub payload: Bytes,
    /// When it came.
    pub received_at: Timestamp,
}

/// A row for `daemon_event_quarantine`. The same body for the same run and reason is kept once.
#[derive(Debug, Clone, PartialEq)]
pub struct NewQuarantine {
    /// Identity, UUIDv7.
    pub id: Uuid,
    /// Thread of the token.
    pub thread_id: ThreadId,
    /// Chat of the token.
    pub thread_chat_id: ThreadChatId,
    /// The `runId` of the envelope, as it came, cut to 200 bytes.
    pub run_id_or_null: Option<String>,
    /// The chat's active run.
    pub active_run_id: Option<RunId>,
    /// Repository of the token's run, for the daily aggregate.
    pub repo_full_name: RepoFullName,
    /// Why.
    pub reason: QuarantineReason,
    /// SHA-256 of the body.
    pub payload_hash: [u8; 32],
    /// Its first 2 KiB, cut at a character.
    pub payload_prefix_2k: String,
    /// Its size in bytes.
    pub payload_bytes: i64,
    /// Object that holds all of it.
    pub payload_r2_key: Option<String>,
    /// When it came.
    pub created_at: Timestamp,
}

/// A stored quarantine row.
pub type QuarantineRow = NewQuarantine;

/// What a commit changes in the run's own row, beside counters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunChange {
    /// New status.
    pub status: Option<RunStatus>,
    /// Version of the first stored envelope.
    pub daemon_payload_version: Option<u8>,
    /// New highest `seq`.
    pub last_accepted_seq: Option<Seq>,
    /// The terminal event, written once. It clears `missing_end_sha_at`.
    pub terminal: Option<TerminalRecord>,
    /// A terminal envelope came without `endSha`.
    pub missing_end_sha_at: Option<Timestamp>,
    /// First sign of life.
    pub started_at: Option<Timestamp>,
    /// End, where the run ends without a HEAD check.
    pub ended_at: Option<Timestamp>,
}

/// Everything that one decision writes, in one transaction: all of it or nothing.
#[derive(Debug, Clone)]
pub struct RunCommit {
    /// The run.
    pub run_id: RunId,
    /// The revision that the decision was made on; the commit is refused where the row has another.
    pub expected_revision: i64,
    /// Changes of the row.
    pub change: RunChange,
    /// Increments of the counters. `quarantined` is not among them: the store counts the rows it really adds.
    pub counters: RunCounters,
    /// Events, ascending by `seq`.
    pub events: Vec<NewEvent>,
    /// Quarantine rows.
    pub quarantine: Vec<NewQuarantine>,
    /// What to do once this is committed.
    pub effects: Vec<CommittedEffect>,
    /// Now.
    pub now: Timestamp,
}

/// An effect in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedEffect {
    /// Identity, UUIDv7.
    pub id: Uuid,
    /// The run.
    pub run_id: RunId,
    /// What to do.
    pub effect: Effect,
}

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Durable. The row's revision is now the expected one plus one.
    Applied {
        /// How many of the quarantine rows were new.
        quarantined: u32,
    },
    /// The row had moved, or one of the `eventId`s is stored already; nothing was written.
    Conflict,
}

/// What is known of envelopes that may have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The `eventId` is stored.
    pub event_id: bool,
    /// The `seq` is stored.
    pub seq: bool,
}

/// An effect that is due, with how often it was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct DueEffect {
    /// It.
    pub effect: CommittedEffect,
    /// Attempts so far.
    pub attempts: u32,
}

/// Which silent runs the backstop ends.
#[derive(Debug, Clone, Copy)]
pub struct SweepLimits {
    /// Runs whose terminal envelope came without `endSha` before this instant.
    pub missing_end_sha_before: Timestamp,
    /// Active runs without any write since this instant.
    pub silent_before: Timestamp,
    /// At the most so many at once.
    pub most: u32,
}

/// One day of quarantine of one repository, kept when the rows are purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineDay {
    /// `YYYY-MM-DD`, UTC.
    pub day: String,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Why.
    pub reason: QuarantineReason,
    /// How many.
    pub rows: i64,
}

/// Runs and their pointer.
#[async_trait]
pub trait RunStore: Send + Sync {
    /// One attempt at the transaction of section 3: lock the pointer, return a known start request's run,
    /// otherwise end the active run as `finished`, insert the row, move the pointer by compare-and-swap, and
    /// revoke the thread's open preview sessions.
    async fn create_run(&self, new: &NewRun) -> Result<CreateRunOutcome, StoreError>;

    /// One attempt to write the sandbox to both rows, under the same lock and check; revokes open sessions when
    /// it changes something.
    async fn bind_run_sandbox(
        &self,
        run_id: RunId,
        binding: &SandboxBinding,
        now: Timestamp,
    ) -> Result<BindOutcome, StoreError>;

    /// The run's row.
    async fn load_run(&self, run_id: RunId) -> Result<Option<RunRecord>, StoreError>;

    /// The chat's pointer.
    async fn load_context(&self, thread: &ThreadId, chat: &ThreadChatId) -> Result<Option<RunContext>, StoreError>;

    /// Writes a decision; many runs' commits may share one durable write, each with an outcome of its own.
    async fn commit(&self, commit: RunCommit) -> Result<CommitOutcome, StoreError>;

    /// Which of these are stored, in the order asked.
    async fn seen(&self, run_id: RunId, asked: &[(Option<EventId>, Option<Seq>)]) -> Result<Vec<Seen>, StoreError>;

    /// Stored events above `after`, ascending; at most `limit` and about `max_bytes` of payload, at least one
    /// where there is any.
    async fn events_after(
        &self,
        run_id: RunId,
        after: Option<Seq>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError>;

    /// Writes the result of the HEAD check and ends a `validating` run as `finished` or `failed`; does nothing
    /// for one that is not `validating`.
    async fn finish_run(
        &self,
        run_id: RunId,
        diff_source: DiffSource,
        context: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Ends stale active runs as `failed` with `missing_end_sha_timeout` and returns them.
    async fn sweep_stale_runs(&self, limits: SweepLimits, now: Timestamp) -> Result<Vec<RunRecord>, StoreError>;
}

/// Chats' validation outcomes.
#[async_trait]
pub trait UiValidationStore: Send + Sync {
    /// The chat's row.
    async fn load_ui_validation(
        &self,
        thread: &ThreadId,
        chat: &ThreadChatId,
    ) -> Result<Option<UiValidation>, StoreError>;

    /// Writes the outcome of a run, unless the chat's row belongs to a newer run (UUIDv7 order) already.
    async fn record_ui_outcome(
        &self,
        run: &RunRecord,
        outcome: UiValidationOutcome,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}

/// Feature flag overrides.
#[async_trait]
pub trait FlagStore: Send + Sync {
    /// The override of exactly this scope.
    async fn flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<Option<bool>, StoreError>;

    /// Sets it.
    async fn set_flag_override(
        &self,
        flag: FeatureFlag,
        scope: &FlagScope,
        enabled: bool,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Removes it; whether there was one.
    async fn delete_flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<bool, StoreError>;
}

/// Quarantine, for people and for retention.
#[async_trait]
pub trait QuarantineStore: Send + Sync {
    /// Newest first; `before` is the id of the last row of the page before.
    async fn quarantine_page(
        &self,
        thread: &ThreadId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<QuarantineRow>, StoreError>;

    /// Objects that only rows older than `before` name, those of the oldest rows first. They go before their rows
    /// do, so that none is left behind unnamed.
    async fn expired_quarantine_objects(&self, before: Timestamp, most: u32) -> Result<Vec<String>, StoreError>;

    /// Aggregates rows older than `before` into `daemon_event_quarantine_day`, deletes them, and returns what was
    /// added to the aggregate; in one transaction, at most `most` rows.
    async fn purge_quarantine(&self, before: Timestamp, most: u32) -> Result<Vec<QuarantineDay>, StoreError>;
}

/// The outbox.
#[async_trait]
pub trait EffectStore: Send + Sync {
    /// Effects whose next attempt is due, oldest first. Taking one puts its next attempt off by `hold_ms`, so
    /// that two nodes do not carry it out together.
    async fn take_due_effects(&self, now: Timestamp, hold_ms: i64, most: u32) -> Result<Vec<DueEffect>, StoreError>;

    /// Removes a carried-out effect.
    async fn effect_done(&self, id: Uuid) -> Result<(), StoreError>;

    /// Notes a failed attempt and when to try again; `None` gives it up and leaves the row for a person.
    async fn effect_failed(&self, id: Uuid, error: &str, next_attempt_at: Option<Timestamp>) -> Result<(), StoreError>;

    /// Whether the thread has a preview session that is pending, initializing or ready.
    async fn has_open_preview(&self, thread: &ThreadId) -> Result<bool, StoreError>;
}

/// A key that signs daemon tokens. Its Debug form shows the id only.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Names the key in a token's header.
    pub kid: String,
    /// 32 random bytes.
    pub secret: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Keys that all servers on one database share.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// All keys, newest first. Where there is none, `candidate` is stored first; of several servers that start
    /// at once, one wins and all return its key.
    async fn daemon_signing_keys(&self, candidate: &SigningKey) -> Result<Vec<SigningKey>, StoreError>;
}

/// The whole database.
#[async_trait]
pub trait Store: RunStore + UiValidationStore + FlagStore + QuarantineStore + EffectStore + KeyStore {
    /// Whether it answers and its schema is the one that this build wants.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets what is in flight end, then closes.
    async fn close(&self);
}
