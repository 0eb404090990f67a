//! What both adapters say to `git`, and how they read its answers.

use runwarden_actors::contract::CommitSha;
use runwarden_actors::ports::SandboxError;

/// Most that is read of one answer.
pub const GIT_OUTPUT_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait for one question, however many commands it takes.
pub const GIT_TIMEOUT_MS: u64 = 20_000;

/// Options of every `git diff` here: machine-readable, renames and copies named, and nothing that the repository
/// could configure otherwise. Submodules count by the commit they point to, so that no `git` runs inside them.
pub(super) const DIFF_OPTIONS: [&str; 11] = [
    "diff",
    "--name-status",
    "-z",
    "-M",
    "-C",
    "-l1000",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--ignore-submodules=dirty",
];

/// Options that list untracked, not ignored files.
pub(super) const UNTRACKED_OPTIONS: [&str; 4] = ["ls-files", "--others", "--exclude-standard", "-z"];

/// Reads the answer of `git rev-parse HEAD`.
pub(super) fn parse_head(output: &[u8]) -> Result<CommitSha, SandboxError> {
    std::str::from_utf8(output)
        .ok()
        .and_then(|text| CommitSha::parse(text.strip_suffix('\n').unwrap_or(text)).ok())
        .ok_or_else(|| SandboxError::CommandFailed("`git rev-parse HEAD` did not print a commit".to_owned()))
}

/// Appends untracked files, NUL-separated, to a `--name-status -z` list as `??` entries.
pub(super) fn append_untracked(list: &mut Vec<u8>, untracked: &[u8]) -> Result<(), SandboxError> {
    for path in untracked.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
        if list.len() + path.len() + 4 > GIT_OUTPUT_MAX_BYTES {
            return Err(output_too_large());
        }
        list.extend_from_slice(b"??\0");
        list.extend_from_slice(path);
        list.push(0);
    }
    Ok(())
}

/// A command that ended with something else than 0; its complaint is cut to one short line, for the database.
pub(super) fn failed(what: &str, status: &str, stderr: &[u8]) -> SandboxError {
    let complaint = String::from_utf8_lossy(stderr);
    let complaint: String = complaint.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    let separator = if complaint.is_empty() { "" } else { ": " };
    SandboxError::CommandFailed(format!("`{what}` ended with {status}{separator}{complaint}"))
}

pub(super) fn output_too_large() -> SandboxError {
    SandboxError::CommandFailed(format!("git printed more than {GIT_OUTPUT_MAX_BYTES} bytes"))
}

pub(super) fn timed_out() -> SandboxError {
    SandboxError::Timeout(format!("git did not end within {GIT_TIMEOUT_MS} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_commit_is_a_head() {
        let sha = "a".repeat(40);
        assert_eq!(parse_head(format!("{sha}\n").as_bytes()).unwrap().as_str(), sha);
        for wrong in ["", "HEAD\n", &format!("{sha}\n{sha}\n"), &format!("warning\n{sha}\n")] {
            assert!(matches!(parse_head(wrong.as_bytes()), Err(SandboxError::CommandFailed(_))), "{wrong:?}");
        }
        assert!(parse_head(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn untracked_files_keep_their_bytes_and_the_list_its_bound() {
        let mut list = b"M\0a\0".to_vec();
        append_untracked(&mut list, b"x\ny\0\xff\0").unwrap();
        assert_eq!(list, b"M\0a\0??\0x\ny\0??\0\xff\0");

        let mut full = vec![b'x'; GIT_OUTPUT_MAX_BYTES - 4];
        assert!(append_untracked(&mut full, b"y\0").is_err());
    }

    #[test]
    fn a_complaint_is_one_short_line() {
        let error = failed("git diff", "exit status 128", format!("fatal: a\nb{}", "x".repeat(999)).as_bytes());
        let text = error.to_string();
        assert!(text.contains("fatal: a b") && !text.contains('\n') && text.len() < 400, "{text}");
    }
}
