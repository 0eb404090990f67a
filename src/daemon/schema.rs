//! The wire format as one JSON schema, generated from the types.

use runwarden_actors::contract::{Ack, AckFrame, DaemonEnvelope, HelloFrame, Position};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema document: each type of the wire under `$defs`; the document itself describes an envelope.
pub fn json_schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let envelope = generator.subschema_for::<DaemonEnvelope>();
    let _ = generator.subschema_for::<Ack>();
    let _ = generator.subschema_for::<AckFrame>();
    let _ = generator.subschema_for::<HelloFrame>();
    let _ = generator.subschema_for::<Position>();
    let mut definitions = generator.take_definitions(true);
    name_frame(&mut definitions, "ack", "AckFrame");
    name_frame(&mut definitions, "hello", "HelloFrame");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Runwarden daemon protocol, payload version 2",
        "description": "An envelope as a daemon sends it. Under `$defs` also what the server answers: `Ack` over HTTP, \
            `AckFrame` and `HelloFrame` on a stream, `Position` where a daemon asks for its place.",
        "$ref": envelope.get("$ref"),
        "$defs": definitions,
    })
}

/// The generator knows a frame by its tag and leaves the tag out; serde writes it. Puts both right.
fn name_frame(definitions: &mut Map<String, Value>, tag: &str, name: &str) {
    let Some(mut frame) = definitions.remove(tag) else { return };
    if let Some(properties) = frame.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("type".to_owned(), json!({ "type": "string", "const": tag }));
    }
    if let Some(required) = frame.get_mut("required").and_then(Value::as_array_mut) {
        required.insert(0, json!("type"));
    }
    definitions.insert(name.to_owned(), frame);
}

/// The document as it is published: indented, with a final line feed.
pub fn json_schema_text() -> String {
    format!("{:#}\n", json_schema())
}
