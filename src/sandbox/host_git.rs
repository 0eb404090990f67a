//! Runs `git` on this host, bounded in time, output and in what a repository can make it do.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use runwarden_actors::ports::SandboxError;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};

use super::git::{GIT_OUTPUT_MAX_BYTES, failed, output_too_large};

/// Most that is kept of a complaint.
const STDERR_MAX_BYTES: u64 = 16 * 1024;

/// A `git` command in an environment of its own: nothing of the server's but `PATH`, no configuration of the
/// system or a user, no prompt, no pager, no fetching of missing objects by whatever transport a repository names.
pub(super) fn command(git_dir: &Path, work_tree: &Path) -> Command {
    let mut safe_directory = OsString::from("safe.directory=");
    safe_directory.push(work_tree);
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
        .env("HOME", "/nonexistent")
        .env("LC_ALL", "C")
        .env("GIT_DIR", git_dir)
        .env("GIT_WORK_TREE", work_tree)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        .env("GIT_ALLOW_PROTOCOL", "none")
        .current_dir(work_tree)
        .args(["--no-pager", "--literal-pathspecs"])
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "core.attributesFile=/dev/null"])
        .args(["-c", "core.excludesFile=/dev/null"])
        .arg("-c")
        .arg(safe_directory);
    command
}

/// Runs it to its end and returns what it printed. Dropping the future kills it and every process that it started.
pub(super) async fn run(mut command: Command, what: &str) -> Result<Vec<u8>, SandboxError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .process_group(0)
        .spawn()
        .map_err(|error| SandboxError::CommandFailed(format!("git could not be started: {error}")))?;
    let mut group = Group::of(&child);
    let (stdout, stderr) =
        tokio::try_join!(read(child.stdout.take(), GIT_OUTPUT_MAX_BYTES as u64 + 1), read_some(child.stderr.take()))?;
    let status = child.wait().await.map_err(|error| broken(&error))?;
    // From here on the group's number may be somebody else's.
    group.0 = None;
    if status.success() { Ok(stdout) } else { Err(failed(what, &status.to_string(), &stderr)) }
}

/// The process group of a child that was not waited for yet; killed when dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take()
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "a git process group was gone before it was killed");
        }
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> Result<Vec<u8>, SandboxError> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(most).read_to_end(&mut bytes).await.map_err(|error| broken(&error))?;
    }
    if bytes.len() as u64 >= most { Err(output_too_large()) } else { Ok(bytes) }
}

/// Keeps the beginning and reads the rest away, so that a chatty command is not stopped by a full pipe.
async fn read_some(stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, SandboxError> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(STDERR_MAX_BYTES).read_to_end(&mut bytes).await.map_err(|error| broken(&error))?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map_err(|error| broken(&error))?;
    }
    Ok(bytes)
}

fn broken(error: &std::io::Error) -> SandboxError {
    SandboxError::CommandFailed(format!("git could not be read: {error}"))
}
