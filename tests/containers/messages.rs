//! Messages at their edges: old clients, upgrades that nobody takes, broken chunks, and what HTTP says of single headers.

use serde_json::Value;

use crate::app::block_on;
use crate::raw::Raw;
use crate::world::{APP, ECHO, PREPARED, ROUTES, World};

const H2C: &str = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";

#[test]
fn a_body_beside_an_upgrade_that_is_not_taken_reaches_the_app() {
    block_on(async {
        let world = World::new("upgraded").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        for route in ROUTES {
            let answer = world.send("POST", &format!("{route}/{id}/x"), H2C, "hello").await;
            assert_eq!((answer.status, &answer.json()["body"]), (200, &"hello".into()), "{}", answer.head);
            assert_eq!(answer.header("connection").as_deref(), Some("close"), "an ordinary answer: {}", answer.head);
        }
    });
}

#[test]
fn an_old_client_gets_bare_bytes_that_end_with_the_connection() {
    block_on(async {
        let world = World::new("old").await;
        let id = world.app("s").await;
        world.register(&id, PREPARED).await;
        for path in ["stream", "until-close"] {
            let old = format!("GET /previews/{id}/{path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
            let answer = Raw::ask(&world.server.url, old).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "hello world"), "{path}: {}", answer.head);
            assert_eq!(answer.header("transfer-encoding"), None, "{}", answer.head);
        }
    });
}

#[test]
fn broken_chunks_of_the_app_leave_a_head_and_a_broken_body() {
    block_on(async {
        let world = World::new("chunks").await;
        let id = world.app("s").await;
        world.register(&id, PREPARED).await;
        for (path, came) in [("bad-chunk", ""), ("bad-later", "hello")] {
            let answer = world.ask("GET", &format!("/previews/{id}/{path}")).await;
            assert_eq!((answer.status, answer.whole, answer.text().as_str()), (200, false, came), "{path}");
        }
    });
}

#[test]
fn broken_chunks_of_the_client_are_400() {
    block_on(async {
        let world = World::new("client-chunks").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        for chunks in ["0x3\r\nabc\r\n0\r\n\r\n", "3\nabc\n0\n\n", "3\r\nabcXX", "3\r\nabc\r\nZZ\r\n"] {
            for later in [false, true] {
                let mut raw = Raw::connect(&world.server.url).await;
                let head = format!("POST /previews/{id}/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
                raw.send(&head).await;
                if later {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                raw.send(chunks).await;
                let answer = raw.answer().await;
                let answer = answer.unwrap_or_else(|| panic!("{chunks:?}, later {later}: no answer"));
                assert!(answer.is(400, "invalid_request"), "{chunks:?}: {} {}", answer.head, answer.text());
            }
        }
    });
}

#[test]
fn single_headers_cross_as_http_and_the_house_say() {
    block_on(async {
        let world = World::new("single").await;
        let id = world.app("s").await;
        world.register(&id, PREPARED).await;
        let answer = world.ask("GET", &format!("/previews/{id}/ours")).await;
        let ours = ["x-internal-service-key", "x-daemon-token", "x-admin-token", "x-terragon-internal-signature"];
        for name in ours.into_iter().chain(["proxy-authenticate", "proxy-authentication-info"]) {
            assert_eq!(answer.header(name), None, "{}", answer.head);
        }
        assert_eq!(answer.header("authentication-info").as_deref(), Some("x"));
        // Of the answer that a GET would have had (RFC 9110, 15.4.5).
        let answer = world.ask("GET", &format!("/previews/{id}/not-modified")).await;
        assert_eq!((answer.status, answer.header("content-length").as_deref()), (304, Some("99")), "{}", answer.head);
        // Known limit: the number crosses, the words do not.
        let answer = world.ask("GET", &format!("/previews/{id}/reason")).await;
        assert_eq!(answer.head.lines().next(), Some("HTTP/1.1 299 "));
        assert_eq!(answer.text(), "ab");
    });
}

#[test]
fn that_there_is_no_body_reaches_the_app_as_the_client_said_it() {
    block_on(async {
        let world = World::new("nothing").await;
        let id = world.app("s").await;
        world.register(&id, ECHO).await;
        for (method, lines, says) in [
            ("POST", "Content-Length: 0\r\n", true),
            ("PUT", "Content-Length: 0\r\n", true),
            ("POST", "", false),
            ("GET", "", false),
        ] {
            let seen = world.send(method, &format!("/previews/{id}/"), lines, "").await.text().to_ascii_lowercase();
            assert_eq!(seen.contains("\r\ncontent-length: 0\r\n"), says, "{method} {lines:?}: {seen}");
            assert!(!seen.contains("transfer-encoding"), "{seen}");
        }
    });
}

/// What docs/containers.md says of targets that HTTP does not allow.
#[test]
fn targets_that_http_does_not_allow_cross_or_are_refused_as_is_written() {
    block_on(async {
        let world = World::new("targets").await;
        let id = world.app("s").await;
        world.register(&id, ECHO).await;
        for (target, seen) in [
            ("/x#frag", Some("/x")),
            ("/x?q#frag?r", Some("/x?q")),
            ("/a\"b{c}|^\\[]", Some("/a\"b{c}|^\\[]")),
            ("/a`b", None),
            ("/x?a\"b", None),
            ("/x?a<b", None),
            ("/a<b", None),
            ("/a>b", None),
            ("/caf\u{e9}", None),
        ] {
            let answer = world.ask("GET", &format!("/previews/{id}{target}")).await;
            match seen {
                Some(seen) => {
                    let line = format!("GET {seen} HTTP/1.1");
                    assert_eq!(answer.text().lines().next(), Some(line.as_str()), "{target}: {}", answer.head);
                }
                None => assert_eq!((answer.status, answer.json()), (400, Value::Null), "{target}"),
            }
        }
    });
}
