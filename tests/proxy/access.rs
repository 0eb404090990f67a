//! Who may look: the flag, the session's life, and the access source with its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use runwarden_actors::ports::{AccessQuestion, AccessSourceError, RepoAccess};
use runwarden_actors::testing::FakeSandbox;
use serde_json::json;
use tokio::time::sleep;

use crate::app::{Db, INTERNAL_KEY, Options, block_on};
use crate::preview::{Browser, MovedClock, Stage, reported};
use crate::raw::{Answer, Raw};
use crate::upstream::{TestUpstream, header, ok};

/// Whether anybody may see, as a test says.
pub struct Switch(pub Arc<AtomicBool>);

#[async_trait]
impl RepoAccess for Switch {
    async fn may_see(&self, _: AccessQuestion<'_>) -> Result<bool, AccessSourceError> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

async fn timed(options: Options, upstream: &TestUpstream) -> (Stage, Arc<MovedClock>) {
    let sandbox = Arc::new(FakeSandbox::default());
    sandbox.set_upstream(Ok(reported(upstream.address)));
    Stage::timed(options, sandbox).await
}

#[test]
fn a_flag_that_is_turned_off_closes_every_door_within_two_seconds() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        let browser = stage.open().await;
        let session = stage.start().await;
        assert_eq!(browser.get("/").await.status(), 200);
        let over = stage.open().await;
        stage.revoke(&over.id).await;
        let gone = Raw::ask(&stage.server.url, over.head("GET", "/", "")).await;
        assert!(gone.is(401, "revoked"), "{}", gone.text());
        stage.server.flag("sandboxPreview", false).await;
        sleep(Duration::from_millis(2_050)).await;
        let seen = upstream.heads().len();
        let (id, token) = (session["previewSessionId"].as_str().unwrap(), session["exchangeToken"].as_str().unwrap());
        for request in [
            browser.head("GET", "/", ""),
            // Before every other check: what is off says nothing more.
            browser.head("GET", "/../x", ""),
            browser.head("GET", "/", "").replace(&browser.cookie, "a=b"),
            browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n"),
            format!(
                "POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            ),
            format!("GET /api/preview/probe/{id} HTTP/1.1\r\nHost: x\r\n\r\n"),
            // Not even that it was there and is over.
            over.head("GET", "/", ""),
            over.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n"),
            format!("GET /api/preview/probe/{} HTTP/1.1\r\nHost: x\r\n\r\n", over.id),
            format!(
                "GET /api/internal/preview/session/{id} HTTP/1.1\r\nHost: x\r\nX-Internal-Service-Key: {INTERNAL_KEY}\r\n\r\n"
            ),
        ] {
            let answer = Raw::ask(&stage.server.url, &request).await;
            assert!(answer.is(404, "not_found"), "{request}: {}", answer.text());
        }
        assert_eq!(stage.start_with(json!({})).await.0, 404);
        assert_eq!(upstream.heads().len(), seen);
        stage.server.flag("sandboxPreview", true).await;
        sleep(Duration::from_millis(2_050)).await;
        assert_eq!(browser.get("/").await.status(), 200);
    });
}

#[test]
fn a_session_ends_with_its_life() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let (stage, clock) = timed(Options::new(Db::Sqlite), &upstream).await;
        let browser = stage.open().await;
        let ask = async || Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        clock.advance_ms(1_799_000);
        assert_eq!(ask().await.status, 200);
        // Not by the skew that its cookie is allowed.
        clock.advance_ms(1_001);
        assert!(ask().await.is(401, "expired"), "{}", ask().await.text());
        let path = format!("/api/internal/preview/session/{}/exchange-token", browser.id);
        let (status, body) = stage.server.post(&path, json!({})).await;
        assert_eq!((status, &body["code"]), (401, &json!("expired")));
        let probe = format!("GET /api/preview/probe/{} HTTP/1.1\r\nHost: x\r\n\r\n", browser.id);
        assert_eq!(Raw::ask(&stage.server.url, probe).await.json()["result"], "expired");
        let unknown = browser.head("GET", "/", "").replace(&browser.id, "01935d3e-7c00-7000-8000-000000000001");
        assert!(Raw::ask(&stage.server.url, unknown).await.is(404, "not_found"));
        for nonsense in ["nonsense", "01935d3e-7c00-7000-8000-00000000000g", ""] {
            let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "").replace(&browser.id, nonsense)).await;
            assert!(answer.is(404, "not_found"), "{nonsense}: {}", answer.text());
        }
    });
}

#[test]
fn a_session_that_did_not_come_up_shows_nothing() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let stage = Stage::new(Options::new(Db::Sqlite), upstream.address).await;
        stage.sandbox.set_exited(1);
        let session = stage.start().await;
        assert_eq!((&session["state"], &session["errorCode"]), (&json!("error"), &json!("command_exited")));
        assert_eq!(session["exchangeToken"], json!(null));
        let id = session["previewSessionId"].as_str().unwrap();
        let request = format!("GET /api/preview/proxy/{id}/ HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(Raw::ask(&stage.server.url, request).await.is(409, "conflict"));
        let (status, body) =
            stage.server.post(&format!("/api/internal/preview/session/{id}/exchange-token"), json!({})).await;
        assert_eq!((status, &body["code"]), (409, &json!("conflict")));
        // Strangers' ids, and those of a run that is not the active one.
        for (fields, status, code) in [
            (json!({"threadId": "t-2"}), 409, "run_not_active"),
            (json!({"threadChatId": "c-2"}), 409, "run_not_active"),
            (json!({"runId": "01935d3e-7c00-7000-8000-000000000001"}), 404, "not_found"),
            (json!({"userId": "u-2"}), 403, "permission_denied"),
        ] {
            let (found, body) = stage.start_with(fields.clone()).await;
            assert_eq!((found, body["code"].as_str()), (status, Some(code)), "{fields}");
        }
    });
}

#[test]
fn access_is_remembered_for_a_minute_and_its_loss_for_five_seconds() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let allowed = Arc::new(AtomicBool::new(true));
        let source = Arc::clone(&allowed);
        let options = Options::new(Db::Sqlite).refit(move |mut parts| {
            parts.access = Arc::new(Switch(source));
            parts
        });
        let (stage, clock) = timed(options, &upstream).await;
        let ask = async |browser: &Browser| Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
        let denied = |answer: &Answer| answer.is(403, "permission_denied");
        // Lost access ends the session: it is over also once the user may see again, and another one can be had.
        let over = async |browser: &Browser| {
            allowed.store(false, Ordering::SeqCst);
            assert!(denied(&ask(browser).await));
            assert!(ask(browser).await.is(401, "revoked"));
            allowed.store(true, Ordering::SeqCst);
        };
        let browser = stage.open().await;
        assert_eq!(ask(&browser).await.status, 200);
        allowed.store(false, Ordering::SeqCst);
        clock.advance_ms(55_000);
        assert_eq!(ask(&browser).await.status, 200);
        clock.advance_ms(5_001);
        over(&browser).await;
        clock.advance_ms(4_900);
        assert_eq!(stage.start_with(json!({})).await.0, 403);
        clock.advance_ms(101);

        // A new run of the same user and repository, in another chat, has it asked again at once; so has a binding.
        let browser = stage.open().await;
        assert_eq!(ask(&browser).await.status, 200);
        let run = stage.server.run("t-9", "c-9", "s-1").await;
        over(&browser).await;
        clock.advance_ms(5_001);
        let browser = stage.open().await;
        assert_eq!(ask(&browser).await.status, 200);
        let bind = json!({"codesandboxId": "box-9", "sandboxProvider": "docker", "runStartSha": "a".repeat(40)});
        assert_eq!(stage.server.post(&format!("/api/internal/runs/{}/bind", run.id), bind).await.0, 200);
        over(&browser).await;
        clock.advance_ms(5_001);

        // And so has another session's revocation.
        let browser = stage.open().await;
        let other = stage.start().await;
        assert_eq!(ask(&browser).await.status, 200);
        stage.revoke(other["previewSessionId"].as_str().unwrap()).await;
        over(&browser).await;
    });
}

#[test]
fn the_host_application_is_asked_and_an_answer_that_is_none_lets_nobody_in() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let host = TestUpstream::answering(move |head| {
            assert_eq!(header(head, "x-internal-service-key").as_deref(), Some(INTERNAL_KEY));
            assert!(head.starts_with("GET /may?userId=u-1&repoFullName=acme%2Fweb "), "{head}");
            match count.fetch_add(1, Ordering::SeqCst) {
                0 => ok("{\"allowed\":true}"),
                1 => ok("{\"allowed\":false}"),
                2 => "HTTP/1.1 500 No\r\nContent-Length: 16\r\n\r\n{\"allowed\":true}".to_owned(),
                _ => ok("{}"),
            }
        })
        .await;
        let options = Options::new(Db::Sqlite).set("ACCESS_SOURCE", format!("http://{}/may", host.address));
        let (stage, clock) = timed(options, &upstream).await;
        let browser = stage.open().await;
        for (wait, status, code) in [(60_001, 403, "permission_denied"), (5_001, 401, "revoked"), (0, 401, "revoked")] {
            clock.advance_ms(wait);
            let answer = Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await;
            assert!(answer.is(status, code), "{} {}", answer.head, answer.text());
        }
        // An answer that is none lets nobody in either, and is not remembered.
        for _ in 0..2 {
            let (status, body) = stage.start_with(json!({})).await;
            assert_eq!((status, &body["code"]), (503, &json!("cache_unavailable")));
        }
        assert_eq!((asked.load(Ordering::SeqCst), upstream.heads().len()), (4, 0));
    });
}

#[test]
fn a_list_lets_in_whom_it_names() {
    block_on(async {
        let upstream = TestUpstream::answering(|_| ok("")).await;
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("list");
        std::fs::write(&list, "# who may\nu-2 acme/web\n").unwrap();
        let options = Options::new(Db::Sqlite).set("ACCESS_SOURCE", format!("static:{}", list.display()));
        let stage = Stage::new(options, upstream.address).await;
        assert_eq!(stage.start_with(json!({})).await.0, 403, "the owner is not on it");
        let (status, session) = stage.start_with(json!({"userId": "u-2"})).await;
        assert_eq!((status, &session["state"]), (201, &json!("ready")), "{session}");
    });
}
