//! One run: its envelopes, its state, its actor, what follows from a commit, and its readers.

mod actor;
mod context;
mod decide;
mod deps;
pub mod effect;
mod effects;
mod envelope;
mod feed;
mod handle;
mod ingest;
mod state;
mod sweep;

pub(crate) use actor::RunActor;
pub use context::{ContextError, StartRun, bind_run_sandbox, create_run_context, flag};
pub use decide::{Decision, NeedsOffload, Note, Offload, decide, needs_lookup};
pub use deps::Deps;
pub use effects::{EffectNudge, carry_out_due, run_effects};
pub use envelope::{ClaimedRun, Envelope, EnvelopeError};
pub use feed::{Feeds, Reader};
pub use handle::{RunError, RunHandle};
pub(crate) use ingest::bounded;
pub use state::{Phase, RunIdentity, RunState};
pub use sweep::{SweepError, SweepOptions, Swept, run_sweep, sweep_once};
