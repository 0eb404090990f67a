//! How a session comes up (section 5): `pending -> initializing -> ready | unsupported | error`, an event for each.

use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use crate::contract::limits::{
    PREVIEW_CONFIG_MAX_BYTES, PREVIEW_HEALTH_INTERVAL_MS, PREVIEW_HEALTH_TIMEOUT_MS, PREVIEW_OUTPUT_TAIL_BYTES,
    PREVIEW_SESSION_SECONDS, PREVIEW_START_TIMEOUT_MS,
};
use crate::contract::{
    OpenMode, PREVIEW_CONFIG_FILE, PreviewConfig, PreviewErrorCode, PreviewSessionId, PreviewSessionState, RunId,
    ThreadChatId, ThreadId, UnsupportedReason, UserId,
};
use crate::ports::store::{
    BeginPreview, NewPreviewSession, PreviewMove, PreviewMoved, PreviewSession, PreviewUpstream, RunRecord, StoreError,
};
use crate::ports::{
    AccessQuestion, CommandState, PreviewCommand, ProbeAnswer, SandboxError, SandboxTarget, Upstream, UpstreamReach,
};
use crate::run::bounded;

use super::access::{AccessError, may_see};
use super::deps::{OriginClaims, PreviewDeps};
use super::pin::{PinDenied, pin_named, pin_reported};
use super::revocation::{dimensions, target};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct StartPreview {
    /// Thread.
    pub thread_id: ThreadId,
    /// Chat.
    pub thread_chat_id: ThreadChatId,
    /// Run.
    pub run_id: RunId,
    /// For whom.
    pub user_id: UserId,
    /// How it is to be opened; the configuration's own, or a frame, where nothing is said.
    pub open_mode: Option<OpenMode>,
}

/// Why no session was begun.
#[derive(Debug, Error)]
pub enum StartError {
    /// There is no such run.
    #[error("there is no such run")]
    NotFound,
    /// The ids are not the active pointer's, or the run has no sandbox yet.
    #[error("thread, chat and run are not those of the chat's active run, or it is not bound to a sandbox")]
    NotActive,
    /// The user may not see the repository.
    #[error("the user has no access to the repository")]
    Denied,
    /// Nobody knows whether the user may.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks, and begins a session as `pending`.
pub async fn begin(deps: &PreviewDeps, asked: &StartPreview) -> Result<PreviewSession, StartError> {
    let store = &deps.run.store;
    let run = bounded(store.load_run(asked.run_id)).await?.ok_or(StartError::NotFound)?;
    let owns_ids = run.thread_id == asked.thread_id && run.thread_chat_id == asked.thread_chat_id;
    if !owns_ids || run.active_run_id != Some(run.run_id) {
        return Err(StartError::NotActive);
    }
    let question = AccessQuestion { user_id: &asked.user_id, repo_full_name: &run.repo_full_name, owner: &run.user_id };
    if !may_see(deps, question).await? {
        return Err(StartError::Denied);
    }
    let now = deps.run.clock.now();
    let life = i64::try_from(PREVIEW_SESSION_SECONDS * 1000).unwrap_or(i64::MAX);
    let new = NewPreviewSession {
        id: PreviewSessionId::from_uuid(deps.run.ids.uuid_v7()),
        thread_id: asked.thread_id.clone(),
        thread_chat_id: asked.thread_chat_id.clone(),
        run_id: asked.run_id,
        user_id: asked.user_id.clone(),
        open_mode: asked.open_mode.unwrap_or(OpenMode::Iframe),
        expires_at: now.plus_millis(life),
        now,
    };
    match bounded(store.begin_preview(&new)).await? {
        BeginPreview::NotActive => Err(StartError::NotActive),
        BeginPreview::Begun(session) => {
            deps.run.observer.preview_state(dimensions(&session), None, session.state);
            Ok(*session)
        }
    }
}

/// What bringing a session up came to.
enum Outcome {
    Up(Box<PreviewUpstream>),
    Unsupported(UnsupportedReason),
    Failed(PreviewErrorCode, Option<String>),
}

/// Brings a `pending` session up, or writes why it cannot be. Spawn it: a caller that goes away must not leave it
/// half-way. Ends after [`PREVIEW_START_TIMEOUT_MS`] at the latest; what is left of one whose server dies the sweep ends.
pub async fn bring_up(
    deps: &PreviewDeps,
    session: PreviewSession,
    asked_mode: Option<OpenMode>,
) -> Result<PreviewSession, StoreError> {
    let id = session.id;
    let Some(session) = step(deps, &session, &PreviewMove::Initializing).await? else {
        return latest(deps, id).await;
    };
    let Some(run) = bounded(deps.run.store.load_run(session.run_id)).await? else {
        return Err(StoreError::Corrupt(format!("run {} is gone", session.run_id)));
    };
    let allowed = Duration::from_millis(PREVIEW_START_TIMEOUT_MS);
    let outcome = if let Ok(outcome) = timeout(allowed, work(deps, &session, &run, asked_mode)).await {
        outcome?
    } else {
        let why = format!("the sandbox did not answer in time: the start took over {} s", allowed.as_secs());
        Outcome::Failed(PreviewErrorCode::HealthCheckTimeout, Some(why))
    };
    let change = match outcome {
        Outcome::Up(upstream) => PreviewMove::Ready { upstream },
        Outcome::Unsupported(reason) => PreviewMove::Unsupported { reason },
        Outcome::Failed(code, output) => PreviewMove::Error { code, output },
    };
    match step(deps, &session, &change).await? {
        None => latest(deps, id).await,
        Some(moved) => {
            if moved.state == PreviewSessionState::Ready {
                let millis = moved.updated_at.millis_since(moved.created_at);
                deps.run.observer.preview_ready_after(dimensions(&moved), u64::try_from(millis).unwrap_or(0));
            }
            Ok(moved)
        }
    }
}

/// Moves and emits; `None` where somebody else has moved it meanwhile.
async fn step(
    deps: &PreviewDeps,
    session: &PreviewSession,
    change: &PreviewMove,
) -> Result<Option<PreviewSession>, StoreError> {
    match bounded(deps.run.store.move_preview(session.id, change, deps.run.clock.now())).await? {
        PreviewMoved::Moved(moved) => {
            deps.run.observer.preview_state(dimensions(&moved), Some(session.state), moved.state);
            tracing::info!(preview_session_id = %moved.id, run_id = %moved.run_id, state = %moved.state,
                unsupported_reason = moved.unsupported_reason.map(UnsupportedReason::as_str),
                error_code = moved.error_code.map(PreviewErrorCode::as_str), "preview session moved");
            Ok(Some(*moved))
        }
        PreviewMoved::NotListed(_) | PreviewMoved::NotFound => Ok(None),
    }
}

async fn latest(deps: &PreviewDeps, id: PreviewSessionId) -> Result<PreviewSession, StoreError> {
    let row = bounded(deps.run.store.load_preview(id)).await?;
    row.ok_or_else(|| StoreError::Corrupt(format!("preview session {id} is gone")))
}

fn failed(error: &SandboxError) -> Outcome {
    tracing::warn!(%error, "a sandbox could not show a preview");
    let code = match error {
        SandboxError::NotRunning(_) => PreviewErrorCode::SandboxNotRunning,
        SandboxError::ProviderUnavailable(_) | SandboxError::Timeout(_) | SandboxError::CommandFailed(_) => {
            PreviewErrorCode::TunnelFailed
        }
    };
    Outcome::Failed(code, Some(error.to_string()))
}

async fn work(
    deps: &PreviewDeps,
    session: &PreviewSession,
    run: &RunRecord,
    asked_mode: Option<OpenMode>,
) -> Result<Outcome, StoreError> {
    if !deps.run.sandbox.has_previews(session.sandbox_provider) {
        return Ok(Outcome::Unsupported(UnsupportedReason::AdapterUnimplemented));
    }
    let place = target(session, run.repo_dir.clone());
    let config = match read_config(deps, run, &place).await {
        Ok(Some(config)) => config,
        Ok(None) => return Ok(Outcome::Unsupported(UnsupportedReason::MissingConfig)),
        Err(error) => return Ok(failed(&error)),
    };
    let no_websocket = config.requires_websocket && !deps.options.websocket;
    let mode =
        if no_websocket { OpenMode::NewTab } else { asked_mode.or(config.open_mode).unwrap_or(session.open_mode) };
    bounded(deps.run.store.set_preview_config(session.id, &config, mode, deps.run.clock.now())).await?;
    if no_websocket {
        return Ok(Outcome::Unsupported(UnsupportedReason::WsRequired));
    }
    match deps.run.sandbox.missing_capabilities(&place, &config).await {
        Ok(missing) if missing.is_empty() => {}
        Ok(missing) => {
            tracing::info!(preview_session_id = %session.id, ?missing, "the sandbox lacks what the preview needs");
            return Ok(Outcome::Unsupported(UnsupportedReason::CapabilityMissing));
        }
        Err(error) => return Ok(failed(&error)),
    }
    let command = PreviewCommand { run_id: session.run_id, config };
    if let Err(error) = deps.run.sandbox.start_preview(&place, &command).await {
        return Ok(failed(&error));
    }
    Ok(wait_until_healthy(deps, session, &place, &command).await)
}

/// The run's own configuration, or the repository's file. What cannot be used is as if there were none.
async fn read_config(
    deps: &PreviewDeps,
    run: &RunRecord,
    place: &SandboxTarget,
) -> Result<Option<PreviewConfig>, SandboxError> {
    let json = match &run.preview_config {
        Some(json) => Some(json.clone().into_bytes()),
        None => deps.run.sandbox.read_repo_file(place, PREVIEW_CONFIG_FILE, PREVIEW_CONFIG_MAX_BYTES).await?,
    };
    let Some(json) = json else { return Ok(None) };
    match PreviewConfig::parse(&json) {
        Ok(config) => Ok(Some(config)),
        Err(error) => {
            tracing::info!(run_id = %run.run_id, %error, "preview configuration refused");
            Ok(None)
        }
    }
}

async fn wait_until_healthy(
    deps: &PreviewDeps,
    session: &PreviewSession,
    place: &SandboxTarget,
    command: &PreviewCommand,
) -> Outcome {
    let port = command.config.port;
    let deadline = Instant::now() + Duration::from_millis(PREVIEW_HEALTH_TIMEOUT_MS);
    loop {
        let report = match deps.run.sandbox.preview_report(place, command.run_id, port).await {
            Ok(report) => report,
            Err(error) => return failed(&error),
        };
        let output = Some(cut_tail(report.output_tail));
        if let CommandState::Exited { .. } = report.state {
            return Outcome::Failed(PreviewErrorCode::CommandExited, output);
        }
        let upstream = match deps.run.sandbox.upstream(place, port).await {
            Ok(found) => match pin(deps, session, found).await {
                Ok(upstream) => upstream,
                Err(NoPin::Denied(denied)) => {
                    tracing::warn!(preview_session_id = %session.id, %denied, "the upstream's address is refused");
                    return Outcome::Unsupported(UnsupportedReason::ProxyDenied);
                }
                Err(NoPin::Failed(why)) => return Outcome::Failed(PreviewErrorCode::TunnelFailed, Some(why)),
            },
            Err(error) => return failed(&error),
        };
        if let ProbeAnswer::Status(..500) = deps.probe.probe(&upstream, &command.config.health_path).await {
            return Outcome::Up(Box::new(upstream));
        }
        if Instant::now() >= deadline {
            return Outcome::Failed(PreviewErrorCode::HealthCheckTimeout, output);
        }
        sleep(Duration::from_millis(PREVIEW_HEALTH_INTERVAL_MS)).await;
    }
}

/// Why there is no address to show.
enum NoPin {
    /// It is one that the proxy may not go to.
    Denied(PinDenied),
    /// It could not be looked up or signed.
    Failed(String),
}

/// Checks the address, and signs the origin.
async fn pin(deps: &PreviewDeps, session: &PreviewSession, found: Upstream) -> Result<PreviewUpstream, NoPin> {
    let failed = |error: &dyn std::fmt::Display| NoPin::Failed(error.to_string());
    let now = deps.run.clock.now();
    let pinned = match &found.reach {
        UpstreamReach::Reported(address) => pin_reported(*address, &deps.options.allowed_networks, now),
        UpstreamReach::Named { trusted_suffix } => {
            let answers = deps.names.resolve(&found.host).await.map_err(|error| failed(&error))?;
            pin_named(found.scheme, &found.host, trusted_suffix, &answers, now)
        }
    }
    .map_err(NoPin::Denied)?;
    let claims = OriginClaims {
        scheme: found.scheme.as_str().to_owned(),
        host: found.host.clone(),
        port: found.port,
        pinning_mode: pinned.pinning_mode,
        preview_session_id: session.id,
        revocation_version: session.revocation_version,
    };
    let origin_token = deps.signer.sign_origin(&claims, session.expires_at).await.map_err(|error| failed(&error))?;
    Ok(PreviewUpstream {
        scheme: found.scheme,
        host: found.host,
        port: found.port,
        origin_token,
        auth_headers: found.auth_headers,
        pinned,
        last_dns_check_at: now,
        dns_refreshed_once: false,
    })
}

/// The last bytes, from a character's beginning on.
fn cut_tail(mut text: String) -> String {
    let mut from = text.len().saturating_sub(PREVIEW_OUTPUT_TAIL_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.split_off(from)
}
