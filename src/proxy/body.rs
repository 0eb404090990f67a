//! An upstream's body on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;
use hyper::body::{Body as _, Incoming};
use runwarden_actors::preview::InFlight;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::forward::Checkout;
use super::slot::Slot;
use super::watched::{BodyEnded, Limit, Watched};

/// What holds a proxied request open; given back when it is dropped.
pub struct Held {
    /// Counts it in this process.
    pub in_flight: InFlight,
    /// Counts it for all servers.
    pub slot: Slot,
}

struct Live {
    incoming: Incoming,
    checkout: Checkout,
    // Last: it is given back when everything else is gone.
    _held: Held,
}

/// The body.
pub struct ProxiedBody {
    live: Watched<Live>,
    size: BodySize,
}

impl ProxiedBody {
    /// Of an answer whose head is on its way; `length` is its `Content-Length`, if it has one.
    pub fn new(
        incoming: Incoming,
        length: Option<u64>,
        limit: Limit,
        revoked: WaitForCancellationFutureOwned,
        checkout: Checkout,
        held: Held,
    ) -> Self {
        let size = length.map_or(BodySize::Stream, BodySize::Sized);
        let body = Self { live: Watched::new(Live { incoming, checkout, _held: held }, limit, revoked), size };
        body.finish_at_end();
        body
    }

    /// Frees connection and slot as soon as nothing more comes, not only when the client has taken it.
    fn finish_at_end(&self) {
        // The last part is known for what it is where there is a length.
        let is_end = |live: &mut Live, _: &mut Context<'_>| Poll::Ready(live.incoming.is_end_stream());
        let end = self.live.poll(&mut Context::from_waker(std::task::Waker::noop()), is_end);
        if let Poll::Ready(Ok(Some(true))) = end {
            self.finish();
        }
    }

    fn finish(&self) {
        if let Some(live) = self.live.finish() {
            live.checkout.give_back();
        }
    }
}

impl MessageBody for ProxiedBody {
    type Error = BodyEnded;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        loop {
            let frame = self.live.poll(cx, |live, cx| Pin::new(&mut live.incoming).poll_frame(cx));
            match std::task::ready!(frame) {
                Err(ended) => return Poll::Ready(Some(Err(ended))),
                Ok(None) => return Poll::Ready(None),
                Ok(Some(None)) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Some(Some(Err(error)))) => {
                    drop(self.live.finish());
                    return Poll::Ready(Some(Err(BodyEnded::Upstream(error))));
                }
                // Trailers stay behind: none of them is listed.
                Ok(Some(Some(Ok(frame)))) => {
                    self.live.seen().touch();
                    if let Ok(bytes) = frame.into_data() {
                        self.finish_at_end();
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                }
            }
        }
    }
}
