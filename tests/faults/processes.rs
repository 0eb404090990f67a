//! The real program, as a server and as a daemon.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::Rng as _;

use crate::app::{INTERNAL_KEY, TestRun};
use crate::cell::Cell;
use crate::remote::Remote;

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_runwarden");

/// A port that stays ours while nobody listens on it: below the ports that the system hands out by itself, where a
/// connection of somebody else could take it.
pub fn lasting_port() -> u16 {
    let mut random = rand::rng();
    (0..1000)
        .map(|_| random.random_range(10_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// A `runwarden serve` that keeps its port, its settings and its data across kills.
pub struct ServerProcess {
    pub cell: Cell,
    pub remote: Remote,
}

impl ServerProcess {
    /// Not started yet. Data, and the log, are in `folder`; `disk_size` makes the data's folder a disk of that size.
    pub fn new(folder: &Path, settings: &[(&str, &str)], disk_size: Option<&str>) -> Self {
        let port = lasting_port();
        let data = folder.join("data");
        std::fs::create_dir(&data).unwrap();
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .env("PORT", port.to_string())
            .env("DATA_DIR", &data)
            .env("INTERNAL_SERVICE_KEY", INTERNAL_KEY)
            .env("ADMIN_TOKEN", "admin-token-of-the-tests")
            .env("WORKERS", "2")
            .envs(settings.iter().copied());
        let cell = Cell::new(&command, &folder.join("server.log"), disk_size.map(|size| (data.as_path(), size)));
        Self { cell, remote: Remote::new(&format!("http://127.0.0.1:{port}")) }
    }

    /// Starts it and waits until it serves.
    pub async fn start(&mut self) {
        self.cell.start();
        self.remote.until_ready().await;
    }
}

/// `runwarden daemon exec` with an agent that is a shell script; `$1` of it is `folder`, where the spool is too.
pub fn daemon(url: &str, run: &TestRun, folder: &Path, repo: &Path, script: &str) -> Cell {
    let mut command = Command::new(PROGRAM);
    command
        .args(["daemon", "exec", "--server", url, "--thread", &run.thread, "--chat", &run.chat, "--run", &run.id])
        .args(["--batch-messages", "4", "--batch-quiet-ms", "10", "--timezone", "UTC", "--drain-timeout", "120"])
        .arg("--spool")
        .arg(folder.join("run.spool"))
        .arg("--repo")
        .arg(repo)
        .args(["--", "sh", "-c", script, "agent"])
        .arg(folder)
        .env("RUNWARDEN_DAEMON_TOKEN", &run.token);
    Cell::new(&command, &folder.join("daemon.log"), None)
}

/// A repository with one commit, so that there is a HEAD to report.
pub fn repository(at: &Path) {
    for arguments in [
        &["init", "-q"][..],
        &["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "--allow-empty", "-m", "first"],
    ] {
        let output = Command::new("git").current_dir(at).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A moment somewhere between the two, in milliseconds.
pub fn some_ms(random: &mut rand::rngs::StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(random.random_range(from..to))
}

/// The end of a log, for a test that fails.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
