//! Messages written down once, with the identity that they keep over every retry.

use bytes::Bytes;
use runwarden_actors::contract::{CommitSha, EventId, RunId, Seq, ThreadChatId, ThreadId, limits};
use serde::Serialize;

use super::error::DaemonError;
use super::message::Message;
use super::options::{ExecOptions, InvalidOption};
use super::spool::Entry;

/// What makes an envelope the last one.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) exit_code: i32,
    pub(super) end_sha: Option<CommitSha>,
}

/// The contract's `DaemonEnvelope` with messages that keep their letters; a test holds the two together.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    thread_id: &'a ThreadId,
    thread_chat_id: &'a ThreadChatId,
    messages: &'a [Message],
    timezone: &'a str,
    payload_version: u8,
    event_id: &'a EventId,
    run_id: RunId,
    seq: Seq,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_sha: Option<CommitSha>,
}

/// Makes the envelope with this `seq`.
pub(super) fn seal(
    options: &ExecOptions,
    seq: i64,
    messages: &[Message],
    last: Option<Last>,
) -> Result<Entry, DaemonError> {
    let unusable = |problem: String| DaemonError::Option(InvalidOption { name: "envelope", problem });
    let event_id = EventId::parse(options.ids.uuid_v7().to_string()).map_err(|error| unusable(error.to_string()))?;
    let exit_code = last.as_ref().map(|last| last.exit_code);
    let envelope = Envelope {
        thread_id: &options.thread_id,
        thread_chat_id: &options.thread_chat_id,
        messages,
        timezone: &options.timezone,
        payload_version: limits::PAYLOAD_VERSION,
        event_id: &event_id,
        run_id: options.run_id,
        seq: Seq::new(seq).map_err(|error| unusable(error.to_string()))?,
        end_sha: last.and_then(|last| last.end_sha),
    };
    let body = serde_json::to_vec(&envelope).map_err(|error| unusable(error.to_string()))?;
    Ok(Entry { seq, event_id, exit_code, body: Bytes::from(body) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runwarden_actors::contract::DaemonEnvelope;
    use serde_json::{Map, json};

    #[test]
    fn what_is_sent_is_an_envelope_of_the_contract() {
        let event_id = EventId::parse("event-0").unwrap();
        let (thread_id, thread_chat_id) = (ThreadId::parse("t").unwrap(), ThreadChatId::parse("c").unwrap());
        let run_id = RunId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap();
        for end_sha in [None, Some(CommitSha::parse("0123456789abcdef0123456789abcdef01234567").unwrap())] {
            let sent = Envelope {
                thread_id: &thread_id,
                thread_chat_id: &thread_chat_id,
                messages: &[json!({ "type": "result" }).into()],
                timezone: "UTC",
                payload_version: 2,
                event_id: &event_id,
                run_id,
                seq: Seq::new(7).unwrap(),
                end_sha: end_sha.clone(),
            };
            let read: DaemonEnvelope = serde_json::from_slice(&serde_json::to_vec(&sent).unwrap()).unwrap();
            let wanted = DaemonEnvelope {
                thread_id: thread_id.clone(),
                thread_chat_id: thread_chat_id.clone(),
                messages: vec![json!({ "type": "result" }).as_object().unwrap().clone()],
                timezone: "UTC".to_owned(),
                payload_version: 2,
                event_id: event_id.clone(),
                run_id,
                seq: Seq::new(7).unwrap(),
                end_sha,
                extra: Map::new(),
            };
            assert_eq!(read, wanted);
        }
    }
}
