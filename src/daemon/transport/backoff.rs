//! The waits between tries: exponential, bounded, with full jitter.

use std::sync::Arc;
use std::time::Duration;

use runwarden_actors::ports::IdSource;

use crate::daemon::options::ExecOptions;

/// The longest that a server may ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Where a series of tries stands.
#[derive(Clone)]
pub(in crate::daemon) struct Backoff {
    min: Duration,
    max: Duration,
    steps: u32,
    ids: Arc<dyn IdSource>,
}

impl Backoff {
    pub(in crate::daemon) fn new(options: &ExecOptions) -> Self {
        let limits = &options.limits;
        Self { min: limits.backoff_min, max: limits.backoff_max, steps: 0, ids: Arc::clone(&options.ids) }
    }

    /// How long to wait before the next try: anything up to `min * 2^tries`, at the most `max`.
    pub(in crate::daemon) fn step(&mut self) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.steps.min(20)).min(self.max);
        self.steps = self.steps.saturating_add(1);
        let micros = u64::try_from(ceiling.as_micros()).unwrap_or(u64::MAX - 1);
        Duration::from_micros(self.ids.random_below(micros + 1))
    }

    /// The same, and never less than what the server asked for (up to five minutes).
    pub(in crate::daemon) fn step_at_least(&mut self, asked: Option<Duration>) -> Duration {
        let own = self.step();
        asked.map_or(own, |asked| asked.min(RETRY_AFTER_MAX).saturating_add(own))
    }

    /// A try succeeded.
    pub(in crate::daemon) fn reset(&mut self) {
        self.steps = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Highest;
    impl IdSource for Highest {
        fn uuid_v7(&self) -> uuid::Uuid {
            uuid::Uuid::nil()
        }
        fn random_below(&self, bound: u64) -> u64 {
            bound.saturating_sub(1)
        }
    }

    fn backoff(ids: Arc<dyn IdSource>) -> Backoff {
        Backoff { min: Duration::from_millis(100), max: Duration::from_secs(10), steps: 0, ids }
    }

    #[test]
    fn the_ceiling_doubles_up_to_its_bound() {
        let mut backoff = backoff(Arc::new(Highest));
        let waits: Vec<_> = (0..9).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        for _ in 0..100 {
            backoff.step();
        }
        backoff.reset();
        assert_eq!(backoff.step().as_millis(), 100);
    }

    #[test]
    fn the_jitter_is_full_and_the_server_is_heard_within_bounds() {
        let mut backoff = backoff(Arc::new(crate::clock::SystemIds));
        let waits: std::collections::HashSet<_> = (0..50)
            .map(|_| {
                backoff.reset();
                backoff.step()
            })
            .collect();
        assert!(waits.len() > 10 && waits.iter().all(|wait| *wait <= Duration::from_millis(100)));
        backoff.reset();
        assert!(backoff.step_at_least(Some(Duration::from_secs(7))) >= Duration::from_secs(7));
        assert!(backoff.step_at_least(Some(Duration::from_hours(24))) < Duration::from_secs(311));
    }
}
