//! The mailbox shell around one run's state. It holds no decision of its own.

use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::fut::wrap_future;
use actix::prelude::*;
use tokio::time::Instant;

use crate::contract::limits::{INGEST_CONFLICT_RETRIES_MAX, RUN_MAILBOX_CAPACITY};
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
    /// The store failed and the outcome is unknown, or too many races were lost.
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

    /// The state, or why there is none.
    fn state(&mut self) -> Result<RunState, Refusal> {
        self.last_used = Instant::now();
        match &self.slot {
            Slot::Ready(state) => Ok(state.clone()),
            Slot::Missing => Err(Refusal::NotFound),
            Slot::Broken(error) => Err(Refusal::Store(error.clone())),
            Slot::Loading => Err(Refusal::Store(StoreError::Unavailable("the run is still loading".into()))),
        }
    }

    /// Stops once everybody who waits in the mailbox has the same refusal: a message that a stopped actor drops goes
    /// to the next one, which would wait for the same database as long again. The next sender gets a new actor.
    fn stop_behind_refusals(ctx: &mut Context<Self>) {
        // The context polls what is spawned after it has emptied the mailbox.
        ctx.spawn(wrap_future::<_, Self>(async {}).map(|(), _, ctx| ctx.stop()));
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
        ctx.wait(load.into_actor(self).map(|loaded, actor, ctx| {
            actor.slot = match loaded {
                Ok(Some(run)) => Slot::Ready(RunState::from(&run)),
                Ok(None) => Slot::Missing,
                Err(error) => {
                    tracing::warn!(run_id = %actor.run_id, %error, "run could not be loaded");
                    Slot::Broken(error)
                }
            };
            if !matches!(actor.slot, Slot::Ready(_)) {
                Self::stop_behind_refusals(ctx);
            }
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
    type Result = Reply;

    fn handle(&mut self, Submit(batch): Submit, _: &mut Self::Context) -> Self::Result {
        let state = match self.state() {
            Ok(state) => state,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let deps = self.deps.clone();
        let work = async move { ingest(&deps, state, &batch).await };
        // Atomic: nothing else of this actor runs between the decision and the assignment of its result.
        Reply::Later(AtomicResponse::new(Box::pin(work.into_actor(self).map(|ingested, actor, ctx| match ingested {
            Ok((next, result)) => {
                actor.slot = Slot::Ready(next);
                match result {
                    Ingested::Acked(acks) => Ok(acks),
                    Ingested::NeedsOffload(which) => Err(Refusal::NeedsOffload(which)),
                    Ingested::LostRaces => Err(Refusal::Store(StoreError::Unavailable(format!(
                        "run {} was moved by others {} times in a row",
                        actor.run_id,
                        INGEST_CONFLICT_RETRIES_MAX + 1
                    )))),
                }
            }
            Err(error) => {
                // What the store did is unknown: the memory of this actor may be wrong from here on.
                tracing::warn!(run_id = %actor.run_id, %error, "commit outcome unknown; the run is rebuilt");
                actor.deps.observer.actor("stopped_unknown");
                actor.slot = Slot::Broken(error.clone());
                Self::stop_behind_refusals(ctx);
                Err(Refusal::Store(error))
            }
        }))))
    }
}

/// The answer to a batch.
pub(crate) enum Reply {
    /// Known at once; the actor goes on to the next message.
    Refused(Refusal),
    /// Once the batch is decided and committed; the mailbox waits.
    Later(AtomicResponse<RunActor, Result<Vec<Ack>, Refusal>>),
}

impl MessageResponse<RunActor, Submit> for Reply {
    fn handle(self, ctx: &mut Context<RunActor>, answer: Option<OneshotSender<Result<Vec<Ack>, Refusal>>>) {
        match self {
            Self::Refused(refusal) => {
                if let Some(answer) = answer {
                    // A sender that has gone does not need it.
                    let _ = answer.send(Err(refusal));
                }
            }
            Self::Later(reply) => MessageResponse::<RunActor, Submit>::handle(reply, ctx, answer),
        }
    }
}
