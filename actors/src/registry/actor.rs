//! The registry actor. It hands out handles and never relays: no event and no request passes through it. What it has
//! handed out stands in rosters that everybody may read, so that what is alive costs no message.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use crate::contract::{PreviewSessionId, RunId};
use crate::preview::{PreviewActor, PreviewHandle};
use crate::run::{Deps, RunActor, RunHandle};

use super::handle::{LiveRun, RegistryOptions};

/// How often handles of stopped actors are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Asks for a way to a run's actor; starts one where none is alive.
#[derive(Message)]
#[rtype(result = "RunHandle")]
pub(super) struct LookUp(pub(super) RunId);

/// Asks for a way to a preview session's actor; starts one where none is alive.
#[derive(Message)]
#[rtype(result = "PreviewHandle")]
pub(crate) struct StartPreviewActor(pub(crate) PreviewSessionId);

/// Asks which runs are alive.
#[derive(Message)]
#[rtype(result = "Vec<LiveRun>")]
pub(super) struct WhoIsAlive;

/// A way to an actor.
pub(crate) trait Alive: Clone {
    /// Whether the actor still takes messages.
    fn is_alive(&self) -> bool;
}

impl Alive for RunHandle {
    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }
}

/// Handles by id. Only the registry writes.
#[derive(Clone)]
pub(crate) struct Roster<K, H>(Arc<RwLock<HashMap<K, Entry<H>>>>);

/// Of runs.
pub(super) type RunRoster = Roster<RunId, RunHandle>;
/// Of preview sessions.
pub(crate) type PreviewRoster = Roster<PreviewSessionId, PreviewHandle>;

struct Entry<H> {
    handle: H,
    started: Instant,
}

impl<K, H> Default for Roster<K, H> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash, H: Alive> Roster<K, H> {
    /// The handle of an actor that is alive.
    pub(crate) fn alive(&self, id: &K) -> Option<H> {
        self.read().get(id).map(|entry| &entry.handle).filter(|handle| handle.is_alive()).cloned()
    }

    /// Everybody who is alive, with the time since the start.
    pub(crate) fn all(&self) -> Vec<(K, H, Duration)> {
        let alive = |(id, entry): (&K, &Entry<H>)| {
            entry.handle.is_alive().then(|| (*id, entry.handle.clone(), entry.started.elapsed()))
        };
        self.read().iter().filter_map(alive).collect()
    }

    /// Whether there was one before: stopped by idleness, by an unknown outcome or by a panic.
    fn insert(&self, id: K, handle: H) -> bool {
        self.write().insert(id, Entry { handle, started: Instant::now() }).is_some()
    }

    fn forget_stopped(&self) -> usize {
        let mut entries = self.write();
        entries.retain(|_, entry| entry.handle.is_alive());
        entries.len()
    }

    // A panic while one of these locks is held leaves plain data behind; going on is right.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<K, Entry<H>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<K, Entry<H>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Registry {
    deps: Deps,
    options: RegistryOptions,
    arbiters: Vec<Arbiter>,
    next_arbiter: usize,
    runs: RunRoster,
    previews: PreviewRoster,
}

impl Registry {
    pub(super) fn new(deps: Deps, options: RegistryOptions, runs: RunRoster, previews: PreviewRoster) -> Self {
        Self { deps, options, arbiters: Vec::new(), next_arbiter: 0, runs, previews }
    }

    /// Starts an actor, round robin over the threads; it stays where it was started.
    fn start<A: Actor<Context = Context<A>> + Send>(&mut self, actor: A) -> Addr<A> {
        self.next_arbiter = (self.next_arbiter + 1) % self.arbiters.len().max(1);
        match self.arbiters.get(self.next_arbiter) {
            Some(arbiter) => A::start_in_arbiter(&arbiter.handle(), |_| actor),
            None => actor.start(),
        }
    }

    fn forget_stopped(&self) {
        self.deps.observer.live_runs(self.runs.forget_stopped());
        self.previews.forget_stopped();
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        self.arbiters = (0..self.options.threads).map(|_| Arbiter::new()).collect();
        ctx.run_interval(FORGET_EVERY, |actor, _| actor.forget_stopped());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
    }
}

impl Handler<LookUp> for Registry {
    type Result = MessageResult<LookUp>;

    fn handle(&mut self, LookUp(run_id): LookUp, _: &mut Self::Context) -> Self::Result {
        if let Some(handle) = self.runs.alive(&run_id) {
            return MessageResult(handle);
        }
        let handle = RunHandle::new(self.start(RunActor::new(run_id, self.deps.clone(), self.options.idle_after)));
        if self.runs.insert(run_id, handle.clone()) {
            self.deps.observer.actor("rebuilt");
        }
        MessageResult(handle)
    }
}

impl Handler<StartPreviewActor> for Registry {
    type Result = MessageResult<StartPreviewActor>;

    fn handle(&mut self, StartPreviewActor(id): StartPreviewActor, _: &mut Self::Context) -> Self::Result {
        if let Some(handle) = self.previews.alive(&id) {
            return MessageResult(handle);
        }
        let cell = Arc::default();
        let actor = PreviewActor::new(id, self.deps.clone(), self.options.idle_after, Arc::clone(&cell));
        let handle = PreviewHandle::new(self.start(actor), cell);
        self.previews.insert(id, handle.clone());
        MessageResult(handle)
    }
}

impl Handler<WhoIsAlive> for Registry {
    type Result = MessageResult<WhoIsAlive>;

    fn handle(&mut self, _: WhoIsAlive, _: &mut Self::Context) -> Self::Result {
        self.forget_stopped();
        MessageResult(self.runs.all().into_iter().map(|(run_id, _, age)| LiveRun { run_id, age }).collect())
    }
}
