//! The spool as the running program sees it: what is still to be sent, room for more, and what became of the rest.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::options::ExecOptions;
use super::spool::{AgentMark, Entry, Spool, SpoolError};
use super::transport::Backoff;

/// Attempts to write to a disk that fails (a full one, mostly) before the daemon gives up: about ten minutes.
const WRITE_ATTEMPTS_MAX: u32 = 120;

/// What became of the envelopes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Envelopes that the server has acknowledged.
    pub acknowledged: u64,
    /// The same by what was said of them: `accepted`, or the acknowledgement's reason.
    pub by_outcome: BTreeMap<String, u64>,
    /// Envelopes that the server refused; they are in `<spool>.rejected`.
    pub rejected: u64,
}

struct Queued {
    entry: Entry,
    settled: bool,
}

#[derive(Default)]
pub(super) struct State {
    /// What is not dealt with, oldest first; the front is never settled.
    queue: VecDeque<Queued>,
    bytes: u64,
    next_seq: i64,
    /// Whether the cap no longer counts: the agent has ended, and what its pipe still holds is little.
    overrun: bool,
    waits_for_room: bool,
    refused: Option<u16>,
    /// Everything up to here is dealt with, and this much of it the file knows.
    settled_up_to: Option<i64>,
    recorded_up_to: Option<i64>,
    deliveries: Deliveries,
}

impl State {
    /// The oldest envelope that is not dealt with and comes after `seq`.
    pub(super) fn next_after(&self, seq: Option<i64>) -> Option<Entry> {
        let first = self.queue.front()?.entry.seq;
        let skip = seq.map_or(0, |seq| usize::try_from(seq.saturating_sub(first).saturating_add(1)).unwrap_or(0));
        self.queue.range(skip.min(self.queue.len())..).find(|queued| !queued.settled).map(|queued| queued.entry.clone())
    }

    fn release_settled(&mut self) {
        while let Some(queued) = self.queue.pop_front_if(|queued| queued.settled) {
            self.bytes -= queued.entry.body.len() as u64;
            self.settled_up_to = Some(queued.entry.seq);
        }
    }
}

/// What an acknowledgement was good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// The envelope is dealt with now.
    Now,
    /// It was before.
    Before,
    /// No such envelope: one of the two identities is another.
    Unknown,
}

/// The queue in memory and the file behind it.
pub(super) struct Outbox {
    /// Gone once this was dropped, so that work that was queued behind does not keep the lock.
    spool: Arc<Mutex<Option<Spool>>>,
    pub(super) path: PathBuf,
    cap: u64,
    backoff: Backoff,
    state: RefCell<State>,
    changed: Notify,
}

impl Outbox {
    pub(super) fn new(spool: Spool, options: &ExecOptions) -> Self {
        let state = State {
            queue: spool.live().map(|entry| Queued { entry: entry.clone(), settled: false }).collect(),
            bytes: spool.live_bytes(),
            next_seq: spool.next_seq(),
            ..State::default()
        };
        Self {
            path: spool.path().to_owned(),
            spool: Arc::new(Mutex::new(Some(spool))),
            cap: options.limits.spool_bytes,
            backoff: Backoff::new(options),
            state: RefCell::new(state),
            changed: Notify::new(),
        }
    }

    /// Waits until `ready` has something to say; it is asked again after every change.
    pub(super) async fn until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            let found = ready(&mut self.state.borrow_mut());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    /// Has everybody who waits ask again.
    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    fn change<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let result = with(&mut self.state.borrow_mut());
        self.wake();
        result
    }

    /// The file's work blocks, so it is done beside the runtime.
    async fn with_spool<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let spool = Arc::clone(&self.spool);
        let done =
            spawn_blocking(move || spool.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)).await;
        done.map_err(std::io::Error::other)
            .and_then(|done| done.ok_or_else(|| std::io::Error::other("it is closed")))
            .unwrap_or_else(|source| Err(SpoolError::Io { path: self.path.clone(), action: "used", source }))
    }

    pub(super) async fn mark_agent(&self, mark: AgentMark) -> Result<(), SpoolError> {
        self.with_spool(move |spool| spool.mark_agent(mark)).await
    }

    pub(super) fn next_seq(&self) -> i64 {
        self.state.borrow().next_seq
    }

    /// Adds an envelope: waits for room, then until it is durable, and only then lets it be sent.
    pub(super) async fn push(&self, entry: Entry) -> Result<(), SpoolError> {
        let bytes = entry.body.len() as u64;
        self.until(|state| {
            let room = state.overrun || state.queue.is_empty() || state.bytes.saturating_add(bytes) <= self.cap;
            if state.waits_for_room == room {
                state.waits_for_room = !room;
                if !room {
                    tracing::warn!(spool = %self.path.display(), bytes = state.bytes, "the spool is full: the agent waits");
                }
                self.wake();
            }
            room.then_some(())
        })
        .await;
        let mut backoff = self.backoff.clone();
        let mut attempt = 1;
        loop {
            let copy = entry.clone();
            match self.with_spool(move |spool| spool.append(copy)).await {
                Ok(()) => break,
                Err(error @ SpoolError::Io { .. }) if attempt < WRITE_ATTEMPTS_MAX => {
                    tracing::error!(%error, attempt, "the spool cannot be written; the agent waits");
                    attempt += 1;
                    sleep(backoff.step()).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.change(|state| {
            state.next_seq = entry.seq + 1;
            state.bytes += bytes;
            state.queue.push_back(Queued { entry, settled: false });
        });
        Ok(())
    }

    /// From now on nothing waits for room.
    pub(super) fn allow_overrun(&self) {
        self.change(|state| state.overrun = true);
    }

    /// An acknowledgement came: both identities must be those of an envelope.
    pub(super) fn settle(&self, seq: i64, event_id: &str, outcome: &str) -> Settled {
        self.change(|state| {
            let Some(first) = state.queue.front().map(|queued| queued.entry.seq) else { return Settled::Before };
            if seq < first {
                return Settled::Before;
            }
            let at = usize::try_from(seq - first).unwrap_or(usize::MAX);
            let Some(queued) = state.queue.get_mut(at) else { return Settled::Unknown };
            if queued.entry.event_id.as_str() != event_id {
                return Settled::Unknown;
            }
            if queued.settled {
                return Settled::Before;
            }
            queued.settled = true;
            state.deliveries.acknowledged += 1;
            *state.deliveries.by_outcome.entry(outcome.to_owned()).or_default() += 1;
            state.release_settled();
            Settled::Now
        })
    }

    /// Moves the oldest envelope out of the way, to `<spool>.rejected`.
    pub(super) async fn set_aside(&self, entry: &Entry, status: u16, code: String) -> Result<(), SpoolError> {
        let seq = entry.seq;
        // What was acknowledged before it must be known to the file first: it sets aside its own oldest one.
        self.record().await?;
        self.with_spool(move |spool| spool.set_aside(seq, status, &code)).await?;
        self.change(|state| {
            if let Some(queued) = state.queue.front_mut().filter(|queued| queued.entry.seq == seq) {
                queued.settled = true;
                state.deliveries.rejected += 1;
            }
            state.release_settled();
            state.recorded_up_to = state.settled_up_to;
        });
        Ok(())
    }

    /// Tells the file what is dealt with.
    pub(super) async fn record(&self) -> Result<(), SpoolError> {
        let up_to = {
            let state = self.state.borrow();
            state.settled_up_to.filter(|_| state.settled_up_to > state.recorded_up_to)
        };
        if let Some(up_to) = up_to {
            self.with_spool(move |spool| spool.acknowledge(up_to)).await?;
            self.change(|state| state.recorded_up_to = state.recorded_up_to.max(Some(up_to)));
        }
        Ok(())
    }

    /// Tells the file, again and again, what is dealt with; several acknowledgements cost one write.
    pub(super) async fn keep_recording(&self) -> std::convert::Infallible {
        let mut backoff = self.backoff.clone();
        loop {
            self.until(|state| (state.settled_up_to > state.recorded_up_to).then_some(())).await;
            match self.record().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, "an acknowledgement is not recorded; a restart would send again");
                    sleep(backoff.step()).await;
                }
            }
        }
    }

    /// The server refuses the token: nothing more is sent.
    pub(super) fn refuse(&self, status: u16) {
        self.change(|state| state.refused = Some(status));
    }

    /// Waits until the server refuses the token.
    pub(super) async fn refused(&self) -> u16 {
        self.until(|state| state.refused).await
    }

    /// Waits until nobody will ever make room.
    pub(super) async fn stuck(&self) {
        self.until(|state| (state.refused.is_some() && state.waits_for_room).then_some(())).await;
    }

    /// Waits until everything is dealt with.
    pub(super) async fn empty(&self) {
        self.until(|state| state.queue.is_empty().then_some(())).await;
    }

    /// Envelopes that are not dealt with.
    pub(super) fn held(&self) -> usize {
        self.state.borrow().queue.iter().filter(|queued| !queued.settled).count()
    }

    /// The exit code in the terminal envelope, where one waits.
    pub(super) fn terminal(&self) -> Option<i32> {
        self.state.borrow().queue.iter().find_map(|queued| queued.entry.exit_code)
    }

    pub(super) fn deliveries(&self) -> Deliveries {
        self.state.borrow().deliveries.clone()
    }
}

impl Drop for Outbox {
    /// Waits for a write that is under way and closes the file: whoever drops this may open it again.
    fn drop(&mut self) {
        drop(self.spool.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
