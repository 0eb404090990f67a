//! Looks for what ends open sessions from outside of this server (section 5): revocations that others have made, and
//! access that was withdrawn while a stream goes on without asking for anything.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::contract::limits::{PREVIEW_REVOCATION_BLIND_MS, PREVIEW_REVOCATION_POLL_MS};
use crate::contract::{PreviewSessionId, PreviewSessionState};
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
    // When the database has last said the same of the sessions that an operator's bypass covers.
    let mut vouched_at = seen_at;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|down| *down) => return,
        }
        match look(&deps, &previews).await {
            Ok(()) => {
                seen_at = deps.clock.now();
                vouched_at = seen_at;
            }
            Err(error) => {
                match look_past(&deps, &previews).await {
                    Ok(true) => vouched_at = deps.clock.now(),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "the database does not vouch for bypassed sessions"),
                }
                let now = deps.clock.now();
                let blind_for = now.millis_since(seen_at);
                if blind_for >= PREVIEW_REVOCATION_BLIND_MS {
                    tracing::error!(%error, blind_for_ms = blind_for, "revocations cannot be seen; streams are cut");
                    let vouching = now.millis_since(vouched_at) < PREVIEW_REVOCATION_BLIND_MS;
                    previews.let_go_unless(|open| vouching && is_covered(&deps, open));
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

fn is_covered(deps: &Deps, open: &OpenSession) -> bool {
    deps.bypass.as_ref().is_some_and(|bypass| bypass.covers(&open.record.user_id))
}

/// With the coordination store away, asks the database about the sessions that an operator's bypass covers; whether
/// there is such a bypass now.
async fn look_past(deps: &Deps, previews: &Previews) -> Result<bool, String> {
    if !deps.bypass.as_ref().is_some_and(|bypass| bypass.is_away()) {
        return Ok(false);
    }
    for live in previews.live() {
        if is_covered(deps, &live.session) {
            let id = live.session.record.id;
            previews.close(id, version_of(deps, id).await?.unwrap_or(i64::MAX));
        }
    }
    Ok(true)
}

/// What the database says: the version of a session that is open still.
async fn version_of(deps: &Deps, id: PreviewSessionId) -> Result<Option<i64>, String> {
    let row = bounded(deps.store.load_preview(id)).await.map_err(|error| error.to_string())?;
    Ok(row.filter(|row| row.state == PreviewSessionState::Ready).map(|row| row.revocation_version))
}

/// The coordination store has forgotten the session: the database knows.
async fn look_up(deps: &Deps, previews: &Previews, open: &OpenSession) -> Result<(), String> {
    let id = open.record.id;
    let Some(version) = version_of(deps, id).await? else {
        previews.close(id, i64::MAX);
        return Ok(());
    };
    previews.close(id, version);
    announce(deps.coordination.as_ref(), id, version).await.map_err(|error| error.to_string())
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
                && let Err(error) = ask_again(&deps.for_session(session, None, None), session).await
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
