//! Counters for Prometheus. The recorder belongs to the process; several applications in one process share it.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

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
            let handle = PrometheusBuilder::new().install_recorder().ok();
            describe();
            handle
        })
        .clone()
        .map(Metrics)
}

fn describe() {
    use metrics::{describe_counter, describe_gauge};
    use runwarden_actors::contract::names::{METRIC_LEGACY_MODE, METRIC_MISSING_END_SHA, METRIC_STRICT_MISMATCH};
    describe_counter!("runwarden.envelopes", "Daemon envelopes by outcome");
    describe_counter!("runwarden.quarantined", "Quarantine rows by reason and repository");
    describe_counter!("runwarden.access_denied", "Access-denied events by reason");
    describe_counter!("runwarden.preview_unknown_kid", "Preview tokens with an unknown key, by namespace");
    describe_counter!("runwarden.run_actors", "What happened to run actors");
    describe_gauge!("runwarden.live_runs", "Run actors in this process");
    describe_counter!(METRIC_STRICT_MISMATCH, "Envelopes without runId for strict runs");
    describe_counter!(METRIC_LEGACY_MODE, "Envelopes without runId for legacy runs");
    describe_counter!(METRIC_MISSING_END_SHA, "Terminal envelopes without endSha");
}
