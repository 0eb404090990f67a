//! The wire format as one JSON schema, generated from the types.

use runwarden_actors::contract::{Ack, AckFrame, DaemonEnvelope, HelloFrame, Position};
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

/// The schema document: each type of the wire under `$defs`; the document itself describes an envelope.
pub fn json_schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let envelope = generator.subschema_for::<DaemonEnvelope>();
    let _ = generator.subschema_for::<Ack>();
    let _ = generator.subschema_for::<AckFrame>();
    let _ = generator.subschema_for::<HelloFrame>();
    let _ = generator.subschema_for::<Position>();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Runwarden daemon protocol, payload version 2",
        "description": "An envelope as a daemon sends it. Under `$defs` also what the server answers: `Ack` over HTTP, \
            `AckFrame` and `HelloFrame` on a stream, `Position` where a daemon asks for its place.",
        "$ref": envelope.get("$ref"),
        "$defs": generator.take_definitions(true),
    })
}

/// The document as it is published: indented, with a final line feed.
pub fn json_schema_text() -> String {
    format!("{:#}\n", json_schema())
}
