//! A proxied request's slot: one of the few that a session has on all servers together (section 5, proxy).

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::contract::limits::PROXY_SLOT_MS;
use runwarden_actors::ports::Coordination;
use tokio::task::AbortHandle;
use uuid::Uuid;

/// Held for as long as it lives. What is not given back by a server that dies runs out by itself.
pub struct Slot {
    coordination: Arc<dyn Coordination>,
    session: PreviewSessionId,
    id: Uuid,
    keeper: Option<AbortHandle>,
}

impl Slot {
    /// A slot that the gate has just handed out.
    pub fn new(coordination: Arc<dyn Coordination>, session: PreviewSessionId, id: Uuid) -> Self {
        Self { coordination, session, id, keeper: None }
    }

    /// Keeps it for as long as a stream lives: longer than the gate gives it.
    pub fn keep(&mut self) {
        if self.keeper.is_some() {
            return;
        }
        let (coordination, session, id) = (Arc::clone(&self.coordination), self.session, self.id);
        let keeping = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(PROXY_SLOT_MS / 3)).await;
                if let Err(error) = coordination.extend_slot(session, id, PROXY_SLOT_MS).await {
                    tracing::warn!(preview_session_id = %session, %error, "a stream's slot could not be extended");
                }
            }
        });
        self.keeper = Some(keeping.abort_handle());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        let (coordination, session, id) = (Arc::clone(&self.coordination), self.session, self.id);
        let mut giving_back = Box::pin(async move {
            if let Err(error) = coordination.release_slot(session, id).await {
                tracing::debug!(preview_session_id = %session, %error, "a slot was not given back; it runs out");
            }
        });
        // The embedded store answers at once, and so does Redis where somebody gives back slots already: no task is
        // needed then.
        let done = giving_back.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Pending = done
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(giving_back);
        }
    }
}
