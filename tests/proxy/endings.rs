//! Where an answer ends and where a connection does: for old clients, behind an `Upgrade` that nobody takes, after
//! `Connection: close`, and where a body breaks.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::time::sleep;

use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, header, healthy, ok, send_all, with_headers};

const H2C: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";

/// An upstream whose answers on `/stream` and `/events` have no length.
async fn stage() -> (Stage, TestUpstream) {
    let upstream = TestUpstream::acting(|head, stream| {
        Box::pin(async move {
            let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";
            let bytes = match head.split(' ').nth(1).unwrap_or_default() {
                "/stream" => format!("{chunked}\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
                "/events" => format!("{chunked}Content-Type: text/event-stream\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n"),
                "/bad-chunk" => format!("{chunked}\r\nZZ\r\nhello\r\n0\r\n\r\n"),
                "/bad-later" => format!("{chunked}\r\n5\r\nhello\r\nZZ\r\n"),
                "/custom" => "HTTP/1.1 299 My own reason\r\nContent-Length: 0\r\n\r\n".to_owned(),
                "/keys" => with_headers("Proxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\n", "x"),
                _ => ok("fine"),
            };
            send_all(stream, healthy(&head).unwrap_or(bytes)).await
        })
    })
    .await;
    (Stage::new(Options::new(Db::Sqlite).set("PREVIEW_WEBSOCKET", "on"), upstream.address).await, upstream)
}

fn close(answer: &Answer) -> bool {
    answer.header("connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close"))
}

#[test]
fn a_body_beside_an_upgrade_that_nobody_takes_is_read_by_its_length() {
    block_on(async {
        let echo = TestUpstream::acting(|head, mut stream| {
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                let length = header(&head, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                let mut body = vec![0; length];
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.ok()?;
                send_all(stream, ok(&String::from_utf8_lossy(&body))).await
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), echo.address).await;
        let browser = stage.open().await;
        for upgrade in [H2C, "Upgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: foo/2, websocket\r\n"] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(format!("{}hello", browser.head("POST", "/", &format!("{upgrade}Content-Length: 5\r\n")))).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{upgrade}: {}", answer.head);
            assert_eq!(header(&echo.last(), "upgrade"), None);
            // The answer does not speak of an upgrade either; what asked for one gets its connection closed.
            assert_eq!(close(&answer), upgrade.contains("Connection"), "{upgrade}: {}", answer.head);
            assert_eq!(answer.header("upgrade"), None);
            if close(&answer) {
                assert!(raw.is_over().await);
            }
        }
        // A handshake with a body is none, and neither is one that leaves open what it asks for.
        let handshake =
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n";
        for upgrade in [
            "Upgrade: websocket, foo\r\nContent-Length: 0\r\n\r\n",
            "Upgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            let head = browser.head("GET", "/", handshake);
            let head = head.strip_suffix("\r\n").expect("an empty line");
            let answer = Raw::ask(&stage.server.url, format!("{head}{upgrade}")).await;
            assert_eq!(answer.status, 200, "{upgrade}: {} {}", answer.head, answer.text());
            assert_eq!(header(&echo.last(), "upgrade"), None);
        }
        // Our own routes read it too.
        let head =
            "POST /api/internal/runs HTTP/1.1\r\nHost: x\r\nX-Internal-Service-Key: internal-key-of-the-tests\r\n";
        let answer = Raw::ask(&stage.server.url, format!("{head}{H2C}Content-Length: 2\r\n\r\n{{}}")).await;
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == 400 && message.contains("missing field"), "{} {message}", answer.head);
    });
}

#[test]
fn nothing_is_processed_after_a_close() {
    block_on(async {
        let (stage, upstream) = stage().await;
        let browser = stage.open().await;
        let last = browser.head("GET", "/after-the-close", "");
        let firsts = [
            // The client's own.
            browser.head("GET", "/fine", "Connection: close\r\n"),
            browser.head("GET", "/stream", "Connection: close\r\n"),
            browser.head("GET", "/fine", "Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            // Under HTTP/1.0 it need not be said.
            browser.head("GET", "/fine", "").replace("HTTP/1.1", "HTTP/1.0"),
            browser.head("GET", "/stream", "Connection: keep-alive\r\n").replace("HTTP/1.1", "HTTP/1.0"),
            // Ours: a body with a length that the library would not read by it.
            format!("{}hello", browser.head("POST", "/fine", "Upgrade: websocket\r\nContent-Length: 5\r\n")),
            // Refused before the whole body has come.
            "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n".to_owned(),
            browser.head("POST", "/a//b", "Content-Length: 5000\r\n"),
        ];
        join_all(firsts.iter().map(async |first| {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(format!("{first}{last}")).await;
            let answer = raw.answer().await.expect("an answer");
            let text = answer.text();
            assert!(answer.status >= 400 || ["fine", "hello world"].contains(&text.as_str()), "{first}: {text}");
            assert!(close(&answer) || first.contains("HTTP/1.0"), "{first}: {}", answer.head);
            assert!(raw.is_over().await, "{first}: something else was answered");
        }))
        .await;
        assert!(upstream.heads().iter().all(|head| !head.contains("after-the-close")), "{:?}", upstream.heads());
    });
}

#[test]
fn a_refusal_leaves_its_connection_open_where_the_whole_body_has_come() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        let fine = browser.head("GET", "/fine", "");
        for refused in [
            "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "POST /api/internal/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "POST /previews/x/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
                .to_owned(),
            format!("{}hello", browser.head("POST", "/a//b", "Content-Length: 5\r\n")),
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(format!("{refused}{fine}")).await;
            let answer = raw.answer().await.expect("an answer");
            assert!(answer.status > 400 && !close(&answer), "{refused}: {}", answer.head);
            assert_eq!(raw.answer().await.expect("another answer").text(), "fine", "{refused}");
        }
    });
}

#[test]
fn old_clients_get_bare_bytes_that_end_with_the_connection() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        for (path, body) in [("/stream", "hello world"), ("/events", "data: 1\n\n")] {
            for lines in ["", "Connection: keep-alive\r\n"] {
                let old = browser.head("GET", path, lines).replace("HTTP/1.1", "HTTP/1.0");
                let answer = Raw::ask(&stage.server.url, old).await;
                assert_eq!((answer.status, answer.text().as_str()), (200, body), "{}", answer.head);
                assert!(answer.head.starts_with("HTTP/1.0 200 "), "{}", answer.head);
                for name in ["transfer-encoding", "content-length"] {
                    assert_eq!(answer.header(name), None, "{}", answer.head);
                }
                assert!(!answer.head.to_ascii_lowercase().contains("keep-alive"), "{}", answer.head);
            }
            let answer = Raw::ask(&stage.server.url, browser.head("GET", path, "")).await;
            assert_eq!(answer.header("transfer-encoding").as_deref(), Some("chunked"), "{}", answer.head);
        }
        // Our own streams are no others.
        let run = format!("/api/internal/runs/{}/events", stage.run.id);
        let key = "X-Internal-Service-Key: internal-key-of-the-tests\r\nAccept: text/event-stream\r\n";
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(format!("GET {run} HTTP/1.0\r\n{key}\r\n")).await;
        let head = raw.head().await.expect("a head").to_ascii_lowercase();
        assert!(head.contains("text/event-stream") && !head.contains("transfer-encoding"), "{head}");
    });
}

/// After such a head the library writes no chunks, whatever it says.
#[test]
fn a_streamed_answer_to_a_handshake_that_is_none_is_framed_as_it_says() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("GET", "/stream", "Upgrade: websocket\r\n")).await;
        let answer = raw.answer().await.expect("an answer");
        assert_eq!((answer.text().as_str(), answer.whole), ("hello world", true), "{}", answer.head);
        assert!(close(&answer), "{}", answer.head);
    });
}

#[test]
fn an_upstreams_broken_chunks_leave_a_head_and_a_broken_body() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        for (path, came) in [("/bad-chunk", ""), ("/bad-later", "hello")] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", path, "")).await;
            assert_eq!((answer.status, answer.whole, answer.text().as_str()), (200, false, came), "{path}");
        }
    });
}

#[test]
fn a_clients_broken_chunks_are_400() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        let head = browser.head("POST", "/fine-in-time", "Transfer-Encoding: chunked\r\n");
        for chunks in ["0x3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabcXX", "3\r\nabc\r\nZZ\r\n", "-3\r\nabc\r\n"]
        {
            for apart in [false, true] {
                let mut raw = Raw::connect(&stage.server.url).await;
                if apart {
                    raw.send(&head).await;
                    sleep(Duration::from_millis(30)).await;
                    raw.send(chunks).await;
                } else {
                    raw.send(format!("{head}{chunks}")).await;
                }
                let answer = raw.answer().await;
                let answer = answer.unwrap_or_else(|| panic!("{chunks:?}, apart {apart}: no answer"));
                // An app need not wait for the body that it gets.
                if apart && answer.status == 200 {
                    continue;
                }
                assert!(answer.is(400, "invalid_request"), "{chunks:?}: {} {}", answer.head, answer.text());
                assert!(close(&answer), "{}", answer.head);
            }
        }
    });
}

#[test]
fn what_is_for_the_next_hop_stays_and_a_status_without_a_name_has_none() {
    block_on(async {
        let (stage, _upstream) = stage().await;
        let browser = stage.open().await;
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/keys", "")).await;
        assert_eq!((answer.header("proxy-authenticate"), answer.header("proxy-authentication-info")), (None, None));
        // Known limit: the library takes no reason phrases from elsewhere.
        let answer = Raw::ask(&stage.server.url, browser.head("GET", "/custom", "")).await;
        assert_eq!(answer.head.lines().next(), Some("HTTP/1.1 299 "));
        assert_eq!(answer.json(), Value::Null);
    });
}
