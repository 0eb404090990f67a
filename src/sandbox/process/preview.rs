//! Preview commands as child processes of this server. They end with it.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runwarden_actors::contract::limits::PREVIEW_OUTPUT_TAIL_BYTES;
use runwarden_actors::contract::{CodesandboxId, RunId};
use runwarden_actors::ports::{CommandReport, CommandState, PreviewCommand, SandboxError};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::sandbox::inside::tail_text;

/// Most preview commands at once; a development machine has room for no more.
const COMMANDS_MAX: usize = 32;
/// Time between TERM and KILL.
const GRACE: Duration = Duration::from_secs(2);
/// How often a command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the last output of an ended command is waited for.
const DRAIN_WITHIN: Duration = Duration::from_millis(500);

/// The commands by port: a port of this host belongs to one command, whichever sandbox it is in.
#[derive(Debug)]
pub(super) struct Commands {
    by_port: tokio::sync::Mutex<HashMap<u16, Running>>,
    runtime: Option<Handle>,
}

#[derive(Debug)]
struct Running {
    sandbox: CodesandboxId,
    run_id: RunId,
    shared: Arc<Shared>,
    /// Asks the watcher to end it.
    stop: watch::Sender<bool>,
    /// Aborting the watcher kills what is left.
    watcher: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<CommandState>,
    tail: Mutex<Vec<u8>>,
}

impl Shared {
    /// Keeps the end; what goes over is cut once it is as long as the end itself.
    fn keep(&self, bytes: &[u8]) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(bytes);
        if tail.len() > 2 * PREVIEW_OUTPUT_TAIL_BYTES {
            let over = tail.len() - PREVIEW_OUTPUT_TAIL_BYTES;
            tail.drain(..over);
        }
    }
}

impl Commands {
    /// None runs yet. What will run lives in the current runtime, if there is one.
    pub(super) fn new() -> Self {
        Self { by_port: tokio::sync::Mutex::default(), runtime: Handle::try_current().ok() }
    }

    /// Starts it in `folder`, unless it runs already; whatever else had the port is ended first.
    pub(super) async fn start(
        &self,
        sandbox: &CodesandboxId,
        folder: &Path,
        command: &PreviewCommand,
    ) -> Result<(), SandboxError> {
        let port = command.config.port;
        let mut by_port = self.by_port.lock().await;
        if let Some(found) = by_port.get_mut(&port) {
            let same = found.run_id == command.run_id && found.sandbox == *sandbox;
            if same && *found.shared.state.borrow() == CommandState::Running {
                return Ok(());
            }
            found.end().await;
            by_port.remove(&port);
        }
        by_port.retain(|_, running| *running.shared.state.borrow() == CommandState::Running);
        if by_port.len() >= COMMANDS_MAX {
            return Err(SandboxError::CommandFailed(format!("{COMMANDS_MAX} preview commands run already")));
        }
        // Whoever else listens there would be shown in its place.
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            return Err(SandboxError::CommandFailed(format!("port {port} of this host is taken or not allowed")));
        }
        by_port.insert(port, self.spawn(sandbox, folder, command)?);
        Ok(())
    }

    /// How the run's command fares.
    pub(super) async fn report(&self, sandbox: &CodesandboxId, run_id: RunId, port: u16) -> CommandReport {
        let by_port = self.by_port.lock().await;
        match by_port.get(&port).filter(|found| found.run_id == run_id && found.sandbox == *sandbox) {
            None => CommandReport { state: CommandState::Exited { exit_code: None }, output_tail: String::new() },
            Some(found) => CommandReport {
                state: *found.shared.state.borrow(),
                output_tail: tail_text(&found.shared.tail.lock().unwrap_or_else(PoisonError::into_inner)),
            },
        }
    }

    /// Ends the run's command.
    pub(super) async fn stop(&self, sandbox: &CodesandboxId, run_id: RunId, port: u16) {
        let mut by_port = self.by_port.lock().await;
        if let Some(found) = by_port.get_mut(&port)
            && found.run_id == run_id
            && found.sandbox == *sandbox
        {
            found.end().await;
            by_port.remove(&port);
        }
    }

    /// Whether a command of this sandbox has the port.
    pub(super) async fn has(&self, sandbox: &CodesandboxId, port: u16) -> bool {
        self.by_port.lock().await.get(&port).is_some_and(|found| found.sandbox == *sandbox)
    }
}

impl Commands {
    /// Its tasks live in the runtime that the adapter was made in: the one of the worker that was asked to start it may
    /// end long before the server does, and would take the command with it.
    fn spawn(&self, sandbox: &CodesandboxId, folder: &Path, command: &PreviewCommand) -> Result<Running, SandboxError> {
        let _within = self.runtime.as_ref().map(Handle::enter);
        let mut child = shell(folder, command)
            .spawn()
            .map_err(|error| SandboxError::CommandFailed(format!("the command could not be started: {error}")))?;
        let shared = Arc::new(Shared {
            state: watch::Sender::new(CommandState::Running),
            tail: Mutex::new(Vec::with_capacity(PREVIEW_OUTPUT_TAIL_BYTES)),
        });
        let readers = [
            child.stdout.take().map(|stream| tokio::spawn(read(stream, Arc::clone(&shared)))),
            child.stderr.take().map(|stream| tokio::spawn(read(stream, Arc::clone(&shared)))),
        ];
        let (stop, stopping) = watch::channel(false);
        let group = Group::of(&child);
        let seen = Arc::clone(&shared);
        let watcher = tokio::spawn(async move {
            let exit_code = watch(child, group, stopping).await;
            for mut reader in readers.into_iter().flatten() {
                if timeout(DRAIN_WITHIN, &mut reader).await.is_err() {
                    reader.abort();
                }
            }
            seen.state.send_replace(CommandState::Exited { exit_code });
        })
        .abort_handle();
        Ok(Running { sandbox: sandbox.clone(), run_id: command.run_id, shared, stop, watcher })
    }
}

impl Running {
    /// TERM, and KILL after the grace; returns once it is gone, or when that takes oddly long.
    async fn end(&mut self) {
        self.stop.send_replace(true);
        let mut state = self.shared.state.subscribe();
        let gone = state.wait_for(|state| *state != CommandState::Running);
        if timeout(GRACE * 2, gone).await.is_err() {
            tracing::warn!(run_id = %self.run_id, "a preview command did not end");
        }
    }
}

/// The command in a shell, in an environment of its own: nothing of the server's but what a program needs to find
/// its way; the server's settings hold secrets.
fn shell(folder: &Path, command: &PreviewCommand) -> Command {
    let mut shell = Command::new("sh");
    shell.env_clear();
    for name in ["PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            shell.env(name, value);
        }
    }
    shell
        .arg("-c")
        .arg(&command.config.command)
        .current_dir(folder)
        .env("PORT", command.config.port.to_string())
        .env("HOST", Ipv4Addr::LOCALHOST.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0);
    shell
}

/// Waits for the command's end, and ends it where that is asked for. What it leaves behind goes with it.
async fn watch(mut child: Child, mut group: Group, mut stopping: watch::Receiver<bool>) -> Option<i64> {
    let mut kill_at = None;
    // While the child was not waited for, its group's number belongs to nobody else.
    while !group.leader_ended() {
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            asked = stopping.wait_for(|stop| *stop), if kill_at.is_none() => {
                drop(asked);
                group.signal(Signal::TERM);
                kill_at = Some(Instant::now() + GRACE);
            }
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            break;
        }
    }
    group.kill();
    let status = child.wait().await.ok()?;
    std::os::unix::process::ExitStatusExt::signal(&status)
        .map(|signal| 128 + i64::from(signal))
        .or_else(|| status.code().map(i64::from))
}

async fn read(mut stream: impl AsyncRead + Unpin, shared: Arc<Shared>) {
    let mut buffer = vec![0; PREVIEW_OUTPUT_TAIL_BYTES];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        shared.keep(&buffer[..count]);
    }
}

/// The process group of a child that was not waited for yet; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Leaves the child to be waited for.
    fn leader_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.0.is_none_or(|leader| !matches!(waitid(WaitId::Pid(leader), options), Ok(None)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0
            && let Err(error) = kill_process_group(group, signal)
        {
            tracing::debug!(%error, "a preview command's group was gone before it was signalled");
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
