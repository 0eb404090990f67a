//! One message of an envelope, in the letters in which it is sent.

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// A JSON object as it came, letter for letter: the order of its fields and all digits of its numbers are the agent's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    json: String,
    kind: Option<String>,
}

impl Message {
    /// Takes the text of an object that was read as `value`.
    pub(super) fn as_it_came(text: &str, value: &Value) -> Self {
        Self { json: text.to_owned(), kind: value.get("type").and_then(Value::as_str).map(ToOwned::to_owned) }
    }

    /// Its `type`, if that is text.
    pub(super) fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// How many bytes it takes in an envelope.
    pub(super) fn bytes(&self) -> usize {
        self.json.len()
    }

    /// A `system` message of this subtype, made of ASCII letters and `-`, with this one inside.
    pub(super) fn inside(&self, subtype: &str) -> Self {
        let json = format!(r#"{{"type":"system","subtype":"{subtype}","message":{}}}"#, self.json);
        Self { json, kind: Some("system".to_owned()) }
    }
}

impl From<Value> for Message {
    /// The daemon's own, which is an object.
    fn from(value: Value) -> Self {
        Self::as_it_came(&value.to_string(), &value)
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.json).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

#[cfg(test)]
impl Message {
    /// For comparisons.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap()
    }

    pub(super) fn text(&self) -> &str {
        &self.json
    }
}
