//! The real server, on the bench's Postgres.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::connection::Connection;
use super::guard::Guarded;
use super::options::Options;
use super::payload::Run;
use super::postgres::{Postgres, free_port, path};
use super::process::is_alive;

/// Connections that make runs side by side.
const MAKERS: usize = 8;

/// A running server.
pub struct Server {
    guard: Guarded,
    /// TCP port on the loopback address.
    pub port: u16,
    key: String,
}

impl Server {
    /// Starts it and waits until it is ready.
    pub async fn start(postgres: &Postgres, options: &Options) -> Result<Self> {
        let port = free_port()?;
        let key = format!("bench-{}-{}", std::process::id(), "0123456789abcdef0123456789abcdef");
        let data = postgres.folder.join("server");
        std::fs::create_dir_all(&data)?;
        let mut environment = vec![
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
            ("DATA_DIR", path(&data)?.to_owned()),
            ("DATABASE_URL", postgres.url()),
            ("INTERNAL_SERVICE_KEY", key.clone()),
            ("ADMIN_TOKEN", format!("admin-{key}")),
            ("LOG_LEVEL", "warn".to_owned()),
        ];
        environment.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let log = postgres.folder.join("server.log");
        let program = options.server.as_deref().unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_runwarden")));
        let guard = Guarded::start(&[path(program)?, "serve"], &environment, "TERM", &log, None)?;
        let server = Self { guard, port, key };
        let since = Instant::now();
        loop {
            if let Ok((200, _)) = server.get("/readyz").await {
                return Ok(server);
            }
            if !is_alive(server.pid()) || since.elapsed() > Duration::from_secs(30) {
                bail!("the server is not ready:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.guard.pid
    }

    /// Makes runs, each in a thread of its own.
    pub async fn create_runs(self: &Rc<Self>, name: &str, count: usize) -> Result<Vec<Run>> {
        let tasks: Vec<_> = (0..MAKERS.min(count))
            .map(|maker| {
                let (server, name) = (Rc::clone(self), name.to_owned());
                tokio::task::spawn_local(async move { server.create_each(&name, (maker..count).step_by(MAKERS)).await })
            })
            .collect();
        let mut runs = Vec::with_capacity(count);
        for task in tasks {
            runs.extend(task.await??);
        }
        Ok(runs)
    }

    async fn create_each(&self, name: &str, which: impl Iterator<Item = usize>) -> Result<Vec<Run>> {
        let mut connection = Connection::open(self.port).await?;
        let mut runs = Vec::new();
        for index in which {
            let (thread_id, chat_id) = (format!("bench-{name}-{index}"), "chat-1".to_owned());
            let body = json!({
                "threadId": thread_id, "threadChatId": chat_id, "startRequestId": format!("{thread_id}-start"),
                "triggerSource": "system", "userId": "bench-user", "repoFullName": "bench/repository",
            });
            let request = self.request("POST", "/api/internal/runs", &body.to_string());
            let (status, answer) = connection.exchange(request.as_bytes()).await?;
            if status != 201 {
                bail!("creating a run was answered with {status}: {}", String::from_utf8_lossy(answer));
            }
            let answer: Value = serde_json::from_slice(answer)?;
            let text = |field: &str| {
                let text = answer[field].as_str().map(ToOwned::to_owned);
                text.with_context(|| format!("no {field} in {answer}"))
            };
            runs.push(Run { id: text("runId")?, token: text("daemonToken")?, thread_id, chat_id });
        }
        Ok(runs)
    }

    /// What the API says of a run: accepted events and the last `seq`.
    pub async fn accepted(&self, run: &Run) -> Result<(u64, Option<u64>)> {
        let (status, body) = self.get(&format!("/api/internal/runs/{}", run.id)).await?;
        anyhow::ensure!(status == 200, "the run was answered with {status}: {body}");
        let row: Value = serde_json::from_str(&body)?;
        let accepted = row["counters"]["accepted"].as_u64().with_context(|| format!("no counters in {row}"))?;
        Ok((accepted, row["lastAcceptedSeq"].as_u64()))
    }

    /// How many run actors are alive, as the metrics say; 0 before they first do.
    pub async fn live_runs(&self) -> Result<u64> {
        let (status, body) = self.get("/metrics").await?;
        anyhow::ensure!(status == 200, "/metrics was answered with {status}");
        let line = body.lines().find(|line| line.starts_with("runwarden_live_runs "));
        let number = line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse::<f64>().ok());
        Ok(number.unwrap_or(0.0) as u64)
    }

    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut connection = Connection::open(self.port).await?;
        let request = self.request("GET", path, "");
        let (status, body) = connection.exchange(request.as_bytes()).await?;
        Ok((status, String::from_utf8_lossy(body).into_owned()))
    }

    fn request(&self, method: &str, path: &str, body: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Internal-Service-Key: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        )
    }

    /// Stops it.
    pub fn stop(self) -> Result<()> {
        self.guard.stop()
    }
}
