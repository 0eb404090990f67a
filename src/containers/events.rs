//! A container that stops or disappears loses its registration, if the operator asks for it (`CONTAINER_EVENTS`): the
//! engine tells what happens to containers, and is asked whenever that stream begins anew.

use std::time::Duration;

use futures_util::StreamExt as _;
use runwarden_actors::contract::ContainerSessionId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Containers;
use crate::sandbox::ContainerError;

/// First pause before the stream is begun anew; it doubles up to the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Watches until the server goes down.
pub async fn watch_events(containers: Containers, mut shutdown: watch::Receiver<bool>) {
    let mut pause = PAUSE_MIN;
    while !*shutdown.borrow() {
        let began = Instant::now();
        tokio::select! {
            () = follow(&containers) => {}
            changed = shutdown.changed() => if changed.is_err() { return },
        }
        if began.elapsed() > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            changed = shutdown.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows one stream to its end.
async fn follow(containers: &Containers) {
    let mut events = match containers.engine().ends_of_containers().await {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(%error, "the engine does not tell what happens to containers");
            return;
        }
    };
    // What happened before the stream began is in it no more.
    for session in containers.0.registry.sessions() {
        containers.settle(&session).await;
    }
    while let Some(session) = events.next().await {
        containers.settle(&session).await;
    }
    tracing::info!("the engine has ended its stream of events; it is begun anew");
}

impl Containers {
    /// Looks whether the containers that were registered are still there. An old event does not end a registration that
    /// was made after it: what counts is what is there now.
    pub(super) async fn settle(&self, session: &ContainerSessionId) {
        let life = match self.0.engine.inspect(session).await {
            Ok(view) if matches!(view.state.as_str(), "running" | "paused") => Some(view.life),
            Ok(_) | Err(ContainerError::NotFound(_)) => None,
            Err(error) => {
                tracing::warn!(session_id = %session, %error, "a container could not be looked at; it stays registered");
                return;
            }
        };
        let gone = self.0.registry.keep_only(session, life.as_ref());
        if gone > 0 {
            tracing::info!(session_id = %session, ports = gone, "the container has ended; its ports are registered no more");
        }
    }
}
