//! What is asked inside of a sandbox by running commands there: the same `git` and the same small shell scripts,
//! whoever the provider is. A provider has to bring [`Exec`].

mod exec;
mod files;
mod git;
mod preview;
#[cfg(test)]
mod script_tests;

#[cfg(test)]
pub(crate) use self::exec::ExecLimits;
pub(crate) use self::exec::{Exec, ExecAnswer, ExecCall};
pub(super) use self::files::read_repo_file;
pub(super) use self::git::{changed_paths, head_sha};
pub(super) use self::preview::{missing_tools, preview_report, start_preview, stop_preview, tail_text};

use runwarden_actors::ports::{SandboxError, SandboxTarget};

/// The repository's folder: as `bind` gave it, or the provider's default.
pub(super) fn repo_dir<'a>(target: &'a SandboxTarget, default: Option<&'a str>) -> Result<&'a str, SandboxError> {
    let wrong = |why: &str| SandboxError::CommandFailed(why.to_owned());
    let dir = target.repo_dir.as_deref().or(default).ok_or_else(|| wrong("this provider needs repoDir"))?;
    if dir.starts_with('/') && !dir.chars().any(char::is_control) {
        Ok(dir)
    } else {
        Err(wrong("repoDir must be an absolute path"))
    }
}
