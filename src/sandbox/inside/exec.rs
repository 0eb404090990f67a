//! One command inside a sandbox, bounded in time and output.

use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::ports::{SandboxError, SandboxTarget};

use crate::sandbox::git::{GIT_OUTPUT_MAX_BYTES, GIT_TIMEOUT_MS, failed};

/// Most that is kept of a complaint.
pub const STDERR_MAX_BYTES: usize = 16 * 1024;

/// Bounds of a command.
#[derive(Debug, Clone, Copy)]
pub struct ExecLimits {
    /// Longest wait; after it the answer is [`SandboxError::Timeout`]. The command itself may go on.
    pub time: Duration,
    /// Most that may come on standard output; more is [`SandboxError::CommandFailed`].
    pub stdout_bytes: usize,
    /// Most that is kept of standard error; the rest is read and thrown away.
    pub stderr_bytes: usize,
}

impl Default for ExecLimits {
    fn default() -> Self {
        Self {
            time: Duration::from_millis(GIT_TIMEOUT_MS),
            stdout_bytes: GIT_OUTPUT_MAX_BYTES,
            stderr_bytes: STDERR_MAX_BYTES,
        }
    }
}

/// A command to run.
#[derive(Debug, Clone)]
pub struct ExecCall<'a> {
    /// What people call it, for errors.
    pub what: &'a str,
    /// Program and arguments; no shell sees them.
    pub argv: Vec<&'a str>,
    /// `NAME=value`, added to the sandbox's own environment.
    pub env: &'a [&'a str],
    /// Bounds.
    pub limits: ExecLimits,
}

impl<'a> ExecCall<'a> {
    /// With the default bounds and nothing added to the environment.
    pub fn new(what: &'a str, argv: Vec<&'a str>) -> Self {
        Self { what, argv, env: &[], limits: ExecLimits::default() }
    }

    /// A shell script; `args` are its `$1`, `$2` and so on.
    pub fn script(what: &'a str, script: &'a str, args: &[&'a str]) -> Self {
        let words = ["sh", "-c", script, "runwarden"];
        Self::new(what, words.into_iter().chain(args.iter().copied()).collect())
    }
}

impl ExecCall<'_> {
    /// More than the bound came.
    pub(crate) fn too_large(&self) -> SandboxError {
        SandboxError::CommandFailed(format!("`{}` printed more than {} bytes", self.what, self.limits.stdout_bytes))
    }

    /// It did not end in time.
    pub(crate) fn timed_out(&self) -> SandboxError {
        SandboxError::Timeout(format!("`{}` did not end within {} ms", self.what, self.limits.time.as_millis()))
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecAnswer {
    /// Exit code; 126 or 127 where the program could not be started.
    pub exit_code: i64,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Beginning of standard error.
    pub stderr: Vec<u8>,
}

impl ExecAnswer {
    /// What it printed, where it ended with 0.
    pub fn success(self, what: &str) -> Result<Vec<u8>, SandboxError> {
        if self.exit_code == 0 {
            return Ok(self.stdout);
        }
        // A command that could not be started complains on the wrong side.
        let complaint = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        Err(failed(what, &format!("exit code {}", self.exit_code), complaint))
    }
}

/// Runs commands inside sandboxes, as the sandbox's own user.
#[async_trait]
pub trait Exec: Send + Sync {
    /// Runs it to its end. A command that ran and failed is an answer, not an error.
    async fn exec(&self, target: &SandboxTarget, call: ExecCall<'_>) -> Result<ExecAnswer, SandboxError>;
}
