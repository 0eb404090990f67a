//! A JSON number in its sender's spelling.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Error as _, Unexpected};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A JSON number as it was written: `1e2` stays `1e2`, and one that no machine number holds stays what it is. A daemon
/// that compares texts recognises what it has sent (section 4).
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct NumberText(Box<RawValue>);

impl NumberText {
    /// The number's text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The value, where it is written as an integer from 0 to 2^63 - 1: `1e2`, `1.0` and `-0` are not.
    pub fn as_integer(&self) -> Option<i64> {
        let text = self.as_str();
        if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
    }
}

impl PartialEq for NumberText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<'de> Deserialize<'de> for NumberText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let other = match raw.get().as_bytes().first() {
            Some(b'-' | b'0'..=b'9') => return Ok(Self(raw)),
            Some(b'"') => "a string",
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            _ => "another value",
        };
        Err(D::Error::invalid_type(Unexpected::Other(other), &"a number"))
    }
}

impl JsonSchema for NumberText {
    fn schema_name() -> Cow<'static, str> {
        serde_json::Number::schema_name()
    }

    fn inline_schema() -> bool {
        serde_json::Number::inline_schema()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        serde_json::Number::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_spelling_and_nothing_else_is_one() {
        let integers = [("0", Some(0)), ("9223372036854775807", Some(i64::MAX)), ("9223372036854775808", None)];
        let others = [("1e2", None), ("1.0", None), ("-0", None), ("-1", None), ("1E+400", None), ("0.10", None)];
        for (text, value) in integers.into_iter().chain(others) {
            let number: NumberText = serde_json::from_str(text).unwrap();
            assert_eq!((number.as_integer(), serde_json::to_string(&number).unwrap().as_str()), (value, text));
        }
        for wrong in ["\"1\"", "{}", "[1]", "true", "null", "01", "+1", ".5", "1.", "NaN", "0x1", "-"] {
            assert!(serde_json::from_str::<NumberText>(wrong).is_err(), "{wrong}");
        }
        let error = serde_json::from_str::<NumberText>("\"1\"").unwrap_err().to_string();
        assert!(error.contains("a string, expected a number"), "{error}");
    }
}
