//! `runwarden daemon exec` on the command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use runwarden_actors::contract::{RunId, ThreadChatId, ThreadId};
use tokio::signal::unix::{SignalKind, signal};

use super::error::DaemonError;
use super::exec::exec;
use super::options::{ExecOptions, InvalidOption, Limits, ServerUrl, StopSwitch, Token, stop_switch};
use crate::clock::{SystemClock, SystemIds};

/// The environment variable that carries the daemon's token. The agent does not inherit it.
pub const TOKEN_ENV: &str = "RUNWARDEN_DAEMON_TOKEN";

/// Run an agent's command and deliver what it says.
///
/// Starts COMMAND, reads its standard output line by line, and delivers every line to the server exactly once and in
/// order. A line that is a JSON object is one message; any other text becomes a `system` message. Standard error is
/// passed through. When the command ends, the run ends with it, together with the HEAD of the repository.
///
/// Everything is written to a spool file before it is sent. If this program is killed, start the same command again:
/// it sends what is left and closes the run. It never starts the agent a second time.
///
/// SIGTERM or SIGINT stops the agent (SIGTERM to its process group, SIGKILL after 10 seconds or at the next signal);
/// one more signal while the last envelopes are being delivered gives up and keeps them in the spool.
#[derive(Debug, Args)]
#[command(after_help = "\
The token is read from RUNWARDEN_DAEMON_TOKEN or --token-file; it is never an argument.

Exit codes: the agent's own; 128+N where signal N ended it; 126 or 127 where it could not be started; 64 wrong option;
69 server out of reach at start; 70 the agent was lost with an earlier daemon; 73 spool unusable; 75 not everything
delivered (kept in the spool, run again); 77 token refused (kept in the spool); 78 token of another run.

Example:
  RUNWARDEN_DAEMON_TOKEN=… runwarden daemon exec --server https://runwarden.example \\
      --thread t-1 --chat c-1 --run 01935d3e-7c00-7000-8000-000000000001 --repo /srv/app -- my-agent --json")]
pub struct ExecArgs {
    /// Base URL of the server, http(s)://host[:port][/prefix].
    #[arg(long, value_name = "URL", env = "RUNWARDEN_SERVER")]
    pub server: String,
    /// The thread that the run belongs to.
    #[arg(long, value_name = "ID")]
    pub thread: String,
    /// The chat of that thread.
    #[arg(long, value_name = "ID")]
    pub chat: String,
    /// The run, as `POST /api/internal/runs` has answered it.
    #[arg(long, value_name = "UUID")]
    pub run: String,
    /// Repository whose HEAD is reported when the agent ends (default: the working directory).
    #[arg(long, value_name = "DIR")]
    pub repo: Option<PathBuf>,
    /// Spool file, or a directory for it (default: .runwarden/spool in the home directory). Keep it outside of the
    /// repository and on a disk that survives a restart of this program.
    #[arg(long, value_name = "FILE|DIR", env = "RUNWARDEN_SPOOL")]
    pub spool: Option<PathBuf>,
    /// File that holds the token, instead of the environment.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// IANA name of the time zone (default: the sandbox's own, else UTC).
    #[arg(long, value_name = "NAME")]
    pub timezone: Option<String>,
    /// Messages that close a batch.
    #[arg(long, value_name = "N", default_value_t = Limits::default().batch_messages)]
    pub batch_messages: usize,
    /// Bytes of messages that close a batch.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().batch_bytes)]
    pub batch_bytes: usize,
    /// Milliseconds of silence that close a batch.
    #[arg(long, value_name = "MS", default_value_t = 200)]
    pub batch_quiet_ms: u64,
    /// Unacknowledged bytes in the spool above which the agent is held back.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().spool_bytes)]
    pub spool_bytes: u64,
    /// Seconds that the server may be out of reach before the agent is started.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub start_timeout: u64,
    /// Seconds to wait for the last acknowledgements after the agent has ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub drain_timeout: u64,
    /// The agent's program and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl ExecArgs {
    /// Checks everything. The switch asks the daemon to stop.
    pub fn into_options(self) -> Result<(ExecOptions, StopSwitch), InvalidOption> {
        let wrong = |name, problem: &dyn std::fmt::Display| InvalidOption { name, problem: problem.to_string() };
        let run_id = RunId::parse(&self.run).map_err(|error| wrong("--run", &error))?;
        let timezone = self.timezone.unwrap_or_else(local_timezone);
        if timezone.is_empty() || timezone.len() > 64 || timezone.chars().any(char::is_control) {
            return Err(wrong("--timezone", &"expected the IANA name of a time zone, such as Europe/Berlin"));
        }
        let (switch, stop) = stop_switch();
        let options = ExecOptions {
            server: ServerUrl::parse(&self.server)?,
            token: read_token(self.token_file.as_deref())?,
            thread_id: ThreadId::parse(&self.thread).map_err(|error| wrong("--thread", &error))?,
            thread_chat_id: ThreadChatId::parse(&self.chat).map_err(|error| wrong("--chat", &error))?,
            run_id,
            repo: self.repo.unwrap_or_else(|| PathBuf::from(".")),
            spool: spool_path(self.spool, run_id),
            timezone,
            command: self.command,
            limits: Limits {
                batch_messages: self.batch_messages,
                batch_bytes: self.batch_bytes,
                batch_quiet: Duration::from_millis(self.batch_quiet_ms.min(60_000)),
                spool_bytes: self.spool_bytes,
                start_timeout: Duration::from_secs(self.start_timeout.min(86_400)),
                drain_timeout: Duration::from_secs(self.drain_timeout.min(30 * 86_400)),
                ..Limits::default()
            },
            stop,
            clock: Arc::new(SystemClock),
            ids: Arc::new(SystemIds),
        };
        options.limits.check()?;
        Ok((options, switch))
    }
}

fn read_token(file: Option<&Path>) -> Result<Token, InvalidOption> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|error| InvalidOption {
            name: "--token-file",
            problem: format!("{} cannot be read: {error}", file.display()),
        })?;
        return Token::parse(&text);
    }
    match std::env::var(TOKEN_ENV) {
        Ok(text) => Token::parse(&text),
        Err(_) => Err(InvalidOption {
            name: "daemon token",
            problem: format!("set {TOKEN_ENV} or name a file with --token-file"),
        }),
    }
}

fn spool_path(given: Option<PathBuf>, run_id: RunId) -> PathBuf {
    let name = format!("{run_id}.spool");
    match given {
        Some(path) if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") => path.join(name),
        Some(path) => path,
        None => std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .unwrap_or_else(std::env::temp_dir)
            .join(".runwarden/spool")
            .join(name),
    }
}

fn local_timezone() -> String {
    let set = std::env::var("TZ").ok().map(|name| name.trim_start_matches(':').to_owned());
    let linked = || {
        let target = std::fs::read_link("/etc/localtime").ok()?;
        target.to_str()?.split_once("/zoneinfo/").map(|(_, name)| name.to_owned())
    };
    set.filter(|name| !name.is_empty() && !name.starts_with('/')).or_else(linked).unwrap_or_else(|| "UTC".to_owned())
}

/// Runs the subcommand and returns the exit code of the process. SIGTERM and SIGINT are watched from here on. To be
/// polled where actix's runtime is.
pub async fn run(args: ExecArgs) -> Result<u8, DaemonError> {
    let (options, switch) = args.into_options()?;
    let watch = |kind| signal(kind).map_err(|error| DaemonError::Client(format!("signals cannot be watched: {error}")));
    let mut terminate = watch(SignalKind::terminate())?;
    let mut interrupt = watch(SignalKind::interrupt())?;
    let signals = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            switch.request();
        }
    };
    let outcome = tokio::select! {
        outcome = exec(options) => outcome?,
        () = signals => return Err(DaemonError::StoppedBeforeStart),
    };
    tracing::info!(
        exit_code = outcome.exit_code,
        resumed = outcome.resumed,
        deliveries = ?outcome.deliveries,
        "everything is dealt with"
    );
    Ok(u8::try_from(outcome.exit_code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        exec: ExecArgs,
    }

    fn parse(extra: &[&str]) -> Result<ExecArgs, clap::Error> {
        let run = "01935d3e-7c00-7000-8000-000000000001";
        let base = ["exec", "--server", "http://localhost:4002", "--thread", "t", "--chat", "c", "--run", run];
        Cli::try_parse_from(base.iter().chain(extra)).map(|cli| cli.exec)
    }

    #[test]
    fn the_command_follows_two_dashes_and_is_left_as_it_is() {
        let args = parse(&["--", "agent", "--flag", "--server", "x"]).unwrap();
        assert_eq!(args.command, ["agent", "--flag", "--server", "x"]);
        assert!(parse(&[]).is_err());
    }

    #[test]
    fn the_token_comes_from_a_file_and_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "top-secret\n").unwrap();
        let file = file.to_str().unwrap();
        let (options, _) = parse(&["--token-file", file, "--", "agent"]).unwrap().into_options().unwrap();
        assert_eq!(options.token.expose(), "top-secret");
        assert!(!format!("{options:?}").contains("secret"));
    }

    #[test]
    fn the_spool_is_a_file_or_in_a_folder() {
        let run_id = RunId::parse("01935d3e-7c00-7000-8000-000000000001").unwrap();
        let name = format!("{run_id}.spool");
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(spool_path(Some(folder.path().into()), run_id), folder.path().join(&name));
        assert_eq!(spool_path(Some("new/".into()), run_id), Path::new("new").join(&name));
        assert_eq!(spool_path(Some("a.spool".into()), run_id), Path::new("a.spool"));
        assert!(spool_path(None, run_id).ends_with(Path::new(".runwarden/spool").join(&name)));
    }
}
