//! Remembered access and the gate of one server. The gate stands before every proxied request: no call is awaited in
//! it, the clock is read once, and only what is new allocates.

use async_trait::async_trait;
use runwarden_actors::contract::{PreviewSessionId, Timestamp};
use runwarden_actors::ports::{
    AccessCache, Admission, Admitted, CoordinationError, LimitDecision, LimitWindow, PreviewGate, RememberedAccess,
};
use uuid::Uuid;

use super::bounds::{check_sessions, check_span, check_text, check_version, check_windows};
use super::embedded::{Access, EmbeddedCoordination, Slot, State, Value, wrong_kind};
use super::expiring::Entry;

/// How long a generation is kept: much longer than any access source is waited for. One that has run out matches
/// nothing, so that an answer from before it is dropped and asked again.
const GENERATION_MS: i64 = 600_000;

impl State {
    /// What is remembered under `key`, or the generation for the next answer.
    fn access(&mut self, key: &str, now: Timestamp) -> Result<RememberedAccess, CoordinationError> {
        if let Some(Entry { value, .. }) = self.access.live(key, now) {
            return Ok(match value.known {
                Some((allowed, until)) if until > now => RememberedAccess::Known(allowed),
                _ => RememberedAccess::Unknown { generation: value.generation },
            });
        }
        let generation = self.next_generation();
        self.access.insert(key, Access { generation, known: None }, now.plus_millis(GENERATION_MS), now)?;
        Ok(RememberedAccess::Unknown { generation })
    }

    const fn next_generation(&mut self) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// The window that is full for the longest; and how many of the others are new.
    fn fullest(
        &mut self,
        windows: &[LimitWindow],
        now: Timestamp,
    ) -> Result<(LimitDecision, usize), CoordinationError> {
        let (mut decision, mut longest, mut fresh) = (LimitDecision::Allowed, 0, 0);
        for window in windows {
            let (used, left) = match self.entries.live(window.key.as_str(), now) {
                Some(Entry { value: Value::Count(used), expires_at }) => (*used, expires_at.millis_since(now)),
                Some(Entry { value: Value::Lease(_), .. }) => return Err(wrong_kind(&window.key)),
                None => {
                    fresh += 1;
                    (0, i64::try_from(window.window_ms).unwrap_or(i64::MAX))
                }
            };
            if used >= window.limit && left > longest {
                longest = left;
                let retry_after_ms = u64::try_from(left).unwrap_or(1);
                decision = LimitDecision::Limited { limiter: window.limiter, retry_after_ms };
            }
        }
        Ok((decision, fresh))
    }

    /// Counts in all windows, after [`Self::fullest`] and after there is room for the new ones.
    fn count(&mut self, windows: &[LimitWindow], now: Timestamp) -> Result<(), CoordinationError> {
        for window in windows {
            if let Some(Entry { value: Value::Count(used), .. }) = self.entries.live(window.key.as_str(), now) {
                *used = used.saturating_add(1);
            } else {
                let ends_at = now.plus_millis(i64::try_from(window.window_ms).unwrap_or(i64::MAX));
                self.entries.insert(window.key.as_str(), Value::Count(1), ends_at, now)?;
            }
        }
        Ok(())
    }

    /// The session's slots without the expired ones; made where there are none.
    fn slots(
        &mut self,
        session: PreviewSessionId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<&mut Entry<Vec<Slot>>, CoordinationError> {
        if self.slots.live(&session, now).is_none() {
            self.slots.insert(&session, Vec::new(), until, now)?;
        }
        let missing = || CoordinationError("the slots of a preview session are gone".to_owned());
        let entry = self.slots.live(&session, now).ok_or_else(missing)?;
        entry.value.retain(|slot| slot.expires_at > now);
        Ok(entry)
    }
}

#[async_trait]
impl AccessCache for EmbeddedCoordination {
    async fn remembered_access(&self, key: &str) -> Result<RememberedAccess, CoordinationError> {
        check_text("an access key", key)?;
        let now = self.time();
        self.lock().access(key, now)
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
        let now = self.time();
        if let Some(entry) = self.lock().access.live(key, now)
            && entry.value.generation == generation
        {
            let until = now.plus_millis(ttl);
            entry.value.known = Some((allowed, until));
            entry.expires_at = entry.expires_at.max(until);
        }
        Ok(())
    }

    async fn forget_access(&self, key: &str) -> Result<(), CoordinationError> {
        check_text("an access key", key)?;
        // Without an entry there is no generation that an answer could be remembered under; the next one is another.
        self.lock().access.remove(key);
        Ok(())
    }
}

#[async_trait]
impl PreviewGate for EmbeddedCoordination {
    async fn admit(&self, admission: &Admission<'_>) -> Result<Admitted, CoordinationError> {
        check_version(admission.revocation_version)?;
        check_text("an access key", admission.access_key)?;
        check_windows(admission.windows)?;
        let slot_ms = check_span("a slot", admission.slot_ms)?;
        let now = self.time();
        let mut state = self.lock();
        match state.revocations.live(&admission.session, now) {
            Some(known) if known.value > admission.revocation_version => return Ok(Admitted::Revoked),
            Some(known) if known.value == admission.revocation_version => {}
            _ => return Ok(Admitted::Unannounced),
        }
        match state.access(admission.access_key, now)? {
            RememberedAccess::Known(true) => {}
            RememberedAccess::Known(false) => return Ok(Admitted::AccessDenied),
            RememberedAccess::Unknown { generation } => return Ok(Admitted::AccessUnknown { generation }),
        }
        let (decision, fresh) = state.fullest(admission.windows, now)?;
        if let LimitDecision::Limited { limiter, retry_after_ms } = decision {
            return Ok(Admitted::Limited { limiter, retry_after_ms });
        }
        let until = now.plus_millis(slot_ms);
        let slots = state.slots(admission.session, until, now)?;
        let held = slots.value.iter().position(|slot| slot.id == admission.slot);
        if held.is_none() && slots.value.len() >= usize::try_from(admission.slots_max).unwrap_or(usize::MAX) {
            return Ok(Admitted::Busy);
        }
        // Everything that can be refused has been: from here on it is counted and held.
        state.entries.make_room(fresh, now)?;
        state.count(admission.windows, now)?;
        let slots = state.slots(admission.session, until, now)?;
        match held.and_then(|at| slots.value.get_mut(at)) {
            Some(slot) => slot.expires_at = until,
            None => slots.value.push(Slot { id: admission.slot, expires_at: until }),
        }
        slots.expires_at = slots.expires_at.max(until);
        Ok(Admitted::Yes)
    }

    async fn extend_slot(
        &self,
        session: PreviewSessionId,
        slot: Uuid,
        slot_ms: u64,
    ) -> Result<bool, CoordinationError> {
        let slot_ms = check_span("a slot", slot_ms)?;
        let now = self.time();
        let until = now.plus_millis(slot_ms);
        let mut state = self.lock();
        let Some(slots) = state.slots.live(&session, now) else { return Ok(false) };
        let Some(held) = slots.value.iter_mut().find(|held| held.id == slot && held.expires_at > now) else {
            return Ok(false);
        };
        held.expires_at = until;
        slots.expires_at = slots.expires_at.max(until);
        Ok(true)
    }

    async fn release_slot(&self, session: PreviewSessionId, slot: Uuid) -> Result<(), CoordinationError> {
        let now = self.time();
        if let Some(slots) = self.lock().slots.live(&session, now) {
            slots.value.retain(|held| held.id != slot);
        }
        Ok(())
    }

    async fn count_all(&self, windows: &[LimitWindow]) -> Result<LimitDecision, CoordinationError> {
        check_windows(windows)?;
        let now = self.time();
        let mut state = self.lock();
        let (decision, fresh) = state.fullest(windows, now)?;
        if decision == LimitDecision::Allowed {
            state.entries.make_room(fresh, now)?;
            state.count(windows, now)?;
        }
        Ok(decision)
    }

    async fn announce_revocation(
        &self,
        session: PreviewSessionId,
        version: i64,
        ttl_ms: u64,
    ) -> Result<(), CoordinationError> {
        check_version(version)?;
        let ttl = check_span("an announcement", ttl_ms)?;
        let now = self.time();
        let until = now.plus_millis(ttl);
        let mut state = self.lock();
        match state.revocations.live(&session, now) {
            Some(known) if known.value > version => Ok(()),
            Some(known) => {
                known.value = version;
                known.expires_at = known.expires_at.max(until);
                Ok(())
            }
            None => state.revocations.insert(&session, version, until, now),
        }
    }

    async fn revocations(&self, sessions: &[PreviewSessionId]) -> Result<Vec<Option<i64>>, CoordinationError> {
        check_sessions(sessions.len())?;
        let now = self.time();
        let mut state = self.lock();
        Ok(sessions.iter().map(|id| state.revocations.live(id, now).map(|known| known.value)).collect())
    }
}
