//! The emergency bypass: with Redis away, users whom the operator has named are let in until an instant. Everything
//! else stays as closed as it is without it, and no token is good twice.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use runwarden::clock::SystemClock;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::ports::Clock;
use runwarden_actors::ports::store::RevocationScope;
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::access::Switch;
use crate::app::{Db, INTERNAL_KEY, Options, block_on};
use crate::preview::{Browser, MovedClock, Stage};
use crate::raw::{Answer, Raw};
use crate::redis_server::RedisServer;
use crate::revocation::{endless, open, subscription_token};

/// How long the bypass of these tests lasts: less than a session.
const WINDOW_MS: i64 = 20 * 60_000;

/// A Redis that knows after a restart what it knew before.
fn keeping(folder: &tempfile::TempDir) -> RedisServer {
    RedisServer::spawn_with(None, &["--appendonly", "yes", "--dir", folder.path().to_str().unwrap()])
}

/// A server for `u-1` past Redis, where everybody may see; and the clock that it reads.
async fn stage(redis: &RedisServer, upstream: std::net::SocketAddr) -> (Stage, Arc<MovedClock>) {
    let clock = Arc::new(MovedClock::default());
    let theirs: Arc<dyn Clock> = clock.clone();
    let options = Options::new(Db::Sqlite)
        .set("REDIS_URL", redis.url())
        .set("PREVIEW_WEBSOCKET", "on")
        .set("PREVIEW_BYPASS_UNTIL", SystemClock.now().plus_millis(WINDOW_MS).to_rfc3339())
        .set("PREVIEW_BYPASS_USERS", "u-9,u-1")
        .dress(move |mut deps| {
            deps.clock = theirs;
            deps
        })
        .refit(|mut parts| {
            parts.access = Arc::new(Switch(Arc::new(AtomicBool::new(true))));
            parts
        });
    (Stage::new(options, upstream).await, clock)
}

async fn start_for(stage: &Stage, user: &str) -> Value {
    let (status, session) = stage.start_with(json!({"userId": user})).await;
    assert_eq!((status, &session["state"]), (201, &json!("ready")), "{session}");
    session
}

async fn exchange(stage: &Stage, session: &Value) -> Answer {
    let (id, token) = (session["previewSessionId"].as_str().unwrap(), session["exchangeToken"].as_str().unwrap());
    let head =
        format!("POST /api/preview/session/{id}/exchange HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::ask(&stage.server.url, head).await
}

async fn page(stage: &Stage, browser: &Browser) -> Answer {
    Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await
}

async fn until_ready(stage: &Stage) {
    let ready = async {
        while stage.server.get("/readyz").await.0 != 200 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(15), ready).await.expect("Redis is asked again by itself");
}

#[test]
fn without_redis_named_users_are_let_in_once_for_each_token_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = keeping(&folder);
    block_on(async {
        let upstream = endless().await;
        let (stage, _clock) = stage(&redis, upstream.address).await;
        let url = &stage.server.url;
        let before = start_for(&stage, "u-1").await;
        let browser = Browser::exchange(&stage.server, &before).await;
        let fresh = start_for(&stage, "u-1").await;
        let theirs = start_for(&stage, "u-2").await;
        let stranger = Browser::exchange(&stage.server, &theirs).await;
        let their_fresh = start_for(&stage, "u-2").await;
        let (status, ready) = stage.server.get("/readyz").await;
        assert_eq!((status, &ready["coordination"]["bypass"]["active"]), (200, &json!(false)), "{ready}");
        redis.stop();

        assert_eq!(page(&stage, &browser).await.status, 200);
        let answer = exchange(&stage, &fresh).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(exchange(&stage, &fresh).await.is(409, "token_replay"));
        assert!(exchange(&stage, &before).await.is(409, "token_replay"), "used in Redis, before the outage");
        let token = subscription_token(url, &browser).await;
        let offer = format!("Sec-WebSocket-Protocol: runwarden.preview.v1, token.{token}\r\n");
        let path = format!("/api/preview/subscribe/{}", browser.id);
        let mut socket = Raw::connect(url).await;
        assert_eq!(socket.upgrade(&path, &offer).await.status, 101);
        assert!(Raw::connect(url).await.upgrade(&path, &offer).await.is(409, "token_replay"));
        let begun = start_for(&stage, "u-1").await;

        let id = &stranger.id;
        let internal = format!("X-Internal-Service-Key: {INTERNAL_KEY}\r\nContent-Length: 0\r\n");
        for (what, answer) in [
            ("proxied", page(&stage, &stranger).await),
            ("exchange", exchange(&stage, &their_fresh).await),
            ("way in", Raw::ask(url, stranger.head("GET", "/.runwarden/enter", "")).await),
            ("image", Raw::ask(url, stranger.head("GET", "/.runwarden/seen.svg", "")).await),
            (
                "subscription token",
                Raw::ask(url, stranger.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n")).await,
            ),
            ("probe", Raw::ask(url, format!("GET /api/preview/probe/{id} HTTP/1.1\r\nHost: x\r\n\r\n")).await),
            (
                "exchange token",
                Raw::ask(
                    url,
                    format!(
                        "POST /api/internal/preview/session/{id}/exchange-token HTTP/1.1\r\nHost: x\r\n{internal}\r\n"
                    ),
                )
                .await,
            ),
        ] {
            assert!(answer.is(503, "cache_unavailable"), "{what}: {} {}", answer.status, answer.text());
        }
        let token = stranger.exchanged["subscriptionToken"].as_str().unwrap();
        let offer = format!("Sec-WebSocket-Protocol: runwarden.preview.v1, token.{token}\r\n");
        let answer = Raw::connect(url).await.upgrade(&format!("/api/preview/subscribe/{id}"), &offer).await;
        assert!(answer.is(503, "cache_unavailable"), "subscription: {}", answer.text());
        let (status, body) = stage.start_with(json!({"userId": "u-2"})).await;
        assert_eq!((status, &body["code"]), (503, &json!("cache_unavailable")));
        let (status, ready) = stage.server.get("/readyz").await;
        assert_eq!((status, &ready["coordination"]["bypass"]["active"]), (503, &json!(true)), "{ready}");
        let metrics = stage.server.http.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        for route in ["proxy", "exchange", "subscription", "subscription_token", "start"] {
            assert!(metrics.contains(&format!("runwarden_preview_bypass_uses{{route=\"{route}\"}}")), "{route}");
        }

        redis.start();
        until_ready(&stage).await;
        // What was used meanwhile is used up: for servers that ask Redis alone, and here.
        let claims = fresh["exchangeToken"].as_str().unwrap().split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        for name in ["jti", "nonce"] {
            let mark = format!("terragon:v1:preview:exchange:{name}:{}", claims[name].as_str().unwrap());
            assert!(redis.tell(&format!("EXISTS {mark}")).unwrap().starts_with(":1"), "{name}");
        }
        assert!(exchange(&stage, &fresh).await.is(409, "token_replay"));
        assert_eq!(exchange(&stage, &begun).await.status, 200);
        for browser in [&browser, &stranger] {
            assert_eq!(page(&stage, browser).await.status, 200);
        }
        assert_eq!(exchange(&stage, &their_fresh).await.status, 200);
        assert_eq!(stage.server.get("/readyz").await.1["coordination"]["bypass"]["active"], false);
    });
}

#[test]
fn past_redis_the_database_takes_sessions_back_and_strangers_streams_end() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let (stage, clock) = stage(&redis, upstream.address).await;
        let url = &stage.server.url;
        let revoked = Browser::exchange(&stage.server, &start_for(&stage, "u-1").await).await;
        let kept = Browser::exchange(&stage.server, &start_for(&stage, "u-1").await).await;
        let stranger = Browser::exchange(&stage.server, &start_for(&stage, "u-2").await).await;
        let mut cut = open(url, &revoked, "event stream").await;
        let mut goes_on = open(url, &kept, "event stream").await;
        let mut strangers = open(url, &stranger, "event stream").await;
        // Frozen: calls to it hang.
        let process = redis.process();
        kill_process(process, Signal::STOP).unwrap();
        let ended = timeout(Duration::from_secs(15), async { while !strangers.try_rest().await {} }).await;
        assert!(ended.is_ok(), "a stranger's stream goes on though nobody can say whether it may");
        assert_eq!(page(&stage, &revoked).await.status, 200);

        let since = Instant::now();
        let scope = RevocationScope::Session(PreviewSessionId::parse(&revoked.id).unwrap());
        assert_eq!(stage.deps.store.revoke_previews(&scope, clock.now(), 10).await.unwrap().len(), 1);
        let ended = timeout(Duration::from_secs(5), async { while !cut.try_rest().await {} }).await;
        assert!(ended.is_ok(), "a revoked session's stream goes on");
        println!("revocation past Redis to cut: {:?}", since.elapsed());
        assert!(page(&stage, &revoked).await.is(401, "revoked"));
        // Longer than anybody else is let go on.
        sleep(Duration::from_millis(5_500)).await;
        assert!(timeout(Duration::from_millis(50), goes_on.rest()).await.is_err(), "a named user's stream was cut");
        assert_eq!(page(&stage, &kept).await.status, 200);

        // The instant has come: nobody is named any more.
        clock.advance_ms(WINDOW_MS);
        assert!(page(&stage, &kept).await.is(503, "cache_unavailable"));
        let ended = timeout(Duration::from_secs(5), async { while !goes_on.try_rest().await {} }).await;
        assert!(ended.is_ok(), "a stream goes on after the instant");
        kill_process(process, Signal::CONT).unwrap();
        until_ready(&stage).await;
    });
}

#[test]
fn after_the_instant_nobody_is_let_in_past_redis() {
    let mut redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let (stage, clock) = stage(&redis, upstream.address).await;
        // A session that outlives the instant.
        clock.advance_ms(WINDOW_MS - 60_000);
        let browser = Browser::exchange(&stage.server, &start_for(&stage, "u-1").await).await;
        let fresh = start_for(&stage, "u-1").await;
        redis.stop();
        assert_eq!(page(&stage, &browser).await.status, 200);
        clock.advance_ms(60_000);
        for (what, answer) in [("proxied", page(&stage, &browser).await), ("exchange", exchange(&stage, &fresh).await)]
        {
            assert!(answer.is(503, "cache_unavailable"), "{what}: {} {}", answer.status, answer.text());
        }
        let (status, body) = stage.start_with(json!({})).await;
        assert_eq!((status, &body["code"]), (503, &json!("cache_unavailable")));
        assert_eq!(stage.server.get("/readyz").await.1["coordination"]["bypass"]["active"], false);
    });
}
