//! The daemon against a server of the real API, over good and bad connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod agent;
mod faults;
mod refusals;
mod restarts;
mod schema;
mod server;
mod support;
