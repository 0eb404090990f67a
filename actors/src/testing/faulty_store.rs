//! A store that fails on demand in front of a real one.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use uuid::Uuid;

use crate::contract::{
    DiffSource, EventId, FeatureFlag, FlagScope, OpenMode, PreviewConfig, PreviewSessionId, RunId, Seq, ThreadChatId,
    ThreadId, Timestamp, UiValidationOutcome,
};
use crate::ports::Store;
use crate::ports::store::{
    BeginPreview, BindOutcome, ClosedPreview, CommitOutcome, CreateRunOutcome, DueEffect, EffectStore, FlagStore,
    HeldRun, KeyStore, NewPreviewSession, NewRun, PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession,
    PreviewStore, QuarantineDay, QuarantineRow, QuarantineStore, RevocationScope, RunCommit, RunContext, RunRecord,
    RunStore, SandboxBinding, Seen, SigningKey, StoreError, StoredEvent, SweepLimits, UiValidation, UiValidationStore,
};

/// What the next commit does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Fails before anything is written.
    FailBefore,
    /// Is written, and then the answer is lost.
    FailAfter,
    /// Is written, and then never answers.
    HangAfter,
    /// Panics.
    Panic,
    /// Loses a race, without anything written.
    Conflict,
}

/// Delegates to a real store; faults are taken in the order they were given, one a commit.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Mutex<std::collections::VecDeque<Fault>>,
    create_conflicts: AtomicU64,
    reads: AtomicU64,
    sweeps: AtomicU64,
}

impl FaultyStore {
    /// In front of `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            faults: Mutex::default(),
            create_conflicts: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            sweeps: AtomicU64::new(0),
        }
    }

    /// The next commit that has no fault yet gets this one.
    pub fn fail_next_commit(&self, fault: Fault) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push_back(fault);
    }

    /// The next so many calls of `create_run` lose their race.
    pub fn conflict_next_creates(&self, count: u64) {
        self.create_conflicts.store(count, Ordering::SeqCst);
    }

    /// How often runs or events were read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// How often stale runs were asked for.
    pub fn sweeps(&self) -> u64 {
        self.sweeps.load(Ordering::SeqCst)
    }

    fn take_fault(&self) -> Option<Fault> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn lost() -> StoreError {
        StoreError::Unavailable("a fault that the test made".into())
    }
}

#[async_trait]
impl RunStore for FaultyStore {
    async fn create_run(&self, new: &NewRun) -> Result<CreateRunOutcome, StoreError> {
        let lose = |left: u64| left.checked_sub(1);
        if self.create_conflicts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose).is_ok() {
            return Ok(CreateRunOutcome::Conflict);
        }
        self.inner.create_run(new).await
    }

    async fn bind_run_sandbox(
        &self,
        run_id: RunId,
        binding: &SandboxBinding,
        now: Timestamp,
    ) -> Result<BindOutcome, StoreError> {
        self.inner.bind_run_sandbox(run_id, binding, now).await
    }

    async fn load_run(&self, run_id: RunId) -> Result<Option<RunRecord>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.load_run(run_id).await
    }

    async fn load_context(&self, thread: &ThreadId, chat: &ThreadChatId) -> Result<Option<RunContext>, StoreError> {
        self.inner.load_context(thread, chat).await
    }

    async fn commit(&self, commit: RunCommit) -> Result<CommitOutcome, StoreError> {
        match self.take_fault() {
            None => self.inner.commit(commit).await,
            Some(Fault::FailBefore) => Err(Self::lost()),
            Some(Fault::Conflict) => Ok(CommitOutcome::Conflict),
            Some(Fault::FailAfter) => {
                self.inner.commit(commit).await?;
                Err(Self::lost())
            }
            Some(Fault::HangAfter) => {
                self.inner.commit(commit).await?;
                std::future::pending().await
            }
            #[allow(clippy::panic, reason = "a panic is what the test asks for")]
            Some(Fault::Panic) => panic!("a panic that the test asked for"),
        }
    }

    async fn hold_run(&self, run_id: RunId) -> Result<Option<Box<dyn HeldRun>>, StoreError> {
        // A race that a test wants lost is lost to nobody who could be made to wait.
        let lost = self.faults.lock().unwrap_or_else(PoisonError::into_inner).front() == Some(&Fault::Conflict);
        if lost { Ok(None) } else { self.inner.hold_run(run_id).await }
    }

    async fn seen(&self, run_id: RunId, asked: &[(Option<EventId>, Option<Seq>)]) -> Result<Vec<Seen>, StoreError> {
        self.inner.seen(run_id, asked).await
    }

    async fn events_after(
        &self,
        run_id: RunId,
        after: Option<Seq>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.events_after(run_id, after, limit, max_bytes).await
    }

    async fn finish_run(
        &self,
        run_id: RunId,
        diff_source: DiffSource,
        context: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.finish_run(run_id, diff_source, context, now).await
    }

    async fn sweep_stale_runs(&self, limits: SweepLimits, now: Timestamp) -> Result<Vec<RunRecord>, StoreError> {
        self.sweeps.fetch_add(1, Ordering::SeqCst);
        self.inner.sweep_stale_runs(limits, now).await
    }
}

#[async_trait]
impl UiValidationStore for FaultyStore {
    async fn load_ui_validation(
        &self,
        thread: &ThreadId,
        chat: &ThreadChatId,
    ) -> Result<Option<UiValidation>, StoreError> {
        self.inner.load_ui_validation(thread, chat).await
    }

    async fn record_ui_outcome(
        &self,
        run: &RunRecord,
        outcome: UiValidationOutcome,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.record_ui_outcome(run, outcome, now).await
    }
}

#[async_trait]
impl FlagStore for FaultyStore {
    async fn flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<Option<bool>, StoreError> {
        self.inner.flag_override(flag, scope).await
    }

    async fn set_flag_override(
        &self,
        flag: FeatureFlag,
        scope: &FlagScope,
        enabled: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.set_flag_override(flag, scope, enabled, now).await
    }

    async fn delete_flag_override(&self, flag: FeatureFlag, scope: &FlagScope) -> Result<bool, StoreError> {
        self.inner.delete_flag_override(flag, scope).await
    }
}

#[async_trait]
impl QuarantineStore for FaultyStore {
    async fn quarantine_page(
        &self,
        thread: &ThreadId,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<QuarantineRow>, StoreError> {
        self.inner.quarantine_page(thread, before, limit).await
    }

    async fn expired_quarantine_objects(&self, before: Timestamp, most: u32) -> Result<Vec<String>, StoreError> {
        self.inner.expired_quarantine_objects(before, most).await
    }

    async fn purge_quarantine(&self, before: Timestamp, most: u32) -> Result<Vec<QuarantineDay>, StoreError> {
        self.inner.purge_quarantine(before, most).await
    }
}

#[async_trait]
impl EffectStore for FaultyStore {
    async fn take_due_effects(&self, now: Timestamp, hold_ms: i64, most: u32) -> Result<Vec<DueEffect>, StoreError> {
        self.inner.take_due_effects(now, hold_ms, most).await
    }

    async fn effect_done(&self, id: Uuid) -> Result<(), StoreError> {
        self.inner.effect_done(id).await
    }

    async fn effect_failed(&self, id: Uuid, error: &str, next_attempt_at: Option<Timestamp>) -> Result<(), StoreError> {
        self.inner.effect_failed(id, error, next_attempt_at).await
    }

    async fn has_open_preview(&self, thread: &ThreadId) -> Result<bool, StoreError> {
        self.inner.has_open_preview(thread).await
    }
}

#[async_trait]
impl KeyStore for FaultyStore {
    async fn daemon_signing_keys(&self, candidate: &SigningKey) -> Result<Vec<SigningKey>, StoreError> {
        self.inner.daemon_signing_keys(candidate).await
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl PreviewStore for FaultyStore {
    async fn begin_preview(&self, new: &NewPreviewSession) -> Result<BeginPreview, StoreError> {
        self.inner.begin_preview(new).await
    }

    async fn load_preview(&self, id: PreviewSessionId) -> Result<Option<PreviewSession>, StoreError> {
        self.inner.load_preview(id).await
    }

    async fn set_preview_config(
        &self,
        id: PreviewSessionId,
        config: &PreviewConfig,
        open_mode: OpenMode,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.set_preview_config(id, config, open_mode, now).await
    }

    async fn move_preview(
        &self,
        id: PreviewSessionId,
        change: &PreviewMove,
        now: Timestamp,
    ) -> Result<PreviewMoved, StoreError> {
        self.inner.move_preview(id, change, now).await
    }

    async fn refresh_preview_pin(
        &self,
        id: PreviewSessionId,
        pinned: &PinnedAddresses,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.inner.refresh_preview_pin(id, pinned, now).await
    }

    async fn revoke_previews(
        &self,
        scope: &RevocationScope,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError> {
        self.inner.revoke_previews(scope, now, most).await
    }

    async fn expire_previews(
        &self,
        begun_before: Timestamp,
        now: Timestamp,
        most: u32,
    ) -> Result<Vec<ClosedPreview>, StoreError> {
        self.inner.expire_previews(begun_before, now, most).await
    }
}
