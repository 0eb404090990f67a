//! Slots that are to be given back to Redis. They wait a moment: the session's next admission takes them along, so that
//! a busy session costs one call for each request instead of two. What nobody took is given back together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runwarden_actors::contract::PreviewSessionId;
use uuid::Uuid;

/// How long an admission is waited for.
pub(super) const GIVE_BACK_AFTER: Duration = Duration::from_millis(5);
/// Slots that wait; past it more are left to run out. Those of all requests in flight are far fewer.
const WAITING_MAX: usize = 100_000;

/// The slots that wait.
#[derive(Default)]
pub(super) struct Released(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    slots: HashMap<PreviewSessionId, Vec<Uuid>>,
    count: usize,
    /// Whether somebody is going to give back all of them.
    attended: bool,
}

impl Released {
    /// Adds one. Whoever gets the duty has to wait [`GIVE_BACK_AFTER`] and to give back all that is left then.
    pub(super) fn add(&self, session: PreviewSessionId, slot: Uuid) -> Option<Duty<'_>> {
        let mut waiting = self.lock();
        waiting.add(session, &[slot]);
        if waiting.attended {
            return None;
        }
        waiting.attended = true;
        Some(Duty(self))
    }

    /// Takes along what waits for this session.
    pub(super) fn take_along(&self, session: PreviewSessionId) -> Carried<'_> {
        let mut waiting = self.lock();
        let slots = waiting.slots.remove(&session).unwrap_or_default();
        waiting.count -= slots.len();
        Carried { released: self, session, slots }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, session: PreviewSessionId, slots: &[Uuid]) {
        if self.count + slots.len() <= WAITING_MAX {
            self.slots.entry(session).or_default().extend_from_slice(slots);
            self.count += slots.len();
        }
    }
}

/// To give back whatever waits. A duty that is dropped passes to whoever comes next.
pub(super) struct Duty<'a>(&'a Released);

impl Duty<'_> {
    /// All that waits; nothing is left.
    pub(super) fn take_all(self) -> HashMap<PreviewSessionId, Vec<Uuid>> {
        let mut waiting = self.0.lock();
        waiting.count = 0;
        std::mem::take(&mut waiting.slots)
    }
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        self.0.lock().attended = false;
    }
}

/// Slots on their way with an admission. If that is not answered they wait again: to give one back twice is harmless.
pub(super) struct Carried<'a> {
    released: &'a Released,
    session: PreviewSessionId,
    slots: Vec<Uuid>,
}

impl Carried<'_> {
    /// The slots.
    pub(super) fn slots(&self) -> &[Uuid] {
        &self.slots
    }

    /// They have arrived.
    pub(super) fn arrived(mut self) {
        self.slots.clear();
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        if !self.slots.is_empty() {
            self.released.lock().add(self.session, &self.slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(number: u128) -> PreviewSessionId {
        PreviewSessionId::from_uuid(Uuid::from_u128(number))
    }

    fn slot(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn one_has_the_duty_and_finds_what_no_admission_took() {
        let released = Released::default();
        let duty = released.add(session(1), slot(1)).unwrap();
        assert!(released.add(session(2), slot(2)).is_none());
        assert!(released.add(session(1), slot(3)).is_none());
        let carried = released.take_along(session(1));
        assert_eq!(carried.slots(), [slot(1), slot(3)]);
        carried.arrived();
        assert!(released.take_along(session(1)).slots().is_empty());
        assert_eq!(duty.take_all(), HashMap::from([(session(2), vec![slot(2)])]));
        assert!(released.add(session(1), slot(4)).is_some(), "the duty is free again");
    }

    #[test]
    fn what_did_not_arrive_waits_again() {
        let released = Released::default();
        drop(released.add(session(1), slot(1)));
        drop(released.take_along(session(1)));
        assert_eq!(released.take_along(session(1)).slots(), [slot(1)]);
        let duty = released.add(session(2), slot(2)).unwrap();
        assert_eq!(duty.take_all().len(), 2);
    }

    #[test]
    fn no_more_wait_than_the_bound() {
        let released = Released::default();
        for number in 0..=WAITING_MAX as u128 {
            drop(released.add(session(number), slot(number)));
        }
        assert!(released.take_along(session(WAITING_MAX as u128)).slots().is_empty());
        let carried = released.take_along(session(0));
        assert_eq!(carried.slots(), [slot(0)]);
        carried.arrived();
        drop(released.add(session(1), slot(0)));
        assert_eq!(released.take_along(session(1)).slots().len(), 2, "there is room again");
    }
}
