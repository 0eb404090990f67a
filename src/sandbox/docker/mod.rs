//! Sandboxes that are containers of a Docker engine.

mod command;
mod containers;
mod engine;
mod events;
mod lifecycle;
mod wire;
mod workspace;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error as DockerError;
use bollard::models::ContainerInspectResponse;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Scheme, Upstream, UpstreamReach,
};
use tokio::time::timeout;

use self::engine::{Engine, container_name};
use super::git::{GIT_TIMEOUT_MS, timed_out};
use super::inside;

pub use self::command::{Command, Outcome};
pub use self::containers::{ContainerError, ContainerLife, ContainerView, DockerContainers, Endpoint};
pub use self::engine::{DockerHostError, is_docker_host};
pub use self::lifecycle::{ContainerSpec, Surroundings};
pub use self::workspace::{Entry, EntryKind, FileError, Listing, Workspace};

/// Where the repository lies in a container unless `bind` said otherwise.
pub const DOCKER_REPO_DIR: &str = "/workspace";
/// On containers that were created here; its value is the session's id.
const SESSION_LABEL: &str = "runwarden.session";
/// On the same containers; its value is the installation's `PREVIEW_ENVIRONMENT`.
const ENVIRONMENT_LABEL: &str = "runwarden.environment";
/// Previews are reached from outside of the container.
const LISTEN_ON: &str = "0.0.0.0";

/// Containers of one Docker engine; `codesandboxId` is a container's name or id.
pub struct DockerSandbox {
    engine: Engine,
}

impl std::fmt::Debug for DockerSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerSandbox").finish_non_exhaustive()
    }
}

impl DockerSandbox {
    /// Checks `DOCKER_HOST`; the first question connects.
    pub fn new(docker_host: &str) -> Result<Self, DockerHostError> {
        Engine::new(docker_host).map(|engine| Self { engine })
    }

    /// The engine's own version, to show to a person.
    pub async fn version(&self) -> Result<String, SandboxError> {
        let away = |error: DockerError| SandboxError::ProviderUnavailable(error.to_string());
        let version = self.engine.client().await.map_err(away)?.version().await.map_err(away)?;
        Ok(version.version.unwrap_or_else(|| "of unknown version".to_owned()))
    }

    async fn inspect(&self, target: &SandboxTarget) -> Result<ContainerInspectResponse, SandboxError> {
        let container = container_name(target)?;
        let asked = async { self.engine.client().await?.inspect_container(container, None).await };
        match timeout(Duration::from_millis(GIT_TIMEOUT_MS), asked).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(self.engine.explain(container, &error).await),
            Err(_) => Err(SandboxError::Timeout("the Docker engine did not answer in time".to_owned())),
        }
    }
}

#[async_trait]
impl Sandbox for DockerSandbox {
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        inside::head_sha(&self.engine, target, repo_dir(target)?).await
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        let question = inside::changed_paths(&self.engine, target, repo_dir(target)?, base, end);
        timeout(Duration::from_millis(GIT_TIMEOUT_MS), question).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

#[async_trait]
impl PreviewHost for DockerSandbox {
    fn has_previews(&self, provider: SandboxProvider) -> bool {
        provider == SandboxProvider::Docker
    }

    async fn missing_capabilities(
        &self,
        target: &SandboxTarget,
        _: &PreviewConfig,
    ) -> Result<Vec<String>, SandboxError> {
        inside::missing_tools(&self.engine, target, repo_dir(target)?).await
    }

    async fn read_repo_file(
        &self,
        target: &SandboxTarget,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        inside::read_repo_file(&self.engine, target, repo_dir(target)?, path, max_bytes).await
    }

    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError> {
        inside::start_preview(&self.engine, target, repo_dir(target)?, LISTEN_ON, command).await
    }

    async fn preview_report(
        &self,
        target: &SandboxTarget,
        run_id: RunId,
        port: u16,
    ) -> Result<CommandReport, SandboxError> {
        inside::preview_report(&self.engine, target, run_id, port).await
    }

    async fn stop_preview(&self, target: &SandboxTarget, run_id: RunId, port: u16) -> Result<(), SandboxError> {
        inside::stop_preview(&self.engine, target, run_id, port).await
    }

    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError> {
        let container = self.inspect(target).await?;
        let name = target.codesandbox_id.as_str();
        if !runs(&container) {
            return Err(SandboxError::NotRunning(format!("the container `{name}` does not run")));
        }
        let address = address(&container).ok_or_else(|| {
            SandboxError::CommandFailed(format!("the container `{name}` has no address in a network of its own"))
        })?;
        Ok(Upstream {
            scheme: Scheme::Http,
            host: address.to_string(),
            port,
            reach: UpstreamReach::Reported(address),
            auth_headers: Vec::new(),
        })
    }
}

fn repo_dir(target: &SandboxTarget) -> Result<&str, SandboxError> {
    inside::repo_dir(target, Some(DOCKER_REPO_DIR))
}

fn runs(container: &ContainerInspectResponse) -> bool {
    let state = container.state.as_ref();
    state.is_some_and(|state| state.running == Some(true) && state.paused != Some(true))
}

/// The address in the first of its networks by name, so that it stays the same; IPv4 before IPv6.
fn address(container: &ContainerInspectResponse) -> Option<IpAddr> {
    let mut networks: Vec<_> = container.network_settings.as_ref()?.networks.as_ref()?.iter().collect();
    networks.sort_by_key(|(name, _)| *name);
    let parse = |text: &Option<String>| text.as_deref().and_then(|text| text.parse().ok());
    let v4 = networks.iter().find_map(|(_, network)| parse(&network.ip_address));
    v4.or_else(|| networks.iter().find_map(|(_, network)| parse(&network.global_ipv6_address)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard::models::{EndpointSettings, NetworkSettings};

    use super::*;

    fn container(networks: &[(&str, &str, &str)]) -> ContainerInspectResponse {
        let endpoint = |v4: &str, v6: &str| EndpointSettings {
            ip_address: Some(v4.to_owned()),
            global_ipv6_address: Some(v6.to_owned()),
            ..EndpointSettings::default()
        };
        let networks: HashMap<_, _> =
            networks.iter().map(|(name, v4, v6)| ((*name).to_owned(), endpoint(v4, v6))).collect();
        let settings = NetworkSettings { networks: Some(networks), ..NetworkSettings::default() };
        ContainerInspectResponse { network_settings: Some(settings), ..ContainerInspectResponse::default() }
    }

    #[test]
    fn the_address_is_that_of_the_first_network_that_gave_one() {
        let found = |networks: &[_]| address(&container(networks)).map(|address| address.to_string());
        assert_eq!(found(&[("b", "10.0.0.2", ""), ("a", "10.1.0.2", "")]), Some("10.1.0.2".to_owned()));
        assert_eq!(found(&[("a", "", "fd00::2"), ("b", "10.0.0.2", "")]), Some("10.0.0.2".to_owned()));
        assert_eq!(found(&[("a", "", "fd00::2")]), Some("fd00::2".to_owned()));
        assert_eq!(found(&[("host", "", "")]), None);
        assert_eq!(found(&[]), None);
    }
}
