//! The ports that previews work with, handed around together.

use std::borrow::Cow;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::contract::{PinningMode, PreviewSessionId, Timestamp};
use crate::ports::store::PreviewSession;
use crate::ports::{BypassUse, Names, RepoAccess, UpstreamProbe};
use crate::run::Deps;

use super::limits::PreviewLimits;
use super::pin::Networks;

/// What a signed origin says (section 5, upstream).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OriginClaims {
    /// `http` or `https`.
    pub scheme: String,
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How it is held to its addresses.
    pub pinning_mode: PinningMode,
    /// The session that it belongs to.
    pub preview_session_id: PreviewSessionId,
    /// The session's version when it was signed.
    pub revocation_version: i64,
}

/// No key, or clocks too far apart.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the upstream origin could not be signed: {0}")]
pub struct SigningError(pub String);

/// Signs upstream origins with the namespace `origin`.
#[async_trait]
pub trait OriginSigner: Send + Sync {
    /// A token that is good until `expires_at`.
    async fn sign_origin(&self, claims: &OriginClaims, expires_at: Timestamp) -> Result<String, SigningError>;
}

/// How previews work here.
#[derive(Debug, Clone)]
pub struct PreviewOptions {
    /// Names the installation in cache keys (`production`, `staging`).
    pub environment: String,
    /// Whether WebSocket is proxied, in the routing that sessions get.
    pub websocket: bool,
    /// Where reported addresses may lie: `ALLOWED_UPSTREAM_NETWORKS`.
    pub allowed_networks: Networks,
    /// Limits.
    pub limits: PreviewLimits,
}

/// Everything that previews work with. Cheap to clone.
#[derive(Clone)]
pub struct PreviewDeps {
    /// What runs work with too.
    pub run: Deps,
    /// Who may see.
    pub access: Arc<dyn RepoAccess>,
    /// Names.
    pub names: Arc<dyn Names>,
    /// Health.
    pub probe: Arc<dyn UpstreamProbe>,
    /// Origins.
    pub signer: Arc<dyn OriginSigner>,
    /// Settings.
    pub options: Arc<PreviewOptions>,
}

impl PreviewDeps {
    /// The same for a request of the session's user; see [`Deps::for_user`].
    pub fn for_session(
        &self,
        session: &PreviewSession,
        route: Option<&'static str>,
        proxy_req_id: Option<Uuid>,
    ) -> Cow<'_, Self> {
        self.for_user(BypassUse { user: &session.user_id, session: Some(session.id), route, proxy_req_id })
    }

    /// The same for a user's request; see [`Deps::for_user`].
    pub fn for_user(&self, of: BypassUse<'_>) -> Cow<'_, Self> {
        match self.run.for_user(of) {
            Cow::Owned(run) => Cow::Owned(Self { run, ..self.clone() }),
            Cow::Borrowed(_) => Cow::Borrowed(self),
        }
    }
}
