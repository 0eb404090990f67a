//! Runwarden: supervises the runs of coding agents in sandboxes.

pub mod store;
