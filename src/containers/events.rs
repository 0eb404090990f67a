//! A container that stops or disappears loses its registration, if the operator asks for it (`CONTAINER_EVENTS`): the
//! engine tells what happens to containers, and is asked whenever that stream begins anew.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt as _;
use runwarden_actors::contract::ContainerSessionId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::Containers;
use crate::sandbox::ContainerError;

/// First pause before the stream is begun anew; it doubles up to the longest one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A container of which the engine has told something is looked at a second time after this.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Second looks that wait; past it a container is looked at once.
const AGAIN_MAX: usize = 1024;

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
    let mut again: VecDeque<(Instant, ContainerSessionId)> = VecDeque::new();
    loop {
        let next = again.front().map(|(at, _)| *at);
        tokio::select! {
            event = events.next() => match event {
                Some(session) => {
                    containers.settle(&session).await;
                    // The engine tells of a rename a moment before it forgets the old name.
                    if again.len() < AGAIN_MAX {
                        again.push_back((Instant::now() + AGAIN_AFTER, session));
                    }
                }
                None => break,
            },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                if let Some((_, session)) = again.pop_front() {
                    containers.settle(&session).await;
                }
            }
        }
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
