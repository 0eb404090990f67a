//! Connections to Redis, one for each thread that asks: a call's answer then wakes nobody on another thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};
use tokio::sync::{Mutex, MutexGuard};

use super::redis::REDIS_CALL_TIMEOUT_MS;

/// Most connections; with more threads than these some share one.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// Numbers threads in the order in which they first ask.
static THREADS: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// The connections of one server.
///
/// A connection that failed or did not answer in time is thrown away and the next call makes a new one. The crate's own
/// connection manager is not used: it keeps the error of a refused greeting (a full server, a password not yet set) for
/// good.
pub(super) struct Connections {
    client: Client,
    places: Vec<Mutex<Place>>,
}

/// The open connection, numbered so that a late failure does not throw away its successor.
#[derive(Default)]
struct Place {
    number: u64,
    open: Option<MultiplexedConnection>,
}

/// A connection to use for one call.
pub(super) struct Borrowed {
    pub(super) connection: MultiplexedConnection,
    /// Whether it was open before.
    pub(super) reused: bool,
    place: usize,
    number: u64,
}

impl Connections {
    /// None is open yet.
    pub(super) fn new(client: Client) -> Self {
        Self { client, places: (0..CONNECTIONS_MAX).map(|_| Mutex::default()).collect() }
    }

    /// For a connection of one's own.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// This thread's place. It is read once for each call: its task may move to another thread meanwhile.
    pub(super) fn place() -> usize {
        THREAD.with(|thread| thread % CONNECTIONS_MAX)
    }

    /// The place's connection, opened where there is none.
    pub(super) async fn borrow(&self, place: usize) -> RedisResult<Borrowed> {
        let mut here = self.lock(place).await;
        if let Some(open) = &here.open {
            return Ok(Borrowed { connection: open.clone(), reused: true, place, number: here.number });
        }
        // Calls have a time limit of their own, which covers the answer too.
        let limit = Some(Duration::from_millis(REDIS_CALL_TIMEOUT_MS));
        let settings = AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(None);
        let fresh = self.client.get_multiplexed_async_connection_with_config(&settings).await?;
        here.number = here.number.wrapping_add(1);
        here.open = Some(fresh.clone());
        Ok(Borrowed { connection: fresh, reused: false, place, number: here.number })
    }

    /// Throws the connection away, unless it has a successor already.
    pub(super) async fn discard(&self, borrowed: &Borrowed) {
        let mut here = self.lock(borrowed.place).await;
        if here.number == borrowed.number {
            here.open = None;
        }
    }

    /// Throws away whatever is open at the place, unless somebody is opening one.
    pub(super) fn abandon(&self, place: usize) {
        if let Some(Ok(mut here)) = self.places.get(place).map(Mutex::try_lock) {
            here.open = None;
        }
    }

    async fn lock(&self, place: usize) -> MutexGuard<'_, Place> {
        self.places[place % CONNECTIONS_MAX].lock().await
    }
}
