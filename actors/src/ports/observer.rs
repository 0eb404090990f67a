//! What is counted and emitted, once it is committed.

use uuid::Uuid;

use crate::contract::{
    CodesandboxId, PreviewSessionId, PreviewSessionState, QuarantineReason, RepoFullName, RunId, SandboxProvider,
    SecurityReason, ThreadChatId, ThreadId, UserId,
};

/// The dimensions of the counters of section 11.
#[derive(Debug, Clone, Copy)]
pub struct RunDimensions<'a> {
    /// Run.
    pub run_id: RunId,
    /// Thread.
    pub thread_id: &'a ThreadId,
    /// Chat.
    pub thread_chat_id: &'a ThreadChatId,
    /// User.
    pub user_id: &'a UserId,
    /// Repository.
    pub repo_full_name: &'a RepoFullName,
    /// Sandbox, once bound.
    pub codesandbox_id: Option<&'a CodesandboxId>,
    /// Provider, once bound.
    pub sandbox_provider: Option<SandboxProvider>,
}

/// What a preview event says beside its name (section 11).
#[derive(Debug, Clone, Copy)]
pub struct PreviewDimensions<'a> {
    /// The session.
    pub preview_session_id: PreviewSessionId,
    /// Run.
    pub run_id: RunId,
    /// Thread.
    pub thread_id: &'a ThreadId,
    /// Chat.
    pub thread_chat_id: &'a ThreadChatId,
    /// User.
    pub user_id: &'a UserId,
    /// Repository.
    pub repo_full_name: &'a RepoFullName,
    /// Sandbox.
    pub codesandbox_id: &'a CodesandboxId,
    /// Provider.
    pub sandbox_provider: SandboxProvider,
    /// The proxied request, where there is one.
    pub proxy_req_id: Option<Uuid>,
}

/// Counters and events. Calls return at once and never fail.
pub trait Observer: Send + Sync {
    /// So many envelopes had this outcome: `accepted`, `duplicate`, `out_of_order`, `run_terminal` or `gap`.
    fn envelopes(&self, outcome: &'static str, count: u64);

    /// An envelope went to quarantine. For three of the reasons section 11 names a counter of its own.
    fn quarantined(&self, run: RunDimensions<'_>, reason: QuarantineReason);

    /// An access-denied event (section 11).
    fn access_denied(&self, run: RunDimensions<'_>, reason: SecurityReason);

    /// A preview session moved (section 11).
    fn preview_state(&self, session: PreviewDimensions<'_>, from: Option<PreviewSessionState>, to: PreviewSessionState);

    /// Access to a preview was denied (section 11).
    fn preview_denied(&self, session: PreviewDimensions<'_>, reason: SecurityReason);

    /// A browser was told by a probe what it can expect: `ok`, `cookie_blocked`, `ws_required` or `expired`.
    fn preview_probed(&self, result: &'static str);

    /// A proxied request came without any cookie of ours. Answered, and counted only: it says nothing about anybody.
    fn preview_without_credential(&self);

    /// A preview came up after so many milliseconds, by the server's clock: `preview_ready_latency_ms`.
    fn preview_ready_after(&self, session: PreviewDimensions<'_>, millis: u64);

    /// Something happened to an actor: `started`, `rebuilt`, `reloaded`, `held`, `stopped_idle` or `stopped_unknown`.
    fn actor(&self, what: &'static str);

    /// How many run actors this process has.
    fn live_runs(&self, count: usize);
}
