//! Commits of events and counters alone, which nearly all are: a statement of their own costs the database less
//! than half of what the whole one does.

use std::collections::HashSet;

use runwarden_actors::contract::Seq;
use runwarden_actors::ports::store::{CommitOutcome, RunCommit};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::types::time::OffsetDateTime;

use super::commit::Events;
use super::connection::at;
use crate::store::failure::Failure;

const PLAIN: &str = include_str!("plain.sql");

/// Whether the commit changes nothing but the run's place and its counters, and adds nothing but events.
pub(super) fn is_plain(commit: &RunCommit) -> bool {
    commit.change.only_moves() && commit.quarantine.is_empty() && commit.effects.is_empty()
}

#[derive(Default)]
struct Runs {
    run_id: Vec<Uuid>,
    expected_revision: Vec<i64>,
    now: Vec<OffsetDateTime>,
    seq: Vec<Option<i64>>,
    accepted: Vec<i64>,
    duplicate: Vec<i64>,
    out_of_order: Vec<i64>,
    gaps: Vec<i64>,
}

impl Runs {
    fn push(&mut self, commit: &RunCommit) {
        self.run_id.push(commit.run_id.as_uuid());
        self.expected_revision.push(commit.expected_revision);
        self.now.push(at(commit.now));
        self.seq.push(commit.change.last_accepted_seq.map(Seq::get));
        self.accepted.push(commit.counters.accepted);
        self.duplicate.push(commit.counters.duplicate);
        self.out_of_order.push(commit.counters.out_of_order);
        self.gaps.push(commit.counters.gaps);
    }
}

/// Writes plain commits. Where one of the events is stored already, nothing is written and the failure is
/// [`Failure::Taken`].
pub(super) async fn write_plain(
    connection: &mut PgConnection,
    commits: &[RunCommit],
) -> Result<Vec<CommitOutcome>, Failure> {
    let mut in_order: Vec<&RunCommit> = commits.iter().collect();
    in_order.sort_unstable_by_key(|commit| commit.run_id.as_uuid());
    let (mut runs, mut events) = (Runs::default(), Events::default());
    for commit in in_order {
        runs.push(commit);
        for event in &commit.events {
            events.push(commit.run_id.as_uuid(), event)?;
        }
    }
    let applied: Vec<Uuid> = sqlx::query_scalar(PLAIN)
        .bind(runs.run_id)
        .bind(runs.expected_revision)
        .bind(runs.now)
        .bind(runs.seq)
        .bind(runs.accepted)
        .bind(runs.duplicate)
        .bind(runs.out_of_order)
        .bind(runs.gaps)
        .bind(events.run_id)
        .bind(events.seq)
        .bind(events.event_id)
        .bind(events.payload)
        .bind(events.payload_hash)
        .bind(events.received_at)
        .fetch_all(connection)
        .await?;
    let applied: HashSet<Uuid> = applied.into_iter().collect();
    let is_applied = |commit: &RunCommit| applied.contains(&commit.run_id.as_uuid());
    Ok(commits
        .iter()
        .map(
            |commit| {
                if is_applied(commit) { CommitOutcome::Applied { quarantined: 0 } } else { CommitOutcome::Conflict }
            },
        )
        .collect())
}
