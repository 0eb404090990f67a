//! Records to write. Identities are counted, not random, and times are given.

use std::sync::atomic::{AtomicU64, Ordering};

use runwarden_actors::contract::{
    CodesandboxId, CommitSha, EventId, FrozenFlagSnapshot, QuarantineReason, RepoFullName, RolloutPhase, RunId,
    SandboxProvider, Seq, StartRequestId, ThreadChatId, ThreadId, Timestamp, TriggerSource, UserId,
};
use runwarden_actors::ports::Store;
use runwarden_actors::ports::store::{
    CommitOutcome, CreateRunOutcome, NewEvent, NewQuarantine, NewRun, RunChange, RunCommit, RunCounters, RunRecord,
    SandboxBinding,
};
use uuid::Uuid;

pub const NOW: Timestamp = Timestamp::from_millis(1_763_707_674_007);

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A fresh identity; a later one sorts after an earlier one, as with UUIDv7.
pub fn uuid() -> Uuid {
    Uuid::from_u128(0x0193_5d3e_7c00_7000_8000_0000_0000_0000 + u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub fn thread(name: &str) -> ThreadId {
    ThreadId::parse(name).unwrap()
}

pub fn chat(name: &str) -> ThreadChatId {
    ThreadChatId::parse(name).unwrap()
}

pub fn seq(value: i64) -> Seq {
    Seq::new(value).unwrap()
}

pub fn sha(digit: char) -> CommitSha {
    CommitSha::parse(digit.to_string().repeat(40)).unwrap()
}

pub fn new_run(thread_name: &str, chat_name: &str, request: &str) -> NewRun {
    NewRun {
        run_id: RunId::from_uuid(uuid()),
        thread_id: thread(thread_name),
        thread_chat_id: chat(chat_name),
        start_request_id: StartRequestId::parse(request).unwrap(),
        trigger_source: TriggerSource::FollowUpQueue,
        user_id: UserId::parse("user-1").unwrap(),
        repo_full_name: RepoFullName::parse("acme/web").unwrap(),
        frozen_flag_snapshot: FrozenFlagSnapshot {
            sandbox_preview: true,
            daemon_run_id_strict: false,
            rollout_phase: RolloutPhase::Beta,
        },
        preview_config: Some(r#"{"command":"a\u0000b"}"#.to_owned()),
        now: NOW,
    }
}

/// Creates a run that must be new.
pub async fn created(store: &dyn Store, new: &NewRun) -> RunRecord {
    match store.create_run(new).await.unwrap() {
        CreateRunOutcome::Created { run, .. } => *run,
        other => panic!("{other:?}"),
    }
}

/// A new run in a chat of its own.
pub async fn run(store: &dyn Store) -> RunRecord {
    let name = format!("thread-{}", uuid().simple());
    created(store, &new_run(&name, "chat", "request")).await
}

pub async fn loaded(store: &dyn Store, run: RunId) -> RunRecord {
    store.load_run(run).await.unwrap().unwrap()
}

pub fn binding() -> SandboxBinding {
    SandboxBinding {
        sandbox_provider: SandboxProvider::Docker,
        codesandbox_id: CodesandboxId::parse("box-1").unwrap(),
        run_start_sha: sha('a'),
        repo_dir: Some("/srv/repo".to_owned()),
    }
}

pub fn event(at: i64, id: &str) -> NewEvent {
    NewEvent {
        seq: seq(at),
        event_id: Some(EventId::parse(id).unwrap()),
        payload: format!(r#"{{"seq":{at},"text":"ü\u0000"}}"#).into(),
        payload_hash: None,
        received_at: NOW.plus_millis(at),
    }
}

/// A commit that stores these events and nothing else.
pub fn commit(run: &RunRecord, events: Vec<NewEvent>) -> RunCommit {
    RunCommit {
        run_id: run.run_id,
        expected_revision: run.revision,
        change: RunChange { last_accepted_seq: events.last().map(|event| event.seq), ..RunChange::default() },
        counters: RunCounters { accepted: i64::try_from(events.len()).unwrap(), ..RunCounters::default() },
        events,
        quarantine: Vec::new(),
        effects: Vec::new(),
        now: NOW.plus_millis(1),
    }
}

/// A commit that changes the run's row and nothing else.
pub fn change(run: &RunRecord, change: RunChange) -> RunCommit {
    RunCommit { change, ..commit(run, Vec::new()) }
}

/// Writes a commit that must apply, and loads the run again.
pub async fn applied(store: &dyn Store, commit: RunCommit) -> RunRecord {
    let run = commit.run_id;
    let outcome = store.commit(commit).await.unwrap();
    assert!(matches!(outcome, CommitOutcome::Applied { .. }), "{outcome:?}");
    loaded(store, run).await
}

pub fn quarantined(run: &RunRecord, reason: QuarantineReason, body: u8, created_at: Timestamp) -> NewQuarantine {
    NewQuarantine {
        id: uuid(),
        thread_id: run.thread_id.clone(),
        thread_chat_id: run.thread_chat_id.clone(),
        run_id_or_null: None,
        active_run_id: run.active_run_id,
        repo_full_name: run.repo_full_name.clone(),
        reason,
        payload_hash: [body; 32],
        payload_prefix_2k: format!("{{\"body\":{body}}}"),
        payload_bytes: 17,
        payload_r2_key: None,
        created_at,
    }
}

/// A commit that quarantines these rows and nothing else.
pub fn quarantine(run: &RunRecord, rows: Vec<NewQuarantine>) -> RunCommit {
    RunCommit { quarantine: rows, ..commit(run, Vec::new()) }
}
