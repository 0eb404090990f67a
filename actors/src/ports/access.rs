//! Who may see a repository's previews (sections 5 and 6, `ACCESS_SOURCE`).

use async_trait::async_trait;
use thiserror::Error;

use crate::contract::{RepoFullName, UserId};

/// The source could not be asked. Callers refuse, and nothing is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the access source could not be asked: {0}")]
pub struct AccessSourceError(pub String);

/// Whose access to what is asked.
#[derive(Debug, Clone, Copy)]
pub struct AccessQuestion<'a> {
    /// Who wants to see.
    pub user_id: &'a UserId,
    /// What.
    pub repo_full_name: &'a RepoFullName,
    /// To whom the run belongs.
    pub owner: &'a UserId,
}

/// A source of access decisions.
#[async_trait]
pub trait RepoAccess: Send + Sync {
    /// Whether the user may see the repository now. Nothing is remembered here.
    async fn may_see(&self, question: AccessQuestion<'_>) -> Result<bool, AccessSourceError>;
}
