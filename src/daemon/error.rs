//! Why `runwarden daemon exec` could not do its work, and the exit code that says so.

use std::path::PathBuf;

use thiserror::Error;

use super::options::InvalidOption;
use super::spool::SpoolError;

/// Why the daemon gave up. In every case what was read from the agent is in the spool.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// A wrong option.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(String),
    /// The server refused the token.
    #[error(
        "the server refused the daemon token ({status}); nothing more was sent, {held} envelope(s) are kept in \
         {spool}. Take the `daemonToken` of this run from the answer of POST /api/internal/runs and start the same \
         command again with it: what is kept is sent first"
    )]
    Unauthorized {
        /// The HTTP status, 401 or 403.
        status: u16,
        /// Envelopes that wait in the spool.
        held: usize,
        /// Where they are.
        spool: PathBuf,
    },
    /// The token is one of another run.
    #[error("the daemon token belongs to run {actual}, not to {expected}; start again with the token of this run")]
    WrongRun {
        /// The run that was named on the command line.
        expected: String,
        /// The run that the token is bound to.
        actual: String,
    },
    /// The server did not answer at start; the agent was not started.
    #[error("the server did not answer within {waited_seconds} s, so the agent was not started: {last_error}")]
    ServerUnreachable {
        /// How long it was asked.
        waited_seconds: u64,
        /// What went wrong the last time.
        last_error: String,
    },
    /// The agent has ended, and the server did not take everything in time.
    #[error(
        "the agent has ended, but {held} envelope(s) were not acknowledged {why}; they are kept in {spool}. Start the \
         same command again to send them"
    )]
    Undelivered {
        /// Envelopes that wait in the spool.
        held: usize,
        /// Where they are.
        spool: PathBuf,
        /// `within …` or `before it was told to stop`.
        why: String,
    },
    /// It was told to stop before the agent was started.
    #[error("told to stop before the agent was started")]
    StoppedBeforeStart,
}

impl DaemonError {
    /// The exit code of the process, after sysexits.h.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Option(_) => 64,
            Self::ServerUnreachable { .. } => 69,
            Self::Client(_) => 70,
            Self::Spool(_) => 73,
            Self::Undelivered { .. } => 75,
            Self::Unauthorized { .. } => 77,
            Self::WrongRun { .. } => 78,
            Self::StoppedBeforeStart => 143,
        }
    }
}
