//! A client's bytes, looked at before whoever reads them asks: once they break, the server closes the connection before
//! anybody else could answer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::HttpResponse;
use actix_web::error::PayloadError;
use actix_web::http::{ConnectionType, StatusCode};
use actix_web::web::{Bytes, Payload};
use futures_util::Stream;

use super::forward::ForwardError;
use crate::http::ApiError;

/// How much is looked at before it is read, in bytes; one part may go beyond. What breaks behind more than this is seen
/// by its reader alone.
const AHEAD_MAX_BYTES: usize = 64 * 1024;

/// The client's bytes. Whoever refuses the request keeps them until the refusal is sent: the server closes a connection
/// whose request was not read, and would wait for the rest of one that nobody wants to read any more.
#[derive(Clone)]
pub struct Upload(Rc<RefCell<Looked>>);

struct Looked {
    payload: Payload,
    /// Come, and not read yet.
    parts: VecDeque<Bytes>,
    bytes: usize,
    /// Nothing comes behind the parts but the error, where there is one.
    ended: bool,
    error: Option<PayloadError>,
    broken: bool,
    reader: Option<Waker>,
    watcher: Option<Waker>,
}

impl Upload {
    /// Of a request.
    pub fn new(payload: Payload) -> Self {
        Self(Rc::new(RefCell::new(Looked {
            payload,
            parts: VecDeque::new(),
            bytes: 0,
            ended: false,
            error: None,
            broken: false,
            reader: None,
            watcher: None,
        })))
    }

    /// The answer of `answering`, or a refusal as soon as the client's bytes break: they hang up, or are no chunks.
    /// To be awaited in the request's handler.
    pub(crate) async fn unless_broken<T>(
        &self,
        mut answering: Pin<&mut impl Future<Output = Result<T, ApiError>>>,
    ) -> Result<T, ApiError> {
        if self.has_come() {
            return answering.await;
        }
        let mut broken = Broken(self);
        let answer = tokio::select! {
            biased;
            answer = answering.as_mut() => answer,
            () = &mut broken => Err(ForwardError::ClientBroke.into()),
        };
        // What has come meanwhile, for `close_unless_ended`.
        let _ = futures_util::poll!(&mut broken);
        answer
    }

    /// Whether all of it is there, whole: most requests have no body.
    fn has_come(&self) -> bool {
        let mut looked = self.0.borrow_mut();
        // Nobody reads yet who would have to be woken, and whoever is next asks again.
        looked.look(&mut Context::from_waker(Waker::noop()));
        looked.ended && !looked.broken
    }

    /// Closes the connection behind an answer that comes before the end of the client's bytes, or after they broke: what
    /// follows might be read as another request, or cannot be read at all.
    pub(crate) fn close_unless_ended<B>(&self, response: &mut HttpResponse<B>) {
        let looked = self.0.borrow();
        if (looked.broken || !looked.ended) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
    }
}

impl Looked {
    /// Whether something new was found.
    fn look(&mut self, cx: &mut Context<'_>) -> bool {
        let mut found = false;
        while !self.ended {
            if self.bytes >= AHEAD_MAX_BYTES {
                self.watcher = Some(cx.waker().clone());
                break;
            }
            match Pin::new(&mut self.payload).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(part))) => {
                    self.bytes += part.len();
                    self.parts.push_back(part);
                }
                Poll::Ready(Some(Err(error))) => self.finish(Some(error)),
                Poll::Ready(None) => self.finish(None),
            }
            found = true;
        }
        found
    }

    fn finish(&mut self, error: Option<PayloadError>) {
        self.ended = true;
        self.broken = error.is_some();
        self.error = error;
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut looked = self.0.borrow_mut();
        if let Some(part) = looked.parts.pop_front() {
            looked.bytes -= part.len();
            if let Some(watcher) = looked.watcher.take() {
                watcher.wake();
            }
            return Poll::Ready(Some(Ok(part)));
        }
        if looked.ended {
            return Poll::Ready(looked.error.take().map(Err));
        }
        let polled = Pin::new(&mut looked.payload).poll_next(cx);
        match &polled {
            Poll::Pending => looked.reader = Some(cx.waker().clone()),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(_))) => {
                looked.finish(None);
                looked.broken = true;
            }
            Poll::Ready(None) => looked.finish(None),
        }
        polled
    }
}

/// Ready once the bytes are broken. Whoever reads is woken in its place, and asks again when this is gone.
struct Broken<'a>(&'a Upload);

impl Future for Broken<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut looked = self.0.0.borrow_mut();
        if looked.look(cx)
            && let Some(reader) = looked.reader.take()
        {
            reader.wake();
        }
        if looked.broken { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        if let Some(reader) = self.0.0.borrow_mut().reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::ready;

    use actix_web::test::TestRequest;
    use actix_web::{FromRequest as _, dev};
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use runwarden_actors::contract::ErrorCode;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    type Part = Result<Bytes, PayloadError>;

    async fn upload() -> (UnboundedSender<Part>, Upload) {
        let (sender, mut parts) = unbounded_channel::<Part>();
        let parts = stream::poll_fn(move |cx| Poll::Ready(ready!(parts.poll_recv(cx))));
        let mut payload: dev::Payload = dev::Payload::Stream { payload: Box::pin(parts) };
        let payload = Payload::from_request(&TestRequest::default().to_http_request(), &mut payload).await;
        (sender, Upload::new(payload.unwrap()))
    }

    const fn part(bytes: &'static [u8]) -> Bytes {
        Bytes::from_static(bytes)
    }

    #[actix_web::test]
    async fn what_breaks_is_seen_before_it_is_read_and_read_in_its_place() {
        let (sender, upload) = upload().await;
        let never = std::pin::pin!(std::future::pending::<Result<(), ApiError>>());
        let mut waiting = Box::pin(upload.unless_broken(never));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        sender.send(Ok(part(b"one"))).unwrap();
        sender.send(Ok(part(b"two"))).unwrap();
        sender.send(Err(PayloadError::EncodingCorrupted)).unwrap();
        assert_eq!(waiting.await.unwrap_err().code(), ErrorCode::InvalidRequest);
        let mut reader = upload.clone();
        assert_eq!(reader.next().await.unwrap().unwrap(), "one");
        assert_eq!(reader.next().await.unwrap().unwrap(), "two");
        assert!(matches!(reader.next().await, Some(Err(PayloadError::EncodingCorrupted))));
        assert!(reader.next().await.is_none());
    }

    #[actix_web::test]
    async fn no_more_is_looked_at_than_the_bound_and_the_rest_as_it_is_read() {
        let (sender, upload) = upload().await;
        let never = std::pin::pin!(std::future::pending::<Result<(), ApiError>>());
        let mut waiting = Box::pin(upload.unless_broken(never));
        for _ in 0..10 {
            sender.send(Ok(Bytes::from(vec![0; AHEAD_MAX_BYTES / 4]))).unwrap();
        }
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(upload.0.borrow().bytes, AHEAD_MAX_BYTES);
        drop(sender);
        let read = upload.clone().fold(0, async |read, part| read + part.unwrap().len());
        assert_eq!(read.await, AHEAD_MAX_BYTES * 10 / 4);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "it came to its end");
    }

    #[actix_web::test]
    async fn a_reader_goes_on_once_the_answer_is_there() {
        let (sender, upload) = upload().await;
        let mut reader = upload.clone();
        let reading = actix_web::rt::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        // The look takes the reader's place, and gives it back.
        let answering = async {
            tokio::task::yield_now().await;
            Ok(())
        };
        upload.unless_broken(std::pin::pin!(answering)).await.unwrap();
        tokio::task::yield_now().await;
        sender.send(Ok(part(b"late"))).unwrap();
        assert_eq!(reading.await.unwrap().unwrap().unwrap(), "late");
        assert!(upload.clone().next().now_or_never().is_none());
    }

    #[actix_web::test]
    async fn a_connection_goes_on_behind_a_body_that_has_ended_only() {
        for (last, closed) in
            [(None, false), (Some(Ok(part(b"x"))), true), (Some(Err(PayloadError::EncodingCorrupted)), true)]
        {
            let (sender, upload) = upload().await;
            let kept = last.map(|last| sender.send(last).map(|()| sender.clone()).unwrap());
            drop(sender);
            let _ = upload.unless_broken(std::pin::pin!(async { Ok(()) })).await;
            let mut response = HttpResponse::Ok().finish();
            upload.close_unless_ended(&mut response);
            assert_eq!(response.head().connection_type() == ConnectionType::Close, closed);
            drop(kept);
        }
    }
}
