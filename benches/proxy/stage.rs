//! The real server with a preview of the bench's upstream: what a host application and a browser do before the first
//! proxied request.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::options::Options;
use super::support::connection::Connection;
use super::support::host::{free_port, path, run};
use super::support::server::Server;
use super::upstream::{ARGUMENT, PID};

/// Whose previews they are.
const USER: &str = "bench-user";
/// High enough for a bench that asks as fast as it can; every request is still counted.
const LIMIT: &str = "1000000000/1000000000";

/// A server with a run whose preview is the upstream.
pub struct Stage {
    /// The server.
    pub server: Server,
    /// The upstream's port.
    pub upstream: u16,
    run_id: String,
}

/// A browser's way into a preview session.
#[derive(Debug, Clone)]
pub struct Browser {
    /// Before the app's own paths.
    pub base_path: String,
    /// `name=value`.
    pub cookie: String,
}

impl Stage {
    /// Starts a server of that name, on Redis where there is a URL.
    pub async fn start(folder: &Path, name: &str, options: &Options, redis: Option<String>) -> Result<Self> {
        let sandboxes = folder.join(format!("{name}-sandboxes"));
        let repository = sandboxes.join("repository");
        std::fs::create_dir_all(&repository)?;
        run(&["git", "init", "--quiet", path(&repository)?])?;
        let mut settings: Vec<(String, String)> = [
            ("PROCESS_SANDBOX_ROOT", path(&sandboxes.canonicalize()?)?),
            ("ALLOWED_UPSTREAM_NETWORKS", "127.0.0.1/32"),
            ("LIMIT_START_USER", LIMIT),
            ("LIMIT_START_IP", LIMIT),
            ("LIMIT_EXCHANGE_USER", LIMIT),
            ("LIMIT_EXCHANGE_IP", LIMIT),
            ("LIMIT_PROXY_SESSION", LIMIT),
            ("LIMIT_PROXY_IP", LIMIT),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        settings.extend(redis.map(|url| ("REDIS_URL".to_owned(), url)));
        settings.extend(options.settings.iter().cloned());
        let server = Server::start(folder, name, options.server.as_deref(), &settings).await?;
        let upstream = free_port()?;
        let run_id = bound_run(&server, &repository, upstream).await?;
        Ok(Self { server, upstream, run_id })
    }

    /// A ready session, and a browser that was let in.
    pub async fn open(&self) -> Result<Browser> {
        let mut connection = Connection::open(self.server.port).await?;
        let body = json!({ "threadId": "bench", "threadChatId": "chat-1", "runId": self.run_id, "userId": USER });
        let session = self.server.post(&mut connection, "/api/internal/preview/session/start", &body, 201).await?;
        anyhow::ensure!(session["state"] == "ready", "the preview did not come up: {session}");
        let body = json!({ "token": text(&session, "exchangeToken")? }).to_string();
        let request = format!(
            "POST /api/preview/session/{}/exchange HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            text(&session, "previewSessionId")?,
            body.len()
        );
        connection.send(request.as_bytes()).await?;
        let head = connection.head().await?;
        anyhow::ensure!(head.status == 200, "the exchange was answered with {}", head.status);
        // The other mode's cookie is cleared first.
        let cookie = head.cookies.last().and_then(|cookie| cookie.split(';').next());
        let cookie = cookie.context("the exchange set no cookie")?.to_owned();
        Ok(Browser { base_path: text(&session, "proxyBasePath")?, cookie })
    }

    /// The upstream's process id. It runs since the first session was opened.
    pub async fn upstream_pid(&self) -> Result<u32> {
        let mut connection = Connection::open(self.upstream).await?;
        let (_, body) = connection.exchange(format!("GET {PID} HTTP/1.1\r\n\r\n").as_bytes()).await?;
        Ok(std::str::from_utf8(body)?.parse()?)
    }
}

/// A run whose preview command is this program as the upstream.
async fn bound_run(server: &Server, repository: &Path, port: u16) -> Result<String> {
    let program = std::env::current_exe()?;
    let command = format!("exec '{}' {ARGUMENT}", path(&program)?);
    let body = json!({
        "threadId": "bench", "threadChatId": "chat-1", "startRequestId": "bench-start", "triggerSource": "system",
        "userId": USER, "repoFullName": "bench/repository",
        "previewConfig": {
            "schemaVersion": 1, "command": command, "port": port, "healthPath": "/", "requiresWebsocket": false,
        },
    });
    let mut connection = Connection::open(server.port).await?;
    let run_id = text(&server.post(&mut connection, "/api/internal/runs", &body, 201).await?, "runId")?;
    let body = json!({
        "codesandboxId": "bench", "sandboxProvider": "process", "runStartSha": "0".repeat(40),
        "repoDir": path(&repository.canonicalize()?)?,
    });
    server.post(&mut connection, &format!("/api/internal/runs/{run_id}/bind"), &body, 200).await?;
    Ok(run_id)
}

fn text(body: &Value, field: &str) -> Result<String> {
    body[field].as_str().map(ToOwned::to_owned).with_context(|| format!("no {field} in {body}"))
}
