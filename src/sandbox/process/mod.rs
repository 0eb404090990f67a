//! Sandboxes that are folders of this host, for development.

mod preview;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Scheme, Upstream, UpstreamReach,
};
use thiserror::Error;
use tokio::time::timeout;

use self::preview::Commands;
use super::git::{DIFF_OPTIONS, GIT_TIMEOUT_MS, UNTRACKED_OPTIONS, append_untracked, parse_head, timed_out};
use super::host_git::{command, run};
use super::repository::{Borrowed, Repository};

/// Settings of a repository that say what its files look like; nothing in them can name a program.
const FILE_SETTINGS: &str = r"^core\.(filemode|symlinks|ignorecase|precomposeunicode|autocrlf|eol)$";

/// `PROCESS_SANDBOX_ROOT` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("PROCESS_SANDBOX_ROOT `{root}` must be an absolute path of a folder: {problem}")]
pub struct ProcessRootError {
    root: String,
    problem: String,
}

/// Repositories below one folder of this host.
#[derive(Debug)]
pub struct ProcessSandbox {
    root: PathBuf,
    commands: Commands,
}

impl ProcessSandbox {
    /// Sandboxes whose `repoDir` lies inside `root`, an existing folder.
    pub fn new(root: &Path) -> Result<Self, ProcessRootError> {
        let wrong = |problem: String| ProcessRootError { root: root.display().to_string(), problem };
        if !root.is_absolute() {
            return Err(wrong("it is relative".to_owned()));
        }
        let canonical = root.canonicalize().map_err(|error| wrong(error.to_string()))?;
        if canonical.is_dir() {
            Ok(Self { root: canonical, commands: Commands::new() })
        } else {
            Err(wrong("it is no folder".to_owned()))
        }
    }

    async fn repository(&self, target: &SandboxTarget) -> Result<Repository, SandboxError> {
        let Some(repo_dir) = target.repo_dir.clone() else {
            return Err(SandboxError::CommandFailed("a process sandbox needs repoDir".to_owned()));
        };
        let root = self.root.clone();
        blocking(move || Repository::open(&root, &repo_dir)).await
    }
}

#[async_trait]
impl Sandbox for ProcessSandbox {
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        within_limit(async {
            let repository = self.repository(target).await?;
            let mut git = command(&repository.git_dir, &repository.work_tree);
            git.args(["rev-parse", "--verify", "HEAD"]);
            parse_head(&run(git, "git rev-parse HEAD").await?)
        })
        .await
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        within_limit(async {
            let repository = self.repository(target).await?;
            let work_tree = repository.work_tree.clone();
            let settings = file_settings(&repository).await?;
            let sha256 = base.as_str().len() == 64;
            let borrowed = blocking(move || repository.borrow(sha256, &settings)).await?;

            let mut diff = borrowed_command(&borrowed, &work_tree);
            diff.args(DIFF_OPTIONS).arg(base.as_str()).args(end.map(CommitSha::as_str)).arg("--");
            let mut list = run(diff, "git diff").await?;
            if end.is_none() {
                let mut untracked = borrowed_command(&borrowed, &work_tree);
                untracked.args(UNTRACKED_OPTIONS);
                append_untracked(&mut list, &run(untracked, "git ls-files").await?)?;
            }
            Ok(list)
        })
        .await
    }
}

#[async_trait]
impl PreviewHost for ProcessSandbox {
    fn has_previews(&self, provider: SandboxProvider) -> bool {
        provider == SandboxProvider::Process
    }

    async fn missing_capabilities(
        &self,
        target: &SandboxTarget,
        _: &PreviewConfig,
    ) -> Result<Vec<String>, SandboxError> {
        self.repository(target).await.map(|_| Vec::new())
    }

    async fn read_repo_file(
        &self,
        target: &SandboxTarget,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        let repository = self.repository(target).await?;
        let path = path.to_owned();
        within_limit(blocking(move || repository.read_file(&path, max_bytes))).await
    }

    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError> {
        let repository = self.repository(target).await?;
        self.commands.start(&target.codesandbox_id, &repository.work_tree, command).await
    }

    async fn preview_report(
        &self,
        target: &SandboxTarget,
        run_id: RunId,
        port: u16,
    ) -> Result<CommandReport, SandboxError> {
        Ok(self.commands.report(&target.codesandbox_id, run_id, port).await)
    }

    async fn stop_preview(&self, target: &SandboxTarget, run_id: RunId, port: u16) -> Result<(), SandboxError> {
        self.commands.stop(&target.codesandbox_id, run_id, port).await;
        Ok(())
    }

    /// Every sandbox of this provider has the same address, so only one whose command has the port is given it.
    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError> {
        if !self.commands.has(&target.codesandbox_id, port).await {
            return Err(SandboxError::NotRunning(format!("no preview command of this sandbox has port {port}")));
        }
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Upstream {
            scheme: Scheme::Http,
            host: address.to_string(),
            port,
            reach: UpstreamReach::Reported(address),
            auth_headers: Vec::new(),
        })
    }
}

fn borrowed_command(borrowed: &Borrowed, work_tree: &Path) -> tokio::process::Command {
    let mut git = command(borrowed.git_dir(), work_tree);
    git.env("GIT_OBJECT_DIRECTORY", &borrowed.objects);
    git
}

/// The repository's [`FILE_SETTINGS`]; reading a configuration runs nothing.
async fn file_settings(repository: &Repository) -> Result<Vec<(String, String)>, SandboxError> {
    let mut git = command(&repository.git_dir, &repository.work_tree);
    git.args(["config", "--null", "--get-regexp", FILE_SETTINGS]);
    let output = match run(git, "git config").await {
        Ok(output) => output,
        // Nothing of the kind is set, or it cannot be read: Git's own defaults hold.
        Err(SandboxError::CommandFailed(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let plain = |value: &str| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Ok(String::from_utf8_lossy(&output)
        .split('\0')
        .filter_map(|entry| entry.split_once('\n'))
        .filter_map(|(name, value)| Some((name.strip_prefix("core.")?, value)))
        .filter(|(name, value)| plain(name) && plain(value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(SandboxError::CommandFailed("the repository could not be read".to_owned())))
}

async fn within_limit<T>(question: impl Future<Output = Result<T, SandboxError>>) -> Result<T, SandboxError> {
    timeout(Duration::from_millis(GIT_TIMEOUT_MS), question).await.unwrap_or_else(|_| Err(timed_out()))
}
