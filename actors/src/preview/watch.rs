//! Looks for revocations that other servers have made (section 5): what they granted ends here within a second.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::contract::PreviewSessionState;
use crate::contract::limits::{PREVIEW_REVOCATION_BLIND_MS, PREVIEW_REVOCATION_POLL_MS};
use crate::run::{Deps, bounded};

use super::actor::OpenSession;
use super::handle::Previews;
use super::revocation::announce;

/// Sessions in one question.
const CHUNK: usize = 1_000;

/// Runs until `shutdown` turns true.
pub async fn watch_revocations(deps: Deps, previews: Previews, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = interval(Duration::from_millis(PREVIEW_REVOCATION_POLL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen_at = deps.clock.now();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|down| *down) => return,
        }
        match look(&deps, &previews).await {
            Ok(()) => seen_at = deps.clock.now(),
            Err(error) => {
                let blind_for = deps.clock.now().millis_since(seen_at);
                if blind_for >= PREVIEW_REVOCATION_BLIND_MS {
                    tracing::error!(%error, blind_for_ms = blind_for, "revocations cannot be seen; streams are cut");
                    previews.go_blind();
                }
            }
        }
    }
}

async fn look(deps: &Deps, previews: &Previews) -> Result<(), String> {
    let live = previews.live();
    for chunk in live.chunks(CHUNK) {
        let ids: Vec<_> = chunk.iter().map(|live| live.session.record.id).collect();
        let versions = deps.coordination.revocations(&ids).await.map_err(|error| error.to_string())?;
        for (live, version) in chunk.iter().zip(versions) {
            match version {
                Some(version) => previews.close(live.session.record.id, version),
                None => look_up(deps, previews, &live.session).await?,
            }
        }
    }
    Ok(())
}

/// The coordination store has forgotten the session: the database knows.
async fn look_up(deps: &Deps, previews: &Previews, open: &OpenSession) -> Result<(), String> {
    let id = open.record.id;
    let row = bounded(deps.store.load_preview(id)).await.map_err(|error| error.to_string())?;
    match row {
        Some(row) if row.state == PreviewSessionState::Ready => {
            previews.close(id, row.revocation_version);
            announce(deps.coordination.as_ref(), id, row.revocation_version).await.map_err(|error| error.to_string())
        }
        _ => {
            previews.close(id, i64::MAX);
            Ok(())
        }
    }
}
