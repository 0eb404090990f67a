//! Who may see a repository's previews: remembered, asked, forgotten (section 6). Whatever cannot be asked is refused.

use thiserror::Error;

use crate::contract::limits::{ACCESS_NEGATIVE_TTL_SECONDS, ACCESS_TTL_SECONDS, PREVIEW_SESSION_SECONDS};
use crate::contract::names::KEY_REPO_ACCESS;
use crate::contract::{AccessInvalidation, RepoFullName, UserId};
use crate::ports::store::RevocationScope;
use crate::ports::{AccessQuestion, AccessSourceError, CoordinationError, RememberedAccess};

use super::deps::PreviewDeps;
use super::revocation::close_scope;

/// Why nobody knows whether the user may see. Callers refuse with `cache_unavailable`.
#[derive(Debug, Error)]
pub enum AccessError {
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CoordinationError),
    /// The source.
    #[error(transparent)]
    Source(#[from] AccessSourceError),
}

/// Where a user's access to a repository is remembered.
pub fn access_key(environment: &str, user: &UserId, repo: &RepoFullName) -> String {
    format!("{KEY_REPO_ACCESS}:{environment}:{user}:{repo}")
}

/// Whether the user may see the repository, from memory or from the source.
pub async fn may_see(deps: &PreviewDeps, question: AccessQuestion<'_>) -> Result<bool, AccessError> {
    let key = access_key(&deps.options.environment, question.user_id, question.repo_full_name);
    match deps.run.coordination.remembered_access(&key).await? {
        RememberedAccess::Known(allowed) => Ok(allowed),
        RememberedAccess::Unknown { generation } => remember_access_now(deps, question, generation).await,
    }
}

/// Asks the source and remembers its answer, unless it was forgotten meanwhile.
pub async fn remember_access_now(
    deps: &PreviewDeps,
    question: AccessQuestion<'_>,
    generation: u64,
) -> Result<bool, AccessError> {
    let key = access_key(&deps.options.environment, question.user_id, question.repo_full_name);
    let allowed = deps.access.may_see(question).await?;
    let seconds = if allowed { ACCESS_TTL_SECONDS.min(PREVIEW_SESSION_SECONDS) } else { ACCESS_NEGATIVE_TTL_SECONDS };
    deps.run.coordination.remember_access(&key, allowed, generation, seconds * 1000).await?;
    if !allowed {
        let scope = RevocationScope::Access {
            user_id: question.user_id.clone(),
            repo_full_name: question.repo_full_name.clone(),
        };
        // Lost access ends what is open (section 5). Refused it is in any case, so a failure here only waits for the
        // next answer of the source.
        if let Err(error) = close_scope(&deps.run, &scope).await {
            tracing::warn!(user = %question.user_id, repo = %question.repo_full_name, %error,
                "previews of a user without access could not be closed; they are tried again");
        }
    }
    Ok(allowed)
}

/// Forgets what is remembered of a user's access. The only way to do so.
pub async fn invalidate_repo_access(
    deps: &PreviewDeps,
    user: &UserId,
    repo: &RepoFullName,
    reason: AccessInvalidation,
) -> Result<(), CoordinationError> {
    tracing::info!(%user, %repo, %reason, "remembered access is forgotten");
    deps.run.coordination.forget_access(&access_key(&deps.options.environment, user, repo)).await
}
