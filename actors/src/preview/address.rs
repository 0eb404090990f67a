//! The address that a request may connect to: looked up again where that is due, compared with what was pinned
//! (section 5, upstream).

use std::net::IpAddr;

use thiserror::Error;
use uuid::Uuid;

use crate::contract::{AccessInvalidation, PinningMode, SecurityReason};
use crate::ports::store::{PinnedAddresses, RevocationScope};
use crate::ports::{ResolveError, SandboxError, Scheme, StoreError, UpstreamReach};
use crate::run::bounded;

use super::actor::OpenSession;
use super::deps::PreviewDeps;
use super::handle::Previews;
use super::pin::{PinDenied, Recheck, pin_named, pin_reported, recheck};
use super::revocation::{preview_dimensions, revoke, target};

/// Why there is no address to connect to.
#[derive(Debug, Error)]
pub enum AddressError {
    /// `proxy_ssrf_blocked`.
    #[error(transparent)]
    Denied(#[from] PinDenied),
    /// The name system did not answer.
    #[error(transparent)]
    Names(#[from] ResolveError),
    /// The provider did not answer.
    #[error(transparent)]
    Provider(#[from] SandboxError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The address, and where it was looked up again, checked anew. A rebinding takes the session back; its event names the
/// proxied request that met it.
pub async fn checked_address(
    deps: &PreviewDeps,
    previews: &Previews,
    open: &OpenSession,
    proxy_req_id: Uuid,
) -> Result<IpAddr, AddressError> {
    if let Some(address) = current(deps, open) {
        return Ok(address);
    }
    let _turn = open.looking_up.lock().await;
    if let Some(address) = current(deps, open) {
        return Ok(address);
    }
    let checked = look_up(deps, open).await;
    if let Err(AddressError::Denied(denied)) = &checked {
        tracing::warn!(preview_session_id = %open.record.id, %denied, "the upstream's address is refused");
        let session = preview_dimensions(&open.record, Some(proxy_req_id));
        deps.run.observer.preview_denied(session, SecurityReason::ProxySsrfBlocked);
        let scope = RevocationScope::Session(open.record.id);
        if let Err(error) = revoke(deps, previews, &scope, AccessInvalidation::Revocation).await {
            tracing::warn!(preview_session_id = %open.record.id, %error, "a rebound session could not be taken back");
        }
    }
    checked?;
    current(deps, open).ok_or(AddressError::Denied(PinDenied::NoAddress))
}

fn current(deps: &PreviewDeps, open: &OpenSession) -> Option<IpAddr> {
    open.address(deps.run.clock.now())
}

async fn look_up(deps: &PreviewDeps, open: &OpenSession) -> Result<(), AddressError> {
    let (pinned, _, refreshed_once) = open.pinned();
    let fresh = ask(deps, open, &pinned).await?;
    let now = deps.run.clock.now();
    match recheck(&pinned, &fresh, refreshed_once)? {
        Recheck::Inside => open.set_checked(None, now),
        Recheck::SameAnchors => open.set_checked(Some(fresh), now),
        Recheck::Refresh => {
            if bounded(deps.run.store.refresh_preview_pin(open.record.id, &fresh, now)).await? {
                tracing::info!(preview_session_id = %open.record.id, "the upstream's addresses were refreshed");
                open.set_refreshed(fresh, now);
                return Ok(());
            }
            // Another server has had it: what it wrote is the truth.
            let row = bounded(deps.run.store.load_preview(open.record.id)).await?;
            let theirs = row.and_then(|row| row.upstream).ok_or(PinDenied::Rebind)?;
            match recheck(&theirs.pinned, &fresh, true)? {
                Recheck::Inside | Recheck::SameAnchors => open.set_refreshed(theirs.pinned, now),
                Recheck::Refresh => return Err(PinDenied::Rebind.into()),
            }
        }
    }
    Ok(())
}

/// Asks whoever gave the address the first time.
async fn ask(
    deps: &PreviewDeps,
    open: &OpenSession,
    pinned: &PinnedAddresses,
) -> Result<PinnedAddresses, AddressError> {
    let session = &open.record;
    let upstream = session.upstream.as_ref().ok_or(PinDenied::NoAddress)?;
    let now = deps.run.clock.now();
    if pinned.pinning_mode == PinningMode::TlsSniHost || upstream.host.parse::<IpAddr>().is_err() {
        let answers = deps.names.resolve(&upstream.host).await?;
        // The suffix was checked when the name was pinned, and the name has not changed: it vouches for itself.
        let suffix = upstream.host.find('.').map_or("", |at| &upstream.host[at..]);
        let scheme = if pinned.pinning_mode == PinningMode::TlsSniHost { Scheme::Https } else { Scheme::Http };
        return Ok(pin_named(scheme, &upstream.host, suffix, &answers, now)?);
    }
    let repo_dir = bounded(deps.run.store.load_run(session.run_id)).await?.and_then(|run| run.repo_dir);
    let port = session.config.as_ref().map_or(upstream.port, |config| config.port);
    let found = deps.run.sandbox.upstream(&target(session, repo_dir), port).await?;
    match found.reach {
        UpstreamReach::Reported(address) if found.port == upstream.port => {
            Ok(pin_reported(address, &deps.options.allowed_networks, now)?)
        }
        _ => Err(PinDenied::Rebind.into()),
    }
}
