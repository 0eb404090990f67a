//! The observer port, on counters and the log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use metrics::{counter, gauge};
use runwarden_actors::contract::names::{
    EVENT_ACCESS_DENIED, EVENT_SCHEMA_VERSION, METRIC_LEGACY_MODE, METRIC_MISSING_END_SHA, METRIC_STRICT_MISMATCH,
};
use runwarden_actors::contract::{QuarantineReason, SecurityReason, Timestamp};
use runwarden_actors::ports::{Clock, Observer, RunDimensions};
use std::sync::Arc;

/// Repositories and users that get a label of their own; the rest share `other`, so that memory has a bound.
const LABELS_MAX: usize = 2_000;

/// Counts for Prometheus and emits preview events to the log.
pub struct TelemetryObserver {
    clock: Arc<dyn Clock>,
    labels: Mutex<HashSet<String>>,
}

impl TelemetryObserver {
    /// With the clock that events are stamped by.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, labels: Mutex::default() }
    }

    fn label(&self, text: &str) -> String {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if labels.contains(text) || labels.len() < LABELS_MAX {
            labels.insert(text.to_owned());
            return text.to_owned();
        }
        "other".to_owned()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Observer for TelemetryObserver {
    fn envelopes(&self, outcome: &'static str, count: u64) {
        counter!("runwarden.envelopes", "outcome" => outcome).increment(count);
    }

    fn quarantined(&self, run: RunDimensions<'_>, reason: QuarantineReason) {
        let repo = self.label(run.repo_full_name.as_str());
        let name = match reason {
            QuarantineReason::MissingRunId => Some(METRIC_STRICT_MISMATCH),
            QuarantineReason::LegacyMode => Some(METRIC_LEGACY_MODE),
            QuarantineReason::MissingEndSha => Some(METRIC_MISSING_END_SHA),
            QuarantineReason::Mismatch | QuarantineReason::PayloadVersionMismatch | QuarantineReason::LateGap => None,
        };
        if let Some(name) = name {
            let provider = run.sandbox_provider.map_or("unbound", |provider| provider.as_str());
            let user = self.label(run.user_id.as_str());
            counter!(name, "repo" => repo.clone(), "user" => user, "provider" => provider).increment(1);
        }
        counter!("runwarden.quarantined", "reason" => reason.as_str(), "repo" => repo).increment(1);
    }

    fn access_denied(&self, run: RunDimensions<'_>, reason: SecurityReason) {
        counter!("runwarden.access_denied", "reason" => reason.as_str()).increment(1);
        tracing::warn!(
            target: "runwarden::events",
            schemaVersion = EVENT_SCHEMA_VERSION,
            eventName = EVENT_ACCESS_DENIED,
            origin = "daemon",
            tsServer = %self.now(),
            traceId = %run.run_id,
            runId = %run.run_id,
            threadId = %run.thread_id,
            threadChatId = %run.thread_chat_id,
            userId = %run.user_id,
            codesandboxId = run.codesandbox_id.map(tracing::field::display),
            sandboxProvider = run.sandbox_provider.map(tracing::field::display),
            reason = %reason,
            "access denied"
        );
    }

    fn actor(&self, what: &'static str) {
        counter!("runwarden.run_actors", "what" => what).increment(1);
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float; exact up to 2^53 actors")]
    fn live_runs(&self, count: usize) {
        gauge!("runwarden.live_runs").set(count as f64);
    }
}
