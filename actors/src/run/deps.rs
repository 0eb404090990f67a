//! The ports that everything about runs works with, handed around together.

use std::sync::Arc;

use crate::ports::{Clock, Coordination, EvidenceStore, IdSource, Observer, Sandbox, Store};

use super::effects::EffectNudge;
use super::feed::Feeds;

/// The ports. Cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// Database.
    pub store: Arc<dyn Store>,
    /// Leases and limits.
    pub coordination: Arc<dyn Coordination>,
    /// Objects.
    pub evidence: Arc<dyn EvidenceStore>,
    /// Sandboxes.
    pub sandbox: Arc<dyn Sandbox>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Identities.
    pub ids: Arc<dyn IdSource>,
    /// Counters and events.
    pub observer: Arc<dyn Observer>,
    /// Live readers.
    pub feeds: Arc<Feeds>,
    /// Wakes the outbox.
    pub effects: EffectNudge,
}

impl Deps {
    /// Gathers the ports; makes the feeds and the nudge.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "each is a port, and they are named at the one call")]
    pub fn new(
        store: Arc<dyn Store>,
        coordination: Arc<dyn Coordination>,
        evidence: Arc<dyn EvidenceStore>,
        sandbox: Arc<dyn Sandbox>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn IdSource>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        let feeds = Feeds::new(Arc::clone(&store));
        Self { store, coordination, evidence, sandbox, clock, ids, observer, feeds, effects: EffectNudge::default() }
    }
}
