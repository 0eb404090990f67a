//! A real repository with a small web app, and what Git says about it, whatever is set on this machine.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use runwarden_actors::contract::CommitSha;
use tokio::process::Command;

const FILES: [(&str, &str); 4] = [
    ("index.html", include_str!("scene/index.html")),
    ("styles.css", include_str!("scene/styles.css")),
    ("app.js", include_str!("scene/app.js")),
    ("package.json", include_str!("scene/package.json")),
];

/// The agent: a shell script.
pub(super) const AGENT: &str = include_str!("scene/agent.sh");

/// Makes Git the same everywhere: no settings of this user or machine (signing, hooks, templates), no repository that
/// the environment points to, and an author.
pub(super) fn git_environment(command: &mut Command) {
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(inherited);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_AUTHOR_NAME", "Demo Agent")
        .env("GIT_AUTHOR_EMAIL", "agent@demo.invalid")
        .env("GIT_COMMITTER_NAME", "Demo Agent")
        .env("GIT_COMMITTER_EMAIL", "agent@demo.invalid");
}

/// Says what to install where there is no Git.
pub(super) async fn need_git() -> anyhow::Result<()> {
    match git(Path::new("."), ["--version"]).await {
        Ok(_) => Ok(()),
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == ErrorKind::NotFound) => {
            bail!(
                "git was not found in PATH, and the demo works in a real repository.\n\
                 Install it (Debian, Ubuntu: apt install git; Fedora: dnf install git; Alpine: apk add git;\n\
                 macOS: xcode-select --install) and start the demo again."
            )
        }
        Err(error) => Err(error),
    }
}

/// A repository in a folder of its own.
pub(super) struct Repo {
    pub(super) path: PathBuf,
    pub(super) start_sha: CommitSha,
}

impl Repo {
    /// Init, the web app, the first commit.
    pub(super) async fn make(path: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir(&path).with_context(|| format!("folder {}", path.display()))?;
        for (name, text) in FILES {
            std::fs::write(path.join(name), text).with_context(|| format!("file {name}"))?;
        }
        git(&path, ["init", "--quiet"]).await?;
        git(&path, ["add", "--all"]).await?;
        git(&path, ["commit", "--quiet", "--message", "A tea timer"]).await?;
        let start_sha = head(&path).await?;
        Ok(Self { path, start_sha })
    }

    pub(super) async fn head(&self) -> anyhow::Result<CommitSha> {
        head(&self.path).await
    }

    /// Commits since the start.
    pub(super) async fn commits(&self) -> anyhow::Result<u64> {
        let range = format!("{}..HEAD", self.start_sha);
        Ok(git(&self.path, ["rev-list", "--count", &range]).await?.parse()?)
    }
}

async fn head(path: &Path) -> anyhow::Result<CommitSha> {
    Ok(CommitSha::parse(&git(path, ["rev-parse", "HEAD"]).await?)?)
}

async fn git<const N: usize, A: AsRef<OsStr>>(folder: &Path, arguments: [A; N]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(folder).stdin(std::process::Stdio::null()).kill_on_drop(true);
    git_environment(&mut command);
    let output = command.output().await.context("git cannot be run")?;
    if !output.status.success() {
        bail!("git failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
