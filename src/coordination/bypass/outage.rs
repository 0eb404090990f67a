//! Whether Redis is away. A call that fails is followed by a question after its clock: only a store that does not answer
//! that either is away. From then on calls fail at once, and one task asks until it answers again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use metrics::gauge;
use runwarden_actors::ports::CoordinationError;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::{EmbeddedCoordination, Inner};
use crate::coordination::REDIS_CALL_TIMEOUT_MS;

/// Time for the question after its clock, behind a call that has failed already.
const DENIES_WITHIN: Duration = Duration::from_millis(500);
/// The same while it is away. Longer than a call may take: one that hangs is given up by Redis' own adapter, which then
/// connects anew.
const ANSWERS_WITHIN: Duration = Duration::from_millis(REDIS_CALL_TIMEOUT_MS + 500);
/// Pause between two of them while it is away.
const ASKED_EVERY: Duration = Duration::from_millis(250);
/// Time for each token's marks on their way to the store that is back.
const MARKS_WITHIN: Duration = ANSWERS_WITHIN;

pub(super) fn away() -> CoordinationError {
    CoordinationError("Redis is away".to_owned())
}

impl Inner {
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// Makes the call, unless the primary is known to be away; see [`Inner::is_away`] for what an error means.
    pub(super) async fn ask<T>(
        self: &Arc<Self>,
        call: impl Future<Output = Result<T, CoordinationError>>,
    ) -> Result<T, CoordinationError> {
        if self.is_away() {
            self.attend();
            return Err(away());
        }
        let answer = call.await;
        if answer.is_err() && !self.is_away() && !self.answers(DENIES_WITHIN).await {
            self.leave();
        }
        answer
    }

    async fn answers(&self, within: Duration) -> bool {
        timeout(within, self.primary.now()).await.is_ok_and(|answer| answer.is_ok())
    }

    fn leave(self: &Arc<Self>) {
        if !self.away.swap(true, Ordering::AcqRel) {
            let in_time = self.is_in_time();
            gauge!("runwarden.preview_bypass_active").set(if in_time { 1.0 } else { 0.0 });
            tracing::warn!(
                target: "runwarden::audit",
                until = %self.settings.until,
                users = self.settings.users.len(),
                active = in_time,
                "Redis is away; the emergency bypass is active for its users until Redis is back or its time is over"
            );
        }
        self.attend();
    }

    /// Sees to it that somebody looks for its return.
    fn attend(self: &Arc<Self>) {
        if self.attended.swap(true, Ordering::AcqRel) {
            return;
        }
        let attendant = Attendant(Arc::downgrade(self));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(attendant.wait());
        }
    }

    /// Gives the primary the marks that it has missed, the oldest first; whether it has all of them.
    pub(super) async fn hand_over(&self) -> bool {
        loop {
            let next = self.used.lock().unwrap_or_else(PoisonError::into_inner).front().cloned();
            let Some((marks, until)) = next else { return true };
            if let Ok(left @ 1..) = u64::try_from(until.millis_since(self.clock.now())) {
                match timeout(MARKS_WITHIN, self.primary.use_once(&marks, left)).await {
                    // Set already: by a call of which nobody heard.
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return false,
                }
            }
            self.used.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        }
    }

    /// From here on the primary is asked again; `false` where a token was used since [`Inner::hand_over`].
    pub(super) fn come_back(&self) -> bool {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.is_empty() {
            return false;
        }
        let fresh = Arc::new(EmbeddedCoordination::new(Arc::clone(&self.clock)));
        *self.fallback.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.away.store(false, Ordering::Release);
        drop(used);
        gauge!("runwarden.preview_bypass_active").set(0.0);
        tracing::warn!(target: "runwarden::audit", "Redis is back; the emergency bypass is not active any more");
        true
    }
}

/// Waits for the primary. Whatever becomes of it, another one can take its place.
struct Attendant(Weak<Inner>);

impl Attendant {
    async fn wait(self) {
        let mut in_time = true;
        loop {
            sleep(ASKED_EVERY).await;
            let Some(inner) = self.0.upgrade() else { return };
            if in_time && !inner.is_in_time() {
                in_time = false;
                gauge!("runwarden.preview_bypass_active").set(0.0);
                tracing::warn!(target: "runwarden::audit", "the emergency bypass is over; Redis is still away");
            }
            if inner.answers(ANSWERS_WITHIN).await && inner.hand_over().await && inner.come_back() {
                return;
            }
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.attended.store(false, Ordering::Release);
        }
    }
}
