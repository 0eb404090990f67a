//! Several servers on one database.

use std::time::Duration;

use futures_util::future::{join, join_all};
use runwarden_actors::contract::{QuarantineReason, RunId, RunStatus};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{BindOutcome, CommitOutcome, CreateRunOutcome, RunChange, RunCommit, Seen};
use tokio::time::timeout;

use crate::harness::Database;
use crate::sample::{
    NOW, binding, change, chat, commit, event, loaded, new_run, quarantine, quarantined, run, seq, thread,
};

on_both!(
    two_servers_apply_each_event_of_a_run_once,
    two_servers_on_many_runs_apply_each_event_once,
    starts_bindings_and_status_changes_never_wait_in_a_circle,
    one_body_quarantined_by_two_servers_leaves_one_row,
);

/// Whoever has lost too often makes the others wait, and is not waited for longer than it needs.
#[tokio::test]
async fn a_run_that_is_held_is_moved_by_its_holder_alone() {
    let database = Database::postgres().await;
    let other = database.another_server().await;
    let run = run(&*database.store).await;
    let mut held = other.hold_run(run.run_id).await.unwrap().expect("there is such a run");
    assert_eq!(held.run().revision, run.revision);
    let mut theirs = Box::pin(database.store.commit(commit(&run, vec![event(0, "theirs")])));
    assert!(timeout(Duration::from_millis(200), &mut theirs).await.is_err(), "it did not wait");
    assert_eq!(
        held.seen(&[(Some(event(0, "ours").event_id.unwrap()), Some(seq(0)))]).await.unwrap(),
        [Seen::default()]
    );
    let running =
        RunChange { status: Some(RunStatus::Running), last_accepted_seq: Some(seq(0)), ..RunChange::default() };
    let ours = RunCommit { change: running, ..commit(held.run(), vec![event(0, "ours")]) };
    assert_eq!(held.commit(ours).await.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    assert_eq!(theirs.await.unwrap(), CommitOutcome::Conflict);

    // Let go without a commit, and with one that is refused: nothing is written, and nobody waits.
    let after = loaded(&*other, run.run_id).await;
    drop(other.hold_run(run.run_id).await.unwrap());
    let held = other.hold_run(run.run_id).await.unwrap().unwrap();
    assert_eq!(held.commit(commit(&run, vec![event(1, "stale")])).await.unwrap(), CommitOutcome::Conflict);
    let held = other.hold_run(run.run_id).await.unwrap().unwrap();
    assert_eq!(held.commit(commit(&after, vec![event(1, "ours")])).await.unwrap(), CommitOutcome::Conflict);
    let next = database.store.commit(commit(&after, vec![event(1, "next")])).await.unwrap();
    assert_eq!(next, CommitOutcome::Applied { quarantined: 0 });
    assert_eq!(loaded(&*other, run.run_id).await.status, RunStatus::Running);
    assert!(other.hold_run(new_run("t", "nobody", "s").run_id).await.unwrap().is_none());
    assert!(!database.had_deadlocks());
}

/// Stores the events 0 to `last` of a run, whoever else does the same: what is stored by now is skipped.
async fn store_all(store: &dyn Store, run: RunId, last: i64) -> i64 {
    let mut conflicts = 0;
    loop {
        let row = loaded(store, run).await;
        let next = row.last_accepted_seq.map_or(0, |seq| seq.get() + 1);
        if next > last {
            return conflicts;
        }
        match store.commit(commit(&row, vec![event(next, &format!("e-{next}"))])).await.unwrap() {
            CommitOutcome::Applied { .. } => {}
            CommitOutcome::Conflict => conflicts += 1,
        }
    }
}

async fn two_servers_apply_each_event_of_a_run_once(database: Database) {
    let other = database.another_server().await;
    let run = run(&*database.store).await;
    let conflicts = join_all([
        store_all(&*database.store, run.run_id, 149),
        store_all(&*other, run.run_id, 149),
        store_all(&*other, run.run_id, 149),
    ])
    .await;
    assert!(conflicts.iter().sum::<i64>() > 0, "nobody met anybody");
    let after = loaded(&*other, run.run_id).await;
    assert_eq!((after.last_accepted_seq, after.counters.accepted, after.revision), (Some(seq(149)), 150, 150));
    assert_eq!(database.count("run_event", "1 = 1").await, 150);
}

async fn two_servers_on_many_runs_apply_each_event_once(database: Database) {
    let other = database.another_server().await;
    let mut runs = Vec::new();
    for _ in 0..24 {
        runs.push(run(&*database.store).await);
    }
    // Each server writes all runs in one go, so their batches meet row by row.
    for round in 0..40 {
        let decisions = || runs.iter().map(|run| commit(run, vec![event(round, &format!("e-{round}"))]));
        let (ours, theirs) = join(
            join_all(decisions().map(|decision| database.store.commit(decision))),
            join_all(decisions().map(|decision| other.commit(decision))),
        )
        .await;
        for (run, both) in runs.iter_mut().zip(ours.into_iter().zip(theirs)) {
            let applied = CommitOutcome::Applied { quarantined: 0 };
            match (both.0.unwrap(), both.1.unwrap()) {
                (one, CommitOutcome::Conflict) | (CommitOutcome::Conflict, one) if one == applied => run.revision += 1,
                both => panic!("{both:?}"),
            }
        }
    }
    assert!(!database.had_deadlocks());
    for run in runs {
        let after = loaded(&*other, run.run_id).await;
        assert_eq!((after.counters.accepted, after.last_accepted_seq), (40, Some(seq(39))));
    }
    assert_eq!(database.count("run_event", "1 = 1").await, 24 * 40);
}

/// Starts, binds and changes runs of a few chats; whatever is not a lost race is a failure of the test.
async fn work(store: &dyn Store, name: &str) {
    for index in 0..12 {
        let chat_name = format!("chat-{}", index % 3);
        let new = new_run("t", &chat_name, &format!("{name}-{index}"));
        let run = match store.create_run(&new).await.unwrap() {
            CreateRunOutcome::Created { run, .. } => run,
            CreateRunOutcome::Known(_) => panic!("known"),
            CreateRunOutcome::Conflict => continue,
        };
        let status = RunChange { status: Some(RunStatus::Running), ..RunChange::default() };
        let both = async {
            let _ = store.commit(change(&run, status)).await.unwrap();
        };
        let bound = async {
            match store.bind_run_sandbox(run.run_id, &binding(), NOW).await.unwrap() {
                BindOutcome::NotFound => panic!("gone"),
                BindOutcome::Bound(_) | BindOutcome::NotActive(_) | BindOutcome::Conflict => {}
            }
        };
        join(both, bound).await;
    }
}

async fn starts_bindings_and_status_changes_never_wait_in_a_circle(database: Database) {
    let other = database.another_server().await;
    let work = [work(&*database.store, "a"), work(&*other, "b"), work(&*database.store, "c"), work(&*other, "d")];
    join_all(work).await;
    assert!(!database.had_deadlocks());
    for name in ["chat-0", "chat-1", "chat-2"] {
        let context = database.store.load_context(&thread("t"), &chat(name)).await.unwrap().unwrap();
        let run = loaded(&*database.store, context.active_run_id).await;
        assert_eq!((run.status, run.codesandbox_id), (context.active_status, context.active_codesandbox_id));
    }
    assert_eq!(database.count("thread_run", "status in ('booting', 'running', 'validating')").await, 3);
}

async fn one_body_quarantined_by_two_servers_leaves_one_row(database: Database) {
    let other = database.another_server().await;
    let run = run(&*database.store).await;
    let send = async |store: &dyn Store| {
        loop {
            let row = loaded(store, run.run_id).await;
            let rows = vec![quarantined(&run, QuarantineReason::Mismatch, 1, NOW)];
            if let CommitOutcome::Applied { quarantined } = store.commit(quarantine(&row, rows)).await.unwrap() {
                return quarantined;
            }
        }
    };
    let added = join_all([send(&*database.store), send(&*other), send(&*database.store)]).await;
    assert_eq!(added.iter().sum::<u32>(), 1);
    assert_eq!(loaded(&*other, run.run_id).await.counters.quarantined, 1);
    assert_eq!(database.count("daemon_event_quarantine", "1 = 1").await, 1);
}
