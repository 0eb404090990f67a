//! The backstop (section 4): one node, under a lease, ends runs that would otherwise hang for ever, ends preview
//! sessions whose life is over, and purges old quarantine.

use std::time::Duration;

use tokio::sync::watch;

use crate::contract::limits::{QUARANTINE_RETENTION_DAYS, SWEEP_INTERVAL_SECONDS, SWEEP_LEASE_SECONDS};
use crate::contract::names::KEY_SWEEP_LEASE;
use crate::ports::store::{QuarantineDay, StoreError, SweepLimits};
use crate::ports::{CoordinationError, EvidenceError};
use crate::preview::sweep_previews;
use thiserror::Error;

use super::deps::Deps;

/// Runs ended, and rows purged, in one transaction.
const SWEEP_MOST: u32 = 1_000;
/// Transactions in one sweep; the rest waits for the next minute.
const SWEEP_ROUNDS_MAX: usize = 100;

/// Which runs are stale.
#[derive(Debug, Clone, Copy)]
pub struct SweepOptions {
    /// Pause between two sweeps.
    pub every: Duration,
    /// How long a run may wait for `endSha`.
    pub missing_end_sha_after: Duration,
    /// How long an active run may be silent.
    pub silent_after: Duration,
}

/// What a sweep did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Another node has the lease.
    pub not_leader: bool,
    /// Runs ended as `failed` with `missing_end_sha_timeout`.
    pub ended_runs: usize,
    /// Preview sessions ended because their life is over.
    pub ended_previews: usize,
    /// Purged quarantine by day, repository and reason.
    pub purged: Vec<QuarantineDay>,
}

/// Why a sweep failed; the next one tries again.
#[derive(Debug, Error)]
pub enum SweepError {
    /// No lease.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// No database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No object store: the rows stay until their objects are gone.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
}

impl Default for SweepOptions {
    fn default() -> Self {
        use crate::contract::limits::{MISSING_END_SHA_TIMEOUT_SECONDS, RUN_SILENCE_TIMEOUT_SECONDS};
        Self {
            every: Duration::from_secs(SWEEP_INTERVAL_SECONDS),
            missing_end_sha_after: Duration::from_secs(MISSING_END_SHA_TIMEOUT_SECONDS),
            silent_after: Duration::from_secs(RUN_SILENCE_TIMEOUT_SECONDS),
        }
    }
}

/// Sweeps until `shutdown` says true. `holder` names this node in the lease.
pub async fn run_sweep(deps: Deps, options: SweepOptions, holder: String, mut shutdown: watch::Receiver<bool>) {
    while !*shutdown.borrow() {
        if let Err(error) = sweep_once(&deps, options, &holder).await {
            tracing::warn!(%error, "the sweep failed and is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(options.every) => {}
            _ = shutdown.changed() => {}
        }
    }
}

/// One sweep, if this node gets or has the lease.
pub async fn sweep_once(deps: &Deps, options: SweepOptions, holder: &str) -> Result<Swept, SweepError> {
    let lease = deps.coordination.acquire_lease(KEY_SWEEP_LEASE, holder, SWEEP_LEASE_SECONDS * 1000).await?;
    if lease.is_none() {
        return Ok(Swept { not_leader: true, ..Swept::default() });
    }
    let mut swept = Swept::default();
    let now = deps.clock.now();
    let before = |age: Duration| now.plus_millis(-i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let limits = SweepLimits {
        missing_end_sha_before: before(options.missing_end_sha_after),
        silent_before: before(options.silent_after),
        most: SWEEP_MOST,
    };
    for _ in 0..SWEEP_ROUNDS_MAX {
        let ended = deps.store.sweep_stale_runs(limits, now).await?;
        for run in &ended {
            tracing::warn!(run_id = %run.run_id, thread_id = %run.thread_id, repo = %run.repo_full_name, "stale run ended by the sweep");
        }
        swept.ended_runs += ended.len();
        if ended.len() < SWEEP_MOST as usize {
            break;
        }
    }
    for _ in 0..SWEEP_ROUNDS_MAX {
        let ended = sweep_previews(deps).await?;
        if ended == 0 {
            break;
        }
        swept.ended_previews += ended;
    }
    let retention = Duration::from_secs(u64::try_from(QUARANTINE_RETENTION_DAYS).unwrap_or_default() * 86_400);
    for _ in 0..SWEEP_ROUNDS_MAX {
        for key in deps.store.expired_quarantine_objects(before(retention), SWEEP_MOST).await? {
            deps.evidence.delete(&key).await?;
        }
        let days = deps.store.purge_quarantine(before(retention), SWEEP_MOST).await?;
        if days.is_empty() {
            break;
        }
        for day in &days {
            tracing::info!(day = %day.day, repo = %day.repo_full_name, reason = %day.reason, rows = day.rows, "quarantine aggregated and purged");
        }
        swept.purged.extend(days);
    }
    Ok(swept)
}
