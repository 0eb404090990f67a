//! Messages written down once, with the identity that they keep over every retry.

use bytes::Bytes;
use runwarden_actors::contract::{CommitSha, DaemonEnvelope, EventId, Seq, limits};
use serde_json::Map;

use super::error::DaemonError;
use super::lines::Message;
use super::options::{ExecOptions, InvalidOption};
use super::spool::Entry;

/// What makes an envelope the last one.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) exit_code: i32,
    pub(super) end_sha: Option<CommitSha>,
}

/// Makes the envelope with this `seq`.
pub(super) fn seal(
    options: &ExecOptions,
    seq: i64,
    messages: Vec<Message>,
    last: Option<Last>,
) -> Result<Entry, DaemonError> {
    let unusable = |problem: String| DaemonError::Option(InvalidOption { name: "envelope", problem });
    let event_id = EventId::parse(options.ids.uuid_v7().to_string()).map_err(|error| unusable(error.to_string()))?;
    let exit_code = last.as_ref().map(|last| last.exit_code);
    let envelope = DaemonEnvelope {
        thread_id: options.thread_id.clone(),
        thread_chat_id: options.thread_chat_id.clone(),
        messages,
        timezone: options.timezone.clone(),
        payload_version: limits::PAYLOAD_VERSION,
        event_id: event_id.clone(),
        run_id: options.run_id,
        seq: Seq::new(seq).map_err(|error| unusable(error.to_string()))?,
        end_sha: last.and_then(|last| last.end_sha),
        extra: Map::new(),
    };
    let body = serde_json::to_vec(&envelope).map_err(|error| unusable(error.to_string()))?;
    Ok(Entry { seq, event_id, exit_code, body: Bytes::from(body) })
}
