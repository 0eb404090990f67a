//! Sandboxes that E2B runs. Nothing is asked of it yet, and it never shows a preview (section 5).

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Upstream,
};

/// Answers every question with [`SandboxError::ProviderUnavailable`].
#[derive(Debug, Clone, Copy, Default)]
pub struct E2bSandbox;

fn unavailable<T>() -> Result<T, SandboxError> {
    Err(SandboxError::ProviderUnavailable("this build has no adapter for e2b".to_owned()))
}

#[async_trait]
impl Sandbox for E2bSandbox {
    async fn head_sha(&self, _: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        unavailable()
    }

    async fn changed_paths(
        &self,
        _: &SandboxTarget,
        _: &CommitSha,
        _: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        unavailable()
    }
}

#[async_trait]
impl PreviewHost for E2bSandbox {
    fn has_previews(&self, _: SandboxProvider) -> bool {
        false
    }

    async fn missing_capabilities(&self, _: &SandboxTarget, _: &PreviewConfig) -> Result<Vec<String>, SandboxError> {
        unavailable()
    }

    async fn read_repo_file(&self, _: &SandboxTarget, _: &str, _: usize) -> Result<Option<Vec<u8>>, SandboxError> {
        unavailable()
    }

    async fn start_preview(&self, _: &SandboxTarget, _: &PreviewCommand) -> Result<(), SandboxError> {
        unavailable()
    }

    async fn preview_report(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<CommandReport, SandboxError> {
        unavailable()
    }

    async fn stop_preview(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<(), SandboxError> {
        unavailable()
    }

    async fn upstream(&self, _: &SandboxTarget, _: u16) -> Result<Upstream, SandboxError> {
        unavailable()
    }
}
