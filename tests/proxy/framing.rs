//! Where a message ends: whatever could be read in two ways is refused, on both sides.

use crate::app::{Db, Options, block_on};
use crate::bodies::hasty;
use crate::preview::Stage;
use crate::raw::Raw;
use crate::upstream::{TestUpstream, header, healthy, ok, send_all};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn requests_that_end_in_two_places_are_refused_with_their_connection() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let chunked = format!("0\r\n\r\n{SMUGGLED}");
        for (lines, body) in [
            ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", chunked.as_str()),
            ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", &chunked),
            ("Content-Length: 4\r\nContent-Length: 5\r\n", "abcd"),
            ("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"),
            ("Content-Length: 4, 4\r\n", "abcd"),
            ("Content-Length: +4\r\n", "abcd"),
            ("Content-Length: 0x4\r\n", "abcd"),
            ("Content-Length: -1\r\n", ""),
            ("Content-Length: 99999999999999999999999\r\n", ""),
            ("Content-Length: 4 4\r\n", "abcd"),
            ("Content-Length:\r\n", ""),
            ("Transfer-Encoding: xchunked\r\n", &chunked),
            ("Transfer-Encoding: chunked, identity\r\n", &chunked),
            ("Transfer-Encoding: identity\r\n", SMUGGLED),
            ("Transfer-Encoding: gzip, chunked\r\n", &chunked),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &chunked),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", &chunked),
            ("Transfer-Encoding : chunked\r\n", &chunked),
            ("Transfer-Encoding: \x0bchunked\r\n", &chunked),
            ("Transfer-Encoding: \"chunked\"\r\n", &chunked),
            ("Transfer-Encoding:\r\n chunked\r\n", &chunked),
            ("X: y\rTransfer-Encoding: chunked\r\n", &chunked),
            ("X: y\r\n Content-Length: 4\r\n", "abcd"),
            ("Content-Length: 4\r\nUpgrade: websocket\r\nConnection: upgrade\r\n", "abcd"),
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(format!("{}{body}", browser.head("POST", "/first", lines))).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!(answer.status, 400, "{lines:?}: {} {}", answer.head, answer.text());
            assert!(raw.is_over().await, "{lines:?}: something else was answered");
        }
        // HTTP/1.0 knows no chunks.
        let mut raw = Raw::connect(&stage.server.url).await;
        let old = browser.head("POST", "/first", "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n");
        raw.send(format!("{}{chunked}", old.replace("HTTP/1.1", "HTTP/1.0"))).await;
        assert_eq!(raw.answer().await.expect("an answer").status, 400);
        assert!(raw.is_over().await);
        assert_eq!(upstream.heads(), Vec::<String>::new());
    });
}

#[test]
fn odd_but_clear_requests_reach_the_upstream_tidy() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("x")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        // Bare line feeds end lines for us; the upstream gets its own.
        let bare = browser.head("GET", "/bare", "Accept: a\r\n").replace("\r\n", "\n");
        assert_eq!(Raw::ask(&stage.server.url, bare).await.status, 200);
        assert!(
            upstream.last().starts_with("GET /bare HTTP/1.1\r\n")
                && !upstream.last().replace("\r\n", "").contains('\n')
        );

        let tabs = browser.head("POST", "/tabs", "Transfer-Encoding:\tChunked \r\n");
        let answer = Raw::ask(&stage.server.url, format!("{tabs}0\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{}", answer.text());

        // Kept alive and pipelined under HTTP/1.0, each answered once.
        let mut raw = Raw::connect(&stage.server.url).await;
        let old = browser.head("GET", "/old", "Connection: keep-alive\r\n").replace("HTTP/1.1", "HTTP/1.0");
        raw.send(format!("{old}{old}")).await;
        for _ in 0..2 {
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "x"));
        }
        assert!(upstream.last().starts_with("GET /old HTTP/1.1\r\n"), "{}", upstream.last());

        // Asked to go on, and told so by us: the upstream never hears of it.
        let mut raw = Raw::connect(&stage.server.url).await;
        raw.send(browser.head("POST", "/go-on", "Expect: 100-continue\r\nContent-Length: 3\r\n")).await;
        assert!(raw.head().await.expect("an interim answer").starts_with("HTTP/1.1 100 "));
        raw.send("abc").await;
        assert_eq!(raw.answer().await.expect("an answer").status, 200);
        assert_eq!(header(&upstream.last(), "expect"), None);
    });
}

#[test]
fn an_upgrade_without_its_answer_is_an_ordinary_one() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("no upgrade")).await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("PREVIEW_WEBSOCKET", "on"), upstream.address).await;
        let browser = stage.open().await;
        let lines = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n";
        for lines in [
            lines.to_owned(),
            lines.replace("Connection: Upgrade", "Connection: close"),
            "Upgrade: h2c\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: x\r\n".to_owned(),
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            // What follows the handshake belongs to nobody: it is no request.
            raw.send(format!("{}{SMUGGLED}", browser.head("GET", "/up", &lines))).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.text().as_str()), (200, "no upgrade"), "{lines}");
        }
        assert!(upstream.heads().iter().all(|head| head.starts_with("GET /up ")), "{:?}", upstream.heads());
    });
}

#[test]
fn answers_that_end_in_two_places_are_refused() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, stream| {
            Box::pin(async move {
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                let ok_line = "HTTP/1.1 200 OK\r\n";
                let chunked = "Transfer-Encoding: chunked\r\n";
                let bytes = match path.as_str() {
                    "/both" => format!("{ok_line}Content-Length: 5\r\n{chunked}\r\n0\r\n\r\n{evil}"),
                    "/lengths" => format!("{ok_line}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{evil}"),
                    "/xchunked" => format!("{ok_line}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{evil}"),
                    "/gzip" => format!("{ok_line}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{evil}"),
                    "/twice" => format!("{ok_line}{chunked}{chunked}\r\n0\r\n\r\n{evil}"),
                    "/old" => format!("HTTP/1.0 200 OK\r\n{chunked}\r\n0\r\n\r\n{evil}"),
                    "/plus" => format!("{ok_line}Content-Length: +5\r\n\r\nhello{evil}"),
                    "/unasked" => format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n{evil}"
                    ),
                    "/status" => "HTTP/1.1 099 X\r\nContent-Length: 0\r\n\r\n".to_owned(),
                    "/nine" => format!("HTTP/0.9 200 OK\r\n\r\n{evil}"),
                    "/junk" => "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned(),
                    "/huge" => format!("{ok_line}X: {}\r\n\r\n", "x".repeat(100_000)),
                    "/many" => format!("{ok_line}{}\r\n", "X: y\r\n".repeat(500)),
                    _ => ok("fine"),
                };
                send_all(stream, bytes).await
            })
        })
        .await;
        let stage = Stage::new(hasty(std::time::Duration::from_secs(3)), upstream.address).await;
        let browser = stage.open().await;
        for path in [
            "/both",
            "/lengths",
            "/xchunked",
            "/gzip",
            "/twice",
            "/old",
            "/plus",
            "/unasked",
            "/status",
            "/nine",
            "/junk",
            "/huge",
            "/many",
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(browser.head("GET", path, "")).await;
            let answer = raw.answer().await.expect("an answer");
            assert!(answer.is(502, "upstream_unreachable"), "{path}: {} {}", answer.head, answer.text());
            // Nothing of it is left for the next request, here or on another connection.
            raw.send(browser.head("GET", "/fine", "")).await;
            assert_eq!(raw.answer().await.expect("an answer").text(), "fine", "{path}");
        }
    });
}

#[test]
fn lengths_that_lie_are_seen_and_stay_with_their_answer() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, stream| {
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                match head.split(' ').nth(1).unwrap_or_default() {
                    "/short" => {
                        send_all(stream, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
                        None
                    }
                    "/long" => send_all(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await,
                    "/half-chunk" => {
                        send_all(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\na\r\nhal").await;
                        None
                    }
                    "/no-last-chunk" => {
                        send_all(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
                        None
                    }
                    "/until-close" => {
                        send_all(stream, "HTTP/1.1 200 OK\r\n\r\nhello").await;
                        None
                    }
                    _ => send_all(stream, ok("fine")).await,
                }
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        for (path, whole) in [
            ("/short", false),
            ("/half-chunk", false),
            ("/no-last-chunk", false),
            ("/long", true),
            ("/until-close", true),
        ] {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(browser.head("GET", path, "")).await;
            let answer = raw.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.whole), (200, whole), "{path}: {} {}", answer.head, answer.text());
            assert!(answer.text().starts_with("hello") && !answer.text().contains("evil"), "{path}");
            if whole {
                for _ in 0..3 {
                    raw.send(browser.head("GET", "/fine", "")).await;
                    assert_eq!(raw.answer().await.expect("an answer").text(), "fine", "{path}");
                }
            } else {
                assert!(raw.is_over().await, "{path}");
            }
        }
    });
}
