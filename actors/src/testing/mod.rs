//! A test clock, counted identities, and fakes for the ports that only decide or observe.

mod fakes;
mod faulty_store;

pub use fakes::{Counted, FakeSandbox, MemoryEvidence, RecordingObserver, TestClock, TestCoordination, TestIds};
pub use faulty_store::{Fault, FaultyStore};
