//! Coordination inside one process.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use runwarden_actors::contract::{PreviewSessionId, Timestamp};
use runwarden_actors::ports::{Clock, CoordinationError, Lease, Leases, RateDecision};
use uuid::Uuid;

use super::bounds::{check_span, check_text};
use super::durable::Durable;
use super::expiring::{Entry, Expiring};

/// Entries of each kind that may be alive at once. Past it new ones are refused: callers fail closed.
pub const EMBEDDED_KEYS_MAX: usize = 100_000;

/// Coordination of one server. Leases, counters, remembered access and the gate's state are in memory; single-use
/// marks and preview keys are in a file where there is a folder for it.
pub struct EmbeddedCoordination {
    clock: Arc<dyn Clock>,
    pub(super) durable: Durable,
    state: Mutex<State>,
}

/// What a restart may forget.
pub(super) struct State {
    /// Leases, and the windows of limits.
    pub(super) entries: Expiring<String, Value>,
    pub(super) revocations: Expiring<PreviewSessionId, i64>,
    pub(super) slots: Expiring<PreviewSessionId, Vec<Slot>>,
    pub(super) access: Expiring<String, Access>,
    /// The last generation that was given out.
    pub(super) generation: u64,
}

/// What a key of [`State::entries`] is.
pub(super) enum Value {
    Lease(String),
    Count(u32),
}

/// A request's slot.
pub(super) struct Slot {
    pub(super) id: Uuid,
    pub(super) expires_at: Timestamp,
}

/// What is remembered of an access, and under which generation an answer may be remembered.
pub(super) struct Access {
    pub(super) generation: u64,
    pub(super) known: Option<(bool, Timestamp)>,
}

impl EmbeddedCoordination {
    /// An empty one that reads this clock. It has no folder: a restart forgets marks and keys too, so only tests want
    /// it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_capacity(clock, EMBEDDED_KEYS_MAX)
    }

    /// An empty one without a folder that holds at most `keys_max` entries of each kind.
    pub fn with_capacity(clock: Arc<dyn Clock>, keys_max: usize) -> Self {
        Self::build(clock, Durable::memory(keys_max), keys_max)
    }

    /// One whose marks and keys are in `coordination.sqlite3` in this folder, which must exist. Several processes may
    /// have it open. Must be called within a Tokio runtime that lives as long as the value.
    pub async fn open(clock: Arc<dyn Clock>, folder: &Path) -> Result<Self, CoordinationError> {
        let durable = Durable::file(folder).await?;
        Ok(Self::build(clock, durable, EMBEDDED_KEYS_MAX))
    }

    fn build(clock: Arc<dyn Clock>, durable: Durable, keys_max: usize) -> Self {
        let state = State {
            entries: Expiring::new("leases and counters", keys_max),
            revocations: Expiring::new("announced preview sessions", keys_max),
            slots: Expiring::new("preview sessions with requests", keys_max),
            access: Expiring::new("remembered accesses", keys_max),
            generation: 0,
        };
        Self { clock, durable, state: Mutex::new(state) }
    }

    /// Leases and counters in memory, expired ones that were not yet removed included.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether no lease or counter is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn time(&self) -> Timestamp {
        self.clock.now()
    }

    /// Nothing panics between the statements of a change, so a poisoned lock still guards a whole state.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Leases for EmbeddedCoordination {
    async fn acquire_lease(&self, key: &str, holder: &str, ttl_ms: u64) -> Result<Option<Lease>, CoordinationError> {
        check_text("a lease's key", key)?;
        check_text("a lease's holder", holder)?;
        let ttl = check_span("a lease", ttl_ms)?;
        let now = self.clock.now();
        let expires_at = now.plus_millis(ttl);
        let mut state = self.lock();
        match state.entries.live(key, now) {
            Some(Entry { value: Value::Lease(other), .. }) if other != holder => return Ok(None),
            Some(Entry { value: Value::Count(_), .. }) => return Err(wrong_kind(key)),
            _ => {}
        }
        state.entries.insert(key, Value::Lease(holder.to_owned()), expires_at, now)?;
        Ok(Some(Lease { key: key.to_owned(), holder: holder.to_owned(), expires_at }))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError> {
        check_text("a lease's key", &lease.key)?;
        check_text("a lease's holder", &lease.holder)?;
        let now = self.clock.now();
        let mut state = self.lock();
        match state.entries.live(&lease.key, now) {
            Some(Entry { value: Value::Lease(holder), .. }) if *holder == lease.holder => {
                state.entries.remove(&lease.key);
                Ok(())
            }
            Some(Entry { value: Value::Count(_), .. }) => Err(wrong_kind(&lease.key)),
            _ => Ok(()),
        }
    }

    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError> {
        check_text("a counter's key", key)?;
        let window = check_span("a window", window_ms)?;
        let now = self.clock.now();
        let mut state = self.lock();
        let (used, ends_at) = match state.entries.live(key, now) {
            Some(Entry { value: Value::Count(used), expires_at }) => {
                *used = used.saturating_add(1);
                (*used, *expires_at)
            }
            Some(Entry { value: Value::Lease(_), .. }) => return Err(wrong_kind(key)),
            None => {
                let expires_at = now.plus_millis(window);
                state.entries.insert(key, Value::Count(1), expires_at, now)?;
                (1, expires_at)
            }
        };
        if used <= limit {
            return Ok(RateDecision::Allowed);
        }
        Ok(RateDecision::Limited { retry_after_ms: u64::try_from(ends_at.millis_since(now)).unwrap_or(0).max(1) })
    }

    async fn uncount(&self, key: &str) -> Result<(), CoordinationError> {
        check_text("a counter's key", key)?;
        let now = self.clock.now();
        match self.lock().entries.live(key, now) {
            Some(Entry { value: Value::Count(used), .. }) => {
                *used = used.saturating_sub(1);
                Ok(())
            }
            Some(Entry { value: Value::Lease(_), .. }) => Err(wrong_kind(key)),
            None => Ok(()),
        }
    }

    async fn now(&self) -> Result<Timestamp, CoordinationError> {
        Ok(self.clock.now())
    }
}

pub(super) fn wrong_kind(key: &str) -> CoordinationError {
    CoordinationError(format!("`{}` is used as a lease and as a counter", key.escape_debug()))
}
