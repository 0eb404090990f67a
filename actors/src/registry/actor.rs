//! The registry actor. It hands out handles and never relays: no event passes through it. What it has handed out
//! stands in a roster that everybody may read, so that a run that is alive costs no message.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use actix::prelude::*;
use tokio::time::Instant;

use crate::contract::RunId;
use crate::run::{Deps, RunActor, RunHandle};

use super::handle::{LiveRun, RegistryOptions};

/// How often handles of stopped actors are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(10);

/// Asks for a way to a run's actor; starts one where none is alive.
#[derive(Message)]
#[rtype(result = "RunHandle")]
pub(super) struct LookUp(pub(super) RunId);

/// Asks who is alive.
#[derive(Message)]
#[rtype(result = "Vec<LiveRun>")]
pub(super) struct WhoIsAlive;

/// Handles by run. Only the registry writes.
#[derive(Clone, Default)]
pub(super) struct Roster(Arc<RwLock<HashMap<RunId, Entry>>>);

impl Roster {
    /// The handle of a run whose actor is alive.
    pub(super) fn alive(&self, run_id: RunId) -> Option<RunHandle> {
        self.read().get(&run_id).map(|entry| &entry.handle).filter(|handle| handle.is_alive()).cloned()
    }

    // A panic while one of these locks is held leaves plain data behind; going on is right.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<RunId, Entry>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<RunId, Entry>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry {
    handle: RunHandle,
    started: Instant,
}

pub(super) struct Registry {
    deps: Deps,
    options: RegistryOptions,
    arbiters: Vec<Arbiter>,
    next_arbiter: usize,
    roster: Roster,
}

impl Registry {
    pub(super) fn new(deps: Deps, options: RegistryOptions, roster: Roster) -> Self {
        Self { deps, options, arbiters: Vec::new(), next_arbiter: 0, roster }
    }

    fn start_run(&mut self, run_id: RunId) -> RunHandle {
        let actor = RunActor::new(run_id, self.deps.clone(), self.options.idle_after);
        // Round robin over the threads; an actor stays where it was started.
        self.next_arbiter = (self.next_arbiter + 1) % self.arbiters.len().max(1);
        let addr = match self.arbiters.get(self.next_arbiter) {
            Some(arbiter) => RunActor::start_in_arbiter(&arbiter.handle(), |_| actor),
            None => actor.start(),
        };
        RunHandle::new(addr)
    }

    fn forget_stopped(&mut self) {
        let mut runs = self.roster.write();
        runs.retain(|_, entry| entry.handle.is_alive());
        self.deps.observer.live_runs(runs.len());
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
        if let Some(handle) = self.roster.alive(run_id) {
            return MessageResult(handle);
        }
        let handle = self.start_run(run_id);
        let entry = Entry { handle: handle.clone(), started: Instant::now() };
        if self.roster.write().insert(run_id, entry).is_some() {
            // Stopped by idleness, by an unknown outcome or by a panic: the store knows all there is to know.
            self.deps.observer.actor("rebuilt");
        }
        MessageResult(handle)
    }
}

impl Handler<WhoIsAlive> for Registry {
    type Result = MessageResult<WhoIsAlive>;

    fn handle(&mut self, _: WhoIsAlive, _: &mut Self::Context) -> Self::Result {
        self.forget_stopped();
        MessageResult(
            self.roster
                .read()
                .iter()
                .map(|(run_id, entry)| LiveRun { run_id: *run_id, age: entry.started.elapsed() })
                .collect(),
        )
    }
}
