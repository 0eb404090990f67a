//! What is asked of a sandbox that shows a preview (section 5).

use std::net::IpAddr;

use async_trait::async_trait;

use crate::contract::{PreviewConfig, RunId, SandboxProvider};

use super::{SandboxError, SandboxTarget};

/// A preview command. A sandbox has at most one for each port; runs take turns.
#[derive(Debug, Clone)]
pub struct PreviewCommand {
    /// Whose it is.
    pub run_id: RunId,
    /// What to start, and the port that it will listen on.
    pub config: PreviewConfig,
}

/// How a preview command fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandReport {
    /// Whether it runs; otherwise its exit code, where one is known.
    pub state: CommandState,
    /// The last bytes of its output, at most [`crate::contract::limits::PREVIEW_OUTPUT_TAIL_BYTES`], as text.
    pub output_tail: String,
}

/// Whether a preview command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandState {
    /// It does.
    Running,
    /// It ended.
    Exited {
        /// How, where that is known.
        exit_code: Option<i64>,
    },
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The name in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// From the name in a URL.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            _ => None,
        }
    }
}

/// A header that lets a request through to the provider. Its Debug form shows the name only.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AuthHeader {
    /// Name, lower case.
    pub name: String,
    /// Secret.
    pub value: String,
}

impl std::fmt::Debug for AuthHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthHeader").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where a port of a sandbox can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Scheme.
    pub scheme: Scheme,
    /// Name or address, without brackets or port.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How it is reached.
    pub reach: UpstreamReach,
    /// Sent with every request; the provider's own.
    pub auth_headers: Vec<AuthHeader>,
}

/// What an upstream's host is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamReach {
    /// Exactly this address, as the provider reported it for this sandbox. It must lie inside the networks that the
    /// operator listed.
    Reported(IpAddr),
    /// A public name below this suffix, which the provider owns (`.preview.example`).
    Named {
        /// With its leading dot.
        trusted_suffix: String,
    },
}

/// A provider of sandboxes that can show a preview. Start and stop are the only calls that change anything.
#[async_trait]
pub trait PreviewHost: Send + Sync {
    /// Whether the provider has previews at all; where not, a session is `adapter_unimplemented`.
    fn has_previews(&self, provider: SandboxProvider) -> bool;

    /// Probes the sandbox: names, for people, of what it lacks of what the configuration needs. Not empty:
    /// `capability_missing`.
    async fn missing_capabilities(
        &self,
        target: &SandboxTarget,
        config: &PreviewConfig,
    ) -> Result<Vec<String>, SandboxError>;

    /// A file of the repository, by its relative path; `None` where there is none. A larger one, and one that lies
    /// outside of the repository by a link, is [`SandboxError::CommandFailed`].
    async fn read_repo_file(
        &self,
        target: &SandboxTarget,
        path: &str,
        max_bytes: usize,
    ) -> Result<Option<Vec<u8>>, SandboxError>;

    /// Starts the command in the repository's folder and returns; it goes on by itself. Where this run's command
    /// for the port runs already, nothing happens; another run's is ended first.
    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError>;

    /// How the run's command for the port fares.
    async fn preview_report(
        &self,
        target: &SandboxTarget,
        run_id: RunId,
        port: u16,
    ) -> Result<CommandReport, SandboxError>;

    /// Ends the run's command for the port with all that it started; nothing where there is none, or another run's.
    async fn stop_preview(&self, target: &SandboxTarget, run_id: RunId, port: u16) -> Result<(), SandboxError>;

    /// Where `port` of the sandbox can be reached, asked of the provider each time.
    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError>;
}
