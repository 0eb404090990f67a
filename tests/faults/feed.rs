//! A client that sends a run's events one after the other, each until it is acknowledged, and keeps book; and the
//! comparison of its book with what the server has.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::app::{TestRun, v2, with};
use crate::remote::Remote;

/// Tries for one event before the client gives up: minutes.
const TRIES_MAX: u32 = 3_000;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// What a client knows.
#[derive(Default)]
pub struct Book {
    /// Events that it has begun to send.
    pub sent: Cell<u64>,
    /// The `seq` of every event that was acknowledged.
    pub acknowledged: RefCell<BTreeSet<i64>>,
    /// Acknowledgements that said `duplicate_event`.
    pub duplicates: Cell<u64>,
    /// 503s.
    pub unavailable: Cell<u64>,
    /// Requests without a whole answer.
    pub unanswered: Cell<u64>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

/// A client at work.
pub struct Feeder {
    pub remote: Remote,
    pub run: TestRun,
    pub book: Rc<Book>,
    stop: Rc<Cell<bool>>,
    pad: String,
}

impl Feeder {
    /// Sends payloads of `pad` bytes and a little more.
    pub fn new(remote: &Remote, run: &TestRun, pad: usize) -> Self {
        Self {
            remote: remote.clone(),
            run: run.clone(),
            book: Rc::default(),
            stop: Rc::default(),
            pad: "x".repeat(pad),
        }
    }

    /// Starts it on the current runtime. Ends after the event that it is at when it is told to stop.
    pub fn start(self) -> Feeding {
        let (book, stop, run) = (Rc::clone(&self.book), Rc::clone(&self.stop), self.run.clone());
        let task = actix_web::rt::spawn(async move {
            let mut seq = 0;
            while !self.stop.get() {
                self.one(seq).await;
                // Now and then the answer is not believed.
                if seq % 7 == 3 {
                    self.deliver(seq).await;
                }
                seq += 1;
            }
        });
        Feeding { book, run, stop, task }
    }

    async fn one(&self, seq: i64) {
        count(&self.book.sent);
        self.deliver(seq).await;
        self.book.acknowledged.borrow_mut().insert(seq);
    }

    /// Tries until this event is acknowledged.
    async fn deliver(&self, seq: i64) {
        let envelope = with(v2(&self.run, seq), json!({"pad": self.pad}));
        for _ in 0..TRIES_MAX {
            match self.remote.event(&self.run, &envelope).await {
                None => count(&self.book.unanswered),
                Some(answer) if matches!(answer.status, 200 | 202) => {
                    assert_eq!(answer.body["acknowledgedEventId"], envelope["eventId"], "{answer:?}");
                    assert_eq!(answer.body["acknowledgedSeq"], envelope["seq"], "{answer:?}");
                    if answer.status == 202 {
                        assert_eq!(answer.body["reason"], "duplicate_event", "{answer:?}");
                        count(&self.book.duplicates);
                    }
                    return;
                }
                Some(answer) => {
                    answer.assert_store_unavailable();
                    count(&self.book.unavailable);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("event {seq} is never acknowledged");
    }
}

/// A feeder that was started.
pub struct Feeding {
    pub book: Rc<Book>,
    pub run: TestRun,
    stop: Rc<Cell<bool>>,
    task: actix_web::rt::task::JoinHandle<()>,
}

impl Feeding {
    pub fn acknowledged(&self) -> usize {
        self.book.acknowledged.borrow().len()
    }

    /// Waits, at the most a minute, until so many more events were acknowledged.
    pub async fn goes_on(&self, more: usize) {
        let goal = self.acknowledged() + more;
        self.until("it goes on", || self.acknowledged() >= goal).await;
    }

    /// How many requests were answered 503.
    pub fn refused(&self) -> u64 {
        self.book.unavailable.get()
    }

    /// Waits, at the most a minute, until more requests than these were answered 503.
    pub async fn is_refused(&self, before: u64) {
        self.until("it is refused", || self.refused() > before).await;
    }

    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        for _ in 0..6_000 {
            if so() {
                return;
            }
            assert!(!self.task.is_finished(), "the client has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}");
    }

    /// Tells it to stop and waits for the acknowledgement of the event that it is at.
    pub async fn finish(self) -> (TestRun, Rc<Book>) {
        self.stop.set(true);
        tokio::time::timeout(Duration::from_mins(1), self.task).await.expect("the client ends").unwrap();
        (self.run, self.book)
    }
}

/// What came of some events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub stored: u64,
    pub lost: u64,
    pub twice: u64,
    pub duplicates_refused: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.lost += other.lost;
        self.twice += other.twice;
        self.duplicates_refused += other.duplicates_refused;
    }
}

/// Compares a book with the run's rows. Everything stored stands in order and holds what was sent.
pub async fn compare(remote: &Remote, run: &TestRun, book: &Book) -> Tally {
    let events = remote.events(run).await;
    let mut times = BTreeMap::<String, u64>::new();
    let mut last = -1;
    for event in &events {
        let seq = event["seq"].as_i64().unwrap();
        assert!(seq > last, "{seq} after {last}");
        last = seq;
        assert_eq!(event["messages"], v2(run, seq)["messages"]);
        *times.entry(event["eventId"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let row = remote.row(run).await;
    assert_eq!(row["counters"]["accepted"], json!(events.len()), "{row}");
    assert_eq!((&row["counters"]["gaps"], &row["counters"]["outOfOrder"]), (&json!(0), &json!(0)), "{row}");
    let acknowledged = book.acknowledged.borrow();
    let stored = |seq: &&i64| times.contains_key(v2(run, **seq)["eventId"].as_str().unwrap());
    let duplicates_refused = row["counters"]["duplicate"].as_u64().unwrap();
    assert!(duplicates_refused >= book.duplicates.get(), "{row}");
    Tally {
        stored: events.len() as u64,
        lost: (acknowledged.len() - acknowledged.iter().filter(stored).count()) as u64,
        twice: times.values().map(|times| times - 1).sum(),
        duplicates_refused,
    }
}

/// Ends the clients and compares: nothing is lost and nothing is there twice.
pub async fn settle(remote: &Remote, feeds: Vec<Feeding>) -> Tally {
    let mut all = Tally::default();
    for feed in feeds {
        let (run, book) = feed.finish().await;
        let tally = compare(remote, &run, &book).await;
        assert_eq!((tally.lost, tally.twice), (0, 0), "{tally:?}");
        assert_eq!(tally.stored, book.sent.get());
        all.add(&tally);
    }
    all
}
