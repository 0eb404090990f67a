//! `GET /openapi.json` (section 13): the routes from their handlers, the shapes from the types.

use std::sync::OnceLock;

use actix_web::HttpResponse;
use runwarden_actors::contract::{Ack, DaemonEnvelope, ErrorCode, Position, Seq, Timestamp};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::previews::{access, embed, exchange, paths, probe, sessions, subscribe};
use super::{chats, containers, daemon_events, daemon_stream, events, flags, health, quarantine, runs};

/// Routes by their handlers; a test compares them with those that are served.
#[derive(OpenApi)]
#[openapi(
    info(title = "Runwarden", description = "Supervises the runs of coding agents in sandboxes."),
    paths(
        runs::create,
        runs::bind,
        runs::get,
        events::get,
        chats::get,
        flags::get,
        flags::put,
        flags::delete,
        quarantine::list,
        daemon_events::post_event,
        daemon_events::get_position,
        daemon_stream::open,
        sessions::start,
        sessions::get,
        sessions::exchange_token,
        sessions::revoke_session,
        access::invalidate,
        embed::get,
        exchange::exchange,
        exchange::subscription_token,
        probe::probe,
        subscribe::subscribe,
        paths::any,
        containers::lifecycle::create,
        containers::lifecycle::get,
        containers::lifecycle::start,
        containers::lifecycle::stop,
        containers::lifecycle::remove,
        containers::exec::exec,
        containers::files::get,
        containers::files::put,
        containers::previews::register,
        containers::proxies::public,
        containers::proxies::internal,
        containers::proxies::public_named,
        containers::proxies::internal_named,
        containers::later::remove,
        containers::later::register_named,
        containers::later::remove_named,
        containers::later::health,
        health::healthz,
        health::readyz,
        health::metrics,
    )
)]
struct Routes;

/// The body of every error.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct ErrorBody {
    code: ErrorCode,
    message: String,
    retry_after_ms: Option<u64>,
}

/// The body of an error of container previews (section 8).
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct LockedErrorBody {
    code: ErrorCode,
    message: String,
    error: String,
    status_code: u16,
}

/// A stored event; whatever else the daemon sent stands beside these fields.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct ReaderEvent {
    seq: Seq,
    event_id: Option<String>,
    messages: Vec<Map<String, Value>>,
    end_sha: Option<String>,
    received_at: Timestamp,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

/// A page of events; `nextAfter` goes into `after` of the next call.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "only its schema is used")]
struct EventPage {
    events: Vec<ReaderEvent>,
    next_after: Option<Seq>,
}

/// The document.
pub(super) async fn get() -> HttpResponse {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let text = DOCUMENT.get_or_init(|| document().to_string());
    HttpResponse::Ok().content_type("application/json").body(text.as_str())
}

fn document() -> Value {
    let mut document = serde_json::to_value(Routes::openapi()).unwrap_or_default();
    require_bodies(&mut document);
    document["openapi"] = json!("3.1.0");
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let key = |name: &str, about: &str| json!({"type": "apiKey", "in": "header", "name": name, "description": about});
    document["components"] = json!({
        "schemas": schemas(),
        "securitySchemes": {
            "internal": key("X-Internal-Service-Key", "The shared key of host applications"),
            "daemon": key("X-Daemon-Token", "The token that was given when the run was made"),
        },
    });
    document
}

/// The one route whose body may be left out.
const OPTIONAL_BODY: &str = "/api/internal/sessions/{session_id}/stop";

/// utoipa takes a body that is named by a reference for one that may be left out.
fn require_bodies(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    for (_, route) in paths.iter_mut().filter(|(path, _)| *path != OPTIONAL_BODY) {
        for operation in route.as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Some(body) = operation.get_mut("requestBody") {
                body["required"] = json!(true);
            }
        }
    }
}

fn schemas() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = SchemaGenerator::new(settings);
    generator.subschema_for::<ErrorBody>();
    generator.subschema_for::<EventPage>();
    generator.subschema_for::<Ack>();
    generator.subschema_for::<DaemonEnvelope>();
    generator.subschema_for::<Position>();
    generator.subschema_for::<runs::CreateRun>();
    generator.subschema_for::<runs::CreatedRun>();
    generator.subschema_for::<runs::BindRun>();
    generator.subschema_for::<runs::RunBody>();
    generator.subschema_for::<chats::ChatBody>();
    generator.subschema_for::<flags::FlagBody>();
    generator.subschema_for::<flags::FlagAnswer>();
    generator.subschema_for::<quarantine::QuarantinePage>();
    generator.subschema_for::<sessions::StartBody>();
    generator.subschema_for::<sessions::SessionBody>();
    generator.subschema_for::<sessions::ExchangeTokenBody>();
    generator.subschema_for::<sessions::RevokedBody>();
    generator.subschema_for::<access::InvalidateBody>();
    generator.subschema_for::<exchange::ExchangeBody>();
    generator.subschema_for::<exchange::ExchangedBody>();
    generator.subschema_for::<exchange::SubscriptionTokenBody>();
    generator.subschema_for::<probe::ProbeBody>();
    generator.subschema_for::<LockedErrorBody>();
    generator.subschema_for::<containers::lifecycle::CreateContainer>();
    generator.subschema_for::<containers::lifecycle::StopContainer>();
    generator.subschema_for::<containers::lifecycle::ContainerBody>();
    generator.subschema_for::<containers::exec::ExecBody>();
    generator.subschema_for::<containers::exec::ExecAnswerBody>();
    generator.subschema_for::<containers::files::EntryBody>();
    generator.subschema_for::<containers::files::ListBody>();
    generator.subschema_for::<containers::previews::RegisterBody>();
    generator.subschema_for::<containers::previews::RegisteredBody>();
    generator.subschema_for::<containers::later::NamedBody>();
    generator.subschema_for::<containers::later::HealthBody>();
    generator.take_definitions(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 30, "{}", found.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_body_is_required_wherever_it_is_read() {
        let document = document();
        let required = |path: &str, method: &str| document["paths"][path][method]["requestBody"]["required"].as_bool();
        assert_eq!(required("/api/internal/runs", "post"), Some(true));
        assert_eq!(required("/api/internal/sessions/{session_id}/exec", "post"), Some(true));
        assert_ne!(required(OPTIONAL_BODY, "post"), Some(true));
        assert!(document["paths"][OPTIONAL_BODY]["post"]["requestBody"].is_object());
    }

    /// The names that `routes.rs` serves, read from its text, against those of the document.
    #[test]
    fn every_route_is_described() {
        let text = include_str!("routes.rs").replace("internal(\"", "resource(\"").replace("session(\"", "resource(\"");
        // Served by scopes, because their paths are read as they came.
        let scopes = [
            "/api/preview/proxy",
            "/previews",
            "/internal-previews/proxy",
            "/preview-ports",
            "/internal-previews/ports",
        ];
        let text = scopes.iter().fold(text, |text, scope| {
            text.replace(&format!("web::scope(\"{scope}\")"), &format!("resource(\"{scope}/{{session_id}}/{{path}}\")"))
        });
        let served: Vec<&str> = text.split("resource(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        let document = document();
        let described = document["paths"].as_object().unwrap();
        assert!(served.len() > 10);
        for path in served.iter().filter(|path| **path != "/openapi.json") {
            assert!(described.contains_key(*path), "{path} is served and not described");
        }
        assert_eq!(described.len() + 1, served.len());
    }
}
