//! Coordination inside one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{Clock, CoordinationError, Lease, Leases, RateDecision};

use super::bounds::{check_span, check_text};

/// Leases and counters that may be alive at once. Past it new keys are refused: callers fail closed.
pub const EMBEDDED_KEYS_MAX: usize = 100_000;
/// Below this size nobody looks for expired entries.
const PURGE_ABOVE: usize = 1024;
/// How often a full map is searched for expired entries.
const PURGE_INTERVAL_WHEN_FULL_MS: i64 = 100;

/// Leases and counters of one server, in memory.
pub struct EmbeddedCoordination {
    clock: Arc<dyn Clock>,
    keys_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// At this size expired entries are looked for: twice what was alive the last time, so that the search
    /// costs little for each insertion.
    purge_at: usize,
    last_purge: Timestamp,
}

struct Entry {
    value: Value,
    expires_at: Timestamp,
}

enum Value {
    Lease(String),
    Count(u32),
}

impl EmbeddedCoordination {
    /// An empty one that reads this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_capacity(clock, EMBEDDED_KEYS_MAX)
    }

    /// An empty one that holds at most `keys_max` leases and counters.
    pub fn with_capacity(clock: Arc<dyn Clock>, keys_max: usize) -> Self {
        Self { clock, keys_max, state: Mutex::default() }
    }

    /// Leases and counters in memory, expired ones that were not yet removed included.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether nothing is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every change of the map is one statement, so a poisoned lock still guards a whole map.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn live(&mut self, key: &str, now: Timestamp) -> Option<&mut Entry> {
        self.entries.get_mut(key).filter(|entry| entry.expires_at > now)
    }

    fn insert(&mut self, key: &str, entry: Entry, now: Timestamp, keys_max: usize) -> Result<(), CoordinationError> {
        let full = self.entries.len() >= keys_max;
        let due = if full {
            now.millis_since(self.last_purge).saturating_abs() >= PURGE_INTERVAL_WHEN_FULL_MS
        } else {
            self.entries.len() >= self.purge_at.max(PURGE_ABOVE)
        };
        if due {
            self.entries.retain(|_, entry| entry.expires_at > now);
            self.purge_at = self.entries.len().saturating_mul(2);
            self.last_purge = now;
        }
        if self.entries.len() >= keys_max && !self.entries.contains_key(key) {
            return Err(CoordinationError(format!("{keys_max} leases and counters are alive already")));
        }
        self.entries.insert(key.to_owned(), entry);
        Ok(())
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
        match state.live(key, now) {
            Some(Entry { value: Value::Lease(other), .. }) if other != holder => return Ok(None),
            Some(Entry { value: Value::Count(_), .. }) => return Err(wrong_kind(key)),
            _ => {}
        }
        state.insert(key, Entry { value: Value::Lease(holder.to_owned()), expires_at }, now, self.keys_max)?;
        Ok(Some(Lease { key: key.to_owned(), holder: holder.to_owned(), expires_at }))
    }

    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError> {
        check_text("a lease's key", &lease.key)?;
        check_text("a lease's holder", &lease.holder)?;
        let now = self.clock.now();
        let mut state = self.lock();
        match state.live(&lease.key, now) {
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
        let (used, ends_at) = match state.live(key, now) {
            Some(Entry { value: Value::Count(used), expires_at }) => {
                *used = used.saturating_add(1);
                (*used, *expires_at)
            }
            Some(Entry { value: Value::Lease(_), .. }) => return Err(wrong_kind(key)),
            None => {
                let expires_at = now.plus_millis(window);
                state.insert(key, Entry { value: Value::Count(1), expires_at }, now, self.keys_max)?;
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
        match self.lock().live(key, now) {
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

fn wrong_kind(key: &str) -> CoordinationError {
    CoordinationError(format!("`{}` is used as a lease and as a counter", key.escape_debug()))
}
