//! A place for one run: folder, repository, options with short waits.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use runwarden::clock::{SystemClock, SystemIds};
use runwarden::daemon::{ExecOptions, Limits, ServerUrl, StopSwitch, Token, stop_switch};
use runwarden_actors::contract::{RunId, ThreadChatId, ThreadId};

use crate::server::TOKEN;

pub fn run_id() -> RunId {
    RunId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap()
}

pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn spool(&self) -> PathBuf {
        self.path("run.spool")
    }

    /// Makes a repository with one commit and returns its HEAD.
    pub fn repository(&self) -> String {
        let repo = self.path("repo");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q"]);
        git(&repo, &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "first"]);
        git(&repo, &["rev-parse", "HEAD"])
    }

    /// Options for an agent that is a shell script; `$1` is this folder.
    pub fn options(&self, url: &str, script: &str) -> (ExecOptions, StopSwitch) {
        let (switch, stop) = stop_switch();
        let repo = self.path("repo");
        let options = ExecOptions {
            server: ServerUrl::parse(url).unwrap(),
            token: Token::parse(TOKEN).unwrap(),
            thread_id: ThreadId::parse("thread").unwrap(),
            thread_chat_id: ThreadChatId::parse("chat").unwrap(),
            run_id: run_id(),
            repo: if repo.exists() { repo } else { self.folder.path().to_owned() },
            spool: self.spool(),
            timezone: "UTC".to_owned(),
            command: vec![
                "sh".into(),
                "-c".into(),
                script.into(),
                "agent".into(),
                self.folder.path().as_os_str().to_owned(),
            ],
            limits: quick(),
            stop,
            clock: Arc::new(SystemClock),
            ids: Arc::new(SystemIds),
        };
        (options, switch)
    }
}

/// The daemon's bounds with waits that suit a test.
pub fn quick() -> Limits {
    Limits {
        batch_messages: 3,
        batch_quiet: Duration::from_millis(5),
        ack_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(5),
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_millis(50),
        stream_retry: Duration::from_millis(100),
        start_timeout: Duration::from_secs(30),
        kill_grace: Duration::from_secs(10),
        drain_timeout: Duration::from_mins(1),
        ..Limits::default()
    }
}

fn git(repo: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git").current_dir(repo).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A script that says `count` numbered messages.
pub fn says(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do echo '{{\"type\":\"assistant\",\"n\":'$i'}}'; i=$((i+1)); done")
}

/// Polls until it is so; a test that waits for what never comes fails here.
pub async fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
