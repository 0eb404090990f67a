//! An upstream's body on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;
use hyper::body::{Body as _, Incoming};
use runwarden_actors::preview::InFlight;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::forward::Checkout;
use super::slot::Slot;
use super::watched::{BodyEnded, Limit, Watched};

/// Largest body that is sent whole where it has come with its head, in bytes.
const WHOLE_MAX_BYTES: u64 = 64 * 1024;

/// What holds a proxied request open; given back when it is dropped.
pub struct Held {
    /// Counts it in this process.
    pub in_flight: InFlight,
    /// Counts it for all servers.
    pub slot: Slot,
}

struct Live<H> {
    incoming: Incoming,
    checkout: Checkout,
    // Last: it is given back when everything else is gone.
    _held: H,
}

/// The body; `H` is what holds its request open.
struct ProxiedBody<H> {
    live: Watched<Live<H>>,
    /// What had come before anybody read.
    early: Option<Result<Bytes, BodyEnded>>,
    /// Why it broke, while what came before is sent.
    broken: Option<BodyEnded>,
    size: BodySize,
}

/// The body of an answer whose head is on its way; `length` is its `Content-Length`, if it has one.
pub fn proxied_body<H: 'static>(
    mut incoming: Incoming,
    length: Option<u64>,
    limit: Limit,
    revoked: WaitForCancellationFutureOwned,
    checkout: Checkout,
    held: H,
) -> BoxBody {
    let mut early = None;
    if length.is_some_and(|length| (1..=WHOLE_MAX_BYTES).contains(&length)) {
        // A small body mostly came with its head: then there is nothing left to watch.
        let frame = Pin::new(&mut incoming).poll_frame(&mut Context::from_waker(Waker::noop()));
        early = match frame {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok().map(Ok),
            Poll::Ready(Some(Err(error))) => Some(Err(BodyEnded::Upstream(error))),
            Poll::Ready(None) | Poll::Pending => None,
        };
        if let Some(Ok(bytes)) = &early
            && u64::try_from(bytes.len()).ok() == length
            && incoming.is_end_stream()
        {
            checkout.give_back();
            return BoxBody::new(bytes.clone());
        }
    }
    let size = length.map_or(BodySize::Stream, BodySize::Sized);
    let body = ProxiedBody {
        live: Watched::new(Live { incoming, checkout, _held: held }, limit, revoked),
        early,
        broken: None,
        size,
    };
    body.finish_at_end();
    BoxBody::new(body)
}

impl<H: 'static> ProxiedBody<H> {
    /// Frees connection and slot as soon as nothing more comes, not only when the client has taken it.
    fn finish_at_end(&self) {
        // The last part is known for what it is where there is a length.
        let is_end = |live: &mut Live<H>, _: &mut Context<'_>| Poll::Ready(live.incoming.is_end_stream());
        let end = self.live.poll(&mut Context::from_waker(Waker::noop()), is_end);
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

impl<H: 'static> MessageBody for ProxiedBody<H> {
    type Error = BodyEnded;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        if let Some(broken) = self.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        match std::task::ready!(self.poll_part(cx)) {
            Some(Err(broken)) => {
                // The library drops what it has not sent yet when a body fails, the answer's head too: a turn for that.
                self.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            part => Poll::Ready(part),
        }
    }
}

impl<H: 'static> ProxiedBody<H> {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyEnded>>> {
        if let Some(early) = self.early.take() {
            return Poll::Ready(Some(early));
        }
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
