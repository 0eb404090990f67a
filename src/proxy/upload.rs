//! What the client sends after its head, on its way to the upstream, counted.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, Version};
use actix_web::web::Bytes;
use futures_util::Stream as _;
use hyper::body::{Body, Frame, SizeHint};
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::PROXY_REQUEST_MAX_BYTES;
use thiserror::Error;
use tokio::time::Instant;

pub use super::ahead::Upload;
use crate::http::ApiError;

/// A request's body on its way, counted.
pub struct RequestBody {
    payload: Option<Upload>,
    announced: Option<u64>,
    counted: u64,
    max: u64,
    moved: Rc<Cell<Instant>>,
    progress: Rc<Cell<Progress>>,
}

/// What became of a body, for the one who waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// On its way.
    UnderWay,
    /// All of it was taken.
    Sent,
    /// It ended before its end.
    Failed(BodyFailure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum BodyFailure {
    #[error("too large")]
    TooLarge,
    #[error("the client's body broke off")]
    Broke,
}

impl RequestBody {
    /// No body.
    pub fn empty() -> Self {
        Self::new(None, Some(0), 0, Progress::Sent)
    }

    /// The client's, of at most `max` bytes; `announced` is its `Content-Length`, if it has one.
    pub fn streaming(payload: Upload, announced: Option<u64>, max: u64) -> Self {
        Self::new(Some(payload), announced, max, Progress::UnderWay)
    }

    fn new(payload: Option<Upload>, announced: Option<u64>, max: u64, progress: Progress) -> Self {
        let moved = Rc::new(Cell::new(Instant::now()));
        Self { payload, announced, counted: 0, max, moved, progress: Rc::new(Cell::new(progress)) }
    }

    /// When a part of it was last taken; at first, when it was made.
    pub fn moved(&self) -> Rc<Cell<Instant>> {
        Rc::clone(&self.moved)
    }

    pub(super) fn progress(&self) -> Rc<Cell<Progress>> {
        Rc::clone(&self.progress)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(payload) = &mut this.payload else { return Poll::Ready(None) };
        let next = std::task::ready!(Pin::new(payload).poll_next(cx));
        let failure = match next {
            None => {
                this.payload = None;
                this.progress.set(Progress::Sent);
                return Poll::Ready(None);
            }
            Some(Ok(bytes)) => {
                this.counted = this.counted.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                if this.counted <= this.max {
                    this.moved.set(Instant::now());
                    if this.announced.is_some_and(|announced| this.counted >= announced) {
                        this.progress.set(Progress::Sent);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                BodyFailure::TooLarge
            }
            Some(Err(_)) => BodyFailure::Broke,
        };
        this.payload = None;
        this.progress.set(Progress::Failed(failure));
        Poll::Ready(Some(Err(Box::new(failure))))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, |bytes| SizeHint::with_exact(bytes.saturating_sub(self.counted)))
    }
}

/// What the client sends after its head. One that announces too much is refused before it is read.
pub(super) enum ClientBody {
    /// A request's body.
    Forwarded(RequestBody),
    /// The client's half of a WebSocket.
    Tunnel(Upload),
}

pub(super) fn client_body(request: &HttpRequest, payload: Upload, websocket: bool) -> Result<ClientBody, ApiError> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(ApiError::invalid("the method is not forwarded to previews"));
    }
    if websocket {
        return Ok(ClientBody::Tunnel(payload));
    }
    framed_body(request, payload, PROXY_REQUEST_MAX_BYTES).map(ClientBody::Forwarded)
}

/// A request's body as its head frames it, of at most `max` bytes.
pub(crate) fn framed_body(request: &HttpRequest, payload: Upload, max: u64) -> Result<RequestBody, ApiError> {
    let announced = match request.headers().get(header::CONTENT_LENGTH) {
        None => None,
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(length.ok_or_else(|| ApiError::invalid("Content-Length is not a number"))?)
        }
    };
    if announced.is_some_and(|bytes| bytes > max) {
        return Err(too_large(max));
    }
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    Ok(match announced {
        Some(1..) => RequestBody::streaming(payload, announced, max),
        None if chunked => RequestBody::streaming(payload, None, max),
        _ => RequestBody::empty(),
    })
}

/// Whether the client says that there is no body (RFC 9110, 8.6): some apps refuse a POST that does not.
pub(crate) fn announces_nothing(request: &HttpRequest) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    length.is_some_and(|length| length.parse::<u64>() == Ok(0))
}

pub(crate) fn too_large(max: u64) -> ApiError {
    let message = format!("a request to a preview may have {max} bytes");
    ApiError::new(ErrorCode::PayloadTooLarge, message)
}

/// Whether the request is a WebSocket's handshake (RFC 6455, 4.1). One with a body, or that offers something else too, is
/// none: the library would not hand the connection over.
pub(crate) fn asks_for_websocket(request: &HttpRequest) -> bool {
    let headers = request.headers();
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && takes_the_connection(headers)
        && names(headers, &header::CONNECTION, "upgrade")
}

/// Whether the library takes everything behind this head for the request's own, whatever length it announces.
pub(crate) fn takes_the_connection(headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    headers.get_all(header::UPGRADE).any(websocket) && !headers.contains_key(header::TRANSFER_ENCODING)
}

fn names(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}
