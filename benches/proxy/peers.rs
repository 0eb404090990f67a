//! The peers, and Redis.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::support::connection::Connection;
use super::support::guard::{self, Guarded};
use super::support::host::{free_port, path};

/// A program that listens on a port.
pub struct Peer {
    guard: Guarded,
    /// TCP port on the loopback address.
    pub port: u16,
}

impl Peer {
    /// nginx as Debian builds it: one worker, kept connections to the upstream, no access log. Nothing is buffered on
    /// the disk, which is faster than nginx's own default where a body is large.
    pub async fn nginx(folder: &Path, upstream: u16) -> Result<Self> {
        let (folder, port) = (folder.join("nginx"), free_port()?);
        std::fs::create_dir(&folder)?;
        let at = path(&folder)?;
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(temporary, "  {kind}_temp_path {at}/{kind};");
        }
        let configuration = format!(
            "daemon off;\nworker_processes 1;\npid {at}/nginx.pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n{temporary}  access_log off;\n\
             \x20 upstream app {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n\
             \x20 server {{\n    listen 127.0.0.1:{port};\n    keepalive_requests 1000000000;\n\
             \x20   location / {{\n      proxy_pass http://app;\n      proxy_http_version 1.1;\n\
             \x20     proxy_set_header Connection \"\";\n      proxy_max_temp_file_size 0;\n    }}\n  }}\n}}\n"
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, configuration)?;
        let nginx = program("nginx", "apt-get install nginx-light")?;
        Self::start(&[&nginx, "-c", path(&file)?, "-e", "stderr"], "QUIT", &folder.join("log"), port).await
    }

    /// http-proxy-middleware, installed from the lock file beside this source: `documented`, and with `kept`
    /// connections to the upstream, as nginx has them.
    pub async fn node(folder: &Path, upstream: u16) -> Result<[Self; 2]> {
        let folder = folder.join("node");
        std::fs::create_dir(&folder)?;
        for (name, text) in [
            ("package.json", include_str!("package.json")),
            ("package-lock.json", include_str!("package-lock.json")),
            ("peer.mjs", include_str!("peer.mjs")),
        ] {
            std::fs::write(folder.join(name), text)?;
        }
        let npm = program("npm", "apt-get install nodejs npm")?;
        guard::run(&[&npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], &folder)?;
        let node = program("node", "apt-get install nodejs npm")?;
        let (script, upstream) = (folder.join("peer.mjs"), upstream.to_string());
        let start = async |connections: &str| {
            let (port, log) = (free_port()?, folder.join(connections));
            Self::start(&[&node, path(&script)?, &port.to_string(), &upstream, connections], "TERM", &log, port).await
        };
        Ok([start("documented").await?, start("kept").await?])
    }

    /// Redis as it should be kept: every second what changed is written to the disk.
    pub async fn redis(folder: &Path) -> Result<Self> {
        let (folder, port) = (folder.join("redis"), free_port()?);
        std::fs::create_dir(&folder)?;
        let redis = program("redis-server", "apt-get install redis-server")?;
        let port_text = port.to_string();
        let command = [
            redis.as_str(),
            "--bind",
            "127.0.0.1",
            "--port",
            &port_text,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--dir",
            path(&folder)?,
        ];
        Self::start(&command, "TERM", &folder.join("log"), port).await
    }

    async fn start(command: &[&str], signal: &str, log: &Path, port: u16) -> Result<Self> {
        let guard = Guarded::start(command, &[], signal, log, None)?;
        let since = Instant::now();
        while Connection::open(port).await.is_err() {
            if since.elapsed() > Duration::from_secs(20) {
                bail!("{} did not start:\n{}", command.join(" "), std::fs::read_to_string(log).unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { guard, port })
    }

    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.guard.pid
    }
}

/// The program's path; `how` says how to get it.
fn program(name: &str, how: &str) -> Result<String> {
    let folders = std::env::var("PATH").unwrap_or_default();
    let folders = folders.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    let found = folders.map(|folder| Path::new(folder).join(name)).find(|file| file.is_file());
    let found = found.with_context(|| format!("{name} is not installed; on Debian: {how}"))?;
    Ok(path(&found)?.to_owned())
}
