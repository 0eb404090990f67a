//! Looks for what ends open sessions from outside of this server (section 5): revocations that others have made, and
//! access that was withdrawn while a stream goes on without asking for anything.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::contract::limits::{PREVIEW_REVOCATION_BLIND_MS, PREVIEW_REVOCATION_POLL_MS};
use crate::contract::{PreviewSessionId, PreviewSessionState};
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
            .map(|live| async move {
                let session = &live.session.record;
                (session.id, ask_again(&deps.for_session(session, None, None), session).await)
            })
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
