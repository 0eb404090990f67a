//! Sandboxes that Daytona runs, by its HTTP API.

mod api;
mod command;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use runwarden_actors::contract::{CodesandboxId, CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    AuthHeader, CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Scheme, Upstream,
    UpstreamReach,
};
use secrecy::SecretString;
use tokio::time::timeout;

use self::api::Api;
use super::git::{GIT_TIMEOUT_MS, timed_out};
use super::inside::{self, Exec, ExecAnswer, ExecCall};
use crate::outbound::OutboundClient;

/// Daytona's proxy reaches an app inside the sandbox from there; the others hear it too.
const LISTEN_ON: &str = "0.0.0.0";
/// Ports that Daytona keeps for its own programs in a sandbox: terminal, toolbox, recordings.
const RESERVED_PORTS: [u16; 3] = [22_222, 2_280, 33_333];
/// Toolbox addresses that are remembered.
const TOOLBOXES_MAX: usize = 1_000;

/// Where Daytona is, and who asks.
#[derive(Debug, Clone)]
pub struct DaytonaSettings {
    /// Base of the API, with its path.
    pub api_url: String,
    /// Without one every question is answered with [`SandboxError::ProviderUnavailable`].
    pub api_key: Option<SecretString>,
    /// Only for keys that belong to several organizations.
    pub organization_id: Option<String>,
    /// Domains of Daytona's preview proxy, each with its leading dot.
    pub preview_suffixes: Vec<String>,
}

/// Sandboxes of one Daytona account; `codesandboxId` is the sandbox's id there.
pub struct DaytonaSandbox {
    api: Api,
    preview_suffixes: Vec<String>,
    /// Addresses of toolboxes; they do not change while a sandbox lives.
    toolboxes: Mutex<HashMap<CodesandboxId, Url>>,
}

impl std::fmt::Debug for DaytonaSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DaytonaSandbox").finish_non_exhaustive()
    }
}

impl DaytonaSandbox {
    /// Nothing is asked yet. The error names the setting that cannot be used.
    pub fn new(settings: DaytonaSettings, client: OutboundClient) -> Result<Self, String> {
        let url = Url::parse(&settings.api_url).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
        let url = url.ok_or_else(|| "DAYTONA_API_URL must be an https URL".to_owned())?;
        Ok(Self {
            api: Api::new(client, url, settings.api_key, settings.organization_id),
            preview_suffixes: settings.preview_suffixes,
            toolboxes: Mutex::default(),
        })
    }

    /// The sandbox's toolbox; asks only where it is not remembered.
    async fn toolbox(&self, target: &SandboxTarget) -> Result<Url, SandboxError> {
        let remembered = self.remembered().get(&target.codesandbox_id).cloned();
        if let Some(url) = remembered {
            return Ok(url);
        }
        let info = self.api.running(target).await?;
        let url = self.api.toolbox(target, &info)?;
        let mut toolboxes = self.remembered();
        if toolboxes.len() >= TOOLBOXES_MAX {
            toolboxes.clear();
        }
        toolboxes.insert(target.codesandbox_id.clone(), url.clone());
        Ok(url)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<CodesandboxId, Url>> {
        self.toolboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Exec for DaytonaSandbox {
    async fn exec(&self, target: &SandboxTarget, call: ExecCall<'_>) -> Result<ExecAnswer, SandboxError> {
        let toolbox = self.toolbox(target).await?;
        let text = match self.api.execute(target, &toolbox, &command::line(&call), &call).await {
            Ok(text) => text,
            Err(error) => {
                // A toolbox cannot say whether its sandbox runs; and it may be somewhere else the next time.
                self.remembered().remove(&target.codesandbox_id);
                return Err(match error {
                    SandboxError::Timeout(_) => error,
                    error => self.api.running(target).await.err().unwrap_or(error),
                });
            }
        };
        let unread = || SandboxError::CommandFailed(format!("`{}` was answered with something else", call.what));
        let answer = command::answer(&text).ok_or_else(unread)?;
        if answer.stdout.len() > call.limits.stdout_bytes { Err(call.too_large()) } else { Ok(answer) }
    }
}

#[async_trait]
impl Sandbox for DaytonaSandbox {
    async fn head_sha(&self, target: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        inside::head_sha(self, target, repo_dir(target)?).await
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        let question = inside::changed_paths(self, target, repo_dir(target)?, base, end);
        timeout(Duration::from_millis(GIT_TIMEOUT_MS), question).await.unwrap_or_else(|_| Err(timed_out()))
    }
}

#[async_trait]
impl PreviewHost for DaytonaSandbox {
    /// Also without a key: then the error names the setting.
    fn has_previews(&self, provider: SandboxProvider) -> bool {
        provider == SandboxProvider::Daytona
    }

    async fn missing_capabilities(
        &self,
        target: &SandboxTarget,
        config: &PreviewConfig,
    ) -> Result<Vec<String>, SandboxError> {
        let mut missing = inside::missing_tools(self, target, repo_dir(target)?).await?;
        if RESERVED_PORTS.contains(&config.port) {
            missing.push(format!("port {}, which Daytona keeps for itself", config.port));
        }
        Ok(missing)
    }

    async fn read_repo_file(
        &self,
        target: &SandboxTarget,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, SandboxError> {
        inside::read_repo_file(self, target, repo_dir(target)?, path, max_bytes).await
    }

    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError> {
        inside::start_preview(self, target, repo_dir(target)?, LISTEN_ON, command).await
    }

    async fn preview_report(
        &self,
        target: &SandboxTarget,
        run_id: RunId,
        port: u16,
    ) -> Result<CommandReport, SandboxError> {
        inside::preview_report(self, target, run_id, port).await
    }

    async fn stop_preview(&self, target: &SandboxTarget, run_id: RunId, port: u16) -> Result<(), SandboxError> {
        inside::stop_preview(self, target, run_id, port).await
    }

    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError> {
        self.api.running(target).await?;
        let preview = self.api.preview_url(target, port).await?;
        let wrong = |why: &str| SandboxError::CommandFailed(format!("Daytona's preview URL {why}"));
        let url = Url::parse(&preview.url).map_err(|_| wrong("is none"))?;
        if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("is not plain https"));
        }
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let trusted = self.preview_suffixes.iter().find(|suffix| host.ends_with(suffix.as_str()));
        let trusted_suffix = trusted.ok_or_else(|| wrong("is not below DAYTONA_PREVIEW_SUFFIX"))?.clone();
        let header = |name: &str, value: String| AuthHeader { name: name.to_owned(), value };
        Ok(Upstream {
            scheme: Scheme::Https,
            host,
            port: url.port_or_known_default().unwrap_or(443),
            reach: UpstreamReach::Named { trusted_suffix },
            auth_headers: vec![
                header("x-daytona-preview-token", preview.token),
                // Its proxy would show people a page of warning in the app's place.
                header("x-daytona-skip-preview-warning", "true".to_owned()),
            ],
        })
    }
}

fn repo_dir(target: &SandboxTarget) -> Result<&str, SandboxError> {
    inside::repo_dir(target, None)
}
