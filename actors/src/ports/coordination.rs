//! What several servers agree on beside the database: leases and counters that may be forgotten.

use async_trait::async_trait;
use thiserror::Error;

use crate::contract::Timestamp;

/// The coordination store is out of reach or answered nonsense. Callers fail closed.
#[derive(Debug, Error)]
#[error("the coordination store is out of reach: {0}")]
pub struct CoordinationError(pub String);

/// A lease that this holder has until `expires_at`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What is leased.
    pub key: String,
    /// Who has it: only the same holder extends or releases it.
    pub holder: String,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// The answer of a rate limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateDecision {
    /// Go ahead.
    Allowed,
    /// Not before so many milliseconds from now.
    Limited {
        /// Milliseconds until the next one is allowed.
        retry_after_ms: u64,
    },
}

/// Leases and rate limits, shared by all servers of one installation.
#[async_trait]
pub trait Coordination: Send + Sync {
    /// Takes the lease `key` for `ttl_ms` if it is free or already this holder's (then it is extended);
    /// `None` where somebody else has it.
    async fn acquire_lease(&self, key: &str, holder: &str, ttl_ms: u64) -> Result<Option<Lease>, CoordinationError>;

    /// Gives the lease back; nothing happens where somebody else has it by now.
    async fn release_lease(&self, lease: &Lease) -> Result<(), CoordinationError>;

    /// Counts one use of `key` in a fixed window of `window_ms`; at most `limit` are allowed in it.
    async fn count(&self, key: &str, limit: u32, window_ms: u64) -> Result<RateDecision, CoordinationError>;

    /// Takes back one use that came to nothing, in the window that it was counted in; nothing happens after that.
    async fn uncount(&self, key: &str) -> Result<(), CoordinationError>;

    /// The store's own clock, to compare with the server's.
    async fn now(&self) -> Result<Timestamp, CoordinationError>;
}
