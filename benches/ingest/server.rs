//! The real server, on the bench's Postgres, and its runs.

use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::options::Options;
use super::payload::Run;
use super::postgres::Postgres;
use super::support::connection::Connection;
use super::support::server;

/// Names the server's folder and log.
pub const NAME: &str = "server";
/// Connections that make runs side by side.
const MAKERS: usize = 8;

/// A running server.
pub struct Server(server::Server);

impl Server {
    /// Starts it and waits until it is ready.
    pub async fn start(postgres: &Postgres, options: &Options) -> Result<Self> {
        let mut settings = vec![("DATABASE_URL".to_owned(), postgres.url())];
        settings.extend(options.settings.iter().cloned());
        server::Server::start(&postgres.folder, NAME, options.server.as_deref(), &settings).await.map(Self)
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// TCP port on the loopback address.
    pub const fn port(&self) -> u16 {
        self.0.port
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
        let mut connection = Connection::open(self.port()).await?;
        let mut runs = Vec::new();
        for index in which {
            let (thread_id, chat_id) = (format!("bench-{name}-{index}"), "chat-1".to_owned());
            let body = json!({
                "threadId": thread_id, "threadChatId": chat_id, "startRequestId": format!("{thread_id}-start"),
                "triggerSource": "system", "userId": "bench-user", "repoFullName": "bench/repository",
            });
            let answer = self.0.post(&mut connection, "/api/internal/runs", &body, 201).await?;
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
        let (status, body) = self.0.get(&format!("/api/internal/runs/{}", run.id)).await?;
        anyhow::ensure!(status == 200, "the run was answered with {status}: {body}");
        let row: Value = serde_json::from_str(&body)?;
        let accepted = row["counters"]["accepted"].as_u64().with_context(|| format!("no counters in {row}"))?;
        Ok((accepted, row["lastAcceptedSeq"].as_u64()))
    }

    /// How many run actors are alive, as the metrics say; 0 before they first do.
    pub async fn live_runs(&self) -> Result<u64> {
        let (status, body) = self.0.get("/metrics").await?;
        anyhow::ensure!(status == 200, "/metrics was answered with {status}");
        let line = body.lines().find(|line| line.starts_with("runwarden_live_runs "));
        let number = line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse::<f64>().ok());
        Ok(number.unwrap_or(0.0) as u64)
    }

    /// Stops it.
    pub fn stop(self) -> Result<()> {
        self.0.stop()
    }
}
