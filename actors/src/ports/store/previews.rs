//! Preview sessions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::contract::{
    CodesandboxId, OpenMode, PinningMode, PreviewBinding, PreviewConfig, PreviewErrorCode, PreviewSessionId,
    PreviewSessionState, RepoFullName, RunId, SandboxProvider, ThreadChatId, ThreadId, Timestamp, UnsupportedReason,
    UserId,
};
use crate::ports::preview_host::{AuthHeader, Scheme};

/// A session to begin, as `pending`.
#[derive(Debug, Clone)]
pub struct NewPreviewSession {
    /// Identity.
    pub id: PreviewSessionId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Run.
    pub run_id: RunId,
    /// For whom.
    pub user_id: UserId,
    /// How it will be opened, as far as is known.
    pub open_mode: OpenMode,
    /// End of its life.
    pub expires_at: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// What came of beginning a session.
#[derive(Debug, Clone, PartialEq)]
pub enum BeginPreview {
    /// Begun.
    Begun(Box<PreviewSession>),
    /// The ids are not those of the chat's active run, or the run is not bound to a sandbox; nothing was written.
    NotActive,
}

/// The addresses that an upstream had when it was first resolved; its JSON form is the column's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedAddresses {
    /// A records.
    pub addresses_v4: Vec<Ipv4Addr>,
    /// AAAA records.
    pub addresses_v6: Vec<Ipv6Addr>,
    /// Names on the way.
    pub cname_chain: Vec<String>,
    /// Shortest TTL.
    pub ttl_seconds: u32,
    /// When.
    pub resolved_at: Timestamp,
    /// How they are held to it.
    pub pinning_mode: PinningMode,
}

impl PinnedAddresses {
    /// All addresses, version 4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses_v4
            .iter()
            .map(|address| IpAddr::V4(*address))
            .chain(self.addresses_v6.iter().map(|address| IpAddr::V6(*address)))
    }
}

/// Where a session's app is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewUpstream {
    /// Scheme.
    pub scheme: Scheme,
    /// Name or address, without brackets or port.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The signed form of the above (namespace `origin`); verified on every request.
    pub origin_token: String,
    /// Sent with every request.
    pub auth_headers: Vec<AuthHeader>,
    /// The addresses that connections may go to.
    pub pinned: PinnedAddresses,
    /// Last look-up.
    pub last_dns_check_at: Timestamp,
    /// Whether the one refresh has been had.
    pub dns_refreshed_once: bool,
}

impl PreviewUpstream {
    /// `scheme://host[:port]`, as `Origin` names it.
    pub fn origin(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => format!("{}://{host}", self.scheme.as_str()),
            (scheme, port) => format!("{}://{host}:{port}", scheme.as_str()),
        }
    }
}

/// One row of `preview_session`.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewSession {
    /// Identity.
    pub id: PreviewSessionId,
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Run.
    pub run_id: RunId,
    /// For whom.
    pub user_id: UserId,
    /// Sandbox.
    pub codesandbox_id: CodesandboxId,
    /// Provider.
    pub sandbox_provider: SandboxProvider,
    /// Repository.
    pub repo_full_name: RepoFullName,
    /// Snapshot of the configuration, once read.
    pub config: Option<PreviewConfig>,
    /// How it is opened.
    pub open_mode: OpenMode,
    /// Where the app is, once it is up.
    pub upstream: Option<PreviewUpstream>,
    /// Goes up with everything that ends what was granted before.
    pub revocation_version: i64,
    /// Where it stands.
    pub state: PreviewSessionState,
    /// Why it cannot be had.
    pub unsupported_reason: Option<UnsupportedReason>,
    /// Why it did not come up.
    pub error_code: Option<PreviewErrorCode>,
    /// The last lines of its output, where it did not come up.
    pub error_output: Option<String>,
    /// End of its life.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Creation.
    pub created_at: Timestamp,
    /// Last write.
    pub updated_at: Timestamp,
}

impl PreviewSession {
    /// What its tokens are bound to.
    pub fn binding(&self) -> PreviewBinding {
        PreviewBinding {
            preview_session_id: self.id,
            thread_id: self.thread_id.clone(),
            thread_chat_id: self.thread_chat_id.clone(),
            run_id: self.run_id,
            user_id: self.user_id.clone(),
            codesandbox_id: self.codesandbox_id.clone(),
            sandbox_provider: self.sandbox_provider,
        }
    }
}

/// A move along one of the listed transitions, with what it brings.
#[derive(Debug, Clone, PartialEq)]
pub enum PreviewMove {
    /// The work has begun.
    Initializing,
    /// It is up.
    Ready {
        /// Where.
        upstream: Box<PreviewUpstream>,
    },
    /// It cannot be had.
    Unsupported {
        /// Why.
        reason: UnsupportedReason,
    },
    /// It did not come up.
    Error {
        /// Why.
        code: PreviewErrorCode,
        /// The last lines of its output, at most [`crate::contract::limits::PREVIEW_OUTPUT_TAIL_BYTES`].
        output: Option<String>,
    },
    /// Its life ended.
    Expired,
    /// It was taken back; the revocation version goes up.
    Revoked,
}

impl PreviewMove {
    /// The state that it leads to.
    pub const fn target(&self) -> PreviewSessionState {
        match self {
            Self::Initializing => PreviewSessionState::Initializing,
            Self::Ready { .. } => PreviewSessionState::Ready,
            Self::Unsupported { .. } => PreviewSessionState::Unsupported,
            Self::Error { .. } => PreviewSessionState::Error,
            Self::Expired => PreviewSessionState::Expired,
            Self::Revoked => PreviewSessionState::Revoked,
        }
    }
}

/// What came of a move.
#[derive(Debug, Clone, PartialEq)]
pub enum PreviewMoved {
    /// Moved; the row as it is now.
    Moved(Box<PreviewSession>),
    /// Not from the state that it is in; the row as it is.
    NotListed(Box<PreviewSession>),
    /// No such session.
    NotFound,
}

/// Whose open sessions are to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationScope {
    /// One session.
    Session(PreviewSessionId),
    /// All of a user's on a repository.
    Access {
        /// User.
        user_id: UserId,
        /// Repository.
        repo_full_name: RepoFullName,
    },
}

/// A session that was open and is no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClosedPreview {
    /// Session.
    pub preview_session_id: PreviewSessionId,
    /// Its revocation version now.
    pub revocation_version: i64,
    /// Where it stood before.
    pub was: PreviewSessionState,
    /// Where it stands now.
    pub now: PreviewSessionState,
}
