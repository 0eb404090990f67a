//! A server with a preview of a test's upstream, and a browser's part in it.
#![allow(dead_code, reason = "each test uses the part that it needs")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};

use reqwest::header::SET_COOKIE;
use runwarden::clock::SystemClock;
use runwarden::coordination::EmbeddedCoordination;
use runwarden_actors::contract::{CommitSha, Timestamp};
use runwarden_actors::ports::{AuthHeader, Clock, Scheme, Upstream, UpstreamReach};
use runwarden_actors::run::Deps;
use runwarden_actors::testing::FakeSandbox;
use serde_json::{Value, json};

use crate::app::{Options, TestRun, TestServer};

/// Settings under which previews of a test's upstream may be reached.
pub fn options(mut options: Options) -> Options {
    // First, so that a test's own setting counts.
    options.settings.insert(0, ("ALLOWED_UPSTREAM_NETWORKS".to_owned(), "127.0.0.1/32".to_owned()));
    options
}

/// Where an upstream is, as a provider would report it.
pub fn reported(address: SocketAddr) -> Upstream {
    Upstream {
        scheme: Scheme::Http,
        host: address.ip().to_string(),
        port: address.port(),
        reach: UpstreamReach::Reported(address.ip()),
        auth_headers: vec![AuthHeader { name: "x-provider-token".into(), value: "provider-secret".into() }],
    }
}

/// The machine's clock, moved by a test.
#[derive(Default)]
pub struct MovedClock(AtomicI64);

impl MovedClock {
    pub fn advance_ms(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus_millis(self.0.load(Ordering::SeqCst))
    }
}

/// A server, its sandbox, and a run in it.
pub struct Stage {
    pub server: TestServer,
    pub sandbox: Arc<FakeSandbox>,
    pub run: TestRun,
    /// The server's own ports.
    pub deps: Deps,
}

impl Stage {
    /// A server whose sandbox shows this upstream.
    pub async fn new(start: Options, address: SocketAddr) -> Self {
        let sandbox = Arc::new(FakeSandbox::default());
        sandbox.set_upstream(Ok(reported(address)));
        Self::on(start, sandbox).await
    }

    /// The same on a sandbox that a test has set up.
    pub async fn on(start: Options, sandbox: Arc<FakeSandbox>) -> Self {
        let (sender, receiver) = mpsc::channel();
        let start = start.dress(move |deps| {
            sender.send(deps.clone()).unwrap();
            deps
        });
        let server = Self::server(start, &sandbox);
        let deps = receiver.recv().unwrap();
        let run = bound_run(&server, "t-1").await;
        Self { server, sandbox, run, deps }
    }

    /// The same with a clock that the test moves, for the server and its coordination store.
    pub async fn timed(start: Options, sandbox: Arc<FakeSandbox>) -> (Self, Arc<MovedClock>) {
        let clock = Arc::new(MovedClock::default());
        let theirs: Arc<dyn Clock> = clock.clone();
        let start = start.dress(move |mut deps| {
            deps.coordination = Arc::new(EmbeddedCoordination::new(Arc::clone(&theirs)));
            deps.clock = theirs;
            deps
        });
        (Self::on(start, sandbox).await, clock)
    }

    /// Takes a session back.
    pub async fn revoke(&self, id: &str) {
        let (status, body) = self.server.post(&format!("/api/internal/preview/session/{id}/revoke"), json!({})).await;
        assert_eq!(status, 200, "{body}");
    }

    /// A server on this sandbox.
    pub fn server(start: Options, sandbox: &Arc<FakeSandbox>) -> TestServer {
        let theirs = Arc::clone(sandbox);
        let mut start = options(start);
        // First, so that a test's own change counts.
        let own = start.dress.take();
        TestServer::with(start.dress(move |mut deps| {
            deps.sandbox = theirs;
            own.map_or_else(|| deps.clone(), |own| own(deps.clone()))
        }))
    }

    /// Starts a session for the run's owner.
    pub async fn start(&self) -> Value {
        let (status, body) = self.start_with(json!({})).await;
        assert_eq!(status, 201, "{body}");
        body
    }

    /// The same with other fields.
    pub async fn start_with(&self, fields: Value) -> (u16, Value) {
        let mut body = json!({
            "threadId": self.run.thread, "threadChatId": self.run.chat, "runId": self.run.id, "userId": "u-1",
        });
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.server.post("/api/internal/preview/session/start", body).await
    }

    /// A ready session and a browser that was let in.
    pub async fn open(&self) -> Browser {
        let session = self.start().await;
        assert_eq!(session["state"], "ready", "{session}");
        Browser::exchange(&self.server, &session).await
    }
}

/// A run with a preview configuration, bound to a sandbox.
pub async fn bound_run(server: &TestServer, thread: &str) -> TestRun {
    bound_run_with(server, thread, json!({"requiresWebsocket": false})).await
}

/// The same with other fields in its preview configuration.
pub async fn bound_run_with(server: &TestServer, thread: &str, fields: Value) -> TestRun {
    let mut config = json!({
        "schemaVersion": 1, "command": "serve", "port": 3000, "healthPath": "/health", "requiresWebsocket": false,
    });
    for (name, value) in fields.as_object().unwrap() {
        config[name] = value.clone();
    }
    let mut body = crate::app::start_body(thread, "c-1", "s-1");
    body["previewConfig"] = config;
    let (status, body) = server.post("/api/internal/runs", body).await;
    assert_eq!(status, 201, "{body}");
    let run = TestRun {
        id: body["runId"].as_str().unwrap().to_owned(),
        thread: thread.to_owned(),
        chat: "c-1".to_owned(),
        token: body["daemonToken"].as_str().unwrap().to_owned(),
    };
    let sha = CommitSha::parse("a".repeat(40)).unwrap();
    let bind = json!({"codesandboxId": "box-1", "sandboxProvider": "docker", "runStartSha": sha});
    let (status, body) = server.post(&format!("/api/internal/runs/{}/bind", run.id), bind).await;
    assert_eq!(status, 200, "{body}");
    run
}

/// A browser with a session's cookie.
pub struct Browser {
    pub http: reqwest::Client,
    pub id: String,
    /// `…/api/preview/proxy/{id}`.
    pub base: String,
    pub cookie: String,
    pub exchanged: Value,
}

impl Browser {
    pub async fn exchange(server: &TestServer, session: &Value) -> Self {
        let id = session["previewSessionId"].as_str().unwrap().to_owned();
        let token = session["exchangeToken"].as_str().unwrap();
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let url = format!("{}/api/preview/session/{id}/exchange", server.url);
        let body = json!({"token": token}).to_string();
        let answer = http.post(url).header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let set: Vec<String> =
            answer.headers().get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect();
        let cookie = set.last().unwrap().split(';').next().unwrap().to_owned();
        let exchanged = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        Self { http, base: format!("{}/api/preview/proxy/{id}", server.url), id, cookie, exchanged }
    }

    /// The path of the preview's own path.
    pub fn path(&self, path: &str) -> String {
        format!("/api/preview/proxy/{}{path}", self.id)
    }

    /// The head of a request to the preview, with the cookie; `lines` are ended by CR LF each.
    pub fn head(&self, method: &str, path: &str, lines: &str) -> String {
        let path = self.path(path);
        format!("{method} {path} HTTP/1.1\r\nHost: server.example\r\nCookie: {}\r\n{lines}\r\n", self.cookie)
    }

    /// A request to the preview, with the cookie.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).header("cookie", &self.cookie)
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.request(reqwest::Method::GET, path).send().await.unwrap()
    }
}
