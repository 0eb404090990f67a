//! The mailbox shell around one run's state. It holds no decision of its own.

use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use crate::contract::limits::RUN_MAILBOX_CAPACITY;
use crate::contract::{Ack, RunId};
use crate::ports::store::StoreError;

use super::deps::Deps;
use super::ingest::{Batch, Ingested, bounded, ingest};
use super::state::RunState;

/// Why a run actor did not take a batch.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// There is no such run.
    NotFound,
    /// These large payloads must be stored as objects first.
    NeedsOffload(Vec<usize>),
    /// The store failed; the outcome is unknown and the actor has stopped.
    Store(StoreError),
}

/// A batch of envelopes.
#[derive(Message)]
#[rtype(result = "Result<Vec<Ack>, Refusal>")]
pub(crate) struct Submit(pub(super) Batch);

enum Slot {
    Loading,
    Ready(RunState),
    Missing,
    Broken(StoreError),
}

/// Owns one active run: sequencing, dedupe, validation state.
pub(crate) struct RunActor {
    run_id: RunId,
    deps: Deps,
    slot: Slot,
    idle_after: Duration,
    last_used: Instant,
}

impl RunActor {
    pub(crate) fn new(run_id: RunId, deps: Deps, idle_after: Duration) -> Self {
        Self { run_id, deps, slot: Slot::Loading, idle_after, last_used: Instant::now() }
    }

    /// The state, or why there is none. An actor without one stops; the next sender gets a new one.
    fn state(&mut self, ctx: &mut Context<Self>) -> Result<RunState, Refusal> {
        self.last_used = Instant::now();
        match &self.slot {
            Slot::Ready(state) => Ok(state.clone()),
            Slot::Missing => {
                ctx.stop();
                Err(Refusal::NotFound)
            }
            Slot::Broken(error) => {
                ctx.stop();
                Err(Refusal::Store(error.clone()))
            }
            Slot::Loading => Err(Refusal::Store(StoreError::Unavailable("the run is still loading".into()))),
        }
    }
}

impl Actor for RunActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(RUN_MAILBOX_CAPACITY);
        self.deps.observer.actor("started");
        let (store, run_id) = (self.deps.store.clone(), self.run_id);
        // The mailbox waits for this; the limit inside `bounded` ends the wait.
        let load = async move { bounded(store.load_run(run_id)).await };
        ctx.wait(load.into_actor(self).map(|loaded, actor, _| {
            actor.slot = match loaded {
                Ok(Some(run)) => Slot::Ready(RunState::from(&run)),
                Ok(None) => Slot::Missing,
                Err(error) => {
                    tracing::warn!(run_id = %actor.run_id, %error, "run could not be loaded");
                    Slot::Broken(error)
                }
            };
        }));
        ctx.run_interval((self.idle_after / 4).max(Duration::from_millis(10)), |actor, ctx| {
            if actor.last_used.elapsed() >= actor.idle_after {
                actor.deps.observer.actor("stopped_idle");
                ctx.stop();
            }
        });
    }
}

impl Handler<Submit> for RunActor {
    type Result = AtomicResponse<Self, Result<Vec<Ack>, Refusal>>;

    fn handle(&mut self, Submit(batch): Submit, ctx: &mut Self::Context) -> Self::Result {
        let state = self.state(ctx);
        let deps = self.deps.clone();
        let work = async move { ingest(&deps, state?, &batch).await.map_err(Refusal::Store) };
        // Atomic: nothing else of this actor runs between the decision and the assignment of its result.
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|ingested, actor, ctx| match ingested {
            Ok((next, result)) => {
                actor.slot = Slot::Ready(next);
                match result {
                    Ingested::Acked(acks) => Ok(acks),
                    Ingested::NeedsOffload(which) => Err(Refusal::NeedsOffload(which)),
                }
            }
            Err(refusal) => {
                // What the store did is unknown: the memory of this actor may be wrong from here on.
                if let Refusal::Store(error) = &refusal {
                    tracing::warn!(run_id = %actor.run_id, %error, "commit outcome unknown; the run is rebuilt");
                    actor.deps.observer.actor("stopped_unknown");
                }
                ctx.stop();
                Err(refusal)
            }
        })))
    }
}
