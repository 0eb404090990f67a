//! What an engine answers is not believed further than it has to be, and does not reach those who showed no key.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::app::{Db, Options, TestServer, block_on};
use crate::fake_engine::{container, engine, engine_that_answers, own_address};
use crate::raw::Raw;
use crate::world::{ROUTES, locked};

async fn register(server: &TestServer) {
    let (status, body) = server.post("/api/internal/sessions/s/previews", json!({"port": 3000})).await;
    assert_eq!(status, 200, "{body}");
}

async fn show(server: &TestServer, route: &str) -> (u16, Value) {
    let answer = Raw::ask(&server.url, format!("GET {route}/s/ HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    (answer.status, answer.json())
}

#[test]
fn the_engines_own_words_are_for_those_with_the_key() {
    block_on(async {
        let secret = json!({"message": "dial unix /var/run/secret.sock: token=abc"}).to_string();
        for status in [500, 409, 400, 403] {
            let words = secret.clone();
            // One question registers.
            let host = engine_that_answers(move |question| match question {
                0 => (200, container("c", "then", "e", "10.0.0.2").to_string()),
                _ => (status, words.clone()),
            })
            .await;
            let server = TestServer::with(Options::new(Db::Sqlite).set("DOCKER_HOST", host));
            register(&server).await;
            let message = "Failed to validate container for session s: the Docker engine refused";
            let expected = locked("container_unavailable", 500, message, "Internal Server Error");
            for route in ROUTES {
                assert_eq!(show(&server, route).await, (500, expected.clone()), "{status}");
            }
            let (_, body) = server.post("/api/internal/sessions/s/previews", json!({"port": 3000})).await;
            assert_eq!(body, expected);
            let (_, body) = server.get("/api/internal/sessions/s").await;
            assert!(body["message"].as_str().unwrap().contains("token=abc"), "the operator's own: {body}");
        }
    });
}

#[test]
fn no_answer_is_read_beyond_its_bound() {
    block_on(async {
        let megabytes = |count: usize| "x".repeat(count * 1024 * 1024);
        for status in [200, 404, 500] {
            let host = engine_that_answers(move |question| {
                let mut found = container("c", "then", "e", "10.0.0.2");
                // The first one is as large as one may be.
                found["Name"] = json!(megabytes(if question == 0 { 7 } else { 9 }));
                (if question == 0 { 200 } else { status }, found.to_string())
            })
            .await;
            let server = TestServer::with(Options::new(Db::Sqlite).set("DOCKER_HOST", host));
            register(&server).await;
            let why = "the Docker engine's answer has more than 8388608 bytes";
            let (status, body) = show(&server, ROUTES[1]).await;
            assert_eq!(
                (status, &body["message"]),
                (500, &format!("Failed to validate container for session s: {why}").into())
            );
            let (status, body) = server.get("/api/internal/sessions/s").await;
            assert_eq!((status, &body["code"], &body["message"]), (502, &"upstream_unreachable".into(), &why.into()));
        }
    });
}

#[test]
fn an_address_that_no_container_has_is_none() {
    block_on(async {
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "255.255.255.255"] {
            let host = engine(move |_| container("c", "then", "e", address)).await;
            let server = TestServer::with(Options::new(Db::Sqlite).set("DOCKER_HOST", host));
            register(&server).await;
            let (status, body) = show(&server, ROUTES[0]).await;
            let message = "Container for session s has no IP address";
            assert_eq!((status, &body["message"]), (500, &message.into()), "{address}");
        }
    });
}

#[test]
fn an_app_that_answers_as_none_may_is_not_healthy() {
    block_on(async {
        let own = own_address().await;
        let app = TcpListener::bind((own, 0)).await.unwrap();
        let port = app.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = app.accept().await {
                let mut bytes = vec![0; 4096];
                let _ = stream.read(&mut bytes).await;
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
            }
        });
        let host = engine(move |_| container("c", "then", "e", &own.to_string())).await;
        let options = Options::new(Db::Sqlite).set("DOCKER_HOST", host).set("CONTAINER_PREVIEW_HEALTH", "on");
        let server = TestServer::with(options);
        let (status, body) = server.post("/api/internal/sessions/s/previews", json!({"port": port})).await;
        assert_eq!(status, 200, "{body}");
        let (status, body) = server.get("/api/internal/sessions/s/preview-health").await;
        assert_eq!((status, &body["healthy"], &body["reason"]), (200, &false.into(), &"not_http".into()), "{body}");
        assert_eq!(show(&server, ROUTES[0]).await.0, 502, "as a request finds it");
    });
}
