//! Looks for what ends open sessions from outside of this server (section 5): revocations that others have made, and
//! access that was withdrawn while a stream goes on without asking for anything.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::contract::PreviewSessionState;
use crate::contract::limits::{PREVIEW_REVOCATION_BLIND_MS, PREVIEW_REVOCATION_POLL_MS};
use crate::ports::store::PreviewSession;
use crate::ports::{AccessQuestion, RememberedAccess};
use crate::run::{Deps, bounded};

use super::access::{access_key, remember_access_now};
use super::actor::OpenSession;
use super::deps::PreviewDeps;
use super::handle::Previews;
use super::revocation::announce;

/// How often it is looked whether the access of those who have something open is still remembered. Where it is not, the
/// source is asked: together with the announcement that follows, a lost access ends streams within a second.
const ACCESS_EVERY: Duration = Duration::from_millis(500);
/// Questions about access under way at once.
const ACCESS_AT_ONCE: usize = 16;
/// How often it is logged that nobody can say.
const WARN_EVERY: Duration = Duration::from_secs(15);
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
    let mut warned: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = shutdown.wait_for(|down| *down) => return,
        }
        let mut asked = HashSet::new();
        let mut open = previews.live();
        open.retain(|live| {
            let session = &live.session.record;
            live.session.in_flight() > 0 && asked.insert((session.user_id.clone(), session.repo_full_name.clone()))
        });
        let deps = &deps;
        let mut answers = stream::iter(open)
            .map(|live| async move { (live.session.record.id, ask_again(deps, &live.session.record).await) })
            .buffer_unordered(ACCESS_AT_ONCE);
        while let Some((session, answer)) = answers.next().await {
            // New requests are refused as long as nobody can say; what is open goes on until somebody says no.
            if let Err(error) = answer
                && warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY)
            {
                warned = Some(Instant::now());
                tracing::warn!(preview_session_id = %session, %error, "access could not be asked again");
            }
        }
    }
}

/// Where it is forgotten, the source is asked; a refusal closes the user's sessions, see [`remember_access_now`].
async fn ask_again(deps: &PreviewDeps, session: &PreviewSession) -> Result<(), String> {
    let key = access_key(&deps.options.environment, &session.user_id, &session.repo_full_name);
    let remembered = deps.run.coordination.remembered_access(&key).await.map_err(|error| error.to_string())?;
    let RememberedAccess::Unknown { generation } = remembered else { return Ok(()) };
    let run = bounded(deps.run.store.load_run(session.run_id)).await.map_err(|error| error.to_string())?;
    let Some(run) = run else { return Ok(()) };
    let question =
        AccessQuestion { user_id: &session.user_id, repo_full_name: &session.repo_full_name, owner: &run.user_id };
    remember_access_now(deps, question, generation).await.map(drop).map_err(|error| error.to_string())
}
