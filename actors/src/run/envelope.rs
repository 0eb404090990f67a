//! A daemon event, parsed (section 4). Reading is lenient where daemons in the field differ and strict where a
//! guess could store something under the wrong name.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::contract::limits::{ID_MAX_BYTES, PAYLOAD_VERSIONS_SUPPORTED};
use crate::contract::{Ack, AckReason, AckStatus, CommitSha, EventId, NumberText, RunId, Seq, TerminalKind};

/// A body that is not an envelope (case 2).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    /// Not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// Not JSON, or not of the shape; the parser's words, without the body.
    #[error("the body is not a daemon envelope: {0}")]
    NotOfTheShape(String),
}

/// The `runId` that an envelope claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimedRun {
    /// None, null or empty.
    Missing,
    /// A run id.
    Run(RunId),
    /// Text that is no run id, cut to 200 bytes.
    Foreign(String),
}

impl ClaimedRun {
    /// As the quarantine row holds it.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Missing => None,
            Self::Run(run_id) => Some(run_id.to_string()),
            Self::Foreign(text) => Some(text.clone()),
        }
    }
}

/// A parsed envelope and the bytes that it came in.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The whole body, valid UTF-8 JSON.
    pub body: Bytes,
    /// `threadId` as it came; compare it with the token's.
    pub thread_id: String,
    /// `threadChatId` as it came; compare it with the token's.
    pub thread_chat_id: String,
    /// `runId`.
    pub run: ClaimedRun,
    /// `payloadVersion`; 1 where there is none. `None` where it is a number that is not understood.
    pub version: Option<u8>,
    /// `eventId` where it is usable.
    pub event_id: Option<EventId>,
    /// `seq` where it is usable.
    pub seq: Option<Seq>,
    /// `endSha`, or its alias, where it is a commit's name.
    pub end_sha: Option<CommitSha>,
    /// Set where one of the messages ends the run.
    pub terminal: Option<TerminalKind>,
    /// `eventId` as it came, for the acknowledgement.
    acknowledged_event_id: Option<String>,
    /// `seq` as it came, for the acknowledgement.
    acknowledged_seq: Option<NumberText>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    #[serde(borrow)]
    thread_id: Cow<'a, str>,
    #[serde(borrow)]
    thread_chat_id: Cow<'a, str>,
    messages: Messages,
    #[serde(borrow, rename = "timezone")]
    _timezone: Cow<'a, str>,
    payload_version: Option<NumberText>,
    #[serde(borrow)]
    event_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    run_id: Option<Cow<'a, str>>,
    seq: Option<NumberText>,
    #[serde(borrow)]
    end_sha: Option<Cow<'a, str>>,
    // The alias of newer daemons; a field of its own because one body may carry both.
    #[serde(borrow)]
    head_sha_at_completion: Option<Cow<'a, str>>,
}

impl Envelope {
    /// Parses a body. Unknown fields are kept in `body` and otherwise passed over.
    pub fn parse(body: Bytes) -> Result<Self, EnvelopeError> {
        let text = std::str::from_utf8(&body).map_err(|_| EnvelopeError::NotUtf8)?;
        // The parser would also take an array of the fields in their order here, which no daemon means.
        if !text.trim_start().starts_with('{') {
            return Err(EnvelopeError::NotOfTheShape("it is no JSON object".to_owned()));
        }
        let wire: Wire<'_> =
            serde_json::from_str(text).map_err(|error| EnvelopeError::NotOfTheShape(in_words(&error)))?;
        let run = match wire.run_id.as_deref() {
            None | Some("") => ClaimedRun::Missing,
            Some(text) => RunId::parse(text).map_or_else(|_| ClaimedRun::Foreign(printable(text)), ClaimedRun::Run),
        };
        let version = match &wire.payload_version {
            None => Some(1),
            Some(number) => number
                .as_integer()
                .and_then(|version| u8::try_from(version).ok())
                .filter(|version| PAYLOAD_VERSIONS_SUPPORTED.contains(version)),
        };
        let end_sha = [&wire.end_sha, &wire.head_sha_at_completion]
            .into_iter()
            .flatten()
            .find_map(|text| CommitSha::parse(text.to_ascii_lowercase()).ok());
        let parsed = Self {
            thread_id: wire.thread_id.into_owned(),
            thread_chat_id: wire.thread_chat_id.into_owned(),
            run,
            version,
            event_id: wire.event_id.as_deref().and_then(|text| EventId::parse(text).ok()),
            seq: wire.seq.as_ref().and_then(NumberText::as_integer).and_then(|seq| Seq::new(seq).ok()),
            end_sha,
            terminal: wire.messages.terminal,
            acknowledged_event_id: wire.event_id.map(Cow::into_owned),
            acknowledged_seq: wire.seq,
            body: Bytes::new(),
        };
        Ok(Self { body, ..parsed })
    }

    /// SHA-256 of the body.
    pub fn body_hash(&self) -> [u8; 32] {
        Sha256::digest(&self.body).into()
    }

    /// The acknowledgement: both identities exactly as they came, so that the daemon recognises its envelope.
    pub fn acknowledge(&self, status: AckStatus, reason: Option<AckReason>) -> Ack {
        Ack {
            success: true,
            acknowledged_event_id: self.acknowledged_event_id.clone(),
            acknowledged_seq: self.acknowledged_seq.clone(),
            status,
            reason,
        }
    }
}

/// The parser's words, and what they mean where they do not say it.
fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if ["unexpected end of hex escape", "lone leading surrogate"].iter().any(|words| text.starts_with(words)) {
        format!("{text}: an id, `timezone` or `endSha` holds half of a character (a lone surrogate)")
    } else {
        text
    }
}

/// Foreign text for a row: no control characters, at most 200 bytes.
fn printable(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }) {
        if out.len() + character.len_utf8() > ID_MAX_BYTES {
            break;
        }
        out.push(character);
    }
    out
}

/// What is read of `messages`: only whether one of them ends the run.
#[derive(Default)]
struct Messages {
    terminal: Option<TerminalKind>,
}

/// What is read of one message.
#[derive(Default)]
struct MessageHead<'a> {
    kind: Option<&'a RawValue>,
    is_error: Option<&'a RawValue>,
}

/// A message's field, as far as it matters here.
enum Field {
    Type,
    IsError,
    Other,
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldVisitor;

        impl Visitor<'_> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field name")
            }

            fn visit_bytes<E: serde::de::Error>(self, name: &[u8]) -> Result<Field, E> {
                Ok(match name {
                    b"type" => Field::Type,
                    b"is_error" => Field::IsError,
                    _ => Field::Other,
                })
            }
        }

        // As bytes: an agent's output that was cut inside a character gives names that are no text.
        deserializer.deserialize_bytes(FieldVisitor)
    }
}

impl<'de> Deserialize<'de> for MessageHead<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadVisitor;

        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = MessageHead<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageHead<'de>, A::Error> {
                let mut head = MessageHead::default();
                while let Some(field) = map.next_key::<Field>()? {
                    match field {
                        Field::Type if head.kind.is_none() => head.kind = Some(map.next_value()?),
                        Field::IsError if head.is_error.is_none() => head.is_error = Some(map.next_value()?),
                        // Which of two would count is anybody's guess; the run's end must not hang on it.
                        Field::Type => return Err(serde::de::Error::duplicate_field("type")),
                        Field::IsError => return Err(serde::de::Error::duplicate_field("is_error")),
                        Field::Other => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(head)
            }
        }

        deserializer.deserialize_map(HeadVisitor)
    }
}

impl MessageHead<'_> {
    fn terminal(&self) -> Option<TerminalKind> {
        // A type that is no string is an unknown type: kept, and never terminal.
        let kind: Cow<'_, str> = serde_json::from_str(self.kind?.get()).ok()?;
        match kind.as_ref() {
            // Whatever is not plainly "no error" is one: a guess must not make a failed agent a finished one.
            "result" if self.is_error.is_some_and(|flag| !matches!(flag.get(), "false" | "null")) => {
                Some(TerminalKind::Failed)
            }
            "result" => Some(TerminalKind::Done),
            "custom-error" => Some(TerminalKind::Failed),
            "custom-stop" => Some(TerminalKind::Stopped),
            _ => None,
        }
    }
}

/// Of several terminal messages in one envelope the worst decides: an agent that also reported an error is not
/// done.
fn worse(a: Option<TerminalKind>, b: Option<TerminalKind>) -> Option<TerminalKind> {
    const fn badness(kind: Option<TerminalKind>) -> u8 {
        match kind {
            None => 0,
            Some(TerminalKind::Done) => 1,
            Some(TerminalKind::Stopped) => 2,
            Some(TerminalKind::Failed) => 3,
        }
    }
    if badness(b) > badness(a) { b } else { a }
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessagesVisitor;

        impl<'de> Visitor<'de> for MessagesVisitor {
            type Value = Messages;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of message objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Messages, A::Error> {
                let mut messages = Messages::default();
                while let Some(head) = seq.next_element::<MessageHead<'de>>()? {
                    messages.terminal = worse(messages.terminal, head.terminal());
                }
                Ok(messages)
            }
        }

        deserializer.deserialize_seq(MessagesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Envelope, EnvelopeError> {
        Envelope::parse(Bytes::copy_from_slice(json.as_bytes()))
    }

    fn with(fields: &str) -> Envelope {
        parse(&format!(r#"{{"threadId":"t","threadChatId":"c","messages":[],"timezone":"UTC"{fields}}}"#)).unwrap()
    }

    #[test]
    fn a_version_1_envelope_needs_only_the_four_fields() {
        let envelope = with("");
        assert_eq!(envelope.version, Some(1));
        assert_eq!(envelope.run, ClaimedRun::Missing);
        let ack = serde_json::to_value(envelope.acknowledge(AckStatus::Accepted, None)).unwrap();
        assert_eq!(
            ack,
            serde_json::json!({"success":true,"acknowledgedEventId":null,"acknowledgedSeq":null,"status":"accepted"})
        );
    }

    #[test]
    fn unusable_identities_are_none_but_are_echoed_as_they_came() {
        for seq in ["-1", "1.5", "9007199254740992", "1e300", "18446744073709551616", "1e2", "1.0", "-0", "1E+400"] {
            let envelope = with(&format!(r#","payloadVersion":2,"eventId":"","seq":{seq}"#));
            assert_eq!((envelope.seq, envelope.event_id.clone()), (None, None), "{seq}");
            let ack = serde_json::to_string(&envelope.acknowledge(AckStatus::Ignored, None)).unwrap();
            let echoed = format!(r#""acknowledgedEventId":"","acknowledgedSeq":{seq},"#);
            assert!(ack.contains(&echoed), "{ack}");
        }
        // A version that cannot be used is no reason to refuse the shape either.
        for version in ["3", "2.0", "2e0", "1e400", "-1"] {
            assert_eq!(with(&format!(r#","payloadVersion":{version}"#)).version, None, "{version}");
        }
        assert!(with(&format!(r#","eventId":"{}""#, "x".repeat(10_000))).event_id.is_none());
        assert!(with(r#","eventId":"a\u0000b""#).event_id.is_none());
    }

    #[test]
    fn wrong_types_are_refused() {
        for fields in [
            r#","seq":"1""#,
            r#","eventId":7"#,
            r#","runId":7"#,
            r#","endSha":[]"#,
            r#","payloadVersion":"2""#,
            r#","seq":1,"seq":2"#,
            r#","messages":[]"#,
        ] {
            let body = format!(r#"{{"threadId":"t","threadChatId":"c","messages":[],"timezone":"UTC"{fields}}}"#);
            assert!(matches!(parse(&body), Err(EnvelopeError::NotOfTheShape(_))), "{fields}");
        }
        for body in [
            "",
            "null",
            "[]",
            "{",
            r#"{"threadId":"t","threadChatId":"c","timezone":"UTC"}"#,
            r#"{"threadId":"t","threadChatId":"c","messages":{},"timezone":"UTC"}"#,
            r#"{"threadId":"t","threadChatId":"c","messages":["text"],"timezone":"UTC"}"#,
            r#"{"threadId":"t","threadChatId":"c","messages":[["result",false]],"timezone":"UTC"}"#,
            r#"{"threadId":"t","threadChatId":"c","messages":[{"type":"a","type":"result"}],"timezone":"UTC"}"#,
            r#"["t","c",[],"UTC",null,null,null,null,null,null]"#,
            r#"{"threadId":"t","threadChatId":"c","messages":[]}"#,
            r#"{"threadId":1,"threadChatId":"c","messages":[],"timezone":"UTC"}"#,
        ] {
            assert!(parse(body).is_err(), "{body}");
        }
        assert_eq!(
            Envelope::parse(Bytes::from_static(b"{\"threadId\":\"\xff\"}")).unwrap_err(),
            EnvelopeError::NotUtf8
        );
    }

    #[test]
    fn the_worst_terminal_message_decides() {
        let terminal = |messages: &str| {
            parse(&format!(r#"{{"threadId":"t","threadChatId":"c","messages":{messages},"timezone":"UTC"}}"#))
                .unwrap()
                .terminal
        };
        assert_eq!(terminal(r#"[{"type":"assistant"},{"type":7},{}]"#), None);
        assert_eq!(terminal(r#"[{"type":"result"}]"#), Some(TerminalKind::Done));
        assert_eq!(terminal(r#"[{"type":"result","is_error":false}]"#), Some(TerminalKind::Done));
        assert_eq!(terminal(r#"[{"type":"result","is_error":null}]"#), Some(TerminalKind::Done));
        for truthy in ["true", "1", "\"true\"", "{}"] {
            let messages = format!(r#"[{{"is_error":{truthy},"type":"result"}}]"#);
            assert_eq!(terminal(&messages), Some(TerminalKind::Failed), "{truthy}");
        }
        assert_eq!(terminal(r#"[{"type":"res\u0075lt"}]"#), Some(TerminalKind::Done));
        assert_eq!(terminal(r#"[{"type":"custom-stop"},{"type":"result"}]"#), Some(TerminalKind::Stopped));
        assert_eq!(terminal(r#"[{"type":"custom-error"},{"type":"result"}]"#), Some(TerminalKind::Failed));
    }

    #[test]
    fn a_message_cut_inside_a_character_is_kept() {
        let body = r#"{"threadId":"t","threadChatId":"c","messages":[{"\ud83d":1,"text":"\ud83d","type":"result"}],"timezone":"UTC"}"#;
        assert_eq!(parse(body).unwrap().terminal, Some(TerminalKind::Done));
    }

    #[test]
    fn the_alias_of_end_sha_is_read_and_either_may_be_the_usable_one() {
        let sha = "a".repeat(40);
        assert_eq!(with(&format!(r#","headShaAtCompletion":"{sha}""#)).end_sha.unwrap().as_str(), sha);
        assert_eq!(
            with(&format!(r#","endSha":"main","headShaAtCompletion":"{}""#, sha.to_uppercase()))
                .end_sha
                .unwrap()
                .as_str(),
            sha
        );
        assert!(with(r#","endSha":"HEAD""#).end_sha.is_none());
    }

    #[test]
    fn a_deep_unknown_field_neither_overflows_nor_is_lost() {
        let deep = format!(r#","deltas":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
        let envelope = with(&deep);
        assert!(envelope.body.len() > 200_000);
    }

    #[test]
    fn a_foreign_run_id_is_kept_short_and_printable() {
        let ClaimedRun::Foreign(text) = with(&format!(r#","runId":"a\u0000{}""#, "é".repeat(300))).run else {
            panic!("not foreign")
        };
        assert!(text.len() <= 200 && text.starts_with("a\u{fffd}"));
    }
}
