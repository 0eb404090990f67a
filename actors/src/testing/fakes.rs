//! Fakes that tests need where the real thing decides nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::contract::{
    CommitSha, KeyNamespace, PreviewConfig, PreviewSessionId, PreviewSessionState, QuarantineReason, RunId,
    SandboxProvider, SecurityReason, Timestamp,
};
use crate::ports::{
    AccessCache, Admission, Admitted, Clock, CommandReport, CommandState, CoordinationError, EvidenceError,
    EvidenceStore, IdSource, KeyRing, Lease, Leases, LimitDecision, LimitWindow, Observer, PreviewCommand,
    PreviewDimensions, PreviewGate, PreviewHost, PreviewKey, PreviewKeys, RateDecision, RememberedAccess,
    RunDimensions, Sandbox, SandboxError, SandboxTarget, SingleUse, Upstream,
};

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A clock that only a test moves.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl Default for TestClock {
    fn default() -> Self {
        Self(AtomicI64::new(1_763_700_000_000))
    }
}

impl TestClock {
    /// Moves it on.
    pub fn advance_ms(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Identities that count up; randomness that walks through its range.
#[derive(Debug, Default)]
pub struct TestIds(AtomicU64);

impl IdSource for TestIds {
    fn uuid_v7(&self) -> Uuid {
        let count = self.0.fetch_add(1, Ordering::SeqCst);
        // The layout of version 7: sorts by the count, and is unique within one test.
        Uuid::from_u64_pair(0x0193_0000_0000_7000 | (count >> 32), 0x8000_0000_0000_0000 | (count & 0xffff_ffff))
    }

    fn random_below(&self, bound: u64) -> u64 {
        self.0.fetch_add(7, Ordering::SeqCst).checked_rem(bound).unwrap_or(0)
    }
}

/// Leases, counters and announced revocations in memory, without time: a lease lasts until it is released, a window
/// never ends.
#[derive(Debug, Default)]
pub struct TestCoordination {
    leases: Mutex<HashMap<String, String>>,
    counts: Mutex<HashMap<String, u32>>,
    revocations: Mutex<HashMap<PreviewSessionId, i64>>,
}

#[async_trait]
impl Leases for TestCoordination {
    async fn acquire_lease(&self, key: &str, holder: &str, _: u64) -> Result<Option<Lease>, CoordinationError> {
        let mut leases = locked(&self.leases);
        let owner = leases.entry(key.to_owned()).or_insert_with(|| holder.to_owned());
        Ok((owner == holder).then(|| Lease {
            key: key.to_owned(),
            holder: holder.to_owned(),
            expires_at: Timestamp::from_millis(i64::MAX),
        }))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError> {
        locked(&self.leases).remove(&lease.key);
        Ok(())
    }

    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError> {
        let mut counts = locked(&self.counts);
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        Ok(if *count <= limit { RateDecision::Allowed } else { RateDecision::Limited { retry_after_ms: window_ms } })
    }

    async fn uncount(&self, key: &str) -> Result<(), CoordinationError> {
        if let Some(count) = locked(&self.counts).get_mut(key) {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp, CoordinationError> {
        Ok(Timestamp::default())
    }
}

fn not_faked<T>() -> Result<T, CoordinationError> {
    Err(CoordinationError("this fake does not know it; use the embedded adapter".into()))
}

#[async_trait]
impl SingleUse for TestCoordination {
    async fn use_once(&self, _: &[String], _: u64) -> Result<bool, CoordinationError> {
        not_faked()
    }
}

#[async_trait]
impl PreviewKeys for TestCoordination {
    async fn key_ring(&self, _: KeyNamespace, _: &PreviewKey) -> Result<KeyRing, CoordinationError> {
        not_faked()
    }

    async fn rotate_key(&self, _: KeyNamespace, _: &PreviewKey, _: u64) -> Result<KeyRing, CoordinationError> {
        not_faked()
    }

    async fn revoke_key(&self, _: KeyNamespace, _: &str, _: &PreviewKey) -> Result<Option<KeyRing>, CoordinationError> {
        not_faked()
    }
}

#[async_trait]
impl AccessCache for TestCoordination {
    async fn remembered_access(&self, _: &str) -> Result<RememberedAccess, CoordinationError> {
        not_faked()
    }

    async fn remember_access(&self, _: &str, _: bool, _: u64, _: u64) -> Result<(), CoordinationError> {
        not_faked()
    }

    async fn forget_access(&self, _: &str) -> Result<(), CoordinationError> {
        not_faked()
    }
}

#[async_trait]
impl PreviewGate for TestCoordination {
    async fn admit(&self, _: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        not_faked()
    }

    async fn extend_slot(&self, _: PreviewSessionId, _: Uuid, _: u64) -> Result<bool, CoordinationError> {
        not_faked()
    }

    async fn release_slot(&self, _: PreviewSessionId, _: Uuid) -> Result<(), CoordinationError> {
        not_faked()
    }

    async fn count_all(&self, _: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        not_faked()
    }

    async fn announce_revocation(&self, id: PreviewSessionId, version: i64, _: u64) -> Result<(), CoordinationError> {
        let mut revocations = locked(&self.revocations);
        let known = revocations.entry(id).or_insert(version);
        *known = version.max(*known);
        Ok(())
    }

    async fn revocations(&self, ids: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        let revocations = locked(&self.revocations);
        Ok(ids.iter().map(|id| revocations.get(id).copied()).collect())
    }
}

/// Objects in memory.
#[derive(Debug, Default)]
pub struct MemoryEvidence(Mutex<HashMap<String, Bytes>>);

#[async_trait]
impl EvidenceStore for MemoryEvidence {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), EvidenceError> {
        locked(&self.0).insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, EvidenceError> {
        Ok(locked(&self.0).get(key).cloned())
    }

    async fn delete(&self, key: &str) -> Result<(), EvidenceError> {
        locked(&self.0).remove(key);
        Ok(())
    }

    async fn ping(&self) -> Result<(), EvidenceError> {
        Ok(())
    }
}

/// A sandbox whose answers a test sets.
#[derive(Debug)]
pub struct FakeSandbox {
    head: Mutex<Result<CommitSha, SandboxError>>,
    changed: Mutex<Result<Vec<u8>, SandboxError>>,
    upstream: Mutex<Option<Result<Upstream, SandboxError>>>,
    missing: Mutex<Vec<String>>,
    exited: Mutex<Option<i64>>,
    stopped: AtomicU64,
    looked_up: AtomicU64,
}

impl Default for FakeSandbox {
    fn default() -> Self {
        let away = SandboxError::NotRunning("not set by the test".into());
        Self {
            head: Mutex::new(Err(away.clone())),
            changed: Mutex::new(Err(away)),
            upstream: Mutex::default(),
            missing: Mutex::default(),
            exited: Mutex::default(),
            stopped: AtomicU64::new(0),
            looked_up: AtomicU64::new(0),
        }
    }
}

impl FakeSandbox {
    /// Sets the answer to `head_sha`.
    pub fn set_head(&self, head: Result<CommitSha, SandboxError>) {
        *locked(&self.head) = head;
    }

    /// Shows previews from now on: says where they are reached, or why not.
    pub fn set_upstream(&self, upstream: Result<Upstream, SandboxError>) {
        *locked(&self.upstream) = Some(upstream);
    }

    /// What its probe finds missing.
    pub fn set_missing(&self, missing: Vec<String>) {
        *locked(&self.missing) = missing;
    }

    /// Preview commands have ended with this code.
    pub fn set_exited(&self, exit_code: i64) {
        *locked(&self.exited) = Some(exit_code);
    }

    /// How often a preview command was ended.
    pub fn stopped(&self) -> u64 {
        self.stopped.load(Ordering::SeqCst)
    }

    /// How often it was asked where a preview is reached.
    pub fn looked_up(&self) -> u64 {
        self.looked_up.load(Ordering::SeqCst)
    }

    /// Sets the answer to `changed_paths`.
    pub fn set_changed(&self, changed: Result<Vec<u8>, SandboxError>) {
        *locked(&self.changed) = changed;
    }
}

/// Previews are there once a test has said where they are reached; their commands always run.
#[async_trait]
impl PreviewHost for FakeSandbox {
    fn has_previews(&self, _: SandboxProvider) -> bool {
        locked(&self.upstream).is_some()
    }

    async fn missing_capabilities(&self, _: &SandboxTarget, _: &PreviewConfig) -> Result<Vec<String>, SandboxError> {
        Ok(locked(&self.missing).clone())
    }

    async fn read_repo_file(&self, _: &SandboxTarget, _: &str, _: usize) -> Result<Option<Vec<u8>>, SandboxError> {
        Ok(None)
    }

    async fn start_preview(&self, _: &SandboxTarget, _: &PreviewCommand) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn preview_report(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<CommandReport, SandboxError> {
        let exited = *locked(&self.exited);
        let state = exited.map_or(CommandState::Running, |code| CommandState::Exited { exit_code: Some(code) });
        Ok(CommandReport { state, output_tail: "what the command said".to_owned() })
    }

    async fn stop_preview(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<(), SandboxError> {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn upstream(&self, _: &SandboxTarget, _: u16) -> Result<Upstream, SandboxError> {
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        let upstream = locked(&self.upstream).clone();
        upstream.unwrap_or_else(|| Err(SandboxError::ProviderUnavailable("this fake shows no previews".into())))
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn head_sha(&self, _: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        locked(&self.head).clone()
    }

    async fn changed_paths(
        &self,
        _: &SandboxTarget,
        _: &CommitSha,
        _: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        locked(&self.changed).clone()
    }
}

/// What has been counted, by name.
pub type Counted = HashMap<String, u64>;

/// Remembers what was counted and emitted.
#[derive(Debug, Default)]
pub struct RecordingObserver(Mutex<Counted>);

impl RecordingObserver {
    /// How often `name` was counted: an outcome, `quarantined:REASON`, `denied:REASON`, `actor:WHAT`,
    /// `preview:STATE`, `preview_denied:REASON`, `proxy_denied:REASON` (of those, the ones that name a proxied request),
    /// `probed:RESULT` or `without_credential`.
    pub fn count(&self, name: &str) -> u64 {
        locked(&self.0).get(name).copied().unwrap_or(0)
    }

    fn add(&self, name: String, count: u64) {
        *locked(&self.0).entry(name).or_default() += count;
    }
}

impl Observer for RecordingObserver {
    fn envelopes(&self, outcome: &'static str, count: u64) {
        self.add(outcome.to_owned(), count);
    }

    fn quarantined(&self, _: RunDimensions<'_>, reason: QuarantineReason) {
        self.add(format!("quarantined:{reason}"), 1);
    }

    fn access_denied(&self, _: RunDimensions<'_>, reason: SecurityReason) {
        self.add(format!("denied:{reason}"), 1);
    }

    fn preview_state(&self, _: PreviewDimensions<'_>, _: Option<PreviewSessionState>, to: PreviewSessionState) {
        self.add(format!("preview:{to}"), 1);
    }

    fn preview_denied(&self, session: PreviewDimensions<'_>, reason: SecurityReason) {
        self.add(format!("preview_denied:{reason}"), 1);
        if session.proxy_req_id.is_some() {
            self.add(format!("proxy_denied:{reason}"), 1);
        }
    }

    fn preview_probed(&self, result: &'static str) {
        self.add(format!("probed:{result}"), 1);
    }

    fn preview_without_credential(&self) {
        self.add("without_credential".to_owned(), 1);
    }

    fn preview_ready_after(&self, _: PreviewDimensions<'_>, _: u64) {
        self.add("preview_ready_after".to_owned(), 1);
    }

    fn actor(&self, what: &'static str) {
        self.add(format!("actor:{what}"), 1);
    }

    fn live_runs(&self, _: usize) {}
}
