//! HEAD of the repository when the agent has ended.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use runwarden_actors::contract::CommitSha;
use tokio::process::Command;
use tokio::time::timeout;

const TIME_LIMIT: Duration = Duration::from_secs(10);

/// `git rev-parse HEAD`; `None`, with a line in the log, where there is none to be had.
pub(super) async fn head(repo: &Path) -> Option<CommitSha> {
    match read_head(repo).await {
        Ok(sha) => Some(sha),
        Err(problem) => {
            tracing::warn!(repo = %repo.display(), %problem, "no endSha: HEAD cannot be read");
            None
        }
    }
}

async fn read_head(repo: &Path) -> Result<CommitSha, String> {
    let output = Command::new("git")
        // The repository may belong to the agent's user; reading HEAD runs nothing that it contains.
        .args(["-c", "safe.directory=*", "rev-parse", "--verify", "HEAD^{commit}"])
        .current_dir(repo)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(TIME_LIMIT, output)
        .await
        .map_err(|_| format!("git did not answer within {} s", TIME_LIMIT.as_secs()))?
        .map_err(|error| format!("git cannot be run: {error}"))?;
    if !output.status.success() {
        let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(300).collect();
        return Err(said);
    }
    CommitSha::parse(String::from_utf8_lossy(&output.stdout).trim()).map_err(|error| error.to_string())
}
