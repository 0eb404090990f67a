//! Sandboxes that are containers of a Docker engine.

use std::time::Duration;

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt as _;
use runwarden_actors::contract::CommitSha;
use runwarden_actors::ports::{Sandbox, SandboxError, SandboxTarget};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::git::{
    DIFF_OPTIONS, GIT_OUTPUT_MAX_BYTES, GIT_TIMEOUT_MS, UNTRACKED_OPTIONS, append_untracked, failed, output_too_large,
    parse_head, timed_out,
};

/// Where the repository lies in a container unless `bind` said otherwise.
pub const DOCKER_REPO_DIR: &str = "/workspace";
/// Most that is kept of a complaint.
const STDERR_MAX_BYTES: usize = 16 * 1024;

/// `git diff` rewrites the index where a file's times have moved; here it rewrites a copy. `$0` is the repository,
/// the rest goes to `git`.
const DIFF_SCRIPT: &str = r#"
cd -- "$0" || exit 1
index=$(git rev-parse --git-path index) || exit 1
copy=$(mktemp) || exit 1
trap 'rm -f "$copy" "$copy.lock"' EXIT
if [ -f "$index" ]; then
  cp -p -- "$index" "$copy" || exit 1
  GIT_INDEX_FILE=$copy
  export GIT_INDEX_FILE
fi
git "$@"
"#;

/// The repository may belong to another user than the container's; nothing is prompted for, fetched or locked.
/// Beyond that the sandbox's own configuration holds: what it names runs inside the sandbox.
const ENVIRONMENT: [&str; 9] = [
    "GIT_OPTIONAL_LOCKS=0",
    "GIT_TERMINAL_PROMPT=0",
    "GIT_NO_LAZY_FETCH=1",
    "GIT_PAGER=cat",
    "GIT_CONFIG_COUNT=2",
    "GIT_CONFIG_KEY_0=safe.directory",
    "GIT_CONFIG_VALUE_0=*",
    "GIT_CONFIG_KEY_1=core.fsmonitor",
    "GIT_CONFIG_VALUE_1=false",
];

/// `DOCKER_HOST` cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("DOCKER_HOST must be unix:///path, tcp://host:port or http://host:port")]
pub struct DockerHostError;

/// Containers of one Docker engine; `codesandboxId` is a container's name or id.
pub struct DockerSandbox {
    host: String,
    engine: Mutex<Option<Docker>>,
}

impl std::fmt::Debug for DockerSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerSandbox").finish_non_exhaustive()
    }
}

impl DockerSandbox {
    /// Checks `DOCKER_HOST`; the first question connects.
    pub fn new(docker_host: &str) -> Result<Self, DockerHostError> {
        let known = ["unix://", "tcp://", "http://"];
        let named = known.iter().filter_map(|scheme| docker_host.strip_prefix(scheme)).any(|rest| !rest.is_empty());
        if !named {
            return Err(DockerHostError);
        }
        Ok(Self { host: docker_host.to_owned(), engine: Mutex::new(None) })
    }

    /// The engine, in the newest API version that both sides speak.
    async fn engine(&self) -> Result<Docker, DockerError> {
        let mut slot = self.engine.lock().await;
        if let Some(engine) = slot.as_ref() {
            return Ok(engine.clone());
        }
        let seconds = GIT_TIMEOUT_MS / 1000;
        let engine = if self.host.starts_with("unix://") {
            Docker::connect_with_unix(&self.host, seconds, API_DEFAULT_VERSION)?
        } else {
            Docker::connect_with_http(&self.host, seconds, API_DEFAULT_VERSION)?
        };
        let engine = engine.negotiate_version().await?;
        *slot = Some(engine.clone());
        Ok(engine)
    }

    /// The engine's own version, to show to a person.
    pub async fn version(&self) -> Result<String, SandboxError> {
        let away = |error: DockerError| SandboxError::ProviderUnavailable(error.to_string());
        let version = self.engine().await.map_err(away)?.version().await.map_err(away)?;
        Ok(version.version.unwrap_or_else(|| "of unknown version".to_owned()))
    }

    /// Runs a command in the container and returns what it printed.
    async fn exec(&self, target: &SandboxTarget, what: &str, command: Vec<&str>) -> Result<Vec<u8>, SandboxError> {
        let container = container_name(target)?;
        match self.try_exec(container, command).await {
            Ok(Answer { stdout, exit_code: 0, .. }) => Ok(stdout),
            Ok(Answer { exit_code, stdout, stderr }) => {
                // A command that could not be started complains on the wrong side.
                let complaint = if stderr.is_empty() { &stdout } else { &stderr };
                Err(failed(what, &format!("exit code {exit_code}"), complaint))
            }
            Err(ExecError::TooLarge) => Err(output_too_large()),
            Err(ExecError::Docker(error)) => Err(self.explain(container, &error).await),
        }
    }

    async fn try_exec(&self, container: &str, command: Vec<&str>) -> Result<Answer, ExecError> {
        let engine = self.engine().await?;
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            env: Some(ENVIRONMENT.to_vec()),
            cmd: Some(command),
            ..CreateExecOptions::default()
        };
        let exec = engine.create_exec(container, options).await?.id;
        let mut answer = Answer { stdout: Vec::new(), stderr: Vec::new(), exit_code: 0 };
        if let StartExecResults::Attached { mut output, .. } =
            engine.start_exec(&exec, None::<StartExecOptions>).await?
        {
            while let Some(part) = output.next().await {
                match part? {
                    LogOutput::StdErr { message } => {
                        let room = STDERR_MAX_BYTES.saturating_sub(answer.stderr.len());
                        answer.stderr.extend_from_slice(&message[..message.len().min(room)]);
                    }
                    part => {
                        let message = part.into_bytes();
                        if answer.stdout.len() + message.len() > GIT_OUTPUT_MAX_BYTES {
                            return Err(ExecError::TooLarge);
                        }
                        answer.stdout.extend_from_slice(&message);
                    }
                }
            }
        }
        // The output may end a moment before the engine knows how the command ended; the caller's time limit bounds
        // this.
        loop {
            let state = engine.inspect_exec(&exec).await?;
            match state.exit_code {
                Some(code) if state.running != Some(true) => {
                    answer.exit_code = code;
                    return Ok(answer);
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn explain(&self, container: &str, error: &DockerError) -> SandboxError {
        match error {
            DockerError::DockerResponseServerError { status_code: 404, .. } => {
                SandboxError::NotRunning(format!("there is no container `{container}`"))
            }
            DockerError::DockerResponseServerError { status_code: 409, .. } => {
                SandboxError::NotRunning(format!("the container `{container}` does not run"))
            }
            DockerError::RequestTimeoutError => timed_out(),
            error => {
                // Another engine, or another version of it, may answer the next time.
                *self.engine.lock().await = None;
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

struct Answer {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit_code: i64,
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
impl Sandbox for DockerSandbox {
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        let repo_dir = repo_dir(target)?;
        let command = vec!["git", "-C", repo_dir, "rev-parse", "--verify", "HEAD"];
        parse_head(&within_limit(self.exec(target, "git rev-parse HEAD", command)).await?)
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        let repo_dir = repo_dir(target)?;
        within_limit(async {
            let Some(end) = end else {
                let mut diff = vec!["sh", "-c", DIFF_SCRIPT, repo_dir];
                diff.extend(DIFF_OPTIONS);
                diff.extend([base.as_str(), "--"]);
                let mut list = self.exec(target, "git diff", diff).await?;
                let mut untracked = vec!["git", "-C", repo_dir];
                untracked.extend(UNTRACKED_OPTIONS);
                append_untracked(&mut list, &self.exec(target, "git ls-files", untracked).await?)?;
                return Ok(list);
            };
            let mut diff = vec!["git", "-C", repo_dir];
            diff.extend(DIFF_OPTIONS);
            diff.extend([base.as_str(), end.as_str(), "--"]);
            self.exec(target, "git diff", diff).await
        })
        .await
    }
}

/// The name goes into the path of a request, so only what Docker allows as a name or id passes.
fn container_name(target: &SandboxTarget) -> Result<&str, SandboxError> {
    let name = target.codesandbox_id.as_str();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.bytes().all(letters) {
        Ok(name)
    } else {
        Err(SandboxError::NotRunning("codesandboxId is not the name or id of a container".to_owned()))
    }
}

fn repo_dir(target: &SandboxTarget) -> Result<&str, SandboxError> {
    let dir = target.repo_dir.as_deref().unwrap_or(DOCKER_REPO_DIR);
    if dir.starts_with('/') && !dir.chars().any(char::is_control) {
        Ok(dir)
    } else {
        Err(SandboxError::CommandFailed("repoDir must be an absolute path".to_owned()))
    }
}

async fn within_limit<T>(question: impl Future<Output = Result<T, SandboxError>>) -> Result<T, SandboxError> {
    timeout(Duration::from_millis(GIT_TIMEOUT_MS), question).await.unwrap_or_else(|_| Err(timed_out()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_that_can_be_reached_is_accepted() {
        for right in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "http://engine:2375"] {
            assert!(DockerSandbox::new(right).is_ok(), "{right}");
        }
        for wrong in ["", "unix://", "/var/run/docker.sock", "https://engine:2376", "ssh://me@engine", "npipe:////./x"]
        {
            assert_eq!(DockerSandbox::new(wrong).unwrap_err(), DockerHostError, "{wrong}");
        }
    }
}
