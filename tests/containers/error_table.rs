//! The eight rows of the locked error table, each produced by its real condition. `--nocapture` prints them as received.

use serde_json::json;

use crate::app::block_on;
use crate::world::{APP, CLOSED, Place, ROUTES, World, locked};

#[test]
fn every_row_is_produced_by_its_real_condition() {
    block_on(async {
        let world = World::new("table").await;
        let app = world.app("app").await;
        let stopped = world.app("stopped").await;
        let gone = world.idle("gone", Place::Anywhere).await;
        let alone = world.idle("alone", Place::Nowhere).await;
        for (id, port) in [(&app, CLOSED), (&stopped, APP), (&gone, APP), (&alone, APP)] {
            world.register(id, port).await;
        }
        world.stop("stopped").await;
        world.remove("gone").await;
        let nobody = world.id("nobody");

        let key = "X-Internal-Service-Key: internal-key-of-the-tests\r\n";
        let path = |id: &str| format!("/api/internal/sessions/{id}/previews");
        let internal = "Internal Server Error";
        let missing = format!(
            "Failed to validate container for session {gone}: there is no container `{}`",
            world.container("gone")
        );
        let rows = [
            (
                "Invalid port range",
                "a port of 80",
                "POST",
                path(&app),
                key,
                "{\"port\":80}",
                locked("invalid_request", 400, "Port must be an integer between 1024 and 65535", "Bad Request"),
            ),
            (
                "Missing port in request",
                "a body without one",
                "POST",
                path(&app),
                key,
                "{}",
                locked("invalid_request", 400, "Request body field 'port' is required", "Bad Request"),
            ),
            (
                "No port registered",
                "nobody has registered",
                "GET",
                nobody.clone(),
                "",
                "",
                locked("not_found", 404, &format!("No preview port registered for session {nobody}"), "Not Found"),
            ),
            (
                "Container not found",
                "registered, then removed",
                "GET",
                gone.clone(),
                "",
                "",
                locked("container_unavailable", 500, &missing, internal),
            ),
            (
                "Container not running",
                "registered, then stopped",
                "GET",
                stopped.clone(),
                "",
                "",
                locked(
                    "container_not_running",
                    500,
                    &format!("Container for session {stopped} is not running"),
                    internal,
                ),
            ),
            (
                "No container IP",
                "runs with the network `none`",
                "GET",
                alone.clone(),
                "",
                "",
                locked(
                    "container_no_address",
                    500,
                    &format!("Container for session {alone} has no IP address"),
                    internal,
                ),
            ),
            (
                "Proxy connection failed",
                "nobody listens at the port",
                "GET",
                app.clone(),
                "",
                "",
                locked("upstream_unreachable", 502, "Bad Gateway", "Failed to connect to preview server"),
            ),
            (
                "Missing auth (internal)",
                "no X-Internal-Service-Key",
                "POST",
                path(&app),
                "",
                "{\"port\":3000}",
                locked("permission_denied", 403, "Forbidden", "Forbidden"),
            ),
        ];
        println!("| scenario | condition | route | status | body as received |\n|---|---|---|---|---|");
        for (scenario, condition, method, place, lines, body, expected) in rows {
            let targets = match method {
                "POST" => vec![place],
                _ => ROUTES.iter().map(|route| format!("{route}/{place}/")).collect(),
            };
            for target in targets {
                let answer = world.send(method, &target, lines, body).await;
                println!(
                    "| {scenario} | {condition} | `{method} {target}` | {} | `{}` |",
                    answer.status,
                    answer.text()
                );
                assert_eq!(answer.header("content-type").as_deref(), Some("application/json"), "{scenario}");
                assert_eq!(
                    (json!(answer.status), answer.json()),
                    (expected["statusCode"].clone(), expected.clone()),
                    "{scenario}"
                );
            }
        }
    });
}
