//! What a daemon and the server say to each other (section 4). The JSON schema in `docs/` is generated from
//! these types.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::enums::names;
use super::number::NumberText;
use super::{CommitSha, EventId, RunId, Seq, ThreadChatId, ThreadId};

/// A daemon envelope of version 2, as a daemon writes it. The server reads more leniently: see the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DaemonEnvelope {
    /// The thread that the daemon's token is bound to.
    pub thread_id: ThreadId,
    /// The chat that the daemon's token is bound to.
    pub thread_chat_id: ThreadChatId,
    /// The agent's own messages, in order; unknown types are kept.
    pub messages: Vec<Map<String, Value>>,
    /// IANA name of the sandbox's time zone.
    pub timezone: String,
    /// Always 2.
    #[schemars(range(min = 2, max = 2))]
    pub payload_version: u8,
    /// The daemon's name for this event; the same one on every retry.
    #[schemars(length(min = 1, max = 255))]
    pub event_id: EventId,
    /// The run that the event belongs to.
    pub run_id: RunId,
    /// Counted from 0, one higher for each new event.
    pub seq: Seq,
    /// HEAD of the repository when the agent ended; asked for on a terminal envelope.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", regex(pattern = "^([0-9a-f]{40}|[0-9a-f]{64})$"))]
    pub end_sha: Option<CommitSha>,
    /// Whatever else the daemon has to say; stored and given to readers as it came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

names! {
    /// What became of an envelope.
    AckStatus {
        /// Stored.
        Accepted = "accepted",
        /// Known already, late, or for a run that has ended.
        Ignored = "ignored",
        /// Set aside for a person to look at.
        Quarantined = "quarantined",
    }
}

names! {
    /// Why an envelope was not, or not only, stored.
    AckReason {
        /// Case 3 of a strict run.
        MissingRunId = "missing_run_id",
        /// Case 3 of a legacy run: stored, and a copy kept.
        LegacyMode = "legacy_mode",
        /// Case 4.
        Mismatch = "mismatch",
        /// Cases 5 and 6.
        PayloadVersionMismatch = "payload_version_mismatch",
        /// Case 7.
        DuplicateEvent = "duplicate_event",
        /// Case 8.
        RunTerminal = "run_terminal",
        /// Case 9.
        OutOfOrderSeq = "out_of_order_seq",
        /// Case 10.
        MissingEndSha = "missing_end_sha",
    }
}

/// The answer to one envelope over HTTP. Daemons in the field compare both identities with what they sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ack {
    /// Always true: the envelope needs no retry.
    pub success: bool,
    /// The envelope's `eventId`, as it came; null where it had none.
    pub acknowledged_event_id: Option<String>,
    /// The envelope's `seq`, as it came; null where it had none.
    pub acknowledged_seq: Option<NumberText>,
    /// What became of it.
    pub status: AckStatus,
    /// Why it was not, or not only, stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<AckReason>,
}

impl Ack {
    /// The HTTP status that goes with it: 200 where the envelope is stored and nothing is wrong, else 202.
    pub const fn http_status(&self) -> u16 {
        match (self.status, self.reason) {
            (AckStatus::Accepted, None | Some(AckReason::LegacyMode)) => 200,
            _ => 202,
        }
    }
}

/// The answer to one envelope on a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename = "ack", rename_all = "camelCase")]
pub struct AckFrame {
    /// The envelope's `eventId`, as it came.
    pub acknowledged_event_id: Option<String>,
    /// The envelope's `seq`, as it came.
    pub acknowledged_seq: Option<NumberText>,
    /// What became of it.
    pub status: AckStatus,
    /// Why it was not, or not only, stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<AckReason>,
}

impl From<Ack> for AckFrame {
    fn from(ack: Ack) -> Self {
        Self {
            acknowledged_event_id: ack.acknowledged_event_id,
            acknowledged_seq: ack.acknowledged_seq,
            status: ack.status,
            reason: ack.reason,
        }
    }
}

/// The first frame from the server on a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename = "hello", rename_all = "camelCase")]
pub struct HelloFrame {
    /// The run that the token is bound to.
    pub run_id: RunId,
    /// The highest `seq` that is committed; null where there is none.
    pub last_accepted_seq: Option<Seq>,
    /// The envelope version that the run asks for.
    pub payload_version: u8,
}

/// The answer of `GET /api/daemon/position`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The run that the token is bound to.
    pub run_id: RunId,
    /// The highest `seq` that is committed; null where there is none.
    pub last_accepted_seq: Option<Seq>,
}
