//! An upstream's body on its way to the client, with everything that ends it: its own end, silence, time, revocation.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use hyper::body::{Body as _, Incoming};
use runwarden_actors::contract::limits::PROXY_STREAM_IDLE_MS;
use runwarden_actors::preview::InFlight;
use thiserror::Error;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::forward::Checkout;
use super::slot::Slot;

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
}

/// What holds a proxied request open; given back when it is dropped.
pub struct Held {
    /// Counts it in this process.
    pub in_flight: InFlight,
    /// Counts it for all servers.
    pub slot: Slot,
}

/// What bounds a body.
pub enum Limit {
    /// All of it, by this instant.
    Until(Pin<Box<Sleep>>),
    /// Silence between two parts.
    Idle(Pin<Box<Sleep>>),
}

impl Limit {
    /// An event stream.
    pub fn idle() -> Self {
        Self::Idle(Box::pin(sleep(Duration::from_millis(PROXY_STREAM_IDLE_MS))))
    }

    /// A part has come.
    pub fn touch(&mut self) {
        if let Self::Idle(timer) = self {
            timer.as_mut().reset(Instant::now() + Duration::from_millis(PROXY_STREAM_IDLE_MS));
        }
    }

    /// Ready once the limit is met.
    pub fn poll_met(&mut self, cx: &mut Context<'_>) -> Poll<BodyEnded> {
        match self {
            Self::Until(timer) => timer.as_mut().poll(cx).map(|()| BodyEnded::Timeout),
            Self::Idle(timer) => timer.as_mut().poll(cx).map(|()| BodyEnded::Idle),
        }
    }
}

/// The body.
pub struct ProxiedBody {
    incoming: Incoming,
    size: BodySize,
    limit: Limit,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    checkout: Option<Checkout>,
    // Last: it is given back when everything else is gone.
    _held: Held,
}

impl ProxiedBody {
    /// Of an answer whose head is on its way; `length` is its `Content-Length`, if it has one. `revoked` may have been
    /// waited for before.
    pub fn new(
        incoming: Incoming,
        length: Option<u64>,
        limit: Limit,
        revoked: Pin<Box<WaitForCancellationFutureOwned>>,
        checkout: Checkout,
        held: Held,
    ) -> Self {
        Self {
            incoming,
            size: length.map_or(BodySize::Stream, BodySize::Sized),
            limit,
            revoked,
            checkout: Some(checkout),
            _held: held,
        }
    }
}

impl ProxiedBody {
    /// For an answer that has no body: its connection is free again.
    pub fn finish(mut self) {
        if let Some(checkout) = self.checkout.take() {
            checkout.give_back();
        }
    }
}

impl MessageBody for ProxiedBody {
    type Error = BodyEnded;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        let this = &mut *self;
        if this.revoked.as_mut().poll(cx).is_ready() {
            this.checkout = None;
            return Poll::Ready(Some(Err(BodyEnded::Revoked)));
        }
        // Also while parts keep coming: a body that never pauses must end in time too.
        if let Poll::Ready(met) = this.limit.poll_met(cx) {
            this.checkout = None;
            return Poll::Ready(Some(Err(met)));
        }
        loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.limit.touch();
                    // Trailers stay behind: none of them is listed.
                    if let Ok(bytes) = frame.into_data() {
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    this.checkout = None;
                    return Poll::Ready(Some(Err(BodyEnded::Upstream(error))));
                }
                Poll::Ready(None) => {
                    if let Some(checkout) = this.checkout.take() {
                        checkout.give_back();
                    }
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
