//! The published schema is the one of the types.

use std::path::Path;

use runwarden::daemon::schema::{json_schema, json_schema_text};
use runwarden_actors::contract::HelloFrame;
use serde_json::json;

use crate::support::run_id;

#[test]
fn the_published_schema_is_the_one_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema/daemon-v2.schema.json");
    let generated = json_schema_text();
    if std::env::var_os("UPDATE_GENERATED").is_some_and(|value| value == "1") {
        std::fs::write(&path, &generated).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        published == generated,
        "docs/schema/daemon-v2.schema.json is not what the types say; write it anew with UPDATE_GENERATED=1"
    );
}

#[test]
fn the_schema_says_what_the_contract_says() {
    let schema = json_schema();
    let definitions = schema["$defs"].as_object().unwrap();
    for name in ["DaemonEnvelope", "Ack", "Position"] {
        assert!(definitions.contains_key(name), "{name} is missing from {:?}", definitions.keys());
    }
    let envelope = &definitions["DaemonEnvelope"];
    let mut required: Vec<_> =
        envelope["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    required.sort_unstable();
    assert_eq!(
        required,
        ["eventId", "messages", "payloadVersion", "runId", "seq", "threadChatId", "threadId", "timezone"]
    );
    assert_eq!(definitions["Seq"]["maximum"], json!(9_007_199_254_740_991_u64));
    for always in ["acknowledgedEventId", "acknowledgedSeq"] {
        assert!(definitions["Ack"]["required"].as_array().unwrap().contains(&json!(always)), "{always}");
    }
    let hello = serde_json::to_value(HelloFrame { run_id: run_id(), last_accepted_seq: None, payload_version: 2 });
    assert_eq!(definitions["HelloFrame"]["properties"]["type"]["const"], hello.unwrap()["type"]);
    assert_eq!(definitions["AckFrame"]["properties"]["type"]["const"], "ack");
    for frame in ["AckFrame", "HelloFrame"] {
        assert!(definitions[frame]["required"].as_array().unwrap().contains(&json!("type")), "{frame}");
    }
}
