//! Starting runs and moving the pointer.

use futures_util::future::join_all;
use runwarden_actors::contract::{FeatureFlag, FlagScope, RunStatus};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{CreateRunOutcome, NewRun, RunChange, RunRecord};

use crate::harness::Database;
use crate::sample::{NOW, change, chat, created, loaded, new_run, thread};

on_both!(
    a_new_run_is_what_was_asked_for,
    a_known_start_request_returns_its_run_and_writes_nothing,
    the_same_start_request_at_once_makes_one_run,
    twenty_starts_at_once_leave_one_active_run,
    two_chats_of_a_thread_do_not_collide,
    a_new_run_ends_the_active_one_and_history_stays,
    a_new_run_is_noticed_by_the_actor_of_an_ended_one,
    a_second_active_run_is_refused_by_the_database,
    a_frozen_snapshot_survives_later_flag_changes,
    runs_survive_a_restart,
    an_unknown_run_or_chat_is_none,
);

/// One start, repeated while somebody else is faster.
async fn start(store: &dyn Store, new: &NewRun) -> (RunRecord, bool) {
    for _ in 0..100 {
        match store.create_run(new).await.unwrap() {
            CreateRunOutcome::Created { run, .. } => return (*run, true),
            CreateRunOutcome::Known(run) => return (*run, false),
            CreateRunOutcome::Conflict => tokio::task::yield_now().await,
        }
    }
    panic!("never came through");
}

async fn a_new_run_is_what_was_asked_for(database: Database) {
    let new = new_run("t", "c", "r");
    let run = created(&*database.store, &new).await;
    assert_eq!(run.run_id, new.run_id);
    assert_eq!(run.status, RunStatus::Booting);
    assert_eq!(run.trigger_source, new.trigger_source);
    assert_eq!(run.frozen_flag_snapshot, new.frozen_flag_snapshot);
    assert_eq!(run.preview_config, new.preview_config);
    assert_eq!((run.created_at, run.updated_at, run.revision), (NOW, NOW, 0));
    assert_eq!(run.active_run_id, Some(run.run_id));
    assert_eq!(loaded(&*database.store, run.run_id).await, run);
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!((context.active_run_id, context.active_status), (run.run_id, RunStatus::Booting));
}

async fn a_known_start_request_returns_its_run_and_writes_nothing(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let second = created(&*database.store, &new_run("t", "c", "second")).await;
    let before = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    let CreateRunOutcome::Known(known) = database.store.create_run(&new_run("t", "c", "first")).await.unwrap() else {
        panic!("a second run for one request");
    };
    assert_eq!(known.run_id, first.run_id);
    let after = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!(after, before);
    assert_eq!(after.active_run_id, second.run_id);
    assert_eq!(database.count("thread_run", "1 = 1").await, 2);
}

async fn the_same_start_request_at_once_makes_one_run(database: Database) {
    let other = database.another_server().await;
    let runs = join_all((0..20).map(|index| {
        let store = if index % 2 == 0 { &database.store } else { &other };
        async move { start(&**store, &new_run("t", "c", "same")).await }
    }))
    .await;
    assert!(runs.iter().all(|(run, _)| run.run_id == runs[0].0.run_id));
    assert_eq!(runs.iter().filter(|(_, new)| *new).count(), 1);
    assert_eq!(database.count("thread_run", "1 = 1").await, 1);
}

async fn twenty_starts_at_once_leave_one_active_run(database: Database) {
    let other = database.another_server().await;
    let runs = join_all((0..20).map(|index| {
        let store = if index % 2 == 0 { &database.store } else { &other };
        async move { start(&**store, &new_run("t", "c", &format!("request-{index}"))).await }
    }))
    .await;
    assert!(runs.iter().all(|(_, new)| *new));
    assert_eq!(database.count("thread_run", "1 = 1").await, 20);
    assert_eq!(database.count("thread_run", "status in ('booting', 'running', 'validating')").await, 1);
    assert_eq!(database.count("thread_run", "status = 'finished' and ended_at is not null").await, 19);
    let context = database.store.load_context(&thread("t"), &chat("c")).await.unwrap().unwrap();
    assert_eq!(context.version, 20);
    assert!(loaded(&*database.store, context.active_run_id).await.status.is_active());
}

async fn two_chats_of_a_thread_do_not_collide(database: Database) {
    let names: Vec<String> = (0..8).map(|index| format!("chat-{index}")).collect();
    let runs = join_all(names.iter().map(|name| {
        let store = &database.store;
        // The same request in another chat is another request.
        async move { start(&**store, &new_run("t", name, "request")).await.0 }
    }))
    .await;
    for (name, run) in names.iter().zip(&runs) {
        let context = database.store.load_context(&thread("t"), &chat(name)).await.unwrap().unwrap();
        assert_eq!(context.active_run_id, run.run_id);
        assert_eq!(loaded(&*database.store, run.run_id).await.status, RunStatus::Booting);
    }
}

async fn a_new_run_ends_the_active_one_and_history_stays(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let mut new = new_run("t", "c", "second");
    new.now = NOW.plus_millis(500);
    let CreateRunOutcome::Created { run, superseded } = database.store.create_run(&new).await.unwrap() else {
        panic!("not created");
    };
    assert_eq!(superseded, Some(first.run_id));
    let ended = loaded(&*database.store, first.run_id).await;
    assert_eq!((ended.status, ended.ended_at), (RunStatus::Finished, Some(NOW.plus_millis(500))));
    assert_eq!(ended.revision, first.revision + 1);
    assert_eq!(ended.active_run_id, Some(run.run_id));
    let unchanged = RunRecord {
        status: first.status,
        ended_at: first.ended_at,
        revision: first.revision,
        updated_at: first.updated_at,
        active_run_id: first.active_run_id,
        ..ended
    };
    assert_eq!(unchanged, first);
}

async fn a_new_run_is_noticed_by_the_actor_of_an_ended_one(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let failed = RunChange { status: Some(RunStatus::Failed), ended_at: Some(NOW), ..RunChange::default() };
    let ended = crate::sample::applied(&*database.store, change(&first, failed)).await;
    created(&*database.store, &new_run("t", "c", "second")).await;
    let after = loaded(&*database.store, first.run_id).await;
    assert_eq!((after.status, after.ended_at), (RunStatus::Failed, Some(NOW)));
    assert_eq!(after.revision, ended.revision + 1);
}

async fn a_second_active_run_is_refused_by_the_database(database: Database) {
    let first = created(&*database.store, &new_run("t", "c", "first")).await;
    let copy = |status: &str| {
        format!(
            "insert into thread_run (run_id, thread_id, thread_chat_id, start_request_id, trigger_source, user_id, \
             repo_full_name, status, frozen_flag_snapshot, created_at) \
             select {}, thread_id, thread_chat_id, 'other', trigger_source, user_id, repo_full_name, '{status}', \
             frozen_flag_snapshot, created_at from thread_run where run_id = {}",
            database.id(runwarden_actors::contract::RunId::from_uuid(crate::sample::uuid())),
            database.id(first.run_id),
        )
    };
    for status in ["booting", "running", "validating"] {
        let error = database.raw(&copy(status)).await.unwrap_err().to_lowercase();
        assert!(error.contains("unique"), "{error}");
    }
    assert_eq!(database.raw(&copy("finished")).await, Ok(1));
}

async fn a_frozen_snapshot_survives_later_flag_changes(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    for scope in [FlagScope::Default, FlagScope::User(run.user_id.clone()), FlagScope::Repo(run.repo_full_name.clone())]
    {
        for flag in FeatureFlag::ALL {
            database.store.set_flag_override(*flag, &scope, true, NOW).await.unwrap();
        }
    }
    let after = loaded(&*database.store, run.run_id).await;
    assert_eq!(after.frozen_flag_snapshot, run.frozen_flag_snapshot);
    assert!(!after.frozen_flag_snapshot.daemon_run_id_strict);
}

async fn runs_survive_a_restart(database: Database) {
    let run = created(&*database.store, &new_run("t", "c", "r")).await;
    let run = crate::sample::applied(
        &*database.store,
        crate::sample::commit(&run, vec![crate::sample::event(0, "e-0"), crate::sample::event(1, "e-1")]),
    )
    .await;
    database.store.close().await;
    assert!(database.store.load_run(run.run_id).await.is_err());
    assert!(database.store.commit(crate::sample::commit(&run, Vec::new())).await.is_err());
    let again = database.another_server().await;
    assert_eq!(loaded(&*again, run.run_id).await, run);
    assert_eq!(again.events_after(run.run_id, None, 10, 1 << 20).await.unwrap().len(), 2);
}

async fn an_unknown_run_or_chat_is_none(database: Database) {
    let unknown = runwarden_actors::contract::RunId::from_uuid(crate::sample::uuid());
    assert!(database.store.load_run(unknown).await.unwrap().is_none());
    assert!(database.store.load_context(&thread("t"), &chat("c")).await.unwrap().is_none());
    assert!(database.store.load_ui_validation(&thread("t"), &chat("c")).await.unwrap().is_none());
    assert!(database.store.events_after(unknown, None, 10, 10).await.unwrap().is_empty());
}
