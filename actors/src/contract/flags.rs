//! Feature flags and the snapshot that a run freezes (section 1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::enums::names;
use super::{RepoFullName, UserId};

names! {
    /// A feature flag.
    FeatureFlag {
        /// Whether previews exist at all.
        SandboxPreview = "sandboxPreview",
        /// Whether an envelope without `runId` is refused.
        DaemonRunIdStrict = "daemonRunIdStrict",
    }
}

impl FeatureFlag {
    /// The value where nobody has set one. Both are on: fail closed for envelopes, and a preview needs a
    /// configuration of its own anyway.
    pub const fn default_enabled(self) -> bool {
        match self {
            Self::SandboxPreview | Self::DaemonRunIdStrict => true,
        }
    }
}

names! {
    /// How far the rollout has come; frozen with the flags so that a later reader knows what the run met.
    RolloutPhase {
        /// The team's own repositories.
        Internal = "internal",
        /// Invited repositories.
        Beta = "beta",
        /// Everybody.
        General = "general",
    }
}

/// Whom a flag override is for. The most specific wins: user, then repository, then default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FlagScope {
    /// One user.
    User(UserId),
    /// One repository.
    Repo(RepoFullName),
    /// Everybody.
    Default,
}

impl FlagScope {
    /// The scope's kind in the database: `user`, `repo` or `default`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Repo(_) => "repo",
            Self::Default => "default",
        }
    }

    /// The scope's subject in the database; empty for the default.
    pub fn subject(&self) -> &str {
        match self {
            Self::User(user) => user.as_str(),
            Self::Repo(repo) => repo.as_str(),
            Self::Default => "",
        }
    }
}

/// The flags as they were when the run was created. What happens to the run follows these, not the live ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrozenFlagSnapshot {
    /// Whether previews were on.
    pub sandbox_preview: bool,
    /// Whether envelopes had to name their run.
    pub daemon_run_id_strict: bool,
    /// How far the rollout had come.
    pub rollout_phase: RolloutPhase,
}
