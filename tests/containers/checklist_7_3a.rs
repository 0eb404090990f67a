//! Task 7.3A: preview port registration.

use serde_json::{Value, json};

use crate::app::block_on;
use crate::world::{APP, Place, World, locked};

#[test]
fn register_valid_port_1024_65535() {
    block_on(async {
        let world = World::new("a1").await;
        let id = world.idle("s", Place::Anywhere).await;
        for port in [1024, 3000, 65535] {
            world.register(&id, port).await;
        }
    });
}

#[test]
fn reject_invalid_port_range() {
    block_on(async {
        let world = World::new("a2").await;
        let id = world.idle("s", Place::Anywhere).await;
        let expected = locked("invalid_request", 400, "Port must be an integer between 1024 and 65535", "Bad Request");
        for port in [json!(1023), json!(65536), json!(0), json!(-1), json!(80.5), json!("3000"), json!(true)] {
            assert_eq!(world.ask_to_register(&id, json!({"port": port})).await, (400, expected.clone()), "{port}");
        }
        let answer = world.ask("GET", &format!("/previews/{id}/")).await;
        assert_eq!(answer.status, 404, "a refused port is not registered");
    });
}

#[test]
fn reject_missing_port() {
    block_on(async {
        let world = World::new("a3").await;
        let id = world.idle("s", Place::Anywhere).await;
        let expected = locked("invalid_request", 400, "Request body field 'port' is required", "Bad Request");
        for body in [json!({}), json!({"port": null}), json!({"Port": 3000}), json!([])] {
            assert_eq!(world.ask_to_register(&id, body.clone()).await, (400, expected.clone()), "{body}");
        }
        let path = format!("/api/internal/sessions/{id}/previews");
        assert_eq!(world.server.internal(reqwest::Method::POST, &path, None).await, (400, expected));
    });
}

#[test]
fn validate_container_is_running() {
    block_on(async {
        let world = World::new("a4").await;
        let id = world.idle("s", Place::Anywhere).await;
        world.docker.pause_container(&world.container("s")).await.unwrap();
        let not_running = format!("Container for session {id} is not running");
        let not_running = locked("container_not_running", 500, &not_running, "Internal Server Error");
        assert_eq!(world.ask_to_register(&id, json!({"port": APP})).await, (500, not_running.clone()), "paused");
        world.docker.unpause_container(&world.container("s")).await.unwrap();
        world.stop("s").await;
        assert_eq!(world.ask_to_register(&id, json!({"port": APP})).await, (500, not_running), "stopped");
        world.remove("s").await;
        let (status, body) = world.ask_to_register(&id, json!({"port": APP})).await;
        let message = body["message"].as_str().unwrap();
        assert!(
            status == 500 && message.starts_with(&format!("Failed to validate container for session {id}: ")),
            "{body}"
        );
        // What no container can be called by.
        let (status, body) = world.ask_to_register("a%2Fb", json!({"port": APP})).await;
        let message = body["message"].as_str().unwrap();
        assert!(status == 500 && message.starts_with("Failed to validate container for session a/b: "), "{body}");
    });
}

#[test]
fn return_registration_confirmation() {
    block_on(async {
        let world = World::new("a5").await;
        let id = world.idle("s", Place::Anywhere).await;
        let (status, body) = world.ask_to_register(&id, json!({"port": 3000, "more": "ignored"})).await;
        assert_eq!((status, body), (200, json!({"sessionId": id, "port": 3000, "registered": true})));
    });
}

#[test]
fn require_x_internal_service_key() {
    block_on(async {
        let world = World::new("a6").await;
        let id = world.idle("s", Place::Anywhere).await;
        let path = format!("/api/internal/sessions/{id}/previews");
        for lines in ["", "X-Internal-Service-Key: wrong\r\n", "Authorization: Bearer internal-key-of-the-tests\r\n"] {
            // Without the key, nobody is told what else would be wrong either.
            for body in ["{\"port\":3000}", "{\"port\":1}", "nonsense"] {
                let answer = world.send("POST", &path, lines, body).await;
                let expected: Value = locked("permission_denied", 403, "Forbidden", "Forbidden");
                assert_eq!((answer.status, answer.json()), (403, expected), "{lines}");
            }
        }
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 404);
    });
}
