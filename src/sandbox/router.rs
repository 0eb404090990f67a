//! One sandbox port in front of all providers.

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Upstream,
};

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

macro_rules! not_built_yet {
    ($name:ty) => {
        #[async_trait]
        impl PreviewHost for $name {
            fn has_previews(&self, _: SandboxProvider) -> bool {
                false
            }

            async fn missing_capabilities(
                &self,
                _: &SandboxTarget,
                _: &PreviewConfig,
            ) -> Result<Vec<String>, SandboxError> {
                not_built()
            }

            async fn read_repo_file(
                &self,
                _: &SandboxTarget,
                _: &str,
                _: usize,
            ) -> Result<Option<Vec<u8>>, SandboxError> {
                not_built()
            }

            async fn start_preview(&self, _: &SandboxTarget, _: &PreviewCommand) -> Result<(), SandboxError> {
                not_built()
            }

            async fn preview_report(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<CommandReport, SandboxError> {
                not_built()
            }

            async fn stop_preview(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<(), SandboxError> {
                not_built()
            }

            async fn upstream(&self, _: &SandboxTarget, _: u16) -> Result<Upstream, SandboxError> {
                not_built()
            }
        }
    };
}

not_built_yet!(Sandboxes);
not_built_yet!(DockerSandbox);
not_built_yet!(ProcessSandbox);

fn not_built<T>() -> Result<T, SandboxError> {
    Err(SandboxError::ProviderUnavailable("not built yet".to_owned()))
}
