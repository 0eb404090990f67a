//! One sandbox port in front of all providers.

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Upstream,
};

use super::{DaytonaSandbox, DockerSandbox, E2bSandbox, ProcessSandbox};

/// Picks the adapter by the target's provider.
#[derive(Debug)]
pub struct Sandboxes {
    docker: DockerSandbox,
    process: Option<ProcessSandbox>,
    daytona: DaytonaSandbox,
    e2b: E2bSandbox,
}

impl Sandboxes {
    /// With these adapters; `process` is `None` where `PROCESS_SANDBOX_ROOT` is not set.
    pub fn new(docker: DockerSandbox, process: Option<ProcessSandbox>, daytona: DaytonaSandbox) -> Self {
        Self { docker, process, daytona, e2b: E2bSandbox }
    }

    fn pick(&self, provider: SandboxProvider) -> Result<&dyn Sandbox, SandboxError> {
        match provider {
            SandboxProvider::Docker => Ok(&self.docker),
            SandboxProvider::Daytona => Ok(&self.daytona),
            SandboxProvider::E2b => Ok(&self.e2b),
            SandboxProvider::Process => match &self.process {
                Some(process) => Ok(process),
                None => Err(SandboxError::ProviderUnavailable("PROCESS_SANDBOX_ROOT is not set".to_owned())),
            },
        }
    }
}

#[async_trait]
impl Sandbox for Sandboxes {
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        self.pick(target.provider)?.head_sha(target).await
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        self.pick(target.provider)?.changed_paths(target, base, end).await
    }
}

#[async_trait]
impl PreviewHost for Sandboxes {
    /// One that is not set up has none either.
    fn has_previews(&self, provider: SandboxProvider) -> bool {
        self.pick(provider).is_ok_and(|sandbox| sandbox.has_previews(provider))
    }

    async fn missing_capabilities(
        &self,
        target: &SandboxTarget,
        config: &PreviewConfig,
    ) -> Result<Vec<String>, SandboxError> {
        self.pick(target.provider)?.missing_capabilities(target, config).await
    }

    async fn read_repo_file(
        &self,
        target: &SandboxTarget,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        self.pick(target.provider)?.read_repo_file(target, path, max_bytes).await
    }

    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError> {
        self.pick(target.provider)?.start_preview(target, command).await
    }

    async fn preview_report(
        &self,
        target: &SandboxTarget,
        run_id: RunId,
        port: u16,
    ) -> Result<CommandReport, SandboxError> {
        self.pick(target.provider)?.preview_report(target, run_id, port).await
    }

    async fn stop_preview(&self, target: &SandboxTarget, run_id: RunId, port: u16) -> Result<(), SandboxError> {
        self.pick(target.provider)?.stop_preview(target, run_id, port).await
    }

    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError> {
        self.pick(target.provider)?.upstream(target, port).await
    }
}
