//! What Runwarden decides. This crate knows no HTTP, SQL, Redis or Docker; the crate above reaches the world.
//!
//! - [`contract`]: the shared vocabulary, written once
//! - [`run`]: one run: a daemon event parsed, the decision, the actor that owns the run, its readers
//! - [`ports`]: what the decisions need of the world

pub mod contract;
pub mod ports;
pub mod run;
