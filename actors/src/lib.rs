//! What Runwarden decides. This crate knows no HTTP, SQL, Redis or Docker; the crate above reaches the world.
//!
//! - [`contract`]: the shared vocabulary, written once
//! - [`run`]: one run: a daemon event parsed, the decision, the actor that owns the run, its readers
//! - [`preview`]: preview sessions: states, bringing one up, access, addresses, the actor that holds one open
//! - [`registry`]: who is alive; starts and rebuilds actors
//! - [`validation`]: changed files and UI rules
//! - [`ports`]: what the decisions need of the world

pub mod contract;
pub mod ports;
pub mod preview;
pub mod registry;
pub mod run;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod validation;
