//! Whose address it is: the engine is asked each time, and once more before anything is sent.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::app::{Db, Options, TestServer, block_on};
use crate::docker::DockerEngine;
use crate::fake_engine::{container, engine, own_address};
use crate::raw::Raw;
use crate::world::{APP, Place, ROUTES, World};

#[test]
fn a_container_restarted_at_another_address_is_found_there_and_never_the_stranger_at_the_old_one() {
    block_on(async {
        let mut world = World::new("moved").await;
        // Of this test alone: in the other network somebody else might take the address in between.
        world.network = DockerEngine::shared().second_network().await;
        let id = world.app("mine").await;
        let container = world.container("mine");
        world.register(&id, APP).await;
        let old = world.address(&container).await;
        for route in ROUTES {
            let answer = world.ask("GET", &format!("{route}/{id}/")).await;
            assert_eq!((answer.status, &answer.json()["who"]), (200, &"mine".into()));
        }

        world.stop("mine").await;
        let IpAddr::V4(free) = old else { panic!("{old}") };
        let stranger = world.app_at("stranger-of-moved", "stranger", Place::At(free)).await;
        assert_eq!(stranger, old, "the stranger has the old address");
        for route in ROUTES {
            let answer = world.ask("GET", &format!("{route}/{id}/")).await;
            assert_eq!(answer.status, 500, "while it is stopped: {}", answer.text());
        }

        world.docker.start_container(&container, None).await.unwrap();
        let new = world.listening(&container).await;
        assert_ne!(new, old);
        for route in ROUTES {
            for _ in 0..5 {
                let answer = world.ask("GET", &format!("{route}/{id}/")).await;
                assert_eq!((answer.status, &answer.json()["who"]), (200, &"mine".into()));
            }
        }
        println!(
            "first request: {old} answered as mine; then a stranger had {old}; second request: {new} answered as mine"
        );
    });
}

/// The address changes hands between the question and the connection: the stranger has taken the connection, and gets
/// not a byte of the request.
#[test]
fn whoever_took_the_address_while_it_was_connected_to_is_sent_nothing() {
    block_on(async {
        // Not loopback, which no container has; the stranger listens on an address of this machine.
        let own = own_address().await;
        for moved in ["life", "container", "place", "nothing"] {
            let stranger = TcpListener::bind((own, 0)).await.unwrap();
            let port = stranger.local_addr().unwrap().port();
            let got: Arc<Mutex<Option<Vec<u8>>>> = Arc::default();
            let kept = Arc::clone(&got);
            tokio::spawn(async move {
                let (mut stream, _) = stranger.accept().await.unwrap();
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await.unwrap_or(0);
                *kept.lock().unwrap() = Some(bytes[..count].to_vec());
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
            });
            let address = own.to_string();
            // One question registers, one comes before the connection, one after it.
            let host = engine(move |question| match (question, moved) {
                (2, "life") => container("c", "later", "e", &address),
                (2, "container") => container("d", "then", "e", &address),
                (2, "place") => container("c", "then", "f", &address),
                _ => container("c", "then", "e", &address),
            })
            .await;
            let server = TestServer::with(Options::new(Db::Sqlite).set("DOCKER_HOST", host));
            let (status, body) = server.post("/api/internal/sessions/s/previews", json!({"port": port})).await;
            assert_eq!(status, 200, "{body}");
            let answer = Raw::ask(&server.url, "GET /previews/s/secret HTTP/1.1\r\nHost: x\r\n\r\n").await;
            for _ in 0..100 {
                if got.lock().unwrap().is_some() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            let got = got.lock().unwrap().clone().expect("the stranger was connected to");
            if moved == "nothing" {
                assert!(answer.status == 200 && got.starts_with(b"GET /secret"), "{}", answer.head);
            } else {
                assert_eq!((answer.status, got.len()), (502, 0), "{moved}: {}", String::from_utf8_lossy(&got));
            }
        }
    });
}
