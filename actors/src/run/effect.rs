//! What is to be done once a decision is committed. Effects are written with the decision, carried out at least
//! once, and idempotent.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::CommitSha;
use crate::ports::store::ClosedPreview;

/// One thing to do. Its JSON form is what the outbox holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Effect {
    /// Compare `endSha` with the sandbox's live HEAD, write the diff source, end the run.
    CheckHead {
        /// What the daemon said; none for version 1.
        end_sha: Option<CommitSha>,
    },
    /// Decide the outcome of a legacy run that sent an envelope without `runId`: `inconclusive` where a UI rule
    /// matches, else `not_required`.
    ClassifyLegacy,
    /// Decide it again, now that the run has ended and its changes are all there; nothing where the run never sent
    /// such an envelope.
    ReclassifyLegacy,
    /// Emit an access-denied event if a preview of the thread is open.
    DenyAccessIfPreviewed,
    /// Tell every server that these preview sessions are closed: a new run or sandbox took their place.
    AnnounceClosedPreviews {
        /// They, as the same transaction left them.
        sessions: Vec<ClosedPreview>,
    },
}

impl Effect {
    /// The kind, as the outbox and logs name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::CheckHead { .. } => "check_head",
            Self::ClassifyLegacy => "classify_legacy",
            Self::ReclassifyLegacy => "reclassify_legacy",
            Self::DenyAccessIfPreviewed => "deny_access_if_previewed",
            Self::AnnounceClosedPreviews { .. } => "announce_closed_previews",
        }
    }
}
