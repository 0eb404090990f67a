//! Preview sessions (sections 5 and 6): their states, how one comes up, who may see it, how it is held to its
//! addresses, what is granted while it is open, and how it ends.

mod access;
mod actor;
mod address;
mod admission;
mod deps;
mod handle;
mod limits;
pub mod pin;
mod revocation;
mod start;
mod state;
mod watch;

pub use access::{AccessError, access_key, invalidate_repo_access, may_see, remember_access_now};
pub(crate) use actor::PreviewActor;
pub use actor::{InFlight, OpenSession};
pub use address::{AddressError, checked_address};
pub use deps::{OriginClaims, OriginSigner, PreviewDeps, PreviewOptions, SigningError};
pub(crate) use handle::PreviewHandle;
pub use handle::{LivePreview, OpenError, Previews};
pub use limits::{LimitPair, PreviewLimits, counted_as};
pub use revocation::{RevokeError, announce_session, preview_dimensions, revoke, sweep_previews};
pub(crate) use revocation::{announce, note_closed, stop_command};
pub use start::{StartError, StartPreview, begin, bring_up};
pub use state::{TRANSITIONS, is_listed, sources_of};
pub use watch::{watch_access, watch_revocations};
