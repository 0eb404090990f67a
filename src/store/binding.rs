//! What binding a run to a sandbox needs (section 3), the same on both databases.

use runwarden_actors::contract::CommitSha;
use runwarden_actors::ports::store::{RunRecord, SandboxBinding};

/// Whether the run has not ended, and has no other `runStartSha`.
pub(super) fn may_bind(run: &RunRecord, start: &CommitSha) -> bool {
    run.status.is_active() && run.run_start_sha.as_ref().is_none_or(|sha| sha == start)
}

/// Whether the run is bound to the very same.
pub(super) fn is_bound(run: &RunRecord, binding: &SandboxBinding) -> bool {
    run.codesandbox_id.as_ref() == Some(&binding.codesandbox_id)
        && run.sandbox_provider == Some(binding.sandbox_provider)
        && run.run_start_sha.as_ref() == Some(&binding.run_start_sha)
        && run.repo_dir == binding.repo_dir
}
