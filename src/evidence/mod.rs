//! Large payloads and artifacts: the port `EvidenceStore` on local files or S3 (section 13, `OBJECT_STORE_URL`).

mod key;
mod object_store;

pub use self::object_store::{
    AwsSettings, EVIDENCE_CALL_TIMEOUT_MS, EVIDENCE_OBJECT_MAX_BYTES, EvidenceSettingError, ObjectEvidence,
};
