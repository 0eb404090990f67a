//! A full disk: the write is refused whole, and the next one finds a working connection.

use runwarden_actors::contract::{
    FrozenFlagSnapshot, RepoFullName, RolloutPhase, RunId, Seq, StartRequestId, ThreadChatId, ThreadId, Timestamp,
    TriggerSource, UserId,
};
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{
    CommitOutcome, CreateRunOutcome, NewEvent, NewRun, RunChange, RunCommit, RunCounters, RunStore,
};
use sqlx::types::Uuid;

use super::SqliteStore;

fn new_run() -> NewRun {
    NewRun {
        run_id: RunId::from_uuid(Uuid::from_u128(1)),
        thread_id: ThreadId::parse("t").unwrap(),
        thread_chat_id: ThreadChatId::parse("c").unwrap(),
        start_request_id: StartRequestId::parse("r").unwrap(),
        trigger_source: TriggerSource::Ui,
        user_id: UserId::parse("u").unwrap(),
        repo_full_name: RepoFullName::parse("acme/web").unwrap(),
        frozen_flag_snapshot: FrozenFlagSnapshot {
            sandbox_preview: true,
            daemon_run_id_strict: true,
            rollout_phase: RolloutPhase::General,
        },
        preview_config: None,
        now: Timestamp::from_millis(0),
    }
}

#[tokio::test]
async fn a_full_disk_refuses_one_write_and_not_the_next() {
    let folder = tempfile::TempDir::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("runwarden.db")).await.unwrap();
    store.migrate().await.unwrap();
    let outcome = store.create_run(&new_run()).await.unwrap();
    assert!(matches!(outcome, CreateRunOutcome::Created { .. }));
    let commit = || RunCommit {
        run_id: new_run().run_id,
        expected_revision: 0,
        change: RunChange { last_accepted_seq: Some(Seq::new(0).unwrap()), ..RunChange::default() },
        counters: RunCounters::default(),
        events: vec![NewEvent {
            seq: Seq::new(0).unwrap(),
            event_id: None,
            payload: "x".repeat(1 << 20).into(),
            payload_hash: None,
            received_at: Timestamp::from_millis(0),
        }],
        quarantine: Vec::new(),
        effects: Vec::new(),
        now: Timestamp::from_millis(0),
    };

    // SQLite takes this for a full disk: the limit is raised to what the file already has.
    let mut writer = store.writer().await.unwrap();
    sqlx::query("pragma max_page_count = 1").execute(&mut *writer).await.unwrap();
    drop(writer);
    let error = store.commit(commit()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(store.load_run(new_run().run_id).await.unwrap().unwrap().revision, 0);
    // The limit belonged to the connection, which is gone.
    assert_eq!(store.commit(commit()).await.unwrap(), CommitOutcome::Applied { quarantined: 0 });
}
