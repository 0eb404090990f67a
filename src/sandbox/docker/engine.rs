//! The Docker engine: connecting, running a command in a container, and what its errors mean.

use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use runwarden_actors::ports::{SandboxError, SandboxTarget};
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::containers::complaint;
use super::wire;
use crate::sandbox::git::GIT_TIMEOUT_MS;
use crate::sandbox::inside::{Exec, ExecAnswer, ExecCall};

/// `DOCKER_HOST` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("DOCKER_HOST must be unix:///path/to/socket or tcp://host:port")]
pub struct DockerHostError;

/// Whether this names an engine that can be spoken to: a socket by its absolute path, or a host and its port.
pub fn is_docker_host(text: &str) -> bool {
    let has_port = |place: &str| {
        place.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !place.contains(['@', '/', '?']) && port.parse::<u16>().is_ok_and(|port| port > 0)
        })
    };
    match (text.strip_prefix("unix://"), text.strip_prefix("tcp://")) {
        (Some(path), _) => path.len() > 1 && path.starts_with('/'),
        (_, Some(place)) => has_port(place.strip_suffix('/').unwrap_or(place)),
        _ => false,
    }
}

/// One Docker engine.
pub(super) struct Engine {
    host: String,
    client: Mutex<Option<Docker>>,
}

impl Engine {
    /// Checks `DOCKER_HOST`; the first question connects.
    pub(super) fn new(docker_host: &str) -> Result<Self, DockerHostError> {
        if !is_docker_host(docker_host) {
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
        let client = wire::client(&self.host, GIT_TIMEOUT_MS / 1000)?.negotiate_version().await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// The next question connects anew: another engine, or another version of it, may answer.
    pub(super) async fn forget(&self) {
        *self.client.lock().await = None;
    }

    async fn try_exec(&self, container: &str, call: &ExecCall<'_>) -> Result<ExecAnswer, ExecError> {
        let run = ExecRun { argv: call.argv.clone(), env: call.env.to_vec(), dir: None, input: None };
        let mut kept = Collected::new(call.limits.stdout_bytes, call.limits.stderr_bytes, WhenFull::Stop);
        match self.run(container, &run, &mut kept).await? {
            Some(exit_code) => Ok(ExecAnswer { exit_code, stdout: kept.stdout, stderr: kept.stderr }),
            None => Err(ExecError::TooLarge),
        }
    }

    /// Runs a command to its end and says its exit code; `None` where its output is more than may be kept and this
    /// stopped listening. What came before a caller gave up is in `kept` all the same.
    pub(super) async fn run(
        &self,
        container: &str,
        run: &ExecRun<'_>,
        kept: &mut Collected,
    ) -> Result<Option<i64>, DockerError> {
        let client = self.client().await?;
        let options = CreateExecOptions {
            attach_stdin: run.input.map(|_| true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            env: Some(run.env.clone()),
            cmd: Some(run.argv.clone()),
            working_dir: run.dir,
            ..CreateExecOptions::default()
        };
        let exec = client.create_exec(container, options).await?.id;
        if let StartExecResults::Attached { mut output, mut input } =
            client.start_exec(&exec, None::<StartExecOptions>).await?
        {
            // A command that does not want all of it hangs up; how it ended says what that means.
            let writing = async {
                if let Some(bytes) = run.input
                    && input.write_all(bytes).await.is_ok()
                {
                    let _ = input.shutdown().await;
                }
            };
            let reading = async {
                while let Some(part) = output.next().await {
                    if !kept.keep(part?) {
                        return Ok(false);
                    }
                }
                Ok(true)
            };
            // Both at once: each side may wait for the other to take something first.
            tokio::pin!(writing, reading);
            let mut written = false;
            let whole: Result<bool, DockerError> = loop {
                tokio::select! {
                    () = &mut writing, if !written => written = true,
                    read = &mut reading => break read,
                }
            };
            if !whole? {
                return Ok(None);
            }
        }
        // The output may end a moment before the engine knows how the command ended; the time limit bounds this.
        loop {
            let state = client.inspect_exec(&exec).await?;
            match state.exit_code {
                Some(code) if state.running != Some(true) => {
                    if matches!(code, 126 | 127) && state.pid.unwrap_or_default() == 0 {
                        kept.never_started();
                    }
                    return Ok(Some(code));
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
                tracing::warn!(error = complaint(&error.to_string()), "the Docker engine could not be asked");
                match error {
                    DockerError::DockerResponseServerError { status_code, .. } => SandboxError::CommandFailed(format!(
                        "the Docker engine refused the command with status {status_code}"
                    )),
                    error if wire::is_too_large(error) => {
                        SandboxError::CommandFailed("the Docker engine's answer is too large".to_owned())
                    }
                    _ => SandboxError::ProviderUnavailable("the engine at DOCKER_HOST does not answer".to_owned()),
                }
            }
        }
    }
}

/// A command as the engine is told it.
pub(super) struct ExecRun<'a> {
    /// Program and arguments; no shell sees them.
    pub(super) argv: Vec<&'a str>,
    /// `NAME=value`, added to the container's own environment.
    pub(super) env: Vec<&'a str>,
    /// Where it runs, unless where the image says.
    pub(super) dir: Option<&'a str>,
    /// What it reads on standard input.
    pub(super) input: Option<&'a [u8]>,
}

/// What becomes of a command that prints more than is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// Nobody listens any more.
    Stop,
    /// The rest is read and thrown away, so that the command comes to its end.
    Drain,
}

/// What a command has printed so far, within bounds.
pub(super) struct Collected {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) stdout_cut: bool,
    pub(super) stderr_cut: bool,
    stdout_max: usize,
    stderr_max: usize,
    when_full: WhenFull,
}

impl Collected {
    /// Bounds in bytes. Standard error is always drained.
    pub(super) const fn new(stdout_max: usize, stderr_max: usize, when_full: WhenFull) -> Self {
        Self {
            stdout: Vec::new(),
            stderr: Vec::new(),
            stdout_cut: false,
            stderr_cut: false,
            stdout_max,
            stderr_max,
            when_full,
        }
    }

    /// `false` where nobody needs to listen any more.
    fn keep(&mut self, part: LogOutput) -> bool {
        let error = matches!(part, LogOutput::StdErr { .. });
        let message = part.into_bytes();
        let (kept, cut, max) = if error {
            (&mut self.stderr, &mut self.stderr_cut, self.stderr_max)
        } else {
            (&mut self.stdout, &mut self.stdout_cut, self.stdout_max)
        };
        let room = max.saturating_sub(kept.len());
        kept.extend_from_slice(&message[..message.len().min(room)]);
        *cut |= message.len() > room;
        error || !*cut || self.when_full == WhenFull::Drain
    }

    /// The engine says why a program could not be started where the program's output would stand.
    fn never_started(&mut self) {
        if self.stderr.is_empty() {
            std::mem::swap(&mut self.stdout, &mut self.stderr);
            std::mem::swap(&mut self.stdout_cut, &mut self.stderr_cut);
            self.stderr_cut |= self.stderr.len() > self.stderr_max;
            self.stderr.truncate(self.stderr_max);
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
        for right in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://engine:2375/", "tcp://[::1]:2375"] {
            assert!(Engine::new(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "unix://",
            "unix://docker.sock",
            "/var/run/docker.sock",
            "tcp://engine",
            "tcp://:2375",
            "tcp://engine:0",
            "tcp://me@engine:2375",
            "http://engine:2375",
            "https://engine:2376",
            "ssh://me@engine",
            "npipe:////./x",
        ] {
            assert!(Engine::new(wrong).is_err(), "{wrong}");
        }
    }
}
