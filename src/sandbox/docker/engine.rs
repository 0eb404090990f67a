//! The Docker engine: connecting, running a command in a container, and what its errors mean.

use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use runwarden_actors::ports::{SandboxError, SandboxTarget};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::sandbox::git::GIT_TIMEOUT_MS;
use crate::sandbox::inside::{Exec, ExecAnswer, ExecCall};

/// `DOCKER_HOST` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("DOCKER_HOST must be unix:///path, tcp://host:port or http://host:port")]
pub struct DockerHostError;

/// One Docker engine.
pub(super) struct Engine {
    host: String,
    client: Mutex<Option<Docker>>,
}

impl Engine {
    /// Checks `DOCKER_HOST`; the first question connects.
    pub(super) fn new(docker_host: &str) -> Result<Self, DockerHostError> {
        let known = ["unix://", "tcp://", "http://"];
        let named = known.iter().filter_map(|scheme| docker_host.strip_prefix(scheme)).any(|rest| !rest.is_empty());
        if !named {
            return Err(DockerHostError);
        }
        Ok(Self { host: docker_host.to_owned(), client: Mutex::new(None) })
    }

    /// A client, in the newest API version that both sides speak.
    pub(super) async fn client(&self) -> Result<Docker, DockerError> {
        let mut slot = self.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let seconds = GIT_TIMEOUT_MS / 1000;
        let client = if self.host.starts_with("unix://") {
            Docker::connect_with_unix(&self.host, seconds, API_DEFAULT_VERSION)?
        } else {
            Docker::connect_with_http(&self.host, seconds, API_DEFAULT_VERSION)?
        };
        let client = client.negotiate_version().await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// The next question connects anew: another engine, or another version of it, may answer.
    pub(super) async fn forget(&self) {
        *self.client.lock().await = None;
    }

    async fn try_exec(&self, container: &str, call: &ExecCall<'_>) -> Result<ExecAnswer, ExecError> {
        let client = self.client().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            env: Some(call.env.to_vec()),
            cmd: Some(call.argv.clone()),
            ..CreateExecOptions::default()
        };
        let exec = client.create_exec(container, options).await?.id;
        let mut answer = ExecAnswer { exit_code: 0, stdout: Vec::new(), stderr: Vec::new() };
        if let StartExecResults::Attached { mut output, .. } =
            client.start_exec(&exec, None::<StartExecOptions>).await?
        {
            while let Some(part) = output.next().await {
                match part? {
                    LogOutput::StdErr { message } => {
                        let room = call.limits.stderr_bytes.saturating_sub(answer.stderr.len());
                        answer.stderr.extend_from_slice(&message[..message.len().min(room)]);
                    }
                    part => {
                        let message = part.into_bytes();
                        if answer.stdout.len() + message.len() > call.limits.stdout_bytes {
                            return Err(ExecError::TooLarge);
                        }
                        answer.stdout.extend_from_slice(&message);
                    }
                }
            }
        }
        // The output may end a moment before the engine knows how the command ended; the time limit bounds this.
        loop {
            let state = client.inspect_exec(&exec).await?;
            match state.exit_code {
                Some(code) if state.running != Some(true) => {
                    answer.exit_code = code;
                    return Ok(answer);
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// What an engine's error means for a question about this container.
    pub(super) async fn explain(&self, container: &str, error: &DockerError) -> SandboxError {
        match error {
            DockerError::DockerResponseServerError { status_code: 404, .. } => {
                SandboxError::NotRunning(format!("there is no container `{container}`"))
            }
            DockerError::DockerResponseServerError { status_code: 409, .. } => {
                SandboxError::NotRunning(format!("the container `{container}` does not run"))
            }
            DockerError::RequestTimeoutError => {
                SandboxError::Timeout("the Docker engine did not answer in time".to_owned())
            }
            error => {
                self.forget().await;
                tracing::warn!(%error, "the Docker engine could not be asked");
                match error {
                    DockerError::DockerResponseServerError { status_code, .. } => SandboxError::CommandFailed(format!(
                        "the Docker engine refused the command with status {status_code}"
                    )),
                    _ => SandboxError::ProviderUnavailable("the engine at DOCKER_HOST does not answer".to_owned()),
                }
            }
        }
    }
}

enum ExecError {
    Docker(DockerError),
    TooLarge,
}

impl From<DockerError> for ExecError {
    fn from(error: DockerError) -> Self {
        Self::Docker(error)
    }
}

#[async_trait]
impl Exec for Engine {
    async fn exec(&self, target: &SandboxTarget, call: ExecCall<'_>) -> Result<ExecAnswer, SandboxError> {
        let container = container_name(target)?;
        match timeout(call.limits.time, self.try_exec(container, &call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ExecError::TooLarge)) => Err(call.too_large()),
            Ok(Err(ExecError::Docker(error))) => Err(self.explain(container, &error).await),
            Err(_) => Err(call.timed_out()),
        }
    }
}

/// The name goes into the path of a request, so only what Docker allows as a name or id passes.
pub(super) fn container_name(target: &SandboxTarget) -> Result<&str, SandboxError> {
    let name = target.codesandbox_id.as_str();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(letters) {
        Ok(name)
    } else {
        Err(SandboxError::NotRunning("codesandboxId is not the name or id of a container".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_that_can_be_reached_is_accepted() {
        for right in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "http://engine:2375"] {
            assert!(Engine::new(right).is_ok(), "{right}");
        }
        for wrong in ["", "unix://", "/var/run/docker.sock", "https://engine:2376", "ssh://me@engine", "npipe:////./x"]
        {
            assert!(Engine::new(wrong).is_err(), "{wrong}");
        }
    }
}
