//! Subscriptions: one token, one socket, for as long as its user may see.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::access::Switch;
use crate::app::{Db, Options, block_on};
use crate::preview::Stage;
use crate::raw::{Answer, Raw};
use crate::revocation::{endless, subscription_token};

fn offer(token: &str) -> String {
    format!("Sec-WebSocket-Protocol: runwarden.preview.v1, token.{token}\r\n")
}

/// What the close frame says.
fn closed_as(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

async fn subscribe(stage: &Stage, id: &str, lines: &str) -> (Raw, Answer) {
    let mut raw = Raw::connect(&stage.server.url).await;
    let answer = raw.upgrade(&format!("/api/preview/subscribe/{id}"), lines).await;
    (raw, answer)
}

#[test]
fn a_token_opens_one_socket_and_only_from_its_header() {
    block_on(async {
        let upstream = endless().await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let token = browser.exchanged["subscriptionToken"].as_str().unwrap();
        for lines in [
            String::new(),
            format!("Cookie: {}\r\n", browser.cookie),
            format!("Authorization: Bearer {token}\r\n"),
            format!("Sec-WebSocket-Protocol: token.{token}\r\n"),
            "Sec-WebSocket-Protocol: runwarden.preview.v1\r\n".to_owned(),
        ] {
            let (_, answer) = subscribe(&stage, &browser.id, &lines).await;
            assert!(answer.is(401, "permission_denied"), "{lines}: {}", answer.text());
        }
        let (_, answer) = subscribe(&stage, &format!("{}?token={token}", browser.id), "").await;
        assert!(answer.is(401, "permission_denied"), "{}", answer.text());
        let (_, answer) = subscribe(&stage, &browser.id, &offer("nonsense")).await;
        assert!(answer.is(401, "signature_mismatch"), "{}", answer.text());

        let (mut raw, answer) = subscribe(&stage, &browser.id, &offer(token)).await;
        assert_eq!(answer.status, 101, "{}", answer.text());
        assert_eq!(answer.all("sec-websocket-protocol"), ["runwarden.preview.v1"], "the token is not repeated");
        let (opcode, text) = raw.frame().await.expect("an event");
        let event: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((opcode, &event["schemaVersion"], &event["state"]), (1, &json!(1), &json!("ready")));
        assert_eq!(
            (&event["previewSessionId"], &event["channel"]),
            (&json!(browser.id), &browser.exchanged["channel"])
        );
        // What every event says.
        for (field, value) in [
            ("eventName", "v1.preview.session.state_changed"),
            ("origin", "server"),
            ("traceId", browser.id.as_str()),
            ("runId", stage.run.id.as_str()),
            ("threadId", stage.run.thread.as_str()),
            ("threadChatId", stage.run.chat.as_str()),
            ("userId", "u-1"),
            ("codesandboxId", "box-1"),
            ("sandboxProvider", "docker"),
        ] {
            assert_eq!(event[field], value, "{field}");
        }
        assert!(event["tsServer"].is_string());

        let (_, answer) = subscribe(&stage, &browser.id, &offer(token)).await;
        assert!(answer.is(409, "token_replay"), "{}", answer.text());
        // Another session's token is none here; nor does the refusal use it up.
        let other = stage.open().await;
        let theirs = other.exchanged["subscriptionToken"].as_str().unwrap();
        let (_, answer) = subscribe(&stage, &browser.id, &offer(theirs)).await;
        assert!(answer.is(403, "binding_mismatch"), "{}", answer.text());
        let (_, answer) = subscribe(&stage, &other.id, &offer(theirs)).await;
        assert_eq!(answer.status, 101, "{}", answer.text());
        // Reconnecting takes a fresh one, for which the cookie is asked.
        let fresh = subscription_token(&stage.server.url, &browser).await;
        assert_eq!(subscribe(&stage, &browser.id, &offer(&fresh)).await.1.status, 101);
        let request = browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n");
        let without = request.replace(&browser.cookie, "a=b");
        assert!(Raw::ask(&stage.server.url, without).await.is(401, "permission_denied"));
        let official = request.replace(&browser.path("/.runwarden"), &format!("/api/preview/session/{}", browser.id));
        assert_eq!(Raw::ask(&stage.server.url, official).await.status, 200);

        // Asked to close, it closes; what is too long is not heard.
        raw.send_frame(8, &1000_u16.to_be_bytes()).await;
        timeout(Duration::from_secs(5), raw.rest()).await.expect("closed");
    });
}

#[test]
fn a_handshake_that_fails_leaves_the_token_good() {
    block_on(async {
        let upstream = endless().await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let token = browser.exchanged["subscriptionToken"].as_str().unwrap();
        let path = format!("/api/preview/subscribe/{}", browser.id);
        let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        for lines in [
            String::new(),
            format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12\r\n{key}"),
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n".to_owned(),
            format!("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n{key}"),
        ] {
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{lines}{}\r\n", offer(token));
            let answer = Raw::ask(&stage.server.url, head).await;
            assert!(answer.is(400, "invalid_request"), "{lines}: {} {}", answer.status, answer.text());
        }
        assert_eq!(subscribe(&stage, &browser.id, &offer(token)).await.1.status, 101);
        let (_, answer) = subscribe(&stage, &browser.id, &offer(token)).await;
        assert!(answer.is(409, "token_replay"), "{}", answer.text());
    });
}

#[test]
fn its_end_says_why() {
    block_on(async {
        let upstream = endless().await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let token = browser.exchanged["subscriptionToken"].as_str().unwrap();
        let (mut raw, _) = subscribe(&stage, &browser.id, &offer(token)).await;
        raw.frame().await.expect("an event");
        // Left over from before the revocation, and never used.
        let fresh = subscription_token(&stage.server.url, &browser).await;
        stage.revoke(&browser.id).await;
        let (opcode, reason) = raw.frame().await.expect("a close frame");
        assert_eq!((opcode, reason), (8, closed_as(4401, "revoked")));
        let (_, answer) = subscribe(&stage, &browser.id, &offer(&fresh)).await;
        assert!(answer.is(401, "revoked"), "{}", answer.text());
    });
}

#[test]
fn access_that_was_withdrawn_opens_nothing() {
    block_on(async {
        let upstream = endless().await;
        let allowed = Arc::new(AtomicBool::new(true));
        let source = Arc::clone(&allowed);
        let options = Options::new(Db::Sqlite).refit(move |mut parts| {
            parts.access = Arc::new(Switch(source));
            parts
        });
        let (stage, clock) = {
            let sandbox = Arc::new(runwarden_actors::testing::FakeSandbox::default());
            sandbox.set_upstream(Ok(crate::preview::reported(upstream.address)));
            Stage::timed(options, sandbox).await
        };
        let browser = stage.open().await;
        allowed.store(false, Ordering::SeqCst);
        clock.advance_ms(60_001);
        let token = browser.exchanged["subscriptionToken"].as_str().unwrap();
        let (_, answer) = subscribe(&stage, &browser.id, &offer(token)).await;
        assert!(answer.is(403, "permission_denied"), "{}", answer.text());
        let request = browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n");
        // Lost access has ended the session.
        assert!(Raw::ask(&stage.server.url, request).await.is(401, "revoked"));
    });
}
