//! Limits: each dimension, both windows, and the few places of a session.

use std::time::Duration;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::app::{Db, INTERNAL_KEY, Options, block_on};
use crate::preview::{Browser, Stage};
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, healthy, is_closed, ok, send_all};

/// 429 of this limiter, with an end of the window that both ways of saying it agree on.
fn assert_limited(answer: &Answer, limiter: &str, window_seconds: std::ops::RangeInclusive<i64>) {
    let body = answer.json();
    assert!(answer.is(429, "rate_limited"), "{} {body}", answer.head);
    assert_eq!(body["limiter"], limiter, "{body}");
    let wait: i64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!(window_seconds.contains(&wait), "{wait} s in {window_seconds:?}");
    assert_eq!(body["retryAfterMs"], json!(wait * 1000));
    let next = OffsetDateTime::parse(body["nextAllowedAt"].as_str().unwrap(), &Rfc3339).unwrap();
    let left = next - OffsetDateTime::now_utc();
    assert!(left.whole_seconds() <= wait && left.whole_seconds() >= wait - 5, "{left}");
}

async fn start(stage: &Stage) -> Answer {
    start_from(stage, INTERNAL_KEY, None).await
}

async fn start_from(stage: &Stage, key: &str, client_ip: Option<&str>) -> Answer {
    let mut body = json!({
        "threadId": stage.run.thread, "threadChatId": stage.run.chat, "runId": stage.run.id, "userId": "u-1",
    });
    if let Some(client_ip) = client_ip {
        body["clientIp"] = json!(client_ip);
    }
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST /api/internal/preview/session/start HTTP/1.1\r\nHost: x\r\nX-Internal-Service-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    Raw::ask(&stage.server.url, head + &body).await
}

async fn exchange(stage: &Stage, session: &Value) -> Answer {
    let path =
        format!("/api/internal/preview/session/{}/exchange-token", session["previewSessionId"].as_str().unwrap());
    let (_, token) = stage.server.post(&path, json!({})).await;
    let (id, token) = (session["previewSessionId"].as_str().unwrap(), token["exchangeToken"].as_str().unwrap());
    let head =
        format!("POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::ask(&stage.server.url, head).await
}

#[test]
fn every_dimension_has_two_windows() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        for (setting, limiter) in [
            ("LIMIT_START_USER", "user"),
            ("LIMIT_START_IP", "ip"),
            ("LIMIT_EXCHANGE_USER", "user"),
            ("LIMIT_EXCHANGE_IP", "ip"),
            ("LIMIT_PROXY_SESSION", "session"),
            ("LIMIT_PROXY_IP", "ip"),
        ] {
            // Two are let in; the third meets the minute, or the burst.
            for (value, window) in [("2/1000", 11..=60), ("1000/2", 1..=10)] {
                let stage = Stage::new(Options::new(Db::Sqlite).set(setting, value), upstream.address).await;
                let session: Value = start(&stage).await.json();
                assert_eq!(session["state"], "ready", "{session}");
                let mut answers = Vec::new();
                if setting.starts_with("LIMIT_START") {
                    answers = vec![start(&stage).await, start(&stage).await];
                } else if setting.starts_with("LIMIT_EXCHANGE") {
                    for _ in 0..3 {
                        answers.push(exchange(&stage, &session).await);
                    }
                } else {
                    let browser = Browser::exchange(&stage.server, &session).await;
                    let seen = upstream.heads().len();
                    for _ in 0..3 {
                        answers.push(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await);
                    }
                    assert_eq!(upstream.heads().len(), seen + 2, "what is limited is not forwarded");
                }
                let last = answers.pop().unwrap();
                assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 201)), "{setting}={value}");
                assert_limited(&last, limiter, window);
            }
        }
    });
}

#[test]
fn a_start_counts_for_the_person_whom_the_host_application_names() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("LIMIT_START_IP", "1/1"), upstream.address).await;
        let from = async |client_ip| start_from(&stage, INTERNAL_KEY, client_ip).await;
        assert_eq!(from(Some("203.0.113.7")).await.status, 201);
        // The same address in another spelling.
        assert_limited(&from(Some("::ffff:203.0.113.7")).await, "ip", 1..=60);
        assert_eq!(from(Some("2001:db8::7")).await.status, 201);
        // Whoever has one address of version 6 has its whole network.
        assert_limited(&from(Some("2001:db8::ffff:0:0:1")).await, "ip", 1..=60);
        assert_eq!(from(Some("2001:db8:0:1::7")).await.status, 201);
        // The caller's own.
        assert_eq!(from(None).await.status, 201);
        assert_limited(&from(None).await, "ip", 1..=60);
        for wrong in ["", "localhost", "203.0.113.7:80", "203.0.113.0/24"] {
            assert!(from(Some(wrong)).await.is(400, "invalid_request"), "{wrong}");
        }
        let stranger = start_from(&stage, "wrong", Some("203.0.113.8")).await;
        assert!(stranger.is(403, "permission_denied"), "{}", stranger.text());
    });
}

#[test]
fn a_network_of_version_6_is_one_client_on_every_route() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let options = Options::new(Db::Sqlite)
            .set("TRUSTED_PROXIES", "127.0.0.1/32")
            .set("LIMIT_EXCHANGE_IP", "2/2")
            .set("LIMIT_PROXY_IP", "2/2");
        let stage = Stage::new(options, upstream.address).await;
        let browser = stage.open().await;
        for (method, path, more) in
            [("GET", "/", ""), ("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n")]
        {
            let from = async |address: &str| {
                let lines = format!("X-Forwarded-For: {address}\r\n{more}");
                Raw::ask(&stage.server.url, browser.head(method, path, &lines)).await
            };
            // With a port, as some proxies write it.
            for address in ["2001:db8::1", "[2001:db8::2]:4711"] {
                let answer = from(address).await;
                assert_eq!(answer.status, 200, "{path} {address}: {}", answer.text());
            }
            assert_limited(&from("2001:db8::3").await, "ip", 1..=60);
            for address in ["2001:db8:0:1::1", "2001:db8:0:2::1", "203.0.113.1", "::ffff:203.0.113.1"] {
                assert_eq!(from(address).await.status, 200, "{path} {address}");
            }
            assert_limited(&from("203.0.113.1:80").await, "ip", 1..=60);
        }
    });
}

#[test]
fn probe_and_subscription_tokens_count_as_exchanges() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let stage = Stage::new(Options::new(Db::Sqlite).set("LIMIT_EXCHANGE_IP", "3/3"), upstream.address).await;
        let browser = stage.open().await;
        let url = &stage.server.url;
        let token = browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n");
        assert_eq!(Raw::ask(url, &token).await.status, 200);
        let probe = format!("GET /api/preview/probe/{} HTTP/1.1\r\nHost: x\r\n\r\n", browser.id);
        assert_eq!(Raw::ask(url, &probe).await.status, 302);
        for request in [&token, &probe] {
            assert_limited(&Raw::ask(url, request).await, "ip", 1..=60);
        }
        let subscribed = Raw::connect(url).await.upgrade(&format!("/api/preview/subscribe/{}", browser.id), "").await;
        assert_limited(&subscribed, "ip", 1..=60);
    });
}

#[test]
fn a_client_is_who_a_trusted_proxy_says_in_a_configured_header_and_nobody_else() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let both = "x-vercel-ip,x-forwarded-for";
        for (trusted, headers, forwarded, vercel) in [
            ("127.0.0.1/32", both, true, true),
            ("127.0.0.1/32", "x-forwarded-for", true, false),
            ("127.0.0.1/32", "x-vercel-ip", false, true),
            ("10.0.0.0/8", both, false, false),
            ("", both, false, false),
        ] {
            let options = Options::new(Db::Sqlite)
                .set("LIMIT_PROXY_IP", "1/1")
                .set("TRUSTED_PROXIES", trusted)
                .set("CLIENT_IP_HEADERS", headers);
            let stage = Stage::new(options, upstream.address).await;
            let browser = stage.open().await;
            let ask = async |lines: &str| Raw::ask(&stage.server.url, browser.head("GET", "/", lines)).await;
            let status = |own_window| if own_window { 200 } else { 429 };
            // The peer's own window is used up: who is let in has another one.
            assert_eq!(ask("").await.status, 200);
            for (lines, own_window) in [
                ("X-Forwarded-For: 1.1.1.1\r\n", forwarded),
                ("X-Forwarded-For: 2.2.2.2\r\n", forwarded),
                ("X-Vercel-IP: 3.3.3.3\r\n", vercel),
                // What the client put before the proxy's entry changes nothing.
                ("X-Forwarded-For: 9.9.9.9, 1.1.1.1\r\n", false),
            ] {
                let answer = ask(lines).await;
                assert_eq!(answer.status, status(own_window), "{trusted} {headers}: {lines}");
                if !own_window {
                    assert_limited(&answer, "ip", 1..=60);
                }
            }
            // Both say something: the one that is named first counts, and one that is not named never.
            let answer = ask("X-Forwarded-For: 8.8.8.8\r\nX-Vercel-IP: 3.3.3.3\r\n").await;
            assert_eq!(answer.status, status(forwarded && !vercel), "{trusted} {headers}");
        }
    });
}

#[test]
fn sixteen_at_once_streams_included_and_each_place_comes_back() {
    block_on(async {
        let upstream = TestUpstream::acting(|head, mut stream| {
            Box::pin(async move {
                if let Some(up) = healthy(&head) {
                    return send_all(stream, up).await;
                }
                if head.starts_with("GET /quick ") {
                    return send_all(stream, ok("")).await;
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                    .await
                    .ok()?;
                if head.starts_with("GET /short ") {
                    sleep(Duration::from_millis(300)).await;
                } else {
                    is_closed(&mut stream).await;
                    sleep(Duration::from_mins(1)).await;
                }
                None
            })
        })
        .await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let open = async |path: &str| {
            let mut raw = Raw::connect(&stage.server.url).await;
            raw.send(browser.head("GET", path, "")).await;
            raw.until("data: 1").await.expect("an event");
            raw
        };
        let quick = async || Raw::ask(&stage.server.url, browser.head("GET", "/quick", "")).await;
        let mut streams = Vec::new();
        for _ in 0..15 {
            streams.push(open("/long").await);
        }
        let mut short = open("/short").await;
        let answer = quick().await;
        assert!(answer.is(429, "concurrency_limited"), "{}", answer.text());
        assert!(answer.header("retry-after").is_some());
        // Its end gives a place back,
        short.until("0\r\n\r\n").await.expect("its end");
        let until_free = async || {
            for _ in 0..100 {
                if quick().await.status == 200 {
                    return true;
                }
                sleep(Duration::from_millis(20)).await;
            }
            false
        };
        assert!(until_free().await, "a stream that ended kept its place");
        // and so does a client that goes away without a word; nothing comes for it meanwhile.
        streams.push(open("/long").await);
        assert_eq!(quick().await.status, 429);
        drop(streams.pop());
        assert!(until_free().await, "a client that is gone kept its place");
        // Another session has places of its own.
        assert_eq!(Raw::ask(&stage.server.url, stage.open().await.head("GET", "/quick", "")).await.status, 200);
    });
}
