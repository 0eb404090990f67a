//! The one place that knows the old name of a sandbox's id (section 1).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::CodesandboxId;

/// Reads a sandbox's id under its name or its alias `sandboxInstanceId`; both together must agree. Writes only
/// the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxRef {
    /// The sandbox's id.
    pub codesandbox_id: CodesandboxId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    codesandbox_id: Option<CodesandboxId>,
    sandbox_instance_id: Option<CodesandboxId>,
}

impl<'de> Deserialize<'de> for SandboxRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let either = Either::deserialize(deserializer)?;
        match (either.codesandbox_id, either.sandbox_instance_id) {
            (Some(id), Some(alias)) if id != alias => {
                Err(serde::de::Error::custom("codesandboxId and sandboxInstanceId name different sandboxes"))
            }
            (Some(codesandbox_id), _) | (None, Some(codesandbox_id)) => Ok(Self { codesandbox_id }),
            (None, None) => Err(serde::de::Error::missing_field("codesandboxId")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_name_is_read_and_one_is_written() {
        for json in [r#"{"codesandboxId":"s1"}"#, r#"{"sandboxInstanceId":"s1"}"#] {
            let sandbox: SandboxRef = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&sandbox).unwrap(), r#"{"codesandboxId":"s1"}"#);
        }
        let both = r#"{"codesandboxId":"s1","sandboxInstanceId":"s2"}"#;
        assert!(serde_json::from_str::<SandboxRef>(both).is_err());
    }
}
