//! What the decisions need of the world, as traits. A port exists only where there are two implementations or a
//! fake that tests need.

mod clock;
mod coordination;
mod evidence;
mod observer;
mod sandbox;
pub mod store;

pub use clock::{Clock, IdSource};
pub use coordination::{Coordination, CoordinationError, Lease, RateDecision};
pub use evidence::{EvidenceError, EvidenceStore};
pub use observer::{Observer, RunDimensions};
pub use sandbox::{Sandbox, SandboxError, SandboxTarget};
pub use store::{Store, StoreError};
