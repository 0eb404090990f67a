//! Carries out the outbox: what was committed to be done is done at least once, also after a crash and by
//! whichever server finds it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::json;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::contract::limits::{EFFECT_ATTEMPTS_MAX, EFFECT_TIMEOUT_MS};
use crate::contract::{CommitSha, DiffSource, SecurityReason, UiValidationOutcome};
use crate::ports::store::{ClosedPreview, DueEffect, RunRecord, StoreError};
use crate::ports::{RunDimensions, SandboxTarget};
use crate::preview::{announce, note_closed, stop_command};
use crate::validation::{UiRules, changed_paths};

use super::deps::Deps;
use super::effect::Effect;

/// How often the outbox is looked at without being woken: effects of a server that died, and retries.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Effects taken at once.
const TAKE_MAX: u32 = 32;
/// Effects that ask a sandbox at the same time.
const CONCURRENT_MAX: usize = 8;
/// Effects taken and not finished; past it no more are taken.
const RUNNING_MAX: usize = 256;
/// First step of the backoff between attempts; doubles up to five minutes.
const RETRY_BASE_MS: i64 = 1_000;
const RETRY_MAX_MS: i64 = 300_000;

/// Wakes the outbox of this process.
#[derive(Clone, Default)]
pub struct EffectNudge(Arc<Notify>);

impl EffectNudge {
    /// Something was committed.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// Carries out effects until `shutdown` says true; what is under way then is finished. A slow effect holds nobody up: a
/// sandbox that hangs must not keep a revocation from being announced.
pub async fn run_effects(deps: Deps, mut shutdown: watch::Receiver<bool>) {
    let turns = Arc::new(Semaphore::new(CONCURRENT_MAX));
    // Tasks of their own: one that has just been handed the database's connection must go on while more is taken.
    let mut running = JoinSet::new();
    let mut look = true;
    while !*shutdown.borrow() {
        let room = RUNNING_MAX.saturating_sub(running.len());
        if look && room > 0 {
            let take = TAKE_MAX.min(u32::try_from(room).unwrap_or(TAKE_MAX));
            match take_due(&deps, take).await {
                Ok(due) => {
                    look = due.len() == usize::try_from(take).unwrap_or(usize::MAX);
                    for due in due {
                        running.spawn(in_turn(deps.clone(), Arc::clone(&turns), due));
                    }
                }
                Err(error) => {
                    look = false;
                    tracing::warn!(%error, "the outbox waits for the database");
                }
            }
            if look {
                continue;
            }
        }
        tokio::select! {
            Some(_) = running.join_next() => {}
            _ = timeout(LOOK_EVERY, deps.effects.0.notified()) => look = true,
            _ = shutdown.changed() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Announcements at once, they are short; whatever asks a sandbox waits for its turn.
async fn in_turn(deps: Deps, turns: Arc<Semaphore>, due: DueEffect) {
    let _turn = match due.effect.effect {
        Effect::AnnounceClosedPreviews { .. } => None,
        _ => turns.acquire().await.ok(),
    };
    settle(&deps, due).await;
}

async fn take_due(deps: &Deps, take: u32) -> Result<Vec<DueEffect>, StoreError> {
    let hold = i64::try_from(EFFECT_TIMEOUT_MS).unwrap_or(i64::MAX).saturating_mul(2);
    deps.store.take_due_effects(deps.clock.now(), hold, take).await
}

/// Carries out what is due, once; how many were taken.
pub async fn carry_out_due(deps: &Deps) -> Result<usize, StoreError> {
    let due = take_due(deps, TAKE_MAX).await?;
    let taken = due.len();
    stream::iter(due).for_each_concurrent(CONCURRENT_MAX, |effect| settle(deps, effect)).await;
    Ok(taken)
}

async fn settle(deps: &Deps, due: DueEffect) {
    let DueEffect { effect: committed, attempts } = due;
    let limit = Duration::from_millis(EFFECT_TIMEOUT_MS);
    let done = timeout(limit, carry_out(deps, &committed.effect, committed.run_id))
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("not carried out within {EFFECT_TIMEOUT_MS} ms"))));
    let noted = match done {
        Ok(()) => deps.store.effect_done(committed.id).await,
        Err(error) => {
            let attempts = attempts + 1;
            let again = (attempts < EFFECT_ATTEMPTS_MAX).then(|| {
                let wait = RETRY_BASE_MS.saturating_mul(1 << attempts.min(10)).min(RETRY_MAX_MS);
                deps.clock.now().plus_millis(wait)
            });
            let (run_id, kind) = (committed.run_id, committed.effect.kind());
            if again.is_some() {
                tracing::warn!(%run_id, kind, attempts, %error, "effect failed; it is tried again");
            } else {
                tracing::error!(%run_id, kind, attempts, %error, "effect given up; its row in run_effect stays");
            }
            deps.store.effect_failed(committed.id, &error.to_string(), again).await
        }
    };
    if let Err(error) = noted {
        // The hold runs out and somebody carries it out again; every effect may be repeated.
        tracing::warn!(run_id = %committed.run_id, %error, "effect's end could not be noted");
    }
}

async fn carry_out(deps: &Deps, effect: &Effect, run_id: crate::contract::RunId) -> Result<(), StoreError> {
    let Some(run) = deps.store.load_run(run_id).await? else { return Ok(()) };
    match effect {
        Effect::CheckHead { end_sha } => check_head(deps, &run, end_sha.as_ref()).await,
        Effect::ClassifyLegacy => classify_legacy(deps, &run).await,
        Effect::ReclassifyLegacy => {
            // The first classification left a row; where there is none it has still to come, and sees everything.
            let known = deps.store.load_ui_validation(&run.thread_id, &run.thread_chat_id).await?;
            if known.is_some_and(|known| known.latest_run_id == run.run_id) {
                classify_legacy(deps, &run).await?;
            }
            Ok(())
        }
        Effect::DenyAccessIfPreviewed => {
            if deps.store.has_open_preview(&run.thread_id).await? {
                deps.observer.access_denied(dimensions(&run), SecurityReason::BindingMismatch);
            }
            Ok(())
        }
        Effect::AnnounceClosedPreviews { sessions } => announce_closed(deps, sessions).await,
    }
}

fn dimensions(run: &RunRecord) -> RunDimensions<'_> {
    RunDimensions {
        run_id: run.run_id,
        thread_id: &run.thread_id,
        thread_chat_id: &run.thread_chat_id,
        user_id: &run.user_id,
        repo_full_name: &run.repo_full_name,
        codesandbox_id: run.codesandbox_id.as_ref(),
        sandbox_provider: run.sandbox_provider,
    }
}

fn target(run: &RunRecord) -> Option<SandboxTarget> {
    Some(SandboxTarget {
        provider: run.sandbox_provider?,
        codesandbox_id: run.codesandbox_id.clone()?,
        repo_dir: run.repo_dir.clone(),
    })
}

/// Section 5, revocation: servers learn of it within their next look.
async fn announce_closed(deps: &Deps, sessions: &[ClosedPreview]) -> Result<(), StoreError> {
    for closed in sessions {
        let announced = announce(deps.coordination.as_ref(), closed.preview_session_id, closed.revocation_version);
        announced.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    }
    // Only then what may take its time.
    for closed in sessions {
        if let Some(session) = deps.store.load_preview(closed.preview_session_id).await? {
            note_closed(deps.observer.as_ref(), &session, closed);
            stop_command(deps, &session).await?;
        }
    }
    Ok(())
}

/// Section 4, terminal: `endSha` against the sandbox's live HEAD. Whatever comes of it, validation goes on.
async fn check_head(deps: &Deps, run: &RunRecord, end_sha: Option<&CommitSha>) -> Result<(), StoreError> {
    let live = match target(run) {
        None => Err("sandbox_not_bound".to_owned()),
        Some(target) => deps.sandbox.head_sha(&target).await.map_err(|error| error.to_string()),
    };
    let (source, context) = match (&live, end_sha) {
        (Ok(head), Some(end)) if head == end => {
            (DiffSource::Sha, json!({"reason": "head_matches", "endSha": end, "headSha": head}))
        }
        (Ok(head), Some(end)) => {
            (DiffSource::WorkingTreeFallback, json!({"reason": "head_mismatch", "endSha": end, "headSha": head}))
        }
        (Ok(head), None) => (DiffSource::WorkingTreeFallback, json!({"reason": "missing_end_sha", "headSha": head})),
        (Err(error), end) => {
            (DiffSource::WorkingTreeFallback, json!({"reason": "head_unreadable", "endSha": end, "detail": error}))
        }
    };
    tracing::info!(run_id = %run.run_id, diff_source = %source, "terminal HEAD compared");
    deps.store.finish_run(run.run_id, source, &context.to_string(), deps.clock.now()).await
}

/// Section 4, case 3 of a legacy run.
async fn classify_legacy(deps: &Deps, run: &RunRecord) -> Result<(), StoreError> {
    let changed = match (target(run), &run.run_start_sha) {
        (Some(target), Some(base)) => {
            deps.sandbox.changed_paths(&target, base, None).await.map_err(|error| error.to_string())
        }
        _ => Err("sandbox_not_bound".to_owned()),
    };
    let matched = changed.and_then(|raw| {
        let paths = changed_paths::parse(&raw).map_err(|error| error.to_string())?;
        Ok(UiRules::default_rules().matches_any(&paths))
    });
    // Unknown never means ready: what cannot be read counts as changed.
    let outcome = match matched {
        Ok(false) => UiValidationOutcome::NotRequired,
        Ok(true) => UiValidationOutcome::Inconclusive,
        Err(error) => {
            tracing::warn!(run_id = %run.run_id, %error, "changed files of a legacy run cannot be read");
            UiValidationOutcome::Inconclusive
        }
    };
    deps.store.record_ui_outcome(run, outcome, deps.clock.now()).await
}
