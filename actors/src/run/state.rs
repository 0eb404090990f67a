//! What decisions about a run are made on.

use std::sync::Arc;

use crate::contract::{
    CodesandboxId, FrozenFlagSnapshot, RepoFullName, RunId, SandboxProvider, Seq, ThreadChatId, ThreadId, UserId,
};
use crate::ports::store::RunRecord;

/// Where a run stands, for a daemon event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No event is stored yet.
    Booting,
    /// Events come in.
    Running,
    /// The terminal event is stored, or the run was ended from outside.
    Ended,
}

/// What never changes of a run.
#[derive(Debug, Clone)]
pub struct RunIdentity {
    /// Run.
    pub run_id: RunId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// User.
    pub user_id: UserId,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Frozen flags.
    pub flags: FrozenFlagSnapshot,
}

/// The part of a run's row that decisions are made on.
#[derive(Debug, Clone)]
pub struct RunState {
    /// What never changes.
    pub identity: Arc<RunIdentity>,
    /// The run that the chat's pointer names.
    pub active_run_id: Option<RunId>,
    /// Where it stands.
    pub phase: Phase,
    /// The bound sandbox.
    pub codesandbox_id: Option<CodesandboxId>,
    /// Its provider.
    pub sandbox_provider: Option<SandboxProvider>,
    /// Version of the first stored envelope.
    pub payload_version: Option<u8>,
    /// Highest stored `seq`.
    pub last_accepted_seq: Option<Seq>,
    /// Hash of the last stored body, for version 1 without `eventId`.
    pub last_payload_hash: Option<[u8; 32]>,
    /// Compare-and-swap revision of the row.
    pub revision: i64,
    /// Whether this actor has asked for the run's classification after an envelope without `runId`.
    pub legacy_classified: bool,
}

impl From<&RunRecord> for RunState {
    fn from(run: &RunRecord) -> Self {
        let ended = run.terminal_event_id.is_some() || !run.status.is_active();
        Self {
            identity: Arc::new(RunIdentity {
                run_id: run.run_id,
                thread_id: run.thread_id.clone(),
                thread_chat_id: run.thread_chat_id.clone(),
                user_id: run.user_id.clone(),
                repo_full_name: run.repo_full_name.clone(),
                flags: run.frozen_flag_snapshot,
            }),
            active_run_id: run.active_run_id,
            phase: match (ended, run.last_accepted_seq) {
                (true, _) => Phase::Ended,
                (false, None) => Phase::Booting,
                (false, Some(_)) => Phase::Running,
            },
            codesandbox_id: run.codesandbox_id.clone(),
            sandbox_provider: run.sandbox_provider,
            payload_version: run.daemon_payload_version,
            last_accepted_seq: run.last_accepted_seq,
            last_payload_hash: run.last_payload_hash,
            revision: run.revision,
            legacy_classified: false,
        }
    }
}
