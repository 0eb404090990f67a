//! The real daemon, as the child process that it is inside a sandbox.

use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::host::NewRun;
use super::repository::git_environment;
use crate::daemon::cli::TOKEN_ENV;

/// Messages in one envelope: few, so that there are many envelopes for the link to spoil.
const BATCH_MESSAGES: &str = "3";
const FIRST_SIGNAL: Duration = Duration::from_millis(300);
const SECOND_SIGNAL: Duration = Duration::from_secs(3);

/// Where everything lies.
pub(super) struct Place<'a> {
    pub(super) server: &'a str,
    pub(super) thread: &'a str,
    pub(super) chat: &'a str,
    pub(super) repo: &'a Path,
    pub(super) spool: &'a Path,
    pub(super) log: &'a Path,
    pub(super) agent: &'a Path,
    pub(super) journal: &'a Path,
}

/// A running daemon with its agent.
pub(super) struct Daemon(Child);

impl Daemon {
    /// `runwarden daemon exec … -- sh agent.sh …`, with the token in the environment. In a process group of its own, so
    /// that Ctrl-C reaches the demonstration alone, which then ends it.
    pub(super) fn start(place: &Place<'_>, run: &NewRun) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file")?;
        let log = File::create(place.log).with_context(|| format!("file {}", place.log.display()))?;
        let mut command = Command::new(program);
        command
            .args(["daemon", "exec", "--server", place.server, "--thread", place.thread, "--chat", place.chat])
            .args(["--run", &run.run_id.to_string(), "--batch-messages", BATCH_MESSAGES])
            .args(["--start-timeout", "20", "--drain-timeout", "60", "--repo"])
            .arg(place.repo)
            .arg("--spool")
            .arg(place.spool)
            .args(["--", "sh"])
            .args([place.agent, place.repo, place.journal])
            .env(TOKEN_ENV, &run.daemon_token)
            .env("LOG_LEVEL", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        git_environment(&mut command);
        Ok(Self(command.spawn().context("the daemon cannot be started")?))
    }

    /// Its end, where it has come.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Ends it and its agent: the first signal stops the agent, the second gives up what is not delivered.
    pub(super) async fn end(mut self) {
        for wait in [FIRST_SIGNAL, SECOND_SIGNAL] {
            let Some(pid) = self.0.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            if timeout(wait, self.0.wait()).await.is_ok() {
                return;
            }
        }
        let _ = self.0.kill().await;
    }
}
