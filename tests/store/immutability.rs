//! What the database itself refuses, whoever asks.

use runwarden_actors::contract::{RunId, RunStatus};
use runwarden_actors::ports::store::RunChange;

use crate::harness::Database;
use crate::sample::{NOW, applied, change, created, loaded, new_run, uuid};

on_both!(
    identity_snapshot_and_trigger_never_change,
    facts_are_written_once,
    an_ended_run_stays_ended,
    what_no_row_may_hold_is_refused,
    a_finished_validation_attempt_never_changes,
    writing_the_same_again_is_no_change,
);

async fn refused(database: &Database, set: &str, why: &str) {
    let error = database.raw(&format!("update thread_run set {set}")).await.unwrap_err();
    assert!(error.contains(why), "{set}: {error}");
}

async fn identity_snapshot_and_trigger_never_change(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let other_id = format!("run_id = {}", database.id(RunId::from_uuid(uuid())));
    let earlier = format!("created_at = {}", database.instant(0));
    for set in [
        other_id.as_str(),
        "thread_id = 'x'",
        "thread_chat_id = 'x'",
        "start_request_id = 'x'",
        "trigger_source = 'system'",
        "user_id = 'x'",
        "repo_full_name = 'x/y'",
        "frozen_flag_snapshot = '{}'",
        "preview_config = null",
        &earlier,
    ] {
        refused(&database, set, "never change").await;
    }
    assert_eq!(loaded(&*database.store, run.run_id).await, run);
}

async fn what_no_row_may_hold_is_refused(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    for set in [
        "status = 'asleep'",
        "sandbox_provider = 'vm', codesandbox_id = 'x'",
        "sandbox_provider = 'docker'",
        "codesandbox_id = 'x'",
        "terminal_kind = 'gone', terminal_event_id = 'e'",
        "terminal_kind = 'done'",
        "terminal_event_id = 'e'",
        "diff_source = 'guess'",
        "daemon_payload_version = 3",
    ] {
        let refused = database.raw(&format!("update thread_run set {set}")).await;
        assert!(refused.is_err(), "{set}");
    }
    for set in ["last_accepted_seq = -1", "last_accepted_seq = 9007199254740992"] {
        let refused = database.raw(&format!("update thread_run_progress set {set}")).await;
        assert!(refused.is_err(), "{set}");
    }
    assert_eq!(loaded(&*database.store, run.run_id).await, run);
}

async fn facts_are_written_once(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    for (column, first, second) in
        [("run_start_sha", "'a'", "'b'"), ("run_end_sha", "'a'", "'b'"), ("daemon_payload_version", "1", "2")]
    {
        assert_eq!(database.raw(&format!("update thread_run set {column} = {first}")).await, Ok(1), "{column}");
        refused(&database, &format!("{column} = {second}"), "written once").await;
        refused(&database, &format!("{column} = null"), "written once").await;
    }
    let first = "update thread_run set terminal_event_id = 'e-1', terminal_kind = 'done'";
    assert_eq!(database.raw(first).await, Ok(1));
    refused(&database, "terminal_event_id = 'e-2'", "written once").await;
    refused(&database, "terminal_kind = 'failed'", "written once").await;
    refused(&database, "terminal_event_id = null, terminal_kind = null", "written once").await;
    let kept = database.store.load_run(run.run_id).await;
    // 'a' is no commit: the row tells so instead of being handed on.
    assert!(matches!(kept, Err(runwarden_actors::ports::StoreError::Corrupt(_))), "{kept:?}");
}

async fn an_ended_run_stays_ended(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let over = RunChange { status: Some(RunStatus::Finished), ended_at: Some(NOW), ..RunChange::default() };
    applied(&*database.store, change(&run, over)).await;
    for status in ["booting", "running", "validating", "failed"] {
        refused(&database, &format!("status = '{status}'"), "stays ended").await;
    }
}

async fn a_finished_validation_attempt_never_changes(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let sql = format!(
        "insert into preview_validation_attempt (thread_id, thread_chat_id, run_id, attempt_number, status, \
         created_at, updated_at) values ('t', 'c', {}, 1, 'running', {now}, {now})",
        database.id(run.run_id),
        now = database.instant(NOW.as_millis()),
    );
    assert_eq!(database.raw(&sql).await, Ok(1));
    assert!(database.raw(&sql.replace(", 1, 'running'", ", 4, 'running'")).await.is_err());
    assert_eq!(database.raw("update preview_validation_attempt set status = 'failed', exit_code = 1").await, Ok(1));
    for set in ["status = 'passed'", "exit_code = 0", "trace_bytes = 1"] {
        let error = database.raw(&format!("update preview_validation_attempt set {set}")).await.unwrap_err();
        assert!(error.contains("never changes"), "{error}");
    }
}

async fn writing_the_same_again_is_no_change(database: Database) {
    created(&*database.store, &new_run("t", "c", "r")).await;
    let same = "update thread_run set thread_id = thread_id, frozen_flag_snapshot = frozen_flag_snapshot, \
                run_start_sha = run_start_sha, status = status";
    assert_eq!(database.raw(same).await, Ok(1));
}
