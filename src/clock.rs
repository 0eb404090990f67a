//! The wall clock and fresh identities of the running program; the one place that asks the machine for them.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;
use runwarden_actors::contract::Timestamp;
use runwarden_actors::ports::{Clock, IdSource};
use uuid::Uuid;

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

/// UUIDs and jitter from the machine's own randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemIds;

impl IdSource for SystemIds {
    #[allow(clippy::disallowed_methods)]
    fn uuid_v7(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn random_below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { rand::rng().random_range(0..bound) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_and_sort_by_time() {
        let minted: Vec<_> = (0..100).map(|_| SystemIds.uuid_v7()).collect();
        assert!(minted.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn jitter_stays_below_its_bound() {
        assert_eq!(SystemIds.random_below(0), 0);
        assert!((0..1000).all(|_| SystemIds.random_below(3) < 3));
    }

    #[test]
    fn the_clock_is_past_the_day_this_was_written() {
        assert!(SystemClock.now() > Timestamp::from_millis(1_763_000_000_000));
    }
}
