//! `git` inside a sandbox.

use runwarden_actors::contract::CommitSha;
use runwarden_actors::ports::{SandboxError, SandboxTarget};

use crate::sandbox::git::{DIFF_OPTIONS, UNTRACKED_OPTIONS, append_untracked, parse_head};

use super::exec::{Exec, ExecCall};

/// `git diff` rewrites the index where a file's times have moved; here it rewrites a copy. `$0` is the repository,
/// the rest goes to `git`.
const DIFF_SCRIPT: &str = r#"
cd -- "$0" || exit 1
index=$(git rev-parse --git-path index) || exit 1
copy=$(mktemp) || exit 1
trap 'rm -f "$copy" "$copy.lock"' EXIT
if [ -f "$index" ]; then
  cp -p -- "$index" "$copy" || exit 1
  GIT_INDEX_FILE=$copy
  export GIT_INDEX_FILE
fi
git "$@"
"#;

/// The repository may belong to another user than the sandbox's; nothing is prompted for, fetched or locked.
/// Beyond that the sandbox's own configuration holds: what it names runs inside the sandbox.
const ENVIRONMENT: [&str; 9] = [
    "GIT_OPTIONAL_LOCKS=0",
    "GIT_TERMINAL_PROMPT=0",
    "GIT_NO_LAZY_FETCH=1",
    "GIT_PAGER=cat",
    "GIT_CONFIG_COUNT=2",
    "GIT_CONFIG_KEY_0=safe.directory",
    "GIT_CONFIG_VALUE_0=*",
    "GIT_CONFIG_KEY_1=core.fsmonitor",
    "GIT_CONFIG_VALUE_1=false",
];

/// The live `git rev-parse HEAD`.
pub(crate) async fn head_sha(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    repo_dir: &str,
) -> Result<CommitSha, SandboxError> {
    let command = vec!["git", "-C", repo_dir, "rev-parse", "--verify", "HEAD"];
    parse_head(&run(sandbox, target, "git rev-parse HEAD", command).await?)
}

/// `git diff --name-status -z`, with untracked files where `end` is `None`.
pub(crate) async fn changed_paths(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    repo_dir: &str,
    base: &CommitSha,
    end: Option<&CommitSha>,
) -> Result<Vec<u8>, SandboxError> {
    let Some(end) = end else {
        let mut diff = vec!["sh", "-c", DIFF_SCRIPT, repo_dir];
        diff.extend(DIFF_OPTIONS);
        diff.extend([base.as_str(), "--"]);
        let mut list = run(sandbox, target, "git diff", diff).await?;
        let mut untracked = vec!["git", "-C", repo_dir];
        untracked.extend(UNTRACKED_OPTIONS);
        append_untracked(&mut list, &run(sandbox, target, "git ls-files", untracked).await?)?;
        return Ok(list);
    };
    let mut diff = vec!["git", "-C", repo_dir];
    diff.extend(DIFF_OPTIONS);
    diff.extend([base.as_str(), end.as_str(), "--"]);
    run(sandbox, target, "git diff", diff).await
}

async fn run(sandbox: &dyn Exec, target: &SandboxTarget, what: &str, argv: Vec<&str>) -> Result<Vec<u8>, SandboxError> {
    let call = ExecCall { env: &ENVIRONMENT, ..ExecCall::new(what, argv) };
    sandbox.exec(target, call).await?.success(what)
}
