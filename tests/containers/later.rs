//! Later phases beside the locked one, each off unless a setting asks for it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::app::{Db, Options, block_on};
use crate::primitives;
use crate::world::{APP, CLOSED, ECHO, Place, World};

async fn until(mut done: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..100 {
        if done().await {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

#[test]
fn nothing_of_it_is_there_unless_it_is_asked_for() {
    block_on(async {
        let world = World::new("later-off").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let path = format!("/api/internal/sessions/{id}");
        for (method, rest, body) in [
            (Method::DELETE, "/previews", None),
            (Method::DELETE, "/previews/api", None),
            (Method::POST, "/previews/api", Some(json!({"port": APP}))),
            (Method::GET, "/preview-health", None),
        ] {
            let (status, body) = world.server.internal(method.clone(), &format!("{path}{rest}"), body).await;
            assert_eq!((status, &body["code"]), (404, &"not_found".into()), "{method} {rest}: {body}");
        }
        for route in ["/preview-ports", "/internal-previews/ports"] {
            assert_eq!(world.ask("GET", &format!("{route}/{id}/api/")).await.status, 404);
        }
        // A container that ends keeps its registration, and nobody stops one that is idle.
        world.stop("s").await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 500);
    });
}

#[test]
fn a_registration_can_be_removed() {
    block_on(async {
        let world = World::with("later-gone", Options::new(Db::Sqlite).set("CONTAINER_PREVIEW_REMOVAL", "on")).await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let path = format!("/api/internal/sessions/{id}/previews");
        assert_eq!(world.ask("DELETE", &path).await.status, 403, "without the key");
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 200);
        assert_eq!(world.server.internal(Method::DELETE, &path, None).await.0, 204);
        let gone = format!("No preview port registered for session {id}");
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.json()["message"], gone);
        let (status, body) = world.server.internal(Method::DELETE, &path, None).await;
        assert_eq!((status, &body["message"]), (404, &gone.into()));
        world.register(&id, APP).await;
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 200);
    });
}

#[test]
fn a_session_can_have_more_ports_by_name() {
    block_on(async {
        let options =
            Options::new(Db::Sqlite).set("CONTAINER_NAMED_PORTS", "on").set("CONTAINER_PREVIEW_REMOVAL", "on");
        let world = World::with("later-named", options).await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let path = format!("/api/internal/sessions/{id}/previews/raw-1");
        let (status, body) = world.server.post(&path, json!({"port": 80})).await;
        assert_eq!((status, &body["message"]), (400, &"Port must be an integer between 1024 and 65535".into()));
        let (status, body) = world.server.post(&path, json!({"port": ECHO})).await;
        assert_eq!((status, body), (200, json!({"sessionId": id, "name": "raw-1", "port": ECHO, "registered": true})));
        for route in ["/preview-ports", "/internal-previews/ports"] {
            let answer = world.ask("GET", &format!("{route}/{id}/raw-1//a/%2e?x")).await;
            assert!(answer.text().starts_with("GET //a/%2e?x HTTP/1.1\r\n"), "{}", answer.text());
            let answer = world.ask("GET", &format!("{route}/{id}/raw-1")).await;
            assert_eq!(answer.header("location"), Some(format!("{route}/{id}/raw-1/")));
            let answer = world.ask("GET", &format!("{route}/{id}/other/")).await;
            let message = format!("No preview port `other` registered for session {id}");
            assert_eq!((answer.status, &answer.json()["message"]), (404, &message.into()));
        }
        // The one without a name is as it was.
        assert_eq!(world.ask("GET", &format!("/previews/{id}/raw-1/")).await.json()["url"], "/raw-1/");
        for name in ["RAW", "a_b", "1"] {
            let (status, _) =
                world.server.post(&format!("/api/internal/sessions/{id}/previews/{name}"), json!({"port": ECHO})).await;
            assert_eq!(status, 400, "{name}");
        }
        assert_eq!(world.server.internal(Method::DELETE, &path, None).await.0, 204);
        assert_eq!(world.ask("GET", &format!("/preview-ports/{id}/raw-1/")).await.status, 404);
        assert_eq!(world.ask("GET", &format!("/previews/{id}/")).await.status, 200);
    });
}

#[test]
fn health_says_why_a_preview_does_not_answer() {
    block_on(async {
        let world = World::with("later-health", Options::new(Db::Sqlite).set("CONTAINER_PREVIEW_HEALTH", "on")).await;
        let id = world.app("s").await;
        let alone = world.idle("alone", Place::Nowhere).await;
        let health = async |id: &str| {
            let (status, body) = world.server.get(&format!("/api/internal/sessions/{id}/preview-health")).await;
            assert_eq!(status, 200, "{body}");
            assert!(!body["message"].as_str().unwrap().is_empty(), "{body}");
            (body["healthy"].as_bool().unwrap(), body["reason"].clone(), body["status"].clone())
        };
        let why = |reason: &str| (false, Value::from(reason), Value::Null);
        assert_eq!(health(&id).await, why("not_registered"));
        world.register(&id, APP).await;
        assert_eq!(health(&id).await, (true, Value::Null, json!(200)));
        world.register(&id, CLOSED).await;
        assert_eq!(health(&id).await, why("connection_refused"));
        world.register(&alone, APP).await;
        assert_eq!(health(&alone).await, why("container_no_address"));
        world.register(&id, APP).await;
        world.stop("s").await;
        assert_eq!(health(&id).await, why("container_not_running"));
        world.remove("s").await;
        assert_eq!(health(&id).await, why("container_unavailable"));
    });
}

#[test]
fn a_container_that_ends_loses_its_registration() {
    block_on(async {
        let world = World::with("later-events", Options::new(Db::Sqlite).set("CONTAINER_EVENTS", "on")).await;
        let (stopped, removed, renamed, stays) = (
            world.app("stopped").await,
            world.app("removed").await,
            world.app("renamed").await,
            world.app("stays").await,
        );
        for id in [&stopped, &removed, &renamed, &stays] {
            world.register(id, APP).await;
        }
        world.stop("stopped").await;
        world.remove("removed").await;
        let options = bollard::query_parameters::RenameContainerOptionsBuilder::default().name("another-name").build();
        world.docker.rename_container(&world.container("renamed"), options).await.unwrap();
        for id in [&stopped, &removed, &renamed] {
            let gone = until(async || world.ask("GET", &format!("/previews/{id}/")).await.status == 404).await;
            assert!(gone, "{id} is still registered");
        }
        assert_eq!(world.ask("GET", &format!("/previews/{stays}/")).await.status, 200);
        // Started again, it has to be registered again; what ended before does not end that.
        world.docker.start_container(&world.container("stopped"), None).await.unwrap();
        world.listening(&world.container("stopped")).await;
        assert_eq!(world.ask("GET", &format!("/previews/{stopped}/")).await.status, 404);
        world.register(&stopped, APP).await;
        sleep(Duration::from_millis(300)).await;
        assert_eq!(world.ask("GET", &format!("/previews/{stopped}/")).await.status, 200);
        // A pause is no end.
        world.docker.pause_container(&world.container("stays")).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        world.docker.unpause_container(&world.container("stays")).await.unwrap();
        assert_eq!(world.ask("GET", &format!("/previews/{stays}/")).await.status, 200);
    });
}

#[test]
fn a_container_that_nobody_uses_is_warned_of_and_then_stopped() {
    block_on(async {
        // Other tests' containers on this engine are of another installation.
        let options = primitives::options()
            .set("PREVIEW_ENVIRONMENT", "idle-test")
            .set("CONTAINER_IDLE_STOP_SECONDS", "3")
            .set("CONTAINER_IDLE_WARNING_SECONDS", "1");
        let world = World::with("later-idle", options).await;
        let foreign = world.idle("foreign", Place::Anywhere).await;
        let (idle, busy) = (world.id("idle"), world.id("busy"));
        for id in [&idle, &busy] {
            assert_eq!(world.server.post(&format!("/api/internal/sessions/{id}"), json!({})).await.0, 201);
            assert_eq!(world.start(id).await.0, 200);
        }
        let counted = async |what: &str| {
            let text = world.ask("GET", "/metrics").await.text();
            text.lines().any(|line| line.contains("container_idle") && line.contains(what))
        };
        let state = async |id: &str| {
            let (_, body) = world.server.get(&format!("/api/internal/sessions/{id}")).await;
            body["state"].as_str().unwrap().to_owned()
        };
        // One long command keeps the other one in use.
        let working = world.exec(&busy, json!({"command": ["sleep", "5"]}));
        let watching = async {
            assert!(until(async || counted("warned").await).await, "no warning");
            assert_eq!(state(&idle).await, "running", "the warning comes before the end");
            assert!(!counted("stopped").await);
            assert!(until(async || state(&idle).await == "exited").await, "it was not stopped");
            assert_eq!(state(&busy).await, "running");
        };
        let (worked, ()) = tokio::join!(working, watching);
        assert_eq!(worked.1["exitCode"], 0, "{}", worked.1);
        assert!(counted("stopped").await);
        // Not created here, so not touched.
        assert_eq!(state(&foreign).await, "running");
    });
}
