//! Time and fresh identities, injected so that tests decide both.

use uuid::Uuid;

use crate::contract::Timestamp;

/// The current time.
pub trait Clock: Send + Sync {
    /// Now, by the wall clock.
    fn now(&self) -> Timestamp;
}

/// Fresh identities and randomness for jitter.
pub trait IdSource: Send + Sync {
    /// A UUIDv7: sorts by the time it was minted.
    fn uuid_v7(&self) -> Uuid;

    /// A number below `bound`, for jitter; 0 where `bound` is 0.
    fn random_below(&self, bound: u64) -> u64;
}
