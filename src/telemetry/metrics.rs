//! Counters for Prometheus. The recorder belongs to the process; several applications in one process share it.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use runwarden_actors::contract::names::METRIC_PREVIEW_READY_LATENCY;

/// Upper bounds of the histogram that says how fast previews come up; 20 s is the mark of section 11.
const READY_LATENCY_BUCKETS_MS: &[f64] =
    &[250.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0, 30_000.0, 60_000.0, 120_000.0];

/// A way to read all counters.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// The text format of Prometheus.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Installs the recorder; later calls give the same one. `None` where another recorder was installed first.
pub fn install_metrics() -> Option<Metrics> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let latency = Matcher::Full(METRIC_PREVIEW_READY_LATENCY.to_owned());
            let builder = PrometheusBuilder::new().set_buckets_for_metric(latency, READY_LATENCY_BUCKETS_MS).ok()?;
            let handle = builder.install_recorder().ok();
            describe();
            handle
        })
        .clone()
        .map(Metrics)
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    use runwarden_actors::contract::names::{METRIC_LEGACY_MODE, METRIC_MISSING_END_SHA, METRIC_STRICT_MISMATCH};
    describe_counter!("runwarden.envelopes", "Daemon envelopes by outcome");
    describe_counter!("runwarden.quarantined", "Quarantine rows by reason and repository");
    describe_counter!("runwarden.access_denied", "Access-denied events by reason");
    describe_counter!("runwarden.preview_unknown_kid", "Preview tokens with an unknown key, by namespace");
    describe_counter!("runwarden.run_actors", "What happened to run actors");
    describe_counter!("runwarden.preview_sessions", "Moves of preview sessions, by the state that they led to");
    describe_counter!("runwarden.preview_probes", "Probes that browsers have finished, by what they were told");
    describe_counter!("runwarden.preview_without_credential", "Proxied requests without any cookie of a preview");
    describe_counter!("runwarden.preview_bypass_uses", "Requests let in past Redis by the emergency bypass, by route");
    describe_gauge!("runwarden.preview_bypass_active", "1 while the emergency bypass stands in for Redis");
    describe_counter!("runwarden.container_idle", "Idle containers, by what was done");
    describe_histogram!(METRIC_PREVIEW_READY_LATENCY, "Milliseconds until a preview was up, by provider");
    describe_gauge!("runwarden.live_runs", "Run actors in this process");
    describe_counter!(METRIC_STRICT_MISMATCH, "Envelopes without runId for strict runs");
    describe_counter!(METRIC_LEGACY_MODE, "Envelopes without runId for legacy runs");
    describe_counter!(METRIC_MISSING_END_SHA, "Terminal envelopes without endSha");
}
