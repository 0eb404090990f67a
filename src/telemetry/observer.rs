//! The observer port, on counters and the log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use metrics::{counter, gauge, histogram};
use runwarden_actors::contract::names::{
    EVENT_ACCESS_DENIED, EVENT_SCHEMA_VERSION, EVENT_SESSION_STATE_CHANGED, METRIC_LEGACY_MODE, METRIC_MISSING_END_SHA,
    METRIC_PREVIEW_READY_LATENCY, METRIC_STRICT_MISMATCH,
};
use runwarden_actors::contract::{PreviewSessionState, QuarantineReason, SecurityReason, Timestamp};
use runwarden_actors::ports::{Clock, Observer, PreviewDimensions, RunDimensions};
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

    fn preview_state(
        &self,
        session: PreviewDimensions<'_>,
        from: Option<PreviewSessionState>,
        to: PreviewSessionState,
    ) {
        counter!("runwarden.preview_sessions", "state" => to.as_str()).increment(1);
        tracing::info!(
            target: "runwarden::events",
            schemaVersion = EVENT_SCHEMA_VERSION,
            eventName = EVENT_SESSION_STATE_CHANGED,
            origin = "server",
            tsServer = %self.now(),
            traceId = %session.preview_session_id,
            previewSessionId = %session.preview_session_id,
            runId = %session.run_id,
            threadId = %session.thread_id,
            threadChatId = %session.thread_chat_id,
            userId = %session.user_id,
            codesandboxId = %session.codesandbox_id,
            sandboxProvider = %session.sandbox_provider,
            from = from.map(tracing::field::display),
            to = %to,
            "preview session state changed"
        );
    }

    fn preview_denied(&self, session: PreviewDimensions<'_>, reason: SecurityReason) {
        counter!("runwarden.access_denied", "reason" => reason.as_str()).increment(1);
        tracing::warn!(
            target: "runwarden::events",
            schemaVersion = EVENT_SCHEMA_VERSION,
            eventName = EVENT_ACCESS_DENIED,
            origin = "client",
            tsServer = %self.now(),
            traceId = %session.proxy_req_id.unwrap_or(session.preview_session_id.as_uuid()),
            proxyReqId = session.proxy_req_id.map(tracing::field::display),
            previewSessionId = %session.preview_session_id,
            runId = %session.run_id,
            threadId = %session.thread_id,
            threadChatId = %session.thread_chat_id,
            userId = %session.user_id,
            codesandboxId = %session.codesandbox_id,
            sandboxProvider = %session.sandbox_provider,
            reason = %reason,
            "preview access denied"
        );
    }

    fn preview_probed(&self, result: &'static str) {
        counter!("runwarden.preview_probes", "result" => result).increment(1);
    }

    fn preview_without_credential(&self) {
        counter!("runwarden.preview_without_credential").increment(1);
    }

    #[allow(clippy::cast_precision_loss, reason = "milliseconds of one start; exact up to 2^53")]
    fn preview_ready_after(&self, session: PreviewDimensions<'_>, millis: u64) {
        histogram!(METRIC_PREVIEW_READY_LATENCY, "provider" => session.sandbox_provider.as_str()).record(millis as f64);
    }

    fn actor(&self, what: &'static str) {
        counter!("runwarden.run_actors", "what" => what).increment(1);
    }

    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float; exact up to 2^53 actors")]
    fn live_runs(&self, count: usize) {
        gauge!("runwarden.live_runs").set(count as f64);
    }
}
