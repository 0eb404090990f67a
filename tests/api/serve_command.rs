//! `runwarden serve`, as the real program: what it refuses to start with, and what strangers cannot make it write.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For a start, or for its refusal.
const WITHIN: Duration = Duration::from_secs(30);

fn program(command: &[&str], data: &Path, settings: &[(&str, &str)]) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_runwarden"));
    program.args(command).env("DATA_DIR", data).env("PORT", "0").env("WORKERS", "1").envs(settings.iter().copied());
    program.current_dir(std::env::temp_dir());
    program
}

/// A server in a process of its own; killed when it is dropped.
struct Serving {
    child: Child,
    log: PathBuf,
    address: String,
}

impl Serving {
    fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let log = folder.join("server.log");
        let stderr = std::fs::File::create(&log).unwrap();
        let child = program(&["serve"], &folder.join("data"), settings).stderr(stderr).spawn().unwrap();
        let mut serving = Self { child, log, address: String::new() };
        let since = Instant::now();
        while serving.address.is_empty() {
            assert!(since.elapsed() < WITHIN, "{}", serving.logged());
            std::thread::sleep(Duration::from_millis(20));
            let logged = serving.logged();
            let said = logged.lines().filter(|line| line.contains(" listening ")).find_map(|line| {
                let (_, rest) = line.split_once("addr=")?;
                rest.split_once(' ').map(|(address, _)| address.to_owned())
            });
            serving.address = said.unwrap_or_default();
        }
        serving
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// As `kill -9` does.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends the bytes and waits until the server has closed the connection.
    fn send(&self, bytes: &[u8]) -> String {
        let mut connection = TcpStream::connect(&self.address).unwrap();
        connection.set_read_timeout(Some(WITHIN)).unwrap();
        // The server may be the one that closes before it has read everything.
        let _ = connection.write_all(bytes).and_then(|()| connection.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server says that does not start.
fn refused(data: &Path, settings: &[(&str, &str)]) -> String {
    let mut child = program(&["serve"], data, settings).stderr(Stdio::piped()).spawn().unwrap();
    let since = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if since.elapsed() > WITHIN {
            child.kill().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(status.is_some_and(|status| !status.success()), "it starts: {text}");
    text
}

#[test]
fn one_server_at_a_time_works_on_a_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut first = Serving::start(folder.path(), &[]);
    let error = refused(&data, &[]);
    assert!(error.contains(&format!("DATA_DIR is `{}`", data.display())), "{error}");
    assert!(error.contains("another server") && error.contains("REDIS_URL"), "{error}");
    // What operators do beside a running server goes on.
    for command in [&["doctor"][..], &["migrate"], &["keys", "list"]] {
        let output = program(command, &data, &[]).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
    // Whoever is killed holds nothing.
    first.kill();
    drop(Serving::start(folder.path(), &[]));
}

#[test]
fn a_start_that_fails_names_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let secrets = [("INTERNAL_SERVICE_KEY", crate::app::INTERNAL_KEY), ("ADMIN_TOKEN", "admin-token-of-the-tests")];
    // With secrets to be made there, and without.
    for settings in [&[][..], &secrets] {
        for data in [&file, Path::new("/proc/x")] {
            let error = refused(data, settings);
            assert!(error.contains(&format!("DATA_DIR is `{}`; it must be a folder", data.display())), "{error}");
        }
    }
    let missing = folder.path().join("missing.toml").display().to_string();
    let error = refused(folder.path(), &[("RUNWARDEN_CONFIG", &missing)]);
    assert!(error.contains(&format!("RUNWARDEN_CONFIG is `{missing}`; it must be")), "{error}");
    let away = ("DATABASE_URL", "postgres://u:pa55w0rd@127.0.0.1:1/x");
    let error = refused(folder.path(), &[secrets[0], secrets[1], away]);
    assert!(error.contains("DATABASE_URL is (a secret); it must be"), "{error}");
    assert!(!error.contains("pa55w0rd"), "{error}");
}

#[test]
fn strangers_cannot_fill_the_log_unless_the_operator_wants_to_see_them() {
    const STRANGE: [&[u8]; 3] = [
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/daemon-event HTTP/1.1\r\nHost: x\r\nX-Daemon-Token: x\r\nContent-Length: 100\r\n\r\nhalf",
    ];
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(1 << 20));
    for (level, seen) in [("info", false), ("debug", false), ("info,actix_http=error", true)] {
        let folder = tempfile::tempdir().unwrap();
        let mut serving = Serving::start(folder.path(), &[("LOG_LEVEL", level)]);
        for bytes in STRANGE {
            serving.send(bytes);
        }
        serving.send(long.as_bytes());
        serving.kill();
        let logged = serving.logged();
        let lines = logged.lines().filter(|line| line.contains("actix_http::h1::dispatcher")).count();
        assert_eq!(lines >= 3, seen, "{level}: {logged}");
        assert_eq!(lines == 0, !seen, "{level}: {logged}");
    }
}
