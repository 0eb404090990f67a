//! Runwarden: supervises the runs of coding agents in sandboxes.

pub mod coordination;
pub mod evidence;
pub mod sandbox;
