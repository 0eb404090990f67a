//! The file that holds what the server has not acknowledged yet.
//!
//! An append-only file of records, each framed by its length and a CRC; the first one says whose spool it is and
//! where the run stands. An envelope is durable in it before anybody sends it and keeps its `eventId`, its `seq` and
//! its exact bytes for as long as it lives there. Whatever changes the first record, and the removal of what was
//! acknowledged, replaces the whole file in one atomic step.

mod error;
mod file;
mod record;
mod recover;

#[cfg(test)]
mod tests;

pub use error::SpoolError;
pub use file::{AgentMark, Entry, Identity, Opened, Spool};
