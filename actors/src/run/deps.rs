//! The ports that everything about runs works with, handed around together.

use std::borrow::Cow;
use std::sync::Arc;

use crate::ports::{Bypass, BypassUse, Clock, Coordination, EvidenceStore, IdSource, Observer, Sandbox, Store};

use super::effects::EffectNudge;
use super::feed::Feeds;

/// The ports. Cheap to clone.
#[derive(Clone)]
pub struct Deps {
    /// Database.
    pub store: Arc<dyn Store>,
    /// Leases and limits.
    pub coordination: Arc<dyn Coordination>,
    /// What stands in for it in an emergency, for some users; an operator has to ask for it.
    pub bypass: Option<Arc<dyn Bypass>>,
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
        let (bypass, effects) = (None, EffectNudge::default());
        Self { store, coordination, bypass, evidence, sandbox, clock, ids, observer, feeds, effects }
    }

    /// The ports for a user's request: the same ones, unless an operator's bypass names the user.
    pub fn for_user(&self, of: BypassUse<'_>) -> Cow<'_, Self> {
        match self.bypass.as_ref().and_then(|bypass| bypass.for_user(of)) {
            Some(coordination) => Cow::Owned(Self { coordination, ..self.clone() }),
            None => Cow::Borrowed(self),
        }
    }

    /// What has to be asked before anybody can say whose request it is; see [`Bypass::before_user`].
    pub fn before_user(&self) -> Arc<dyn Coordination> {
        self.bypass.as_ref().map_or_else(|| Arc::clone(&self.coordination), |bypass| bypass.before_user())
    }
}
