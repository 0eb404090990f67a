//! One request to a session's container (section 8): a single attempt, over a connection of its own, to the address that
//! the engine says the container has now.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::Method;
use actix_web::http::StatusCode;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use runwarden_actors::contract::limits::{CONTAINER_REQUEST_MAX_BYTES, CONTAINER_SESSION_ID_MAX_BYTES};
use runwarden_actors::contract::{ContainerSessionId, ErrorCode, PortName};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Containers;
use super::error::PreviewError;
use super::headers::{request_headers, response_headers};
use super::idle::InUse;
use crate::http::ApiError;
use crate::proxy::body::proxied_body;
use crate::proxy::forward::{Checkout, ForwardError, LoneConnection};
use crate::proxy::upload::{Upload, announces_nothing, asks_for_websocket, framed_body, too_large};
use crate::proxy::{AnswerHead, Limit, Refusal, Stopping};

/// What is asked of a container.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Session, as it stands in the path, without needless escapes.
    pub session: &'a str,
    /// The port's name, where it has one.
    pub name: Option<&'a str>,
    /// Path and query behind the session, as they stand in the request line.
    pub target: &'a str,
}

impl Containers {
    /// Carries the request to the session's container and the answer back.
    pub async fn proxy(&self, request: &HttpRequest, payload: Payload, asked: Asked<'_>) -> HttpResponse {
        let upload = Upload::new(payload);
        let walking = pin!(self.walk(request, upload.clone(), asked));
        let answered = upload.unless_broken(walking).await;
        let mut response = answered.unwrap_or_else(|error| {
            tracing::debug!(session_id = asked.session, code = %error.code(), "request to a container refused");
            error.as_locked().error_response().map_body(|_, body| BoxBody::new(Refusal::new(body, upload.clone())))
        });
        upload.close_unless_ended(&mut response);
        response
    }

    async fn walk(&self, request: &HttpRequest, upload: Upload, asked: Asked<'_>) -> Result<HttpResponse, ApiError> {
        let short = |text: &str| text.chars().take(CONTAINER_SESSION_ID_MAX_BYTES).collect::<String>();
        let unknown = || match asked.name {
            None => PreviewError::NotRegistered(short(asked.session)),
            Some(name) => PreviewError::NameNotRegistered { id: short(asked.session), name: short(name) },
        };
        // What no container can be called by has no registration either.
        let session = ContainerSessionId::parse(asked.session).map_err(|_| unknown())?;
        let name = asked.name.map(PortName::parse).transpose().map_err(|_| unknown())?;
        let registered = self.0.registry.get(&session, name.as_ref()).ok_or_else(unknown)?;
        let in_use = self.in_use(&session);
        if asks_for_websocket(request) {
            return Err(ApiError::locked(
                ErrorCode::WsRequired,
                "previews of containers are HTTP only; there is no WebSocket",
                "Not Implemented",
            ));
        }
        let outgoing = outgoing(request, upload)?;
        let connected = self.connect(&session, registered.port).await.map_err(|error| match error {
            Unconnected::Preview(error) => error,
            Unconnected::Forward(error) => {
                tracing::debug!(%session, %error, "a container's app takes no connection");
                PreviewError::BadGateway
            }
            Unconnected::Moved => {
                tracing::info!(%session, "a container moved while it was connected to");
                PreviewError::BadGateway
            }
        })?;
        self.exchange(connected, outgoing, asked.target, in_use).await
    }

    /// A connection to the session's container and to nobody else. An address may go to a stranger between the question
    /// and the connection, so the engine is asked again before anything is sent: whoever had the place before and has
    /// it after is who took the connection in between.
    pub(super) async fn connect(&self, session: &ContainerSessionId, port: u16) -> Result<Connected, Unconnected> {
        let seen = self.running(session).await?;
        let endpoint = seen.endpoint.clone().ok_or_else(|| PreviewError::NoAddress(session.to_string()))?;
        let address = SocketAddr::new(endpoint.address, port);
        let connection = LoneConnection::open(address, self.0.timeouts.connect).await.map_err(Unconnected::Forward)?;
        let again = self.running(session).await?;
        if again.life != seen.life || again.endpoint.as_ref() != Some(&endpoint) {
            return Err(Unconnected::Moved);
        }
        Ok(Connected { connection, authority: address.to_string() })
    }

    async fn exchange(
        &self,
        to: Connected,
        mut outgoing: Outgoing<'_>,
        target: &str,
        in_use: Option<InUse>,
    ) -> Result<HttpResponse, ApiError> {
        let path = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        *outgoing.request.uri_mut() =
            path.parse().map_err(|_| ApiError::invalid("the path cannot be a request target"))?;
        *outgoing.request.headers_mut() = request_headers(outgoing.from.headers(), &to.authority);
        if announces_nothing(outgoing.from) {
            outgoing.request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let moved = outgoing.request.body().moved();
        let sending = to.connection.send(outgoing.request);
        tokio::pin!(sending);
        let limit = self.0.timeouts.http;
        let sent = loop {
            let until = moved.get() + limit;
            tokio::select! {
                sent = &mut sending => break sent,
                () = sleep_until(until) => if moved.get() + limit <= Instant::now() {
                    return Err(too_late(limit));
                },
            }
        };
        let (response, checkout) = sent.map_err(refused)?;
        self.answer(response, checkout, in_use)
    }

    fn answer(
        &self,
        response: hyper::Response<Incoming>,
        checkout: Checkout,
        in_use: Option<InUse>,
    ) -> Result<HttpResponse, ApiError> {
        let head = AnswerHead::read(&response).map_err(|error| {
            tracing::debug!(%error, "a container's answer cannot be used");
            PreviewError::BadGateway
        })?;
        let mut builder = HttpResponse::build(head.status);
        response_headers(response.headers(), |name, value| {
            builder.append_header((name, value));
        });
        if let Some(length) = head.length.filter(|_| head.status == StatusCode::NOT_MODIFIED) {
            // Of the body that it stands for.
            builder.append_header((CONTENT_LENGTH.as_str(), length));
        }
        if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(builder.finish());
        }
        // A stream of events would hold the server open when it goes down; everything else comes to its own end.
        let stopping = if head.event_stream { self.0.stopping.clone() } else { Stopping::default() };
        let limit = Limit::Idle(self.0.timeouts.stream_idle, stopping);
        // Nothing is taken back here.
        let never = CancellationToken::new().cancelled_owned();
        let body = proxied_body(response.into_body(), head.length, limit, never, checkout, in_use);
        Ok(builder.body(body))
    }
}

/// A connection to the right container.
pub(super) struct Connected {
    pub(super) connection: LoneConnection,
    /// `address:port`, for `Host`.
    pub(super) authority: String,
}

/// Why there is none.
pub(super) enum Unconnected {
    Preview(PreviewError),
    Forward(ForwardError),
    /// The container is not what or where it was before the connection.
    Moved,
}

impl From<PreviewError> for Unconnected {
    fn from(error: PreviewError) -> Self {
        Self::Preview(error)
    }
}

struct Outgoing<'a> {
    request: hyper::Request<crate::proxy::upload::RequestBody>,
    from: &'a HttpRequest,
}

/// Method and body; target and headers follow once it is known where it goes.
fn outgoing(from: &HttpRequest, upload: Upload) -> Result<Outgoing<'_>, ApiError> {
    if from.method() == Method::CONNECT {
        return Err(ApiError::invalid("CONNECT asks for a tunnel; there is none"));
    }
    let mut request = hyper::Request::new(framed_body(from, upload, CONTAINER_REQUEST_MAX_BYTES)?);
    *request.method_mut() = hyper::Method::from_bytes(from.method().as_str().as_bytes())
        .map_err(|_| ApiError::invalid("the method cannot be forwarded"))?;
    Ok(Outgoing { request, from })
}

fn refused(error: ForwardError) -> ApiError {
    match error {
        ForwardError::Unreachable(why) => {
            tracing::debug!(%why, "a container's app hung up");
            PreviewError::BadGateway.into()
        }
        ForwardError::ConnectTimeout => PreviewError::BadGateway.into(),
        ForwardError::TooLarge => too_large(CONTAINER_REQUEST_MAX_BYTES),
        ForwardError::ClientBroke => ApiError::invalid(error.to_string()),
    }
}

fn too_late(limit: Duration) -> ApiError {
    let message = format!("the preview server did not answer within {} ms", limit.as_millis());
    ApiError::locked(ErrorCode::UpstreamTimeout, message, "Gateway Timeout")
}
