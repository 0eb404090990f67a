//! Runwarden: supervises the runs of coding agents in sandboxes.

pub mod clock;
pub mod daemon;
pub mod demo;
