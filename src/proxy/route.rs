//! The phases of a proxied request, in the order of the contract (section 5, proxy): flag, path, session and expiry,
//! cookie, binding, revocation version, access, limits, pin, forward. Whatever cannot be decided is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError as _};
use hyper::body::Incoming;
use runwarden_actors::contract::limits::{
    PROXY_HTTP_TIMEOUT_MS, PROXY_REQUEST_MAX_BYTES, PROXY_SLOT_MS, PROXY_SLOTS_MAX,
};
use runwarden_actors::contract::{ErrorCode, PreviewSessionId, SecurityReason};
use runwarden_actors::ports::store::PreviewUpstream;
use runwarden_actors::ports::{AccessQuestion, Admission, Admitted};
use runwarden_actors::preview::{
    AddressError, OpenSession, announce_session, checked_address, preview_dimensions, remember_access_now,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use uuid::Uuid;

use super::body::{Held, Limit, ProxiedBody};
use super::forward::{Checkout, Destination, ForwardError, RequestBody, send};
use super::headers::{Crossing, Routing, request_headers, response_headers};
use super::path::check_path;
use super::services::PreviewServices;
use super::slot::Slot;
use super::websocket::Tunnel;
use crate::auth::cookies::{CookieScope, session_tokens, without_ours};
use crate::auth::{Bound as _, client_ip};
use crate::http::ApiError;

/// [`HEADER_PROXY_REQ_ID`](runwarden_actors::contract::names::HEADER_PROXY_REQ_ID), as it is looked up.
const PROXY_REQ_ID: HeaderName = HeaderName::from_static("x-proxy-req-id");
/// Times that the gate is asked again after what it lacked was found.
const GATE_ATTEMPTS: usize = 3;

/// A request to a preview, as its route has read it.
pub struct Asked<'a> {
    /// Session.
    pub session: PreviewSessionId,
    /// Path and query behind the session's base path, as they stand in the request line.
    pub target: &'a str,
    /// How it came.
    pub routing: Routing,
    /// `/api/preview/proxy/{id}` on paths, empty on hosts.
    pub base_path: &'a str,
    /// Where our cookie is looked for.
    pub cookie_scope: CookieScope,
}

/// Carries a request to its preview and the answer back. Every answer names the request in a header.
pub async fn proxy(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: Payload,
    asked: Asked<'_>,
) -> HttpResponse {
    let proxy_req_id = services.deps.run.ids.uuid_v7();
    let answered = walk(services, request, payload, &asked, proxy_req_id).await;
    let mut response = answered.unwrap_or_else(|error| {
        tracing::debug!(preview_session_id = %asked.session, %proxy_req_id, code = %error.code(), "proxied request refused");
        error.error_response()
    });
    if let Ok(value) = HeaderValue::from_str(proxy_req_id.hyphenated().encode_lower(&mut Uuid::encode_buffer())) {
        response.headers_mut().insert(PROXY_REQ_ID, value);
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn walk(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: Payload,
    asked: &Asked<'_>,
    proxy_req_id: Uuid,
) -> Result<HttpResponse, ApiError> {
    let deadline = Instant::now() + Duration::from_millis(PROXY_HTTP_TIMEOUT_MS);
    let opened = services.open.open(asked.session).await;
    if let Ok(open) = &opened {
        services.require_live(&open.record.user_id, &open.record.repo_full_name).await?;
    }
    let denied = |open: Option<&Arc<OpenSession>>, reason| {
        if let Some(open) = open {
            services.deps.run.observer.preview_denied(preview_dimensions(&open.record, Some(proxy_req_id)), reason);
        }
    };
    check_path(asked.target).map_err(|error| {
        denied(opened.as_ref().ok(), SecurityReason::ProxyPathDenied);
        ApiError::new(ErrorCode::ProxyPathDenied, error.to_string())
    })?;
    let open = opened?;
    let who = check_cookie(services, request, asked.cookie_scope, &open).await;
    let revocation_version = who.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            denied(Some(&open), reason);
        }
    })?;
    let websocket = asks_for_websocket(request.headers(), request.method());
    if websocket && !services.websocket_on(asked.routing) {
        return Err(ApiError::new(ErrorCode::WsRequired, "WebSocket is switched off for previews on this routing"));
    }
    let body = request_body(request, payload, websocket)?;
    let held = admit(services, request, &open, revocation_version, proxy_req_id).await.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            denied(Some(&open), reason);
        }
    })?;
    let upstream = open.record.upstream.as_ref().ok_or_else(|| ApiError::not_found("preview session"))?;
    check_origin(services, &open, upstream)
        .await
        .inspect_err(|_| denied(Some(&open), SecurityReason::ProxySsrfBlocked))?;
    let address = checked_address(&services.deps, &services.open, &open).await?;
    let destination = Destination {
        session: asked.session,
        address,
        port: upstream.port,
        scheme: upstream.scheme,
        host: upstream.host.as_str().into(),
    };
    let cookies = match asked.routing {
        Routing::Path { .. } => None,
        Routing::Host => header_text(request.headers(), &header::COOKIE).and_then(without_ours),
    };
    let crossing = Crossing {
        upstream,
        origin: open.origin(),
        routing: asked.routing,
        open_mode: open.record.open_mode,
        base_path: asked.base_path,
        also_forwarded: &services.settings.forward_headers,
        frame_ancestors: &services.settings.frame_ancestors,
        cookies: cookies.as_deref(),
        websocket,
    };
    forward(request, asked, &open, held, &destination, &crossing, body, deadline).await
}

/// Checks the session's cookie and its binding, and says which revocation version it carries.
pub async fn check_cookie(
    services: &PreviewServices,
    request: &HttpRequest,
    scope: CookieScope,
    open: &OpenSession,
) -> Result<i64, ApiError> {
    let mut refused =
        ApiError::without_credential("this preview is open to people who were let in; there is no cookie of it");
    let lines = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    for token in lines.flat_map(|line| session_tokens(scope, line)) {
        match services.tokens.verify_cookie(token).await {
            Ok(claims) => match claims.check_binding(open.binding()) {
                Ok(()) if claims.revocation_version < open.record.revocation_version => {
                    refused = ApiError::new(ErrorCode::Revoked, "the preview session was revoked");
                }
                Ok(()) => return Ok(claims.revocation_version),
                Err(error) => refused = error.into(),
            },
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

/// Revocation version, access, limits and a slot, in one question; what the gate does not know is found and asked again.
/// The slot has the request's own id.
async fn admit(
    services: &PreviewServices,
    request: &HttpRequest,
    open: &Arc<OpenSession>,
    revocation_version: i64,
    slot: Uuid,
) -> Result<Held, ApiError> {
    let session = &open.record;
    let deps = &services.deps;
    let ip = client_ip(request, &services.settings.trusted_proxies)
        .ok_or_else(|| ApiError::invalid("the connection has no address"))?;
    let windows = open.windows(&deps.options, ip.address);
    let admission = Admission {
        session: session.id,
        revocation_version,
        access_key: open.access_key(&deps.options),
        windows: &windows,
        slot,
        slots_max: PROXY_SLOTS_MAX,
        slot_ms: PROXY_SLOT_MS,
    };
    for _ in 0..GATE_ATTEMPTS {
        match deps.run.coordination.admit(&admission).await? {
            Admitted::Yes => {
                let slot = Slot::new(Arc::clone(&deps.run.coordination), session.id, slot);
                return Ok(Held { in_flight: open.enter(), slot });
            }
            Admitted::Unannounced => announce_session(&deps.run, session.id).await?,
            Admitted::Revoked => return Err(ApiError::new(ErrorCode::Revoked, "the preview session was revoked")),
            Admitted::AccessUnknown { generation } => {
                let owner = services.run_owner(session).await?;
                let question = AccessQuestion {
                    user_id: &session.user_id,
                    repo_full_name: &session.repo_full_name,
                    owner: &owner,
                };
                remember_access_now(deps, question, generation).await?;
            }
            Admitted::AccessDenied => {
                return Err(ApiError::new(ErrorCode::PermissionDenied, "access to the repository was withdrawn"));
            }
            Admitted::Limited { limiter, retry_after_ms } => {
                tracing::info!(preview_session_id = %session.id, %limiter, client_ip_source = ip.source, "rate limited");
                return Err(ApiError::rate_limited(limiter, retry_after_ms, deps.run.clock.now()));
            }
            Admitted::Busy => return Err(ApiError::concurrency_limited(PROXY_SLOTS_MAX)),
        }
    }
    Err(ApiError::cache_unavailable(&"the gate did not come to an answer"))
}

/// The signed origin says the same as the row, for this session.
async fn check_origin(
    services: &PreviewServices,
    open: &OpenSession,
    upstream: &PreviewUpstream,
) -> Result<(), ApiError> {
    let blocked = || ApiError::new(ErrorCode::ProxySsrfBlocked, "the upstream's origin is not what was signed");
    let claims = match services.tokens.verify_origin(&upstream.origin_token).await {
        Ok(claims) => claims,
        Err(error) => {
            let error = ApiError::from(error);
            return Err(if error.code() == ErrorCode::CacheUnavailable { error } else { blocked() });
        }
    };
    let same = claims.preview_session_id == open.record.id
        && claims.scheme == upstream.scheme.as_str()
        && claims.host == upstream.host
        && claims.port == upstream.port
        && claims.pinning_mode == upstream.pinned.pinning_mode
        && claims.revocation_version <= open.record.revocation_version;
    if same { Ok(()) } else { Err(blocked()) }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn asks_for_websocket(headers: &HeaderMap, method: &Method) -> bool {
    let has = |name: &HeaderName, wanted: &str| {
        let lines = headers.get_all(name).filter_map(|value| value.to_str().ok());
        lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    method == Method::GET && has(&header::UPGRADE, "websocket") && has(&header::CONNECTION, "upgrade")
}

/// What the client sends after its head. One that announces too much is refused before it is read.
enum ClientBody {
    Forwarded(RequestBody),
    /// The client's half of a WebSocket.
    Tunnel(Payload),
}

fn request_body(request: &HttpRequest, payload: Payload, websocket: bool) -> Result<ClientBody, ApiError> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(ApiError::invalid("the method is not forwarded to previews"));
    }
    if websocket {
        return Ok(ClientBody::Tunnel(payload));
    }
    let announced = match request.headers().get(header::CONTENT_LENGTH) {
        None => None,
        Some(value) => {
            let length = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(length.ok_or_else(|| ApiError::invalid("Content-Length is not a number"))?)
        }
    };
    if announced.is_some_and(|bytes| bytes > PROXY_REQUEST_MAX_BYTES) {
        return Err(too_large());
    }
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    Ok(ClientBody::Forwarded(match announced {
        Some(1..) => RequestBody::streaming(payload, announced),
        None if chunked => RequestBody::streaming(payload, None),
        _ => RequestBody::empty(),
    }))
}

fn too_large() -> ApiError {
    let message = format!("a request to a preview may have {PROXY_REQUEST_MAX_BYTES} bytes");
    ApiError::new(ErrorCode::PayloadTooLarge, message)
}

#[allow(clippy::too_many_arguments, reason = "each is one thing that the phases before have found")]
async fn forward(
    request: &HttpRequest,
    asked: &Asked<'_>,
    open: &Arc<OpenSession>,
    held: Held,
    destination: &Destination,
    crossing: &Crossing<'_>,
    body: ClientBody,
    deadline: Instant,
) -> Result<HttpResponse, ApiError> {
    let (body, tunnel) = match body {
        ClientBody::Forwarded(body) => (body, None),
        ClientBody::Tunnel(payload) => (RequestBody::empty(), Some(payload)),
    };
    let method = hyper::Method::from_bytes(request.method().as_str().as_bytes())
        .map_err(|_| ApiError::invalid("the method cannot be forwarded"))?;
    let mut outgoing = hyper::Request::new(body);
    *outgoing.method_mut() = method;
    *outgoing.uri_mut() = asked
        .target
        .parse()
        .map_err(|_| ApiError::new(ErrorCode::ProxyPathDenied, "the path cannot be a request target"))?;
    *outgoing.headers_mut() = request_headers(request.headers(), crossing);
    // One timer and one watch on the session, for the head and then for the body.
    let mut ends =
        Ends { late: Box::pin(sleep_until(deadline)), revoked: Box::pin(open.cancelled().clone().cancelled_owned()) };
    let (mut response, checkout) = tokio::select! {
        sent = send(destination, outgoing) => sent?,
        () = &mut ends.revoked => return Err(ApiError::new(ErrorCode::Revoked, "the preview session ended")),
        () = &mut ends.late => {
            let message = format!("the upstream did not answer within {PROXY_HTTP_TIMEOUT_MS} ms");
            return Err(ApiError::new(ErrorCode::UpstreamTimeout, message));
        }
    };
    if response.status() == hyper::StatusCode::SWITCHING_PROTOCOLS {
        let Some(payload) = tunnel else {
            return Err(unreachable_upstream("it switched protocols without being asked"));
        };
        let upgraded = hyper::upgrade::on(&mut response).await;
        let upgraded = upgraded.map_err(|error| unreachable_upstream(&error.to_string()))?;
        return switched(&response, Tunnel::join(upgraded, payload, open.cancelled(), held), crossing);
    }
    answer(response, checkout, ends, held, crossing)
}

/// What ends a request that is on its way.
struct Ends {
    late: Pin<Box<Sleep>>,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

fn unreachable_upstream(why: &str) -> ApiError {
    ApiError::new(ErrorCode::UpstreamUnreachable, format!("the upstream's answer cannot be used: {why}"))
}

fn leads_away() -> ApiError {
    ApiError::new(ErrorCode::ProxyPathDenied, "the preview redirects to an address outside of itself")
}

fn switched(
    response: &hyper::Response<Incoming>,
    mut tunnel: Tunnel,
    crossing: &Crossing<'_>,
) -> Result<HttpResponse, ApiError> {
    let mut builder = HttpResponse::build(StatusCode::SWITCHING_PROTOCOLS);
    builder.upgrade("websocket");
    copy_headers(response, crossing, false, &mut builder)?;
    tunnel.keep();
    Ok(builder.body(tunnel))
}

fn copy_headers(
    response: &hyper::Response<Incoming>,
    crossing: &Crossing<'_>,
    event_stream: bool,
    builder: &mut HttpResponseBuilder,
) -> Result<(), ApiError> {
    response_headers(response.headers(), crossing, event_stream, |name, value| {
        builder.append_header((name, value));
    })
    .map_err(|_| leads_away())
}

fn answer(
    response: hyper::Response<Incoming>,
    checkout: Checkout,
    ends: Ends,
    mut held: Held,
    crossing: &Crossing<'_>,
) -> Result<HttpResponse, ApiError> {
    let status = StatusCode::from_u16(response.status().as_u16())
        .map_err(|_| unreachable_upstream("its status is none of HTTP's"))?;
    if status.is_informational() {
        return Err(unreachable_upstream("it has an interim status"));
    }
    let headers = response.headers();
    let event_stream = headers
        .get(hyper::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
    let length = headers
        .get(hyper::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .filter(|_| !event_stream);
    let mut builder = HttpResponse::build(status);
    copy_headers(&response, crossing, event_stream, &mut builder)?;
    let limit = if event_stream {
        held.slot.keep();
        Limit::idle()
    } else {
        Limit::Until(ends.late)
    };
    let body = ProxiedBody::new(response.into_body(), length, limit, ends.revoked, checkout, held);
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        body.finish();
        return Ok(builder.finish());
    }
    Ok(builder.body(body))
}

impl From<ForwardError> for ApiError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Unreachable(why) => {
                tracing::debug!(%why, "an upstream cannot be reached");
                Self::new(ErrorCode::UpstreamUnreachable, "the preview's app does not answer")
            }
            ForwardError::ConnectTimeout => Self::new(ErrorCode::UpstreamTimeout, error.to_string()),
            ForwardError::TooLarge => too_large(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use runwarden_actors::contract::names::HEADER_PROXY_REQ_ID;

    #[test]
    fn the_request_is_named_as_the_contract_says() {
        assert!(HEADER_PROXY_REQ_ID.eq_ignore_ascii_case(PROXY_REQ_ID.as_str()));
    }
}
