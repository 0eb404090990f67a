//! The phases of a proxied request, in the order of the contract (section 5, proxy): flag, path, session and expiry,
//! cookie, binding, revocation version, access, limits, pin, forward. Whatever cannot be decided is refused.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, HttpResponse};
use runwarden_actors::contract::limits::{PROXY_SLOT_MS, PROXY_SLOTS_MAX};
use runwarden_actors::contract::{ErrorCode, PreviewSessionId, SecurityReason};
use runwarden_actors::ports::store::PreviewUpstream;
use runwarden_actors::ports::{AccessQuestion, Admission, Admitted};
use runwarden_actors::preview::{
    OpenSession, announce_session, checked_address, preview_dimensions, remember_access_now,
};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::body::Held;
use super::forward::Destination;
use super::headers::{Crossing, Routing};
use super::path::{PathDenied, check_path};
use super::relay::{Relay, too_late};
use super::services::PreviewServices;
use super::slot::Slot;
use super::strangers::let_through;
use super::upload::{Upload, asks_for_websocket, client_body};
use crate::auth::cookies::{CookieScope, session_tokens, without_ours};
use crate::auth::{Bound as _, client_ip};
use crate::http::{ApiError, answer_for_people};

/// [`HEADER_PROXY_REQ_ID`](runwarden_actors::contract::names::HEADER_PROXY_REQ_ID), as it is looked up.
const PROXY_REQ_ID: HeaderName = HeaderName::from_static("x-proxy-req-id");
/// Times that the gate is asked: what it lacks is found in between, its version and the access. Another one for what
/// was forgotten again meanwhile.
const GATE_ATTEMPTS: usize = 4;

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
    let upload = Upload::new(payload);
    let walking = pin!(walk(services, request, upload.clone(), &asked, proxy_req_id));
    let answered = upload.unless_broken(walking).await;
    let mut response = answered.unwrap_or_else(|error| {
        tracing::debug!(preview_session_id = %asked.session, %proxy_req_id, code = %error.code(), "proxied request refused");
        let refusal = answer_for_people(request, &error, &services.settings.frame_ancestors);
        refusal.map_body(|_, body| BoxBody::new(Refusal { body, _upload: upload.clone() }))
    });
    upload.close_unless_ended(&mut response);
    if let Ok(value) = HeaderValue::from_str(proxy_req_id.hyphenated().encode_lower(&mut Uuid::encode_buffer())) {
        response.headers_mut().insert(PROXY_REQ_ID, value);
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// An error's body; see [`Upload`] for what it keeps.
pub(crate) struct Refusal {
    body: BoxBody,
    _upload: Upload,
}

impl Refusal {
    /// Keeps the upload with the body.
    pub(crate) fn new(body: BoxBody, upload: Upload) -> Self {
        Self { body, _upload: upload }
    }
}

impl MessageBody for Refusal {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

async fn walk(
    services: &PreviewServices,
    request: &HttpRequest,
    payload: Upload,
    asked: &Asked<'_>,
    proxy_req_id: Uuid,
) -> Result<HttpResponse, ApiError> {
    let deadline = Instant::now() + services.timeouts.http;
    let opened = if let Some(here) = services.open_here(asked.session) {
        here
    } else {
        let_through(services, request, asked.session, asked.cookie_scope).await?;
        services.open(asked.session).await
    };
    services.require_live_session(asked.session, &opened).await?;
    let denied = |open: Option<&Arc<OpenSession>>, reason| {
        if let Some(open) = open {
            services.deps.run.observer.preview_denied(preview_dimensions(&open.record, Some(proxy_req_id)), reason);
        }
    };
    // `GET http://host/path`: a front proxy and we might not mean the same host by it.
    let absolute = if request.uri().authority().is_some() { Err(PathDenied::NotAPath) } else { Ok(()) };
    absolute.and_then(|()| check_path(asked.target)).map_err(|error| {
        if shown_tokens(request, asked.cookie_scope).next().is_some() {
            denied(opened.as_ref().ok(), SecurityReason::ProxyPathDenied);
        } else {
            services.deps.run.observer.preview_without_credential();
        }
        ApiError::new(ErrorCode::ProxyPathDenied, error.to_string())
    })?;
    let open = opened?;
    let who = check_cookie(services, request, asked.cookie_scope, &open).await;
    let revocation_version = who.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            denied(Some(&open), reason);
        }
    })?;
    let websocket = asks_for_websocket(request);
    if websocket && !services.websocket_on(asked.routing) {
        return Err(ApiError::new(ErrorCode::WsRequired, "WebSocket is switched off for previews on this routing"));
    }
    let body = client_body(request, payload, websocket)?;
    let held = admit(services, request, &open, revocation_version, proxy_req_id).await.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            denied(Some(&open), reason);
        }
    })?;
    let upstream = open.record.upstream.as_ref().ok_or_else(|| ApiError::not_found("preview session"))?;
    check_origin(services, &open, upstream).await.inspect_err(|error| {
        if let Some(reason) = error.security_reason() {
            denied(Some(&open), reason);
        }
    })?;
    let address = timeout_at(deadline, checked_address(&services.deps, &services.open, &open, proxy_req_id)).await;
    let address = address.map_err(|_| too_late(services.timeouts.http))??;
    let destination = Destination {
        session: asked.session,
        address,
        port: upstream.port,
        scheme: upstream.scheme,
        host: upstream.host.as_str().into(),
    };
    let cookies = match asked.routing {
        Routing::Path { .. } => None,
        Routing::Host => header_text(request, &header::COOKIE).and_then(without_ours),
    };
    let crossing = Crossing {
        upstream,
        origin: open.origin(),
        routing: asked.routing,
        open_mode: open.record.open_mode,
        base_path: asked.base_path,
        target: asked.target,
        host: header_text(request, &header::HOST).unwrap_or_default(),
        also_forwarded: &services.settings.forward_headers,
        frame_ancestors: &services.settings.frame_ancestors,
        cookies: cookies.as_deref(),
        websocket,
    };
    let relay = Relay {
        open: &open,
        destination: &destination,
        crossing: &crossing,
        timeouts: services.timeouts,
        stopping: &services.stopping,
        deadline,
    };
    relay.forward(request, held, body).await
}

fn header_text<'a>(request: &'a HttpRequest, name: &HeaderName) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// What the request shows as session cookies; whether one of them is good is for [`check_cookie`] to say.
pub(super) fn shown_tokens(request: &HttpRequest, scope: CookieScope) -> impl Iterator<Item = &str> {
    let lines = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    lines.flat_map(move |line| session_tokens(scope, line))
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
    let mut shown = false;
    for token in shown_tokens(request, scope) {
        shown = true;
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
    if !shown {
        services.deps.run.observer.preview_without_credential();
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
    let deps = &services.deps.for_session(session, Some("proxy"), Some(slot));
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
            Admitted::Unannounced => {
                let committed = announce_session(&deps.run, session.id).await?;
                let committed = committed.ok_or_else(|| ApiError::not_found("preview session"))?;
                if committed < revocation_version {
                    return Err(ApiError::new(ErrorCode::BindingMismatch, "the cookie is of a version that never was"));
                }
                services.open.close(session.id, committed);
            }
            Admitted::Revoked => return Err(ApiError::new(ErrorCode::Revoked, "the preview session was revoked")),
            Admitted::AccessUnknown { generation } => {
                let owner = services.run_owner(session).await?;
                let question = AccessQuestion {
                    user_id: &session.user_id,
                    repo_full_name: &session.repo_full_name,
                    owner: &owner,
                };
                // A refusal has ended the session meanwhile; this request is told the reason, later ones that it is over.
                if !remember_access_now(deps, question, generation).await? {
                    return Err(withdrawn());
                }
            }
            Admitted::AccessDenied => return Err(withdrawn()),
            Admitted::Limited { limiter, retry_after_ms } => {
                tracing::info!(preview_session_id = %session.id, %limiter, client_ip_source = ip.source, "rate limited");
                return Err(ApiError::rate_limited(limiter, retry_after_ms, deps.run.clock.now()));
            }
            Admitted::Busy => return Err(ApiError::concurrency_limited(PROXY_SLOTS_MAX)),
        }
    }
    Err(ApiError::cache_unavailable(&"the gate did not come to an answer"))
}

fn withdrawn() -> ApiError {
    ApiError::new(ErrorCode::PermissionDenied, "access to the repository was withdrawn")
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

#[cfg(test)]
mod tests {
    use super::*;
    use runwarden_actors::contract::names::HEADER_PROXY_REQ_ID;

    #[test]
    fn the_request_is_named_as_the_contract_says() {
        assert!(HEADER_PROXY_REQ_ID.eq_ignore_ascii_case(PROXY_REQ_ID.as_str()));
    }
}
