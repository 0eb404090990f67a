//! A real server in a thread of its own, on a free port, and a client that knows its routes.
#![allow(dead_code, reason = "each test binary uses the part that it needs")]

use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use runwarden::config::{Config, RawSettings};
use runwarden::lifecycle::{Application, StopHandle};
use runwarden::proxy::PreviewParts;
use runwarden_actors::run::Deps;
use serde_json::{Value, json};

/// The key that tests know.
pub const INTERNAL_KEY: &str = "internal-key-of-the-tests";

/// Which database a server runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Db {
    Sqlite,
    Postgres,
}

/// Changes the ports of a server before it starts.
type Dress = Box<dyn FnOnce(Deps) -> Deps + Send>;

/// Changes what previews reach the world by.
type Refit = Box<dyn FnOnce(PreviewParts) -> PreviewParts + Send>;

/// What a test server is made of.
pub struct Options {
    pub settings: Vec<(String, String)>,
    pub dress: Option<Dress>,
    pub refit: Option<Refit>,
}

impl Options {
    pub fn new(db: Db) -> Self {
        let options = Self { settings: Vec::new(), dress: None, refit: None };
        match db {
            Db::Sqlite => options,
            Db::Postgres => options.set("DATABASE_URL", fresh_database()),
        }
    }

    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// After what was said before.
    pub fn dress(mut self, dress: impl FnOnce(Deps) -> Deps + Send + 'static) -> Self {
        let before = self.dress.take();
        self.dress =
            Some(Box::new(move |deps| dress(before.map_or_else(|| deps.clone(), |before| before(deps.clone())))));
        self
    }

    pub fn refit(mut self, refit: impl FnOnce(PreviewParts) -> PreviewParts + Send + 'static) -> Self {
        self.refit = Some(Box::new(refit));
        self
    }
}

/// The harness is async and this is called within a runtime: a thread of its own waits for it.
fn fresh_database() -> String {
    let made = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(super::postgres::new_database())
    });
    made.join().unwrap()
}

/// A running server. Stops when it is dropped.
pub struct TestServer {
    pub url: String,
    pub http: reqwest::Client,
    pub data_dir: PathBuf,
    stop: StopHandle,
    thread: Option<JoinHandle<()>>,
    _folder: Option<tempfile::TempDir>,
}

/// A run as the internal API made it.
#[derive(Debug, Clone)]
pub struct TestRun {
    pub id: String,
    pub thread: String,
    pub chat: String,
    pub token: String,
}

impl TestServer {
    pub fn start(db: Db) -> Self {
        Self::with(Options::new(db))
    }

    pub fn with(options: Options) -> Self {
        runwarden::auth::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let data_dir = options
            .settings
            .iter()
            .find(|(name, _)| name == "DATA_DIR")
            .map_or_else(|| folder.path().to_owned(), |(_, dir)| PathBuf::from(dir));
        let mut pairs = vec![
            ("PORT".to_owned(), "0".to_owned()),
            ("DATA_DIR".to_owned(), data_dir.display().to_string()),
            ("INTERNAL_SERVICE_KEY".to_owned(), INTERNAL_KEY.to_owned()),
            ("ADMIN_TOKEN".to_owned(), "admin-token-of-the-tests".to_owned()),
            ("WORKERS".to_owned(), "2".to_owned()),
            ("SHUTDOWN_TIMEOUT_SECONDS".to_owned(), "5".to_owned()),
        ];
        pairs.extend(options.settings);
        let config = Config::from_raw(&RawSettings::read(None, pairs).unwrap()).unwrap();
        let (dress, refit) = (options.dress, options.refit);
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let application = if dress.is_none() && refit.is_none() {
                    Application::build(config).await.unwrap()
                } else {
                    let deps = Application::open(&config).await.unwrap();
                    let deps = dress.map_or_else(|| deps.clone(), |dress| dress(deps.clone()));
                    let parts = PreviewParts::open(&config).unwrap();
                    let parts = refit.map_or_else(|| parts.clone(), |refit| refit(parts.clone()));
                    Application::with_parts(&config, deps, parts).await.unwrap()
                };
                sender.send((application.addr(), application.stop_handle())).unwrap();
                application.run().await.unwrap();
            });
        });
        let (addr, stop) = receiver.recv_timeout(Duration::from_mins(1)).expect("the server starts");
        Self {
            url: format!("http://{addr}"),
            http: reqwest::Client::new(),
            data_dir,
            stop,
            thread: Some(thread),
            _folder: Some(folder),
        }
    }

    /// Stops gracefully and waits for the end.
    pub fn stop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub async fn internal(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request =
            self.http.request(method, format!("{}{path}", self.url)).header("X-Internal-Service-Key", INTERNAL_KEY);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        read(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.internal(reqwest::Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.internal(reqwest::Method::POST, path, Some(body)).await
    }

    /// A new run of `thread` and `chat`.
    pub async fn run(&self, thread: &str, chat: &str, start_request: &str) -> TestRun {
        let (status, body) = self.post("/api/internal/runs", start_body(thread, chat, start_request)).await;
        assert_eq!(status, 201, "{body}");
        TestRun {
            id: body["runId"].as_str().unwrap().to_owned(),
            thread: thread.to_owned(),
            chat: chat.to_owned(),
            token: body["daemonToken"].as_str().unwrap().to_owned(),
        }
    }

    /// Sets a flag for everybody.
    pub async fn flag(&self, flag: &str, enabled: bool) {
        let path = format!("/api/internal/flags/{flag}");
        let (status, body) = self.internal(reqwest::Method::PUT, &path, Some(json!({"enabled": enabled}))).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Posts a body as a daemon.
    pub async fn event_raw(&self, token: Option<&str>, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let mut request = self
            .http
            .post(format!("{}/api/daemon-event", self.url))
            .header("X-Daemon-Version", "test")
            .header("X-Daemon-Capabilities", "daemon_event_envelope_v2,other");
        if let Some(token) = token {
            request = request.header("X-Daemon-Token", token);
        }
        read(request.body(body).send().await.unwrap()).await
    }

    pub async fn event(&self, run: &TestRun, body: &Value) -> (u16, Value) {
        self.event_raw(Some(&run.token), body.to_string()).await
    }

    /// The run's row.
    pub async fn row(&self, run: &TestRun) -> Value {
        let (status, body) = self.get(&format!("/api/internal/runs/{}", run.id)).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// All stored events.
    pub async fn events(&self, run: &TestRun) -> Vec<Value> {
        let (status, body) = self.get(&format!("/api/internal/runs/{}/events", run.id)).await;
        assert_eq!(status, 200, "{body}");
        body["events"].as_array().unwrap().clone()
    }

    /// Quarantine reasons of a thread, newest first.
    pub async fn quarantine(&self, thread: &str) -> Vec<Value> {
        let (status, body) = self.get(&format!("/api/internal/quarantine?threadId={thread}")).await;
        assert_eq!(status, 200, "{body}");
        body["items"].as_array().unwrap().clone()
    }

    /// Asks until `done` says yes; fails after 20 s.
    pub async fn until(&self, run: &TestRun, done: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..400 {
            let row = self.row(run).await;
            if done(&row) {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never: {}", self.row(run).await)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}

pub fn start_body(thread: &str, chat: &str, start_request: &str) -> Value {
    json!({
        "threadId": thread, "threadChatId": chat, "startRequestId": start_request,
        "triggerSource": "ui", "userId": "u-1", "repoFullName": "acme/web",
    })
}

/// An envelope of version 2.
pub fn v2(run: &TestRun, seq: i64) -> Value {
    json!({
        "threadId": run.thread, "threadChatId": run.chat, "messages": [{"type": "assistant", "n": seq}],
        "timezone": "UTC", "payloadVersion": 2, "eventId": format!("event-{seq}-of-{}", run.id), "runId": run.id,
        "seq": seq,
    })
}

/// An envelope of version 1.
pub fn v1(run: &TestRun, text: &str) -> Value {
    json!({
        "threadId": run.thread, "threadChatId": run.chat, "timezone": "UTC",
        "messages": [{"type": "assistant", "text": text}],
    })
}

/// Adds fields.
#[allow(clippy::needless_pass_by_value, reason = "callers write `json!` in place")]
pub fn with(mut envelope: Value, fields: Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        envelope[name] = value.clone();
    }
    envelope
}

/// Runs a test's body in an actix system.
pub fn block_on<F: Future>(body: F) -> F::Output {
    actix_web::rt::System::new().block_on(body)
}
