//! The shared vocabulary: every id, enum, limit, name, claim tuple and error code of the contract,
//! written once. Nothing outside this module spells a wire name, a bound or a key.

mod daemon;
mod enums;
mod error;
mod flags;
mod ids;
pub mod limits;
pub mod names;
mod number;
mod preview;
mod sandbox_alias;
mod time;

pub use daemon::{Ack, AckFrame, AckReason, AckStatus, DaemonEnvelope, HelloFrame, Position};
pub use enums::{
    ArtifactKind, DiffSource, OpenMode, PreviewSessionState, QuarantineReason, ReadyDowngradeState, RunStatus,
    SandboxProvider, SecurityReason, TerminalKind, TriggerSource, UiValidationOutcome, UnknownName, UnsupportedReason,
    ValidationStatus,
};
pub use error::ErrorCode;
pub use flags::{FeatureFlag, FlagScope, FrozenFlagSnapshot, RolloutPhase};
pub use ids::{
    CodesandboxId, CommitSha, ContainerSessionId, EventId, InvalidId, PortName, PreviewSessionId, RepoFullName, RunId,
    Seq, StartRequestId, ThreadChatId, ThreadId, UserId,
};
pub use number::NumberText;
pub use preview::{
    AccessInvalidation, InvalidPreviewConfig, KeyNamespace, Limiter, PREVIEW_CONFIG_FILE, PinningMode, PreviewBinding,
    PreviewConfig, PreviewErrorCode,
};
pub use sandbox_alias::SandboxRef;
pub use time::Timestamp;
