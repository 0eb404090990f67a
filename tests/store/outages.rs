//! A Postgres that hangs or goes away. Nothing is retried here, and nothing is known of a write that was cut off.

use std::time::Duration;

use futures_util::future::join_all;
use runwarden::store::postgres::PostgresStore;
use runwarden_actors::contract::RunStatus;
use runwarden_actors::ports::store::{CommitOutcome, RunChange, RunStore};
use runwarden_actors::ports::{Store, StoreError};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use crate::postgres_server;
use crate::sample::{change, commit, event, loaded, run};

async fn store(call_timeout: Duration) -> (String, PostgresStore) {
    let url = postgres_server::new_database().await;
    let store = PostgresStore::connect(&url, 4, call_timeout).await.unwrap();
    store.migrate().await.unwrap();
    (url, store)
}

#[tokio::test]
async fn a_call_that_hangs_ends_and_leaves_no_connection_behind() {
    let (url, store) = store(Duration::from_millis(500)).await;
    let run = run(&store).await;
    let mut operator = PgConnection::connect(&url).await.unwrap();
    let mut locked = operator.begin().await.unwrap();
    locked.execute("lock table thread_run_progress in access exclusive mode").await.unwrap();
    // More often than there are connections.
    for _ in 0..6 {
        // A write does not wait so long for a lock, and has written nothing.
        let outcome = store.commit(commit(&run, vec![event(0, "e-0")])).await.unwrap();
        assert_eq!(outcome, CommitOutcome::Conflict);
        let error = store.load_run(run.run_id).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    locked.rollback().await.unwrap();
    let now = loop {
        if let Ok(now) = store.load_run(run.run_id).await {
            break now.unwrap();
        }
    };
    assert_eq!(now.last_accepted_seq, None);
    let outcome = store.commit(commit(&now, vec![event(0, "e-0")])).await.unwrap();
    assert_eq!(outcome, CommitOutcome::Applied { quarantined: 0 });
}

#[tokio::test]
async fn runs_that_somebody_has_locked_do_not_hold_up_the_others() {
    let (url, store) = store(Duration::from_secs(20)).await;
    let free = run(&store).await;
    let mut busy = Vec::new();
    // More than there are writers.
    for _ in 0..3 {
        busy.push(run(&store).await);
    }
    let mut operator = PgConnection::connect(&url).await.unwrap();
    let mut locked = operator.begin().await.unwrap();
    sqlx::query("select 1 from thread_run_progress where run_id <> $1 for update")
        .bind(free.run_id.as_uuid())
        .execute(&mut *locked)
        .await
        .unwrap();
    let first = |run| store.commit(commit(run, vec![event(0, "e-0")]));
    let (blocked, written) = tokio::join!(join_all(busy.iter().map(first)), first(&free));
    assert_eq!(written.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    for outcome in blocked {
        assert_eq!(outcome.unwrap(), CommitOutcome::Conflict);
    }
    locked.rollback().await.unwrap();
    for run in &busy {
        assert_eq!(first(run).await.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    }
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced_and_nothing_is_applied_twice() {
    let (url, store) = store(Duration::from_secs(20)).await;
    let run = run(&store).await;
    let mut operator = PgConnection::connect(&url).await.unwrap();
    for round in 0..5 {
        operator
            .execute(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and pid <> pg_backend_pid()",
            )
            .await
            .unwrap();
        loop {
            let now = loop {
                match store.load_run(run.run_id).await {
                    Ok(now) => break now.unwrap(),
                    Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
                }
            };
            if now.last_accepted_seq.is_some_and(|seq| seq.get() == round) {
                break;
            }
            match store.commit(commit(&now, vec![event(round, &format!("e-{round}"))])).await {
                Ok(outcome) => assert_eq!(outcome, CommitOutcome::Applied { quarantined: 0 }),
                Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
            }
        }
    }
    let after = loaded(&store, run.run_id).await;
    assert_eq!((after.counters.accepted, after.revision), (5, 5));
    assert_eq!(store.events_after(run.run_id, None, 10, 1 << 20).await.unwrap().len(), 5);
}

#[tokio::test]
async fn closing_writes_what_is_under_way() {
    let (url, store) = store(Duration::from_secs(20)).await;
    let run = run(&store).await;
    let running = RunChange { status: Some(RunStatus::Running), ..RunChange::default() };
    let (outcome, ()) = futures_util::future::join(store.commit(change(&run, running)), store.close()).await;
    assert_eq!(outcome.unwrap(), CommitOutcome::Applied { quarantined: 0 });
    let again = PostgresStore::connect(&url, 3, Duration::from_secs(20)).await.unwrap();
    assert_eq!(loaded(&again, run.run_id).await.status, RunStatus::Running);
}
