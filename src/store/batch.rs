//! Group commit: one task takes every decision that waits and writes them as one durable write, each with an
//! outcome of its own.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use runwarden_actors::contract::RunId;
use runwarden_actors::ports::StoreError;
use runwarden_actors::ports::store::{CommitOutcome, RunCommit};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;

/// Commits in one durable write.
const BATCH_MAX_COMMITS: usize = 512;
/// Events in one durable write, unless a single commit has more.
const BATCH_MAX_EVENTS: usize = 8192;
/// Bytes of payload in one durable write, unless a single commit has more.
const BATCH_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Events, written and waiting, from which several durable writes at once are worth their price.
const SPREAD_FROM_EVENTS: usize = 128;
/// How long less than that waits for a write that is under way, to be written with whatever comes meanwhile. Most of
/// a small write's price is the same for one event and for fifty, so two small ones cost nearly twice what one does.
const JOIN_WITHIN: Duration = Duration::from_millis(5);
/// Commits that wait; the next caller waits before it.
const WAITING_MAX_COMMITS: usize = 2048;
/// Payload that waits or is being written, in KiB; the next caller waits before it.
const HELD_MAX_KIB: u32 = 128 * 1024;

/// Carries out one durable write.
#[async_trait]
pub(super) trait BatchWriter: Send + Sync + 'static {
    /// Writes all that apply, in one transaction, and says for each in order what came of it. No two are of the
    /// same run. An error means that nothing was written, or with [`Failure::Unavailable`] that nobody knows.
    async fn write(&self, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure>;
}

struct Job {
    commit: RunCommit,
    bytes: usize,
    answer: oneshot::Sender<Result<CommitOutcome, StoreError>>,
    /// Given back when the job is answered.
    room: OwnedSemaphorePermit,
}

/// The queue before the writers, and the task behind it.
pub(super) struct GroupCommit {
    queue: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    call_timeout: Duration,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl GroupCommit {
    /// Starts the task on the current runtime; `writers` durable writes may be under way at once.
    pub(super) fn start(writer: Arc<dyn BatchWriter>, writers: usize, call_timeout: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(WAITING_MAX_COMMITS);
        let closing = CancellationToken::new();
        let task = tokio::spawn(run(jobs, writer, writers, closing.clone()));
        Self {
            queue,
            room: Arc::new(Semaphore::new(HELD_MAX_KIB as usize)),
            call_timeout,
            closing,
            task: Mutex::new(Some(task)),
        }
    }

    /// Waits for the write that this decision becomes part of.
    pub(super) async fn commit(&self, commit: RunCommit) -> Result<CommitOutcome, StoreError> {
        match tokio::time::timeout(self.call_timeout, self.enqueue(commit)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::too_slow().into()),
        }
    }

    async fn enqueue(&self, commit: RunCommit) -> Result<CommitOutcome, StoreError> {
        let ended = || StoreError::Unavailable("the store is closed".to_owned());
        let bytes = commit.events.iter().map(|event| event.payload.len()).sum::<usize>();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(HELD_MAX_KIB).min(HELD_MAX_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| ended())?;
        let (answer, outcome) = oneshot::channel();
        self.queue.send(Job { commit, bytes, answer, room }).await.map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }

    /// Whether decisions can still be written.
    pub(super) fn is_open(&self) -> bool {
        !self.queue.is_closed()
    }

    /// Takes no more, writes what waits, and ends.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        if let Some(task) = self.task.lock().await.take()
            && tokio::time::timeout(self.call_timeout, task).await.is_err()
        {
            tracing::warn!("the group commit did not end in time");
        }
    }
}

async fn run(mut jobs: mpsc::Receiver<Job>, writer: Arc<dyn BatchWriter>, writers: usize, closing: CancellationToken) {
    let mut waiting: VecDeque<Job> = VecDeque::new();
    let mut busy: HashSet<RunId> = HashSet::new();
    let mut under_way = FuturesUnordered::new();
    let mut open = true;
    let mut events_under_way = 0;
    let mut begun = Instant::now();
    loop {
        gather(&mut jobs, &mut waiting);
        while under_way.len() < writers
            && (under_way.is_empty()
                || begun.elapsed() >= JOIN_WITHIN
                || reaches(&waiting, SPREAD_FROM_EVENTS.saturating_sub(events_under_way)))
        {
            let batch = take_batch(&mut waiting, &busy);
            if batch.is_empty() {
                break;
            }
            busy.extend(batch.iter().map(|job| job.commit.run_id));
            let events = batch.iter().map(|job| job.commit.events.len()).sum::<usize>();
            events_under_way += events;
            begun = Instant::now();
            let write = write(Arc::clone(&writer), batch);
            under_way.push(async move { (write.await, events) });
        }
        if !open && waiting.is_empty() && under_way.is_empty() {
            return;
        }
        tokio::select! {
            job = jobs.recv(), if open && waiting.len() < WAITING_MAX_COMMITS => match job {
                Some(job) => waiting.push_back(job),
                None => open = false,
            },
            Some((runs, events)) = under_way.next(), if !under_way.is_empty() => {
                events_under_way -= events;
                for run in runs {
                    busy.remove(&run);
                }
            }
            () = sleep_until(begun + JOIN_WITHIN), if !waiting.is_empty() && begun.elapsed() < JOIN_WITHIN => {}
            () = closing.cancelled(), if !jobs.is_closed() => jobs.close(),
        }
    }
}

/// Takes what has been submitted, up to the bound.
fn gather(jobs: &mut mpsc::Receiver<Job>, waiting: &mut VecDeque<Job>) {
    while waiting.len() < WAITING_MAX_COMMITS
        && let Ok(job) = jobs.try_recv()
    {
        waiting.push_back(job);
    }
}

/// Whether so many events wait.
fn reaches(waiting: &VecDeque<Job>, events: usize) -> bool {
    let mut sum = 0;
    waiting.iter().any(|job| {
        sum += job.commit.events.len();
        sum >= events
    })
}

/// Takes what fits into one write, in order, at most one commit of each run and none of a run that is being written.
fn take_batch(waiting: &mut VecDeque<Job>, busy: &HashSet<RunId>) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::new();
    let mut deferred = VecDeque::new();
    let mut runs = HashSet::new();
    let (mut events, mut bytes) = (0, 0);
    while let Some(job) = waiting.pop_front() {
        if job.answer.is_closed() {
            // Its caller has given up, and was told that nothing is known.
            continue;
        }
        let full = batch.len() == BATCH_MAX_COMMITS
            || (!batch.is_empty()
                && (events + job.commit.events.len() > BATCH_MAX_EVENTS || bytes + job.bytes > BATCH_MAX_BYTES));
        if full {
            deferred.push_back(job);
            break;
        }
        // A second commit of a run waits for the first, and a third for the second.
        if busy.contains(&job.commit.run_id) || !runs.insert(job.commit.run_id) {
            deferred.push_back(job);
            continue;
        }
        events += job.commit.events.len();
        bytes += job.bytes;
        batch.push(job);
    }
    deferred.append(waiting);
    *waiting = deferred;
    batch
}

/// Writes the batch and answers everybody in it. Where the database refuses it, halves are tried until the commit
/// that it refuses stands alone.
async fn write(writer: Arc<dyn BatchWriter>, batch: Vec<Job>) -> Vec<RunId> {
    let runs = batch.iter().map(|job| job.commit.run_id).collect();
    let mut answers = Vec::with_capacity(batch.len());
    let mut commits = Vec::with_capacity(batch.len());
    for job in batch {
        commits.push(job.commit);
        answers.push(Some((job.answer, job.room)));
    }
    let mut tell = |at: usize, outcome: Result<CommitOutcome, StoreError>| {
        if let Some((answer, room)) = answers.get_mut(at).and_then(Option::take) {
            // A caller that has gone does not need it.
            let _ = answer.send(outcome);
            drop(room);
        }
    };
    let mut ranges: Vec<Range<usize>> = std::iter::once(0..commits.len()).collect();
    while let Some(range) = ranges.pop() {
        match writer.write(&commits[range.clone()]).await {
            Ok(outcomes) => {
                for (at, outcome) in range.zip(outcomes) {
                    tell(at, Ok(outcome));
                }
            }
            Err(Failure::Unavailable(why)) => {
                for at in range.chain(ranges.drain(..).flatten()) {
                    tell(at, Err(StoreError::Unavailable(why.clone())));
                }
            }
            Err(failure) if range.len() > 1 => {
                tracing::warn!(commits = range.len(), ?failure, "the database refused a batch; it is split");
                let middle = range.start + range.len() / 2;
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
            Err(Failure::Conflict(_)) => tell(range.start, Ok(CommitOutcome::Conflict)),
            Err(failure) => tell(range.start, Err(failure.into())),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use runwarden_actors::contract::Timestamp;
    use runwarden_actors::ports::store::{RunChange, RunCounters};
    use sqlx::types::Uuid;
    use tokio::sync::Notify;

    use super::*;

    /// Writes down what it is given; refuses batches with an odd revision, and can be made to wait or to be away.
    #[derive(Default)]
    struct Fake {
        batches: std::sync::Mutex<Vec<Vec<(RunId, i64)>>>,
        gate: Option<Notify>,
        away: bool,
    }

    #[async_trait]
    impl BatchWriter for Fake {
        async fn write(&self, commits: &[RunCommit]) -> Result<Vec<CommitOutcome>, Failure> {
            self.batches
                .lock()
                .unwrap()
                .push(commits.iter().map(|commit| (commit.run_id, commit.expected_revision)).collect());
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            if self.away {
                return Err(Failure::Unavailable("away".to_owned()));
            }
            if commits.iter().any(|commit| commit.expected_revision % 2 == 1) {
                return Err(Failure::Rejected("odd".to_owned()));
            }
            Ok(vec![CommitOutcome::Applied { quarantined: 0 }; commits.len()])
        }
    }

    fn commit(run: u128, expected_revision: i64) -> RunCommit {
        RunCommit {
            run_id: RunId::from_uuid(Uuid::from_u128(run)),
            expected_revision,
            change: RunChange::default(),
            counters: RunCounters::default(),
            events: Vec::new(),
            quarantine: Vec::new(),
            effects: Vec::new(),
            now: Timestamp::default(),
        }
    }

    fn start(fake: Fake, call_timeout: Duration) -> (Arc<Fake>, GroupCommit) {
        let fake = Arc::new(fake);
        let group = GroupCommit::start(Arc::clone(&fake) as Arc<dyn BatchWriter>, 2, call_timeout);
        (fake, group)
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn what_waits_is_written_together_and_a_run_never_twice_at_once() {
        let (fake, group) = start(Fake::default(), PATIENCE);
        let commits = [(1, 0), (2, 0), (1, 2), (3, 0), (1, 4)];
        let outcomes = join_all(commits.map(|(run, revision)| group.commit(commit(run, revision)))).await;
        assert!(outcomes.iter().all(Result::is_ok));
        let batches = fake.batches.lock().unwrap();
        let of_one: Vec<i64> =
            batches.iter().flatten().filter(|(run, _)| run.as_uuid().as_u128() == 1).map(|(_, at)| *at).collect();
        assert_eq!(of_one, [0, 2, 4]);
        for batch in batches.iter() {
            let runs: HashSet<RunId> = batch.iter().map(|(run, _)| *run).collect();
            assert_eq!(runs.len(), batch.len());
        }
        assert_eq!(batches.len(), 3);
    }

    #[tokio::test]
    async fn only_the_refused_commit_fails() {
        let (_, group) = start(Fake::default(), PATIENCE);
        let outcomes = join_all((0..100).map(|run| group.commit(commit(run, i64::from(run == 70))))).await;
        for (run, outcome) in outcomes.into_iter().enumerate() {
            assert_eq!(outcome.is_err(), run == 70, "{run}");
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_database_that_is_away() {
        let (fake, group) = start(Fake { away: true, ..Fake::default() }, PATIENCE);
        for outcome in join_all((0..10).map(|run| group.commit(commit(run, 0)))).await {
            assert!(matches!(outcome, Err(StoreError::Unavailable(_))));
        }
        assert_eq!(fake.batches.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_caller_waits_no_longer_than_a_call_may_take() {
        let gate = Some(Notify::new());
        let (_, group) = start(Fake { gate, ..Fake::default() }, Duration::from_millis(20));
        let outcomes = join_all((0..3).map(|run| group.commit(commit(run, 0)))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StoreError::Unavailable(_)))));
    }

    #[tokio::test]
    async fn closing_writes_what_waits_and_takes_no_more() {
        let (fake, group) = start(Fake { gate: Some(Notify::new()), ..Fake::default() }, PATIENCE);
        let group = Arc::new(group);
        let one = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.commit(commit(1, 0)).await }
        });
        while fake.batches.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let closing = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.close().await }
        });
        while group.is_open() {
            tokio::task::yield_now().await;
        }
        assert!(matches!(group.commit(commit(2, 0)).await, Err(StoreError::Unavailable(_))));
        fake.gate.as_ref().unwrap().notify_one();
        closing.await.unwrap();
        assert!(one.await.unwrap().is_ok());
    }
}
