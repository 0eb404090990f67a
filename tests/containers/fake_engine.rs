//! An engine that says what a test tells it about the only container that it has.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::docker::{DockerEngine, NETWORK};

/// One answer for each question; what `DOCKER_HOST` would be.
pub async fn engine(answers: impl Fn(usize) -> Value + Send + Sync + 'static) -> String {
    engine_that_answers(move |question| (200, answers(question).to_string())).await
}

/// The same with a status, and a body of any length.
pub async fn engine_that_answers(answers: impl Fn(usize) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, asked) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head).into_owned();
                        head.clear();
                        let (status, body) = if text.contains("/containers/") {
                            answers(asked.fetch_add(1, Ordering::SeqCst))
                        } else {
                            (200, json!({"ApiVersion": "1.41", "Version": "20.10"}).to_string())
                        };
                        let head = format!(
                            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                            body.len()
                        );
                        let whole = [head.into_bytes(), body.into_bytes()].concat();
                        if stream.write_all(&whole).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    format!("tcp://{address}")
}

/// What the engine says of a container that runs.
pub fn container(id: &str, started: &str, endpoint: &str, address: &str) -> Value {
    json!({
        "Id": id, "Name": "/sandbox-session-s",
        "State": {"Status": "running", "Running": true, "Paused": false, "StartedAt": started},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": address, "EndpointID": endpoint}}},
    })
}

/// An address of this machine that is not loopback: its own in the containers' network.
pub async fn own_address() -> IpAddr {
    let engine = DockerEngine::shared();
    engine.network().await;
    let network = engine.client().await.inspect_network(NETWORK, None).await.unwrap();
    let gateway = network.ipam.unwrap().config.unwrap().into_iter().find_map(|config| config.gateway).unwrap();
    gateway.split('/').next().unwrap().parse().unwrap()
}
