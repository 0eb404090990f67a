//! Ending runs from outside their daemon.

use futures_util::future::join;
use runwarden_actors::contract::names::FAILURE_MISSING_END_SHA_TIMEOUT;
use runwarden_actors::contract::{DiffSource, RunStatus, TerminalKind, Timestamp};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{RunChange, RunRecord, SweepLimits, TerminalRecord};

use crate::harness::Database;
use crate::sample::{NOW, applied, change, loaded, run, sha};

on_both!(
    a_validating_run_is_finished_with_its_diff_source,
    a_run_whose_agent_failed_ends_failed,
    a_run_that_is_not_validating_is_left_alone,
    runs_that_wait_for_their_end_sha_or_are_silent_are_ended,
    a_sweep_is_bounded_and_two_of_them_end_each_run_once,
);

async fn validating(store: &dyn Store, kind: TerminalKind) -> RunRecord {
    let run = run(store).await;
    let terminal = TerminalRecord { event_id: "e-9".to_owned(), kind, end_sha: Some(sha('e')) };
    let to = RunChange { status: Some(RunStatus::Validating), terminal: Some(terminal), ..RunChange::default() };
    applied(store, change(&run, to)).await
}

async fn a_validating_run_is_finished_with_its_diff_source(database: Database) {
    let run = validating(&*database.store, TerminalKind::Stopped).await;
    let context = r#"{"reason":"head_differs"}"#;
    let at = NOW.plus_millis(90);
    database.store.finish_run(run.run_id, DiffSource::WorkingTreeFallback, context, at).await.unwrap();
    let after = loaded(&*database.store, run.run_id).await;
    assert_eq!((after.status, after.ended_at, after.revision), (RunStatus::Finished, Some(at), run.revision + 1));
    assert_eq!(after.diff_source, Some(DiffSource::WorkingTreeFallback));
    assert_eq!(after.diff_source_context.as_deref(), Some(context));
    let pointer = database.store.load_context(&run.thread_id, &run.thread_chat_id).await.unwrap().unwrap();
    assert_eq!((pointer.active_status, pointer.active_updated_at), (RunStatus::Finished, at));
    // The effect may be carried out twice.
    database.store.finish_run(run.run_id, DiffSource::Sha, "{}", at).await.unwrap();
    assert_eq!(loaded(&*database.store, run.run_id).await, after);
}

async fn a_run_whose_agent_failed_ends_failed(database: Database) {
    let run = validating(&*database.store, TerminalKind::Failed).await;
    database.store.finish_run(run.run_id, DiffSource::Sha, "{}", NOW).await.unwrap();
    assert_eq!(loaded(&*database.store, run.run_id).await.status, RunStatus::Failed);
}

async fn a_run_that_is_not_validating_is_left_alone(database: Database) {
    let run = run(&*database.store).await;
    database.store.finish_run(run.run_id, DiffSource::Sha, "{}", NOW).await.unwrap();
    assert_eq!(loaded(&*database.store, run.run_id).await, run);
}

fn limits(missing: i64, silent: i64, most: u32) -> SweepLimits {
    let at = |millis| -> Timestamp { NOW.plus_millis(millis) };
    SweepLimits { missing_end_sha_before: at(missing), silent_before: at(silent), most }
}

async fn runs_that_wait_for_their_end_sha_or_are_silent_are_ended(database: Database) {
    let store = &*database.store;
    let touched = |at: i64, to: RunChange| {
        move |run: &RunRecord| {
            let mut commit = change(run, to);
            commit.now = NOW.plus_millis(at);
            commit
        }
    };
    let missing = |at: i64| RunChange { missing_end_sha_at: Some(NOW.plus_millis(at)), ..RunChange::default() };
    let waiting = applied(store, touched(5000, missing(100))(&run(store).await)).await;
    let waiting_shorter = applied(store, touched(5000, missing(200))(&run(store).await)).await;
    let silent = applied(store, touched(299, RunChange::default())(&run(store).await)).await;
    let heard = applied(store, touched(300, RunChange::default())(&run(store).await)).await;
    let over = RunChange { status: Some(RunStatus::Finished), ended_at: Some(NOW), ..RunChange::default() };
    let ended_before = applied(store, touched(0, over)(&run(store).await)).await;

    let at = NOW.plus_millis(9000);
    let mut ended = store.sweep_stale_runs(limits(200, 300, 10), at).await.unwrap();
    ended.sort_by_key(|run| run.run_id);
    assert_eq!(ended.iter().map(|run| run.run_id).collect::<Vec<_>>(), [waiting.run_id, silent.run_id]);
    for run in &ended {
        assert_eq!((run.status, run.ended_at), (RunStatus::Failed, Some(at)));
        assert_eq!(run.failure_reason.as_deref(), Some(FAILURE_MISSING_END_SHA_TIMEOUT));
        assert_eq!(loaded(store, run.run_id).await, *run);
        let pointer = store.load_context(&run.thread_id, &run.thread_chat_id).await.unwrap().unwrap();
        assert_eq!(pointer.active_status, RunStatus::Failed);
    }
    assert_eq!(ended[0].revision, waiting.revision + 1);
    for kept in [waiting_shorter, heard, ended_before] {
        assert_eq!(loaded(store, kept.run_id).await, kept);
    }
}

async fn a_sweep_is_bounded_and_two_of_them_end_each_run_once(database: Database) {
    let other = database.another_server().await;
    for _ in 0..6 {
        run(&*database.store).await;
    }
    let at = NOW.plus_millis(9000);
    assert_eq!(database.store.sweep_stale_runs(limits(0, 5000, 2), at).await.unwrap().len(), 2);
    let (one, two) =
        join(database.store.sweep_stale_runs(limits(0, 5000, 10), at), other.sweep_stale_runs(limits(0, 5000, 10), at))
            .await;
    assert_eq!(one.unwrap().len() + two.unwrap().len(), 4);
    assert_eq!(database.count("thread_run", "status = 'failed'").await, 6);
    assert_eq!(database.count("thread_run_progress", "revision = 1").await, 6);
}
