//! How requests and answers cross: transparently, streaming, and nothing that ends at this hop or is ours.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::app::block_on;
use crate::raw::Raw;
use crate::world::{APP, ECHO, ROUTES, World};

#[test]
fn the_request_target_is_the_same_bytes() {
    block_on(async {
        let world = World::new("bytes").await;
        let id = world.app("s").await;
        world.register(&id, ECHO).await;
        for route in ROUTES {
            for suffix in [
                "/",
                "//",
                "///a//b///",
                "/./../a/..",
                "/%2e%2e/%2E",
                "/a%2fb%5Cc",
                "/%00%0d%0a",
                "/a;b=c/d",
                "/%zz%",
                "/a?",
                "/a??b?c",
                "/?q=%20+&r[]=1|2^`{}",
                "/caf%C3%A9",
                "/previews/x/",
                "/~!$&'()*+,;=:@",
            ] {
                let answer = world.ask("GET", &format!("{route}/{id}{suffix}")).await;
                let text = answer.text();
                assert_eq!(text.lines().next(), Some(format!("GET {suffix} HTTP/1.1").as_str()), "{}", answer.head);
            }
        }
    });
}

#[test]
fn a_request_crosses_but_for_what_ends_at_this_hop_or_is_ours() {
    block_on(async {
        let world = World::new("there").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let lines = "Authorization: Basic YXBwOnB3\r\nX-Custom: a\r\nX-Custom: b\r\nAccept-Encoding: br\r\n\
                     Cookie: app=1; rw_preview=secret\r\nX-Forwarded-For: 203.0.113.7\r\nOrigin: https://site.example\r\n\
                     Connection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=1\r\nTE: trailers\r\n\
                     Proxy-Connection: keep-alive\r\nX-Internal-Service-Key: internal-key-of-the-tests\r\nX-Daemon-Token: t\r\n";
        let answer = world.send("POST", &format!("/previews/{id}/"), lines, "hello").await.json();
        let pairs: Vec<(String, String)> = answer["headers"]
            .as_array()
            .unwrap()
            .chunks(2)
            .map(|pair| (pair[0].as_str().unwrap().to_ascii_lowercase(), pair[1].as_str().unwrap().to_owned()))
            .collect();
        let all = |name: &str| -> Vec<&str> {
            pairs.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
        };
        let address = world.address(&world.container("s")).await;
        assert_eq!(all("host"), [format!("{address}:{APP}")]);
        assert_eq!(all("authorization"), ["Basic YXBwOnB3"]);
        assert_eq!(all("x-custom"), ["a", "b"]);
        assert_eq!((all("accept-encoding"), all("origin")), (vec!["br"], vec!["https://site.example"]));
        assert_eq!((all("cookie"), all("x-forwarded-for")), (vec!["app=1"], vec!["203.0.113.7"]));
        assert_eq!((all("connection"), all("content-length")), (vec!["close"], vec!["5"]));
        for name in ["x-named", "keep-alive", "te", "proxy-connection", "x-internal-service-key", "x-daemon-token"] {
            assert!(all(name).is_empty(), "{name}: {pairs:?}");
        }
        assert_eq!(answer["body"], "hello");
    });
}

#[test]
fn an_answer_crosses_but_for_what_ends_at_this_hop_or_is_ours() {
    block_on(async {
        let world = World::new("back").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let answer = world.ask("GET", &format!("/previews/{id}/hop")).await;
        assert_eq!((answer.status, answer.text().as_str(), answer.whole), (200, "body", true));
        // A redirect is the app's own business here: it is not rewritten.
        assert_eq!(
            (answer.header("x-end").as_deref(), answer.header("location").as_deref()),
            (Some("1"), Some("//elsewhere/%2e%2e?x"))
        );
        assert_eq!(answer.all("set-cookie"), ["app=1; Path=/"]);
        for name in ["x-hop", "keep-alive", "proxy-authenticate", "trailer", "x-trailer"] {
            assert_eq!(answer.header(name), None, "{name}: {}", answer.head);
        }
        let answer = world.ask("GET", &format!("/previews/{id}/teapot")).await;
        assert_eq!(
            (answer.status, answer.header("x-pot").as_deref(), answer.text().as_str()),
            (418, Some("tea"), "I am one")
        );
        let answer = world.ask("GET", &format!("/previews/{id}/empty")).await;
        assert_eq!((answer.status, answer.body.len(), answer.whole), (204, 0, true));
    });
}

#[test]
fn an_answer_streams_part_by_part() {
    block_on(async {
        let world = World::new("down").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let mut raw = Raw::connect(&world.server.url).await;
        raw.send(format!("GET /previews/{id}/slow HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(raw.until("first\n").await.is_some(), "the first part comes before the second was made");
        assert_eq!(world.ask("GET", &format!("/previews/{id}/go")).await.text(), "gone");
        assert!(raw.until("second\n").await.is_some());
        let large = world.ask("GET", &format!("/previews/{id}/large")).await;
        assert_eq!((large.body.len(), large.whole), (4 * 1024 * 1024, true));
    });
}

#[test]
fn an_upload_streams_part_by_part_and_may_be_larger_than_other_bodies() {
    block_on(async {
        let world = World::new("up").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let mut raw = Raw::connect(&world.server.url).await;
        raw.send(format!(
            "POST /previews/{id}/parts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
        ))
        .await;
        assert!(raw.until("3\n").await.is_some(), "the app has the first part before the second was sent");
        raw.send("5\r\nabcde\r\n0\r\n\r\n").await;
        assert!(raw.until("5\n").await.is_some() && raw.until("end\n").await.is_some());
        let body = "x".repeat(5 * 1024 * 1024);
        let answer = world.send("PUT", &format!("/previews/{id}/count"), "", &body).await;
        assert_eq!((answer.status, answer.text()), (200, body.len().to_string()));
    });
}

#[test]
fn an_app_that_hangs_up_half_way_leaves_a_broken_body() {
    block_on(async {
        let world = World::new("half").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        for path in ["half", "half-chunked"] {
            let answer = world.ask("GET", &format!("/previews/{id}/{path}")).await;
            assert_eq!((answer.status, answer.text().as_str(), answer.whole), (200, "half", false), "{path}");
        }
    });
}

/// One attempt: an app that hangs up has seen one request.
#[test]
fn a_request_is_sent_once() {
    block_on(async {
        let world = World::new("once").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let answer = world.ask("POST", &format!("/previews/{id}/hang-up")).await;
        assert_eq!(answer.status, 502);
        // Nothing of it is left open either.
        let body: Value = world.ask("GET", &format!("/previews/{id}/")).await.json();
        assert_eq!(body["who"], "s");
    });
}

#[test]
fn there_is_no_web_socket_and_other_upgrades_are_not_taken() {
    block_on(async {
        let world = World::new("http").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let mut raw = Raw::connect(&world.server.url).await;
        let answer = raw.upgrade(&format!("/previews/{id}/"), "").await;
        assert!(answer.is(501, "ws_required"), "{}", answer.head);
        // RFC 9110, 7.8: a server may ignore it.
        let lines = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        let answer = world.send("GET", &format!("/previews/{id}/plain"), lines, "").await;
        let seen = answer.json();
        assert_eq!((answer.status, &seen["url"]), (200, &"/plain".into()), "{}", answer.head);
        let headers = seen["headers"].to_string().to_ascii_lowercase();
        assert!(!headers.contains("upgrade") && !headers.contains("http2-settings"), "{headers}");
    });
}

#[test]
fn a_stream_of_events_ends_when_the_server_stops() {
    block_on(async {
        let mut world = World::new("events").await;
        let id = world.app("s").await;
        world.register(&id, APP).await;
        let mut raw = Raw::connect(&world.server.url).await;
        raw.send(format!("GET /previews/{id}/events HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(raw.until("data: one\n\n").await.is_some());
        let stopped = tokio::task::spawn_blocking(move || world.server.stop());
        let _ = timeout(Duration::from_secs(4), raw.rest()).await.expect("the stream ends");
        timeout(Duration::from_secs(4), stopped).await.expect("the server stops").unwrap();
        sleep(Duration::from_millis(1)).await;
    });
}
