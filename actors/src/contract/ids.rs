//! Identities (section 1). Each is a type of its own, checked once where it comes in.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use uuid::Uuid;

use super::limits::{CONTAINER_SESSION_ID_MAX_BYTES, EVENT_ID_MAX_BYTES, ID_MAX_BYTES, PORT_NAME_MAX_BYTES, SEQ_MAX};
use super::names::CONTAINER_NAME_PREFIX;

/// Text that cannot be an identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name} must be {expected}")]
pub struct InvalidId {
    /// The field's wire name.
    pub name: &'static str,
    /// What would be right.
    pub expected: &'static str,
}

/// No control characters and no NUL: Postgres refuses the one and a log line must not be forged by the other.
fn is_clean(text: &str, max_bytes: usize) -> bool {
    !text.is_empty() && text.len() <= max_bytes && !text.chars().any(char::is_control)
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident, $wire:literal, $max:expr, $expected:literal, $check:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text; see the type for its bounds.
            pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                let check: fn(&str) -> bool = $check;
                if is_clean(text, $max) && check(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(InvalidId { name: $wire, expected: $expected })
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_id!(
    /// A conversation with an agent. 1 to 200 bytes, no control characters.
    ThreadId, "threadId", ID_MAX_BYTES, "1 to 200 bytes of text without control characters", |_| true
);
text_id!(
    /// One chat of a thread. 1 to 200 bytes, no control characters.
    ThreadChatId, "threadChatId", ID_MAX_BYTES, "1 to 200 bytes of text without control characters", |_| true
);
text_id!(
    /// Who asked for the run; the same one again returns the same run. 1 to 200 bytes, no control characters.
    StartRequestId, "startRequestId", ID_MAX_BYTES, "1 to 200 bytes of text without control characters", |_| true
);
text_id!(
    /// A person, as the host application knows them. 1 to 200 bytes, no control characters.
    UserId, "userId", ID_MAX_BYTES, "1 to 200 bytes of text without control characters", |_| true
);
text_id!(
    /// The sandbox's id, under every provider. 1 to 200 bytes, no control characters.
    CodesandboxId, "codesandboxId", ID_MAX_BYTES, "1 to 200 bytes of text without control characters", |_| true
);
text_id!(
    /// A repository as `owner/name`.
    RepoFullName, "repoFullName", ID_MAX_BYTES, "a repository as `owner/name`, at most 200 bytes", is_repo_full_name
);
text_id!(
    /// A Git object name: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits.
    CommitSha, "commit SHA", 64, "40 or 64 lower-case hex digits", |text| {
        matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }
);
text_id!(
    /// A daemon's name for one event. 1 to 255 bytes, no control characters.
    EventId, "eventId", EVENT_ID_MAX_BYTES, "1 to 255 bytes of text without control characters", |_| true
);

text_id!(
    /// A session whose container is previewed (section 8): what Docker allows in a container's name, and no dot segment.
    ContainerSessionId, "sessionId", CONTAINER_SESSION_ID_MAX_BYTES,
    "1 to 128 letters, digits, `_`, `.` or `-`, and not `.` or `..`", |text| {
        !matches!(text, "." | "..")
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    }
);

impl ContainerSessionId {
    /// The name of its container.
    pub fn container_name(&self) -> String {
        format!("{CONTAINER_NAME_PREFIX}{self}")
    }

    /// The session whose container has this name.
    pub fn of_container(name: &str) -> Option<Self> {
        Self::parse(name.strip_prefix(CONTAINER_NAME_PREFIX)?).ok()
    }
}

text_id!(
    /// A name of one more port of a session, beside the one that section 8 knows.
    PortName, "name", PORT_NAME_MAX_BYTES, "1 to 32 lower-case letters, digits or `-`, beginning with a letter", |text| {
        text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    }
);

fn is_repo_full_name(text: &str) -> bool {
    let mut parts = text.split('/');
    let valid = |part: Option<&str>| {
        part.is_some_and(|part| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        })
    };
    valid(parts.next()) && valid(parts.next()) && parts.next().is_none()
}

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident, $wire:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
        #[schemars(with = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// From a UUID that an id source has minted or a database holds.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Reads the hyphenated lower-case text form; every other spelling is somebody else's id.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                let wrong = InvalidId { name: $wire, expected: "a UUID as 36 characters of hyphenated lower-case text" };
                let uuid = Uuid::try_parse(text).map_err(|_| wrong.clone())?;
                if uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text { Ok(Self(uuid)) } else { Err(wrong) }
            }

            /// The UUID.
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// The only identity of one run: a UUIDv7, written as text.
    RunId, "runId"
);
uuid_id!(
    /// One preview of one run for one user: a UUIDv7, written as text; also the first label of its preview host.
    PreviewSessionId, "previewSessionId"
);

/// A daemon's sequence number: 0 to 2^53 - 1, what a JavaScript number holds exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(with = "u64", extend("maximum" = 9_007_199_254_740_991_u64))]
pub struct Seq(i64);

impl Seq {
    /// Checks the bounds.
    pub fn new(value: i64) -> Result<Self, InvalidId> {
        if (0..=SEQ_MAX).contains(&value) {
            Ok(Self(value))
        } else {
            Err(InvalidId { name: "seq", expected: "an integer from 0 to 9007199254740991" })
        }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Seq {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for Seq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_lengths_are_refused() {
        assert!(ThreadId::parse("t-1").is_ok());
        assert!(ThreadId::parse("").is_err());
        assert!(ThreadId::parse("a\u{0}b").is_err());
        assert!(ThreadId::parse("a\nb").is_err());
        assert!(ThreadId::parse("x".repeat(200)).is_ok());
        assert!(ThreadId::parse("x".repeat(201)).is_err());
        assert!(EventId::parse("x".repeat(256)).is_err());
    }

    #[test]
    fn a_repository_has_an_owner_and_a_name() {
        assert!(RepoFullName::parse("acme/web-app.rs").is_ok());
        for wrong in ["acme", "acme/", "/web", "a/b/c", "a b/c", "../x"] {
            assert!(RepoFullName::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_session_is_what_a_container_can_be_called_by() {
        for right in ["a", "01935d3e-7c00-7000-8000-000000000001", "A_b.c-9", "...", "-x", &"x".repeat(128)] {
            let id = ContainerSessionId::parse(right).unwrap();
            assert_eq!(id.container_name(), format!("sandbox-session-{right}"));
            assert_eq!(ContainerSessionId::of_container(&id.container_name()), Some(id));
        }
        for wrong in ["", ".", "..", "a/b", "a b", "a%2Fb", "é", "a\0", "a?b", &"x".repeat(129)] {
            assert!(ContainerSessionId::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ContainerSessionId::of_container("other-session-a"), None);
        assert!(PortName::parse("api-2").is_ok());
        for wrong in ["", "2", "API", "a_b", &"x".repeat(33)] {
            assert!(PortName::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_run_id_has_one_spelling() {
        let id = "01935d3e-7c00-7000-8000-000000000001";
        assert_eq!(RunId::parse(id).unwrap().to_string(), id);
        assert!(RunId::parse(&id.to_uppercase()).is_err());
        assert!(RunId::parse(&id.replace('-', "")).is_err());
        assert!(RunId::parse(&format!("{{{id}}}")).is_err());
    }

    #[test]
    fn a_sequence_number_fits_a_javascript_number() {
        assert!(Seq::new(0).is_ok() && Seq::new(9_007_199_254_740_991).is_ok());
        assert!(Seq::new(-1).is_err() && Seq::new(9_007_199_254_740_992).is_err());
    }
}
