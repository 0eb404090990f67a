//! What a decision writes, and what is read back.

use bytes::Bytes;
use uuid::Uuid;

use crate::contract::{
    EventId, QuarantineReason, RepoFullName, RunId, RunStatus, Seq, ThreadChatId, ThreadId, Timestamp,
};
use crate::run::effect::Effect;

use super::{RunCounters, TerminalRecord};

/// An event to store.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its place.
    pub seq: Seq,
    /// The daemon's name for it; version 1 may have none.
    pub event_id: Option<EventId>,
    /// The whole envelope as it came.
    pub payload: Bytes,
    /// SHA-256 of it, for version 1 envelopes without `eventId`.
    pub payload_hash: Option<[u8; 32]>,
    /// When it came.
    pub received_at: Timestamp,
}

/// A stored event, as readers get it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Its place.
    pub seq: Seq,
    /// The daemon's name for it.
    pub event_id: Option<EventId>,
    /// The whole envelope as it came.
    pub payload: Bytes,
    /// When it came.
    pub received_at: Timestamp,
}

/// A row for `daemon_event_quarantine`. The same body for the same run and reason is kept once.
#[derive(Debug, Clone, PartialEq)]
pub struct NewQuarantine {
    /// Identity, UUIDv7.
    pub id: Uuid,
    /// Thread of the token.
    pub thread_id: ThreadId,
    /// Chat of the token.
    pub thread_chat_id: ThreadChatId,
    /// The `runId` of the envelope, as it came, cut to 200 bytes.
    pub run_id_or_null: Option<String>,
    /// The chat's active run.
    pub active_run_id: Option<RunId>,
    /// Repository of the token's run, for the daily aggregate.
    pub repo_full_name: RepoFullName,
    /// Why.
    pub reason: QuarantineReason,
    /// SHA-256 of the body.
    pub payload_hash: [u8; 32],
    /// Its first 2 KiB, cut at a character.
    pub payload_prefix_2k: String,
    /// Its size in bytes.
    pub payload_bytes: i64,
    /// Object that holds all of it.
    pub payload_r2_key: Option<String>,
    /// When it came.
    pub created_at: Timestamp,
}

/// A stored quarantine row.
pub type QuarantineRow = NewQuarantine;

/// What a commit changes in the run's own rows, beside counters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunChange {
    /// New status.
    pub status: Option<RunStatus>,
    /// Version of the first stored envelope.
    pub daemon_payload_version: Option<u8>,
    /// New highest `seq`.
    pub last_accepted_seq: Option<Seq>,
    /// The terminal event, written once. It clears `missing_end_sha_at`.
    pub terminal: Option<TerminalRecord>,
    /// A terminal envelope came without `endSha`.
    pub missing_end_sha_at: Option<Timestamp>,
    /// First sign of life.
    pub started_at: Option<Timestamp>,
    /// End, where the run ends without a HEAD check.
    pub ended_at: Option<Timestamp>,
}

impl RunChange {
    /// Whether it changes the run's place at most, as nearly all do.
    #[must_use]
    pub fn only_moves(&self) -> bool {
        *self == Self { last_accepted_seq: self.last_accepted_seq, ..Self::default() }
    }
}

/// Everything that one decision writes, in one transaction: all of it or nothing.
#[derive(Debug, Clone)]
pub struct RunCommit {
    /// The run.
    pub run_id: RunId,
    /// The revision that the decision was made on; the commit is refused where the row has another.
    pub expected_revision: i64,
    /// Changes of the row.
    pub change: RunChange,
    /// Increments of the counters. `quarantined` is not among them: the store counts the rows it really adds.
    pub counters: RunCounters,
    /// Events, ascending by `seq`.
    pub events: Vec<NewEvent>,
    /// Quarantine rows.
    pub quarantine: Vec<NewQuarantine>,
    /// What to do once this is committed.
    pub effects: Vec<CommittedEffect>,
    /// Now.
    pub now: Timestamp,
}

/// An effect in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedEffect {
    /// Identity, UUIDv7.
    pub id: Uuid,
    /// The run.
    pub run_id: RunId,
    /// What to do.
    pub effect: Effect,
}

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Durable. The row's revision is now the expected one plus one.
    Applied {
        /// How many of the quarantine rows were new.
        quarantined: u32,
    },
    /// The row had moved, or one of the `eventId`s is stored already; nothing was written.
    Conflict,
}

/// What is known of envelopes that may have been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The `eventId` is stored.
    pub event_id: bool,
    /// The `seq` is stored.
    pub seq: bool,
}

/// An effect that is due, with how often it was tried.
#[derive(Debug, Clone, PartialEq)]
pub struct DueEffect {
    /// It.
    pub effect: CommittedEffect,
    /// Attempts so far.
    pub attempts: u32,
}

/// Which silent runs the backstop ends.
#[derive(Debug, Clone, Copy)]
pub struct SweepLimits {
    /// Runs whose terminal envelope came without `endSha` before this instant.
    pub missing_end_sha_before: Timestamp,
    /// Active runs without any write since this instant.
    pub silent_before: Timestamp,
    /// At the most so many at once.
    pub most: u32,
}

/// One day of quarantine of one repository, kept when the rows are purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineDay {
    /// `YYYY-MM-DD`, UTC.
    pub day: String,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Why.
    pub reason: QuarantineReason,
    /// How many.
    pub rows: i64,
}
