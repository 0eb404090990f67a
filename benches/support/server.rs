//! The real server.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;

use super::connection::Connection;
use super::guard::Guarded;
use super::host::{free_port, path};
use super::process::is_alive;

/// A running server.
pub struct Server {
    guard: Guarded,
    /// TCP port on the loopback address.
    pub port: u16,
    key: String,
}

impl Server {
    /// Starts it with a folder of its own called `name` below `folder`, and waits until it is ready. `program` is
    /// another build than the one beside the bench; of a setting that stands twice in `settings` the last counts.
    pub async fn start(
        folder: &Path,
        name: &str,
        program: Option<&Path>,
        settings: &[(String, String)],
    ) -> Result<Self> {
        let port = free_port()?;
        let key = format!("bench-{}-{}", std::process::id(), "0123456789abcdef0123456789abcdef");
        let data = folder.join(name);
        std::fs::create_dir_all(&data)?;
        let mut environment = vec![
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
            ("DATA_DIR", path(&data)?.to_owned()),
            ("INTERNAL_SERVICE_KEY", key.clone()),
            ("ADMIN_TOKEN", format!("admin-{key}")),
            ("LOG_LEVEL", "warn".to_owned()),
        ];
        environment.extend(settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let log = folder.join(format!("{name}.log"));
        let program = program.unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_runwarden")));
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

    /// Asks as a host application: status and body.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut connection = Connection::open(self.port).await?;
        let (status, body) = connection.exchange(self.request("GET", path, "").as_bytes()).await?;
        Ok((status, String::from_utf8_lossy(body).into_owned()))
    }

    /// Sends JSON as a host application over a connection that is kept, and reads JSON. Another status than `expected`
    /// is an error.
    pub async fn post(&self, connection: &mut Connection, path: &str, body: &Value, expected: u16) -> Result<Value> {
        let (status, answer) = connection.exchange(self.request("POST", path, &body.to_string()).as_bytes()).await?;
        if status != expected {
            bail!("{path} was answered with {status}: {}", String::from_utf8_lossy(answer));
        }
        Ok(serde_json::from_slice(answer)?)
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

/// What the server called `name` wrote last, for an error.
pub fn last_words(folder: &Path, name: &str) -> String {
    let log = std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    format!("the server's last words:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
}
