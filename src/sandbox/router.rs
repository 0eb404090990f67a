//! One sandbox port in front of all providers.

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, SandboxProvider};
use runwarden_actors::ports::{Sandbox, SandboxError, SandboxTarget};

use super::{DockerSandbox, ProcessSandbox};

/// Picks the adapter by the target's provider.
#[derive(Debug)]
pub struct Sandboxes {
    docker: DockerSandbox,
    process: Option<ProcessSandbox>,
}

impl Sandboxes {
    /// With these adapters; `process` is `None` where `PROCESS_SANDBOX_ROOT` is not set.
    pub fn new(docker: DockerSandbox, process: Option<ProcessSandbox>) -> Self {
        Self { docker, process }
    }

    fn pick(&self, provider: SandboxProvider) -> Result<&dyn Sandbox, SandboxError> {
        match provider {
            SandboxProvider::Docker => Ok(&self.docker),
            SandboxProvider::Process => match &self.process {
                Some(process) => Ok(process),
                None => Err(SandboxError::ProviderUnavailable("PROCESS_SANDBOX_ROOT is not set".to_owned())),
            },
            SandboxProvider::Daytona | SandboxProvider::E2b => {
                Err(SandboxError::ProviderUnavailable(format!("this build has no adapter for {provider}")))
            }
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
