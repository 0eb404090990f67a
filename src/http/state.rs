//! What every route works with.

use std::sync::Arc;

use runwarden_actors::contract::RolloutPhase;
use runwarden_actors::registry::Runs;
use runwarden_actors::run::Deps;
use tokio::sync::watch;

use crate::auth::{DaemonTokens, SharedSecret};
use crate::containers::Containers;
use crate::proxy::PreviewServices;
use crate::telemetry::Metrics;

/// Shared by all workers. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Ports.
    pub deps: Deps,
    /// Run actors.
    pub runs: Runs,
    /// Daemon tokens.
    pub tokens: DaemonTokens,
    /// What host applications send.
    pub internal_key: Arc<SharedSecret>,
    /// Whether the process provider may be bound: it has a root.
    pub process_allowed: bool,
    /// Frozen into new runs.
    pub rollout_phase: RolloutPhase,
    /// Counters.
    pub metrics: Option<Metrics>,
    /// Previews.
    pub previews: PreviewServices,
    /// Container previews.
    pub containers: Containers,
    /// Turns true when the server is going down.
    pub shutdown: watch::Receiver<bool>,
}
