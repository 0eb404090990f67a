//! Who is alive: starts run actors, hands out ways to them, and rebuilds what has died.

mod actor;
mod handle;

pub use handle::{LiveRun, RegistryOptions, Runs};
