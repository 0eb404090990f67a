//! Looks for what ends open sessions from outside of this server (section 5): revocations that others have made, and
//! access that was withdrawn while a stream goes on without asking for anything.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::contract::PreviewSessionState;
use crate::contract::limits::{PREVIEW_REVOCATION_BLIND_MS, PREVIEW_REVOCATION_POLL_MS};
use crate::ports::AccessQuestion;
use crate::ports::store::PreviewSession;
use crate::run::{Deps, bounded};

use super::access::may_see;
use super::actor::OpenSession;
use super::deps::PreviewDeps;
use super::handle::Previews;
use super::revocation::announce;

/// How often the access of those who have streams open is asked again; what is remembered answers most of it.
const ACCESS_EVERY: Duration = Duration::from_secs(15);
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
                    previews.let_go();
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

/// Asks again for the access of everybody who has a request or stream under way. Runs until `shutdown` turns true.
pub async fn watch_access(deps: PreviewDeps, previews: Previews, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = interval(ACCESS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|down| *down) => return,
        }
        let mut asked = HashSet::new();
        for live in previews.live() {
            let session = &live.session.record;
            if live.session.in_flight() > 0
                && asked.insert((session.user_id.clone(), session.repo_full_name.clone()))
                && let Err(error) = ask_again(&deps, session).await
            {
                // New requests are refused as long as nobody can say; what is open goes on until somebody says no.
                tracing::warn!(preview_session_id = %session.id, %error, "access could not be asked again");
            }
        }
    }
}

/// A refusal closes the user's sessions; see [`may_see`].
async fn ask_again(deps: &PreviewDeps, session: &PreviewSession) -> Result<(), String> {
    let run = bounded(deps.run.store.load_run(session.run_id)).await.map_err(|error| error.to_string())?;
    let Some(run) = run else { return Ok(()) };
    let question =
        AccessQuestion { user_id: &session.user_id, repo_full_name: &session.repo_full_name, owner: &run.user_id };
    may_see(deps, question).await.map(drop).map_err(|error| error.to_string())
}
