//! What goes on beside the requests.

use runwarden_actors::preview::{watch_access, watch_revocations};
use runwarden_actors::run::{run_effects, run_sweep};
use tokio::task::JoinSet;

use super::Application;
use crate::containers::events::watch_events;
use crate::containers::idle::stop_idle;

impl Application {
    /// Starts all of it; none of these tasks ends before the server does, and each says its name when it does.
    pub(super) fn start_background(&self) -> JoinSet<&'static str> {
        let mut background = JoinSet::new();
        let deps = self.state.deps.clone();
        let shutdown = self.state.shutdown.clone();
        background.spawn(async move {
            run_effects(deps, shutdown).await;
            "outbox"
        });
        let deps = self.state.deps.clone();
        let (shutdown, sweep) = (self.state.shutdown.clone(), self.sweep);
        let holder = format!("{}/{}", self.addr, deps.ids.uuid_v7());
        background.spawn(async move {
            run_sweep(deps, sweep, holder, shutdown).await;
            "sweep"
        });
        let (deps, previews) = (self.state.deps.clone(), self.state.previews.open.clone());
        let shutdown = self.stopping.served.subscribe();
        background.spawn(async move {
            watch_revocations(deps, previews, shutdown).await;
            "revocations"
        });
        let (deps, previews) = (self.state.previews.deps.clone(), self.state.previews.open.clone());
        let shutdown = self.stopping.served.subscribe();
        background.spawn(async move {
            watch_access(deps, previews, shutdown).await;
            "access"
        });
        let containers = self.state.containers.clone();
        if containers.settings().events {
            let (containers, shutdown) = (containers.clone(), self.state.shutdown.clone());
            background.spawn(async move {
                watch_events(containers, shutdown).await;
                "container events"
            });
        }
        if let Some(idle_stop) = containers.settings().idle_stop {
            let shutdown = self.state.shutdown.clone();
            background.spawn(async move {
                stop_idle(containers, idle_stop, shutdown).await;
                "idle containers"
            });
        }
        let (keys, shutdown) = (self.keys.clone(), self.state.shutdown.clone());
        background.spawn(async move {
            keys.watch_clock(shutdown).await;
            "clock"
        });
        background
    }
}
