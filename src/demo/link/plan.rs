//! Which mistakes a link makes, how often, and how many it has made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// No mistake is made more often than this, so that something always gets through.
pub const FAULT_PROBABILITY_MAX: f64 = 0.25;

macro_rules! faults {
    ($($(#[$meta:meta])* $variant:ident = $name:ident),+ $(,)?) => {
        /// A mistake that a link makes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Fault {
            $($(#[$meta])* $variant),+
        }

        impl Fault {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in the plan and in the statistics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name)),+ }
            }
        }

        /// How often each mistake is made: probabilities from 0 to [`FAULT_PROBABILITY_MAX`] for each frame or
        /// request; more counts as that much.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(default)]
        pub struct FaultPlan {
            /// Where the randomness starts.
            pub seed: u64,
            /// The longest delay of a frame, a request or a late duplicate.
            pub delay_max: Duration,
            /// Refuse every stream with this status.
            pub refuse_stream: Option<u16>,
            $($(#[$meta])* pub $name: f64),+
        }

        impl FaultPlan {
            pub(super) fn probability(&self, fault: Fault) -> f64 {
                let wished = match fault { $(Fault::$variant => self.$name),+ };
                if wished.is_nan() { 0.0 } else { wished.clamp(0.0, FAULT_PROBABILITY_MAX) }
            }

            fn all(probability: f64) -> Self {
                Self { $($name: probability,)+ ..Self::default() }
            }
        }
    };
}

faults! {
    /// A frame to the server is lost, and the connection with it.
    FrameLost = frame_lost,
    /// The connection is cut in the middle of a frame to the server.
    CutInFrame = cut_in_frame,
    /// The server has the frame; the connection is cut before its acknowledgement.
    CutAfterFrame = cut_after_frame,
    /// A frame reaches the server twice.
    FrameDuplicated = frame_duplicated,
    /// A frame that the server acknowledged long ago, maybe on another connection, comes again.
    FrameReplayed = frame_replayed,
    /// A frame to the server, and all behind it, is held back.
    FrameDelayed = frame_delayed,
    /// An acknowledgement is lost, and the connection with it.
    AckLost = ack_lost,
    /// A request never reaches the server.
    RequestLost = request_lost,
    /// The server has the request; its answer is lost.
    ResponseLost = response_lost,
    /// A request reaches the server twice.
    RequestDuplicated = request_duplicated,
    /// A copy of a request reaches the server later, after newer ones.
    RequestReplayed = request_replayed,
    /// A request is held back.
    RequestDelayed = request_delayed,
}

impl FaultPlan {
    /// No mistakes.
    pub fn none() -> Self {
        Self::default()
    }

    /// Every mistake, often, with delays of up to 20 ms.
    pub fn nasty(seed: u64) -> Self {
        Self { seed, delay_max: Duration::from_millis(20), ..Self::all(0.05) }
    }
}

/// What a link has done; shared and live.
#[derive(Debug, Default)]
pub struct LinkStats {
    faults: [AtomicU64; Fault::ALL.len()],
    connections: AtomicU64,
    frames: AtomicU64,
    requests: AtomicU64,
}

impl LinkStats {
    pub(super) fn count(&self, fault: Fault) {
        if let Some(counter) = self.faults.get(fault as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// How often this mistake was made.
    pub fn made(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// All mistakes together.
    pub fn made_in_all(&self) -> u64 {
        Fault::ALL.iter().map(|fault| self.made(*fault)).sum()
    }

    /// Streams that were opened through the link.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Envelopes that the daemon has handed to the link on streams.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Envelopes that the daemon has handed to the link over HTTP.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_always_gets_through() {
        let plan = FaultPlan { frame_lost: 1.0, ack_lost: f64::NAN, cut_in_frame: -1.0, ..FaultPlan::none() };
        assert!((plan.probability(Fault::FrameLost) - FAULT_PROBABILITY_MAX).abs() < f64::EPSILON);
        assert!(plan.probability(Fault::AckLost).abs() < f64::EPSILON);
        assert!(plan.probability(Fault::CutInFrame).abs() < f64::EPSILON);
    }

    #[test]
    fn every_fault_has_a_counter_of_its_own() {
        let stats = LinkStats::default();
        for fault in Fault::ALL {
            assert_eq!(stats.made(*fault), 0);
            stats.count(*fault);
            assert_eq!(stats.made(*fault), 1, "{}", fault.as_str());
        }
        assert_eq!(stats.made_in_all(), Fault::ALL.len() as u64);
    }
}
