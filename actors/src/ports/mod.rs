//! What the decisions need of the world, as traits. A port exists only where there are two implementations or a
//! fake that tests need.

mod access;
mod bypass;
mod clock;
mod coordination;
mod evidence;
mod names;
mod observer;
mod preview_host;
mod sandbox;
pub mod store;
mod upstream_probe;

pub use access::{AccessQuestion, AccessSourceError, RepoAccess};
pub use bypass::{Bypass, BypassUse};
pub use clock::{Clock, IdSource};
pub use coordination::{
    AccessCache, Admission, Admitted, Coordination, CoordinationError, KeyRing, Lease, Leases, LimitDecision,
    LimitWindow, PreviewGate, PreviewKey, PreviewKeys, RateDecision, RememberedAccess, SingleUse,
};
pub use evidence::{EvidenceError, EvidenceStore};
pub use names::{NameAnswers, Names, ResolveError};
pub use observer::{Observer, PreviewDimensions, RunDimensions};
pub use preview_host::{
    AuthHeader, CommandReport, CommandState, PreviewCommand, PreviewHost, Scheme, Upstream, UpstreamReach,
};
pub use sandbox::{Sandbox, SandboxError, SandboxTarget};
pub use store::{Store, StoreError};
pub use upstream_probe::{ProbeAnswer, UpstreamProbe};
