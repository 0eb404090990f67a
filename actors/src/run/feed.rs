//! Readers of runs. However many read one run, its events are read from the store once: a feed follows the tail
//! and keeps a bounded window of it, and full pages of history are shared.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, watch};
use tokio::time::{sleep, timeout};

use crate::contract::limits::{
    EVENT_PAGE_MAX, EVENT_PAGE_MAX_BYTES, FEED_POLL_MS, FEED_WINDOW_BYTES, FEED_WINDOW_EVENTS,
};
use crate::contract::{RunId, Seq};
use crate::ports::Store;
use crate::ports::store::{StoreError, StoredEvent};

use super::ingest::bounded;

/// Full pages of history that are kept for other readers of the same run.
const SHARED_PAGES_MAX: usize = 16;

/// A page that is read once and handed to everybody who wants it.
type SharedPage = Arc<AsyncMutex<Option<Arc<Vec<Arc<StoredEvent>>>>>>;

/// All feeds of this process.
pub struct Feeds {
    store: Arc<dyn Store>,
    feeds: Mutex<HashMap<RunId, Weak<Feed>>>,
}

/// A panic while one of these locks is held leaves plain data behind; going on is right.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feeds {
    pub(crate) fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, feeds: Mutex::default() })
    }

    /// Tells the run's readers in this process that something was committed. Costs a look-up where nobody reads.
    pub(crate) fn wake(&self, run_id: RunId) {
        let feed = locked(&self.feeds).get(&run_id).and_then(Weak::upgrade);
        if let Some(feed) = feed {
            feed.committed.notify_one();
        }
    }

    /// Follows a run from the first event above `after`: replay, then live, no gap and no repeat. `None` where
    /// there is no such run. Must be called within a tokio runtime.
    pub async fn subscribe(self: &Arc<Self>, run_id: RunId, after: Option<Seq>) -> Result<Option<Reader>, StoreError> {
        let feed = self.feed(run_id);
        let changed = feed.generation.subscribe();
        if !feed.open(self.store.as_ref()).await? {
            return Ok(None);
        }
        Ok(Some(Reader { store: Arc::clone(&self.store), feed, changed, after }))
    }

    /// How many runs are read in this process.
    pub fn open(&self) -> usize {
        locked(&self.feeds).values().filter(|feed| feed.strong_count() > 0).count()
    }

    fn feed(self: &Arc<Self>, run_id: RunId) -> Arc<Feed> {
        let mut feeds = locked(&self.feeds);
        if let Some(feed) = feeds.get(&run_id).and_then(Weak::upgrade) {
            return feed;
        }
        feeds.retain(|_, feed| feed.strong_count() > 0);
        let feed = Arc::new(Feed {
            run_id,
            committed: Notify::new(),
            generation: watch::Sender::new(0),
            opened: AsyncMutex::new(false),
            window: Mutex::default(),
            pages: Mutex::default(),
        });
        feeds.insert(run_id, Arc::downgrade(&feed));
        tokio::spawn(follow(Arc::clone(&self.store), Arc::downgrade(&feed)));
        feed
    }
}

/// The tail of one run.
struct Feed {
    run_id: RunId,
    committed: Notify,
    generation: watch::Sender<u64>,
    opened: AsyncMutex<bool>,
    window: Mutex<Window>,
    pages: Mutex<VecDeque<(Option<Seq>, SharedPage)>>,
}

/// The events above `floor`, as far as they are read.
#[derive(Default)]
struct Window {
    floor: Option<Seq>,
    last: Option<Seq>,
    bytes: usize,
    events: VecDeque<Arc<StoredEvent>>,
}

impl Window {
    fn push(&mut self, event: StoredEvent) {
        self.last = Some(event.seq);
        self.bytes += event.payload.len();
        self.events.push_back(Arc::new(event));
        while self.events.len() > FEED_WINDOW_EVENTS || (self.bytes > FEED_WINDOW_BYTES && self.events.len() > 1) {
            let Some(dropped) = self.events.pop_front() else { break };
            self.bytes -= dropped.payload.len();
            self.floor = Some(dropped.seq);
        }
    }

    /// The events above `after`, or `None` where some of them are below the window.
    fn above(&self, after: Option<Seq>) -> Option<Vec<Arc<StoredEvent>>> {
        if after < self.floor {
            return None;
        }
        let start = self.events.partition_point(|event| Some(event.seq) <= after);
        Some(self.events.iter().skip(start).take(EVENT_PAGE_MAX).cloned().collect())
    }
}

impl Feed {
    /// Places the window near the end of the run and fills it; once, whoever comes first. False where there is
    /// no such run.
    async fn open(&self, store: &dyn Store) -> Result<bool, StoreError> {
        let mut opened = self.opened.lock().await;
        if *opened {
            return Ok(true);
        }
        let Some(run) = bounded(store.load_run(self.run_id)).await? else { return Ok(false) };
        let window = i64::try_from(FEED_WINDOW_EVENTS).unwrap_or(i64::MAX);
        let floor = run.last_accepted_seq.and_then(|last| Seq::new(last.get() - window).ok());
        {
            let mut window = locked(&self.window);
            window.floor = floor;
            window.last = floor;
        }
        self.read_on(store).await?;
        *opened = true;
        Ok(true)
    }

    /// Reads what has been committed since the last read and tells the readers.
    async fn read_on(&self, store: &dyn Store) -> Result<(), StoreError> {
        loop {
            let last = locked(&self.window).last;
            let events = bounded(store.events_after(self.run_id, last, EVENT_PAGE_MAX, EVENT_PAGE_MAX_BYTES)).await?;
            if events.is_empty() {
                return Ok(());
            }
            // A page that neither bound has cut is the end; whatever comes later wakes the feed again.
            let bytes: usize = events.iter().map(|event| event.payload.len()).sum();
            let more = events.len() >= EVENT_PAGE_MAX || bytes >= EVENT_PAGE_MAX_BYTES / 2;
            {
                let mut window = locked(&self.window);
                for event in events {
                    window.push(event);
                }
            }
            self.generation.send_modify(|generation| *generation += 1);
            if !more {
                return Ok(());
            }
        }
    }

    /// A page of history. Every page below the window is complete, because events only ever come at the end, so
    /// it is read once and shared.
    async fn page(&self, store: &dyn Store, after: Option<Seq>) -> Result<Arc<Vec<Arc<StoredEvent>>>, StoreError> {
        let page = {
            let mut pages = locked(&self.pages);
            if let Some((_, page)) = pages.iter().find(|(key, _)| *key == after) {
                Arc::clone(page)
            } else {
                let page = SharedPage::default();
                pages.push_back((after, Arc::clone(&page)));
                if pages.len() > SHARED_PAGES_MAX {
                    pages.pop_front();
                }
                page
            }
        };
        let mut page = page.lock().await;
        if let Some(events) = page.as_ref() {
            return Ok(Arc::clone(events));
        }
        let events = bounded(store.events_after(self.run_id, after, EVENT_PAGE_MAX, EVENT_PAGE_MAX_BYTES)).await?;
        let events = Arc::new(events.into_iter().map(Arc::new).collect::<Vec<_>>());
        *page = Some(Arc::clone(&events));
        Ok(events)
    }
}

/// Follows the tail while somebody reads. Another server's commits are found by looking every so often.
async fn follow(store: Arc<dyn Store>, feed: Weak<Feed>) {
    loop {
        {
            let Some(feed) = feed.upgrade() else { return };
            let opened = *feed.opened.lock().await;
            if opened && let Err(error) = feed.read_on(store.as_ref()).await {
                tracing::warn!(run_id = %feed.run_id, %error, "live readers wait for the database");
            }
            // Waiting must not keep a feed alive that nobody reads.
            let woken = timeout(Duration::from_millis(FEED_POLL_MS), feed.committed.notified());
            if woken.await.is_ok() {
                continue;
            }
        }
        // A moment without a strong reference lets the last reader's drop end the feed.
        sleep(Duration::from_millis(1)).await;
    }
}

/// One reader's place in a run.
pub struct Reader {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    changed: watch::Receiver<u64>,
    after: Option<Seq>,
}

impl Reader {
    /// The next events, at least one, ascending; waits until there are any. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Vec<Arc<StoredEvent>>, StoreError> {
        loop {
            // Marked as seen before the window is read: what comes in between wakes the wait below.
            self.changed.borrow_and_update();
            let live = locked(&self.feed.window).above(self.after);
            let events = match live {
                Some(events) => events,
                None => self.feed.page(self.store.as_ref(), self.after).await?.as_ref().clone(),
            };
            if let Some(last) = events.last() {
                self.after = Some(last.seq);
                return Ok(events);
            }
            // The sender lives as long as the feed, which this reader keeps alive.
            let _ = self.changed.changed().await;
        }
    }
}
