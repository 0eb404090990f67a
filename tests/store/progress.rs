//! The place and the counters of a run, which have a table of their own since migration 9.

use runwarden_actors::ports::store::{CommitOutcome, RunCounters};

use crate::harness::Database;
use crate::sample::{NOW, commit, event, loaded, new_run, seq};

/// The last migration without that table.
const BEFORE: i64 = 8;

async fn what_was_counted_before_the_migration_is_there_after_it(database: Database) {
    let new = new_run("t", "c", "r");
    let (run, snapshot) = (new.run_id, serde_json::to_string(&new.frozen_flag_snapshot).unwrap());
    let (id, now) = (database.id(run), database.instant(NOW.as_millis()));
    let sql = format!(
        "insert into thread_run (run_id, thread_id, thread_chat_id, start_request_id, trigger_source, user_id, \
         repo_full_name, status, frozen_flag_snapshot, created_at, updated_at, last_accepted_seq, accepted_count, \
         duplicate_count, out_of_order_count, quarantined_count, gap_count, revision) \
         values ({id}, 't', 'c', 'r', 'ui', 'u', 'o/r', 'running', '{snapshot}', {now}, {now}, 41, 42, 3, 4, 5, 6, 50)"
    );
    assert_eq!(database.raw(&sql).await, Ok(1));
    let applied = database.migrate().await.applied;
    assert_eq!(applied.iter().map(|migration| migration.version).collect::<Vec<_>>(), [BEFORE + 1]);

    let after = loaded(&*database.store, run).await;
    assert_eq!((after.last_accepted_seq, after.revision, after.updated_at), (Some(seq(41)), 50, NOW));
    let counters = RunCounters { accepted: 42, duplicate: 3, out_of_order: 4, quarantined: 5, gaps: 6 };
    assert_eq!(after.counters, counters);
    let next = database.store.commit(commit(&after, vec![event(42, "e-42")])).await.unwrap();
    assert_eq!(next, CommitOutcome::Applied { quarantined: 0 });
    assert_eq!(loaded(&*database.store, run).await.last_accepted_seq, Some(seq(42)));
}

#[tokio::test]
async fn postgres() {
    what_was_counted_before_the_migration_is_there_after_it(Database::postgres_at(BEFORE).await).await;
}

#[tokio::test]
async fn sqlite() {
    what_was_counted_before_the_migration_is_there_after_it(Database::sqlite_at(BEFORE).await).await;
}
