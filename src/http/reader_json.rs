//! Stored events as readers get them: the fields of the contract, and whatever else the envelope carried, as it
//! came.

use std::borrow::Cow;
use std::collections::BTreeMap;

use runwarden_actors::contract::{Seq, Timestamp};
use runwarden_actors::ports::store::StoredEvent;
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::value::RawValue;

/// Fields of the envelope that address it; a reader has asked for the run and knows them.
const ADDRESS_FIELDS: [&str; 6] = ["threadId", "threadChatId", "timezone", "payloadVersion", "runId", "seq"];
/// Fields that are written by us.
const OWN_FIELDS: [&str; 3] = ["eventId", "receivedAt", "endSha"];

/// Writes one stored event.
pub(super) struct ReaderEvent<'a>(pub &'a StoredEvent);

impl Serialize for ReaderEvent<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        // Parsed once when it came in; what cannot be read now is a damaged row.
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(&event.payload).map_err(serde::ser::Error::custom)?;
        let end_sha =
            fields.get("endSha").filter(|raw| raw.get() != "null").or_else(|| fields.get("headShaAtCompletion"));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry::<_, Seq>("seq", &event.seq)?;
        map.serialize_entry("eventId", &event.event_id)?;
        map.serialize_entry("endSha", &end_sha)?;
        map.serialize_entry::<_, Timestamp>("receivedAt", &event.received_at)?;
        for (name, value) in &fields {
            if !ADDRESS_FIELDS.contains(&name.as_ref()) && !OWN_FIELDS.contains(&name.as_ref()) {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::web::Bytes;

    #[test]
    fn everything_the_daemon_said_reaches_the_reader_as_it_came() {
        let payload = r#"{"threadId":"t","threadChatId":"c","timezone":"UTC","payloadVersion":2,"runId":"r","seq":7,
            "eventId":"e","messages":[{"type":"x","n":1.50,"big":12345678901234567890123}],
            "deltas":[{"a":"\u00e9"}],"headShaAtCompletion":"abc"}"#;
        let event = StoredEvent {
            seq: Seq::new(7).unwrap(),
            event_id: None,
            payload: Bytes::from_static(payload.as_bytes()),
            received_at: Timestamp::from_millis(0),
        };
        assert_eq!(
            serde_json::to_string(&ReaderEvent(&event)).unwrap(),
            r#"{"seq":7,"eventId":null,"endSha":"abc","receivedAt":"1970-01-01T00:00:00.000Z","deltas":[{"a":"\u00e9"}],"headShaAtCompletion":"abc","messages":[{"type":"x","n":1.50,"big":12345678901234567890123}]}"#
        );
    }
}
