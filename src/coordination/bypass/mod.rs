//! An operator's emergency bypass (section 5, tokens; `docs/adr/0019-emergency-bypass.md`): while Redis is away, and
//! before an instant, users whom the operator has named are checked against this process' memory instead.
//!
//! - [`RedisBypass`]: what is handed to the rest of the house; exists only where the settings ask for it
//! - `outage`: whether Redis is away, and the way back
//! - `scoped`: the port `Coordination`, for nobody in particular, before a user is known, or for one user

mod outage;
mod scoped;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use metrics::{counter, gauge};
use runwarden_actors::contract::{KeyNamespace, Timestamp, UserId};
use runwarden_actors::ports::{Bypass, BypassUse, Clock, Coordination, CoordinationError, KeyRing};

use self::scoped::{Scope, Scoped, UserScope};
use super::EmbeddedCoordination;
use crate::config::BypassConfig;

/// Tokens that are used while Redis is away, each remembered until Redis has its marks; past it none is taken.
const USED_MAX: usize = 10_000;

/// The bypass of one server. Cheap to clone.
#[derive(Clone)]
pub struct RedisBypass(Arc<Inner>);

pub(super) struct Inner {
    primary: Arc<dyn Coordination>,
    clock: Arc<dyn Clock>,
    settings: BypassConfig,
    /// Whether the primary is known to be away.
    away: AtomicBool,
    /// Whether a task looks for its return.
    attended: AtomicBool,
    /// Limits, slots, versions and accesses of this outage; the next one begins with nothing.
    fallback: RwLock<Arc<EmbeddedCoordination>>,
    /// Marks of all tokens of named users that this server has seen used, in the primary or past it. Never forgotten
    /// before they run out: a token is used once on this server, whoever is away.
    marks: EmbeddedCoordination,
    /// Marks that the primary does not have yet, and when they run out.
    used: Mutex<VecDeque<(Vec<String>, Timestamp)>>,
    /// The keys as the primary has last given them.
    rings: Mutex<Vec<(KeyNamespace, KeyRing)>>,
}

impl RedisBypass {
    /// Before `primary`. Nothing is asked yet; while the primary answers, only marks are kept beside it.
    pub fn new(primary: Arc<dyn Coordination>, clock: Arc<dyn Clock>, settings: BypassConfig) -> Self {
        tracing::warn!(
            until = %settings.until,
            users = settings.users.len(),
            "an emergency bypass is configured: while Redis is away these users are let in without it"
        );
        gauge!("runwarden.preview_bypass_active").set(0.0);
        Self(Arc::new(Inner {
            away: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            fallback: RwLock::new(Arc::new(EmbeddedCoordination::new(Arc::clone(&clock)))),
            marks: EmbeddedCoordination::new(Arc::clone(&clock)),
            used: Mutex::default(),
            rings: Mutex::default(),
            primary,
            clock,
            settings,
        }))
    }

    /// For everything that is nobody's in particular: the primary, and nothing in its place. It fails at once while the
    /// primary is known to be away.
    pub fn closed(&self) -> Arc<dyn Coordination> {
        self.scoped(Scope::Closed)
    }

    fn scoped(&self, scope: Scope) -> Arc<dyn Coordination> {
        Arc::new(Scoped { inner: Arc::clone(&self.0), scope })
    }
}

impl Bypass for RedisBypass {
    fn for_user(&self, of: BypassUse<'_>) -> Option<Arc<dyn Coordination>> {
        // Also while the primary answers, and after the instant: its marks are compared with those that are kept here.
        self.0.is_named(of.user).then(|| self.scoped(Scope::User(UserScope::new(of))))
    }

    fn before_user(&self) -> Arc<dyn Coordination> {
        self.scoped(Scope::BeforeUser)
    }

    fn is_away(&self) -> bool {
        self.0.is_away()
    }

    fn covers(&self, user: &UserId) -> bool {
        self.0.is_open() && self.0.is_named(user)
    }

    fn until(&self) -> Timestamp {
        self.0.settings.until
    }
}

impl Inner {
    fn is_named(&self, user: &UserId) -> bool {
        self.settings.users.contains(user)
    }

    /// Whether the instant has not come yet.
    fn is_in_time(&self) -> bool {
        self.clock.now() < self.settings.until
    }

    /// Whether the fallback may answer now.
    fn is_open(&self) -> bool {
        self.is_away() && self.is_in_time()
    }

    fn fallback(&self) -> Arc<EmbeddedCoordination> {
        Arc::clone(&self.fallback.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes down that these marks are for the primary once it is back. Refused where it is back already.
    fn owe(&self, marks: &[String], until: Timestamp) -> Result<(), CoordinationError> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_open() {
            return Err(outage::away());
        }
        if used.len() >= USED_MAX {
            return Err(CoordinationError(format!("more than {USED_MAX} tokens were used past Redis")));
        }
        used.push_back((marks.to_vec(), until));
        Ok(())
    }

    /// One line and one count for each use (section 5: audited). The token is not in it.
    fn note(&self, of: &UserScope, route: &'static str) {
        counter!("runwarden.preview_bypass_uses", "route" => route).increment(1);
        tracing::warn!(
            target: "runwarden::audit",
            user = %of.user,
            preview_session_id = of.session.map(tracing::field::display),
            route,
            proxy_req_id = of.proxy_req_id.map(tracing::field::display),
            until = %self.settings.until,
            "let in past Redis by the emergency bypass"
        );
    }
}
