//! A session from its start to its end.

use std::sync::Arc;

use runwarden_actors::contract::{OpenMode, PreviewSessionId, RunId, ThreadChatId, ThreadId, UserId};
use runwarden_actors::ports::store::{BeginPreview, NewPreviewSession};
use runwarden_actors::preview::sweep_previews;
use runwarden_actors::testing::FakeSandbox;
use serde_json::json;
use uuid::Uuid;

use crate::app::{Db, Options, block_on};
use crate::preview::{Stage, reported};
use crate::upstream::{TestUpstream, header, ok};

#[test]
fn a_preview_comes_up_and_lets_only_its_own_browser_in() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("hello from the sandbox")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let answer = browser.get("/index.html?x=1").await;
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert!(answer.headers().contains_key("x-proxy-req-id"));
        assert_eq!(answer.text().await.unwrap(), "hello from the sandbox");
        let head = upstream.last();
        assert!(head.starts_with("GET /index.html?x=1 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "x-provider-token").as_deref(), Some("provider-secret"));
        assert_eq!(header(&head, "cookie"), None);
        assert_eq!(header(&head, "host").unwrap(), upstream.address.to_string());

        let without = browser.http.get(format!("{}/", browser.base)).send().await.unwrap();
        assert_eq!(without.status(), 401);

        let path = format!("/api/internal/preview/session/{}/revoke", browser.id);
        let (status, body) = stage.server.post(&path, json!({})).await;
        assert_eq!((status, &body["revoked"]), (200, &json!(true)));
        assert_eq!(browser.get("/").await.status(), 401);
        let (_, session) = stage.server.get(&format!("/api/internal/preview/session/{}", browser.id)).await;
        assert_eq!(session["state"], "revoked");
    });
}

#[test]
fn a_start_whose_server_died_is_an_error_soon_and_says_so() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let (stage, clock) = Stage::timed(Options::new(Db::Sqlite), sandbox).await;
        let now = stage.deps.clock.now();
        // Begun, and nobody goes on with it.
        let new = NewPreviewSession {
            id: PreviewSessionId::from_uuid(Uuid::new_v4()),
            thread_id: ThreadId::parse(stage.run.thread.as_str()).unwrap(),
            thread_chat_id: ThreadChatId::parse(stage.run.chat.as_str()).unwrap(),
            run_id: RunId::parse(&stage.run.id).unwrap(),
            user_id: UserId::parse("u-1").unwrap(),
            open_mode: OpenMode::Iframe,
            expires_at: now.plus_millis(1_800_000),
            now,
        };
        assert!(matches!(stage.deps.store.begin_preview(&new).await.unwrap(), BeginPreview::Begun(_)));
        let path = format!("/api/internal/preview/session/{}", new.id);
        clock.advance_ms(290_000);
        assert_eq!(sweep_previews(&stage.deps).await.unwrap(), 0);
        assert_eq!(stage.server.get(&path).await.1["state"], "pending");
        clock.advance_ms(15_000);
        assert_eq!(sweep_previews(&stage.deps).await.unwrap(), 1);
        let (_, session) = stage.server.get(&path).await;
        assert_eq!((&session["state"], &session["errorCode"]), (&json!("error"), &json!("health_check_timeout")));
        assert!(session["errorOutput"].as_str().is_some_and(|why| why.contains("not finished in time")), "{session}");
    });
}
