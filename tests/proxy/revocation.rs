//! Revocation: what was granted ends, on every server, whatever it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runwarden_actors::contract::{CommitSha, PreviewConfig, RunId, SandboxProvider};
use runwarden_actors::ports::{
    CommandReport, PreviewCommand, PreviewHost, Sandbox, SandboxError, SandboxTarget, Upstream,
};
use runwarden_actors::testing::FakeSandbox;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;

use crate::app::{Db, Options, TestServer, block_on, start_body, v2, with};
use crate::preview::{Browser, Stage, reported};
use crate::raw::Raw;
use crate::redis_server::RedisServer;
use crate::upstream::{TestUpstream, healthy, is_closed, ok, send_all};

/// What may be cut.
pub const KINDS: [&str; 4] = ["slow body", "event stream", "websocket", "subscription"];
/// Generous: machines that run tests are busy. The contract says one second.
const CUT_WITHIN: Duration = Duration::from_secs(3);

/// An upstream whose answers begin and do not end.
pub async fn endless() -> TestUpstream {
    TestUpstream::acting(|head, mut stream| {
        Box::pin(async move {
            if let Some(up) = healthy(&head) {
                return send_all(stream, up).await;
            }
            let start = match head.split(' ').nth(1).unwrap_or_default() {
                "/slow" => "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun",
                "/events" | "/ticks" => "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: begun\n\n",
                "/ws" => "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbegun",
                _ => return send_all(stream, ok("")).await,
            };
            stream.write_all(start.as_bytes()).await.ok()?;
            if head.starts_with("GET /ticks ") {
                while stream.write_all(b"data: tick\n\n").await.is_ok() {
                    sleep(Duration::from_millis(50)).await;
                }
                return None;
            }
            while !is_closed(&mut stream).await {}
            None
        })
    })
    .await
}

/// Opens one of [`KINDS`] at the server.
pub async fn open(server: &str, browser: &Browser, kind: &str) -> Raw {
    let mut raw = Raw::connect(server).await;
    let cookie = format!("Cookie: {}\r\n", browser.cookie);
    match kind {
        "slow body" => raw.send(browser.head("GET", "/slow", "")).await,
        "event stream" => raw.send(browser.head("GET", "/events", "")).await,
        "websocket" => assert_eq!(raw.upgrade(&browser.path("/ws"), &cookie).await.status, 101),
        _ => {
            let token = subscription_token(server, browser).await;
            let lines = format!("Sec-WebSocket-Protocol: runwarden.preview.v1, token.{token}\r\n");
            let answer = raw.upgrade(&format!("/api/preview/subscribe/{}", browser.id), &lines).await;
            assert_eq!(answer.status, 101, "{}", answer.text());
            let (opcode, _) = raw.frame().await.expect("the first event");
            assert_eq!(opcode, 1);
            return raw;
        }
    }
    raw.until("begun").await.expect("it begins");
    raw
}

pub async fn subscription_token(server: &str, browser: &Browser) -> String {
    let request = browser.head("POST", "/.runwarden/subscription-token", "Content-Length: 0\r\n");
    let answer = Raw::ask(server, request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["subscriptionToken"].as_str().unwrap().to_owned()
}

/// Waits for the end of each and prints how long it took.
async fn cut(what: &str, raws: Vec<(&str, Raw)>, since: Instant) {
    let cuts = raws.into_iter().map(|(kind, mut raw)| async move {
        if kind == "subscription" {
            // Closed by its own frame; the connection follows when both sides have said so.
            assert_eq!(raw.frame().await.map(|(opcode, _)| opcode), Some(8));
            return (kind, since.elapsed());
        }
        let rest = raw.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{kind} ended as if it were whole");
        (kind, since.elapsed())
    });
    for (kind, took) in futures_util::future::join_all(cuts).await {
        println!("revocation to cut: {took:?} for {kind}, {what}");
        assert!(took < CUT_WITHIN, "{kind}: {took:?}");
    }
}

async fn open_all<'a>(server: &str, browser: &Browser) -> Vec<(&'a str, Raw)> {
    let mut raws = Vec::new();
    for kind in KINDS {
        raws.push((kind, open(server, browser, kind).await));
    }
    raws
}

fn websocket_on(options: Options) -> Options {
    options.set("PREVIEW_WEBSOCKET", "on")
}

#[test]
fn everything_under_way_ends_on_the_server_that_is_told() {
    block_on(async {
        let upstream = endless().await;
        let stage = Stage::new(websocket_on(Options::new(Db::Sqlite)), upstream.address).await;
        let browser = stage.open().await;
        let bystander = stage.open().await;
        let raws = open_all(&stage.server.url, &browser).await;
        let mut others = open_all(&stage.server.url, &bystander).await;
        let since = Instant::now();
        stage.revoke(&browser.id).await;
        cut("on one server", raws, since).await;
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(401, "revoked"));
        // Another session goes on.
        assert_eq!(Raw::ask(&stage.server.url, bystander.head("GET", "/", "")).await.status, 200);
        for (kind, raw) in &mut others {
            let over = tokio::time::timeout(Duration::from_millis(50), raw.rest()).await;
            assert!(over.is_err(), "{kind} of another session was cut");
        }
    });
}

#[test]
fn everything_under_way_ends_on_a_server_that_was_not_told() {
    let redis = RedisServer::spawn(None);
    block_on(async {
        let upstream = endless().await;
        let settings = websocket_on(Options::new(Db::Postgres)).set("REDIS_URL", redis.url()).settings;
        let same = || Options { settings: settings.clone(), ..Options::new(Db::Sqlite) };
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let stage = Stage::on(same(), Arc::clone(&sandbox)).await;
        let other = Stage::server(same(), &sandbox);
        let browser = stage.open().await;
        let raws = open_all(&other.url, &browser).await;
        let since = Instant::now();
        stage.revoke(&browser.id).await;
        cut("on another server", raws, since).await;
        assert!(Raw::ask(&other.url, browser.head("GET", "/", "")).await.is(401, "revoked"));

        // By a new run of the chat, too.
        let browser = stage.open().await;
        let raws = open_all(&other.url, &browser).await;
        let since = Instant::now();
        stage.server.run("t-1", "c-1", "s-2").await;
        cut("on another server, by a new run", raws, since).await;
    });
}

/// A sandbox whose HEAD nobody ever gets to know.
struct Hanging(Arc<FakeSandbox>);

#[async_trait]
impl Sandbox for Hanging {
    async fn head_sha(&self, _: &SandboxTarget) -> Result<CommitSha, SandboxError> {
        std::future::pending().await
    }

    async fn changed_paths(
        &self,
        target: &SandboxTarget,
        base: &CommitSha,
        end: Option<&CommitSha>,
    ) -> Result<Vec<u8>, SandboxError> {
        self.0.changed_paths(target, base, end).await
    }
}

#[async_trait]
impl PreviewHost for Hanging {
    fn has_previews(&self, provider: SandboxProvider) -> bool {
        self.0.has_previews(provider)
    }

    async fn missing_capabilities(&self, _: &SandboxTarget, _: &PreviewConfig) -> Result<Vec<String>, SandboxError> {
        Ok(Vec::new())
    }

    async fn read_repo_file(&self, _: &SandboxTarget, _: &str, _: usize) -> Result<Option<Vec<u8>>, SandboxError> {
        Ok(None)
    }

    async fn start_preview(&self, target: &SandboxTarget, command: &PreviewCommand) -> Result<(), SandboxError> {
        self.0.start_preview(target, command).await
    }

    async fn preview_report(&self, t: &SandboxTarget, run: RunId, port: u16) -> Result<CommandReport, SandboxError> {
        self.0.preview_report(t, run, port).await
    }

    async fn stop_preview(&self, _: &SandboxTarget, _: RunId, _: u16) -> Result<(), SandboxError> {
        std::future::pending().await
    }

    async fn upstream(&self, target: &SandboxTarget, port: u16) -> Result<Upstream, SandboxError> {
        self.0.upstream(target, port).await
    }
}

#[test]
fn a_sandbox_that_hangs_holds_no_revocation_up() {
    block_on(async {
        let upstream = endless().await;
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(upstream.address)));
        let inner = Arc::clone(&sandbox);
        let options = websocket_on(Options::new(Db::Sqlite)).dress(move |mut deps| {
            deps.sandbox = Arc::new(Hanging(inner));
            deps
        });
        let stage = Stage::on(options, sandbox).await;
        // More runs end, and wait for their sandbox, than are asked about at the same time.
        for n in 0..12 {
            let run = stage.server.run(&format!("ends-{n}"), "c", "s").await;
            rebind(&stage.server, &run.id, "box-1").await;
            let end = with(v2(&run, 0), json!({"messages": [{"type": "result"}], "endSha": "b".repeat(40)}));
            assert_eq!(stage.server.event(&run, &end).await.0, 200);
        }
        // Two sessions of one thread: the first one's command hangs as it is ended.
        let (first, second) = (stage.open().await, stage.open().await);
        let mut raws = open_all(&stage.server.url, &first).await;
        raws.extend(open_all(&stage.server.url, &second).await);
        let since = Instant::now();
        stage.server.run("t-1", "c-1", "s-2").await;
        cut("while sandboxes hang", raws, since).await;
    });
}

async fn rebind(server: &TestServer, run: &str, sandbox: &str) {
    let bind = json!({"codesandboxId": sandbox, "sandboxProvider": "docker", "runStartSha": "a".repeat(40)});
    let (status, body) = server.post(&format!("/api/internal/runs/{run}/bind"), bind).await;
    assert_eq!(status, 200, "{body}");
}

#[test]
fn a_new_run_and_a_rebinding_end_the_threads_sessions() {
    block_on(async {
        let upstream = endless().await;
        let stage = Stage::new(websocket_on(Options::new(Db::Sqlite)), upstream.address).await;
        let browser = stage.open().await;
        let raws = open_all(&stage.server.url, &browser).await;
        let since = Instant::now();
        rebind(&stage.server, &stage.run.id, "box-2").await;
        cut("by a rebinding", raws, since).await;
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(401, "revoked"));

        let browser = stage.open().await;
        let raws = open_all(&stage.server.url, &browser).await;
        let since = Instant::now();
        let (status, _) = stage.server.post("/api/internal/runs", start_body("t-1", "c-1", "s-3")).await;
        assert_eq!(status, 201);
        cut("by a new run", raws, since).await;
        assert!(Raw::ask(&stage.server.url, browser.head("GET", "/", "")).await.is(401, "revoked"));
    });
}
