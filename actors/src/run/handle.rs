//! How the rest of the house speaks to a run, without naming a message or an address.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;
use tokio::time::timeout;

use crate::contract::Ack;
use crate::contract::limits::RUN_ANSWER_TIMEOUT_MS;
use crate::ports::store::StoreError;

use super::actor::{Refusal, RunActor, Submit};
use super::decide::Offload;
use super::envelope::Envelope;
use super::ingest::Batch;

/// Why a run did not answer.
#[derive(Debug, Error)]
pub enum RunError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// The store failed or was too slow: `store_unavailable`; nothing is acknowledged and a retry is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// These large payloads must be stored as objects first; nothing is written.
    #[error("{} payloads must be stored as objects first", .0.len())]
    NeedsOffload(Vec<usize>),
    /// The actor went away before it answered; ask the registry for a new one.
    #[error("the run's actor has stopped")]
    Stopped,
}

impl From<Refusal> for RunError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound => Self::NotFound,
            Refusal::NeedsOffload(which) => Self::NeedsOffload(which),
            Refusal::Store(error) => Self::Store(error),
        }
    }
}

/// A way to one run's actor. Cheap to clone; it may outlive the actor.
#[derive(Debug, Clone)]
pub struct RunHandle {
    addr: Addr<RunActor>,
}

impl RunHandle {
    pub(crate) const fn new(addr: Addr<RunActor>) -> Self {
        Self { addr }
    }

    /// Whether the actor still takes messages.
    pub fn is_alive(&self) -> bool {
        self.addr.connected()
    }

    pub(crate) async fn submit(
        &self,
        envelopes: Arc<Vec<Envelope>>,
        offloads: Vec<Offload>,
    ) -> Result<Vec<Ack>, RunError> {
        let message = Submit(Batch { envelopes, offloads });
        match timeout(Duration::from_millis(RUN_ANSWER_TIMEOUT_MS), self.addr.send(message)).await {
            Ok(Ok(answer)) => answer.map_err(RunError::from),
            Ok(Err(_)) => Err(RunError::Stopped),
            Err(_) => Err(RunError::Store(StoreError::Unavailable(format!(
                "the run's actor did not answer within {RUN_ANSWER_TIMEOUT_MS} ms"
            )))),
        }
    }
}
