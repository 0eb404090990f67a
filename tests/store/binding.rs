//! Binding a run to its sandbox, and what that does to open previews.

use runwarden_actors::contract::{CodesandboxId, RunId, RunStatus, SandboxProvider};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{BindOutcome, RunRecord, SandboxBinding};

use crate::harness::Database;
use crate::sample::{NOW, binding, chat, created, loaded, new_run, sha, thread, uuid};

on_both!(
    binding_writes_the_sandbox_to_both_rows,
    binding_again_the_same_changes_nothing,
    another_sandbox_may_take_over_but_not_from_another_start,
    only_the_active_run_can_be_bound,
    a_new_run_or_another_sandbox_closes_the_threads_open_previews,
);

async fn bind(store: &dyn Store, run: RunId, binding: &SandboxBinding) -> BindOutcome {
    store.bind_run_sandbox(run, binding, NOW.plus_millis(5)).await.unwrap()
}

async fn bound(store: &dyn Store, run: RunId, binding: &SandboxBinding) -> RunRecord {
    match bind(store, run, binding).await {
        BindOutcome::Bound(run) => *run,
        other => panic!("{other:?}"),
    }
}

async fn binding_writes_the_sandbox_to_both_rows(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let run_after = bound(&*database.store, run.run_id, &binding()).await;
    assert_eq!(run_after.status, RunStatus::Running);
    assert_eq!(run_after.codesandbox_id, Some(binding().codesandbox_id));
    assert_eq!(run_after.sandbox_provider, Some(SandboxProvider::Docker));
    assert_eq!(run_after.run_start_sha, Some(sha('a')));
    assert_eq!(run_after.repo_dir.as_deref(), Some("/srv/repo"));
    assert_eq!(run_after.revision, run.revision + 1);
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!(context.active_codesandbox_id, Some(binding().codesandbox_id));
    assert_eq!(context.active_sandbox_provider, Some(SandboxProvider::Docker));
    assert_eq!((context.active_status, context.version), (RunStatus::Running, 2));
    // A new run has no sandbox yet.
    created(&*database.store, &new_run("t", "c", "next")).await;
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!((context.active_codesandbox_id, context.active_sandbox_provider), (None, None));
}

async fn binding_again_the_same_changes_nothing(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let first = bound(&*database.store, run.run_id, &binding()).await;
    assert_eq!(bound(&*database.store, run.run_id, &binding()).await, first);
}

async fn another_sandbox_may_take_over_but_not_from_another_start(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    bound(&*database.store, run.run_id, &binding()).await;
    let moved = SandboxBinding { codesandbox_id: CodesandboxId::parse("box-2").unwrap(), ..binding() };
    let after = bound(&*database.store, run.run_id, &moved).await;
    assert_eq!(after.codesandbox_id, Some(moved.codesandbox_id));
    let elsewhere = SandboxBinding { run_start_sha: sha('b'), ..binding() };
    let BindOutcome::NotActive(kept) = bind(&*database.store, run.run_id, &elsewhere).await else {
        panic!("runStartSha was written twice");
    };
    assert_eq!(*kept, after);
}

async fn only_the_active_run_can_be_bound(database: Database) {
    let unknown = RunId::from_uuid(uuid());
    assert!(matches!(bind(&*database.store, unknown, &binding()).await, BindOutcome::NotFound));
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    created(&*database.store, &new_run("t", "c", "second")).await;
    assert!(matches!(bind(&*database.store, first.run_id, &binding()).await, BindOutcome::NotActive(_)));
    assert_eq!(loaded(&*database.store, first.run_id).await.codesandbox_id, None);
}

async fn a_new_run_or_another_sandbox_closes_the_threads_open_previews(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let other = created(&*database.store, &new_run("other", "c", "r")).await;
    let open = async |run: &RunRecord, state: &str| {
        let sql = format!(
            "insert into preview_session (preview_session_id, thread_id, thread_chat_id, run_id, user_id, \
             codesandbox_id, sandbox_provider, repo_full_name, open_mode, state, expires_at, created_at, updated_at) \
             values ({}, '{}', 'c', {}, 'u', 'box', 'docker', 'a/b', 'iframe', '{state}', {now}, {now}, {now})",
            database.id(RunId::from_uuid(uuid())),
            run.thread_id,
            database.id(run.run_id),
            now = database.instant(NOW.as_millis()),
        );
        assert_eq!(database.raw(&sql).await, Ok(1));
    };
    for state in ["pending", "initializing", "ready", "expired"] {
        open(&run, state).await;
    }
    open(&other, "ready").await;
    assert!(database.store.has_open_preview(&thread("t")).await.unwrap());

    bound(&*database.store, run.run_id, &binding()).await;
    assert!(!database.store.has_open_preview(&thread("t")).await.unwrap());
    assert!(database.store.has_open_preview(&thread("other")).await.unwrap());
    let revoked = "state = 'revoked' and revocation_version = 1 and revoked_at is not null";
    assert_eq!(database.count("preview_session", revoked).await, 1);
    let failed = "state = 'error' and revocation_version = 1 and error_code = 'superseded'";
    assert_eq!(database.count("preview_session", failed).await, 2);
    assert_eq!(database.count("preview_session", "state = 'expired' and revocation_version = 0").await, 1);

    open(&run, "ready").await;
    // The very same binding again is no change, so nothing is revoked.
    bound(&*database.store, run.run_id, &binding()).await;
    assert!(database.store.has_open_preview(&thread("t")).await.unwrap());
    created(&*database.store, &new_run("t", "another chat", "r")).await;
    assert!(!database.store.has_open_preview(&thread("t")).await.unwrap());
}
