//! How the rest of the house speaks to runs.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::time::timeout;

use crate::contract::limits::{ACTOR_IDLE_SECONDS, QUARANTINE_OFFLOADS_PER_MINUTE, RUN_ANSWER_TIMEOUT_MS};
use crate::contract::names::KEY_QUARANTINE_OFFLOAD;
use crate::contract::{Ack, RepoFullName, RunId, Seq, ThreadId};
use crate::ports::RateDecision;
use crate::ports::store::StoreError;
use crate::run::{Deps, Envelope, Offload, RunError, RunHandle, bounded};

use crate::preview::Previews;

use super::actor::{LookUp, PreviewRoster, Registry, RunRoster, WhoIsAlive};

/// Times that a batch is handed to a new actor after one has stopped under it.
const REBUILDS_MAX: usize = 3;

/// How the registry works.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Threads that run actors are spread over; 0 keeps them on the registry's own, beside the database's tasks,
    /// which saves a change of thread for each commit.
    pub threads: usize,
    /// How long a run actor stays without work.
    pub idle_after: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { threads: 0, idle_after: Duration::from_secs(ACTOR_IDLE_SECONDS) }
    }
}

/// A run actor that is alive in this process.
#[derive(Debug, Clone)]
pub struct LiveRun {
    /// Run.
    pub run_id: RunId,
    /// Time since its actor was started.
    pub age: Duration,
}

/// All runs of this process. Cheap to clone.
#[derive(Clone)]
pub struct Runs {
    registry: Addr<Registry>,
    roster: RunRoster,
    previews: PreviewRoster,
    deps: Deps,
}

impl Runs {
    /// Starts the registry in the current actix system; call it before the HTTP server is made.
    pub fn start(deps: Deps, options: RegistryOptions) -> Self {
        let (roster, previews) = (RunRoster::default(), PreviewRoster::default());
        let registry = Registry::new(deps.clone(), options, roster.clone(), previews.clone()).start();
        Self { registry, roster, previews, deps }
    }

    /// The open preview sessions of the same registry.
    pub fn previews(&self) -> Previews {
        Previews::new(self.registry.clone(), self.previews.clone())
    }

    /// Submits envelopes of one run, in order, and answers each once it is durable.
    ///
    /// Bounds: [`crate::contract::limits::INGEST_BATCH_MAX_EVENTS`]. Dropping the future cancels what is still
    /// queued; callers spawn it.
    pub async fn submit(&self, run_id: RunId, envelopes: Vec<Envelope>) -> Result<Vec<Ack>, RunError> {
        let envelopes = Arc::new(envelopes);
        let mut offloads = Vec::new();
        let mut last = RunError::Stopped;
        for _ in 0..=REBUILDS_MAX {
            let handle = self.handle(run_id).await?;
            match handle.submit(Arc::clone(&envelopes), offloads.clone()).await {
                Err(RunError::NeedsOffload(which)) => {
                    offloads = self.offload(run_id, &envelopes, offloads, &which).await?;
                    last = RunError::NeedsOffload(which);
                }
                // Nothing was acknowledged: what the lost actor may have committed is recognised by its ids.
                Err(RunError::Stopped) => last = RunError::Stopped,
                other => return other,
            }
        }
        Err(match last {
            RunError::Stopped | RunError::NeedsOffload(_) => {
                RunError::Store(StoreError::Unavailable(format!("run {run_id} could not be rebuilt")))
            }
            other => other,
        })
    }

    /// The highest `seq` of the run that is committed, by whichever server: read from the store, because this
    /// process's actor may not know what another has written.
    pub async fn last_accepted_seq(&self, run_id: RunId) -> Result<Option<Seq>, RunError> {
        let run = bounded(self.deps.store.load_run(run_id)).await?.ok_or(RunError::NotFound)?;
        Ok(run.last_accepted_seq)
    }

    /// Who is alive in this process.
    pub async fn live(&self) -> Result<Vec<LiveRun>, RunError> {
        self.ask(WhoIsAlive).await
    }

    async fn handle(&self, run_id: RunId) -> Result<RunHandle, RunError> {
        match self.roster.alive(&run_id) {
            Some(handle) => Ok(handle),
            None => self.ask(LookUp(run_id)).await,
        }
    }

    async fn ask<M>(&self, message: M) -> Result<M::Result, RunError>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        Registry: Handler<M>,
        <Registry as Actor>::Context: actix::dev::ToEnvelope<Registry, M>,
    {
        match timeout(Duration::from_millis(RUN_ANSWER_TIMEOUT_MS), self.registry.send(message)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(RunError::Stopped),
            Err(_) => Err(RunError::Store(StoreError::Unavailable("the registry does not answer".into()))),
        }
    }

    /// Stores large payloads as objects before they are quarantined, so that the row never names an object that
    /// is not there. At most so many a minute for one repository; the rest keep prefix and hash only.
    async fn offload(
        &self,
        run_id: RunId,
        envelopes: &[Envelope],
        offloads: Vec<Offload>,
        which: &[usize],
    ) -> Result<Vec<Offload>, RunError> {
        let mut offloads = offloads;
        offloads.resize(envelopes.len(), Offload::NotTried);
        let Some(run) = bounded(self.deps.store.load_run(run_id)).await? else { return Err(RunError::NotFound) };
        for &index in which {
            let (Some(envelope), Some(slot)) = (envelopes.get(index), offloads.get_mut(index)) else { continue };
            *slot = self.offload_one(&run.repo_full_name, &run.thread_id, envelope).await?;
        }
        Ok(offloads)
    }

    async fn offload_one(
        &self,
        repo: &RepoFullName,
        thread: &ThreadId,
        envelope: &Envelope,
    ) -> Result<Offload, RunError> {
        let unavailable = |error: String| RunError::Store(StoreError::Unavailable(error));
        let counter = format!("{KEY_QUARANTINE_OFFLOAD}:{repo}");
        let allowed = self
            .deps
            .coordination
            .count(&counter, QUARANTINE_OFFLOADS_PER_MINUTE, 60_000)
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        if let RateDecision::Limited { .. } = allowed {
            tracing::warn!(%repo, %thread, "quarantine offload limited; prefix and hash are kept");
            return Ok(Offload::RateLimited);
        }
        let hash = hex::encode(envelope.body_hash());
        let key = format!("quarantine/{}/{hash}.json", &hash[..2]);
        if let Err(error) = self.deps.evidence.put(&key, Bytes::clone(&envelope.body)).await {
            // An outage must not use up the minute: the daemon comes back with the same envelope.
            if let Err(error) = self.deps.coordination.uncount(&counter).await {
                tracing::warn!(%repo, %error, "a failed offload stays counted");
            }
            return Err(unavailable(error.to_string()));
        }
        Ok(Offload::Stored(key))
    }
}
