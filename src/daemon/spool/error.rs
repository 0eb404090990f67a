//! Why a spool cannot be used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a spool cannot be used.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// Another daemon has it.
    #[error("the spool {path} is in use by another daemon; wait for it to end, or name another file with --spool")]
    Locked {
        /// The spool.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path} is not a spool of this program ({problem}); name another file with --spool")]
    NotASpool {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The spool belongs to another run.
    #[error("the spool {path} belongs to another run ({found}); name another file with --spool")]
    OtherRun {
        /// The spool.
        path: PathBuf,
        /// Whose it is.
        found: String,
    },
    /// Reading or writing failed.
    #[error("the spool {path} could not be {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The caller broke the order of sequence numbers.
    #[error("an envelope with seq {given} was to be spooled where {expected} is next")]
    OutOfOrder {
        /// What was given.
        given: i64,
        /// What would be right.
        expected: i64,
    },
}
