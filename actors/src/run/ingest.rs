//! One batch of envelopes from decision to commit, with the retries that a lost race needs.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::contract::Ack;
use crate::contract::limits::{INGEST_CONFLICT_RETRIES_MAX, INGEST_HOLD_AFTER_RACES, STORE_CALL_TIMEOUT_MS};
use crate::ports::RunDimensions;
use crate::ports::store::{CommitOutcome, HeldRun, Seen, StoreError};

use super::decide::{Note, Offload, decide, needs_lookup};
use super::deps::Deps;
use super::envelope::Envelope;
use super::state::RunState;

/// A batch of envelopes for one run.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) envelopes: Arc<Vec<Envelope>>,
    /// One for each envelope, or empty where none was offloaded.
    pub(super) offloads: Vec<Offload>,
}

/// What a batch came to.
pub(super) enum Ingested {
    /// Durable; an answer for each envelope.
    Acked(Vec<Ack>),
    /// These large payloads must be stored as objects first; nothing is written.
    NeedsOffload(Vec<usize>),
    /// Others moved the run each time; nothing is written, and the state is the last one that was read.
    LostRaces,
}

/// Calls the store with a limit. A call that did not end has an unknown outcome.
pub(crate) async fn bounded<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(Duration::from_millis(STORE_CALL_TIMEOUT_MS), call)
        .await
        .unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {STORE_CALL_TIMEOUT_MS} ms"))))
}

/// Decides and commits. An error means that the outcome is unknown and the state must be rebuilt.
pub(super) async fn ingest(
    deps: &Deps,
    mut state: RunState,
    batch: &Batch,
) -> Result<(RunState, Ingested), StoreError> {
    let run_id = state.identity.run_id;
    let envelopes = batch.envelopes.as_slice();
    for attempt in 0..=INGEST_CONFLICT_RETRIES_MAX {
        // Whoever is slower than the others would lose for ever: they wait for it now.
        let mut held = None;
        if attempt >= INGEST_HOLD_AFTER_RACES {
            held = bounded(deps.store.hold_run(run_id)).await?;
        }
        if let Some(held) = &held {
            deps.observer.actor("held");
            state = RunState::from(held.run());
        }
        let seen = look_up(deps, &state, envelopes, attempt > 0, held.as_deref_mut()).await?;
        let decision = match decide(&state, envelopes, &seen, &batch.offloads, deps.clock.now(), deps.ids.as_ref()) {
            Ok(decision) => decision,
            Err(needs) => return Ok((state, Ingested::NeedsOffload(needs.0))),
        };
        let Some(commit) = decision.commit else {
            note(deps, &decision.next, &decision.notes, 0);
            return Ok((decision.next, Ingested::Acked(decision.acks)));
        };
        let stored = !commit.events.is_empty();
        let effects = !commit.effects.is_empty();
        let outcome = match held {
            Some(held) => bounded(held.commit(commit)).await?,
            None => bounded(deps.store.commit(commit)).await?,
        };
        match outcome {
            CommitOutcome::Applied { quarantined } => {
                note(deps, &decision.next, &decision.notes, quarantined);
                if stored {
                    deps.feeds.wake(run_id);
                }
                if effects {
                    deps.effects.wake();
                }
                return Ok((decision.next, Ingested::Acked(decision.acks)));
            }
            CommitOutcome::Conflict => {
                // Another server, the sweep or a new run moved the row, or an `eventId` is known: look again.
                deps.observer.actor("reloaded");
                let Some(run) = bounded(deps.store.load_run(run_id)).await? else {
                    return Err(StoreError::Corrupt(format!("run {run_id} is gone")));
                };
                state = RunState::from(&run);
            }
        }
    }
    Ok((state, Ingested::LostRaces))
}

/// Looks up what may be stored already; everything after a lost race.
async fn look_up(
    deps: &Deps,
    state: &RunState,
    envelopes: &[Envelope],
    all: bool,
    held: Option<&mut (dyn HeldRun + 'static)>,
) -> Result<Vec<Seen>, StoreError> {
    let wanted = if all { vec![true; envelopes.len()] } else { needs_lookup(state, envelopes) };
    let mut seen = vec![Seen::default(); envelopes.len()];
    let asked: Vec<_> = envelopes
        .iter()
        .zip(&wanted)
        .filter(|(_, wanted)| **wanted)
        .map(|(envelope, _)| (envelope.event_id.clone(), envelope.seq))
        .collect();
    if asked.is_empty() {
        return Ok(seen);
    }
    let found = match held {
        Some(held) => bounded(held.seen(&asked)).await?,
        None => bounded(deps.store.seen(state.identity.run_id, &asked)).await?,
    };
    let mut found = found.into_iter();
    for (slot, _) in seen.iter_mut().zip(&wanted).filter(|(_, wanted)| **wanted) {
        *slot = found.next().ok_or_else(|| StoreError::Corrupt("fewer answers than questions".into()))?;
    }
    Ok(seen)
}

/// Counts and logs what a committed decision says. No payload, no token.
fn note(deps: &Deps, state: &RunState, notes: &[Note], quarantined: u32) {
    let identity = &state.identity;
    let dimensions = RunDimensions {
        run_id: identity.run_id,
        thread_id: &identity.thread_id,
        thread_chat_id: &identity.thread_chat_id,
        user_id: &identity.user_id,
        repo_full_name: &identity.repo_full_name,
        codesandbox_id: state.codesandbox_id.as_ref(),
        sandbox_provider: state.sandbox_provider,
    };
    let run_id = identity.run_id;
    let mut accepted = 0;
    // Rows that were there already are a retry of the same body: counted once, logged once.
    let mut fresh_rows = quarantined;
    for note in notes {
        match *note {
            Note::Accepted => accepted += 1,
            Note::Duplicate => deps.observer.envelopes("duplicate", 1),
            Note::AfterTerminal => deps.observer.envelopes("run_terminal", 1),
            Note::OutOfOrder { seq, last, never_stored } => {
                deps.observer.envelopes("out_of_order", 1);
                if !never_stored || quarantined > 0 {
                    tracing::info!(%run_id, %seq, %last, never_stored, "late event ignored");
                }
            }
            Note::Gap { expected, got } => {
                deps.observer.envelopes("gap", 1);
                tracing::warn!(%run_id, expected, %got, "sequence jumped");
            }
            Note::Quarantined(reason) if fresh_rows > 0 => {
                fresh_rows -= 1;
                deps.observer.quarantined(dimensions, reason);
                tracing::warn!(%run_id, %reason, repo = %identity.repo_full_name, "event quarantined");
            }
            Note::Quarantined(_) => {}
            Note::Terminal => tracing::info!(%run_id, "terminal event stored"),
        }
    }
    if accepted > 0 {
        deps.observer.envelopes("accepted", accepted);
    }
}
