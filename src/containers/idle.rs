//! Containers that nobody uses are stopped, if the operator asks for it (`CONTAINER_IDLE_STOP_SECONDS`): a warning
//! first, then the end. Only containers that this installation created are touched.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use runwarden_actors::contract::ContainerSessionId;
use runwarden_actors::contract::limits::CONTAINER_STOP_GRACE_MAX_SECONDS;
use runwarden_actors::contract::names::{
    EVENT_CONTAINER_IDLE_STOPPED, EVENT_CONTAINER_IDLE_WARNING, EVENT_SCHEMA_VERSION,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Containers;

/// When to stop whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleStop {
    /// Without any use for so long.
    pub after: Duration,
    /// So long before that, a warning.
    pub warning: Duration,
}

impl IdleStop {
    /// How often it is looked: often enough that a warning comes before the end.
    fn pause(&self) -> Duration {
        (self.warning / 4).clamp(Duration::from_millis(100), Duration::from_secs(30))
    }
}

#[derive(Debug)]
struct Used {
    last: Instant,
    /// Requests and commands under way.
    open: usize,
    warned: bool,
}

/// Who was used when. Holds what runs, and what is in use.
#[derive(Debug, Clone, Default)]
pub struct Activity(Arc<Mutex<HashMap<ContainerSessionId, Used>>>);

/// A use that is under way; it ends when this is dropped.
#[derive(Debug)]
pub struct InUse {
    activity: Activity,
    session: ContainerSessionId,
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(used) = self.activity.lock().get_mut(&self.session) {
            used.open = used.open.saturating_sub(1);
            used.last = Instant::now();
        }
    }
}

/// What a look at one container comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Leave,
    Warn { idle: Duration },
    Stop { idle: Duration },
}

impl Activity {
    /// A use begins.
    pub fn begin(&self, session: &ContainerSessionId) -> InUse {
        let mut all = self.lock();
        let used = all.entry(session.clone()).or_insert_with(|| Used { last: Instant::now(), open: 0, warned: false });
        used.open += 1;
        used.last = Instant::now();
        used.warned = false;
        InUse { activity: self.clone(), session: session.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ContainerSessionId, Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who does not run any more.
    fn keep(&self, running: &HashSet<ContainerSessionId>) {
        self.lock().retain(|session, used| used.open > 0 || running.contains(session));
    }

    /// A container that was not known begins its time now: nobody knows when it was used.
    fn judge(&self, session: &ContainerSessionId, idle_stop: IdleStop) -> Verdict {
        let mut all = self.lock();
        let used = all.entry(session.clone()).or_insert_with(|| Used { last: Instant::now(), open: 0, warned: false });
        let idle = used.last.elapsed();
        if used.open > 0 {
            Verdict::Leave
        } else if used.warned && idle >= idle_stop.after {
            Verdict::Stop { idle }
        } else if !used.warned && idle + idle_stop.warning >= idle_stop.after {
            used.warned = true;
            Verdict::Warn { idle }
        } else {
            Verdict::Leave
        }
    }
}

/// Looks until the server goes down.
pub async fn stop_idle(containers: Containers, idle_stop: IdleStop, mut shutdown: watch::Receiver<bool>) {
    while !*shutdown.borrow() {
        look(&containers, idle_stop).await;
        tokio::select! {
            () = sleep(idle_stop.pause()) => {}
            changed = shutdown.changed() => if changed.is_err() { return },
        }
    }
}

async fn look(containers: &Containers, idle_stop: IdleStop) {
    let running = match containers.engine().running_of(&containers.settings().around.environment).await {
        Ok(running) => running,
        Err(error) => {
            tracing::warn!(%error, "nobody knows which containers run; none is stopped");
            return;
        }
    };
    containers.0.activity.keep(&running.iter().cloned().collect());
    for session in running {
        match containers.0.activity.judge(&session, idle_stop) {
            Verdict::Leave => {}
            Verdict::Warn { idle } => {
                counter!("runwarden.container_idle", "what" => "warned").increment(1);
                tracing::warn!(
                    target: "runwarden::events",
                    schemaVersion = EVENT_SCHEMA_VERSION,
                    eventName = EVENT_CONTAINER_IDLE_WARNING,
                    origin = "server",
                    sessionId = %session,
                    idleSeconds = idle.as_secs(),
                    stopsInSeconds = idle_stop.after.saturating_sub(idle).as_secs(),
                    "a container that nobody uses will be stopped"
                );
            }
            Verdict::Stop { idle } => {
                match containers.engine().stop(&session, CONTAINER_STOP_GRACE_MAX_SECONDS).await {
                    Ok(()) => {
                        counter!("runwarden.container_idle", "what" => "stopped").increment(1);
                        tracing::warn!(
                            target: "runwarden::events",
                            schemaVersion = EVENT_SCHEMA_VERSION,
                            eventName = EVENT_CONTAINER_IDLE_STOPPED,
                            origin = "server",
                            sessionId = %session,
                            idleSeconds = idle.as_secs(),
                            "a container that nobody used was stopped"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(session_id = %session, %error, "an idle container could not be stopped");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_warning_comes_first_and_a_use_begins_it_anew() {
        let activity = Activity::default();
        let session = ContainerSessionId::parse("s").unwrap();
        let idle_stop = IdleStop { after: Duration::from_secs(100), warning: Duration::from_secs(20) };
        let after = async |seconds: u64| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            activity.judge(&session, idle_stop)
        };
        assert_eq!(after(0).await, Verdict::Leave);
        assert_eq!(after(79).await, Verdict::Leave);
        assert_eq!(after(1).await, Verdict::Warn { idle: Duration::from_secs(80) });
        assert_eq!(after(19).await, Verdict::Leave);
        let used = activity.begin(&session);
        assert_eq!(after(1000).await, Verdict::Leave, "in use");
        drop(used);
        assert_eq!(after(79).await, Verdict::Leave);
        // Nobody looked in time: even so the warning comes first.
        assert!(matches!(after(50).await, Verdict::Warn { .. }));
        assert!(matches!(after(0).await, Verdict::Stop { .. }));
        activity.keep(&HashSet::new());
        assert!(activity.lock().is_empty());
    }
}
