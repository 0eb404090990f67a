//! Admissions on their way to Redis. Those that come to a thread while its last call is under way go together in the
//! next one: most of a call's price is the same for one request and for twenty. Who comes alone waits for nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::ScriptInvocation;
use runwarden_actors::contract::PreviewSessionId;
use runwarden_actors::ports::{Admission, Admitted, CoordinationError, LimitDecision, LimitWindow};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::redis::Shared;
use super::redis_connections::{CONNECTIONS_MAX, Connections};
use super::redis_previews::{generation, generation_key, limited, nonsense, revocation_key, slots_key};
use super::redis_released::Carried;
use super::redis_scripts::{Numbers, pack};

/// Admissions in one call.
const TOGETHER_MAX: usize = 64;
/// Admissions of one thread that wait for a call; more are refused.
const WAITING_MAX: usize = 8192;

type Outcome = Result<Admitted, CoordinationError>;

/// What waits, for each thread.
pub(super) struct Gate(Vec<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    groups: VecDeque<Group>,
    waiting: usize,
    /// Whether a task carries what waits to Redis.
    attended: bool,
}

/// Admissions that differ only in their slots.
struct Group {
    session: PreviewSessionId,
    revocation_version: i64,
    access_key: String,
    windows: Vec<LimitWindow>,
    slots_max: u32,
    slot_ms: u64,
    asked: Vec<(Uuid, oneshot::Sender<Outcome>)>,
}

impl Group {
    fn of(admission: &Admission<'_>) -> Self {
        Self {
            session: admission.session,
            revocation_version: admission.revocation_version,
            access_key: admission.access_key.to_owned(),
            windows: admission.windows.to_vec(),
            slots_max: admission.slots_max,
            slot_ms: admission.slot_ms,
            asked: Vec::with_capacity(4),
        }
    }

    fn is_of(&self, admission: &Admission<'_>) -> bool {
        self.session == admission.session
            && self.revocation_version == admission.revocation_version
            && self.slots_max == admission.slots_max
            && self.slot_ms == admission.slot_ms
            && self.access_key == admission.access_key
            && self.windows == admission.windows
            && self.asked.len() < TOGETHER_MAX
    }

    /// Adds its keys and its numbers, as the script reads them.
    fn write(&self, script: &mut ScriptInvocation<'_>, packed: &mut Vec<u8>, released: &[Uuid]) {
        script
            .key(revocation_key(self.session))
            .key(&self.access_key)
            .key(generation_key(&self.access_key))
            .key(slots_key(self.session));
        for window in &self.windows {
            script.key(&window.key);
        }
        let numbers = Numbers {
            revocation_version: self.revocation_version,
            slots_max: self.slots_max,
            slot_ms: self.slot_ms,
            windows: &self.windows,
        };
        pack(packed, &numbers, self.asked.iter().map(|(slot, _)| *slot), released);
    }

    /// What came of one of them.
    fn read(&self, answer: [i64; 3]) -> Outcome {
        let [outcome, number, wait] = answer;
        Ok(match outcome {
            0 => Admitted::Yes,
            1 => Admitted::Unannounced,
            2 => Admitted::Revoked,
            3 => Admitted::AccessUnknown { generation: generation(number)? },
            4 => Admitted::AccessDenied,
            5 => match limited(&self.windows, number, wait)? {
                LimitDecision::Limited { limiter, retry_after_ms } => Admitted::Limited { limiter, retry_after_ms },
                LimitDecision::Allowed => return Err(nonsense()),
            },
            6 => Admitted::Busy,
            _ => return Err(nonsense()),
        })
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self((0..CONNECTIONS_MAX).map(|_| Mutex::default()).collect())
    }
}

impl Gate {
    fn queue(&self, place: usize) -> MutexGuard<'_, Queue> {
        self.0[place % CONNECTIONS_MAX].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one, and says whether nobody carries what waits at this place: then the caller must see to it.
    fn add(&self, place: usize, admission: &Admission<'_>) -> Option<(oneshot::Receiver<Outcome>, bool)> {
        let mut queue = self.queue(place);
        if queue.waiting >= WAITING_MAX {
            return None;
        }
        let (answer, outcome) = oneshot::channel();
        let asked = (admission.slot, answer);
        if let Some(group) = queue.groups.iter_mut().find(|group| group.is_of(admission)) {
            group.asked.push(asked);
        } else {
            let mut group = Group::of(admission);
            group.asked.push(asked);
            queue.groups.push_back(group);
        }
        queue.waiting += 1;
        let unattended = !queue.attended;
        queue.attended = true;
        Some((outcome, unattended))
    }

    /// Takes what goes into one call. With nothing left, nobody attends any more.
    fn take(&self, place: usize) -> Vec<Group> {
        let mut queue = self.queue(place);
        let (mut taken, mut count) = (Vec::new(), 0);
        while let Some(next) = queue.groups.front()
            && (taken.is_empty() || count + next.asked.len() <= TOGETHER_MAX)
        {
            count += next.asked.len();
            taken.extend(queue.groups.pop_front());
        }
        queue.waiting -= count;
        queue.attended = !taken.is_empty();
        taken
    }
}

/// Carries what waits at a place. If it does not come to its end, whoever waits is told.
struct Carrier {
    store: Arc<Shared>,
    place: usize,
}

impl Carrier {
    async fn carry(self) {
        loop {
            let groups = self.store.gate.take(self.place);
            if groups.is_empty() {
                return;
            }
            self.store.ask(groups).await;
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        // Nothing waits where it has come to its end. Elsewhere senders are dropped, and with them hope.
        let mut queue = self.store.gate.queue(self.place);
        if queue.attended {
            *queue = Queue::default();
        }
    }
}

impl Shared {
    /// Waits for its turn in a call.
    pub(super) async fn pass_gate(self: &Arc<Self>, admission: &Admission<'_>) -> Outcome {
        let place = Connections::place();
        let (outcome, unattended) = self
            .gate
            .add(place, admission)
            .ok_or_else(|| CoordinationError(format!("more than {WAITING_MAX} requests wait for Redis")))?;
        if unattended {
            tokio::spawn(Carrier { store: Arc::clone(self), place }.carry());
        }
        outcome.await.unwrap_or_else(|_| Err(CoordinationError("the call was given up".to_owned())))
    }

    /// One call, and its answers to all who wait for them.
    async fn ask(&self, groups: Vec<Group>) {
        let mut script = self.previews.admit.prepare_invoke();
        let mut packed = Vec::with_capacity(192 * groups.len());
        let mut released = Vec::with_capacity(groups.len());
        for group in &groups {
            let slots = self.released.take_along(group.session);
            group.write(&mut script, &mut packed, slots.slots());
            released.push(slots);
        }
        script.arg(packed);
        let asked: usize = groups.iter().map(|group| group.asked.len()).sum();
        let answers = match self.call::<Vec<i64>>(&script).await {
            Ok(answers) if answers.len() == 3 * asked => {
                released.into_iter().for_each(Carried::arrived);
                Ok(answers)
            }
            Ok(_) => Err(nonsense()),
            Err(error) => Err(error),
        };
        let mut answers = answers.as_ref().map(|answers| answers.iter().copied());
        for mut group in groups {
            for (slot, waits) in std::mem::take(&mut group.asked) {
                let outcome = match &mut answers {
                    Ok(numbers) => {
                        let mut next = || numbers.next().unwrap_or(-1);
                        group.read([next(), next(), next()])
                    }
                    Err(error) => Err(CoordinationError(error.0.clone())),
                };
                let taken = matches!(outcome, Ok(Admitted::Yes));
                if waits.send(outcome).is_err() && taken {
                    // The client went away meanwhile. Without a duty of its own: the next admission takes it along.
                    drop(self.released.add(group.session, slot));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runwarden_actors::contract::Limiter;

    use super::*;

    fn window(key: &str) -> LimitWindow {
        LimitWindow { key: key.to_owned(), limiter: Limiter::Session, limit: 5, window_ms: 1000 }
    }

    fn ask(session: u128, windows: &[LimitWindow], slot: u128) -> Admission<'_> {
        Admission {
            session: PreviewSessionId::from_uuid(Uuid::from_u128(session)),
            revocation_version: 1,
            access_key: "access",
            windows,
            slot: Uuid::from_u128(slot),
            slots_max: 16,
            slot_ms: 1000,
        }
    }

    #[test]
    fn what_differs_only_in_its_slot_goes_together_up_to_a_bound() {
        let gate = Gate::default();
        let (here, elsewhere) = ([window("here")], [window("elsewhere")]);
        let first = gate.add(0, &ask(1, &here, 1)).unwrap();
        assert!(first.1, "nobody attends yet");
        assert!(!gate.add(0, &ask(1, &here, 2)).unwrap().1);
        gate.add(0, &ask(1, &elsewhere, 3)).unwrap();
        gate.add(0, &ask(2, &here, 4)).unwrap();
        assert!(gate.add(1, &ask(2, &here, 5)).unwrap().1, "another thread has a queue of its own");
        let taken: Vec<usize> = gate.take(0).iter().map(|group| group.asked.len()).collect();
        assert_eq!(taken, [2, 1, 1]);
        assert!(!gate.add(0, &ask(1, &here, 6)).unwrap().1, "whoever took the first ones comes back");
        assert_eq!(gate.take(0).len(), 1);
        assert!(gate.take(0).is_empty());
        assert!(gate.add(0, &ask(1, &here, 7)).unwrap().1, "nobody attends any more");
    }

    #[test]
    fn one_call_takes_so_many_and_a_thread_has_room_for_so_many() {
        let gate = Gate::default();
        let kept: Vec<_> = (0..WAITING_MAX as u128).map(|at| gate.add(0, &ask(at / 40, &[], at)).unwrap().0).collect();
        assert!(gate.add(0, &ask(0, &[], 0)).is_none());
        let sizes: Vec<usize> = gate.take(0).iter().map(|group| group.asked.len()).collect();
        assert_eq!(sizes, [40], "two would be more than {TOGETHER_MAX}");
        assert!(gate.add(0, &ask(0, &[], 0)).is_some());
        drop(kept);
    }
}
