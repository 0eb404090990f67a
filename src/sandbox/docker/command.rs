//! A command in a session's container (section 8), bounded in time and output.

use std::time::Duration;

use runwarden_actors::contract::ContainerSessionId;
use tokio::time::timeout;

use super::containers::{ContainerError, DockerContainers};
use super::engine::{Collected, ExecRun, WhenFull};

/// Ends every process whose environment has the mark `$1`. Between variables stand NULs, at which busybox's grep would
/// stop. Three rounds: a process may be starting another one meanwhile.
const KILL: &str = r#"
for round in 1 2 3; do
  for folder in /proc/[0-9]*; do
    case $({ tr '\0' '\n' <"$folder/environ"; } 2>/dev/null) in
      *"$1"*) kill -KILL "${folder#/proc/}" 2>/dev/null ;;
    esac
  done
done
"#;
/// Time for that.
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// How a command's processes are known again.
pub(super) const MARK: &str = "RUNWARDEN_EXEC";

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    /// Program and arguments; no shell sees them.
    pub argv: Vec<String>,
    /// `NAME=value`, added to the container's own environment.
    pub env: Vec<String>,
    /// Where it runs, unless in the workspace.
    pub dir: Option<String>,
    /// What it reads on standard input; nothing where there is none.
    pub input: Option<Vec<u8>>,
    /// After this it is killed, with all that it started.
    pub time: Duration,
    /// What is kept of each of its two outputs.
    pub output_max_bytes: usize,
    /// Different for each command: it marks its processes.
    pub mark: String,
}

/// How a command ended, and what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code, 126 or 127 where the program could not be started; `None` where its time was over.
    pub exit_code: Option<i64>,
    /// Beginning of standard output.
    pub stdout: Vec<u8>,
    /// Beginning of standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more.
    pub stdout_truncated: bool,
    /// Whether there was more.
    pub stderr_truncated: bool,
}

impl DockerContainers {
    /// Runs it to its end, or to the end of its time. A command that ran and failed is an outcome, not an error.
    pub async fn run(&self, session: &ContainerSessionId, command: &Command) -> Result<Outcome, ContainerError> {
        let name = session.container_name();
        let mark = format!("{MARK}={}", command.mark);
        let mut env: Vec<&str> = command.env.iter().map(String::as_str).collect();
        env.push(&mark);
        let run = ExecRun {
            argv: command.argv.iter().map(String::as_str).collect(),
            env,
            dir: command.dir.as_deref(),
            input: command.input.as_deref(),
        };
        let max = command.output_max_bytes;
        let mut kept = Collected::new(max, max, WhenFull::Drain);
        let exit_code = match timeout(command.time, self.engine.run(&name, &run, &mut kept)).await {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => return Err(self.explain(&name, error).await),
            Err(_) => {
                self.kill(&name, &mark).await;
                None
            }
        };
        Ok(Outcome {
            exit_code,
            stdout: kept.stdout,
            stderr: kept.stderr,
            stdout_truncated: kept.stdout_cut,
            stderr_truncated: kept.stderr_cut,
        })
    }

    /// Ends whatever of a command is left, as far as the container's own `sh` can find it.
    pub(super) async fn kill(&self, name: &str, mark: &str) {
        let run = ExecRun { argv: vec!["sh", "-c", KILL, "runwarden", mark], env: Vec::new(), dir: None, input: None };
        let mut kept = Collected::new(0, 0, WhenFull::Drain);
        if !matches!(timeout(KILL_WITHIN, self.engine.run(name, &run, &mut kept)).await, Ok(Ok(Some(0)))) {
            tracing::warn!(
                container = name,
                "a command that was given up may go on: its container has no shell, or does not answer"
            );
        }
    }
}
