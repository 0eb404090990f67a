//! Who is alive: starts the actors of runs and preview sessions, hands out ways to them, and rebuilds what has died.

mod actor;
mod handle;

pub(crate) use actor::{Alive, PreviewRoster, Registry, StartPreviewActor};
pub use handle::{LiveRun, RegistryOptions, Runs};
