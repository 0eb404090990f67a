//! The port itself, one trait for each kind of record.

use async_trait::async_trait;
use uuid::Uuid;

use crate::contract::{
    DiffSource, EventId, FeatureFlag, FlagScope, OpenMode, PreviewConfig, PreviewSessionId, RunId, Seq, ThreadChatId,
    ThreadId, Timestamp, UiValidationOutcome,
};

use super::{
    BeginPreview, BindOutcome, ClosedPreview, CommitOutcome, CreateRunOutcome, DueEffect, NewPreviewSession, NewRun,
    PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession, QuarantineDay, QuarantineRow, RevocationScope,
    RunCommit, RunContext, RunRecord, SandboxBinding, Seen, SigningKey, StoreError, StoredEvent, SweepLimits,
    UiValidation,
};

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

    /// Keeps everybody else from moving the run until what is returned is committed or dropped, for whoever has lost too
    /// many races: they wait for it. `None` where there is no such run, or the store has no such lock; its
    /// compare-and-swap goes on as before.
    async fn hold_run(&self, _: RunId) -> Result<Option<Box<dyn HeldRun>>, StoreError> {
        Ok(None)
    }

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

/// A run that nobody else moves. Dropped, it is let go with nothing written.
#[async_trait]
pub trait HeldRun: Send {
    /// Its row, read after everybody else had ended.
    fn run(&self) -> &RunRecord;

    /// As [`RunStore::seen`].
    async fn seen(&mut self, asked: &[(Option<EventId>, Option<Seq>)]) -> Result<Vec<Seen>, StoreError>;

    /// As [`RunStore::commit`], in a durable write of its own, and lets the run go.
    async fn commit(self: Box<Self>, commit: RunCommit) -> Result<CommitOutcome, StoreError>;
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

/// Keys that all servers on one database share.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// All keys, newest first. Where there is none, `candidate` is stored first; of several servers that start
    /// at once, one wins and all return its key.
    async fn daemon_signing_keys(&self, candidate: &SigningKey) -> Result<Vec<SigningKey>, StoreError>;
}

/// Preview sessions (section 5). `create_run` and `bind_run_sandbox` close the thread's open ones too.
#[async_trait]
pub trait PreviewStore: Send + Sync {
    /// One attempt to begin a session: under the pointer's lock, where thread, chat and run are the active pointer's
    /// and the run is bound to a sandbox. Provider, sandbox and repository are the run's.
    async fn begin_preview(&self, new: &NewPreviewSession) -> Result<BeginPreview, StoreError>;

    /// The session's row.
    async fn load_preview(&self, id: PreviewSessionId) -> Result<Option<PreviewSession>, StoreError>;

    /// Writes the configuration's snapshot and the open mode of an initializing session, once; whether it did.
    async fn set_preview_config(
        &self,
        id: PreviewSessionId,
        config: &PreviewConfig,
        open_mode: OpenMode,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Moves the session along a listed transition, by compare-and-swap on its state.
    async fn move_preview(
        &self,
        id: PreviewSessionId,
        change: &PreviewMove,
        now: Timestamp,
    ) -> Result<PreviewMoved, StoreError>;

    /// Writes the one refresh of a ready session's addresses; `false` where it was had already.
    async fn refresh_preview_pin(
        &self,
        id: PreviewSessionId,
        pinned: &PinnedAddresses,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Closes the open sessions of the scope (ready ones are `revoked`, ones that are coming up fail as `superseded`),
    /// raises their revocation versions, and returns them; in one transaction, at most `most`.
    async fn revoke_previews(
        &self,
        scope: &RevocationScope,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError>;

    /// Ends sessions whose life is over, ready ones as `expired`, and those that were begun before `begun_before` and
    /// have not come up: both they and those whose life ended on the way are `error`. At most `most`.
    async fn expire_previews(
        &self,
        begun_before: Timestamp,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError>;
}

/// The whole database.
#[async_trait]
pub trait Store:
    RunStore + UiValidationStore + FlagStore + QuarantineStore + EffectStore + KeyStore + PreviewStore
{
    /// Whether it answers and its schema is the one that this build wants.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Lets what is in flight end, then closes.
    async fn close(&self);
}
