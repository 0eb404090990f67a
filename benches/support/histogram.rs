//! Latencies, counted in buckets that are at most 1.6 % wide.

/// Buckets for each power of two.
const STEPS: u64 = 64;
const STEPS_LOG2: u32 = 6;
const BUCKETS: usize = 64 * STEPS as usize;

/// Counts of durations in microseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Empty.
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    /// Counts one.
    pub fn record(&mut self, micros: u64) {
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// How many were counted.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The duration in milliseconds that this share (0 to 1000 per mille) stays below; 0 where there is none.
    pub fn per_mille_ms(&self, per_mille: u64) -> f64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return micros_above(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(micros: u64) -> usize {
    let value = micros + STEPS;
    let magnitude = value.ilog2();
    let shift = magnitude - STEPS_LOG2;
    let within = (value >> shift) - STEPS;
    (u64::from(shift) * STEPS + within) as usize
}

/// The upper end of a bucket.
fn micros_above(bucket: usize) -> u64 {
    let (shift, within) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    ((within + STEPS + 1) << shift) - STEPS
}
