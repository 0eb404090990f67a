//! Files of the repository inside a sandbox.

use runwarden_actors::ports::{SandboxError, SandboxTarget};

use super::exec::{Exec, ExecCall, ExecLimits};

/// What the script answers with.
const READ: &str = concat!(include_str!("outside.sh"), include_str!("read.sh"));
const NO_REPOSITORY: i64 = 71;
const MISSING: i64 = 72;
const NO_FILE: i64 = 73;
const OUTSIDE: i64 = 75;

/// A file of the repository by its relative path; see
/// [`runwarden_actors::ports::PreviewHost::read_repo_file`].
pub(crate) async fn read_repo_file(
    sandbox: &dyn Exec,
    target: &SandboxTarget,
    repo_dir: &str,
    path: &str,
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, SandboxError> {
    let refused = |why: String| SandboxError::CommandFailed(why);
    if path.is_empty() || path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(refused("a file of the repository is named by its relative path".to_owned()));
    }
    let what = "read a file of the repository";
    let most = (max_bytes + 1).to_string();
    let limits = ExecLimits { stdout_bytes: max_bytes + 1, ..ExecLimits::default() };
    let call = ExecCall { limits, ..ExecCall::script(what, READ, &[repo_dir, path, &most]) };
    let answer = sandbox.exec(target, call).await?;
    match answer.exit_code {
        MISSING => Ok(None),
        NO_REPOSITORY => Err(refused(format!("there is no folder `{repo_dir}`"))),
        NO_FILE => Err(refused(format!("`{path}` is not a regular file"))),
        OUTSIDE => Err(refused(format!("`{path}` lies outside of the repository"))),
        _ => match answer.success(what)? {
            bytes if bytes.len() > max_bytes => Err(refused(format!("`{path}` has more than {max_bytes} bytes"))),
            bytes => Ok(Some(bytes)),
        },
    }
}
