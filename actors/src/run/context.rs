//! The two writers of run identity (section 3): `createRunContext` and `bindRunSandbox`.

use std::time::Duration;

use thiserror::Error;
use tokio::time::sleep;

use crate::contract::limits::{
    RUN_CONTEXT_BACKOFF_BASE_MS, RUN_CONTEXT_BACKOFF_JITTER_PERCENT, RUN_CONTEXT_RETRIES_MAX,
};
use crate::contract::{
    FeatureFlag, FlagScope, FrozenFlagSnapshot, RepoFullName, RolloutPhase, RunId, StartRequestId, ThreadChatId,
    ThreadId, TriggerSource, UserId,
};
use crate::ports::IdSource;
use crate::ports::store::{BindOutcome, CreateRunOutcome, NewRun, RunRecord, SandboxBinding, StoreError};

use super::deps::Deps;

/// What a host application asks for.
#[derive(Debug, Clone)]
pub struct StartRun {
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Idempotency key.
    pub start_request_id: StartRequestId,
    /// Who asked.
    pub trigger_source: TriggerSource,
    /// User.
    pub user_id: UserId,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Preview configuration as JSON text.
    pub preview_config: Option<String>,
}

/// Why a run's identity was not written. In every case nothing has been written.
#[derive(Debug, Error)]
pub enum ContextError {
    /// Five retries were lost to other writers: `conflict`.
    #[error("other writers moved this chat {} times in a row; try again", RUN_CONTEXT_RETRIES_MAX + 1)]
    Conflict,
    /// There is no such run: `not_found`.
    #[error("there is no such run")]
    NotFound,
    /// The run is not the chat's active one, or is bound otherwise already: `run_not_active`.
    #[error("run {0} is not the active run of its chat, has ended, or is bound to another start commit")]
    NotActive(RunId),
    /// The database failed: `store_unavailable`.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes the run, or finds the one that this start request made. The flag says whether it is new.
pub async fn create_run_context(
    deps: &Deps,
    start: &StartRun,
    rollout_phase: RolloutPhase,
) -> Result<(RunRecord, bool), ContextError> {
    for attempt in 0..=RUN_CONTEXT_RETRIES_MAX {
        // Read again on each attempt: what is frozen is what holds when the run is made.
        let frozen_flag_snapshot = FrozenFlagSnapshot {
            sandbox_preview: flag(deps, FeatureFlag::SandboxPreview, &start.user_id, &start.repo_full_name).await?,
            daemon_run_id_strict: flag(deps, FeatureFlag::DaemonRunIdStrict, &start.user_id, &start.repo_full_name)
                .await?,
            rollout_phase,
        };
        let new = NewRun {
            run_id: RunId::from_uuid(deps.ids.uuid_v7()),
            thread_id: start.thread_id.clone(),
            thread_chat_id: start.thread_chat_id.clone(),
            start_request_id: start.start_request_id.clone(),
            trigger_source: start.trigger_source,
            user_id: start.user_id.clone(),
            repo_full_name: start.repo_full_name.clone(),
            frozen_flag_snapshot,
            preview_config: start.preview_config.clone(),
            now: deps.clock.now(),
        };
        match deps.store.create_run(&new).await? {
            CreateRunOutcome::Created { run, superseded } => {
                tracing::info!(run_id = %run.run_id, thread_id = %run.thread_id, superseded = superseded.map(tracing::field::display), "run created");
                // It may have closed previews of the thread; every server is told so from the outbox.
                deps.effects.wake();
                return Ok((*run, true));
            }
            CreateRunOutcome::Known(run) => return Ok((*run, false)),
            CreateRunOutcome::Conflict => back_off(deps.ids.as_ref(), attempt).await,
        }
    }
    Err(ContextError::Conflict)
}

/// Writes where the run works.
pub async fn bind_run_sandbox(deps: &Deps, run_id: RunId, binding: &SandboxBinding) -> Result<RunRecord, ContextError> {
    for attempt in 0..=RUN_CONTEXT_RETRIES_MAX {
        match deps.store.bind_run_sandbox(run_id, binding, deps.clock.now()).await? {
            BindOutcome::Bound(run) => {
                tracing::info!(%run_id, provider = %binding.sandbox_provider, "run bound to its sandbox");
                deps.effects.wake();
                return Ok(*run);
            }
            BindOutcome::NotFound => return Err(ContextError::NotFound),
            BindOutcome::NotActive(_) => return Err(ContextError::NotActive(run_id)),
            BindOutcome::Conflict => back_off(deps.ids.as_ref(), attempt).await,
        }
    }
    Err(ContextError::Conflict)
}

/// A flag's live value: user before repository before everybody before the built-in default.
pub async fn flag(deps: &Deps, flag: FeatureFlag, user: &UserId, repo: &RepoFullName) -> Result<bool, StoreError> {
    for scope in [FlagScope::User(user.clone()), FlagScope::Repo(repo.clone()), FlagScope::Default] {
        if let Some(enabled) = deps.store.flag_override(flag, &scope).await? {
            return Ok(enabled);
        }
    }
    Ok(flag.default_enabled())
}

/// `25 ms * 2^attempt`, plus or minus 20 %. Nothing after the last attempt.
async fn back_off(ids: &dyn IdSource, attempt: u32) {
    if attempt < RUN_CONTEXT_RETRIES_MAX {
        sleep(backoff(ids, attempt)).await;
    }
}

fn backoff(ids: &dyn IdSource, attempt: u32) -> Duration {
    let base = RUN_CONTEXT_BACKOFF_BASE_MS << attempt;
    let spread = base * RUN_CONTEXT_BACKOFF_JITTER_PERCENT / 100;
    Duration::from_millis(base - spread + ids.random_below(2 * spread + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestIds;

    #[test]
    fn the_backoff_doubles_and_stays_within_a_fifth() {
        let ids = TestIds::default();
        for attempt in 0..RUN_CONTEXT_RETRIES_MAX {
            let base = 25 << attempt;
            for _ in 0..50 {
                let wait = u64::try_from(backoff(&ids, attempt).as_millis()).unwrap();
                assert!(wait >= base - base / 5 && wait <= base + base / 5, "{wait} for {base}");
            }
        }
    }
}
