//! Previews over HTTP (section 5): sessions for host applications, what browsers need before a preview opens, and the
//! two ways to it, on paths and on hosts of its own.

pub(super) mod access;
pub(super) mod browser;
pub(super) mod embed;
mod enter;
pub(super) mod exchange;
mod form;
pub(super) mod hosts;
pub(super) mod paths;
pub(super) mod probe;
pub(super) mod sessions;
pub(super) mod subscribe;

use std::net::IpAddr;
use std::sync::Arc;

use actix_web::HttpRequest;
use runwarden_actors::contract::{InvalidId, PreviewSessionId, UserId};
use runwarden_actors::ports::store::PreviewSession;
use runwarden_actors::ports::{AccessQuestion, LimitDecision, LimitWindow};
use runwarden_actors::preview::{OpenSession, PreviewDeps, may_see};

use super::ApiError;
use crate::auth::client_ip;
use crate::proxy::PreviewServices;

/// Text that is no session's id names no session.
fn session_id(text: &str) -> Result<PreviewSessionId, ApiError> {
    PreviewSessionId::parse(text).map_err(|_: InvalidId| ApiError::not_found("preview session"))
}

/// `/api/preview/proxy/{id}`.
pub(super) fn base_path(session: PreviewSessionId) -> String {
    format!("/api/preview/proxy/{session}")
}

/// The client's address, for the limits of addresses.
fn ip_of(services: &PreviewServices, request: &HttpRequest) -> Result<IpAddr, ApiError> {
    let ip = client_ip(request, &services.settings.trusted_proxies)
        .ok_or_else(|| ApiError::invalid("the connection has no address"))?;
    tracing::debug!(client_ip_source = ip.source, "client address read");
    Ok(ip.address)
}

/// Counts one use in every window, or refuses. For a user's windows `deps` are those for the user.
async fn count(deps: &PreviewDeps, windows: &[LimitWindow]) -> Result<(), ApiError> {
    counted(deps, deps.run.coordination.count_all(windows).await?)
}

/// The same before anybody can say whose request it is.
async fn count_stranger(services: &PreviewServices, windows: &[LimitWindow]) -> Result<(), ApiError> {
    counted(&services.deps, services.deps.run.before_user().count_all(windows).await?)
}

fn counted(deps: &PreviewDeps, decision: LimitDecision) -> Result<(), ApiError> {
    match decision {
        LimitDecision::Allowed => Ok(()),
        LimitDecision::Limited { limiter, retry_after_ms } => {
            Err(ApiError::rate_limited(limiter, retry_after_ms, deps.run.clock.now()))
        }
    }
}

/// What strangers were counted for may have been counted past the coordination store: then it goes on only for whom
/// the operator's bypass covers. For routes that ask the store nothing else.
fn require_vouched(services: &PreviewServices, user: &UserId) -> Result<(), ApiError> {
    match &services.deps.run.bypass {
        Some(bypass) if bypass.is_away() && !bypass.covers(user) => {
            Err(ApiError::cache_unavailable(&"the emergency bypass does not cover the user"))
        }
        _ => Ok(()),
    }
}

/// The open session, with previews switched on for it.
async fn open_session(services: &PreviewServices, id: PreviewSessionId) -> Result<Arc<OpenSession>, ApiError> {
    let opened = services.open(id).await;
    services.require_live_session(id, &opened).await?;
    Ok(opened?)
}

/// The session's user may still see the repository. `deps` are those for the session.
async fn require_access(
    services: &PreviewServices,
    deps: &PreviewDeps,
    session: &PreviewSession,
) -> Result<(), ApiError> {
    let owner = services.run_owner(session).await?;
    let question = AccessQuestion { user_id: &session.user_id, repo_full_name: &session.repo_full_name, owner: &owner };
    if may_see(deps, question).await? {
        return Ok(());
    }
    Err(ApiError::new(
        runwarden_actors::contract::ErrorCode::PermissionDenied,
        "the user has no access to the repository",
    ))
}
