//! The small program that runs inside the sandbox (sections 4 and 13 of the contract).
//!
//! It starts an agent's command, reads its JSON lines, and sees to it that every one of them reaches the server
//! exactly once and in order, whatever happens to the connection, the server or this process.
//!
//! - [`exec`]: the whole life of one run, behind [`cli::ExecArgs`]
//! - `agent`, `lines`, `conversation`: the child process, what it prints, and what becomes of it
//! - `batch`, `envelope`: messages gathered, and written down once with an identity
//! - [`spool`]: the file that holds what the server has not acknowledged yet
//! - `outbox`: the spool as the running program sees it, with back-pressure
//! - `transport`: the stream, HTTP where that is refused, and the waits between tries
//! - [`schema`]: the published JSON schema of the wire format

mod agent;
mod batch;
pub mod cli;
mod conversation;
mod envelope;
mod error;
mod exec;
mod git;
mod lines;
mod message;
mod options;
mod outbox;
pub mod schema;
pub mod spool;
mod transport;

pub use error::DaemonError;
pub use exec::{Deliveries, Outcome, exec};
pub use options::{ExecOptions, InvalidOption, Limits, ServerUrl, StopRequests, StopSwitch, Token, stop_switch};
