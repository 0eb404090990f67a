//! How sessions end before their time, and how everybody learns of it (section 5, revocation).

use crate::contract::limits::{PREVIEW_CLOCK_SKEW_SECONDS, PREVIEW_SESSION_SECONDS, PREVIEW_START_STALLED_MS};
use uuid::Uuid;

use crate::contract::{AccessInvalidation, PreviewSessionId, PreviewSessionState};
use crate::ports::store::{ClosedPreview, PreviewSession, RevocationScope, StoreError};
use crate::ports::{Coordination, CoordinationError, Observer, PreviewDimensions, SandboxTarget};

use crate::run::{Deps, bounded};

use super::access::invalidate_repo_access;
use super::deps::PreviewDeps;
use super::handle::Previews;
use super::state::steps;

/// Sessions closed in one transaction.
const BATCH: u32 = 100;
/// Transactions of one call: 10,000 sessions; the rest waits for the next call.
const BATCHES_MAX: usize = 100;
/// How long a version is announced: longer than any cookie of its session is good.
const ANNOUNCED_FOR_MS: u64 = (PREVIEW_SESSION_SECONDS + 2 * PREVIEW_CLOCK_SKEW_SECONDS) * 1000;

/// What an event about the session says.
pub(super) fn dimensions(session: &PreviewSession) -> PreviewDimensions<'_> {
    preview_dimensions(session, None)
}

/// What an event about the session, and about one proxied request of it, says.
pub fn preview_dimensions(session: &PreviewSession, proxy_req_id: Option<Uuid>) -> PreviewDimensions<'_> {
    PreviewDimensions {
        preview_session_id: session.id,
        run_id: session.run_id,
        thread_id: &session.thread_id,
        thread_chat_id: &session.thread_chat_id,
        user_id: &session.user_id,
        repo_full_name: &session.repo_full_name,
        codesandbox_id: &session.codesandbox_id,
        sandbox_provider: session.sandbox_provider,
        proxy_req_id,
    }
}

/// Where a session's app runs.
pub(super) fn target(session: &PreviewSession, repo_dir: Option<String>) -> SandboxTarget {
    SandboxTarget { provider: session.sandbox_provider, codesandbox_id: session.codesandbox_id.clone(), repo_dir }
}

/// Tells every server the version; those with live requests cut them at their next look.
pub(crate) async fn announce(
    coordination: &dyn Coordination,
    session: PreviewSessionId,
    version: i64,
) -> Result<(), CoordinationError> {
    coordination.announce_revocation(session, version, ANNOUNCED_FOR_MS).await
}

/// Tells every server the version that the database has: the coordination store has forgotten it, or never knew.
/// Returns it; `None` where there is no such session.
pub async fn announce_session(deps: &Deps, session: PreviewSessionId) -> Result<Option<i64>, RevokeError> {
    let Some(row) = bounded(deps.store.load_preview(session)).await? else { return Ok(None) };
    announce(deps.coordination.as_ref(), session, row.revocation_version).await?;
    Ok(Some(row.revocation_version))
}

/// Emits an event for each step of a closing, in order.
pub(crate) fn note_closed(observer: &dyn Observer, session: &PreviewSession, closed: &ClosedPreview) {
    let mut from = closed.was;
    for to in steps(closed.was, closed.now) {
        observer.preview_state(dimensions(session), Some(from), to);
        from = to;
    }
    tracing::info!(preview_session_id = %session.id, run_id = %session.run_id, was = %closed.was, now = %closed.now,
        "preview session closed");
}

/// Ends the command of a closed session, where no other session of its thread is open. A new run in the same sandbox
/// ends what it finds on its port by itself.
pub(crate) async fn stop_command(deps: &Deps, session: &PreviewSession) -> Result<(), StoreError> {
    let Some(config) = &session.config else { return Ok(()) };
    if !deps.sandbox.has_previews(session.sandbox_provider) || deps.store.has_open_preview(&session.thread_id).await? {
        return Ok(());
    }
    let repo_dir = deps.store.load_run(session.run_id).await?.and_then(|run| run.repo_dir);
    let place = target(session, repo_dir);
    if let Err(error) = deps.sandbox.stop_preview(&place, session.run_id, config.port).await {
        // A sandbox that is gone has ended its command with it.
        tracing::info!(preview_session_id = %session.id, %error, "the preview command could not be ended");
    }
    Ok(())
}

/// Takes back the open sessions of the scope, on every server. The database comes first; a server that dies right
/// after it leaves the announcement to the outbox. Returns how many were open.
pub async fn revoke(
    deps: &PreviewDeps,
    previews: &Previews,
    scope: &RevocationScope,
    reason: AccessInvalidation,
) -> Result<usize, RevokeError> {
    let closed = close_scope(&deps.run, scope).await?;
    for closed in &closed {
        // This server's own do not wait for its next look.
        previews.close(closed.preview_session_id, closed.revocation_version);
    }
    match scope {
        RevocationScope::Access { user_id, repo_full_name } => {
            invalidate_repo_access(deps, user_id, repo_full_name, reason).await?;
        }
        RevocationScope::Session(id) => {
            if let Some(session) = deps.run.store.load_preview(*id).await? {
                // Again, also where it was closed before: the one who closed it may have died over its announcement.
                announce(deps.run.coordination.as_ref(), session.id, session.revocation_version).await?;
                invalidate_repo_access(deps, &session.user_id, &session.repo_full_name, reason).await?;
            }
        }
    }
    Ok(closed.len())
}

/// Closes the open sessions of the scope in the database and announces it: every server cuts them at its next look.
pub(super) async fn close_scope(deps: &Deps, scope: &RevocationScope) -> Result<Vec<ClosedPreview>, RevokeError> {
    let mut all = Vec::new();
    for _ in 0..BATCHES_MAX {
        let closed = bounded(deps.store.revoke_previews(scope, deps.clock.now(), BATCH)).await?;
        if closed.is_empty() {
            break;
        }
        deps.effects.wake();
        for closed in &closed {
            announce(deps.coordination.as_ref(), closed.preview_session_id, closed.revocation_version).await?;
        }
        all.extend(closed);
    }
    Ok(all)
}

/// A revocation that may not have reached everybody; try again.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Nothing is known about the write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is written; the outbox announces it once the coordination store is back. Until then nothing is proxied.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
}

/// Ends sessions whose life is over, and starts that their server has left behind; how many.
pub async fn sweep_previews(deps: &Deps) -> Result<usize, StoreError> {
    let now = deps.clock.now();
    let stalled = i64::try_from(PREVIEW_START_STALLED_MS).unwrap_or(i64::MAX);
    let closed = deps.store.expire_previews(now.plus_millis(-stalled), now, BATCH).await?;
    if !closed.is_empty() {
        deps.effects.wake();
    }
    debug_assert!(closed.iter().all(|closed| closed.now != PreviewSessionState::Ready));
    Ok(closed.len())
}
