//! What is asked of the sandbox that a run works in.

use async_trait::async_trait;
use thiserror::Error;

use crate::contract::{CodesandboxId, CommitSha, SandboxProvider};

use super::preview_host::PreviewHost;

/// Which repository in which sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxTarget {
    /// The sandbox's provider.
    pub provider: SandboxProvider,
    /// The sandbox's id.
    pub codesandbox_id: CodesandboxId,
    /// The repository's folder inside it, as `bind` gave it; `None` where the provider's default holds.
    pub repo_dir: Option<String>,
}

/// Why a sandbox could not be asked. The text goes into the run's `diffSourceContext`; it holds no secrets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SandboxError {
    /// No adapter for this provider is configured, or its engine does not answer.
    #[error("provider_unavailable: {0}")]
    ProviderUnavailable(String),
    /// The sandbox does not exist or does not run.
    #[error("sandbox_not_running: {0}")]
    NotRunning(String),
    /// The command ran and failed.
    #[error("command_failed: {0}")]
    CommandFailed(String),
    /// It took too long.
    #[error("timeout: {0}")]
    Timeout(String),
}

/// A provider of sandboxes. Everything here only reads; no call changes the sandbox or a run. What a preview needs
/// stands in [`PreviewHost`].
#[async_trait]
pub trait Sandbox: PreviewHost {
    /// The live `git rev-parse HEAD`.
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError>;

    /// `git diff --name-status -z` from `base` to `end`, or to the working tree with untracked files where
    /// `end` is `None`; raw bytes, at most 4 MiB.
    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError>;
}
