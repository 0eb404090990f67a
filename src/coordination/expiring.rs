//! A bounded map whose entries end by themselves. Past the bound new keys are refused: callers fail closed.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::CoordinationError;

/// Below this size nobody looks for expired entries.
const PURGE_ABOVE: usize = 1024;
/// How often a full map is searched for expired entries.
const PURGE_INTERVAL_WHEN_FULL_MS: i64 = 100;

/// A value and when it ends.
pub(super) struct Entry<V> {
    pub(super) value: V,
    pub(super) expires_at: Timestamp,
}

/// The map.
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, Entry<V>>,
    max: usize,
    /// For the error.
    what: &'static str,
    /// At this size expired entries are looked for: twice what was alive the last time, so that the search
    /// costs little for each insertion.
    purge_at: usize,
    last_purge: Timestamp,
}

impl<K: Eq + Hash, V> Expiring<K, V> {
    /// An empty one of at most `max` of `what`.
    pub(super) fn new(what: &'static str, max: usize) -> Self {
        Self { entries: HashMap::new(), max, what, purge_at: 0, last_purge: Timestamp::default() }
    }

    /// Entries, expired ones that were not yet removed included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The entry that has not ended.
    pub(super) fn live<Q>(&mut self, key: &Q, now: Timestamp) -> Option<&mut Entry<V>>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.get_mut(key).filter(|entry| entry.expires_at > now)
    }

    /// Forgets the entry.
    pub(super) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.entries.remove(key);
    }

    /// Makes sure that so many new keys can be inserted, or says why not.
    pub(super) fn make_room(&mut self, more: usize, now: Timestamp) -> Result<(), CoordinationError> {
        let full = self.entries.len().saturating_add(more) > self.max;
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
        if self.entries.len().saturating_add(more) > self.max {
            return Err(CoordinationError(format!("{} {} are alive already", self.max, self.what)));
        }
        Ok(())
    }

    /// Inserts or replaces.
    pub(super) fn insert<Q>(
        &mut self,
        key: &Q,
        value: V,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), CoordinationError>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ToOwned<Owned = K> + ?Sized,
    {
        if let Some(entry) = self.entries.get_mut(key) {
            *entry = Entry { value, expires_at };
            return Ok(());
        }
        self.make_room(1, now)?;
        self.entries.insert(key.to_owned(), Entry { value, expires_at });
        Ok(())
    }
}
