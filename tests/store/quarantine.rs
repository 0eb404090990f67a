//! Daemon events that were set aside.

use runwarden_actors::contract::{QuarantineReason, Timestamp};
use runwarden_actors::ports::store::{CommitOutcome, NewQuarantine, QuarantineDay};

use crate::harness::Database;
use crate::sample::{NOW, applied, loaded, quarantine, quarantined, run, thread, uuid};

on_both!(
    a_retried_envelope_leaves_one_row_and_counts_once,
    what_differs_in_any_part_of_the_key_is_a_row_of_its_own,
    pages_are_newest_first_and_of_one_thread,
    a_foreign_run_id_that_no_column_takes_is_still_kept,
    old_rows_are_counted_by_day_before_they_go,
    a_purge_takes_the_oldest_first_and_not_too_many,
    an_object_expires_with_the_last_row_that_names_it,
);

async fn a_retried_envelope_leaves_one_row_and_counts_once(database: Database) {
    let run = run(&*database.store).await;
    let row = || quarantined(&run, QuarantineReason::MissingEndSha, 1, NOW);
    let first = database.store.commit(quarantine(&run, vec![row(), row()])).await.unwrap();
    assert_eq!(first, CommitOutcome::Applied { quarantined: 1 });
    let after = loaded(&*database.store, run.run_id).await;
    let again = database.store.commit(quarantine(&after, vec![row()])).await.unwrap();
    assert_eq!(again, CommitOutcome::Applied { quarantined: 0 });
    assert_eq!(loaded(&*database.store, run.run_id).await.counters.quarantined, 1);
    assert_eq!(database.count("daemon_event_quarantine", "1 = 1").await, 1);
}

async fn what_differs_in_any_part_of_the_key_is_a_row_of_its_own(database: Database) {
    let run = run(&*database.store).await;
    let row = || quarantined(&run, QuarantineReason::Mismatch, 1, NOW);
    let rows = vec![
        row(),
        NewQuarantine { run_id_or_null: Some("foreign".to_owned()), ..row() },
        NewQuarantine { reason: QuarantineReason::LateGap, ..row() },
        NewQuarantine { payload_hash: [2; 32], ..row() },
    ];
    let outcome = database.store.commit(quarantine(&run, rows)).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Applied { quarantined: 4 });
}

async fn pages_are_newest_first_and_of_one_thread(database: Database) {
    let (one, other) = (run(&*database.store).await, run(&*database.store).await);
    // Two rows of one instant are told apart by their ids.
    let at = [10, 20, 20, 5, 30];
    let rows: Vec<NewQuarantine> = (1_u8..)
        .zip(at)
        .map(|(body, at)| quarantined(&one, QuarantineReason::Mismatch, body, NOW.plus_millis(at)))
        .collect();
    applied(&*database.store, quarantine(&one, rows.clone())).await;
    let theirs = quarantined(&other, QuarantineReason::Mismatch, 1, NOW);
    applied(&*database.store, quarantine(&other, vec![theirs.clone()])).await;

    let expected: Vec<&NewQuarantine> = [4, 2, 1, 0, 3].map(|index| &rows[index]).to_vec();
    let (mut before, mut found) = (None, Vec::new());
    loop {
        let page = database.store.quarantine_page(&one.thread_id, before, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 2);
        before = Some(last.id);
        found.extend(page);
    }
    assert_eq!(found.iter().collect::<Vec<_>>(), expected);
    // A row of another thread is no place in this one's list.
    assert!(database.store.quarantine_page(&one.thread_id, Some(theirs.id), 2).await.unwrap().is_empty());
    assert!(database.store.quarantine_page(&one.thread_id, Some(uuid()), 2).await.unwrap().is_empty());
    assert!(database.store.quarantine_page(&thread("unknown"), None, 2).await.unwrap().is_empty());
}

async fn a_foreign_run_id_that_no_column_takes_is_still_kept(database: Database) {
    let run = run(&*database.store).await;
    let row = NewQuarantine {
        run_id_or_null: Some(format!("a\0b{}", "ü".repeat(300))),
        payload_prefix_2k: "\0".repeat(2048),
        ..quarantined(&run, QuarantineReason::Mismatch, 1, NOW)
    };
    applied(&*database.store, quarantine(&run, vec![row])).await;
    let kept = database.store.quarantine_page(&run.thread_id, None, 10).await.unwrap().remove(0);
    assert!(kept.run_id_or_null.unwrap().starts_with("a\u{fffd}bü"));
    assert!(kept.payload_prefix_2k.len() <= 2048);
}

async fn old_rows_are_counted_by_day_before_they_go(database: Database) {
    let run = run(&*database.store).await;
    // 23:59:59.999 and one millisecond later.
    let midnight = Timestamp::from_millis(1_763_683_200_000);
    let row = |body, reason, at: i64| quarantined(&run, reason, body, midnight.plus_millis(at));
    let rows = vec![
        row(1, QuarantineReason::Mismatch, -1),
        row(2, QuarantineReason::Mismatch, 0),
        row(3, QuarantineReason::Mismatch, 1),
        row(4, QuarantineReason::LateGap, 1),
        row(5, QuarantineReason::LateGap, 1000),
    ];
    applied(&*database.store, quarantine(&run, rows)).await;
    let day = |day: &str, reason, rows| QuarantineDay {
        day: day.to_owned(),
        repo_full_name: run.repo_full_name.clone(),
        reason,
        rows,
    };
    let purged = database.store.purge_quarantine(midnight.plus_millis(1000), 100).await.unwrap();
    assert_eq!(
        purged,
        [
            day("2025-11-20", QuarantineReason::Mismatch, 1),
            day("2025-11-21", QuarantineReason::LateGap, 1),
            day("2025-11-21", QuarantineReason::Mismatch, 2),
        ]
    );
    assert_eq!(database.count("daemon_event_quarantine", "1 = 1").await, 1);
    // The next purge adds to the same day.
    let purged = database.store.purge_quarantine(midnight.plus_millis(1001), 100).await.unwrap();
    assert_eq!(purged, [day("2025-11-21", QuarantineReason::LateGap, 1)]);
    let kept = database.texts("select cast(rows as text) from daemon_event_quarantine_day order by day, reason").await;
    assert_eq!(kept, ["1", "2", "2"]);
    assert!(database.store.purge_quarantine(midnight.plus_millis(9999), 100).await.unwrap().is_empty());
}

async fn a_purge_takes_the_oldest_first_and_not_too_many(database: Database) {
    let run = run(&*database.store).await;
    let rows = (1_u8..=7)
        .map(|body| quarantined(&run, QuarantineReason::Mismatch, body, NOW.plus_millis(i64::from(body % 4))))
        .collect();
    applied(&*database.store, quarantine(&run, rows)).await;
    let purged = database.store.purge_quarantine(NOW.plus_millis(1000), 3).await.unwrap();
    assert_eq!(purged.iter().map(|day| day.rows).sum::<i64>(), 3);
    let left = database.store.quarantine_page(&run.thread_id, None, 10).await.unwrap();
    let left: Vec<i64> = left.iter().map(|row| row.created_at.millis_since(NOW)).collect();
    assert_eq!(left, [3, 3, 2, 2]);
}

async fn an_object_expires_with_the_last_row_that_names_it(database: Database) {
    let run = run(&*database.store).await;
    let row = |reason, body, at, key: Option<&str>| NewQuarantine {
        payload_r2_key: key.map(str::to_owned),
        ..quarantined(&run, reason, body, NOW.plus_millis(at))
    };
    let rows = vec![
        row(QuarantineReason::Mismatch, 1, 0, Some("shared")),
        row(QuarantineReason::LateGap, 1, 900, Some("shared")),
        row(QuarantineReason::Mismatch, 2, 20, Some("second")),
        row(QuarantineReason::Mismatch, 3, 10, Some("first")),
        row(QuarantineReason::Mismatch, 4, 5, None),
    ];
    applied(&*database.store, quarantine(&run, rows)).await;
    let expired = |at, most| database.store.expired_quarantine_objects(NOW.plus_millis(at), most);
    assert_eq!(expired(100, 10).await.unwrap(), ["first", "second"]);
    assert_eq!(expired(100, 1).await.unwrap(), ["first"]);
    assert_eq!(expired(901, 10).await.unwrap(), ["shared", "first", "second"]);
}
