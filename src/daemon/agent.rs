//! The agent's process: started in a group of its own, watched, stopped with everything it started.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::cli::TOKEN_ENV;
use super::conversation::{Cause, Ending};
use super::options::StopRequests;
use super::spool::AgentMark;

const STDERR_TAIL_BYTES: usize = 8 * 1024;
const STDERR_TAIL_LINES: usize = 20;
const LEFTOVER_POLL: Duration = Duration::from_millis(50);

/// A running agent.
pub(super) struct Agent {
    child: Child,
    group: Pid,
    started_at: Instant,
    tail: Arc<Mutex<VecDeque<u8>>>,
    stderr: AbortOnDropHandle<()>,
}

impl Agent {
    /// Starts it. The daemon's token is not handed on in the environment.
    pub(super) fn start(command: &[OsString]) -> io::Result<(Self, ChildStdout)> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
        // A group in the background that reads a terminal would be stopped by it.
        let stdin = if io::stdin().is_terminal() { Stdio::null() } else { Stdio::inherit() };
        let mut child = Command::new(program)
            .args(arguments)
            .env_remove(TOKEN_ENV)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || io::Error::other("the new process has no id or no pipes");
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let pass_on = tokio::spawn(pass_on(stderr, Arc::clone(&tail)));
        let agent = Self {
            child,
            group: Pid::from_raw(pid),
            started_at: Instant::now(),
            tail,
            stderr: AbortOnDropHandle::new(pass_on),
        };
        Ok((agent, stdout))
    }

    /// What a later daemon knows it by.
    pub(super) fn mark(&self) -> AgentMark {
        let pid = self.group.as_raw();
        AgentMark { pid: Some(pid), started_ticks: started_ticks(pid) }
    }

    /// Kills it and everything in its group at once.
    pub(super) fn kill(&self) {
        signal_group(self.group, Signal::SIGKILL);
    }

    /// Waits for its end. The first request to stop, or `cannot_go_on`, asks the group to end; one more request, or
    /// the end of the grace, kills it. `stopping` is called as soon as it is asked to end.
    pub(super) async fn watch(
        &mut self,
        stop: &StopRequests,
        cannot_go_on: impl Future<Output = String>,
        kill_grace: Duration,
        stopping: impl Fn(),
    ) -> (ExitStatus, Option<Cause>) {
        let mut cause = None;
        let mut kill_at: Option<Instant> = None;
        tokio::pin!(cannot_go_on);
        let status = loop {
            let asked = tokio::select! {
                status = self.child.wait() => break status,
                () = stop.more_than(0), if cause.is_none() => Cause::Stopped,
                why = &mut cannot_go_on, if cause.is_none() => Cause::Failed(why),
                () = stop.more_than(1), if kill_at.is_some() => {
                    kill_at = None;
                    self.kill();
                    continue;
                }
                () = sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() => {
                    kill_at = None;
                    self.kill();
                    continue;
                }
            };
            cause = Some(asked);
            stopping();
            signal_group(self.group, Signal::SIGTERM);
            kill_at = Some(Instant::now() + kill_grace);
        };
        if cause.is_some() {
            // What the agent had started and left running was meant by the stop as well.
            self.kill();
        }
        let status = status.unwrap_or_else(|error| {
            tracing::error!(%error, "the agent's exit status cannot be read");
            ExitStatus::from_raw(0xff00)
        });
        (status, cause)
    }

    /// Reads what is left of standard error, for at most `grace`, and puts together how it ended.
    pub(super) async fn ending(&mut self, status: ExitStatus, cause: Option<Cause>, grace: Duration) -> Ending {
        let duration = self.started_at.elapsed();
        if timeout(grace, &mut self.stderr).await.is_err() {
            self.stderr.abort();
        }
        let signal = status.signal();
        Ending {
            exit_code: status.code().unwrap_or_else(|| 128_i32.saturating_add(signal.unwrap_or_default())),
            signal: signal.map(signal_name),
            cause,
            stderr_tail: tail_lines(&self.tail),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

fn signal_group(group: Pid, signal: Signal) {
    match killpg(group, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(error) => tracing::warn!(%group, %signal, %error, "the agent's process group cannot be signalled"),
    }
}

/// Hands the agent's standard error on and keeps its last bytes.
async fn pass_on(mut from: ChildStderr, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut to = tokio::io::stderr();
    let mut chunk = vec![0; 8 * 1024];
    loop {
        let count = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let read = chunk.get(..count).unwrap_or_default();
        {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(read);
            let surplus = tail.len().saturating_sub(STDERR_TAIL_BYTES);
            tail.drain(..surplus);
        }
        // Nobody may be reading our own standard error; the agent must go on all the same.
        if to.write_all(read).await.is_ok() {
            let _ = to.flush().await;
        }
    }
}

fn tail_lines(tail: &Mutex<VecDeque<u8>>) -> Vec<String> {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    let text = String::from_utf8_lossy(tail.make_contiguous()).into_owned();
    let mut lines: Vec<_> = text.lines().rev().take(STDERR_TAIL_LINES).map(str::to_owned).collect();
    lines.reverse();
    lines
}

/// Field 22 of `/proc/<pid>/stat`; `None` where there is no such process (or no such file on this system). A zombie
/// counts as gone.
fn started_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(ticks)
}

/// Ends an agent that outlived the daemon that had started it: its output goes nowhere any more. Returns whether
/// there was one.
pub(super) async fn end_leftover(mark: AgentMark, kill_grace: Duration) -> bool {
    let (Some(pid), Some(ticks)) = (mark.pid, mark.started_ticks) else { return false };
    let lives = || started_ticks(pid) == Some(ticks);
    if !lives() {
        return false;
    }
    let group = Pid::from_raw(pid);
    signal_group(group, Signal::SIGTERM);
    let give_up = Instant::now() + kill_grace;
    while lives() && Instant::now() < give_up {
        sleep(LEFTOVER_POLL).await;
    }
    signal_group(group, Signal::SIGKILL);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(started_ticks(own).is_some());
        assert_eq!(started_ticks(own), started_ticks(own));
        assert_eq!(started_ticks(i32::MAX), None);
    }

    #[tokio::test]
    async fn an_agent_that_outlived_its_daemon_is_ended() {
        let (mut agent, _stdout) = Agent::start(&["sleep".into(), "600".into()]).unwrap();
        let mark = agent.mark();
        let other = AgentMark { started_ticks: mark.started_ticks.map(|ticks| ticks + 1), ..mark };
        assert!(!end_leftover(other, Duration::from_secs(5)).await, "another process with the same id is left alone");
        assert!(agent.child.try_wait().unwrap().is_none());
        assert!(end_leftover(mark, Duration::from_secs(5)).await);
        assert_eq!(agent.child.wait().await.unwrap().signal(), Some(15));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let text = (0..30).map(|line| format!("line {line}")).collect::<Vec<_>>().join("\n");
        let lines = tail_lines(&Mutex::new(text.into_bytes().into()));
        assert_eq!(lines.len(), STDERR_TAIL_LINES);
        assert_eq!((lines[0].as_str(), lines[19].as_str()), ("line 10", "line 29"));
    }
}
