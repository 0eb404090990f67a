//! How the rest of the house speaks to open sessions.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use thiserror::Error;
use tokio::time::timeout;

use crate::contract::limits::RUN_ANSWER_TIMEOUT_MS;
use crate::contract::{PreviewSessionId, PreviewSessionState};
use crate::ports::StoreError;
use crate::registry::{Alive, PreviewRoster, Registry, StartPreviewActor};

use super::actor::{Cell, Close, GoneBlind, Open, OpenSession, PreviewActor};

/// Times that a session's actor is asked for, where one has just ended.
const OPEN_ATTEMPTS: u32 = 8;
/// Wait before the second; grows by as much each time. 280 ms in all.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Why a session is not open.
#[derive(Debug, Clone, Error)]
pub enum OpenError {
    /// There is none.
    #[error("there is no such preview session")]
    NotFound,
    /// It did not come up, or not yet.
    #[error("the preview session is {0}")]
    NotReady(PreviewSessionState),
    /// Its life has ended.
    #[error("the preview session has expired")]
    Expired,
    /// It was taken back.
    #[error("the preview session was revoked")]
    Revoked,
    /// The database.
    #[error(transparent)]
    Store(StoreError),
    /// Its actor went away; ask again.
    #[error("the preview session's actor has stopped")]
    Stopped,
}

/// A way to one session's actor.
#[derive(Clone)]
pub(crate) struct PreviewHandle {
    addr: Addr<PreviewActor>,
    cell: Cell,
}

impl PreviewHandle {
    pub(crate) const fn new(addr: Addr<PreviewActor>, cell: Cell) -> Self {
        Self { addr, cell }
    }

    pub(crate) fn shown(&self) -> Option<Arc<OpenSession>> {
        self.cell.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Alive for PreviewHandle {
    fn is_alive(&self) -> bool {
        self.addr.connected()
    }
}

/// An open session of this process, for people.
#[derive(Debug, Clone)]
pub struct LivePreview {
    /// Session.
    pub session: Arc<OpenSession>,
    /// Time since its actor was started.
    pub age: Duration,
}

/// All open sessions of this process. Cheap to clone.
#[derive(Clone)]
pub struct Previews {
    registry: Addr<Registry>,
    roster: PreviewRoster,
}

impl Previews {
    pub(crate) const fn new(registry: Addr<Registry>, roster: PreviewRoster) -> Self {
        Self { registry, roster }
    }

    /// The session, if it is open. Costs no message while its actor is alive.
    pub async fn open(&self, id: PreviewSessionId) -> Result<Arc<OpenSession>, OpenError> {
        if let Some(session) = self.open_here(id) {
            return Ok(session);
        }
        let mut last = OpenError::Stopped;
        // An actor that has just ended is replaced; until its mailbox is gone it still looks alive.
        for attempt in 0..OPEN_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(OPEN_AGAIN_AFTER * attempt).await;
            }
            let handle = match self.roster.alive(&id) {
                Some(handle) => handle,
                None => ask(&self.registry, StartPreviewActor(id)).await?,
            };
            match ask(&handle.addr, Open).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(OpenError::Stopped)) | Err(OpenError::Stopped) => last = OpenError::Stopped,
                Ok(Err(error)) | Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The session, if it is open in this process already. Asks nobody.
    pub fn open_here(&self, id: PreviewSessionId) -> Option<Arc<OpenSession>> {
        self.roster.alive(&id)?.shown()
    }

    /// The session's version is this now, by word of the database or of another server: everything that was granted
    /// under an older one ends.
    pub fn close(&self, id: PreviewSessionId, version: i64) {
        if let Some(handle) = self.roster.alive(&id) {
            // The cell first: no request starts between this and the actor's turn.
            let newer = handle.shown().is_some_and(|session| version > session.record.revocation_version);
            if newer {
                *handle.cell.write().unwrap_or_else(PoisonError::into_inner) = None;
                actix_rt_send(handle.addr, Close(version));
            }
        }
    }

    /// Cuts everything that is under way here and closes no session: nobody has been able to say for too long whether
    /// sessions were taken back, or this server ends.
    pub fn let_go(&self) {
        self.let_go_unless(|_| false);
    }

    /// The same, but for sessions for which somebody else vouches.
    pub(super) fn let_go_unless(&self, vouched: impl Fn(&OpenSession) -> bool) {
        for (_, handle, _) in self.roster.all() {
            // Idle ones too: whoever asks for one again reads its row anew.
            if handle.shown().is_some_and(|session| !vouched(&session)) {
                *handle.cell.write().unwrap_or_else(PoisonError::into_inner) = None;
                actix_rt_send(handle.addr, GoneBlind);
            }
        }
    }

    /// The open sessions of this process.
    pub fn live(&self) -> Vec<LivePreview> {
        let shown = |(_, handle, age): (PreviewSessionId, PreviewHandle, Duration)| {
            handle.shown().map(|session| LivePreview { session, age })
        };
        self.roster.all().into_iter().filter_map(shown).collect()
    }
}

async fn ask<A, M>(addr: &Addr<A>, message: M) -> Result<M::Result, OpenError>
where
    A: Actor + Handler<M>,
    A::Context: actix::dev::ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    match timeout(Duration::from_millis(RUN_ANSWER_TIMEOUT_MS), addr.send(message)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(OpenError::Stopped),
        Err(_) => Err(OpenError::Store(StoreError::Unavailable("the preview session's actor does not answer".into()))),
    }
}

/// Sends without waiting for the answer. The mailbox is bounded; a full one is waited for in the background.
fn actix_rt_send<M>(addr: Addr<PreviewActor>, message: M)
where
    PreviewActor: Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    tokio::spawn(async move {
        // An actor that is gone has cut its requests already.
        let _ = addr.send(message).await;
    });
}
