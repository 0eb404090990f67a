//! The last phase: the request goes to the upstream, and the answer back.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use runwarden_actors::contract::ErrorCode;
use runwarden_actors::contract::limits::PROXY_REQUEST_MAX_BYTES;
use runwarden_actors::preview::{AddressError, OpenSession};
use tokio::time::{Instant, timeout_at};

use super::body::{Held, proxied_body};
use super::forward::{Checkout, Destination, ForwardError, send};
use super::headers::{Crossing, request_headers};
use super::parts::ProxyTimeouts;
use super::returned::response_headers;
use super::stopping::Stopping;
use super::upload::{ClientBody, RequestBody, announces_nothing, too_large};
use super::watched::Limit;
use super::websocket::Tunnel;
use crate::http::ApiError;

/// What the phases before have found.
pub(super) struct Relay<'a> {
    pub(super) open: &'a Arc<OpenSession>,
    pub(super) destination: &'a Destination,
    pub(super) crossing: &'a Crossing<'a>,
    pub(super) timeouts: ProxyTimeouts,
    pub(super) stopping: &'a Stopping,
    /// Of the whole request.
    pub(super) deadline: Instant,
}

impl Relay<'_> {
    /// Sends the request and gives its answer.
    pub(super) async fn forward(
        &self,
        request: &HttpRequest,
        held: Held,
        body: ClientBody,
    ) -> Result<HttpResponse, ApiError> {
        let (body, tunnel) = match body {
            ClientBody::Forwarded(body) => (body, None),
            ClientBody::Tunnel(payload) => (RequestBody::empty(), Some(payload)),
        };
        let method = hyper::Method::from_bytes(request.method().as_str().as_bytes())
            .map_err(|_| ApiError::invalid("the method cannot be forwarded"))?;
        let mut outgoing = hyper::Request::new(body);
        *outgoing.method_mut() = method;
        *outgoing.uri_mut() = self
            .crossing
            .target
            .parse()
            .map_err(|_| ApiError::new(ErrorCode::ProxyPathDenied, "the path cannot be a request target"))?;
        *outgoing.headers_mut() = request_headers(request.headers(), self.crossing);
        if tunnel.is_none() && announces_nothing(request) {
            outgoing.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let sent = tokio::select! {
            sent = timeout_at(self.deadline, send(self.destination, outgoing, self.timeouts.connect)) => sent,
            () = self.open.cancelled().cancelled() => {
                return Err(if self.stopping.has_begun() {
                    ApiError::new(ErrorCode::UpstreamTimeout, "the server is shutting down; try again")
                } else {
                    ApiError::new(ErrorCode::Revoked, "the preview session ended")
                });
            }
        };
        let (mut response, checkout) = sent.map_err(|_| too_late(self.timeouts.http))??;
        if response.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
            let agreed =
                response.headers().get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
            let Some(payload) = tunnel.filter(|_| agreed) else {
                return Err(unusable("it switched protocols without being asked"));
            };
            let upgraded = timeout_at(self.deadline, hyper::upgrade::on(&mut response)).await;
            let upgraded = upgraded.map_err(|_| too_late(self.timeouts.http))?;
            let upgraded = upgraded.map_err(|error| unusable(&error.to_string()))?;
            let limit = Limit::Idle(self.timeouts.stream_idle, self.stopping.clone());
            let tunnel = Tunnel::join(upgraded, payload, self.open.cancelled(), held, limit);
            let mut builder = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
            builder.upgrade("websocket");
            self.copy_headers(&response, false, &mut builder)?;
            return Ok(builder.body(tunnel));
        }
        self.answer(response, checkout, held)
    }

    fn copy_headers(
        &self,
        response: &hyper::Response<Incoming>,
        event_stream: bool,
        builder: &mut HttpResponseBuilder,
    ) -> Result<(), ApiError> {
        let copied = response_headers(response.headers(), self.crossing, event_stream, |name, value| {
            builder.append_header((name, value));
        });
        copied.map_err(|_| {
            ApiError::new(ErrorCode::ProxyPathDenied, "the preview redirects to an address outside of itself")
        })
    }

    fn answer(
        &self,
        response: hyper::Response<Incoming>,
        checkout: Checkout,
        mut held: Held,
    ) -> Result<HttpResponse, ApiError> {
        let AnswerHead { status, event_stream, length } = AnswerHead::read(&response)?;
        let length = length.filter(|_| !event_stream);
        let mut builder = HttpResponse::build(status);
        self.copy_headers(&response, event_stream, &mut builder)?;
        let limit = if event_stream {
            held.slot.keep();
            Limit::Idle(self.timeouts.stream_idle, self.stopping.clone())
        } else {
            Limit::Until(self.deadline)
        };
        let revoked = self.open.cancelled().clone().cancelled_owned();
        let body = proxied_body(response.into_body(), length, limit, revoked, checkout, held);
        if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(builder.finish());
        }
        Ok(builder.body(body))
    }
}

/// What the proxy itself makes of the head of an upstream's answer.
pub(crate) struct AnswerHead {
    /// A final one.
    pub(crate) status: StatusCode,
    /// Whether its body is a stream of events.
    pub(crate) event_stream: bool,
    /// `Content-Length`, in bytes.
    pub(crate) length: Option<u64>,
}

impl AnswerHead {
    /// Refuses what a client could not make sense of.
    pub(crate) fn read(response: &hyper::Response<Incoming>) -> Result<Self, ApiError> {
        let status =
            StatusCode::from_u16(response.status().as_u16()).map_err(|_| unusable("its status is none of HTTP's"))?;
        if status.is_informational() {
            return Err(unusable("it has an interim status"));
        }
        check_framing(response)?;
        let headers = response.headers();
        let event_stream = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        Ok(Self { status, event_stream, length })
    }
}

/// An answer whose end could be read in two ways is none: whoever reads it the other way would take the rest of it for
/// the next answer (RFC 9112, 6.3).
fn check_framing(response: &hyper::Response<Incoming>) -> Result<(), ApiError> {
    let headers = response.headers();
    let mut coded = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = coded.next() else { return Ok(()) };
    let plain = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && coded.next().is_none();
    if plain && response.version() == hyper::Version::HTTP_11 && !headers.contains_key(CONTENT_LENGTH) {
        return Ok(());
    }
    Err(unusable("its framing is ambiguous"))
}

fn unusable(why: &str) -> ApiError {
    ApiError::new(ErrorCode::UpstreamUnreachable, format!("the upstream's answer cannot be used: {why}"))
}

/// `upstream_timeout`.
pub(super) fn too_late(limit: Duration) -> ApiError {
    let message = format!("the upstream did not answer within {} ms", limit.as_millis());
    ApiError::new(ErrorCode::UpstreamTimeout, message)
}

impl From<ForwardError> for ApiError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Unreachable(why) => {
                tracing::debug!(%why, "an upstream cannot be reached");
                Self::new(ErrorCode::UpstreamUnreachable, "the preview's app does not answer")
            }
            ForwardError::ConnectTimeout => Self::new(ErrorCode::UpstreamTimeout, error.to_string()),
            ForwardError::TooLarge => too_large(PROXY_REQUEST_MAX_BYTES),
            ForwardError::ClientBroke => Self::invalid(error.to_string()),
        }
    }
}

impl From<AddressError> for ApiError {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Denied(denied) => Self::new(ErrorCode::ProxySsrfBlocked, denied.to_string()),
            AddressError::Names(_) | AddressError::Provider(_) => {
                tracing::warn!(%error, "an upstream's address could not be looked up");
                Self::new(ErrorCode::UpstreamUnreachable, "the sandbox's address could not be looked up")
            }
            AddressError::Store(error) => error.into(),
        }
    }
}
