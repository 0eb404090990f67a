//! Committing decisions.

use futures_util::future::join_all;
use runwarden_actors::contract::{EventId, QuarantineReason, RunId, RunStatus, TerminalKind};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{
    CommitOutcome, CommittedEffect, RunChange, RunCommit, RunCounters, TerminalRecord,
};
use runwarden_actors::run::effect::Effect;

use crate::harness::Database;
use crate::sample::{
    NOW, applied, change, chat, commit, created, event, loaded, new_run, quarantined, run, seq, sha, thread, uuid,
};

on_both!(
    a_commit_writes_all_its_parts,
    a_stale_revision_is_a_conflict_and_writes_nothing,
    a_known_event_id_is_a_conflict_and_writes_nothing,
    a_known_event_id_stops_nobody_else,
    a_seq_that_is_not_above_the_last_is_a_conflict,
    two_runs_may_use_the_same_event_id,
    an_unknown_run_is_a_conflict,
    many_runs_share_a_write_each_with_its_own_outcome,
    two_commits_of_one_run_at_once_are_written_one_after_the_other,
    a_poisoned_commit_fails_alone,
    a_payload_that_is_not_text_fails_alone,
    the_terminal_event_is_written_once,
    a_terminal_event_clears_the_missing_end_sha,
    first_facts_of_a_run_stay,
    a_status_moves_with_the_pointer_that_names_the_run,
    the_hash_of_the_last_body_is_kept_for_version_one,
);

async fn a_commit_writes_all_its_parts(database: Database) {
    let run = run(&*database.store).await;
    let mut decision = commit(&run, vec![event(0, "e-0"), event(3, "e-3")]);
    decision.change = RunChange {
        status: Some(RunStatus::Running),
        daemon_payload_version: Some(2),
        started_at: Some(NOW.plus_millis(7)),
        ..decision.change
    };
    decision.counters = RunCounters { accepted: 2, duplicate: 3, out_of_order: 4, quarantined: 99, gaps: 1 };
    decision.quarantine = vec![quarantined(&run, QuarantineReason::LateGap, 1, NOW)];
    let promised = CommittedEffect { id: uuid(), run_id: run.run_id, effect: Effect::ClassifyLegacy };
    decision.effects = vec![promised.clone()];
    assert_eq!(database.store.commit(decision).await.unwrap(), CommitOutcome::Applied { quarantined: 1 });

    let after = loaded(&*database.store, run.run_id).await;
    assert_eq!(after.revision, run.revision + 1);
    assert_eq!(after.last_accepted_seq, Some(seq(3)));
    assert_eq!((after.status, after.daemon_payload_version), (RunStatus::Running, Some(2)));
    assert_eq!((after.started_at, after.updated_at), (Some(NOW.plus_millis(7)), NOW.plus_millis(1)));
    // The store counts quarantine rows itself.
    let counters = RunCounters { accepted: 2, duplicate: 3, out_of_order: 4, quarantined: 1, gaps: 1 };
    assert_eq!(after.counters, counters);
    let events = database.store.events_after(run.run_id, None, 10, 1 << 20).await.unwrap();
    assert_eq!(events.len(), 2);
    let sent = event(3, "e-3");
    assert_eq!(events[1].payload, sent.payload);
    assert_eq!((events[1].seq, &events[1].event_id), (sent.seq, &sent.event_id));
    assert_eq!(events[1].received_at, sent.received_at);
    let due = database.store.take_due_effects(NOW.plus_millis(1), 1000, 10).await.unwrap();
    assert_eq!(due.iter().map(|due| &due.effect).collect::<Vec<_>>(), [&promised]);
}

async fn a_stale_revision_is_a_conflict_and_writes_nothing(database: Database) {
    let run = run(&*database.store).await;
    let after = applied(&*database.store, commit(&run, vec![event(0, "e-0")])).await;
    let mut stale = commit(&run, vec![event(1, "e-1")]);
    stale.quarantine = vec![quarantined(&run, QuarantineReason::LateGap, 1, NOW)];
    stale.effects = vec![CommittedEffect { id: uuid(), run_id: run.run_id, effect: Effect::ClassifyLegacy }];
    stale.change.status = Some(RunStatus::Running);
    assert_eq!(database.store.commit(stale).await.unwrap(), CommitOutcome::Conflict);
    assert_eq!(loaded(&*database.store, run.run_id).await, after);
    for table in ["daemon_event_quarantine", "run_effect"] {
        assert_eq!(database.count(table, "1 = 1").await, 0, "{table}");
    }
    assert_eq!(database.count("run_event", "1 = 1").await, 1);
    let context = database.store.load_context(&run.thread_id, &run.thread_chat_id).await.unwrap().unwrap();
    assert_eq!(context.active_status, RunStatus::Booting);
}

async fn a_known_event_id_is_a_conflict_and_writes_nothing(database: Database) {
    let run = run(&*database.store).await;
    let after = applied(&*database.store, commit(&run, vec![event(0, "e-0"), event(1, "e-1")])).await;
    let again = commit(&after, vec![event(2, "e-2"), event(3, "e-1")]);
    assert_eq!(database.store.commit(again).await.unwrap(), CommitOutcome::Conflict);
    assert_eq!(loaded(&*database.store, run.run_id).await, after);
    assert_eq!(database.count("run_event", "1 = 1").await, 2);
}

async fn a_known_event_id_stops_nobody_else(database: Database) {
    let mut commits = Vec::new();
    for index in 0..20 {
        let run = run(&*database.store).await;
        let after = applied(&*database.store, commit(&run, vec![event(0, "e-0")])).await;
        let id = if index % 5 == 2 { "e-0" } else { "e-1" };
        let mut decision = commit(&after, vec![event(1, id), event(2, "e-2")]);
        decision.expected_revision += i64::from(index % 5 == 4);
        commits.push(decision);
    }
    let outcomes = join_all(commits.into_iter().map(|commit| database.store.commit(commit))).await;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let expected = match index % 5 {
            2 | 4 => CommitOutcome::Conflict,
            _ => CommitOutcome::Applied { quarantined: 0 },
        };
        assert_eq!(outcome.unwrap(), expected, "{index}");
    }
    assert_eq!(database.count("run_event", "1 = 1").await, 20 + 2 * 12);
    assert_eq!(database.count("thread_run_progress", "last_accepted_seq = 2").await, 12);
}

async fn a_seq_that_is_not_above_the_last_is_a_conflict(database: Database) {
    let run = run(&*database.store).await;
    let after = applied(&*database.store, commit(&run, vec![event(5, "e-5")])).await;
    for at in [5, 4, 0] {
        let late = commit(&after, vec![event(at, &format!("late-{at}"))]);
        assert_eq!(database.store.commit(late).await.unwrap(), CommitOutcome::Conflict, "{at}");
    }
    assert_eq!(loaded(&*database.store, run.run_id).await, after);
    let next = applied(&*database.store, commit(&after, vec![event(6, "e-6")])).await;
    assert_eq!(next.last_accepted_seq, Some(seq(6)));
}

async fn two_runs_may_use_the_same_event_id(database: Database) {
    let (one, other) = (run(&*database.store).await, run(&*database.store).await);
    applied(&*database.store, commit(&one, vec![event(0, "same")])).await;
    applied(&*database.store, commit(&other, vec![event(0, "same")])).await;
    assert_eq!(database.count("run_event", "event_id = 'same'").await, 2);
}

async fn an_unknown_run_is_a_conflict(database: Database) {
    let mut nobody = run(&*database.store).await;
    nobody.run_id = RunId::from_uuid(uuid());
    let outcome = database.store.commit(commit(&nobody, vec![event(0, "e-0")])).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Conflict);
    assert_eq!(database.count("run_event", "1 = 1").await, 0);
}

async fn many_runs_share_a_write_each_with_its_own_outcome(database: Database) {
    let mut commits = Vec::new();
    for index in 0..60 {
        let run = run(&*database.store).await;
        let mut decision = commit(&run, vec![event(0, "e-0"), event(1, "e-1")]);
        match index % 3 {
            0 => {}
            1 => decision.expected_revision += 1,
            _ => decision.quarantine = vec![quarantined(&run, QuarantineReason::Mismatch, 1, NOW)],
        }
        commits.push(decision);
    }
    let outcomes = join_all(commits.into_iter().map(|commit| database.store.commit(commit))).await;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let expected = match index % 3 {
            0 => CommitOutcome::Applied { quarantined: 0 },
            1 => CommitOutcome::Conflict,
            _ => CommitOutcome::Applied { quarantined: 1 },
        };
        assert_eq!(outcome.unwrap(), expected, "{index}");
    }
    assert_eq!(database.count("run_event", "1 = 1").await, 80);
    assert_eq!(database.count("thread_run_progress", "quarantined_count = 1").await, 20);
}

async fn two_commits_of_one_run_at_once_are_written_one_after_the_other(database: Database) {
    let run = run(&*database.store).await;
    let commits = (0..20).map(|index| {
        let mut decision = commit(&run, vec![event(index, &format!("e-{index}"))]);
        decision.expected_revision += index;
        database.store.commit(decision)
    });
    for outcome in join_all(commits).await {
        assert_eq!(outcome.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    }
    let after = loaded(&*database.store, run.run_id).await;
    assert_eq!((after.last_accepted_seq, after.counters.accepted), (Some(seq(19)), 20));
}

/// Sends the poisoned commit together with good ones, and says what came of it.
async fn among_good_ones(database: &Database, poisoned: RunCommit) -> StoreError {
    let mut commits = Vec::new();
    for _ in 0..20 {
        commits.push(commit(&run(&*database.store).await, vec![event(0, "e-0")]));
    }
    commits.insert(9, poisoned);
    let mut outcomes = join_all(commits.into_iter().map(|commit| database.store.commit(commit))).await;
    let error = outcomes.remove(9).unwrap_err();
    for outcome in outcomes {
        assert_eq!(outcome.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    }
    assert_eq!(database.count("run_event", "1 = 1").await, 20);
    error
}

async fn a_poisoned_commit_fails_alone(database: Database) {
    let victim = run(&*database.store).await;
    let mut poisoned = commit(&victim, vec![event(1, "e-1"), event(1, "e-2")]);
    poisoned.change.status = Some(RunStatus::Running);
    let error = among_good_ones(&database, poisoned).await;
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert_eq!(loaded(&*database.store, victim.run_id).await, victim);
}

async fn a_payload_that_is_not_text_fails_alone(database: Database) {
    let victim = run(&*database.store).await;
    let mut broken = event(0, "e-0");
    broken.payload = vec![b'"', 0xff, b'"'].into();
    let error = among_good_ones(&database, commit(&victim, vec![broken])).await;
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert_eq!(loaded(&*database.store, victim.run_id).await, victim);
}

fn terminal(event_id: &str, kind: TerminalKind) -> RunChange {
    RunChange {
        status: Some(RunStatus::Validating),
        terminal: Some(TerminalRecord { event_id: event_id.to_owned(), kind, end_sha: Some(sha('e')) }),
        ..RunChange::default()
    }
}

async fn the_terminal_event_is_written_once(database: Database) {
    let run = run(&*database.store).await;
    let after = applied(&*database.store, change(&run, terminal("e-9", TerminalKind::Done))).await;
    assert_eq!(after.terminal_event_id.as_deref(), Some("e-9"));
    assert_eq!((after.terminal_kind, after.run_end_sha.clone()), (Some(TerminalKind::Done), Some(sha('e'))));
    for (event_id, kind) in [("e-10", TerminalKind::Done), ("e-9", TerminalKind::Failed)] {
        let error = database.store.commit(change(&after, terminal(event_id, kind))).await.unwrap_err();
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    }
    assert_eq!(loaded(&*database.store, run.run_id).await, after);
}

async fn a_terminal_event_clears_the_missing_end_sha(database: Database) {
    let run = run(&*database.store).await;
    let missing = RunChange { missing_end_sha_at: Some(NOW), ..RunChange::default() };
    let after = applied(&*database.store, change(&run, missing)).await;
    assert_eq!(after.missing_end_sha_at, Some(NOW));
    let after = applied(&*database.store, commit(&after, vec![event(0, "e-0")])).await;
    assert_eq!(after.missing_end_sha_at, Some(NOW));
    let after = applied(&*database.store, change(&after, terminal("e-9", TerminalKind::Stopped))).await;
    assert_eq!(after.missing_end_sha_at, None);
}

async fn first_facts_of_a_run_stay(database: Database) {
    let run = run(&*database.store).await;
    let first = |at| RunChange { started_at: Some(NOW.plus_millis(at)), ..RunChange::default() };
    let after = applied(&*database.store, change(&run, first(1))).await;
    let after = applied(&*database.store, change(&after, first(2))).await;
    assert_eq!(after.started_at, Some(NOW.plus_millis(1)));
    let version = |version| RunChange { daemon_payload_version: Some(version), ..RunChange::default() };
    let after = applied(&*database.store, change(&after, version(1))).await;
    let error = database.store.commit(change(&after, version(2))).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert_eq!(loaded(&*database.store, run.run_id).await.daemon_payload_version, Some(1));
}

async fn a_status_moves_with_the_pointer_that_names_the_run(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let running = || RunChange { status: Some(RunStatus::Running), ..RunChange::default() };
    applied(&*database.store, change(&first, running())).await;
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!(context.active_status, RunStatus::Running);

    let second = created(&*database.store, &new_run("t", "c", "second")).await;
    let first = loaded(&*database.store, first.run_id).await;
    applied(&*database.store, change(&first, RunChange { status: Some(RunStatus::Finished), ..RunChange::default() }))
        .await;
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!((context.active_run_id, context.active_status), (second.run_id, RunStatus::Booting));
}

async fn the_hash_of_the_last_body_is_kept_for_version_one(database: Database) {
    let run = run(&*database.store).await;
    let mut old = event(0, "unused");
    (old.event_id, old.payload_hash) = (None, Some([7; 32]));
    let after = applied(&*database.store, commit(&run, vec![old])).await;
    assert_eq!(after.last_payload_hash, Some([7; 32]));
    let after = applied(&*database.store, commit(&after, vec![event(1, "e-1")])).await;
    assert_eq!(after.last_payload_hash, None);
    let stored = database.store.events_after(run.run_id, None, 10, 1 << 20).await.unwrap();
    assert_eq!(stored[0].event_id, None);
    assert_eq!(stored[1].event_id, Some(EventId::parse("e-1").unwrap()));
}
