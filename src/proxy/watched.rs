//! What a proxied answer holds open, and the watch that ends it. A client that does not read is not asked for more, so
//! nobody would look at the body of its answer: the watch frees the upstream and the slot all the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::stopping::Stopping;

/// Why a body ended before its end: the client sees a broken body, never a clean one.
#[derive(Debug, Error)]
pub enum BodyEnded {
    /// The upstream hung up.
    #[error("the upstream's body broke off: {0}")]
    Upstream(hyper::Error),
    /// The whole answer took too long.
    #[error("the upstream's body did not end in time")]
    Timeout,
    /// A stream was silent for too long.
    #[error("the stream was silent for too long")]
    Idle,
    /// The session ended.
    #[error("the preview session ended")]
    Revoked,
    /// The server goes down.
    #[error("the server is shutting down")]
    Stopping,
}

/// What bounds a body.
#[derive(Debug, Clone)]
pub enum Limit {
    /// All of it, by this instant.
    Until(Instant),
    /// A stream: so much silence between two parts, and the server's end.
    Idle(Duration, Stopping),
}

/// When something last came, for streams.
#[derive(Debug, Clone)]
pub struct LastSeen(Rc<Cell<Instant>>);

impl LastSeen {
    /// A part has come.
    pub fn touch(&self) {
        self.0.set(Instant::now());
    }
}

struct State<T> {
    live: RefCell<Option<T>>,
    ended: Cell<Option<BodyEnded>>,
    reader: RefCell<Option<Waker>>,
}

/// Something that lives until it is finished, its limit is met, or the session ends. On one actix worker.
pub struct Watched<T> {
    state: Rc<State<T>>,
    seen: LastSeen,
    watch: JoinHandle<()>,
}

impl<T: 'static> Watched<T> {
    /// Watches from now on.
    pub fn new(live: T, limit: Limit, revoked: WaitForCancellationFutureOwned) -> Self {
        let state =
            Rc::new(State { live: RefCell::new(Some(live)), ended: Cell::new(None), reader: RefCell::default() });
        let seen = LastSeen(Rc::new(Cell::new(Instant::now())));
        let (watched, last) = (Rc::clone(&state), seen.clone());
        let watch = actix_web::rt::spawn(async move {
            let why = tokio::select! {
                () = revoked => BodyEnded::Revoked,
                why = met(limit, &last) => why,
            };
            // Dropped here, whether or not anybody reads.
            drop(watched.live.take());
            watched.ended.set(Some(why));
            if let Some(reader) = watched.reader.take() {
                reader.wake();
            }
        });
        Self { state, seen, watch }
    }

    /// To be touched when a part comes.
    pub const fn seen(&self) -> &LastSeen {
        &self.seen
    }

    /// Polls what lives; `None` once it is finished, an error once where it was ended.
    pub fn poll<R>(
        &self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<Result<Option<R>, BodyEnded>> {
        let mut live = self.state.live.borrow_mut();
        let Some(living) = live.as_mut() else {
            return Poll::Ready(self.state.ended.take().map_or(Ok(None), Err));
        };
        let polled = poll(living, cx);
        if polled.is_pending() {
            // Whoever reads is woken when the watch ends it.
            let mut reader = self.state.reader.borrow_mut();
            if !reader.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                *reader = Some(cx.waker().clone());
            }
        }
        polled.map(|part| Ok(Some(part)))
    }

    /// Takes what lives; nothing is watched any more.
    pub fn finish(&self) -> Option<T> {
        self.watch.abort();
        self.state.live.take()
    }
}

impl<T> Drop for Watched<T> {
    fn drop(&mut self) {
        self.watch.abort();
        drop(self.state.live.take());
    }
}

async fn met(limit: Limit, seen: &LastSeen) -> BodyEnded {
    match limit {
        Limit::Until(deadline) => {
            sleep_until(deadline).await;
            BodyEnded::Timeout
        }
        Limit::Idle(silence, stopping) => tokio::select! {
            () = stopping.begun() => BodyEnded::Stopping,
            () = silent_for(silence, seen) => BodyEnded::Idle,
        },
    }
}

async fn silent_for(silence: Duration, seen: &LastSeen) {
    loop {
        let until = seen.0.get() + silence;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}
