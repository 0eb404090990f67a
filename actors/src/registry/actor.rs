//! The registry actor. It hands out handles and never relays: no event passes through it.

use std::collections::HashMap;
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

struct Entry {
    handle: RunHandle,
    started: Instant,
}

pub(super) struct Registry {
    deps: Deps,
    options: RegistryOptions,
    arbiters: Vec<Arbiter>,
    next_arbiter: usize,
    runs: HashMap<RunId, Entry>,
}

impl Registry {
    pub(super) fn new(deps: Deps, options: RegistryOptions) -> Self {
        Self { deps, options, arbiters: Vec::new(), next_arbiter: 0, runs: HashMap::new() }
    }

    fn start_run(&mut self, run_id: RunId) -> RunHandle {
        let actor = RunActor::new(run_id, self.deps.clone(), self.options.idle_after);
        // Round robin over the threads; an actor stays where it was started.
        self.next_arbiter = (self.next_arbiter + 1) % self.arbiters.len().max(1);
        let addr = match self.arbiters.get(self.next_arbiter) {
            Some(arbiter) => RunActor::start_in_arbiter(&arbiter.handle(), |_| actor),
            None => actor.start(),
        };
        RunHandle::new(run_id, addr)
    }

    fn forget_stopped(&mut self) {
        self.runs.retain(|_, entry| entry.handle.is_alive());
        self.deps.observer.live_runs(self.runs.len());
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
        if let Some(entry) = self.runs.get(&run_id) {
            if entry.handle.is_alive() {
                return MessageResult(entry.handle.clone());
            }
            // Stopped by idleness, by an unknown outcome or by a panic: the store knows all there is to know.
            self.deps.observer.actor("rebuilt");
        }
        let handle = self.start_run(run_id);
        self.runs.insert(run_id, Entry { handle: handle.clone(), started: Instant::now() });
        MessageResult(handle)
    }
}

impl Handler<WhoIsAlive> for Registry {
    type Result = MessageResult<WhoIsAlive>;

    fn handle(&mut self, _: WhoIsAlive, _: &mut Self::Context) -> Self::Result {
        self.forget_stopped();
        MessageResult(
            self.runs.iter().map(|(run_id, entry)| LiveRun { run_id: *run_id, age: entry.started.elapsed() }).collect(),
        )
    }
}
