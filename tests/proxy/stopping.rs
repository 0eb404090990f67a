//! A server that goes down: streams are told, what can end does, and nothing is left to be cut with the connection.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use crate::app::{Db, Options, block_on};
use crate::preview::{Browser, Stage};
use crate::raw::Raw;
use crate::upstream::{TestUpstream, healthy, is_closed, ok, send_all};

/// `SHUTDOWN_TIMEOUT_SECONDS` of these tests.
const LIMIT: Duration = Duration::from_secs(8);
/// A whole text frame, and the head of one whose payload does not come.
const FRAME: &[u8] = b"\x81\x05begun";
const HALF_FRAME: &[u8] = b"\x81\x7d:begun";

/// `/ends` ends a second and a half after its first part, nothing else does by itself.
async fn upstream() -> TestUpstream {
    TestUpstream::acting(|head, mut stream| {
        Box::pin(async move {
            if let Some(up) = healthy(&head) {
                return send_all(stream, up).await;
            }
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            let start = match head.split(' ').nth(1).unwrap_or_default() {
                "/ends" | "/endless" => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun".to_vec(),
                "/events" => b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: begun\n\n".to_vec(),
                "/ws" => [switch, FRAME].concat(),
                "/half" => [switch, HALF_FRAME].concat(),
                "/silent" => Vec::new(),
                _ => return send_all(stream, ok("")).await,
            };
            stream.write_all(&start).await.ok()?;
            if head.starts_with("GET /ends ") {
                sleep(Duration::from_millis(1500)).await;
                return send_all(stream, "-end").await;
            }
            while !is_closed(&mut stream).await {}
            None
        })
    })
    .await
}

async fn socket(url: &str, browser: &Browser, path: &str) -> Raw {
    let mut raw = Raw::connect(url).await;
    let cookie = format!("Cookie: {}\r\n", browser.cookie);
    assert_eq!(raw.upgrade(&browser.path(path), &cookie).await.status, 101);
    raw
}

async fn asked(url: &str, browser: &Browser, path: &str) -> Raw {
    let mut raw = Raw::connect(url).await;
    raw.send(browser.head("GET", path, "")).await;
    raw
}

#[test]
fn streams_are_told_and_the_rest_may_end_in_time() {
    block_on(async {
        let upstream = upstream().await;
        let options = Options::new(Db::Sqlite)
            .set("PREVIEW_WEBSOCKET", "on")
            .set("SHUTDOWN_TIMEOUT_SECONDS", LIMIT.as_secs().to_string());
        let Stage { mut server, run, .. } = Stage::new(options, upstream.address).await;
        let (_, session) = server
            .post(
                "/api/internal/preview/session/start",
                serde_json::json!({"threadId": run.thread, "threadChatId": run.chat, "runId": run.id, "userId": "u-1"}),
            )
            .await;
        let browser = Browser::exchange(&server, &session).await;
        let url = server.url.clone();

        let mut told = socket(&url, &browser, "/ws").await;
        assert_eq!(told.frame().await, Some((1, b"begun".to_vec())));
        let mut within = socket(&url, &browser, "/half").await;
        assert_eq!(within.exactly(HALF_FRAME.len()).await, HALF_FRAME);
        let mut events = asked(&url, &browser, "/events").await;
        events.until("begun").await.expect("an event");
        let mut endless = asked(&url, &browser, "/endless").await;
        endless.until("begun").await.expect("a part");
        let mut silent = asked(&url, &browser, "/silent").await;
        let mut ends = asked(&url, &browser, "/ends").await;
        let head = ends.head().await.expect("a head");
        assert!(head.contains("content-length: 9") || head.contains("Content-Length: 9"), "{head}");

        let since = Instant::now();
        let stopped = std::thread::spawn(move || {
            server.stop();
            since.elapsed()
        });
        // At once: a close frame, 1001, with a reason; then the end of the connection.
        let goodbye = [&1001_u16.to_be_bytes()[..], b"the server is shutting down"].concat();
        assert_eq!(told.frame().await, Some((8, goodbye)));
        told.send_frame(8, &1001_u16.to_be_bytes()).await;
        assert!(told.is_over().await);
        // In the middle of a frame nothing can be said.
        assert!(within.is_over().await);
        assert!(!events.rest().await.ends_with(b"0\r\n\r\n"), "an event stream ended as if it were whole");
        let streams = since.elapsed();
        // What ends by itself is whole, although it takes longer than the streams.
        assert_eq!(ends.exactly(9).await, b"begun-end");
        assert!(streams < Duration::from_millis(1400), "streams were told after {streams:?}");
        // What does not is cut before the server would cut it.
        assert_eq!(endless.rest().await, b"", "the body has four more bytes");
        assert!(silent.answer().await.expect("an answer").is(504, "upstream_timeout"));
        let took = timeout(LIMIT * 2, actix_web::rt::task::spawn_blocking(|| stopped.join().unwrap())).await;
        let took = took.expect("it stops").unwrap();
        assert!(took < LIMIT, "it took {took:?}");
    });
}
