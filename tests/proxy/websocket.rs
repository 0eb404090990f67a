//! WebSocket through the proxy, where the operator turned it on.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::app::{Db, Options, TestServer, block_on};
use crate::preview::{Browser, Stage, bound_run_with};
use crate::raw::Raw;
use crate::upstream::{TestUpstream, header, healthy, is_closed, ok, send_all};

/// The silence that ends a socket in these tests.
const SILENCE: Duration = Duration::from_secs(1);

/// Takes every handshake and says back what it hears; `bye` ends it.
async fn echo() -> TestUpstream {
    TestUpstream::acting(|head, mut stream| {
        Box::pin(async move {
            if let Some(up) = healthy(&head) {
                return send_all(stream, up).await;
            }
            let protocol = header(&head, "sec-websocket-protocol").unwrap_or_default();
            let switch = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\
                 Sec-WebSocket-Protocol: {protocol}\r\nSet-Cookie: a=b\r\nX-App: y\r\n\r\n"
            );
            stream.write_all(switch.as_bytes()).await.ok()?;
            let mut bytes = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                if bytes[..count].ends_with(b"bye") {
                    break;
                }
                stream.write_all(&bytes[..count]).await.ok()?;
            }
            None
        })
    })
    .await
}

#[test]
fn it_is_off_on_paths_unless_it_is_turned_on() {
    block_on(async {
        let upstream = echo().await;
        for setting in [None, Some("off")] {
            let options = Options::new(Db::Sqlite);
            let options = match setting {
                Some(value) => options.set("PREVIEW_WEBSOCKET", value),
                None => options,
            };
            let stage = Stage::new(options, upstream.address).await;
            let browser = stage.open().await;
            let cookie = format!("Cookie: {}\r\n", browser.cookie);
            let answer = Raw::connect(&stage.server.url).await.upgrade(&browser.path("/ws"), &cookie).await;
            assert!(answer.is(501, "ws_required"), "{}", answer.text());
        }
        assert_eq!(upstream.heads().len(), 0);
    });
}

#[test]
fn bytes_pass_both_ways_and_either_side_ends_it() {
    block_on(async {
        let upstream = echo().await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("PREVIEW_WEBSOCKET", "on"), upstream.address).await;
        let browser = stage.open().await;
        let lines = format!(
            "Cookie: {}\r\nOrigin: https://app.example\r\nSec-WebSocket-Protocol: vite-hmr\r\nAuthorization: Bearer x\r\nX-Forwarded-For: 1.1.1.1\r\n",
            browser.cookie
        );
        let mut raw = Raw::connect(&stage.server.url).await;
        let answer = raw.upgrade(&browser.path("/ws?x=1"), &lines).await;
        assert_eq!(answer.status, 101, "{}", answer.text());
        assert_eq!(answer.header("sec-websocket-protocol").as_deref(), Some("vite-hmr"));
        assert_eq!((answer.header("set-cookie"), answer.header("x-app").as_deref()), (None, Some("y")));
        assert!(answer.header("upgrade").is_some_and(|to| to.eq_ignore_ascii_case("websocket")));
        let head = upstream.last();
        assert!(head.starts_with("GET /ws?x=1 HTTP/1.1\r\n"), "{head}");
        for (name, value) in [
            ("upgrade", Some("websocket")),
            ("sec-websocket-version", Some("13")),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ==")),
            ("origin", Some(format!("http://{}", upstream.address).as_str())),
            ("authorization", None),
            ("cookie", None),
            ("x-forwarded-for", None),
        ] {
            assert_eq!(header(&head, name).as_deref(), value, "{name}");
        }
        raw.send("small").await;
        assert_eq!(raw.exactly(5).await, b"small");
        // Larger than all buffers on the way: both directions move at once.
        let big: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| (n % 251) as u8).collect();
        let expected = big.clone();
        let (mut to, mut from) = raw.split();
        let (sent, received) = futures_util::join!(to.write_all(&big), async {
            let mut all = vec![0; expected.len()];
            timeout(Duration::from_secs(20), from.read_exact(&mut all)).await.expect("in time").unwrap();
            all
        });
        sent.unwrap();
        assert!(received == expected, "what came back is not what was sent");
        // The upstream ends it.
        to.write_all(b"bye").await.unwrap();
        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), from.read_to_end(&mut rest)).await.expect("closed").ok();
        assert!(rest.is_empty());
    });
}

#[test]
fn a_client_that_leaves_is_told_to_the_upstream() {
    block_on(async {
        let (sender, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let upstream = TestUpstream::acting(move |head, mut stream| {
            let sender = sender.clone();
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                stream.write_all(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n").await.ok()?;
                sender.send(is_closed(&mut stream).await).ok()?;
                None
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("PREVIEW_WEBSOCKET", "on"), upstream.address).await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        let cookie = format!("Cookie: {}\r\n", browser.cookie);
        assert_eq!(raw.upgrade(&browser.path("/ws"), &cookie).await.status, 101);
        drop(raw);
        assert_eq!(timeout(Duration::from_secs(6), ended.recv()).await.expect("in time"), Some(true));
        // Its place is free again, sixteen times over.
        for _ in 0..17 {
            let mut raw = Raw::connect(&stage.server.url).await;
            assert_eq!(raw.upgrade(&browser.path("/ws"), &cookie).await.status, 101);
            drop(raw);
            assert_eq!(timeout(Duration::from_secs(6), ended.recv()).await.expect("in time"), Some(true));
        }
    });
}

#[test]
fn whoever_talks_keeps_it_open_and_silence_ends_it() {
    block_on(async {
        // Says nothing by itself; `talk` makes it go on until it hears more.
        let upstream = TestUpstream::acting(|head, mut stream| {
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                stream.write_all(b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n").await.ok()?;
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    if bytes[..count].ends_with(b"talk") {
                        for _ in 0..15 {
                            sleep(SILENCE / 5).await;
                            stream.write_all(b"\x89\x00").await.ok()?;
                        }
                    }
                }
                None
            })
        })
        .await;
        let options = Options::new(Db::Sqlite).set("PREVIEW_WEBSOCKET", "on").refit(|mut parts| {
            parts.timeouts.stream_idle = SILENCE;
            parts
        });
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        let cookie = format!("Cookie: {}\r\n", browser.cookie);
        let mut raw = Raw::connect(&stage.server.url).await;
        assert_eq!(raw.upgrade(&browser.path("/ws"), &cookie).await.status, 101);
        // The client talks, for three times the silence; then the app does.
        for _ in 0..15 {
            sleep(SILENCE / 5).await;
            raw.send_frame(9, b"").await;
        }
        raw.send_frame(1, b"talk").await;
        assert_eq!(raw.exactly(30).await, b"\x89\x00".repeat(15), "it was ended while its client or its app talked");
        // Then nobody does.
        let since = std::time::Instant::now();
        assert!(raw.is_over().await);
        assert!(since.elapsed() > SILENCE / 2);
    });
}

#[test]
fn an_app_that_needs_it_is_unsupported_without_it() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        for (setting, value, state) in [
            ("PREVIEW_WEBSOCKET", "off", "unsupported"),
            ("PREVIEW_WEBSOCKET", "on", "ready"),
            ("PREVIEW_HOST_SUFFIX", "preview.localhost", "ready"),
        ] {
            let mut stage = Stage::new(Options::new(Db::Sqlite).set(setting, value), upstream.address).await;
            stage.run = bound_run_with(&stage.server, "t-ws", json!({"requiresWebsocket": true})).await;
            let session = stage.start().await;
            assert_eq!(session["state"], state, "{setting}={value}: {session}");
            let probe = async |server: &TestServer| {
                let url = format!("{}/api/preview/probe/{}", server.url, session["previewSessionId"].as_str().unwrap());
                let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
                let answer = client.get(url).send().await.unwrap();
                (answer.status().as_u16(), answer.text().await.unwrap())
            };
            if state == "unsupported" {
                assert_eq!(
                    (&session["unsupportedReason"], &session["openMode"]),
                    (&json!("ws_required"), &json!("new_tab"))
                );
                assert_eq!(session["exchangeToken"], json!(null));
                assert_eq!(probe(&stage.server).await, (200, r#"{"result":"ws_required"}"#.to_owned()));
            } else if setting == "PREVIEW_HOST_SUFFIX" {
                // Its host has it, the path has not.
                assert_eq!(probe(&stage.server).await, (200, r#"{"result":"ws_required"}"#.to_owned()));
                Browser::exchange(&stage.server, &session).await;
            } else {
                assert_eq!(probe(&stage.server).await.0, 302);
            }
        }
    });
}
