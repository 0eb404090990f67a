//! What the benches share: programs under guard, the real server, a client that costs next to nothing, and what
//! processes cost.

#![allow(dead_code, reason = "each bench uses the part that it needs")]

pub mod arguments;
pub mod connection;
pub mod guard;
pub mod histogram;
pub mod host;
pub mod process;
pub mod quiet;
pub mod server;
