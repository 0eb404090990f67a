//! The database, as the decisions see it (section 2). Two adapters carry it out; one suite of tests runs
//! against both. Nothing here retries: a caller decides what a lost race means.

mod commits;
mod error;
mod keys;
mod previews;
mod runs;
mod traits;

pub use commits::{
    CommitOutcome, CommittedEffect, DueEffect, NewEvent, NewQuarantine, QuarantineDay, QuarantineRow, RunChange,
    RunCommit, Seen, StoredEvent, SweepLimits,
};
pub use error::StoreError;
pub use keys::SigningKey;
pub use previews::{
    BeginPreview, ClosedPreview, NewPreviewSession, PinnedAddresses, PreviewMove, PreviewMoved, PreviewSession,
    PreviewUpstream, RevocationScope,
};
pub use runs::{
    BindOutcome, CreateRunOutcome, NewRun, RunContext, RunCounters, RunRecord, SandboxBinding, TerminalRecord,
    UiValidation,
};
pub use traits::{
    EffectStore, FlagStore, HeldRun, KeyStore, PreviewStore, QuarantineStore, RunStore, Store, UiValidationStore,
};
