//! A run's row under a lock, for a server that has lost too many races: its decision is made while the others wait.

use async_trait::async_trait;
use runwarden_actors::contract::{EventId, RunId, Seq};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{CommitOutcome, HeldRun, RunCommit, RunRecord, Seen};
use sqlx::{Postgres, Transaction};

use super::commit::write;
use super::connection::PostgresStore;
use super::{events, runs};
use crate::store::failure::Failure;

/// The pointer before the run, as everybody locks them. The pointer is for a commit that changes the run's status.
const LOCK: &str = "with pointers as materialized ( \
        select c.active_run_id from thread_run_context c where c.active_run_id = $1 for update \
     ) \
     select from thread_run_progress p where p.run_id = $1 and (select count(*) from pointers) >= 0 for no key update";

/// The transaction. Dropped, it is rolled back; the server does that itself where this process hangs
/// (`idle_in_transaction_session_timeout`).
struct Held {
    store: PostgresStore,
    tx: Transaction<'static, Postgres>,
    run: RunRecord,
}

/// Locks the run and reads it.
pub(super) async fn hold(store: &PostgresStore, run_id: RunId) -> Result<Option<Box<dyn HeldRun>>, StoreError> {
    let mut tx = store.begin().await?;
    let locked = async {
        sqlx::query(LOCK).bind(run_id.as_uuid()).execute(&mut *tx).await?;
        // A statement of its own: it sees what those have written whom the lock has waited for.
        runs::load(&mut tx, run_id.as_uuid()).await
    };
    let run = ended(store.limit(locked).await)?;
    Ok(run.map(|run| -> Box<dyn HeldRun> { Box::new(Held { store: store.clone(), tx, run }) }))
}

fn ended<T>(outcome: Option<Result<T, Failure>>) -> Result<T, Failure> {
    outcome.unwrap_or_else(|| Err(Failure::too_slow()))
}

#[async_trait]
impl HeldRun for Held {
    fn run(&self) -> &RunRecord {
        &self.run
    }

    #[tracing::instrument(name = "store.held.seen", skip_all)]
    async fn seen(&mut self, asked: &[(Option<EventId>, Option<Seq>)]) -> Result<Vec<Seen>, StoreError> {
        Ok(ended(self.store.limit(events::seen(&mut self.tx, self.run.run_id, asked)).await)?)
    }

    #[tracing::instrument(name = "store.held.commit", skip_all)]
    async fn commit(self: Box<Self>, commit: RunCommit) -> Result<CommitOutcome, StoreError> {
        let Self { store, mut tx, .. } = *self;
        let written = async {
            let outcome = write(&mut tx, std::slice::from_ref(&commit)).await?.pop().unwrap_or(CommitOutcome::Conflict);
            if outcome == CommitOutcome::Conflict {
                tx.rollback().await?;
            } else {
                tx.commit().await?;
            }
            Ok(outcome)
        };
        match ended(store.limit(written).await) {
            Err(failure) if failure.is_lost_race() => Ok(CommitOutcome::Conflict),
            outcome => Ok(outcome?),
        }
    }
}
