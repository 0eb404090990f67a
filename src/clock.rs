//! The wall clock and fresh identities of the running program; the one place that asks the machine for them.

use std::sync::atomic::{AtomicU64, Ordering};
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

/// Bits of a UUID's version 7 between the millisecond and the variant.
const COUNT_BITS: u32 = 12;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// Millisecond and count of the last identity that was made.
static LAST: AtomicU64 = AtomicU64::new(0);

impl IdSource for SystemIds {
    /// The millisecond, a count within it, and 62 random bits of the thread's generator: the library's own would ask
    /// the kernel for each.
    fn uuid_v7(&self) -> Uuid {
        let now = u64::try_from(SystemClock.now().as_millis()).unwrap_or(0) << COUNT_BITS;
        // Past the count, or where the clock went back, the next one is still above the last.
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(now);
        let stamp = now.max(last.saturating_add(1));
        let mut tail: [u8; 10] = rand::rng().random();
        let count = u16::try_from(stamp & COUNT_MASK).unwrap_or(0);
        tail[..2].copy_from_slice(&count.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(stamp >> COUNT_BITS, &tail).into_uuid()
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
        assert!(minted.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }

    #[test]
    fn identities_of_all_threads_differ_and_carry_the_time() {
        let minted: Vec<Uuid> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..5000).map(|_| SystemIds.uuid_v7()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let now = u64::try_from(SystemClock.now().as_millis()).unwrap();
        let millis = |id: &Uuid| u64::from_be_bytes([&[0; 2], &id.as_bytes()[..6]].concat().try_into().unwrap());
        assert!(minted.iter().all(|id| millis(id).abs_diff(now) < 60_000));
        let distinct: std::collections::HashSet<_> = minted.iter().collect();
        assert_eq!(distinct.len(), minted.len());
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
