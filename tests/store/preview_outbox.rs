//! Closed previews on their way from the database to everybody: the outbox and the sweep.

use std::sync::Arc;
use std::time::Duration;

use runwarden_actors::contract::{CodesandboxId, PreviewSessionState, TriggerSource};
use runwarden_actors::ports::store::{PreviewSession, SandboxBinding};
use runwarden_actors::ports::{Clock as _, PreviewGate as _};
use runwarden_actors::run::{
    Deps, StartRun, SweepOptions, bind_run_sandbox, carry_out_due, create_run_context, run_effects, sweep_once,
};
use runwarden_actors::testing::{FakeSandbox, MemoryEvidence, RecordingObserver, TestClock, TestCoordination, TestIds};
use tokio::sync::watch;

use crate::harness::Database;
use crate::preview_sample::{bound, session_in};
use crate::sample::{NOW, binding, new_run};

on_both!(
    the_outbox_announces_what_a_new_run_closed,
    a_binding_and_a_new_run_wake_the_outbox,
    the_sweep_ends_sessions_whose_life_is_over,
);

struct House {
    deps: Deps,
    clock: Arc<TestClock>,
    coordination: Arc<TestCoordination>,
    observer: Arc<RecordingObserver>,
}

impl House {
    fn of(database: &Database) -> Self {
        let clock = Arc::new(TestClock::default());
        clock.advance_ms(NOW.millis_since(clock.now()));
        let coordination = Arc::new(TestCoordination::default());
        let observer = Arc::new(RecordingObserver::default());
        let deps = Deps::new(
            Arc::clone(&database.store),
            Arc::clone(&coordination) as _,
            Arc::new(MemoryEvidence::default()),
            Arc::new(FakeSandbox::default()),
            Arc::clone(&clock) as _,
            Arc::new(TestIds::default()),
            Arc::clone(&observer) as _,
        );
        Self { deps, clock, coordination, observer }
    }

    async fn version(&self, session: &PreviewSession) -> Option<i64> {
        self.coordination.revocations(&[session.id]).await.unwrap()[0]
    }

    async fn start(&self, thread: &str, request: &str) {
        let new = new_run(thread, "c", request);
        let start = StartRun {
            thread_id: new.thread_id,
            thread_chat_id: new.thread_chat_id,
            start_request_id: new.start_request_id,
            trigger_source: TriggerSource::Ui,
            user_id: new.user_id,
            repo_full_name: new.repo_full_name,
            preview_config: None,
        };
        create_run_context(&self.deps, &start, new.frozen_flag_snapshot.rollout_phase).await.unwrap();
    }
}

async fn the_outbox_announces_what_a_new_run_closed(database: Database) {
    let house = House::of(&database);
    let run = bound(&*database.store, "t", "c").await;
    let ready = session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    let pending = session_in(&*database.store, &run, PreviewSessionState::Pending).await;
    house.start("t", "next").await;
    assert_eq!(house.version(&ready).await, None);
    assert_eq!(carry_out_due(&house.deps).await.unwrap(), 1);
    assert_eq!((house.version(&ready).await, house.version(&pending).await), (Some(1), Some(1)));
    // One event for each step: `pending` fails by way of `initializing`.
    for (state, times) in [("revoked", 1), ("initializing", 1), ("error", 1)] {
        assert_eq!(house.observer.count(&format!("preview:{state}")), times, "{state}");
    }
    assert_eq!(carry_out_due(&house.deps).await.unwrap(), 0);
    assert_eq!(database.count("run_effect", "1 = 1").await, 0);
}

async fn a_binding_and_a_new_run_wake_the_outbox(database: Database) {
    let house = House::of(&database);
    let (shutdown, shutting_down) = watch::channel(false);
    let outbox = tokio::spawn(run_effects(house.deps.clone(), shutting_down));
    // It has looked once, and would look by itself in some seconds only.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let run = bound(&*database.store, "t", "c").await;
    let announced = async |session: &PreviewSession| {
        let wait = async {
            while house.version(session).await.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(3), wait).await.is_ok(), "nobody woke the outbox");
    };
    let first = session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    let moved = SandboxBinding { codesandbox_id: CodesandboxId::parse("box-2").unwrap(), ..binding() };
    bind_run_sandbox(&house.deps, run.run_id, &moved).await.unwrap();
    announced(&first).await;
    let second = session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    house.start("t", "next").await;
    announced(&second).await;
    shutdown.send(true).unwrap();
    outbox.await.unwrap();
}

async fn the_sweep_ends_sessions_whose_life_is_over(database: Database) {
    let house = House::of(&database);
    let run = bound(&*database.store, "t", "c").await;
    let ready = session_in(&*database.store, &run, PreviewSessionState::Ready).await;
    let sweep = async |holder| sweep_once(&house.deps, SweepOptions::default(), holder).await.unwrap();
    assert_eq!(sweep("one").await.ended_previews, 0);
    house.clock.advance_ms(ready.expires_at.millis_since(NOW));
    let other = sweep("another node").await;
    assert!(other.not_leader && other.ended_previews == 0);
    assert_eq!(sweep("one").await.ended_previews, 1);
    let after = database.store.load_preview(ready.id).await.unwrap().unwrap();
    assert_eq!(after.state, PreviewSessionState::Expired);
    assert_eq!(sweep("one").await.ended_previews, 0);
    carry_out_due(&house.deps).await.unwrap();
    assert_eq!(house.observer.count("preview:expired"), 1);
}
