//! Single-use marks, remembered access and the gate in Redis.

use async_trait::async_trait;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::contract::names::{KEY_PREVIEW_REVOCATION, KEY_PREVIEW_SLOTS};
use runwarden_actors::ports::{
    AccessCache, Admission, Admitted, CoordinationError, LimitDecision, LimitWindow, PreviewGate, RememberedAccess,
    SingleUse,
};
use tokio::runtime::Handle;
use tokio::time::sleep;
use uuid::Uuid;

use super::bounds::{check_marks, check_sessions, check_span, check_text, check_version, check_windows};
use super::redis::RedisCoordination;
use super::redis_released::GIVE_BACK_AFTER;

/// Sessions whose slots are given back in one call.
const SESSIONS_AT_ONCE: usize = 100;

/// A script's answer: what came of it, and up to two numbers about it.
type Answer = (i64, i64, i64);

pub(super) fn revocation_key(session: PreviewSessionId) -> String {
    format!("{KEY_PREVIEW_REVOCATION}:{session}")
}

pub(super) fn slots_key(session: PreviewSessionId) -> String {
    format!("{KEY_PREVIEW_SLOTS}:{session}")
}

/// Beside what is remembered, because it outlives it.
pub(super) fn generation_key(access_key: &str) -> String {
    format!("{access_key}:generation")
}

pub(super) fn nonsense() -> CoordinationError {
    CoordinationError("Redis gave an answer that is none".to_owned())
}

pub(super) fn generation(number: i64) -> Result<u64, CoordinationError> {
    u64::try_from(number).map_err(|_| nonsense())
}

/// The decision of a full window.
pub(super) fn limited(windows: &[LimitWindow], which: i64, wait: i64) -> Result<LimitDecision, CoordinationError> {
    let window = usize::try_from(which).ok().and_then(|which| windows.get(which)).ok_or_else(nonsense)?;
    let retry_after_ms = u64::try_from(wait).map_err(|_| nonsense())?;
    Ok(LimitDecision::Limited { limiter: window.limiter, retry_after_ms })
}

#[async_trait]
impl SingleUse for RedisCoordination {
    async fn use_once(&self, marks: &[String], ttl_ms: u64) -> Result<bool, CoordinationError> {
        check_marks(marks)?;
        let ttl = check_span("a mark", ttl_ms)?;
        let mut script = self.0.previews.use_once.prepare_invoke();
        for mark in marks {
            script.key(mark);
        }
        Ok(self.0.call::<i64>(script.arg(ttl)).await? == 1)
    }
}

#[async_trait]
impl AccessCache for RedisCoordination {
    async fn remembered_access(&self, key: &str) -> Result<RememberedAccess, CoordinationError> {
        check_text("an access key", key)?;
        let (known, value): (i64, i64) =
            self.0.call(self.0.previews.remembered.key(key).key(generation_key(key))).await?;
        if known == 1 {
            return Ok(RememberedAccess::Known(value == 1));
        }
        Ok(RememberedAccess::Unknown { generation: generation(value)? })
    }

    async fn remember_access(
        &self,
        key: &str,
        allowed: bool,
        generation: u64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError> {
        check_text("an access key", key)?;
        let ttl = check_span("a remembered access", ttl_ms)?;
        let mut script = self.0.previews.remember.prepare_invoke();
        script.key(key).key(generation_key(key)).arg(u8::from(allowed)).arg(generation).arg(ttl);
        self.0.call::<i64>(&script).await.map(|_| ())
    }

    async fn forget_access(&self, key: &str) -> Result<(), CoordinationError> {
        check_text("an access key", key)?;
        self.0.call::<i64>(self.0.previews.forget.key(key).key(generation_key(key))).await.map(|_| ())
    }
}

#[async_trait]
impl PreviewGate for RedisCoordination {
    async fn admit(&self, admission: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        check_version(admission.revocation_version)?;
        check_text("an access key", admission.access_key)?;
        check_windows(admission.windows)?;
        check_span("a slot", admission.slot_ms)?;
        self.0.pass_gate(admission).await
    }

    async fn extend_slot(
        &self,
        session: PreviewSessionId,
        slot: Uuid,
        slot_ms: u64,
    ) -> Result<bool, CoordinationError> {
        let slot_ms = check_span("a slot", slot_ms)?;
        let mut script = self.0.previews.extend.prepare_invoke();
        script.key(slots_key(session)).arg(slot.as_bytes()).arg(slot_ms);
        Ok(self.0.call::<i64>(&script).await? == 1)
    }

    async fn release_slot(&self, session: PreviewSessionId, slot: Uuid) -> Result<(), CoordinationError> {
        let Some(duty) = self.0.released.add(session, slot) else { return Ok(()) };
        if Handle::try_current().is_err() {
            // Nobody could wait here; the next one that is given back takes the duty.
            return Ok(());
        }
        sleep(GIVE_BACK_AFTER).await;
        let all: Vec<_> = duty.take_all().into_iter().collect();
        for some in all.chunks(SESSIONS_AT_ONCE) {
            let mut script = self.0.previews.free.prepare_invoke();
            for (session, slots) in some {
                script.key(slots_key(*session)).arg(slots.len());
                for slot in slots {
                    script.arg(slot.as_bytes());
                }
            }
            self.0.call::<i64>(&script).await?;
        }
        Ok(())
    }

    async fn count_all(&self, windows: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        check_windows(windows)?;
        if windows.is_empty() {
            return Ok(LimitDecision::Allowed);
        }
        let mut script = self.0.previews.count_all.prepare_invoke();
        for window in windows {
            script.key(&window.key).arg(window.limit).arg(window.window_ms);
        }
        match self.0.call::<Answer>(&script).await? {
            (0, ..) => Ok(LimitDecision::Allowed),
            (5, which, wait) => limited(windows, which, wait),
            _ => Err(nonsense()),
        }
    }

    async fn announce_revocation(
        &self,
        session: PreviewSessionId,
        version: i64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError> {
        check_version(version)?;
        let ttl = check_span("an announcement", ttl_ms)?;
        let mut script = self.0.previews.announce.prepare_invoke();
        script.key(revocation_key(session)).arg(version).arg(ttl);
        self.0.call::<i64>(&script).await.map(|_| ())
    }

    async fn revocations(&self, sessions: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        check_sessions(sessions.len())?;
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = self.0.previews.versions.prepare_invoke();
        for session in sessions {
            script.key(revocation_key(*session));
        }
        let versions: Vec<Option<i64>> = self.0.call(&script).await?;
        if versions.len() == sessions.len() { Ok(versions) } else { Err(nonsense()) }
    }
}
